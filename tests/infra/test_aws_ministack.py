"""The whole template where others wrote the rules: deployed as it is, run by its own schedule under its own role.

What MiniStack does not do as AWS does is listed, and mended as far as it matters here, in `ministack_server` (of
`tests/support`); `aws_ministack` says what is deployed, and when.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from daena_kms import names
from daena_kms.names import RESERVED_KEY
from daena_kms.stores import aws_layout
from tests.support.ministack import ACCOUNT, REGION, wait_for

from .aws_ministack import (
    AS_ROOT,
    BY_HAND,
    IMPORTED,
    KEYS,
    LEDGER,
    OLDER,
    ORDERS,
    PARAMETERS,
    PREFIXES,
    Credentials,
    Place,
    place,
)
from .aws_template import ROOT, as_list, of_type, stack

DENIED = {"AccessDenied", "AccessDeniedException"}
MANIFESTS = "manifests/"


@pytest.fixture(scope="module")
def at() -> Place:
    return place()


def secret(stack: str, key: str) -> str:
    return names.secret_name(PREFIXES[stack], key)


def logged(at: Place, stack: str) -> list[dict[str, Any]]:
    """What the function wrote, but for Lambda's own lines."""
    pages = at.client("logs").get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{stack}")
    lines = [event["message"] for page in pages for event in page["events"]]
    return [json.loads(line) for line in lines if line.startswith("{")]


def first_report(at: Place, stack: str) -> dict[str, Any]:
    """The report of the first run that had something to do."""

    def look() -> dict[str, Any] | None:
        done = (line["report"] for line in logged(at, stack) if line.get("message") == "done")
        return next((report for report in done if {"created", "rotated"} & report["counts"].keys()), None)

    return wait_for(f"a report of {stack}", look)


def outcomes(report: Mapping[str, Any]) -> dict[str, str]:
    return {outcome["key"]: outcome["status"] for outcome in report["outcomes"]}


def assumed(at: Place, arn: str) -> Credentials:
    """Credentials of a role."""
    found = at.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    return Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])


def role(at: Place, name: str, *, policy: Mapping[str, Any] | None = None, policy_arn: str = "") -> Credentials:
    """Credentials of a new role with that policy."""
    iam = at.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]
    if policy_arn:
        iam.attach_role_policy(RoleName=name, PolicyArn=policy_arn)
    if policy:
        document = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document)
    return assumed(at, made["Arn"])


def error(client: Any, operation: str, **parameters: object) -> str:
    """The code of what an operation was refused with; empty if it was not."""
    try:
        getattr(client, operation)(**parameters)
    except ClientError as problem:
        return str(problem.response["Error"]["Code"])
    return ""


def read(at: Place, credentials: Credentials, name: str, **named: str) -> bytes:
    """Material, read as an application reads it."""
    secrets, kms = at.client("secretsmanager", credentials), at.client("kms", credentials)
    envelope = json.loads(secrets.get_secret_value(SecretId=name, **named)["SecretString"])
    context = aws_layout.context(envelope["key"], envelope["number"])
    wrapped = base64.b64decode(envelope["wrapped"])
    return bytes(kms.decrypt(CiphertextBlob=wrapped, EncryptionContext=context)["Plaintext"])


# --- deployed


def test_everything_is_there(at: Place) -> None:
    expected = stack(None, **PARAMETERS)
    assert at.deployed(KEYS).keys() == expected.keys()
    alarms = at.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{KEYS}-")["MetricAlarms"]
    wanted = of_type(expected, "AWS::CloudWatch::Alarm")
    assert {alarm["AlarmName"] for alarm in alarms} == {r["Properties"]["AlarmName"] for r in wanted.values()}


def test_the_schedule_starts_the_function_with_a_role_and_a_queue_of_its_own(at: Place) -> None:
    there, outputs = at.deployed(KEYS), at.outputs(KEYS)
    schedule = at.client("scheduler").get_schedule(Name=KEYS, GroupName=KEYS)
    assert (schedule["State"], schedule["ScheduleExpression"]) == ("ENABLED", PARAMETERS["ScheduleExpression"])
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    target = schedule["Target"]
    assert target["Arn"] == f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{there['Function']}"
    assert target["RoleArn"] == outputs["SchedulerRoleArn"] != outputs["FunctionRoleArn"]
    assert target["DeadLetterConfig"]["Arn"].endswith(f":{KEYS}-undelivered-ticks")


