"""Rotations on Azure's doubles: calls of each, their price, and how many a second, beside the bare writes alone.

The doubles are processes of their own; both sides work in turns in this one, with clients of the same configuration.
The vault's clock runs faster than the world's, so that versions are put minutes apart, as they are in life: of two that
were put in the same seconds the store asks the vault which is newer.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import requests
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient
from msgspec.structs import replace

from daena_kms import trust
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.model import Status, utc_now
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from daena_kms.stores.azure import AzureStore
from daena_kms.stores.azure_calls import Azure
from daena_kms.stores.azure_ledger import BlobLedger
from daena_kms.stores.azure_secrets import Pace, Vault

from ..support.azurite import Azurite
from ..support.worlds import LEASE, Clock
from .aws_rotations import CONCURRENCY
from .figures import Figure, Scale, compared
from .processes import ROOT
from .scene import POLICY, check, names

CALLS, PRICE = "11. calls to Azure per key", "12. price of these calls"
RATES = "13. rotations on Azure's doubles, every key due"
PEER = "its four writes and a read, bare"
RATE = 200  # how much faster the vault's clock runs
TIMEOUT = timedelta(seconds=30)
# Of Azure's pricing pages (West Europe, standard tier, LRS hot blobs) as third parties quoted them in 2026.
DOLLARS = {"vault": 0.03 / 10_000, "blob.PUT": 0.054 / 10_000, "blob.GET": 0.0043 / 10_000, "blob.LIST": 0.054 / 10_000}
PRICES = "list prices of 2026: Key Vault 0.03 USD per 10,000; blobs 0.054 per 10,000 writes, 0.0043 per 10,000 reads"
EVERY_KEY = Order()

Calls = Counter[str]


class Account:
    """The doubles, and what is sent to them, counted at the wire."""

    def __init__(self, vault: str, blobs: str) -> None:
        self.vault, self.blobs = vault, blobs
        self.azure = Azure(ManagedIdentityCredential, call_timeout=TIMEOUT)
        self.sent: list[str] = []

    def container(self, name: str) -> str:
        """A new container; its address."""
        ContainerClient(self.blobs, name, self.azure.identity).create_container()
        return f"{self.blobs}/{name}"

    @contextmanager
    def counting(self) -> Iterator[Calls]:
        """What is sent inside, to be read afterwards."""
        before, seen = len(self.sent), Calls()
        yield seen
        seen.update(self.sent[before:])

    def note(self, request: Any) -> None:
        """One request."""
        parts = urlsplit(request.url)
        if "/devstoreaccount1/" in parts.path:
            self.sent.append("blob.LIST" if "comp=list" in parts.query else f"blob.{request.method}")
        elif "/msi/" not in parts.path:
            whole = "vault.LIST all" if parts.path.strip("/") == "secrets" else f"vault.{request.method}"
            self.sent.append("vault.LIST" if parts.path.strip("/").endswith("versions") else whole)


@contextmanager
def account() -> Iterator[Account]:
    """Doubles that last as long as the block; in it the environment is one that works with them."""
    command = (sys.executable, "-m", "tests.support.strict_vault", str(RATE))
    double = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        if double.stdout is None or not (url := double.stdout.readline().strip()):
            raise SystemExit("Key Vault's double did not start")
        told = dict(double.stdout.readline().strip().removeprefix("export ").split("=", 1) for _ in range(4))
        with closing(Azurite(Path(told["REQUESTS_CA_BUNDLE"]))) as azurite, mock.patch.dict(os.environ, told):
            made = Account(url, azurite.url)
            send = requests.Session.send

            def sending(session: Any, request: Any, **options: Any) -> Any:
                made.note(request)
                return send(session, request, **options)

            with mock.patch.object(requests.Session, "send", sending):
                yield made
    finally:
        double.terminate()
        double.communicate()


class Scene:
    """A fleet with a prefix, a ledger and a clock of its own, built as a function builds it."""

    def __init__(self, account: Account, prefix: str, keys: Sequence[str], policy: KeyPolicy = POLICY) -> None:
        self.clock = Clock(utc_now())
        self.ledger = BlobLedger(account.azure, f"{account.container(prefix + 'manifests')}/keys")
        pace = Pace(10**9, 10, time.monotonic, time.sleep)
        vault = Vault(account.azure, account.vault, pace=pace, token=lambda: os.urandom(16).hex(), sleep=time.sleep)
        self.store = AzureStore(
            vault, prefix=prefix, ledger=self.ledger.address, actor=lambda: "azure:bench", entropy=os.urandom
        )
        self.policy = RotationPolicy(dict.fromkeys(keys, policy), "bench")
        trust.initialise(self.store, self.ledger, clock=self.clock, trigger="bench")
        self.keyring = trust.open_keyring(self.store, self.ledger)

    def tick(self, concurrency: int, expected: Status, order: Order = EVERY_KEY) -> None:
        """A tick that must end the same for each key."""
        journal = Journal(self.ledger, self.keyring, clock=self.clock, actor="azure:bench", trigger="bench")
        tools = Tools(self.store, journal, self.clock, LEASE, TIMEOUT, self.policy.digest)
        service = Service(tools, self.policy, tick=Tick(), limits=Limits(concurrency), monotonic=time.monotonic)
        check(service.rotate(order), expected)

    def rotate(self, concurrency: int = 1, order: Order = EVERY_KEY) -> None:
        """A tick when every key is due, or the order forces some."""
        if not order.force:
            self.clock.move(days=POLICY.rotate_after_days)
        self.tick(concurrency, Status.ROTATED, order)


class Peer:
    """What cannot be left out, by Azure's own clients: staged, read, published, disabled; no look, no evidence."""

    def __init__(self, account: Account, prefix: str, keys: Sequence[str]) -> None:
        self._client = SecretClient(account.vault, ManagedIdentityCredential())
        self._keys = [f"{prefix}peer-{key}" for key in keys]

    def rotate(self, concurrency: int = 1) -> None:
        """Every key."""
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(self._one, self._keys))

    def _one(self, key: str) -> None:
        staged = self._client.set_secret(f"{key}--staged", "x" * 44)
        value = self._client.get_secret(f"{key}--staged", staged.properties.version).value
        put = self._client.set_secret(key, str(value))
        self._client.update_secret_properties(f"{key}--staged", staged.properties.version, enabled=False)
        self._client.update_secret_properties(key, put.properties.version, tags={"rotated": "yes"})


