"""The AWS double against what AWS is on record to do: recorded-replies, cloud-facts, botocore's documentation.

Every test speaks to it as the library does: with a real SDK client, over a socket.
"""

import base64
import http.client
import json
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.iam.models import iam_backends

from tests.support import strict_moto
from tests.support.moto_http import LOCKS

REGION = "eu-central-1"
ACCOUNT = "123456789012"
ROOT = {"aws_access_key_id": "AKIAROOTROOTROOTROOT", "aws_secret_access_key": "root"}
BUCKET = "manifests-bucket"
NAME = "keys/one"
PUT, GET = "secretsmanager:PutSecretValue", "secretsmanager:GetSecretValue"
SECRETS = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
Policy = dict[str, Any]


@cache
def session() -> Any:
    return boto3.session.Session()


def client(service: str, url: str = "", **credentials: str) -> Any:
    return session().client(
        service,
        endpoint_url=url or strict_moto.start().url,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        **(credentials or ROOT),
    )


@cache
def root(service: str) -> Any:
    return client(service)


@pytest.fixture(autouse=True)
def server() -> Iterator[strict_moto.Server]:
    double = strict_moto.start()
    yield double
    double.enforce_iam(False)
    double.clear()


@pytest.fixture
def sm() -> Any:
    return root("secretsmanager")


@pytest.fixture
def kms() -> Any:
    return root("kms")


@pytest.fixture
def s3() -> Any:
    made_bucket()
    return root("s3")


