"""The Python interface: an adapter for each key store, and a service that records rotations made elsewhere.

    adapter = AWSKMSAdapter(region="us-east-1", key_id="arn:aws:kms:us-east-1:…:key/…")
    key = adapter.get_key("daena-encryption-key")
    cipher = AESGCM(key.material.reveal())

An adapter's parameters stand in for the settings of the same meaning; every other setting comes from the environment.
Everything goes through the protocol of `daena-key-rotate`, with its manifest; nothing here is a rule of its own.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Self

from msgspec import Struct

from . import app, copies
from .errors import ConfigurationError, ConflictError, ExistsError, IntegrityError, KmsError, NotFoundError
from .ledger import FolderLedger
from .material import KeyMaterial
from .model import Outcome, Status
from .names import PROVIDERS, check_name
from .policy import RotationPolicy
from .service import Service, check_import
from .settings import Settings, read_settings

log = logging.getLogger(__name__)

TRIGGER = "python"
_PROVIDER, _POLICY = "DAENA_CLOUD_KMS_PROVIDER", "DAENA_POLICY"
_NO_POLICY = RotationPolicy({}, "")
_ENDED_WELL = (Status.CREATED, Status.ROTATED, Status.DONE)


class RotationFailedError(KmsError):
    """A rotation was tried and did not come to its end. The version that was active before still is."""


class CloudKey(Struct, frozen=True):
    """One version of a key, with its material. Neither printed nor pickled with it."""

    key: str
    material: KeyMaterial
    """`material.reveal()` gives the bytes."""
    number: int
    """Write it beside what you encrypt: `get_key(key, version=number)` decrypts it after any rotation."""
    version_id: str
    """The store's own name for the version."""


class RecordedRotation(Struct, frozen=True):
    """What a recorded rotation came to."""

    key: str
    number: int
    version_id: str
    provider: str
    """Which store has the material: `local`, `aws`, `azure` or `gcp`."""
    message: str
    """What happened, for people."""
    recorded: str
    """The place of the manifest's last entry about it; empty if the material was active already."""
    local_manifest: str
    """Folder in which the key's manifest, or the local copy of it, lies."""


class KeyStoreAdapter:
    """One key store. Safe for many threads; clients are made once, at the first use. Make it anew after a fork."""

    provider: ClassVar[str]

    def __init__(self, given: Mapping[str, str | os.PathLike[str] | None]) -> None:
        """`given`: settings by name that are not taken from the environment; None leaves one to it.

        Raises ConfigurationError listing everything that is wrong with the settings. Asks nobody for anything.
        """
        own = {name: os.fspath(value) for name, value in given.items() if value is not None}
        self.settings: Settings = read_settings({**os.environ, **own, _PROVIDER: self.provider})
        self._policy_is_named = bool(os.environ.get(_POLICY))
        self._lock = threading.Lock()
        self._connection: app.Connection | None = None
        self._policy = _NO_POLICY

    def get_key(self, name: str, version: int | None = None) -> CloudKey:
        """The active version of a key, or the version of that number, its material held against its fingerprint.

        Raises NotFoundError for a key or a number that is not there, RefusedError for a version that is disabled or
        destroyed, IntegrityError for material that is not what the manifest names.
        """
        try:
            return _get(self.service(writes=False), name, version)
        except IntegrityError:
            self._forget()  # `init --renew` elsewhere leaves what was read at the first use behind
            return _get(self.service(writes=False), name, version)

    def create_key(self, name: str) -> CloudKey:
        """Make a new key under its policy, AES-256 where none names it; its first version.

        Where the store was never used, its manifests are made as well. Raises ExistsError for a key that is there.
        """
        check_name(name, self.settings.prefix)
        service = self.service(makes=True)
        outcome = service.create(name)
        if outcome.status is Status.NOT_DUE:
            raise ExistsError(f"somebody else made {name} meanwhile", "`get_key` reads it")
        _check(outcome)
        return _get(service, name)

    def rotate_key(self, name: str, reason: str = "") -> CloudKey:
        """Rotate a key now, due or not; its new active version. Earlier ones stay readable by their number.

        Raises NotFoundError for a key that is not there, ConflictError if another run is changing it right now, and
        RotationFailedError if it was tried and failed: an old version is never returned for a new one.
        """
        check_name(name, self.settings.prefix)
        service = self.service()
        _check(service.rotate_now(name, reason))
        return _get(service, name)

    def service(self, *, writes: bool = True, makes: bool = False) -> Service:
        """Everything else that can be done on this store: `adapter.service().rollback(…)`.

        `writes` and `makes` are as in `app.connect`. The policy is read anew for whoever writes; none is needed unless
        DAENA_POLICY names one.
        """
        with self._lock:
            clouds = self._connection.clouds if self._connection else app.Clouds(self.settings)
            if writes or self._connection is None:
                self._policy = self._read_policy(clouds)
            if self._connection is None:
                self._connection = self._connect(clouds, writes=writes, makes=makes)
            return app.serve(self._connection, self.settings, self._policy, trigger=TRIGGER, budget_seconds=None)

    def close(self) -> None:
        """Close what the local store holds open. The adapter opens it again when it is next used."""
        connection = self._forget()
        if connection is not None:
            getattr(connection.store, "close", lambda: None)()  # the clouds' clients need none

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> app.Connection | None:
        with self._lock:
            connection, self._connection = self._connection, None
        return connection

    def _read_policy(self, clouds: app.Clouds) -> RotationPolicy:
        if not self._policy_is_named and not Path(self.settings.policy).exists():
            return _NO_POLICY
        return app.load_policy(self.settings, clouds)

    def _connect(self, clouds: app.Clouds, *, writes: bool, makes: bool) -> app.Connection:
        connection = app.connect(self.settings, trigger=TRIGGER, writes=writes, makes=makes, clouds=clouds)
        for text in connection.warnings:
            log.warning("%s", text)
        if connection.initialised is not None and connection.initialised.made:
            public_key = connection.initialised.public_key
            log.warning("made new manifests; their public key, for auditors: %s", public_key)
        return connection


