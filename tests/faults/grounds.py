"""Where processes rotate the same keys: one store's place of its own, a clock for all, a reader, and what is checked.

with Grounds(room, "aws", keys=40) as ground:
    ground.make(ground.keys)
    ...
    ground.settle(ground.keys, "what was done")
"""

import hashlib
import json
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self
from unittest import mock

from daena_kms.manifest import History
from daena_kms.service import Service
from daena_kms.stores.pace import Pace

from . import seen
from .checker import Checker
from .rotating import Clock, Job
from .rotators import News, Rotators, TooLongError
from .scene import Doubles, Place, Scene
from .units import Room
from .watcher import Seen, Watcher

LEASE_MINUTES = 16  # a minute more than DAENA_LEASE_MINUTES says
PERIOD_DAYS = 90
UNFENCED = ("azure", "gcp")
POLICY = "[defaults]\ncreate = true\ngrace_days = 0\ndestroy_after_days = 1\n"
# What a process may end with that shared its keys with others: done, or one of them was held by another.
WELL = (0, 1)


class Ran(NamedTuple):
    """A process, and what it was told to do."""

    name: str
    job: Job
    process: int

    def way(self) -> list[str]:
        """The boundaries it came to before it was last stopped or ended."""
        with open(self.job.said + ".way") as file:
            return file.read().split("\n")

    def report(self) -> dict[str, Any]:
        """What it printed with --json."""
        with open(self.job.said + ".out") as file:
            found: dict[str, Any] = json.load(file)
        return found

    def told(self) -> str:
        """The end of what it said."""
        with open(self.job.said + ".out") as out, open(self.job.said + ".err") as err:
            return (out.read()[-1500:] + err.read()[-1500:]).strip()


