"""One cold start: `python azure_cold_child.py BUNDLE ours|items|bare` prints what each step took, as JSON.

Run by its path: only the standard library and the bundle can be imported.
"""

import sys
import time
from collections.abc import Mapping
from importlib import import_module

URL, BLOBS = "https://vault.vault.azure.net", "https://account.blob.core.windows.net"
SDK = {
    "import azure.functions": ("azure.functions",),
    "import azure.identity": ("azure.identity",),
    "import azure.keyvault.secrets": ("azure.keyvault.secrets",),
    "import azure.storage.blob": ("azure.storage.blob",),
}
OURS = {
    "import msgspec": ("msgspec",),
    "import cryptography": (
        "cryptography.hazmat.primitives.asymmetric.ed25519",
        "cryptography.hazmat.primitives.ciphers.aead",
    ),
    "import daena_kms and function_app": (
        "function_app",
        "daena_kms.stores.azure",
        "daena_kms.stores.azure_ledger",
        "daena_kms.stores.azure_secrets",
    ),
}


class Steps:
    """Clock and processor time of each step since the one before."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[float, float]] = {}
        self._last = (time.perf_counter(), time.process_time())

    def end(self, name: str) -> None:
        """A step ends here."""
        now = (time.perf_counter(), time.process_time())
        self.taken[name] = ((now[0] - self._last[0]) * 1e3, (now[1] - self._last[1]) * 1e3)
        self._last = now

    def imported(self, items: Mapping[str, tuple[str, ...]]) -> None:
        """Import what each step names."""
        for name, modules in items.items():
            for module in modules:
                import_module(module)
            self.end(name)


def start_ours(steps: Steps) -> None:
    """As Azure does: the app first, then what its first tick asks for."""
    steps.imported({"import function_app": ("function_app",), "import the store": OURS[list(OURS)[-1]]})
    our_clients(steps)


def start_items(steps: Steps) -> None:
    """The same, told apart by package."""
    steps.imported(SDK | OURS)
    our_clients(steps)


def our_clients(steps: Steps) -> None:
    """The clients of a function's first tick."""
    app, settings = import_module("daena_kms.app"), import_module("daena_kms.settings")
    given = {"DAENA_MANIFEST_URL": f"{BLOBS}/manifests/keys", "DAENA_CLOUD_KMS_PROVIDER": "azure"}
    read = settings.read_settings(given | {"AZURE_KEY_VAULT_URL": URL})
    clouds = app.Clouds(read)
    ledger, _ = app.open_ledger(read, clouds)
    app.open_store(read, ledger.address, clouds, create=False)
    steps.end("clients")


def start_bare(steps: Steps) -> None:
    """What anybody pays who uses Azure's SDK as its documentation shows it."""
    steps.imported(SDK)
    credential = import_module("azure.identity").ManagedIdentityCredential()
    import_module("azure.keyvault.secrets").SecretClient(URL, credential)
    import_module("azure.storage.blob").ContainerClient(BLOBS, "manifests", credential)
    steps.end("clients")


if __name__ == "__main__":
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/.python_packages/lib/site-packages"]
    steps = Steps()
    {"ours": start_ours, "items": start_items, "bare": start_bare}[sys.argv[2]](steps)
    sys.stdout.write(import_module("json").dumps(steps.taken))
