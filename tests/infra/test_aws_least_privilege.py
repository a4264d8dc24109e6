"""What the template's roles may do is what the function does, and nothing else: tried as IAM judges it.

The function's role does all that the function ever does; then each action is taken from it in turn; then it tries what
it must not. What the double has no strict service for (logs, the scheduler, a few acts) is judged by the same rules
without a server.
"""

import base64
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from daena_kms import app
from daena_kms.fleet import Order
from daena_kms.invocation import Invocation
from daena_kms.material import KeyMaterial
from daena_kms.model import Status
from daena_kms.names import RESERVED_KEY
from daena_kms.stores import aws, aws_layout, aws_ledger
from tests.support.aws_world import REGION
from tests.support.worlds import Clock, Effects, dying

from .aws_roles import (
    AFTER_THE_LEASE,
    BUCKET,
    DENIALS,
    FUNCTION,
    KEY,
    POLICY_OBJECT,
    SCHEDULER,
    TICK,
    Identity,
    Scene,
    granted,
    guard_bucket,
    judge_nobody,
    kms_key,
    may,
    opened,
    policy_of,
    properties,
    secret_name,
    value,
    without,
)
from .aws_template import ACCOUNT, STACK

BILLING = "billing"
QUEUES = ("failed-runs", "undelivered-ticks")
FUNCTION_ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{STACK}"
VERIFY = Invocation(action="verify")
FORCED = Invocation(keys=(KEY,), force=True, request_id="ticket-7")


