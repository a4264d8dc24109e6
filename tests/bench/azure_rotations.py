"""Rotations on Azure's doubles: calls of each, their price, and how many a second, beside the bare writes alone.

The doubles are processes of their own; both sides work in turns in this one, with clients of the same configuration.
The vault's clock runs faster than the world's, so that versions are put minutes apart, as they are in life: of two that
were put in the same seconds the store asks the vault which is newer.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import requests
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient
from msgspec.structs import replace

from daena_kms.fleet import Order
from daena_kms.policy import KeyPolicy
from daena_kms.stores.azure import AzureStore
from daena_kms.stores.azure_calls import Azure
from daena_kms.stores.azure_ledger import BlobLedger
from daena_kms.stores.azure_secrets import Vault
from daena_kms.stores.pace import Pace

from ..support.azurite import Azurite
from .clouds import CALL_TIMEOUT, CONCURRENCY, Calls, CloudScene, Wire, dollars, per_key, rate_figures, rates, text
from .figures import Figure, Scale, compared
from .processes import ROOT
from .scene import POLICY, names

CALLS, PRICE = "11. calls to Azure per key", "12. price of these calls"
RATES = "13. rotations on Azure's doubles, every key due"
PEER = "its four writes and a read, bare"
RATE = 200  # how much faster the vault's clock runs
# Of Azure's pricing pages (West Europe, standard tier, LRS hot blobs) as third parties quoted them in 2026.
DOLLARS = {"vault": 0.03 / 10_000, "blob.PUT": 0.054 / 10_000, "blob.GET": 0.0043 / 10_000, "blob.LIST": 0.054 / 10_000}
PRICES = "list prices of 2026: Key Vault 0.03 USD per 10,000; blobs 0.054 per 10,000 writes, 0.0043 per 10,000 reads"
LISTING = "vault.LIST all"


class Account(Wire):
    """The doubles, and what is sent to them, counted at the wire."""

    def __init__(self, vault: str, blobs: str) -> None:
        self.vault, self.blobs = vault, blobs
        super().__init__()
        self.azure = Azure(ManagedIdentityCredential, call_timeout=CALL_TIMEOUT)

    def container(self, name: str) -> str:
        """A new container; its address."""
        ContainerClient(self.blobs, name, self.azure.identity).create_container()
        return f"{self.blobs}/{name}"

    def note(self, request: Any) -> None:
        """One request."""
        parts = urlsplit(request.url)
        if "/devstoreaccount1/" in parts.path:
            self.sent.append("blob.LIST" if "comp=list" in parts.query else f"blob.{request.method}")
        elif "/msi/" not in parts.path:
            whole = LISTING if parts.path.strip("/") == "secrets" else f"vault.{request.method}"
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


def scene(account: Account, prefix: str, keys: Sequence[str], policy: KeyPolicy = POLICY) -> CloudScene:
    """A fleet with a prefix."""
    ledger = BlobLedger(account.azure, f"{account.container(prefix + 'manifests')}/keys")
    pace = Pace(10**9, 10, time.monotonic, time.sleep)
    vault = Vault(account.azure, account.vault, pace=pace, token=lambda: os.urandom(16).hex(), sleep=time.sleep)
    store = AzureStore(vault, prefix=prefix, ledger=ledger.address, actor=lambda: "azure:bench", entropy=os.urandom)
    return CloudScene(store, ledger, dict.fromkeys(keys, policy))


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


def measure(scale: Scale) -> tuple[list[Figure], list[str]]:
    """The figures, and what has to be said about them."""
    with account() as made:
        figures, notes = _calls(made, names(scale.aws_counted_keys))
        for concurrency in CONCURRENCY:
            figures += _rates(made, concurrency, scale)
    return figures, notes


def _rates(made: Account, concurrency: int, scale: Scale) -> list[Figure]:
    keys, prefix = names(scale.azure_keys), f"at-{concurrency}-"
    fleet, peer = scene(made, prefix, keys), Peer(made, prefix, keys)
    fleet.create(max(CONCURRENCY))
    ours, theirs = (lambda: fleet.rotate(concurrency)), (lambda: peer.rotate(concurrency))
    sides = rates(made, ours, theirs, len(keys), scale.azure_rounds)
    return rate_figures(RATES, concurrency, sides, PEER)


def _calls(made: Account, keys: list[str]) -> tuple[list[Figure], list[str]]:
    fleet, peer = scene(made, "count-", keys), Peer(made, "count-", keys)
    forced = Order(tuple(keys), force=True, request="bench")
    few = scene(made, "few-", keys, replace(POLICY, keep_versions=2))
    counted = {
        "first creation": _per_key(made, keys, fleet.create),
        "rotation": _per_key(made, keys, fleet.rotate),
        "rotation, forced, of version 3": _per_key(made, keys, lambda: fleet.rotate(order=forced)),
    }
    few.create()
    few.rotate()
    few.rotate()
    counted["rotation, of version 4, and a retirement"] = _per_key(made, keys, few.rotate)
    bare = _per_key(made, keys, peer.rotate)
    figures = [
        compared(CALLS, name, [calls.total()], "calls", [bare.total()], PEER, "<= 10" if name == "rotation" else "")
        for name, calls in counted.items()
    ]
    ours, theirs = dollars(counted["rotation"], DOLLARS), dollars(bare, DOLLARS)
    figures.append(compared(PRICE, "rotation", [ours * 1e6], "USD/million", [theirs * 1e6], PEER))
    told = [f"Calls of {name}: {text(calls)}." for name, calls in {PEER: bare, **counted}.items()]
    return figures, [*told, f"Prices on Azure: {PRICES}."]


def _per_key(made: Account, keys: list[str], work: Callable[[], object]) -> Calls:
    time.sleep(0.1)  # seconds on the vault's clock: what was put before is no newer than this
    with made.counting() as seen:
        work()
    return per_key(seen, keys, {LISTING})
