"""What lies in a store and in a ledger, read without the library: by the clouds' own clients, by SQLite and AES-GCM.

    eye = seen.of_world(world)       # tests.support.worlds: any of BACKENDS
    eye = seen.of_place(place)       # tests.faults.scene
    shown = eye.key("daena-encryption-key")
    objects = eye.objects("daena-encryption-key")

The layouts are those that docs/{aws,azure,gcp}-applications.md and docs/decisions/0010 tell.
"""

import base64
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import boto3
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.api_core.exceptions import FailedPrecondition, NotFound

from tests.support import aws_world, azure_world, gcp_world
from tests.support.doubles import MemoryLedger, MemoryStore
from tests.support.worlds import World

from .scene import Place

RESERVED = "reserved--manifest-keys"


class Copy(NamedTuple):
    """One version as the store has it. On some stores a number lies there more than once."""

    id: str
    """The store's own name of it; empty where that says nothing."""
    material: bytes | None
    """None where it cannot be read: disabled, or destroyed."""
    number: int = 0
    """The number that the store shows for it; 0 where it shows none."""
    staged: bool = False


class Shown(NamedTuple):
    """One key as the store has it."""

    copies: tuple[Copy, ...] = ()
    live: bytes | None = None
    """What a reader gets who names no version; None if nothing."""
    anchor: tuple[int, str] = (0, "")
    """The entry that the head beside the key names, and its hash."""


class Eye(Protocol):
    """One store with its ledger."""

    def key(self, key: str) -> Shown: ...

    def live(self, key: str) -> bytes | None:
        """What a reader gets who names no version; None if nothing."""
        ...

    def objects(self, key: str) -> dict[int, bytes]: ...


def of_world(world: World) -> Eye:
    """Of a test's world."""
    store, ledger = world.store, world.ledger
    if isinstance(store, MemoryStore) and isinstance(ledger, MemoryLedger):
        return MemoryEye(store, ledger)
    if store.provider == "local":
        return LocalEye(Path(store.address).parent)
    return _of_cloud(store.provider, aws_world.PREFIX, ledger.address)


def of_place(place: Place) -> Eye:
    """Of a campaign's place."""
    if place.provider == "local":
        return LocalEye(Path(place.settings["DAENA_HOME"]))
    return _of_cloud(place.provider, place.settings["DAENA_KEY_PREFIX"], place.settings["DAENA_MANIFEST_URL"])


def _of_cloud(provider: str, prefix: str, manifests: str) -> Eye:
    kinds: dict[str, type[AwsEye | AzureEye | GcpEye]] = {"aws": AwsEye, "azure": AzureEye, "gcp": GcpEye}
    return kinds[provider](prefix, manifests)


class MemoryEye:
    """Of the double in memory."""

    def __init__(self, store: MemoryStore, ledger: MemoryLedger) -> None:
        self._store, self._ledger = store, ledger

    def key(self, key: str) -> Shown:
        container = self._store.keys.get(key)
        if container is None:
            return Shown()
        copies = []
        for held in container.held:
            opened = held.version.enabled and not held.destroyed
            material = held.sealed.split(b"\0", 2)[2] if opened else None
            copies.append(Copy(held.version.version_id, material, held.version.number, held.version.staged))
        anchor = container.anchor
        return Shown(tuple(copies), self.live(key), (anchor.sequence, anchor.hash) if anchor else (0, ""))

    def live(self, key: str) -> bytes | None:
        container = self._store.keys.get(key)
        newest = [h for h in container.held if h.version.version_id == container.newest] if container else []
        return next((h.sealed.split(b"\0", 2)[2] for h in newest if h.version.enabled and not h.destroyed), None)

    def objects(self, key: str) -> dict[int, bytes]:
        return {sequence: data for (name, sequence), data in list(self._ledger.objects.items()) if name == key}


