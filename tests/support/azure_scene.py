"""A world on the Azure store, and a person who has the portal."""

from collections.abc import Callable
from typing import Any, cast

from daena_kms.holdings import location
from daena_kms.material import KeyMaterial
from daena_kms.model import State, Status
from daena_kms.policy import KeyPolicy
from daena_kms.stores import azure_layout as layout

from . import azure_world
from .azure_world import PREFIX
from .doubles import MemoryLedger
from .vault_http import Answer, Asked
from .vault_secrets import Secret, Version
from .worlds import KEY, Backend, Clock, World

NAME = PREFIX + KEY
STAGED = NAME + "--staged"
MAKE = KeyPolicy(create=True)


class Scene(World):
    """A world on the Azure store, its manifests in memory, and a person who has the portal."""

    def __init__(self, policy: KeyPolicy = MAKE) -> None:
        self.account = azure_world.emptied()
        self.server = self.account.vault.server
        self.secrets = self.server.secrets
        self.azure = self.account.store()
        super().__init__(Backend(self.azure, MemoryLedger()), Clock(), policy)
        self.azure._ledger = self.ledger.address

    # --- what a person sees and does

    def put(self, value: str, name: str = NAME, **fields: Any) -> str:
        """A new version by hand; its id."""
        return str(self.secrets.put(name, {"value": value, **fields})["id"]).rpartition("/")[2]

    def change(self, version: str, name: str = NAME, **fields: Any) -> None:
        """A version's tags or attributes by hand."""
        self.secrets.patch(name, version, fields)

    def lying(self, name: str = NAME) -> list[Version]:
        """Every version, in the order in which they were put."""
        found = self.secrets.live.get(name, Secret(name))
        return list(found.versions)

    def numbers(self, name: str = NAME) -> list[int]:
        """Their numbers."""
        return [layout.number(version.tags or {}) for version in self.lying(name)]

    def enabled(self, name: str = NAME) -> list[int]:
        """The numbers of those that can be read."""
        return [layout.number(version.tags or {}) for version in self.lying(name) if version.enabled]

    def apart(self) -> None:
        """As if what lies there had been put minutes apart, as it is outside of tests."""
        for secret in self.secrets.live.values():
            oldest = len(secret.versions)
            secret.versions = [
                replaced(version, created=version.created - 600 * (oldest - index))
                for index, version in enumerate(secret.versions)
            ]

    def actions(self, act: Callable[[], object]) -> list[str]:
        """What the vault is asked for meanwhile."""
        before = len(self.server.calls)
        act()
        return [f"{call.method} {call.name}".removesuffix(" ") for call in self.server.calls[before:]]

    # --- short ways

    def versions(self, count: int) -> list[KeyMaterial]:
        """Rotate until the key has so many versions; their materials, the first first."""
        self.rotate()
        for _ in range(count - 1):
            outcome = self.force()
            assert outcome.status is Status.ROTATED, outcome
        return self.materials()

    def materials(self) -> list[KeyMaterial]:
        """The material of each number."""
        records = self.history().versions
        return [self.azure.read(KEY, location(records[number])) for number in sorted(records)]

    def states(self) -> dict[int, State]:
        """The state of each number."""
        return {number: record.state for number, record in self.history().versions.items()}

    def save(self) -> Callable[[], None]:
        """Remember everything; what is returned puts it back."""
        objects, now, restore = dict(self.memory.objects), self.clock.now, self.secrets.saved()

        def back() -> None:
            self.memory.objects, self.clock.now = dict(objects), now
            restore()

        return back

    def forget_manifest(self) -> None:
        """Somebody emptied the container."""
        for place in [place for place in self.memory.objects if place[0] == KEY]:
            del self.memory.objects[place]

    @property
    def memory(self) -> MemoryLedger:
        """The ledger itself."""
        return cast("MemoryLedger", self.ledger)


def replaced(version: Version, **changes: Any) -> Version:
    """A version, otherwise."""
    return Version(**{**vars(version), **changes})


def refusal(status: int, code: str, inner: str = "", **headers: str) -> Answer:
    """An error as Key Vault words it."""
    error: dict[str, Any] = {"code": code, "message": "because"}
    if inner:
        error["innererror"] = {"code": inner}
    return Answer(status, {"error": error}, headers)


Fault = Callable[[Asked, Callable[[], Answer]], Answer | None]


def once(action: str, fault: Fault, name: str = "") -> Fault:
    """Something else for the first request of that action (on secrets whose name begins so)."""
    done: list[str] = []

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer | None:
        if asked.action != action or not asked.name.startswith(name) or done:
            return answer()
        done.append(action)
        return fault(asked, answer)

    return between


def only_reads(name: str, answer: Answer) -> Fault:
    """Something else for whoever reads a secret whose name begins so."""
    return lambda asked, carried: answer if asked.action == "getSecret" and asked.name.startswith(name) else carried()


def lost(_asked: Asked, answer: Callable[[], Answer]) -> None:
    """It is carried out, and nobody is told."""
    answer()


def not_sent(_asked: Asked, _answer: Callable[[], Answer]) -> None:
    """It is not carried out, and nobody is told."""
