"""The secrets that moto keeps, found, changed and told of as Secrets Manager does. `moto_secrets` has the requests."""

import base64
import re
import time
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from moto.secretsmanager.models import FakeSecret, secretsmanager_backends

from . import moto_labels
from .moto_errors import AwsError, NotInDoubleError
from .moto_labels import Labels

MOST_BYTES = 65_536
MOST_TAGS = 50
LONGEST_TAG_KEY, LONGEST_TAG_VALUE = 128, 256
TAG_SIGNS = frozenset("+-=._:/@")
DAY = 86_400

# What a request calls the two kinds of value, and what moto does.
FIELDS: Mapping[str, str] = {"SecretString": "secret_string", "SecretBinary": "secret_binary"}

Value = dict[str, str]
"""`SecretString` or `SecretBinary`, as JSON carries it; empty if there is none."""
Tags = list[dict[str, str]]


def every(account: str, region: str) -> Iterator[FakeSecret]:
    """All secrets of a region, those that are to be deleted too."""
    for secret in dict.values(secretsmanager_backends[account][region].secrets):
        yield _primary(secret)


def find(account: str, region: str, secret_id: str) -> FakeSecret | None:
    """A secret by name, by ARN, or by ARN without its suffix.

    moto would look through all secrets twice for it. Without suffix it is not found if its name ends in a hyphen and
    six characters (recorded-replies).
    """
    secrets: Any = secretsmanager_backends[account][region].secrets
    if not secret_id.startswith("arn:"):
        found = dict.get(secrets, secret_id)
        return None if found is None else _primary(found)
    tail = secret_id.partition(":secret:")[2]
    for name in (tail[:-7], tail):
        found = dict.get(secrets, name)
        whole = found is not None and found.arn == secret_id
        partial = found is not None and found.arn[:-7] == secret_id and not re.search(r"-[^-/]{6}$", tail)
        if whole or partial:
            return _primary(found)
    return None


def _primary(secret: Any) -> FakeSecret:
    if isinstance(secret, FakeSecret):
        return secret
    raise NotInDoubleError("replicas of secrets")


def make(account: str, region: str, name: str, description: str | None, tags: Tags) -> FakeSecret:
    """A new secret, without a value."""
    now = int(time.time())
    secret = FakeSecret(
        account, region, name, {}, "", description=description, tags=tags, last_changed_date=now, created_date=now
    )
    dict.__setitem__(secretsmanager_backends[account][region].secrets, name, secret)
    return secret


def remove(account: str, region: str, secret: FakeSecret) -> None:
    """Forgets a secret."""
    dict.pop(secretsmanager_backends[account][region].secrets, secret.name)


def clear() -> None:
    """Forgets every secret of every account."""
    for account in secretsmanager_backends.values():
        for backend in account.values():
            dict.clear(backend.secrets)
    vars(FakeSecret)["instances_tracked"].clear()  # moto keeps a list of all that were ever made


def asked_value(asked: Mapping[str, Any]) -> Value:
    """The value in a request."""
    value = {name: str(asked[name]) for name in FIELDS if asked.get(name)}
    if len(value) > 1:
        raise AwsError("InvalidParameterException", "You can't specify both a binary and a string secret value.")
    for name, data in value.items():
        size = len(base64.b64decode(data) if name == "SecretBinary" else data.encode())
        if size > MOST_BYTES:
            raise AwsError("InvalidParameterException", f"The secret value has {size} bytes; at most {MOST_BYTES}.")
    return value


def held_value(secret: FakeSecret, version_id: str) -> Value:
    """The value of a version."""
    version = secret.versions[version_id]
    return {name: version[field] for name, field in FIELDS.items() if version.get(field)}


def put(secret: FakeSecret, token: str, value: Value, stages: list[str] | None) -> None:
    """Adds a version, unless it is there with the same data. Refuses before anything is changed."""
    if token in secret.versions:
        if held_value(secret, token) == value:
            return
        raise AwsError(
            "ResourceExistsException",
            f"You can't use ClientRequestToken {token} because that value is already in use for a version of secret "
            f"{secret.arn}.",
        )
    after = moto_labels.put(labels(secret), token, stages)
    version: dict[str, Any] = {FIELDS[name]: data for name, data in value.items()}
    secret.versions[token] = version | {"createdate": time.time(), "version_id": token, "version_stages": []}
    attach(secret, after)


