"""Four clouds' worth of doubles over sockets, and as many empty places on each as a campaign wants.

A place is a store with a ledger of its own: a prefix and a folder of manifests in a cloud's one account, or a home on
this machine. It is named by a settings file, as `migrate --from A.env --to B.env` takes it; what leads a client to a
double and is no setting of ours is in the environment of every process.
"""

import base64
import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from azure.keyvault.secrets import SecretClient

from daena_kms import app
from daena_kms.material import KeyMaterial
from daena_kms.model import Status, utc_now
from daena_kms.service import Service
from daena_kms.settings import SETTINGS, read_settings
from daena_kms.stores.local import LocalStore
from tests.support import aws_world, azure_world, gcp_world

ROOT = Path(__file__).parents[2]
STORES = ("local", "aws", "azure", "gcp")
NAMES = {setting.name for setting in SETTINGS}
NO_ACCOUNT = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
}
_ELSEWHERE = ("DAENA_", "AWS_", "AZURE_", "GCP_", "GOOGLE_", "IDENTITY_")
STEM = b"canary of the moves!"
"""What every material here begins with: 20 bytes that can be seen in whatever they leak into."""


def canary(key: str, number: int) -> bytes:
    """The material of a version: the stem, and 12 bytes that no other version has."""
    return STEM + base64.b64encode(hashlib.sha256(f"{key}/{number}".encode()).digest())[:12]


class Place(NamedTuple):
    """A store with a ledger of its own."""

    name: str
    provider: str
    settings: dict[str, str]
    file: Path
    """The same settings, as --from and --to take them."""

    def service(self, clock: Callable[[], datetime], *, makes: bool = False) -> Service:
        """A service in this process, under a clock of the campaign's."""
        with mock.patch.object(app, "utc_now", clock):
            return app.open_service(read_settings(self.settings), trigger="campaign", makes=makes).service

    @contextmanager
    def opened(self, clock: Callable[[], datetime], *, makes: bool = False) -> Iterator[Service]:
        """The same, for a block."""
        service = self.service(clock, makes=makes)
        try:
            yield service
        finally:
            store = service.tools.store
            if isinstance(store, LocalStore):
                store.close()


class Doubles:
    """The three clouds as if nothing had been done in them, and what a process needs to find them."""

    def __init__(self, stores: Collection[str] = STORES) -> None:
        """`stores`: those that are wanted, where not all are."""
        told: dict[str, Callable[[], dict[str, str]]] = {
            "local": dict,
            "aws": lambda: aws_world.emptied().environment(),
            "azure": lambda: azure_world.emptied().environment(),
            "gcp": _told_of_gcp,
        }
        self.told: dict[str, dict[str, str]] = {store: told[store]() for store in STORES if store in stores}
        every = {name: value for told in self.told.values() for name, value in told.items()}
        self.environment = {name: value for name, value in every.items() if name not in NAMES} | NO_ACCOUNT
        self.count = itertools.count(1)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process's clients find the doubles too, and no setting of whoever started it."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(_ELSEWHERE)}
        with mock.patch.dict(os.environ, ours | self.environment, clear=True):
            yield


def _told_of_gcp() -> dict[str, str]:
    project = gcp_world.emptied()
    # A key file: google-auth may have read already where this process's metadata server is.
    return project.environment() | project.secrets.environment(gcp_world.FUNCTION)


