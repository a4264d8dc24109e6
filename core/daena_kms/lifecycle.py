"""What may happen to a version after its time as the active one: retire, disable, enable, destroy. Pure.

Nothing is lost: retiring means disabling, which can be undone; destroying is separate, waits, and is refused for the
last two versions and inside the grace period.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from .errors import NotFoundError, RefusedError
from .model import State, VersionRecord
from .policy import KeyPolicy

Versions = Mapping[int, VersionRecord]

_SHOWN = 10


def version_of(key: str, versions: Versions, number: int) -> VersionRecord:
    """The record of a number; NotFoundError says which numbers there are: the last ones, for there may be thousands."""
    if number not in versions:
        numbers = sorted(versions)
        there = ", ".join(map(str, numbers[-_SHOWN:])) or "none"
        before = f"{len(numbers)}, the last of them " if len(numbers) > _SHOWN else ""
        raise NotFoundError(f"{key} has no version {number}", f"there are: {before}{there}")
    return versions[number]


def grace_ends(record: VersionRecord, policy: KeyPolicy) -> datetime | None:
    """Until when a version that is no longer active must stay; None for one that was never replaced."""
    if record.deactivated_at is None:
        return None
    return record.deactivated_at + timedelta(days=policy.grace_days)


def beyond_keep(versions: Iterable[VersionRecord], policy: KeyPolicy) -> list[VersionRecord]:
    """The readable earlier versions that are more than the policy keeps, newest first."""
    if policy.keep_versions is None:
        return []
    readable = sorted((v for v in versions if v.state is State.DECRYPT_ONLY), key=lambda v: -v.number)
    return readable[policy.keep_versions :]


def retirable(versions: Iterable[VersionRecord], policy: KeyPolicy, now: datetime) -> list[VersionRecord]:
    """The versions to disable now: beyond what the policy keeps, and past their grace."""
    return [v for v in beyond_keep(versions, policy) if (ends := grace_ends(v, policy)) and ends <= now]


def destroyable(versions: Iterable[VersionRecord], now: datetime) -> list[VersionRecord]:
    """The versions whose asked-for destruction has waited long enough."""
    return [v for v in versions if v.destroy_at is not None and v.destroy_at <= now]


def attention_at(versions: Iterable[VersionRecord], policy: KeyPolicy | None) -> datetime | None:
    """When a tick next has something to retire or to destroy; None for never, as things are."""
    versions = list(versions)
    times = [v.destroy_at for v in versions if v.destroy_at is not None]
    if policy is not None:
        times += [ends for v in beyond_keep(versions, policy) if (ends := grace_ends(v, policy))]
    return min(times, default=None)


def same_material(versions: Versions, record: VersionRecord) -> list[VersionRecord]:
    """Every version that has that version's material: itself, what it is a copy of, and every copy."""
    found = {record.number}
    while True:
        fingerprints = {versions[number].fingerprint for number in found}
        sources = {versions[number].source for number in found}
        grown = {
            v.number
            for v in versions.values()
            if v.number in found or v.number in sources or v.source in found or v.fingerprint in fingerprints
        }
        if grown == found:
            return [versions[number] for number in sorted(found)]
        found = grown


def check_rollback(key: str, record: VersionRecord) -> None:
    """Raise RefusedError unless that version's material may become active again."""
    if record.compromised:
        raise RefusedError(f"version {record.number} of {key} is compromised", "roll back to another, or rotate")
    if record.state is not State.DECRYPT_ONLY:
        raise RefusedError(
            f"version {record.number} of {key} is {record.state}, not decrypt-only",
            "see `status`; `enable` first",
        )


def check_disable(key: str, record: VersionRecord) -> None:
    """Raise RefusedError unless that version may be made unreadable."""
    if record.state is State.ACTIVE:
        raise RefusedError(f"version {record.number} of {key} is active", "rotate the key first")
    if record.state is not State.DECRYPT_ONLY:
        raise RefusedError(f"version {record.number} of {key} is {record.state} already", "nothing to do")


def check_enable(key: str, record: VersionRecord) -> None:
    """Raise RefusedError unless that version is disabled."""
    if record.state is not State.DISABLED:
        raise RefusedError(f"version {record.number} of {key} is {record.state}, not disabled", "nothing to do")


def check_destroy(key: str, versions: Versions, record: VersionRecord, policy: KeyPolicy, now: datetime) -> None:
    """Raise RefusedError unless that version's material may be destroyed for good."""
    if record.state is State.ACTIVE:
        raise RefusedError(f"version {record.number} of {key} is active", "rotate the key first")
    if record.state is State.DESTROYED:
        raise RefusedError(f"version {record.number} of {key} is destroyed already", "nothing to do")
    living = sorted(n for n, v in versions.items() if v.state is not State.DESTROYED)
    if record.number in living[-2:]:
        raise RefusedError(
            f"version {record.number} is one of the last two of {key}, which are never destroyed",
            "rotate the key first",
        )
    if (ends := grace_ends(record, policy)) and ends > now:
        raise RefusedError(
            f"version {record.number} of {key} is inside its grace period until {ends:%Y-%m-%d %H:%M} UTC",
            "wait, or `disable` it meanwhile",
        )
