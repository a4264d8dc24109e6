"""Manifests with bytes, fields and whole entries that nobody has written so, and some that somebody did write and sign.

`bytes`: whatever lies where an entry belongs. `signed`: an entry whose JSON was changed and signed again with the
ledger's own key, alone. `forged`: all that follows is linked and signed again as well, and the head beside the key is
sealed anew: whoever has the ledger's keys can do that, or whoever lets a clock run wild. What comes of it may be wrong;
it may not be a traceback, nor stop another key.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from daena_kms import manifest
from daena_kms.errors import KmsError
from daena_kms.journal import Journal
from daena_kms.keyring import Signer, Trust
from daena_kms.manifest import EMPTY, Entry, Head
from daena_kms.names import RESERVED_KEY
from daena_kms.stores.base import KeyStore
from tests.cli.sandbox import Sandbox, lived_in
from tests.support.backups import A

from ..units import Room
from .harness import require, tried
from .memory import SOUND, Memory, asked_everything
from .policies import ended
from .shapes import Edit, as_json, cut, cuts, edited, edits, fitting, values

_any_entry = st.integers(0, 40)
_from_the_end = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5, 9])


def bytes_of_entries(room: Room, most: int) -> None:
    """Bytes where an entry belongs: mended ones, cut ones, none of ours; of a key, or of the ledger's own chain."""
    memory = Memory()
    mangled = st.one_of(
        st.tuples(st.just("cut"), cuts),
        st.tuples(st.just("edited"), edits),
        st.tuples(st.just("json"), values),
        st.tuples(st.just("bytes"), st.binary(max_size=40)),
        st.tuples(st.just("deep"), st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b'{"format":' * 20_000])),
        st.tuples(st.just("large"), st.sampled_from([(1 << 20) - 1, (1 << 20) + 1])),
    )

    def check(example: tuple[bool, int, tuple[str, Any]]) -> None:
        reserved, which, (kind, change) = example
        memory.put_back()
        key = RESERVED_KEY if reserved else A
        sequences = memory.ledger.sequences(key)
        sequence = [*sequences, sequences[-1] + 1][which % (len(sequences) + 1)]
        stored = memory.ledger.objects.get((key, sequence), memory.ledger.objects[key, 1])
        memory.ledger.objects[key, sequence] = _mangled(stored, kind, change)
        _asked(memory, reserved=reserved)

    tried(room, "bytes in the place of an entry", st.tuples(st.booleans(), _any_entry, mangled), check, most=most)


def _asked(memory: Memory, *, reserved: bool) -> None:
    """Ask everything, when a manifest is not what it was; `reserved`: the ledger's own, on which all keys depend."""
    try:
        service = memory.service()
    except KmsError:
        require(reserved, "a key's entry keeps the keyring from being opened")
        return
    asked_everything(service, A, () if reserved else SOUND)


def _mangled(stored: bytes, kind: str, change: Any) -> bytes:
    match kind:
        case "cut":
            return bytes(cut(stored, change))
        case "edited":
            return as_json(edited(json.loads(stored), change), canonical=True)
        case "json":
            return as_json(change)
        case "large":
            return bytes(stored[:-1] + b" " * (change - len(stored)) + b"}")
    return bytes(change)


# --- signed


class Forger:
    """Whoever has the ledger's keys."""

    def __init__(self, signer: Signer, trust: Trust) -> None:
        self._signer = signer
        self._trust = trust

    def signed(self, document: Any) -> bytes:
        """A document as an entry: in canonical form if it has one, and signed."""
        if isinstance(document, dict):
            document = {name: value for name, value in document.items() if name != "signature"}
        entry = _entry(document)
        if entry is None:
            unsigned = as_json(document, canonical=True)
            made = {**document, "signature": self._signature(unsigned)} if isinstance(document, dict) else document
            return as_json(made, canonical=True)
        unsigned = manifest.canonical(entry)
        return manifest.canonical(replace(entry, signature=self._signature(unsigned)))

    def _signature(self, unsigned: bytes) -> str:
        return base64.b64encode(self._signer.sign(manifest.SIGNATURE_CONTEXT + unsigned)).decode()

    def forged(self, stored: Sequence[bytes], index: int, changes: Sequence[Edit]) -> tuple[list[bytes], Head]:
        """A chain in which one entry was changed, and all from there on follows from it as well as it can."""
        head, made = EMPTY, list(stored[:index])
        for data in made:
            head = _after(head, data)
        restates = bool(len(changes) % 2)
        for place, data in enumerate(stored[index:], index):
            document = json.loads(data)
            if place == index:
                document = _decided(document, changes) if restates else edited(document, changes)
            entry = _entry(document)
            if entry is None:
                made.append(self.signed(document))
                continue
            made.append(self._linked(head, entry, restates=place != index or restates))
            head = _after(head, made[-1])
        return made, head

    def _linked(self, head: Head, entry: Entry, *, restates: bool) -> bytes:
        """The entry as it follows `head`. `restates`: with the state that follows, where any does."""
        state = entry.state
        if restates:
            try:
                state = manifest.advance(head.state, manifest.as_draft(entry))
            except Exception:  # noqa: BLE001  # what the check itself is asked about is what the library makes of it
                state = entry.state
        unsigned = replace(
            entry,
            previous=head.hash,
            sequence=head.next_sequence,
            state=state,
            signer=self._signer.key_id,
            signature="",
        )
        data = manifest.canonical(unsigned)
        return manifest.canonical(replace(unsigned, signature=self._signature(data)))


