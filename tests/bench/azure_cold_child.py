"""One cold start on Azure, told apart by step."""

from importlib import import_module

from .cold_steps import Steps, kinds, run

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


def start(bundle: str, kind: str) -> None:
    """One start of that kind."""
    run(kinds("function_app", SDK, OURS, our_clients, start_bare), bundle, kind)
