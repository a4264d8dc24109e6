"""Secrets Manager as strict as AWS: its requests. `strict_moto` lists the behaviour with its sources.

moto keeps the secrets, so that its other services see them; how they change is in `moto_vault` and `moto_labels`.
"""

import base64
import binascii
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from moto.secretsmanager.list_secrets.filters import name_filter, tag_key, tag_value
from moto.secretsmanager.models import FakeSecret
from moto.secretsmanager.responses import SecretsManagerResponse

from . import moto_labels, moto_vault
from .moto_errors import AwsError, NotInDoubleError
from .moto_service import StrictService, parameters

# No KmsKeyId: AWS would use that key with the caller's permissions, and the double does not.
KNOWN = parameters(
    {
        "CreateSecret": "Name ClientRequestToken Description SecretBinary SecretString Tags",
        "DeleteSecret": "SecretId RecoveryWindowInDays ForceDeleteWithoutRecovery",
        "DescribeSecret": "SecretId",
        "GetSecretValue": "SecretId VersionId VersionStage",
        "ListSecretVersionIds": "SecretId IncludeDeprecated MaxResults NextToken",
        "ListSecrets": "Filters IncludePlannedDeletion MaxResults NextToken",
        "PutSecretValue": "SecretId ClientRequestToken SecretBinary SecretString VersionStages",
        "RestoreSecret": "SecretId",
        "TagResource": "SecretId Tags",
        "UntagResource": "SecretId TagKeys",
        "UpdateSecret": "SecretId ClientRequestToken Description SecretBinary SecretString",
        "UpdateSecretVersionStage": "SecretId VersionStage RemoveFromVersionId MoveToVersionId",
    }
)
FILTERS: Mapping[str, Callable[[Any, list[str]], bool]] = {
    "name": name_filter,  # from the first letter on, case counts
    "tag-key": tag_key,
    "tag-value": tag_value,
}
KEY_OF_AWS = "DefaultEncryptionKey"


class StrictSecrets(StrictService, SecretsManagerResponse):
    """One request to Secrets Manager."""

    KNOWN = KNOWN

    def create_secret(self) -> str:
        """CreateSecret. The same request once more is ignored: a lost reply makes an SDK send it again."""
        name, token = str(self.asked.get("Name", "")), self._token()
        _check_name(name)
        value = moto_vault.asked_value(self.asked)
        tags = moto_vault.merged_tags([], self.asked.get("Tags") or [])
        secret = self._find(name)
        if secret is None:
            description = self.asked.get("Description")
            secret = moto_vault.make(self.current_account, self.region, name, description, tags)
        else:
            _check_same(secret, token, value)
        if value:
            moto_vault.put(secret, token, value, None)
        return _reply(secret, VersionId=token if value else None)

    def put_secret_value(self) -> str:
        """PutSecretValue: the token becomes the version's id, and the first writer wins."""
        secret, token = self._living(), self._token()
        value = moto_vault.asked_value(self.asked)
        if not value:
            raise AwsError("InvalidRequestException", "You must provide either SecretString or SecretBinary.")
        moto_vault.put(secret, token, value, _asked_stages(self.asked.get("VersionStages")))
        return _reply(secret, VersionId=token, VersionStages=secret.versions[token]["version_stages"])

    def update_secret(self) -> str:
        """UpdateSecret: the description, and a new current version if a value is given."""
        secret, token = self._living(), self._token()
        value = moto_vault.asked_value(self.asked)
        if value:
            moto_vault.put(secret, token, value, None)
        secret.description = self.asked.get("Description", secret.description)
        moto_vault.touch(secret)
        return _reply(secret, VersionId=token if value else None)

    def get_secret_value(self) -> str:
        """GetSecretValue."""
        secret = self._living()
        version_id = moto_vault.read(secret, self.asked.get("VersionId"), self.asked.get("VersionStage"))
        version = secret.versions[version_id]
        return _reply(
            secret,
            VersionId=version_id,
            VersionStages=version["version_stages"] or None,
            CreatedDate=version["createdate"],
            **moto_vault.held_value(secret, version_id),
        )

    def update_secret_version_stage(self) -> str:
        """UpdateSecretVersionStage: compare-and-set of one label."""
        secret = self._living()
        stage = _checked_stage(self.asked.get("VersionStage"))
        remove_from, move_to = self.asked.get("RemoveFromVersionId"), self.asked.get("MoveToVersionId")
        moto_vault.attach(secret, moto_labels.update(moto_vault.labels(secret), stage, remove_from, move_to))
        return _reply(secret)

    def describe_secret(self) -> str:
        """DescribeSecret: also of a secret that is to be deleted."""
        return json.dumps(moto_vault.metadata(self._found(), "VersionIdsToStages"))

    def list_secrets(self) -> str:
        """ListSecrets."""
        filters = self.asked.get("Filters") or []
        dying_too = bool(self.asked.get("IncludePlannedDeletion"))
        found = [
            moto_vault.metadata(secret, "SecretVersionsToStages")
            for secret in moto_vault.every(self.current_account, self.region)
            if (dying_too or not secret.is_deleted()) and _matches(secret, filters)
        ]
        page, token = self._page(found)
        return json.dumps({"SecretList": page} | ({"NextToken": token} if token else {}))

    def list_secret_version_ids(self) -> str:
        """ListSecretVersionIds."""
        secret = self._found()
        deprecated_too = bool(self.asked.get("IncludeDeprecated"))
        found = [
            {"VersionId": version_id, "CreatedDate": version["createdate"], "KmsKeyIds": [KEY_OF_AWS]}
            | ({"VersionStages": version["version_stages"]} if version["version_stages"] else {})
            for version_id, version in secret.versions.items()
            if version["version_stages"] or deprecated_too
        ]
        page, token = self._page(found)
        return _reply(secret, Versions=page, NextToken=token)

    def delete_secret(self) -> str:
        """DeleteSecret: with a window of 7 to 30 days, or by force at once."""
        force, days = bool(self.asked.get("ForceDeleteWithoutRecovery")), self.asked.get("RecoveryWindowInDays")
        _check_window(days, force=force)
        secret = self._find(str(self.asked["SecretId"]))
        if secret is None and force:
            raise NotInDoubleError("DeleteSecret by force of a secret that is not there: its reply is on no record")
        secret = self._found() if force else self._living()
        when = time.time() + (0 if force else (days or 30) * moto_vault.DAY)
        secret.delete(when)
        if force:
            moto_vault.remove(self.current_account, self.region, secret)
        return _reply(secret, DeletionDate=when)

    def restore_secret(self) -> str:
        """RestoreSecret."""
        secret = self._found()
        secret.restore()
        return _reply(secret)

    def tag_resource(self) -> str:
        """TagResource."""
        secret = self._living()
        secret.tags = moto_vault.merged_tags(secret.tags or [], self.asked.get("Tags") or [])
        moto_vault.touch(secret)
        return ""

    def untag_resource(self) -> str:
        """UntagResource."""
        secret = self._living()
        gone = set(self.asked.get("TagKeys") or [])
        secret.tags = [tag for tag in secret.tags or [] if tag["Key"] not in gone]
        moto_vault.touch(secret)
        return ""

    def _token(self) -> str:
        """The request token; SDKs make one where the caller gives none."""
        token = self.asked.get("ClientRequestToken")
        if token is None:
            raise AwsError("InvalidRequestException", "You must provide a ClientRequestToken value.")
        if not 32 <= len(token) <= 64:
            raise AwsError("InvalidParameterException", "ClientRequestToken must be 32-64 characters long.")
        return str(token)

    def _living(self) -> FakeSecret:
        """The secret asked for, if it is not to be deleted."""
        secret = self._found()
        if secret.is_deleted():
            raise AwsError(
                "InvalidRequestException",
                "You can't perform this operation on the secret because it was marked for deletion.",
            )
        return secret

    def _found(self) -> FakeSecret:
        secret = self._find(str(self.asked.get("SecretId", "")))
        if secret is None:
            raise AwsError("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
        return secret

    def _find(self, secret_id: str) -> FakeSecret | None:
        return moto_vault.find(self.current_account, self.region, secret_id)

    def _page(self, found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str | None]:
        """A page of `MaxResults`, and the token of the next."""
        size = int(self.asked.get("MaxResults", 100))
        if not 1 <= size <= 100:
            raise AwsError("InvalidParameterException", "MaxResults must be between 1 and 100.")
        start = _position(self.asked.get("NextToken"))
        end = start + size
        return found[start:end], base64.b64encode(f"from {end}".encode()).decode() if end < len(found) else None


def _reply(secret: FakeSecret, **fields: Any) -> str:
    told = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"ARN": secret.arn, "Name": secret.name} | told)


