"""Rotating processes that are killed, with SIGKILL, at every boundary and at any moment; then one that is left alone.

Every process here is the command itself, with its own connections. Where it dies is a boundary, right before or after a
call to store or ledger (`rotating`), or any moment at all. Each key is one case; all keys of a unit share a place, and
the run that is left alone is one for all of them, as a scheduler's is.
"""

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from daena_kms.manifest import History
from daena_kms.model import State
from daena_kms.service import Service

from .grounds import LEASE_MINUTES, POLICY, Grounds, Ran
from .rotators import News
from .scene import STORES
from .units import Room, Unit

CAMPAIGN = "kill"
MOST_BOUNDARIES = 160
REQUEST = "ticket-7"
PAIRS = {"local": 80, "aws": 30, "azure": 30, "gcp": 30}
"""How many pairs of deaths are tried of each operation."""
AT_ONCE = 16
"""Keys of one process that is killed at any moment."""
MOMENTS = {"local": 150, "aws": 60, "azure": 60, "gcp": 60}


class Operation(NamedTuple):
    """What a process is asked to do when it dies."""

    command: Callable[[str], list[str]]
    versions: int
    """How many the key has before; 0 if it is not there."""
    grown: int
    """How many more it has afterwards."""
    done: Callable[[History], bool] = lambda history: bool(history.versions)
    """Whether nobody has to ask again."""
    due: bool = False
    ticked: bool = False
    """It is a scheduler that asks: the next tick is its re-run."""
    prepare: Callable[[Service, str], object] = lambda *_: None
    policy: str = POLICY


def _tick(key: str) -> list[str]:
    return ["rotate", key, "--json"]


def _force(key: str) -> list[str]:
    return ["rotate", key, "--force", "--yes", "--request-id", REQUEST, "--json"]


def _first(state: State) -> Callable[[History], bool]:
    return lambda history: history.versions[1].state is state


def _new(versions: int) -> Callable[[History], bool]:
    return lambda history: len(history.versions) >= versions


def _requested(history: History) -> bool:
    return REQUEST in history.requests


def _rolled_back(history: History) -> bool:
    return any(version.source for version in history.versions.values())


def _replaced(history: History) -> bool:
    """Version 1 is known to others, and no longer active."""
    return history.versions[1].compromised and history.versions[1].state is not State.ACTIVE


OPERATIONS = {
    "create": Operation(_tick, 0, 1, ticked=True),
    "rotate": Operation(_tick, 1, 1, _new(2), due=True, ticked=True),
    "force": Operation(_force, 1, 1, _requested),
    "retire": Operation(
        _force,
        2,
        1,
        lambda history: _requested(history) and _first(State.DISABLED)(history),
        policy=POLICY + "keep_versions = 1\n",
    ),
    "rollback": Operation(lambda key: ["rollback", key, "--json"], 2, 1, _rolled_back),
    "compromised": Operation(lambda key: ["compromised", key, "--version", "1", "--json"], 1, 1, _replaced),
    "disable": Operation(lambda key: ["disable", key, "--version", "1", "--json"], 2, 0, _first(State.DISABLED)),
    "enable": Operation(
        lambda key: ["enable", key, "--version", "1", "--json"],
        2,
        0,
        _first(State.DECRYPT_ONLY),
        prepare=lambda service, key: service.disable(key, 1),
    ),
    "destroy": Operation(
        _tick, 3, 0, _first(State.DESTROYED), ticked=True, prepare=lambda service, key: service.destroy(key, 1)
    ),
}
TWICE = ("create", "rotate", "force", "rollback", "compromised")
# What a process in a cloud is killed at. The others have the same calls in another order: on this machine all are.
CLOUDS_ONCE = ("create", "rotate", "rollback", "compromised", "disable", "destroy")
CLOUDS_TWICE = ("create", "rotate", "rollback")


class Killing:
    """Keys on which one operation is begun and not ended."""

    def __init__(self, ground: Grounds, name: str) -> None:
        self.ground, self.name = ground, name
        self.operation = OPERATIONS[name]
        self.stories: dict[str, str] = {}
        self.deaths: dict[str, int] = {}

    def boundaries(self) -> list[str]:
        """Those of a process that is left alone, on the first key."""
        key = self.ground.keys[0]
        self.make([key])
        ran, news = self.ground.run(*self.operation.command(key))
        if news != News("ended"):
            self.ground.room.violation(
                f"{self.ground.provider}: {self.name}, left alone, ended with {news}: {ran.told()}"
            )
        return ran.way()

    def make(self, keys: Sequence[str]) -> None:
        """Keys as they are before the operation."""
        operation, ground = self.operation, self.ground
        if operation.versions:
            ground.make(keys, operation.versions, due=operation.due)
        with ground.service() as service:
            for key in keys:
                operation.prepare(service, key)
        if self.name == "destroy":
            ground.clock.move(days=2)
        if operation.versions:
            ground.learn(keys)

    def die(self, key: str, at: int) -> None:
        """A process that dies there, if it comes there."""
        self.ground.reader.watch([key], there=self.operation.versions > 0)
        ran, news = self.ground.run(*self.operation.command(key), die_at=at)
        self.note(key, ran, news)

    def note(self, key: str, ran: Ran, news: News) -> None:
        """What became of a process that was to die."""
        where = ran.way()[-1] if news.what == "killed" else f"by itself, with {news.status}"
        before = self.stories.get(key)
        self.stories[key] = (f"{before}; again: " if before else f"{self.name}: ") + f"died {where}"
        self.deaths[key] = self.deaths.get(key, 0) + (news.what == "killed")

    def again(self, keys: Sequence[str]) -> None:
        """Whoever asked for it asks once more, when the leases have ended, if it was not done."""
        self.ground.clock.move(minutes=LEASE_MINUTES)
        if self.operation.ticked:
            return  # the next tick does it
        for key in self.undone(keys):
            self.ground.reader.watch([key])
            ran, news = self.ground.run(*self.operation.command(key))
            if news != News("ended"):
                told = f"{self.stories.get(key)}; asked again, it {news.what} with {news.status}: {ran.told()}"
                self.ground.room.violation(f"{self.ground.provider}: {key}: {told}")

    def undone(self, keys: Sequence[str]) -> list[str]:
        """The keys for which somebody has to ask again."""
        with self.ground.service() as service:
            return [key for key in keys if not self.operation.done(History(service.journal.history(key)))]

    def over(self, keys: Sequence[str]) -> None:
        """One more run, and everything must be in order."""
        operation, ground = self.operation, self.ground
        self.again(keys)
        wanted = operation.versions + operation.grown
        ground.settle(keys, self.stories, dict.fromkeys(keys, (wanted, wanted)), self.as_wanted)
        for key in keys:
            ground.room.case(faults=self.deaths.get(key, 0), signals=self.deaths.get(key, 0))

    def as_wanted(self, keys: Sequence[str]) -> None:
        """At the end: what was asked for has come to be."""
        for key in self.undone(keys):
            self.ground.room.violation(f"{self.ground.provider}: {key}: {self.stories.get(key)}; it is not done")


