"""`make demo-azure`: it shows what it says, in whatever environment, leaves nothing behind, and shows no material."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "examples.demo_azure"]
REFUSED = "http://127.0.0.1:9"  # the discard port: nobody listens there
# A real subscription's environment: none of it may reach the demo's clients.
ELSEWHERE = {
    "AZURE_CLIENT_ID": "of a real application",
    "AZURE_TENANT_ID": "of a real tenant",
    "AZURE_KEY_VAULT_URL": "https://real.vault.azure.net",
    "IDENTITY_ENDPOINT": REFUSED,
    "DAENA_HOME": "somewhere-else",
}


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.fixture(scope="module")
def done() -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        DEMO, cwd=ROOT, env=os.environ | ELSEWHERE, capture_output=True, text=True, check=False, timeout=120
    )


def test_all_of_it_works(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "All of it worked" in done.stdout
    assert "3 keys, 0 problems" in done.stdout
    assert done.stdout.count("the same as `daena-key-rotate get … --reveal` has") == 2


def test_it_stays_on_this_machine(done: "subprocess.CompletedProcess[str]") -> None:
    hosts = set(re.findall(r"https?://([^/:\s]+)", done.stdout))
    assert hosts == {"127.0.0.1"}


def test_it_shows_no_material_and_no_token(done: "subprocess.CompletedProcess[str]") -> None:
    assert re.findall(r"\b[A-Za-z0-9+/]{42,}={0,2}(?=\s|$)", done.stdout.replace("/", " ")) == []
    assert "eyJ" not in done.stdout


def test_it_takes_no_arguments() -> None:
    told = subprocess.run([*DEMO, "--wat"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2


def test_interrupted_it_ends_what_it_started() -> None:
    process = subprocess.Popen(DEMO, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if process.stdout is None:
        raise AssertionError("it is a pipe")
    while "identity" not in process.stdout.readline():
        pass
    started = children(process.pid)
    assert len(started) == 2, "the vault and Azurite"
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything that was started is stopped" in complaint
    assert [pid for pid in started if Path(f"/proc/{pid}/cmdline").exists()] == []
