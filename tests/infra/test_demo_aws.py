"""`make demo-aws`: it shows what it says, leaves nothing behind, and shows no material."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from examples import demo_aws
from examples.demo import run

from tests.cli.sandbox import leaked

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "examples.demo_aws"]
TIMEOUT_SECONDS = 120
KEYS = {"billing-archive-key": 2, "daena-encryption-key": 2, "session-signing-key": 1}
REFUSED = "http://127.0.0.1:9"  # the discard port: nobody listens there


class Demo(NamedTuple):
    """A demo that ran on a double of ours, which is still there."""

    account: demo_aws.Account
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with demo_aws.double(None) as url:
        # In a real account's environment: none of it may reach the demo's clients.
        environment = os.environ | {
            "AWS_PROFILE": "production",
            "AWS_SESSION_TOKEN": "of a real account",
            "AWS_ENDPOINT_URL_KMS": REFUSED,
            "HTTP_PROXY": REFUSED,
            "DAENA_HOME": "somewhere-else",
        }
        done = subprocess.run(
            [*DEMO, "--endpoint", url],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        keys = demo_aws.Account(url, "").client("kms").list_keys()["Keys"]
        yield Demo(demo_aws.Account(url, keys[0]["KeyArn"] if keys else ""), done.returncode, done.stdout, done.stderr)


LINES = (
    r"imported billing-archive-key, in use since \S+",
    r"daena-encryption-key  created  created: version 1 +does not exist yet",
    r"billing-archive-key   rotated  promoted: version 2; decrypt-only: 1 +version 1 is 312 days old, .*",
    r"metrics    KeysCreated 1, KeysRotated 1, KeysFailed 0, KeysOverdue 0",
    r"daena-encryption-key  not-due  not due until .*",
    r"daena-encryption-key  rotated  promoted: version 2; decrypt-only: 1  laptop lost",
    r"opened     version 2: 32 bytes, the same as `daena-key-rotate get … --reveal` has",
    r"opened     version 1: 32 bytes, the same as `daena-key-rotate get … --reveal` has",
    r"3 keys, 0 problems",
    r"s3://daena-kms-manifests/manifests/daena-encryption-key/00000004\.json +\d+ bytes",
    r"All of it worked, in \d+ s\. .*",
)


def test_it_works_and_shows_it(demo: Demo) -> None:
    assert (demo.status, demo.err) == (0, "")
    assert [line for line in LINES if not re.search(rf"^{line}$", demo.out, re.MULTILINE)] == []


def test_the_pages_show_what_it_prints(demo: Demo) -> None:
    printed = [neutral(line) for line in demo.out.splitlines()]
    for page in ("docs/aws.md", "README.md"):
        text = (ROOT / page).read_text()
        (shown,) = re.findall(r"^```console\n\$ make demo-aws\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        lines = [neutral(line) for line in shown.splitlines() if line and line != "…"]
        assert [line for line in lines if line not in printed] == [], page


def neutral(line: str) -> str:
    """A line without what differs from run to run: ids, hashes, ports, times, sizes, columns."""
    line = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{16}\b", "ID", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+", "N", line)).replace("N.N", "N")


def test_it_shows_no_material(demo: Demo) -> None:
    """Neither of the keys nor of those that sign the manifests. Each is opened here without any code of ours."""
    secrets = demo.account.client("secretsmanager")
    names = {demo_aws.PREFIX + key: number for key, number in KEYS.items()} | {"reserved--daena-manifest-keys": 1}
    for name, newest in names.items():
        for number in range(1, newest + 1):
            value = secrets.get_secret_value(SecretId=name, VersionStage=f"v{number}")["SecretString"]
            material = opened(demo.account, name, number, json.loads(value)["wrapped"])
            assert len(material) >= 32
            assert leaked(demo.out + demo.err, material) == []


def opened(account: demo_aws.Account, secret: str, number: int, wrapped: str) -> bytes:
    """What KMS opens."""
    context = {"daena-kms:key": secret, "daena-kms:number": str(number)}
    blob = base64.b64decode(wrapped)
    return bytes(account.client("kms").decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"])


def test_without_the_aws_cli_it_reads_with_boto3(demo: Demo) -> None:
    for stage, number in (("AWSCURRENT", 2), ("v1", 1)):
        material = demo_aws.open_with_boto3(demo.account, stage, number)
        ours = ["get", demo_aws.KEY, "--version", str(number), "--reveal", "--encoding", "raw"]
        assert material == run([demo_aws.COMMAND, *ours], demo.account).stdout


def test_an_aws_cli_that_does_not_run_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / "aws"
    dead.write_text("#!/bin/sh\nexit 127\n")
    dead.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert demo_aws.aws_cli() != str(dead)


def test_it_fails_where_no_double_is_empty(demo: Demo) -> None:
    status = demo_aws.main(["--endpoint", demo.account.url])
    assert status == 1


@pytest.mark.parametrize("address", ["https://kms.eu-west-1.amazonaws.com", "http://10.0.0.1:5000", "file:///etc", ""])
def test_it_refuses_whatever_is_not_on_loopback(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        demo_aws.main(["--endpoint", address])
    assert end.value.code == 2
    assert "is not on loopback" in capsys.readouterr().err


@pytest.mark.parametrize(("sent", "shown"), [(signal.SIGINT, r"^bucket"), (signal.SIGTERM, r"^took")])
def test_interrupted_it_stops_what_it_started(sent: signal.Signals, shown: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        DEMO,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        double = until(process.stdout.readline, r"^double +(\S+): ")
        until(process.stdout.readline, shown)
        # Ctrl-C reaches every process of the group, `kill` that one.
        (os.killpg if sent is signal.SIGINT else os.kill)(process.pid, sent)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (130, "interrupted; everything that was started is stopped\n")
    assert not listens(double[1])
    assert list(tmp_path.iterdir()) == []


def until(line: Callable[[], str], wanted: str) -> re.Match[str]:
    """The first line that fits."""
    while text := line():
        if found := re.search(wanted, text):
            return found
    raise AssertionError(f"no line {wanted}")


def listens(url: str) -> bool:
    """True if anybody answers there."""
    parts = urlsplit(url)
    with socket.socket() as asking:
        return asking.connect_ex((parts.hostname, parts.port)) == 0
