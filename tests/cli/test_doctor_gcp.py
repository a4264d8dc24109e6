"""`doctor` on Google Cloud: the strict doubles of Secret Manager and Cloud Storage."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daena_kms.stores import gcp, gcp_ledger
from tests.support.gcp_world import FUNCTION, PREFIX, Project
from tests.support.gcs_http import Answer, Asked, plain
from tests.support.gcs_objects import Conditions
from tests.support.strict_gcs import StrictGcs

from .doctoring import MINUTES, NOWHERE, POLICY, Found, check_text, examined, of_a_key_file, with_a_key
from .sandbox import Sandbox

NEEDED = {permission for each in gcp.REQUIRED_PERMISSIONS.values() for permission in each}
LEDGER_NEEDS = {permission for each in gcp_ledger.REQUIRED_PERMISSIONS.values() for permission in each}
RESERVED = f"reserved--{PREFIX}manifest-keys"
EVERYWHERE = {"secretmanager.secrets.list", "secretmanager.secrets.create"}


class Patient:
    """A project that is looked at under the function's service account."""

    def __init__(self, project: Project, box: Sandbox, environment: Mapping[str, str]) -> None:
        self.project = project
        self.service = project.secrets.service
        assert isinstance(project.storage, StrictGcs)
        self.storage = project.storage.server
        self.box = box
        self.environment = dict(environment)

    def look(self, **environment: str) -> Found:
        return examined(self.box, self.environment | environment, self.state, *self.payloads())

    def payloads(self) -> list[bytes]:
        """What must not be seen."""
        held = self.project.secrets.store._held
        return [
            version.data for each in held.values() for secret in each for version in secret.versions if version.data
        ]

    def state(self) -> Any:
        """Everything that lies in the project."""
        return repr(self.project.secrets.store._copied()), repr(self.storage.objects.buckets)

    def grant(self, permissions: set[str]) -> None:
        """As the roles of infra/gcp do: on names, but for what is a matter of the project."""
        begins = [f"projects/{self.service.number}/secrets/{each}" for each in (PREFIX, f"reserved--{PREFIX}")]

        def granted(permission: str, resource: str) -> bool:
            return permission in permissions and (permission in EVERYWHERE or resource.startswith(tuple(begins)))

        self.service.allowed = {FUNCTION: granted}


@pytest.fixture(scope="module")
def place() -> Iterator[Project]:
    """A project with a storage that judges permissions. Others find the emulator that they had before."""
    kept = os.environ.get("STORAGE_EMULATOR_HOST")
    made = Project(strict_storage=True)
    yield made
    if kept is None:
        del os.environ["STORAGE_EMULATOR_HOST"]
    else:
        os.environ["STORAGE_EMULATOR_HOST"] = kept
    made.secrets.close()


