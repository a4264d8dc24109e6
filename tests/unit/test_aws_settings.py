"""The command with settings for AWS that cannot be used: a clear error, and nothing is changed."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daena_kms.model import Status
from tests.cli.sandbox import Result, Sandbox
from tests.support import aws_world
from tests.support.aws_scene import (
    ACCOUNT,
    Parameters,
    Scene,
    copied,
    once,
    vault,
)
from tests.support.aws_world import BUCKET, REGION
from tests.support.worlds import KEY

# --- settings that cannot be used

POLICY = f"[keys.{KEY}]\ncreate = true\n"


class Office:
    """The command, with settings for the double's account."""

    used: object = None

    def __init__(self, folder: Path) -> None:
        self.account = aws_world.account()
        self.sandbox = Sandbox(folder, policy=POLICY)
        gc.freeze()  # a sandbox collects garbage after each call: what is there by now stays

    def lived_in(self) -> object:
        """A key that is due; made again only if somebody changed something. Returns everything there is."""
        if Office.used is None or self.everything() != Office.used:
            aws_world.emptied()
            assert self.run("rotate").status == 0
            Office.used = self.everything()
        self.sandbox.days = 90
        return Office.used

    def empty(self) -> object:
        """An account in which nothing was made. Returns everything there is."""
        aws_world.emptied()
        return self.everything()

    def run(self, *arguments: str, **environment: str) -> Result:
        return self.sandbox.run(*arguments, **{**self.account.environment(), **environment})

    def kms(self, operation: str, **parameters: object) -> dict[str, Any]:
        return self.account.aws.client("kms").call(operation, "a KMS key", **parameters)

    def key(self, *, state: str = "", **spec: str) -> str:
        """The ARN of another KMS key."""
        made = str(self.kms("create_key", **spec)["KeyMetadata"]["Arn"])
        if state == "disabled":
            self.kms("disable_key", KeyId=made)
        if state == "pending deletion":
            self.kms("schedule_key_deletion", KeyId=made, PendingWindowInDays=7)
        return made

    def everything(self) -> object:
        """Every secret with its versions, labels, values and tags; every version of every object."""
        secrets = {name: (secret.versions, secret.tags) for name, secret in copied(vault()).items()}
        pages = self.account.aws.client("s3").pages("list_object_versions", BUCKET, Bucket=BUCKET)
        kinds = ("Versions", "DeleteMarkers")
        entries = [entry for page in pages for kind in kinds for entry in page.get(kind, ())]
        return secrets, sorted((entry["Key"], entry["VersionId"], entry.get("ETag", "")) for entry in entries)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "work")


Environment = Callable[[Office], dict[str, str]]


def kms_key(state: str = "", **spec: str) -> Environment:
    return lambda office: {"AWS_KMS_KEY_ID": office.key(state=state, **spec)}


def setting(**environment: str) -> Environment:
    return lambda _: environment


RSA = {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}
HMAC = {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}
NOWHERE = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"

