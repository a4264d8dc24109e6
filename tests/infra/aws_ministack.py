"""The whole template on MiniStack, for all workers of a test run, from their start on: schedules take a minute to fire.

`begin` starts a process of its own, once for each run, which starts MiniStack and deploys two stacks there:

- `keys`, in an account that knows nothing of us: its first run makes the manifests;
- `older`, whose key is older than its policy allows, imported by a person: its first run rotates it.

It ends when the last worker has ended, however that ends: each holds a lock, on which it waits.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple
from unittest import mock

import botocore.session

from daena_kms import app
from daena_kms.material import KeyMaterial
from daena_kms.model import utc_now
from daena_kms.service import Service
from daena_kms.settings import read_settings
from tests.support.ministack import REGION, ROOT, MiniStack, variables, wait_for

from .aws_template import ROOT as CHECKOUT
from .aws_template import transformed
from .bundles import host_bundle

KEYS, OLDER = "keys", "older"
ORDERS, BY_HAND, LEDGER = "orders", "by-hand", "ledger"
POLICIES = {KEYS: (ORDERS, BY_HAND), OLDER: (LEDGER,)}
PREFIXES = {KEYS: "daena-", OLDER: "older-"}
IMPORTED = b"i" * 32
ARTIFACTS, BUNDLE = "artifacts", "aws.zip"
PARAMETERS = {
    "ScheduleExpression": "rate(1 minute)",
    "TickMinutes": "1",
    "FlexibleWindowMinutes": "0",
    "NoRunPeriodSeconds": "60",
}


class Credentials(NamedTuple):
    """In whose name a client speaks."""

    access_key: str
    secret_key: str
    token: str | None = None


AS_ROOT = Credentials(ROOT, ROOT)


class Place(NamedTuple):
    """Where MiniStack is."""

    url: str
    certificate: str

    def client(self, service: str, credentials: Credentials = AS_ROOT) -> Any:
        """A plain client."""
        return _client(self, service, credentials)

    def deployed(self, stack: str) -> Mapping[str, str]:
        """The physical id of each of a stack's resources."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        found = [resource for page in pages for resource in page["StackResourceSummaries"]]
        assert {resource["ResourceStatus"] for resource in found} == {"CREATE_COMPLETE"}
        return {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in found}

    def outputs(self, stack: str) -> Mapping[str, str]:
        """What a stack says of itself."""
        [found] = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}

    @contextmanager
    def service(self, stack: str, *, init: bool = False) -> Iterator[Service]:
        """What a person's command does there, with the settings that the function was deployed with."""
        function = self.client("lambda").get_function_configuration(FunctionName=stack)
        with mock.patch.dict(os.environ, variables(self.url, self.certificate)):
            settings = read_settings({**function["Environment"]["Variables"], "AWS_REGION": REGION})
            connection = app.connect(settings, trigger="test", writes=False, init=init)
            policy = app.load_policy(settings, connection.clouds)
            yield app.serve(connection, settings, policy, trigger="test", budget_seconds=None)


@cache
def _client(at: Place, service: str, credentials: Credentials) -> Any:
    session = botocore.session.Session()
    session.set_credentials(*credentials)
    return session.create_client(service, region_name=REGION, endpoint_url=at.url, verify=at.certificate)


# --- in the workers

_run: IO[str] | None = None
_supervisor: subprocess.Popen[bytes] | None = None


def folder() -> Path:
    """What this run's processes share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return Path(tempfile.gettempdir(), f"daena-ministack-{run}")


def begin() -> None:
    """Start it all, unless another worker has."""
    global _run, _supervisor  # noqa: PLW0603  # one for each process, from its collection to its end
    folder().mkdir(mode=0o700, exist_ok=True)
    _run = (folder() / "lock").open("w")
    fcntl.flock(_run, fcntl.LOCK_SH)
    try:
        (folder() / "begun").touch(exist_ok=False)
    except FileExistsError:
        return
    # It builds the bundle too, so what this machine needs to reach packages stays.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DAENA_"))}
    with (folder() / "log").open("w") as log:
        _supervisor = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder())],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def end() -> None:
    """This worker needs it no more. Whoever has started it waits until nobody does, and all is gone."""
    if _run is not None:
        _run.close()
    if _supervisor is not None:
        _supervisor.wait()


def place() -> Place:
    """Where MiniStack is, once the stacks are there."""
    ready, failed, log = (folder() / name for name in ("ready", "failed", "log"))

    def check() -> None:
        if failed.exists():
            raise RuntimeError(failed.read_text())
        if _supervisor is not None and _supervisor.poll() is not None:
            raise RuntimeError(log.read_text())

    wait_for("both stacks on MiniStack", ready.exists, check)
    return Place(*json.loads(ready.read_text()))


# --- in the process of its own


def main() -> None:
    """Deploy, tell where, and wait for the workers' end."""
    shared = Path(sys.argv[1])
    try:
        with MiniStack(shared) as server:
            found = Place(server.url, str(server.certificate))
            deploy(found)
            _tell(shared / "ready", json.dumps(found))
            _wait_for_the_workers(shared)
    except Exception:  # noqa: BLE001  # whatever it is, the workers' tests tell of it
        _tell(shared / "failed", traceback.format_exc())
        _wait_for_the_workers(shared)
    finally:
        shutil.rmtree(shared)


def _tell(path: Path, text: str) -> None:
    unseen = path.with_suffix(".new")
    unseen.write_text(text)
    unseen.rename(path)


def _wait_for_the_workers(shared: Path) -> None:
    with (shared / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def deploy(at: Place) -> None:
    """Both stacks, their policies, and what the older one had before."""
    s3, cloudformation = at.client("s3"), at.client("cloudformation")
    s3.create_bucket(Bucket=ARTIFACTS, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=ARTIFACTS, Key=BUNDLE, Body=(host_bundle().parent / "bundle.zip").read_bytes())
    body = json.dumps(transformed(artifact=f"s3://{ARTIFACTS}/{BUNDLE}"))
    for stack, prefix in PREFIXES.items():
        given = {**PARAMETERS, "KeyPrefix": prefix}
        cloudformation.create_stack(
            StackName=stack,
            TemplateBody=body,
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
    for stack, keys in POLICIES.items():
        wait_for(f"the stack {stack}", lambda stack=stack: _is_there(cloudformation, stack))  # type: ignore[misc]
        policy = "[defaults]\ncreate = true\n" + "".join(f"[keys.{key}]\n" for key in keys)
        bucket = at.outputs(stack)["BucketName"]
        s3.put_object(Bucket=bucket, Key="policy/daena-kms.toml", Body=policy.encode())
    with at.service(OLDER, init=True) as service:
        service.import_key(LEDGER, KeyMaterial(IMPORTED), created=utc_now() - timedelta(days=400))


def _is_there(cloudformation: Any, stack: str) -> bool:
    [found] = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    if found["StackStatus"].endswith("_IN_PROGRESS"):
        return False
    if found["StackStatus"] != "CREATE_COMPLETE":
        events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
        reasons = [(e["LogicalResourceId"], e.get("ResourceStatusReason")) for e in events]
        raise RuntimeError(f"{stack}: {found['StackStatus']}: {reasons}")
    return True


if __name__ == "__main__":
    main()
