"""What functions are asked for and what they answer, on every cloud: events, reports, errors, figures."""

import json
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daena_kms import invocation
from daena_kms.errors import ConfigurationError, KmsError, NotFoundError
from daena_kms.fleet import Limits, Report
from daena_kms.invocation import ACTIONS, LONGEST_TEXT, MOST_KEYS, NAMED_FAILURES, Answer, Invocation, RunFailedError
from daena_kms.model import Outcome, Status
from daena_kms.names import RESERVED_KEY, name_problem
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.service import Service
from daena_kms.stores.base import NewVersion
from tests.support.worlds import KEY, START, Clock, World, memory_backend, seeded

TYPO = "typo-key"
LONGEST_MESSAGE = 500

# --- events

GOOD: list[tuple[dict[str, object], Invocation]] = [
    ({}, Invocation("rotate")),
    ({"action": "rotate"}, Invocation("rotate")),
    ({"action": "rotate", "keys": []}, Invocation("rotate")),
    (
        {"action": "rotate", "keys": ["a-key", "b-key"], "dry_run": True},
        Invocation(keys=("a-key", "b-key"), dry_run=True),
    ),
    (
        {"keys": [KEY], "force": True, "request_id": "ticket-7"},
        Invocation(keys=(KEY,), force=True, request_id="ticket-7"),
    ),
    (
        {"keys": [KEY], "force": True, "dry_run": True},
        Invocation(keys=(KEY,), force=True, dry_run=True, request_id="try"),
    ),
    ({"reason": "Grund: Notebook verloren – 鍵"}, Invocation(reason="Grund: Notebook verloren – 鍵")),
    ({"reason": "r" * LONGEST_TEXT}, Invocation(reason="r" * LONGEST_TEXT)),
    ({"keys": ["k"] * MOST_KEYS}, Invocation(keys=("k",) * MOST_KEYS)),
    ({"action": "plan", "keys": [KEY]}, Invocation("plan", (KEY,))),
    ({"action": "status"}, Invocation("status")),
    ({"action": "verify", "keys": [KEY], "reason": "audit"}, Invocation("verify", (KEY,), reason="audit")),
]


@pytest.mark.parametrize(("body", "expected"), GOOD, ids=range(len(GOOD)))
def test_an_event_is_understood(body: dict[str, object], expected: Invocation) -> None:
    assert invocation.parse(body, "try") == expected


def test_a_forced_rotation_has_the_platforms_id_unless_it_brings_its_own() -> None:
    forced = {"keys": [KEY], "force": True}
    assert invocation.parse(forced, "platform").request_id == "platform"
    assert invocation.parse({**forced, "request_id": "ticket-7"}, "platform").request_id == "ticket-7"
    assert invocation.parse(forced).request_id == ""
    assert invocation.parse({"keys": [KEY]}, "platform").request_id == ""  # the id of a due rotation is derived


