"""A run that dies before or after any single write to AWS, inside the store's own steps too: one more run mends it.

`test_crash` dies between the steps of the protocol. Here a step itself is cut: a secret made but without its version,
a label added but the old one not yet taken, a version copied to its archive but still there.
"""

from collections.abc import Callable
from typing import Any

import pytest

from daena_kms.fleet import Order
from daena_kms.model import State
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service
from daena_kms.stores import aws_layout
from tests.support.aws_world import account, emptied
from tests.support.worlds import KEY, Backend, Clock, Effects, World, dying

WRITES = ("create_secret", "put_secret_value", "update_secret_version_stage", "tag_resource", "put_object")
POLICY = KeyPolicy(create=True, grace_days=0, destroy_after_days=1)
Act = Callable[[Service], object]


class MortalClient:
    """A client whose process dies at a chosen write."""

    def __init__(self, client: Any, effects: Effects) -> None:
        self._client = client
        self._effects = effects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def call(self, operation: str, subject: str, **parameters: object) -> Any:
        if operation not in WRITES:
            return self._client.call(operation, subject, **parameters)
        self._effects.before(operation)
        reply = self._client.call(operation, subject, **parameters)
        self._effects.after(operation)
        return reply


def _world(rotations: int) -> World:
    made, clock = emptied(), Clock()
    world = World(Backend(made.store(), made.ledger()), clock, POLICY)
    for _ in range(rotations):
        world.rotate()
        clock.move(days=90)
    return world


def _run(world: World, act: Act, die_at: int | None) -> Effects:
    effects = Effects(die_at)

    def wrap(client: Any) -> MortalClient:
        return MortalClient(client, effects)

    with dying():
        act(world.service(store=account().store(wrap), ledger=account().ledger(wrap)))
    return effects


def _tick(service: Service) -> object:
    return service.rotate(Order())


SCENARIOS: dict[str, tuple[int, Act]] = {
    "create": (0, _tick),
    "rotate": (1, _tick),
    "rollback": (2, lambda s: s.rollback(KEY)),
    "disable": (2, lambda s: s.disable(KEY, 1)),
    "destroy": (3, lambda s: s.destroy(KEY, 1)),
    "rotate-and-archive": (3, _tick),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_death_at_every_write(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rotations, act = SCENARIOS[name]
    monkeypatch.setattr(aws_layout, "KEPT_VERSIONS", 3)
    writes = len(_run(_world(rotations), act, None).names)
    assert writes >= 4
    for die_at in range(1, writes + 1):
        world = _world(rotations)
        _run(world, act, die_at)
        for _ in range(3):
            world.clock.move(minutes=61)
            _tick(world.service())
        world.check()


def test_enabling_cut_anywhere() -> None:
    for die_at in range(1, 9):
        world = _world(2)
        world.service().disable(KEY, 1)
        _run(world, lambda s: s.enable(KEY, 1), die_at)
        world.clock.move(minutes=61)
        _tick(world.service())
        world.check()


def test_destroying_cut_anywhere_is_carried_out_by_a_later_tick() -> None:
    for die_at in range(1, 13):
        world = _world(3)
        world.service().destroy(KEY, 1)
        world.clock.move(days=2)
        _run(world, _tick, die_at)
        for _ in range(2):
            world.clock.move(minutes=61)
            _tick(world.service())
        world.check()
        assert world.history().versions[1].state is State.DESTROYED
