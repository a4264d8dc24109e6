"""The composition root: the only place that builds clients, clocks and randomness, from settings."""

import base64
import getpass
import os
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from . import trust
from .errors import ConfigurationError, IntegrityError, NotFoundError
from .fleet import Limits
from .journal import Journal
from .keyring import Keyring
from .ledger import FolderLedger, Ledger, translate
from .material import KeyMaterial
from .model import utc_now as utc_now  # noqa: PLC0414  # handed out by the composition root alone
from .policy import RotationPolicy, parse_policy
from .rotation import Tools
from .service import Service
from .settings import Settings, read_settings
from .stores.base import KeyStore

if TYPE_CHECKING:
    from .stores.aws_calls import Aws
    from .stores.azure_calls import Azure
    from .stores.gcp_calls import Gcp
    from .stores.local import KekSource
    from .stores.probe import Check, Probe, Watch

HOME_MANIFESTS = "home:manifests"  # moves with DAENA_HOME, so a vault that is copied as a whole stays whole
_SPACE_PROBE_BYTES = 1 << 16
_KEK_BYTES = 32
# What the platform sets where a managed identity can be asked for, and where an Azure Function runs.
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GCS = "gs:"  # how addresses in Cloud Storage begin
_IN_AZURE = ("IDENTITY_ENDPOINT", "FUNCTIONS_WORKER_RUNTIME")


class Clouds:
    """The clouds' SDKs: each is imported, and its clients are made, when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def aws(self) -> "Aws":
        from .stores import aws_calls  # noqa: PLC0415  # only the SDK that is used is imported

        s = self._settings
        return aws_calls.Aws(
            region=s.aws_region, profile=s.aws_profile, call_timeout=s.call_timeout, concurrency=s.concurrency
        )

    @cached_property
    def azure(self) -> "Azure":
        from .stores import azure_calls  # noqa: PLC0415

        s = self._settings
        managed = any(name in os.environ for name in _IN_AZURE)
        login = azure_calls.Login(s.azure_tenant, s.azure_client, s.azure_secret, managed)
        return azure_calls.Azure(lambda: azure_calls.credential(login), call_timeout=s.call_timeout)

    @cached_property
    def gcp(self) -> "Gcp":
        from .stores import gcp_calls  # noqa: PLC0415

        s = self._settings
        path = s.gcp_credentials
        return gcp_calls.Gcp(lambda: gcp_calls.credentials(path), project=s.gcp_project, call_timeout=s.call_timeout)


class Connection(Struct, frozen=True):
    """What is made once: the store, its ledger, and the keys behind the evidence. A function keeps it while warm."""

    store: KeyStore
    ledger: Ledger
    keyring: Keyring
    clouds: Clouds
    warnings: tuple[str, ...] = ()
    initialised: trust.Initialised | None = None


class Opened(Struct, frozen=True):
    """A service, and what people should be told about how it came to be."""

    service: Service
    warnings: tuple[str, ...] = ()
    initialised: trust.Initialised | None = None


def open_service(
    settings: Settings,
    *,
    trigger: str,
    writes: bool = True,
    makes: bool = False,
    init: bool = False,
    generations: Sequence[KeyMaterial] = (),
    policy: RotationPolicy | None = None,
) -> Opened:
    """Build everything from settings. Raises ConfigurationError with nothing changed if something cannot be used.

    `policy`: in place of the one that the settings name. The rest is as in `connect`.
    """
    clouds = Clouds(settings)
    policy = policy or load_policy(settings, clouds)
    connection = connect(
        settings, trigger=trigger, writes=writes, makes=makes, init=init, clouds=clouds, generations=generations
    )
    service = serve(connection, settings, policy, trigger=trigger, budget_seconds=settings.budget_seconds or None)
    return Opened(service, connection.warnings, connection.initialised)


def connect(
    settings: Settings,
    *,
    trigger: str,
    writes: bool = True,
    makes: bool = False,
    init: bool = False,
    clouds: Clouds | None = None,
    generations: Sequence[KeyMaterial] = (),
) -> Connection:
    """Open the store and its ledger.

    `writes`: local folders are checked for it. `makes`: what was never used before is made, keys and all; where
    DAENA_PUBLIC_KEY pins the manifests, there is nothing to make. `init`: so is anything that is missing.
    `generations`: the ledger's own keys out of a backup, put back where the store has lost them.
    """
    clouds = clouds or Clouds(settings)
    ledger, warnings = open_ledger(settings, clouds)
    local = settings.provider == "local"
    first_use = local and not os.path.exists(vault_path(settings))  # noqa: PTH110  # Path.exists raises
    if writes or init:
        for folder in _folders(settings):
            _check_writable(folder)
    store, more = open_store(settings, ledger.address, clouds, create=(first_use and makes) or init)
    initialised = None
    if generations and trust.initialised(ledger):
        trust.put_back(store, ledger, generations)
    if init or (makes and (first_use if local else _never_used(settings, store, ledger))):
        initialised = trust.initialise(store, ledger, clock=utc_now, trigger=trigger)
    keyring = trust.open_keyring(store, ledger, settings.public_key)
    return Connection(store, ledger, keyring, clouds, (*warnings, *more), initialised)


def _never_used(settings: Settings, store: KeyStore, ledger: Ledger) -> bool:
    """True if a cloud's store and ledger are both new. Where keys say that their manifests lie here, they are gone."""
    if settings.public_key or trust.initialised(ledger):
        return False
    orphans = [row.key for row in store.inventory() if row.ledger == ledger.address]
    if orphans:
        raise IntegrityError(
            f"there is nothing at {ledger.address}, but the manifest of {orphans[0]} lay there",
            "put the manifests back from a copy; or, if they are lost for good, `init` and `adopt` each key",
        )
    return True


