"""Several keys with a past in one store, to be backed up, and the ways to seal a backup and open it again."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyrage

from daena_kms import sealing, trust
from daena_kms.backup import Backup, Collected, Generation, collect
from daena_kms.backup_check import check
from daena_kms.backup_json import document, parse
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.material import KeyMaterial
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from tests.support.worlds import LEASE, Backend, Clock, memory_backend, seeded

A, B, C = "a-key", "b-key", "c-key"


class Several:
    """Keys in one store, each rotated as often as wanted."""

    def __init__(self, backend: Backend | None = None, clock: Clock | None = None, seed: int = 0) -> None:
        self.clock = clock or Clock()
        self.backend = backend or memory_backend(Path(), self.clock, seeded(seed), fenced=True)
        trust.initialise(self.backend.store, self.backend.ledger, clock=self.clock, trigger="test")
        self.keys: dict[str, KeyPolicy] = {}

    def service(self, store: Any = None, ledger: Any = None) -> Service:
        keyring = trust.open_keyring(self.backend.store, self.backend.ledger)
        journal = Journal(
            ledger or self.backend.ledger, keyring, clock=self.clock, actor="local:tester", trigger="test"
        )
        tools = Tools(store or self.backend.store, journal, self.clock, LEASE, timedelta(seconds=30), "digest")
        policy = RotationPolicy(self.keys, "digest")
        return Service(tools, policy, tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)

    def make(self, key: str, versions: int = 1) -> None:
        """A key with so many versions, a day apart."""
        self.keys[key] = KeyPolicy(create=True)
        for number in range(versions):
            order = Order((key,), force=number > 0, request=f"{key}-{number}")
            (outcome,) = self.service().rotate(order).outcomes
            assert outcome.status in ("created", "rotated"), outcome
            self.clock.move(days=1)

    def collect(self, *keys: str, store: Any = None, ledger: Any = None, **options: Any) -> Collected:
        service = self.service(store, ledger)
        return collect(service.tools.store, service.journal, keys, **options)

    def material(self, key: str, number: int) -> KeyMaterial:
        """A version's material, as its readers get it."""
        found = self.service().get(key, number, reveal=True).material
        assert found is not None
        return found


def three_keys(seed: int = 0) -> Several:
    """A has three versions, B two, of which one is disabled, C one."""
    made = Several(seed=seed)
    made.make(A, 3)
    made.make(B, 2)
    made.make(C)
    assert made.service().disable(B, 1).status == "done"
    return made


def with_versions(backup: Backup) -> dict[str, dict[int, KeyMaterial | None]]:
    """Every version's material, by key and number."""
    return {k.holding.key: {v.record.number: v.material for v in k.holding.versions} for k in backup.keys}


def generation(number: int, secret: bytes) -> Generation:
    return Generation(number, KeyMaterial(secret))


class Identity:
    """An age identity in a file, and its public half."""

    def __init__(self, folder: Path) -> None:
        made = pyrage.x25519.Identity.generate()
        self.secret = str(made)
        self.recipient = str(made.to_public())
        self.file = folder / "identity.txt"
        self.file.write_text(f"# public key: {self.recipient}\n{self.secret}\n")


def opened(sealed: bytes, identity: Identity) -> Backup:
    """A sealed backup, decrypted and checked."""
    found = parse(sealing.open_with_identities(sealed, [identity.file]))
    check(found)
    return found


def sealed(backup: Backup, identity: Identity) -> bytes:
    return sealing.seal(document(backup), [identity.recipient])