@pytest.fixture(scope="module")
def rotated(place: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a key, made once: whoever is looked at does not change."""
    return with_a_key(tmp_path_factory.mktemp("gcp"), of_a_key_file(place))


@pytest.fixture
def patient(place: Project, rotated: dict[str, str], tmp_path: Path) -> Iterator[Patient]:
    made = Patient(place, Sandbox(tmp_path / "work", policy=POLICY), rotated)
    yield made
    made.service.reset()
    made.storage.allowed, made.storage.between = {}, plain
    made.storage.objects.condition_first = True


def test_all_is_well(patient: Patient) -> None:
    assert len(patient.payloads()) > 1
    found = patient.look()
    check_text(patient.box, patient.environment, found)
    assert found.status == 0
    assert found.named("ok") == set(found.checks)
    assert set(found.checks) >= NEEDED | LEDGER_NEEDS | {"create-only", "clock", "evidence keys", "pinned key", "keys"}


def test_with_exactly_the_permissions_of_the_roles(patient: Patient) -> None:
    patient.grant(NEEDED)
    patient.storage.allowed = {FUNCTION: LEDGER_NEEDS}
    found = patient.look()
    assert found.named("ok") == set(found.checks)


@pytest.mark.parametrize("permission", sorted(NEEDED))
def test_without_a_permission_its_line_fails_and_no_other(patient: Patient, permission: str) -> None:
    patient.grant(NEEDED - {permission})
    line = patient.look().only(permission)
    assert "infra/gcp" in line


@pytest.mark.parametrize("permission", sorted(LEDGER_NEEDS))
@pytest.mark.parametrize("condition_first", [True, False])
def test_without_a_permission_on_the_bucket(patient: Patient, permission: str, condition_first: bool) -> None:
    patient.storage.objects.condition_first = condition_first
    patient.storage.allowed = {FUNCTION: LEDGER_NEEDS - {permission}}
    found = patient.look()
    found.only(permission)
    unproven = {"create-only"} if permission != "storage.objects.list" else set()
    assert found.named("not-tried") >= unproven


@pytest.mark.parametrize("condition_first", [True, False])
def test_create_only_is_seen_whichever_refusal_comes(patient: Patient, condition_first: bool) -> None:
    patient.storage.objects.condition_first = condition_first
    patient.storage.allowed = {FUNCTION: LEDGER_NEEDS}
    assert patient.look().checks["create-only"]["standing"] == "ok"


def test_what_writes_is_asked_about_and_not_done(patient: Patient) -> None:
    before = len(patient.service.calls)
    patient.look()
    called = {call.rpc for call in patient.service.calls[before:]}
    assert "TestIamPermissions" in called
    # The secret that is there is not made again; everything else reads.
    assert {rpc for rpc in called if not rpc.startswith(("Get", "List", "Access", "Test"))} == {"CreateSecret"}


def test_a_service_that_does_not_test_permissions(patient: Patient) -> None:
    """Such as an emulator: then it is said that they were not tried."""

    def between(call: Any, carried: Callable[[], Any]) -> Any:
        if call.rpc == "TestIamPermissions":
            raise AssertionError("broken")
        return carried()

    patient.service.between = between
    found = patient.look()
    assert found.status == 0
    assert "secretmanager.versions.add" in found.named("not-tried")
    assert "TestIamPermissions" in found.line("secretmanager.versions.add")


# --- credentials, reachability, clock


def test_a_key_file_that_is_not_there(patient: Patient) -> None:
    line = patient.look(GOOGLE_APPLICATION_CREDENTIALS="/nowhere/key.json").only("credentials")
    assert "no such file" in line


def test_no_project(patient: Patient) -> None:
    assert "GCP_PROJECT_ID is not set" in patient.look(GCP_PROJECT_ID="").only("key store")


def test_another_project(patient: Patient) -> None:
    found = patient.look(GCP_PROJECT_ID="another-project-1")
    assert "secretmanager.secrets.list" in found.failed
    assert "GCP_PROJECT_ID" in found.line("secretmanager.secrets.list")
    assert "evidence keys" not in found.failed


def test_an_api_that_is_not_enabled(patient: Patient) -> None:
    patient.service.enabled = False
    line = patient.look().only("secretmanager.secrets.list")
    assert "gcloud services enable secretmanager.googleapis.com" in line


def test_an_endpoint_that_cannot_be_reached(patient: Patient) -> None:
    address = {"GCP_SECRET_MANAGER_ENDPOINT": NOWHERE, "DAENA_CALL_TIMEOUT_SECONDS": "1"}
    found = patient.look(**address)
    assert "check the network" in found.only("Secret Manager")
    assert found.named("not-tried") >= NEEDED | {"evidence keys", "keys"}


@pytest.mark.parametrize(("minutes", "standing"), [(3, "warning"), (10, "failed"), (-10, "failed")])
def test_a_clock_that_is_wrong(patient: Patient, minutes: float, standing: str) -> None:
    patient.box.days = minutes * MINUTES
    found = patient.look()
    assert found.checks["clock"]["standing"] == standing
    assert found.failed == ({"clock"} if standing == "failed" else set())


# --- the manifests


def test_manifests_that_let_themselves_be_overwritten(patient: Patient) -> None:
    """Such as a storage to which ifGenerationMatch is nothing. What lies there stays the same."""

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer:
        if asked.upload is None:
            return answer()
        upload = replace(asked.upload, conditions=Conditions(None, None))
        return patient.storage.answer(replace(asked, upload=upload))

    patient.storage.between = between
    lies = lambda: patient.project.ledger().read("reserved--manifest-keys", 1)  # noqa: E731
    assert "both would win" in examined(patient.box, patient.environment, lies).only("create-only")


def test_a_bucket_that_is_not_there(patient: Patient) -> None:
    found = patient.look(DAENA_MANIFEST_URL="gs://nobody-has-this-bucket/keys")
    assert found.failed == {"storage.objects.get", "key orders-key"}
    assert "bucket" in found.line("storage.objects.get")
