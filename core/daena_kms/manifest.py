"""The manifest: what happened to a key, as a chain of signed entries. Pure: no clock, no files, no keys of its own.

An entry is one object of canonical JSON (RFC 8785). Its signature covers that JSON without the field `signature`;
the hash of an entry is the SHA-256 of its bytes as stored, signature included, and the next entry carries it as
`previous`. Every entry also carries the key's state after it, which `advance` derives from the state before: a
verifier derives it again. `docs/manifest-format.md` says all this for somebody who writes a verifier in another
language.
"""

import base64
import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .errors import ConfigurationError, IntegrityError
from .keyring import Signer, Trust
from .model import Burnt, Claim, KeyState, Link, Operation, State, Time, VersionRecord, check_times

FORMAT: Literal["daena-kms/1"] = "daena-kms/1"
SIGNATURE_CONTEXT = b"daena-kms/entry/1\0"
MAX_ENTRY_BYTES = 1 << 20


class Event(StrEnum):
    """What an entry records."""

    INITIALISED = "initialised"
    RENEWED = "renewed"
    ROTATION_STARTED = "rotation-started"
    ROTATION_RESUMED = "rotation-resumed"
    CHANGE_STARTED = "change-started"
    CHANGE_RESUMED = "change-resumed"
    CREATED = "created"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    IMPORTED = "imported"
    DISCARDED = "discarded"
    ADOPTED = "adopted"
    REPUBLISHED = "republished"
    RETIRED = "retired"
    DISABLED = "disabled"
    ENABLED = "enabled"
    DESTROY_SCHEDULED = "destroy-scheduled"
    DESTROY_CANCELLED = "destroy-cancelled"
    DESTROY_PENDING = "destroy-pending"
    DESTROYED = "destroyed"
    COMPROMISED = "compromised"
    PAUSED = "paused"
    RESUMED = "resumed"
    REPAIRED = "repaired"
    RESTORED = "restored"
    MOVED_TO = "moved-to"


STARTED = {Event.ROTATION_STARTED, Event.CHANGE_STARTED}
RESUMED = {Event.ROTATION_RESUMED, Event.CHANGE_RESUMED}
# How each operation ends when it ends well.
ENDING = {
    Operation.CREATE: Event.CREATED,
    Operation.ROTATE: Event.PROMOTED,
    Operation.ROLLBACK: Event.ROLLED_BACK,
    Operation.IMPORT: Event.IMPORTED,
    Operation.ADOPT: Event.ADOPTED,
    Operation.RETIRE: Event.RETIRED,
    Operation.DISABLE: Event.DISABLED,
    Operation.ENABLE: Event.ENABLED,
    Operation.DESTROY: Event.DESTROYED,
    Operation.RESTORE: Event.RESTORED,
    Operation.MIGRATE: Event.MOVED_TO,
}
_ALSO_ENDING = {
    Operation.DESTROY: Event.DESTROY_PENDING,  # where the store itself waits before it destroys, at first
    Operation.RESTORE: Event.IMPORTED,  # what is brought comes from another store, not from a backup
}
_ENDS_CLAIM = {*ENDING.values(), *_ALSO_ENDING.values(), Event.DISCARDED}
_NEEDS_CLAIM = _ENDS_CLAIM - {Event.ADOPTED}  # what a late writer published is adopted with no claim open
_TRUST_EVENTS = {Event.INITIALISED, Event.RENEWED}
_LINKS = {Event.RESTORED, Event.IMPORTED, Event.MOVED_TO}
_NAMES_JUNK = {Event.REPAIRED, Event.RENEWED}


class TrustRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A generation of the ledger's own keys, in the reserved chain."""

    generation: int
    public_key: str
    """Ed25519, 32 raw bytes, hexadecimal."""
    check_value: str
    """Says which fingerprint key belongs to it."""


class Junk(Struct, frozen=True, forbid_unknown_fields=True):
    """An object that lay where an entry belongs. `repair` names it; nothing is overwritten."""

    sequence: int
    sha256: str


