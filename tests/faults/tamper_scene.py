"""Keys with a past, on any store, whose manifests and store an attacker then changes at rest.

What lies in the ledger is copied to memory once the past is lived: so that a change, and its undoing, cost nothing.
Each look is a process's own: it opens the ledger's keys anew, and remembers nothing.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from daena_kms import trust
from daena_kms.errors import KmsError
from daena_kms.fleet import Limits, Order
from daena_kms.holdings import location
from daena_kms.journal import Journal
from daena_kms.keyring import Keyring
from daena_kms.manifest import History
from daena_kms.material import KeyMaterial
from daena_kms.model import Anchor, Outcome, State, Status, VersionRecord
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from tests.support import liars
from tests.support.doubles import MemoryLedger
from tests.support.manifest_reader import RESERVED, BadError, read_generations, verify_chain
from tests.support.worlds import BACKENDS, KEY, LEASE, Clock, seeded

OTHER, YOUNG = "billing-key", "session-key"
KEYS = (KEY, OTHER, YOUNG)
Place = tuple[str, int]
Objects = dict[Place, bytes]
Changes = Mapping[Place, bytes | None]
"""What is to lie where; None for nothing."""


class SurpriseError(Exception):
    """Something else than an error of ours came out."""


class Copy(MemoryLedger):
    """The objects of another ledger, in memory, under its address."""

    def __init__(self, ledger: Any) -> None:
        super().__init__()
        self.address = ledger.address
        for key in ledger.names():
            for sequence in ledger.sequences(key):
                stored = ledger.read(key, sequence)
                assert stored is not None
                self.objects[key, sequence] = stored


class Recording:
    """A store that remembers every head that was ever laid beside a key."""

    def __init__(self, store: Any, anchors: dict[str, dict[int, Anchor]]) -> None:
        self._store = store
        self._anchors = anchors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write_anchor(self, key: str, anchor: Anchor) -> None:
        self._anchors.setdefault(key, {})[anchor.sequence] = anchor
        self._store.write_anchor(key, anchor)


class Verdict(NamedTuple):
    """What a verifier says; nothing, if all is well."""

    problems: tuple[str, ...]

    @property
    def bad(self) -> bool:
        return bool(self.problems)


class House:
    """A store with three keys, and its ledger."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.clock = Clock()
        backend = BACKENDS[name](folder, self.clock, seeded())
        self.store: Any = backend.store
        self.real: Any = backend.ledger
        self.ledger: Any = backend.ledger
        self.anchors: dict[str, dict[int, Anchor]] = {}
        self.policy = KeyPolicy(create=True, destroy_after_days=7)
        trust.initialise(self.store, self.ledger, clock=self.clock, trigger="test")
        self.pin = trust.read_root(self.ledger).trust.public_key
        self.materials: dict[str, dict[int, bytes]] = {}
        """Key -> number -> what every reader must get, or nothing."""
        self.records: dict[str, dict[int, VersionRecord]] = {}
        self.keyring: Keyring
        self.past: Objects = {}
        """What lay in the ledger when the attacker came."""

    # --- as processes have it

    def service(self, store: Any = None) -> Service:
        """A service of a process that begins now."""
        self.forget()
        keyring = trust.open_keyring(self.store, self.ledger, self.pin)
        journal = Journal(self.ledger, keyring, clock=self.clock, actor="local:tester", trigger="test")
        tools = Tools(store or self.store, journal, self.clock, LEASE, LEASE / 30, "policy-digest")
        policy = RotationPolicy(dict.fromkeys(KEYS, self.policy), "policy-digest")
        return Service(tools, policy, tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)

    def verified(self, keys: tuple[str, ...] = ()) -> Verdict:
        """What `verify` says."""

        def ask() -> tuple[str, ...]:
            return tuple(f"{each.key}: {p}" for each in self.service().verify(keys) for p in each.problems)

        return Verdict(tried(ask, lambda problem: (problem.line,)))

    def tick(self, *keys: str) -> dict[str, Outcome]:
        """What a scheduled run comes to, for each key; what stops all of it is under the empty name."""

        def ask() -> dict[str, Outcome]:
            return {o.key: o for o in self.service().rotate(Order(keys)).outcomes}

        failed = lambda problem: {"": Outcome("", Status.FAILED, problem.message)}  # noqa: E731
        outcomes: dict[str, Outcome] = tried(ask, failed)
        for outcome in outcomes.values():
            if outcome.message.startswith("unexpected "):
                raise SurpriseError(f"a tick: {outcome.message}")
        return outcomes

    def got(self, key: str, number: int = 0) -> bytes | None:
        """What `get --reveal` gives; None if it refuses."""

        def ask() -> bytes | None:
            material = self.service().get(key, number, reveal=True).material
            return material.reveal() if material is not None else None

        found: bytes | None = tried(ask, lambda _: None)
        return found

    def forget(self) -> None:
        """What one process remembers of its store, no other knows."""
        if hasattr(self.store, "_make"):
            self.store._store = self.store._make()
        for remembered in ("_marked", "_others"):
            getattr(self.store, remembered, {}).clear()

    # --- past the library

    def anchor(self, key: str) -> tuple[int, str]:
        """The entry that the head beside a key names, and its hash."""
        anchor = self.store.observe(key).anchor
        return (anchor.sequence, anchor.hash) if anchor is not None else (0, "")

    def independent(self, key: str) -> str:
        """What the verifier that shares nothing with the library says; empty if all is well."""
        try:
            generations = read_generations(self.objects_of(RESERVED), self.pin, self.anchor(RESERVED))
            objects = self.objects_of(key)
            verify_chain(objects, key, generations, self.anchor(key))
        except BadError as problem:
            return str(problem)
        except Exception as problem:
            raise SurpriseError(f"the independent verifier: {problem!r}") from problem
        return "" if objects else "there is nothing"

    def objects_of(self, key: str) -> dict[int, bytes]:
        """What lies in the ledger for a key."""
        return {sequence: data for (name, sequence), data in self.ledger.objects.items() if name == key}

    def raw(self, key: str, record: VersionRecord) -> bytes | None:
        """What the store gives out for a recorded version, whatever any manifest says; None if it refuses."""
        found: bytes | None = tried(lambda: self.store.read(key, location(record)).reveal(), lambda _: None)
        return found

    # --- its past

    def settle(self) -> None:
        """The past is over: all is well, and remembered as it must be found again."""
        self.ledger = Copy(self.real)
        self.past = dict(self.ledger.objects)
        service = self.service()
        self.keyring = service.keyring
        problems = [f"{a.key}: {p}" for a in service.verify() for p in (*a.problems, *a.warnings)]
        assert not problems, problems
        for key in KEYS:
            self.records[key] = dict(History(service.journal.history(key)).versions) if self.objects_of(key) else {}
            readable = [r.number for r in self.records[key].values() if r.state in (State.ACTIVE, State.DECRYPT_ONLY)]
            self.materials[key] = {n: m for n in readable if (m := self.got(key, n)) is not None}
            assert len(self.materials[key]) == len(readable)


