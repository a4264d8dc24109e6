"""The records that everything else speaks in. Frozen, typed, without behaviour beyond small questions.

Words: a *key* has *versions*; a version has a *number* (ours, the same in every store, never reused) and a
*version id* (the store's own). Times are UTC. Durations carry their unit in their name.
"""

from collections.abc import Container
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self

from msgspec import Meta, Struct
from msgspec.structs import replace

from .errors import ConfigurationError, IntegrityError

# A record never holds a time without its zone: it could not be compared.
Time = Annotated[datetime, Meta(tz=True)]

# Nothing of ours happens outside, and what is reckoned from these times stays far inside what a date can be.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)

MAX_MATERIAL_BYTES = 1024  # what one AWS GenerateDataKey call makes; far below every store's limit on a value


def check_times(*times: datetime | None) -> None:
    """Raise IntegrityError for a time that no record of ours can hold: a clock ran wild, or somebody made it up."""
    for time in times:
        if time is not None and not EARLIEST <= time <= LATEST:
            raise IntegrityError(f"the time {time.isoformat()} is none at which anything of ours happens")
        if time is not None and time.utcoffset():
            raise IntegrityError(f"the time {time.isoformat()} is not in UTC")


class State(StrEnum):
    """A version's state, in the order of NIST SP 800-57's life of a key."""

    STAGED = "staged"
    ACTIVE = "active"
    DECRYPT_ONLY = "decrypt-only"
    DISABLED = "disabled"
    DESTROYED = "destroyed"


class Operation(StrEnum):
    """What a claim is for. Every operation that changes a key in its store names itself here."""

    CREATE = "create"
    ROTATE = "rotate"
    ROLLBACK = "rollback"
    IMPORT = "import"
    ADOPT = "adopt"
    RETIRE = "retire"
    DISABLE = "disable"
    ENABLE = "enable"
    DESTROY = "destroy"
    RESTORE = "restore"
    MIGRATE = "migrate"

    @property
    def makes_version(self) -> bool:
        """True if the operation ends with a new active version."""
        return self in (Operation.CREATE, Operation.ROTATE, Operation.ROLLBACK, Operation.IMPORT)

    @property
    def carries(self) -> bool:
        """True if only somebody who holds the versions can bring it to its end."""
        return self in (Operation.RESTORE, Operation.MIGRATE)


