"""That the campaigns with real processes can see what they look for: deaths, sleeps, and planted violations."""

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from daena_kms.model import KeySpec, Status
from daena_kms.stores.base import NewVersion

from . import kill, overlap
from .grounds import Grounds
from .rotators import News, TooLongError
from .scene import STORES
from .units import Room


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with Grounds(Room(tmp_path_factory.mktemp("room"), random.Random(1)), "local", 20) as made:
        yield made


@pytest.fixture
def ground(shared: Grounds) -> Grounds:
    """A place in which nothing is wrong yet."""
    shared.room.tally.violations.clear()
    return shared


_KEYS = count()


def _due(ground: Grounds) -> str:
    """A new key that is due."""
    key = ground.keys[next(_KEYS)]
    ground.make([key])
    return key


def _boundary(ground: Grounds, name: str) -> int:
    """Which one that is, the last time, in a run that is left alone."""
    ran, news = ground.run("rotate", _due(ground), "--json")
    assert news == News("ended")
    way = ran.way()
    return len(way) - way[::-1].index(name)


def test_a_process_dies_exactly_where_it_is_told_to(ground: Grounds) -> None:
    at, key = _boundary(ground, "before store.stage"), _due(ground)
    ran, news = ground.run("rotate", key, "--json", die_at=at)
    assert news == News("killed")
    assert ran.way()[-3:] == ["before ledger.append", "after ledger.append", "before store.stage"]
    assert len(ran.way()) == at
    with ground.service() as service:
        claim = service.state(key).claim
        assert claim is not None
        assert service.tools.store.observe(key).staged == ()
    ran, news = ground.run("rotate", key, "--json")
    assert news == News("ended")
    assert [outcome["status"] for outcome in ran.report()["outcomes"]] == [Status.IN_PROGRESS]


def test_a_stopped_process_goes_on_where_it_was(ground: Grounds) -> None:
    at, key = _boundary(ground, "before store.stage"), _due(ground)
    ran, news = ground.run("rotate", key, "--json", stop_at=(at, at + 1))
    assert news == News("stopped")
    assert ran.way()[-1] == "before store.stage"
    assert ground.forks.heard(ran.process, 0.05) is None
    with ground.service() as service:
        assert service.tools.store.observe(key).staged == ()
    ground.wake(ran)
    assert ground.wait(ran) == News("stopped")
    with ground.service() as service:
        assert [version.number for version in service.tools.store.observe(key).staged] == [2]
    ground.wake(ran)
    assert ground.wait(ran) == News("ended")
    assert [outcome["number"] for outcome in ran.report()["outcomes"]] == [2]


def test_all_processes_live_by_the_same_clock_and_each_by_its_own_besides(ground: Grounds) -> None:
    ground.clock.move(days=100)
    key = ground.keys[next(_KEYS)]
    _, news = ground.run("create", key, "--json", skew=-86_400.0)
    assert news == News("ended")
    with ground.service() as service:
        active = service.state(key).active
    assert active is not None
    assert 86_000 < (ground.clock() - active.active_since).total_seconds() < 87_000


def test_no_process_outlives_its_campaign(tmp_path: Path) -> None:
    before = _children(os.getpid())
    with Grounds(Room(tmp_path, random.Random(1)), "local", 1) as ground:
        _, news = ground.run("rotate", "--json", stop_at=(3,))
        assert news == News("stopped")
        begun = [child for child in _children(os.getpid()) if child not in before]
        stopped = [child for each in begun for child in _children(each)]
        assert (len(begun), len(stopped)) == (2, 1)  # what forks, the reader; and the one
    assert not any(Path(f"/proc/{each}").exists() for each in (*begun, *stopped))


def test_a_process_that_hangs_is_killed(ground: Grounds) -> None:
    ran, news = ground.run("rotate", "--json", stop_at=(3,))
    assert news == News("stopped")
    with pytest.raises(TooLongError):
        ground.forks.wait(ran.process, 0.05)
    assert ground.wait(ran) == News("killed")


def _children(parent: int) -> list[int]:
    """The processes that one has begun."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(") ")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def test_a_reader_tells_what_nobody_has_verified(ground: Grounds) -> None:
    key = _due(ground)
    ground.reader.watch([key])
    with ground.service() as service:
        store = service.tools.store
        newest = store.observe(key).newest
        assert newest is not None
        made = store.prepare(key, 2, KeySpec.parse("AES-256"))
        planted = store.stage(key, NewVersion(2, "0" * 32, "0" * 64, "AES-256"), made)
        store.promote(key, planted, newest, made.material)
        ground.reader.watch([key])
        store.promote(key, newest, planted, service.tools.store.read(key, newest))
    ground.check([key], {key: "something was planted"}, {})
    given = [each for each in ground.room.tally.violations if "a reader was given" in each]
    assert len(given) == 1
    assert "something was planted" in given[0]


def test_a_reader_tells_that_a_key_is_missing(ground: Grounds) -> None:
    key, absent = _due(ground), ground.keys[-1]
    ground.reader.watch([key, absent], there=False)
    ground.check([key, absent], {}, {})
    assert ground.room.tally.violations == []
    ground.reader.watch([key, absent])
    ground.check([key, absent], {}, {})
    assert ground.room.tally.violations == [f"local: {absent}: nothing was done; a reader got nothing: missing"]


def test_a_version_too_many_is_found(ground: Grounds) -> None:
    key = _due(ground)
    with ground.service() as service:
        service.rotate_now(key)
    ground.settle([key], {}, {key: (1, 1)})
    assert ground.room.tally.violations == [f"local: {key}: nothing was done; 2 versions, not 1 to 1"]


def test_a_tick_that_fails_is_found(ground: Grounds) -> None:
    key = _due(ground)
    (Path(ground.place.settings["DAENA_HOME"]) / "manifests" / key / "00000002.json").write_text("{}")
    ground.tick([key], "an entry was damaged")
    assert len(ground.room.tally.violations) == 1
    assert "an entry was damaged; then a tick ended with 1" in ground.room.tally.violations[0]


def test_every_boundary_and_every_store_has_its_turn() -> None:
    ids = [unit.id for unit in (*kill.units(short=False), *overlap.units(short=False))]
    assert len(ids) == len(set(ids))
    for store in STORES:
        assert {f"kill.{store}.{name}" for name in kill.CLOUDS_ONCE} <= set(ids)
        assert {f"overlap.{store}.{name}-asleep" for name in overlap.CLOUDS_SLEEPY} <= set(ids)
    assert {f"kill.local.{name}" for name in kill.OPERATIONS} <= set(ids)