class LocalEye:
    """Of the vault in a folder, with its key file, and the folder of manifests beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, key: str) -> Shown:
        return self._read(key, only_live=False)

    def live(self, key: str) -> bytes | None:
        return self._read(key, only_live=True).live

    def _read(self, key: str, *, only_live: bool) -> Shown:
        cipher = AESGCM(base64.b64decode((self._folder / "kek").read_text()))
        with closing(sqlite3.connect(f"file:{self._folder / 'vault.db'}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            found = db.execute("SELECT active, anchor FROM keys WHERE name = ?", (key,)).fetchall()
            rows = db.execute(
                "SELECT number, version_id, spec, state, sealed FROM versions WHERE key = ? ORDER BY number", (key,)
            ).fetchall()
        copies, live = [], None
        active, anchor = found[0] if found else (0, None)
        for number, identity, spec, state, sealed in rows:
            if only_live and number != active:
                continue
            material = None
            if state in ("staged", "published"):
                bound = "\0".join(("daena-kms/local/1", key, str(number), spec)).encode()
                material = cipher.decrypt(sealed[:12], sealed[12:], bound)
            copies.append(Copy(identity, material, number, state == "staged"))
            live = material if number == active else live
        head: dict[str, Any] = json.loads(anchor) if anchor else {"sequence": 0, "hash": ""}
        return Shown(tuple(copies), live, (head["sequence"], head["hash"]))

    def objects(self, key: str) -> dict[int, bytes]:
        files = (self._folder / "manifests" / key).glob("[0-9]*.json")
        return {int(file.stem): file.read_bytes() for file in files}


class AwsEye:
    """Of Secrets Manager, with what is wrapped opened by KMS; of a bucket."""

    def __init__(self, prefix: str, manifests: str) -> None:
        session = boto3.Session("test", "test", region_name=aws_world.REGION)
        where = aws_world.account().server.url
        self._secrets, self._kms, self._s3 = (
            session.client(service, endpoint_url=where) for service in ("secretsmanager", "kms", "s3")
        )
        self._prefix = prefix
        self._bucket, _, self._folder = manifests.removeprefix("s3://").partition("/")

    def key(self, key: str) -> Shown:
        name = _secret(self._prefix, key)
        try:
            told = self._secrets.describe_secret(SecretId=name)
        except self._secrets.exceptions.ResourceNotFoundException:
            return Shown()
        tags = {tag["Key"]: tag["Value"] for tag in told.get("Tags", ())}
        copies, live = {}, None
        for secret in (name, *self._archives(name, tags)):
            for identity, labels in self._secrets.describe_secret(SecretId=secret)["VersionIdsToStages"].items():
                copy = self._copy(name, secret, identity, labels)
                if copy is not None:
                    copies[identity] = copy
                    live = copy.material if "AWSCURRENT" in labels else live
        head = tags.get("daena-kms:head", "0  ").split(" ")
        return Shown(tuple(copies.values()), live, (int(head[0]), head[1]))

    def live(self, key: str) -> bytes | None:
        name = _secret(self._prefix, key)
        try:
            found = self._secrets.get_secret_value(SecretId=name)
        except self._secrets.exceptions.ResourceNotFoundException:
            return None
        copy = self._opened(name, found["VersionId"], ["AWSCURRENT"], found["SecretString"])
        return copy.material if copy else None

    def _archives(self, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        for run in tags.get("daena-kms:archives", "").split():
            first, _, last = run.partition("-")
            yield from (f"{name}--archive-{index}" for index in range(int(first), int(last or first) + 1))

    def _copy(self, name: str, secret: str, identity: str, labels: list[str]) -> Copy | None:
        value = self._secrets.get_secret_value(SecretId=secret, VersionId=identity)["SecretString"]
        return self._opened(name, identity, labels, value)

    def _opened(self, name: str, identity: str, labels: list[str], value: str) -> Copy | None:
        envelope = json.loads(value)
        if envelope["format"] != "daena-kms/1":
            return None  # a secret is made with a version that holds nothing
        number = int(envelope["number"])
        if "AWSCURRENT" not in labels and f"v{number}" not in labels:
            return Copy(identity, None, number)
        bound = {"daena-kms:key": name, "daena-kms:number": str(number)}
        opened = self._kms.decrypt(CiphertextBlob=base64.b64decode(envelope["wrapped"]), EncryptionContext=bound)
        staged = "daena-staged" in labels and not {"AWSCURRENT", "AWSPREVIOUS"} & {*labels}
        return Copy(identity, bytes(opened["Plaintext"]), number, staged)

    def objects(self, key: str) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        more: dict[str, str] = {}
        while True:
            page = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=f"{self._folder}/{key}/", **more)
            for each in page.get("Contents", ()):
                body = self._s3.get_object(Bucket=self._bucket, Key=each["Key"])["Body"].read()
                found[_sequence(each["Key"])] = body
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}


class AzureEye:
    """Of Key Vault, and of a container of blobs."""

    def __init__(self, prefix: str, manifests: str) -> None:
        account = azure_world.account()
        vault = account.vault
        self._secrets = SecretClient(
            vault.url,
            vault.credential("an application"),
            connection_verify=str(vault.certificate),
            verify_challenge_resource=False,
        )
        self._prefix = prefix
        base, _, path = manifests.removeprefix(account.blobs.url + "/").partition("/")
        self._folder = path
        self._blobs = ContainerClient(account.blobs.url, base, vault.credential("a person"))

    def key(self, key: str) -> Shown:
        name = _secret(self._prefix, key)
        copies = [*self._copies(name, staged=False), *self._copies(f"{name}--staged", staged=True)]
        live, head = None, ["0", ""]
        with suppress(ResourceNotFoundError, HttpResponseError):
            newest = self._secrets.get_secret(name)
            live = base64.b64decode(str(newest.value))
            head = (newest.properties.tags or {}).get("daena-kms-head", "0 ").split(" ")
        return Shown(tuple(copies), live, (int(head[0]), head[1]))

    def live(self, key: str) -> bytes | None:
        with suppress(ResourceNotFoundError, HttpResponseError):
            return base64.b64decode(str(self._secrets.get_secret(_secret(self._prefix, key)).value))
        return None

    def _copies(self, name: str, *, staged: bool) -> Iterator[Copy]:
        with suppress(ResourceNotFoundError):
            for each in self._secrets.list_properties_of_secret_versions(name):
                number = int((each.tags or {}).get("daena-kms-version", "0"))
                material = None
                if each.enabled:
                    value = self._secrets.get_secret(name, each.version).value
                    material = base64.b64decode(str(value))
                yield Copy(str(each.version), material, number, staged)

    def objects(self, key: str) -> dict[int, bytes]:
        found = {}
        for blob in self._blobs.list_blobs(name_starts_with=f"{self._folder}/{key}/"):
            found[_sequence(blob.name)] = self._blobs.download_blob(blob.name).readall()
        return found


class GcpEye:
    """Of Secret Manager, and of a bucket."""

    def __init__(self, prefix: str, manifests: str) -> None:
        project = gcp_world.project()
        self._secrets: Any = project.secrets.client()
        self._storage: Any = project.client()
        self._prefix, self._parent = prefix, f"projects/{project.secrets.project_id}/secrets/"
        self._bucket, _, self._folder = manifests.removeprefix("gs://").partition("/")

    def key(self, key: str) -> Shown:
        name = self._parent + _secret(self._prefix, key)
        try:
            secret = self._secrets.get_secret(name=name)
        except NotFound:
            return Shown()
        numbers = {}
        for pair in secret.annotations.get("daena-kms-versions", "").split():
            number, _, identity = pair.partition("=")
            numbers[identity] = int(number)
        copies = [*self._copies(name, numbers), *self._copies(f"{name}--staged", None)]
        head = secret.annotations.get("daena-kms-head", "0 ").split(" ")
        return Shown(tuple(copies), self.live(key), (int(head[0]), head[1]))

    def live(self, key: str) -> bytes | None:
        name = self._parent + _secret(self._prefix, key)
        with suppress(NotFound, FailedPrecondition):
            return bytes(self._secrets.access_secret_version(name=f"{name}/versions/latest").payload.data)
        return None

    def _copies(self, name: str, numbers: Mapping[str, int] | None) -> Iterator[Copy]:
        with suppress(NotFound):
            for each in self._secrets.list_secret_versions(parent=name):
                identity, material = each.name.rpartition("/")[2], None
                if each.state.name == "ENABLED":
                    material = bytes(self._secrets.access_secret_version(name=each.name).payload.data)
                yield Copy(identity, material, (numbers or {}).get(identity, 0), numbers is None)

    def objects(self, key: str) -> dict[int, bytes]:
        found = {}
        for blob in self._storage.list_blobs(self._bucket, prefix=f"{self._folder}/{key}/"):
            found[_sequence(blob.name)] = blob.download_as_bytes()
        return found


def _secret(prefix: str, key: str) -> str:
    """What is reserved has a prefix of its own, which no reader's role includes."""
    return f"reserved--{prefix}manifest-keys" if key == RESERVED else prefix + key


def _sequence(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))
