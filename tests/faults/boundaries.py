"""Every call of a run × everything that can go wrong with it, on every store: once, in pairs, and by chance.

In this process, at the calls to store and ledger. `once`: each fault at each call of each deed. `pairs`: a second fault
later in the same run, or in the run that comes after it; in full where the store is in memory, else a share. `chance`:
keys that live through deed after deed, each with up to three faults, on the memory of what came before.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from .lives import DEEDS, Deed, Land, Life, tick
from .script import FAULTS, Script, possible
from .units import Room, Unit

MEMORY = ("memory-fenced", "memory-unfenced")
STORES = (*MEMORY, "local", "aws", "azure", "gcp")
CASES_OF_A_LAND = 40
LIVES_OF_A_UNIT = {"memory-fenced": 500, "memory-unfenced": 500, "local": 150, "aws": 10, "azure": 10, "gcp": 15}
UNITS_BY_CHANCE = {"memory-fenced": 10, "memory-unfenced": 10, "local": 6, "aws": 6, "azure": 6, "gcp": 6}
DEEDS_OF_A_LIFE = 6
PAIRS_IN_FULL = ("create", "rotate")
SHARE = {"memory-fenced": 50, "memory-unfenced": 50, "local": 100, "aws": 500, "azure": 500, "gcp": 500}
"""Of the other pairs, one in so many."""
Point = tuple[int, str]
Chosen = TypeVar("Chosen")


def units(*, short: bool) -> list[Unit]:
    """All of them; or each deed on one store in turn, of its faults one in so many."""
    if short:
        turns = [(STORES[n % len(STORES)], name) for n, name in enumerate(DEEDS)]
        return [_unit("once", store, name, some=30 if store in MEMORY else 100) for store, name in turns]
    made = [_unit("once", store, name) for store in STORES for name in DEEDS]
    made += [_unit("pairs", store, name, some=_share(store, name)) for store in STORES for name in DEEDS]
    return made + [
        Unit("chance", _store(store), f"{_kind(store)}{number:02d}", partial(by_chance, store=store))
        for store in STORES
        for number in range(UNITS_BY_CHANCE[store])
    ]


def _share(store: str, deed: str) -> int:
    return 1 if store in MEMORY and deed in PAIRS_IN_FULL else SHARE[store]


def _unit(campaign: str, store: str, deed: str, some: int = 1) -> Unit:
    work = once if campaign == "once" else pairs
    name = _kind(store) + deed.replace(" ", "-")
    return Unit(campaign, _store(store), name, partial(work, store=store, deed=DEEDS[deed], some=some))


def _store(store: str) -> str:
    return store.partition("-")[0]


def _kind(store: str) -> str:
    return "".join(part + "-" for part in store.split("-")[1:])


class Lands:
    """A world for so many cases, then a new one: listings stay short."""

    def __init__(self, store: str, room: Room) -> None:
        self._store, self._room = store, room
        self._made = self._used = 0
        self._land: Land | None = None

    def __call__(self) -> Land:
        if self._land is None or self._used == CASES_OF_A_LAND:
            self.close()
            self._made, self._used = self._made + 1, 0
            self._land = Land(self._store, self._room.folder / f"{self._made:04d}", self._room)
        self._used += 1
        return self._land

    def close(self) -> None:
        """Leave the last one."""
        if self._land is not None:
            self._land.close()


def points(lands: Lands, deed: Deed) -> list[Point]:
    """Call and fault, for every call of the deed and everything that can go wrong with it."""
    whole = Life(lands(), deed).run({})
    return [(n, fault) for n, name in enumerate(whole.calls, 1) for fault in FAULTS if possible(fault, name)]


def once(room: Room, *, store: str, deed: Deed, some: int) -> None:
    """Each fault at each call; or one in so many, by chance."""
    lands = Lands(store, room)
    for point in _some(room, points(lands, deed), some):
        life = Life(lands(), deed)
        script = life.run(dict([point]))
        life.settle(script)
        _through(room, life, [script])
    lands.close()


def pairs(room: Room, *, store: str, deed: Deed, some: int) -> None:
    """Each fault at each call, and then each again: later in that run, or in the next one past the lease."""
    lands = Lands(store, room)
    every = points(lands, deed)
    for first, second in _some(room, [(a, b) for a in every for b in every], some):
        life = Life(lands(), deed)
        later = second[0] > first[0]
        scripts = [life.run(dict([first, second] if later else [first]))]
        if len(scripts[0].injected) < 2:
            life.clock.move(minutes=61)
            scripts.append(life.run(dict([second]), tick))
        life.settle(*scripts)
        _through(room, life, scripts)
    lands.close()


def _some(room: Room, every: Sequence[Chosen], some: int) -> Sequence[Chosen]:
    return every if some == 1 else room.chance.sample(every, max(1, len(every) // some))


def by_chance(room: Room, *, store: str) -> None:
    """Keys that live through deeds and faults as they come."""
    lands = Lands(store, room)
    for _ in range(LIVES_OF_A_UNIT[store]):
        life = Life(lands(), DEEDS["create"])
        scripts: list[Script] = []
        for _ in range(DEEDS_OF_A_LIFE):
            name = room.chance.choice(list(DEEDS))
            life.deed = life.deed._replace(again=False)
            life.clock.move(hours=room.chance.choice((1, 30, 24 * 91)))
            count = room.chance.choice((0, 1, 1, 2, 3))
            faults = {room.chance.randint(1, 24): room.chance.choice(FAULTS) for _ in range(count)}
            scripts.append(life.run(faults, DEEDS[name].act))
        life.settle(*scripts)
        _through(room, life, scripts, asked_again=False)
    lands.close()


def _through(room: Room, life: Life, scripts: list[Script], *, asked_again: bool = True) -> None:
    """The case is over: look at it, and count."""
    problems = life.check(asked_again=asked_again)
    room.case(faults=sum(len(script.injected) for script in scripts))
    if problems:
        room.violation(f"{life.key} on {life.land.backend}: {'; '.join(problems)}\n" + "\n".join(life.told))