def queue_arn(name: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{STACK}-{name}"


def secret_arn(key: str) -> str:
    return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{secret_name(key)}-a1B2c3"


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    clock = Clock(datetime.now(UTC))
    monkeypatch.setattr(app, "utc_now", clock)
    try:
        yield Scene(clock)
    finally:
        judge_nobody()


# --- what the function does


def nothing(_: Scene) -> None:
    """Not even manifests."""


def begun(scene: Scene) -> None:
    assert scene.invoke() == []


def rotated(scene: Scene, times: int) -> None:
    """By a person."""
    for _ in range(times):
        scene.clock.move(days=90)
        [outcome] = scene.service().rotate(Order((KEY,))).outcomes
        assert outcome.status is Status.ROTATED


def grown_old(scene: Scene) -> None:
    begun(scene)
    scene.clock.move(days=90)


def one_more_is_named(scene: Scene) -> None:
    begun(scene)
    scene.write_policy(KEY, BILLING)


def a_rollback_was_left_open(scene: Scene) -> None:
    begun(scene)
    rotated(scene, 1)
    effects = Effects(die_at=4)
    with dying():
        scene.service(effects).rollback(KEY)
    assert effects.names == ["before write_anchor", "after write_anchor", "before append", "after append"]
    scene.clock.now += AFTER_THE_LEASE


def somebody_put_a_version(scene: Scene) -> None:
    begun(scene)
    scene.person.client("secretsmanager").put_secret_value(SecretId=secret_name(KEY), SecretString="theirs")


def an_adoption_was_left_open(scene: Scene) -> None:
    somebody_put_a_version(scene)
    effects = Effects(die_at=4)
    with dying():
        scene.service(effects).adopt(KEY, created=scene.clock.now)
    assert effects.names == ["before append", "after append", "before write_anchor", "after write_anchor"]
    scene.clock.now += AFTER_THE_LEASE


def as_many_as_fit(scene: Scene) -> None:
    begun(scene)
    rotated(scene, aws_layout.KEPT_VERSIONS - 1)
    scene.clock.move(days=90)


def one_is_to_be_retired(scene: Scene) -> None:
    scene.write_policy(KEY, rules="keep_versions = 0\ngrace_days = 1\n")
    begun(scene)
    rotated(scene, 1)
    scene.clock.move(days=2)


def one_is_to_be_destroyed(scene: Scene) -> None:
    scene.write_policy(KEY, rules="destroy_after_days = 1\ngrace_days = 0\n")
    begun(scene)
    rotated(scene, 2)
    scene.service().destroy(KEY, 1)
    scene.clock.move(days=2)


def a_staged_copy_was_left(scene: Scene) -> None:
    begun(scene)
    stage(scene.person, 9)


def stage(identity: Identity, number: int) -> None:
    """Lay down a version as a run does that dies then."""
    identity.client("secretsmanager").put_secret_value(
        SecretId=secret_name(KEY),
        ClientRequestToken=aws_layout.version_id(str(uuid.uuid4()), number),
        SecretString="{}",
        VersionStages=[aws_layout.kept(number), aws_layout.STAGED],
    )


@dataclass(frozen=True)
class Act:
    """Something that the function does."""

    arranged: Callable[[Scene], None]
    active: Mapping[str, int]
    """Every key's active version afterwards."""
    events: tuple[Invocation, ...] = (TICK,)
    complains: str = ""
    """What it tells of, though it may do all that it should; empty for nothing."""

    def complaints(self, scene: Scene) -> list[str]:
        """Have the function do it. What went wrong, but for what it is to complain of."""
        told = [line for event in self.events for line in scene.invoke(event)]
        if not self.complains:
            return told
        return [line for line in told if self.complains not in line] if told else [f"it should say {self.complains}"]


ACTS = {
    "the first run": Act(nothing, {KEY: 1}),
    "nothing due": Act(begun, {KEY: 1}),
    "a rotation": Act(grown_old, {KEY: 2}),
    "a forced rotation": Act(begun, {KEY: 2}, (FORCED,)),
    "one more key": Act(one_more_is_named, {KEY: 1, BILLING: 1}),
    "a rollback to finish": Act(a_rollback_was_left_open, {KEY: 4}),
    "a foreign version": Act(somebody_put_a_version, {KEY: 1}, complains="which no claim names"),
    "an adoption to finish": Act(an_adoption_was_left_open, {KEY: 2}),
    "an archive": Act(as_many_as_fit, {KEY: 17}, (TICK, VERIFY)),
    "a retirement": Act(one_is_to_be_retired, {KEY: 2}),
    "a destruction": Act(one_is_to_be_destroyed, {KEY: 3}),
    "a staged copy": Act(a_staged_copy_was_left, {KEY: 2}, (FORCED,)),
    "looking": Act(begun, {KEY: 1}, (VERIFY, Invocation(action="status"), Invocation(action="plan"))),
}


# --- what is used, what is granted, and what the library says that it needs

# What Lambda itself does in the role's name: statement and action -> on what.
LOGS = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{STACK}:log-stream:2026/01/01/[$LATEST]1"
PLATFORM = {
    ("ReportFailures", "sqs:SendMessage"): queue_arn("failed-runs"),
    ("WriteLogs", "logs:CreateLogStream"): LOGS,
    ("WriteLogs", "logs:PutLogEvents"): LOGS,
}
# Method and action that no call shows: S3 says 404 of what is not there only to who may list the bucket.
SILENT = {("ledger.read", "s3:ListBucket")}


def all_of_the_rest(scene: Scene) -> None:
    """What only a person's commands do with the store, with the function's rights."""
    begun(scene)
    service = scene.at_work()
    assert service.import_key("imported", KeyMaterial(b"i" * 32), created=None).status is Status.DONE
    rotated(scene, 1)
    assert service.disable(KEY, 1).status is Status.DONE
    assert service.enable(KEY, 1).status is Status.DONE
    seen = service.tools.store.observe(KEY)
    assert seen.newest is not None
    # Once more, as if only its reply had been lost.
    service.tools.store.promote(KEY, seen.newest, seen.versions[0], KeyMaterial(b""))
    scene.person.client("secretsmanager").put_secret_value(SecretId=secret_name(KEY), SecretString="theirs")
    assert service.adopt(KEY).status is Status.DONE


def test_the_function_may_do_all_that_it_does_and_does_all_that_it_may(scene: Scene) -> None:
    used: set[str] = set()
    noted: set[tuple[str, str]] = set()
    for name, act in ACTS.items():
        done = Scene(scene.clock)
        act.arranged(done)
        assert act.complaints(done) == [], name
        assert (done.active(), done.function.denied) == (act.active, set()), name
        used |= done.function.used()
        noted |= done.noted
    assert used == {action for sid, action in granted(FUNCTION) if (sid, action) not in PLATFORM}

    rest = Scene(scene.clock)
    all_of_the_rest(rest)
    assert rest.function.used() <= used
    assert noted | rest.noted | SILENT == stated()


def stated() -> set[tuple[str, str]]:
    """What the library's tables say that each method needs."""
    tables = {"store": aws.REQUIRED_PERMISSIONS, "ledger": aws_ledger.REQUIRED_PERMISSIONS}
    return {
        (f"{part}.{method}", action)
        for part, table in tables.items()
        for method, actions in table.items()
        for action in actions
    }


# --- without an action

# Statement and action -> what the function does when it is gone, and the call at which that fails.
NEEDED_FOR = {
    ("ListSecrets", "secretsmanager:ListSecrets"): ("nothing due", "secretsmanager:ListSecrets"),
    ("KeepKeys", "secretsmanager:CreateSecret"): ("one more key", "secretsmanager:CreateSecret"),
    ("KeepKeys", "secretsmanager:DescribeSecret"): ("a forced rotation", "secretsmanager:DescribeSecret"),
    ("KeepKeys", "secretsmanager:GetSecretValue"): ("a rotation", "secretsmanager:GetSecretValue"),
    ("KeepKeys", "secretsmanager:ListSecretVersionIds"): (
        "an adoption to finish",
        "secretsmanager:ListSecretVersionIds",
    ),
    ("KeepKeys", "secretsmanager:PutSecretValue"): ("a rotation", "secretsmanager:PutSecretValue"),
    # Tags that come with a new secret take it as well.
    ("KeepKeys", "secretsmanager:TagResource"): ("one more key", "secretsmanager:CreateSecret"),
    ("KeepKeys", "secretsmanager:UpdateSecretVersionStage"): ("a rotation", "secretsmanager:UpdateSecretVersionStage"),
    ("WrapAndUnwrapMaterial", "kms:GenerateDataKey"): ("a rotation", "kms:GenerateDataKey"),
    ("WrapAndUnwrapMaterial", "kms:Encrypt"): ("a rollback to finish", "kms:Encrypt"),
    ("WrapAndUnwrapMaterial", "kms:Decrypt"): ("a rotation", "kms:Decrypt"),
    ("AppendToManifests", "s3:GetObject"): ("a rotation", "s3:GetObject"),
    ("AppendToManifests", "s3:PutObject"): ("a rotation", "s3:PutObject"),
    ("ReadPolicyFile", "s3:GetObject"): ("nothing due", "s3:GetObject"),
    # Without it S3 does not say that the next entry is not there yet.
    ("FindManifests", "s3:ListBucket"): ("a forced rotation", "s3:GetObject"),
    ("FindManifests", "s3:ListBucketVersions"): ("looking", "s3:ListObjectVersions"),
}


def test_every_action_that_is_granted_is_taken_away_below() -> None:
    assert {*NEEDED_FOR, *PLATFORM} == granted(FUNCTION)


def check_denial(line: str, operation: str, action: str) -> None:
    """What a person is told of it: which call, on what, and which permission is missing."""
    service, name = operation.split(":")
    assert f"{xform_name(name, '-')} of " in line
    assert "AccessDenied" in line
    if service != "s3":  # the double's S3 does not say more; AWS does
        assert f"not authorized to perform: {action}" in line


@pytest.mark.parametrize(("sid", "action"), NEEDED_FOR)
def test_without_an_action_the_run_fails_there_and_the_next_one_with_it_repairs_all(
    scene: Scene, sid: str, action: str
) -> None:
    name, operation = NEEDED_FOR[sid, action]
    act = ACTS[name]
    act.arranged(scene)
    scene.at_work()  # it is warm: what is missing is missed in the middle of the work
    before, readers_get = scene.audit(), value(scene.person, KEY)
    scene.function.calls.clear()

    scene.grant(without(policy_of(FUNCTION), sid, action))
    [line] = act.complaints(scene)[:1]
    check_denial(line, operation, action)
    assert "check the IAM permissions" in line or VERIFY in act.events
    assert scene.function.denied == {operation}
    # Readers get what they got, and the library reads every version and finds it as the manifest says.
    assert value(scene.person, KEY) == readers_get
    assert scene.audit().problems == before.problems

    scene.grant(policy_of(FUNCTION))
    scene.clock.now += AFTER_THE_LEASE
    assert act.complaints(scene) == []
    after = scene.audit()
    assert ({*after.problems} <= {*before.problems}, after.warnings) == (True, [])
    active = scene.active()
    assert active.keys() == act.active.keys()
    assert all(active[key] >= number for key, number in act.active.items())  # a number that was given up stays unused


FIRST_RUN_TAKES = [
    (sid, action)
    for sid, action in NEEDED_FOR
    if action not in ("kms:Encrypt", "s3:ListBucketVersions", "secretsmanager:ListSecretVersionIds")
]


@pytest.mark.parametrize(("sid", "action"), FIRST_RUN_TAKES)
def test_a_first_run_without_an_action_leaves_nothing_that_the_next_one_cannot_use(
    scene: Scene, sid: str, action: str
) -> None:
    scene.grant(without(policy_of(FUNCTION), sid, action))
    [line] = scene.invoke()
    assert "AccessDenied" in line
    assert len(scene.function.denied) == 1
    scene.grant(policy_of(FUNCTION))
    scene.clock.now += AFTER_THE_LEASE
    assert scene.invoke() == []
    assert scene.active().keys() == {KEY}
    assert scene.audit() == ([], [])


def test_a_rotation_that_may_not_store_its_head_beside_the_key_is_a_rotation_all_the_same(scene: Scene) -> None:
    grown_old(scene)
    scene.grant(without(policy_of(FUNCTION), "KeepKeys", "secretsmanager:TagResource"))
    [outcome] = scene.at_work().rotate(Order()).outcomes
    assert outcome.status is Status.ROTATED
    assert any("tag-resource" in note and "AccessDenied" in note for note in outcome.notes)
    assert (scene.active(), scene.audit()) == ({KEY: 2}, ([], []))
    scene.grant(policy_of(FUNCTION))
    assert scene.invoke() == []
    scene.function.calls.clear()
    assert scene.invoke() == []
    assert scene.function.used() == {"s3:GetObject", "secretsmanager:ListSecrets"}, "the head is there again"


@pytest.mark.parametrize(("sid", "action"), PLATFORM)
def test_what_lambda_does_in_the_roles_name_takes_each_action(sid: str, action: str) -> None:
    policy = policy_of(FUNCTION)
    assert may(policy, action, PLATFORM[sid, action])
    assert not may(without(policy, sid, action), action, PLATFORM[sid, action])


# --- what must not be

OTHER_SECRET, OTHER_RESERVED = "other-orders", "reserved--other-manifest-keys"
OTHER_BUCKET = f"{STACK}-other"
MANIFEST = f"manifests/{KEY}/00000001.json"
OURS, OTHERS = aws_layout.context(secret_name(KEY), 1), aws_layout.context(OTHER_SECRET, 1)

Attempt = tuple[str, str, Mapping[str, Any]]
"""Service, operation, parameters: of a plain client."""
Blobs = Mapping[str, bytes]


def tried(identity: Identity, attempts: Mapping[str, Attempt]) -> dict[str, str]:
    """Each attempt's error; empty where there was none."""
    return {name: error(identity, *attempt) for name, attempt in attempts.items()}


def error(identity: Identity, service: str, operation: str, parameters: Mapping[str, Any]) -> str:
    try:
        getattr(identity.client(service), operation)(**parameters)
    except ClientError as problem:
        return str(problem.response["Error"]["Code"])
    return ""


def not_denied(identity: Identity, attempts: Mapping[str, Attempt]) -> set[str]:
    return {name for name, code in tried(identity, attempts).items() if code not in DENIALS}


@pytest.fixture
def blobs(scene: Scene) -> Iterator[Blobs]:
    """An account in which there is something to do harm to. It is made whole again."""
    secrets, s3, kms = (scene.person.client(service) for service in ("secretsmanager", "s3", "kms"))
    for name in (secret_name(KEY), secret_name(RESERVED_KEY), OTHER_SECRET, OTHER_RESERVED):
        secrets.create_secret(Name=name, SecretString="x")
    s3.put_object(Bucket=BUCKET, Key=MANIFEST, Body=b"x", IfNoneMatch="*")
    another = kms.create_key()["KeyMetadata"]["KeyId"]

    def wrapped(key: str, **context: Any) -> bytes:
        return bytes(kms.encrypt(KeyId=key, Plaintext=b"x", **context)["CiphertextBlob"])

    yield {
        "ours": wrapped(kms_key(), EncryptionContext=OURS),
        "others": wrapped(kms_key(), EncryptionContext=OTHERS),
        "bare": wrapped(kms_key()),
        "elsewhere": wrapped(another, EncryptionContext=OURS),
    }
    if kms.describe_key(KeyId=kms_key())["KeyMetadata"]["KeyState"] == "PendingDeletion":
        kms.cancel_key_deletion(KeyId=kms_key())
    kms.enable_key(KeyId=kms_key())
    guard_bucket(s3)


def forbidden(blobs: Blobs) -> Mapping[str, Attempt]:
    """What nothing but the role's policy forbids."""
    name, key, role = secret_name(KEY), kms_key(), f"{STACK}-{FUNCTION}"
    key_policy, bucket_policy = (
        json.dumps(properties(resource)[policy])
        for resource, policy in (("WrappingKey", "KeyPolicy"), ("ManifestBucketPolicy", "PolicyDocument"))
    )
    new = {"Body": b"x", "IfNoneMatch": "*"}
    secrets: dict[str, Attempt] = {
        f"{operation} of {secret}": ("secretsmanager", operation, {"SecretId": secret, **more})
        for secret in (OTHER_SECRET, OTHER_RESERVED)
        for operation, more in (
            ("describe_secret", {}),
            ("get_secret_value", {}),
            ("list_secret_version_ids", {}),
            ("put_secret_value", {"SecretString": "x"}),
            ("tag_resource", {"Tags": [{"Key": "a", "Value": "b"}]}),
            ("update_secret_version_stage", {"VersionStage": "v9", "MoveToVersionId": aws_layout.NO_VERSION}),
        )
    }
    return secrets | {
        "create_secret elsewhere": ("secretsmanager", "create_secret", {"Name": "other-new", "SecretString": "x"}),
        "delete_secret": ("secretsmanager", "delete_secret", {"SecretId": name}),
        "restore_secret": ("secretsmanager", "restore_secret", {"SecretId": name}),
        "update_secret": ("secretsmanager", "update_secret", {"SecretId": name, "Description": "x"}),
        "untag_resource": ("secretsmanager", "untag_resource", {"SecretId": name, "TagKeys": ["a"]}),
        "create_key": ("kms", "create_key", {}),
        "list_keys": ("kms", "list_keys", {}),
        "put_key_policy": ("kms", "put_key_policy", {"KeyId": key, "Policy": key_policy}),
        "encrypt without a context": ("kms", "encrypt", {"KeyId": key, "Plaintext": b"x"}),
        "generate_data_key for another prefix": (
            "kms",
            "generate_data_key",
            {"KeyId": key, "NumberOfBytes": 32, "EncryptionContext": OTHERS},
        ),
        "decrypt without a context": ("kms", "decrypt", {"CiphertextBlob": blobs["bare"]}),
        "decrypt of another prefix": (
            "kms",
            "decrypt",
            {"CiphertextBlob": blobs["others"], "EncryptionContext": OTHERS},
        ),
        "decrypt under another KMS key": (
            "kms",
            "decrypt",
            {"CiphertextBlob": blobs["elsewhere"], "EncryptionContext": OURS},
        ),
        "re_encrypt for another prefix": (
            "kms",
            "re_encrypt",
            {
                "CiphertextBlob": blobs["ours"],
                "SourceEncryptionContext": OURS,
                "DestinationKeyId": key,
                "DestinationEncryptionContext": OTHERS,
            },
        ),
        "disable_key": ("kms", "disable_key", {"KeyId": key}),
        "schedule_key_deletion": ("kms", "schedule_key_deletion", {"KeyId": key}),
        "put_object of the policy": ("s3", "put_object", {"Bucket": BUCKET, "Key": POLICY_OBJECT, **new}),
        "put_object beside the manifests": ("s3", "put_object", {"Bucket": BUCKET, "Key": "new", **new}),
        "put_object elsewhere": ("s3", "put_object", {"Bucket": OTHER_BUCKET, "Key": MANIFEST, **new}),
        "get_object elsewhere": ("s3", "get_object", {"Bucket": OTHER_BUCKET, "Key": MANIFEST}),
        "list_objects_v2 elsewhere": ("s3", "list_objects_v2", {"Bucket": OTHER_BUCKET}),
        "delete_object of the policy": ("s3", "delete_object", {"Bucket": BUCKET, "Key": POLICY_OBJECT}),
        "put_bucket_policy": ("s3", "put_bucket_policy", {"Bucket": BUCKET, "Policy": bucket_policy}),
        "delete_bucket_policy": ("s3", "delete_bucket_policy", {"Bucket": BUCKET}),
        "put_bucket_versioning": (
            "s3",
            "put_bucket_versioning",
            {"Bucket": BUCKET, "VersioningConfiguration": {"Status": "Enabled"}},
        ),
        "create_user": ("iam", "create_user", {"UserName": f"user-{uuid.uuid4().hex}"}),
        "list_role_policies": ("iam", "list_role_policies", {"RoleName": role}),
        "put_role_policy": (
            "iam",
            "put_role_policy",
            {"RoleName": role, "PolicyName": "own", "PolicyDocument": json.dumps(policy_of(FUNCTION))},
        ),
    }


def never(version: str) -> Mapping[str, Attempt]:
    """What the bucket's policy forbids everybody."""
    here = {"Bucket": BUCKET, "Key": MANIFEST}
    return {
        "overwrite a manifest": ("s3", "put_object", {**here, "Body": b"y"}),
        "write a manifest that could overwrite": ("s3", "put_object", {**here, "Key": "manifests/new", "Body": b"y"}),
        "write a manifest in parts": ("s3", "create_multipart_upload", {**here, "Key": "manifests/new"}),
        "delete a manifest": ("s3", "delete_object", here),
        "delete a manifest's version": ("s3", "delete_object", {**here, "VersionId": version}),
    }


def test_the_function_may_do_nothing_that_it_must_not(scene: Scene, blobs: Blobs) -> None:
    attempts = forbidden(blobs)
    assert not_denied(scene.function, attempts) == set()
    # They are sound requests, to which AWS says no for want of a permission alone.
    assert not_denied(scene.person, attempts) == attempts.keys()


def test_nobody_overwrites_or_deletes_a_manifest(scene: Scene, blobs: Blobs) -> None:
    version = scene.person.client("s3").head_object(Bucket=BUCKET, Key=MANIFEST)["VersionId"]
    for identity in (scene.function, scene.person):
        assert not_denied(identity, never(version)) == set()
        again = {"Bucket": BUCKET, "Key": MANIFEST, "Body": b"y", "IfNoneMatch": "*"}
        assert error(identity, "s3", "put_object", again) == "PreconditionFailed"
    found = scene.person.client("s3").list_object_versions(Bucket=BUCKET, Prefix="manifests/")
    assert [(entry["Key"], entry["VersionId"]) for entry in found["Versions"]] == [(MANIFEST, version)]
    assert "DeleteMarkers" not in found


def test_what_is_wrapped_for_one_version_opens_for_no_other(scene: Scene, blobs: Blobs) -> None:
    for key, number in ((KEY, 2), (BILLING, 1)):
        asked = {"CiphertextBlob": blobs["ours"], "EncryptionContext": aws_layout.context(secret_name(key), number)}
        assert error(scene.function, "kms", "decrypt", asked) == "InvalidCiphertextException"


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("secretsmanager:PutResourcePolicy", secret_arn(KEY)),
        ("secretsmanager:DeleteResourcePolicy", secret_arn(KEY)),
        ("secretsmanager:RotateSecret", secret_arn(KEY)),
        ("secretsmanager:ReplicateSecretToRegions", secret_arn(KEY)),
        ("secretsmanager:BatchGetSecretValue", "*"),
        ("kms:CreateGrant", "arn:aws:kms:*"),
        ("s3:BypassGovernanceRetention", f"arn:aws:s3:::{BUCKET}/{MANIFEST}"),
        ("s3:PutObjectRetention", f"arn:aws:s3:::{BUCKET}/{MANIFEST}"),
        ("s3:PutObjectLegalHold", f"arn:aws:s3:::{BUCKET}/{MANIFEST}"),
        ("s3:DeleteObjectVersion", f"arn:aws:s3:::{BUCKET}/{MANIFEST}"),
        ("s3:PutLifecycleConfiguration", f"arn:aws:s3:::{BUCKET}"),
        ("s3:DeleteBucket", f"arn:aws:s3:::{BUCKET}"),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/{STACK}-{FUNCTION}"),
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/{STACK}-{SCHEDULER}"),
        ("lambda:UpdateFunctionCode", FUNCTION_ARN),
        ("lambda:UpdateFunctionConfiguration", FUNCTION_ARN),
        ("lambda:InvokeFunction", FUNCTION_ARN),
        ("scheduler:UpdateSchedule", f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/{STACK}/{STACK}"),
        ("logs:DeleteLogGroup", LOGS.partition(":log-stream")[0]),
        ("logs:PutLogEvents", LOGS.replace(f"/aws/lambda/{STACK}", "/aws/lambda/other")),
        ("sqs:SendMessage", queue_arn("undelivered-ticks")),
        ("sqs:ReceiveMessage", queue_arn("failed-runs")),
    ],
)
def test_the_functions_policy_allows_nothing_of_this(action: str, resource: str) -> None:
    assert not may(policy_of(FUNCTION), action, resource)


