"""The Cloud KMS Integration Guide's Python, run as it is printed, in a fresh interpreter, against each cloud's double.

What is not verbatim, and why: on GCP the path of the key file (`/path/to` is in no test's hands), and in the manual
integration the name of the provider, which the guide itself says to put there. Settings are the guide's too; what else
is in the environment only leads to the doubles: AWS_ENDPOINT_URL and credentials; for Azure the names of its hosts and
the certificate (`azure_hosts`); for GCP the endpoint and the certificate.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from moto.kms.models import kms_backends

from tests.support import aws_world
from tests.support.azure_hosts import NamedAzure
from tests.support.strict_secrets import StrictSecrets

COMMAND = Path(sys.executable).with_name("daena-key-rotate")
GUIDE = Path(__file__).parents[3] / "shared" / "guide.md"
ACCOUNT, REGION, KMS_KEY = "123456789012", "us-east-1", "12345678-1234-1234-1234-123456789012"
ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{KMS_KEY}"
KEY_FILE = "/path/to/service-account-key.json"
PROJECT = "your-project-id"

_THE_REST = """
# Get key
key = adapter.get_key("daena-encryption-key")

# Create new key
new_key = adapter.create_key("daena-encryption-key-v2")

# Rotate key
rotated_key = adapter.rotate_key("daena-encryption-key")
"""
AWS = f"""\
from memory_service.cloud_kms import AWSKMSAdapter

# Initialize adapter
adapter = AWSKMSAdapter(
    region="us-east-1",
    key_id="{ARN}"
)
{_THE_REST}"""
AZURE = f"""\
from memory_service.cloud_kms import AzureKeyVaultAdapter

# Initialize adapter
adapter = AzureKeyVaultAdapter(
    vault_url="https://daena-kv.vault.azure.net/",
    tenant_id="your-tenant-id",
    client_id="your-client-id",
    client_secret="your-client-secret"
)
{_THE_REST}"""
GCP = f"""\
from memory_service.cloud_kms import GCPSecretManagerAdapter

# Initialize adapter
adapter = GCPSecretManagerAdapter(
    project_id="your-project-id",
    credentials_path="{KEY_FILE}"
)
{_THE_REST}"""
INTEGRATION = """\
from memory_service.kms import KeyManagementService
from memory_service.cloud_kms import get_cloud_kms_adapter

# Initialize KMS with cloud adapter
cloud_adapter = get_cloud_kms_adapter("aws")  # or "azure" or "gcp"

kms = KeyManagementService(
    cloud_kms_provider="aws"  # Auto-initializes cloud adapter
)

# Record rotation (automatically stores in cloud KMS)
kms.record_rotation(
    key_material="new-encryption-key",
    key_id="daena-encryption-key",
    store_in_cloud=True  # Default: True
)

