"""Everything that is done to a key besides rotating it: retire, disable, enable, destroy, adopt, mark, pause, repair.

What touches the store runs under a claim, as a rotation does (`apply`); what is only a record is one append.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from . import intake, lifecycle, plan
from .errors import DAMAGED_HINT, ConfigurationError, ConflictError, IntegrityError, NotFoundError, RefusedError
from .holdings import can_be_read, location
from .journal import Journal, junk_after
from .manifest import Draft, Event, Head, History
from .material import KeyMaterial
from .model import Claim, KeySpec, Observed, Operation, State, StoredVersion, VersionRecord
from .policy import KeyPolicy
from .stores.base import KeyStore, NewVersion

if TYPE_CHECKING:
    from .rotation import Run

APPEND_ATTEMPTS = 20


def record_of(run: "Run", number: int) -> VersionRecord:
    """What the manifest says about one version of the run's key."""
    history = run.past.history()
    return lifecycle.version_of(run.key, history.versions, number)


def _disable(run: "Run", view: plan.View, record: VersionRecord) -> VersionRecord:
    for version in _lying(run, view, record):
        run.last_look(view)
        run.store.disable(run.key, version)
    return replace(record, state=State.DISABLED)


def _lying(run: "Run", view: plan.View, record: VersionRecord) -> list[StoredVersion]:
    """Where a version lies, the copy that was put last first.

    Stores whose versions have marks find copies themselves. Elsewhere a mark or a place may be wrong, and what is taken
    away is gone: it is what was read, or what the manifest says of the place of something that cannot be read.
    """
    if run.store.marked:
        return [location(record)]
    seen = run.recognised(view.seen, run.past.history())
    return [version for version in reversed(seen.versions) if version.number == record.number]


def check(run: "Run", operation: Operation, number: int) -> VersionRecord:
    """The record of the version that an operation changes. Raises RefusedError if it may not be done to it now."""
    versions = run.past.history().versions
    record = lifecycle.version_of(run.key, versions, number)
    if operation is Operation.DISABLE:
        lifecycle.check_disable(run.key, record)
    elif operation is Operation.ENABLE:
        lifecycle.check_enable(run.key, record)
    elif record.destroy_at is None:
        raise RefusedError(f"the destruction of version {number} of {run.key} was cancelled")
    else:
        lifecycle.check_destroy(run.key, versions, record, run.policy or KeyPolicy(), run.tools.clock())
    return record


def check_wanted(run: "Run", operation: Operation, number: int) -> None:
    """Raise RefusedError if there is nothing to announce: others may have done it since it was decided.

    What is read for that is the manifest that the claim would be appended to; if it grows meanwhile, there is no claim.
    """
    if operation is Operation.RETIRE and not _retirable(run):
        raise RefusedError(f"{run.key} has no version to retire", "nothing to do")
    if operation not in _WHOLE_KEY:
        check(run, operation, number)


def apply(run: "Run", claim: Claim, view: plan.View) -> list[VersionRecord]:
    """Carry out the change that `claim` announced; returns the new records. Raises RefusedError if it may not be."""
    if claim.operation in _WHOLE_KEY:
        return _WHOLE_KEY[claim.operation](run, claim, view)
    record = check(run, claim.operation, claim.number)
    if claim.operation is Operation.DISABLE:
        return [_disable(run, view, record)]
    if claim.operation is Operation.ENABLE:
        lying = _lying(run, view, record)
        if not lying:
            raise RefusedError(f"version {record.number} of {run.key} is not in the store", DAMAGED_HINT)
        for version in lying:
            run.last_look(view)
            run.store.enable(run.key, version)
        return [replace(record, state=State.DECRYPT_ONLY, destroy_at=None)]
    waits = []
    for version in _lying(run, view, record):
        run.last_look(view)
        waits.append(run.store.destroy(run.key, version))
    pending = max(filter(None, waits), default=None)
    if pending is not None:  # the store waits: it is recorded as destroyed when it is
        return [replace(record, state=State.DISABLED, destroy_at=pending)]
    return [replace(record, state=State.DESTROYED, destroy_at=None)]


class Found(Struct, frozen=True):
    """A version that lies in the store, what the manifest says of it, and its material unless it is disabled."""

    version: StoredVersion
    known: VersionRecord | None
    material: KeyMaterial | None
    bare: bool = False
    """It lies there without our marks."""