def serve(
    connection: Connection,
    settings: Settings,
    policy: RotationPolicy,
    *,
    trigger: str,
    budget_seconds: float | None,
) -> Service:
    """Everything that can be done, in the name of one trigger, under a policy that was read just now."""
    store, ledger = connection.store, connection.ledger
    journal = Journal(ledger, connection.keyring, clock=utc_now, actor=store.actor, trigger=trigger)
    return Service(
        Tools(store, journal, utc_now, settings.lease, settings.call_timeout, policy.digest),
        policy,
        tick=settings.ticks,
        limits=Limits(settings.concurrency, budget_seconds),
        monotonic=time.monotonic,
        prefix=settings.prefix,
    )


@contextmanager
def throw_away(*, trigger: str) -> Iterator[Service]:
    """A local store in a temporary folder, sealed under a key that only this process has; gone with the block."""
    from .stores.local import LocalStore  # noqa: PLC0415  # as above

    with tempfile.TemporaryDirectory(prefix="daena-drill-") as folder:
        kek = base64.b64encode(os.urandom(_KEK_BYTES)).decode()
        settings = read_settings({"DAENA_HOME": folder, "DAENA_LOCAL_KEK": kek})
        opened = open_service(settings, trigger=trigger, init=True, policy=RotationPolicy({}, ""))
        store = opened.service.tools.store
        try:
            yield opened.service
        finally:
            if isinstance(store, LocalStore):
                store.close()


def other_settings(text: str) -> Settings:
    """The settings of another store than the environment's, as a file of lines `NAME=value` gives them.

    What it does not set has its default: nothing is taken from the environment. Raises ConfigurationError.
    """
    assigned: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = [word for word in shlex.split(line, comments=True) if word != "export"]
            assigned.update(map(_assigned, words))
        except ValueError:  # which may hold a secret: it is not shown
            raise ConfigurationError(
                f"line {number} of the settings file cannot be read",
                "write lines NAME=value; what has spaces in it belongs in quotes",
            ) from None
    return read_settings(assigned)


