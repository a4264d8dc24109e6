"""Keys that live through faults in this process: a world, what can be done to a key in it, and what must be so after.

A case: a key is made ready for an act, the act is done under a script of faults, what other processes do meanwhile
included; then nobody helps. After the lease the next scheduled run comes, and one more; then the act is asked for again
if it was a person's; then the independent checker looks; and 90 days later the key is rotated as if nothing had been.
"""

import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from daena_kms.errors import KmsError
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.material import KeyMaterial
from daena_kms.model import Outcome, Status
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from tests.support.worlds import BACKENDS, LEASE, Clock, DiedError, World, seeded

from . import seen
from .checker import Checker
from .script import Script
from .units import Room

POLICY = KeyPolicy(create=True, grace_days=0, destroy_after_days=1)
KEEPS_ONE = KeyPolicy(create=True, grace_days=0, keep_versions=1, destroy_after_days=1)
_SECONDS = timedelta(seconds=30)  # that a call may take
Act = Callable[[Service, str], object]


class Deed(NamedTuple):
    """Something to do to a key, and how many versions it must have before."""

    act: Act
    versions: int
    again: bool = False
    """A person asks again for what has not come about. Else the next tick carries it on by itself."""
    due: bool = False
    """The key is as old as its policy allows."""
    policy: KeyPolicy = POLICY
    ready: Act = lambda _, __: None
    """What is done before, a day ahead."""


def tick(service: Service, key: str) -> Outcome:
    """The scheduler comes."""
    report = service.rotate(Order())
    return next(outcome for outcome in report.outcomes if outcome.key == key)


def force(service: Service, key: str) -> Outcome:
    """A person wants it now."""
    (outcome,) = service.rotate(Order((key,), force=True, request="ticket-7")).outcomes
    return outcome


DEEDS: dict[str, Deed] = {
    "create": Deed(tick, 0),
    "rotate": Deed(tick, 1, due=True),
    "force": Deed(force, 1, again=True),
    "rotate and retire": Deed(tick, 2, due=True, policy=KEEPS_ONE),
    "rollback": Deed(lambda s, k: s.rollback(k), 2, again=True),
    "disable": Deed(lambda s, k: s.disable(k, 1), 2, again=True),
    "enable": Deed(lambda s, k: s.enable(k, 1), 2, again=True, ready=lambda s, k: s.disable(k, 1)),
    "destroy": Deed(tick, 3, ready=lambda s, k: s.destroy(k, 1)),
    "compromised": Deed(lambda s, k: s.compromised(k, 1), 1, again=True),
    "import": Deed(lambda s, k: s.bring(k, KeyMaterial(_imported(k))), 1, again=True),
}
WELL = {Status.CREATED, Status.ROTATED, Status.DONE, Status.NOT_DUE, Status.WAITING}


def _imported(key: str) -> bytes:
    return (b"imported canary of " + key.encode()).ljust(32, b".")[:32]


class Land:
    """A world with many keys, one after the other. On clouds there is one at a time."""

    def __init__(self, backend: str, folder: Path, room: Room) -> None:
        self.backend = backend
        self.room = room
        self.clock = Clock()
        self.world = World(BACKENDS[backend](folder, self.clock, seeded(room.chance.randrange(2**32))), self.clock)
        self.eye = seen.of_world(self.world)
        self.checker = Checker(self.eye)
        self.numbers = itertools.count(1)

    def close(self) -> None:
        """Leave it."""
        self.room.materials |= self.checker.materials
        getattr(self.world.store, "close", lambda: None)()

    def service(self, key: str, policy: KeyPolicy, script: Script | None = None) -> Service:
        """What one process has, under a script or left alone."""
        store, ledger = self.world.store, self.world.ledger
        if script is not None:
            store, ledger = script.store(store), script.ledger(ledger)
        journal = Journal(ledger, self.world.keyring, clock=self.clock, actor="local:tester", trigger="campaign")
        tools = Tools(store, journal, self.clock, LEASE, _SECONDS, "policy-digest")
        policies = RotationPolicy({key: policy}, "policy-digest")
        return Service(tools, policies, tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)