class Scene:
    """Places for the same keys, the work folder, and the clock that is ahead by what killed runs' leases took."""

    def __init__(self, folder: Path, doubles: Doubles, keys: int, versions: int) -> None:
        """`folder` is there and empty."""
        self.folder, self.doubles = folder, doubles
        self.keys = [f"key-{number:04d}" for number in range(keys)]
        self.versions = versions
        self.ahead = timedelta()
        for name in ("tmp", "home", "said"):
            (folder / name).mkdir()
        self.policy = folder / "daena-kms.toml"
        self.policy.write_text("".join(f"[keys.{key}]\n" for key in self.keys))
        self.places: list[Place] = []

    def child(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process."""
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        here = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(ROOT)}
        return inherited | here | self.doubles.environment | {"DAENA_POLICY": str(self.policy)} | dict(more)

    def now(self) -> datetime:
        """What the campaign's clock says."""
        return utc_now() + self.ahead

    def place(self, provider: str, **more: str) -> Place:
        """A new place on that store, with nothing in it; `more` settings."""
        name = f"{provider}-{next(self.doubles.count):02d}"
        found = {key: value for key, value in self.doubles.told[provider].items() if key in NAMES}
        where = self._where(provider, name, found)
        settings = found | {"DAENA_CLOUD_KMS_PROVIDER": provider, "DAENA_POLICY": str(self.policy)} | where | more
        file = self.folder / f"{name}.env"
        file.write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items()))
        self.places.append(Place(name, provider, settings, file))
        return self.places[-1]

    def _where(self, provider: str, name: str, found: Mapping[str, str]) -> dict[str, str]:
        if provider == "local":
            return {"DAENA_HOME": str(self.folder / name)}
        return {"DAENA_KEY_PREFIX": f"{name}-", "DAENA_MANIFEST_URL": f"{found['DAENA_MANIFEST_URL']}-{name}"}

    def lived_in(self, **more: str) -> Place:
        """A local place with every key: as many versions as wanted, a month between them, each a known canary.

        Of every tenth key the first version is disabled.
        """
        made = self.place("local", **more)
        back = [timedelta(days=10 + 30 * number) for number in reversed(range(self.versions))]
        since = back[0]
        service = made.service(lambda: self.now() - since, makes=True)
        store: Any = service.tools.store
        store._db.execute("PRAGMA synchronous = OFF")
        with mock.patch("os.fsync", _skip):
            for number, since in enumerate(back, 1):  # noqa: B007  # what the clock above reads
                for key in self.keys:
                    outcome = service.bring(key, KeyMaterial(canary(key, number)))
                    require(outcome.status is Status.DONE or outcome.status is Status.CREATED, str(outcome))
            for key in self.disabled():
                service.disable(key, 1)
        store.close()
        return made

    def disabled(self) -> list[str]:
        """The keys whose first version is disabled where they were made."""
        return self.keys[1::10] if self.versions > 1 else []


def _skip(_descriptor: int) -> None:
    """In place of fsync: only what is made beforehand is made so."""


class Violation(Exception):  # noqa: N818  # what a campaign looks for
    """Something is not as it must be."""


def require(true: object, otherwise: str) -> None:
    """Raise Violation unless it is so."""
    if not true:
        raise Violation(otherwise)


# --- reading with the clouds' own clients


def opened_outside(place: Place, key: str, numbers: Mapping[int, bytes]) -> None:
    """Read versions as an application would that has never heard of us. Raises Violation for other bytes."""
    how = {"aws": _with_boto3, "azure": _with_azure, "gcp": _with_google}.get(place.provider)
    found = how(place, place.settings["DAENA_KEY_PREFIX"] + key) if how is not None else {}
    for number, material in found.items():
        require(material == numbers[number or max(numbers)], f"{place.name}: version {number} of {key} by its client")


def _with_boto3(place: Place, secret: str) -> dict[int, bytes]:
    """What AWSCURRENT is (0), and what v1, v2, … are that carry these labels."""
    secrets, kms = (aws_world.account().aws.client(name) for name in ("secretsmanager", "kms"))
    versions = secrets.call("list_secret_version_ids", secret, SecretId=secret)["Versions"]
    found = {}
    for label in {label for version in versions for label in version["VersionStages"]}:
        number = 0 if label == "AWSCURRENT" else int(label[1:]) if label[1:].isdigit() else -1
        if number >= 0:
            told = secrets.call("get_secret_value", secret, SecretId=secret, VersionStage=label)
            envelope = json.loads(told["SecretString"])
            bound = {"daena-kms:key": secret, "daena-kms:number": str(envelope["number"])}
            blob = base64.b64decode(envelope["wrapped"])
            found[number] = bytes(
                kms.call("decrypt", secret, CiphertextBlob=blob, EncryptionContext=bound)["Plaintext"]
            )
    return found


def _with_azure(place: Place, secret: str) -> dict[int, bytes]:
    """Every version that is enabled, by its tag, and what readers get (0)."""
    vault = azure_world.account().vault
    client = SecretClient(vault.url, vault.credential("an application"), connection_verify=str(vault.certificate))
    with client:
        found = {0: base64.b64decode(str(client.get_secret(secret).value))}
        for each in client.list_properties_of_secret_versions(secret):
            if each.enabled and (each.tags or {}).get("daena-kms-version"):
                value = client.get_secret(secret, each.version).value
                found[int((each.tags or {})["daena-kms-version"])] = base64.b64decode(str(value))
    return found


def _with_google(place: Place, secret: str) -> dict[int, bytes]:
    """What `latest` is (0)."""
    project = gcp_world.project().secrets
    name = f"projects/{project.project_id}/secrets/{secret}/versions/latest"
    return {0: bytes(project.client().access_secret_version(name=name).payload.data)}