def _check_same(taken: FakeSecret, token: str, value: moto_vault.Value) -> None:
    """Raises unless the secret of that name was made by this very request."""
    if taken.is_deleted():
        raise AwsError(
            "InvalidRequestException",
            "You can't create this secret because a secret with this name is already scheduled for deletion.",
        )
    if not value or token not in taken.versions:
        raise AwsError("ResourceExistsException", f"The operation failed because {taken.name} already exists.")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9/_+=.@!-]{1,512}", name):
        raise AwsError(
            "ValidationException",
            "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
        )


def _asked_stages(stages: Any) -> list[str] | None:
    if stages is None:
        return None
    if not isinstance(stages, list) or not 1 <= len(stages) <= moto_labels.MOST_LABELS:
        raise AwsError("InvalidParameterException", "VersionStages must have 1 to 20 labels.")
    return [_checked_stage(stage) for stage in stages]


def _checked_stage(stage: Any) -> str:
    if not isinstance(stage, str) or not 1 <= len(stage) <= 256:
        raise AwsError("InvalidParameterException", "A staging label must have 1 to 256 characters.")
    return stage


def _check_window(days: int | None, *, force: bool) -> None:
    if force and days is not None:
        raise AwsError(
            "InvalidParameterException",
            "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
        )
    if days is not None and not 7 <= days <= 30:
        raise AwsError("InvalidParameterException", "RecoveryWindowInDays must be between 7 and 30 days (inclusive).")


def _matches(secret: FakeSecret, filters: list[dict[str, Any]]) -> bool:
    for wanted in filters:
        key, values = str(wanted.get("Key")), [str(value) for value in wanted.get("Values") or []]
        if key not in FILTERS or any(value.startswith("!") for value in values):
            raise NotInDoubleError(f"ListSecrets with the filter {wanted}")
        if not FILTERS[key](secret, values):
            return False
    return True


def _position(token: str | None) -> int:
    if token is None:
        return 0
    try:
        text = base64.b64decode(token, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    told = re.fullmatch(r"from (\d+)", text)
    if told is None:
        raise AwsError("InvalidNextTokenException", "The NextToken value is invalid.")
    return int(told[1])
