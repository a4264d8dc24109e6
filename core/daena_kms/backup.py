"""Keys with their history and states, taken out of a store and its ledger to be put into a file.

A backup changes nothing and takes no claim. Each key in it is whole: every readable version's material, held against
its fingerprint, and the manifest entries that were verified on the way, byte for byte. The ledger's own keys come
along (the reserved key's generations), so that a lost store can be put back under its own manifests: who can open a
backup can read its keys, and can sign as their ledger does. `backup_json` writes it down, `backup_check` proves it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from . import holdings, manifest, many
from .errors import ConflictError, ExistsError, IntegrityError, KmsError, NotFoundError, RefusedError
from .holdings import Holding
from .journal import Journal
from .ledger import FolderLedger, Ledger
from .material import KeyMaterial
from .model import InventoryRow, Outcome, State, Status, Time
from .names import RESERVED_KEY
from .stores.base import KeyStore
from .trust import read_root, secret_halves

Progress = Callable[[Outcome], None]


class Generation(Struct, frozen=True, forbid_unknown_fields=True):
    """One generation of the ledger's own keys: the reserved key's 64 bytes, an Ed25519 seed and a fingerprint key."""

    number: int
    material: KeyMaterial


class BackedUp(Struct, frozen=True):
    """One key in a backup: what it was, and its manifest as stored, one object a sequence number from 1.

    The last one is the entry that `holding.origin` names. Junk that a later entry names is among them.
    """

    holding: Holding
    entries: tuple[bytes, ...]


class Unread(Struct, frozen=True, forbid_unknown_fields=True):
    """A key that should be in a backup and is not."""

    key: str
    reason: str


class Backup(Struct, frozen=True):
    """Keys with their history and states, each at the moment when it was read."""

    made_at: Time
    provider: str
    store: str
    """Address of the store, for people."""
    ledger: str
    """Address of the ledger, as the manifests name it."""
    actor: str
    """Whose credentials made it."""
    public_key: str
    """The first generation's, in hexadecimal: what auditors pin."""
    generations: tuple[Generation, ...]
    root: tuple[bytes, ...]
    """The reserved chain's entries, as stored."""
    keys: tuple[BackedUp, ...]
    failed: tuple[Unread, ...] = ()
    sha256: str = ""
    """Of the sealed file that it was read from; empty if it was not read from one."""


class Collected(Struct, frozen=True):
    """A backup, and what became of each key; in the keys' order."""

    backup: Backup
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> bool:
        """True if a key that should be in it is not."""
        return bool(self.backup.failed)


class BackupLedger:
    """The manifests in a backup, for whatever reads or verifies a ledger."""

    def __init__(self, backup: Backup) -> None:
        self.address = backup.ledger
        self._entries = {RESERVED_KEY: backup.root} | {each.holding.key: each.entries for each in backup.keys}

    def append(self, key: str, sequence: int, data: bytes) -> None:  # noqa: ARG002  # a ledger has this
        raise RefusedError("nothing is ever written into a backup", "restore it")

    def read(self, key: str, sequence: int) -> bytes | None:
        entries = self._entries.get(key, ())
        return entries[sequence - 1] if 0 < sequence <= len(entries) else None

    def sequences(self, key: str) -> list[int]:
        return list(range(1, len(self._entries.get(key, ())) + 1))

    def names(self) -> list[str]:
        return sorted(self._entries)

    def rewritten(self, key: str) -> list[int]:  # noqa: ARG002  # a backup keeps no count
        return []

    def where(self, key: str, sequence: int) -> str:
        return f"{self.address}: entry {sequence} of {key}, in the backup"


