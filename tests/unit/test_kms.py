"""The Python interface on all four stores, through the real SDKs over sockets."""

import gc
import importlib
import inspect
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daena_kms import app, copies, kms
from daena_kms.errors import (
    ConfigurationError,
    ConflictError,
    DeniedError,
    ExistsError,
    IntegrityError,
    KmsError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from daena_kms.kms import CloudKey, KeyManagementService, KeyStoreAdapter, get_cloud_kms_adapter
from daena_kms.ledger import FolderLedger
from daena_kms.manifest import parse
from daena_kms.material import KeyMaterial
from daena_kms.model import Outcome, Status
from daena_kms.names import RESERVED_KEY
from daena_kms.service import Service
from memory_service import cloud_kms
from memory_service import kms as guide_kms
from tests.cli.sandbox import leaked
from tests.support import aws_world
from tests.support.kms_scene import CLOUDS, ENVIRONMENTS, enter
from tests.support.worlds import DiedError

KEY = "daena-encryption-key"
CANARY = "canary that sings when it leaks!"
COMMAND = Path(sys.executable).with_name("daena-key-rotate")


@pytest.fixture(params=list(ENVIRONMENTS))
def adapter(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeyStoreAdapter]:
    """An adapter of each store, in which nothing was done yet."""
    enter(request.param, tmp_path, monkeypatch)
    with get_cloud_kms_adapter(request.param) as made:
        yield made


@pytest.fixture(params=CLOUDS)
def cloud(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeyManagementService]:
    """A service on each cloud, its manifests in that cloud."""
    enter(request.param, tmp_path, monkeypatch)
    with KeyManagementService() as made:
        yield made


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyStoreAdapter]:
    enter("local", tmp_path, monkeypatch)
    with get_cloud_kms_adapter("local") as made:
        yield made


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in this process's environment and folder."""
    return subprocess.run([str(COMMAND), *arguments], capture_output=True, text=True, check=False, timeout=60)


def events(adapter: KeyStoreAdapter, key: str = KEY) -> list[tuple[str, str]]:
    """Every entry of a key's manifest: event and trigger."""
    return [(str(entry.event), entry.trigger) for entry in adapter.service(writes=False).history(key)]


# --- the guide's signatures

SIGNATURES = {
    "memory_service.cloud_kms.AWSKMSAdapter": ["region", "key_id"],
    "memory_service.cloud_kms.AzureKeyVaultAdapter": ["vault_url", "tenant_id", "client_id", "client_secret"],
    "memory_service.cloud_kms.GCPSecretManagerAdapter": ["project_id", "credentials_path"],
    "memory_service.kms.KeyManagementService": ["cloud_kms_provider"],
    "memory_service.kms.KeyManagementService.record_rotation": ["key_material", "key_id", "store_in_cloud"],
    "memory_service.kms.KeyManagementService.get_key_from_cloud": ["key_id"],
    "memory_service.cloud_kms.get_cloud_kms_adapter": ["provider"],
    "memory_service.cloud_kms.AWSKMSAdapter.get_key": ["name"],
    "memory_service.cloud_kms.AWSKMSAdapter.create_key": ["name"],
    "memory_service.cloud_kms.AWSKMSAdapter.rotate_key": ["name"],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_is_the_guides(name: str) -> None:
    """In the guide's order and with its names; what is beyond them may be left out."""
    parts = name.split(".")
    found: Any = importlib.import_module(".".join(parts[:2]))
    for part in parts[2:]:
        found = getattr(found, part)
    parameters = [p for n, p in inspect.signature(found).parameters.items() if n != "self"]
    wanted = SIGNATURES[name]
    assert [p.name for p in parameters[: len(wanted)]] == wanted
    assert all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters[len(wanted) :])
    if inspect.isclass(found):
        assert all(p.default is None for p in parameters), "every parameter of an adapter may be left out"


