"""A world on the GCP store, and a person who has the console."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from daena_kms.holdings import location
from daena_kms.material import KeyMaterial
from daena_kms.model import Anchor, Operation, State, Status, StoredVersion
from daena_kms.plan import rotation_id
from daena_kms.policy import KeyPolicy
from daena_kms.stores import gcp_layout as layout
from daena_kms.stores.base import NewVersion
from daena_kms.stores.gcp import GcpStore
from daena_kms.stores.gcp_secrets import Secrets

from . import gcp_world
from .doubles import MemoryLedger
from .gcp_world import PREFIX
from .gsm_faults import lost, only, unavailable
from .gsm_service import Between, Call, Carried
from .worlds import KEY, START, Backend, Clock, DiedError, Effects, World

NAME = PREFIX + KEY
STAGED = NAME + "--staged"
MAKE = KeyPolicy(create=True)
DESTROYS = KeyPolicy(create=True, grace_days=0, destroy_after_days=1)
LATER = 7_200.0  # by how much reads are behind, and more than an hour: what was done before it is not seen
WRITES = (
    "CreateSecret", "UpdateSecret", "AddSecretVersion",
    "EnableSecretVersion", "DisableSecretVersion", "DestroySecretVersion",
)  # fmt: skip


class Scene(World):
    """A world on the GCP store, its manifests in memory, and a person who has the console."""

    def __init__(self, policy: KeyPolicy = MAKE, ledger: Any = None) -> None:
        self.project = gcp_world.emptied()
        self.double = self.project.secrets
        self.held = self.double.store
        self.google = self.double.service
        self.double.clock.ahead, self.held._micros = START.timestamp() - time.time(), 0  # as late there as here
        self.calls = self.project.calls(self.project.gcp())
        held = ledger or MemoryLedger()
        super().__init__(Backend(self.process(address=held.address), held), Clock(), policy)

    # --- processes

    def process(self, secrets: Secrets | None = None, address: str = "") -> GcpStore:
        """The store as another process has it: it remembers nothing, and waits for nothing."""
        made = self.project.store(lambda _: secrets or self.calls)
        made._ledger = address or self.ledger.address
        return made

    def restart(self) -> GcpStore:
        """From now on another process rotates."""
        self.store = self.process()
        return self.store

    def mortal(self, effects: Effects, rpcs: tuple[str, ...] = WRITES) -> GcpStore:
        """Another process, which dies right before or right after one of these RPCs."""
        secrets = copy.copy(self.calls)
        secrets._client = Mortal(self.calls._client, effects, rpcs)
        return self.process(secrets)

    @property
    def gcp(self) -> GcpStore:
        """The store itself."""
        return cast("GcpStore", self.store)

    # --- what a person sees and does

    def put(self, *payloads: bytes, name: str = NAME, **fields: Any) -> list[int]:
        """New versions by hand; their ids. Makes the secret where there is none."""
        return self.held.put(name, *payloads, **fields)

    def lying(self, name: str = NAME) -> list[tuple[int, str, bytes]]:
        """Version, state and payload of each, in the order in which they were added."""
        return self.held.newest(name) if self.there(name) else []

    def there(self, name: str = NAME) -> bool:
        """Whether there is such a secret now."""
        return self.held._alive(name) is not None

    def payloads(self, name: str = NAME) -> list[bytes]:
        """What readers could get, oldest first."""
        return [data for _, state, data in self.lying(name) if state == "ENABLED"]

    def states_of(self, name: str = NAME) -> list[str]:
        """The state of each version."""
        return [state for _, state, _ in self.lying(name)]

    def secret(self, name: str = NAME) -> Any:
        """The secret as it is now, whatever readers are shown."""
        held = self.held._alive(name)
        assert held is not None
        return held.states.states[-1]

    def edit(self, name: str = NAME, **fields: Any) -> None:
        """Labels, annotations, version_destroy_ttl by hand; what is given takes the place of what was."""
        from google.cloud.secretmanager_v1.types import resources  # noqa: PLC0415

        changed = resources.Secret(**fields)
        self.held.update(name, resources.Secret.pb(changed), list(fields))

    def annotate(self, **changes: str | None) -> None:
        """One of our annotations by hand; None takes it away."""
        texts = dict(self.secret().annotations)
        for name, text in changes.items():
            texts.pop(layout.TAG + name, None)
            if text is not None:
                texts[layout.TAG + name] = text
        self.edit(annotations=texts)

    def annotation(self, name: str) -> str:
        """One of our annotations."""
        return str(self.secret().annotations[layout.TAG + name])

    def switch(self, version: int, state: str, name: str = NAME) -> None:
        """Disable, enable or destroy a version by hand."""
        getattr(self.held, state)(name, str(version), "")

    def delete(self, *names: str) -> None:
        """A secret with everything in it."""
        for name in names or (NAME, STAGED):
            self.held.delete(name, "")

    def actions(self, act: Callable[[], object]) -> list[str]:
        """Which RPCs are called meanwhile, each with what it is about."""
        before = len(self.google.calls)
        act()
        return [shown(call) for call in self.google.calls[before:]]

    # --- time

    def pass_(self, **span: float) -> None:
        """Time passes, for the service as well."""
        before = self.clock.now
        self.clock.move(**span)
        self.double.clock.move((self.clock.now - before).total_seconds())

    @contextmanager
    def stale(self, seconds: float = LATER) -> Iterator[None]:
        """Meanwhile reads are so far behind; what was done before this is long past."""
        self.double.clock.move(seconds + 60)
        self.held.staleness = seconds
        yield
        self.held.staleness = 0.0

    # --- short ways

    def versions(self, count: int) -> list[KeyMaterial]:
        """Rotate until the key has so many versions; their materials, the first first."""
        self.rotate()
        for _ in range(count - 1):
            outcome = self.force()
            assert outcome.status is Status.ROTATED, outcome
        return self.materials()

    def materials(self) -> list[KeyMaterial]:
        """The material of each number that can be read."""
        records = self.history().versions
        readable = [r for _, r in sorted(records.items()) if r.state in (State.ACTIVE, State.DECRYPT_ONLY)]
        return [self.store.read(KEY, location(record)) for record in readable]

    def states(self) -> dict[int, State]:
        """The state of each number."""
        return {number: record.state for number, record in self.history().versions.items()}

    def numbers(self) -> dict[int, int]:
        """Version -> number, as the annotation says."""
        return layout.Secret("", "", {}, self.secret().annotations).numbers

    def save(self) -> Callable[[], None]:
        """Remember everything; what is returned puts it back, and starts another process."""
        objects, now, restore = dict(self.memory.objects), self.clock.now, self.held.saved()

        def back() -> None:
            self.memory.objects, self.clock.now = dict(objects), now
            restore()
            self.restart()

        return back

    def forget_manifest(self) -> None:
        """Somebody emptied the bucket."""
        for place in [place for place in self.memory.objects if place[0] == KEY]:
            del self.memory.objects[place]

    @property
    def memory(self) -> MemoryLedger:
        """The ledger itself."""
        return cast("MemoryLedger", self.ledger)

    def recover(self, ticks: int = 3) -> None:
        """Ticks of other processes, each after a lease's end, as the scheduler brings them."""
        for _ in range(ticks):
            self.pass_(minutes=61)
            self.restart()
            self.rotate()