class Side:
    """What the rounds of one side measured."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.rates: list[float] = []
        self.processor: list[float] = []

    def take(self, keys: int) -> None:
        """One round: rotations per second, and the client's processor time of each in milliseconds."""
        cpu, started = time.process_time(), time.perf_counter()
        self._work()
        self.rates.append(keys / (time.perf_counter() - started))
        self.processor.append((time.process_time() - cpu) / keys * 1e3)


def measure(scale: Scale) -> tuple[list[Figure], list[str]]:
    """The figures, and what has to be said about them."""
    with account() as made:
        figures, notes = _calls(made, names(scale.aws_counted_keys))
        for concurrency in CONCURRENCY:
            figures += _rates(made, concurrency, scale)
    return figures, notes


def _rates(made: Account, concurrency: int, scale: Scale) -> list[Figure]:
    keys, prefix = names(scale.azure_keys), f"at-{concurrency}-"
    scene, peer = Scene(made, prefix, keys), Peer(made, prefix, keys)
    scene.tick(max(CONCURRENCY), Status.CREATED)
    ours, theirs = Side(lambda: scene.rotate(concurrency)), Side(lambda: peer.rotate(concurrency))
    scene.rotate(concurrency)  # warm both
    peer.rotate(concurrency)
    for number in range(scale.azure_rounds):
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            side.take(len(keys))
    name = f"concurrency {concurrency}"
    return [
        compared(RATES, name, ours.rates, "rotations/s", theirs.rates, PEER),
        compared(RATES, f"{name}: client's processor", ours.processor, "ms/rotation", theirs.processor, PEER),
    ]


def _calls(made: Account, keys: list[str]) -> tuple[list[Figure], list[str]]:
    scene, peer = Scene(made, "count-", keys), Peer(made, "count-", keys)
    forced = Order(tuple(keys), force=True, request="bench")
    few = Scene(made, "few-", keys, replace(POLICY, keep_versions=2))
    counted = {
        "first creation": _per_key(made, keys, lambda: scene.tick(1, Status.CREATED)),
        "rotation": _per_key(made, keys, scene.rotate),
        "rotation, forced, of version 3": _per_key(made, keys, lambda: scene.rotate(order=forced)),
    }
    few.tick(1, Status.CREATED)
    few.rotate()
    few.rotate()
    counted["rotation, of version 4, and a retirement"] = _per_key(made, keys, few.rotate)
    bare = _per_key(made, keys, peer.rotate)
    figures = [
        compared(CALLS, name, [calls.total()], "calls", [bare.total()], PEER, "<= 10" if name == "rotation" else "")
        for name, calls in counted.items()
    ]
    ours, theirs = _dollars(counted["rotation"]), _dollars(bare)
    figures.append(compared(PRICE, "rotation", [ours * 1e6], "USD/million", [theirs * 1e6], PEER))
    told = [f"Calls of {name}: {_text(calls)}." for name, calls in {PEER: bare, **counted}.items()]
    return figures, [*told, f"Prices on Azure: {PRICES}."]


def _per_key(made: Account, keys: list[str], work: Callable[[], object]) -> Calls:
    """The calls for each key; the listing of the vault is counted apart."""
    time.sleep(0.1)  # seconds on the vault's clock: what was put before is no newer than this
    with made.counting() as seen:
        work()
    calls = {name: count for name, count in seen.items() if name != "vault.LIST all"}
    if uneven := [name for name, count in calls.items() if count % len(keys)]:
        raise SystemExit(f"the same calls for each key expected, got {uneven} of {seen}")
    return Counter({name: count // len(keys) for name, count in calls.items()})


def _dollars(calls: Calls) -> float:
    return sum(count * (DOLLARS.get(name) or DOLLARS[name.partition(".")[0]]) for name, count in calls.items())


def _text(calls: Calls) -> str:
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in sorted(calls.items()))
