"""Rules that a store with labels needs: versions without fingerprints, marks that lie, notes, and what is overdue."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daena_kms import due, plan, trust
from daena_kms.errors import UnavailableError
from daena_kms.fleet import Limits, Order, Report
from daena_kms.journal import Journal
from daena_kms.material import KeyMaterial
from daena_kms.model import (
    Burnt,
    Claim,
    InventoryRow,
    KeyState,
    Observed,
    Operation,
    Outcome,
    State,
    Status,
    StoredVersion,
    VersionRecord,
)
from daena_kms.plan import View, Work
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from tests.support import liars
from tests.support.worlds import KEY, LEASE, START, Clock, memory_backend, seeded

NOW = START
OLD, NEW = "1:old", "1:new"
ACTIVE = VersionRecord(2, "id-2", OLD, "AES-256", State.ACTIVE, START, START)
CLAIM = Claim(
    Operation.ROTATE, 3, "me", NOW + LEASE, "policy", rotation_id="r3", fingerprint=NEW, spec="AES-256", made_at=NOW
)
BURNT = Burnt(1, OLD, "AES-256", NOW)


# --- which version is meant, where a store shows no fingerprint


@pytest.mark.parametrize(
    ("version", "name", "meant"),
    [
        pytest.param(StoredVersion(2, "id-2"), ACTIVE, True, id="active"),
        pytest.param(StoredVersion(2, "somebody's"), ACTIVE, False, id="foreign under the active number"),
        pytest.param(StoredVersion(3, "id-2"), ACTIVE, False, id="active under another number"),
        pytest.param(StoredVersion(2, "somebody's", OLD), ACTIVE, True, id="active, by its fingerprint"),
        pytest.param(StoredVersion(2, "id-2", NEW), ACTIVE, False, id="other material in the active version"),
        pytest.param(StoredVersion(3, "id-3", rotation_id="r3"), CLAIM, True, id="claimed"),
        pytest.param(StoredVersion(3, "id-3", rotation_id="r4"), CLAIM, False, id="of another rotation"),
        pytest.param(StoredVersion(3, "somebody's"), CLAIM, False, id="foreign under the claimed number"),
        pytest.param(StoredVersion(3, "id-3", NEW), CLAIM, True, id="claimed, by its fingerprint"),
        pytest.param(StoredVersion(1, "id-1", rotation_id="r1"), BURNT, True, id="given up"),
        pytest.param(StoredVersion(1, "id-1", OLD), BURNT, True, id="given up, by its fingerprint"),
        pytest.param(StoredVersion(1, "somebody's"), BURNT, False, id="foreign under a number given up"),
        pytest.param(StoredVersion(1, "id-1", NEW), BURNT, False, id="other material under a number given up"),
    ],
)
def test_a_version_is_the_one_that_is_named(
    version: StoredVersion, name: VersionRecord | Claim | Burnt, meant: bool
) -> None:
    assert plan._is(version, name) is meant


def _step(state: KeyState, newest: StoredVersion, *, settled: bool, fenced: bool = True, **seen: Any) -> plan.Step:
    observed = Observed(exists=True, newest=newest, **{"versions": (newest,), **seen})
    view = View(state, observed, settled, known={2: OLD} if settled else None)
    return plan.next_step(Work(KEY, "me", Operation.ROTATE, cutoff=NOW), view, NOW, fenced=fenced)


REST = KeyState(highest=2, active=ACTIVE)
CLAIMED = KeyState(highest=3, active=ACTIVE, claim=CLAIM)


@pytest.mark.parametrize("state", [REST, CLAIMED], ids=["at rest", "in a rotation"])
@pytest.mark.parametrize("number", [2, 3])
def test_a_foreign_version_under_a_number_of_ours_is_drift_once_it_is_certain(state: KeyState, number: int) -> None:
    foreign = StoredVersion(number, "somebody's")
    assert _step(state, foreign, settled=False) == plan.Look()
    refused = _step(state, foreign, settled=True)
    assert refused == plan.Refuse(f"readers get version {number}, which no claim names", plan.DRIFT_HINT)


def test_a_foreign_version_without_a_number_is_named_by_its_id() -> None:
    refused = _step(REST, StoredVersion(0, "somebody's"), settled=True)
    assert refused == plan.Refuse("readers get version somebody's, which no claim names", plan.DRIFT_HINT)


LIVE = StoredVersion(2, "id-2")


@pytest.mark.parametrize("marked", [True, False], ids=["staged", "without the mark"])
def test_what_was_staged_is_verified_and_promoted_whatever_its_marks_say(marked: bool) -> None:
    """A late writer's put takes the label from it: where a version is moved to its place, that changes nothing."""
    waiting = StoredVersion(3, "id-3", rotation_id="r3", staged=marked)
    seen: dict[str, Any] = {"staged": (waiting,)} if marked else {"versions": (LIVE, waiting)}
    assert _step(CLAIMED, LIVE, settled=False, **seen) == plan.Verify(waiting)
    view = View(CLAIMED, Observed(exists=True, newest=LIVE, **{"versions": (LIVE,), **seen}))
    verified = Work(KEY, "me", Operation.ROTATE, cutoff=NOW, verified=NEW)
    assert plan.next_step(verified, view, NOW, fenced=True) == plan.Promote(waiting, LIVE)


