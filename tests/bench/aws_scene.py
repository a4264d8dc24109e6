"""An account of AWS's double in a process of its own, and fleets on it: the real AWS store and the real S3 ledger."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

from daena_kms.policy import KeyPolicy
from daena_kms.stores.aws import AwsStore
from daena_kms.stores.aws_calls import Aws
from daena_kms.stores.aws_ledger import S3Ledger

from ..support.aws_world import BUCKET, CREDENTIALS, QUICK, REGION
from .clouds import CALL_TIMEOUT, CloudScene, Wire
from .processes import ROOT

SERVICES = ("secretsmanager", "kms", "s3", "sts")
MOST_AT_ONCE = 16


class Account(Wire):
    """An empty account of the double, clients for it, and what they send, counted at the wire."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.aws = Aws(region=REGION, profile="", call_timeout=CALL_TIMEOUT, concurrency=MOST_AT_ONCE)
        self.key = str(self.aws.client("kms").call("create_key", "a key")["KeyMetadata"]["Arn"])
        location = {"LocationConstraint": REGION}
        self.aws.client("s3").call("create_bucket", BUCKET, Bucket=BUCKET, CreateBucketConfiguration=location)
        for service in SERVICES:
            self.count(self.aws.client(service)._client)

    def count(self, client: object) -> None:
        """Count what a client of botocore sends from now on: each attempt, by service and operation."""
        client.meta.events.register("before-send", self._sending)  # type: ignore[attr-defined]

    def _sending(self, event_name: str, **_: object) -> None:
        self.sent.append(event_name.removeprefix("before-send."))


@contextmanager
def account() -> Iterator[Account]:
    """An account that lasts as long as the block; in it the environment is one that works with it."""
    command = (sys.executable, "-m", "tests.bench.aws_double")
    double = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        url = double.stdout.readline().strip() if double.stdout else ""
        if not url:
            raise SystemExit("AWS's double did not start")
        with mock.patch.dict(os.environ, CREDENTIALS | {"AWS_ENDPOINT_URL": url}):
            yield Account(url)
    finally:
        double.terminate()
        double.communicate()


class AwsScene(CloudScene):
    """A fleet with a prefix."""

    def __init__(self, account: Account, prefix: str, keys: Mapping[str, KeyPolicy]) -> None:
        ledger = S3Ledger(account.aws.client("s3"), f"s3://{BUCKET}/{prefix}manifests")
        store = AwsStore(
            account.aws.client("secretsmanager"),
            account.aws.client("kms"),
            kms_key=account.key,
            prefix=prefix,
            ledger=ledger.address,
            actor="arn:aws:iam::123456789012:role/bench",
            pace=QUICK,
            sleep=time.sleep,
        )
        super().__init__(store, ledger, keys, prefix)
