"""The bundle as Lambda runs it: unpacked, under Amazon's own runtime client, against the AWS double over a socket."""

import json
import re
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daena_kms.names import RESERVED_KEY
from tests.infra.aws_template import stack
from tests.infra.bundles import host_bundle
from tests.support.aws_world import BUCKET, PREFIX
from tests.support.lambda_runtime import Function, Kind, Result, runtime_folder

from .aws_scene import BILLING, KEY, POLICY, RESERVED_SECRET, Request, Scene, figures

ROOT = Path(__file__).parents[2]
EVENTS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "functions/aws_lambda/events").glob("*.json")}
ROTATE = {"action": "rotate"}
NOTHING_CHANGED = "nothing was changed"
# A run begins new keys while two of the longest calls (30 s) are left.
RESERVED_SECONDS = 60


def done(result: Result) -> dict[str, Any]:
    """The report of a run that succeeded, without a word on standard error."""
    assert (result.kind, result.stderr) == (Kind.RESPONSE, ""), result
    report: dict[str, Any] = result.payload
    return report


def failed(result: Result, error: str) -> str:
    """The message of an error of that type, which is in the log with its hint as well."""
    assert (result.kind, result.payload["errorType"], result.stderr) == (Kind.ERROR, error, ""), result
    message: str = result.payload["errorMessage"]
    if error != "RunFailedError":
        [line] = [line for line in result.lines if line.get("kind") == error]
        assert line["level"] == "ERROR"
        assert line["message"] in message
        assert line["hint"]
        assert line["hint"] in message
    return message


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {outcome["key"]: outcome["status"] for outcome in report["outcomes"]}


def said(result: Result, message: str) -> list[dict[str, Any]]:
    return [line for line in result.lines if line.get("message") == message]


def layer(folder: Path, name: str, code: str) -> Path:
    """A folder with one module, as a layer brings it."""
    (folder / f"{name}.py").write_text(code)
    return folder


# --- cold and warm


def test_the_first_run_makes_the_manifests_and_says_which_public_key_to_pin(scene: Scene) -> None:
    first = scene.function().invoke(ROTATE)
    assert done(first)["counts"] == {"created": 2}
    [line] = said(first, "made new manifests: pin their public key")
    assert re.fullmatch("[0-9a-f]{64}", line["public_key"])

    pinned = scene.function({"DAENA_PUBLIC_KEY": line["public_key"]}).invoke(ROTATE)
    assert done(pinned)["counts"] == {"not-due": 2}
    assert said(pinned, "made new manifests: pin their public key") == []
    assert scene.active() == {KEY: 1, BILLING: 1}


def test_foreign_manifests_are_refused(scene: Scene) -> None:
    done(scene.function().invoke(ROTATE))
    scene.gate.forget()
    message = failed(scene.function({"DAENA_PUBLIC_KEY": "ab" * 32}).invoke(ROTATE), "IntegrityError")
    assert "the ledger's public key is not the pinned one" in message
    assert not any(request.writes for request in scene.gate.requests)


def test_a_warm_process_does_not_sign_in_again(scene: Scene) -> None:
    function = scene.function()
    first = function.invoke(ROTATE)
    assert first.cold
    assert sign_ins(scene) > (0, 0)
    scene.gate.forget()
    second = function.invoke(ROTATE)
    assert done(second)["counts"] == {"not-due": 2}
    assert not second.cold
    assert sign_ins(scene) == (0, 0)
    # All that a tick with nothing to do costs: the policy, and one page of the listing.
    assert [request[:2] for request in scene.gate.requests] == [("s3", "GET"), ("secretsmanager", "ListSecrets")]


def sign_ins(scene: Scene) -> tuple[int, int]:
    """How often it was asked who we are, and how often the keys behind the manifests were read."""
    return scene.gate.count("GetCallerIdentity"), scene.gate.count("GetSecretValue", RESERVED_SECRET)


