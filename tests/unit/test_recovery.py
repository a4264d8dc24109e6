"""Restoring: what a backup says, what is known here, and what becomes of both. In memory, on both kinds of store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from msgspec.structs import replace

from daena_kms import app, recovery, trust
from daena_kms.errors import ConfigurationError, IntegrityError, NotFoundError, RefusedError
from daena_kms.holdings import Held, Holding
from daena_kms.keyring import Fingerprints
from daena_kms.model import Outcome, State, Status
from daena_kms.names import RESERVED_KEY
from tests.support import liars
from tests.support.gcp_scene import Scene
from tests.support.places import POLICY, held, service, tick, versions
from tests.support.worlds import KEY, Clock, Effects, World, memory_backend, seeded


@pytest.fixture(params=[True, False], ids=["fenced", "unfenced"])
def world(request: pytest.FixtureRequest, clock: Clock) -> World:
    """1 is destroyed, 2 and 3 decrypt-only, 4 active."""
    return lived(empty(clock, fenced=request.param))


def empty(clock: Clock, *, fenced: bool = True, seed: int = 0) -> World:
    return World(memory_backend(Path(), clock, seeded(seed), fenced=fenced), clock, POLICY)


def lived(world: World) -> World:
    world.service().create(KEY)
    for _ in range(3):
        world.service().rotate_now(KEY)
    world.service().destroy(KEY, 1)
    world.clock.move(days=2)
    tick(world)
    assert {v.number: v.state for v in versions(world).values()}[1] is State.DESTROYED
    return world


def lose(world: World) -> None:
    """Somebody deletes the key in its store; the manifest is elsewhere."""
    del world.store.keys[KEY]  # type: ignore[attr-defined]


def restore(world: World, holding: Holding, effects: Effects | None = None) -> Outcome:
    (outcome,) = recovery.restore(service(world, effects), [holding]).outcomes
    return outcome


def _twice(world: World, number: int) -> None:
    """So that it is none of the last two, which stay."""
    world.service().rotate_now(KEY)
    world.service().rotate_now(KEY)
    world.service().destroy(KEY, number)


def _destroyed(world: World, number: int) -> None:
    world.service().destroy(KEY, number)
    world.clock.move(days=2)
    tick(world)


class Meanwhile(NamedTuple):
    """What is done here once the backup is made, and what a version is after the restore."""

    act: Callable[[World], object]
    number: int
    expected: dict[str, Any]


MEANWHILE: dict[str, Meanwhile] = {
    "nothing": Meanwhile(lambda _: None, 4, {"state": State.ACTIVE, "compromised": False}),
    "a newer version, which is lost": Meanwhile(
        lambda w: w.service().rotate_now(KEY), 5, {"state": State.DESTROYED, "lost": True}
    ),
    "disabled stays disabled": Meanwhile(lambda w: w.service().disable(KEY, 3), 3, {"state": State.DISABLED}),
    "compromised stays so": Meanwhile(
        lambda w: w.service().compromised(KEY, 3), 3, {"state": State.DECRYPT_ONLY, "compromised": True}
    ),
    "what is to be destroyed is": Meanwhile(
        lambda w: w.service().destroy(KEY, 2),
        2,
        {"state": State.DECRYPT_ONLY, "destroy_at": Clock().now.replace(day=4)},
    ),
    "destroyed stays so": Meanwhile(
        lambda w: _destroyed(w, 2),
        2,
        {"state": State.DESTROYED, "lost": False},
    ),
    "one that would be active was to be destroyed": Meanwhile(
        lambda w: _twice(w, 4), 4, {"state": State.ACTIVE, "destroy_at": None}
    ),
}


@pytest.mark.parametrize("name", list(MEANWHILE))
def test_what_was_done_here_meanwhile_is_not_undone(name: str, world: World) -> None:
    holding = held(world)
    MEANWHILE[name].act(world)
    highest = max(versions(world))
    lose(world)
    assert restore(world, holding).status is Status.DONE
    record = versions(world)[MEANWHILE[name].number]
    assert {field: getattr(record, field) for field in MEANWHILE[name].expected} == MEANWHILE[name].expected
    assert 1 not in {record.number for record in world.history().entries[-1].changes}  # it is what it was
    world.check()
    assert world.service().rotate_now(KEY).number == highest + 1


def test_a_pause_outlasts_an_older_backup(world: World) -> None:
    holding = held(world)
    world.service().pause(KEY, "a freeze")
    lose(world)
    restore(world, holding)
    assert world.service().state(KEY).paused


def test_a_compromised_version_that_comes_back_as_active_is_rotated_by_the_next_tick(world: World) -> None:
    holding = held(world)
    world.service().compromised(KEY, 4)
    lose(world)
    restore(world, holding)
    assert versions(world)[4].compromised
    assert [outcome.status for outcome in tick(world).outcomes] == [Status.ROTATED]


def test_no_other_change_makes_ticks_forget_a_compromised_version(world: World) -> None:
    """The rotation that should have followed failed; then a person disables an older version."""
    world.service()._marks(KEY).compromised(KEY, 4, world.clock(), "")
    world.service().disable(KEY, 2)
    assert [outcome.status for outcome in tick(world).outcomes] == [Status.ROTATED]


# --- what no backup of ours says


def _each(change: Callable[[Held], Held]) -> Callable[[Holding], Holding]:
    return lambda holding: replace(holding, versions=tuple(change(each) for each in holding.versions))


def _recorded(which: int, **changes: Any) -> Callable[[Holding], Holding]:
    def change(each: Held) -> Held:
        return replace(each, record=replace(each.record, **changes)) if each.record.number == which else each

    return _each(change)


BAD: dict[str, tuple[Callable[[Holding], Holding], str]] = {
    "no active version": (_recorded(4, state=State.DECRYPT_ONLY), "has no active versions"),
    "two active ones": (_recorded(3, state=State.ACTIVE), "has 2 active versions"),
    "material is missing": (
        _each(lambda each: replace(each, material=None) if each.record.number == 4 else each),
        "its material is missing",
    ),
    "a number twice": (_recorded(3, number=4), "not numbered"),
    "no number": (_recorded(3, number=0), "not numbered"),
    "a number that was never given out": (lambda holding: replace(holding, highest=3), "not numbered"),
    "another length": (_recorded(3, spec="AES-128"), "is no AES-128"),
    "an unknown spec": (_recorded(3, spec="ROT-13"), "number 3"),
    "a name that is kept": (lambda holding: replace(holding, key="a--b"), "kept for our own"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_is_no_key_of_ours_is_refused_and_nothing_is_written(name: str, clock: Clock) -> None:
    change, why = BAD[name]
    holding = held(lived(empty(clock)))
    target = empty(clock, seed=1)
    outcome = restore(target, change(holding))
    assert outcome.status is Status.FAILED
    assert why in outcome.message
    assert not target.ledger.sequences(KEY)
    assert not target.store.observe(KEY).exists


def test_a_key_that_has_moved_on_is_not_restored_from_before(clock: Clock) -> None:
    """Neither from its own backup nor from the one it came from; from one that was made where it is now it is."""
    first, second, third = (empty(clock, seed=seed) for seed in range(3))
    earlier = held(lived(first))
    restore(second, earlier)
    own = held(second)
    recovery.migrate(second.service(), third.service(), [KEY])
    for holding in (earlier, own):
        outcome = restore(second, holding)
        assert outcome.status is Status.FAILED
        assert "has moved" in outcome.message
    third.service().rotate_now(KEY)
    assert restore(second, held(third)).status is Status.DONE
    second.check()


def test_on_gcp_a_place_belongs_to_what_was_put_there_last() -> None:
    """A secret that is made anew counts from 1: there the destroyed version lay before."""
    scene = Scene(POLICY)
    lived(scene)
    holding = held(scene)
    scene.delete()
    scene.restart()
    assert restore(scene, holding).status is Status.DONE
    assert scene.history().versions[2].version_id == scene.history().versions[1].version_id
    scene.restart()
    scene.service().disable(KEY, 2)
    scene.restart()
    scene.annotate(versions=None)  # marks are hints: without them the manifest alone knows
    assert scene.service().enable(KEY, 2).status is Status.DONE
    scene.check()


# --- the ledger's own keys


@pytest.mark.parametrize("lost", [{1, 2}, {1}, {2}], ids=str)
@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "unfenced"])
def test_the_keys_of_the_manifests_are_put_back_whichever_are_lost(
    lost: set[int], clock: Clock, *, fenced: bool
) -> None:
    world = lived(empty(clock, fenced=fenced))
    world.service().renew("test")
    world = Renewed(world)
    seen = world.store.observe(RESERVED_KEY)
    generations = [world.store.read(RESERVED_KEY, version) for version in seen.versions]
    container = world.store.keys[RESERVED_KEY]  # type: ignore[attr-defined]
    container.held = [each for each in container.held if each.version.number not in lost]
    if seen.newest is not None and seen.newest.number in lost:
        container.newest = next((each.version.version_id for each in container.held), "")
    for _ in range(2):
        trust.put_back(world.store, world.ledger, generations)
        assert trust.open_keyring(world.store, world.ledger).trust.generations[0].public_key
        assert not world.store.observe(RESERVED_KEY).staged
    bare = memory_backend(Path(), clock, seeded(2), fenced=fenced).store
    with pytest.raises(IntegrityError, match="does not hold the keys"):
        trust.put_back(bare, world.ledger, generations[:1])
    assert not bare.observe(RESERVED_KEY).exists


class Renewed(World):
    """A world as a process that starts after a renewal has it."""

    def __init__(self, world: World) -> None:
        self.store, self.ledger, self.clock, self.policy = world.store, world.ledger, world.clock, world.policy
        self.keyring = trust.open_keyring(self.store, self.ledger)


# --- settings of another store

SETTINGS: dict[str, tuple[str, str]] = {
    "nothing": ("", ".kms"),
    "plain": ("DAENA_HOME=/x", "/x"),
    "exported, with a comment": ("# the old one\nexport DAENA_HOME=/x # here\n", "/x"),
    "quoted": ("DAENA_HOME='/x y'\r\n", "/x y"),
    "the last of two": ("DAENA_HOME=/a\nDAENA_HOME=/x", "/x"),
    "others' names": ("PATH=/bin\nDAENA_HOME=/x\n", "/x"),
}
NO_SETTINGS = {
    "an open quote": 'DAENA_LOCAL_KEK="canary',
    "a word alone": "canary",
    "spaces around =": "DAENA_LOCAL_KEK = canary",
    "a secret with spaces": "AZURE_CLIENT_SECRET=canary canary",
    "a secret with spaces and =": "AZURE_CLIENT_SECRET=one canary-canary=",
    "a byte order mark": "\ufeffDAENA_LOCAL_KEK=canary",
    "a zero byte": "DAENA_HOME=canary\0",
    "no name": "=canary",
    "bytes": "\0\x01\x02canary",
    "an unknown setting": "DAENA_LOCAL_KEKS=canary",
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_settings_file_is_read_as_a_shell_would(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAENA_HOME", "/not-from-here")
    text, home = SETTINGS[name]
    assert str(app.other_settings(text).home) == home


@pytest.mark.parametrize("name", list(NO_SETTINGS))
def test_what_is_no_settings_file_is_refused_and_nothing_of_it_shown(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        app.other_settings(NO_SETTINGS[name])
    assert "canary" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


# --- the drill, and comparing: what they find


def test_a_drill_reads_back_what_came_and_believes_no_status(world: World, clock: Clock) -> None:
    holding = held(world)
    fresh = empty(clock, seed=1)
    (sound,) = recovery.drill(fresh.service(), [holding], world.keyring.fingerprints)
    assert sound.problems == ()
    (other,) = recovery.drill(empty(clock, seed=2).service(), [holding], Fingerprints({1: bytes(32)}))
    assert [problem.partition(":")[0] for problem in other.problems] == [
        f"version {number} is not what it was" for number in (2, 3, 4)
    ]
    fresh.service().disable(KEY, 2)
    (changed,) = recovery.drill(fresh.service(), [holding], world.keyring.fingerprints)
    assert changed.problems == ("version 2 came back as disabled, it is decrypt-only",)


def test_a_drill_of_what_cannot_be_restored_says_why(world: World, clock: Clock) -> None:
    holding = held(world)
    none = replace(holding, versions=tuple(v for v in holding.versions if v.record.state is not State.ACTIVE))
    (told,) = recovery.drill(empty(clock, seed=1).service(), [none], world.keyring.fingerprints)
    assert "no active version" in told.problems[0]


def test_a_version_that_the_other_place_should_have_and_has_not_is_a_problem(world: World) -> None:
    holding = held(world)
    less = replace(holding, versions=tuple(v for v in holding.versions if v.record.number != 3))
    (found,) = recovery.compare(world.service(), [less], "the backup")
    assert found.problems == ("version 3 is here, but not in the backup",)
    (same,) = recovery.compare(world.service(), [holding], "the backup")
    assert (same.problems, same.warnings) == ((), ())


def test_what_was_destroyed_here_since_is_a_warning(world: World) -> None:
    holding = held(world)
    _destroyed(world, 2)
    (found,) = recovery.compare(world.service(), [holding], "the backup")
    assert found.problems == ()
    assert found.warnings == ("version 2 is destroyed here, but its material is in the backup",)


def _refused(*_: object) -> NoReturn:
    raise RefusedError("the version is disabled")


def _gone(*_: object) -> NoReturn:
    raise NotFoundError("there is no such version")


@pytest.mark.parametrize("read", [liars.flipped_bit, _refused, _gone], ids=["damaged", "refused", "gone"])
def test_what_its_store_does_not_give_out_is_not_there(read: Callable[..., object], world: World, clock: Clock) -> None:
    """The manifest alone would say that nothing has to be done; and nothing that lies there is overwritten."""
    holding, fresh = held(world), empty(clock, seed=1)
    assert restore(fresh, holding).status is Status.DONE
    assert restore(fresh, holding).message == "all of it is there already"
    lying = fresh.service(store=liars.Faulty(fresh.store, "read", read))
    (outcome,) = recovery.restore(lying, [holding]).outcomes
    assert (outcome.status, outcome.message) == (Status.FAILED, f"there is a key {KEY} already")
