"""The function app as it is deployed, run by Microsoft's worker library on the doubles of Azure."""

import importlib.util
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daena_kms import documents, invocation
from daena_kms.errors import ConfigurationError, KmsError
from daena_kms.fleet import Report
from daena_kms.invocation import Answer as Came
from daena_kms.invocation import Invocation, parse
from daena_kms.model import Outcome, Status
from tests.support.azure_worker import Result
from tests.support.vault_http import Answer, Asked

from .azure_scene import BILLING, KEY, Scene, root

SOURCE = root() / "functions" / "azure_function"
EVENTS = SOURCE / "events"
# Application Insights cuts a message there (Azure documentation: "Application Insights limits").
LONGEST_LINE = 32_768
POLICY_OF_ONE = f"[keys.{KEY}]\n"
FORCED = json.dumps({"action": "rotate", "keys": [KEY], "force": True, "request_id": "ticket-7"}).encode()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def outcomes(result: Result) -> dict[str, str]:
    """Status by key, from the lines that the run leaves in the log."""
    pieces = (told["report"] for told in result.told() if "report" in told)
    return {outcome["key"]: outcome["status"] for piece in pieces for outcome in piece.get("outcomes", ())}


def runs(result: Result) -> list[dict[str, Any]]:
    """The lines that the alerts count: one for each try of a run."""
    return [told for told in result.told() if "metrics" in told]