def once(room: Room, provider: str, name: str, every: int = 1) -> None:
    """A death at every boundary, or at every so manieth."""
    with Grounds(room, provider, MOST_BOUNDARIES, policy=OPERATIONS[name].policy) as ground:
        killing = Killing(ground, name)
        numbers = range(1, len(killing.boundaries()) + 1, every)
        keys = ground.keys[1 : 1 + len(numbers)]
        killing.make(keys)
        for key, number in zip(keys, numbers, strict=True):
            killing.die(key, number)
        killing.over(keys)


def twice(room: Room, provider: str, name: str, count: int) -> None:
    """Two deaths in a row, at boundaries that chance has chosen."""
    with Grounds(room, provider, count + 1, policy=OPERATIONS[name].policy) as ground:
        killing = Killing(ground, name)
        last = len(killing.boundaries())
        keys = ground.keys[1:]
        killing.make(keys)
        for key in keys:
            killing.die(key, room.chance.randint(1, last))
        ground.clock.move(minutes=LEASE_MINUTES)
        for key in killing.undone(keys):
            killing.die(key, room.chance.randint(1, last))
        killing.over(keys)


def moments(room: Room, provider: str, count: int) -> None:
    """A tick for many keys is killed at any moment, inside a call too, again and again until it is through."""
    with Grounds(room, provider, AT_ONCE) as ground:
        ground.make(ground.keys)
        ground.tick(ground.keys, "nothing was done", rotates=True)
        killer, rounds = Killer(ground), 0
        while killer.kills < count:
            ground.clock.move(days=90)
            before, kills, rounds = ground.versions(ground.keys), killer.kills, rounds + 1
            killer.until_through(count - kills)
            deaths = killer.kills - kills
            story = f"a tick, killed {deaths} times at any moment (round {rounds})"
            wanted = {key: (versions + 1, versions + 1) for key, versions in before.items()}
            ground.settle(ground.keys, dict.fromkeys(ground.keys, story), wanted)
            room.case(faults=deaths, signals=deaths)


class Killer:
    """Kills ticks for all keys."""

    def __init__(self, ground: Grounds) -> None:
        self._ground = ground
        self._seconds = 2.0
        """How long one takes that is not killed, as far as is known."""
        self.kills = 0

    def until_through(self, most: int) -> None:
        """Until one has come to its end, or so many were killed."""
        ground = self._ground
        ground.reader.watch(ground.keys)
        for _ in range(most):
            ran, begun = ground.start("rotate", *ground.keys, "--json"), time.monotonic()
            early = ground.forks.heard(ran.process, ground.room.chance.uniform(0, self._seconds))
            ground.forks.signal(ran.process, signal.SIGKILL)
            if (early or ground.wait(ran)).what == "ended":
                self._seconds = time.monotonic() - begun
                return
            self.kills += 1
            ground.clock.move(minutes=LEASE_MINUTES)


def units(*, short: bool) -> list[Unit]:
    """The campaign."""
    if short:
        return [
            Unit(CAMPAIGN, "local", "rotate", partial(once, provider="local", name="rotate", every=2)),
            Unit(CAMPAIGN, "local", "moments", partial(moments, provider="local", count=4)),
            Unit(CAMPAIGN, "aws", "rotate", partial(once, provider="aws", name="rotate", every=12)),
        ]
    made: list[Unit] = []
    for store in STORES:
        here = store == "local"
        names = OPERATIONS if here else CLOUDS_ONCE
        made += [Unit(CAMPAIGN, store, name, partial(once, provider=store, name=name)) for name in names]
        for name in TWICE if here else CLOUDS_TWICE:
            work = partial(twice, provider=store, name=name, count=PAIRS[store])
            made.append(Unit(CAMPAIGN, store, f"{name}-twice", work))
        made.append(Unit(CAMPAIGN, store, "moments", partial(moments, provider=store, count=MOMENTS[store])))
    return made