def tried(ask: Callable[[], Any], otherwise: Callable[[KmsError], Any]) -> Any:
    """What comes of it; an error of ours is an answer, anything else a surprise."""
    try:
        return ask()
    except KmsError as problem:
        return otherwise(problem)
    except Exception as problem:
        raise SurpriseError(repr(problem)) from problem


def plain(name: str, folder: Path) -> House:
    """Three keys, each made; two rotated once since. YOUNG was not touched since the keys were renewed."""
    house = House(name, folder)
    house.service(Recording(house.store, house.anchors)).rotate(Order((KEY, OTHER, YOUNG)))
    house.clock.move(days=10)
    _renew(house)
    house.clock.move(days=70)
    house.service(Recording(house.store, house.anchors)).rotate(Order((KEY, OTHER), force=True))
    house.settle()
    return house


def lived(name: str, folder: Path) -> House:
    """The same, and KEY has lived through everything: see its events."""
    house = House(name, folder)
    clock = house.clock

    def service() -> Service:
        return house.service(Recording(house.store, house.anchors))

    def force(request: str = "", store: Any = None) -> None:
        house.service(store or Recording(house.store, house.anchors)).rotate(Order((KEY,), force=True, request=request))

    service().rotate(Order((KEY,)))
    service().import_key(OTHER, KeyMaterial(bytes(range(32))), created=None)
    clock.move(days=90)
    service().rotate(Order())
    force("ticket-1")
    service().disable(KEY, 1)
    service().rollback(KEY)
    service().enable(KEY, 1)
    service().pause(KEY, "a freeze — “über” all")
    service().resume(KEY)
    _junk(house, KEY)
    service().repair(KEY, "a broken disk")
    service().compromised(KEY, 2, "seen in a log")
    clock.move(days=31)
    service().destroy(KEY, 1)
    _renew(house)
    force(store=liars.Faulty(Recording(house.store, house.anchors), "read", liars.flipped_bit))
    clock.move(days=8)
    service().rotate(Order((KEY,)))
    force()
    service().disable(KEY, 2)
    _junk(house, RESERVED)
    _renew(house)
    force()
    house.settle()
    return house


def _renew(house: House) -> None:
    house.service().renew("test")


def _junk(house: House, key: str) -> None:
    """Two objects that are none of ours, where the next entries belong."""
    head = house.ledger.sequences(key)[-1]
    for behind, data in enumerate((b"junk", b"[]"), 1):
        house.ledger.append(key, head + behind, data)


def events(house: House, key: str) -> list[str]:
    """What the entries of a key record; `junk` for what is none."""
    found = []
    for _, stored in sorted(house.objects_of(key).items()):
        try:
            found.append(json.loads(stored)["event"])
        except (ValueError, KeyError, TypeError):
            found.append("junk")
    return found
