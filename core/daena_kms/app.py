"""The composition root: the only place that builds clients, clocks and randomness, from settings."""

import getpass
import os
import socket
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from . import trust
from .errors import ConfigurationError, NotFoundError
from .fleet import Limits
from .journal import Journal
from .ledger import FolderLedger, translate
from .model import utc_now as utc_now  # noqa: PLC0414  # handed out by the composition root alone
from .policy import RotationPolicy, parse_policy
from .rotation import Tools
from .service import Service
from .settings import Settings
from .stores.base import KeyStore

HOME_MANIFESTS = "home:manifests"  # moves with DAENA_HOME, so a vault that is copied as a whole stays whole
_SPACE_PROBE_BYTES = 1 << 16


class Opened(Struct, frozen=True):
    """A service, and what people should be told about how it came to be."""

    service: Service
    warnings: tuple[str, ...] = ()
    initialised: trust.Initialised | None = None


def open_service(
    settings: Settings, *, trigger: str, writes: bool = True, makes: bool = False, init: bool = False
) -> Opened:
    """Build everything from settings. Raises ConfigurationError with nothing changed if something cannot be used.

    `writes`: the folders are checked for it. `makes`: a local store that does not exist yet is made, keys and all.
    `init`: so is anything else.
    """
    policy = load_policy(settings)
    ledger = open_ledger(settings)
    first_use = settings.provider == "local" and not os.path.exists(vault_path(settings))  # noqa: PTH110  # Path.exists raises
    if writes or init:
        for folder in (settings.home, ledger_folder(settings)):
            _check_writable(folder)
    store, warnings = open_store(settings, ledger.address, create=(first_use and makes) or init)
    initialised = None
    if (first_use and makes) or init:
        initialised = trust.initialise(store, ledger, clock=utc_now, trigger=trigger)
    keyring = trust.open_keyring(store, ledger, settings.public_key)
    journal = Journal(ledger, keyring, clock=utc_now, actor=store.actor, trigger=trigger)
    tools = Tools(store, journal, utc_now, settings.lease, settings.call_timeout, policy.digest)
    service = Service(
        tools,
        policy,
        tick=settings.ticks,
        limits=Limits(settings.concurrency, settings.budget_seconds or None),
        monotonic=time.monotonic,
        prefix=settings.prefix,
    )
    return Opened(service, tuple(warnings), initialised)


def open_store(settings: Settings, ledger: str, *, create: bool) -> tuple[KeyStore, list[str]]:
    """The key store that the settings name, and warnings for people."""
    if settings.provider != "local":
        raise ConfigurationError(
            f"the provider {settings.provider!r} is not part of this version", "see CHANGELOG.md; 'local' is"
        )
    from .stores import local  # noqa: PLC0415  # each store brings its own SDK: only the one that is used is imported

    path = vault_path(settings)
    source = local.KekSource(settings.home / "kek", settings.local_kek, settings.local_passphrase)
    warnings = local.create_vault(path, source, os.urandom) if create else []
    store = local.LocalStore(path, source, ledger=ledger, actor=local_actor(), entropy=os.urandom, clock=utc_now)
    return store, warnings


def open_ledger(settings: Settings) -> FolderLedger:
    """The ledger that the settings name; ConfigurationError if its folder holds something else."""
    address = settings.manifest_url or HOME_MANIFESTS
    ledger = FolderLedger(ledger_folder(settings), address)
    ledger.check_ours()
    return ledger


def ledger_folder(settings: Settings) -> Path:
    """The folder of the manifests."""
    if not settings.manifest_url:
        return settings.home / "manifests"
    try:
        url = urlsplit(settings.manifest_url)
    except ValueError:
        url = urlsplit("")
    if url.scheme != "file" or url.netloc not in ("", "localhost") or not url.path.startswith("/"):
        raise ConfigurationError(
            f"DAENA_MANIFEST_URL {settings.manifest_url!r} is no address that this version knows",
            "use file:///absolute/folder, or leave it empty",
        )
    return Path(unquote(url.path))


def load_policy(settings: Settings) -> RotationPolicy:
    """The policy file, parsed; ConfigurationError lists everything that is wrong with it."""
    try:
        data = settings.policy.read_bytes()
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ConfigurationError(
            f"the policy {settings.policy} cannot be read: {reason}",
            "set DAENA_POLICY, or copy examples/daena-kms.toml",
        ) from None
    return parse_policy(data, tick=settings.ticks, prefix=settings.prefix, source=str(settings.policy))


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
