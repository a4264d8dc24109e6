"""What is gone from a cloud's store or ledger is said to be gone, and nothing is made in its place."""

from pathlib import Path

import pytest

from daena_kms.app import open_service
from daena_kms.errors import IntegrityError
from daena_kms.fleet import Order
from daena_kms.model import Status
from daena_kms.service import Service
from daena_kms.settings import read_settings
from tests.support.aws_world import BUCKET, PREFIX, account, emptied
from tests.support.worlds import KEY

POLICY = f"[keys.{KEY}]\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    return emptied().environment() | {"DAENA_POLICY": str(policy), "DAENA_HOME": str(tmp_path / "home")}


def _open(environment: dict[str, str]) -> Service:
    return open_service(read_settings(environment), trigger="test", makes=True).service


@pytest.fixture
def made(environment: dict[str, str]) -> Service:
    service = _open(environment)
    service.create(KEY)
    return service


def test_an_emptied_ledger_is_not_taken_for_a_new_one(environment: dict[str, str], made: Service) -> None:
    del made
    _empty_bucket()
    with pytest.raises(IntegrityError, match=f"the manifest of {KEY} lay there") as refused:
        _open(environment)
    assert "put the manifests back from a copy" in refused.value.hint
    assert _objects() == []


def test_a_key_whose_secret_is_gone_is_said_to_be_gone(made: Service) -> None:
    name = f"{PREFIX}{KEY}"
    account().aws.client("secretsmanager").call("delete_secret", name, SecretId=name, ForceDeleteWithoutRecovery=True)
    (status,) = made.status()
    assert (status.active, status.problem) == (1, "the store has no such key")
    (outcome,) = made.rotate(Order()).outcomes
    assert outcome.status is Status.FAILED
    assert "the store has no such key" in outcome.message
    assert f"create {KEY} --anew" in outcome.hint


def test_a_secret_that_waits_for_its_deletion_is_not_made_anew(made: Service) -> None:
    name = f"{PREFIX}{KEY}"
    account().aws.client("secretsmanager").call("delete_secret", name, SecretId=name)
    (outcome,) = made.rotate(Order()).outcomes
    assert outcome.status is Status.FAILED
    assert "is scheduled for deletion" in outcome.message
    assert "restore-secret" in outcome.hint


def _empty_bucket() -> None:
    s3 = account().aws.client("s3")
    for page in s3.pages("list_object_versions", BUCKET, Bucket=BUCKET):
        for entry in page.get("Versions", ()):
            s3.call("delete_object", BUCKET, Bucket=BUCKET, Key=entry["Key"], VersionId=entry["VersionId"])


def _objects() -> list[str]:
    pages = account().aws.client("s3").pages("list_objects_v2", BUCKET, Bucket=BUCKET)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]