class AWSKMSAdapter(KeyStoreAdapter):
    """Keys in AWS Secrets Manager, wrapped by a KMS key. KMS itself gives no stored key material out."""

    provider = "aws"

    def __init__(self, region: str | None = None, key_id: str | None = None) -> None:
        """`region` of secrets, KMS key and bucket; `key_id`: ARN, id or alias of the KMS key that wraps.

        They stand in for AWS_REGION and AWS_KMS_KEY_ID; credentials come from boto3's usual chain and AWS_PROFILE.
        """
        super().__init__({"AWS_REGION": region, "AWS_KMS_KEY_ID": key_id})


class AzureKeyVaultAdapter(KeyStoreAdapter):
    """Keys in Azure Key Vault, as secrets."""

    provider = "azure"

    def __init__(
        self,
        vault_url: str | None = None,
        tenant_id: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
    ) -> None:
        """`vault_url`, such as `https://NAME.vault.azure.net`; the rest is an application's credentials.

        They stand in for AZURE_KEY_VAULT_URL, AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET. Without tenant
        and secret: the managed identity, on a laptop `az login`.
        """
        super().__init__(
            {
                "AZURE_KEY_VAULT_URL": vault_url,
                "AZURE_TENANT_ID": tenant_id,
                "AZURE_CLIENT_ID": client_id,
                "AZURE_CLIENT_SECRET": client_secret,
            }
        )


class GCPSecretManagerAdapter(KeyStoreAdapter):
    """Keys in Google's Secret Manager."""

    provider = "gcp"

    def __init__(self, project_id: str | None = None, credentials_path: str | os.PathLike[str] | None = None) -> None:
        """`project_id` of the secrets; `credentials_path`: a key file of a service account.

        They stand in for GCP_PROJECT_ID and GOOGLE_APPLICATION_CREDENTIALS. Without a file: the machine's own account,
        or `gcloud`'s.
        """
        super().__init__({"GCP_PROJECT_ID": project_id, "GOOGLE_APPLICATION_CREDENTIALS": credentials_path})


class LocalVaultAdapter(KeyStoreAdapter):
    """Keys in the embedded local vault."""

    provider = "local"

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        """`home`: the vault's folder, in place of DAENA_HOME.

        Where the environment configures a cloud, what it says of manifests is the cloud's: the vault's lie beside it.
        """
        configured = read_settings()
        apart = {} if configured.provider == "local" else _APART
        super().__init__(apart | ({} if home is None else {"DAENA_HOME": home}))


class _VaultBeside(LocalVaultAdapter):
    """The vault of an application whose keys lie in a cloud."""

    def __init__(self, cloud: Settings) -> None:
        KeyStoreAdapter.__init__(self, _APART | {"DAENA_HOME": cloud.home})


# The settings of a vault beside a cloud's store: it has manifests of its own.
_APART: dict[str, str | os.PathLike[str] | None] = {"DAENA_MANIFEST_URL": "", "DAENA_PUBLIC_KEY": ""}
_ADAPTERS: dict[str, Callable[..., KeyStoreAdapter]] = {
    adapter.provider: adapter
    for adapter in (LocalVaultAdapter, AWSKMSAdapter, AzureKeyVaultAdapter, GCPSecretManagerAdapter)
}


def get_cloud_kms_adapter(provider: str | None = None, **parameters: str | os.PathLike[str] | None) -> KeyStoreAdapter:
    """The adapter of `local`, `aws`, `azure` or `gcp` with its parameters; without a name, of DAENA_CLOUD_KMS_PROVIDER.

    Raises ConfigurationError for a name that is none of these, TypeError for a parameter that the adapter has not.
    """
    name = read_settings().provider if provider is None else provider.lower()
    if name not in _ADAPTERS:
        raise ConfigurationError(f"{provider!r} is no provider", f"one of {', '.join(PROVIDERS)}")
    return _ADAPTERS[name](**parameters)