# --- who reads


@pytest.fixture
def read_by_many(scene: Scene) -> Scene:
    """A key with versions 1 (disabled), 2, 3 (previous), 4 (current), and 5, staged."""
    begun(scene)
    rotated(scene, 3)
    assert scene.service().disable(KEY, 1).status is Status.DONE
    stage(scene.person, 5)
    return scene


def test_applications_read_every_version_that_is_to_be_read(read_by_many: Scene) -> None:
    scene = read_by_many
    for number, asked in (
        (4, {}),
        (4, {"VersionStage": "AWSCURRENT"}),
        (4, {"VersionStage": "v4"}),
        (3, {"VersionStage": "AWSPREVIOUS"}),
        (2, {"VersionStage": "v2"}),
    ):
        material = scene.service().get(KEY, number, reveal=True).material
        assert material is not None
        assert opened(scene.reader, value(scene.reader, KEY, **asked)) == material.reveal()
    assert scene.reader.client("secretsmanager").describe_secret(SecretId=secret_name(KEY))["Name"] == secret_name(KEY)


def test_applications_read_nothing_that_is_not_for_them(read_by_many: Scene) -> None:
    scene = read_by_many
    scene.person.client("secretsmanager").create_secret(Name=OTHER_SECRET, SecretString="x")
    stages = scene.person.client("secretsmanager").describe_secret(SecretId=secret_name(KEY))["VersionIdsToStages"]
    reads: dict[str, Attempt] = {
        f"get_secret_value by {asked}": ("secretsmanager", "get_secret_value", {"SecretId": secret_name(KEY), **asked})
        for asked in (
            {"VersionStage": aws_layout.disabled(1)},
            {"VersionStage": aws_layout.STAGED},
            {"VersionStage": aws_layout.PENDING},
            {"VersionStage": "v-reports"},  # somebody else's label
            *({"VersionId": version} for version in stages),
            *({"VersionId": version, "VersionStage": labels[0]} for version, labels in stages.items()),
        )
    }
    reserved = json.loads(value(scene.person, RESERVED_KEY))
    blob = base64.b64decode(reserved["wrapped"])
    context = aws_layout.context(reserved["key"], reserved["number"])
    reads |= {
        f"{operation} of {secret}": ("secretsmanager", operation, {"SecretId": secret})
        for operation in ("describe_secret", "get_secret_value", "list_secret_version_ids")
        for secret in (secret_name(RESERVED_KEY), OTHER_SECRET)
    }
    reads |= {
        "list_secret_version_ids": ("secretsmanager", "list_secret_version_ids", {"SecretId": secret_name(KEY)}),
        "list_secrets": ("secretsmanager", "list_secrets", {}),
        "decrypt of what is reserved": ("kms", "decrypt", {"CiphertextBlob": blob, "EncryptionContext": context}),
        "decrypt without a context": ("kms", "decrypt", {"CiphertextBlob": blob}),
        "get_object": ("s3", "get_object", {"Bucket": BUCKET, "Key": MANIFEST}),
        "list_objects_v2": ("s3", "list_objects_v2", {"Bucket": BUCKET}),
    }
    assert not_denied(scene.reader, reads) == set()
    assert not_denied(scene.person, reads) == reads.keys()


