"""Load: thousands of keys due at once, under the quotas that their cloud has, over as many ticks as that takes.

First they are made, then they are rotated. A tick is what the function does (`Warm.perform`), with the time and the
settings that infra/ gives it, on a clock that is virtual: the hour between ticks, the pauses of our code and of the
SDKs, and the time that each call takes cost nothing. Asked is that no key fails (what the next tick takes is deferred),
that each rotation gives a key exactly one version more, and that of the quota that binds nine tenths are used while
there are keys to rotate.

In the units "beside-others" somebody else spends two fifths of the quota, in an even stream: then calls are refused,
whatever we do. The local store has no quota; what is told of it is its speed, creations left out.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

from daena_kms import app
from daena_kms.fleet import Report
from daena_kms.invocation import Invocation
from daena_kms.model import Status
from daena_kms.settings import read_settings
from daena_kms.warm import Warm
from tests.support.quotas import Quotas
from tests.support.virtual_time import VirtualTime

from . import seen
from .checker import Checker, read
from .load_places import GROUNDS, Ground, taking_time
from .scene import Place
from .units import Room, Unit

CAMPAIGN = "load"
KEYS, KEYS_BESIDE_OTHERS, KEYS_IN_SHORT = 10_000, 1_000, 30
CHECKED = 25
OTHERS_SHARE = 0.4
LEAST_PERCENT = 90.0
MOST_TICKS = 12
HOUR, DAY = 3_600.0, 86_400.0
OLD = 200 * DAY


def units(*, short: bool) -> list[Unit]:
    """One for each store, and one for each that has a quota in which others use it too."""
    if short:
        return [_unit("aws", KEYS_IN_SHORT, others=True)]
    shared = [store for store in GROUNDS if store != "local"]
    return [_unit(store, KEYS) for store in GROUNDS] + [
        _unit(store, KEYS_BESIDE_OTHERS, others=True) for store in shared
    ]


def _unit(store: str, count: int, *, others: bool = False) -> Unit:
    name = f"{count}-keys" + ("-beside-others" if others else "")
    return Unit(CAMPAIGN, store, name, partial(load, store=store, count=count, others=others), alone=True)


def load(room: Room, *, store: str, count: int, others: bool) -> None:
    """Make so many keys by ticks, let them grow old, and rotate them all by more of them."""
    clock = VirtualTime(time.time())
    ground = GROUNDS[store](clock, room.folder)
    policy = _policy(room.folder, count)
    environment = ground.settings | {"DAENA_POLICY": str(policy)}
    with mock.patch.dict(os.environ, environment), clock.installed(), clock.taking_part():
        work = Work(room, store, ground, clock, count, others=others)
        with work.loaded():
            work.until_all_are(Status.CREATED)
            clock.sleep(OLD)
            work.until_all_are(Status.ROTATED)
            work.check()
    room.case(faults=work.quotas.refused.total())


def _policy(folder: Path, count: int) -> Path:
    path = folder / "policy.toml"
    path.write_text("[defaults]\ncreate = true\n" + "".join(f"[keys.{key}]\n" for key in _names(count)))
    return path


def _names(count: int) -> list[str]:
    return [f"key-{number:05}" for number in range(count)]


def _counts(report: Report | None) -> Counter[Status]:
    return Counter(outcome.status for outcome in report.outcomes) if report is not None else Counter()


class Work:
    """The ticks of one unit, and what they came to."""

    def __init__(self, room: Room, store: str, ground: Ground, clock: VirtualTime, count: int, *, others: bool) -> None:
        self._room, self._store, self._ground, self._clock = room, store, ground, clock
        self._names, self._others = _names(count), others
        self._what = f"{count} keys on {store}" + (", others use its quota too" if others else "")
        self.quotas = Quotas(ground.limits, clock.monotonic)
        self._warm = Warm()
        self._seconds, self._real_seconds = 0.0, 0.0

    def until_all_are(self, status: Status) -> None:
        """Tick until nothing is deferred any more; then each key must have been that once. Of rotations all is told."""
        done: Counter[Status] = Counter()
        before, self._seconds, self._real_seconds = self.quotas.passed.copy(), 0.0, 0.0
        ticks = 0
        while ticks < MOST_TICKS:
            counts = self._tick()
            ticks += 1
            done.update(counts)
            if not counts[Status.DEFERRED]:
                break
            self._clock.sleep(HOUR)
        if done[status] != len(self._names):
            self._room.violation(f"{self._what}: after {ticks} ticks {done[status]} were {status.value}; {dict(done)}")
        if status is Status.ROTATED:
            figures = {"keys": done[status], "ticks": ticks, "deferred": done[Status.DEFERRED]}
            self._tell({name: float(value) for name, value in figures.items()}, self.quotas.passed - before)

    def _tick(self) -> Counter[Status]:
        begun, really = self._clock.monotonic(), time.monotonic()
        with self._neighbour():
            answer = self._warm.perform("aws.scheduler", Invocation(), seconds=self._ground.seconds)
        self._seconds += self._clock.monotonic() - begun
        self._real_seconds += time.monotonic() - really
        for failure in answer.failures[:3]:
            self._room.violation(f"{self._what}: {len(answer.failures)} of a tick failed: {failure}")
        return _counts(answer.report)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Quotas are in force and calls take their time, as long as the block."""
        with ExitStack() as stack:
            if self._ground.limits:
                stack.enter_context(taking_time(self._clock, self._room.chance))
                stack.enter_context(self._ground.enforced(self.quotas))
            yield

    @contextmanager
    def _neighbour(self) -> Iterator[None]:
        """Somebody who spends his share of the quota while we work."""
        if not self._others:
            yield
            return
        limit, over, there = self._ground.limits[0], threading.Event(), threading.Event()
        pause = limit.seconds / limit.most / OTHERS_SHARE

        def spend() -> None:
            with self._clock.taking_part():
                there.set()
                while not over.is_set():
                    self._clock.sleep(pause)
                    self.quotas.over(min(limit.calls))

        thread = threading.Thread(target=spend)
        thread.start()
        there.wait()
        try:
            yield
        finally:
            over.set()
            self._clock.sleep(2 * pause)
            thread.join()

    def _tell(self, figures: dict[str, float], passed: Counter[str]) -> None:
        if self._ground.limits:
            limit = self._ground.limits[0]
            used = 100 * passed[limit.name] / (limit.most / limit.seconds * self._seconds)
            if used < LEAST_PERCENT and len(self._names) >= KEYS and not self._others:
                self._room.violation(f"{self._what}: {used:.1f} % of the quota of {limit.name} were used")
            refused = self.quotas.refused.total()
            figures |= {"quota used, percent": used, "virtual seconds": self._seconds, "throttled replies": refused}
        else:
            figures["keys a second"] = figures["keys"] / self._real_seconds
        for name, value in figures.items():
            self._room.figure(name + (", beside others" if self._others else ""), round(value, 1))

    def check(self) -> None:
        """One version more for each key, nothing due any more, and some looked at by the checker."""
        self._clock.sleep(HOUR)
        counts = _counts(Warm().perform("load", Invocation()).report)
        if counts != {Status.NOT_DUE: len(self._names)}:
            self._room.violation(f"{self._what}: a tick after all was done has {dict(counts)}")
        eye = seen.of_place(Place(self._store, self._store, dict(os.environ), Path()))
        store = app.connect(read_settings(), trigger="load", writes=False).store
        rows = {row.key: row.newest for row in store.inventory()}
        for key in self._names:
            # A number whose material was lost, when a run gave up in the middle, is given out no more.
            if rows.get(key) != 2 and len(read(key, eye.objects(key)).records) != 2:
                self._room.violation(
                    f"{self._what}; {key}: version {rows.get(key)} is active, and should be the second"
                )
        checker = Checker(eye)
        for key in self._room.chance.sample(self._names, min(CHECKED, len(self._names))):
            for problem in checker.check(key):
                self._room.violation(f"{self._what}; {key}: {problem}")
        self._room.materials |= checker.materials
