"""The command with settings for GCP that cannot be used: a clear error, and nothing is changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.sandbox import CANARY, Result, Sandbox, leaked
from tests.support import gcp_world
from tests.support.gcs_objects import Wanted
from tests.support.strict_gcs import StrictGcs
from tests.support.strict_secrets import FUNCTION
from tests.support.worlds import KEY

POLICY = f"[keys.{KEY}]\ncreate = true\n"
BUCKET = "manifests"
URL = f"gs://{BUCKET}/keys"


class Office:
    """The command, with settings for the double's project."""

    def __init__(self, folder: Path, storage: StrictGcs) -> None:
        self.project = gcp_world.emptied()
        self.storage = storage
        storage.server.empty()
        storage.server.objects.create_bucket(BUCKET)
        self.sandbox = Sandbox(folder, policy=POLICY)
        self.given = self.project.environment() | {
            "DAENA_MANIFEST_URL": URL,
            "STORAGE_EMULATOR_HOST": storage.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.project.secrets.key_file(FUNCTION)),
            "DAENA_CALL_TIMEOUT_SECONDS": "1",
        }

    def run(self, *arguments: str, **environment: str) -> Result:
        """The command, with some settings otherwise."""
        return self.sandbox.run(*arguments, **{**self.given, **environment})

    def everything(self) -> object:
        """Every secret with its versions; every object."""
        held = self.project.secrets.store
        secrets = {name: (held.newest(name), str(held.get(name))) for name in held._held}
        found = self.storage.server.objects.listed(BUCKET, Wanted())
        return secrets, [each["name"] for each in found.get("items", [])]


@pytest.fixture(scope="module")
def storage() -> Iterator[StrictGcs]:
    made = StrictGcs(tokens=gcp_world.project().tokens)
    yield made
    made.close()


@pytest.fixture
def office(tmp_path: Path, storage: StrictGcs) -> Office:
    return Office(tmp_path / "work", storage)


# name: (what is set, words of the error, words of the hint)
UNUSABLE: dict[str, tuple[dict[str, str], str, str]] = {
    "no project": ({"GCP_PROJECT_ID": ""}, "GCP_PROJECT_ID is not set", "by its id"),
    "a project by its number": ({"GCP_PROJECT_ID": "482913337105"}, "is no project id", "mend them"),
    "another project": ({"GCP_PROJECT_ID": "another-project"}, "another-project", "GCP_PROJECT_ID"),
    "no key file": (
        {"GOOGLE_APPLICATION_CREDENTIALS": "nothing.json"}, "there is no such file", "mend the path",
    ),
    "a garbled key file": (
        {"GOOGLE_APPLICATION_CREDENTIALS": "garbled.json"}, "credentials", "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "locations that are none": ({"GCP_SECRET_LOCATIONS": "europe"}, "names of locations", "mend them"),
    "an endpoint that is a URL": (
        {"GCP_SECRET_MANAGER_ENDPOINT": "https://secretmanager.googleapis.com"}, "without https://", "mend them",
    ),
    "an endpoint that does not answer": ({"GCP_SECRET_MANAGER_ENDPOINT": "127.0.0.1:9"}, "UNAVAILABLE", "the network"),
    "no bucket of that name": (
        {"DAENA_MANIFEST_URL": "gs://no-such-bucket/keys"}, "no-such-bucket", "",
    ),
    "a bucket without a folder": ({"DAENA_MANIFEST_URL": f"gs://{BUCKET}"}, "no address of an object", "gs://BUCKET/folder"),
    "a malformed address": ({"DAENA_MANIFEST_URL": "gs:/keys"}, "no address of an object", "gs://BUCKET/folder"),
    "an address too long for an annotation": (
        {"DAENA_MANIFEST_URL": f"gs://{BUCKET}/" + "m" * 600}, "characters", "512 fit beside a key",
    ),
    "no policy there": (
        {"DAENA_POLICY": f"gs://{BUCKET}/daena-kms.toml"}, f"there is no gs://{BUCKET}", "DAENA_POLICY",
    ),
}  # fmt: skip


@pytest.mark.parametrize("in_use", [False, True], ids=["nothing made yet", "a key is due"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_a_clear_error_and_changes_nothing(office: Office, name: str, in_use: bool) -> None:
    changed, words, hint = UNUSABLE[name]
    (office.sandbox.folder / "garbled.json").write_bytes(b'{"type": "service_account", "k": "' + CANARY + b'"}')
    if in_use:
        assert office.run("rotate").status == 0
        office.sandbox.days = 90
    before = office.everything()
    result = office.run("rotate", **changed)
    said = result.out + result.err
    assert result.status in (1, 2), result
    assert words in said, said
    assert hint in said, said
    assert "Traceback" not in said
    assert leaked(said, CANARY) == []
    assert office.everything() == before


def test_an_api_that_is_not_enabled_is_named_with_the_command_that_enables_it(office: Office) -> None:
    office.project.secrets.service.enabled = False
    result = office.run("rotate")
    assert result.status == 2, result
    assert "gcloud services enable secretmanager.googleapis.com" in result.err + result.out


def test_a_service_account_without_a_role_is_denied_by_name_of_the_permission(office: Office) -> None:
    assert office.run("rotate").status == 0
    office.sandbox.days = 90
    before = office.everything()
    office.project.secrets.service.allowed = {"nobody": set()}
    result = office.run("rotate")
    said = result.out + result.err
    assert result.status == 2, result
    assert "secretmanager." in said
    assert "infra/gcp" in said
    assert office.everything() == before


def test_a_policy_in_cloud_storage_is_read_from_there(office: Office) -> None:
    client = office.project.secrets.credentials(FUNCTION)
    from google.cloud.storage import Client  # noqa: PLC0415

    maker: Any = Client(project="daena-demo", credentials=client, client_options={"api_endpoint": office.storage.url})
    maker.bucket(BUCKET).blob("daena-kms.toml").upload_from_string(POLICY.encode())
    maker.close()
    (office.sandbox.folder / "daena-kms.toml").unlink()
    result = office.run("rotate", DAENA_POLICY=f"gs://{BUCKET}/daena-kms.toml")
    assert (result.status, "created: version 1" in result.out) == (0, True), result


def test_material_is_put_where_the_setting_says(office: Office) -> None:
    assert office.run("rotate", GCP_SECRET_LOCATIONS="europe-west1,europe-west4").status == 0
    held: Any = office.project.secrets.store.get(f"{gcp_world.PREFIX}{KEY}")
    assert [each.location for each in held.replication.user_managed.replicas] == ["europe-west1", "europe-west4"]
    assert office.run("verify").status == 0
