"""A process that holds material leaves no core dump: asked of processes, and of one that dies."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import ctypes, resource
print(*resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
COMMAND = """
import sys
from daena_kms import cli
sys.argv = ["daena-key-rotate", "--version"]
cli.main()
"""
FUNCTION = """
from daena_kms.warm import Warm
Warm()
"""
DYING = """
import os
from daena_kms import dumps
dumps.forbid()
os.abort()
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")


def _run(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)


@linux
def test_a_process_may_be_dumped_unless_it_forbids_it(tmp_path: Path) -> None:
    assert _run(ASK, tmp_path).stdout.split()[-1] == "1"


@linux
@pytest.mark.parametrize("entry", [COMMAND, FUNCTION], ids=["command", "function"])
def test_what_holds_material_forbids_it(entry: str, tmp_path: Path) -> None:
    assert _run(entry + ASK, tmp_path).stdout.splitlines()[-1] == "0 0 0"


def test_a_process_that_dies_leaves_nothing(tmp_path: Path) -> None:
    ran = _run(DYING, tmp_path)
    assert ran.returncode == -signal.SIGABRT, ran.stderr
    assert list(tmp_path.iterdir()) == []
