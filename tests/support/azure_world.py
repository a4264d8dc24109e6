"""The Azure store on the strict double and its ledger on Azurite, over real sockets."""

import itertools
import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from azure.core.credentials import TokenCredential
from azure.storage.blob import ContainerClient

from daena_kms.stores.azure import AzureStore
from daena_kms.stores.azure_calls import Azure
from daena_kms.stores.azure_ledger import BlobLedger
from daena_kms.stores.azure_secrets import Vault
from daena_kms.stores.pace import Pace

from . import azurite
from .strict_vault import FUNCTION, StrictVault
from .vault_http import plain
from .vault_secrets import PAGE

PREFIX = "app-"
SECONDS = 30.0
Wrap = Callable[[Any], Any]


class Account:
    """A vault, and a storage account with one container of manifests."""

    def __init__(self) -> None:
        self.vault = StrictVault()
        os.environ["REQUESTS_CA_BUNDLE"] = str(self.vault.certificate)
        self.blobs = azurite.shared(self.vault.certificate)
        self._containers = itertools.count(1)
        self.empty()

    def empty(self) -> None:
        """As if nothing had been done here: no secrets, no bounds, and another container."""
        server = self.vault.server
        server.secrets.live.clear()
        server.secrets.deleted.clear()
        server.secrets.page = PAGE
        server.allowed.clear()
        server.calls.clear()
        server.between = plain
        self.container = f"manifests-{next(self._containers)}"
        self.containers().create_container()
        self.manifests = f"{self.blobs.url}/{self.container}/keys"

    def containers(self) -> ContainerClient:
        """A plain client of the container, as a person would have it."""
        credential: TokenCredential = self.vault.credential("a person")
        return ContainerClient(self.blobs.url, self.container, credential)

    def azure(self, principal: str = "tester", seconds: float = SECONDS) -> Azure:
        """Credentials of a principal."""
        return Azure(lambda: self.vault.credential(principal), call_timeout=timedelta(seconds=seconds))

    def store(
        self,
        wrap: Wrap = lambda vault: vault,
        principal: str = "tester",
        seconds: float = SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> AzureStore:
        """A store as one process has it, on a wrapped vault. Nothing is waited for."""
        azure = self.azure(principal, seconds)
        pace = Pace(1_000_000, 10, monotonic, time.sleep)
        vault = Vault(azure, self.vault.url, pace=pace, token=lambda: os.urandom(8).hex(), sleep=lambda _: None)
        return AzureStore(
            wrap(vault), prefix=PREFIX, ledger=self.manifests, actor=azure.identity.actor, entropy=os.urandom
        )

    def ledger(self, principal: str = "tester") -> BlobLedger:
        """The ledger beside it."""
        return BlobLedger(self.azure(principal), self.manifests)

    def environment(self) -> dict[str, str]:
        """What a process needs to work with this account, under the managed identity."""
        return self.vault.environment() | {
            "DAENA_CLOUD_KMS_PROVIDER": "azure",
            "DAENA_KEY_PREFIX": PREFIX,
            "DAENA_MANIFEST_URL": self.manifests,
        }


@cache
def account() -> Account:
    """The account of this process."""
    return Account()


def emptied() -> Account:
    """The account, as if nothing had been done in it."""
    account().empty()
    return account()


__all__ = ["FUNCTION", "PREFIX", "Account", "account", "emptied"]