class Entry(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One manifest entry. Fields with their empty value are left out of the JSON."""

    format: Literal["daena-kms/1"]
    sequence: int
    time: Time
    key: str
    event: Event
    actor: str
    """Whose credentials wrote it; never taken from a request."""
    trigger: str
    signer: str
    state: KeyState
    previous: str = ""
    number: int = 0
    version_id: str = ""
    rotation_id: str = ""
    fingerprint: str = ""
    request: str = ""
    cloud_request_id: str = ""
    reason: str = ""
    verified: str = ""
    """How the version was checked before it went live."""
    changes: tuple[VersionRecord, ...] = ()
    """The new record of every version that this entry changes."""
    trust: TrustRecord | None = None
    junk: tuple[Junk, ...] = ()
    origin: Link | None = None
    """RESTORED, IMPORTED: where the key's history was before."""
    destination: Link | None = None
    """MOVED_TO: where the key's history goes on."""
    signature: str = ""

    def __post_init__(self) -> None:
        check_times(self.time)


class Draft(Struct, frozen=True):
    """What a writer decides about an entry; the rest follows from the chain, the clock and the signer."""

    event: Event
    number: int = 0
    version_id: str = ""
    rotation_id: str = ""
    fingerprint: str = ""
    request: str = ""
    cloud_request_id: str = ""
    reason: str = ""
    verified: str = ""
    changes: tuple[VersionRecord, ...] = ()
    claim: Claim | None = None
    retry_at: datetime | None = None
    """DISCARDED: when the next number may be tried. Other entries leave it as it was, or end it."""
    attention_at: datetime | None = None
    trust: TrustRecord | None = None
    junk: tuple[Junk, ...] = ()
    origin: Link | None = None
    destination: Link | None = None


class Head(Struct, frozen=True):
    """Where a chain stands: its last entry, that entry's hash, and the sequence number that comes next."""

    entry: Entry | None
    hash: str
    next_sequence: int

    @property
    def state(self) -> KeyState:
        """The key's state; an empty one before the first entry."""
        return self.entry.state if self.entry else KeyState()


EMPTY = Head(None, "", 1)

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Entry)


def canonical(record: object) -> bytes:
    """Canonical JSON (RFC 8785). Our records hold strings, integers, booleans and times only, with ASCII names."""
    return _encoder.encode(record)


def entry_hash(stored: bytes) -> str:
    """The hash that the next entry and the anchor carry."""
    return hashlib.sha256(stored).hexdigest()


def seal(head: Head, draft: Draft, *, key: str, now: datetime, actor: str, trigger: str, signer: Signer) -> bytes:
    """The bytes of the entry that follows `head`, signed.

    Raises ConfigurationError for text that no entry can hold: nothing is written then.
    """
    unsigned = Entry(
        format=FORMAT,
        sequence=head.next_sequence,
        time=now,
        key=key,
        event=draft.event,
        actor=actor,
        trigger=trigger,
        signer=signer.key_id,
        state=advance(head.state, draft),
        previous=head.hash,
        number=draft.number,
        version_id=draft.version_id,
        rotation_id=draft.rotation_id,
        fingerprint=draft.fingerprint,
        request=draft.request,
        cloud_request_id=draft.cloud_request_id,
        reason=draft.reason,
        verified=draft.verified,
        changes=draft.changes,
        trust=draft.trust,
        junk=draft.junk,
        origin=draft.origin,
        destination=draft.destination,
    )
    try:
        signature = signer.sign(SIGNATURE_CONTEXT + canonical(unsigned))
    except UnicodeEncodeError:
        raise ConfigurationError("the reason or request id is not valid text", "use plain Unicode") from None
    stored = canonical(replace(unsigned, signature=base64.b64encode(signature).decode()))
    if len(stored) > MAX_ENTRY_BYTES:
        raise ConfigurationError(f"a manifest entry of {len(stored)} bytes is too large", "shorten the reason")
    return stored


def open_entry(stored: bytes, *, key: str, sequence: int, trust: Trust) -> Entry:
    """The entry in `stored`, if it is one of ours for this key at this place; IntegrityError says why not."""
    entry = parse(stored)
    if entry.key != key:
        raise IntegrityError(f"it belongs to key {entry.key!r}, not to {key!r}")
    if entry.sequence != sequence:
        raise IntegrityError(f"it is entry {entry.sequence}, not {sequence}")
    check_signature(entry, trust)
    return entry


def parse(stored: bytes) -> Entry:
    """The entry in `stored`, in exactly its canonical form; its signature is not looked at."""
    if len(stored) > MAX_ENTRY_BYTES:
        raise IntegrityError(f"it has {len(stored)} bytes, more than any entry of ours")
    try:
        entry = _decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise IntegrityError(f"it is not a manifest entry: {problem}") from None
    if canonical(entry) != stored:
        raise IntegrityError("its JSON is not in canonical form")
    return entry