def test_a_policy_that_changes_is_seen_by_a_warm_process(scene: Scene) -> None:
    function = scene.function()
    done(function.invoke(ROTATE))
    scene.write_policy(f"{POLICY}[keys.third-key]\n")
    assert outcomes(done(function.invoke(ROTATE)))["third-key"] == "created"
    scene.write_policy("[keys.Third_Key]\n")
    message = failed(function.invoke(ROTATE), "ConfigurationError")
    assert "'Third_Key'" in message
    assert NOTHING_CHANGED in message


def test_all_that_is_imported_comes_from_the_bundle(scene: Scene, tmp_path: Path) -> None:
    code = """
import sys, handler
def report(event, context):
    handler.lambda_handler(event, context)
    return {name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}
"""
    folder = layer(tmp_path, "where", code)
    found = {
        name: Path(file)
        for name, file in done(scene.function(handler="where.report", layers=[folder]).invoke(ROTATE)).items()
    }
    found.pop("__main__")  # the runtime client's
    places = (host_bundle(), runtime_folder(), folder, Path(sysconfig.get_path("stdlib")))
    came: dict[Path, set[str]] = {place: set() for place in places}
    for name, file in found.items():
        assert "site-packages" not in file.parts
        came[next(place for place in places if file.is_relative_to(place))].add(name.partition(".")[0])
    ours, client = came[host_bundle()], came[runtime_folder()]
    assert {"handler", "daena_kms", "botocore", "aws_lambda_powertools", "cryptography", "msgspec", "urllib3"} <= ours
    assert {"awslambdaric", "runtime_client"} <= client
    assert client <= {entry.name.partition(".")[0] for entry in runtime_folder().iterdir()}
    assert {"boto3", "click", "rich", "azure", "google", "sqlite3"}.isdisjoint(found)


# --- events


def test_the_payloads_that_are_shipped_are_these() -> None:
    assert sorted(EVENTS) == ["plan", "rotate", "rotate-now", "scheduler", "status", "verify"]


def test_every_payload_that_is_shipped_is_accepted(scene: Scene) -> None:
    function = scene.function()
    for name in ("rotate", *sorted(EVENTS)):
        assert done(function.invoke(EVENTS[name]))["action"] == EVENTS[name].get("action", "rotate")
    assert scene.active() == {KEY: 2, BILLING: 1}  # rotate-now is forced
    reasons = {entry.reason for entry in scene.opened().history(KEY) if entry.number == 2}
    assert EVENTS["rotate-now"]["reason"] in reasons


def test_the_shipped_tick_is_what_the_scheduler_sends() -> None:
    sent = json.loads(stack()["Schedule"]["Properties"]["Target"]["Input"])
    assert sent.keys() == EVENTS["scheduler"].keys()
    assert sent["source"] == EVENTS["scheduler"]["source"]


def test_a_tick_rotates_what_is_due_in_the_schedulers_name(scene: Scene) -> None:
    function = scene.function()
    scene.imported(BILLING, b"b" * 32)
    tick = function.invoke(EVENTS["scheduler"])
    assert outcomes(done(tick)) == {BILLING: "rotated", KEY: "created"}
    [line] = said(tick, "tick")
    assert (line["scheduled_time"], line["attempt"]) == (EVENTS["scheduler"]["scheduled_time"], "1")
    assert scene.opened().history(BILLING)[-1].trigger == "aws.scheduler"
    done(function.invoke({**ROTATE, "keys": [BILLING], "force": True}))
    assert scene.opened().history(BILLING)[-1].trigger == "aws.lambda"


def test_an_event_that_is_delivered_twice_is_carried_out_once(scene: Scene) -> None:
    function = scene.function()
    done(function.invoke(ROTATE))
    forced = {**ROTATE, "keys": [KEY], "force": True}
    for _ in range(2):
        [outcome] = done(function.invoke(forced, request_id="the-same"))["outcomes"]
        assert outcome["number"] == 2
    assert scene.active()[KEY] == 2
    [outcome] = done(function.invoke(forced, request_id="another"))["outcomes"]
    assert outcome["number"] == 3


