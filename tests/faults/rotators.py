"""Rotating processes by the hundred: one that imports everything once and forks another for each.

    python -m tests.faults.rotators STORE

takes orders on stdin and tells on stdout what became of the processes, a line of JSON each. It makes no client and has
one thread, so that what it forks is as a process that has just imported all it needs. When stdin ends, so do all its
processes, and it. `Rotators` is the campaign's side of that.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from . import rotating
from .rotating import Job
from .watcher import die_with

IMPORTED = {
    "local": ("daena_kms.stores.local",),
    "aws": ("daena_kms.stores.aws", "daena_kms.stores.aws_ledger", "botocore.session"),
    "azure": (
        "daena_kms.stores.azure",
        "daena_kms.stores.azure_ledger",
        "azure.identity",
        "azure.keyvault.secrets",
        "azure.storage.blob",
    ),
    "gcp": (
        "daena_kms.stores.gcp",
        "daena_kms.stores.gcp_ledger",
        "google.cloud.secretmanager_v1",
        "google.cloud.storage",
    ),
}
ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120.0


class News(NamedTuple):
    """What became of a process."""

    what: str
    """stopped, killed or ended."""
    status: int = 0
    """Of one that ended."""


class TooLongError(Exception):
    """A process neither ended nor stopped in time."""


# --- the campaign's side


class Rotators:
    """Starts rotating processes, and hears of them."""

    def __init__(self, provider: str, environment: Mapping[str, str]) -> None:
        """`environment`: of the process that forks. What is in a job's comes in its place."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.rotators", provider],
            cwd=ROOT,
            env={**environment, "GRPC_ENABLE_FORK_SUPPORT": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the campaign, which ends this one
        )
        self._news: dict[int, deque[News]] = defaultdict(deque)
        self._buffer = b""
        self._last = 0

    def start(self, job: Job) -> int:
        """A process that does this ; what it is called here."""
        self._last += 1
        self._tell({"run": self._last, "job": msgspec.to_builtins(job)})
        return self._last

    def signal(self, process: int, which: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        self._tell({"signal": int(which), "to": process})

    def wait(self, process: int, seconds: float = TIMEOUT_SECONDS) -> News:
        """The next thing that happens to it. Raises TooLongError, and kills it, if nothing does."""
        until = time.monotonic() + seconds
        while not self._news[process]:
            self._listen(until - time.monotonic(), process)
        return self._news[process].popleft()

    def heard(self, process: int, seconds: float) -> News | None:
        """The same; None if nothing happens for so long."""
        until = time.monotonic() + seconds
        while not self._news[process]:
            left = until - time.monotonic()
            if left <= 0 or not self._read(left):
                return None
        return self._news[process].popleft()

    def run(self, job: Job) -> News:
        """A process from its start to the next thing that happens to it."""
        return self.wait(self.start(job))

    def _tell(self, order: Mapping[str, object]) -> None:
        if self._server.stdin is None:
            raise AssertionError("it has a pipe")
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()

    def _listen(self, seconds: float, process: int) -> None:
        if seconds <= 0 or not self._read(seconds):
            self.signal(process, signal.SIGKILL)
            raise TooLongError(f"process {process} neither ended nor stopped")

    def _read(self, seconds: float) -> bool:
        """Hear what there is to be heard; False if there is nothing for so long."""
        if self._server.stdout is None:
            raise AssertionError("it has a pipe")
        descriptor = self._server.stdout.fileno()
        if not select.select([descriptor], [], [], seconds)[0]:
            return False
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            raise RuntimeError(f"the process that forks has ended with {self._server.wait()}")
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self._news[told["process"]].append(News(told["what"], told["status"]))
        return True

    def close(self) -> None:
        """End it, and every process that is left."""
        with suppress(OSError):
            self._server.stdin and self._server.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(10)
        self._server.kill()
        self._server.wait()
        if self._server.stdout:
            self._server.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()


# --- the process that forks


class Forks:
    """The living processes, by their ids and by what the campaign calls them."""

    def __init__(self) -> None:
        self._ids: dict[int, int] = {}
        self._names: dict[int, int] = {}
        self._mine = os.getpid()

    def serve(self) -> None:
        """Do what is asked until stdin ends."""
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        buffer = b""
        while True:
            ready = select.select([0, woken], [], [])[0]
            if woken in ready:
                with suppress(BlockingIOError):
                    os.read(woken, 1 << 16)
                self._reap()
            if 0 in ready:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    return
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    self._do(json.loads(line))

    def end(self) -> None:
        """Kill all that is left."""
        for pid in self._names:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self._names):
            os.waitpid(pid, 0)

    def _do(self, order: Mapping[str, Any]) -> None:
        if "signal" in order:
            if order["to"] in self._ids:  # not reaped yet: the id is still its own
                os.kill(self._ids[order["to"]], order["signal"])
            return
        pid = os.fork()
        if not pid:
            self._be(order["job"])
        self._ids[order["run"]], self._names[pid] = pid, order["run"]

    def _be(self, order: Mapping[str, Any]) -> None:
        """Be the new process. Does not return."""
        status = 70
        try:
            die_with(self._mine)
            signal.set_wakeup_fd(-1)
            for which in (signal.SIGCHLD, signal.SIGINT):
                signal.signal(which, signal.SIG_DFL)
            job = msgspec.convert(order, Job)
            for descriptor, kind in ((1, ".out"), (2, ".err")):
                opened = os.open(job.said + kind, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.chdir(Path(job.said).parent)
            status = rotating.run(job)
        except BaseException:  # noqa: BLE001  # nothing of the process that forks may run in this one
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._names:
            pid, how = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if os.WIFSTOPPED(how):
                self._say(self._names[pid], "stopped", 0)
                continue
            process = self._names.pop(pid)
            del self._ids[process]
            killed = os.WIFSIGNALED(how)
            self._say(process, "killed" if killed else "ended", 0 if killed else os.WEXITSTATUS(how))

    @staticmethod
    def _say(process: int, what: str, status: int) -> None:
        line = json.dumps({"process": process, "what": what, "status": status}).encode() + b"\n"
        os.write(1, line)  # shorter than PIPE_BUF: all or nothing


def main(provider: str) -> None:
    """Import everything that a process for that store needs, then fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in IMPORTED[provider]:
        importlib.import_module(module)
    if threading.active_count() != 1 or len(list(Path("/proc/self/task").iterdir())) != 1:
        raise RuntimeError("something that was imported has begun a thread: what is forked would lack it")
    gc.collect()
    gc.freeze()
    forks = Forks()
    try:
        forks.serve()
    finally:
        forks.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
