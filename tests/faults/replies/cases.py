"""One case: mishaps to the requests of one run, then the next runs left alone, then everything looked at.

A run is a tick as a process has it: clients of its own, the ledger's keys opened, the keys listed, what is due rotated.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from daena_kms import trust
from daena_kms.errors import KmsError
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.model import Status
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from tests.faults import seen
from tests.faults.checker import Checker
from tests.faults.units import Room
from tests.support.mishaps import Choose
from tests.support.worlds import KEY, LEASE, Backend, Clock, World

from .sites import Site

POLICY = KeyPolicy(create=True)
CALM_SECONDS, HURRIED_SECONDS = 30.0, 2.5  # call timeouts
PERIOD = timedelta(days=100)
TOLD = ("daena_kms", "botocore", "azure", "google", "urllib3", "grpc")
SUCCEEDED = {Status.ROTATED, Status.CREATED}
NOT_YET = {Status.FAILED, Status.DEFERRED}


class Told(NamedTuple):
    """What a run said of itself."""

    status: Status
    number: int
    text: str
    hint: str

    @property
    def done(self) -> bool:
        """Whether it says that the key was rotated."""
        return self.status in SUCCEEDED


class Lab:
    """One world behind proxies, in which case follows case. The first one creates the key."""

    def __init__(self, room: Room, site: Site, said: Path) -> None:
        self.room, self.site, self._said = room, site, said
        self.clock = Clock()
        site.emptied()
        self.world = World(site.backend(CALM_SECONDS), self.clock, POLICY)
        self.checker = Checker(seen.of_world(self.world))
        self.runs = self.succeeded = 0

    def case(self, choose: Choose) -> int:
        """Let it happen, leave it alone, look; how many requests something happened to."""
        self.clock.move(days=PERIOD.days)
        before = self._active()
        self.site.plan.begin(choose)
        told = self.run(self.site.backend(HURRIED_SECONDS))
        self.site.plan.end()
        story = f"{self.site.provider}: {self.site.plan.story()}"
        faults = len(self.site.plan.done)
        self._note(f"{story}\n{told}\n")
        problems = [*self._of_report(told, before)]
        problems += self._left_alone(before)
        for problem in problems:
            self.room.violation(f"{story}; told {told.status}: {told.text[:300]}; {problem}")
        self.room.case(faults=faults)
        self.runs, self.succeeded = self.runs + 1, self.succeeded + told.done
        return faults

    def run(self, backend: Backend) -> Told:
        """A tick."""
        try:
            (outcome,) = self.service(backend).rotate(Order()).outcomes
        except KmsError as problem:
            return Told(Status.FAILED, 0, problem.message, problem.hint)
        text = "; ".join([outcome.message, *outcome.notes])
        return Told(outcome.status, outcome.number, text, outcome.hint)

    def service(self, backend: Backend) -> Service:
        """What a new process has, on these clients."""
        keyring = trust.open_keyring(backend.store, backend.ledger)
        journal = Journal(backend.ledger, keyring, clock=self.clock, actor="tester", trigger="test")
        tools = Tools(backend.store, journal, self.clock, LEASE, timedelta(seconds=CALM_SECONDS), "policy-digest")
        policy = RotationPolicy({KEY: POLICY}, "policy-digest")
        return Service(tools, policy, tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)

    def end(self) -> None:
        """One more rotation without mishaps; then what the library itself finds in this world, and the checker."""
        self.clock.move(days=PERIOD.days)
        problems = [*self._calm_tick(), *self.world.problems(), *self.checker.check(KEY)]
        if problems:
            self.room.violation(f"{self.site.provider}: at the end of a world: {problems}")
        self.room.materials |= self.checker.materials
        self.site.released()

    def _active(self) -> int:
        """The number of the active version, as the manifest's last entry has it; 0 before there is a key."""
        active = self.world.service().journal.head(KEY).state.active
        return active.number if active is not None else 0

    def _of_report(self, told: Told, before: int) -> Iterator[str]:
        """A success is one; a failure is said in one plain line, with what to do."""
        now = self._active()
        if told.done and not (now > before and told.number == now):
            yield f"it says that {told.number} is active, and the manifest has {now} (before: {before})"
        if not told.done and not told.hint:
            yield "the failure has no hint"
        if told.status not in (*SUCCEEDED, *NOT_YET):
            yield "a tick that was due neither rotated nor failed"
        if "\n" in told.text or "Traceback" in told.text or "<html" in told.text:
            yield "the text is not plain"

    def _left_alone(self, before: int) -> Iterator[str]:
        """The next runs, without mishaps, but for what was kept on its way and arrives late."""
        self.clock.move(minutes=16)
        late = self.site.plan.deliver() if self.room.chance.random() < 0.5 else 0
        yield from self._calm_tick()
        if after := self.site.plan.deliver():
            yield from self._calm_tick()
        if self._active() <= before:  # a check that failed is tried again after a while
            self.clock.move(days=1)
            yield from self._calm_tick()
        if self._active() <= before:
            yield f"{before} is still active after the next runs"
        # No tick looks for staged copies of a key that is not due: the next rotation takes away what arrived late.
        yield from self.checker.check(KEY, leftovers=late + after > 0)

    def _calm_tick(self) -> Iterator[str]:
        told = self.run(self.site.backend(CALM_SECONDS))
        self._note(f"  then {told}\n")
        if told.status in NOT_YET:
            yield f"the next run failed: {told.text}"

    def _note(self, line: str) -> None:
        with self._said.open("a") as file:
            file.write(line)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """All that the library and the SDKs log meanwhile, at DEBUG, with tracebacks, into a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    handler.addFilter(lambda record: record.name.partition(".")[0] in TOLD)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