def test_looking_shows_what_there_is_and_changes_nothing(scene: Scene) -> None:
    function = scene.function()
    scene.imported(BILLING, b"b" * 32, days=400)
    scene.gate.forget()
    plan = done(function.invoke({"action": "plan"}))
    assert outcomes(plan) == {BILLING: "due", KEY: "due"}
    assert outcomes(done(function.invoke({**ROTATE, "dry_run": True}))) == {BILLING: "due", KEY: "due"}
    [key] = done(function.invoke({"action": "status", "keys": [BILLING]}))["keys"]
    assert (key["key"], key["active"], key["age_days"], key["overdue"]) == (BILLING, 1, 400, True)
    assert [version["state"] for version in key["versions"]] == ["active"]
    verified = done(function.invoke({"action": "verify"}))
    assert (verified["verified"], [key["key"] for key in verified["keys"]]) == (True, [BILLING])
    assert not any(request.writes for request in scene.gate.requests)


def test_looking_before_the_first_run_says_what_to_do(scene: Scene) -> None:
    function = scene.function()
    for action in ("plan", "status", "verify"):
        message = failed(function.invoke({"action": action}), "NotFoundError")
        assert "the manifests at s3://daena-manifests/manifests were never initialised" in message
    assert not any(request.writes for request in scene.gate.requests)


def test_a_key_that_nobody_knows_is_named(scene: Scene) -> None:
    function = scene.function()
    done(function.invoke(ROTATE))
    scene.gate.forget()
    for action in ("rotate", "status"):
        message = failed(function.invoke({"action": action, "keys": [KEY, "no-such-key"]}), "NotFoundError")
        assert "'no-such-key'" in message
    unmanaged = {**ROTATE, "keys": ["no-such-key"], "force": True}
    assert "no policy names no-such-key" in failed(function.invoke(unmanaged), "ConfigurationError")
    assert not any(request.writes for request in scene.gate.requests)


CANARY = "canary-in-a-value"
MALFORMED: dict[str, tuple[object, str]] = {
    "null": (None, "a JSON object expected, got NoneType"),
    "a text": (CANARY, "a JSON object expected, got str"),
    "a list": ([ROTATE], "a JSON object expected, got list"),
    "a number": (7, "a JSON object expected, got int"),
    "an unknown field": ({"action": "rotate", "kyes": [CANARY]}, "unknown field 'kyes'; did you mean 'keys'?"),
    "an event of another service": ({"Records": [CANARY]}, "unknown field 'Records'"),
    "an action of a wrong type": ({"action": [CANARY]}, "$.action"),
    "keys of a wrong type": ({"keys": CANARY}, "$.keys"),
    "a key of a wrong type": ({"keys": [KEY, {CANARY: 1}]}, "$.keys[1]"),
    "force of a wrong type": ({"keys": [KEY], "force": CANARY}, "$.force"),
    "dry_run of a wrong type": ({"dry_run": 1}, "$.dry_run"),
    "reason of a wrong type": ({"reason": None}, "$.reason"),
    "an unknown action": ({"action": "destroy"}, "'action' is 'destroy'"),
    "a bad key name": ({"keys": ["Bad_Name"]}, "'Bad_Name'"),
    "a name that is ours": ({"keys": [RESERVED_KEY]}, f"'{RESERVED_KEY}'"),
    "force without keys": ({"force": True}, "'force' without 'keys'"),
    "force on looking": ({"action": "status", "keys": [KEY], "force": True}, "'force'"),
    "too many keys": ({"keys": ["k"] * 10_001}, "'keys' has 10001 names"),
    "a huge reason": ({"reason": CANARY * 30_000}, "'reason' is not one line of at most 500 characters"),
    "a reason of two lines": ({"reason": f"one\n{CANARY}"}, "'reason' is not one line"),
    "a request without force": ({"request_id": "r"}, "'request_id' goes with 'force'"),
    "a tick with an unknown field": ({**EVENTS["scheduler"], "force": CANARY}, "a field that is not its own: 'force'"),
}


