"""The function app as it is deployed, run by Microsoft's worker library on the doubles of Azure."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daena_kms.invocation import parse
from tests.support.azure_worker import Result
from tests.support.vault_http import Answer, Asked

from .azure_scene import BILLING, KEY, Scene, root

EVENTS = root() / "functions" / "azure_function" / "events"
POLICY_OF_ONE = f"[keys.{KEY}]\n"
FORCED = json.dumps({"action": "rotate", "keys": [KEY], "force": True, "request_id": "ticket-7"}).encode()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def outcomes(result: Result) -> dict[str, str]:
    """Status by key, from the line that the run leaves in the log."""
    (line,) = (told for told in result.told() if "report" in told)
    return {outcome["key"]: outcome["status"] for outcome in line["report"]["outcomes"]}


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
    host = json.loads((root() / "functions" / "azure_function" / "host.json").read_text())
    assert host["functionTimeout"] == "00:30:00"
    assert host["logging"]["applicationInsights"]["samplingSettings"] == {"isEnabled": False}
    assert host["extensionBundle"]["id"] == "Microsoft.Azure.Functions.ExtensionBundle"


# --- ticks


def test_a_tick_rotates_what_is_due_and_the_next_one_finds_nothing_to_do(scene: Scene) -> None:
    first, second = scene.app.timer("tick"), scene.app.timer("tick")
    assert (first.ok, first.exception, first.pauses) == (True, "", ())
    assert outcomes(first) == {KEY: "created", BILLING: "created"}
    assert outcomes(second) == {KEY: "not-due", BILLING: "not-due"}
    (line,) = (told for told in first.told() if "metrics" in told)
    assert (line["message"], line["level"], line["metrics"]["KeysCreated"]) == ("done", "INFO", 2)
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
    assert [told["message"] for told in result.told() if "report" in told] == ["failed"] * 3
    assert all(told["level"] == "ERROR" for told in result.told() if "report" in told)


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
    assert any("ForbiddenByRbac" in told["message"] or "Forbidden" in told["message"] for told in result.told())


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
