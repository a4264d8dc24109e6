"""What could go wrong when a key goes elsewhere: sleepers, two runs at once, errors, stores that are taken for others.

In memory both kinds of store are tried at every boundary; what is served behind a socket is in `test_recovery`.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daena_kms import holdings, manifest, recovery
from daena_kms.errors import (
    ConflictError,
    DeniedError,
    IntegrityError,
    KmsError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from daena_kms.manifest import Draft, Event
from daena_kms.model import Operation, Outcome, State, Status
from tests.sharing import Some
from tests.support import liars
from tests.support.places import POLICY, facts, held, materials, service, tick
from tests.support.worlds import KEY, Clock, Effects, World, dying, memory_backend, seeded

FENCED = [True, False]


def two(clock: Clock, *, fenced: bool) -> tuple[World, World]:
    """Where a key is, and where it is to go. Their ledgers have one address, as those of two machines do."""
    source, target = (place(clock, seed, fenced=fenced) for seed in (0, 1))
    return lived(source), target


def place(clock: Clock, seed: int, *, fenced: bool) -> World:
    return World(memory_backend(Path(), clock, seeded(seed), fenced=fenced), clock, POLICY)


def lived(world: World) -> World:
    """1 is disabled, 2 decrypt-only, 3 active."""
    world.service().create(KEY)
    for _ in range(2):
        world.clock.move(days=90)
        world.rotate()
    world.service().disable(KEY, 1)
    return world


def migrate(source: World, target: World, effects: Effects | None = None, **how: Any) -> Outcome:
    (outcome,) = recovery.migrate(service(source, effects), service(target, effects), [KEY], **how).outcomes
    return outcome


def rotates(world: World) -> bool:
    """True if ticks there make new versions once the key is old enough."""
    if not world.ledger.sequences(KEY):
        return False
    state = world.service().state(KEY)
    return state.active is not None and not state.moved and (state.claim is None or not state.claim.operation.carries)


def tried(act: Callable[[], object]) -> object:
    """What came of it, an error of ours too."""
    try:
        return act()
    except KmsError as problem:
        return problem


def cancel(source: World, target: World) -> Outcome:
    """The migration is called off; what came of that."""
    (outcome,) = recovery.cancel(source.service(), target.service(), [KEY]).outcomes
    return outcome


# --- sleepers

Other = Callable[[World, World], object]


def _back(source: World, target: World) -> None:
    migrate(source, target)
    migrate(target, source)


OTHERS: dict[str, Other] = {
    "the same": migrate,
    "ticks": lambda source, target: (tick(source), tick(target)),
    "forced there": lambda _, target: target.service().rotate_now(KEY),
    "forced here": lambda source, _: source.service().rotate_now(KEY),
    "there and rotated": lambda source, target: (migrate(source, target), target.service().rotate_now(KEY)),
    "there and back": _back,
    "cancelled": cancel,
}


@pytest.mark.parametrize("fenced", FENCED)
@pytest.mark.parametrize("minutes", [0, 16], ids=["within its lease", "past its lease"])
@pytest.mark.parametrize("other", list(OTHERS))
def test_a_migration_that_sleeps_while_others_act_leaves_one_that_rotates(
    other: str, minutes: int, some: Some, *, fenced: bool
) -> None:
    for sleep_at in some(itertools.count(1), 12):
        clock = Clock()
        source, target = two(clock, fenced=fenced)
        before, secrets = facts(source), materials(source)

        def meanwhile(source: World = source, target: World = target, clock: Clock = clock) -> None:
            clock.move(minutes=minutes)
            tried(lambda: OTHERS[other](source, target))

        effects = Effects(sleep_at=sleep_at, meanwhile=meanwhile)
        tried(lambda source=source, target=target, effects=effects: migrate(source, target, effects))  # type: ignore[misc]
        if len(effects.names) < sleep_at:
            assert sleep_at > 20
            return
        where = (effects.names[sleep_at - 1], sleep_at)
        clock.move(minutes=61)
        for world in (source, target, source, target):
            tick(world)
        assert not (rotates(source) and rotates(target)), where  # nobody has to run it again for that
        _settle(source, target)
        assert [rotates(source), rotates(target)].count(True) == 1, where
        _check_both(source, target, before, secrets, where)


def _settle(source: World, target: World) -> None:
    """What was left open is asked for again."""
    for _ in range(2):
        for here, there in ((source, target), (target, source)):
            open_claim = here.service().state(KEY).claim if here.ledger.sequences(KEY) else None
            if open_claim is not None and open_claim.operation is Operation.MIGRATE:
                migrate(here, there)
                here.clock.move(minutes=16)


def _check_both(source: World, target: World, before: dict[int, Any], secrets: dict[int, Any], where: object) -> None:
    for world in (source, target):
        if world.ledger.sequences(KEY) and world.service().state(KEY).claim is None:
            assert world.problems() == [], where
            assert not world.store.observe(KEY).staged, where
        for number, material in (materials(world) if world.ledger.sequences(KEY) else {}).items():
            assert secrets.get(number, material) == material, where
    assert {n: facts(source)[n][1:3] for n in before} == {n: before[n][1:3] for n in before}, where


def test_what_a_late_writer_puts_on_top_again_is_disabled_again(clock: Clock) -> None:
    """It looked, then slept; another run has brought that version, and disabled it as it is where it comes from."""
    source, target = two(clock, fenced=False)
    states: list[State] = []

    def meanwhile() -> None:
        clock.move(minutes=16)
        migrate(source, target)
        states.append(target.history().versions[1].state)

    effects = Effects()
    with dying():
        migrate(source, target, effects)
    first = effects.names.index("before promote") + 1
    source, target = two(clock, fenced=False)
    migrate(source, target, Effects(sleep_at=first, meanwhile=meanwhile))
    assert states == [State.DISABLED]
    assert target.problems() == []
    assert [v.number for v in target.store.observe(KEY).versions if v.number == 1 and v.enabled] == []


# --- who goes where


def test_a_migration_that_died_does_not_go_on_to_another_place_of_the_same_address(clock: Clock) -> None:
    for die_at in range(1, 100):
        source, target = two(clock, fenced=True)
        elsewhere = place(clock, 2, fenced=True)
        effects = Effects(die_at)
        with dying():
            migrate(source, target, effects)
            assert die_at > 20
            return
        clock.move(minutes=16)
        migrate(source, elsewhere)
        assert [rotates(world) for world in (source, target, elsewhere)].count(True) <= 1, effects.names[-1]
        assert cancel(source, elsewhere).status is Status.FAILED


def test_a_key_that_is_still_on_its_way_does_not_come_back(clock: Clock) -> None:
    """All of it lies where it came from, of course, but that is about to record that it went away."""
    source, target = two(clock, fenced=True)
    effects = Effects()
    migrate(*two(clock, fenced=True), effects)
    source, target = two(clock, fenced=True)
    with dying():
        migrate(source, target, Effects(die_at=len(effects.names) - 3))  # before `moved-to` is written
    assert rotates(target)
    clock.move(minutes=16)
    outcome = migrate(target, source)
    assert outcome.status is Status.FAILED
    assert "half done" in outcome.message
    assert rotates(target)
    assert migrate(source, target).status is Status.DONE
    assert (rotates(source), rotates(target)) == (False, True)


def test_a_migration_is_called_off_only_as_it_was_seen(clock: Clock) -> None:
    source, target = two(clock, fenced=True)
    with dying():
        migrate(source, target, Effects(die_at=6))
    left = source.service().state(KEY).claim
    assert left is not None
    for minutes, claim, why in (
        (0, left, "in progress"),
        (16, replace(left, run="another"), "went on meanwhile"),
        (0, None, "went on meanwhile"),
    ):
        clock.move(minutes=minutes)
        with pytest.raises(RefusedError, match=why):
            source.service().stay(KEY, "", claim)
    outcome = cancel(source, target)
    assert outcome.status is Status.DONE
    assert rotates(source)
    assert "no migration" in cancel(source, target).message


def _appends(clock: Clock) -> list[int]:
    """Where a migration is right before its appends."""
    effects = Effects()
    migrate(*two(clock, fenced=True), effects)
    return [place for place, name in enumerate(effects.names, 1) if name == "before append"]


def test_one_that_is_called_off_right_before_it_records_that_it_came_does_not_come(clock: Clock) -> None:
    """It has looked whether it is still wanted, and sleeps since."""
    *_, came, _ = _appends(clock)
    source, target = two(clock, fenced=True)
    cancelled: list[Outcome] = []

    def meanwhile() -> None:
        clock.move(minutes=16)
        cancelled.append(cancel(source, target))

    assert migrate(source, target, Effects(sleep_at=came, meanwhile=meanwhile)).status is Status.FAILED
    assert cancelled[0].notes  # what lies there
    assert (rotates(source), rotates(target)) == (True, False)
    assert migrate(source, target).status is Status.DONE
    assert (rotates(source), rotates(target)) == (False, True)


def test_one_that_came_and_stayed_is_an_alarm(clock: Clock) -> None:
    *_, came, _ = _appends(clock)
    source, target = two(clock, fenced=True)
    cancelled: list[Outcome] = []

    def meanwhile() -> None:
        clock.move(minutes=16)
        cancelled.append(cancel(source, target))
        source.service().stay(KEY, "by hand", source.service().state(KEY).claim)

    outcome = migrate(source, target, Effects(sleep_at=came + 1, meanwhile=meanwhile))
    assert "has arrived" in cancelled[0].message
    assert outcome.status is Status.FAILED
    assert "both would rotate it" in outcome.message
    assert migrate(source, target).status is Status.DONE
    assert (rotates(source), rotates(target)) == (False, True)


def test_a_disabled_version_that_is_read_too_early_is_not_left_behind(clock: Clock) -> None:
    """Where states come late a version that was just enabled may still be refused."""
    source, target = two(clock, fenced=True)
    before = facts(source)
    early: list[int] = []

    def too_early(read: Callable[..., Any], key: str, version: Any) -> Any:
        if version.number == 1 and not early:
            early.append(1)
            raise RefusedError("it is disabled")
        return read(key, version)

    here = source.service(store=liars.Faulty(source.store, "read", too_early))
    (outcome,) = recovery.migrate(here, target.service(), [KEY]).outcomes
    assert outcome.status is Status.FAILED
    assert (rotates(source), rotates(target)) == (True, False)
    assert source.problems() == []
    assert migrate(source, target).status is Status.DONE
    assert facts(target) == before


def test_what_is_recorded_as_its_place_is_the_one_that_was_claimed(clock: Clock) -> None:
    source, target = two(clock, fenced=True)
    elsewhere = place(clock, 2, fenced=True)
    with dying():
        migrate(source, target, Effects(die_at=6))
    state = source.service().state(KEY)
    link = holdings.link(source.service().journal, source.service().journal.head(KEY))
    for world, fits in ((target, True), (elsewhere, False)):
        gone = replace(link, public_key=world.keyring.trust.generations[0].public_key.hex())
        draft = Draft(Event.MOVED_TO, destination=gone)
        outcome = tried(lambda draft=draft: manifest.advance(state, draft))  # type: ignore[misc]
        assert isinstance(outcome, IntegrityError) is not fits


# --- errors

PROBLEMS: list[Exception] = [
    kind("no", "") for kind in (ConflictError, IntegrityError, NotFoundError, RefusedError, UnavailableError)
]
MORE: list[Exception] = [DeniedError("no", ""), ThrottledError("no", ""), RuntimeError("canary")]


class Once:
    """One call of a store or a ledger fails, before or after it was carried out."""

    def __init__(self, at: int, problem: Exception, *, after: bool) -> None:
        self.at, self.problem, self.after = at, problem, after
        self.count = 0
        self.where = ""

    def on(self, world: World, name: str) -> Any:
        return world.service(store=_Failing(world.store, self, name), ledger=_Failing(world.ledger, self, name))


class _Failing:
    def __init__(self, target: Any, once: Once, place: str) -> None:
        self._target, self._once, self._place = target, once, place

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            self._once.count += 1
            hit = self._once.count == self._once.at
            if hit:
                self._once.where = f"{name} {self._place}"
            if hit and not self._once.after:
                raise self._once.problem
            reply = value(*args, **kwargs)
            if hit:
                raise self._once.problem
            return reply

        return call


@pytest.mark.parametrize("fenced", FENCED)
@pytest.mark.parametrize("after", [False, True], ids=["request lost", "reply lost"])
@pytest.mark.parametrize("problem", [*PROBLEMS, *MORE], ids=lambda problem: type(problem).__name__)
def test_an_error_at_any_call_never_leaves_two_that_rotate(
    problem: Exception, some: Some, *, after: bool, fenced: bool
) -> None:
    for at in some(itertools.count(1), 32):
        clock = Clock()
        source, target = two(clock, fenced=fenced)
        before, secrets = facts(source), materials(source)
        once = Once(at, problem, after=after)
        try:
            (outcome,) = recovery.migrate(once.on(source, "here"), once.on(target, "there"), [KEY]).outcomes
        except (KmsError, RuntimeError):
            outcome = Outcome(KEY, Status.FAILED, "nothing was begun")
        if once.count < at:
            assert at > 60
            return
        assert "canary" not in repr(outcome)
        assert not (rotates(source) and rotates(target)), once.where
        assert outcome.status is not Status.DONE or rotates(target), once.where
        lost_claim = "append" in once.where and after  # the run does not know that it has claimed: its lease has to end
        if migrate(source, target).status is not Status.DONE:
            assert lost_claim, once.where
            clock.move(minutes=16)
            assert migrate(source, target).status is Status.DONE, once.where
        assert (rotates(source), rotates(target)) == (False, True), once.where
        assert materials(target) == secrets, once.where
        assert facts(target) == before, once.where
        _check_both(source, target, before, secrets, once.where)


def test_what_arrived_before_an_error_has_arrived(clock: Clock) -> None:
    """The store there refuses to be looked at once the key is there: it is rotated there all the same."""
    source, target = two(clock, fenced=True)

    def refuses(observe: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if target.ledger.sequences(KEY) and rotates(target):
            raise RefusedError("no more")
        return observe(*args, **kwargs)

    there = target.service(store=liars.Faulty(target.store, "observe", refuses))
    (outcome,) = recovery.migrate(source.service(), there, [KEY]).outcomes
    assert outcome.status is Status.DONE
    assert "no more" in outcome.notes
    assert (rotates(source), rotates(target)) == (False, True)


def test_a_copy_whose_store_has_lost_a_version_is_no_place_to_move_to(clock: Clock) -> None:
    source, target = place(clock, 0, fenced=True), place(clock, 1, fenced=True)
    source.service().create(KEY)
    source.service().rotate_now(KEY)
    assert migrate(source, target, copy=True).status is Status.DONE
    container = target.store.keys[KEY]  # type: ignore[attr-defined]
    container.held = [each for each in container.held if each.version.number != 1]
    outcome = migrate(source, target)
    assert outcome.status is Status.FAILED
    assert rotates(source)


# --- sleepers that restore


@pytest.mark.parametrize("fenced", FENCED)
def test_a_restore_that_sleeps_while_the_key_moves_on_changes_nothing(*, fenced: bool) -> None:
    """Another run has restored it meanwhile, it was rotated, and it has moved away."""
    sleep_at = 0
    while True:
        sleep_at += 1
        clock = Clock()
        source, target = two(clock, fenced=fenced)
        third = place(clock, 2, fenced=fenced)
        holding = held(source)

        def meanwhile(
            target: World = target, third: World = third, clock: Clock = clock, holding: Any = holding
        ) -> None:
            clock.move(minutes=16)
            recovery.restore(target.service(), [holding])
            tried(lambda: target.service().rotate_now(KEY))
            migrate(target, third)

        effects = Effects(sleep_at=sleep_at, meanwhile=meanwhile)
        recovery.restore(service(target, effects), [holding])
        if len(effects.names) < sleep_at:
            assert sleep_at > 8
            return
        clock.move(minutes=16)
        for world in (target, third):
            tick(world)
        assert [rotates(target), rotates(third)].count(True) == 1, effects.names[sleep_at - 1]


# --- another backup than the one that was begun with


def restore(target: World, holding: holdings.Holding, effects: Effects | None = None) -> Outcome:
    (outcome,) = recovery.restore(service(target, effects), [holding]).outcomes
    return outcome


@pytest.mark.parametrize("fenced", FENCED)
def test_a_newer_backup_goes_on_with_what_an_older_one_has_begun_and_not_the_other_way(
    clock: Clock, *, fenced: bool
) -> None:
    source, target = two(clock, fenced=fenced)
    older = held(source)
    clock.move(days=90)
    source.rotate()
    newer = held(source)
    with dying():
        restore(target, newer, Effects(die_at=9))
    begun = target.service().state(KEY).claim
    assert begun is not None
    assert max(v.number for v in target.store.observe(KEY).versions) < 4  # some of it lies there
    clock.move(minutes=16)
    refused = restore(target, older)
    assert refused.status is Status.FAILED
    assert "has brought version 4, which is not here" in refused.message
    assert restore(target, newer).status is Status.DONE
    again = place(clock, 2, fenced=fenced)
    with dying():
        restore(again, older, Effects(die_at=7))
    assert again.store.observe(KEY).newest is not None
    clock.move(minutes=16)
    assert restore(again, newer).status is Status.DONE
    for world in (target, again):
        assert materials(world) == materials(source)
        assert world.problems() == []
        world.check()