@cache
def made_bucket() -> str:
    root("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    root("s3").put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    return BUCKET


@cache
def made_key(spec: str = "SYMMETRIC_DEFAULT", usage: str = "ENCRYPT_DECRYPT") -> str:
    """The ARN of a KMS key that nobody changes."""
    return str(root("kms").create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["Arn"])


@contextmanager
def refused(code: str, status: int = 400) -> Iterator[None]:
    with pytest.raises(ClientError) as caught:
        yield
    told = caught.value.response
    assert (told["Error"]["Code"], told["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)


def race(call: Callable[[Any], Any], rivals: Iterable[Any]) -> dict[Any, str]:
    """All at once; the error code that each was told, empty for who won."""

    def attempt(rival: Any) -> tuple[Any, str]:
        try:
            call(rival)
        except ClientError as problem:
            return rival, str(problem.response["Error"]["Code"])
        return rival, ""

    with ThreadPoolExecutor(8) as pool:
        return dict(pool.map(attempt, rivals))


def token() -> str:
    return str(uuid.uuid4())


def put(sm: Any, value: str, *stages: str, name: str = NAME) -> str:
    named = {"VersionStages": list(stages)} if stages else {}
    return str(sm.put_secret_value(SecretId=name, SecretString=value, **named)["VersionId"])


def labels(sm: Any, name: str = NAME) -> dict[str, set[str]]:
    told = sm.describe_secret(SecretId=name).get("VersionIdsToStages", {})
    return {version: set(stages) for version, stages in told.items()}


@pytest.fixture
def secret(sm: Any) -> str:
    """A secret with one version, AWSCURRENT; its id."""
    return str(sm.create_secret(Name=NAME, SecretString="first")["VersionId"])


class TestPuttingAValue:
    def test_the_token_becomes_the_version(self, sm: Any, secret: str) -> None:
        chosen = token()
        told = sm.put_secret_value(
            SecretId=NAME, SecretBinary=b"\0", ClientRequestToken=chosen, VersionStages=["a", "b"]
        )
        assert (told["VersionId"], told["VersionStages"]) == (chosen, ["a", "b"])
        assert sm.get_secret_value(SecretId=NAME, VersionId=chosen)["SecretBinary"] == b"\0"

    def test_the_same_token_with_the_same_data_does_nothing_and_tells_the_labels_of_now(
        self, sm: Any, secret: str
    ) -> None:
        chosen = token()
        again = {"SecretId": NAME, "SecretString": "x", "ClientRequestToken": chosen}
        sm.put_secret_value(**again, VersionStages=["staged"])
        sm.update_secret_version_stage(SecretId=NAME, VersionStage="kept", MoveToVersionId=chosen)
        assert set(sm.put_secret_value(**again, VersionStages=["other"])["VersionStages"]) == {"staged", "kept"}
        assert labels(sm) == {secret: {"AWSCURRENT"}, chosen: {"staged", "kept"}}

    def test_the_same_token_with_other_data_is_refused(self, sm: Any, secret: str) -> None:
        chosen = token()
        sm.put_secret_value(SecretId=NAME, SecretString="x", ClientRequestToken=chosen, VersionStages=["staged"])
        with refused("ResourceExistsException"):
            sm.put_secret_value(SecretId=NAME, SecretString="y", ClientRequestToken=chosen, VersionStages=["staged"])
        assert sm.get_secret_value(SecretId=NAME, VersionId=chosen)["SecretString"] == "x"

    def test_of_racing_writers_with_one_token_the_first_wins(self, sm: Any, secret: str) -> None:
        chosen = token()

        told = race(
            lambda n: sm.put_secret_value(SecretId=NAME, SecretString=f"{n}", ClientRequestToken=chosen), range(8)
        )
        assert sorted(told.values()) == ["", *["ResourceExistsException"] * 7]
        assert told[int(sm.get_secret_value(SecretId=NAME)["SecretString"])] == ""

    def test_a_label_leaves_the_version_it_sat_on(self, sm: Any, secret: str) -> None:
        old = put(sm, "old", "staged", "kept")
        new = put(sm, "new", "staged")
        assert labels(sm) == {secret: {"AWSCURRENT"}, old: {"kept"}, new: {"staged"}}

    def test_without_labels_current_moves_and_previous_follows(self, sm: Any, secret: str) -> None:
        second = put(sm, "second")
        third = put(sm, "third")
        assert labels(sm) == {second: {"AWSPREVIOUS"}, third: {"AWSCURRENT"}}

    def test_without_labels_pending_leaves_the_old_current(self, sm: Any, secret: str) -> None:
        sm.update_secret_version_stage(SecretId=NAME, VersionStage="AWSPENDING", MoveToVersionId=secret)
        new = put(sm, "new")
        assert labels(sm) == {secret: {"AWSPREVIOUS"}, new: {"AWSCURRENT"}}

    def test_with_current_named_previous_follows_too(self, sm: Any, secret: str) -> None:
        new = put(sm, "new", "AWSCURRENT", "kept")
        assert labels(sm) == {secret: {"AWSPREVIOUS"}, new: {"AWSCURRENT", "kept"}}

    def test_the_first_version_is_current_whatever_labels_are_named(self, sm: Any) -> None:
        sm.create_secret(Name=NAME)
        first = put(sm, "x", "staged")
        assert labels(sm) == {first: {"staged", "AWSCURRENT"}}

    def test_a_secret_has_at_most_20_labels(self, sm: Any, secret: str) -> None:
        full = put(sm, "x", *(f"label-{n}" for n in range(19)))
        before = labels(sm)
        with refused("LimitExceededException"):
            put(sm, "y", "one-more")
        with refused("LimitExceededException"):
            sm.update_secret_version_stage(SecretId=NAME, VersionStage="one-more", MoveToVersionId=full)
        assert labels(sm) == before
        assert len(sm.list_secret_version_ids(SecretId=NAME, IncludeDeprecated=True)["Versions"]) == 2
        put(sm, "z", "label-3")  # one that is there may move

    @pytest.mark.parametrize("value", [{"SecretBinary": b"x" * 65_536}, {"SecretString": "ä" * 32_768}])
    def test_65536_bytes_are_let_in_and_not_one_more(self, sm: Any, secret: str, value: dict[str, Any]) -> None:
        sm.put_secret_value(SecretId=NAME, **value)
        name, data = next(iter(value.items()))
        with refused("InvalidParameterException"):
            sm.put_secret_value(SecretId=NAME, **{name: data + data[:1]})

    def test_what_is_refused(self, sm: Any, secret: str) -> None:
        with refused("ResourceNotFoundException"):
            put(sm, "x", "staged", name="keys/none")
        with refused("InvalidParameterException"):
            sm.put_secret_value(SecretId=NAME, SecretString="x", SecretBinary=b"x")
        with refused("InvalidRequestException"):
            sm.put_secret_value(SecretId=NAME)
        with refused("InvalidParameterException"):
            sm.put_secret_value(SecretId=NAME, SecretString="x", ClientRequestToken="t" * 65)
        sm.delete_secret(SecretId=NAME)
        with refused("InvalidRequestException"):
            put(sm, "x", "staged")

    def test_without_a_token_which_only_raw_requests_lack_it_is_refused(self, sm: Any, secret: str) -> None:
        code, body = raw_call("PutSecretValue", {"SecretId": NAME, "SecretString": "x"})
        assert (code, body["__type"]) == (400, "InvalidRequestException")


class TestMovingALabel:
    def move(self, sm: Any, stage: str, **versions: str) -> Any:
        return sm.update_secret_version_stage(SecretId=NAME, VersionStage=stage, **versions)

    def test_current_moves_and_previous_follows(self, sm: Any, secret: str) -> None:
        b = put(sm, "b", "AWSPENDING", "v2")
        told = self.move(sm, "AWSCURRENT", RemoveFromVersionId=secret, MoveToVersionId=b)
        assert set(told) - {"ResponseMetadata"} == {"ARN", "Name"}
        assert labels(sm) == {secret: {"AWSPREVIOUS"}, b: {"AWSCURRENT", "AWSPENDING", "v2"}}
        c = put(sm, "c", "v3")
        self.move(sm, "AWSCURRENT", RemoveFromVersionId=b, MoveToVersionId=c)
        assert labels(sm) == {b: {"AWSPREVIOUS", "AWSPENDING", "v2"}, c: {"AWSCURRENT", "v3"}}
        assert sm.get_secret_value(SecretId=NAME)["SecretString"] == "c"

    @pytest.mark.parametrize("expected", ["", "staged", "unknown"], ids=["missing", "another", "unknown"])
    def test_it_is_a_compare_and_set(self, sm: Any, secret: str, expected: str) -> None:
        versions = {"staged": put(sm, "b", "staged"), "third": put(sm, "c", "third"), "unknown": token()}
        before = labels(sm)
        named = {"RemoveFromVersionId": versions[expected]} if expected else {}
        with refused("InvalidParameterException"):
            self.move(sm, "AWSCURRENT", MoveToVersionId=versions["third"], **named)
        assert labels(sm) == before

    def test_a_replay_that_names_the_former_holder_is_refused(self, sm: Any, secret: str) -> None:
        b = put(sm, "b", "v2")
        self.move(sm, "AWSCURRENT", RemoveFromVersionId=secret, MoveToVersionId=b)
        with refused("InvalidParameterException"):
            self.move(sm, "AWSCURRENT", RemoveFromVersionId=secret, MoveToVersionId=b)
        assert labels(sm) == {secret: {"AWSPREVIOUS"}, b: {"AWSCURRENT", "v2"}}

    def test_of_racing_promotions_from_one_version_one_wins(self, sm: Any, secret: str) -> None:
        rivals = [put(sm, f"{n}", f"v{n}") for n in range(8)]

        told = race(
            lambda version: self.move(sm, "AWSCURRENT", RemoveFromVersionId=secret, MoveToVersionId=version), rivals
        )
        assert sorted(told.values()) == ["", *["InvalidParameterException"] * 7]
        assert told[sm.get_secret_value(SecretId=NAME)["VersionId"]] == ""

    def test_where_the_label_is_already_nothing_is_done(self, sm: Any, secret: str) -> None:
        self.move(sm, "AWSCURRENT", MoveToVersionId=secret)
        assert labels(sm) == {secret: {"AWSCURRENT"}}

    def test_current_cannot_be_taken_away(self, sm: Any, secret: str) -> None:
        with refused("InvalidParameterException"):
            self.move(sm, "AWSCURRENT", RemoveFromVersionId=secret)
        assert labels(sm) == {secret: {"AWSCURRENT"}}

    def test_a_label_is_not_taken_from_a_version_without_it(self, sm: Any, secret: str) -> None:
        b = put(sm, "b", "v2")
        for version in (secret, token()):
            with refused("InvalidParameterException"):
                self.move(sm, "v2", RemoveFromVersionId=version)
        with refused("InvalidParameterException"):
            self.move(sm, "nowhere", RemoveFromVersionId=b, MoveToVersionId=secret)

    def test_what_is_unknown_or_dying_is_refused(self, sm: Any, secret: str) -> None:
        with refused("ResourceNotFoundException"):
            self.move(sm, "v2", MoveToVersionId=token())
        with refused("ResourceNotFoundException"):
            sm.update_secret_version_stage(SecretId="none", VersionStage="v2", MoveToVersionId=secret)
        with refused("InvalidParameterException"):
            self.move(sm, "v2")
        sm.delete_secret(SecretId=NAME)
        with refused("InvalidRequestException"):
            self.move(sm, "v2", MoveToVersionId=secret)

    def test_a_version_without_labels_is_not_shown_but_can_be_read_and_labelled_again(
        self, sm: Any, secret: str
    ) -> None:
        b = put(sm, "b", "v2")
        self.move(sm, "v2", RemoveFromVersionId=b)
        assert labels(sm) == {secret: {"AWSCURRENT"}}
        assert sm.list_secrets()["SecretList"][0]["SecretVersionsToStages"] == {secret: ["AWSCURRENT"]}
        shown = sm.list_secret_version_ids(SecretId=NAME)["Versions"]
        assert [version["VersionId"] for version in shown] == [secret]
        every = sm.list_secret_version_ids(SecretId=NAME, IncludeDeprecated=True)["Versions"]
        assert [("VersionStages" in v) for v in every if v["VersionId"] == b] == [False]
        assert sm.get_secret_value(SecretId=NAME, VersionId=b)["SecretString"] == "b"
        self.move(sm, "v2", MoveToVersionId=b)
        assert labels(sm)[b] == {"v2"}


class TestReadingAValue:
    def test_neither_version_nor_label_means_current_also_after_a_promotion(self, sm: Any, secret: str) -> None:
        b = put(sm, "b", "v2")
        assert sm.get_secret_value(SecretId=NAME)["VersionId"] == secret
        sm.update_secret_version_stage(
            SecretId=NAME, VersionStage="AWSCURRENT", RemoveFromVersionId=secret, MoveToVersionId=b
        )
        told = sm.get_secret_value(SecretId=NAME)
        assert (told["VersionId"], told["SecretString"], set(told["VersionStages"])) == (b, "b", {"v2", "AWSCURRENT"})
        assert sm.get_secret_value(SecretId=NAME, VersionStage="AWSPREVIOUS")["SecretString"] == "first"

    def test_the_day_of_the_last_read_shows_once_it_was_read(self, sm: Any, secret: str) -> None:
        assert "LastAccessedDate" not in sm.describe_secret(SecretId=NAME)
        sm.get_secret_value(SecretId=NAME)
        assert sm.describe_secret(SecretId=NAME)["LastAccessedDate"].timestamp() % 86_400 == 0

    def test_version_and_label_must_agree(self, sm: Any, secret: str) -> None:
        b = put(sm, "b", "v2")
        assert sm.get_secret_value(SecretId=NAME, VersionId=b, VersionStage="v2")["SecretString"] == "b"
        with refused("InvalidRequestException"):
            sm.get_secret_value(SecretId=NAME, VersionId=b, VersionStage="AWSCURRENT")

    def test_what_is_not_there_is_not_found(self, sm: Any, secret: str) -> None:
        sm.create_secret(Name="empty")
        asked: list[dict[str, str]] = [
            {"SecretId": "none"},
            {"SecretId": "empty"},
            {"SecretId": NAME, "VersionId": token()},
            {"SecretId": NAME, "VersionStage": "v9"},
            {"SecretId": NAME, "VersionId": token(), "VersionStage": "AWSCURRENT"},
        ]
        for parameters in asked:
            with refused("ResourceNotFoundException"):
                sm.get_secret_value(**parameters)

    def test_a_dying_secret_is_not_read(self, sm: Any, secret: str) -> None:
        sm.delete_secret(SecretId=NAME)
        with refused("InvalidRequestException"):
            sm.get_secret_value(SecretId=NAME)
        sm.restore_secret(SecretId=NAME)
        assert sm.get_secret_value(SecretId=NAME)["SecretString"] == "first"

    def test_a_secret_is_found_by_name_by_arn_and_by_arn_without_suffix(self, sm: Any, secret: str) -> None:
        arn = sm.describe_secret(SecretId=NAME)["ARN"]
        for named in (NAME, arn, arn[:-7]):
            assert sm.get_secret_value(SecretId=named)["VersionId"] == secret
        for named in (arn[:-1] + "!", arn.replace(REGION, "eu-west-1"), arn[:-8]):
            with refused("ResourceNotFoundException"):
                sm.get_secret_value(SecretId=named)

    def test_an_arn_without_suffix_is_not_enough_where_the_name_seems_to_have_one(self, sm: Any) -> None:
        arn = sm.create_secret(Name="keys-abcdef", SecretString="x")["ARN"]
        assert sm.get_secret_value(SecretId=arn)["SecretString"] == "x"
        with refused("ResourceNotFoundException"):
            sm.get_secret_value(SecretId=arn[:-7])


class TestMakingAndDeletingSecrets:
    def test_a_secret_without_value_has_no_version(self, sm: Any) -> None:
        assert "VersionId" not in sm.create_secret(Name=NAME)
        assert "VersionIdsToStages" not in sm.describe_secret(SecretId=NAME)

    def test_a_name_is_taken_once(self, sm: Any, secret: str) -> None:
        with refused("ResourceExistsException"):
            sm.create_secret(Name=NAME, SecretString="first")
        with refused("ResourceExistsException"):
            sm.create_secret(Name=NAME)

    def test_the_same_request_again_is_ignored(self, sm: Any) -> None:
        again = {"Name": NAME, "ClientRequestToken": token(), "SecretString": "x"}
        assert sm.create_secret(**again)["VersionId"] == sm.create_secret(**again)["VersionId"]
        with refused("ResourceExistsException"):
            sm.create_secret(**again | {"SecretString": "y"})

    def test_a_name_that_awaits_deletion_is_not_free(self, sm: Any, secret: str) -> None:
        sm.delete_secret(SecretId=NAME)
        with refused("InvalidRequestException"):
            sm.create_secret(Name=NAME, SecretString="x")

    def test_deletion_shows_and_keeps_labels(self, sm: Any, secret: str) -> None:
        sm.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
        told = sm.describe_secret(SecretId=NAME)
        assert "DeletedDate" in told
        assert told["RotationEnabled"] is False
        assert told["VersionIdsToStages"] == {secret: ["AWSCURRENT"]}
        assert sm.list_secrets()["SecretList"] == []
        assert len(sm.list_secrets(IncludePlannedDeletion=True)["SecretList"]) == 1
        with refused("InvalidRequestException"):
            sm.delete_secret(SecretId=NAME)

    @pytest.mark.parametrize("days", [6, 31])
    def test_the_window_is_7_to_30_days(self, sm: Any, secret: str, days: int) -> None:
        with refused("InvalidParameterException"):
            sm.delete_secret(SecretId=NAME, RecoveryWindowInDays=days)

    def test_by_force_it_is_gone_at_once_and_the_next_of_that_name_has_another_arn(self, sm: Any, secret: str) -> None:
        arn = sm.describe_secret(SecretId=NAME)["ARN"]
        sm.delete_secret(SecretId=NAME)
        sm.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)
        assert sm.create_secret(Name=NAME)["ARN"] != arn

    @pytest.mark.parametrize("name", ["with space", "ümlaut", "a:b", "a" * 513])
    def test_names_have_letters_digits_and_few_signs(self, sm: Any, name: str) -> None:
        with refused("ValidationException"):
            sm.create_secret(Name=name)

    def test_an_update_without_value_makes_no_version(self, sm: Any, secret: str) -> None:
        assert "VersionId" not in sm.update_secret(SecretId=NAME, Description="for people")
        assert sm.describe_secret(SecretId=NAME)["Description"] == "for people"
        new = sm.update_secret(SecretId=NAME, SecretString="second")["VersionId"]
        assert labels(sm) == {secret: {"AWSPREVIOUS"}, new: {"AWSCURRENT"}}


class TestTags:
    def test_tags_are_set_replaced_and_taken_away(self, sm: Any, secret: str) -> None:
        allowed = {"Key": "daena-kms:head", "Value": "Grüße 1 + - = . _ : / @"}
        sm.tag_resource(SecretId=NAME, Tags=[allowed, {"Key": "b", "Value": ""}])
        sm.tag_resource(SecretId=NAME, Tags=[{"Key": "b", "Value": "2"}])
        assert sm.describe_secret(SecretId=NAME)["Tags"] == [allowed, {"Key": "b", "Value": "2"}]
        assert sm.list_secrets()["SecretList"][0]["Tags"] == [allowed, {"Key": "b", "Value": "2"}]
        sm.untag_resource(SecretId=NAME, TagKeys=["b", "c"])
        assert sm.describe_secret(SecretId=NAME)["Tags"] == [allowed]

    @pytest.mark.parametrize(
        "tags",
        [
            [{"Key": "a", "Value": "x" * 257}],
            [{"Key": "k" * 129, "Value": ""}],
            [{"Key": "a", "Value": '{"json":1}'}],
            [{"Key": "a", "Value": "line\nbreak"}],
            [{"Key": "a,b", "Value": ""}],
            [{"Key": "aws:own", "Value": ""}],
            [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}],
            [{"Key": f"{n}", "Value": ""} for n in range(51)],
        ],
    )
    def test_what_aws_would_not_have_is_refused(self, sm: Any, secret: str, tags: list[dict[str, str]]) -> None:
        with refused("InvalidParameterException"):
            sm.tag_resource(SecretId=NAME, Tags=tags)
        with refused("InvalidParameterException"):
            sm.create_secret(Name="keys/tagged", Tags=tags)
        assert "Tags" not in sm.describe_secret(SecretId=NAME) or sm.describe_secret(SecretId=NAME)["Tags"] == []

    def test_50_is_the_sum_of_old_and_new(self, sm: Any, secret: str) -> None:
        sm.tag_resource(SecretId=NAME, Tags=[{"Key": f"{n}", "Value": "x"} for n in range(50)])
        sm.tag_resource(SecretId=NAME, Tags=[{"Key": "7", "Value": "y"}])
        with refused("InvalidParameterException"):
            sm.tag_resource(SecretId=NAME, Tags=[{"Key": "50", "Value": "x"}])

    def test_a_dying_secret_is_not_tagged(self, sm: Any, secret: str) -> None:
        sm.delete_secret(SecretId=NAME)
        with refused("InvalidRequestException"):
            sm.tag_resource(SecretId=NAME, Tags=[{"Key": "a", "Value": "b"}])


class TestListing:
    def test_pages_hold_what_was_asked_for_and_only_the_token_ends_them(self, sm: Any) -> None:
        for n in range(5):
            sm.create_secret(Name=f"keys/{n}")
        first = sm.list_secrets(MaxResults=2)
        assert len(first["SecretList"]) == 2
        found = [s["Name"] for page in sm.get_paginator("list_secrets").paginate(PaginationConfig={"PageSize": 2})
                 for s in page["SecretList"]]  # fmt: skip
        assert sorted(found) == [f"keys/{n}" for n in range(5)]
        assert "NextToken" not in sm.list_secrets()
        with refused("InvalidNextTokenException"):
            sm.list_secrets(NextToken="2")

    def test_names_are_filtered_by_how_they_begin(self, sm: Any) -> None:
        for name in ("keys/a", "keys/b", "Keys/c", "other/keys/d"):
            sm.create_secret(Name=name)
        found = sm.list_secrets(Filters=[{"Key": "name", "Values": ["keys/"]}])["SecretList"]
        assert sorted(s["Name"] for s in found) == ["keys/a", "keys/b"]

    def test_versions_have_pages_too(self, sm: Any, secret: str) -> None:
        made = {secret} | {put(sm, f"{n}", f"v{n}") for n in range(4)}
        pages = [sm.list_secret_version_ids(SecretId=NAME, MaxResults=2)]  # botocore has no paginator for it
        while "NextToken" in pages[-1]:
            pages.append(sm.list_secret_version_ids(SecretId=NAME, MaxResults=2, NextToken=pages[-1]["NextToken"]))
        assert [len(page["Versions"]) for page in pages] == [2, 2, 1]
        assert {v["VersionId"] for page in pages for v in page["Versions"]} == made
        assert pages[0]["Versions"][0]["KmsKeyIds"] == ["DefaultEncryptionKey"]


CONTEXT = {"key": "one", "number": "1"}
NO_KEY = "00000000-0000-4000-8000-000000000000"


class TestKms:
    def test_a_data_key_opens_with_its_context(self, kms: Any) -> None:
        made = kms.generate_data_key(KeyId=made_key(), NumberOfBytes=24, EncryptionContext=CONTEXT)
        assert (len(made["Plaintext"]), made["KeyId"]) == (24, made_key())
        opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
        assert (opened["Plaintext"], opened["KeyId"]) == (made["Plaintext"], made_key())
        assert "KeyMaterialId" in opened

    @pytest.mark.parametrize(
        "context", [{}, {"key": "one"}, {"key": "One", "number": "1"}, {"key": "on", "enumber": "1"}]
    )
    def test_another_context_opens_nothing(self, kms: Any, context: dict[str, str]) -> None:
        blob = kms.encrypt(KeyId=made_key(), Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
        with refused("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)

    def test_names_and_values_of_a_context_do_not_run_together(self, kms: Any) -> None:
        blob = kms.encrypt(KeyId=made_key(), Plaintext=b"x", EncryptionContext={"ab": "c"})["CiphertextBlob"]
        with refused("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "bc"})

    def test_a_blob_damaged_anywhere_opens_nothing(self, kms: Any) -> None:
        blob = kms.encrypt(KeyId=made_key(), Plaintext=b"x")["CiphertextBlob"]
        for at in range(0, len(blob), 5):
            with refused("InvalidCiphertextException"):
                kms.decrypt(CiphertextBlob=blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :])
        with refused("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=b"nothing of ours")

    def test_the_refusal_of_a_blob_has_no_message(self, kms: Any) -> None:
        code, body = raw_call("Decrypt", {"CiphertextBlob": base64.b64encode(b"x" * 99).decode()}, "TrentService")
        assert (code, body) == (400, {"__type": "InvalidCiphertextException"})

    def test_another_key_that_is_named_is_the_wrong_one(self, kms: Any) -> None:
        other = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=made_key(), Plaintext=b"x")["CiphertextBlob"]
        with refused("IncorrectKeyException"):
            kms.decrypt(CiphertextBlob=blob, KeyId=other)
        with refused("IncorrectKeyException"):
            kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=other, DestinationKeyId=other)
        again = kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=other, DestinationEncryptionContext=CONTEXT)
        assert again["SourceKeyId"] == made_key()
        opened = kms.decrypt(CiphertextBlob=again["CiphertextBlob"], KeyId=other, EncryptionContext=CONTEXT)
        assert opened["Plaintext"] == b"x"

    def test_a_disabled_and_a_dying_key_do_nothing(self, kms: Any) -> None:
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]

        def does_nothing(code: str) -> None:
            with refused(code):
                kms.encrypt(KeyId=key, Plaintext=b"x")
            with refused(code):
                kms.decrypt(CiphertextBlob=blob)
            with refused(code):
                kms.generate_data_key(KeyId=key, KeySpec="AES_256")

        kms.disable_key(KeyId=key)
        does_nothing("DisabledException")
        dying = kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        assert dying["KeyId"].endswith(f":key/{key}")
        does_nothing("KMSInvalidStateException")
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
        for act in (kms.enable_key, kms.disable_key, kms.schedule_key_deletion):
            with refused("KMSInvalidStateException"):
                act(KeyId=key)
        kms.cancel_key_deletion(KeyId=key)
        does_nothing("DisabledException")
        kms.enable_key(KeyId=key)
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
        with refused("KMSInvalidStateException"):
            kms.cancel_key_deletion(KeyId=key)

    @pytest.mark.parametrize("days", [6, 31])
    def test_the_window_is_7_to_30_days(self, kms: Any, days: int) -> None:
        with refused("ValidationException"):
            kms.schedule_key_deletion(KeyId=made_key(), PendingWindowInDays=days)

    @pytest.mark.parametrize(
        ("spec", "usage"),
        [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")],
    )
    def test_a_key_of_another_kind_is_refused(self, kms: Any, spec: str, usage: str) -> None:
        key = made_key(spec, usage)
        with refused("InvalidKeyUsageException"):
            kms.generate_data_key(KeyId=key, NumberOfBytes=32)
        with refused("InvalidKeyUsageException"):
            kms.encrypt(KeyId=key, Plaintext=b"x")

    @pytest.mark.parametrize("key", [NO_KEY, "alias/none", "nonsense", f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{NO_KEY}"])
    def test_an_unknown_key_is_not_found(self, kms: Any, key: str) -> None:
        with refused("NotFoundException"):
            kms.generate_data_key(KeyId=key, NumberOfBytes=32)
        with refused("NotFoundException"):
            kms.describe_key(KeyId=key)

    def test_an_alias_stands_for_its_key(self, kms: Any) -> None:
        kms.create_alias(AliasName="alias/mine", TargetKeyId=made_key())
        assert kms.generate_data_key(KeyId="alias/mine", NumberOfBytes=1)["KeyId"] == made_key()
        kms.delete_alias(AliasName="alias/mine")

    @pytest.mark.parametrize("size", [{"NumberOfBytes": 1025}, {"NumberOfBytes": 1, "KeySpec": "AES_256"}, {}])
    def test_a_data_key_has_1_to_1024_bytes(self, kms: Any, size: dict[str, Any]) -> None:
        assert len(kms.generate_data_key(KeyId=made_key(), NumberOfBytes=1024)["Plaintext"]) == 1024
        with refused("ValidationException"):
            kms.generate_data_key(KeyId=made_key(), **size)

    def test_at_most_4096_bytes_are_encrypted(self, kms: Any) -> None:
        kms.encrypt(KeyId=made_key(), Plaintext=b"x" * 4096)
        with refused("ValidationException"):
            kms.encrypt(KeyId=made_key(), Plaintext=b"x" * 4097)

    def test_a_new_key_encrypts(self, kms: Any) -> None:
        assert kms.create_key()["KeyMetadata"]["KeyUsage"] == "ENCRYPT_DECRYPT"


class TestS3:
    def test_create_only_lets_one_of_many_writers_in(self, s3: Any) -> None:
        told = race(
            lambda n: s3.put_object(Bucket=BUCKET, Key="a/1.json", Body=f"{n}".encode(), IfNoneMatch="*"), range(16)
        )
        assert sorted(told.values()) == ["", *["PreconditionFailed"] * 15]
        assert told[int(s3.get_object(Bucket=BUCKET, Key="a/1.json")["Body"].read())] == ""
        assert len(s3.list_object_versions(Bucket=BUCKET)["Versions"]) == 1
        with refused("PreconditionFailed", 412):
            s3.put_object(Bucket=BUCKET, Key="a/1.json", Body=b"", IfNoneMatch="*")

    def test_if_match(self, s3: Any) -> None:
        etag = s3.put_object(Bucket=BUCKET, Key="a", Body=b"1")["ETag"]
        s3.put_object(Bucket=BUCKET, Key="a", Body=b"2", IfMatch=etag)
        with refused("PreconditionFailed", 412):
            s3.put_object(Bucket=BUCKET, Key="a", Body=b"3", IfMatch=etag)
        with refused("NoSuchKey", 404):
            s3.put_object(Bucket=BUCKET, Key="none", Body=b"3", IfMatch=etag)

    @pytest.mark.parametrize(
        "condition", [{"IfNoneMatch": '"etag"'}, {"IfMatch": "*"}, {"IfMatch": '"etag"', "IfNoneMatch": "*"}]
    )
    def test_conditions_that_s3_has_not(self, s3: Any, condition: dict[str, str]) -> None:
        with refused("NotImplemented", 501):
            s3.put_object(Bucket=BUCKET, Key="a", Body=b"", **condition)

    def test_versions_and_listings(self, s3: Any) -> None:
        for body in (b"1", b"2"):
            s3.put_object(Bucket=BUCKET, Key="a/1.json", Body=body)
        s3.delete_object(Bucket=BUCKET, Key="a/1.json")
        s3.put_object(Bucket=BUCKET, Key="b/1.json", Body=b"")
        with refused("NoSuchKey", 404):
            s3.get_object(Bucket=BUCKET, Key="a/1.json")
        s3.put_object(Bucket=BUCKET, Key="c", Body=b"", IfNoneMatch="*")
        s3.delete_object(Bucket=BUCKET, Key="c")
        s3.put_object(Bucket=BUCKET, Key="c", Body=b"", IfNoneMatch="*")  # a delete marker is no object
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="", Delimiter="/")
        assert [p["Prefix"] for p in listed["CommonPrefixes"]] == ["b/"]
        every = s3.list_object_versions(Bucket=BUCKET, Prefix="a/")
        assert (len(every["Versions"]), len(every["DeleteMarkers"])) == (2, 1)


# --- permissions


def allow(action: str | list[str], resource: str = "*", **condition: dict[str, Any]) -> Policy:
    bare = {"Effect": "Allow", "Action": action, "Resource": resource}
    return bare | ({"Condition": condition} if condition else {})


def deny(action: str, resource: str = "*", **condition: dict[str, Any]) -> Policy:
    return {**allow(action, resource, **condition), "Effect": "Deny"}


Clients = Callable[[str], Any]
Role = Callable[..., Clients]


def assumed(sts: Any, arn: str) -> Clients:
    """Clients that have assumed a role."""
    got = sts.assume_role(RoleArn=arn, RoleSessionName="run")["Credentials"]
    return lambda service: client(
        service,
        aws_access_key_id=got["AccessKeyId"],
        aws_secret_access_key=got["SecretAccessKey"],
        aws_session_token=got["SessionToken"],
    )


@pytest.fixture
def role(server: strict_moto.Server) -> Role:
    """Makes a role with a policy, switches enforcement on, and gives clients that have assumed the role."""

    def make(*statements: Policy) -> Clients:
        server.enforce_iam(False)
        trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        name = f"role-{uuid.uuid4().hex[:8]}"
        made = root("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": trust}))
        document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        root("iam").put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document)
        clients = assumed(root("sts"), made["Role"]["Arn"])
        server.enforce_iam(True)
        return clients

    return make