def test_applications_change_nothing(scene: Scene, blobs: Blobs) -> None:
    name, new = secret_name(KEY), {"Body": b"x", "IfNoneMatch": "*"}
    bound = {"KeyId": kms_key(), "EncryptionContext": OURS}
    current = scene.person.client("secretsmanager").get_secret_value(SecretId=name)["VersionId"]
    changes: dict[str, Attempt] = {
        "put_secret_value": ("secretsmanager", "put_secret_value", {"SecretId": name, "SecretString": "x"}),
        "create_secret": ("secretsmanager", "create_secret", {"Name": f"{name}-2", "SecretString": "x"}),
        "tag_resource": ("secretsmanager", "tag_resource", {"SecretId": name, "Tags": [{"Key": "a", "Value": "b"}]}),
        "update_secret_version_stage": (
            "secretsmanager",
            "update_secret_version_stage",
            {"SecretId": name, "VersionStage": "v1", "MoveToVersionId": current},
        ),
        "generate_data_key": ("kms", "generate_data_key", {**bound, "NumberOfBytes": 32}),
        "encrypt": ("kms", "encrypt", {**bound, "Plaintext": b"x"}),
        "put_object": ("s3", "put_object", {"Bucket": BUCKET, "Key": "manifests/new", **new}),
    }
    changes |= forbidden(blobs)
    assert not_denied(scene.reader, changes) == set()
    assert not_denied(scene.person, changes) == changes.keys()


