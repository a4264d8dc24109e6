"""A run that dies before or after any single write to a cloud, inside the store's own steps too: one more run mends it.

`test_crash` dies between the steps of the protocol. Here a step itself is cut: a secret made but without its version,
a label added but the old one not yet taken, a version copied to its archive but still there; of several copies one
disabled, of two heads one taken away.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from daena_kms.errors import RefusedError
from daena_kms.fleet import Order
from daena_kms.model import State
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service
from daena_kms.stores import aws_layout
from tests.sharing import Some
from tests.support.aws_world import account, emptied
from tests.support.azure_scene import Scene
from tests.support.worlds import KEY, Backend, Clock, Effects, Mortal, World, dying

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
def test_a_death_at_every_write(name: str, monkeypatch: pytest.MonkeyPatch, some: Some) -> None:
    rotations, act = SCENARIOS[name]
    monkeypatch.setattr(aws_layout, "KEPT_VERSIONS", 3)
    writes = len(_run(_world(rotations), act, None).names)
    assert writes >= 4
    for die_at in some(range(1, writes + 1), 4):
        world = _world(rotations)
        _run(world, act, die_at)
        for _ in range(3):
            world.clock.move(minutes=61)
            _tick(world.service())
        world.check()


def test_enabling_cut_anywhere(some: Some) -> None:
    for die_at in some(range(1, 9), 3):
        world = _world(2)
        world.service().disable(KEY, 1)
        _run(world, lambda s: s.enable(KEY, 1), die_at)
        world.clock.move(minutes=61)
        _tick(world.service())
        world.check()


def test_destroying_cut_anywhere_is_carried_out_by_a_later_tick(some: Some) -> None:
    for die_at in some(range(1, 13), 4):
        world = _world(3)
        world.service().destroy(KEY, 1)
        world.clock.move(days=2)
        _run(world, _tick, die_at)
        for _ in range(2):
            world.clock.move(minutes=61)
            _tick(world.service())
        world.check()
        assert world.history().versions[1].state is State.DESTROYED


# --- Azure


class MortalVault:
    """A vault whose client dies at a chosen write: a put of a version, or a change of its tags or of its state."""

    def __init__(self, vault: Any, effects: Effects) -> None:
        self._vault = vault
        self._effects = effects

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._vault, name)
        return self._cut(name, value) if name in ("put", "patch") else value

    def _cut(self, name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._effects.before(name)
            reply = write(*arguments, **options)
            self._effects.after(name)
            return reply

        return call


def _aged(count: int) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        for _ in range(count):
            scene.rotate()
            scene.clock.move(days=90)

    return prepare


def _disabled(scene: Scene) -> None:
    scene.versions(3)
    scene.service().disable(KEY, 1)


def _scheduled(scene: Scene) -> None:
    scene.versions(4)
    scene.service().destroy(KEY, 1)
    scene.service().destroy(KEY, 2)
    scene.clock.move(days=2)


def _by_hand(scene: Scene) -> None:
    for value in ("older", "newer"):
        scene.put(value.ljust(32))


def _lost(scene: Scene) -> None:
    scene.versions(3)
    scene.put("by hand".ljust(32))
    scene.forget_manifest()


def _bare(scene: Scene) -> None:
    scene.versions(3)
    for version in scene.lying():
        scene.change(version.version, tags={})


def _republished(scene: Scene) -> None:
    """Version 1 was put again, so that there are two copies of it."""
    scene.versions(3)
    old = scene.lying()[0]
    scene.put(old.value, tags=old.tags, contentType=old.content_type)
    scene.apart()
    scene.clock.move(hours=1)
    scene.rotate()


AZURE: dict[str, tuple[Callable[[Scene], None], Act, int]] = {
    "create": (_aged(0), _tick, 1),
    "rotate": (_aged(1), _tick, 2),
    "rollback": (_aged(2), lambda s: s.rollback(KEY), 3),
    "disable": (_republished, lambda s: s.disable(KEY, 1), 3),
    "enable": (_disabled, lambda s: s.enable(KEY, 1), 3),
    "destroy": (_scheduled, _tick, 4),
    "adopt": (_by_hand, lambda s: s.adopt(KEY), 2),
    "adopt-after-the-manifest-was-lost": (_lost, lambda s: s.adopt(KEY), 4),
    "adopt-what-lost-its-tags": (_bare, lambda s: s.adopt(KEY), 3),
}


def _cut(scene: Scene, act: Act, die_at: int | None) -> Effects:
    effects = Effects(die_at)
    store = scene.account.store(lambda vault: MortalVault(vault, effects))
    store._ledger = scene.ledger.address
    with dying():
        act(scene.service(store=store, ledger=Mortal(scene.ledger, effects)))
    return effects


@pytest.mark.parametrize("name", AZURE)
def test_on_azure_a_death_at_every_write(name: str, some: Some) -> None:
    prepare, act, versions = AZURE[name]
    scene = Scene(POLICY)
    prepare(scene)
    scene.apart()
    restore = scene.save()
    held = scene.lying()
    writes = len(_cut(scene, act, None).names)
    assert writes >= 6
    for die_at in some(range(1, writes + 1), 6):
        restore()
        told = _cut(scene, act, die_at).names
        scene.clock.move(minutes=61)
        with suppress(RefusedError):  # it was carried out before
            act(scene.service())
        for _ in range(2):
            scene.clock.move(minutes=61)
            scene.rotate()
        scene.check()
        assert len(scene.states()) in (versions, versions + (name == "rollback")), told
        lying = {version.version: version.value for version in scene.lying()}
        assert {version.version: version.value for version in held}.items() <= lying.items(), told
        if name == "destroy":
            assert [scene.states()[number] for number in (1, 2)] == [State.DESTROYED] * 2, told
