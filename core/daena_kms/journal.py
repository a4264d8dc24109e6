"""One key's manifest as a run uses it: entries in, verified; entries out, signed. Ledger plus keyring plus clock."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime

from msgspec.structs import replace

from . import manifest
from .errors import ConflictError, ExistsError, IntegrityError, KmsError, ThrottledError, UnavailableError
from .keyring import Keyring, Trust
from .ledger import Ledger
from .manifest import EMPTY, Draft, Entry, Head, History
from .model import Anchor

log = logging.getLogger(__name__)

LONGEST_REASON = 500
TAMPERED = "run `daena-key-rotate verify` to see how far it goes; nothing was changed"


class Journal:
    """Reads and appends the manifests of a ledger in the name of one actor."""

    def __init__(
        self, ledger: Ledger, keyring: Keyring, *, clock: Callable[[], datetime], actor: str, trigger: str
    ) -> None:
        self.ledger = ledger
        self.keyring = keyring
        self.clock = clock
        self.actor = actor
        self.trigger = trigger

    def head(self, key: str, anchor: Anchor | None = None, *, current: bool = True) -> Head:
        """The last entry of a key, its signature verified.

        With `current=False` the entry that the anchor names is taken as the last: one read, good enough to append
        after, because the append fails if the world has moved on. Otherwise what follows is looked for.
        Raises IntegrityError if the manifest is not what the anchor or a signature says.
        """
        if anchor is None:
            sequences = self.ledger.sequences(key)
            head = self._at(key, sequences[-1]) if sequences else EMPTY
        else:
            head = self._anchored(key, anchor)
        while current and (following := step(self.ledger, key, head, self.keyring.trust)) is not None:
            head = following
        return head

    def history(self, key: str) -> list[Entry]:
        """Every entry of a key, the whole chain verified. Raises IntegrityError naming the first bad entry."""
        return [head.entry for head in self.chain(key) if head.entry]

    def chain(self, key: str, after: Head = EMPTY) -> Iterator[Head]:
        """Every head that the key's manifest ever had (`after` one that is verified), verified one by one."""
        return walk(self.ledger, key, self.keyring.trust, after)

    def append(self, key: str, head: Head, draft: Draft) -> Head:
        """Write the entry that follows `head`. Raises ConflictError if somebody else wrote there first.

        An append whose reply was lost is looked up: if what lies there is ours, it was written.
        """
        stored = manifest.seal(
            head,
            draft,
            key=key,
            now=self.clock(),
            actor=self.actor,
            trigger=self.trigger,
            signer=self.keyring.signer,
        )
        entry = manifest.parse(stored)  # what we could not read back ourselves is never written
        try:
            self.ledger.append(key, head.next_sequence, stored)
        except (ExistsError, UnavailableError, ThrottledError) as problem:  # an earlier try may have arrived
            self._settle(key, head.next_sequence, stored, problem)
        log.info("manifest entry", extra={"key": key, "event": entry.event, "sequence": entry.sequence})
        return Head(entry, manifest.entry_hash(stored), entry.sequence + 1)

    def moved_on(self, key: str, head: Head) -> bool:
        """True if something was written after `head`. One read."""
        return self.ledger.read(key, head.next_sequence) is not None

    def anchor(self, key: str, head: Head, *, attention_at: datetime | None) -> Anchor:
        """What is to be stored beside the key for this head; `attention_at` is when a tick must look at the latest."""
        state = head.state
        if head.entry is None:
            raise ValueError("an empty manifest has no anchor")
        anchor = Anchor(
            sequence=head.entry.sequence,
            hash=head.hash,
            number=state.active.number if state.active else 0,
            active_since=state.active.active_since if state.active else None,
            attention_at=attention_at,
            paused=state.paused and not state.moved,
            moved=bool(state.moved),
        )
        return replace(anchor, mac=self.keyring.fingerprints.seal(key, unsealed(anchor)))

    def genuine(self, key: str, anchor: Anchor) -> bool:
        """True if this ledger's writers made that anchor for that key."""
        return self.keyring.fingerprints.sealed(key, unsealed(anchor), anchor.mac)

    def _settle(self, key: str, sequence: int, ours: bytes, problem: KmsError) -> None:
        """Decide what an append that did not succeed plainly came to."""
        stored = self.ledger.read(key, sequence)
        if stored == ours:
            return
        if stored is None:
            raise problem
        raise ConflictError(f"entry {sequence} of {key} was written by somebody else first") from None

    def check_genuine(self, key: str, anchor: Anchor) -> None:
        """Raise IntegrityError unless this ledger's writers made that anchor for that key."""
        if not self.genuine(key, anchor):
            raise IntegrityError(f"the manifest head stored beside {key} was not written by us", TAMPERED)

    def _anchored(self, key: str, anchor: Anchor) -> Head:
        self.check_genuine(key, anchor)
        head = self._at(key, anchor.sequence)
        if head.hash != anchor.hash:
            raise IntegrityError(
                f"entry {anchor.sequence} of {key} is not the one that the store names beside the key",
                TAMPERED,
            )
        return head

    def _at(self, key: str, sequence: int) -> Head:
        stored = self.ledger.read(key, sequence)
        if stored is None:
            raise IntegrityError(f"entry {sequence} of {key} is gone: the manifest was cut", TAMPERED)
        try:
            entry = manifest.open_entry(stored, key=key, sequence=sequence, trust=self.keyring.trust)
        except IntegrityError as problem:
            raise bad_entry(key, sequence, problem) from None
        return Head(entry, manifest.entry_hash(stored), sequence + 1)


