"""Rotating processes that overlap on the same keys: in crowds, in their sleep, twice, and from two regions.

Every process here is the command itself, with its own connections, as in `kill`. A zombie is stopped, with SIGSTOP, at
a boundary, until others have taken over what it held; then it is woken. In a crowd some are stopped for a moment, and
some are killed.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from .grounds import LEASE_MINUTES, PERIOD_DAYS, Grounds, Ran
from .kill import MOST_BOUNDARIES, OPERATIONS, Killing
from .rotators import News
from .scene import STORES
from .units import Room, Unit

CAMPAIGN = "overlap"
AT_ONCE = 12
"""Zombies that sleep at the same time, each on a key of its own."""
SLEEPY = ("create", "rotate", "force", "rollback", "compromised", "disable", "destroy")
CLOUDS_SLEEPY = ("create", "rotate", "rollback", "disable")  # as in `kill`
CROWDS = (2, 4, 8, 16, 32)
SHARED = 4
"""Keys of a crowd."""
READY = 1
"""The boundary at which everybody waits for everybody."""
ONE_BY_ONE = {"DAENA_CONCURRENCY": "1"}
"""So a process is stopped between its calls: of several threads one might hold the vault of the local store."""
SHORTEST, LONGEST = 0.002, 0.15
"""Seconds that one of a crowd is stopped: much less than a lease."""
DELAYS = ({"seconds": 0}, {"seconds": 5}, {"minutes": 5}, {"minutes": 14}, {"hours": 3}, {"hours": 30})
ROUNDS = 12
SKEW_MINUTES = 4
"""How far the clocks of the two regions are apart."""
REGIONS: tuple[dict[str, Any], ...] = (
    {
        "trigger": "eu",
        "skew": -100.0,
        "settings": {"DAENA_CONCURRENCY": "1", "DAENA_TICK_MINUTES": "60", "DAENA_LEASE_MINUTES": "15"},
    },
    {
        "trigger": "us",
        "skew": 140.0,
        "settings": {"DAENA_CONCURRENCY": "8", "DAENA_TICK_MINUTES": "30", "DAENA_CALL_TIMEOUT_SECONDS": "20"},
    },
)


# --- zombies


def zombies(
    room: Room, provider: str, name: str, *, others: int, every: int = 1, naps: int = 1, dies: bool = False
) -> None:
    """A process sleeps at every boundary, or at every so manieth, while others act; then it goes on.

    `others`: 1 takes over what it held; of 2 another is asked for a rotation besides. `naps`: 2 has it sleep again,
    later on, once more past its lease. `dies`: it is killed right after the call that it wakes up before, so that what
    it wrote late stays until the next run.
    """
    with Grounds(room, provider, MOST_BOUNDARIES, policy=OPERATIONS[name].policy) as ground:
        killing = Killing(ground, name)
        last = len(killing.boundaries())
        numbers = list(range(1, last + 1, every))
        keys = ground.keys[1 : 1 + len(numbers)]
        for begin in range(0, len(keys), AT_ONCE):
            some = keys[begin : begin + AT_ONCE]
            Sleepers(killing, dict(zip(some, numbers[begin:], strict=False)), last, naps, dies=dies).over(others)


class Sleepers:
    """Some zombies, each on a key of its own."""

    def __init__(self, killing: Killing, at: dict[str, int], last: int, naps: int, *, dies: bool) -> None:
        self.killing, self.ground, self.at = killing, killing.ground, at
        self.keys = list(at)
        self.last, self.naps, self.dies = last, naps, dies
        self.asleep: dict[str, Ran] = {}
        self.stops = dict.fromkeys(self.keys, 0)
        self.forced = 0

    def over(self, others: int) -> None:
        """From their begin to their end, and what must be so then."""
        killing, ground, operation = self.killing, self.ground, self.killing.operation
        killing.make(self.keys)
        ground.reader.watch(self.keys, there=operation.versions > 0)
        for key, number in self.at.items():
            self._sleeps(key, number)
        for other in range(others):
            self._meanwhile(other)
        self._wake()
        if self.naps > 1 and self.asleep:
            self._meanwhile(others)
            self._wake()
        ground.count_late(self.keys)
        killing.again(self.keys)
        # A late one may have come besides, and is known then.
        least = operation.versions + operation.grown + self.forced
        wanted = (least, least + self.naps)
        grown = dict.fromkeys(self.keys, wanted)
        ground.settle(self.keys, killing.stories, grown, killing.as_wanted, leftovers=self.dies)
        for key in self.keys:
            ground.room.case(faults=self.stops[key], signals=self.stops[key])

    def _sleeps(self, key: str, number: int) -> None:
        ground, chance = self.ground, self.ground.room.chance
        later = [chance.randint(number + 1, self.last + 8)] if self.naps > 1 else []
        death = number + 1 if self.dies else 0
        ran, news = ground.run(*self.killing.operation.command(key), stop_at=(number, *later), die_at=death)
        self._note(key, ran, news)

    def _note(self, key: str, ran: Ran, news: News) -> None:
        stories, before = self.killing.stories, self.killing.stories.get(key, self.killing.name)
        self.asleep.pop(key, None)
        if news.what == "stopped":
            self.asleep[key] = ran
            self.stops[key] += 1
            stories[key] = f"{before}; asleep {ran.way()[-1]} ({len(ran.way())})"
        else:
            self.stops[key] += news.what == "killed"
            stories[key] = f"{before}; {news.what} with {news.status}"

    def _meanwhile(self, other: int) -> None:
        """Past their leases: a scheduler's run; or, for the second, somebody who wants them rotated."""
        ground = self.ground
        ground.clock.move(minutes=LEASE_MINUTES)
        command = ["rotate", *self.keys, "--json"]
        if other == 1:
            self.forced = 1
            command += ["--force", "--yes", "--request-id", "another"]
        ran, news = ground.run(*command, trigger="other", skew=30.0)
        if news != News("ended"):
            told = f"while all slept, {command[-1]} {news.what} with {news.status}: {ran.told()}"
            ground.room.violation(f"{ground.provider}: {self.killing.name}: {told}")

    def _wake(self) -> None:
        """All of them, one after another, up to their ends or their next sleep."""
        for key, ran in list(self.asleep.items()):
            self.ground.wake(ran)
            self._note(key, ran, self.ground.wait(ran))


