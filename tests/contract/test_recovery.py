"""A key goes to another store, or comes back from a backup: whole, once, and whatever dies on the way."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daena_kms import recovery
from daena_kms.holdings import Holding
from daena_kms.manifest import Event
from daena_kms.model import Outcome, State, Status
from tests.sharing import Some, one_in
from tests.support.places import closing, facts, held, lived_in, materials, place, service, tick, versions
from tests.support.worlds import BACKENDS, KEY, Clock, Effects, World, dying

STORES = list(BACKENDS)


def migrate(source: World, target: World, effects: Effects | None = None, **how: Any) -> Outcome:
    """One run as a process of its own."""
    (outcome,) = recovery.migrate(service(source, effects), service(target, effects), **how).outcomes
    return outcome


def restore(target: World, holding: Holding, effects: Effects | None = None) -> Outcome:
    (outcome,) = recovery.restore(service(target, effects), [holding]).outcomes
    return outcome


def check_moved(source: World, target: World, before: dict[int, Any], secrets: dict[int, Any]) -> None:
    """Everything is there, nothing changed where it was, and it is rotated in one place."""
    assert facts(target) == before
    assert {number: materials(target)[number] for number in secrets} == secrets
    assert materials(source) == secrets
    assert source.problems() == target.problems() == []
    assert source.history().entries[-1].event is Event.MOVED_TO
    assert source.service().state(KEY).moved == target.ledger.address
    assert not target.store.observe(KEY).staged
    target.check()
    highest = max(before)
    target.clock.move(days=90)
    assert [outcome.status for outcome in tick(source).outcomes] == [Status.MOVED]
    assert [outcome.status for outcome in tick(target).outcomes] == [Status.ROTATED]
    assert max(versions(target)) == highest + 1
    assert source.problems() == target.problems() == []


@pytest.fixture(params=["from", "to"])
def pair(request: pytest.FixtureRequest, backend_name: str, tmp_path: Path, clock: Clock) -> Any:
    """The store that is tested, and a local one: a key goes from one to the other."""
    tested, local = place(backend_name, tmp_path, clock), place("local", tmp_path, clock, seed=1)
    with closing(tested, local):
        yield (tested, local) if request.param == "from" else (local, tested)


@pytest.fixture(params=STORES)
def backend_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_key_moves_with_everything_that_it_is(pair: tuple[World, World]) -> None:
    source, target = pair
    lived_in(source)
    source.service().pause(KEY, "a freeze")
    before, secrets = facts(source), materials(source)
    assert {number: state for number, (state, *_) in before.items()} == {
        1: State.DESTROYED, 2: State.DISABLED, 3: State.DECRYPT_ONLY, 4: State.DECRYPT_ONLY, 5: State.ACTIVE,
    }  # fmt: skip
    head = source.service().journal.head(KEY)
    outcome = migrate(source, target, reason="out of the cellar")
    assert outcome.status is Status.DONE, outcome
    entries = target.history().entries
    assert [entry.event for entry in entries] == [Event.CHANGE_STARTED, Event.IMPORTED]
    claimed, moved = source.history().entries[-2:]
    assert claimed.previous == head.hash
    origin, destination = entries[-1].origin, moved.destination
    assert origin is not None
    assert destination is not None
    assert (origin.ledger, origin.sequence) == (source.ledger.address, claimed.sequence)
    assert origin.public_key == source.keyring.trust.generations[0].public_key.hex()
    assert (destination.ledger, destination.sequence) == (target.ledger.address, entries[-1].sequence)
    assert target.service().state(KEY).paused
    previous = target.service().state(KEY).previous
    assert previous is not None
    assert previous.number == 4
    target.service().resume(KEY)
    target.service().enable(KEY, 2)
    assert 2 in materials(target)
    target.service().disable(KEY, 2)
    check_moved(source, target, before, secrets)


def test_a_key_comes_back_with_what_became_of_it(pair: tuple[World, World]) -> None:
    home, away = pair
    lived_in(home)
    assert migrate(home, away).status is Status.DONE
    away.clock.move(days=90)
    tick(away)
    away.service().enable(KEY, 2)
    away.service().disable(KEY, 4)
    before, secrets = facts(away), materials(away)
    assert migrate(away, home).status is Status.DONE
    assert facts(home) == before
    assert materials(home) == secrets
    assert home.problems() == away.problems() == []
    home.check()
    home.clock.move(days=90)
    assert [outcome.status for outcome in tick(away).outcomes] == [Status.MOVED]
    assert [outcome.status for outcome in tick(home).outcomes] == [Status.ROTATED]
    assert migrate(home, away).status is Status.DONE
    assert facts(away)[7][0] is State.ACTIVE


# --- deaths


Act = Callable[[World, World, Effects | None], Outcome]


def _restoring(source: World, target: World, effects: Effects | None) -> Outcome:
    return restore(target, held(source), effects)


ACTS: dict[str, Act] = {"migrate": migrate, "restore": _restoring}


@pytest.mark.parametrize(("way", "act"), [("from", "migrate"), ("to", "migrate"), ("to", "restore")])
def test_a_run_that_dies_anywhere_is_brought_to_its_end(
    backend_name: str, way: str, act: str, some: Some, tmp_path: Path
) -> None:
    """Between the death and the next try the schedulers of both places tick, before the lease has ended and after."""
    deaths = some(itertools.count(1), one_in(backend_name, memory=12, slow=18))
    boundaries = next(filter(None, (_die_and_go_on(backend_name, way, act, tmp_path / str(n), n) for n in deaths)))
    assert boundaries >= 18  # one of which at least is in every share


def _die_and_go_on(name: str, way: str, act: str, folder: Path, die_at: int) -> int:
    """0 for a run that died there; otherwise how many places there are to die at."""
    folder.mkdir()
    clock = Clock()
    tested, local = place(name, folder, clock), place("local", folder, clock, seed=1)
    source, target = (tested, local) if way == "from" else (local, tested)
    with closing(tested, local):
        lived_in(source)
        before, secrets = facts(source), materials(source)
        effects = Effects(die_at)
        died = True
        with dying():
            ACTS[act](source, target, effects)
            died = False
        if not died:
            return len(effects.names)
        where = effects.names[-1]
        for minutes in (1, 20):
            clock.move(minutes=minutes)
            _harmless_ticks(source, target, where)
        assert ACTS[act](source, target, None).status is Status.DONE, where
        if act == "migrate":
            check_moved(source, target, before, secrets)
        else:
            _check_restored(target, before, secrets)
    return 0


def _harmless_ticks(source: World, target: World, where: str) -> None:
    """Nobody makes a version while a key is on its way: it would be in one place only."""
    for world in (source, target):
        for outcome in tick(world).outcomes:
            assert outcome.status not in (Status.ROTATED, Status.CREATED), (where, outcome)
            if outcome.status is Status.FAILED and "does not exist" not in outcome.message:
                assert "half done" in outcome.message, outcome
                assert outcome.stuck


def _check_restored(target: World, before: dict[int, Any], secrets: dict[int, Any]) -> None:
    """A backup has no material of disabled versions."""
    came = facts(target)
    assert came[2][0] is State.DESTROYED
    assert came.pop(2) != before.pop(2)
    assert came == before
    assert materials(target) == secrets
    assert target.problems() == []
    assert not target.store.observe(KEY).staged
    target.check()