BAD: dict[str, tuple[object, str]] = {
    "nothing": (None, "a JSON object expected, got NoneType"),
    "a text": ("rotate", "a JSON object expected, got str"),
    "a list": ([{"action": "rotate"}], "a JSON object expected, got list"),
    "a number": (1.5, "a JSON object expected, got float"),
    "a typo": ({"dryrun": True}, "unknown field 'dryrun'; did you mean 'dry_run'?"),
    "another field": ({"zzz": True}, "unknown field 'zzz'"),
    "another field beside good ones": ({"action": "rotate", "detail-type": "x"}, "unknown field 'detail-type'"),
    "an empty field": ({"": 1}, "unknown field ''"),
    "action of a wrong type": (
        {"action": None},
        "a field has the wrong type: Expected `str`, got `null` - at `$.action`",
    ),
    "keys that are one key": ({"keys": KEY}, "Expected `array`, got `str` - at `$.keys`"),
    "keys that are an object": ({"keys": {KEY: True}}, "Expected `array`, got `object` - at `$.keys`"),
    "a key that is a number": ({"keys": [KEY, 7]}, "Expected `str`, got `int` - at `$.keys[1]`"),
    "force that is a text": ({"keys": [KEY], "force": "true"}, "Expected `bool`, got `str` - at `$.force`"),
    "force that is a number": ({"keys": [KEY], "force": 1}, "Expected `bool`, got `int` - at `$.force`"),
    "dry_run that is nothing": ({"dry_run": None}, "Expected `bool`, got `null` - at `$.dry_run`"),
    "reason that is a list": ({"reason": ["x"]}, "Expected `str`, got `array` - at `$.reason`"),
    "request_id that is a number": ({"request_id": 7}, "Expected `str`, got `int` - at `$.request_id`"),
    "an unknown action": ({"action": "destroy"}, "'action' is 'destroy', one of rotate, plan, status, verify expected"),
    "an action in capitals": ({"action": "Rotate"}, "'action' is 'Rotate'"),
    "a bad key name": ({"keys": ["Bad_Name"]}, "key name 'Bad_Name' is not one that every store takes"),
    "an empty key name": ({"keys": [""]}, "key name '' is not one that every store takes"),
    "a key name with a path": ({"keys": ["../other"]}, "key name '../other' is not one that every store takes"),
    "a key name that is ours": ({"keys": [RESERVED_KEY]}, f"key name '{RESERVED_KEY}' contains '--'"),
    "a key name that is too long": ({"keys": ["k" * 128]}, "has 128 characters"),
    "a bad key name at the end": ({"keys": [KEY] * 9 + ["No"]}, "key name 'No'"),
    "too many keys": ({"keys": ["k"] * (MOST_KEYS + 1)}, "'keys' has 10001 names, at most 10000 fit"),
    "a long reason": ({"reason": "r" * (LONGEST_TEXT + 1)}, "'reason' is not one line of at most 500 characters"),
    "a reason of two lines": ({"reason": "a\nb"}, "'reason' is not one line"),
    "a reason that moves the cursor": ({"reason": "\x1b[2J"}, "'reason' is not one line"),
    "keys that are no text": ({"keys": "\ud800"}, "a field is not valid text"),
    "a reason that is no text": ({"reason": "\ud800"}, "'reason' is not one line"),
    "a long request": (
        {"keys": [KEY], "force": True, "request_id": "r" * (LONGEST_TEXT + 1)},
        "'request_id' is not one line of at most 500 characters",
    ),
    "force without keys": ({"force": True}, "'force' without 'keys' would rotate every key"),
    "force on a look": ({"action": "verify", "keys": [KEY], "force": True}, "go with the action 'rotate'"),
    "dry_run on a look": ({"action": "status", "dry_run": True}, "go with the action 'rotate'"),
    "a request on a look": ({"action": "plan", "request_id": "r"}, "go with the action 'rotate'"),
    "a request without force": ({"keys": [KEY], "request_id": "r"}, "'request_id' goes with 'force'"),
}


@pytest.mark.parametrize(("body", "expected"), BAD.values(), ids=BAD)
def test_a_malformed_event_is_refused_by_name(body: object, expected: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        invocation.parse(body, "try")
    assert expected in refused.value.message
    assert refused.value.hint
    assert len(refused.value.message) <= LONGEST_MESSAGE


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"action": "x" * 10_000}, id="action"),
        pytest.param({"x" * 10_000: 1}, id="field"),
        pytest.param({"keys": ["x_" * 10_000]}, id="key"),
        pytest.param({"keys": ["x--" * 10_000]}, id="ours"),
        pytest.param({"keys": ["x" * 10_000]}, id="long-key"),
        pytest.param({"keys": [["x" * 10_000]]}, id="type"),
    ],
)
def test_what_is_wrong_is_told_shortly(body: object) -> None:
    """An event has up to 6 MB; the error goes into the log, into a queue's message and to the caller."""
    with pytest.raises(ConfigurationError) as refused:
        invocation.parse(body)
    assert len(refused.value.message) <= LONGEST_MESSAGE


FIELDS = Invocation.__struct_fields__
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # JSON has lone surrogates
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
LIKELY = st.sampled_from([*ACTIONS, KEY, "Bad", "", True, [KEY], [KEY, KEY], []])
EVENT = st.dictionaries(st.sampled_from(FIELDS), LIKELY | JSON, max_size=6)