def labels(secret: FakeSecret) -> Labels:
    """The labels of each version."""
    return {version_id: version["version_stages"] for version_id, version in secret.versions.items()}


def attach(secret: FakeSecret, after: Labels) -> None:
    """Sets the labels of all versions."""
    for version_id, stages in after.items():
        secret.versions[version_id]["version_stages"] = stages
    secret.set_default_version_id(moto_labels.holder(after, moto_labels.CURRENT))  # where moto itself looks
    touch(secret)


def touch(secret: FakeSecret) -> None:
    """Notes that it was changed."""
    secret.last_changed_date = int(time.time())


def read(secret: FakeSecret, version_id: str | None, stage: str | None) -> str:
    """The id of the version that a read names, AWSCURRENT if it names none. Notes the day of the read."""
    found = _named(secret, version_id, stage)
    vars(secret)["last_accessed_date"] = int(time.time()) // DAY * DAY
    return found


def _named(secret: FakeSecret, version_id: str | None, stage: str | None) -> str:
    if version_id is None:
        stage = stage or moto_labels.CURRENT
        at = moto_labels.holder(labels(secret), stage)
        if at is None:
            raise _no_value(f"staging label: {stage}")
        return at
    if version_id not in secret.versions:
        raise _no_value(f"VersionId: {version_id}")
    if stage is not None and stage not in secret.versions[version_id]["version_stages"]:
        raise AwsError(
            "InvalidRequestException", "You provided a VersionStage that is not associated to the provided VersionId."
        )
    return version_id


def _no_value(of: str) -> AwsError:
    return AwsError("ResourceNotFoundException", f"Secrets Manager can't find the specified secret value for {of}")


def metadata(secret: FakeSecret, labels_field: str) -> dict[str, Any]:
    """What Describe and List tell. What is not so is left out; versions without labels are not told of."""
    told = {
        "ARN": secret.arn,
        "Name": secret.name,
        "Description": secret.description or None,
        "RotationEnabled": False if secret.is_deleted() else None,
        "LastChangedDate": secret.last_changed_date,
        "LastAccessedDate": vars(secret).get("last_accessed_date"),
        "DeletedDate": secret.deleted_date,
        "CreatedDate": secret.created_date,
        "Tags": secret.tags,
        labels_field: {version_id: stages for version_id, stages in labels(secret).items() if stages} or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def merged_tags(old: Tags, new: Tags) -> Tags:
    """Old tags and new ones, if AWS would have them."""
    if len({tag["Key"] for tag in new}) != len(new):
        raise AwsError("InvalidParameterException", "The request has duplicate tag keys.")
    for problem in _tag_problems(new):
        raise AwsError("InvalidParameterException", problem)
    every_tag = {tag["Key"]: {"Key": tag["Key"], "Value": tag.get("Value", "")} for tag in [*old, *new]}
    if len(every_tag) > MOST_TAGS:
        raise AwsError("InvalidParameterException", f"A secret can have at most {MOST_TAGS} tags.")
    return list(every_tag.values())


def _tag_problems(tags: Tags) -> Iterator[str]:
    for tag in tags:
        key, value = tag["Key"], tag.get("Value", "")
        if not 1 <= len(key) <= LONGEST_TAG_KEY or len(value) > LONGEST_TAG_VALUE:
            yield f"Tag {key[:40]!r}: keys have 1 to {LONGEST_TAG_KEY} characters, values up to {LONGEST_TAG_VALUE}."
        if key.lower().startswith("aws:"):
            yield f"Tag {key!r}: keys must not begin with aws:."
        if not all(_allowed_in_tag(letter) for letter in key + value):
            yield f"Tag {key!r}: only letters, digits, spaces and + - = . _ : / @ are allowed."


def _allowed_in_tag(letter: str) -> bool:
    kind = unicodedata.category(letter)
    return letter in TAG_SIGNS or kind[0] in "LN" or kind == "Zs"
