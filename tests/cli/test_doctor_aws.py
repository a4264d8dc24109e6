"""`doctor` on AWS: the strict double, with permissions judged as AWS judges them."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import botocore.session
import pytest
from moto.kms.models import kms_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends

from daena_kms.names import RESERVED_KEY
from daena_kms.stores import aws, aws_ledger
from daena_kms.stores.aws_calls import Client
from tests.support import aws_world
from tests.support.aws_world import BUCKET, MANIFESTS, PREFIX, REGION, Account

from .doctoring import MINUTES, NOWHERE, POLICY, Found, check_text, examined, with_a_key
from .sandbox import Sandbox

ACCOUNT = "123456789012"
NEEDED = {
    action
    for table in (aws.REQUIRED_PERMISSIONS, aws_ledger.REQUIRED_PERMISSIONS)
    for actions in table.values()
    for action in actions
}
USER, OTHER = "doctors-patient", "us-east-1"


def statements(actions: set[str], key: str) -> list[dict[str, Any]]:
    """What those actions are granted on: as the template does, names and contexts included."""
    secrets = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
    mine = [f"{secrets}{PREFIX}*", f"{secrets}reserved--{PREFIX}*"]
    bound = {"kms:EncryptionContext:daena-kms:key": [f"{PREFIX}*", f"reserved--{PREFIX}*"]}
    found = []
    for action in sorted(actions):
        statement: dict[str, Any] = {"Effect": "Allow", "Action": action, "Resource": "*"}
        if action.startswith("secretsmanager:") and action != "secretsmanager:ListSecrets":
            statement["Resource"] = mine
        elif action.startswith("kms:") and action != "kms:DescribeKey":
            statement |= {"Resource": key, "Condition": {"StringLike": bound}}
        elif action in ("s3:GetObject", "s3:PutObject"):
            statement["Resource"] = f"arn:aws:s3:::{BUCKET}/manifests/*"
        found.append(statement)
    return found


class Rotated(NamedTuple):
    """An account with a key."""

    environment: dict[str, str]
    materials: list[bytes]


class Patient:
    """An account whose credentials may do what a test says."""

    def __init__(self, account: Account, box: Sandbox, rotated: Rotated) -> None:
        self.account = account
        self.box = box
        self.environment = dict(rotated.environment)
        self.materials = rotated.materials
        """What must not be seen."""

    def look(self, **environment: str) -> Found:
        return examined(self.box, self.environment | environment, self.state, *self.materials)

    def judged(self, actions: set[str], key: str = "") -> dict[str, str]:
        """The credentials of somebody with these permissions and no other, which are looked at from now on."""
        iam = botocore.session.Session().create_client("iam", region_name=REGION)
        if USER not in [user["UserName"] for user in iam.list_users()["Users"]]:
            iam.create_user(UserName=USER)
        document = {"Version": "2012-10-17", "Statement": statements(actions, key or self.account.key)}
        iam.put_user_policy(UserName=USER, PolicyName="own", PolicyDocument=json.dumps(document))
        for old in iam.list_access_keys(UserName=USER)["AccessKeyMetadata"]:
            iam.delete_access_key(UserName=USER, AccessKeyId=old["AccessKeyId"])
        made = iam.create_access_key(UserName=USER)["AccessKey"]
        self.account.server.enforce_iam(on=True)
        return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}

    def state(self) -> Any:
        """Everything that lies in the account, but for when a secret was last read."""
        secrets = {
            name: {k: copy.deepcopy(v) for k, v in vars(secret).items() if k != "last_accessed_date"}
            for name, secret in dict.items(secretsmanager_backends[ACCOUNT][REGION].secrets)
        }
        buckets = s3_backends[ACCOUNT]["aws"].buckets
        objects = {
            (bucket.name, name): [
                (getattr(o, "value", None), o.version_id, o.last_modified) for o in bucket.keys.getlist(name)
            ]
            for bucket in buckets.values()
            for name in bucket.keys
        }
        keys = {key.id: (key.key_state, key.policy) for key in kms_backends[ACCOUNT][REGION].keys.values()}
        return secrets, objects, keys


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotated]:
    """Made once: whoever is looked at does not change."""
    account = aws_world.emptied()
    environment, store = with_a_key(tmp_path_factory.mktemp("aws"), account.environment()), account.store()
    keys = (RESERVED_KEY, "orders-key")
    yield Rotated(environment, [store.read(key, v).reveal() for key in keys for v in store.observe(key).versions])
    aws_world.emptied()


@pytest.fixture
def patient(rotated: Rotated, tmp_path: Path) -> Iterator[Patient]:
    account = aws_world.account()
    yield Patient(account, Sandbox(tmp_path / "work", policy=POLICY), rotated)
    account.server.enforce_iam(on=False)


def test_all_is_well(patient: Patient) -> None:
    assert len(patient.materials) == 2
    found = patient.look()
    check_text(patient.box, patient.environment, found)
    assert found.status == 0
    assert found.named("ok") == set(found.checks)
    assert set(found.checks) >= NEEDED | {"KMS key", "create-only", "clock", "evidence keys", "pinned key", "keys"}


def test_with_exactly_the_permissions_of_the_template(patient: Patient) -> None:
    """The function's role has no kms:DescribeKey: what that would show, the dry runs show."""
    found = patient.look(**patient.judged(NEEDED))
    assert found.status == 0
    assert found.named("not-tried") == {"KMS key"}
    assert "kms:DescribeKey" in found.line("KMS key")


