"""The function app's bundle on the Azure doubles: a policy, and processes of Microsoft's worker library."""

from pathlib import Path
from typing import Any

from daena_kms.stores.azure import AzureStore
from tests.infra.bundles import azure_host_bundle, compiled
from tests.support import azure_world
from tests.support.azure_worker import FunctionApp

KEY, BILLING = "daena-encryption-key", "billing-key"
POLICY = f"""
[defaults]
create = true

[keys.{KEY}]
[keys.{BILLING}]
"""
SCHEDULE = "0 0 * * * *"


class Scene:
    """An account in which nothing was done yet, and one app on it, under its managed identity."""

    def __init__(self, **settings: str) -> None:
        self.account = azure_world.emptied()
        self.policy(POLICY)
        self.settings = self.account.environment() | {"ROTATION_SCHEDULE": SCHEDULE, "DAENA_POLICY": self.policy_url}
        self.app = FunctionApp(compiled(azure_host_bundle()), self.settings | settings)

    def close(self) -> None:
        """End the process."""
        self.app.__exit__()

    @property
    def policy_url(self) -> str:
        """Where the policy lies, beside the manifests."""
        return f"{self.account.manifests}/daena-kms.toml"

    def policy(self, text: str) -> None:
        """Put another policy there."""
        self.account.containers().upload_blob("keys/daena-kms.toml", text.encode(), overwrite=True)

    @property
    def calls(self) -> list[Any]:
        """What the vault was asked for."""
        return self.account.vault.server.calls

    def store(self) -> AzureStore:
        """The store as a person's process has it."""
        return self.account.store()


def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[2]
