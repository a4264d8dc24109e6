"""The protocol's one pure function, case by case: what is seen -> the one next step."""

from datetime import timedelta
from typing import Any

import msgspec.structs
import pytest
from msgspec.structs import replace

from daena_kms import plan
from daena_kms.model import (
    Burnt,
    Claim,
    KeyState,
    Observed,
    Operation,
    State,
    Status,
    StoredVersion,
    VersionRecord,
)
from daena_kms.plan import View, Work
from tests.support.worlds import KEY, LEASE, START

NOW = START
OLD, NEW, OTHER = "1:old", "1:new", "1:other"
ACTIVE = VersionRecord(1, "id-1", OLD, "AES-256", State.ACTIVE, START, START)
LIVE_1 = StoredVersion(1, "id-1", OLD)
LIVE_2 = StoredVersion(2, "id-2", NEW)
STAGED_2 = StoredVersion(2, "id-2", NEW, staged=True)
FOREIGN_2 = StoredVersion(2, "id-2", OTHER, staged=True)
SOMEBODYS_2 = StoredVersion(2, "somebody's")
LOOSE_1 = StoredVersion(1, "id-1", OLD, loose=True)
REST = KeyState(highest=1, active=ACTIVE)
SEEN = Observed(exists=True, newest=LIVE_1, versions=(LIVE_1,))
NOTHING = Observed(exists=False)


def _claim(run: str = "me", **fields: Any) -> Claim:
    base = Claim(
        Operation.ROTATE, 2, run, NOW + LEASE, "policy", rotation_id="r2", fingerprint=NEW, spec="AES-256", made_at=NOW
    )
    return msgspec.structs.replace(base, **fields)


def _claimed(claim: Claim, **fields: Any) -> KeyState:
    return msgspec.structs.replace(REST, **{"highest": 2, "claim": claim, **fields})


def _seen(
    *, newest: StoredVersion = LIVE_1, versions: tuple[StoredVersion, ...] = (LIVE_1,), **fields: Any
) -> Observed:
    return msgspec.structs.replace(SEEN, newest=newest, versions=versions, **fields)


def _work(operation: Operation = Operation.ROTATE, **fields: Any) -> Work:
    return Work(KEY, "me", operation, **{"cutoff": NOW, **fields})


EXPIRED = {"lease_until": NOW}
BURNT = (Burnt(2, NEW, "AES-256", NOW),)
GIVEN_UP = msgspec.structs.replace(REST, highest=2, burnt=BURNT)
YOUNG = NOW - timedelta(days=1)