class KeySpec(Struct, frozen=True):
    """What a version's material is: an AES key, or a number of bytes. `name` is how it is written down."""

    name: str
    length: int

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """From `AES-128`, `AES-192`, `AES-256`, a number of bytes, or `bytes-N`; ConfigurationError otherwise."""
        if isinstance(text, str) and (bits := _AES_BITS.get(text.upper())):
            return cls(text.upper(), bits // 8)
        digits = str(text).removeprefix("bytes-")
        if isinstance(text, bool) or not (digits.isascii() and digits.isdigit()):
            raise ConfigurationError(
                f"key spec {text!r} is unknown", "use 'AES-128', 'AES-192', 'AES-256' or a number of bytes"
            )
        length = int(digits[:9])
        if not 1 <= length <= MAX_MATERIAL_BYTES:
            raise ConfigurationError(f"a key of {length} bytes is outside 1 to {MAX_MATERIAL_BYTES}", "choose another")
        return cls(f"bytes-{length}", length)

    @classmethod
    def of_length(cls, length: int) -> Self:
        """The spec of imported material: AES where the length is an AES key's, a number of bytes otherwise."""
        return cls.parse(f"AES-{length * 8}" if length * 8 in _AES_BITS.values() else length)


_AES_BITS = {"AES-128": 128, "AES-192": 192, "AES-256": 256}


class VersionRecord(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the manifest says about one version."""

    number: int
    version_id: str
    fingerprint: str
    spec: str
    state: State
    made_at: Time
    """When the material itself came into being; older than `active_since` after a rollback."""
    active_since: Time
    """When it became the active version: the age that policy counts."""
    deactivated_at: Time | None = None
    compromised: bool = False
    lost: bool = False
    """Gone from its store by another hand than ours; set together with the state `destroyed`."""
    destroy_at: Time | None = None
    """A destruction was asked for and is carried out by the first tick after this time."""
    source: int = 0
    """For a rollback: the number whose material this is a copy of."""

    def __post_init__(self) -> None:
        check_times(self.made_at, self.active_since, self.deactivated_at, self.destroy_at)


class Burnt(Struct, frozen=True, forbid_unknown_fields=True):
    """A claimed number that never became active. A late writer may still publish it: then it is adopted."""

    number: int
    fingerprint: str
    spec: str
    made_at: Time

    def __post_init__(self) -> None:
        check_times(self.made_at)


class Link(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A place in another ledger: where a key's history was before, or goes on."""

    ledger: str
    """Address of the other ledger."""
    public_key: str
    """The first public key of that ledger, in hexadecimal: with it an auditor verifies that history."""
    sequence: int
    hash: str
    """Of that entry, as stored."""
    backup: str = ""
    """SHA-256 of the backup that it was read from; empty if it was read from the store itself."""


class Claim(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The right to change one key, held by one run until its lease ends. The only lock there is."""

    operation: Operation
    number: int
    """The version to come, or the version that is changed."""
    run: str
    lease_until: Time
    policy: str
    """Digest of the policy in force."""
    rotation_id: str = ""
    fingerprint: str = ""
    """Names the one material this number may ever have."""
    spec: str = ""
    made_at: Time | None = None
    planned: int = 0
    """The active version the plan was based on; 0 for none."""
    request: str = ""
    source: int = 0
    reason: str = ""
    brings: tuple[Burnt, ...] = ()
    """RESTORE: every number that is brought, with its material's name; `fingerprint` is the digest of all of them."""
    origin: Link | None = None
    """RESTORE: where they come from."""
    destination: str = ""
    """MIGRATE: address of the ledger where the key goes."""
    destination_key: str = ""
    """MIGRATE: that ledger's first public key. An address alone may be any machine's."""
    paused: bool = False
    """RESTORE: rotation was paused where the key comes from."""

    def __post_init__(self) -> None:
        check_times(self.lease_until, self.made_at)

    @property
    def work(self) -> str:
        """What it is for, in words: the whole key comes, goes, or is adopted; other work is about one version."""
        return f"{self.operation} of version {self.number}" if self.number and not self.brings else self.operation.value


class KeyState(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A key's state in bounded form, carried by every manifest entry, so that reading the last one is enough."""

    incarnation: int = 1
    highest: int = 0
    active: VersionRecord | None = None
    previous: VersionRecord | None = None
    claim: Claim | None = None
    burnt: tuple[Burnt, ...] = ()
    failures: int = 0
    """Checks failed in a row since the last rotation that worked."""
    retry_at: Time | None = None
    paused: bool = False
    moved: str = ""
    """Address of the ledger where the key goes on: here it is rotated no more."""
    attention_at: Time | None = None
    """The earliest time at which a tick has something to do besides rotating (a destruction, a retirement)."""
    policy: str = ""
    """Digest of the policy that the last claim was made under."""
    digest: str = ""
    """Running SHA-256 over every version record ever written: what is not shown here."""

    def __post_init__(self) -> None:
        check_times(self.retry_at, self.attention_at)

    @property
    def coming(self) -> bool:
        """True while the key is on its way here, out of a backup or from another store: part of it may lie here."""
        return self.claim is not None and self.claim.operation is Operation.RESTORE


class StoredVersion(Struct, frozen=True):
    """One version as its store shows it. `fingerprint` may be empty where a store does not show it unread."""

    number: int
    version_id: str
    fingerprint: str = ""
    rotation_id: str = ""
    spec: str = ""
    enabled: bool = True
    staged: bool = False
    created_at: Time | None = None
    """When the store took it in, by the store's own clock."""
    loose: bool = False
    """The mark that keeps it is gone: its store may delete it once nothing else names it."""
    written: int = 0
    """The number that its value was written for, by the value's own word, where our marks are gone; 0 for none."""
    destroyed: bool = False
    """Marked as destroyed, on stores that keep what is destroyed."""

    def holds(self, number: int, fingerprint: str) -> bool:
        """True if this is that number with that material, as far as the store shows it."""
        return self.number == number and self.fingerprint in ("", fingerprint)

    def is_recorded(self, record: VersionRecord) -> bool:
        """True if this is the recorded version: by fingerprint, or by id where the store shows none unread."""
        same_place = bool(self.fingerprint) or self.version_id == record.version_id
        return self.holds(record.number, record.fingerprint) and same_place


class Anchor(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A key's manifest head as it is stored beside the key, with what a tick needs to say "not due".

    Cutting the end off the manifest shows against it. `mac` is keyed and bound to the key's name.
    """

    sequence: int
    hash: str
    number: int
    active_since: Time | None = None
    attention_at: Time | None = None
    paused: bool = False
    moved: bool = False
    mac: str = ""


# What lies in an anchor's place without being one. No writer of ours sealed it, so its key waits for a person.
UNREADABLE = Anchor(sequence=0, hash="", number=0)


class Observed(Struct, frozen=True):
    """What a store shows about one key."""

    exists: bool
    newest: StoredVersion | None = None
    """The version that readers get."""
    versions: tuple[StoredVersion, ...] = ()
    """Everything that was ever published and still lies there, oldest number first."""
    staged: tuple[StoredVersion, ...] = ()
    ledger: str = ""
    """The address of the manifest that this key belongs to."""
    anchor: Anchor | None = None
    notes: tuple[str, ...] = ()
    """What else is to be seen there, for people."""
    rival: str = ""
    """How to stop somebody else who rotates this key; empty if nobody does. Two rotators of one key would fight."""
    crowded: str = ""
    """Why our marks do not fit beside what somebody else has put on a version; empty if they do."""

    def published(self, number: int, fingerprint: str) -> StoredVersion | None:
        """The published version of that number with that material, if it lies there."""
        return next((v for v in self.versions if v.holds(number, fingerprint)), None)

    def with_published(self, numbers: Container[int]) -> Self:
        """For stores that move a staged version: what the manifest knows was published, whatever its marks say now."""
        known = tuple(replace(v, staged=False) for v in self.staged if v.number in numbers)
        if not known:
            return self
        versions = tuple(sorted((*self.versions, *known), key=lambda v: v.number))
        return replace(self, versions=versions, staged=tuple(v for v in self.staged if v.number not in numbers))


class InventoryRow(Struct, frozen=True):
    """One key of a store's listing: enough to say whether it is due without reading its manifest."""

    key: str
    ledger: str
    newest: int
    """Number of the version that readers get; 0 for none."""
    anchor: Anchor | None = None
    seen: Observed | None = None
    """All that `observe` would show, where the listing shows as much: it saves a run its first look."""
    disabled: bool = False
    """Readers get nothing: what they would get was disabled, which no rotation does."""

    @property
    def live(self) -> bool:
        """True if readers get anything, ours or not."""
        return self.newest > 0 or (self.seen is not None and self.seen.newest is not None)


class Status(StrEnum):
    """How one key's part of a run ended."""

    CREATED = "created"
    ROTATED = "rotated"
    DONE = "done"
    NOT_DUE = "not-due"
    DUE = "due"
    WAITING = "waiting"
    PAUSED = "paused"
    MOVED = "moved"
    IN_PROGRESS = "in-progress"
    DEFERRED = "deferred"
    UNMANAGED = "unmanaged"
    FAILED = "failed"


class Outcome(Struct, frozen=True):
    """What one run did about one key, and why."""

    key: str
    status: Status
    message: str
    why: str = ""
    number: int = 0
    hint: str = ""
    next_at: Time | None = None
    """When the key becomes due (not due), or may be tried again (in progress, failed)."""
    rotation_id: str = ""
    recorded: str = ""
    """Where the manifest entry that records it lies."""
    stuck: bool = False
    """A claim on the key is open past its lease, and this run could not bring it to its end."""
    notes: tuple[str, ...] = ()
    """What else was noticed or mended on the way."""


def utc_now() -> datetime:
    """The clock of production; everything else is handed one."""
    return datetime.now(UTC)
