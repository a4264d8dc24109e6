"""The AWS store and its ledger on the strict double, over a real socket."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from daena_kms.stores.aws import AwsStore
from daena_kms.stores.aws_calls import Aws
from daena_kms.stores.aws_ledger import S3Ledger
from daena_kms.stores.pace import Pace

from . import strict_moto

REGION = "eu-west-1"
BUCKET = "daena-manifests"
PREFIX = "app-"
MANIFESTS = f"s3://{BUCKET}/manifests"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}

Wrap = Callable[[Any], Any]
QUICK = Pace(1_000_000, 1.0, time.monotonic, time.sleep)


class Account:
    """One account of the double: its server, a KMS key, a versioned bucket."""

    def __init__(self) -> None:
        self.server = strict_moto.start()
        os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=self.server.url)
        self.aws = Aws(region=REGION, profile="", call_timeout=timedelta(seconds=30), concurrency=16)
        self.key = str(self.aws.client("kms").call("create_key", "a key")["KeyMetadata"]["Arn"])
        s3 = self.aws.client("s3")
        location = {"LocationConstraint": REGION}
        s3.call("create_bucket", BUCKET, Bucket=BUCKET, CreateBucketConfiguration=location)
        s3.call("put_bucket_versioning", BUCKET, Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    def store(self, wrap: Wrap = lambda client: client) -> AwsStore:
        """A store as one process has it, on wrapped clients. Nothing is waited for: this double forgets nothing."""
        return AwsStore(
            wrap(self.aws.client("secretsmanager")),
            wrap(self.aws.client("kms")),
            kms_key=self.key,
            prefix=PREFIX,
            ledger=MANIFESTS,
            actor="arn:tester",
            pace=QUICK,
            sleep=lambda _: None,
        )

    def ledger(self, wrap: Wrap = lambda client: client) -> S3Ledger:
        """The ledger beside it."""
        return S3Ledger(wrap(self.aws.client("s3")), MANIFESTS)

    def environment(self) -> dict[str, str]:
        """What a process needs to work with this account."""
        return CREDENTIALS | {
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_KMS_KEY_ID": self.key,
            "DAENA_CLOUD_KMS_PROVIDER": "aws",
            "DAENA_KEY_PREFIX": PREFIX,
            "DAENA_MANIFEST_URL": MANIFESTS,
        }


@cache
def account() -> Account:
    """The account of this process."""
    return Account()


def emptied() -> Account:
    """The account, as if nothing had been done in it."""
    account().server.clear()
    return account()
