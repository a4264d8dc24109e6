"""Two worlds under one clock, for keys that go from one to the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daena_kms.fleet import Order, Report
from daena_kms.holdings import Holding, at_rest
from daena_kms.material import KeyMaterial
from daena_kms.model import State, VersionRecord
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service

from .worlds import BACKENDS, KEY, Clock, Effects, Mortal, World, seeded

POLICY = KeyPolicy(grace_days=0, destroy_after_days=1)  # not `create`: where a key is to come, no tick makes another


def place(name: str, folder: Path, clock: Clock, seed: int = 0) -> World:
    """A world on that store, with a folder of its own for what is local."""
    folder = folder / f"{name}-{seed}"
    folder.mkdir()
    return World(BACKENDS[name](folder, clock, seeded(seed)), clock, POLICY)


@contextmanager
def closing(*worlds: World) -> Iterator[None]:
    """What a process leaves to its end."""
    try:
        yield
    finally:
        for world in worlds:
            getattr(world.store, "close", lambda: None)()


def lived_in(world: World) -> World:
    """KEY as it may be after a year: 1 is destroyed, 2 disabled, 3 compromised, 4 decrypt-only, 5 active."""
    world.service().create(KEY)
    for _ in range(4):
        world.clock.move(days=90)
        world.rotate()
    service = world.service()
    service.destroy(KEY, 1)
    world.clock.move(days=2)
    world.rotate()
    service.disable(KEY, 2)
    service.compromised(KEY, 3)
    return world


def service(world: World, effects: Effects | None = None) -> Service:
    """A process that works there, and dies where its effects say."""
    if effects is None:
        return world.service()
    return world.service(store=Mortal(world.store, effects), ledger=Mortal(world.ledger, effects))


def held(world: World) -> Holding:
    """What the world has of KEY."""
    made = world.service()
    return at_rest(made.tools.store, made.journal, KEY)


def materials(world: World) -> dict[int, KeyMaterial]:
    """Every version that can be read, by number."""
    made = world.service()
    readable = [v for v in versions(world).values() if v.state in (State.ACTIVE, State.DECRYPT_ONLY)]
    found = {v.number: made.get(KEY, v.number, reveal=True).material for v in readable}
    return {number: material for number, material in found.items() if material is not None}


def versions(world: World) -> dict[int, VersionRecord]:
    """Every version that the manifest names, by number; none if there is no manifest."""
    return world.history().versions if world.ledger.sequences(KEY) else {}


def facts(world: World) -> dict[int, Any]:
    """What must be the same of each version wherever it lies."""
    return {
        v.number: (v.state, v.spec, v.made_at, v.active_since, v.deactivated_at, v.compromised, v.lost, v.source)
        for v in versions(world).values()
    }


def tick(world: World) -> Report:
    """The scheduler's tick there."""
    return world.service().rotate(Order())