# --- who starts it


def test_the_scheduler_may_start_exactly_this_function_and_report_to_exactly_its_queue() -> None:
    policy = policy_of(SCHEDULER)
    assert {action for _, action in granted(SCHEDULER)} == {"lambda:InvokeFunction", "sqs:SendMessage"}
    assert may(policy, "lambda:InvokeFunction", FUNCTION_ARN)
    assert may(policy, "sqs:SendMessage", queue_arn("undelivered-ticks"))
    for action, resource in (
        ("lambda:InvokeFunction", f"{FUNCTION_ARN}-2"),
        ("lambda:InvokeFunction", f"{FUNCTION_ARN}:1"),
        ("lambda:InvokeFunction", FUNCTION_ARN.replace(f":{STACK}", ":other")),
        ("lambda:InvokeFunction", FUNCTION_ARN.replace(ACCOUNT, "999999999999")),
        ("lambda:UpdateFunctionCode", FUNCTION_ARN),
        ("sqs:SendMessage", queue_arn("failed-runs")),
        ("sqs:SendMessage", queue_arn("undelivered-ticks-2")),
        ("sqs:ReceiveMessage", queue_arn("undelivered-ticks")),
    ):
        assert not may(policy, action, resource), (action, resource)


def test_the_scheduler_has_no_other_business_here(scene: Scene, blobs: Blobs) -> None:
    attempts = forbidden(blobs)
    assert not_denied(scene.scheduler, attempts) == set()


def test_each_role_reports_to_its_own_queue(scene: Scene) -> None:
    sqs = scene.person.client("sqs")
    urls = {name: sqs.create_queue(QueueName=f"{STACK}-{name}")["QueueUrl"] for name in QUEUES}
    for identity, own in ((scene.function, "failed-runs"), (scene.scheduler, "undelivered-ticks")):
        for name, url in urls.items():
            sent = error(identity, "sqs", "send_message", {"QueueUrl": url, "MessageBody": "x"})
            assert (sent == "") == (name == own), (own, name, sent)
            assert error(identity, "sqs", "receive_message", {"QueueUrl": url}) in DENIALS
