"""What the demos of all clouds share: how they print, what a child may know, and how they end."""

import os
import shlex
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from infra.bundle import ROOT

# What a child may know of this environment: nothing that could lead it to a real account, or to a proxy.
INHERITED = ("PATH", "HOME", "LANG")
INTERRUPTED = 130

Environment = dict[str, str]


class DemoError(Exception):
    """The demo did not work. `message` says what, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def title(text: str) -> None:
    """A step begins."""
    print(f"\n== {text}", flush=True)


def say(name: str, text: str) -> None:
    """One fact."""
    print(f"{name:<10} {text}", flush=True)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def environment(wanted: Mapping[str, str]) -> Environment:
    """The environment of a child."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | {"TMPDIR": tempfile.gettempdir()} | dict(wanted)


class Place(Protocol):
    """Where a demo's programs work: a cloud's account on this machine."""

    @property
    def settings(self) -> Environment:
        """The environment that leads a program there."""
        ...


def run(
    command: Sequence[str | Path], place: Place, stdin: bytes | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """A program that works there. Raises DemoError, without what it had printed to stdout, if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(  # noqa: S603  # our own words
        words, cwd=ROOT, env=environment(place.settings), input=stdin, capture_output=True, check=False
    )
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip()
        raise DemoError(f"`{shlex.join(words)}` ended with status {done.returncode}: {complaint}")
    return done


@contextmanager
def workplace() -> Iterator[None]:
    """One folder for everything temporary, of this process and of its children. It is gone in the end.

    An interrupt may come between making a folder and the promise to remove it, so there is one that holds them all.
    """
    with tempfile.TemporaryDirectory(prefix="daena-demo-") as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def unpacked(bundle: Path) -> Iterator[Path]:
    """The archive as the platform lays it down."""
    with tempfile.TemporaryDirectory(prefix="daena-demo-") as folder, zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
        yield Path(folder)


def interrupt(*_: object) -> None:
    """Ctrl-C and SIGTERM end the demo in order, started in the background too."""
    raise KeyboardInterrupt
