"""A folder in which a test runs the command, inside this process or in one of its own.

Inside: quick, with a clock that can be moved. In its own process: what only a process has, streams and statuses.
"""

import base64
import gc
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daena_kms import app, cli

COMMAND = Path(sys.executable).with_name("daena-key-rotate")
TIMEOUT_SECONDS = 30

KEY = "daena-encryption-key"
BILLING = "billing-key"
YOUNG = "session-key"
POLICY = """
[defaults]
destroy_after_days = 7

[keys.daena-encryption-key]
create = true

[keys.billing-key]

[keys.session-key]
create = true
spec = 48
"""

# Imported as the first version of BILLING. 32 bytes that can be seen in any output they leak into.
CANARY = b"canary that sings when it leaks!"


def _base64_cores(secret: bytes) -> set[str]:
    """What base64 of `secret` looks like inside base64 of something longer, at each of its three alignments."""
    cores = set()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret).decode()
        cores.add(encoded[4 * (shift > 0) : -4])
    return cores


def forms(secret: bytes) -> set[str]:
    """Everything that key material may look like in text."""
    return {
        secret.decode("latin-1"),
        secret.hex(),
        secret.hex().upper(),
        repr(secret)[2:-1],
        str(list(secret))[1:-1],
        *_base64_cores(secret),
    }


def leaked(text: str, secret: bytes) -> list[str]:
    """The forms of `secret` that occur in `text`."""
    return sorted(form for form in forms(secret) if form in text)


class Result(NamedTuple):
    """What one call of the command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)

    def lines(self, start: str) -> list[str]:
        """The lines of standard error that start so."""
        return [line for line in self.err.splitlines() if line.startswith(start)]


class Sandbox:
    """A working folder with a policy; its vault and manifests are in `.kms` beside it."""

    def __init__(self, folder: Path, *, policy: str = POLICY, days: float = 0) -> None:
        self.folder = folder
        self.days = days
        """How far the clock of runs inside this process is from the real one."""
        self.before_process: Callable[[], None] | None = None
        """What a process of its own does first: set itself a limit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_policy(policy)

    @property
    def home(self) -> Path:
        return self.folder / ".kms"

    @property
    def vault(self) -> Path:
        return self.home / "vault.db"

    def write_policy(self, text: str) -> None:
        (self.folder / "daena-kms.toml").write_text(text)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)

    def day(self, back: int) -> str:
        """A date so many days ago, as `--created` takes it."""
        return f"{self.now() - timedelta(days=back):%Y-%m-%dT%H:%M}"

    def entry(self, key: str, sequence: int) -> Path:
        """The file of one manifest entry."""
        return self.home / "manifests" / key / f"{sequence:08d}.json"

    def copy(self, folder: Path) -> "Sandbox":
        """The same, somewhere else."""
        shutil.copytree(self.folder, folder)
        return Sandbox(folder, policy=(folder / "daena-kms.toml").read_text(), days=self.days)

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        """Call the command inside this process. `stdin` is bytes as Latin-1 has them."""
        out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("DAENA_", "_DAENA_"))]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["daena-key-rotate", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("latin-1"))))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(app, "utc_now", self.now)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                status = _exit_status(cli.main)
                gc.collect()  # what a process leaves to its end: closing vault and files
        return Result(status, _text(out), _text(err))

    def done(self, *arguments: str, **environment: str) -> Result:
        """Call the command; it must succeed."""
        result = self.run(*arguments, **environment)
        assert result.status == 0, result
        return result

    def process(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        """Call the installed command in a process of its own, its streams in pipes."""
        done = subprocess.run(
            [str(COMMAND), *arguments],
            input=stdin.encode("latin-1"),
            capture_output=True,
            check=False,
            cwd=self.folder,
            env=environment_with(environment),
            timeout=TIMEOUT_SECONDS,
            preexec_fn=self.before_process,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def digest(self) -> dict[str, str]:
        """Every file and folder there is, by content. Write-ahead logs too: a change may lie in one."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in sorted(self.folder.rglob("*"))
        }


def environment_with(wanted: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of ours, plus what is wanted."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DAENA_", "_DAENA_")) and name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    return kept | dict(wanted)


def lived_in(folder: Path) -> Sandbox:
    """A vault with a past: KEY has versions 1 and 2; BILLING has 1 (the canary, long past its grace), 2 and 3."""
    sandbox = Sandbox(folder, days=-200)
    (folder / "canary").write_bytes(CANARY)
    sandbox.done("import", BILLING, "--from", "canary", "--created", sandbox.day(30))
    (folder / "canary").unlink()
    for days in (-120, -20):
        sandbox.days = days
        sandbox.done("rotate")
    sandbox.days = 0
    return sandbox


def _exit_status(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("utf-8", "backslashreplace")