def test_a_malformed_event_is_refused_by_the_field_and_changes_nothing(scene: Scene) -> None:
    """One process for all: each is told before anything is opened."""
    function = scene.function()
    for name, (event, expected) in MALFORMED.items():
        result = function.invoke(event)
        message = failed(result, "ConfigurationError")
        assert expected in message, name
        assert CANARY not in result.everything, name
        assert len(result.everything) < 10_000, name
        assert NOTHING_CHANGED in message, name
    assert scene.gate.requests == []
    assert done(function.invoke(ROTATE))["counts"] == {"created": 2}


def test_a_tick_with_a_value_of_a_wrong_type_is_refused(scene: Scene) -> None:
    result = scene.function().invoke({**EVENTS["scheduler"], "scheduled_time": {"a": [CANARY]}})
    assert "scheduled_time" in failed(result, "ConfigurationError")
    assert CANARY not in result.everything


# --- runs that fail


def test_a_key_that_fails_fails_the_run_and_no_other_key(scene: Scene) -> None:
    function = scene.function()
    scene.imported(BILLING, b"b" * 32)
    scene.write_policy(f"{POLICY}[keys.typo-key]\ncreate = false\n")
    result = function.invoke(EVENTS["scheduler"])
    message = failed(result, "RunFailedError")
    assert message.startswith("1 failed: typo-key does not exist, and its policy does not say create = true")
    assert "(a typo? otherwise `create` it, `import` it, or set create = true)" in message
    metrics = figures(result.lines)
    assert (metrics["KeysFailed"], metrics["KeysRotated"], metrics["KeysCreated"]) == ([1], [1], [1])
    [line] = said(result, "failed")
    assert outcomes(line["report"]) == {BILLING: "rotated", KEY: "created", "typo-key": "failed"}
    assert scene.active() == {BILLING: 2, KEY: 1}


def test_after_a_failure_the_next_event_signs_in_again(scene: Scene) -> None:
    function = scene.function()
    done(function.invoke(ROTATE))
    scene.write_policy(f"{POLICY}[keys.typo-key]\ncreate = false\n")
    failed(function.invoke(ROTATE), "RunFailedError")
    scene.write_policy(POLICY)
    scene.gate.forget()
    again = function.invoke(ROTATE)
    done(again)
    assert not again.cold
    assert sign_ins(scene) == (1, 1)


def test_drift_fails_a_run_and_a_verification(scene: Scene) -> None:
    function = scene.function()
    done(function.invoke(ROTATE))
    secrets = scene.account.aws.client("secretsmanager")
    secrets.call("put_secret_value", BILLING, SecretId=PREFIX + BILLING, SecretString="somebody else's")
    rotation = failed(function.invoke({**ROTATE, "keys": [BILLING, KEY], "force": True}), "RunFailedError")
    assert rotation.startswith(f"1 failed: {BILLING}: ")
    assert "`daena-key-rotate adopt billing-key` takes it in as it is, nothing is touched without" in rotation
    verification = failed(function.invoke({"action": "verify"}), "RunFailedError")
    assert f"failed: {BILLING}: readers get version " in verification
    assert f"{KEY}: " not in verification
    assert {key.key: key.active for key in scene.opened().status()} == {BILLING: 1, KEY: 2}


def test_a_disabled_kms_key_is_told_with_what_to_do(scene: Scene) -> None:
    kms = scene.account.aws.client("kms")
    arn = str(kms.call("create_key", "a key of its own")["KeyMetadata"]["Arn"])
    function = scene.function({"AWS_KMS_KEY_ID": arn})
    done(function.invoke(ROTATE))
    kms.call("disable_key", arn, KeyId=arn)
    warm = failed(function.invoke({**ROTATE, "keys": [KEY, BILLING], "force": True}), "RunFailedError")
    assert warm.startswith("2 failed: ")
    assert warm.count("DisabledException") == warm.count("enable the KMS key again") == 2
    opening = failed(function.invoke(ROTATE), "UnavailableError")
    assert "enable the KMS key again" in opening
    kms.call("enable_key", arn, KeyId=arn)
    assert done(function.invoke(ROTATE))["counts"] == {"not-due": 2}


