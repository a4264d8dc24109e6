"""Runs that overlap: a run that sleeps at any boundary while another does the work, and many processes at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daena_kms.app import open_service
from daena_kms.fleet import Order
from daena_kms.manifest import History
from daena_kms.model import State, Status
from daena_kms.settings import read_settings
from tests.sharing import Some, one_in
from tests.support import liars
from tests.support.worlds import BACKENDS, KEY, Clock, Effects, Mortal, World, dying, seeded

PROCESSES = 16


def _world(backend: str, folder: Path) -> World:
    """A key that is due."""
    clock = Clock()
    world = World(BACKENDS[backend](folder, clock, seeded()), clock)
    world.rotate()
    clock.move(days=90)
    return world


def _tick(world: World, effects: Effects) -> None:
    service = world.service(store=Mortal(world.store, effects), ledger=Mortal(world.ledger, effects))
    with dying():
        service.rotate(Order())


def _boundaries(backend: str, folder: Path) -> int:
    effects = Effects()
    _tick(_world(backend, folder), effects)
    return len(effects.names)


def _past_the_lease(world: World, act: Callable[[], object]) -> Callable[[], None]:
    def meanwhile() -> None:
        world.clock.move(minutes=61)
        act()

    return meanwhile


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zombie_that_wakes_up_after_its_lease_changes_nothing(backend: str, tmp_path: Path) -> None:
    for sleep_at in range(1, _boundaries(backend, tmp_path / "whole") + 1):
        world = _world(backend, tmp_path / str(sleep_at))
        after: list[object] = []

        def other(world: World = world, after: list[object] = after) -> None:
            world.rotate()
            after.append(world.history().versions[_active(world)])

        _tick(world, Effects(sleep_at=sleep_at, meanwhile=_past_the_lease(world, other)))
        world.clock.move(minutes=61)
        world.rotate()
        world.check()
        versions = world.history().versions
        active = versions[_active(world)]
        if after and world.store.fenced:
            assert active == after[0], f"asleep at boundary {sleep_at}"
        assert 2 <= len(versions) <= 3
        late = [v for v in versions.values() if v.number not in (1, active.number)]
        assert all(v.state is State.DECRYPT_ONLY for v in late)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zombie_wakes_up_after_another_run_took_over_and_died(backend: str, tmp_path: Path, some: Some) -> None:
    count = _boundaries(backend, tmp_path / "whole")
    for sleep_at in range(1, count + 1):
        for die_at in some(range(1, count + 1), one_in(backend, memory=2, slow=20)):
            world = _world(backend, tmp_path / f"{sleep_at}-{die_at}")
            other = Effects(die_at)
            meanwhile = _past_the_lease(world, lambda world=world, other=other: _tick(world, other))  # type: ignore[misc]
            _tick(world, Effects(sleep_at=sleep_at, meanwhile=meanwhile))
            world.clock.move(minutes=61)
            world.rotate()
            world.check()
            assert 2 <= len(world.history().versions) <= 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_inside_another_lease_reports_in_progress(backend: str, tmp_path: Path) -> None:
    world = _world(backend, tmp_path)
    seen: list[Status] = []
    effects = Effects(sleep_at=3, meanwhile=lambda: seen.append(world.rotate().status))
    _tick(world, effects)
    assert effects.names[1:3] == ["after append", "before stage"]
    assert seen == [Status.IN_PROGRESS]
    world.check()
    assert len(world.history().versions) == 2


def _active(world: World) -> int:
    active = world.history().entries[-1].state.active
    assert active is not None
    return active.number


@pytest.mark.parametrize(
    "arguments", [[], ["--all", "--force", "--yes", "--request-id", "ticket-7"]], ids=["due", "forced"]
)
def test_sixteen_processes_make_one_new_version(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "daena-kms.toml").write_text(f"[keys.{KEY}]\n")
    command = str(Path(sys.executable).with_name("daena-key-rotate"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAENA_")}

    def start(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [command, *words], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    (tmp_path / "old.key").write_bytes(bytes(range(32)))
    created = start("import", KEY, "--from", "old.key", "--created", "312d")
    created.communicate()
    assert created.returncode == 0
    racing = [start("rotate", *arguments) for _ in range(PROCESSES)]
    outputs = [process.communicate() for process in racing]
    assert [process.returncode for process in racing] == [0] * PROCESSES, outputs
    entries = start("verify")
    entries.communicate()
    assert entries.returncode == 0
    assert _versions(tmp_path) == 2


def _versions(folder: Path) -> int:
    settings = read_settings({"DAENA_HOME": str(folder / ".kms"), "DAENA_POLICY": str(folder / "daena-kms.toml")})
    service = open_service(settings, trigger="test", writes=False).service
    return len(History(service.history(KEY)).versions)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zombie_does_not_disable_what_a_person_has_enabled_meanwhile(backend: str, tmp_path: Path) -> None:
    world = _world(backend, tmp_path)
    world.rotate()

    def finished_and_undone() -> None:
        world.clock.move(minutes=61)
        world.rotate()
        world.service().enable(KEY, 1)

    slept: list[int] = []

    def asleep_once_claimed(read: Callable[[str, int], bytes | None], key: str, sequence: int) -> bytes | None:
        """Reading the history is the last thing a run does between announcing a change and making it."""
        found = read(key, sequence)
        if (key, sequence) == (KEY, 6) and not slept:
            slept.append(1)
            finished_and_undone()
        return found

    world.service(ledger=liars.Faulty(world.ledger, "read", asleep_once_claimed)).disable(KEY, 1)
    assert slept
    assert world.history().versions[1].state is State.DECRYPT_ONLY
    world.check()
