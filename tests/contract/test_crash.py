"""A run that dies at every side effect, and at every pair of them: one more run, and everything is in order."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from daena_kms.fleet import Order
from daena_kms.material import KeyMaterial
from daena_kms.model import State, Status
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service
from tests.sharing import Some, one_in
from tests.support.worlds import BACKENDS, KEY, Clock, Effects, Mortal, World, dying, seeded

POLICY = KeyPolicy(create=True, grace_days=0, destroy_after_days=1)


class Scenario(NamedTuple):
    """Something to do to a key, what must be there before, and how many versions there must be after."""

    prepare: Callable[[World], object]
    act: Callable[[Service], object]
    versions: int
    policy: KeyPolicy = POLICY


def _nothing(_: World) -> None:
    pass


def _old_key(world: World) -> None:
    world.rotate()
    world.clock.move(days=90)


def _two_versions(world: World) -> None:
    _old_key(world)
    world.rotate()


def _three_versions(world: World) -> None:
    _two_versions(world)
    world.clock.move(days=90)
    world.rotate()


def _scheduled(world: World) -> None:
    _three_versions(world)
    world.service().destroy(KEY, 1)
    world.clock.move(days=2)


def _tick(service: Service) -> object:
    report = service.rotate(Order())
    assert not report.failed, report.outcomes
    return report


def _force(service: Service) -> object:
    return service.rotate(Order((KEY,), force=True, request="ticket-7"))


SCENARIOS = {
    "create": Scenario(_nothing, _tick, 1),
    "rotate": Scenario(_old_key, _tick, 2),
    "rotate-and-retire": Scenario(
        _two_versions, _force, 3, KeyPolicy(create=True, grace_days=0, keep_versions=1, destroy_after_days=1)
    ),
    "force": Scenario(_old_key, _force, 2),
    "rollback": Scenario(_two_versions, lambda s: s.rollback(KEY), 3),
    "disable": Scenario(_two_versions, lambda s: s.disable(KEY, 1), 2),
    "destroy": Scenario(_scheduled, _tick, 3),
    "compromised": Scenario(_old_key, lambda s: s.compromised(KEY, 1), 2),
}


def _world(backend: str, folder: Path, scenario: Scenario) -> World:
    clock = Clock()
    world = World(BACKENDS[backend](folder, clock, seeded()), clock, scenario.policy)
    scenario.prepare(world)
    return world


def _run(world: World, act: Callable[[Service], object], die_at: int | None) -> Effects:
    """One run as a process of its own, which dies at a boundary."""
    effects = Effects(die_at)
    service = world.service(store=Mortal(world.store, effects), ledger=Mortal(world.ledger, effects))
    with dying():
        act(service)
    return effects


def _settle(world: World, scenario: Scenario) -> None:
    """After the lease, the same is asked again; then a tick finds nothing left to do."""
    world.clock.move(minutes=61)
    if not _done(world, scenario):
        _run(world, scenario.act, None)
    world.clock.move(minutes=61)
    _tick(world.service())


def _done(world: World, scenario: Scenario) -> bool:
    """True if the dead run had come so far that asking again would be asking for more."""
    if not world.ledger.sequences(KEY):
        return False
    history = world.history()
    last = history.entries[-1]
    ended = last.state.claim is None and last.event in (
        "rolled-back", "disabled", "destroyed", "compromised", "promoted"
    )  # fmt: skip
    return ended and len(history.versions) == scenario.versions and scenario is not SCENARIOS["destroy"]


def _check(world: World, scenario: Scenario) -> None:
    world.check()
    assert len(world.history().versions) == scenario.versions
    assert world.rotate().status is Status.NOT_DUE


def _boundaries(backend: str, folder: Path, scenario: Scenario) -> list[str]:
    return _run(_world(backend, folder, scenario), scenario.act, None).names


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_death_at_every_side_effect(backend: str, name: str, tmp_path: Path, some: Some) -> None:
    scenario = SCENARIOS[name]
    boundaries = _boundaries(backend, tmp_path / "whole", scenario)
    assert len(boundaries) >= 8, boundaries
    for die_at in some(range(1, len(boundaries) + 1), one_in(backend, memory=1, slow=8)):
        world = _world(backend, tmp_path / str(die_at), scenario)
        _run(world, scenario.act, die_at)
        _settle(world, scenario)
        _check(world, scenario)


@pytest.mark.parametrize("name", ["create", "rotate", "rollback"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_deaths_in_a_row_at_every_pair_of_side_effects(backend: str, name: str, tmp_path: Path, some: Some) -> None:
    scenario = SCENARIOS[name]
    first_boundaries = len(_boundaries(backend, tmp_path / "whole", scenario))
    pairs = 0
    for first in some(range(1, first_boundaries + 1), one_in(backend, memory=1, slow=8)):
        for second in some(itertools.count(1), one_in(backend, memory=3, slow=6)):
            world = _world(backend, tmp_path / f"{first}-{second}", scenario)
            _run(world, scenario.act, first)
            world.clock.move(minutes=61)
            if _done(world, scenario):
                break
            effects = _run(world, scenario.act, second)
            if len(effects.names) < second:
                break
            pairs += 1
            _settle(world, scenario)
            _check(world, scenario)
    assert pairs > first_boundaries // some.step(one_in(backend, memory=3, slow=8 * 6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dead_import_can_be_asked_again(backend: str, tmp_path: Path, some: Some) -> None:
    material = KeyMaterial(b"m" * 32)
    whole = Scenario(_nothing, lambda s: s.import_key(KEY, material, created=None), 1)
    boundaries = len(_boundaries(backend, tmp_path / "whole", whole))
    assert boundaries >= 8
    for die_at in some(range(1, boundaries + 1), one_in(backend, memory=1, slow=8)):
        world = _world(backend, tmp_path / str(die_at), whole)
        _run(world, whole.act, die_at)
        world.clock.move(minutes=61)
        if not _has_active(world):
            assert world.service().import_key(KEY, material, created=None).status is Status.DONE
        world.clock.move(minutes=61)
        world.rotate()
        world.check()
        active = world.history().entries[-1].state.active
        assert active is not None
        assert active.state is State.ACTIVE
        assert world.service().get(KEY, reveal=True).material == material


def test_a_dead_import_keeps_no_rotation_waiting(world: World) -> None:
    _old_key(world)
    whole = Effects(die_at=4)
    service = world.service(store=Mortal(world.store, whole), ledger=Mortal(world.ledger, whole))
    with dying():
        service.bring(KEY, KeyMaterial(b"m" * 32))
    assert whole.names[-1] == "after append"
    world.clock.move(minutes=61)
    outcome = world.rotate()
    assert outcome.status is Status.ROTATED
    assert any("import it again" in note for note in outcome.notes)
    world.check()


def _has_active(world: World) -> bool:
    return bool(world.ledger.sequences(KEY)) and world.history().entries[-1].state.active is not None