class KeyManagementService:
    """Records rotations that were made elsewhere, in the cloud or in the local vault, always with a manifest."""

    def __init__(self, cloud_kms_provider: str | None = None, cloud_adapter: KeyStoreAdapter | None = None) -> None:
        """`cloud_kms_provider`: `aws`, `azure` or `gcp`, whose adapter is made from the environment; or an adapter.

        Without either, DAENA_CLOUD_KMS_PROVIDER says; `local` means that there is no cloud. Raises ConfigurationError
        if the two are not the same.
        """
        adapter = cloud_adapter or get_cloud_kms_adapter(cloud_kms_provider)
        if cloud_kms_provider is not None and adapter.provider != cloud_kms_provider.lower():
            raise ConfigurationError(
                f"cloud_kms_provider is {cloud_kms_provider!r}, cloud_adapter one of {adapter.provider!r}",
                "leave one of them out",
            )
        self._own = [] if cloud_adapter is not None else [adapter]
        self.cloud: KeyStoreAdapter | None = None
        """The cloud's adapter; None if no cloud is configured."""
        self.local: KeyStoreAdapter = adapter
        """The local vault's adapter."""
        if adapter.provider != "local":
            self.cloud, self.local = adapter, _VaultBeside(adapter.settings)
            self._own.append(self.local)

    def record_rotation(
        self,
        key_material: str | bytes | KeyMaterial,
        key_id: str,
        store_in_cloud: bool = True,  # the guide's signature
        reason: str = "",
    ) -> RecordedRotation:
        """Make `key_material` (a `str` counts as UTF-8) the next version of `key_id`; the key itself, if there is none.

        It goes into the cloud store, and the key's manifest is copied to `copies` in DAENA_HOME; with
        `store_in_cloud=False`, or where no cloud is configured, into the local vault, which has a manifest of its own.
        Done twice, it is done once: recording what is active already changes nothing but a copy that is behind.
        Raises RefusedError for material of an earlier version, ConfigurationError for empty or too long material,
        ConflictError and RotationFailedError as `rotate_key`, IntegrityError for a copy that was changed.
        """
        material = _material(key_material)
        adapter = self.cloud if store_in_cloud and self.cloud is not None else self.local
        check_name(key_id, adapter.settings.prefix)
        check_import(material, None, app.utc_now())
        service = adapter.service(makes=True)
        outcome = service.bring(key_id, material, reason=reason)
        _check(outcome)
        return RecordedRotation(
            key=key_id,
            number=outcome.number,
            version_id=service.get(key_id, outcome.number).record.version_id,
            provider=adapter.provider,
            message=outcome.message,
            recorded=outcome.recorded,
            local_manifest=_kept_here(adapter, service, key_id),
        )

    def get_key_from_cloud(self, key_id: str, version: int | None = None) -> CloudKey:
        """The active version of a key in the cloud, or the version of that number; raises as `get_key` does.

        Raises ConfigurationError if no cloud is configured.
        """
        if self.cloud is None:
            raise ConfigurationError(
                "no cloud is configured",
                f"set {_PROVIDER} to aws, azure or gcp; `local.get_key` reads the vault",
            )
        return self.cloud.get_key(key_id, version)

    def close(self) -> None:
        """Close what was opened here; an adapter that was handed in stays open."""
        for adapter in self._own:
            adapter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _material(given: str | bytes | KeyMaterial) -> KeyMaterial:
    if isinstance(given, KeyMaterial):
        return given
    try:
        return KeyMaterial(given.encode() if isinstance(given, str) else given)
    except UnicodeEncodeError:  # which holds the text
        raise ConfigurationError("the material is a str that UTF-8 cannot write", "give its bytes") from None


def _get(service: Service, name: str, version: int | None = None) -> CloudKey:
    if version is not None and version < 1:
        raise NotFoundError(f"{name} has no version {version}", "versions are counted from 1")
    fetched = service.get(name, version or 0, reveal=True)
    if fetched.material is None:
        raise AssertionError("what was asked for with its material comes with it")
    return CloudKey(name, fetched.material, fetched.record.number, fetched.record.version_id)


def _check(outcome: Outcome) -> None:
    """Raise unless the outcome is a new version, or one that needed not be made."""
    if outcome.status in _ENDED_WELL:
        return
    message = outcome.message if outcome.message.startswith(outcome.key) else f"{outcome.key}: {outcome.message}"
    if outcome.status is Status.IN_PROGRESS:
        raise ConflictError(message, outcome.hint or "try again when that has ended")
    raise RotationFailedError(message, outcome.hint or "see `daena-key-rotate history` for what was done")


def _kept_here(adapter: KeyStoreAdapter, service: Service, key: str) -> str:
    """The folder of the key's manifest on this machine, after the cloud's is copied there."""
    ledger = service.journal.ledger
    if isinstance(ledger, FolderLedger):
        return ledger.where(key, 1).rpartition("/")[0]
    folder = adapter.settings.home / "copies" / adapter.provider
    try:
        copies.copy_manifest(ledger, folder, [key])
    except KmsError as problem:
        message = f"{key} is recorded in {adapter.provider}, but not copied to {folder}: {problem.message}"
        hint = f"{problem.hint}; then record it again: that changes nothing there, and completes the copy"
        raise type(problem)(message, hint.removeprefix("; ")) from None
    return str(folder / key)