DENIED = "AccessDeniedException"


class TestPermissionsOnSecrets:
    def test_they_are_checked_on_the_secrets_own_arn(self, sm: Any, role: Role, secret: str) -> None:
        sm.create_secret(Name="other/one", SecretString="x")
        arn = sm.describe_secret(SecretId=NAME)["ARN"]
        mine = role(allow(GET, f"{SECRETS}keys/*"))("secretsmanager")
        for named in (NAME, arn, arn[:-7]):
            assert mine.get_secret_value(SecretId=named)["SecretString"] == "first"
        with refused(DENIED):
            mine.get_secret_value(SecretId="other/one")
        with refused(DENIED):
            mine.put_secret_value(SecretId=NAME, SecretString="y")

    def test_an_arn_without_suffix_grants_nothing(self, role: Role, secret: str) -> None:
        with refused(DENIED):
            role(allow(GET, SECRETS + NAME))("secretsmanager").get_secret_value(SecretId=NAME)
        assert role(allow(GET, f"{SECRETS}{NAME}-??????"))("secretsmanager").get_secret_value(SecretId=NAME)

    def test_a_secret_that_is_not_there_is_not_found_only_for_who_may_look(self, role: Role) -> None:
        mine = role(allow(GET, f"{SECRETS}keys/*"))("secretsmanager")
        with refused("ResourceNotFoundException"):
            mine.get_secret_value(SecretId="keys/none")
        with refused(DENIED):
            mine.get_secret_value(SecretId="other/none")

    def test_a_secret_with_tags_takes_two_permissions(self, role: Role) -> None:
        tags = [{"Key": "a", "Value": "b"}]
        create = "secretsmanager:CreateSecret"
        mine = role(allow(create, f"{SECRETS}keys/*"))("secretsmanager")
        with refused(DENIED):
            mine.create_secret(Name=NAME, Tags=tags)
        both = role(allow([create, "secretsmanager:TagResource"], f"{SECRETS}keys/*"))("secretsmanager")
        both.create_secret(Name=NAME, Tags=tags)
        with refused(DENIED):
            both.create_secret(Name="other/one", Tags=tags)

    def test_listing_has_no_resource(self, role: Role, secret: str) -> None:
        with refused(DENIED):
            role(allow("secretsmanager:ListSecrets", f"{SECRETS}*"))("secretsmanager").list_secrets()
        assert role(allow("secretsmanager:ListSecrets"))("secretsmanager").list_secrets()["SecretList"]

    def test_a_denial_outweighs_and_a_condition_that_fails_denies_nothing(self, role: Role, secret: str) -> None:
        never = deny("secretsmanager:*", Bool={"aws:SecureTransport": "false"})
        assert role(allow("secretsmanager:*"), never)("secretsmanager").get_secret_value(SecretId=NAME)
        with refused(DENIED):
            role(allow("secretsmanager:*"), deny(GET))("secretsmanager").get_secret_value(SecretId=NAME)

    def test_who_is_unknown_or_signs_wrong_is_told_so(self, server: strict_moto.Server) -> None:
        user = f"user-{uuid.uuid4().hex[:8]}"
        root("iam").create_user(UserName=user)
        key = root("iam").create_access_key(UserName=user)["AccessKey"]["AccessKeyId"]
        server.enforce_iam(True)
        with refused("UnrecognizedClientException"):
            client("secretsmanager").list_secrets()
        with refused("InvalidSignatureException"):
            client("secretsmanager", aws_access_key_id=key, aws_secret_access_key="wrong").list_secrets()

    def test_a_policy_that_cloudformation_left_as_a_dictionary_counts_too(self, role: Role, secret: str) -> None:
        """moto's own checks break on it."""
        mine = role(allow("kms:*"))
        name = mine("sts").get_caller_identity()["Arn"].split("/")[1]
        held: Any = {"Statement": allow(GET, f"{SECRETS}keys/*")}
        iam_backends[ACCOUNT]["aws"].get_role(name).policies["own"] = held
        assert mine("secretsmanager").get_secret_value(SecretId=NAME)["SecretString"] == "first"
        with refused(DENIED):
            mine("secretsmanager").list_secrets()

    def test_a_role_is_assumed_by_whom_it_trusts(self, role: Role) -> None:
        lets_nobody = role(allow("sts:AssumeRole"))("sts")
        arn = lets_nobody.get_caller_identity()["Arn"].replace(":sts:", ":iam:").replace("assumed-role", "role")
        with refused("AccessDenied", 403):
            lets_nobody.assume_role(RoleArn=arn.rpartition("/")[0], RoleSessionName="again")

    @pytest.mark.parametrize(
        ("condition", "asked", "allowed"),
        [
            ({"StringEquals": {"secretsmanager:VersionStage": "v2"}}, {"VersionStage": "v2"}, True),
            ({"StringEquals": {"secretsmanager:VersionStage": "v2"}}, {"VersionStage": "AWSCURRENT"}, False),
            ({"StringEquals": {"secretsmanager:VersionStage": "AWSCURRENT"}}, {}, False),
            ({"StringEqualsIfExists": {"secretsmanager:VersionStage": "AWSCURRENT"}}, {}, True),
            ({"StringEqualsIfExists": {"secretsmanager:VersionStage": "AWSCURRENT"}}, {"VersionStage": "v2"}, False),
            ({"StringLike": {"secretsmanager:VersionStage": ["AWS*", "v?"]}}, {"VersionStage": "v2"}, True),
            ({"StringLike": {"secretsmanager:VersionStage": "v*"}}, {}, False),
            ({"StringLikeIfExists": {"secretsmanager:VersionStage": "v*"}}, {}, True),
            ({"StringLikeIfExists": {"secretsmanager:VersionStage": "AWS*"}}, {"VersionStage": "v2"}, False),
            ({"Null": {"secretsmanager:VersionId": "true"}}, {"VersionStage": "v2"}, True),
            ({"Null": {"secretsmanager:VersionId": True}}, {"VersionId": "its"}, False),
            ({"Null": {"secretsmanager:VersionId": "false"}}, {"VersionId": "its"}, True),
            ({"StringLike": {"secretsmanager:VersionId": "*-*"}}, {"VersionId": "its"}, True),
            ({"ForAnyValue:StringEquals": {"secretsmanager:VersionStage": "v2"}}, {}, False),
        ],
    )
    def test_conditions_on_label_and_version(
        self, sm: Any, role: Role, secret: str, condition: Policy, asked: dict[str, str], allowed: bool
    ) -> None:
        version = put(sm, "b", "v2")
        mine = role(allow(GET, **condition))("secretsmanager")
        asked = {name: version if value == "its" else value for name, value in asked.items()}
        if allowed:
            assert mine.get_secret_value(SecretId=NAME, **asked)
        else:
            with refused(DENIED):
                mine.get_secret_value(SecretId=NAME, **asked)

    def test_a_label_is_a_condition_of_moving_but_not_of_putting(self, role: Role, secret: str) -> None:
        move = "secretsmanager:UpdateSecretVersionStage"
        mine = role(allow([PUT, move], StringLike={"secretsmanager:VersionStage": "v*"}))("secretsmanager")
        mine.update_secret_version_stage(SecretId=NAME, VersionStage="v1", MoveToVersionId=secret)
        with refused(DENIED):
            mine.update_secret_version_stage(SecretId=NAME, VersionStage="other", MoveToVersionId=secret)
        with refused(DENIED):
            put(mine, "x", "v1")

    @pytest.mark.parametrize(
        "condition",
        [
            {"StringEquals": {"secretsmanager:NoSuchKey": "x"}},
            {"StringEqualsIgnoreCase": {"secretsmanager:VersionStage": "AWSCURRENT"}},
            {"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}},
            {"StringLike": {"secretsmanager:VersionStage": "${aws:username}"}},
            {"StringEquals": {"aws:TagKeys": "x"}},
        ],
    )
    def test_a_condition_that_the_double_does_not_know_is_an_error(
        self, role: Role, secret: str, condition: Policy
    ) -> None:
        mine = role(allow(GET, **condition))("secretsmanager")
        with refused("NotInDouble", 501):
            mine.get_secret_value(SecretId=NAME, VersionStage="AWSCURRENT")


class TestPermissionsOnKeys:
    def test_they_are_checked_on_the_key_that_is_used(self, kms: Any, role: Role) -> None:
        mine, other = made_key(), kms.create_key()["KeyMetadata"]["Arn"]
        blob = kms.encrypt(KeyId=other, Plaintext=b"x")["CiphertextBlob"]
        held = role(allow(["kms:GenerateDataKey", "kms:Decrypt"], mine))("kms")
        made = held.generate_data_key(KeyId=mine, NumberOfBytes=32)
        assert held.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
        with refused(DENIED):
            held.decrypt(CiphertextBlob=blob)
        with refused(DENIED):
            held.generate_data_key(KeyId=other, NumberOfBytes=32)
        with refused(DENIED):
            held.schedule_key_deletion(KeyId=mine)

    @pytest.mark.parametrize(
        ("condition", "context", "allowed"),
        [
            ({"StringLike": {"kms:EncryptionContext:daena:key": "keys/*"}}, {"daena:key": "keys/a"}, True),
            ({"StringLike": {"kms:EncryptionContext:daena:key": "keys/*"}}, {"daena:key": "other/a"}, False),
            ({"StringLike": {"kms:EncryptionContext:daena:key": "keys/*"}}, {}, False),
            ({"StringEquals": {"kms:EncryptionContext:k": ["a", "b"]}}, {"k": "b", "n": "1"}, True),
            ({"StringEquals": {"kms:EncryptionContext:k": ["a", "b"]}}, {"k": "c"}, False),
            ({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["k"]}}, {"k": "c"}, True),
            ({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["k"]}}, {"k": "c", "n": "1"}, False),
        ],
    )
    def test_conditions_on_the_context(
        self, kms: Any, role: Role, condition: Policy, context: dict[str, str], allowed: bool
    ) -> None:
        blob = kms.encrypt(KeyId=made_key(), Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
        held = role(allow("kms:*", made_key(), **condition))("kms")
        calls: list[Callable[[], Any]] = [
            lambda: held.generate_data_key(KeyId=made_key(), NumberOfBytes=32, EncryptionContext=context),
            lambda: held.decrypt(CiphertextBlob=blob, EncryptionContext=context),
        ]
        for call in calls:
            if allowed:
                call()
            else:
                with refused(DENIED):
                    call()

    def test_a_key_policy_that_leaves_nothing_to_the_account_lets_nobody_in(self, kms: Any, role: Role) -> None:
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        service = {"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "kms:*", "Resource": "*"}
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps({"Statement": [service]}))
        with refused(DENIED):
            role(allow("kms:*"))("kms").generate_data_key(KeyId=key, NumberOfBytes=32)


class TestPermissionsOnObjects:
    def test_they_are_checked_on_the_object(self, s3: Any, role: Role) -> None:
        s3.put_object(Bucket=BUCKET, Key="manifests/a", Body=b"1")
        mine = role(allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{BUCKET}/manifests/*"))("s3")
        mine.put_object(Bucket=BUCKET, Key="manifests/b", Body=b"1", IfNoneMatch="*")
        assert mine.get_object(Bucket=BUCKET, Key="manifests/a")["Body"].read() == b"1"
        with refused("AccessDenied", 403):
            mine.put_object(Bucket=BUCKET, Key="other", Body=b"1")
        with refused("AccessDenied", 403):
            mine.delete_object(Bucket=BUCKET, Key="manifests/a")
        with refused("AccessDenied", 403):
            mine.list_objects_v2(Bucket=BUCKET)
        with refused("403", 403):  # a HEAD has no body to tell more
            mine.head_bucket(Bucket=BUCKET)

    def test_listing_under_a_prefix(self, s3: Any, role: Role) -> None:
        prefixed = allow("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", StringLike={"s3:prefix": "manifests/*"})
        mine = role(prefixed, allow("s3:GetObject"))("s3")
        mine.list_objects_v2(Bucket=BUCKET, Prefix="manifests/a/")
        with refused("AccessDenied", 403):
            mine.list_objects_v2(Bucket=BUCKET, Prefix="other/")
        with refused("AccessDenied", 403):
            mine.list_objects_v2(Bucket=BUCKET)
        with refused("NotInDouble", 501):  # sources disagree on what s3:prefix is in this question
            mine.get_object(Bucket=BUCKET, Key="manifests/none")

    def test_what_is_not_there_is_missing_only_for_who_may_list(self, s3: Any, role: Role) -> None:
        for key in ("manifests/gone", "with space and ü"):
            s3.put_object(Bucket=BUCKET, Key=key, Body=b"1")
        s3.delete_object(Bucket=BUCKET, Key="manifests/gone")
        read = allow("s3:GetObject", f"arn:aws:s3:::{BUCKET}/*")
        reads = role(read)("s3")
        assert reads.get_object(Bucket=BUCKET, Key="with space and ü")["Body"].read() == b"1"
        lists_too = role(read, allow("s3:ListBucket", f"arn:aws:s3:::{BUCKET}"))("s3")
        for key in ("manifests/none", "manifests/gone", "another ü"):
            with refused("AccessDenied", 403):
                reads.get_object(Bucket=BUCKET, Key=key)
            with refused("NoSuchKey", 404):
                lists_too.get_object(Bucket=BUCKET, Key=key)

    def test_a_request_that_moto_takes_for_another_is_an_error(self, s3: Any, role: Role) -> None:
        with refused("NotInDouble", 501):
            role(allow("s3:*"))("s3").get_object_lock_configuration(Bucket=BUCKET)
        with refused("NotInDouble", 501):
            role(allow("s3:*"))("s3").delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "a"}]})

    def test_a_bucket_policy_can_demand_create_only(self, s3: Any, role: Role) -> None:
        objects = f"arn:aws:s3:::{BUCKET}/manifests/*"
        demands = {**deny("s3:PutObject", objects, Null={"s3:if-none-match": "true"}), "Principal": "*"}
        s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [demands]}))
        try:
            mine = role(allow("s3:*"))("s3")
            mine.put_object(Bucket=BUCKET, Key="manifests/a", Body=b"1", IfNoneMatch="*")
            mine.put_object(Bucket=BUCKET, Key="other", Body=b"1")
            with refused("AccessDenied", 403):
                mine.put_object(Bucket=BUCKET, Key="manifests/a", Body=b"2")
        finally:
            strict_moto.start().enforce_iam(False)
            s3.delete_bucket_policy(Bucket=BUCKET)


# --- the server itself


def raw_call(action: str, asked: dict[str, Any], service: str = "secretsmanager") -> tuple[int, dict[str, Any]]:
    """One request without an SDK in between."""
    scope = "kms" if service == "TrentService" else service
    headers = {
        "X-Amz-Target": f"{service}.{action}",
        "Content-Type": "application/x-amz-json-1.1",
        "Authorization": f"AWS4-HMAC-SHA256 Credential=A/20260101/{REGION}/{scope}/aws4_request, Signature=0",
    }
    connection = http.client.HTTPConnection(strict_moto.start().url.removeprefix("http://"))
    try:
        connection.request("POST", "/", json.dumps(asked), headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


class TestTheServer:
    def test_there_is_one_per_process(self) -> None:
        assert strict_moto.start() is strict_moto.start()

    def test_a_connection_is_used_again(self, sm: Any, s3: Any, secret: str) -> None:
        connection = http.client.HTTPConnection(strict_moto.start().url.removeprefix("http://"))
        connection.connect()
        before = connection.sock.getsockname()
        for path in ("/moto-api/", "/none", "/moto-api/"):
            connection.request("GET", path)
            connection.getresponse().read()
            assert connection.sock.getsockname() == before
        connection.close()

    def test_half_a_request_is_not_carried_out(self, s3: Any) -> None:
        """Its sender was killed. S3's answer to that is IncompleteBody, if anybody is left to hear it."""
        connection = http.client.HTTPConnection(strict_moto.start().url.removeprefix("http://"))
        connection.putrequest("PUT", f"/{BUCKET}/half")
        connection.putheader("Authorization", f"AWS4-HMAC-SHA256 Credential=A/20260101/{REGION}/s3/aws4_request")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"half")
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.sock.recv(1) == b""
        connection.close()
        assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)

    @pytest.mark.parametrize("service", ["secretsmanager", "kms", "s3"])
    def test_requests_to_a_service_are_answered_one_at_a_time(self, s3: Any, service: str) -> None:
        calls: dict[str, Callable[[], Any]] = {
            "secretsmanager": lambda: root("secretsmanager").list_secrets(),
            "kms": lambda: root("kms").list_keys(),
            "s3": lambda: s3.list_objects_v2(Bucket=BUCKET),
        }
        with ThreadPoolExecutor(1) as pool:
            with LOCKS[service]:
                waiting = pool.submit(calls[service])
                with pytest.raises(TimeoutError):
                    waiting.result(0.1)
            assert waiting.result(10)

    def test_the_sdk_opens_one_connection_for_many_calls(self, server: strict_moto.Server) -> None:
        mine, before = client("secretsmanager"), server.connections
        mine.create_secret(Name=NAME, SecretString="x")
        for _ in range(20):
            mine.get_secret_value(SecretId=NAME)
            with refused("ResourceNotFoundException"):
                mine.get_secret_value(SecretId="none")
        assert server.connections == before + 1
        mine.close()

    def test_objects_of_any_size_pass_and_nothing_is_left_on_the_connection(self, s3: Any) -> None:
        for size in (0, 1, 70_000, 1_000_000):
            s3.put_object(Bucket=BUCKET, Key="big", Body=b"x" * size)
            assert len(s3.get_object(Bucket=BUCKET, Key="big")["Body"].read()) == size
            assert s3.head_object(Bucket=BUCKET, Key="big")["ContentLength"] == size

    def test_clear_forgets_secrets_and_objects_and_keeps_the_rest(
        self, server: strict_moto.Server, sm: Any, kms: Any, s3: Any, secret: str
    ) -> None:
        s3.put_object(Bucket=BUCKET, Key="a", Body=b"1")
        server.clear()
        assert sm.list_secrets(IncludePlannedDeletion=True)["SecretList"] == []
        assert "Versions" not in s3.list_object_versions(Bucket=BUCKET)
        assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
        assert kms.describe_key(KeyId=made_key())["KeyMetadata"]["Enabled"]
        sm.create_secret(Name=NAME)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: root("secretsmanager").rotate_secret(SecretId=NAME),
            lambda: root("secretsmanager").batch_get_secret_value(SecretIdList=[NAME]),
            lambda: root("secretsmanager").list_secrets(SortOrder="asc"),
            lambda: root("secretsmanager").create_secret(Name="keys/two", KmsKeyId="alias/aws/secretsmanager"),
            lambda: root("secretsmanager").list_secrets(Filters=[{"Key": "all", "Values": ["x"]}]),
            lambda: root("kms").decrypt(CiphertextBlob=b"x", GrantTokens=["a-token"]),
            lambda: root("kms").rotate_key_on_demand(KeyId=made_key()),
            lambda: root("kms").create_key(MultiRegion=True),
        ],
    )
    def test_what_the_double_has_not_is_an_error_and_no_guess(self, secret: str, call: Callable[[], Any]) -> None:
        with refused("NotInDouble", 501):
            call()

    def test_permissions_are_switched_over_http_too(self, sm: Any, server: strict_moto.Server) -> None:
        for count, allowed in (("0", False), ("inf", True)):
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
            connection.request("POST", "/moto-api/reset-auth", count, {"Content-Type": "text/plain"})
            assert connection.getresponse().status == 200
            connection.close()
            if allowed:
                sm.list_secrets()
            else:
                with refused("UnrecognizedClientException"):
                    sm.list_secrets()

    def test_it_starts_alone_and_prints_its_address_first(self) -> None:
        command = [sys.executable, "-m", "tests.support.strict_moto"]
        folder = Path(strict_moto.__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as alone:
            assert alone.stdout is not None
            url = alone.stdout.readline().strip()
            mine = client("secretsmanager", url)
            mine.create_secret(Name=NAME, SecretString="x")
            mine.close()
            alone.terminate()
            output, errors = alone.communicate(timeout=10)
        assert url.startswith("http://127.0.0.1:")
        assert (output, errors) == ("", "")

    def test_it_ends_its_threads(self) -> None:
        before = set(threading.enumerate())
        double = strict_moto.Server()
        thread = threading.Thread(target=double.serve)
        thread.start()
        mine = client("secretsmanager", double.url)
        mine.list_secrets()  # and leaves the connection open
        double.close()
        thread.join(10)
        assert set(threading.enumerate()) <= before
        mine.close()