# --- crowds


def crowd(room: Room, provider: str, sizes: Sequence[int], *, asked: bool) -> None:
    """So many processes at the same moment: a tick each; or (`asked`) all of them for the same request.

    Each new version is made once, though some are stopped for a moment and, in every other round, some are killed.
    """
    with Grounds(room, provider, SHARED) as ground:
        ground.make(ground.keys)
        for size in sizes:
            for deadly in (False, True):
                story = f"{size} at once, {'for one request' if asked else 'ticks'}{', some killed' if deadly else ''}"
                before = ground.versions(ground.keys)
                request = ["--force", "--yes", "--request-id", f"{size}-{deadly}"] if asked else []
                Crowd(ground, ["rotate", *ground.keys, "--json", *request], size, deadly=deadly).over()
                if asked:
                    ground.clock.move(minutes=LEASE_MINUTES)
                    ground.run("rotate", *ground.keys, "--json", *request)
                wanted = {key: (versions + 1, versions + 1) for key, versions in before.items()}
                ground.settle(ground.keys, dict.fromkeys(ground.keys, story), wanted)
                if not asked:
                    ground.clock.move(days=PERIOD_DAYS)


class Crowd:
    """Processes that do the same."""

    def __init__(self, ground: Grounds, command: Sequence[str], size: int, *, deadly: bool) -> None:
        self.ground, self.size, self.deadly = ground, size, deadly
        self.command = command
        self.faults = self.size - 1
        self.signals = 0

    def over(self) -> None:
        """From their begin to their ends."""
        ground = self.ground
        ground.reader.watch(ground.keys)
        everybody = [self._one() for _ in range(self.size)]
        for ran in everybody:
            ground.wait(ran)  # all are ready
        for ran in everybody:
            ground.wake(ran)
        for ran in everybody:
            self._to_its_end(ran)
        ground.room.case(faults=self.faults + self.signals, signals=self.signals)

    def _one(self) -> Ran:
        chance = self.ground.room.chance
        stops = {READY, *(chance.randint(READY + 1, 60) for _ in range(chance.randint(1, 3)))}
        death = chance.randint(READY + 1, 90) if self.deadly and chance.random() < 0.5 else 0
        return self.ground.start(
            *self.command,
            stop_at=tuple(stops),
            die_at=death,
            trigger="crowd",
            skew=chance.uniform(-2, 2),
            settings=ONE_BY_ONE,
        )

    def _to_its_end(self, ran: Ran) -> None:
        while (news := self.ground.wait(ran)).what == "stopped":
            self.signals += 1
            time.sleep(self.ground.room.chance.uniform(SHORTEST, LONGEST) / self.size)
            self.ground.wake(ran)
        self.signals += news.what == "killed"


# --- the same trigger again, and two schedulers