def check_signature(entry: Entry, trust: Trust) -> None:
    """Raise IntegrityError unless a key that `trust` knows signed the entry, while that key was in use."""
    try:
        signature = base64.b64decode(entry.signature, validate=True)
    except ValueError:
        raise IntegrityError("its signature is not base64") from None
    if base64.b64encode(signature).decode() != entry.signature:  # its last character has bits that say nothing
        raise IntegrityError("its signature is not in canonical base64")
    data = SIGNATURE_CONTEXT + canonical(replace(entry, signature=""))
    trust.check(entry.signer, signature, data, entry.time)


def follow(head: Head, entry: Entry, stored: bytes, trust: Trust) -> Head:
    """The head after `entry`, if it continues the chain; IntegrityError says what does not fit."""
    skipped = [j.sequence for j in entry.junk]
    if list(range(head.next_sequence, entry.sequence)) != skipped:
        raise IntegrityError(f"entry {head.next_sequence} is missing")
    if entry.junk and entry.event not in _NAMES_JUNK:
        raise IntegrityError(f"a {entry.event} entry cannot step over anything")
    if entry.previous != head.hash:
        raise IntegrityError("it does not continue the entry before it: one of the two was replaced")
    if head.entry is not None and trust.order(entry.signer) < trust.order(head.entry.signer):
        raise IntegrityError("signed with an older key than the entry before it")
    if (entry.trust is not None) != (entry.event in _TRUST_EVENTS):
        raise IntegrityError(f"a {entry.event} entry cannot carry what this one carries")
    if entry.event not in _LINKS and (entry.origin is not None or entry.destination is not None):
        raise IntegrityError(f"a {entry.event} entry cannot link to another ledger")
    if advance(head.state, as_draft(entry)) != entry.state:
        raise IntegrityError("the state it states does not follow from the entries before it")
    return Head(entry, entry_hash(stored), entry.sequence + 1)


def as_draft(entry: Entry) -> Draft:
    """What the writer of `entry` decided."""
    state = entry.state
    return Draft(
        event=entry.event,
        number=entry.number,
        fingerprint=entry.fingerprint,
        changes=entry.changes,
        claim=state.claim if entry.event in STARTED | RESUMED else None,
        retry_at=state.retry_at,
        attention_at=state.attention_at,
        origin=entry.origin,
        destination=entry.destination,
    )


def advance(before: KeyState, draft: Draft) -> KeyState:
    """The state after an entry. Raises IntegrityError for an entry that cannot follow that state."""
    state = _numbered(_with_changes(before, draft.changes), draft.changes)
    state = replace(state, attention_at=draft.attention_at)
    if draft.event in STARTED:
        return _started(state, draft.claim)
    if draft.event in RESUMED:
        return _resumed(state, draft.claim)
    if draft.event in _NEEDS_CLAIM and before.claim is None:
        raise IntegrityError(f"{draft.event} without a claim before it")
    if draft.event is Event.DISCARDED:
        failures = before.failures + _making(before)
        return replace(_burn(state), claim=None, failures=failures, retry_at=draft.retry_at)
    if draft.event in _ENDS_CLAIM:
        _check_ending(before, draft)
        if before.claim is not None and before.claim.operation.carries:
            return replace(_carried(state, before.claim, draft), claim=None)
        made = _making(before)
        return replace(
            state, claim=None, failures=0 if made else before.failures, retry_at=None if made else before.retry_at
        )
    if draft.event is Event.PAUSED:
        return replace(state, paused=True)
    if draft.event is Event.RESUMED:
        return replace(state, paused=False, failures=0, retry_at=None)
    return state


def _check_ending(before: KeyState, draft: Draft) -> None:
    claim = before.claim
    if claim is None:
        return
    if draft.event not in (ENDING[claim.operation], _ALSO_ENDING.get(claim.operation)):
        raise IntegrityError(f"{draft.event} does not end a {claim.operation}")
    gone = (draft.destination.ledger, draft.destination.public_key) if draft.destination is not None else ("", "")
    if draft.origin != claim.origin or gone != (claim.destination, claim.destination_key):
        raise IntegrityError(f"the {draft.event} entry links to another place than its claim")