# --- what was published stays published


def _seen(versions: dict[int, bool]) -> Observed:
    """Versions by number; True for those that seem to be staged."""
    made = [StoredVersion(number, f"id-{number}", staged=staged) for number, staged in sorted(versions.items())]
    return Observed(
        exists=True, versions=tuple(v for v in made if not v.staged), staged=tuple(v for v in made if v.staged)
    )


def test_what_the_manifest_knows_is_published_whatever_its_marks_say() -> None:
    seen = _seen({1: False, 2: True, 3: False, 4: True}).with_published({1, 2, 3})
    assert [(v.number, v.staged) for v in seen.versions] == [(1, False), (2, False), (3, False)]
    assert [v.number for v in seen.staged] == [4]


@given(st.dictionaries(st.integers(1, 20), st.booleans()), st.sets(st.integers(1, 20)))
def test_no_version_is_lost_or_doubled_by_it(versions: dict[int, bool], known: set[int]) -> None:
    before = _seen(versions)
    after = before.with_published(known)
    assert [v.number for v in after.versions] == sorted(n for n, staged in versions.items() if not staged or n in known)
    assert [v.number for v in after.staged] == sorted(n for n, staged in versions.items() if staged and n not in known)
    assert not any(v.staged for v in after.versions)
    assert after.with_published(known) == after


def test_where_nothing_seems_staged_nothing_is_changed() -> None:
    seen = _seen({1: False, 2: False})
    assert seen.with_published({1, 2}) is seen


# --- a listing that shows something else


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "does not exist yet"),
        (InventoryRow(KEY, "ledger", 0), "does not exist yet"),
        (InventoryRow(KEY, "ledger", 0, seen=Observed(exists=True)), "does not exist yet"),
        (
            InventoryRow(KEY, "ledger", 0, seen=Observed(exists=True, newest=StoredVersion(0, "somebody's"))),
            "readers get a version that is not ours",
        ),
        (InventoryRow(KEY, "ledger", 1), "the store and the manifest have to be compared"),
    ],
)
def test_what_a_listing_shows_makes_a_key_due(row: InventoryRow | None, reason: str) -> None:
    verdict = due.assess(row, KEY, KeyPolicy(create=True), NOW, Tick())
    assert (verdict.status, verdict.reason) == (Status.DUE, reason)


# --- runs: what is overdue, what is stuck, what was noticed

MAKE = KeyPolicy(create=True, rotate_after_days=90)


class Fleet:
    """Several keys in one store in memory."""

    def __init__(self, **keys: KeyPolicy) -> None:
        self.keys = {name.replace("_", "-"): policy for name, policy in keys.items()}
        self.clock = Clock()
        self.backend = memory_backend(Path(), self.clock, seeded(), fenced=True)
        trust.initialise(self.backend.store, self.backend.ledger, clock=self.clock, trigger="test")

    def service(self, store: Any = None) -> Service:
        keyring = trust.open_keyring(self.backend.store, self.backend.ledger)
        journal = Journal(self.backend.ledger, keyring, clock=self.clock, actor="test", trigger="test")
        tools = Tools(store or self.backend.store, journal, self.clock, LEASE, timedelta(seconds=30), "digest")
        return Service(tools, RotationPolicy(self.keys, "digest"), tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)

    def rotate(self, *keys: str, store: Any = None) -> Report:
        return self.service(store).rotate(Order(keys))

    def outcome(self, store: Any = None, *, force: bool = False) -> Outcome:
        """What a run did about the one key."""
        (outcome,) = self.service(store).rotate(Order(("a-key",), force=force)).outcomes
        return outcome

    def faulty(self, method: str, fault: Callable[..., Any]) -> liars.Faulty:
        return liars.Faulty(self.backend.store, method, fault)


def test_a_key_that_was_rotated_in_time_is_not_overdue() -> None:
    fleet = Fleet(a_key=MAKE)
    assert (fleet.rotate().overdue, fleet.rotate().oldest_active_days) == ((), 0)
    fleet.clock.move(days=60)
    report = fleet.rotate()
    assert (report.overdue, report.oldest_active_days) == ((), 60)
    fleet.clock.move(days=40)
    report = fleet.rotate()
    assert report.counts() == {"rotated": 1}
    assert (report.overdue, report.oldest_active_days) == ((), 0)