class _Remembering:
    """A ledger that keeps what was read from it last, so that what was verified is what is backed up."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.address = ledger.address
        self._read: dict[tuple[str, int], bytes] = {}

    def append(self, key: str, sequence: int, data: bytes) -> None:  # noqa: ARG002  # a ledger has this
        raise AssertionError("a backup writes no manifest")

    def read(self, key: str, sequence: int) -> bytes | None:
        stored = self._ledger.read(key, sequence)
        if stored is not None:
            self._read[key, sequence] = stored
        return stored

    def sequences(self, key: str) -> list[int]:
        return self._ledger.sequences(key)

    def names(self) -> list[str]:
        return self._ledger.names()

    def rewritten(self, key: str) -> list[int]:
        return self._ledger.rewritten(key)

    def where(self, key: str, sequence: int) -> str:
        return self._ledger.where(key, sequence)

    def up_to(self, key: str, sequence: int) -> tuple[bytes, ...]:
        """The first entries of a key, as they were read."""
        return tuple(self._read[key, each] for each in range(1, sequence + 1))


def collect(
    store: KeyStore,
    journal: Journal,
    keys: Sequence[str] = (),
    *,
    concurrency: int = 4,
    progress: Progress = lambda _: None,
) -> Collected:
    """A backup of every key, or of those named. Permissions: those of reading every version.

    A key that cannot be read is left out and said so; the others are in. Raises NotFoundError for a name that neither
    store nor ledger knows, IntegrityError if the ledger's own keys are not sound.
    """
    made_at = journal.clock()
    ours = ("", journal.ledger.address)
    rows = {row.key: row for row in store.inventory() if row.ledger in ours}
    recorded = {key for key in journal.ledger.names() if key != RESERVED_KEY}
    if missing := [key for key in keys if key not in rows and key not in recorded]:
        raise NotFoundError(f"there is no key {missing[0]!r}", "see `status` for the keys there are")
    ledger = _Remembering(journal.ledger)
    root = read_root(ledger, journal.keyring.trust.public_key)
    if root.head.entry is None:
        raise AssertionError("a root has a first entry")
    known = Journal(ledger, journal.keyring, clock=journal.clock, actor=journal.actor, trigger=journal.trigger)
    reader = _Reader(store, known, ledger, rows, recorded)

    def work(key: str) -> _Read:
        done = reader.read(key)
        progress(done.outcome)
        return done

    read = many.each(sorted(set(keys) or {*rows, *recorded}), work, concurrency)
    backup = Backup(
        made_at=made_at,
        provider=store.provider,
        store=store.address,
        ledger=ledger.address,
        actor=store.actor,
        public_key=root.trust.public_key,
        generations=tuple(Generation(n, m) for n, m in enumerate(secret_halves(store, ledger, root.trust), 1)),
        root=ledger.up_to(RESERVED_KEY, root.head.entry.sequence),
        keys=tuple(each.backed_up for each in read if each.backed_up is not None),
        failed=tuple(
            Unread(each.outcome.key, each.outcome.message)
            for each in read
            if each.outcome.status in (Status.FAILED, Status.IN_PROGRESS)
        ),
    )
    return Collected(backup, tuple(each.outcome for each in read))


class _Read(Struct, frozen=True):
    outcome: Outcome
    backed_up: BackedUp | None = None


class _Reader:
    """Reads one key at a time, whatever happens."""

    def __init__(
        self,
        store: KeyStore,
        journal: Journal,
        ledger: _Remembering,
        rows: dict[str, InventoryRow],
        recorded: Collection[str],
    ) -> None:
        self._store = store
        self._journal = journal
        self._ledger = ledger
        self._rows = rows
        self._recorded = recorded

    def read(self, key: str) -> _Read:
        try:
            return self._left_alone(key) or self._taken(key)
        except Exception as problem:  # noqa: BLE001  # one bad key never stops the others, not even by a bug of ours
            return _Read(replace(many.failed(key, problem), status=self._status(key, problem)))

    def _left_alone(self, key: str) -> _Read | None:
        """What is no key of ours, or never became one."""
        row = self._rows.get(key)
        if key not in self._recorded:
            if row is not None and row.ledger:
                raise IntegrityError(f"the manifest of {key} is gone", "run `daena-key-rotate verify`")
            why = "not backed up: no manifest knows it"
            return _Read(Outcome(key, Status.UNMANAGED, why, hint=f"`adopt {key}` takes it in"))
        if row is None or not row.live:
            state = self._journal.head(key).state
            if state.active is None and state.claim is None:
                return _Read(Outcome(key, Status.DONE, "nothing to back up: it was never finished"))
        return None

    def _taken(self, key: str) -> _Read:
        holding = holdings.at_rest(self._store, self._journal, key)
        entries = self._ledger.up_to(key, holding.origin.sequence)
        notes = [*self._beside(key, entries), *_notes(holding, entries)]
        kept = sum(held.material is not None for held in holding.versions)
        message = f"{kept} version{'s' * (kept != 1)}, {len(entries)} manifest entries"
        active = next(held.record.number for held in holding.versions if held.record.state is State.ACTIVE)
        outcome = Outcome(key, Status.DONE, message, number=active, notes=tuple(notes))
        return _Read(outcome, BackedUp(holding, entries))

    def _beside(self, key: str, entries: Sequence[bytes]) -> Iterable[str]:
        """Hold the head that lies beside the key against what was read: a manifest that was cut is no history."""
        row = self._rows.get(key)
        if row is None or row.anchor is None:
            return
        if not self._journal.genuine(key, row.anchor):
            yield "the manifest head stored beside it was not written by us: see `verify`"
        elif row.anchor.sequence > len(entries):
            raise IntegrityError(
                f"entry {row.anchor.sequence} of {key} is gone: the manifest was cut", "run `daena-key-rotate verify`"
            )

    def _status(self, key: str, problem: Exception) -> Status:
        """A key that somebody changes just now is not broken; it is missing all the same."""
        if isinstance(problem, ConflictError):
            return Status.IN_PROGRESS
        if isinstance(problem, RefusedError):
            try:
                claimed = self._journal.head(key).state.claim
            except KmsError:
                claimed = None
            return Status.FAILED if claimed is None else Status.IN_PROGRESS
        return Status.FAILED


def _notes(holding: Holding, entries: Sequence[bytes]) -> Iterable[str]:
    if moved := manifest.parse(entries[-1]).state.moved:
        yield f"it goes on at {moved}: what is backed up is what was left here"
    for number in holding.left_out:
        yield f"version {number} is disabled: its material is not in the backup"


def export_manifests(backup: Backup, folder: Path) -> None:
    """Write a checked backup's manifests as a folder, for `verify --manifests`. Begun before, it is gone on with.

    Raises ConfigurationError if the folder holds something else, ExistsError if it holds other manifests.
    """
    ledger = FolderLedger(folder, folder.absolute().as_uri())
    ledger.check_ours()
    source = BackupLedger(backup)
    for key in [RESERVED_KEY, *(name for name in source.names() if name != RESERVED_KEY)]:
        for sequence in source.sequences(key):
            stored = source.read(key, sequence) or b""
            try:
                ledger.append(key, sequence, stored)
            except ExistsError as problem:
                if ledger.read(key, sequence) != stored:
                    raise ExistsError(f"{folder}: {problem.message}, and is another", "name an empty folder") from None