@pytest.mark.parametrize("action", sorted(NEEDED))
def test_without_a_permission_its_line_fails_and_no_other(patient: Patient, action: str) -> None:
    line = patient.look(**patient.judged(NEEDED - {action} | {"kms:DescribeKey"})).only(action)
    assert "AccessDenied" in line
    assert "check the IAM permissions" in line


# --- the KMS key


def made(account: Account, **parameters: Any) -> str:
    return str(account.aws.client("kms").call("create_key", "another key", **parameters)["KeyMetadata"]["Arn"])


KEYS: dict[str, tuple[Mapping[str, str], str, str, str]] = {
    "asymmetric": ({"KeySpec": "RSA_2048"}, "", "RSA_2048", "use a symmetric key"),
    "signing": ({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}, "", "SIGN_VERIFY", "use a symmetric key"),
    "disabled": ({}, "disable_key", "Disabled", "aws kms enable-key"),
    "dying": ({}, "schedule_key_deletion", "PendingDeletion", "aws kms cancel-key-deletion"),
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("described", [True, False])
def test_a_kms_key_that_cannot_be_used(patient: Patient, name: str, described: bool) -> None:
    parameters, act, word, hint = KEYS[name]
    arn = made(patient.account, **parameters)
    if act:
        patient.account.aws.client("kms").call(act, "it", KeyId=arn)
    allowed = NEEDED | ({"kms:DescribeKey"} if described else set())
    found = patient.look(AWS_KMS_KEY_ID=arn, **patient.judged(allowed, arn))
    if described:
        line = found.only("KMS key")
        assert word in line
        assert hint in line
    else:
        assert found.only("kms:GenerateDataKey")
    assert {"kms:Encrypt", "kms:Decrypt"} <= found.named("not-tried")


def test_a_kms_key_that_is_not_there(patient: Patient) -> None:
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"
    assert "AWS_KMS_KEY_ID names no key" in patient.look(AWS_KMS_KEY_ID=arn).only("KMS key")


def test_no_kms_key(patient: Patient) -> None:
    assert "AWS_KMS_KEY_ID is not set" in patient.look(AWS_KMS_KEY_ID="").only("key store")


def test_another_region(patient: Patient) -> None:
    line = patient.look(AWS_REGION=OTHER).only("key store")
    assert f"not in the region {OTHER}" in line
    assert "set AWS_REGION" in line


# --- credentials, reachability, clock


def test_no_credentials(patient: Patient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
        del patient.environment[name]
    monkeypatch.setenv("HOME", str(tmp_path))
    line = patient.look().only("credentials")
    assert "no AWS credentials" in line
    assert "aws sts get-caller-identity" in line


def test_credentials_that_nobody_knows(patient: Patient) -> None:
    patient.judged(NEEDED)
    assert "aws sts get-caller-identity" in patient.look(AWS_ACCESS_KEY_ID="AKIANOBODYKNOWSTHIS0").only("credentials")


def test_a_profile_that_is_not_there(patient: Patient) -> None:
    assert "aws configure list-profiles" in patient.look(AWS_PROFILE="nobody").only("credentials")


@pytest.mark.parametrize(
    ("variable", "check"),
    [
        ("AWS_ENDPOINT_URL", "credentials"),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "secretsmanager"),
        ("AWS_ENDPOINT_URL_KMS", "kms"),
        ("AWS_ENDPOINT_URL_S3", "s3"),
    ],
)
def test_a_service_that_cannot_be_reached(patient: Patient, variable: str, check: str) -> None:
    found = patient.look(**{variable: f"http://{NOWHERE}"}, DAENA_CALL_TIMEOUT_SECONDS="1")
    line = found.only(check)
    assert "could not be reached" in line
    assert "check AWS_REGION, the network and any proxy" in line


@pytest.mark.parametrize(
    ("minutes", "standing"), [(3, "warning"), (-3, "warning"), (10, "failed"), (-10, "failed"), (0.5, "ok")]
)
def test_a_clock_that_is_wrong(patient: Patient, minutes: float, standing: str) -> None:
    patient.box.days = minutes * MINUTES
    found = patient.look()
    assert found.checks["clock"]["standing"] == standing
    assert found.failed == ({"clock"} if standing == "failed" else set())
    if standing != "ok":
        assert ("ahead of" if minutes > 0 else "behind") in found.line("clock")
        assert "NTP" in found.line("clock")


# --- the manifests


def test_a_bucket_that_is_not_there(patient: Patient) -> None:
    found = patient.look(DAENA_MANIFEST_URL="s3://nobody-has-this-bucket/manifests")
    assert found.failed == {"s3:GetObject", "key orders-key"}
    assert "check the bucket's name" in found.line("s3:GetObject")
    assert f"its manifest lies at {MANIFESTS}" in found.line("key orders-key")


def test_other_manifests(patient: Patient) -> None:
    found = patient.look(DAENA_MANIFEST_URL=f"s3://{BUCKET}/elsewhere")
    assert found.failed == {"evidence keys", "key orders-key"}


def test_manifests_that_let_themselves_be_overwritten(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as an S3 of somebody else's, to which If-None-Match is nothing. What lies there stays the same."""
    real = Client.call

    def without_condition(self: Client, operation: str, subject: str, **parameters: Any) -> Any:
        parameters.pop("IfNoneMatch", None)
        return real(self, operation, subject, **parameters)

    monkeypatch.setattr(Client, "call", without_condition)
    lies = lambda: patient.account.ledger().read(RESERVED_KEY, 1)  # noqa: E731
    line = examined(patient.box, patient.environment, lies).only("create-only")
    assert "both would win" in line


def test_no_manifest_address_is_a_warning(patient: Patient) -> None:
    patient.environment.pop("DAENA_MANIFEST_URL")
    found = patient.look()
    assert "only this machine can rotate" in found.line("manifests")


def test_the_first_entry_vanishes_while_it_is_looked_at(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what is put is what was there."""
    real: Any = Client.call
    person = patient.account.aws.client("s3")

    def lies() -> bytes | None:
        return patient.account.ledger().read(RESERVED_KEY, 1)

    def deleted(self: Client, operation: str, subject: str, **parameters: Any) -> Any:
        if operation == "put_object":
            real(person, "delete_object", "it", Bucket=BUCKET, Key=parameters["Key"])
        return real(self, operation, subject, **parameters)

    monkeypatch.setattr(Client, "call", deleted)
    examined(patient.box, patient.environment, lies)  # which holds what lies there against what lay there


# --- what is asked


def test_what_is_tried_could_not_have_changed_anything(patient: Patient) -> None:
    """Even if the world moves on between looking and asking, what is sent is what lies there, or cannot be."""
    sent: list[tuple[str, Mapping[str, Any]]] = []
    real = Client.call

    def noted(self: Client, operation: str, subject: str, **parameters: Any) -> Any:
        sent.append((operation, parameters))
        return real(self, operation, subject, **parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "call", noted)
        patient.look()
    asked: Callable[[str], Mapping[str, Any]] = lambda name: next(p for o, p in sent if o == name)  # noqa: E731
    reserved = f"reserved--{PREFIX}manifest-keys"
    lying = patient.account.aws.client("secretsmanager").call("get_secret_value", "it", SecretId=reserved)
    put = asked("put_secret_value")
    assert (put["ClientRequestToken"], put["SecretString"]) == (lying["VersionId"], lying["SecretString"])
    assert put["VersionStages"] == ["v1"], "a label that no other version has, and never AWSCURRENT"
    assert set(lying["VersionStages"]) > {"v1"}
    assert asked("create_secret")["Name"] == reserved
    assert asked("update_secret_version_stage")["RemoveFromVersionId"] == "0" * 32
    assert "MoveToVersionId" not in asked("update_secret_version_stage")
    assert all(p["DryRun"] for o, p in sent if o in ("generate_data_key", "encrypt"))
    assert {o for o, _ in sent if o.startswith(("delete", "tag", "untag", "update"))} == {"update_secret_version_stage"}
