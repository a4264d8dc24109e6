"""The checker sees what it looks for: each of its rules is broken once, by hand, in a world where all is well."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest

from daena_kms.policy import KeyPolicy
from tests.support.doubles import Container, Held, MemoryLedger, replace_version
from tests.support.worlds import BACKENDS, KEY, Clock, World, seeded

from . import seen
from .checker import Checker


@pytest.fixture
def world(clock: Clock, tmp_path: Path) -> World:
    """Three versions: 1 disabled, 2 decrypt-only, 3 active."""
    made = World(BACKENDS["memory-fenced"](tmp_path, clock, seeded()), clock, KeyPolicy(create=True))
    for _ in range(3):
        made.rotate()
        clock.move(days=90)
    made.service().disable(KEY, 1)
    return made


@pytest.fixture
def checker(world: World) -> Checker:
    made = Checker(seen.of_world(world))
    assert made.check(KEY) == []
    return made


def held(world: World) -> Container:
    store: Any = world.store
    return store.keys[KEY]  # type: ignore[no-any-return]


def change(world: World, which: int, **changes: object) -> None:
    """Of one version in the store."""
    container = held(world)
    container.held = [
        Held(replace_version(h.version, **changes), h.sealed, h.destroyed) if h.version.number == which else h
        for h in container.held
    ]


def lose(world: World) -> None:
    held(world).held = [h for h in held(world).held if h.version.number != 2]


def damage(world: World) -> None:
    container = held(world)
    container.held = [
        Held(h.version, h.sealed[:-1] + bytes([h.sealed[-1] ^ 1])) if h.version.number == 2 else h
        for h in container.held
    ]


def point_back(world: World) -> None:
    held(world).newest = next(h.version.version_id for h in held(world).held if h.version.number == 2)


def stage(world: World) -> None:
    stray = held(world).held[-1]
    version = replace_version(stray.version, version_id="stray", number=3, staged=True)
    held(world).held.append(Held(version, stray.sealed))


def add(world: World) -> None:
    stray = held(world).held[-1]
    version = replace_version(stray.version, version_id="stray", number=4)
    held(world).held.append(Held(version, stray.sealed[:-32] + b"a" * 32))


def forget(world: World) -> None:
    ledger: Any = world.ledger
    del ledger.objects[KEY, max(world.ledger.sequences(KEY))]


def rewrite(world: World) -> None:
    """The whole chain anew, sound in itself: only who has seen the old one can tell."""
    ledger: Any = world.ledger
    for place in [place for place in ledger.objects if place[0] == KEY]:
        del ledger.objects[place]
    held(world).anchor = None
    world.service().adopt(KEY)


def claim(world: World) -> None:
    calls = iter(range(10))

    def dies(append: Callable[..., None], *arguments: Any) -> None:
        if next(calls):
            raise RuntimeError("the process is gone")
        append(*arguments)

    class Dying(MemoryLedger):
        def __getattribute__(self, name: str) -> Any:
            real = getattr(world.ledger, name)
            return (lambda *arguments: dies(real, *arguments)) if name == "append" else real

    world.force(ledger=Dying())


BREAKS: dict[str, tuple[Callable[[World], object], str]] = {
    "a version is gone": (lose, "version 2, which is decrypt-only, cannot be read any more"),
    "a version is another": (damage, "version 2, which is decrypt-only, cannot be read any more"),
    "readers get an old one": (point_back, "readers get number [2], active is 3"),
    "a copy is left staged": (stage, "stray (3) is still staged"),
    "a version nobody announced": (add, "stray (4) lies in the store and no entry names it"),
    "a disabled one can be read": (lambda w: change(w, 1, enabled=True), "version 1, which is disabled, can be read"),
    "a number on another's material": (lambda w: change(w, 2, number=3), "lies in the store as 3, whose material"),
    "the end is cut off": (forget, "is not what it was"),
    "history is written anew": (rewrite, "entry 1 is not what it was"),
    "a claim is open": (claim, "a claim is open"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_seen(name: str, world: World, checker: Checker) -> None:
    act, told = BREAKS[name]
    act(world)
    assert told in "; ".join(checker.check(KEY))


def test_what_a_reader_was_given_is_held_against_what_was_ever_active(world: World, checker: Checker) -> None:
    assert checker.check(KEY, watched=checker.materials & set(_materials(world))) == []
    (problem,) = checker.check(KEY, watched=[b"x" * 32])
    assert problem.startswith("a reader was given unknown material")
    assert "x" * 32 not in problem


def test_material_in_a_manifest_is_seen(world: World, checker: Checker) -> None:
    material = _materials(world)[-1]
    world.service().pause(KEY, reason=f"the key is {material.hex()}")
    assert checker.check(KEY) == ["material is in the manifest"]


def test_an_entry_that_is_changed_is_seen(world: World, checker: Checker) -> None:
    ledger: Any = world.ledger
    entry = json.loads(ledger.objects[KEY, 2])
    ledger.objects[KEY, 2] = json.dumps(entry | {"reason": "another"}).encode()
    assert any("the manifest: " in problem for problem in checker.check(KEY))


def test_the_ledgers_own_key_is_pinned(world: World, checker: Checker) -> None:
    other = World(BACKENDS["memory-fenced"](Path(), world.clock, seeded(7)), world.clock, KeyPolicy(create=True))
    other.rotate()
    world.store, world.ledger = other.store, other.ledger
    moved = Checker(seen.of_world(world), checker._pinned)
    assert moved.check(KEY) == ["the ledger's own keys: not the pinned key"]


def _materials(world: World) -> list[bytes]:
    return [copy.material for copy in seen.of_world(world).key(KEY).copies if copy.material is not None]


def test_all_stores_show_the_same(world: World, backend: Any, clock: Clock) -> None:
    """What is read without the library is what the library says is there."""
    there = World(backend, clock, KeyPolicy(create=True))
    there.rotate()
    clock.move(days=90)
    there.rotate()
    shown = seen.of_world(there).key(KEY)
    fetched = [there.service().get(KEY, number, reveal=True).material for number in (1, 2)]
    expected = {material.reveal() for material in fetched if material is not None}
    assert {copy.material for copy in shown.copies if copy.material is not None} == expected
    assert shown.live == (fetched[1] and fetched[1].reveal()) == seen.of_world(there).live(KEY)
    assert shown.anchor[0] == 4
    assert Checker(seen.of_world(there)).check(KEY) == []
    assert msgspec.structs.asdict(there.history().versions[2])["number"] == 2
