"""The four stores as a page's blocks find them: what else is in a process's environment, and what a name stands for.

A page's names are taken as they stand where that is possible: the double of AWS has a KMS key of the page's ARN and a
bucket of its name, the double of Key Vault its host name, those of Google its project and bucket. What cannot be:

- Azure's `https://ACCOUNT.blob.core.windows.net`: Azurite listens on 127.0.0.1, so the address is replaced;
- `/path/to/service-account-key.json` of `../shared/guide.md`: a key file that the double of Google's tokens made.

The rest leads a client to its double: AWS_ENDPOINT_URL and credentials; Azure's host names and certificate, and App
Service's identity endpoint; Google's endpoints, certificate and metadata server.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from azure.storage.blob import ContainerClient
from moto.kms.models import kms_backends

from tests.support import aws_world
from tests.support.azure_hosts import NamedAzure
from tests.support.azurite import Azurite
from tests.support.strict_gcs import StrictGcs
from tests.support.strict_secrets import StrictSecrets

AWS_ACCOUNT, KMS_KEY = "123456789012", "12345678-1234-1234-1234-123456789012"
TENANT, CLIENT, CLIENT_SECRET = "your-tenant-id", "your-client-id", "your-client-secret"
BLOBS, CONTAINER = "https://daenamanifests.blob.core.windows.net", "manifests"
KEY_FILE = "/path/to/service-account-key.json"


class Scene(NamedTuple):
    """A store, and how a process finds it."""

    environment: dict[str, str]
    replaced: dict[str, str]
    """What of a page's text cannot be as it stands -> what stands there instead."""


@contextmanager
def _local(_folder: Path) -> Iterator[Scene]:
    yield Scene({}, {})


@contextmanager
def aws(region: str) -> Iterator[Scene]:
    """The double of AWS, with the KMS key of both pages in that region. The bucket is the double's own."""
    account = aws_world.emptied()
    backend = kms_backends[AWS_ACCOUNT][region]
    if KMS_KEY not in backend.keys:
        made = backend.create_key(None, "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", "", None)
        backend.keys[KMS_KEY] = backend.keys.pop(made.id)
        made.id, made.arn = KMS_KEY, f"arn:aws:kms:{region}:{AWS_ACCOUNT}:key/{KMS_KEY}"
    nobody = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    credentials = {name: aws_world.CREDENTIALS[name] for name in aws_world.CREDENTIALS if "REGION" not in name}
    yield Scene({"AWS_ENDPOINT_URL": account.server.url, **credentials, **nobody}, {})
    aws_world.emptied()


@contextmanager
def azure(folder: Path, *, blobs: bool = True) -> Iterator[Scene]:
    """Key Vault and Entra ID under their names, an app's identity, and (unless told) Azurite with a container."""
    named = NamedAzure(TENANT, {CLIENT: CLIENT_SECRET}, folder / "hosts")
    told = {**named.vault.environment(), **named.environment()}
    del told["AZURE_KEY_VAULT_URL"]
    azurite = None
    try:
        if not blobs:
            yield Scene(told, {})
            return
        azurite = Azurite(named.vault.certificate)
        container = ContainerClient(
            azurite.url, CONTAINER, named.vault.credential("a person"), connection_verify=str(named.vault.certificate)
        )
        with container:
            container.create_container()
        yield Scene(told, {BLOBS: azurite.url})
    finally:
        if azurite is not None:
            azurite.close()
        named.close()


@contextmanager
def gcp(project: str, bucket: str) -> Iterator[Scene]:
    """Secret Manager and Cloud Storage of that project, and a metadata server with the function's tokens."""
    secrets = StrictSecrets(project_id=project)
    storage = StrictGcs(tokens=secrets.tokens)
    storage.server.objects.create_bucket(bucket)
    told = {**secrets.environment(), **storage.environment()}
    del told["GCP_PROJECT_ID"]
    key_file = secrets.key_file(f"daena-kms@{project}.iam.gserviceaccount.com")
    try:
        yield Scene(told, {KEY_FILE: str(key_file)})
    finally:
        storage.close()
        secrets.close()


Made = Callable[[Path], AbstractContextManager[Scene]]
SCENES: dict[str, Made] = {
    "local": _local,
    "aws": lambda _: aws(aws_world.REGION),
    "azure": azure,
    "gcp": lambda _: gcp("daena-demo", "daena-demo-manifests"),
}