def _carried(state: KeyState, claim: Claim, draft: Draft) -> KeyState:
    """The state after a key has come from elsewhere, or has gone there."""
    if draft.destination is not None:
        return replace(state, moved=draft.destination.ledger)
    earlier = [v for v in draft.changes if v.deactivated_at is not None and v.state is not State.ACTIVE]
    previous = max(earlier, key=lambda v: (v.deactivated_at, v.number), default=None)
    return replace(state, previous=previous, paused=claim.paused, moved="", failures=0, retry_at=None)


def _making(state: KeyState) -> bool:
    return state.claim is not None and state.claim.operation.makes_version


def _started(state: KeyState, claim: Claim | None) -> KeyState:
    if claim is None:
        raise IntegrityError("a claim that claims nothing")
    if claim.operation.makes_version and claim.number <= state.highest:
        raise IntegrityError(f"number {claim.number} was given out before")
    anew = claim.operation is Operation.CREATE or (claim.operation is Operation.RESTORE and not state.moved)
    fresh_start = anew and state.active is not None
    burnt = _burn(state)
    return replace(
        burnt,
        claim=claim,
        policy=claim.policy,
        highest=max(burnt.highest, claim.number),
        incarnation=burnt.incarnation + fresh_start,
    )


def _resumed(state: KeyState, claim: Claim | None) -> KeyState:
    held = state.claim
    if claim is None or held is None or replace(claim, run=held.run, lease_until=held.lease_until) != held:
        raise IntegrityError("a take-over that changes the claim")
    return replace(state, claim=claim)


def _burn(state: KeyState) -> KeyState:
    """Give up the number of the open claim, if it has one of its own."""
    claim = state.claim
    if claim is None or not claim.operation.makes_version or claim.made_at is None:
        return state
    burnt = Burnt(claim.number, claim.fingerprint, claim.spec, claim.made_at)
    return replace(state, burnt=(*state.burnt, burnt))


def _with_changes(state: KeyState, changes: tuple[VersionRecord, ...]) -> KeyState:
    if not changes:
        return state
    active, previous = state.active, state.previous
    for record in changes:
        if record.state is State.ACTIVE:
            if active is not None and active.number != record.number:
                previous = active
            active = record
    # A record that is restated (the version deactivated just now, one marked compromised) replaces its old form.
    by_number = {record.number: record for record in changes}
    active = active and by_number.get(active.number, active)
    previous = previous and by_number.get(previous.number, previous)
    if active is not None and active.state is not State.ACTIVE:
        raise IntegrityError("no version would be active")
    digest = hashlib.sha256(state.digest.encode() + canonical(changes)).hexdigest()
    return replace(state, active=active, previous=previous, digest=digest)


def _numbered(state: KeyState, changes: tuple[VersionRecord, ...]) -> KeyState:
    if not changes:
        return state
    known = {record.number for record in changes}
    burnt = tuple(b for b in state.burnt if b.number not in known)
    return replace(state, burnt=burnt, highest=max(state.highest, *known))


class History:
    """Every version of a key, and every request ever carried out: the whole chain, folded."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self.versions: dict[int, VersionRecord] = {}
        self.claimed: dict[int, str] = {}
        self.requests: set[str] = set()
        self.placed: dict[str, int] = {}
        """Version id -> number: where versions were put, also again, since the key was last made."""
        self._incarnation = 1
        for entry in self.entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        self.versions.update((record.number, record) for record in entry.changes)
        if entry.state.incarnation != self._incarnation:  # what lay in the store is gone: it is made anew
            self._incarnation = entry.state.incarnation
            self.placed.clear()
        self.placed.update((record.version_id, record.number) for record in entry.changes if not record.lost)
        if entry.event is Event.DISCARDED:
            self.requests.discard(entry.request)  # it came to nothing: asked again, it is tried again
        elif entry.request:
            self.requests.add(entry.request)
        claim = entry.state.claim
        if entry.event in STARTED and claim is not None and claim.operation.makes_version:
            self.claimed[claim.number] = claim.fingerprint
        if entry.event in STARTED and claim is not None:
            self.claimed.update((named.number, named.fingerprint) for named in claim.brings)

    def with_changes(self, changes: Iterable[VersionRecord]) -> dict[int, VersionRecord]:
        """The versions as they will be once `changes` are recorded."""
        return self.versions | {record.number: record for record in changes}