def test_keys_that_are_older_than_their_policy_allows_and_were_not_rotated_are_overdue() -> None:
    fleet = Fleet(a_key=MAKE, b_key=MAKE, c_key=MAKE, d_key=msgspec.structs.replace(MAKE, rotate_after_days=200))
    fleet.rotate()
    fleet.service().pause("b-key")
    fleet.clock.move(days=91)

    def fails_for_c(stage: Callable[..., Any], key: str, *args: Any) -> Any:
        if key == "c-key":
            raise UnavailableError("no network")
        return stage(key, *args)

    report = fleet.rotate(store=fleet.faulty("stage", fails_for_c))
    assert {o.key: o.status for o in report.outcomes} == {
        "a-key": Status.ROTATED, "b-key": Status.PAUSED, "c-key": Status.FAILED, "d-key": Status.NOT_DUE,
    }  # fmt: skip
    assert (report.overdue, report.oldest_active_days) == (("b-key", "c-key"), 91)


def test_a_key_at_its_limit_is_not_overdue_and_one_past_it_is() -> None:
    fleet = Fleet(a_key=MAKE)
    fleet.rotate()
    fleet.service().pause("a-key")
    fleet.clock.move(days=90)
    assert fleet.rotate().overdue == ()
    fleet.clock.move(seconds=1)
    assert fleet.rotate().overdue == ("a-key",)


def test_a_key_without_a_policy_is_neither_overdue_nor_the_oldest() -> None:
    fleet = Fleet(a_key=MAKE)
    fleet.service().import_key("b-key", KeyMaterial(b"k" * 32), created=NOW - timedelta(days=400))
    fleet.rotate()
    fleet.clock.move(days=10)
    report = fleet.rotate()
    assert (report.overdue, report.oldest_active_days) == ((), 10)


def test_only_keys_that_were_asked_for_are_reported() -> None:
    fleet = Fleet(a_key=MAKE, b_key=MAKE)
    fleet.rotate()
    fleet.service().pause("a-key")
    fleet.service().pause("b-key")
    fleet.clock.move(days=100)
    assert fleet.rotate("b-key").overdue == ("b-key",)


def test_a_plan_has_no_old_keys_to_report() -> None:
    report = Fleet(a_key=MAKE).service().dry_run(Order())
    assert (report.overdue, report.oldest_active_days) == ((), 0)


def _no_network(*_: Any, **__: Any) -> Any:
    raise UnavailableError("no network")


def test_a_claim_that_stays_open_past_its_lease_is_stuck_until_a_run_ends_it() -> None:
    fleet = Fleet(a_key=MAKE)
    fleet.rotate()
    first = fleet.outcome(fleet.faulty("stage", _no_network), force=True)
    assert (first.status, first.stuck) == (Status.FAILED, False)
    blind = fleet.faulty("observe", _no_network)
    inside = fleet.outcome(blind, force=True)
    assert (inside.status, inside.stuck) == (Status.FAILED, False)
    fleet.clock.move(minutes=15)
    past = fleet.outcome(blind)
    assert (past.status, past.stuck) == (Status.FAILED, True)
    ended = fleet.outcome()
    assert (ended.status, ended.stuck) == (Status.ROTATED, False)


def test_a_claim_that_the_head_beside_the_key_does_not_show_yet_is_told_as_stuck_too() -> None:
    """A rotation stores no head when it claims, so the run after it begins with an older one."""
    fleet = Fleet(a_key=MAKE)
    fleet.rotate()
    fleet.clock.move(days=90)
    fleet.outcome(fleet.faulty("stage", _no_network))
    fleet.clock.move(minutes=15)
    outcome = fleet.outcome(fleet.faulty("prepare", _no_network))
    assert (outcome.status, outcome.stuck) == (Status.FAILED, True)


def test_a_failure_without_a_claim_is_not_stuck() -> None:
    fleet = Fleet(a_key=MAKE)
    fleet.rotate()
    fleet.clock.move(days=90)
    failed = fleet.outcome(fleet.faulty("observe", _no_network))
    assert (failed.status, failed.stuck) == (Status.FAILED, False)


def _noted(observe: Callable[..., Observed], key: str, **asked: Any) -> Observed:
    return msgspec.structs.replace(observe(key, **asked), notes=("something odd", "something else"))


def test_what_a_store_notices_is_told_once_by_whoever_looks() -> None:
    fleet = Fleet(a_key=MAKE)
    noticing = fleet.faulty("observe", _noted)
    assert fleet.outcome(noticing).notes == ("something odd", "something else")
    fleet.clock.move(days=90)
    assert fleet.outcome(noticing).notes == ("something odd", "something else")
    (audit,) = fleet.service(noticing).verify(["a-key"])
    assert (audit.problems, audit.warnings) == ((), ("something odd", "something else"))


def test_what_a_store_notices_is_told_also_where_nothing_is_done() -> None:
    fleet = Fleet(a_key=MAKE)
    fleet.rotate()
    fleet.service().compromised("a-key", 1)
    noticing = fleet.faulty("observe", _noted)
    fleet.service().pause("a-key")
    (outcome,) = fleet.service(noticing).rotate(Order(("a-key",), force=True, request="ticket-7")).outcomes
    assert [outcome.notes.count(note) for note in ("something odd", "something else")] == [1, 1]
    (again,) = fleet.service(noticing).rotate(Order(("a-key",), force=True, request="ticket-7")).outcomes
    assert (again.status, again.notes) == (Status.NOT_DUE, ("something odd", "something else"))