def adoptable(run: "Run", history: History, seen: Observed) -> list[Found]:
    """Everything that the store holds of the run's key, read and checked. Changes nothing.

    Raises RefusedError if one of them cannot be taken in: then none is, and nothing says that it was tried.
    """
    if seen.newest is None:
        raise RefusedError(f"the store has no version of {run.key} to adopt", "see `status`")
    if seen.rival:
        raise RefusedError(f"somebody else rotates {run.key}: two rotators would fight", f"{seen.rival}, then adopt it")
    if seen.crowded:
        raise RefusedError(
            f"a version of {run.key} cannot be marked as ours: {seen.crowded}", "take some away, then adopt"
        )
    bare = {version.version_id for version in seen.versions if not version.number}
    found = [
        replace(_found(run, version, history), bare=version.version_id in bare)
        for version in _numbered(run, history, seen)
    ]
    _check_readable(run, found, seen.newest)
    return _without_copies(run, found, seen.newest.version_id)


def _check_readable(run: "Run", found: list[Found], newest: StoredVersion) -> None:
    """What becomes active is what readers get. A version that our own manifest knows as disabled is enabled for it."""
    current = next((each for each in found if each.version.version_id == newest.version_id), None)
    if current is None:
        raise RefusedError(
            f"readers of {run.key} get {newest.version_id}, which is destroyed",
            "`rotate KEY --force` gives them a version again; where the manifest is lost, add one by hand, then adopt",
        )
    known = current.known
    if not newest.enabled and (known is None or known.state is not State.DISABLED):
        about = f"version {current.version.number} of {run.key} ({newest.version_id})"
        raise RefusedError(f"{about} would become active, but is disabled", "enable it in the store first")


def _numbered(run: "Run", history: History, seen: Observed) -> Iterator[StoredVersion]:
    """What lies there, each with a number: its own; where our marks are gone, what is known of it; or the next free.

    The free ones go by the order of the store.
    """
    numbers = {version.version_id: version.number or _known_number(run, history, version) for version in seen.versions}
    free = max(run.head.state.highest, *numbers.values())
    for version in seen.versions:
        number = numbers[version.version_id]
        free += not number
        yield replace(version, number=number or free)


def _known_number(run: "Run", history: History, version: StoredVersion) -> int:
    """The number of a version without marks: what an entry says of its place, or what its value was written for.

    Only a hint: whoever has a number has its fingerprint too, or is refused. Where versions never have marks they were
    recognised before, and their places are no names: a secret made anew counts from 1 again.
    """
    if not run.store.marked:
        return 0
    living = (record for record in history.versions.values() if not record.lost)
    return next((record.number for record in living if record.version_id == version.version_id), version.written)


def _without_copies(run: "Run", found: list[Found], current: str) -> list[Found]:
    """One for each number: where nothing is moved, a version that was published again lies there several times."""
    kept: dict[int, Found] = {}
    for each in found:
        number = each.version.number
        other = kept.get(number)
        if other is not None and _fingerprint(run, other) != _fingerprint(run, each):
            raise RefusedError(
                f"number {number} of {run.key} cannot be adopted: two versions have it, and they are not the same "
                f"({other.version.version_id}, {each.version.version_id})",
                "take our marks from the one that is none of ours",
            )
        if other is None or other.version.version_id != current:
            kept[number] = each
    return list(kept.values())


def _fingerprint(run: "Run", found: Found) -> str:
    return found.version.fingerprint if found.material is None else run.fingerprints.of(run.key, found.material)


def _found(run: "Run", version: StoredVersion, history: History) -> Found:
    known = history.versions.get(version.number)
    about = f"version {version.number} of {run.key} ({version.version_id})"
    if not version.enabled:
        same_place = known is not None and known.version_id == version.version_id
        if not version.fingerprint and (known is None or (version.written and not same_place)):
            raise RefusedError(
                f"{about} is disabled, and nothing says what it holds",
                "enable it in the store first, or take it away there",
            )
        return Found(version, known, None)
    material = run.store.read(run.key, version)
    try:
        if named := known.fingerprint if known is not None else history.claimed.get(version.number):
            # A number keeps its material for ever, also one that was given up: what was swapped is not taken in there.
            run.fingerprints.check(run.key, material, named)
        KeySpec.of_length(len(material))
    except (IntegrityError, ConfigurationError) as problem:
        raise RefusedError(f"{about} cannot be adopted: {problem.message}", "take it away in the store") from None
    return Found(version, known, material)


