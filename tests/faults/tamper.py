"""What an attacker changes at rest, in a ledger or in a store: nothing of it may pass for what it is not.

Each tampering is one fault and one case: it is done, `verify` and a verifier of its own are asked, ticks run over it,
it is undone, and all must be well. What a rotation does not look at (an old entry in the middle of a chain) it goes on
over: which kinds that are, and what holders of a signing key can do, is told as figures.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.support.manifest_reader import RESERVED
from tests.support.worlds import KEY

from .tamper_chains import (
    Case,
    Chain,
    flips,
    forged,
    junk,
    replays,
    signatures,
    spelling,
    structure,
)
from .tamper_judge import Judge
from .tamper_real import real
from .tamper_scene import OTHER, YOUNG, House, lived, plain
from .tamper_stores import rollbacks, stores
from .units import Room, Unit

CAMPAIGN = "tamper"
MEMORY = ("memory-fenced", "memory-unfenced")
SERVED = ("aws", "azure", "gcp")
Make = Callable[[str, Path], House]
Cases = Callable[[House, random.Random], Iterator[Case]]
WHOLLY = 12  # of so many flipped bits one is gone on from: that takes ten times as long as to verify


def _each(make: Callable[[Chain, random.Random], Iterator[Case]], *keys: str) -> Cases:
    def cases(house: House, chance: random.Random) -> Iterator[Case]:
        for key in keys:
            yield from make(Chain(house, key), chance)

    return cases


def _flips(*keys: str, every_bit: bool, part: int = 0, parts: int = 1) -> Cases:
    return _each(partial(flips, every_bit=every_bit, part=part, parts=parts), *keys)


def _with(make: Callable[[House, Chain, random.Random], Iterator[Case]], *keys: str) -> Cases:
    def cases(house: House, chance: random.Random) -> Iterator[Case]:
        for key in keys:
            yield from make(house, Chain(house, key), chance)

    return cases


def _ledger(name: str, make: Make, cases: Cases, wholly: int, room: Room) -> None:
    """Tampering with the objects of a ledger; of so many one is gone on from with ticks."""
    judge = Judge(make(name, room.folder), room)
    for index, case in enumerate(cases(judge.house, room.chance)):
        judge.ledger(case, wholly=index % wholly == 0)
    judge.report()


def _unit(store: str, name: str, make: Make, cases: Cases, wholly: int = 1) -> Unit:
    return _named(store, name, partial(_ledger, store, make, cases, wholly))


def _named(store: str, name: str, work: Callable[[Room], None]) -> Unit:
    kind, _, which = store.partition("-")
    return Unit(CAMPAIGN, kind, f"{which}.{name}" if which else name, work)


def units(*, short: bool) -> list[Unit]:
    """The campaign."""
    return list(_short() if short else _full())


def _some(cases: Cases, step: int) -> Cases:
    """One in so many, at random."""
    return lambda house, chance: itertools.islice(cases(house, chance), chance.randrange(step), None, step)


def _short() -> Iterator[Unit]:
    every = (KEY, YOUNG, RESERVED)
    yield _unit("memory-fenced", "flips", plain, _flips(KEY, RESERVED, every_bit=False, parts=80), WHOLLY)
    yield _unit("memory-unfenced", "structure", plain, _some(_each(structure, *every), 5))
    yield _unit("memory-fenced", "spelling", plain, _some(_each(spelling, *every), 20))
    yield _unit("memory-unfenced", "signatures", plain, _some(_with(signatures, *every), 6))
    yield _stores("memory-unfenced", 6, 0, 20)
    yield _stores("local", 3, 0, 60)


PARTS = {"every bit": 8, "every byte": 4, "reserved": 3, "renewed": 2, "long": 6}


def _full() -> Iterator[Unit]:
    yield from _bits()
    yield from _kinds()
    for store in (*MEMORY, "local", *SERVED):
        parts, most = (8, 8) if store in SERVED else (3, 1_000)
        for part in range(parts):
            yield _stores(store, most, part, parts)
        yield _named(store, "rollbacks", partial(rollbacks, store))
    for store in ("local", *SERVED):
        yield _named(store, "real objects", partial(real, store, 120 if store == "local" else 30))


def _bits() -> Iterator[Unit]:
    """Every bit of a chain and of the ledger's own; every byte of those of all keys; of a long chain each seventh."""
    for part in range(PARTS["every bit"]):
        cases = _flips(KEY, every_bit=True, part=part, parts=PARTS["every bit"])
        yield _unit("memory-fenced", f"every bit {part}", plain, cases, 10 * WHOLLY)
    for part in range(PARTS["every byte"]):
        cases = _flips(KEY, OTHER, YOUNG, every_bit=False, part=part, parts=PARTS["every byte"])
        yield _unit("memory-unfenced", f"every byte {part}", plain, cases, WHOLLY)
    for part in range(PARTS["reserved"]):
        cases = _flips(RESERVED, every_bit=True, part=part, parts=PARTS["reserved"])
        yield _unit("memory-fenced", f"every bit of the ledger's own chain {part}", plain, cases, 10 * WHOLLY)
    for part in range(PARTS["renewed"]):
        cases = _flips(RESERVED, every_bit=False, part=part, parts=PARTS["renewed"])
        yield _unit("memory-unfenced", f"a ledger that was renewed twice {part}", lived, cases, 10 * WHOLLY)
    for part in range(PARTS["long"]):
        cases = _flips(KEY, every_bit=False, part=7 * part, parts=7 * PARTS["long"])
        yield _unit("memory-fenced", f"a long chain {part}", lived, cases, 10 * WHOLLY)


def _kinds() -> Iterator[Unit]:
    every = (KEY, YOUNG, RESERVED)
    kinds: dict[str, Cases] = {
        "structure": _each(structure, *every),
        "junk": _each(junk, *every),
        "spelling": _each(spelling, *every),
        "replays": _with(replays, *every),
        "signatures": _with(signatures, *every),
        "forged": _with(forged, KEY, YOUNG),
    }
    for name, cases in kinds.items():
        for store in MEMORY:
            yield _unit(store, name, plain, cases, 6)
        yield _unit("memory-fenced", f"{name} of a long chain", lived, cases, 12)
    for store in ("local", *SERVED):
        for name in ("structure", "signatures", "junk"):
            yield _unit(store, name, plain, _some(kinds[name], 4))


def _stores(store: str, most: int, part: int, parts: int) -> Unit:
    return _named(store, f"store {part}", partial(stores, store, most, part, parts))
