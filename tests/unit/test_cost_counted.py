"""The table of calls that `cost` reckons with is what the clouds' doubles count, call by call."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from msgspec.structs import replace

from daena_kms import app, cost
from daena_kms.cost import COUNTED, Calls
from daena_kms.fleet import Order
from daena_kms.policy import KeyPolicy
from daena_kms.settings import read_settings
from daena_kms.stores.aws_layout import KEPT_VERSIONS
from tests.bench import aws_scene, azure_rotations, gcp_scene
from tests.bench.clouds import CloudScene, Wire
from tests.bench.scene import POLICY, names
from tests.support.aws_world import BUCKET, REGION

KEYS = names(2)
POLICY_FILE = "".join(f"[keys.{key}]\n" for key in KEYS).encode()
KEPT = 2
OF_EACH_TICK = {"secrets-manager.ListSecrets", "vault.LIST all", "secrets.ListSecrets"}
_STORE = ("secrets-manager.", "vault.", "secrets.AccessSecretVersion")
_WRITES = ("s3.PutObject", "s3.ListObjectsV2", "blob.PUT", "blob.LIST", "storage.insert", "storage.list")
_READS = ("s3.GetObject", "blob.GET", "storage.get")
_FREE = ("sts.", "secrets.")


def charged(seen: Counter[str]) -> Calls:
    """Counted calls by how they are charged. One that is not known fails here."""
    found: Counter[str] = Counter()
    kinds = {"store": _STORE, "kms": ("kms.",), "writes": _WRITES, "reads": _READS, "free": _FREE}
    for name, count in seen.items():
        found[next(kind for kind, starts in kinds.items() if name.startswith(starts))] += count
    return Calls(**found)


class Cloud:
    """One cloud's double, its wire counted, and what is needed to make fleets and to open it as a function does."""

    def __init__(self, name: str, wire: Wire, fleet: Callable[[str, KeyPolicy], CloudScene]) -> None:
        self.name, self.wire, self.fleet = name, wire, fleet
        self.environment: Callable[[CloudScene], dict[str, str]] = lambda _: {}
        self.clouds: Callable[[Any], app.Clouds] = app.Clouds
        self.looks = COUNTED[name].look

    def per_key(self, work: Callable[[], object], *, looked: bool = True) -> Calls:
        """What each key is asked, without the tick's own listing and look."""
        time.sleep(0.1)  # Key Vault's double runs faster than the world: what was put is then no longer new
        with self.wire.counting() as seen:
            work()
        calls = Counter({name: count for name, count in seen.items() if name not in OF_EACH_TICK})
        assert all(count % len(KEYS) == 0 for count in calls.values()), calls
        found = charged(Counter({name: count // len(KEYS) for name, count in calls.items()}))
        return replace(found, store=found.store - self.looks.store) if looked else found


def _aws() -> Iterator[Cloud]:
    with aws_scene.account() as made:
        cloud = Cloud("aws", made, lambda prefix, policy: aws_scene.AwsScene(made, prefix, dict.fromkeys(KEYS, policy)))
        made.aws.client("s3").call("put_object", "policy", Bucket=BUCKET, Key="policy.toml", Body=POLICY_FILE)
        cloud.environment = lambda _: {
            "AWS_REGION": REGION,
            "AWS_KMS_KEY_ID": made.key,
            "DAENA_POLICY": f"s3://{BUCKET}/policy.toml",
        }

        def clouds(settings: Any) -> app.Clouds:
            found = app.Clouds(settings)
            vars(found)["aws"] = made.aws  # whose calls are counted
            return found

        cloud.clouds = clouds
        yield cloud


def _azure() -> Iterator[Cloud]:
    with azure_rotations.account() as made:
        cloud = Cloud("azure", made, lambda prefix, policy: azure_rotations.scene(made, prefix, KEYS, policy))
        container = made.container("policy")
        ContainerClient.from_container_url(container, made.azure.identity).upload_blob("policy.toml", POLICY_FILE)
        cloud.environment = lambda _: {"AZURE_KEY_VAULT_URL": made.vault, "DAENA_POLICY": f"{container}/policy.toml"}
        yield cloud


def _gcp() -> Iterator[Cloud]:
    with gcp_scene.project() as made:
        cloud = Cloud("gcp", made, lambda prefix, policy: gcp_scene.GcpScene(made, prefix, KEYS, policy))
        bucket = made.bucket()
        made.storage.bucket(bucket).blob("policy.toml").upload_from_string(POLICY_FILE)
        cloud.environment = lambda _: {
            "GCP_PROJECT_ID": str(made.gcp.project),
            "GCP_SECRET_MANAGER_ENDPOINT": made.endpoint,
            "DAENA_POLICY": f"gs://{bucket}/policy.toml",
        }
        yield cloud


# gRPC reads its root certificates once in a process: where another test was first, this double is not believed.
APART = "COUNT_CALLS_OF_GCP"


def test_google_cloud_in_a_process_of_its_own() -> None:
    if APART in os.environ:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "gcp", __file__]
    done = subprocess.run(command, env=os.environ | {APART: "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.fixture(scope="module", params=["gcp"] if APART in os.environ else ["aws", "azure"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    yield from {"aws": _aws, "azure": _azure, "gcp": _gcp}[request.param]()


def test_a_creation_and_a_rotation(cloud: Cloud) -> None:
    fleet = cloud.fleet("plain-", POLICY)
    assert cloud.per_key(fleet.create, looked=False) == COUNTED[cloud.name].create
    for number in (1, 2):
        assert cloud.per_key(fleet.rotate) == cost.rotation_calls(cloud.name, POLICY, number)
    assert cost.rotation_calls(cloud.name, POLICY, 2).total() == {"aws": 9, "azure": 11, "gcp": 11}[cloud.name]


def test_rotations_that_keep_few_versions(cloud: Cloud) -> None:
    """From the third on each disables one, and reads a manifest that grows by four entries each time."""
    policy = replace(POLICY, keep_versions=KEPT)
    fleet = cloud.fleet("few-", policy)
    fleet.create()
    for number in range(1, 6):
        counted = cloud.per_key(fleet.rotate)
        assert counted == cost.rotation_calls(cloud.name, policy, number), number


def test_a_tick_that_finds_nothing_due(cloud: Cloud) -> None:
    """As a function does it that has just started: settings, policy, opening, listing."""
    fleet = cloud.fleet("tick-", POLICY)
    fleet.create()
    environment = cloud.environment(fleet) | {
        "DAENA_CLOUD_KMS_PROVIDER": cloud.name,
        "DAENA_KEY_PREFIX": "tick-",
        "DAENA_MANIFEST_URL": fleet.ledger.address,
        "DAENA_PUBLIC_KEY": fleet.keyring.trust.generations[0].public_key.hex(),
    }
    settings = read_settings(environment)
    clouds = cloud.clouds(settings)
    time.sleep(0.1)
    with cloud.wire.counting() as seen:
        policy = app.load_policy(settings, clouds)
        connection = app.connect(settings, trigger="test", writes=False, makes=True, clouds=clouds)
        report = app.serve(connection, settings, policy, trigger="test", budget_seconds=None).rotate(Order())
    assert report.counts() == {"not-due": len(KEYS)}
    assert charged(seen) == cost.tick_calls(cloud.name, len(KEYS))


@pytest.mark.parametrize("cloud", ["aws"], indirect=True)
def test_rotations_that_fill_an_archive(cloud: Cloud) -> None:
    fleet = cloud.fleet("many-", POLICY)
    fleet.create()
    for _ in range(1, KEPT_VERSIONS):
        fleet.rotate()
    for number in (KEPT_VERSIONS, KEPT_VERSIONS + 1):
        assert cloud.per_key(fleet.rotate) == cost.rotation_calls("aws", POLICY, number)
    listed = cloud.wire.aws.client("secretsmanager").pages("list_secrets", "all", Filters=[])  # type: ignore[attr-defined]
    shown = [entry["Name"] for page in listed for entry in page["SecretList"] if entry["Name"].startswith("many-")]
    assert len(shown) == len(KEYS) * (1 + cost.archives(KEPT_VERSIONS + 2))