def _assigned(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not _SETTING_NAME.fullmatch(name) or "\0" in value:
        raise ValueError
    return name, value


@contextmanager
def _installed() -> Iterator[None]:
    """Say which extra brings a package that is not there."""
    try:
        yield
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        extra = {"azure": "azure", "google": "gcp", "google_crc32c": "gcp", "grpc": "gcp"}.get(package, "aws")
        raise ConfigurationError(
            f"the package {missing.name} is not installed", f"pip install 'daena-kms[{extra}]'"
        ) from None


@_installed()
def open_store(settings: Settings, ledger: str, clouds: Clouds, *, create: bool) -> tuple[KeyStore, list[str]]:
    """The key store that the settings name, and warnings for people."""
    if settings.provider == "local":
        return _open_local(settings, ledger, create=create)
    if settings.provider == "aws":
        return _open_aws(settings, ledger, clouds), []
    if settings.provider == "azure":
        return _open_azure(settings, ledger, clouds), []
    return _open_gcp(settings, ledger, clouds), []


def _open_local(settings: Settings, ledger: str, *, create: bool) -> tuple[KeyStore, list[str]]:
    from .stores import local  # noqa: PLC0415  # each store brings its own SDK: only the one that is used is imported

    path, source = vault_path(settings), _kek_source(settings)
    warnings = local.create_vault(path, source, os.urandom) if create else []
    store = local.LocalStore(path, source, ledger=ledger, actor=local_actor(), entropy=os.urandom, clock=utc_now)
    return store, warnings


def _kek_source(settings: Settings) -> "KekSource":
    from .stores import local  # noqa: PLC0415  # as above

    return local.KekSource(settings.home / "kek", settings.local_kek, settings.local_passphrase)


def _open_aws(settings: Settings, ledger: str, clouds: Clouds) -> KeyStore:
    from .stores import aws, aws_layout, aws_secrets  # noqa: PLC0415
    from .stores.pace import Pace  # noqa: PLC0415

    if problem := aws_layout.tag_problem(ledger):
        raise ConfigurationError(
            f"DAENA_MANIFEST_URL {ledger} cannot be stored beside a key: {problem}", "choose another address"
        )
    kms_key = settings.aws_kms_key_id
    if not kms_key:
        raise ConfigurationError("AWS_KMS_KEY_ID is not set", "name the symmetric KMS key that wraps the material")
    kms = clouds.aws.client("kms")
    if kms_key.startswith("arn:") and kms_key.split(":")[3:4] != [kms.region]:
        raise ConfigurationError(
            f"AWS_KMS_KEY_ID {kms_key} is not in the region {kms.region}", "set AWS_REGION to the key's region"
        )
    return aws.AwsStore(
        clouds.aws.client("secretsmanager"),
        kms,
        kms_key=kms_key,
        prefix=settings.prefix,
        ledger=ledger,
        actor=clouds.aws.actor(),
        pace=Pace(aws_secrets.WRITES, aws_secrets.PER_SECONDS, time.monotonic, time.sleep),
        sleep=time.sleep,
    )


def _open_azure(settings: Settings, ledger: str, clouds: Clouds) -> KeyStore:
    from .stores import azure, azure_layout, azure_secrets  # noqa: PLC0415
    from .stores.pace import Pace  # noqa: PLC0415

    if not settings.azure_vault:
        raise ConfigurationError("AZURE_KEY_VAULT_URL is not set", "name the vault: https://NAME.vault.azure.net")
    if len(ledger) > azure_layout.LONGEST_TAG:
        raise ConfigurationError(
            f"DAENA_MANIFEST_URL has {len(ledger)} characters", f"at most {azure_layout.LONGEST_TAG} fit beside a key"
        )
    pace = Pace(azure_secrets.CREATES, azure_secrets.PER_SECONDS, time.monotonic, time.sleep)
    token = lambda: os.urandom(16).hex()  # noqa: E731
    vault = azure_secrets.Vault(clouds.azure, settings.azure_vault, pace=pace, token=token, sleep=time.sleep)
    return azure.AzureStore(
        vault, prefix=settings.prefix, ledger=ledger, actor=clouds.azure.identity.actor, entropy=os.urandom
    )


def _open_gcp(settings: Settings, ledger: str, clouds: Clouds) -> KeyStore:
    from .stores import gcp, gcp_layout, gcp_secrets  # noqa: PLC0415
    from .stores.pace import Pace  # noqa: PLC0415

    if not settings.gcp_project:
        raise ConfigurationError("GCP_PROJECT_ID is not set", "name the project of the secrets by its id")
    if len(ledger) > gcp_layout.LONGEST_LEDGER:
        raise ConfigurationError(
            f"DAENA_MANIFEST_URL has {len(ledger)} characters", f"at most {gcp_layout.LONGEST_LEDGER} fit beside a key"
        )
    secrets = gcp_secrets.Secrets(
        clouds.gcp,
        settings.gcp_endpoint,
        locations=settings.gcp_locations,
        pace=lambda most, seconds: Pace(most, seconds, time.monotonic, time.sleep),
        sleep=time.sleep,
    )
    return gcp.GcpStore(
        secrets,
        prefix=settings.prefix,
        ledger=ledger,
        actor=clouds.gcp.actor,
        entropy=os.urandom,
        sleep=time.sleep,
    )


@_installed()
def open_ledger(settings: Settings, clouds: Clouds) -> tuple[Ledger, list[str]]:
    """The ledger that the settings name, and warnings; ConfigurationError if it holds something else."""
    if settings.manifest_url.startswith("s3:"):
        from .stores import aws_ledger  # noqa: PLC0415

        return aws_ledger.S3Ledger(clouds.aws.client("s3"), settings.manifest_url), []
    if _is_blob(settings.manifest_url):
        from .stores import azure_ledger  # noqa: PLC0415

        return azure_ledger.BlobLedger(clouds.azure, settings.manifest_url), []
    if settings.manifest_url.startswith(_GCS):
        from .stores import gcp_ledger  # noqa: PLC0415

        return gcp_ledger.GcsLedger(clouds.gcp, settings.manifest_url), []
    folder = ledger_folder(settings)
    address, warnings = settings.manifest_url or HOME_MANIFESTS, []
    if not settings.manifest_url and settings.provider != "local":
        address = f"file://{socket.gethostname()}{folder.absolute()}"
        warnings.append(f"the manifests lie in {folder}: only this machine can rotate; set DAENA_MANIFEST_URL")
    ledger = FolderLedger(folder, address)
    ledger.check_ours()
    return ledger, warnings


@_installed()
def open_probe(settings: Settings, clouds: Clouds, watch: "Watch") -> "Probe":
    """What tries the permissions of the store that the settings name. Asks for nothing yet."""
    if settings.provider == "local":
        from .stores import local_probe  # noqa: PLC0415  # only `doctor` needs what tries

        return local_probe.LocalProbe(vault_path(settings), _kek_source(settings), local_actor())
    if settings.provider == "aws":
        from .stores import aws_probe  # noqa: PLC0415

        kms_key, ledger = settings.aws_kms_key_id, settings.manifest_url.rstrip("/")
        return aws_probe.AwsProbe(clouds.aws, watch, kms_key=kms_key, prefix=settings.prefix, ledger=ledger)
    if settings.provider == "azure":
        from .stores import azure_probe  # noqa: PLC0415

        return azure_probe.AzureProbe(clouds.azure, watch, url=settings.azure_vault, prefix=settings.prefix)
    from .stores import gcp_probe  # noqa: PLC0415

    ledger = settings.manifest_url.rstrip("/")
    return gcp_probe.GcpProbe(clouds.gcp, endpoint=settings.gcp_endpoint, prefix=settings.prefix, ledger=ledger)


@_installed()
def probe_ledger(settings: Settings, clouds: Clouds, ledger: Ledger, watch: "Watch") -> list["Check"]:
    """Try the permissions of the place where the manifests lie, and whether it is create-only."""
    url = settings.manifest_url
    if isinstance(ledger, FolderLedger):
        from .stores import local_probe  # noqa: PLC0415

        return local_probe.folder_checks(ledger, ledger_folder(settings))
    if url.startswith("s3:"):
        from .stores import aws_probe  # noqa: PLC0415

        return aws_probe.s3_checks(clouds.aws, url, watch)
    if _is_blob(url):
        from .stores import azure_probe  # noqa: PLC0415

        return azure_probe.blob_checks(clouds.azure, url, watch)
    from .stores import gcp_probe  # noqa: PLC0415

    return gcp_probe.gcs_checks(clouds.gcp, url, watch)


def _is_blob(url: str) -> bool:
    return url.startswith(("https:", "http:"))


def _folders(settings: Settings) -> list[Path]:
    """The local folders that are written to."""
    vault = [settings.home] if settings.provider == "local" else []
    return vault if manifests_in_a_cloud(settings) else [*vault, ledger_folder(settings)]


def manifests_in_a_cloud(settings: Settings) -> bool:
    """True if the manifests lie where a cloud is asked for them, not in a folder."""
    return settings.manifest_url.startswith(("s3:", _GCS)) or _is_blob(settings.manifest_url)


def ledger_folder(settings: Settings) -> Path:
    """The folder of the manifests. A cloud's never lie where the local store has its own: keys move between them."""
    if not settings.manifest_url:
        local = settings.provider == "local"
        return settings.home / "manifests" if local else settings.home / settings.provider / "manifests"
    try:
        url = urlsplit(settings.manifest_url)
    except ValueError:
        url = urlsplit("")
    path = unquote(url.path)
    if url.scheme != "file" or url.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise ConfigurationError(
            f"DAENA_MANIFEST_URL {settings.manifest_url!r} is no address that this version knows",
            "use s3://bucket/folder, https://ACCOUNT.blob.core.windows.net/container/folder, gs://bucket/folder, "
            "file:///absolute/folder, or nothing",
        )
    return Path(path)


@_installed()
def load_policy(settings: Settings, clouds: Clouds | None = None) -> RotationPolicy:
    """The policy file, parsed; ConfigurationError lists everything that is wrong with it."""
    data = _policy_bytes(settings, clouds or Clouds(settings))
    return parse_policy(data, tick=settings.ticks, prefix=settings.prefix, source=settings.policy)


def _policy_bytes(settings: Settings, clouds: Clouds) -> bytes:
    if settings.policy.startswith("s3:"):
        from .stores import aws_ledger  # noqa: PLC0415

        return aws_ledger.read_object(clouds.aws.client("s3"), settings.policy)
    if _is_blob(settings.policy):
        from .stores import azure_ledger  # noqa: PLC0415

        return azure_ledger.read_blob(clouds.azure, settings.policy)
    if settings.policy.startswith(_GCS):
        from .stores import gcp_ledger  # noqa: PLC0415

        return gcp_ledger.read_object(clouds.gcp, settings.policy)
    try:
        return Path(settings.policy).read_bytes()
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ConfigurationError(
            f"the policy {settings.policy} cannot be read: {reason}",
            "set DAENA_POLICY, or copy examples/daena-kms.toml",
        ) from None


def vault_path(settings: Settings) -> Path:
    """The local store's file."""
    return settings.home / "vault.db"


def local_actor() -> str:
    """Who works with the local store: the account of this process, never what a request says."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"local:{user}@{socket.gethostname()}"


def _check_writable(folder: Path) -> None:
    """Find a read-only folder or a full disk before anything is changed."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    probe = existing / f".daena-probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        probe.write_bytes(bytes(_SPACE_PROBE_BYTES))
    except OSError as problem:
        error = translate(problem, folder)
        raise ConfigurationError(error.message, error.hint) from None
    finally:
        _remove(probe)


def _remove(probe: Path) -> None:
    try:
        probe.unlink(missing_ok=True)
    except OSError as problem:
        raise NotFoundError(f"{probe} cannot be removed: {problem.strerror}", "remove it by hand") from None