def test_the_function_has_its_own_role_and_reports_failures(at: Place) -> None:
    function = at.client("lambda").get_function_configuration(FunctionName=KEYS)
    assert function["Role"] == at.outputs(KEYS)["FunctionRoleArn"]
    assert (function["Handler"], function["Timeout"]) == ("handler.lambda_handler", 900)
    assert function["LoggingConfig"]["LogGroup"] == at.deployed(KEYS)["FunctionLogGroup"]
    kept = at.client("lambda").get_function_event_invoke_config(FunctionName=KEYS, Qualifier="$LATEST")
    assert kept["DestinationConfig"]["OnFailure"]["Destination"].endswith(f":{KEYS}-failed-runs")


def test_the_bucket_and_the_key_are_guarded(at: Place) -> None:
    s3, bucket = at.client("s3"), at.outputs(KEYS)["BucketName"]
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    guard = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    assert {s["Effect"] for s in as_list(guard["Statement"])} == {"Deny"}
    assert len(guard["Statement"]) == 3
    assert at.client("kms").get_key_rotation_status(KeyId=at.outputs(KEYS)["KeyArn"])["KeyRotationEnabled"]


# --- run by its schedule


def test_the_schedule_runs_the_function_which_makes_manifests_and_keys(at: Place) -> None:
    assert outcomes(first_report(at, KEYS)) == {ORDERS: "created", BY_HAND: "created"}
    [made] = [line for line in logged(at, KEYS) if line.get("message") == "made new manifests: pin their public key"]
    name = at.outputs(KEYS)["FunctionRoleArn"].rpartition("/")[2]
    with at.service(KEYS) as service:
        assert service.keyring.trust.generations[0].public_key.hex() == made["public_key"]
        entries = service.history(ORDERS)
    assert [entry.event for entry in entries] == ["rotation-started", "created"]
    assert {entry.trigger for entry in entries} == {"aws.scheduler"}
    assert {entry.actor for entry in entries} == {f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/{KEYS}"}


def test_the_schedule_rotates_an_old_key_whose_old_version_is_still_read(at: Place) -> None:
    assert outcomes(first_report(at, OLDER)) == {LEDGER: "rotated"}
    assert read(at, AS_ROOT, secret(OLDER, LEDGER), VersionStage="AWSPREVIOUS") == IMPORTED
    assert read(at, AS_ROOT, secret(OLDER, LEDGER), VersionStage="v1") == IMPORTED
    assert read(at, AS_ROOT, secret(OLDER, LEDGER)) != IMPORTED
    with at.service(OLDER) as service:
        assert [entry.trigger for entry in service.history(LEDGER)] == ["test", "test", *["aws.scheduler"] * 2]


@pytest.mark.parametrize(("name", "key", "number"), [(KEYS, ORDERS, 1), (OLDER, LEDGER, 2)])
def test_what_a_plain_client_reads_is_what_the_library_verifies(at: Place, name: str, key: str, number: int) -> None:
    first_report(at, name)
    with at.service(name) as service:
        assert [line for audit in service.verify([key]) for line in (*audit.problems, *audit.warnings)] == []
        material = service.get(key, reveal=True).material
        entries = service.history(key)
    assert material is not None
    assert read(at, AS_ROOT, secret(name, key)) == material.reveal()
    assert read(at, AS_ROOT, secret(name, key), VersionStage=f"v{number}") == material.reveal()
    listed = at.client("s3").list_objects_v2(Bucket=at.outputs(name)["BucketName"], Prefix=f"{MANIFESTS}{key}/")
    assert [found["Key"] for found in listed["Contents"]] == [
        f"{MANIFESTS}{key}/{entry.sequence:08d}.json" for entry in entries
    ]


def test_a_run_by_hand_rotates_once_for_one_request(at: Place) -> None:
    first_report(at, KEYS)
    event = json.loads((ROOT / "functions" / "aws_lambda" / "events" / "rotate-now.json").read_text())
    for request, status in (("first", "rotated"), ("first", "not-due"), ("second", "rotated")):
        asked = json.dumps({**event, "keys": [BY_HAND], "request_id": request})
        answer = at.client("lambda").invoke(FunctionName=KEYS, Payload=asked)
        assert "FunctionError" not in answer
        assert outcomes(json.loads(answer["Payload"].read())) == {BY_HAND: status}
    with at.service(KEYS) as service:
        assert [line for audit in service.verify([BY_HAND]) for line in (*audit.problems, *audit.warnings)] == []
        assert service.get(BY_HAND).record.number == 3
        assert service.history(BY_HAND)[-1].trigger == "aws.lambda"


def test_a_run_that_fails_is_kept_with_its_error(at: Place) -> None:
    event = json.dumps({"action": "rotate", "key": ORDERS})
    at.client("lambda").invoke(FunctionName=OLDER, InvocationType="Event", Payload=event)
    sqs, queue = at.client("sqs"), at.outputs(OLDER)["FailedRunsUrl"]
    [message] = wait_for("the failed run", lambda: sqs.receive_message(QueueUrl=queue).get("Messages"))
    told = json.loads(message["Body"])
    assert told["requestPayload"] == json.loads(event)
    assert "did you mean 'keys'" in told["responsePayload"]["errorMessage"]


# --- guarded


def test_who_may_do_everything_overwrites_and_deletes_no_manifest(at: Place) -> None:
    first_report(at, KEYS)
    s3 = at.client("s3", role(at, "anybody", policy={"Effect": "Allow", "Action": "*", "Resource": "*"}))
    there = {"Bucket": at.outputs(KEYS)["BucketName"], "Key": f"{MANIFESTS}{ORDERS}/00000001.json"}
    version = s3.head_object(**there)["VersionId"]
    assert error(s3, "put_object", **there, Body=b"x") in DENIED
    assert error(s3, "put_object", **there, Body=b"x", IfNoneMatch="*") == "PreconditionFailed"
    assert error(s3, "delete_object", **there) in DENIED
    assert error(s3, "delete_object", **there, VersionId=version) in DENIED
    assert error(s3, "put_object", **{**there, "Key": "elsewhere"}, Body=b"x") == ""


def test_applications_read_their_keys_and_nothing_else(at: Place) -> None:
    first_report(at, OLDER)
    reader = role(at, "reader", policy_arn=at.outputs(OLDER)["ReaderPolicyArn"])
    name, secrets = secret(OLDER, LEDGER), at.client("secretsmanager", reader)
    assert read(at, reader, name, VersionStage="AWSPREVIOUS") == IMPORTED
    assert read(at, reader, name) == read(at, reader, name, VersionStage="v2")
    current = at.client("secretsmanager").get_secret_value(SecretId=name)["VersionId"]
    for asked in (
        {"SecretId": secret(OLDER, RESERVED_KEY)},
        {"SecretId": secret(KEYS, ORDERS)},
        {"SecretId": name, "VersionId": current},
        {"SecretId": name, "VersionStage": aws_layout.STAGED},
    ):
        assert error(secrets, "get_secret_value", **asked) in DENIED, asked
    assert error(secrets, "put_secret_value", SecretId=name, SecretString="x") in DENIED
    reserved = at.client("secretsmanager").get_secret_value(SecretId=secret(OLDER, RESERVED_KEY))["SecretString"]
    envelope = json.loads(reserved)
    context = aws_layout.context(envelope["key"], envelope["number"])
    blob = base64.b64decode(envelope["wrapped"])
    kms = at.client("kms", reader)
    assert error(kms, "decrypt", CiphertextBlob=blob, EncryptionContext=context) in DENIED


def test_the_functions_role_reaches_no_other_stack(at: Place) -> None:
    first_report(at, OLDER)
    theirs, bucket = secret(OLDER, LEDGER), at.outputs(OLDER)["BucketName"]
    ours = assumed(at, at.outputs(KEYS)["FunctionRoleArn"])
    secrets, s3, kms = (at.client(service, ours) for service in ("secretsmanager", "s3", "kms"))
    assert error(secrets, "describe_secret", SecretId=secret(KEYS, RESERVED_KEY)) == ""
    for name in (theirs, secret(OLDER, RESERVED_KEY)):
        assert error(secrets, "get_secret_value", SecretId=name) in DENIED
        assert error(secrets, "put_secret_value", SecretId=name, SecretString="x") in DENIED
    assert error(secrets, "delete_secret", SecretId=secret(KEYS, RESERVED_KEY)) in DENIED
    assert error(s3, "list_objects_v2", Bucket=bucket) in DENIED
    key = at.outputs(OLDER)["KeyArn"]
    context = aws_layout.context(theirs, 1)
    assert error(kms, "generate_data_key", KeyId=key, NumberOfBytes=32, EncryptionContext=context) in DENIED
    assert error(kms, "encrypt", KeyId=at.outputs(KEYS)["KeyArn"], Plaintext=b"x", EncryptionContext=context) in DENIED
    assert error(kms, "encrypt", KeyId=at.outputs(KEYS)["KeyArn"], Plaintext=b"x") in DENIED