def _retire(run: "Run", _: Claim, view: plan.View) -> list[VersionRecord]:
    return [_disable(run, view, record) for record in _retirable(run)]


def _retirable(run: "Run") -> list[VersionRecord]:
    versions = run.past.history().versions.values()
    return lifecycle.retirable(versions, run.policy or KeyPolicy(), run.tools.clock())


def _adopt(run: "Run", claim: Claim, view: plan.View) -> list[VersionRecord]:
    """Records for everything the store holds and the manifest does not know; what readers get becomes active."""
    history, seen = run.past.history(), view.seen
    now, current = run.tools.clock(), seen.newest.version_id if seen.newest else ""
    every = adoptable(run, history, seen)
    newest = next(found.version.number for found in every if found.version.version_id == current)
    if newest in history.versions and history.versions[newest].state is State.DISABLED:
        run.last_look(view)
        run.store.enable(run.key, location(history.versions[newest]))  # readers get it: it is to be found as a kept one
    records = [_restated(_record(run, found, claim, view), newest, now) for found in every]
    for found, record in zip(every, records, strict=True):
        if found.version.loose and found.known is not None and record.state in (State.ACTIVE, State.DECRYPT_ONLY):
            _label(run, found.version, record.fingerprint, record.spec, view)
    held = {record.number for record in records}
    unseen = [v for v in history.versions.values() if v.number not in held and v.state is not State.DESTROYED]
    lost = [
        v for v in unseen if not can_be_read(run.store, run.fingerprints, run.key, v)
    ]  # some answer to a number alone
    still_there = [_restated(v, newest, now) for v in unseen if v not in lost]
    return records + still_there + [replace(v, state=State.DESTROYED, lost=True) for v in lost]


def _record(run: "Run", found: Found, claim: Claim, view: plan.View) -> VersionRecord:
    """The record of a version: the manifest's, once our marks are on it again where they were gone; or a new one."""
    known = found.known
    if known is None:
        return _adopted_record(run, found, claim, view)
    if found.bare:
        _label(run, found.version, known.fingerprint, known.spec, view)
    if known.lost and not found.version.destroyed:  # an adoption did not find it; it has been checked by now
        return replace(known, lost=False, state=State.DISABLED if found.material is None else State.DECRYPT_ONLY)
    return known


def _label(run: "Run", version: StoredVersion, fingerprint: str, spec: str, view: plan.View) -> StoredVersion:
    rotation_id = plan.rotation_id(run.key, run.head.state.incarnation, version.number)
    run.last_look(view)  # marks take no condition either, and a late writer's would lie on what another run has made
    return run.store.label(run.key, version, NewVersion(version.number, rotation_id, fingerprint, spec))


def _adopted_record(run: "Run", found: Found, claim: Claim, view: plan.View) -> VersionRecord:
    """The record of a version that no entry knows. One that can be read gets its number written on it where it lies."""
    version, material, now = found.version, found.material, run.tools.clock()
    fingerprint, spec, state = version.fingerprint, version.spec, State.DECRYPT_ONLY
    if material is not None:
        spec, fingerprint = KeySpec.of_length(len(material)).name, run.fingerprints.of(run.key, material)
        version = _label(run, version, fingerprint, spec, view)
    else:
        state = State.DESTROYED if version.destroyed else State.DISABLED
    made_at = claim.made_at or min(found.version.created_at or now, now)  # the store's clock may be ahead
    return VersionRecord(
        number=found.version.number,
        version_id=version.version_id,
        fingerprint=fingerprint,
        spec=spec,
        state=state,
        made_at=made_at,
        active_since=made_at,
    )


def _restated(record: VersionRecord, newest: int, now: datetime) -> VersionRecord:
    if record.number == newest:
        return replace(record, state=State.ACTIVE, deactivated_at=None)
    if record.state is State.ACTIVE:
        return replace(record, state=State.DECRYPT_ONLY, deactivated_at=now)
    return record