def test_an_error_without_a_hint_ends_with_its_message(scene: Scene) -> None:
    function = scene.function()
    done(function.invoke(ROTATE))
    function.close()
    secrets = scene.account.aws.client("secretsmanager")
    secrets.call("put_secret_value", RESERVED_SECRET, SecretId=RESERVED_SECRET, SecretString="somebody else's")
    result = function.invoke(ROTATE)
    assert (result.kind, result.payload["errorType"]) == (Kind.ERROR, "IntegrityError")
    assert result.payload["errorMessage"] == "the reserved key holds 15 bytes, 64 expected"


# --- time


def test_out_of_time_before_the_first_key_all_is_deferred_and_the_run_succeeds(scene: Scene) -> None:
    function = scene.function()
    done(function.invoke(ROTATE))
    scene.imported("third-key", b"t" * 32)
    scene.write_policy(f"{POLICY}[keys.third-key]\n[keys.fourth-key]\n")
    scene.gate.forget()
    result = function.invoke(EVENTS["scheduler"], RESERVED_SECONDS - 1)
    report = done(result)
    assert report["counts"] == {"not-due": 2, "deferred": 2}
    assert report["overdue"] == ["third-key"]
    assert "no time left in this run: the next one takes it" in {o["message"] for o in report["outcomes"]}
    assert (figures(result.lines)["KeysDeferred"], figures(result.lines)["KeysFailed"]) == ([2], [0])
    assert not any(request.writes for request in scene.gate.requests)
    assert done(function.invoke(EVENTS["scheduler"]))["counts"] == {"created": 1, "rotated": 1, "not-due": 2}


def test_out_of_time_on_the_way_what_was_begun_is_finished_and_the_rest_deferred(scene: Scene) -> None:
    function = scene.function({"DAENA_CONCURRENCY": "1"})
    done(function.invoke(ROTATE))
    scene.write_policy(f"{POLICY}[keys.a-key]\n[keys.b-key]\n[keys.c-key]\n")
    left = 2.0

    def until_no_time_is_left(request: Request) -> None:
        if request.action == "GenerateDataKey":
            time.sleep(left)

    scene.gate.before = until_no_time_is_left
    report = done(function.invoke(EVENTS["scheduler"], RESERVED_SECONDS + left))
    assert outcomes(report) == {
        "a-key": "created", "b-key": "deferred", "c-key": "deferred", BILLING: "not-due", KEY: "not-due",
    }  # fmt: skip
    assert scene.active() == {"a-key": 1, BILLING: 1, KEY: 1}


def test_a_process_that_lambda_kills_is_followed_by_another(scene: Scene) -> None:
    function, released = scene.function(), threading.Event()

    def hold(request: Request) -> None:
        if request.action == "ListSecrets":
            released.wait(60)

    scene.gate.before = hold
    late = function.invoke(EVENTS["scheduler"], 2)
    released.set()
    scene.gate.forget()
    assert (late.kind, late.stderr) == (Kind.TIMEOUT, "")
    after = function.invoke(EVENTS["scheduler"])
    assert after.cold
    assert done(after)["counts"] == {"created": 2}


def test_an_aws_that_does_not_answer_ends_the_run_and_not_the_process(scene: Scene) -> None:
    """The longest call, with its repeats, fits into what is set aside for it: Lambda never has to kill."""
    function, released = scene.function({"DAENA_CALL_TIMEOUT_SECONDS": "4"}), threading.Event()
    done(function.invoke(ROTATE))

    def hold(request: Request) -> None:
        if request.service == "kms":
            released.wait(60)

    scene.gate.before = hold
    result = function.invoke({**ROTATE, "keys": [KEY], "force": True}, 2 * 4 + 4)
    released.set()
    scene.gate.forget()
    message = failed(result, "RunFailedError")
    assert "AWS could not be reached (ReadTimeoutError) (check AWS_REGION" in message
    after = function.invoke({**ROTATE, "keys": [KEY], "force": True})
    assert not after.cold
    assert outcomes(done(after)) == {KEY: "rotated"}


# The lease is real time. A process whose clock is ahead is the next tick but one.
LATER = """
from datetime import UTC, datetime, timedelta
from daena_kms import app
app.utc_now = lambda: datetime.now(UTC) + timedelta(minutes=20)
from handler import lambda_handler
"""