@given(JSON | EVENT, TEXT)
@example({"action": "rotate", "keys": [KEY], "force": True}, "")
@example({"keys": ["\ud800"]}, "")
@example({"\ud800": 1}, "")
@example({"force": 10**400}, "")
@example({"reason": float("nan")}, "")
def test_whatever_json_there_is_it_is_understood_or_refused(body: Any, request_id: str) -> None:
    try:
        asked = invocation.parse(body, request_id)
    except ConfigurationError as refused:
        f"{refused.message} {refused.hint}".encode()  # can be written and sent, whatever was in there
        return
    assert set(body) <= set(FIELDS)
    assert asked.action in ACTIONS
    assert not any(name_problem(key) for key in asked.keys)
    assert asked.reason.isprintable()
    assert asked.request_id == "" or asked.force
    assert not asked.force or (asked.action == "rotate" and asked.keys)


# --- answers


@pytest.fixture
def world() -> World:
    """A store in memory with one policy; a test names more keys where it needs them."""
    clock = Clock()
    return World(memory_backend(Path(), clock, seeded(), fenced=True), clock)


def service(world: World, *more: str) -> Service:
    """A service whose policy names `more` keys that it must not make."""
    policy = RotationPolicy({KEY: KeyPolicy(create=True), **{key: KeyPolicy() for key in more}}, "digest")
    return Service(world.service().tools, policy, tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)


def perform(made: Service, **body: object) -> Answer:
    return invocation.perform(made, invocation.parse(body, "the-platforms-id"))


def test_a_run_answers_with_its_report(world: World) -> None:
    answer = perform(service(world))
    assert answer.failures == ()
    assert answer.report is not None
    document = answer.document
    assert (document["action"], document["counts"], list(document["overdue"])) == ("rotate", {"created": 1}, [])
    [outcome] = document["outcomes"]
    assert (outcome["key"], outcome["status"], outcome["number"]) == (KEY, "created", 1)
    assert json.loads(json.dumps(document))["started_at"] == "2026-01-01T12:00:00Z"


def test_a_failing_key_is_a_failure_with_reason_and_hint_and_the_others_are_rotated(world: World) -> None:
    answer = perform(service(world, TYPO))
    [line] = answer.failures
    assert line.startswith(f"{TYPO} does not exist, and its policy does not say create = true (a typo?")
    assert answer.document["counts"] == {"created": 1, "failed": 1}
    assert answer.report is not None
    assert answer.report.failed


def test_only_what_is_named_is_rotated(world: World) -> None:
    answer = perform(service(world, TYPO), keys=[KEY])
    assert [outcome["key"] for outcome in answer.document["outcomes"]] == [KEY]
    assert answer.failures == ()


def test_a_forced_rotation_is_carried_out_once_for_one_request_and_says_why(world: World) -> None:
    perform(service(world))
    for _ in range(2):
        perform(service(world), keys=[KEY], force=True, reason="laptop lost", request_id="ticket-7")
    assert world.history().entries[-1].number == 2
    started = [entry for entry in world.history().entries if entry.event == "rotation-started"][-1]
    assert (started.reason, started.request) == ("laptop lost", "ticket-7")
    perform(service(world), keys=[KEY], force=True)
    assert world.history().entries[-1].number == 3


@pytest.mark.parametrize("body", [{"action": "plan"}, {"action": "rotate", "dry_run": True}])
def test_a_plan_and_a_dry_run_say_what_would_be_done_and_are_no_run(world: World, body: dict[str, Any]) -> None:
    answer = perform(service(world, TYPO), **body)
    assert answer.document["action"] == body["action"]
    assert {outcome["status"] for outcome in answer.document["outcomes"]} == {"due"}
    assert (answer.failures, answer.report) == ((), None)
    assert world.store.observe(KEY).exists is False


def test_a_forced_dry_run_changes_nothing(world: World) -> None:
    perform(service(world))
    answer = perform(service(world), keys=[KEY], force=True, dry_run=True, reason="drill")
    [outcome] = answer.document["outcomes"]
    assert (outcome["status"], outcome["why"]) == ("due", "drill")
    assert len(world.history().entries) == 2


def test_a_status_has_every_version(world: World) -> None:
    perform(service(world))
    world.force()
    answer = perform(service(world), action="status", keys=[KEY])
    [key] = answer.document["keys"]
    assert (key["key"], key["active"]) == (KEY, 2)
    assert [version["state"] for version in key["versions"]] == ["decrypt-only", "active"]
    assert (answer.failures, answer.report) == ((), None)
    json.dumps(answer.document)