_DECIDED = ("claim", "retry_at", "attention_at")
"""What a writer decides of a state; the rest follows."""


def _decided(document: Any, changes: Sequence[Edit]) -> Any:
    """An entry with changes in what its writer decided."""
    state = document["state"]
    made = edited({**document, "state": {name: state[name] for name in _DECIDED if name in state}}, changes)
    if isinstance(made, dict) and isinstance(made.get("state"), dict):
        made["state"] = {name: held for name, held in state.items() if name not in _DECIDED} | made["state"]
    return made


def _entry(document: Any) -> Entry | None:
    try:
        return msgspec.json.decode(as_json(document, canonical=True), type=Entry)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, KmsError):
        return None


def _after(head: Head, data: bytes) -> Head:
    entry = msgspec.json.decode(data, type=Entry)
    return Head(entry, manifest.entry_hash(data), head.next_sequence + 1)


def forger_of(memory: Memory) -> Forger:
    """With the keys of that ledger."""
    keyring = memory.service().keyring
    return Forger(keyring.signer, keyring.trust)


def signed(room: Room, most: int) -> None:
    """One entry whose JSON was changed, signed again: nothing else was."""
    memory = Memory()
    forger = forger_of(memory)

    def check(example: tuple[bool, int, list[Edit]]) -> None:
        reserved, which, changes = example
        memory.put_back()
        key = RESERVED_KEY if reserved else A
        sequences = memory.ledger.sequences(key)
        sequence = sequences[which % len(sequences)]
        document = edited(json.loads(memory.ledger.objects[key, sequence]), changes)
        memory.ledger.objects[key, sequence] = forger.signed(document)
        _asked(memory, reserved=reserved)

    tried(room, "an entry signed again", st.tuples(st.booleans(), _any_entry, edits | fitting), check, most=most)


def forged(room: Room, most: int) -> None:
    """Whole chains that were written anew from one entry on, with the head beside the key that belongs to them."""
    memory = Memory()
    forger = forger_of(memory)
    clocks = st.sampled_from([0, 0, 0, 1, 400])

    def check(example: tuple[int, list[Edit], int]) -> None:
        which, changes, days = example
        memory.put_back()
        chain = [memory.ledger.objects[A, sequence] for sequence in memory.ledger.sequences(A)]
        made, head = forger.forged(chain, max(0, len(chain) - 1 - which), changes)
        memory.ledger.objects.update({(A, sequence): data for sequence, data in enumerate(made, 1)})
        beside(memory.store, memory.service().journal, head)
        memory.several.clock.move(days=days)
        asked_everything(memory.service(), A)

    tried(
        room,
        "a chain forged from one entry on",
        st.tuples(_from_the_end, fitting | edits | fitting, clocks),
        check,
        most=most,
    )


def beside(store: KeyStore, journal: Journal, head: Head) -> None:
    """Seal the head of a chain beside the key."""
    if head.entry is None or head.entry.key != A:
        return
    try:
        store.write_anchor(A, journal.anchor(A, head, attention_at=head.state.attention_at))
    except (KmsError, ValueError):
        return


# --- the command


def command(room: Room, most: int) -> None:
    """The command over files of manifests that were changed."""
    box = lived_in(room.folder / "lived")
    files = list(_entries(box))
    asked = st.sampled_from(
        [("verify",), ("status",), ("history", "billing-key"), ("verify", "--json"), ("status", "--json"), ("plan",),
         ("verify", "--manifests", ".kms/manifests"), ("history", "billing-key", "--json"), ("rotate", "--dry-run")]
    )  # fmt: skip
    mangled = st.one_of(st.tuples(st.just("cut"), cuts), st.tuples(st.just("edited"), edits))

    def check(example: tuple[int, tuple[str, Any], tuple[str, ...]]) -> None:
        which, (kind, change), arguments = example
        file = files[which % len(files)]
        stored = file.read_bytes()
        file.write_bytes(_mangled(stored, kind, change))
        try:
            ended(box.run(*arguments))
        finally:
            file.write_bytes(stored)

    tried(room, "the command", st.tuples(_any_entry, mangled, asked), check, most=most, shrinks=False)
    result = box.run("verify")
    require(result.status == 0, f"what was put back does not verify: {result}")


def _entries(box: Sandbox) -> Iterator[Any]:
    for folder in sorted((box.home / "manifests").iterdir()):
        yield from sorted(folder.glob("*.json"))
