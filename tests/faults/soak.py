"""Keys that are rotated hundreds of times in a row, with faults as they come: what grows, and what wears out.

20,000 rotations in all. Of each key the whole manifest and every version are looked at by the independent checker in
between and at the end, and what readers get after each rotation.
"""

from collections.abc import Iterator
from functools import partial

from .lives import DEEDS, Land, Life, tick
from .script import FAULTS, Script
from .units import Room, Unit

ROTATIONS = 250
UNITS = {"local": 74, "aws": 2, "azure": 2, "gcp": 2}
"""250 rotations of one key each: 18,500, and three times 500."""
CALLS = 12  # of a rotation: after these a fault would miss it


def units(*, short: bool) -> list[Unit]:
    """By store; or one short life."""
    if short:
        return [Unit("soak", "local", "short", partial(soak, store="local", rotations=12))]
    return [
        Unit("soak", store, f"{number:02d}", partial(soak, store=store, rotations=ROTATIONS))
        for store, count in UNITS.items()
        for number in range(count)
    ]


def soak(room: Room, *, store: str, rotations: int) -> None:
    """One key, rotated so many times; one rotation in three meets a fault or two."""
    land = Land(store, room.folder, room)
    life = Life(land, DEEDS["create"])
    tick(life.left_alone(), life.key)
    for made, script in enumerate(_runs(room, life, rotations), 1):
        life.settle(script)
        if made % 50 == 0 or made == rotations:
            life.problems += land.checker.check(life.key, watched=life.watched, leftovers=True)
        room.case(faults=len(script.injected))
        if life.problems:
            room.violation(
                f"{life.key} on {store}, rotation {made}: {'; '.join(life.problems)}\n" + "\n".join(life.told)
            )
            break
        life.told.clear()
    history = life.left_alone().history(life.key)
    room.figure("entries of one key", len(history))
    room.figure("bytes of the last entry's state", len(str(history[-1].state)))
    land.close()


def _runs(room: Room, life: Life, rotations: int) -> Iterator[Script]:
    for _ in range(rotations):
        life.clock.move(days=91)
        count = room.chance.choice((0, 0, 1, 2))
        faults = {room.chance.randint(1, CALLS): room.chance.choice(FAULTS) for _ in range(count)}
        yield life.run(faults)