@pytest.fixture
def entry() -> Iterator[Any]:
    """The entry point itself, in this process; its logger is put back."""
    ours = logging.getLogger("daena_kms")
    before = ours.handlers, ours.propagate, ours.level
    spec = importlib.util.spec_from_file_location("function_app_here", SOURCE / "function_app.py")
    if spec is None or spec.loader is None:
        raise AssertionError("it is a file of Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    ours.handlers, ours.propagate = before[:2]
    ours.setLevel(before[2])


# --- what is registered


def test_the_timer_takes_its_schedule_from_a_setting_and_runs_by_it_alone(scene: Scene) -> None:
    (binding,) = scene.app.functions["tick"]["bindings"]
    assert binding == {
        "name": "timer", "type": "timerTrigger", "direction": "IN",
        "schedule": "%ROTATION_SCHEDULE%", "runOnStartup": False, "useMonitor": True,
    }  # fmt: skip


def test_a_run_by_hand_needs_the_functions_key_and_is_a_post(scene: Scene) -> None:
    binding, _ = scene.app.functions["run"]["bindings"]
    assert (binding["type"], binding["authLevel"], binding["methods"]) == ("httpTrigger", "FUNCTION", ["POST"])
    assert binding["route"] == "run"
    assert scene.app.functions.keys() == {"tick", "run"}


def test_the_host_has_time_enough_and_keeps_every_line() -> None:
    host = json.loads((SOURCE / "host.json").read_text())
    assert host["functionTimeout"] == "00:30:00"
    assert host["logging"]["applicationInsights"]["samplingSettings"] == {"isEnabled": False}
    levels = host["logging"]["logLevel"]
    # The longest prefix of a category decides. What fills the table `requests`, which an alert reads, is Host.Results.
    assert levels["Host.Results"] == levels["default"] == "Information"
    assert host["extensionBundle"]["id"] == "Microsoft.Azure.Functions.ExtensionBundle"


# --- ticks


def test_a_tick_rotates_what_is_due_and_the_next_one_finds_nothing_to_do(scene: Scene) -> None:
    first, second = scene.app.timer("tick"), scene.app.timer("tick")
    assert (first.ok, first.exception, first.pauses) == (True, "", ())
    assert outcomes(first) == {KEY: "created", BILLING: "created"}
    assert outcomes(second) == {KEY: "not-due", BILLING: "not-due"}
    (line,) = runs(first)
    assert (line["message"], line["level"], line["metrics"]["KeysCreated"]) == ("done", "INFO", 2)
    assert line["trigger"] == "azure.timer"
    assert {call.principal for call in scene.calls} == {"the-function"}
    assert scene.store().observe(KEY).newest is not None


def test_a_tick_that_comes_late_says_so_and_is_done_all_the_same(scene: Scene) -> None:
    result = scene.app.timer("tick", past_due=True)
    assert outcomes(result) == {KEY: "created", BILLING: "created"}
    assert any("comes late" in told["message"] and told["level"] == "WARNING" for told in result.told())


def test_a_tick_in_which_a_key_fails_is_tried_again_and_is_no_success(scene: Scene) -> None:
    scene.app.timer("tick")
    scene.account.vault.server.secrets.live.pop(f"app-{KEY}")
    result = scene.app.timer("tick")
    assert not result.ok
    assert result.pauses == (10.0, 60.0)
    assert f"1 failed: {KEY}" in result.exception
    assert [(told["message"], told["level"]) for told in runs(result)] == [
        ("failed", "WARNING"), ("failed", "WARNING"), ("failed", "ERROR")
    ]  # fmt: skip
    assert [told.get("again_in_seconds") for told in runs(result)] == [10.0, 60.0, None]


def test_a_tick_that_fails_once_is_a_success_in_the_end(scene: Scene) -> None:
    scene.app.timer("tick")
    server, failures = scene.account.vault.server, iter([True])

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer:
        if asked.action == "readMetadata" and next(failures, False):
            return Answer(
                403, {"error": {"code": "Forbidden", "message": "no", "innererror": {"code": "ForbiddenByRbac"}}}
            )
        return answer()

    server.between = between
    result = scene.app.timer("tick")
    assert (result.ok, result.pauses) == (True, (10.0,))
    (told,) = (told for told in result.told() if "Forbidden" in told["message"])
    assert told["level"] == "WARNING", "no alert fires for what the next try made good"
    assert "role" in told["hint"]


def test_a_tick_does_not_try_again_what_would_not_fit_into_its_time() -> None:
    scene = Scene(DAENA_TIME_BUDGET_SECONDS="8")
    scene.account.vault.server.allowed["the-function"] = set()
    result = scene.app.timer("tick")
    scene.close()
    assert (result.ok, result.pauses) == (False, ())
    assert "ForbiddenByRbac" in result.exception or "not authorized" in result.exception


def test_nothing_is_begun_with_bad_settings() -> None:
    scene = Scene(DAENA_CONCURRENCY="many")
    result = scene.app.timer("tick")
    scene.close()
    assert (result.ok, result.pauses) == (False, ())
    assert "DAENA_CONCURRENCY" in result.exception
    assert scene.calls == []


def test_all_tries_of_a_tick_together_end_before_the_host_ends_them(
    entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes as long as it may, and fails."""
    clock = [0.0]
    monkeypatch.setenv("DAENA_TIME_BUDGET_SECONDS", "1500")
    monkeypatch.setattr(entry.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(entry.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def perform(_: str, __: Invocation, *, seconds: float) -> Came:
        clock[0] += min(1480.0, seconds)
        return Came({}, ("a-key: no",))

    monkeypatch.setattr(entry._warm, "perform", perform)
    with pytest.raises(invocation.RunFailedError):
        entry.tick._function._func(Timer())
    hours, minutes, seconds = map(int, json.loads((SOURCE / "host.json").read_text())["functionTimeout"].split(":"))
    assert 1490.0 < clock[0] < hours * 3600 + minutes * 60 + seconds


class Timer:
    """A tick that comes in time."""

    past_due = False


# --- what the log says


def _report(count: int, status: Status, message: str = "version 1 is 3 days old") -> Came:
    now = datetime.now(UTC)
    made = tuple(Outcome(f"tenant-{n:05}", status, message, "why", 1, "a hint") for n in range(count))
    report = Report(now, now, "digest", made, tuple(outcome.key for outcome in made))
    failures = tuple(f"{outcome.key}: {outcome.message}" for outcome in made if status is Status.FAILED)
    return Came(invocation._document(Invocation(), documents.report(report)), failures, report)


def _lines(entry: Any, came: Came | KmsError, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO)
    entry._tell(entry.TIMER, came)
    return [record.getMessage() for record in caplog.records if record.name == "daena-kms"]


@pytest.mark.parametrize("count", [0, 3, 115, 10_000])
@pytest.mark.parametrize("status", [Status.NOT_DUE, Status.FAILED])
def test_no_line_is_cut_and_all_of_the_report_is_there(
    entry: Any, caplog: pytest.LogCaptureFixture, count: int, status: Status
) -> None:
    lines = _lines(entry, _report(count, status), caplog)
    assert max(map(len, lines)) <= LONGEST_LINE
    first, *pieces = map(json.loads, lines)
    assert first["metrics"]["Runs"] == 1
    assert first["metrics"]["KeysOverdue"] == count
    assert len(lines[0]) < 1000
    told = [outcome["key"] for piece in pieces for outcome in piece["report"].get("outcomes", ())]
    assert told == [f"tenant-{n:05}" for n in range(count)]
    assert sum(len(piece["report"].get("overdue", ())) for piece in pieces) == count


def test_what_alone_is_longer_than_a_line_is_told_as_far_as_it_goes(
    entry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lines = _lines(entry, _report(2, Status.NOT_DUE, '"\u00fc\\' * 20_000), caplog)
    assert max(map(len, lines)) <= LONGEST_LINE
    assert "tenant-00001" in "".join(lines)
    error = ConfigurationError("\u00fc" * 50_000, "\u00fc" * 50_000)
    caplog.clear()
    (line,) = _lines(entry, error, caplog)
    assert len(line) <= LONGEST_LINE
    assert json.loads(line)["level"] == "ERROR"


def test_the_alerts_ask_for_fields_that_the_lines_have(scene: Scene) -> None:
    """Their text is a part of two programs that nothing else ties together."""
    text = (root() / "infra" / "azure" / "alerts.tf").read_text()
    any_line, *of_runs = re.findall(r"message startswith '([^']+)'", text)
    done = scene.app.timer("tick")
    scene.account.vault.server.secrets.live.pop(f"app-{KEY}")
    failed = scene.app.http("run", b'{"action": "rotate"}')
    for result in (done, failed):
        (counted,) = (json.loads(line) for line in result.lines if line.startswith(tuple(of_runs)))
        for field in re.findall(r"run\.metrics\.(\w+)", text):
            assert isinstance(counted["metrics"][field], int), field
        assert f"run.trigger) == '{counted['trigger']}'" in text or result is failed
    scene.account.vault.server.allowed["the-function"] = set()
    for result in (failed, scene.app.http("run", b'{"action": "rotate"}')):
        told = [json.loads(line) for line in result.lines if line.startswith(any_line)]
        fields = [(line["level"], line["logger"].partition(".")[0]) for line in told]
        assert fields.count(("ERROR", "daena_kms")) == 1, "it fires for what comes back as a 500 too"
    assert re.findall(r"line\.(\w+)", text) == ["level", "logger"]


# --- by hand


@pytest.mark.parametrize("path", sorted(EVENTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_example_is_a_request_that_is_understood(path: Path) -> None:
    assert parse(json.loads(path.read_bytes())).action


def test_the_report_comes_back(scene: Scene) -> None:
    scene.app.timer("tick")
    result = scene.app.http("run", b'{"action": "plan"}')
    assert (result.ok, result.status) == (True, 200)
    assert {o["key"]: o["status"] for o in result.body["outcomes"]} == {KEY: "not-due", BILLING: "not-due"}
    status = scene.app.http("run", b'{"action": "status"}')
    assert [key["key"] for key in status.body["keys"]] == [BILLING, KEY]
    assert scene.app.http("run", b'{"action": "verify"}').body["verified"] is True


def test_a_forced_rotation_that_is_delivered_twice_rotates_once(scene: Scene) -> None:
    scene.app.timer("tick")
    first, second = scene.app.http("run", FORCED), scene.app.http("run", FORCED)
    assert [o["status"] for o in first.body["outcomes"]] == ["rotated"]
    assert [o["status"] for o in second.body["outcomes"]] == ["not-due"]


def test_without_a_request_id_the_platforms_own_serves(scene: Scene) -> None:
    scene.app.timer("tick")
    body = json.dumps({"action": "rotate", "keys": [KEY], "force": True}).encode()
    first, again = (scene.app.http("run", body, invocation="invocation-7") for _ in range(2))
    assert [o["status"] for o in first.body["outcomes"] + again.body["outcomes"]] == ["rotated", "not-due"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        (b"\xff", 400, "no JSON"),
        (b"[]", 400, "a JSON object expected"),
        (b'{"acton": "rotate"}', 400, "unknown field 'acton'; did you mean 'action'?"),
        (b"[" * 60_000, 400, "no JSON"),
        (b'{"action": "destroy"}', 400, "'action' is 'destroy'"),
        (b'{"action": "rotate", "force": true}', 400, "'force' without 'keys'"),
        (b'{"action": "rotate", "keys": ["A B"]}', 400, "key name"),
        (b'{"action": "rotate", "keys": "x"}', 400, "wrong type"),
        (b'{"reason": "' + b"x" * 70_000 + b'"}', 413, "more than 65536 bytes"),
    ],
    ids=[
        "empty",
        "half",
        "no text",
        "a list",
        "unknown",
        "deep",
        "destroy",
        "force for all",
        "bad name",
        "type",
        "too large",
    ],
)
def test_a_bad_request_is_told_what_is_wrong_and_changes_nothing(
    scene: Scene, body: bytes, status: int, words: str
) -> None:
    result = scene.app.http("run", body)
    assert (result.ok, result.status) == (True, status)
    assert words in result.body["error"]
    assert result.body["hint"]
    assert scene.calls == []


def test_a_key_that_failed_is_a_failed_request_with_the_whole_report(scene: Scene) -> None:
    scene.app.timer("tick")
    scene.account.vault.server.secrets.live.pop(f"app-{KEY}")
    result = scene.app.http("run", b'{"action": "rotate"}')
    assert result.status == 500
    assert {o["key"]: o["status"] for o in result.body["outcomes"]} == {KEY: "failed", BILLING: "not-due"}
    assert result.body["failures"][0].startswith(f"{KEY}: ")


def test_what_could_not_be_begun_is_a_failed_request(scene: Scene) -> None:
    scene.account.vault.server.allowed["the-function"] = set()
    result = scene.app.http("run", b'{"action": "rotate"}')
    assert result.status == 500
    assert "not authorized" in result.body["error"]
    assert "infra/azure" in result.body["hint"]


# --- staying warm


def test_a_warm_app_asks_for_no_second_token_and_sees_a_policy_that_changed(scene: Scene) -> None:
    scene.app.timer("tick")
    asked = len(scene.account.vault.identity.asked)
    scene.policy(POLICY_OF_ONE)
    assert outcomes(scene.app.timer("tick")) == {KEY: "not-due", BILLING: "unmanaged"}
    assert len(scene.account.vault.identity.asked) == asked


# --- nothing leaks


def test_no_material_and_no_token_is_in_the_log_or_in_a_reply(scene: Scene) -> None:
    results = [scene.app.timer("tick"), scene.app.http("run", FORCED), scene.app.http("run", b'{"action": "status"}')]
    scene.account.vault.server.secrets.live.pop(f"app-{BILLING}")
    results.append(scene.app.timer("tick"))
    secrets = scene.account.vault.server.secrets.live.values()
    values = [version.value for secret in secrets for version in secret.versions]
    told = json.dumps([[*result.lines, result.body, result.exception] for result in results])
    assert len(values) >= 4
    assert [value for value in values if value in told or value.rstrip("=") in told] == []
    assert "eyJ" not in told, "a token begins so"
