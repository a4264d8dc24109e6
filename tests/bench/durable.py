"""The durable writes of a rotation, counted, and the floor: nothing but the same number of durable writes.

Counted is a sample of real rotations. `os.fsync` is what the ledger flushes entries and folders with; a transaction
of SQLite in WAL mode with `synchronous = FULL` flushes its log once when it commits.
"""

import os
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from msgspec import Struct

from daena_kms.stores.local import LocalStore

LOG_BYTES = 1_000 * 4_120  # SQLite begins its log again after a thousand pages
_flush_log = getattr(os, "fdatasync", os.fsync)  # what SQLite calls, where there is one


class Writes(Struct, frozen=True):
    """The durable writes of one rotation, averaged over a sample."""

    entries: int
    """Manifest entries: each a file and its folder flushed."""
    entry_bytes: int
    commits: int
    """Transactions of the vault: each one flush of its log."""
    commit_bytes: int
    flushes: float
    """Everything counted, for a check: 2 * entries + commits if nothing else is flushed."""

    def __str__(self) -> str:
        return (
            f"a rotation flushes {self.flushes:.2f} times: {self.entries} manifest entries of {self.entry_bytes} bytes"
            f" (file and folder), {self.commits} vault commits of {self.commit_bytes} bytes"
        )


class _Counter:
    def __init__(self) -> None:
        self.files = self.folders = self.commits = self.file_bytes = 0
        self._fsync = os.fsync

    def fsync(self, descriptor: int) -> None:
        """Count, then flush."""
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self.folders += 1
        else:
            self.files += 1
            self.file_bytes += found.st_size
        self._fsync(descriptor)

    def statement(self, text: str) -> None:
        """Count the beginning of each transaction that writes."""
        self.commits += text == "BEGIN IMMEDIATE"


@contextmanager
def _counting(store: LocalStore) -> Iterator[_Counter]:
    counter = _Counter()
    store._db.set_trace_callback(counter.statement)
    try:
        with mock.patch("os.fsync", counter.fsync):
            yield counter
    finally:
        store._db.set_trace_callback(None)


class Sample:
    """Counts the durable writes of a few rotations: `with Sample(store, n) as sample: ...; sample.writes`."""

    def __init__(self, store: LocalStore, rotations: int) -> None:
        self._store = store
        self._rotations = rotations
        self._log = Path(store.address + "-wal")
        self.writes: Writes

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Rotate exactly that many keys inside."""
        self._store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with _counting(self._store) as seen:
            yield
        self.writes = Writes(
            entries=round(seen.files / self._rotations),
            entry_bytes=round(seen.file_bytes / max(1, seen.files)),
            commits=round(seen.commits / self._rotations),
            commit_bytes=round(self._log.stat().st_size / max(1, seen.commits)),
            flushes=(seen.files + seen.folders + seen.commits) / self._rotations,
        )


class Floor:
    """The same durable writes and nothing else, on the same file system.

    For each manifest entry: make a file of the same size under a temporary name, fsync it, link it to its own, unlink
    the temporary one, fsync the folder, a folder for each key. For each commit of the vault: write as many bytes as a
    commit adds to SQLite's log, to the end of one file that begins again after a thousand pages, and flush its data;
    one thread at a time, as SQLite has one writer. SQLite's own checkpoints are left out, so the floor is low.
    """

    def __init__(self, folder: Path, keys: list[str], writes: Writes) -> None:
        self._folders = [folder / key for key in keys]
        for made in self._folders:
            made.mkdir(parents=True)
        self._writes = writes
        self._entry = os.urandom(writes.entry_bytes)
        self._commit = os.urandom(writes.commit_bytes)
        self._lock = threading.Lock()
        self._log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        self._at = 0
        self._count = 0

    def run(self, concurrency: int) -> float:
        """Write what one fleet run over all keys writes; its seconds."""
        started = time.perf_counter()
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            list(pool.map(self._one, self._folders))
        seconds = time.perf_counter() - started
        self._count += self._writes.entries
        return seconds

    def close(self) -> None:
        """Close the log; the folder stays."""
        os.close(self._log)

    def _one(self, folder: Path) -> None:
        for number in range(self._writes.entries):
            write_entry(folder, f"{self._count + number:08d}.json", self._entry)
        for _ in range(self._writes.commits):
            self._append()

    def _append(self) -> None:
        with self._lock:
            if self._at + len(self._commit) > LOG_BYTES:
                self._at = 0
            os.pwrite(self._log, self._commit, self._at)
            self._at += len(self._commit)
            _flush_log(self._log)


def write_entry(folder: Path, name: str, data: bytes) -> None:
    """A file that is created by its link, durable, by bare system calls."""
    temporary, target = folder / f".{name}.tmp", folder / name
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)
    os.link(temporary, target)
    temporary.unlink()
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
