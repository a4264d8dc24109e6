"""Many keys: one outcome each, bounded in time, and one bad key never stops the others."""

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest

from daena_kms import trust
from daena_kms.errors import ConfigurationError, NotFoundError, ThrottledError
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.material import KeyMaterial
from daena_kms.model import Outcome, Status
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from daena_kms.window import Window
from tests.support import liars
from tests.support.worlds import LEASE, START, Backend, Clock, Effects, Mortal, dying, memory_backend, seeded

MAKE = KeyPolicy(create=True)


class Many:
    """Several keys in one store."""

    def __init__(self, keys: dict[str, KeyPolicy]) -> None:
        self.clock = Clock()
        self.backend: Backend = memory_backend(Path(), self.clock, seeded(), fenced=True)
        trust.initialise(self.backend.store, self.backend.ledger, clock=self.clock, trigger="test")
        self.keys = keys

    def service(
        self,
        store: Any = None,
        limits: Limits = Limits(4),  # noqa: B008  # frozen
        monotonic: Callable[[], float] = lambda: 0.0,
        ledger: Any = None,
    ) -> Service:
        keyring = trust.open_keyring(self.backend.store, self.backend.ledger)
        journal = Journal(ledger or self.backend.ledger, keyring, clock=self.clock, actor="test", trigger="test")
        tools = Tools(store or self.backend.store, journal, self.clock, LEASE, timedelta(seconds=30), "digest")
        return Service(tools, RotationPolicy(self.keys, "digest"), tick=Tick(), limits=limits, monotonic=monotonic)

    def rotate(self, order: Order = Order(), **how: Any) -> dict[str, Outcome]:  # noqa: B008  # frozen
        report = self.service(**how).rotate(order)
        return {outcome.key: outcome for outcome in report.outcomes}


def _statuses(outcomes: dict[str, Outcome]) -> dict[str, Status]:
    return {key: outcome.status for key, outcome in outcomes.items()}


def test_every_key_has_one_outcome_in_the_keys_order() -> None:
    many = Many(dict.fromkeys(("c-key", "a-key", "b-key"), MAKE))
    assert list(_statuses(many.rotate()).items()) == [(k, Status.CREATED) for k in ("a-key", "b-key", "c-key")]
    assert set(_statuses(many.rotate()).values()) == {Status.NOT_DUE}


def test_one_bad_key_never_stops_the_others() -> None:
    many = Many({"a-key": MAKE, "b-key": MAKE, "c-key": MAKE})

    def fails_for_b(stage: Callable[..., Any], key: str, *args: Any) -> Any:
        if key == "b-key":
            raise RuntimeError("canary-secret-in-an-unknown-error")
        return stage(key, *args)

    outcomes = many.rotate(store=liars.Faulty(many.backend.store, "stage", fails_for_b))
    assert _statuses(outcomes) == {"a-key": Status.CREATED, "b-key": Status.FAILED, "c-key": Status.CREATED}
    assert outcomes["b-key"].message == "unexpected RuntimeError"
    assert "canary" not in repr(outcomes)


def test_a_typo_in_the_policy_makes_no_key() -> None:
    many = Many({"daena-encrpytion-key": KeyPolicy()})
    (outcome,) = many.rotate().values()
    assert outcome.status is Status.FAILED
    assert "does not say create = true" in outcome.message
    assert many.backend.ledger.sequences("daena-encrpytion-key") == []
    assert many.backend.store.observe("daena-encrpytion-key").exists is False


def test_a_key_outside_the_policy_is_reported_and_not_rotated() -> None:
    many = Many({})
    many.service().import_key("old-key", KeyMaterial(b"k" * 32), created=many.clock() - timedelta(days=400))
    outcomes = many.rotate()
    assert _statuses(outcomes) == {"old-key": Status.UNMANAGED}
    with pytest.raises(ConfigurationError, match="no policy names old-key"):
        many.rotate(Order(("old-key",), force=True))


