"""A vault and a ledger to measure on: the real local store and a real folder, made quickly, used durably."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

from daena_kms.fleet import Fleet, Limits, Order, Report
from daena_kms.journal import Journal
from daena_kms.model import Status, utc_now
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.stores.local import LocalStore

from ..support.worlds import LEASE, Clock, World, local_backend

POLICY = KeyPolicy(create=True)


class Scene:
    """One vault with its ledger in a folder, laid out as the command lays out DAENA_HOME, and a clock to move."""

    def __init__(self, folder: Path, keys: Mapping[str, KeyPolicy], start: datetime | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.clock = Clock(start or utc_now())
        backend = local_backend(folder, self.clock, os.urandom)
        world = World(backend, self.clock)
        self.store: LocalStore = backend.store
        self.ledger = world.ledger
        self.policy = RotationPolicy(keys, "bench")
        self.keyring = world.keyring
        self.journal = Journal(self.ledger, self.keyring, clock=self.clock, actor=self.store.actor, trigger="bench")
        self.tools = Tools(self.store, self.journal, self.clock, LEASE, timedelta(seconds=30), "bench")

    def fleet(self, concurrency: int = 1, policy: RotationPolicy | None = None) -> Fleet:
        """A fleet over all keys of the scene's policy, or of another."""
        return Fleet(self.tools, policy or self.policy, Tick(), Limits(concurrency), time.monotonic)

    def rotate(self, concurrency: int = 1, *keys: str) -> float:
        """One fleet run in which every key (or each of those named) is due; its seconds."""
        self.clock.move(days=POLICY.rotate_after_days + 10)
        return self.timed_run(concurrency, Status.ROTATED, *keys)

    def create(self) -> None:
        """Make every key of the policy by the same protocol that rotates it, without waiting for the disk."""
        with self.unflushed():
            self.timed_run(1, Status.CREATED)

    def timed_run(self, concurrency: int, expected: Status, *keys: str) -> float:
        """One fleet run that must end the same for each key; its seconds."""
        fleet, order = self.fleet(concurrency), Order(keys)
        started = time.perf_counter()
        report = fleet.run(order)
        seconds = time.perf_counter() - started
        check(report, expected)
        return seconds

    @contextmanager
    def unflushed(self) -> Iterator[None]:
        """Nothing waits for the disk inside; all of it is on the disk afterwards."""
        self.store._db.execute("PRAGMA synchronous = OFF")
        try:
            with mock.patch("os.fsync", _skip):
                yield
        finally:
            self.store._db.execute("PRAGMA synchronous = FULL")
            self.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            os.sync()

    def close(self) -> None:
        """Close the vault; the folder stays."""
        self.store.close()


def names(count: int) -> list[str]:
    """That many key names."""
    return [f"bench-key-{number:05d}" for number in range(count)]


def _skip(_descriptor: int) -> None:
    """In place of fsync."""


def check(report: Report, expected: Status) -> None:
    """A figure counts only if the work was done."""
    if set(report.counts()) != {expected.value}:
        raise SystemExit(f"every key {expected.value} expected, got {report.counts()}")