def test_a_verification_says_that_all_is_well(world: World) -> None:
    perform(service(world))
    answer = perform(service(world), action="verify")
    assert answer.document["verified"] is True
    assert [key["key"] for key in answer.document["keys"]] == [KEY]
    assert (answer.failures, answer.report) == ((), None)


def test_a_verification_that_finds_something_is_a_failure(world: World) -> None:
    perform(service(world))
    # Somebody else's version on top of ours.
    tools = service(world).tools
    spec = KeyPolicy().spec
    foreign = tools.store.prepare(KEY, 9, spec)
    staged = tools.store.stage(KEY, NewVersion(9, "f" * 32, "", spec.name), foreign)
    tools.store.promote(KEY, staged, tools.store.observe(KEY).newest, foreign.material)
    answer = perform(service(world), action="verify")
    assert answer.document["verified"] is False
    assert answer.failures
    assert all(line.startswith(f"{KEY}: ") for line in answer.failures)
    assert str(invocation.failed(answer)).startswith(f"{len(answer.failures)} failed: {KEY}: ")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_key_that_nobody_knows_is_an_error(world: World, action: str) -> None:
    with pytest.raises(NotFoundError, match="'no-such-key'"):
        perform(service(world), action=action, keys=["no-such-key"])


def test_no_answer_holds_material(world: World) -> None:
    perform(service(world))
    material = world.service().get(KEY, reveal=True).material
    assert material is not None
    for action in ACTIONS:
        answered = repr(perform(service(world), action=action))
        assert material.reveal().hex() not in answered
        assert repr(material.reveal())[2:-1] not in answered


# --- errors


def test_an_error_names_every_failure() -> None:
    error = invocation.failed(Answer({}, ("a-key: broken (mend it)", "b-key: gone")))
    assert isinstance(error, KmsError)
    assert error.message == "2 failed: a-key: broken (mend it); b-key: gone"
    assert error.hint == "the log has the whole report"


def test_an_error_about_many_names_the_first_and_counts_the_rest() -> None:
    lines = tuple(f"key-{number}: broken" for number in range(NAMED_FAILURES + 3))
    message = invocation.failed(Answer({}, lines)).message
    assert message.startswith("23 failed: key-0: broken; ")
    assert message.endswith("key-19: broken; and 3 more")
    assert "more" not in invocation.failed(Answer({}, lines[:NAMED_FAILURES])).message


def test_an_error_survives_a_queue() -> None:
    error = invocation.failed(Answer({}, ("a-key: broken",)))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (type(again), again.message, again.hint) == (RunFailedError, error.message, error.hint)


# --- figures


def test_every_status_is_counted_under_its_name() -> None:
    counted = {
        Status.CREATED: "KeysCreated",
        Status.ROTATED: "KeysRotated",
        Status.NOT_DUE: "KeysNotDue",
        Status.IN_PROGRESS: "KeysInProgress",
        Status.DEFERRED: "KeysDeferred",
        Status.FAILED: "KeysFailed",
    }
    outcomes = [Outcome(f"key-{i}", status, "") for i, status in enumerate(Status) for _ in range(i + 1)]
    told = invocation.metrics(Report(START, START, "digest", tuple(outcomes)))
    for number, status in enumerate(Status, 1):
        if status in counted:
            assert told[counted[status]] == number
    assert sum(told[name] for name in counted.values()) == sum(i for i, s in enumerate(Status, 1) if s in counted)


def test_the_figures_of_a_run() -> None:
    outcomes = (
        Outcome("a-key", Status.FAILED, "", stuck=True),
        Outcome("b-key", Status.WAITING, ""),
        Outcome("c-key", Status.IN_PROGRESS, "", stuck=True),
    )
    report = Report(START, START + timedelta(seconds=2.5), "digest", outcomes, ("a-key", "b-key"), 312)
    assert invocation.metrics(report) == {
        "Runs": 1,
        "KeysCreated": 0,
        "KeysRotated": 0,
        "KeysNotDue": 0,
        "KeysInProgress": 1,
        "KeysDeferred": 0,
        "KeysFailed": 1,
        "KeysOverdue": 2,
        "KeysStuck": 2,
        "OldestActiveDays": 312,
        "Duration": 2.5,
    }


def test_a_run_without_a_key_tells_that_it_ran() -> None:
    told = invocation.metrics(Report(START, START, "digest", ()))
    assert told.pop("Runs") == 1
    assert set(told.values()) == {0}
