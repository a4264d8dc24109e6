"""What can be done to a store at rest: values swapped, bits flipped, labels and tags moved, heads replayed."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from daena_kms.model import Anchor
from tests.support.manifest_reader import RESERVED
from tests.support.worlds import KEY

from .tamper_chains import HOLDER, Case, Chain
from .tamper_hands import Cell
from .tamper_judge import Judge
from .tamper_scene import KEYS, House, lived, plain
from .units import Room


class Deed(NamedTuple):
    """One tampering with a store. `undo` is None where only putting back the whole store undoes it."""

    kind: str
    name: str
    keys: tuple[str, ...]
    """Those that it is about: ticks are of these. None for all."""
    do: Callable[[], object]
    undo: Callable[[], object] | None


# --- values


def _written(kind: str, name: str, values: dict[int, bytes], cells: list[Cell]) -> Deed:
    """Other values in some cells."""
    before = {index: cells[index].read() for index in values}

    def write(data: dict[int, bytes]) -> None:
        for index, value in data.items():
            cells[index].write(value)

    keys = tuple({cells[index].key for index in values} - {RESERVED})
    return Deed(kind, name, keys, lambda: write(values), lambda: write(before))


def swaps(judge: Judge) -> Iterator[Deed]:
    """Each two values of all keys swapped; each in the other's place."""
    cells = [cell for key in (*KEYS, RESERVED) for cell in judge.hands.cells(key)]
    data = [cell.read() for cell in cells]
    for one, other in itertools.combinations(range(len(cells)), 2):
        if data[one] == data[other]:
            continue
        a, b = cells[one], cells[other]
        kind = "of one key" if a.key == b.key else "of two keys"
        name = f"{a.key} {a.name} and {b.key} {b.name}"
        yield _written(f"values {kind} swapped", name, {one: data[other], other: data[one]}, cells)
        yield _written(f"a value {kind} put over another", name, {other: data[one]}, cells)
        yield _written(f"a value {kind} put over another", name, {one: data[other]}, cells)


def flips(judge: Judge, chance: random.Random) -> Iterator[Deed]:
    """One bit of each byte of each value."""
    cells = [cell for key in (*KEYS, RESERVED) for cell in judge.hands.cells(key)]
    for index, cell in enumerate(cells):
        data = cell.read()
        for place in range(len(data)):
            flipped = bytearray(data)
            flipped[place] ^= 1 << chance.randrange(7)
            name = f"byte {place} of {cell.key} {cell.name}"
            yield _written("a flipped bit of a value", name, {index: bytes(flipped)}, cells)
        for length in (0, 1, len(data) // 2, len(data) - 1):
            if data[:length] != data:
                name = f"{cell.key} {cell.name} to {length}"
                yield _written("a value cut short", name, {index: data[:length]}, cells)


# --- marks


def marks(judge: Judge) -> Iterator[Deed]:
    """Labels, tags, annotations, columns; and all that two keys are, exchanged."""
    for key in KEYS:
        for name, do in judge.hands.marks(key):
            yield Deed("marks", f"{key}: {name}", (key,), do, None)
    for one, other in itertools.combinations(KEYS, 2):

        def exchange(one: str = one, other: str = other) -> None:
            judge.hands.exchange(one, other)

        # Exchanged once more, what runs have written meanwhile would change places too.
        yield Deed("two keys exchanged", f"{one} and {other}", (one, other), exchange, None)


# --- heads


def anchors(judge: Judge) -> Iterator[Deed]:
    """Heads of other keys, older heads, and heads that were changed."""
    house = judge.house
    for key in (*KEYS, RESERVED):
        right = house.store.observe(key).anchor
        assert right is not None
        for kind, name, anchor in _heads(house, key, right, judge.room.chance):

            def write(anchor: Anchor = anchor, key: str = key) -> None:
                house.forget()
                house.store.write_anchor(key, anchor)

            def back(anchor: Anchor = right, key: str = key) -> None:
                house.forget()
                house.store.write_anchor(key, anchor)

            if anchor != right:
                yield Deed(kind, f"{key}: {name}", () if key == RESERVED else (key,), write, back)


def _heads(house: House, key: str, right: Anchor, chance: random.Random) -> Iterator[tuple[str, str, Anchor]]:
    for other in (*KEYS, RESERVED):
        theirs = house.store.observe(other).anchor
        if other != key and theirs is not None:
            yield "another key's head", other, theirs
    for sequence, old in house.anchors.get(key, {}).items():
        yield "an older head", str(sequence), old
    for place in chance.sample(range(len(right.mac)), 8):
        mac = right.mac[:place] + f"{int(right.mac[place], 16) ^ 1:x}" + right.mac[place + 1 :]
        yield "a head with another MAC", f"digit {place}", replace(right, mac=mac)
    yield "a head with another MAC", "none", replace(right, mac="")
    yield "a head with another MAC", "no ASCII", replace(right, mac="ü" * 64)
    now = house.clock.now
    for changes in (
        {"sequence": right.sequence + 1}, {"sequence": right.sequence - 1}, {"sequence": 0}, {"sequence": 10**9},
        {"hash": "0" * 64}, {"hash": ""}, {"number": right.number + 1}, {"number": 0}, {"active_since": now},
        {"active_since": None}, {"attention_at": now}, {"paused": True}, {"moved": True},
    ):  # fmt: skip
        yield "a head that was changed", str(changes), replace(right, **changes)


# --- units


def stores(name: str, most: int, part: int, parts: int, room: Room) -> None:
    """Tampering with a store: of flipped bits so many at most, of all else one part of so many."""
    judge = Judge(plain(name, room.folder), room)
    every = [*swaps(judge), *marks(judge), *anchors(judge)]
    bits = list(flips(judge, room.chance))
    room.chance.shuffle(bits)
    for deed in (*every[part::parts], *bits[part::parts][:most]):
        judge.store(deed)
    judge.report()


def rollbacks(name: str, room: Room) -> None:
    """The ledger and the head beside the key as they were once: whoever may write to both can have that."""
    judge = Judge(lived(name, room.folder), room)
    chain = Chain(judge.house, KEY)
    for sequence, anchor in judge.house.anchors[KEY].items():
        if sequence == chain.last:
            continue
        gone = {(KEY, n): None for n in range(sequence + 1, chain.last + 1)}

        def replay(anchor: Anchor = anchor) -> None:
            judge.house.forget()
            judge.house.store.write_anchor(KEY, anchor)

        cut = Case(f"{HOLDER} cut off with the head beside the key", f"after {sequence}", KEY, gone)
        judge.ledger(cut, besides=replay)
        judge.ledger(
            chain.case("the end cut off", f"after {sequence}", {n: None for _, n in gone}, sequence, chain.last)
        )
    judge.report()
