"""What a rotating process does: the command itself, with a clock of the campaign's, and signals at chosen boundaries.

A boundary is a moment right before or right after a call to the store or to the ledger, reads included; they are
counted from 1. A process is killed by itself there, with SIGKILL, or stopped, with SIGSTOP. The world's clock is the
real one plus what a file says, the same for all processes, and which the campaign moves; a process's own clock may be
off by some seconds besides. It keeps to no service's quota of writes a minute, for the doubles have none.
"""

import inspect
import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

from msgspec import Struct

from daena_kms import app, cli
from daena_kms.commands import base, keys
from daena_kms.model import utc_now
from daena_kms.stores.pace import Pace

_SECONDS = struct.Struct("d")
_ASIDE = frozenset({"close", "where"})  # nothing of the store's or the ledger's happens there


class Job(Struct, frozen=True):
    """One process."""

    arguments: list[str]
    """Of `daena-key-rotate`."""
    said: str
    """Where its output goes: this name with .out, .err and, for the boundaries it came to, .way."""
    environment: dict[str, str]
    clock: str
    """The file with how many seconds the world's clock is ahead."""
    skew: float = 0.0
    """Seconds that its own clock is ahead of the world's."""
    trigger: str = base.TRIGGER
    die_at: int = 0
    """The boundary at which it is killed; 0 for none."""
    stop_at: tuple[int, ...] = ()
    """Boundaries at which it is stopped."""


class Clock:
    """The world's clock, shared with all processes through a file."""

    def __init__(self, file: Path) -> None:
        """`file` is made if it is not there."""
        self.file = file
        if not file.exists():
            file.write_bytes(_SECONDS.pack(0.0))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), _SECONDS.size)

    def __call__(self) -> datetime:
        return utc_now() + timedelta(seconds=_SECONDS.unpack(self._shared[:])[0])

    def move(self, **span: float) -> None:
        """Let time pass, for everybody."""
        ahead = _SECONDS.unpack(self._shared[:])[0] + timedelta(**span).total_seconds()
        self._shared[:] = _SECONDS.pack(ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._shared.close()


class Boundaries:
    """Counts them, and sends this process the signals that are due."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._names: list[str] = []
        self._lock = threading.Lock()

    def at(self, name: str) -> None:
        """This one is reached."""
        with self._lock:
            self._names.append(name)
            number = len(self._names)
            if number == self._job.die_at:
                self.write()
                signal.pthread_kill(threading.get_ident(), signal.SIGKILL)
            if number in self._job.stop_at:
                self.write()
                # To this thread, which has stopped before it goes on. Of a signal to the process the main thread is
                # told first, and this one would run on for as long as that one has to wait for its turn.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def write(self) -> None:
        """The way so far, for the campaign to read."""
        Path(self._job.said + ".way").write_text("\n".join(self._names))


class Watched:
    """A store or a ledger whose every call has a boundary before and after it."""

    def __init__(self, target: Any, kind: str, boundaries: Boundaries) -> None:
        self._target, self._kind, self._boundaries = target, kind, boundaries

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not inspect.ismethod(value) or name in _ASIDE:
            return value
        return self._listing(name, value) if inspect.isgeneratorfunction(value) else self._call(name, value)

    def _call(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._boundaries.at(f"before {self._kind}.{name}")
            result = value(*args, **kwargs)
            self._boundaries.at(f"after {self._kind}.{name}")
            return result

        return call

    def _listing(self, name: str, value: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
            self._boundaries.at(f"before {self._kind}.{name}")
            yield from value(*args, **kwargs)
            self._boundaries.at(f"after {self._kind}.{name}")

        return call


def run(job: Job) -> int:
    """Run the command in this process; its exit status. Nothing but the outputs of `job.said` is written."""
    boundaries, now = Boundaries(job), Clock(Path(job.clock))
    open_store, open_ledger = app.open_store, app.open_ledger

    def store(*args: Any, **kwargs: Any) -> Any:
        opened, warnings = open_store(*args, **kwargs)
        return Watched(opened, "store", boundaries), warnings

    def ledger(*args: Any, **kwargs: Any) -> Any:
        opened, warnings = open_ledger(*args, **kwargs)
        return Watched(opened, "ledger", boundaries), warnings

    os.environ.clear()
    os.environ.update(job.environment)
    sys.argv = ["daena-key-rotate", "-v", *job.arguments]
    with (
        mock.patch.multiple(app, open_store=store, open_ledger=ledger, utc_now=lambda: now() + _span(job.skew)),
        mock.patch.object(base, "TRIGGER", job.trigger),
        mock.patch.object(keys, "TRIGGER", job.trigger),
        mock.patch.object(Pace, "wait", return_value=True),
    ):
        status = _status()
    boundaries.write()
    return status


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def _status() -> int:
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
