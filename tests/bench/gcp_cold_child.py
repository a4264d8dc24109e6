"""One cold start on Google Cloud, told apart by step. The environment names a project, on doubles."""

import os
from importlib import import_module

from .cold_steps import Steps, kinds, run

SDK = {
    "import functions_framework": ("functions_framework",),
    "import google.cloud.secretmanager_v1": ("google.cloud.secretmanager_v1",),
    "import google.cloud.storage": ("google.cloud.storage",),
    "import cryptography": (
        "cryptography.hazmat.primitives.asymmetric.ed25519",
        "cryptography.hazmat.primitives.ciphers.aead",
    ),
    "import msgspec": ("msgspec",),
}
OURS = {
    "import daena_kms and main": (
        "main",
        "daena_kms.stores.gcp",
        "daena_kms.stores.gcp_ledger",
        "daena_kms.stores.gcp_secrets",
    ),
}
BUCKET = "manifests"


def our_clients(steps: Steps) -> None:
    """The clients of a function's first tick, and its listing."""
    app, settings = import_module("daena_kms.app"), import_module("daena_kms.settings")
    given = {"DAENA_MANIFEST_URL": f"gs://{BUCKET}/keys", "DAENA_CLOUD_KMS_PROVIDER": "gcp"}
    read = settings.read_settings(os.environ | given)
    clouds = app.Clouds(read)
    ledger, _ = app.open_ledger(read, clouds)
    store, _ = app.open_store(read, ledger.address, clouds, create=False)
    steps.end("clients")
    list(store.inventory())
    steps.end("the first listing")


def start_bare(steps: Steps) -> None:
    """What anybody pays who uses Google's SDK as its documentation shows it."""
    steps.imported(SDK)
    secretmanager = import_module("google.cloud.secretmanager_v1")
    import_module("google.cloud.storage").Client(project=os.environ["GCP_PROJECT_ID"]).bucket(BUCKET)
    options = {"api_endpoint": os.environ["GCP_SECRET_MANAGER_ENDPOINT"]}
    client = secretmanager.SecretManagerServiceClient(client_options=options)
    steps.end("clients")
    list(client.list_secrets(request={"parent": f"projects/{os.environ['GCP_PROJECT_ID']}"}))
    steps.end("the first listing")


def start(bundle: str, kind: str) -> None:
    """One start of that kind."""
    run(kinds("main", SDK, OURS, our_clients, start_bare), bundle, kind)