def test_a_key_that_nobody_knows_is_an_error_before_anything_is_done() -> None:
    many = Many({"a-key": MAKE})
    with pytest.raises(NotFoundError, match="'b-key'"):
        many.rotate(Order(("a-key", "b-key")))
    assert many.backend.store.observe("a-key").exists is False


def test_what_does_not_fit_into_the_time_budget_is_deferred_and_done_by_the_next_run() -> None:
    many = Many({f"key-{i}": MAKE for i in range(6)})
    seconds = itertools.count()
    outcomes = many.rotate(limits=Limits(1, 3.0), monotonic=lambda: float(next(seconds)))
    statuses = list(_statuses(outcomes).values())
    assert statuses.count(Status.CREATED) == 2
    assert statuses.count(Status.DEFERRED) == 4
    assert set(_statuses(many.rotate()).values()) == {Status.CREATED, Status.NOT_DUE}


def test_the_oldest_are_rotated_first() -> None:
    many = Many({f"key-{i}": MAKE for i in range(4)})
    for i in (2, 0, 3, 1):
        many.rotate(Order((f"key-{i}",)))
        many.clock.move(days=1)
    many.clock.move(days=90)
    order: list[str] = []
    many.service(limits=Limits(1)).rotate(Order(), progress=lambda outcome: order.append(outcome.key))
    assert order == ["key-2", "key-0", "key-3", "key-1"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_never_more_keys_at_once_than_allowed(concurrency: int) -> None:
    many = Many({f"key-{i}": MAKE for i in range(8)})
    lock, busy, most = threading.Lock(), [0], [0]
    meeting, arrivals = threading.Barrier(concurrency, timeout=60), itertools.count()

    def counted(stage: Callable[..., Any], *args: Any) -> Any:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        if next(arrivals) < concurrency:
            meeting.wait()  # proves that as many as allowed really do run at once
        result = stage(*args)
        with lock:
            busy[0] -= 1
        return result

    outcomes = many.rotate(store=liars.Faulty(many.backend.store, "stage", counted), limits=Limits(concurrency))
    assert set(_statuses(outcomes).values()) == {Status.CREATED}
    assert most[0] <= concurrency


def test_progress_is_told_once_per_key() -> None:
    many = Many({f"key-{i}": MAKE for i in range(5)})
    told: list[str] = []
    many.service().rotate(Order(), progress=lambda outcome: told.append(outcome.key))
    assert sorted(told) == [f"key-{i}" for i in range(5)]


def test_the_report_counts_and_knows_whether_it_failed() -> None:
    many = Many({"a-key": MAKE, "typo-key": KeyPolicy()})
    report = many.service().rotate(Order())
    assert report.counts() == {"created": 1, "failed": 1}
    assert report.failed
    assert report.policy == "digest"


def test_a_plan_changes_nothing_and_says_why() -> None:
    many = Many({"a-key": MAKE, "b-key": MAKE})
    many.rotate(Order(("a-key",)))
    before = dict(many.backend.ledger.objects)
    report = many.service().dry_run(Order())
    assert [(o.key, o.status) for o in report.outcomes] == [("a-key", Status.NOT_DUE), ("b-key", Status.DUE)]
    assert report.outcomes[1].why == "does not exist yet"
    assert many.backend.ledger.objects == before


def test_a_run_with_another_ledger_refuses() -> None:
    many = Many({"a-key": MAKE})
    many.rotate()
    many.clock.move(days=91)
    elsewhere = many.backend.ledger
    elsewhere.address = "memory:elsewhere"
    (outcome,) = many.rotate(ledger=elsewhere).values()
    assert outcome.status is Status.FAILED
    assert "belongs to the manifest at memory:ledger" in outcome.message


def test_a_changed_policy_is_noted() -> None:
    many = Many({"a-key": MAKE})
    many.rotate()
    many.clock.move(days=91)
    service = many.service()
    service.fleet.tools = msgspec.structs.replace(service.fleet.tools, policy_digest="another")
    (outcome,) = service.rotate(Order()).outcomes
    assert "the policy changed since the last claim" in outcome.notes[0]


@pytest.mark.parametrize("mac", ["", "zz", "\u00e9" * 64], ids=["none", "short", "not ascii"])
def test_one_forged_head_fails_its_key_and_no_other(mac: str) -> None:
    many = Many({"a-key": MAKE, "b-key": MAKE})
    many.rotate()
    anchor = many.backend.store.observe("a-key").anchor
    many.backend.store.write_anchor("a-key", msgspec.structs.replace(anchor, mac=mac))
    many.clock.move(days=91)
    outcomes = many.rotate()
    assert _statuses(outcomes) == {"a-key": Status.FAILED, "b-key": Status.ROTATED}
    assert "was not written by us" in outcomes["a-key"].message


def test_a_key_outside_its_window_is_not_rotated_by_age_though_something_else_is_to_be_done() -> None:
    saturdays = Window.parse("Sat 00:00-23:00")
    many = Many({"a-key": msgspec.structs.replace(MAKE, window=saturdays, destroy_after_days=1, grace_days=0)})
    for _ in range(3):
        many.rotate(Order(("a-key",), force=True))
    many.service().destroy("a-key", 1)
    many.clock.now = START + timedelta(days=138)  # a Tuesday
    assert many.clock.now.weekday() == 1
    (outcome,) = many.rotate().values()
    assert outcome.status is Status.NOT_DUE
    assert outcome.notes == ("destroyed: version 1",)
    many.clock.now += timedelta(days=4)
    assert many.rotate()["a-key"].status is Status.ROTATED


def test_what_a_dead_run_left_open_on_a_key_without_a_policy_is_brought_to_its_end() -> None:
    many = Many({})
    many.service().import_key("old-key", KeyMaterial(b"k" * 32), created=None)
    many.service().compromised("old-key", 1)
    effects = Effects(die_at=4)
    dead = many.service(Mortal(many.backend.store, effects), ledger=Mortal(many.backend.ledger, effects))
    with dying():
        dead.disable("old-key", 1)
    assert effects.names[-1] == "after append"
    many.clock.move(minutes=61)
    assert many.rotate()["old-key"].status is Status.DONE
    assert many.service().verify()[0].warnings == ()
    assert many.rotate()["old-key"].status is Status.UNMANAGED


def test_a_policy_that_no_longer_retires_calls_the_retirement_off() -> None:
    many = Many({"a-key": msgspec.structs.replace(MAKE, keep_versions=0, grace_days=10)})
    many.rotate()
    many.rotate(Order(("a-key",), force=True))
    many.keys["a-key"] = MAKE
    many.clock.move(days=11)
    many.rotate()
    before = len(many.backend.ledger.objects)
    planned = many.service().plan(Order())
    assert planned[0].verdict.status is Status.NOT_DUE
    assert len(many.backend.ledger.objects) == before


def test_a_key_that_the_store_has_no_quota_for_is_deferred_and_done_by_the_next_run() -> None:
    many = Many({"a-key": MAKE, "b-key": MAKE})
    outcomes = many.rotate(store=liars.Faulty(many.backend.store, "stage", _throttled_for_b))
    assert _statuses(outcomes) == {"a-key": Status.CREATED, "b-key": Status.DEFERRED}
    assert "too many requests" in outcomes["b-key"].message
    assert outcomes["b-key"].hint
    many.clock.move(minutes=60)
    assert _statuses(many.rotate()) == {"a-key": Status.NOT_DUE, "b-key": Status.CREATED}


def test_whoever_forces_a_key_is_told_that_it_failed_when_there_is_no_quota() -> None:
    many = Many({"a-key": MAKE, "b-key": MAKE})
    many.rotate()
    order = Order(("a-key", "b-key"), force=True, request="once")
    outcomes = many.rotate(order, store=liars.Faulty(many.backend.store, "stage", _throttled_for_b))
    assert _statuses(outcomes) == {"a-key": Status.ROTATED, "b-key": Status.FAILED}


def _throttled_for_b(stage: Callable[..., Any], key: str, *args: Any) -> Any:
    if key == "b-key":
        raise ThrottledError("too many requests", "try again later")
    return stage(key, *args)
