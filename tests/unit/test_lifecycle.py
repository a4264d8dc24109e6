"""What may happen to old versions: retire, disable, enable, destroy, roll back, mark."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daena_kms import lifecycle, trust
from daena_kms.errors import ConfigurationError, KmsError, NotFoundError, RefusedError
from daena_kms.holdings import location
from daena_kms.material import KeyMaterial
from daena_kms.model import Outcome, State, Status, VersionRecord
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service
from tests.support import liars
from tests.support.worlds import BACKENDS, KEY, START, Clock, DiedError, World, dying, seeded


def _world(tmp_path: Path, backend: str = "local", *, rotations: int = 4, **policy: Any) -> World:
    clock = Clock()
    wanted = KeyPolicy(create=True, **policy)
    world = World(BACKENDS[backend](tmp_path, clock, seeded()), clock, wanted)
    for _ in range(rotations):
        world.rotate()
        clock.move(days=91)
    return world


def _states(world: World) -> dict[int, State]:
    return {number: record.state for number, record in world.history().versions.items()}


A, D, X, GONE = State.ACTIVE, State.DECRYPT_ONLY, State.DISABLED, State.DESTROYED


def test_by_default_every_earlier_version_stays_readable_for_good(tmp_path: Path) -> None:
    assert _states(_world(tmp_path, rotations=6)) == {1: D, 2: D, 3: D, 4: D, 5: D, 6: A}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_policy_that_keeps_fewer_disables_the_oldest(backend: str, tmp_path: Path) -> None:
    world = _world(tmp_path, backend, keep_versions=1, rotations=4)
    assert _states(world) == {1: X, 2: X, 3: D, 4: A}
    world.check()
    with pytest.raises(RefusedError, match="disabled"):
        world.service().get(KEY, 1, reveal=True)
    assert world.service().enable(KEY, 1).status is Status.DONE
    assert world.service().get(KEY, 1, reveal=True).material is not None


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_version_is_retired_inside_its_grace_and_a_later_tick_does_it(backend: str, tmp_path: Path) -> None:
    world = _world(tmp_path, backend, keep_versions=0, grace_days=30, rotations=1)
    world.rotate()
    assert _states(world) == {1: D, 2: A}
    world.clock.move(days=29)
    world.rotate()
    assert _states(world) == {1: D, 2: A}
    world.clock.move(days=2)
    outcome = world.rotate()
    assert outcome.notes == ("retired; disabled: 1",)
    assert _states(world) == {1: X, 2: A}
    assert [e.event for e in world.history().entries[-2:]] == ["change-started", "retired"]
    world.check()


def test_a_run_reads_each_older_entry_once_however_much_it_has_to_do(tmp_path: Path) -> None:
    """A rotation with a retirement needs the whole manifest in several places: for a long one, each walk is dear."""
    world = _world(tmp_path, "memory-fenced", keep_versions=1, grace_days=0, rotations=6)
    reads: Counter[int] = Counter()

    def counted(read: Callable[..., bytes | None], key: str, sequence: int) -> bytes | None:
        reads[sequence] += 1
        return read(key, sequence)

    before = len(world.history().entries)
    outcome = world.rotate(ledger=liars.Faulty(world.ledger, "read", counted))
    assert (outcome.status, outcome.notes) == (Status.ROTATED, ("retired; disabled: 5",))
    assert {sequence: reads[sequence] for sequence in range(1, before)} == dict.fromkeys(range(1, before), 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_destruction_waits_and_is_carried_out_by_a_tick(backend: str, tmp_path: Path) -> None:
    world = _world(tmp_path, backend, destroy_after_days=7)
    outcome = world.service().destroy(KEY, 1)
    assert outcome.message.startswith("destroy-scheduled: version 1")
    world.rotate()
    assert _states(world)[1] is D
    assert world.service().get(KEY, 1, reveal=True).material is not None
    world.clock.move(days=8)
    world.rotate()
    assert _states(world)[1] is GONE
    world.check()
    with pytest.raises(KmsError):
        world.store.read(KEY, location(world.history().versions[1]))


def test_what_is_refused_when_its_time_has_come_says_what_to_do(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", destroy_after_days=7)
    world.service().destroy(KEY, 1)
    world.clock.move(days=8)
    world.policy = replace(world.policy, grace_days=3000)
    outcome = world.rotate()
    assert outcome.status is Status.FAILED
    assert "is inside its grace period until" in outcome.message
    assert outcome.hint == "wait, or `disable` it meanwhile"
    assert _states(world)[1] is D
    assert [entry.event for entry in world.history().entries if entry.number == 1][-1] == "destroy-scheduled"


def test_what_another_run_has_retired_meanwhile_is_not_announced_again(tmp_path: Path) -> None:
    """A claim for nothing would be left to a tick that nothing brings here, if its run died right after it."""
    world = _world(tmp_path, "memory-fenced", keep_versions=1, grace_days=0, rotations=3)
    outcome = world.rotate(ledger=_overtaken(world, at=3))
    assert (outcome.status, outcome.notes) == (Status.ROTATED, ())
    assert [entry.event for entry in world.history().entries[-3:]] == ["promoted", "change-started", "retired"]
    world.check()


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_destruction_that_is_done_or_called_off_meanwhile_is_no_failure(tmp_path: Path, *, cancelled: bool) -> None:
    world = _world(tmp_path, "memory-fenced", destroy_after_days=7)
    world.rotate()
    world.service().destroy(KEY, 1)
    world.clock.move(days=8)
    act = (lambda: world.service().destroy(KEY, 1, cancel=True)) if cancelled else world.rotate
    outcome = world.rotate(ledger=_overtaken(world, at=1, act=act))
    assert outcome.status is Status.NOT_DUE
    last = ["destroy-cancelled"] if cancelled else ["change-started", "destroyed"]
    assert [entry.event for entry in world.history().entries][-len(last) :] == last
    world.check()


MARKS: dict[str, tuple[Callable[[Service], object], Callable[[Service], object], Callable[[World, Outcome], bool]]] = {
    "compromised": (
        lambda _: None,
        lambda s: s.compromised(KEY, 5),
        lambda w, _: _states(w)[5] is D,
    ),
    "destroy": (lambda _: None, lambda s: s.destroy(KEY, 1), lambda w, _: _states(w)[1] is GONE),
    "disable": (lambda _: None, lambda s: s.disable(KEY, 1), lambda w, _: _states(w)[1] is X),
    "pause": (lambda _: None, lambda s: s.pause(KEY), lambda _, outcome: outcome.status is Status.PAUSED),
    "resume": (lambda s: s.pause(KEY), lambda s: s.resume(KEY), lambda _, outcome: outcome.status is Status.NOT_DUE),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MARKS)
def test_a_tick_finds_what_was_marked_before_its_run_could_store_the_head(
    backend: str, name: str, tmp_path: Path
) -> None:
    """No age brings one to it: the head beside the key has said before that it is time to look."""
    ready, mark, found = MARKS[name]
    world = _world(tmp_path, backend, destroy_after_days=1)
    world.rotate()
    ready(world.service())
    world.rotate()
    with dying():
        mark(world.service(ledger=liars.Faulty(world.ledger, "append", _dies_after)))
    world.clock.move(minutes=61)
    world.rotate()
    world.clock.move(days=2)
    assert found(world, world.rotate()), name
    world.check()


def _dies_after(real: Callable[..., object], *arguments: object) -> None:
    real(*arguments)
    raise DiedError


def _overtaken(world: World, *, at: int, act: Callable[[], object] | None = None) -> liars.Faulty:
    """A ledger of a run that sleeps past its lease right before it appends so manieth; `act` is what another does."""
    appended = 0

    def append(real: Callable[..., object], *arguments: object) -> object:
        nonlocal appended
        appended += 1
        if appended == at:
            world.clock.move(minutes=61)
            (act or world.rotate)()
        return real(*arguments)

    return liars.Faulty(world.ledger, "append", append)


def test_a_destruction_can_be_cancelled_while_it_waits(tmp_path: Path) -> None:
    world = _world(tmp_path, destroy_after_days=7)
    world.service().destroy(KEY, 1)
    world.service().destroy(KEY, 1, cancel=True)
    world.clock.move(days=30)
    world.rotate()
    assert _states(world)[1] is D
    with pytest.raises(RefusedError, match="not scheduled"):
        world.service().destroy(KEY, 1, cancel=True)


REFUSALS: dict[str, tuple[dict[str, Any], Callable[[Service], object], str]] = {
    "destroy the active version": ({"destroy_after_days": 1}, lambda s: s.destroy(KEY, 4), "is active"),
    "destroy the previous version": ({"destroy_after_days": 1}, lambda s: s.destroy(KEY, 3), "one of the last two"),
    "destroy inside the grace": (
        {"destroy_after_days": 1, "grace_days": 3000}, lambda s: s.destroy(KEY, 1), "inside its grace period",
    ),
    "destroy where the policy never destroys": ({}, lambda s: s.destroy(KEY, 1), "never destroys"),
    "disable the active version": ({}, lambda s: s.disable(KEY, 4), "is active"),
    "enable what is not disabled": ({}, lambda s: s.enable(KEY, 1), "is decrypt-only, not disabled"),
    "roll back to the active version": ({}, lambda s: s.rollback(KEY, 4), "is active, not decrypt-only"),
}  # fmt: skip


@pytest.mark.parametrize(("policy", "act", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_refused_changes_nothing(
    policy: dict[str, Any], act: Callable[[Service], object], reason: str, tmp_path: Path
) -> None:
    world = _world(tmp_path, "memory-fenced", **policy)
    entries = len(world.history().entries)
    with pytest.raises(RefusedError, match=reason) as refused:
        act(world.service())
    assert refused.value.hint
    assert len(world.history().entries) == entries
    world.check()


@pytest.mark.parametrize("what", ["disable", "enable", "destroy", "rollback", "compromised", "get"])
def test_a_version_that_is_not_there(what: str, tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=2, destroy_after_days=1)
    with pytest.raises(NotFoundError, match="has no version 9") as problem:
        getattr(world.service(), what)(KEY, 9)
    assert problem.value.hint == "there are: 1, 2"


def test_of_many_versions_the_last_ones_are_told() -> None:
    there = {
        number: VersionRecord(number, "id", "f", "AES-256", State.DISABLED, START, START) for number in range(1, 57)
    }
    with pytest.raises(NotFoundError) as problem:
        lifecycle.version_of(KEY, there, 99)
    assert problem.value.hint == "there are: 56, the last of them 47, 48, 49, 50, 51, 52, 53, 54, 55, 56"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rollback_is_a_new_number_with_the_old_material(backend: str, tmp_path: Path) -> None:
    world = _world(tmp_path, backend, rotations=2)
    before = world.service().get(KEY, 1, reveal=True).material
    outcome = world.service().rollback(KEY, reason="the new one broke the importer")
    assert (outcome.number, outcome.status) == (3, Status.DONE)
    assert world.service().get(KEY, reveal=True).material == before
    assert _states(world) == {1: D, 2: D, 3: A}
    (status,) = world.service().status([KEY])
    assert status.material_age_days > status.age_days == 0
    world.check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compromised_active_version_is_replaced_at_once_and_never_comes_back(backend: str, tmp_path: Path) -> None:
    world = _world(tmp_path, backend, rotations=1)
    outcome = world.service().compromised(KEY, 1, "found in a log")
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    assert world.history().versions[1].compromised
    with pytest.raises(RefusedError, match="is compromised"):
        world.service().rollback(KEY)
    again = world.service().compromised(KEY, 1)
    assert again.status is Status.DONE
    assert _states(world) == {1: D, 2: A}
    world.check()


def test_the_mark_reaches_every_number_with_the_same_material(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=2)
    world.service().rollback(KEY)
    outcome = world.service().compromised(KEY, 1)
    assert outcome.status is Status.ROTATED, "version 3 is a copy of 1, and active"
    assert {n for n, v in world.history().versions.items() if v.compromised} == {1, 3}


def test_marking_an_old_version_rotates_nothing(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=3)
    assert world.service().compromised(KEY, 1).message == "compromised: version 1 is marked"
    assert _states(world) == {1: D, 2: D, 3: A}


def test_a_paused_key_is_not_rotated_unless_forced_or_compromised(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=1)
    world.service().pause(KEY, "change freeze")
    assert world.rotate().status is Status.PAUSED
    assert world.force().status is Status.ROTATED
    world.clock.move(days=91)
    assert world.rotate().status is Status.PAUSED
    assert world.service().compromised(KEY, 2).status is Status.ROTATED
    world.service().resume(KEY)
    world.clock.move(days=91)
    assert world.rotate().status is Status.ROTATED


def test_status_says_what_is_overdue(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=1)
    (status,) = world.service().status()
    assert (status.active, status.age_days, status.limit_days, status.overdue) == (1, 91, 90, True)
    world.rotate()
    (status,) = world.service().status()
    assert (status.active, status.age_days, status.overdue, status.in_progress) == (2, 0, False, "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mark_reaches_copies_made_before_and_after_a_renewal(backend: str, tmp_path: Path) -> None:
    world = _world(tmp_path, backend, rotations=2)
    world.service().renew("test")
    world.keyring = trust.open_keyring(world.store, world.ledger)
    world.service().rollback(KEY)
    world.service().compromised(KEY, 3)
    assert {n for n, v in world.history().versions.items() if v.compromised} == {1, 3}
    with pytest.raises(RefusedError, match="is compromised"):
        world.service().rollback(KEY, 1)


def test_a_destruction_under_way_is_not_cancelled(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", destroy_after_days=7)
    world.service().destroy(KEY, 1)
    world.clock.move(days=8)
    refused: list[RefusedError] = []

    def cancel() -> None:
        with pytest.raises(RefusedError, match="too late") as caught:
            world.service().destroy(KEY, 1, cancel=True)
        refused.append(caught.value)

    def interrupted(destroy: Callable[..., None], *args: object) -> None:
        cancel()
        destroy(*args)

    world.rotate(store=liars.Faulty(world.store, "destroy", interrupted))
    assert len(refused) == 1
    assert _states(world)[1] is GONE
    world.check()


def test_the_checker_finds_a_disabled_version_that_the_store_gives_out(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=3)
    world.service().disable(KEY, 1)
    world.check()
    world.store.enable(KEY, world.store.observe(KEY).versions[0])
    assert world.problems() == ["version 1 is disabled, but the store still gives it out"]


def test_a_compromised_key_without_a_policy_is_rotated_into_more_of_the_same_kind(tmp_path: Path) -> None:
    clock = Clock()
    world = World(BACKENDS["memory-fenced"](tmp_path, clock, seeded()), clock)
    service = world.service()
    service.import_key("no-policy-key", KeyMaterial(b"m" * 48), created=None)
    assert service.compromised("no-policy-key", 1).status is Status.ROTATED
    assert service.get("no-policy-key").record.spec == "bytes-48"


@pytest.mark.parametrize("act", ["import_key", "adopt"])
def test_a_time_without_a_zone_is_refused_before_anything_is_written(act: str, tmp_path: Path) -> None:
    clock = Clock()
    world = World(BACKENDS["memory-fenced"](tmp_path, clock, seeded()), clock)
    world.rotate()
    naive = datetime(2025, 1, 1)  # noqa: DTZ001  # that is what is refused
    acts: dict[str, Callable[[], object]] = {
        "adopt": lambda: world.service().adopt(KEY, created=naive),
        "import_key": lambda: world.service().import_key("another-key", KeyMaterial(b"m" * 32), created=naive),
    }
    with pytest.raises(ConfigurationError, match="has no time zone"):
        acts[act]()
    assert world.ledger.sequences("another-key") == []


def test_a_reason_that_is_no_text_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=2)
    entries = len(world.history().entries)
    for reason in ("\udcff", "x" * (1 << 20)):
        with pytest.raises(ConfigurationError):
            world.service().rollback(KEY, reason=reason)
    assert len(world.history().entries) == entries


def test_there_is_nothing_to_adopt_where_the_manifest_knows_everything(tmp_path: Path) -> None:
    world = _world(tmp_path, "memory-fenced", rotations=2)
    with pytest.raises(RefusedError, match="knows all"):
        world.service().adopt(KEY)