class Past:
    """One key's manifest as a run reads it: each entry is fetched and verified once, later ones when asked for.

    Entries are never changed, so what was verified stays so.
    """

    def __init__(self, journal: Journal, key: str) -> None:
        self._journal = journal
        self._key = key
        self._heads: list[Head] = []

    def history(self) -> History:
        """Everything up to now, folded. Raises IntegrityError naming the first bad entry."""
        self._heads += self._journal.chain(self._key, after=self._heads[-1] if self._heads else EMPTY)
        return History(head.entry for head in self._heads if head.entry)


def bad_entry(key: str, sequence: int, problem: IntegrityError) -> IntegrityError:
    """The error that names the first bad entry and why it is bad."""
    reason = problem.message[:LONGEST_REASON]  # it may quote what lies there, of any length
    return IntegrityError(f"entry {sequence} of {key} is bad: {reason}", problem.hint or TAMPERED)


def walk(ledger: Ledger, key: str, trust: Trust, after: Head = EMPTY) -> Iterator[Head]:
    """Every head of a key's chain in turn; IntegrityError names the first bad entry and why it is bad."""
    head = after
    sequences = ledger.sequences(key) if after == EMPTY else []
    while (following := step(ledger, key, head, trust)) is not None:
        head = following
        yield head
    if sequences and sequences[-1] >= head.next_sequence:
        missing = IntegrityError("it is missing, but later ones are there")
        raise bad_entry(key, head.next_sequence, missing)


def step(ledger: Ledger, key: str, head: Head, trust: Trust) -> Head | None:
    """The head after the entry that follows `head`; None if nothing follows.

    Objects that a later signed `repaired` entry names as junk are stepped over. Raises IntegrityError otherwise.
    """
    sequence = head.next_sequence
    stored = ledger.read(key, sequence)
    if stored is None:
        return None
    try:
        entry = manifest.open_entry(stored, key=key, sequence=sequence, trust=trust)
        return manifest.follow(head, entry, stored, trust)
    except IntegrityError as problem:
        repaired = _repaired_after(ledger, key, head, trust)
        if repaired is None:
            raise bad_entry(key, sequence, problem) from None
        return repaired


def junk_after(ledger: Ledger, key: str, head: Head, trust: Trust) -> tuple[manifest.Junk, ...]:
    """What lies after `head` without being an entry that anyone of ours signed for that place."""
    junk: list[manifest.Junk] = []
    sequence = head.next_sequence
    while (stored := ledger.read(key, sequence)) is not None:
        try:
            manifest.open_entry(stored, key=key, sequence=sequence, trust=trust)
        except IntegrityError:
            junk.append(manifest.Junk(sequence, manifest.entry_hash(stored)))
            sequence += 1
        else:
            break
    return tuple(junk)


def _repaired_after(ledger: Ledger, key: str, head: Head, trust: Trust) -> Head | None:
    """The head after the signed entry that names everything between `head` and itself as junk, if there is one."""
    junk = junk_after(ledger, key, head, trust)
    sequence = head.next_sequence + len(junk)
    stored = ledger.read(key, sequence) if junk else None
    if stored is None:
        return None
    entry = manifest.open_entry(stored, key=key, sequence=sequence, trust=trust)
    if entry.junk != junk:
        return None
    try:
        return manifest.follow(head, entry, stored, trust)
    except IntegrityError as problem:
        raise bad_entry(key, sequence, problem) from None


def unsealed(anchor: Anchor) -> bytes:
    """The bytes of an anchor that its seal covers."""
    return manifest.canonical(replace(anchor, mac=""))