# Retrieve key from cloud KMS
key = kms.get_key_from_cloud("daena-encryption-key")
"""
# The guide's `export` lines: with these alone every part works, whatever parameters are given.
EXPORTS = {
    "aws": {"DAENA_CLOUD_KMS_PROVIDER": "aws", "AWS_REGION": REGION, "AWS_KMS_KEY_ID": ARN},
    "azure": {
        "DAENA_CLOUD_KMS_PROVIDER": "azure",
        "AZURE_KEY_VAULT_URL": "https://daena-kv.vault.azure.net/",
        "AZURE_TENANT_ID": "your-tenant-id",
        "AZURE_CLIENT_ID": "your-client-id",
        "AZURE_CLIENT_SECRET": "your-client-secret",
    },
    "gcp": {"DAENA_CLOUD_KMS_PROVIDER": "gcp", "GCP_PROJECT_ID": PROJECT, "GOOGLE_APPLICATION_CREDENTIALS": KEY_FILE},
}
USAGE = {"aws": AWS, "azure": AZURE, "gcp": GCP}


class Cloud(NamedTuple):
    """A cloud's double, and how a process finds it. `replaced` is what of the guide's text cannot be as it stands."""

    provider: str
    environment: dict[str, str]
    replaced: dict[str, str]


@contextmanager
def _aws(_folder: Path) -> Iterator[Cloud]:
    account = aws_world.emptied()
    keys = kms_backends[ACCOUNT][REGION].keys
    if KMS_KEY not in keys:
        made = kms_backends[ACCOUNT][REGION].create_key(None, "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", "", None)
        keys[KMS_KEY] = keys.pop(made.id)
        made.id, made.arn = KMS_KEY, ARN
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    nobody = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    yield Cloud("aws", {"AWS_ENDPOINT_URL": account.server.url, **credentials, **nobody}, {})
    aws_world.emptied()


@contextmanager
def _azure(folder: Path) -> Iterator[Cloud]:
    azure = NamedAzure("your-tenant-id", {"your-client-id": "your-client-secret"}, folder / "hosts")
    try:
        yield Cloud("azure", azure.environment(), {})
        assert {*azure.entra.tenants} == {"your-tenant-id"}
    finally:
        azure.close()


@contextmanager
def _gcp(_folder: Path) -> Iterator[Cloud]:
    secrets = StrictSecrets(project_id=PROJECT)
    told = secrets.environment(f"daena-kms@{PROJECT}.iam.gserviceaccount.com")
    path = told.pop("GOOGLE_APPLICATION_CREDENTIALS")
    del told["GCP_PROJECT_ID"]
    try:
        yield Cloud("gcp", told, {KEY_FILE: path})
    finally:
        secrets.close()


CLOUDS: dict[str, Callable[[Path], AbstractContextManager[Cloud]]] = {"aws": _aws, "azure": _azure, "gcp": _gcp}


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cloud]:
    with CLOUDS[request.param](tmp_path) as made:
        yield made


def run(cloud: Cloud, folder: Path, *command: str | Path, **settings: str) -> str:
    """What a process of its own prints, with nothing in its environment but what is said above."""
    environment = {**EXPORTS[cloud.provider], **cloud.environment, **settings}
    for name, value in environment.items():
        environment[name] = cloud.replaced.get(value, value)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(cloud: Cloud, folder: Path, code: str, **settings: str) -> str:
    for there, here in cloud.replaced.items():
        code = code.replace(there, here)
    return run(cloud, folder, sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code, **settings)


@pytest.mark.parametrize("block", [AWS, AZURE, GCP, INTEGRATION], ids=["aws", "azure", "gcp", "integration"])
def test_a_block_is_the_guides_own(block: str) -> None:
    if not GUIDE.exists():
        pytest.skip(f"the guide does not lie at {GUIDE}")
    assert f"```python\n{block}```" in GUIDE.read_text()


def test_usage_as_printed(cloud: Cloud, tmp_path: Path) -> None:
    python(cloud, tmp_path, f"{_adapter(cloud)}adapter.create_key('daena-encryption-key')")
    shown = "print(key.number, new_key.number, rotated_key.number, key.material != rotated_key.material, key)"
    told = python(cloud, tmp_path, f"{USAGE[cloud.provider]}\n{shown}")
    assert told.startswith("1 1 2 True CloudKey(key='daena-encryption-key', material=KeyMaterial(<32 bytes, not sho")
    again = python(cloud, tmp_path, f"{_adapter(cloud)}print(adapter.get_key('daena-encryption-key').number)")
    assert again == "2\n"
    verified = run(cloud, tmp_path, COMMAND, "verify", "--manifests", f".kms/{cloud.provider}/manifests")
    assert "2 keys, 0 problems" in verified


def _adapter(cloud: Cloud) -> str:
    """The block's beginning: the adapter, initialised."""
    return USAGE[cloud.provider].partition("# Get key")[0]


def test_a_second_run_refuses_to_make_the_key_again(tmp_path: Path) -> None:
    with _gcp(tmp_path) as cloud:
        python(cloud, tmp_path, f"{_adapter(cloud)}adapter.create_key('daena-encryption-key')")
        python(cloud, tmp_path, GCP)
        caught = "except Exception as problem:\n    print(type(problem).__name__, problem.hint)"
        block = "".join(f"    {line}\n" for line in GCP.splitlines())
        assert python(cloud, tmp_path, f"try:\n{block}{caught}").startswith("ExistsError choose another name")


def test_manual_integration_as_printed(cloud: Cloud, tmp_path: Path) -> None:
    code = INTEGRATION.replace('="aws"', f'="{cloud.provider}"').replace('("aws")', f'("{cloud.provider}")')
    shown = "print(key.number, key.material.reveal(), cloud_adapter.get_key('daena-encryption-key') == key)"
    assert python(cloud, tmp_path, f"{code}\n{shown}") == "1 b'new-encryption-key' True\n"
    assert python(cloud, tmp_path, f"{code}\n{shown}") == "1 b'new-encryption-key' True\n"
    manifests = f".kms/{cloud.provider}/manifests"
    assert "1 keys, 0 problems" in run(cloud, tmp_path, COMMAND, "verify", "--manifests", manifests)


def test_a_wrong_secret_of_azure_is_refused(tmp_path: Path) -> None:
    """By the double of Entra ID: it gives tokens to whom it knows."""
    with _azure(tmp_path) as cloud:
        code = _adapter(cloud).replace("your-client-secret", "another")
        caught = "except Exception as problem:\n    print(type(problem).__name__, problem.line)"
        told = python(cloud, tmp_path, f"{code}\ntry:\n    adapter.create_key('a')\n{caught}")
        assert told.startswith("DeniedError")
        assert "AADSTS7000215" in told
        assert "another" not in told
