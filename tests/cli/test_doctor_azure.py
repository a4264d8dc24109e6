"""`doctor` on Azure: the strict double of Key Vault, and Azurite."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient

from daena_kms.stores import azure, azure_ledger
from tests.support import azure_world
from tests.support.azure_scene import refusal
from tests.support.azure_world import FUNCTION, PREFIX, Account
from tests.support.vault_http import Answer, Asked

from .doctoring import MINUTES, NOWHERE, POLICY, Found, check_text, examined, with_a_key
from .sandbox import Sandbox

RESERVED = f"reserved--{PREFIX}manifest-keys"
NEEDED = {action for actions in azure.REQUIRED_PERMISSIONS.values() for action in actions}
LEDGER_NEEDS = {action for actions in azure_ledger.REQUIRED_PERMISSIONS.values() for action in actions}
SET = "secrets/setSecret/action"


class Patient:
    """A vault and a container that are looked at under the function's identity."""

    def __init__(self, account: Account, box: Sandbox, environment: Mapping[str, str]) -> None:
        self.account = account
        self.server = account.vault.server
        self.box = box
        self.environment = dict(environment)

    def look(self, **environment: str) -> Found:
        values = [v.value.encode() for s in self.server.secrets.live.values() for v in s.versions]
        return examined(self.box, self.environment | environment, self.state, *values)

    def state(self) -> Any:
        """Everything that lies in the vault and in the container."""
        blobs = [(b.name, b.etag, b.last_modified) for b in self.account.containers().list_blobs()]
        return repr(self.server.secrets.live), repr(self.server.secrets.deleted), blobs


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A vault with a key, made once: whoever is looked at does not change."""
    account = azure_world.emptied()
    yield with_a_key(tmp_path_factory.mktemp("azure"), account.environment())
    azure_world.emptied()


@pytest.fixture
def patient(rotated: dict[str, str], tmp_path: Path) -> Iterator[Patient]:
    account = azure_world.account()
    before = account.vault.server.between
    yield Patient(account, Sandbox(tmp_path / "work", policy=POLICY), rotated)
    account.vault.server.between = before
    account.vault.server.allowed.clear()
    account.vault.identity.clients = {"": FUNCTION}


def test_all_is_well(patient: Patient) -> None:
    found = patient.look()
    check_text(patient.box, patient.environment, found)
    assert found.status == 0
    assert found.named("ok") == set(found.checks) - {SET}
    expected = NEEDED | LEDGER_NEEDS | {"Key Vault", "Blob Storage", "create-only", "clock", "evidence keys", "keys"}
    assert set(found.checks) >= expected


def test_what_cannot_be_tried_says_so(patient: Patient) -> None:
    found = patient.look()
    assert found.named("not-tried") == {SET}
    assert "one more version" in found.line(SET)
    assert "a rotation would show it" in found.line(SET)


@pytest.mark.parametrize("action", sorted(NEEDED - {SET}))
def test_without_a_permission_its_line_fails_and_no_other(patient: Patient, action: str) -> None:
    allowed = {each.split("/")[1] for each in NEEDED - {action}}
    patient.server.allowed[FUNCTION] = allowed
    line = patient.look().only(action)
    assert "Forbidden" in line
    assert "give these credentials the role" in line


def test_an_update_is_tried_on_a_version_that_is_not_there(patient: Patient) -> None:
    """And asks for nothing to be changed, so that even one that hit something would change nothing."""
    before = len(patient.server.calls)
    patient.look()
    asked = [call for call in patient.server.calls[before:] if call.method != "GET"]
    assert [(call.method, call.name, call.version, dict(call.body)) for call in asked] == [
        ("PATCH", RESERVED, "0" * 32, {})
    ]


def test_a_reserved_key_that_is_disabled(patient: Patient) -> None:
    """It may be got, says the vault; and it cannot be."""
    real = patient.server.between

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer | None:
        if asked.action == "getSecret" and asked.name == RESERVED:
            return refusal(403, "Forbidden", "SecretDisabled")
        return real(asked, answer)

    patient.server.between = between
    found = patient.look()
    assert found.checks["secrets/getSecret/action"]["standing"] == "ok"
    assert found.failed == {"evidence keys"}


# --- credentials, reachability, clock


def test_an_identity_that_nobody_has(patient: Patient) -> None:
    line = patient.look(AZURE_CLIENT_ID="nobody").only("credentials")
    assert "AZURE_CLIENT_ID" in line


def test_half_of_an_application(patient: Patient) -> None:
    line = patient.look(AZURE_TENANT_ID="00000000-0000-4000-8000-000000000009").only("credentials")
    assert "go together" in line


def test_no_vault(patient: Patient) -> None:
    assert "AZURE_KEY_VAULT_URL is not set" in patient.look(AZURE_KEY_VAULT_URL="").only("key store")


def test_a_vault_that_cannot_be_reached(patient: Patient) -> None:
    address = {"AZURE_KEY_VAULT_URL": f"https://{NOWHERE}", "DAENA_CALL_TIMEOUT_SECONDS": "1"}
    found = patient.look(**address)
    line = found.only("Key Vault")
    assert "could not be reached" in line
    assert "check AZURE_KEY_VAULT_URL" in line
    assert found.named("not-tried") >= {"secrets/getSecret/action", "secrets/update/action", "evidence keys", "keys"}


def test_a_vault_that_takes_no_token_of_ours(patient: Patient) -> None:
    """Such as one of another tenant."""
    patient.server.between = lambda *_: refusal(401, "Unauthorized")
    found = patient.look()
    assert found.failed == NEEDED - {SET}
    assert "AZURE_TENANT_ID" in found.line("secrets/getSecret/action")


@pytest.mark.parametrize(("minutes", "standing"), [(3, "warning"), (10, "failed"), (-10, "failed")])
def test_a_clock_that_is_wrong(patient: Patient, minutes: float, standing: str) -> None:
    patient.box.days = minutes * MINUTES
    found = patient.look()
    assert found.checks["clock"]["standing"] == standing
    assert found.failed == ({"clock"} if standing == "failed" else set())
    assert re.search(r"clock is \d+ s (ahead of|behind) the service's", found.line("clock"))


# --- the manifests


def denied(*_: Any, **__: Any) -> Any:
    """As Blob Storage words it to whoever lacks a role, and to who may add and not overwrite."""
    problem = HttpResponseError("This request is not authorized to perform this operation using this permission.")
    problem.status_code = 403
    problem.error_code = "AuthorizationPermissionMismatch"  # type: ignore[attr-defined]
    raise problem


def test_manifests_that_may_not_be_read(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContainerClient, "download_blob", denied)
    found = patient.look()
    assert "AuthorizationPermissionMismatch" in found.only("blobs/read")
    assert found.line("create-only") == "because of blobs/read | "


def test_whether_entries_may_be_added_is_left_open_where_the_answer_means_two_things(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function's own role is answered so: it has blobs/add/action, and not blobs/write."""
    monkeypatch.setattr(ContainerClient, "upload_blob", denied)
    found = patient.look()
    assert found.status == 0
    assert found.checks["create-only"]["standing"] == "ok"
    assert found.named("not-tried") == {SET, "blobs/add/action"}


def test_manifests_that_let_themselves_be_overwritten(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies there stays the same."""
    real = ContainerClient.upload_blob

    def overwriting(self: ContainerClient, name: str, data: bytes, **options: Any) -> Any:
        return real(self, name, data, **{**options, "overwrite": True})

    monkeypatch.setattr(ContainerClient, "upload_blob", overwriting)
    lies = lambda: patient.account.ledger().read("reserved--manifest-keys", 1)  # noqa: E731
    assert "both would win" in examined(patient.box, patient.environment, lies).only("create-only")


def test_a_container_that_is_not_there(patient: Patient) -> None:
    address = f"{patient.account.blobs.url}/nobody-has-this-container/keys"
    found = patient.look(DAENA_MANIFEST_URL=address)
    assert found.failed == {"blobs/read", "key orders-key"}
    assert "make the container" in found.line("blobs/read")
