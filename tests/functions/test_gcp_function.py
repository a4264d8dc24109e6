"""The bundle as Cloud Run runs it: unpacked, served by Google's functions-framework, on the doubles over sockets."""

import gc
import importlib.util
import io
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from daena_kms import documents
from daena_kms.errors import ConfigurationError, KmsError
from daena_kms.fleet import Report
from daena_kms.invocation import Answer as Came
from daena_kms.invocation import Invocation, _document, parse
from daena_kms.material import KeyMaterial
from daena_kms.model import Outcome, Status
from tests.infra.bundles import gcp_host_bundle, run_isolated
from tests.support import gcp_world
from tests.support.gcp_world import FUNCTION, PREFIX
from tests.support.gsm_errors import GoogleError
from tests.support.gsm_faults import delayed, only, refusing
from tests.support.gsm_service import Call, Carried
from tests.support.served_function import SCHEDULER, Reply, ServedFunction

from .gcp_scene import BILLING, KEY, POLICY, POLICY_OBJECT, RESERVED_SECRET, Prepare, Scene, root
from .test_aws_leaks import CANARY, FOREIGN, halves, leaked

SOURCE = root() / "functions" / "gcp_function"
EVENTS = SOURCE / "events"
INFRA = root() / "infra" / "gcp"
LARGEST = 64 * 1024
# Google: "Cloud Logging quotas and limits".
LONGEST_LINE = 256 * 1024
ROTATE = {"action": "rotate"}
FORCED = {"action": "rotate", "keys": [KEY], "force": True, "request_id": "ticket-7"}
NOTHING_CHANGED = "nothing was changed"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


@pytest.fixture(scope="module")
def idle() -> Iterator[ServedFunction]:
    """An instance that no request makes do anything."""
    made = Scene()
    yield made.function()
    made.close()


@pytest.fixture
def entry() -> Iterator[Any]:
    """The entry point itself, in this process, its log in `.told`; whatever it changes here is put back."""
    ours = logging.getLogger("daena_kms")
    before = ours.handlers, ours.propagate, ours.level
    spec = importlib.util.spec_from_file_location("gcp_main_here", SOURCE / "main.py")
    if spec is None or spec.loader is None:
        raise AssertionError("it is a file of Python")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    gc.enable()
    module.told = io.StringIO()
    module._stdout.setStream(module.told)
    yield module
    ours.handlers, ours.propagate = before[:2]
    ours.setLevel(before[2])


def done(reply: Reply) -> dict[str, Any]:
    """The report of a run that succeeded, without a word on standard error."""
    assert (reply.status, reply.stderr) == (200, ""), reply
    assert [line for line in reply.lines if line["severity"] not in {"INFO", "WARNING"}] == []
    report: dict[str, Any] = reply.body
    return report


def refused(reply: Reply, status: int) -> str:
    """What a refused request is told, which is in the log as well."""
    assert (reply.status, reply.stderr) == (status, ""), reply
    assert reply.headers["Content-Type"] == "application/json"
    [line] = [line for line in reply.lines if line.get("status") == status]
    assert (line["message"], line["hint"], line["severity"]) == (reply.body["error"], reply.body["hint"], "WARNING")
    assert reply.body["hint"]
    return f"{reply.body['error']} ({reply.body['hint']})"


def outcomes(report: Mapping[str, Any]) -> dict[str, str]:
    return {outcome["key"]: outcome["status"] for outcome in report["outcomes"]}


def runs(reply: Reply) -> list[dict[str, Any]]:
    """The lines that the metrics count."""
    return [line for line in reply.lines if "metrics" in line]


# --- ticks


def test_a_tick_rotates_what_is_due_and_the_next_one_finds_nothing_to_do(scene: Scene) -> None:
    function = scene.function()
    first, second = function.post(ROTATE, SCHEDULER), function.post(ROTATE, SCHEDULER)
    assert outcomes(done(first)) == {KEY: "created", BILLING: "created"}
    assert outcomes(done(second)) == {KEY: "not-due", BILLING: "not-due"}
    (line,) = runs(first)
    assert (line["message"], line["severity"], line["trigger"]) == ("done", "INFO", "gcp.scheduler")
    assert (line["metrics"]["Runs"], line["metrics"]["KeysCreated"]) == (1, 2)
    assert {call.principal for call in scene.calls} == {FUNCTION}, "the machine's own account"
    assert scene.active() == {KEY: 1, BILLING: 1}
    assert [len(payload) for payload in scene.payloads(PREFIX + KEY)] == [32]
    assert len(scene.payloads(RESERVED_SECRET)) == 1, "what signs the manifests, under a prefix that no reader has"