# name: (what is set, exit status where nothing was made yet and where a key is due, words of the error, of the hint)
UNUSABLE: dict[str, tuple[Environment, int, int, str, str]] = {
    "wrong region": (
        setting(AWS_REGION="eu-central-1"), 2, 2, "is not in the region eu-central-1", "AWS_REGION",
    ),
    "no KMS key": (setting(AWS_KMS_KEY_ID=""), 2, 2, "AWS_KMS_KEY_ID is not set", "symmetric"),
    "unknown KMS key": (setting(AWS_KMS_KEY_ID=NOWHERE), 2, 1, "NotFoundException", "AWS_KMS_KEY_ID"),
    "unknown alias": (setting(AWS_KMS_KEY_ID="alias/nobody"), 2, 1, "NotFoundException", "AWS_KMS_KEY_ID"),
    "asymmetric KMS key": (kms_key(**RSA), 2, 1, "InvalidKeyUsageException", "symmetric"),
    "HMAC KMS key": (kms_key(**HMAC), 2, 1, "InvalidKeyUsageException", "symmetric"),
    "disabled KMS key": (kms_key("disabled"), 2, 1, "DisabledException", "aws kms enable-key"),
    "dying KMS key": (kms_key("pending deletion"), 2, 1, "KMSInvalidStateException", "aws kms cancel-key-deletion"),
    "unknown bucket": (
        setting(DAENA_MANIFEST_URL="s3://no-such-bucket/manifests"), 2, 2, "NoSuchBucket", "DAENA_MANIFEST_URL",
    ),
    "bucket without a folder": (
        setting(DAENA_MANIFEST_URL=f"s3://{BUCKET}"), 2, 2, "is no S3 address", "s3://bucket/folder",
    ),
    "malformed address": (
        setting(DAENA_MANIFEST_URL="s3:/manifests"), 2, 2, "is no S3 address", "s3://bucket/folder",
    ),
    "another cloud's address": (
        setting(DAENA_MANIFEST_URL="oss://bucket/manifests"), 2, 2, "DAENA_MANIFEST_URL", "s3://bucket/folder",
    ),
    "no policy in S3": (
        setting(DAENA_POLICY=f"s3://{BUCKET}/daena-kms.toml"), 2, 2, f"there is no s3://{BUCKET}", "DAENA_POLICY",
    ),
    "unknown profile": (setting(AWS_PROFILE="production"), 2, 2, "AWS_PROFILE", "aws configure list-profiles"),
    "no credentials": (
        setting(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", AWS_SHARED_CREDENTIALS_FILE="none"),
        2, 2, "there are no AWS credentials", "aws sts get-caller-identity",
    ),
    "malformed endpoint": (setting(AWS_ENDPOINT_URL="not an address"), 2, 2, "can be made", "AWS_"),
}  # fmt: skip


@pytest.mark.parametrize("folder", ["team~manifests", "m" * 260])
def test_a_manifest_address_that_no_tag_can_hold_is_refused_before_anything_is_made(
    office: Office, folder: str
) -> None:
    before = office.empty()
    result = office.run("rotate", DAENA_MANIFEST_URL=f"s3://{BUCKET}/{folder}")
    assert result.status == 2
    assert "DAENA_MANIFEST_URL" in result.err
    assert "tag" in result.err or "longer" in result.err
    assert office.everything() == before


def _told(result: Result) -> tuple[str, str]:
    """What went wrong and the hint, wherever the command wrote it."""
    lines = [*result.err.splitlines(), *result.out.splitlines()]
    hints = [line for line in lines if "hint: " in line]
    return "\n".join(line for line in lines if line not in hints), "\n".join(hints)


@pytest.mark.parametrize("in_use", [False, True], ids=["nothing made yet", "a key is due"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_a_clear_error_and_changes_nothing(office: Office, name: str, in_use: bool) -> None:
    made, fresh_status, used_status, words, hint = UNUSABLE[name]
    before = office.lived_in() if in_use else office.empty()
    environment = made(office)
    result = office.run("rotate", **environment)
    error, hints = _told(result)
    assert result.status == (used_status if in_use else fresh_status), result
    assert words in error
    assert hint in hints
    assert "Traceback" not in error
    assert office.everything() == before


@pytest.mark.parametrize(
    ("state", "error"), [("disabled", "DisabledException"), ("pending deletion", "KMSInvalidStateException")]
)
def test_a_kms_key_that_cannot_be_used_for_a_while_stops_everything_and_changes_nothing(
    office: Office, state: str, error: str
) -> None:
    office.empty()
    key = office.key()
    assert office.run("rotate", AWS_KMS_KEY_ID=key).status == 0
    office.sandbox.days = 90
    if state == "disabled":
        office.kms("disable_key", KeyId=key)
    else:
        office.kms("schedule_key_deletion", KeyId=key, PendingWindowInDays=7)
    before = office.everything()
    for command in ("rotate", "verify", "status"):
        result = office.run(command, AWS_KMS_KEY_ID=key)
        assert result.status == 2, result
        assert error in _told(result)[0]
        assert "enable-key" in _told(result)[1]
    assert office.everything() == before
    if state != "disabled":
        office.kms("cancel_key_deletion", KeyId=key)
    office.kms("enable_key", KeyId=key)
    done = office.run("rotate", AWS_KMS_KEY_ID=key)
    assert (done.status, "promoted: version 2" in done.out) == (0, True), done


@pytest.mark.parametrize("operation", ["generate_data_key", "decrypt"])
@pytest.mark.parametrize("change", ["disable_key", "schedule_key_deletion"])
def test_a_kms_key_that_fails_in_a_rotation_burns_no_number_and_is_no_failed_check(
    scene: Scene, operation: str, change: str
) -> None:
    scene.rotate()
    kms = scene.account.aws.client("kms")
    key = str(kms.call("create_key", "another")["KeyMetadata"]["Arn"])
    scene.aws._kms_key = key
    scene.clock.move(days=90)

    def fails(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        kms.call(change, "the key", KeyId=key)
        return send()

    scene.kms.between = once(operation, fails)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "enable-key" in outcome.hint
    state = scene.history().entries[-1].state
    assert (state.failures, state.burnt, state.highest) == (0, (), 1 if operation == "generate_data_key" else 2)
    if change == "schedule_key_deletion":
        kms.call("cancel_key_deletion", "the key", KeyId=key)
    kms.call("enable_key", "the key", KeyId=key)
    scene.clock.move(minutes=61)
    outcome = scene.rotate()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    assert list(scene.history().versions) == [1, 2]
    scene.check()


def test_a_policy_in_s3_is_read_from_there(office: Office) -> None:
    office.empty()
    s3 = office.account.aws.client("s3")
    s3.call("put_object", "the policy", Bucket=BUCKET, Key="daena-kms.toml", Body=POLICY.encode())
    (office.sandbox.folder / "daena-kms.toml").unlink()
    result = office.run("rotate", DAENA_POLICY=f"s3://{BUCKET}/daena-kms.toml")
    assert (result.status, "created: version 1" in result.out) == (0, True), result


def test_a_kms_key_may_be_named_by_arn_id_or_alias(office: Office) -> None:
    office.empty()
    arn = office.key()
    alias = f"alias/daena-{arn[-12:]}"
    office.kms("create_alias", AliasName=alias, TargetKeyId=arn)
    named = [arn, arn.partition("key/")[2], alias, f"arn:aws:kms:{REGION}:{ACCOUNT}:{alias}"]
    for number, name in enumerate(named, 1):
        result = office.run("rotate", "--all", "--force", "--yes", AWS_KMS_KEY_ID=name)
        assert (result.status, f"version {number}" in result.out) == (0, True), result
    assert office.run("verify").status == 0
