"""`make demo-gcp`: it shows what it says, in whatever environment, leaves nothing behind, and shows no material."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from examples import demo_gcp

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "examples.demo_gcp"]
TIMEOUT_SECONDS = 180
REFUSED = "http://127.0.0.1:9"  # the discard port: nobody listens there
# A real project's environment: none of it may reach the demo's clients.
ELSEWHERE = {
    "GOOGLE_APPLICATION_CREDENTIALS": "/of/a/real/account.json",
    "GOOGLE_CLOUD_PROJECT": "a-real-project",
    "GCP_PROJECT_ID": "a-real-project",
    "GCE_METADATA_HOST": "127.0.0.1:9",
    "CLOUDSDK_CONFIG": "/of/a/real/account",
    "CLOUDSDK_CORE_PROJECT": "a-real-project",
    "STORAGE_EMULATOR_HOST": REFUSED,
    "HTTP_PROXY": REFUSED,
    "http_proxy": REFUSED,
    "HTTPS_PROXY": REFUSED,
    "DAENA_HOME": "somewhere-else",
}
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
    r"gs://manifests-1/manifests/daena-encryption-key/00000004\.json +\d+ bytes",
    r"All of it worked, in \d+ s\. .*",
)


@pytest.fixture(scope="module")
def done() -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        DEMO, cwd=ROOT, env=os.environ | ELSEWHERE, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )


def test_it_works_and_shows_it(done: "subprocess.CompletedProcess[str]") -> None:
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [line for line in LINES if not re.search(rf"^{line}$", done.stdout, re.MULTILINE)] == []


def test_gcloud_reads_it_too_where_it_is_installed(done: "subprocess.CompletedProcess[str]") -> None:
    commands = re.findall(r"^\$ gcloud secrets versions access (\d) --secret=daena-", done.stdout, re.MULTILINE)
    assert commands == (["2", "1"] if shutil.which("gcloud") else [])


def test_a_gcloud_that_does_not_run_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / "gcloud"
    dead.write_text("#!/bin/sh\nexit 127\n")
    dead.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert demo_gcp.gcloud() == ""


def test_it_stays_on_this_machine(done: "subprocess.CompletedProcess[str]") -> None:
    assert set(re.findall(r"https?://([^/:\s]+)", done.stdout)) == {"127.0.0.1"}


def test_it_shows_no_material_and_no_token(done: "subprocess.CompletedProcess[str]") -> None:
    assert re.findall(r"\b[A-Za-z0-9+/]{42,}={0,2}(?=\s|$)", done.stdout.replace("/", " ")) == []
    assert "ya29." not in done.stdout


def test_it_takes_no_arguments() -> None:
    told = subprocess.run([*DEMO, "--wat"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2


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
        doubles = until(process.stdout.readline, r"^storage +(\S+): ")
        until(process.stdout.readline, shown)
        started = descendants(process.pid)
        # Ctrl-C reaches every process of the group, `kill` that one.
        (os.killpg if sent is signal.SIGINT else os.kill)(process.pid, sent)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (130, "interrupted; everything that was started is stopped\n")
    assert started
    assert [pid for pid in started if runs(pid)] == []
    assert not listens(doubles[1])
    assert list(tmp_path.iterdir()) == []


def until(line: Callable[[], str], wanted: str) -> re.Match[str]:
    """The first line that fits."""
    while text := line():
        if found := re.search(wanted, text):
            return found
    raise AssertionError(f"no line {wanted}")


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs: the server's worker is one."""
    children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return children.union(*map(descendants, children))


def runs(pid: int) -> bool:
    """False of one that has ended, also while nobody has asked yet how: the server's worker has lost its parent."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def listens(url: str) -> bool:
    """True if anybody answers there."""
    parts = urlsplit(url)
    with socket.socket() as asking:
        return asking.connect_ex((parts.hostname, parts.port)) == 0


USE = """
from daena_kms import open_service, read_settings
open("daena-kms.toml", "w").write("[keys.a-key]")
print(open_service(read_settings(), trigger="test", init=True).initialised is not None)
"""


def test_the_doubles_start_alone_as_one_program_that_a_shell_can_use(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.strict_gcp"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        first, *lines = iter(program.stdout.readline, "# ready\n")
        told = subprocess.run(
            ["/bin/sh", "-c", "".join(lines) + f"{sys.executable} -c '{USE}'"],
            cwd=tmp_path,
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
        )
        program.kill()
    assert re.fullmatch(r"127\.0\.0\.1:\d+\n", first)
    assert (told.returncode, told.stdout) == (0, "True\n"), told.stderr
