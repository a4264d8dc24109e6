"""Time that passes only while everybody sleeps: a day of a process with many threads takes as long as its work does.

Threads that take part are counted. Whoever of them sleeps leaves the count until it wakes; when nobody is awake, time
jumps to the next moment at which somebody wants to wake, and that one alone is woken. So of these threads one works at
a time, in an order that their sleeps decide. What they wait for otherwise (a reply over a socket, a lock that is held
by one who works) costs no time.

`installed` puts it into the library's composition root, its pool of threads, and the clouds' SDKs: their pauses between
attempts are sleeps of this kind. Threads that do not take part, such as a double's, see real time.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

import azure.core.pipeline.policies._retry
import azure.core.pipeline.transport._base
import botocore.endpoint
import botocore.retries.bucket
import google.api_core.retry.retry_base
import google.api_core.retry.retry_unary

from daena_kms import app, many
from daena_kms.stores import gcp

Item = TypeVar("Item")
Done = TypeVar("Done")

MOMENT = 1e-3
"""Seconds: the least that a wait for somebody else takes."""
_POOLS: tuple[Any, ...] = (many, gcp)
# Each looks its time up in a module of this name.
_SDKS: tuple[Any, ...] = (
    botocore.endpoint,
    botocore.retries.bucket,
    azure.core.pipeline.policies._retry,
    azure.core.pipeline.transport._base,
    google.api_core.retry.retry_base,
    google.api_core.retry.retry_unary,
)


class VirtualTime:
    """One time for all threads that take part in it."""

    def __init__(self, begin: float) -> None:
        """`begin`: in seconds since 1970."""
        self._begin = begin
        self._passed = 0.0
        self._awake = 0
        self._asleep: list[tuple[float, int, threading.Event]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._thread = threading.local()

    def monotonic(self) -> float:
        """Seconds since it began."""
        return self._passed

    def time(self) -> float:
        """Seconds since 1970."""
        return self._begin + self._passed

    def now(self) -> datetime:
        """The same, in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def sleep(self, seconds: float) -> None:
        """Return when so much of it has passed; real time for a thread that takes no part."""
        if not self.takes_part:
            time.sleep(seconds)
            return
        woken = threading.Event()
        with self._lock:
            heapq.heappush(self._asleep, (self._passed + max(0.0, seconds), next(self._order), woken))
            self._change(-1)
        woken.wait()

    @property
    def takes_part(self) -> bool:
        """Whether this thread does."""
        return getattr(self._thread, "takes_part", False)

    @contextmanager
    def taking_part(self) -> Iterator[None]:
        """This thread takes part, as long as the block."""
        with self._lock:
            self._change(1)
        with self._as_one_who(takes_part=True):
            yield
        with self._lock:
            self._change(-1)

    @contextmanager
    def _as_one_who(self, *, takes_part: bool) -> Iterator[None]:
        self._thread.takes_part = takes_part
        try:
            yield
        finally:
            self._thread.takes_part = False

    def _change(self, awake: int) -> None:
        self._awake += awake
        if not self._awake and self._asleep:
            at, _, woken = heapq.heappop(self._asleep)
            self._passed = max(self._passed, at)
            self._awake += 1
            woken.set()

    def each(self, items: Iterable[Item], work: Callable[[Item], Done], threads: int) -> list[Done]:
        """`work` for every item on threads that take part, while this one, which waits for them, does not."""
        todo = list(items)
        if not todo:
            return []
        here, crew, left = self.takes_part, min(threads, len(todo)), len(todo)

        def taking_part(item: Item) -> Done:
            nonlocal left
            with self._as_one_who(takes_part=True):
                try:
                    return work(item)
                finally:
                    with self._lock:
                        left -= 1
                        # Whoever finds nothing more to do is awake no more; in place of the last, the caller is.
                        self._change(-1 if left < crew and (left or not here) else 0)

        with self._lock:
            self._change(crew - here)
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(taking_part, todo))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The library and the SDKs live in this time, as long as the block. Clients are to be made inside."""
        clock = _Module(time, time=self.time, monotonic=self.monotonic, sleep=self.sleep)
        with ExitStack() as patches:
            for module in (app, *_SDKS):
                patches.enter_context(mock.patch.object(module, "time", clock))
            threads = _Module(threading, Condition=lambda lock: Condition(lock, self))
            patches.enter_context(mock.patch.object(botocore.retries.bucket, "threading", threads))
            patches.enter_context(mock.patch.object(app, "utc_now", self.now))
            for module in _POOLS:
                patches.enter_context(mock.patch.object(module, "ThreadPoolExecutor", partial(_Pool, self)))
            yield


class _Pool:
    """What the library asks of a pool of threads, with threads that take part."""

    def __init__(self, clock: VirtualTime, max_workers: int) -> None:
        self._clock = clock
        self._threads = max_workers

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        """All is done by then."""

    def map(self, work: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
        """`work` for every item."""
        return self._clock.each(items, work, self._threads)

    def shutdown(self, **_: object) -> None:
        """The same."""


class _Module:
    """A module of which some things are others."""

    def __init__(self, module: ModuleType, **others: Any) -> None:
        self._module = module
        vars(self).update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Condition:
    """What botocore waits on until it may send more: for so long, whatever is notified."""

    def __init__(self, lock: Any, clock: VirtualTime) -> None:
        self._lock = lock
        self._clock = clock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, seconds: float) -> None:
        """Let go of the lock meanwhile. A moment passes in any case: who reckons how long may come to nothing."""
        self._lock.release()
        self._clock.sleep(max(seconds, MOMENT))
        self._lock.acquire()

    def notify(self) -> None:
        """Nobody is woken before his time."""
