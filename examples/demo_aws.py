"""All of AWS on this machine, without an account: `make demo-aws`.

    python -m examples.demo_aws [--endpoint URL]

Starts the strict double of Secrets Manager, KMS and S3 as a process of its own, makes there what the template makes,
runs the function's archive in Amazon's own runtime client with the scheduler's event and with one by hand, and reads a
key back as an application would: with the AWS CLI where one works, otherwise with boto3. Everything is on loopback and
stopped in the end; of the working tree only build/ is written to.

Exit status: 0 all of it worked, 1 something did not, 130 interrupted.
"""

import argparse
import base64
import hmac
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from examples.demo import (
    INTERRUPTED,
    DemoError,
    Environment,
    environment,
    interrupt,
    run,
    say,
    table,
    title,
    unpacked,
    workplace,
)
from infra.bundle import BUNDLES, ROOT, TARGETS, BundleError, build, for_host
from tests.support.lambda_runtime import Function, Kind, Result

REGION, BUCKET, PREFIX = "eu-west-1", "daena-kms-manifests", "daena-"
POLICY = "examples/daena-kms.toml"
EVENTS = "functions/aws_lambda/events"
KEY = "daena-encryption-key"
SECRET = PREFIX + KEY
COMMAND = Path(sys.executable).with_name("daena-key-rotate")
AWS_CLI = ROOT / ".venv/tools/awscli/bin/aws"
NO_ACCOUNT = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

Opener = Callable[[str, int], bytes]
"""Opens what a staging label shows; the number is the version's."""


class Account(NamedTuple):
    """Where the double listens, and the KMS key that was made there."""

    url: str
    kms_key: str

    @property
    def credentials(self) -> Environment:
        """What any AWS client needs to work with the double, and with nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            **NO_ACCOUNT,
        }

    @property
    def settings(self) -> Environment:
        """The function's environment, as the template sets it."""
        return self.credentials | {
            "AWS_KMS_KEY_ID": self.kms_key,
            "DAENA_CLOUD_KMS_PROVIDER": "aws",
            "DAENA_KEY_PREFIX": PREFIX,
            "DAENA_MANIFEST_URL": f"s3://{BUCKET}/manifests",
            "DAENA_POLICY": f"s3://{BUCKET}/policy/daena-kms.toml",
            "POWERTOOLS_SERVICE_NAME": "daena-kms",
            "POWERTOOLS_METRICS_NAMESPACE": "DaenaKms",
        }

    def client(self, service: str) -> Any:
        """A plain client, as any application has it."""
        return boto3.Session(aws_access_key_id="demo", aws_secret_access_key="demo", region_name=REGION).client(  # noqa: S106
            service, endpoint_url=self.url, config=Config(retries={"total_max_attempts": 2}, proxies={})
        )


# --- the account


@contextmanager
def no_account() -> Iterator[None]:
    """Take out of this process whatever could lead its AWS clients to a real account."""
    taken = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("AWS_")}
    os.environ |= NO_ACCOUNT
    try:
        yield
    finally:
        for name in NO_ACCOUNT:
            del os.environ[name]
        os.environ |= taken


@contextmanager
def double(endpoint: str | None) -> Iterator[str]:
    """The address of the AWS double: started here, unless one is named."""
    if endpoint:
        yield endpoint
        return
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "tests.support.strict_moto"],
            cwd=ROOT,
            env=environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
        )
        try:
            yield first_line(process)
        finally:
            process.kill()
            process.communicate()


def first_line(process: "subprocess.Popen[str]") -> str:
    """The address that the double prints once it listens."""
    line = process.stdout.readline().strip() if process.stdout else ""
    if not line:
        raise DemoError("the AWS double did not start", "`python -m tests.support.strict_moto` says why")
    return line


def make_account(url: str) -> Account:
    """Make what the template makes and the rotation needs: a KMS key, a versioned bucket, the policy file in it."""
    empty = Account(url, "")
    key = str(empty.client("kms").create_key(Description="wraps the material")["KeyMetadata"]["Arn"])
    s3 = empty.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=BUCKET, Key="policy/daena-kms.toml", Body=(ROOT / POLICY).read_bytes())
    return Account(url, key)


def import_old_keys(account: Account) -> None:
    """The two keys of the example that are older than daena-kms itself."""
    done = run([sys.executable, "-B", ROOT / "examples" / "prepare.py"], account)
    print(done.stderr.decode().strip(), flush=True)


