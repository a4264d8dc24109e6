"""A world in which a test can rotate keys: a clock that stands still, seeded randomness, a store and a ledger."""

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from daena_kms import trust
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.ledger import FolderLedger, Ledger
from daena_kms.manifest import History
from daena_kms.model import Outcome, State
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from daena_kms.stores.base import KeyStore
from daena_kms.stores.local import KekSource, LocalStore, create_vault

from . import aws_world, azure_world, gcp_world
from .doubles import MemoryLedger, MemoryStore

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(minutes=15)
KEY = "daena-encryption-key"


class Clock:
    """Stands still unless it is moved."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, **span: float) -> None:
        self.now += timedelta(**span)


class Backend(NamedTuple):
    """A store with its ledger, before anything wraps them."""

    store: Any
    ledger: Any


def local_backend(folder: Path, clock: Clock, entropy: Callable[[int], bytes]) -> Backend:
    """The real local store, in a folder."""
    source = KekSource(folder / "kek")
    create_vault(folder / "vault.db", source, entropy)
    ledger = FolderLedger(folder / "manifests", "home:manifests")
    store = LocalStore(
        folder / "vault.db", source, ledger=ledger.address, actor="local:tester", entropy=entropy, clock=clock
    )
    return Backend(store, ledger)


def memory_backend(_folder: Path, clock: Clock, entropy: Callable[[int], bytes], *, fenced: bool) -> Backend:
    """A strict double, in memory."""
    return Backend(MemoryStore(fenced=fenced, entropy=entropy, clock=clock), MemoryLedger())


def aws_backend(_folder: Path, _clock: Clock, _entropy: Callable[[int], bytes]) -> Backend:
    """The real AWS store on the strict double. One at a time: making it empties the account."""
    made = aws_world.emptied()
    return Backend(made.store(), made.ledger())


def azure_backend(_folder: Path, _clock: Clock, _entropy: Callable[[int], bytes]) -> Backend:
    """The real Azure store on the strict double, its ledger on Azurite. One at a time, as above."""
    made = azure_world.emptied()
    return Backend(made.store(), made.ledger())


def gcp_backend(_folder: Path, _clock: Clock, _entropy: Callable[[int], bytes]) -> Backend:
    """The real GCP store on the strict double, its ledger on fake-gcs-server. One at a time, as above."""
    made = gcp_world.emptied()
    return Backend(made.processes(), made.ledger())


BACKENDS: dict[str, Callable[[Path, Clock, Callable[[int], bytes]], Backend]] = {
    "local": local_backend,
    "memory-fenced": lambda f, c, e: memory_backend(f, c, e, fenced=True),
    "memory-unfenced": lambda f, c, e: memory_backend(f, c, e, fenced=False),
    "aws": aws_backend,
    "azure": azure_backend,
    "gcp": gcp_backend,
}
SERVED = {"aws", "azure", "gcp"}  # those behind a socket


class World:
    """Everything a run needs, and short ways to ask for one."""

    def __init__(self, backend: Backend, clock: Clock, policy: KeyPolicy | None = None) -> None:
        self.store: KeyStore = backend.store
        self.ledger: Ledger = backend.ledger
        self.clock = clock
        self.policy = policy or KeyPolicy(create=True)
        trust.initialise(self.store, self.ledger, clock=clock, trigger="test")
        self.keyring = trust.open_keyring(self.store, self.ledger)

    def service(self, store: Any = None, ledger: Any = None, clock: Callable[[], datetime] | None = None) -> Service:
        """A service as one process has it; store, ledger and clock may be wrapped to misbehave."""
        clock = clock or self.clock
        journal = Journal(ledger or self.ledger, self.keyring, clock=clock, actor="local:tester", trigger="test")
        tools = Tools(store or self.store, journal, clock, LEASE, timedelta(seconds=30), "policy-digest")
        policy = RotationPolicy({KEY: self.policy}, "policy-digest")
        return Service(tools, policy, tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)

    def rotate(self, **wrapped: Any) -> Outcome:
        """A tick; the one key's outcome."""
        (outcome,) = self.service(**wrapped).rotate(Order()).outcomes
        return outcome

    def force(self, request: str = "", **wrapped: Any) -> Outcome:
        """A forced rotation; its outcome."""
        order = Order((KEY,), force=True, request=request or uuid.uuid4().hex)
        (outcome,) = self.service(**wrapped).rotate(order).outcomes
        return outcome

    def history(self) -> History:
        """The key's manifest, verified and folded."""
        return History(self.service().journal.history(KEY))

    def problems(self) -> list[str]:
        """What verification finds, warnings included: nothing, if all is at rest and in order."""
        (found,) = self.service().verify([KEY])
        return [*found.problems, *found.warnings]

    def check(self) -> None:
        """The invariants that hold at rest, whatever happened."""
        assert self.problems() == []
        versions = self.history().versions
        assert [v.state for v in versions.values()].count(State.ACTIVE) == 1
        readable = [v for v in versions.values() if v.state in (State.ACTIVE, State.DECRYPT_ONLY)]
        for record in readable:
            assert self.service().get(KEY, record.number, reveal=True).material is not None
        claimed = [e.number for e in self.history().entries if e.event == "rotation-started"]
        assert len(claimed) == len(set(claimed)), "a number was given out twice"


def seeded(seed: int = 0) -> Callable[[int], bytes]:
    """Randomness that repeats."""
    return random.Random(seed).randbytes


class DiedError(BaseException):
    """The process was killed. Not an Exception: nothing may catch it."""


class Mortal:
    """Wraps a store or a ledger and lets the process die right before or right after chosen side effects."""

    def __init__(self, target: Any, effects: "Effects") -> None:
        self._target = target
        self._effects = effects

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name not in SIDE_EFFECTS:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            # What happens at a boundary happens in other processes: they do not know what this one remembers.
            with gcp_world.elsewhere():
                self._effects.before(name)
            result = value(*args, **kwargs)
            with gcp_world.elsewhere():
                self._effects.after(name)
            return result

        return call


SIDE_EFFECTS = ("append", "stage", "promote", "discard", "disable", "enable", "destroy", "label", "write_anchor")


class Effects:
    """Counts boundaries (before and after each side effect); dies at one of them, or sleeps while others act."""

    def __init__(self, die_at: int | None = None, sleep_at: int | None = None, meanwhile: Any = None) -> None:
        self.die_at = die_at
        self.names: list[str] = []
        self._sleep_at = sleep_at
        self._meanwhile = meanwhile

    def before(self, name: str) -> None:
        self._boundary(f"before {name}")

    def after(self, name: str) -> None:
        self._boundary(f"after {name}")

    def _boundary(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self._sleep_at:
            self._meanwhile()
        if len(self.names) == self.die_at:
            raise DiedError(name)


@contextmanager
def dying() -> Iterator[None]:
    """Swallow the death of a simulated process."""
    with suppress(DiedError):
        yield