def test_a_process_that_dies_leaves_a_claim_that_a_later_tick_takes_over(scene: Scene, tmp_path: Path) -> None:
    function = scene.function({"DAENA_CONCURRENCY": "1"})

    def kill(request: Request) -> None:
        if request.action == "UpdateSecretVersionStage" and request.subject == PREFIX + KEY:
            function.kill()

    scene.gate.before = kill
    assert function.invoke(EVENTS["scheduler"]).kind is Kind.DIED
    scene.gate.forget()

    soon = function.invoke(EVENTS["scheduler"])
    assert soon.cold
    assert outcomes(done(soon)) == {BILLING: "not-due", KEY: "in-progress"}
    assert (figures(soon.lines)["KeysInProgress"], figures(soon.lines)["KeysStuck"]) == ([1], [0])

    later = scene.function(handler="later.lambda_handler", layers=[layer(tmp_path, "later", LATER)]).invoke(
        EVENTS["scheduler"]
    )
    assert outcomes(done(later)) == {BILLING: "not-due", KEY: "created"}
    assert scene.active() == {BILLING: 1, KEY: 1}


# --- what cannot start


def removed_policy(scene: Scene) -> dict[str, str]:
    scene.s3("delete_object")
    return {}


def broken_policy(scene: Scene) -> dict[str, str]:
    scene.write_policy("[keys\n")
    return {}