# --- the function


def event(name: str, **changed: str) -> dict[str, Any]:
    """One of the events that lie beside the function, some of it changed."""
    loaded: dict[str, Any] = json.loads((ROOT / EVENTS / name).read_text())
    return loaded | changed


def invoke(function: Function, body: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    """Have the function answer an event, show its report, and hold it against what every key should have come to."""
    started = time.monotonic()
    result = function.invoke(body)
    if result.kind is not Kind.RESPONSE:
        told = result.payload or {}
        raise DemoError(f"the function failed: {told.get('errorType')}: {told.get('errorMessage') or result.stderr}")
    outcomes = result.payload["outcomes"]
    table([(o["key"], o["status"], o["message"], o.get("why", "")) for o in outcomes])
    say("metrics", ", ".join(f"{name} {value:g}" for name, value in metrics(result)))
    say("took", f"{time.monotonic() - started:.1f} s, {'cold' if result.cold else 'warm'}")
    got = {o["key"]: o["status"] for o in outcomes}
    if got != dict(expected):
        raise DemoError(f"the report should say {dict(expected)}, it says {got}")


def metrics(result: Result) -> Iterable[tuple[str, float]]:
    """The figures that the function hands to CloudWatch in its log."""
    for line in result.lines:
        if "_aws" in line:
            yield from ((name, line[name][0]) for name in ("KeysCreated", "KeysRotated", "KeysFailed", "KeysOverdue"))


# --- an application


def aws_cli() -> str:
    """An AWS CLI that works: the one on the PATH, or the one that `make test` installs; empty if there is none."""
    for found in (shutil.which("aws"), shutil.which(AWS_CLI)):
        if found:
            tried = subprocess.run([found, "--version"], env=environment({}), capture_output=True, check=False)  # noqa: S603
            if tried.returncode == 0:
                return found
    return ""


def context(number: int) -> dict[str, str]:
    """The encryption context, from the name that was asked for."""
    return {"daena-kms:key": SECRET, "daena-kms:number": str(number)}


def open_with_cli(cli: str, account: Account, stage: str, number: int) -> bytes:
    """With the AWS CLI, as a person would. Shows the commands."""
    bound = ",".join(f"{name}={value}" for name, value in context(number).items())
    get = f"secretsmanager get-secret-value --secret-id {SECRET} --version-stage {stage}"
    value = "--query SecretString --output text"
    decrypt = "kms decrypt --ciphertext-blob fileb:///dev/stdin --query Plaintext --output text"
    print(f"$ aws {get} \\\n      {value} | jq -r .wrapped | base64 -d |", flush=True)
    print(f"    aws {decrypt} \\\n      --encryption-context {bound} | base64 -d", flush=True)
    # Old ones do not know AWS_ENDPOINT_URL, and would ask the real AWS.
    here = ["--endpoint-url", account.url]
    envelope = json.loads(run([cli, *f"{get} {value}".split(), *here], account).stdout)
    command = [cli, *f"{decrypt} --encryption-context {bound}".split(), *here]
    return base64.b64decode(run(command, account, stdin=base64.b64decode(envelope["wrapped"])).stdout)


def open_with_boto3(account: Account, stage: str, number: int) -> bytes:
    """With boto3, as any application would."""
    print(f"get_secret_value(SecretId={SECRET!r}, VersionStage={stage!r}), then decrypt(…)", flush=True)
    value = account.client("secretsmanager").get_secret_value(SecretId=SECRET, VersionStage=stage)["SecretString"]
    wrapped = base64.b64decode(json.loads(value)["wrapped"])
    opened = account.client("kms").decrypt(
        CiphertextBlob=wrapped, KeyId=account.kms_key, EncryptionContext=context(number)
    )
    return bytes(opened["Plaintext"])


def read_back(opener: Opener, account: Account) -> None:
    """Open both versions of the key from outside, and hold each against what our own command has. Shows no material."""
    opened = {}
    for stage, number in (("AWSCURRENT", 2), ("v1", 1)):
        material = opened[number] = opener(stage, number)
        ours = [str(COMMAND), "get", KEY, "--version", str(number), "--reveal", "--encoding", "raw"]
        if not hmac.compare_digest(material, run(ours, account).stdout):
            raise DemoError(f"version {number} of {KEY} is not what `daena-key-rotate get --reveal` has")
        say("opened", f"version {number}: {len(material)} bytes, the same as `daena-key-rotate get … --reveal` has")
    if hmac.compare_digest(opened[1], opened[2]):
        raise DemoError(f"versions 1 and 2 of {KEY} are the same")
    say("and", "the two are not the same: it was rotated, and what was encrypted before can still be read")


# --- the evidence


def show_evidence(account: Account) -> None:
    """Verify manifests against store, and list what lies in the bucket."""
    print("$ daena-key-rotate verify")
    print(run([COMMAND, "verify"], account).stdout.decode().strip(), flush=True)
    pages = account.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    objects = [found for page in pages for found in page["Contents"]]
    say("bucket", f"holds {len(objects)} objects now")
    table([(f"s3://{BUCKET}/{found['Key']}", f"{found['Size']} bytes") for found in objects])


# --- all of it


def demo(endpoint: str | None) -> None:
    """The steps, in order. Whatever was started is ended, however this ends."""
    with double(endpoint) as url:
        title("An AWS account on this machine")
        account = make_account(url)
        say("double", f"{account.url}: Secrets Manager, KMS and S3, as strict as AWS; nothing leaves this machine")
        say("KMS key", account.kms_key)
        say("bucket", f"s3://{BUCKET}, versioned; its policy/daena-kms.toml is {POLICY}")
        bundle = build(for_host(TARGETS["aws"]), ROOT / BUNDLES / "aws-host.zip", ROOT)
        where = os.path.relpath(bundle.path, ROOT)
        say("function", f"{where}, {bundle.size / 1e6:.1f} MB, run by awslambdaric as in Lambda")
        title("Two keys that are older than daena-kms")
        import_old_keys(account)
        with unpacked(bundle.path) as folder, Function(folder, "handler.lambda_handler", account.settings) as function:
            run_function(function)
        cli = aws_cli()
        title(f"An application reads {KEY} with {'the AWS CLI' if cli else 'boto3 (no AWS CLI works here)'}")
        read_back(
            lambda stage, number: (
                open_with_cli(cli, account, stage, number) if cli else open_with_boto3(account, stage, number)
            ),
            account,
        )
        title("The evidence")
        show_evidence(account)


def run_function(function: Function) -> None:
    """A tick, another one, and a rotation by hand."""
    title(f"The scheduler's tick: {EVENTS}/scheduler.json")
    first = {"billing-archive-key": "rotated", KEY: "created", "session-signing-key": "not-due"}
    invoke(function, event("scheduler.json"), first)
    title("The next tick")
    invoke(function, event("scheduler.json"), dict.fromkeys(first, "not-due"))
    title(f"By hand, {KEY} alone: {EVENTS}/rotate-now.json")
    invoke(function, event("rotate-now.json", request_id=f"demo-{time.time_ns()}"), {KEY: "rotated"})


def loopback(text: str) -> str:
    """An address on this machine; any other is refused, for the demo makes keys and buckets there."""
    parts = urlsplit(text)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise argparse.ArgumentTypeError(f"{text!r} is not on loopback, as http://127.0.0.1:5000 is")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo_aws", description="Try daena-kms on AWS, without AWS."
    )
    parser.add_argument("--endpoint", type=loopback, help="an AWS double that runs already, and stays")
    asked = parser.parse_args(arguments)
    started = time.monotonic()
    # A thread of the Runtime API complains when the function's process is ended while a connection is open.
    complaints = io.StringIO()
    try:
        with workplace(), no_account(), redirect_stderr(complaints):
            demo(asked.endpoint)
    except (DemoError, BundleError) as problem:
        print(complaints.getvalue(), end="", file=sys.stderr)
        hint = f"\nhint: {problem.hint}" if problem.hint else ""
        print(f"error: {problem.message}{hint}", file=sys.stderr)
        return 1
    except (ClientError, BotoCoreError) as problem:
        print(f"error: {problem}\nhint: is it an empty AWS double that listens there?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started is stopped", file=sys.stderr)
        return INTERRUPTED
    print(f"\nAll of it worked, in {time.monotonic() - started:.0f} s. Everything that was started is stopped.")
    return 0


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, interrupt)
    sys.exit(main())