def test_the_public_key_of_new_manifests_is_told_to_be_pinned(scene: Scene) -> None:
    reply = scene.function().post(ROTATE, SCHEDULER)
    (line,) = [line for line in reply.lines if "public_key" in line]
    assert line["severity"] == "WARNING"
    pinned = scene.function({"DAENA_PUBLIC_KEY": line["public_key"]}).post(ROTATE, SCHEDULER)
    assert outcomes(done(pinned)) == {KEY: "not-due", BILLING: "not-due"}


def test_what_the_scheduler_says_of_itself_is_logged_and_decides_nothing(scene: Scene) -> None:
    """A manual run may carry the time of the next one (cloud-facts): both are done."""
    function = scene.function()
    long = SCHEDULER | {"X-CloudScheduler-JobName": "j" * 5_000}
    first, second = (function.post(FORCED | {"request_id": name}, long) for name in ("a", "b"))
    assert outcomes(done(first)) == {KEY: "created"}
    assert outcomes(done(second)) == {KEY: "rotated"}
    for reply in (first, second):
        told = reply.lines[0]
        assert (told["message"], told["severity"]) == ("tick", "INFO")
        assert (told["job"], told["schedule_time"]) == ("j" * 200, SCHEDULER["X-CloudScheduler-ScheduleTime"])
    entries = scene.opened().journal.history(KEY)
    assert {entry.trigger for entry in entries} == {"gcp.scheduler"}
    assert {entry.actor for entry in entries} == {f"gcp:{FUNCTION}"}


def test_only_the_schedulers_own_header_makes_a_tick(scene: Scene) -> None:
    function = scene.function()
    for header in ("True", "1", "true, true", "false", ""):
        reply = function.post(ROTATE, SCHEDULER | {"X-CloudScheduler": header})
        done(reply)
        assert [line["trigger"] for line in reply.lines if "trigger" in line] == ["gcp.http"], header
        assert "tick" not in {line["message"] for line in reply.lines}