UNUSABLE: dict[str, tuple[Callable[[Scene], dict[str, str]], str, str]] = {
    "an unknown setting": (
        lambda _: {"DAENA_KEYPREFIX": "a-"},
        "DAENA_KEYPREFIX: unknown setting; did you mean DAENA_KEY_PREFIX?",
        "mend them; nothing was changed",
    ),
    "no KMS key": (
        lambda _: {"AWS_KMS_KEY_ID": ""},
        "AWS_KMS_KEY_ID is not set",
        "name the symmetric KMS key that wraps the material",
    ),
    "a KMS key of another region": (
        lambda _: {"AWS_KMS_KEY_ID": "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-4000-8000-000000000000"},
        "is not in the region eu-west-1",
        "set AWS_REGION to the key's region",
    ),
    "a KMS key that does not exist": (
        lambda _: {"AWS_KMS_KEY_ID": "00000000-0000-4000-8000-000000000000"},
        "generate-data-key of the KMS key 00000000-0000-4000-8000-000000000000: NotFoundException",
        "AWS_KMS_KEY_ID names no key of this account and region: check it, and AWS_REGION",
    ),
    "no such bucket": (
        lambda _: {"DAENA_MANIFEST_URL": "s3://no-such-bucket/manifests"},
        "NoSuchBucket",
        "check the bucket's name in DAENA_MANIFEST_URL and DAENA_POLICY",
    ),
    "no address of manifests": (
        lambda _: {"DAENA_MANIFEST_URL": "ftp://bucket/manifests"},
        "DAENA_MANIFEST_URL 'ftp://bucket/manifests' is no address that this version knows",
        "use s3://bucket/folder",
    ),
    "manifests in another cloud, whose SDK is not in the bundle": (
        lambda _: {"DAENA_MANIFEST_URL": "https://account.blob.core.windows.net/manifests/keys"},
        "the package azure is not installed",
        "pip install 'daena-kms[azure]'",
    ),
    "no policy": (
        removed_policy,
        f"there is no s3://{BUCKET}/policy/daena-kms.toml",
        "upload it, or set DAENA_POLICY to where it is",
    ),
    "a policy that is not in the bundle": (
        lambda _: {"DAENA_POLICY": "missing.toml"},
        "the policy missing.toml cannot be read: No such file or directory",
        "set DAENA_POLICY",
    ),
    "a broken policy": (broken_policy, "is not valid TOML", "mend that line"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_told_with_what_to_do_and_nothing_is_made(scene: Scene, case: str) -> None:
    spoil, expected, hint = UNUSABLE[case]
    result = scene.function(spoil(scene)).invoke(EVENTS["scheduler"])
    message = failed(result, "ConfigurationError")
    assert expected in message
    assert hint in message
    assert [request for request in scene.gate.requests if request.writes] == []


def test_without_a_policy_no_manifests_are_made(scene: Scene) -> None:
    removed_policy(scene)
    failed(scene.function().invoke(EVENTS["scheduler"]), "ConfigurationError")
    assert [request for request in scene.gate.requests if request.writes] == []


def test_credentials_that_may_not_are_told_with_what_to_check(scene: Scene) -> None:
    scene.account.server.enforce_iam(True)
    try:
        result = scene.function({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}).invoke(EVENTS["scheduler"])
    finally:
        scene.account.server.enforce_iam(False)
    assert "check the credentials" in failed(result, "DeniedError")


def test_a_policy_in_the_bundle_works(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "daena-kms.toml").write_text(POLICY)
    function = scene.function({"DAENA_POLICY": str(tmp_path / "daena-kms.toml")})
    assert done(function.invoke(ROTATE))["counts"] == {"created": 2}


def test_a_handler_that_cannot_be_imported_is_told(scene: Scene) -> None:
    """Without core beside it, as if the bundle had been built wrong."""
    with Function(ROOT / "functions/aws_lambda", "handler.lambda_handler", scene.environment()) as function:
        result = function.invoke(ROTATE)
    assert (result.kind, result.payload["errorType"]) == (Kind.ERROR, "Runtime.ImportModuleError")
    assert "No module named 'aws_lambda_powertools'" in result.payload["errorMessage"]


# --- figures


def test_a_run_tells_its_figures_as_the_alarms_expect_them(scene: Scene) -> None:
    resources = stack()
    variables = resources["Function"]["Properties"]["Environment"]["Variables"]
    assert variables.keys() <= scene.environment().keys()
    powertools = {name: value for name, value in variables.items() if name.startswith("POWERTOOLS_")}
    scene.imported(BILLING, b"b" * 32)
    scene.imported("old-key", b"o" * 32, days=100)
    scene.write_policy(f"{POLICY}[keys.old-key]\nrotate_after_days = 10\nwindow = '{never_now()}'\n")

    told = figures(scene.function(powertools).invoke(EVENTS["scheduler"]).lines)
    [described] = told["_aws"]["CloudWatchMetrics"]
    units = {metric["Name"]: metric["Unit"] for metric in described["Metrics"]}
    assert units.pop("Duration") == "Seconds"
    assert set(units.values()) == {"Count"}
    values = {name: told[name][0] for name in units}
    assert 0 < told["Duration"][0] < 60
    assert values == {
        "Runs": 1, "KeysCreated": 1, "KeysRotated": 1, "KeysNotDue": 0, "KeysInProgress": 0, "KeysDeferred": 0,
        "KeysFailed": 0, "KeysOverdue": 1, "KeysStuck": 0, "OldestActiveDays": 100,
    }  # fmt: skip

    alarms = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::CloudWatch::Alarm"]
    ours = [alarm for alarm in alarms if alarm["Namespace"] == described["Namespace"]]
    assert {alarm["MetricName"] for alarm in ours} == {"KeysOverdue", "KeysStuck", "Runs"}
    for alarm in ours:
        dimensions = {dimension["Name"]: dimension["Value"] for dimension in alarm["Dimensions"]}
        assert described["Dimensions"] == [list(dimensions)]
        assert {name: told[name] for name in dimensions} == dimensions


def never_now() -> str:
    """A window that is closed today and tomorrow."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    return f"{days[(time.gmtime().tm_wday + 3) % 7]} 02:00-06:00"


def test_looking_tells_no_figures(scene: Scene) -> None:
    """A look must not pass for a run: the alarm on missing runs would be quiet."""
    function = scene.function()
    done(function.invoke(ROTATE))
    for event in ({"action": "plan"}, {"action": "status"}, {"action": "verify"}, {**ROTATE, "dry_run": True}):
        result = function.invoke(event)
        done(result)
        assert figures(result.lines) == {}
