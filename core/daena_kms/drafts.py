"""What a run writes down about its work: drafts of entries, records of versions, a line for people. Pure."""

from datetime import datetime

from .manifest import ENDING, Draft, Entry, Event
from .model import Claim, KeyState, Operation, State, StoredVersion, VersionRecord


def ending(claim: Claim, records: list[VersionRecord]) -> Event:
    """How a change ends that went well."""
    if claim.operation is Operation.DESTROY and any(record.state is not State.DESTROYED for record in records):
        return Event.DESTROY_PENDING
    if claim.operation is Operation.RESTORE and claim.origin is not None and not claim.origin.backup:
        return Event.IMPORTED
    return ENDING[claim.operation]


def describe(entry: Entry) -> str:
    """What an ending entry came to, in one line."""
    replaced = [v.number for v in entry.changes if v.state is State.DECRYPT_ONLY]
    retired = [v.number for v in entry.changes if v.state is State.DISABLED]
    parts = [f"{entry.event}: version {entry.number}" if entry.number else f"{entry.event}"]
    if replaced and entry.event is not Event.ENABLED:
        parts.append(f"decrypt-only: {', '.join(map(str, replaced))}")
    if retired and entry.event is not Event.DISABLED:
        parts.append(f"disabled: {', '.join(map(str, retired))}")
    return "; ".join(parts)


def expected(state: KeyState, version: StoredVersion) -> tuple[str, str]:
    """Spec and fingerprint that a claim gave that number."""
    if state.claim is not None and state.claim.number == version.number:
        return state.claim.spec, state.claim.fingerprint
    burnt = next(b for b in state.burnt if b.number == version.number)
    return burnt.spec, burnt.fingerprint


def adopted(state: KeyState, strays: tuple[StoredVersion, ...], now: datetime) -> list[VersionRecord]:
    """Records of versions whose numbers were given up, and that lie in the store all the same."""
    burnt = {b.number: b for b in state.burnt}
    return [
        VersionRecord(
            number=stray.number,
            version_id=stray.version_id,
            fingerprint=burnt[stray.number].fingerprint,
            spec=burnt[stray.number].spec,
            state=State.DECRYPT_ONLY,
            made_at=burnt[stray.number].made_at,
            active_since=now,
            deactivated_at=now,
        )
        for stray in strays
    ]


def about(event: Event, held: Claim, state: KeyState, **more: object) -> Draft:
    """A draft about a claim's version; `more` overrides."""
    fields: dict[str, object] = {
        "number": held.number,
        "rotation_id": held.rotation_id,
        "fingerprint": held.fingerprint,
        "request": held.request,
        "reason": held.reason,
        "attention_at": state.attention_at,
    }
    return Draft(event, **{**fields, **more})  # type: ignore[arg-type]  # each field is set by name above or by a caller
