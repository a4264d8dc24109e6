"""An account of AWS's double in a process of its own, and fleets on it: the real AWS store and the real S3 ledger."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

from daena_kms import trust
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.model import Status, utc_now
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from daena_kms.stores.aws import AwsStore
from daena_kms.stores.aws_calls import Aws
from daena_kms.stores.aws_ledger import S3Ledger

from ..support.aws_world import BUCKET, CREDENTIALS, REGION
from ..support.worlds import LEASE, Clock
from .processes import ROOT
from .scene import check

SERVICES = ("secretsmanager", "kms", "s3", "sts")
CALL_TIMEOUT = timedelta(seconds=30)
MOST_AT_ONCE = 16
EVERY_KEY = Order()


class Account:
    """An empty account of the double, clients for it, and what they send, counted at the wire."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.aws = Aws(region=REGION, profile="", call_timeout=CALL_TIMEOUT, concurrency=MOST_AT_ONCE)
        self.key = str(self.aws.client("kms").call("create_key", "a key")["KeyMetadata"]["Arn"])
        location = {"LocationConstraint": REGION}
        self.aws.client("s3").call("create_bucket", BUCKET, Bucket=BUCKET, CreateBucketConfiguration=location)
        self.sent: list[str] = []
        for service in SERVICES:
            self.count(self.aws.client(service)._client)

    def count(self, client: object) -> None:
        """Count what a client of botocore sends from now on: each attempt, by service and operation."""
        client.meta.events.register("before-send", self._sending)  # type: ignore[attr-defined]

    def _sending(self, event_name: str, **_: object) -> None:
        self.sent.append(event_name.removeprefix("before-send."))  # many threads may: unlike adding, this is atomic

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """What is sent inside, to be read afterwards."""
        before, seen = len(self.sent), Counter[str]()
        yield seen
        seen.update(self.sent[before:])


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


class AwsScene:
    """A fleet with a prefix, a ledger and a clock of its own, built as a function builds it."""

    def __init__(self, account: Account, prefix: str, keys: Mapping[str, KeyPolicy]) -> None:
        self.account = account
        self.clock = Clock(utc_now())
        self.ledger = S3Ledger(account.aws.client("s3"), f"s3://{BUCKET}/{prefix}manifests")
        self.store = AwsStore(
            account.aws.client("secretsmanager"),
            account.aws.client("kms"),
            kms_key=account.key,
            prefix=prefix,
            ledger=self.ledger.address,
            actor="arn:aws:iam::123456789012:role/bench",
            sleep=time.sleep,
        )
        self.prefix = prefix
        self.policy = RotationPolicy(keys, "bench")
        trust.initialise(self.store, self.ledger, clock=self.clock, trigger="bench")
        self.keyring = trust.open_keyring(self.store, self.ledger)

    def service(self, concurrency: int = 1) -> Service:
        """What a tick makes anew."""
        journal = Journal(self.ledger, self.keyring, clock=self.clock, actor=self.store.actor, trigger="bench")
        tools = Tools(self.store, journal, self.clock, LEASE, CALL_TIMEOUT, self.policy.digest)
        limits = Limits(concurrency)
        return Service(tools, self.policy, tick=Tick(), limits=limits, monotonic=time.monotonic, prefix=self.prefix)

    def create(self, concurrency: int = 1) -> float:
        """Make every key of the policy; the seconds."""
        return self.tick(concurrency, Status.CREATED)

    def rotate(self, concurrency: int = 1, order: Order = EVERY_KEY) -> float:
        """A tick when every key is due (or the order forces some); its seconds."""
        if not order.force:
            self.clock.move(days=max(policy.rotate_after_days for policy in self.policy.keys.values()))
        return self.tick(concurrency, Status.ROTATED, order)

    def tick(self, concurrency: int, expected: Status, order: Order = EVERY_KEY) -> float:
        """A tick that must end the same for each key; its seconds."""
        service = self.service(concurrency)
        started = time.perf_counter()
        report = service.rotate(order)
        seconds = time.perf_counter() - started
        check(report, expected)
        return seconds