# name: (work, state, seen, settled, fenced (None = either), expected step)
CASES: dict[str, tuple[Work, KeyState, Observed, bool, bool | None, object]] = {
    "due: claim the next number": (
        _work(), REST, SEEN, False, None, plan.Claiming(Operation.ROTATE, 2, 1),
    ),
    "young: not due": (
        _work(cutoff=YOUNG), REST, SEEN, False, None, plan.Done(Status.NOT_DUE, "version 1 is young enough"),
    ),
    "young but forced": (
        _work(cutoff=YOUNG, forced=True), REST, SEEN, False, None, plan.Claiming(Operation.ROTATE, 2, 1),
    ),
    "young but compromised": (
        _work(cutoff=YOUNG), KeyState(highest=1, active=msgspec.structs.replace(ACTIVE, compromised=True)), SEEN, False,
        None, plan.Claiming(Operation.ROTATE, 2, 1),
    ),
    "paused": (
        _work(), msgspec.structs.replace(REST, paused=True), SEEN, False, None,
        plan.Done(Status.PAUSED, "rotation is paused: `resume` ends that"),
    ),
    "no key: create": (
        _work(Operation.CREATE, cutoff=None), KeyState(), NOTHING, False, None, plan.Claiming(Operation.CREATE, 1, 0),
    ),
    "no key: nothing to rotate": (
        _work(), KeyState(), NOTHING, False, None,
        plan.Refuse("there is no such key", "`create KEY` makes one, or `create = true` in its policy"),
    ),
    "key without manifest: look again before saying so": (
        _work(), KeyState(), SEEN, False, None, plan.Look(),
    ),
    "key without manifest": (
        _work(), KeyState(), SEEN, True, None,
        plan.Refuse("the store has this key, but there is no manifest of it", "`daena-key-rotate adopt KEY` makes one"),
    ),
    "key without manifest, to be adopted": (
        _work(Operation.ADOPT), KeyState(), SEEN, False, None, plan.Claiming(Operation.ADOPT, 0, 1),
    ),
    "manifest without key": (
        _work(), REST, NOTHING, True, None,
        plan.Refuse("the manifest says that version 1 is active, but the store has no such key", plan.MISSING_HINT),
    ),
    "manifest without key, made anew on purpose": (
        _work(Operation.CREATE, anew=True, forced=True), REST, NOTHING, False, None,
        plan.Claiming(Operation.CREATE, 2, 0),
    ),
    "drift: look again before saying so": (
        _work(), REST, _seen(newest=StoredVersion(7, "id-7", OTHER)), False, None, plan.Look(),
    ),
    "drift": (
        _work(), REST, _seen(newest=StoredVersion(7, "id-7", OTHER)), True, None,
        plan.Refuse("readers get version 7, which no claim names", plan.DRIFT_HINT),
    ),
    "drift: our number with other material": (
        _work(), REST, _seen(newest=StoredVersion(1, "id-1", OTHER)), True, None,
        plan.Refuse("readers get version 1, which no claim names", plan.DRIFT_HINT),
    ),
    "another run's claim, inside its lease, perhaps ended since: look again": (
        _work(), _claimed(_claim("other")), SEEN, False, None, plan.Look(),
    ),
    "another run's claim, inside its lease": (
        _work(), _claimed(_claim("other")), SEEN, True, None,
        plan.Done(
            Status.IN_PROGRESS, "rotate of version 2 is in progress in another run", NOW + LEASE,
            "if that run has died, its claim ends by itself",
        ),
    ),
    "an expired claim whose material is staged: take over": (
        _work(), _claimed(_claim("other", **EXPIRED)), _seen(staged=(STAGED_2,)), False, None, plan.TakeOver(),
    ),
    "an expired claim whose material is live: take over": (
        _work(), _claimed(_claim("other", **EXPIRED)), _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2)), False, None,
        plan.TakeOver(),
    ),
    "an expired claim whose material is nowhere: burn its number": (
        _work(), _claimed(_claim("other", request="ticket", **EXPIRED)), SEEN, False, None,
        plan.Claiming(Operation.ROTATE, 3, 1, request="ticket", burning=_claim("other", request="ticket", **EXPIRED)),
    ),
    "an expired claim, other material under its number: burn it": (
        _work(), _claimed(_claim("other", **EXPIRED)), _seen(staged=(FOREIGN_2,)), False, None,
        plan.Claiming(Operation.ROTATE, 3, 1, burning=_claim("other", **EXPIRED)),
    ),
    "an expired import: its material is lost": (
        _work(), _claimed(_claim("other", operation=Operation.IMPORT, **EXPIRED)), SEEN, False, None,
        plan.Discard("the imported material was lost with the run that brought it: import it again", waits=False),
    ),
    "an expired change: take over": (
        _work(), _claimed(_claim("other", operation=Operation.DISABLE, number=1, **EXPIRED)), SEEN, False, None,
        plan.TakeOver(),
    ),
    "own claim, material in memory: stage": (
        _work(claimed=True, holding=NEW), _claimed(_claim()), SEEN, False, None, plan.Stage(),
    ),
    "own claim, material lost: burn": (
        _work(claimed=True), _claimed(_claim()), SEEN, False, None,
        plan.Claiming(Operation.ROTATE, 3, 1, burning=_claim()),
    ),
    "own claim, staged: verify": (
        _work(claimed=True, holding=NEW), _claimed(_claim()), _seen(staged=(STAGED_2,)), False, None,
        plan.Verify(STAGED_2),
    ),
    "own claim, a version of somebody's under its number: give it up, and touch nothing": (
        _work(claimed=True, holding=NEW), _claimed(_claim()), _seen(versions=(LIVE_1, SOMEBODYS_2)), False, True,
        plan.Discard("a version that is none of ours lies under this number", hint=plan.NUMBER_TAKEN_HINT),
    ),
    "an expired claim, somebody's version under its number: burn it": (
        _work(), _claimed(_claim("other", **EXPIRED)), _seen(versions=(LIVE_1, SOMEBODYS_2)), False, None,
        plan.Claiming(Operation.ROTATE, 3, 1, burning=_claim("other", **EXPIRED)),
    ),
    "own claim, check failed, somebody's version under its number too: discard ours": (
        _work(claimed=True, rejected=NEW, rejected_why="a bit is wrong"), _claimed(_claim()),
        _seen(staged=(STAGED_2,), versions=(LIVE_1, SOMEBODYS_2)), False, None,
        plan.Discard("a bit is wrong", STAGED_2),
    ),
    "own claim, staged, somebody's version published under its number: verify ours": (
        _work(claimed=True), _claimed(_claim()), _seen(staged=(STAGED_2,), versions=(LIVE_1, SOMEBODYS_2)), False, None,
        plan.Verify(STAGED_2),
    ),
    "own claim, verified, and a version lost the mark that keeps it: that first": (
        _work(claimed=True, verified=NEW), _claimed(_claim()),
        _seen(versions=(LOOSE_1,), newest=LOOSE_1, staged=(STAGED_2,)), False, True, plan.Keep((LOOSE_1,)),
    ),
    "own claim, staged and verified: promote against what was planned on": (
        _work(claimed=True, verified=NEW), _claimed(_claim()), _seen(staged=(STAGED_2,)), False, None,
        plan.Promote(STAGED_2, LIVE_1),
    ),
    "own claim, check failed: discard": (
        _work(claimed=True, rejected=NEW, rejected_why="a bit is wrong"), _claimed(_claim()),
        _seen(staged=(STAGED_2,)), False, None,
        plan.Discard("a bit is wrong", STAGED_2),
    ),
    "own claim, foreign material under its number: discard": (
        _work(claimed=True, holding=NEW), _claimed(_claim()),
        _seen(staged=(FOREIGN_2,)), False, True,
        plan.Discard(
            "what lies staged under this number is not the claimed material",
            FOREIGN_2,
        ),
    ),
    "own claim, live: verify once more if this run has not": (
        _work(claimed=True), _claimed(_claim()), _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2)), False, None,
        plan.Verify(LIVE_2),
    ),
    "own claim, live but bad: a person must look": (
        _work(claimed=True, rejected=NEW, rejected_why="a bit is wrong"), _claimed(_claim()),
        _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2)), False, None,
        plan.Refuse("version 2 is live, but fails its check: a bit is wrong", plan.DRIFT_HINT),
    ),
    "own claim, live, staged copy left: take it away first": (
        _work(claimed=True, verified=NEW), _claimed(_claim()),
        _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2), staged=(STAGED_2,)), False, False, plan.Tidy((STAGED_2,)),
    ),
    "own claim, live, what may be a staged copy, and is perhaps a version that lost its mark: look again": (
        _work(claimed=True, verified=NEW), _claimed(_claim()),
        _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2), staged=(STAGED_2,)), False, True, plan.Look(),
    ),
    "own claim, live, staged copy left, looked again: take it away": (
        _work(claimed=True, verified=NEW), _claimed(_claim()),
        _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2), staged=(STAGED_2,)), True, None, plan.Tidy((STAGED_2,)),
    ),
    "own claim, live: finish": (
        _work(claimed=True, verified=NEW), _claimed(_claim()), _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2)), False,
        None, plan.Finish(LIVE_2, ()),
    ),
    "own claim, live: finish, and name the stray": (
        _work(claimed=True, verified=OTHER), _claimed(_claim(number=3, fingerprint=OTHER), highest=3, burnt=BURNT),
        _seen(newest=StoredVersion(3, "id-3", OTHER), versions=(LIVE_1, LIVE_2, StoredVersion(3, "id-3", OTHER))),
        False, None, plan.Finish(StoredVersion(3, "id-3", OTHER), (LIVE_2,)),
    ),
    "own claim, check failed, and the mark that said it is staged is gone: discard all the same": (
        _work(claimed=True, rejected=NEW, rejected_why="a bit is wrong"), _claimed(_claim()),
        _seen(versions=(LIVE_1, LIVE_2)), False, True,
        plan.Discard("a bit is wrong", replace(LIVE_2, staged=True)),
    ),
    "own adoption, not certain what the manifest knows: look again": (
        _work(Operation.ADOPT, claimed=True), _claimed(_claim(operation=Operation.ADOPT)), SEEN, False, None,
        plan.Look(),
    ),
    "own adoption: apply": (
        _work(Operation.ADOPT, claimed=True), _claimed(_claim(operation=Operation.ADOPT)), SEEN, True, None,
        plan.Apply(),
    ),
    "own change: apply": (
        _work(Operation.DISABLE, number=1, claimed=True), _claimed(_claim(operation=Operation.DISABLE, number=1)), SEEN,
        False, None, plan.Apply(),
    ),
    "a late publication of a burnt number, append-only: adopt": (
        _work(), GIVEN_UP,
        _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2)), False, False, plan.Adopt((LIVE_2,)),
    ),
    "a late promotion of a burnt number, compare-and-set: verify it": (
        _work(), GIVEN_UP, _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2)), False, True, plan.Verify(LIVE_2),
    ),
    "a late promotion of a burnt number, verified: it stays": (
        _work(verified=NEW), GIVEN_UP, _seen(newest=LIVE_2, versions=(LIVE_1, LIVE_2)), False, True,
        plan.Adopt((), LIVE_2),
    ),
    "somebody's version under a burnt number is no stray": (
        _work(cutoff=YOUNG), GIVEN_UP, _seen(versions=(LIVE_1, SOMEBODYS_2)), False, None,
        plan.Done(Status.NOT_DUE, "version 1 is young enough"),
    ),
    "a stray that this run has found to be something else is left alone": (
        _work(cutoff=YOUNG, unfit=frozenset({"id-2"})), GIVEN_UP, _seen(versions=(LIVE_1, LIVE_2)), False, None,
        plan.Done(Status.NOT_DUE, "version 1 is young enough"),
    ),
    "an orphan at rest: look again before touching it": (
        _work(), REST, _seen(staged=(STAGED_2,)), False, None, plan.Look(),
    ),
    "an orphan at rest: take it away": (
        _work(), REST, _seen(staged=(STAGED_2,)), True, None, plan.Tidy((STAGED_2,)),
    ),
    "failed check, inside the back-off": (
        _work(), msgspec.structs.replace(REST, failures=1, retry_at=NOW + timedelta(hours=1)), SEEN, False, None,
        plan.Done(
            Status.WAITING, "the last new version failed its check; trying again later", NOW + timedelta(hours=1)
        ),
    ),
    "failed check, after the back-off": (
        _work(), msgspec.structs.replace(REST, failures=1, retry_at=NOW), SEEN, False, None,
        plan.Claiming(Operation.ROTATE, 2, 1),
    ),
    "work that is done": (
        _work(claimed=True), REST, SEEN, False, None, plan.Done(Status.DONE, "done"),
    ),
    "a request: look whether it was carried out": (
        _work(forced=True, request="ticket"), REST, SEEN, False, None, plan.Look(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("work", "state", "seen", "settled", "fenced", "expected"), CASES.values(), ids=CASES)
def test_next_step(
    work: Work, state: KeyState, seen: Observed, settled: bool, fenced: bool | None, expected: object
) -> None:
    known = {1: OLD} if settled else None
    for kind in (True, False) if fenced is None else (fenced,):
        assert plan.next_step(work, View(state, seen, settled, known), NOW, fenced=kind) == expected


def test_a_request_in_the_manifest_is_a_no_op() -> None:
    view = View(REST, SEEN, True, {1: OLD}, frozenset({"ticket"}))
    step = plan.next_step(_work(forced=True, request="ticket"), view, NOW, fenced=True)
    assert step == plan.Done(Status.NOT_DUE, "request ticket was carried out before")


def test_what_can_be_done_for_loose_versions_is_done_once() -> None:
    view = View(_claimed(_claim()), _seen(versions=(LOOSE_1,), newest=LOOSE_1, staged=(STAGED_2,)))
    after = plan.with_kept(view, (LOOSE_1,))
    step = plan.next_step(_work(claimed=True, verified=NEW), after, NOW, fenced=True)
    assert step == plan.Promote(STAGED_2, LOOSE_1)


def test_an_older_version_on_top_is_published_over_on_append_only_stores() -> None:
    record = VersionRecord(2, "id-2", NEW, "AES-256", State.ACTIVE, START, START)
    state = KeyState(highest=2, active=record)
    seen = _seen(newest=LIVE_1, versions=(LIVE_1, LIVE_2))
    assert plan.next_step(_work(cutoff=YOUNG), View(state, seen), NOW, fenced=False) == plan.Look()
    known = View(state, seen, True, {1: OLD, 2: NEW})
    assert plan.next_step(_work(cutoff=YOUNG), known, NOW, fenced=False) == plan.Republish(LIVE_2)
    refused = plan.next_step(_work(cutoff=YOUNG), known, NOW, fenced=True)
    assert isinstance(refused, plan.Refuse)


def test_three_failures_wait_for_a_person() -> None:
    state = msgspec.structs.replace(REST, failures=3)
    step = plan.next_step(_work(), View(state, SEEN), NOW, fenced=True)
    assert isinstance(step, plan.Done)
    assert step.status is Status.FAILED
    forced = plan.next_step(_work(forced=True), View(state, SEEN), NOW, fenced=True)
    assert isinstance(forced, plan.Claiming)


def test_the_rotation_id_is_the_same_for_the_same_work_and_for_no_other() -> None:
    same = {plan.rotation_id(KEY, 1, 2) for _ in range(2)}
    others = {plan.rotation_id(KEY, 2, 2), plan.rotation_id(KEY, 1, 3), plan.rotation_id("other-key", 1, 2)}
    assert len(same) == 1
    assert not same & others
    assert len(others) == 3


@pytest.mark.parametrize(("failures", "hours"), [(1, 1), (2, 2), (3, 4)])
def test_the_back_off_doubles(failures: int, hours: int) -> None:
    assert plan.back_off(failures) == timedelta(hours=hours)
