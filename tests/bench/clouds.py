"""What figures of every cloud share: fleets on a double, what they send, how fast they go, what it costs."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

from daena_kms import trust
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.ledger import Ledger
from daena_kms.model import Status, utc_now
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from daena_kms.stores.base import KeyStore

from ..support.worlds import LEASE, Clock
from .figures import Figure, compared
from .scene import check

CONCURRENCY = (1, 4, 16)
CALL_TIMEOUT = timedelta(seconds=30)
EVERY_KEY = Order()

Calls = Counter[str]


class Wire:
    """What is sent to a cloud, each attempt, in the order in which it is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []  # many threads may: unlike adding, appending is atomic

    @contextmanager
    def counting(self) -> Iterator[Calls]:
        """What is sent inside, to be read afterwards."""
        before, seen = len(self.sent), Calls()
        yield seen
        seen.update(self.sent[before:])


class CloudScene:
    """A fleet with a store, a ledger and a clock of its own, built as a function builds it."""

    def __init__(self, store: KeyStore, ledger: Ledger, keys: Mapping[str, KeyPolicy], prefix: str = "") -> None:
        self.clock = Clock(utc_now())
        self.store, self.ledger, self.prefix = store, ledger, prefix
        self.policy = RotationPolicy(keys, "bench")
        trust.initialise(self.store, self.ledger, clock=self.clock, trigger="bench")
        self.keyring = trust.open_keyring(self.store, self.ledger)

    def service(self, concurrency: int = 1) -> Service:
        """What a tick makes anew."""
        journal = Journal(self.ledger, self.keyring, clock=self.clock, actor=self.store.actor, trigger="bench")
        tools = Tools(self.store, journal, self.clock, LEASE, CALL_TIMEOUT, self.policy.digest)
        limits = Limits(concurrency)
        return Service(tools, self.policy, tick=Tick(), limits=limits, monotonic=time.monotonic, prefix=self.prefix)

    def create(self, concurrency: int = 1) -> None:
        """Make every key of the policy."""
        self.tick(concurrency, Status.CREATED)

    def rotate(self, concurrency: int = 1, order: Order = EVERY_KEY) -> None:
        """A tick when every key is due (or the order forces some)."""
        if not order.force:
            self.clock.move(days=max(policy.rotate_after_days for policy in self.policy.keys.values()))
        self.tick(concurrency, Status.ROTATED, order)

    def tick(self, concurrency: int, expected: Status, order: Order = EVERY_KEY) -> None:
        """A tick that must end the same for each key."""
        check(self.service(concurrency).rotate(order), expected)


class Side:
    """What the rounds of one side measured."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.rates: list[float] = []
        self.calls: list[float] = []
        self.processor: list[float] = []

    def take(self, wire: Wire, keys: int) -> None:
        """One round: rotations and calls per second, and the client's processor time per rotation in milliseconds."""
        cpu, started = time.process_time(), time.perf_counter()
        with wire.counting() as seen:
            self._work()
        seconds = time.perf_counter() - started
        self.rates.append(keys / seconds)
        self.calls.append(seen.total() / seconds)
        self.processor.append((time.process_time() - cpu) / keys * 1e3)


def rates(
    wire: Wire, ours: Callable[[], object], peer: Callable[[], object], keys: int, rounds: int
) -> tuple[Side, Side]:
    """Both sides in turns, after one that warms them; who goes first changes."""
    sides = Side(ours), Side(peer)
    ours()
    peer()
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            side.take(wire, keys)
    return sides


def rate_figures(group: str, concurrency: int, sides: tuple[Side, Side], peer_is: str) -> list[Figure]:
    """Rotations a second, and processor time."""
    name, (ours, theirs) = f"concurrency {concurrency}", sides
    return [
        compared(group, name, ours.rates, "rotations/s", theirs.rates, peer_is),
        compared(group, f"{name}: client's processor", ours.processor, "ms/rotation", theirs.processor, peer_is),
    ]


def per_key(seen: Calls, keys: Sequence[str], apart: Collection[str] = ()) -> Calls:
    """The calls for each key, which must be the same for all; those `apart` are for all keys together."""
    calls = {name: count for name, count in seen.items() if name not in apart}
    if uneven := [name for name, count in calls.items() if count % len(keys)]:
        raise SystemExit(f"the same calls for each key expected, got {uneven} of {seen}")
    return Counter({name: count // len(keys) for name, count in calls.items()})


def dollars(calls: Calls, prices: Mapping[str, float]) -> float:
    """What calls cost: a price is one call's, or that of a whole service."""
    return sum(count * prices.get(name, prices.get(name.partition(".")[0], 0.0)) for name, count in calls.items())


def text(calls: Calls) -> str:
    """For people."""
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in sorted(calls.items()))