def duplicates(room: Room, provider: str, rounds: int) -> None:
    """The same trigger again after seconds, minutes, hours; the first that has it may sleep or die meanwhile."""
    with Grounds(room, provider, SHARED) as ground:
        ground.make(ground.keys)
        for number in range(rounds):
            asked = bool(number % 2)
            request = ["--force", "--yes", "--request-id", f"event-{number}"] if asked else []
            before = ground.versions(ground.keys)
            ground.reader.watch(ground.keys)
            told = _triggered(ground, ["rotate", *ground.keys, "--json", *request])
            wanted = {key: (versions + 1, versions + 1) for key, versions in before.items()}
            ground.settle(ground.keys, dict.fromkeys(ground.keys, f"the same trigger again: {told}"), wanted)
            if not number % 2:
                continue  # due by its own request next
            ground.clock.move(days=PERIOD_DAYS)


def _triggered(ground: Grounds, command: Sequence[str]) -> str:
    """One trigger, delivered several times; what happened."""
    chance, told, signals = ground.room.chance, [], 0
    for delay in DELAYS:
        ground.clock.move(**delay)
        what = chance.choice(("works", "dies", "works"))
        _, news = ground.run(*command, die_at=chance.randint(1, 60) if what == "dies" else 0, trigger="event")
        signals += news.what == "killed"
        told.append(f"{delay}: {news.what} with {news.status}")
    ground.room.case(faults=len(DELAYS) - 1 + signals, signals=signals)
    return "; ".join(told)


def regions(room: Room, provider: str, rounds: int) -> None:
    """Two schedulers, in two regions, with other settings and with clocks some minutes apart, for months."""
    with Grounds(room, provider, SHARED) as ground:
        ground.make(ground.keys)
        chance = room.chance
        for number in range(rounds):
            before = ground.versions(ground.keys)
            ground.reader.watch(ground.keys)
            both = []
            for region in REGIONS:
                stops = tuple(sorted({READY, chance.randint(2, 80), chance.randint(2, 80)}))
                death = chance.randint(2, 100) if chance.random() < 0.4 else 0
                both.append(ground.start("rotate", "--json", **region, stop_at=stops, die_at=death))
            signals = _side_by_side(ground, both)
            ground.clock.move(minutes=SKEW_MINUTES)  # a claim of the one whose clock is ahead ends later
            wanted = {key: (versions + 1, versions + 1) for key, versions in before.items()}
            story = f"two regions' schedulers (round {number})"
            ground.settle(ground.keys, dict.fromkeys(ground.keys, story), wanted)
            room.case(faults=1 + signals, signals=signals)
            ground.clock.move(days=PERIOD_DAYS)


def _side_by_side(ground: Grounds, both: Sequence[Ran]) -> int:
    """Let them go on, now one and now the other; how often one was stopped or killed."""
    signals = 0
    for ran in both:
        ground.wait(ran)  # ready
    for ran in both:
        ground.wake(ran)
    waiting = list(both)
    while waiting:
        for ran in list(waiting):
            news = ground.wait(ran)
            if news.what != "stopped":
                waiting.remove(ran)
                signals += news.what == "killed"
                continue
            signals += 1
            ground.wake(ran)
    return signals


def units(*, short: bool) -> list[Unit]:
    """The campaign."""
    if short:
        return [
            Unit(CAMPAIGN, "local", "zombies", partial(zombies, provider="local", name="rotate", others=1, every=4)),
            Unit(CAMPAIGN, "local", "crowd", partial(crowd, provider="local", sizes=(4,), asked=False)),
            Unit(CAMPAIGN, "azure", "zombies", partial(zombies, provider="azure", name="rotate", others=1, every=12)),
        ]
    made: list[Unit] = []
    for store in STORES:
        for name in SLEEPY if store == "local" else CLOUDS_SLEEPY:
            work = partial(zombies, provider=store, name=name, others=1 + (name in ("rotate", "force")))
            made.append(Unit(CAMPAIGN, store, f"{name}-asleep", work))
        again = partial(zombies, provider=store, name="rotate", others=1, naps=2)
        made.append(Unit(CAMPAIGN, store, "rotate-asleep-again", again))
        dies = partial(zombies, provider=store, name="rotate", others=2, dies=True)
        made.append(Unit(CAMPAIGN, store, "rotate-asleep-dies", dies))
        for name, asked in (("ticks", False), ("request", True)):
            made += [
                Unit(CAMPAIGN, store, f"{size}-{name}", partial(crowd, provider=store, sizes=(size,), asked=asked))
                for size in CROWDS
            ]
        made.append(Unit(CAMPAIGN, store, "duplicates", partial(duplicates, provider=store, rounds=6)))
        made.append(Unit(CAMPAIGN, store, "regions", partial(regions, provider=store, rounds=ROUNDS)))
    return made