def shown(call: Call) -> str:
    """An RPC and what it is about, the project left out."""
    return f"{call.rpc} {'/'.join(call.resource.split('/')[3::2])}".strip()


def new(number: int, key: str = KEY) -> NewVersion:
    """What a claim announces."""
    return NewVersion(number, rotation_id(key, 1, number), f"1:fingerprint-{number}", "AES-256")


def anchor(number: int = 1) -> Anchor:
    """A head, as good as any to be written."""
    return Anchor(9, "0" * 64, number, START)


class Mortal:
    """Lets the process die right before or right after chosen RPCs: the server does it or not, and nobody is told."""

    def __init__(self, client: Any, effects: Effects, rpcs: tuple[str, ...]) -> None:
        self._client = client
        self.effects = effects
        self._rpcs = {_snake(rpc) for rpc in rpcs}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if name not in self._rpcs:
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            self.effects.before(name)
            reply = value(*arguments, **options)
            self.effects.after(name)
            return reply

        return call


def _snake(rpc: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in rpc).lstrip("_")


__all__ = [
    "DESTROYS", "KEY", "LATER", "NAME", "STAGED", "WRITES", "Between", "Call", "Carried", "DiedError", "Mortal",
    "Operation", "Scene", "StoredVersion", "anchor", "lost", "new", "only", "shown", "unavailable",
]  # fmt: skip