_WHOLE_KEY: dict[Operation, Callable[["Run", Claim, plan.View], list[VersionRecord]]] = {
    Operation.ADOPT: _adopt,
    Operation.RETIRE: _retire,
    Operation.RESTORE: intake.take_in,
    Operation.MIGRATE: intake.carry_out,
}


class Marks:
    """Changes that are records only: one conditional append each, with or without an open claim."""

    def __init__(self, store: KeyStore, journal: Journal) -> None:
        self._store = store
        self._journal = journal

    def compromised(self, key: str, number: int, now: datetime, reason: str) -> bool:
        """Mark a version's material as known to others, under every number that has it; True if one of them is active.

        A second call finds the marks and changes nothing. The next tick rotates, if nobody does so before.
        """
        versions = History(self._journal.history(key)).versions
        if not lifecycle.version_of(key, versions, number).compromised:

            def draft(head: Head, history: History) -> Draft:
                record = lifecycle.version_of(key, history.versions, number)
                same = lifecycle.same_material(history.versions, record)
                marked = tuple(replace(v, compromised=True) for v in same)
                urgent = any(v.state is State.ACTIVE for v in same)
                about = _about(Event.COMPROMISED, record, head, changes=marked, reason=reason)
                return replace(about, attention_at=now) if urgent else about

            self._append(key, draft)
        active = self._journal.head(key, self._store.observe(key).anchor).state.active
        return active is not None and active.compromised

    def pause(self, key: str, reason: str) -> None:
        """Stop rotating a key until `resume`; forced rotations still work."""
        self._append(key, lambda head, _: _about(Event.PAUSED, None, head, reason=reason))

    def resume(self, key: str, reason: str) -> None:
        """End a pause; also lets a key that waits for a person be tried again."""
        self._append(key, lambda head, _: _about(Event.RESUMED, None, head, reason=reason))

    def stay(self, key: str, now: datetime, reason: str, left: Claim | None) -> None:
        """Give up the open claim of a migration (`left`, as it was seen) whose run has died.

        RefusedError if there is none, if it lives, or if another run has gone on with it since.
        """

        def draft(head: Head, _: History) -> Draft:
            claim = head.state.claim
            if claim is None or claim.operation is not Operation.MIGRATE:
                raise RefusedError(f"no migration of {key} was left half done", "see `status`")
            if claim != left:
                raise RefusedError(f"a migration of {key} went on meanwhile", "look again")
            if claim.lease_until > now:
                raise RefusedError(
                    f"a migration of {key} is in progress",
                    f"its claim ends {claim.lease_until:%H:%M} UTC at the latest",
                )
            return _about(Event.DISCARDED, None, head, reason=reason or "the migration was called off")

        self._append(key, draft)

    def hold_up(self, key: str, now: datetime, reason: str) -> bool:
        """See that a run that brings a key here looks around before it records anything; False if there is none.

        What it has brought can be gone on with, as if it had died.
        """

        def draft(head: Head, _: History) -> Draft:
            claim = head.state.claim
            if claim is None or claim.operation is not Operation.RESTORE:
                raise NotFoundError(f"nobody brings {key} here")
            return replace(
                _about(Event.CHANGE_RESUMED, None, head, reason=reason), claim=replace(claim, lease_until=now)
            )

        try:
            self._append(key, draft)
        except NotFoundError:
            return False
        return True

    def schedule_destroy(self, key: str, number: int, policy: KeyPolicy, now: datetime, reason: str) -> datetime:
        """Ask for a version's destruction; a tick carries it out once it has waited. Returns when."""
        if policy.destroy_after_days is None:
            raise RefusedError(
                f"the policy of {key} never destroys",
                "set destroy_after_days in the policy: the days it can be cancelled",
            )
        destroy_at = now + timedelta(days=policy.destroy_after_days)

        def draft(head: Head, history: History) -> Draft:
            record = lifecycle.version_of(key, history.versions, number)
            lifecycle.check_destroy(key, history.versions, record, policy, now)
            if record.destroy_at is not None:
                raise RefusedError(
                    f"version {number} of {key} is scheduled already", f"for {record.destroy_at:%Y-%m-%d}"
                )
            scheduled = replace(record, destroy_at=destroy_at)
            return self._rescheduled(Event.DESTROY_SCHEDULED, scheduled, head, history, policy, reason)

        self._append(key, draft)
        return destroy_at

    def cancel_destroy(self, key: str, number: int, policy: KeyPolicy, reason: str) -> None:
        """Take back an asked-for destruction."""

        def draft(head: Head, history: History) -> Draft:
            record = lifecycle.version_of(key, history.versions, number)
            if record.destroy_at is None:
                raise RefusedError(f"version {number} of {key} is not scheduled for destruction", "see `status`")
            claim = head.state.claim
            if claim is not None and (claim.operation, claim.number) == (Operation.DESTROY, number):
                raise RefusedError(f"version {number} of {key} is being destroyed: it is too late", "see `history`")
            if record.state is State.DISABLED:
                self._store.disable(key, location(record))  # a store that waits to destroy it waits no longer
            kept = replace(record, destroy_at=None)
            return self._rescheduled(Event.DESTROY_CANCELLED, kept, head, history, policy, reason)

        self._append(key, draft)

    def repair(self, key: str, reason: str) -> int:
        """Start a new segment behind objects that are no entries of ours, naming each. Returns how many.

        Nothing is overwritten. Raises IntegrityError if the store knows entries that are gone: they cannot be repaired.
        """
        head = _last_good(self._journal, key)
        junk = junk_after(self._journal.ledger, key, head, self._journal.keyring.trust)
        anchor = self._store.observe(key).anchor
        if anchor is not None and self._journal.genuine(key, anchor) and anchor.sequence >= head.next_sequence:
            raise IntegrityError(
                f"the store names entry {anchor.sequence} of {key}, the good ones end at {head.next_sequence - 1}",
                "put the manifest back from a copy; it cannot be made up",
            )
        if junk:
            draft = _about(Event.REPAIRED, None, head, reason=reason)
            behind = replace(head, next_sequence=head.next_sequence + len(junk))
            head = self._journal.append(key, behind, replace(draft, junk=junk))
        if head.entry is not None and self._store.observe(key).exists:
            attention = head.state.attention_at
            self._store.write_anchor(key, self._journal.anchor(key, head, attention_at=attention))
        return len(junk)

    def _rescheduled(
        self,
        event: Event,
        record: VersionRecord,
        head: Head,
        history: History,
        policy: KeyPolicy,
        reason: str,
    ) -> Draft:
        versions = history.with_changes([record])
        attention = lifecycle.attention_at(versions.values(), policy)
        return replace(_about(event, record, head, changes=(record,), reason=reason), attention_at=attention)

    def _append(self, key: str, make: Callable[[Head, History], Draft]) -> Head:
        for _ in range(APPEND_ATTEMPTS):
            seen = self._store.observe(key)
            heads = list(self._journal.chain(key))
            if not heads:
                raise NotFoundError(f"there is no manifest of {key}", "see `status` for the keys there are")
            if seen.anchor is not None:
                self._journal.head(key, seen.anchor, current=False)
            draft = make(heads[-1], History([head.entry for head in heads if head.entry]))
            if seen.exists:
                # Before the entry: no age would bring a tick to what follows from it, if we die after it.
                now = self._journal.clock()
                self._store.write_anchor(key, self._journal.anchor(key, heads[-1], attention_at=now))
            try:
                head = self._journal.append(key, heads[-1], draft)
            except ConflictError:
                continue
            claim = head.state.claim
            attention = claim.lease_until if claim else head.state.attention_at
            if seen.exists:
                self._store.write_anchor(key, self._journal.anchor(key, head, attention_at=attention))
            return head
        raise ConflictError(f"the manifest of {key} keeps growing", "run it again")


def _about(
    event: Event,
    record: VersionRecord | None,
    head: Head,
    *,
    changes: tuple[VersionRecord, ...] = (),
    reason: str = "",
) -> Draft:
    return Draft(
        event,
        number=record.number if record else 0,
        version_id=record.version_id if record else "",
        fingerprint=record.fingerprint if record else "",
        reason=reason,
        changes=changes,
        attention_at=head.state.attention_at,
    )


def _last_good(journal: Journal, key: str) -> Head:
    head = Head(None, "", 1)
    try:
        for head in journal.chain(key):  # noqa: B007  # the last one that is good is wanted
            pass
    except IntegrityError:
        pass
    return head
