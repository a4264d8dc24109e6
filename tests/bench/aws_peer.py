"""The peer: AWS's own rotation template, as plain calls of boto3.

`SecretsManagerRotationTemplate` of aws-samples/aws-secrets-manager-rotation-lambdas, commit b4b8eca (MIT-0): its calls
in its order, with its parameters. What it leaves to whoever fills it in (setSecret and testSecret) stays empty.

Kinder to it than life: one client for all, where each of its four invocations makes one; no Lambda in between; and no
RotateSecret before, in which Secrets Manager lays down the empty version that the template expects, so that its check
for that version and for `RotationEnabled` are left out. They cost no calls.
"""

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3

from .aws_scene import Account

PREFIX = "peer-"
EXCLUDED = "/@\"'\\"
PEER = "AWS's rotation template"


class Peer:
    """As many secrets, and the template to rotate them."""

    def __init__(self, account: Account, keys: Sequence[str]) -> None:
        config, region = account.aws._config, account.aws._region
        self.client: Any = boto3.Session().client("secretsmanager", region_name=region, config=config)
        account.count(self.client)
        self._secrets = [str(self._make(PREFIX + key)) for key in keys]

    def _make(self, name: str) -> object:
        token = str(uuid.uuid4())
        return self.client.create_secret(Name=name, ClientRequestToken=token, SecretString="first")["ARN"]

    def rotate(self, concurrency: int = 1) -> None:
        """Every secret once."""
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            list(pool.map(self._rotate, self._secrets))

    def _rotate(self, arn: str) -> None:
        token = str(uuid.uuid4())
        for step in (create_secret, left_empty, left_empty, finish_secret):
            handle(self.client, arn, token, step)


def handle(client: Any, arn: str, token: str, step: Callable[[Any, str, str], None]) -> None:
    """`lambda_handler`: one invocation."""
    versions = client.describe_secret(SecretId=arn)["VersionIdsToStages"]
    if "AWSCURRENT" in versions.get(token, ()):
        raise ValueError("this token was rotated to before")
    step(client, arn, token)


def create_secret(client: Any, arn: str, token: str) -> None:
    """Make a password under AWSPENDING, unless it is there."""
    client.get_secret_value(SecretId=arn, VersionStage="AWSCURRENT")
    try:
        client.get_secret_value(SecretId=arn, VersionId=token, VersionStage="AWSPENDING")
    except client.exceptions.ResourceNotFoundException:
        password = client.get_random_password(ExcludeCharacters=EXCLUDED)["RandomPassword"]
        client.put_secret_value(
            SecretId=arn, ClientRequestToken=token, SecretString=password, VersionStages=["AWSPENDING"]
        )


def left_empty(_client: Any, _arn: str, _token: str) -> None:
    """`setSecret` and `testSecret`: where a database would be asked."""


def finish_secret(client: Any, arn: str, token: str) -> None:
    """Move AWSCURRENT to the new version from whichever has it now."""
    versions = client.describe_secret(SecretId=arn)["VersionIdsToStages"]
    current = next((version for version, stages in versions.items() if "AWSCURRENT" in stages), None)
    if current == token:
        return
    client.update_secret_version_stage(
        SecretId=arn, VersionStage="AWSCURRENT", MoveToVersionId=token, RemoveFromVersionId=current
    )