class Life:
    """One key, made ready for a deed."""

    def __init__(self, land: Land, deed: Deed) -> None:
        self.land, self.deed = land, deed
        self.key = f"k-{next(land.numbers):05d}"
        self.clock = land.clock
        self.watched: set[bytes] = set()
        self.problems: list[str] = []
        self.told: list[str] = []
        self.there = False
        for _ in range(deed.versions):
            self.clock.move(days=90)
            tick(self.left_alone(), self.key)
        if deed.versions:
            self.there = True
            self.clock.move(days=90 if deed.due else 0)
        deed.ready(self.left_alone(), self.key)
        self.clock.move(days=2)

    def left_alone(self) -> Service:
        """A process without faults."""
        return self.land.service(self.key, self.deed.policy)

    def watch(self) -> None:
        """A reader asks for the key."""
        live = self.land.eye.live(self.key)
        if live is not None:
            self.there = True
            self.watched.add(live)
        elif self.there:
            self.problems.append("a reader found nothing")

    def run(self, faults: Mapping[int, str], act: Act | None = None, meanwhile: Act = tick) -> Script:
        """One run under faults; `meanwhile` is what another process does past the lease, where a fault sleeps."""

        def others() -> None:
            self.clock.move(minutes=61)
            self.tell("meanwhile", meanwhile)

        before: dict[str, Any] = {}
        if any("what was" in fault for fault in faults.values()):
            before["show what was"] = self.land.world.store.observe(self.key)
            before["list what was"] = list(self.land.world.store.inventory())
        script = Script(faults, self.clock, meanwhile=others, watch=self.watch, before=before)
        self.tell("run", act or self.deed.act, script)
        self.told += script.injected
        return script

    def tell(self, who: str, act: Act, script: Script | None = None) -> Outcome | None:
        """Do something as one process, and note what came of it. None for a process that died or was refused."""
        result: object = None
        try:
            result = act(self.land.service(self.key, self.deed.policy, script), self.key)
            self.told.append(f"{who}: {result.status} {result.message}" if isinstance(result, Outcome) else who)
        except DiedError as death:
            self.told.append(f"{who}: died ({death})")
        except KmsError as problem:
            self.told.append(f"{who}: {type(problem).__name__} {problem.message}")
        return result if isinstance(result, Outcome) else None

    def settle(self, *scripts: Script) -> None:
        """Nobody helps: the next scheduled runs come, and late requests arrive between them."""
        self.clock.move(minutes=61)
        self._goes_well("the next run")
        for script in scripts:
            for request in script.late:
                with suppress(KmsError, KeyError):  # nobody is there to hear the answer
                    request()
                self.watch()
        self.clock.move(minutes=61)
        self._goes_well("the run after")
        faults = sum(len(script.injected) for script in scripts)
        if faults == 1 and not any(script.late for script in scripts) and self._left_open():
            self.problems.append("scheduled runs alone would not end what was left open")
        if self.deed.again:
            self.tell("asked again", self.deed.act)
            self.clock.move(minutes=61)
            self._goes_well("the run after that")
        self.watch()

    def _left_open(self) -> bool:
        with suppress(KmsError):  # what is wrong with the manifest, the runs have said
            return self.left_alone().state(self.key).claim is not None
        return False

    def _goes_well(self, which: str) -> None:
        outcome = self.tell(which, tick)
        if outcome is None or outcome.status not in WELL:
            self.problems.append(f"{which} did not go well")
        elif outcome.status is Status.WAITING:
            self.clock.move(hours=3)
            self._goes_well(which + " once it has waited")

    def check(self, *, asked_again: bool = True) -> list[str]:
        """What is not as it must be, at rest; then 90 days later.

        Unless asked again, what a person wanted may still be announced, if its run slept past its lease and then died,
        or if the announcement arrived late: ticks find that when the key is due, and carry it out then.
        """
        look = self.land.checker.check
        problems = self.problems + look(self.key, watched=self.watched, leftovers=True, at_rest=asked_again)
        outcome = self._due()
        if not asked_again and outcome is not None and outcome.status is Status.DONE:
            outcome = self._due()  # that tick carried out what a person had wanted
        if outcome is None or outcome.status is not Status.ROTATED:
            problems.append("90 days later it was not rotated")
        # What was laid down after everybody had looked is found by the next rotation.
        return problems + look(self.key, watched=self.watched)

    def _due(self) -> Outcome | None:
        self.clock.move(days=91)
        return self.tell("90 days later", tick)
