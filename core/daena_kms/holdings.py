"""A key's versions taken out of its store, to be put into a backup or into another store.

Where a version is disabled, its material is read only under a claim (`intake.carry_out`): it has to be readable for
that moment. A backup and a copy change nothing, so they go without it, and say so.
"""

import hashlib
from collections.abc import Iterable

from msgspec import Struct

from .errors import ConflictError, IntegrityError, NotFoundError, RefusedError
from .journal import Journal
from .keyring import Fingerprints
from .manifest import Head, History, canonical
from .material import KeyMaterial
from .model import Link, State, StoredVersion, VersionRecord
from .stores.base import KeyStore

READABLE = (State.ACTIVE, State.DECRYPT_ONLY)
_LOOKS = 10


class StaysError(RefusedError):
    """Nothing of a key came to the other store, which was looked at: it stays where it is."""


class Held(Struct, frozen=True):
    """One version: what its manifest says of it, and its material where there is any to be had."""

    record: VersionRecord
    material: KeyMaterial | None = None


class Holding(Struct, frozen=True):
    """Everything that one key is, at one moment: `origin` is that moment's entry in its manifest."""

    key: str
    origin: Link
    versions: tuple[Held, ...]
    highest: int
    """The highest number that was ever given out there."""
    paused: bool = False

    @property
    def left_out(self) -> tuple[int, ...]:
        """The numbers that are disabled there, and whose material is not here."""
        return tuple(v.record.number for v in self.versions if v.record.state is State.DISABLED and v.material is None)


def location(record: VersionRecord) -> StoredVersion:
    """Where a recorded version lies in its store."""
    return StoredVersion(record.number, record.version_id, record.fingerprint, spec=record.spec)


def read(store: KeyStore, fingerprints: Fingerprints, key: str, record: VersionRecord) -> KeyMaterial:
    """A recorded version's material, held against its fingerprint.

    Raises IntegrityError if it is another's, NotFoundError or RefusedError if the store does not give it out.
    """
    material = store.read(key, location(record))
    fingerprints.check(key, material, record.fingerprint)
    return material


def can_be_read(store: KeyStore, fingerprints: Fingerprints, key: str, record: VersionRecord) -> bool:
    """True if the store gives a recorded version out, asked for by its place, and it is what its fingerprint names."""
    try:
        read(store, fingerprints, key, record)
    except (IntegrityError, NotFoundError, RefusedError):
        return False
    return True


def at_rest(store: KeyStore, journal: Journal, key: str) -> Holding:
    """What a key is now, without its disabled versions' material. Changes nothing, and takes no claim.

    Raises NotFoundError for a key that is not there, RefusedError while somebody changes it, ConflictError if it keeps
    changing, and whatever `read` raises: a key of which one version cannot be read is not half a key.
    """
    for _ in range(_LOOKS):
        heads = list(journal.chain(key))
        history = History(head.entry for head in heads if head.entry)
        if not heads or heads[-1].state.active is None:
            raise NotFoundError(f"there is no key {key}", "see `status` for the keys there are")
        head = heads[-1]
        if head.state.claim is not None:
            raise RefusedError(
                f"{key} is being changed ({head.state.claim.operation})", "run it again when that has ended"
            )
        holding = holding_of(journal, key, head, (_readable(store, journal, key, v) for v in records(history)))
        if not journal.moved_on(key, head):
            return holding
    raise ConflictError(f"{key} kept changing while it was read", "run it again")


def _readable(store: KeyStore, journal: Journal, key: str, record: VersionRecord) -> Held:
    if record.state not in READABLE:
        return Held(record)
    return Held(record, read(store, journal.keyring.fingerprints, key, record))


def holding_of(journal: Journal, key: str, head: Head, versions: Iterable[Held]) -> Holding:
    """Versions that were read, with the place in the manifest that they are read at."""
    return Holding(key, link(journal, head), tuple(versions), head.state.highest, head.state.paused)


def records(history: History) -> list[VersionRecord]:
    """Every version that a manifest names, in the order of their numbers."""
    return [history.versions[number] for number in sorted(history.versions)]


def link(journal: Journal, head: Head) -> Link:
    """Where a manifest stands, for another ledger to point at."""
    if head.entry is None:
        raise ValueError("an empty manifest has no place to point at")
    return Link(journal.ledger.address, journal.keyring.trust.public_key, head.entry.sequence, head.hash)


def digest(fingerprints: Fingerprints, holding: Holding) -> str:
    """Names all the material that a holding brings, keyed, as a fingerprint names one version's."""
    brought = [(v.record.number, fingerprints.of(holding.key, v.material)) for v in holding.versions if v.material]
    return hashlib.sha256(canonical(brought)).hexdigest()