def test_two_requests_at_once_rotate_once(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    replies: list[Reply] = []
    one_is_through = threading.Event()

    def held(_: Call, carried: Carried) -> Any:
        """Answered once the other request is through."""
        reply = carried()
        assert one_is_through.wait(30)
        return reply

    def asked(name: str) -> None:
        replies.append(function.post(FORCED | {"request_id": name}))
        one_is_through.set()

    scene.between(only({"AddSecretVersion"}, held))
    threads = [threading.Thread(target=asked, args=[name]) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status for reply in replies) == [200, 200]
    assert sorted(outcomes(reply.body)[KEY] for reply in replies) == ["in-progress", "rotated"]
    assert scene.active() == {KEY: 2, BILLING: 1}


# --- staying warm


def test_a_warm_instance_asks_for_no_second_token_and_sees_a_policy_that_changed(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    endpoint = scene.project.secrets.google
    asked = len(endpoint.asked)
    scene.policy(f"[keys.{KEY}]\n")
    assert outcomes(done(function.post(ROTATE))) == {KEY: "not-due", BILLING: "unmanaged"}
    assert len(endpoint.asked) == asked


def test_a_failed_run_is_followed_by_a_new_connection(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    asked = len(scene.project.secrets.google.asked)
    scene.between(refusing("PERMISSION_DENIED"))
    assert function.post(ROTATE).status == 500
    scene.between(lambda _, carried: carried())
    assert outcomes(done(function.post(ROTATE))) == {KEY: "not-due", BILLING: "not-due"}
    assert len(scene.project.secrets.google.asked) > asked


# --- by hand


@pytest.mark.parametrize("path", sorted(EVENTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_example_is_a_request_that_is_understood(path: Path, entry: Any) -> None:
    asked = entry._parsed(entry.flask.Request({
        "REQUEST_METHOD": "POST", "wsgi.input": io.BytesIO(path.read_bytes()),
        "CONTENT_LENGTH": str(path.stat().st_size),
    }))  # fmt: skip
    assert asked == parse(json.loads(path.read_bytes()))


def test_what_the_scheduler_sends_is_one_of_the_examples() -> None:
    (sent,) = re.findall(r"jsonencode\((\{ action.*?\})\)", (INFRA / "function.tf").read_text())
    assert json.loads(re.sub(r"(\w+) = ", r'"\1": ', sent)) == json.loads((EVENTS / "rotate.json").read_text())


def test_the_report_comes_back(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    plan = done(function.post({"action": "plan"}))
    assert (plan["action"], outcomes(plan)) == ("plan", {KEY: "not-due", BILLING: "not-due"})
    assert [key["key"] for key in done(function.post({"action": "status"}))["keys"]] == [BILLING, KEY]
    assert [key["key"] for key in done(function.post({"action": "status", "keys": [KEY]}))["keys"]] == [KEY]
    assert done(function.post({"action": "verify"}))["verified"] is True


def test_what_only_looks_makes_nothing(scene: Scene) -> None:
    function = scene.function()
    for asked in ({"action": "plan"}, {"action": "status"}, ROTATE | {"dry_run": True}):
        reply = function.post(asked)
        assert (reply.status, reply.body["hint"]) == (500, "run `daena-key-rotate init`")
    assert scene.objects() == [POLICY_OBJECT]
    assert not {call.rpc for call in scene.calls} & {"AddSecretVersion", "CreateSecret", "UpdateSecret"}


def test_a_forced_rotation_that_is_delivered_twice_rotates_once(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    first, second = function.post(FORCED), function.post(FORCED)
    third = scene.function().post(FORCED)
    assert [outcomes(done(reply)) for reply in (first, second, third)] == [
        {KEY: "rotated"}, {KEY: "not-due"}, {KEY: "not-due"}
    ]  # fmt: skip
    assert scene.active() == {KEY: 2, BILLING: 1}


def test_a_key_that_failed_is_a_failed_request_with_the_whole_report(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    scene.project.secrets.store.delete(PREFIX + KEY, "")
    reply = function.post(ROTATE, SCHEDULER)
    assert (reply.status, reply.stderr) == (500, "")
    assert outcomes(reply.body) == {KEY: "failed", BILLING: "not-due"}
    assert reply.body["failures"][0].startswith(f"{KEY}: ")
    (line,) = runs(reply)
    assert (line["message"], line["severity"], line["metrics"]["KeysFailed"]) == ("failed", "ERROR", 1)


def test_a_key_that_does_not_verify_is_a_failed_request(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    scene.project.secrets.store.put(PREFIX + BILLING, FOREIGN.encode())
    reply = function.post({"action": "verify"})
    assert (reply.status, reply.body["verified"]) == (500, False)
    assert reply.body["failures"][0].startswith(f"{BILLING}: ")
    assert [(line["message"], line["severity"]) for line in reply.lines if "trigger" in line] == [("failed", "ERROR")]


# --- what is refused


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_is_answered(idle: ServedFunction, method: str) -> None:
    reply = idle.ask(method, b"")
    assert (reply.status, reply.headers["Allow"], reply.stderr) == (405, "POST", "")
    assert reply.body == ("" if method == "HEAD" else {
        "error": f"POST expected, got {method}", "hint": "see functions/gcp_function/events"
    })  # fmt: skip


BAD = {
    "empty": (b"", "no JSON"),
    "half": (b"{", "no JSON"),
    "no text": (b"\xff", "no JSON"),
    "deep": (b"[" * 60_000, "no JSON"),
    "a list": (b"[]", "a JSON object expected"),
    "null": (b"null", "a JSON object expected"),
    "unknown": (b'{"acton": "rotate"}', "unknown field 'acton'; did you mean 'action'?"),
    "destroy": (b'{"action": "destroy"}', "'action' is 'destroy'"),
    "number": (b'{"action": 7}', "wrong type"),
    "type": (b'{"action": "rotate", "keys": "x"}', "$.keys"),
    "truth": (b'{"action": "rotate", "keys": ["a-key"], "force": 1}', "$.force"),
    "bad name": (b'{"action": "rotate", "keys": ["A B"]}', "key name"),
    "force for all": (b'{"action": "rotate", "force": true, "request_id": "a"}', "'force' without 'keys'"),
    "force alone": (b'{"action": "rotate", "keys": ["a-key"], "force": true}', "'force' without 'request_id'"),
    "reason": (b'{"reason": "%s"}' % (b"x" * 501), "'reason' is not one line"),
    "a form": (b"action=rotate", "no JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_told_what_is_wrong_and_changes_nothing(idle: ServedFunction, name: str) -> None:
    body, words = BAD[name]
    service = gcp_world.project().secrets.service
    calls = len(service.calls)
    kind = "application/x-www-form-urlencoded" if name == "a form" else "application/json"
    told = refused(idle.ask("POST", body, {"Content-Type": kind}), 400)
    assert words in told
    assert words == "no JSON" or NOTHING_CHANGED in told
    assert len(service.calls) == calls


def test_a_dry_run_of_a_forced_rotation_needs_no_request_id(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    reply = function.post({"action": "rotate", "keys": [KEY], "force": True, "dry_run": True})
    assert outcomes(done(reply)) == {KEY: "due"}
    assert scene.active() == {KEY: 1, BILLING: 1}


def padded(size: int) -> bytes:
    return json.dumps({"action": "plan"}).encode().ljust(size)


def test_a_request_may_have_64_kib_and_not_a_byte_more(scene: Scene) -> None:
    function = scene.function()
    done(function.post(ROTATE))
    done(function.ask("POST", padded(LARGEST)))
    done(function.ask("POST", [padded(LARGEST)]))
    for body in (padded(LARGEST + 1), [padded(LARGEST + 1)], [padded(100), b" " * LARGEST], padded(20_000_000)):
        assert "more than 65536 bytes" in refused(function.ask("POST", body), 413)
    done(function.ask("POST", padded(100)))


def test_a_body_without_an_end_is_refused(idle: ServedFunction) -> None:
    reply = idle.ask("POST", chain([padded(100)], repeat(b" " * 8_192, 100_000)))
    assert reply.status in {413, 0}, "the answer, or the end of the connection in the middle of sending"
    assert reply.stderr == ""
    assert any(line.get("status") == 413 for line in reply.lines)
    assert idle.ask("GET", b"").status == 405, "and it goes on"


@pytest.mark.parametrize(
    "text",
    [
        b"Content-Length: 100\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: many\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"X-CloudScheduler: \xff\x00\r\nContent-Length: 2\r\n\r\n{",
    ],
)
def test_what_breaks_off_or_is_no_request_is_no_failure_of_ours(idle: ServedFunction, text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", idle.port), timeout=20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n" + text)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), answer
    stdout, stderr = idle.written()
    assert "Traceback" not in stdout + stderr
    assert '"ERROR"' not in stdout
    assert idle.ask("GET", b"").status == 405, "and it goes on"


def test_odd_headers_do_no_harm(scene: Scene) -> None:
    odd = {
        "Content-Type": 'application/json; charset="utf-7"', "Content-Encoding": "gzip",
        "X-HTTP-Method-Override": "GET", "X-CloudScheduler": "true", "X-CloudScheduler-JobName": 'a"b\\\u00e9',
        "traceparent": "00-zz-", "ce-id": "1", "X-Cloud-Trace-Context": "a/b;o=1",
        "Function-Execution-Id": "x" * 4_000, "Cookie": "a=b" * 500,
    }  # fmt: skip
    function = scene.function()
    done(function.post(ROTATE))
    reply = function.ask("POST", b'{"action": "plan"}', odd)
    assert outcomes(done(reply)) == {KEY: "not-due", BILLING: "not-due"}
    assert "logging.googleapis.com/trace" not in reply.stdout
    assert len(reply.stdout) < 4_000


# --- what could not be begun


def no_permission(scene: Scene) -> dict[str, str]:
    scene.project.secrets.service.allowed = {FUNCTION: {"secretmanager.secrets.get"}}
    return {}


def api_disabled(scene: Scene) -> dict[str, str]:
    scene.project.secrets.service.enabled = False
    return {}


def no_policy(scene: Scene) -> dict[str, str]:
    scene.remove_policy()
    return {}


def broken_policy(scene: Scene) -> dict[str, str]:
    scene.policy("[keys\n")
    return {}


UNUSABLE: dict[str, tuple[Prepare, str, str]] = {
    "a missing permission": (no_permission, "PERMISSION_DENIED", "infra/gcp"),
    "an API that is not enabled": (api_disabled, "Secret Manager API", "gcloud services enable"),
    "another project": (lambda _: {"GCP_PROJECT_ID": "another-one-1"}, "PERMISSION_DENIED", "GCP_PROJECT_ID"),
    "no project": (lambda _: {"GCP_PROJECT_ID": ""}, "GCP_PROJECT_ID is not set", "by its id"),
    "an unknown setting": (lambda _: {"DAENA_KEYPREFIX": "a-"}, "did you mean DAENA_KEY_PREFIX?", NOTHING_CHANGED),
    "a wrong setting": (lambda _: {"DAENA_CONCURRENCY": "many"}, "DAENA_CONCURRENCY", NOTHING_CHANGED),
    "no policy": (no_policy, "daena-kms.toml", "DAENA_POLICY"),
    "a broken policy": (broken_policy, "daena-kms.toml", ""),
    "no bucket": (lambda _: {"DAENA_MANIFEST_URL": "gs://nobody-has-it/keys"}, "nobody-has-it", ""),
    "no credentials": (
        lambda _: {"GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/key.json"},
        "no such file",
        "mend the path",
    ),
    "nobody at the endpoint": (
        lambda _: {"GCP_SECRET_MANAGER_ENDPOINT": "127.0.0.1:9", "DAENA_CALL_TIMEOUT_SECONDS": "2"},
        "UNAVAILABLE",
        "",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_could_not_be_begun_is_a_failed_request_and_changes_nothing(scene: Scene, name: str) -> None:
    prepare, words, advice = UNUSABLE[name]
    settings = prepare(scene)
    objects = scene.objects()
    reply = scene.function(settings).post(ROTATE, SCHEDULER)
    assert reply.status == 500
    assert words in reply.body["error"]
    assert advice in reply.body["hint"]
    (line,) = [line for line in reply.lines if line["severity"] == "ERROR"]
    assert (line["message"], line["hint"]) == (reply.body["error"], reply.body["hint"])
    assert (line["trigger"], "metrics" in line) == ("gcp.scheduler", False)
    assert "Traceback" not in reply.everything
    assert scene.objects() == objects
    assert not {call.rpc for call in scene.calls} & {"AddSecretVersion", "UpdateSecret"}


CARRIED_AWAY = f"""
import main
def perform(*_, **__):
    raise ValueError("the key is {CANARY.decode()}")
main._warm.perform = perform
run = main.run
"""


def test_a_bug_is_told_without_what_it_quotes(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "carried_away.py").write_text(CARRIED_AWAY)
    reply = scene.function(source=tmp_path / "carried_away.py").post(ROTATE)
    assert reply.status == 500
    assert reply.body["error"] == "the run broke off (ValueError)"
    where, told = [line for line in reply.lines if line["severity"] == "ERROR"]
    assert re.fullmatch(r".*/carried_away\.py:4", where["where"][-1])
    assert told["message"] == reply.body["error"]
    assert CANARY.decode() not in reply.everything


# --- the end comes early


def test_out_of_time_what_was_begun_is_finished_and_the_rest_deferred(scene: Scene) -> None:
    function = scene.function({"DAENA_CONCURRENCY": "1", "DAENA_TIME_BUDGET_SECONDS": "1"})
    scene.between(only({"AddSecretVersion"}, delayed(1.1)))
    reply = function.post(ROTATE, SCHEDULER)
    scene.between(lambda _, carried: carried())
    assert outcomes(done(reply)) == {BILLING: "created", KEY: "deferred"}
    (line,) = runs(reply)
    assert (line["metrics"]["KeysCreated"], line["metrics"]["KeysDeferred"]) == (1, 1)
    assert outcomes(done(function.post(ROTATE, SCHEDULER))) == {BILLING: "not-due", KEY: "created"}


def test_terraform_ends_a_run_before_the_platform_does() -> None:
    text = (INFRA / "function.tf").read_text()
    (reserve,) = re.findall(r"DAENA_TIME_BUDGET_SECONDS = tostring\(var\.timeout_seconds - (\d+)\)", text)
    # What was begun last may take as long as its calls do: of at most 30 seconds, more than two of them never.
    assert int(reserve) >= 300
    assert re.search(r"timeout_seconds\s+= var\.timeout_seconds\n", text)


# The lease is real time. An instance whose clock is ahead is the next tick but one.
LATER = """
from datetime import UTC, datetime, timedelta
from daena_kms import app
app.utc_now = lambda: datetime.now(UTC) + timedelta(minutes=20)
from main import run
"""


def test_an_instance_that_dies_leaves_a_claim_that_a_later_tick_takes_over(scene: Scene, tmp_path: Path) -> None:
    function = scene.function({"DAENA_CONCURRENCY": "1"})

    def kill(call: Call, carried: Carried) -> Any:
        if call.rpc == "AddSecretVersion" and call.resource.endswith(f"/{PREFIX}{KEY}"):
            function.kill()
            raise GoogleError("UNAVAILABLE", "nobody listens any more")
        return carried()

    scene.between(kill)
    assert function.post(ROTATE, SCHEDULER).status == 0
    scene.between(lambda _, carried: carried())

    soon = scene.function().post(ROTATE, SCHEDULER)
    assert outcomes(done(soon)) == {BILLING: "not-due", KEY: "in-progress"}
    (line,) = runs(soon)
    assert (line["metrics"]["KeysInProgress"], line["metrics"]["KeysStuck"]) == (1, 0)

    (tmp_path / "later.py").write_text(LATER)
    later = scene.function(source=tmp_path / "later.py").post(ROTATE, SCHEDULER)
    assert outcomes(done(later)) == {BILLING: "not-due", KEY: "created"}
    assert scene.active() == {BILLING: 1, KEY: 1}


# --- what the log says


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"X-Cloud-Trace-Context": f"{TRACE}/9876543210;o=1"}, TRACE),
        ({"X-Cloud-Trace-Context": TRACE}, TRACE),
        ({"traceparent": "00-nothing", "X-Cloud-Trace-Context": f"{TRACE}/1"}, TRACE),
        ({"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01"}, ""),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01\n"}, ""),
        ({"X-Cloud-Trace-Context": f"{TRACE}{TRACE}"}, ""),
        ({"X-Cloud-Trace-Context": f"{TRACE}/\u0661;o=1"}, ""),
        ({"X-Cloud-Trace-Context": '"}, "severity": "EMERGENCY"'}, ""),
        ({}, ""),
    ],
)
def test_a_trace_is_taken_where_it_is_one(
    entry: Any, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], trace: str
) -> None:
    monkeypatch.setenv("GCP_PROJECT_ID", "acme-prod-1")
    expected = {"logging.googleapis.com/trace": f"projects/acme-prod-1/traces/{trace}"} if trace else {}
    assert entry._trace(headers) == expected
    monkeypatch.delenv("GCP_PROJECT_ID")
    assert entry._trace(headers) == {}


def test_all_lines_of_a_request_bear_its_trace_those_of_the_librarys_threads_too(scene: Scene) -> None:
    function = scene.function()
    name, value = "logging.googleapis.com/trace", f"projects/{scene.project.secrets.project_id}/traces/{TRACE}"
    reply = function.post(ROTATE, SCHEDULER | {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    assert {line.get(name) for line in reply.lines} == {value}
    assert {"daena_kms", "daena_kms.rotation", "daena_kms.journal"} <= {line["logger"] for line in reply.lines}
    assert {line.get(name) for line in function.post(ROTATE).lines} == {None}


def _report(count: int, status: Status, message: str = "version 1 is 3 days old") -> Came:
    now = datetime.now(UTC)
    made = tuple(Outcome(f"tenant-{n:05}", status, message, "why", 1, "a hint") for n in range(count))
    report = Report(now, now, "digest", made, tuple(outcome.key for outcome in made))
    failures = tuple(f"{outcome.key}: {outcome.message}" for outcome in made if status is Status.FAILED)
    return Came(_document(Invocation(), documents.report(report)), failures, report)


def _lines(entry: Any, came: Came | KmsError) -> list[str]:
    entry._tell(entry.SCHEDULER, came)
    told: str = entry.told.getvalue()
    return told.splitlines()


@pytest.mark.parametrize("count", [0, 3, 1_000, 10_000])
@pytest.mark.parametrize("status", [Status.NOT_DUE, Status.FAILED])
def test_no_line_is_too_long_and_all_of_the_report_is_there(entry: Any, count: int, status: Status) -> None:
    lines = _lines(entry, _report(count, status))
    assert max(map(len, lines)) < LONGEST_LINE // 2
    first, *pieces = map(json.loads, lines)
    assert (first["metrics"]["Runs"], first["metrics"]["KeysOverdue"]) == (1, count)
    assert len(lines[0]) < 1_000
    told = [outcome["key"] for piece in pieces for outcome in piece["report"].get("outcomes", ())]
    assert told == [f"tenant-{n:05}" for n in range(count)]
    assert sum(len(piece["report"].get("overdue", ())) for piece in pieces) == count


def test_what_alone_is_longer_than_a_line_is_told_as_far_as_it_goes(entry: Any) -> None:
    lines = _lines(entry, _report(2, Status.NOT_DUE, '"\u00fc\\' * 60_000))
    assert max(map(len, lines)) < LONGEST_LINE
    assert "tenant-00001" in "".join(lines)
    (line,) = _lines(entry, ConfigurationError("\u00fc" * 50_000, "\u00fc" * 50_000))[len(lines) :]
    assert len(line) < LONGEST_LINE
    assert json.loads(line)["severity"] == "ERROR"


def test_alerts_and_metrics_ask_for_fields_that_the_lines_have(scene: Scene) -> None:
    """Their text is a part of two programs that nothing else ties together."""
    text = (INFRA / "alerts.tf").read_text()
    fields = set(re.findall(r"jsonPayload\.metrics\.(\w+)", text)) | set(re.findall(r'field = "(\w+)"', text))
    assert {"Runs", "KeysOverdue", "KeysStuck", "KeysFailed", "Duration"} <= fields
    function = scene.function()
    good = function.post(ROTATE, SCHEDULER)
    scene.project.secrets.store.delete(PREFIX + KEY, "")
    bad = function.post(ROTATE, SCHEDULER)
    words = set(re.findall(r'jsonPayload\.message=\\"(\w+)\\"', text))
    assert words == {runs(good)[0]["message"], runs(bad)[0]["message"]}
    for reply in (good, bad):
        (line,) = runs(reply)
        assert line["metrics"]["Runs"] == 1
        assert {field: type(line["metrics"].get(field)) for field in fields} == dict.fromkeys(fields, int) | {
            "Duration": float
        }
        # With nothing beside message and severity, an entry would have no jsonPayload to look into.
        assert set(line) > {"message", "severity"}
    names = set(re.findall(r"jsonPayload\.(\w+)", text))
    assert names == {"message", "metrics"}
    assert runs(function.post({"action": "status"})) == [], "no run, and none is counted"


def test_what_terraform_deploys_is_this_function(entry: Any) -> None:
    text = (INFRA / "function.tf").read_text()
    (target,) = re.findall(r'entry_point\s+= "(\w+)"', text)
    assert callable(getattr(entry, target))
    assert re.search(r"max_instance_request_concurrency\s+= 1\n", text), "lines bear the trace of the request before"


# --- nothing leaks

# As somebody does who looks for a fault: everything is logged, the SDK's own included.
LOUD = """
import logging, sys
class Everything(logging.Formatter):
    def format(self, record):
        return f"LOUD {record.name} {record.getMessage()} {vars(record)}"
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(Everything())
logging.basicConfig(level=logging.DEBUG, handlers=[handler], force=True)
logging.getLogger("google").setLevel(logging.DEBUG)
import main
from main import run
logging.getLogger("daena_kms").setLevel(logging.DEBUG)
"""
# Without what keeps Google's client from writing whole requests and replies.
CARELESS = """
import daena_kms.stores.gcp_secrets
logging.getLogger("google.cloud.secretmanager_v1.services.secret_manager_service.transports.grpc").setLevel(0)
"""


def life(scene: Scene, function: ServedFunction) -> Iterator[Reply]:
    """All that a function goes through: keys made, rotated, looked at, and failing in several ways."""
    yield function.post(ROTATE, SCHEDULER)
    scene.opened().import_key("old-key", KeyMaterial(CANARY), created=None)
    scene.policy(f"{POLICY}[keys.old-key]\n")
    yield function.post(FORCED | {"keys": [KEY, "old-key"], "reason": "laptop lost"})
    for action in ("status", "plan", "verify", "rotates"):
        yield function.post({"action": action})
    scene.between(only({"AddSecretVersion"}, refusing("INTERNAL")))
    yield function.post(FORCED | {"request_id": "another"})
    scene.between(lambda _, carried: carried())
    scene.project.secrets.store.put(PREFIX + BILLING, FOREIGN.encode())
    for action in ("rotate", "verify", "status"):
        yield function.post({"action": action})


def secrets_of(scene: Scene) -> list[bytes]:
    """With what signs the manifests, whole and in halves."""
    generation, *materials = scene.materials()
    return [generation, *halves(generation), *materials]


def test_nothing_that_leaves_the_function_holds_material_even_where_everything_is_logged(
    scene: Scene, tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    replies = list(life(scene, scene.function(source=tmp_path / "loud.py")))
    assert [reply.status for reply in replies] == [200, 200, 200, 200, 200, 400, 500, 500, 500, 200]
    everything = "".join(reply.everything for reply in replies)
    assert {"urllib3.connectionpool", "google.auth._default"} <= set(re.findall(r"LOUD (\S+)", everything))
    found = secrets_of(scene)
    assert CANARY in found
    for secret in (*found, FOREIGN.encode()):
        assert leaked(everything, secret) == []
    assert "ya29." not in everything, "a token begins so"


@pytest.mark.parametrize("scope", ["google", "google.cloud.secretmanager_v1"])
def test_googles_own_switch_for_more_logging_lets_out_no_material(scene: Scene, scope: str) -> None:
    reply = scene.function({"GOOGLE_SDK_PYTHON_LOGGING_SCOPE": scope}).post(ROTATE, SCHEDULER)
    assert reply.status == 200
    for secret in secrets_of(scene):
        assert leaked(reply.everything, secret) == []
    assert "ya29." not in reply.everything


def test_without_the_guard_googles_client_would_write_it_down(scene: Scene, tmp_path: Path) -> None:
    """So the test above can see, and what it sees is the guard's work."""
    (tmp_path / "careless.py").write_text(LOUD + CARELESS)
    reply = scene.function(source=tmp_path / "careless.py").post(ROTATE)
    assert reply.status == 200
    assert all(leaked(reply.everything, secret) for secret in scene.materials())


@pytest.mark.parametrize(
    "body",
    [
        {"action": "rotate", "material": "CANARY"},
        {"action": "rotate", "keys": "CANARY"},
        {"keys": [KEY, {"material": "CANARY"}]},
        "CANARY",
    ],
)
def test_the_values_of_a_refused_request_are_not_repeated(idle: ServedFunction, body: object) -> None:
    reply = idle.post(body)
    refused(reply, 400)
    assert "CANARY" not in reply.everything


# --- the bundle


def test_the_bundle_has_no_sdk_of_another_cloud() -> None:
    code = """
import importlib.util as u, sys
import main, daena_kms.app, daena_kms.stores.gcp, daena_kms.stores.gcp_ledger, daena_kms.stores.gcp_secrets
print([name for name in ("boto3", "botocore", "azure", "aws_lambda_powertools", "rich", "pytest") if u.find_spec(name)])
print([name for name in sys.modules if name.startswith("google.cloud.secretmanager")][:1])
"""
    absent, there = run_isolated(gcp_host_bundle(), code).splitlines()
    assert absent == "[]"
    assert there != "[]"


def test_importing_the_entry_point_imports_no_sdk() -> None:
    """It comes with the first request: an instance that is only started, or refuses a request, does not wait for it."""
    code = "import sys, main; print({'google.cloud.secretmanager_v1', 'google.cloud.storage', 'grpc'} & {*sys.modules})"
    assert run_isolated(gcp_host_bundle(), code) == "set()\n"