class Grounds:
    """One place, and everything that works with it."""

    def __init__(self, room: Room, provider: str, keys: int, *, policy: str = POLICY) -> None:
        """`policy`: what all its keys have in common, in TOML."""
        self.room, self.provider = room, provider
        self._stack = ExitStack()
        doubles = Doubles([provider])
        self._stack.enter_context(doubles.entered())
        self._stack.enter_context(mock.patch.object(Pace, "wait", return_value=True))
        self.scene = Scene(room.folder, doubles, keys, 1)
        self.keys = self.scene.keys
        self.scene.policy.write_text(policy + "".join(f"[keys.{key}]\n" for key in self.keys))
        self.clock = self._stack.enter_context(Clock(room.folder / "clock"))
        self.place: Place = self.scene.place(provider)
        self.environment = self.scene.child(self.place.settings)
        self.forks = self._stack.enter_context(Rotators(provider, self.environment))
        with self.service(makes=True):
            pass
        self.eye = seen.of_place(self.place)
        self.checker = Checker(self.eye)
        self._known: dict[str, bytes] = {}
        prefix = self.place.settings.get("DAENA_KEY_PREFIX", "")
        log = room.folder / "said" / "reader.jsonl"
        self.reader = self._stack.enter_context(Watcher(provider, prefix, self.environment, log))
        self._numbers = count(1)
        self.late = 0
        """How often a late write was on top until the next run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.room.figure("reads by others", self.reader.reads)
        if self.provider in UNFENCED:
            self.room.figure("late writes on top until the next run", self.late)
        self._stack.close()

    @contextmanager
    def service(self, *, makes: bool = False) -> Iterator[Service]:
        """A service in this process, which remembers nothing."""
        with self.place.opened(self.clock, makes=makes) as service:
            yield service

    # --- processes

    def job(self, arguments: Sequence[str], **how: Any) -> tuple[str, Job]:
        """A job here; `how` as in `Job`, `settings` of its own besides."""
        name = f"{next(self._numbers):05d}"
        environment = self.environment | how.pop("settings", {})
        said = str(self.room.folder / "said" / name)
        return name, Job(list(arguments), said, environment, str(self.clock.file), **how)

    def start(self, *arguments: str, **how: Any) -> Ran:
        """Start a process."""
        name, job = self.job(arguments, **how)
        return Ran(name, job, self.forks.start(job))

    def run(self, *arguments: str, **how: Any) -> tuple[Ran, News]:
        """One process, until it ends, dies or is stopped."""
        ran = self.start(*arguments, **how)
        return ran, self.wait(ran)

    def wait(self, ran: Ran) -> News:
        """The next thing that happens to it. A process that hangs is killed, and a violation."""
        try:
            news = self.forks.wait(ran.process)
        except TooLongError:
            self.room.violation(f"{self.provider}: {ran.job.arguments} neither ended nor stopped: {ran.told()}")
            return self.forks.wait(ran.process)
        if news.what == "ended":
            self._decent(ran, news)
        return news

    def _decent(self, ran: Ran, news: News) -> None:
        """However it ended: with one of our statuses, and no traceback."""
        told = ran.told() if news.status != 0 else ""
        if news.status not in (0, 1, 2, 3) or "Traceback" in told or "bug of ours" in told:
            self.room.violation(f"{self.provider}: {ran.job.arguments} ended with {news.status}: {told}")

    def wake(self, ran: Ran) -> None:
        """Let a stopped process go on."""
        self.forks.signal(ran.process, signal.SIGCONT)

    # --- keys

    def make(self, keys: Collection[str], versions: int = 1, *, due: bool = True) -> None:
        """New keys with so many versions, the last of which is due for its rotation, or nearly."""
        with self.service() as service:
            for key in keys:
                service.create(key)
        for _ in range(versions - 1):
            self.clock.move(days=PERIOD_DAYS)
            with self.service() as service:
                for key in keys:
                    service.rotate_now(key)
        if due:
            self.clock.move(days=PERIOD_DAYS)

    def versions(self, keys: Sequence[str]) -> dict[str, int]:
        """How many versions each key has had."""
        with self.service() as service:
            return {key: len(History(service.journal.history(key)).versions) for key in keys}

    # --- what must be so

    def tick(self, keys: Sequence[str], story: str, *, rotates: bool | None = None) -> None:
        """A scheduled run of these keys, which must not fail, and perhaps must rotate all, or none."""
        ran, news = self.run("rotate", *keys, "--json")
        if news.what != "ended" or news.status != 0:
            self.room.violation(f"{self.provider}: {story}; then a tick {news.what} with {news.status}: {ran.told()}")
            return
        for outcome in ran.report()["outcomes"]:
            made = outcome["status"] in ("rotated", "created")
            if rotates is not None and made is not rotates:
                self.room.violation(f"{self.provider}: {story}; a tick, which should {rotates=}, found {outcome}")

    def settle(
        self,
        keys: Sequence[str],
        stories: Mapping[str, str],
        grown: Mapping[str, tuple[int, int]],
        wanted: Callable[[Sequence[str]], object] = lambda _: None,
        *,
        leftovers: bool = False,
    ) -> None:
        """All is over: a tick when the leases have ended, one that finds nothing to do, one that finds all of it due.

        `grown`: how many versions each key has to have then, at least and at most, before those of the last tick.
        `wanted`: looks for more, at that moment. `leftovers`: a dead zombie may have staged something late, where no
        reader looks: no tick looks there either until the key is next due, but then it must be gone.
        """
        self.clock.move(minutes=LEASE_MINUTES)
        self.tick(keys, "the last process was left alone")
        self.reader.watch(keys)
        self.clock.move(minutes=LEASE_MINUTES)
        self.tick(keys, "a tick has put all in order", rotates=False)
        self.check(keys, stories, grown, leftovers=leftovers)
        wanted(keys)
        self.clock.move(days=PERIOD_DAYS)
        self.tick(keys, f"{PERIOD_DAYS} days have passed", rotates=True)
        self.clock.move(minutes=LEASE_MINUTES)
        if leftovers:
            self.check(keys, stories, {})

    def check(
        self,
        keys: Sequence[str],
        stories: Mapping[str, str],
        grown: Mapping[str, tuple[int, int]],
        *,
        leftovers: bool = False,
    ) -> None:
        """At rest: what the checker says, what readers were given, and how many versions there are."""
        got = self.reader.seen()
        counted = self.versions(keys)
        for key in keys:
            for problem in self.checker.check(key, watched=self._given(key, got, stories), leftovers=leftovers):
                self._violated(stories, key, problem)
            least, most = grown.get(key, (counted[key], counted[key]))
            if not least <= counted[key] <= most:
                self._violated(stories, key, f"{counted[key]} versions, not {least} to {most}")
        self.room.materials |= self.checker.materials

    def _given(self, key: str, got: Sequence[Seen], stories: Mapping[str, str]) -> list[bytes]:
        """What the reader got of a key. What it did not get, or nobody knows, is a violation."""
        found = []
        for each in (each for each in got if each.key == key):
            material = self._material(each)
            if material is not None:
                found.append(material)
            elif each.trouble:
                self._violated(stories, key, f"a reader got nothing: {each.trouble}")
            else:
                self._violated(stories, key, f"a reader got what is nobody's ({each.sha256[:12]} by SHA-256)")
        return found

    def _material(self, got: Seen) -> bytes | None:
        if got.sha256 and got.sha256 not in self._known:
            self.learn([got.key])
        return self._known.get(got.sha256)

    def learn(self, keys: Sequence[str]) -> None:
        """Remember what lies in the store, by its SHA-256: what is to be destroyed may have been read before."""
        for key in keys:
            materials = (copy.material for copy in self.eye.key(key).copies if copy.material is not None)
            self._known.update({hashlib.sha256(material).hexdigest(): material for material in materials})

    def _violated(self, stories: Mapping[str, str], key: str, problem: str) -> None:
        self.room.violation(f"{self.provider}: {key}: {stories.get(key, 'nothing was done')}; {problem}")

    def count_late(self, keys: Sequence[str]) -> None:
        """How many of them have a late write on top, before the next run puts it right (Azure and GCP alone)."""
        if self.provider not in UNFENCED:
            return
        with self.service() as service:
            for key in keys:
                if service.state(key).active is None:
                    continue
                active, live = service.get(key, reveal=True).material, self.eye.key(key).live
                self.late += active is not None and live is not None and active.reveal() != live