def test_store_in_cloud_is_the_default() -> None:
    assert inspect.signature(KeyManagementService.record_rotation).parameters["store_in_cloud"].default is True


@pytest.mark.parametrize("module", [cloud_kms, guide_kms], ids=lambda module: module.__name__)
def test_the_guides_modules_are_nothing_but_other_names(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert getattr(module, name) is getattr(kms, name)
    source = inspect.getsource(module)  # type: ignore[arg-type]
    assert "def " not in source
    assert "class " not in source


# --- an adapter


def test_a_key_is_made_read_and_rotated(adapter: KeyStoreAdapter) -> None:
    made = adapter.create_key(KEY)
    assert (made.key, made.number, len(made.material)) == (KEY, 1, 32)
    assert adapter.get_key(KEY) == made
    rotated = adapter.rotate_key(KEY, reason="laptop lost")
    assert rotated.number == 2
    assert rotated.material != made.material
    assert adapter.get_key(KEY) == rotated
    assert adapter.get_key(KEY, version=1).material == made.material
    assert adapter.service().history(KEY)[-1].reason == "laptop lost"
    assert events(adapter) == [
        ("rotation-started", "python"),
        ("created", "python"),
        ("rotation-started", "python"),
        ("promoted", "python"),
    ]
    assert [audit for audit in adapter.service().verify() if audit.problems or audit.warnings] == []


def test_what_the_adapter_has_is_what_the_command_has(adapter: KeyStoreAdapter, tmp_path: Path) -> None:
    (tmp_path / "daena-kms.toml").write_text(f"[keys.{KEY}]\n")
    adapter.create_key(KEY)
    done = command("rotate", KEY, "--force", "--yes")
    assert done.returncode == 0, done.stderr
    revealed = command("get", KEY, "--reveal", "--encoding", "hex")
    got = adapter.get_key(KEY)
    assert got.number == 2
    assert revealed.stdout.strip() == got.material.reveal().hex()


def test_an_existing_key_is_not_made_again(adapter: KeyStoreAdapter) -> None:
    made = adapter.create_key(KEY)
    with pytest.raises(ExistsError):
        adapter.create_key(KEY)
    assert adapter.get_key(KEY) == made


def test_nothing_is_read_or_made_where_nothing_was_made(adapter: KeyStoreAdapter, tmp_path: Path) -> None:
    for ask in (adapter.get_key, adapter.rotate_key):
        with pytest.raises(KmsError) as caught:
            ask(KEY)
        assert isinstance(caught.value, (NotFoundError, ConfigurationError))
        assert "init" in caught.value.hint
    assert not (tmp_path / ".kms" / "manifests").exists()
    adapter.create_key("another-key")
    with pytest.raises(NotFoundError):
        adapter.get_key(KEY)
    with pytest.raises(NotFoundError):
        adapter.rotate_key(KEY)
    with pytest.raises(NotFoundError):
        adapter.service().history(KEY)


@pytest.mark.parametrize("version", [0, -1, 2])
def test_a_version_that_is_not_there(local: KeyStoreAdapter, version: int) -> None:
    local.create_key(KEY)
    with pytest.raises((NotFoundError, RefusedError)):
        local.get_key(KEY, version)


@pytest.mark.parametrize("name", ["Upper", "a--b", "", "reserved--manifest-keys"])
def test_a_name_that_no_store_takes_makes_nothing(local: KeyStoreAdapter, name: str, tmp_path: Path) -> None:
    for ask in (local.create_key, local.rotate_key):
        with pytest.raises(ConfigurationError):
            ask(name)
    with pytest.raises(ConfigurationError):
        KeyManagementService(cloud_adapter=local).record_rotation("new", name)
    assert not (tmp_path / ".kms").exists()


def test_a_policy_says_what_is_made(local: KeyStoreAdapter, tmp_path: Path) -> None:
    (tmp_path / "daena-kms.toml").write_text(f"[keys.{KEY}]\nspec = 48\n")
    assert len(local.create_key(KEY).material) == 48
    (tmp_path / "daena-kms.toml").write_text(f"[keys.{KEY}]\nspec = 64\n")
    assert len(local.rotate_key(KEY).material) == 64, "the policy is read anew for whoever writes"
    (tmp_path / "daena-kms.toml").unlink()
    assert len(local.rotate_key(KEY).material) == 64, "without one: more of what it is"


def test_a_missing_policy_stops_only_who_named_one(local: KeyStoreAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    local.create_key(KEY)
    monkeypatch.setenv("DAENA_POLICY", "daena-kms.toml")
    with get_cloud_kms_adapter() as named, pytest.raises(ConfigurationError, match="cannot be read"):
        named.get_key(KEY)
    with get_cloud_kms_adapter() as named, pytest.raises(ConfigurationError, match="cannot be read"):
        named.rotate_key(KEY)
    assert local.rotate_key(KEY).number == 2


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.CREATED, Status.ROTATED, Status.DONE)])
def test_an_old_version_is_never_returned_for_a_new_one(
    local: KeyStoreAdapter, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    local.create_key(KEY)
    ended = Outcome(KEY, status, "ended so", hint="look there")
    for name in ("rotate_now", "bring", "create"):
        monkeypatch.setattr(Service, name, lambda *_, **__: ended)
    expected: type[KmsError] = ConflictError if status is Status.IN_PROGRESS else kms.RotationFailedError
    service = KeyManagementService(cloud_adapter=local)
    for ask in (lambda: local.rotate_key(KEY), lambda: service.record_rotation("new", KEY)):
        with pytest.raises(expected, match=f"{KEY}: ended so") as caught:
            ask()
        assert caught.value.hint == "look there"
    with pytest.raises(ExistsError if status is Status.NOT_DUE else expected):
        local.create_key(KEY)


def test_a_claim_of_another_run_is_a_conflict(adapter: KeyStoreAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter.create_key(KEY)
    store = type(adapter.service().tools.store)

    def die(*_: object, **__: object) -> None:
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(store, "stage", die)
        with pytest.raises(DiedError):
            adapter.rotate_key(KEY)
    with pytest.raises(ConflictError):
        adapter.rotate_key(KEY)
    assert adapter.get_key(KEY).number == 1
    now = app.utc_now
    monkeypatch.setattr(app, "utc_now", lambda: now() + timedelta(hours=1))
    rotated = adapter.rotate_key(KEY)
    assert adapter.get_key(KEY) == rotated
    assert rotated.number > 1


def test_new_manifest_keys_made_elsewhere_are_no_surprise(local: KeyStoreAdapter) -> None:
    local.create_key(KEY)
    Path("daena-kms.toml").write_text(f"[keys.{KEY}]\n")
    assert command("init", "--renew").returncode == 0
    assert command("rotate", KEY, "--force", "--yes").returncode == 0
    assert local.get_key(KEY).number == 2


def test_it_is_used_from_many_threads(adapter: KeyStoreAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[object] = []
    connect = app.connect

    def counted(*args: object, **kwargs: object) -> object:
        made = connect(*args, **kwargs)  # type: ignore[arg-type]
        connections.append(made)
        return made

    monkeypatch.setattr(app, "connect", counted)
    barrier = threading.Barrier(4)

    def work(number: int) -> list[CloudKey]:
        barrier.wait()
        name = f"key-{number}"
        return [adapter.create_key(name), adapter.rotate_key(name), adapter.get_key(name)]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, range(4)))
    assert [[key.number for key in keys] for keys in done] == [[1, 2, 2]] * 4
    assert len({key.material.reveal() for keys in done for key in keys}) == 8
    assert len(connections) == 1


def test_it_can_be_closed_and_used_again(local: KeyStoreAdapter) -> None:
    local.close()
    made = local.create_key(KEY)
    local.close()
    local.close()
    assert local.get_key(KEY) == made


# --- parameters


def test_parameters_stand_in_for_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter("local", tmp_path, monkeypatch, AWS_REGION="eu-west-1", AWS_KMS_KEY_ID="alias/b", DAENA_KEY_PREFIX="app-")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "another's secret")
    aws = kms.AWSKMSAdapter("us-east-1", key_id="alias/a").settings
    assert (aws.provider, aws.aws_region, aws.aws_kms_key_id, aws.prefix) == ("aws", "us-east-1", "alias/a", "app-")
    assert kms.AWSKMSAdapter().settings.aws_region == "eu-west-1"
    azure = kms.AzureKeyVaultAdapter("https://a.vault.azure.net/", "t", "c", "s").settings
    assert (azure.azure_vault, azure.azure_tenant, azure.azure_client) == ("https://a.vault.azure.net", "t", "c")
    assert azure.azure_secret == KeyMaterial(b"s")
    assert kms.AzureKeyVaultAdapter(client_secret="").settings.azure_secret is None
    gcp = kms.GCPSecretManagerAdapter("project-1", credentials_path=tmp_path / "key.json").settings
    assert (gcp.gcp_project, gcp.gcp_credentials) == ("project-1", str(tmp_path / "key.json"))
    assert kms.LocalVaultAdapter(tmp_path / "vault").settings.home == tmp_path / "vault"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: kms.AzureKeyVaultAdapter(vault_url="http://plain"), "AZURE_KEY_VAULT_URL"),
        (lambda: kms.GCPSecretManagerAdapter(project_id="No Project"), "GCP_PROJECT_ID"),
        (lambda: get_cloud_kms_adapter("ibm"), "local, aws, azure, gcp"),
        (lambda: get_cloud_kms_adapter(""), "local, aws, azure, gcp"),
        (lambda: KeyManagementService("ibm"), "local, aws, azure, gcp"),
        (lambda: KeyManagementService("aws", kms.LocalVaultAdapter()), "leave one of them out"),
    ],
)
def test_wrong_parameters_are_named(local: KeyStoreAdapter, make: Callable[[], object], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert named in caught.value.line


def test_a_parameter_that_the_adapter_has_not_is_a_programmers_error(local: KeyStoreAdapter) -> None:
    with pytest.raises(TypeError):
        get_cloud_kms_adapter("aws", vault_url="https://a.vault.azure.net")


def test_the_provider_comes_from_the_settings(local: KeyStoreAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_cloud_kms_adapter().provider == "local"
    monkeypatch.setenv("DAENA_CLOUD_KMS_PROVIDER", "Azure")
    assert isinstance(get_cloud_kms_adapter(), kms.AzureKeyVaultAdapter)
    assert isinstance(get_cloud_kms_adapter("GCP"), kms.GCPSecretManagerAdapter)


def test_a_key_in_another_region_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter("aws", tmp_path, monkeypatch)
    arn = os.environ["AWS_KMS_KEY_ID"]
    with pytest.raises(ConfigurationError, match="not in the region us-east-1"):
        get_cloud_kms_adapter("aws", region="us-east-1", key_id=arn).create_key(KEY)


def test_a_credentials_path_stands_in_for_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = enter("gcp", tmp_path, monkeypatch)
    path = environment["GOOGLE_APPLICATION_CREDENTIALS"]
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    with pytest.raises(ConfigurationError, match=r"nothing\.json"):
        kms.GCPSecretManagerAdapter().create_key(KEY)
    adapter = kms.GCPSecretManagerAdapter(credentials_path=path)
    assert adapter.create_key(KEY).number == 1
    assert adapter.service().history(KEY)[0].actor == "gcp:" + json.loads(Path(path).read_text())["client_email"]


@pytest.mark.parametrize(("provider", "package"), [("aws", "botocore"), ("azure", "azure"), ("gcp", "google")])
def test_a_missing_sdk_names_the_extra(provider: str, package: str, tmp_path: Path) -> None:
    code = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        "from memory_service.cloud_kms import get_cloud_kms_adapter\n"
        "from daena_kms import ConfigurationError\n"
        f"try:\n    get_cloud_kms_adapter({provider!r}).create_key('a')\n"
        "except ConfigurationError as problem:\n    print(problem.line)\n"
    )
    values = {
        "AWS_KMS_KEY_ID": "alias/a", "AWS_REGION": "eu-west-1", "AZURE_KEY_VAULT_URL": "https://127.0.0.1:9",
        "GCP_PROJECT_ID": "project-1", "GOOGLE_APPLICATION_CREDENTIALS": "key.json",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=values
    )
    assert f"pip install 'daena-kms[{provider}]'" in done.stdout


# --- recording a rotation


def folder_of(service: KeyManagementService) -> Path:
    """Where a cloud's manifests are copied to."""
    assert service.cloud is not None
    return service.cloud.settings.home / "copies" / service.cloud.provider


@pytest.mark.parametrize("given", [CANARY, CANARY.encode(), KeyMaterial(CANARY.encode())], ids=["str", "bytes", "own"])
def test_a_rotation_is_recorded_in_the_vault_where_no_cloud_is(local: KeyStoreAdapter, given: str | bytes) -> None:
    with KeyManagementService() as service:
        assert service.cloud is None
        done = service.record_rotation(key_material=given, key_id=KEY, reason="by the vendor")
        assert (done.key, done.number, done.provider) == (KEY, 1, "local")
        assert local.get_key(KEY).material.reveal() == CANARY.encode()
        assert Path(done.recorded).is_file()
        assert Path(done.recorded).parent == Path(done.local_manifest)
        assert parse(Path(done.recorded).read_bytes()).reason == "by the vendor"
        with pytest.raises(ConfigurationError, match="no cloud is configured"):
            service.get_key_from_cloud(KEY)


def test_text_is_utf_8(local: KeyStoreAdapter) -> None:
    with KeyManagementService() as service:
        service.record_rotation("schlüssel", KEY)
    assert local.get_key(KEY).material.reveal() == "schlüssel".encode()


def test_a_rotation_is_recorded_in_the_cloud_and_copied(cloud: KeyManagementService) -> None:
    assert cloud.cloud is not None
    first = cloud.record_rotation("first-encryption-key", KEY)
    done = cloud.record_rotation(key_material=CANARY, key_id=KEY, store_in_cloud=True)
    assert (first.number, done.number, done.provider) == (1, 2, cloud.cloud.provider)
    got = cloud.get_key_from_cloud(KEY)
    assert (got.number, got.version_id, got.material.reveal()) == (2, done.version_id, CANARY.encode())
    assert cloud.get_key_from_cloud(KEY, version=1).material.reveal() == b"first-encryption-key"
    assert Path(done.local_manifest) == folder_of(cloud) / KEY
    service = cloud.cloud.service()
    ledger = service.journal.ledger
    assert done.recorded == ledger.where(KEY, 4)
    for key in (KEY, "reserved--manifest-keys"):
        for sequence in ledger.sequences(key):
            assert (folder_of(cloud) / key / f"{sequence:08d}.json").read_bytes() == ledger.read(key, sequence)
    assert not (folder_of(cloud).parent.parent / "vault.db").exists()
    public_key = service.keyring.trust.generations[0].public_key.hex()
    verified = command("verify", "--manifests", str(folder_of(cloud)), "--public-key", public_key, "--json")
    assert verified.returncode == 0, verified.stderr
    (found,) = json.loads(verified.stdout)["keys"]
    assert (found["key"], found["entries"]) == (KEY, 4)


def test_recording_twice_is_recording_once(cloud: KeyManagementService) -> None:
    cloud.record_rotation(CANARY, KEY)
    files = sorted(folder_of(cloud).rglob("*.json"))
    again = cloud.record_rotation(CANARY, KEY)
    assert (again.number, again.recorded) == (1, "")
    assert sorted(folder_of(cloud).rglob("*.json")) == files
    cloud.record_rotation("other", KEY)
    with pytest.raises(RefusedError, match="had that material"):
        cloud.record_rotation(CANARY, KEY)
    assert cloud.get_key_from_cloud(KEY).number == 2


def test_told_not_to_it_stores_nothing_in_the_cloud(cloud: KeyManagementService, tmp_path: Path) -> None:
    cloud.record_rotation("in the cloud", KEY)
    done = cloud.record_rotation(CANARY, KEY, store_in_cloud=False)
    assert (done.number, done.provider) == (1, "local")
    assert cloud.get_key_from_cloud(KEY).material.reveal() == b"in the cloud"
    assert cloud.local.get_key(KEY).material.reveal() == CANARY.encode()
    assert Path(done.recorded) == tmp_path / ".kms" / "manifests" / KEY / "00000002.json"
    (audit,) = cloud.local.service().verify([KEY])
    assert not audit.problems


def test_manifests_on_this_machine_are_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the guide sets it up: no DAENA_MANIFEST_URL. The vault's manifests lie beside the cloud's."""
    enter("aws", tmp_path, monkeypatch)
    monkeypatch.delenv("DAENA_MANIFEST_URL")
    home = tmp_path / ".kms"
    with KeyManagementService(cloud_kms_provider="aws") as service:
        done = service.record_rotation("in the cloud", KEY)
        assert Path(done.recorded) == home / "aws" / "manifests" / KEY / "00000002.json"
        assert Path(done.local_manifest) == home / "aws" / "manifests" / KEY
        kept = service.record_rotation(CANARY, KEY, store_in_cloud=False)
        assert Path(kept.recorded) == home / "manifests" / KEY / "00000002.json"
        assert service.get_key_from_cloud(KEY).material.reveal() == b"in the cloud"
        assert service.local.get_key(KEY).material.reveal() == CANARY.encode()
    assert not (home / "copies").exists()


def test_what_is_pinned_for_the_cloud_is_not_for_the_vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter("aws", tmp_path, monkeypatch, DAENA_PUBLIC_KEY="ab" * 32)
    with KeyManagementService() as service:
        assert service.record_rotation("new", KEY, store_in_cloud=False).provider == "local"


@pytest.mark.parametrize(
    ("given", "error"),
    [("", ConfigurationError), (b"x" * 1025, ConfigurationError), ("\udc80", ConfigurationError), (5, TypeError)],
)
def test_material_that_cannot_be(local: KeyStoreAdapter, given: str, error: type[Exception], tmp_path: Path) -> None:
    with KeyManagementService() as service, pytest.raises(error):
        service.record_rotation(given, KEY)
    assert not (tmp_path / ".kms").exists()


def test_an_adapter_that_was_handed_in_is_used_and_stays_open(local: KeyStoreAdapter) -> None:
    with KeyManagementService(cloud_adapter=local) as service:
        service.record_rotation("new", KEY)
    with KeyManagementService("local", local) as service:
        assert service.local is local
    assert local._connection is not None


# --- the copy


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyManagementService]:
    enter("aws", tmp_path, monkeypatch)
    with KeyManagementService() as made:
        yield made


def test_death_before_the_copy_is_mended_by_the_next_call(
    aws: KeyManagementService, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.record_rotation("first", KEY)
    for at in range(1, 3):
        written: list[int] = []
        append = FolderLedger.append

        def die(ledger: FolderLedger, key: str, sequence: int, data: bytes, at: int = at) -> None:
            written.append(sequence)  # noqa: B023  # used up before the loop goes on
            if len(written) == at:  # noqa: B023
                raise DiedError
            append(ledger, key, sequence, data)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(FolderLedger, "append", die)
            with pytest.raises(DiedError):
                aws.record_rotation(f"next {at}", KEY)
        assert aws.get_key_from_cloud(KEY).number == at + 1
        assert aws.record_rotation(f"next {at}", KEY).recorded == ""
        assert len(list((folder_of(aws) / KEY).glob("*.json"))) == 2 * (at + 1)


def test_an_unwritable_copy_says_that_the_key_is_recorded(
    aws: KeyManagementService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UnavailableError("cannot write: no space left", "free some space")

    with monkeypatch.context() as patch:
        patch.setattr(FolderLedger, "append", full)
        with pytest.raises(UnavailableError, match="is recorded in aws, but not copied") as caught:
            aws.record_rotation(CANARY, KEY)
    assert caught.value.hint.startswith("free some space; then record it again")
    assert aws.record_rotation(CANARY, KEY).number == 1
    assert (folder_of(aws) / KEY / "00000002.json").exists()


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"python", b"Python"))


def swap(path: Path) -> None:
    path.write_bytes((path.parent / "00000001.json").read_bytes())


TAMPERED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "last-changed": (f"{KEY}/00000004.json", change),
    "last-swapped": (f"{KEY}/00000004.json", swap),
    "middle-changed": (f"{KEY}/00000002.json", change),
    "middle-swapped": (f"{KEY}/00000003.json", swap),
    "middle-deleted": (f"{KEY}/00000002.json", Path.unlink),
    "root-changed": (f"{RESERVED_KEY}/00000001.json", change),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_copy_that_was_changed_is_refused_and_left(local: KeyStoreAdapter, tmp_path: Path, case: str) -> None:
    local.create_key(KEY)
    local.rotate_key(KEY)
    ledger, folder = local.service().journal.ledger, tmp_path / "copy"
    copies.copy_manifest(ledger, folder, [KEY])
    name, tamper = TAMPERED[case]
    tamper(folder / name)
    local.rotate_key(KEY)
    before = {p: p.read_bytes() for p in folder.rglob("*.json")}
    with pytest.raises(IntegrityError):
        copies.copy_manifest(ledger, folder, [KEY])
    assert {p: p.read_bytes() for p in folder.rglob("*.json")} == before


def test_a_changed_copy_stops_nothing_in_the_cloud(aws: KeyManagementService) -> None:
    aws.record_rotation("first", KEY)
    path = folder_of(aws) / KEY / "00000002.json"
    change(path)
    was = path.read_bytes()
    with pytest.raises(IntegrityError, match="is recorded in aws, but not copied"):
        aws.record_rotation("second", KEY)
    assert path.read_bytes() == was
    assert [p.name for p in sorted(path.parent.iterdir())] == ["00000001.json", "00000002.json"]
    assert aws.get_key_from_cloud(KEY).number == 2


def test_a_copy_of_which_the_end_is_gone_gets_it_back(aws: KeyManagementService) -> None:
    aws.record_rotation(CANARY, KEY)
    path = folder_of(aws) / KEY / "00000002.json"
    was = path.read_bytes()
    path.unlink()
    aws.record_rotation(CANARY, KEY)
    assert path.read_bytes() == was


def test_another_ledgers_copy_is_refused(aws: KeyManagementService) -> None:
    aws.record_rotation(CANARY, KEY)
    assert aws.cloud is not None
    home, ledger = aws.cloud.settings.home, aws.cloud.service().journal.ledger
    with kms.LocalVaultAdapter(home / "elsewhere") as other:
        other.create_key(KEY)
        assert (home / "elsewhere" / "manifests" / KEY).is_dir(), "the environment's address is the cloud's"
        with pytest.raises(IntegrityError, match="another ledger's copy"):
            copies.copy_manifest(other.service().journal.ledger, folder_of(aws), [KEY])
        other.create_key("other-key")
        with pytest.raises(IntegrityError, match="another ledger's copy"):
            copies.copy_manifest(other.service().journal.ledger, folder_of(aws), ["other-key"])
    assert not (folder_of(aws) / "other-key").exists()
    (folder_of(aws) / KEY / "00000003.json").write_bytes((folder_of(aws) / KEY / "00000002.json").read_bytes())
    with pytest.raises(IntegrityError):
        copies.copy_manifest(ledger, folder_of(aws), [KEY])


def test_a_ledger_that_was_cut_shows_in_the_copy(local: KeyStoreAdapter, tmp_path: Path) -> None:
    local.create_key(KEY)
    ledger, folder = local.service().journal.ledger, tmp_path / "copy"
    assert copies.copy_manifest(ledger, folder, [KEY]) == 3
    assert copies.copy_manifest(ledger, folder, [KEY]) == 0
    Path(ledger.where(KEY, 2)).unlink()
    with pytest.raises(IntegrityError, match="the manifest was cut"):
        copies.copy_manifest(ledger, folder, [KEY])


def test_a_folder_of_something_else_is_left_alone(local: KeyStoreAdapter, tmp_path: Path) -> None:
    local.create_key(KEY)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "letters").write_text("dear")
    with pytest.raises(ConfigurationError, match="letters"):
        copies.copy_manifest(local.service().journal.ledger, tmp_path / "copy", [KEY])
    assert [p.name for p in (tmp_path / "copy").iterdir()] == ["letters"]


def test_two_processes_copy_at_once(local: KeyStoreAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.create_key(KEY)
    ledger, folder = local.service().journal.ledger, tmp_path / "copy"
    append = FolderLedger.append

    def overtaken(copy: FolderLedger, key: str, sequence: int, data: bytes) -> None:
        append(copy, key, sequence, data)
        append(copy, key, sequence, data)

    monkeypatch.setattr(FolderLedger, "append", overtaken)
    assert copies.copy_manifest(ledger, folder, [KEY]) == 3


# --- what leaks


def test_material_is_in_no_text(cloud: KeyManagementService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = []
    done = cloud.record_rotation(CANARY, KEY)
    key = cloud.get_key_from_cloud(KEY)
    told += [repr(done), repr(key), str(key), f"{key}", repr(cloud), repr(vars(cloud)), repr(cloud.cloud)]
    told.append(repr(vars(cloud.cloud)))
    cloud.record_rotation("another canary, which sings as well", KEY)
    try:
        cloud.record_rotation(CANARY, KEY)
    except RefusedError as problem:
        told += ["".join(traceback.format_exception(problem)), problem.line]
    told += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    told += [path.read_text() for path in folder_of(cloud).rglob("*.json")]
    for text in told:
        assert leaked(text, CANARY.encode()) == []
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_text_that_utf_8_cannot_write_is_not_quoted(local: KeyStoreAdapter) -> None:
    with KeyManagementService() as service, pytest.raises(ConfigurationError) as caught:
        service.record_rotation(CANARY + "\udc80", KEY)
    assert leaked("".join(traceback.format_exception(caught.value)), CANARY.encode()) == []
    assert caught.value.__suppress_context__


def test_a_secret_of_azures_is_in_no_text(local: KeyStoreAdapter) -> None:
    adapter = kms.AzureKeyVaultAdapter("https://127.0.0.1:9", "t", "c", CANARY)
    with pytest.raises(KmsError) as caught:
        adapter.create_key(KEY)
    told = [repr(adapter), repr(vars(adapter)), "".join(traceback.format_exception(caught.value)), caught.value.line]
    assert [leaked(text, CANARY.encode()) for text in told] == [[]] * 4
    gc.collect()


def test_credentials_that_may_not_are_denied(aws: KeyManagementService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a cloud comes out in our words."""
    aws.record_rotation(CANARY, KEY)
    server = aws_world.account().server
    server.enforce_iam(True)
    try:
        with pytest.raises(DeniedError):
            kms.AWSKMSAdapter().rotate_key(KEY)
    finally:
        server.enforce_iam(False)
