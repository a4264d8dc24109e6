"""Settings: the environment, read once into one frozen record, every problem listed.

`SETTINGS` is the one place where a setting's name, meaning and default stand; the README's table is made from it.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from .errors import ConfigurationError
from .material import KeyMaterial
from .names import PROVIDERS, check_prefix
from .policy import LONGEST_TICK, Tick

DEFAULT_POLICY = "daena-kms.toml"


class Setting(Struct, frozen=True):
    """One environment variable."""

    name: str
    field: str
    read: Callable[[str], Any]
    default: str
    meaning: str


def _provider(text: str) -> str:
    if text.lower() not in PROVIDERS:
        raise ConfigurationError(f"{text!r} is no provider: {', '.join(PROVIDERS)}")
    return text.lower()


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 19) or not least <= int(text) <= most:
            raise ConfigurationError(f"a whole number from {least} to {most} expected, got {text[:20]!r}")
        return int(text)

    return read


def _minutes(least: int, most: int) -> Callable[[str], timedelta]:
    return lambda text: timedelta(minutes=_whole(least, most)(text))


def _seconds(least: int, most: int) -> Callable[[str], timedelta]:
    return lambda text: timedelta(seconds=_whole(least, most)(text))


def _secret(text: str) -> KeyMaterial | None:
    return KeyMaterial(text.encode()) if text else None


_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")  # an old one has a domain before it
_LOCATION = re.compile(r"[a-z]+(?:-[a-z]+)*[0-9]+")
_ENDPOINT = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?")
_VAULT = re.compile(r"https://[A-Za-z0-9.-]+(?::\d{1,5})?/?")


def _vault(text: str) -> str:
    if text and not _VAULT.fullmatch(text):
        raise ConfigurationError("an address such as https://NAME.vault.azure.net expected")
    return text.rstrip("/")


def _project(text: str) -> str:
    if text and not _PROJECT.fullmatch(text):
        raise ConfigurationError(f"{text[:40]!r} is no project id, such as daena-prod-1")
    return text


def _locations(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if any(not _LOCATION.fullmatch(name) for name in names):
        raise ConfigurationError("names of locations such as europe-west1,europe-west4 expected")
    return names


def _recipients(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _endpoint(text: str) -> str:
    if text and not _ENDPOINT.fullmatch(text):
        raise ConfigurationError("a host such as secretmanager.googleapis.com expected, without https://")
    return text


def _public_key(text: str) -> str:
    if text and (len(text) != 64 or any(digit not in "0123456789abcdefABCDEF" for digit in text)):
        raise ConfigurationError("64 hexadecimal digits expected, as `init` prints them")
    return text.lower()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "DAENA_CLOUD_KMS_PROVIDER",
        "provider",
        _provider,
        "local",
        "Which key store: `local`, `aws`, `azure` or `gcp`.",
    ),
    Setting("DAENA_HOME", "home", Path, ".kms", "Folder of everything local: vault, key file, manifests."),
    Setting(
        "DAENA_POLICY",
        "policy",
        str,
        DEFAULT_POLICY,
        "The rotation policy, a TOML file: a path, `s3://bucket/file`, `gs://bucket/file`, or a blob's `https://` "
        "address.",
    ),
    Setting(
        "DAENA_MANIFEST_URL",
        "manifest_url",
        str,
        "",
        "Where the manifests lie: `s3://bucket/folder`, `https://ACCOUNT.blob.core.windows.net/container/folder`, "
        "`gs://bucket/folder`, `file:///folder`. Empty: `manifests` in `DAENA_HOME`, for "
        "a cloud `aws/manifests` and the like there, and only this machine can rotate.",
    ),
    Setting(
        "DAENA_PUBLIC_KEY",
        "public_key",
        _public_key,
        "",
        "The manifests' first public key, as `init` printed it; a ledger with another is refused.",
    ),
    Setting(
        "DAENA_KEY_PREFIX",
        "prefix",
        check_prefix,
        "",
        "Put before every key's name in a cloud's store; counts towards a name's length everywhere.",
    ),
    Setting("AWS_REGION", "aws_region", str, "", "AWS: the region of secrets, KMS key and bucket."),
    Setting(
        "AWS_KMS_KEY_ID",
        "aws_kms_key_id",
        str,
        "",
        "AWS: the symmetric KMS key that wraps the material: its ARN, id or alias.",
    ),
    Setting(
        "AWS_PROFILE",
        "aws_profile",
        str,
        "",
        "AWS: a profile of `~/.aws`; credentials come from the SDK's default chain otherwise.",
    ),
    Setting(
        "AZURE_KEY_VAULT_URL",
        "azure_vault",
        _vault,
        "",
        "Azure: the vault, as `https://NAME.vault.azure.net`.",
    ),
    Setting("AZURE_TENANT_ID", "azure_tenant", str, "", "Azure: the tenant of an application's credentials."),
    Setting(
        "AZURE_CLIENT_ID",
        "azure_client",
        str,
        "",
        "Azure: the application; without a secret, which managed identity where there are several.",
    ),
    Setting(
        "AZURE_CLIENT_SECRET",
        "azure_secret",
        _secret,
        "",
        "Azure: the application's secret. Empty: the managed identity, or `az login` on a laptop.",
    ),
    Setting("GCP_PROJECT_ID", "gcp_project", _project, "", "GCP: the project of the secrets, by its id."),
    Setting(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "gcp_credentials",
        str,
        "",
        "GCP: a key file of a service account. Empty: the function's own account, or `gcloud`'s on a laptop.",
    ),
    Setting(
        "GCP_SECRET_LOCATIONS",
        "gcp_locations",
        _locations,
        "",
        "GCP: where new secrets' payloads lie, such as `europe-west1,europe-west4`. Empty: wherever Google puts them.",
    ),
    Setting(
        "GCP_SECRET_MANAGER_ENDPOINT",
        "gcp_endpoint",
        _endpoint,
        "",
        "GCP: another endpoint of Secret Manager, `HOST` or `HOST:PORT`, such as a private one.",
    ),
    Setting(
        "DAENA_LOCAL_KEK",
        "local_kek",
        _secret,
        "",
        "Local store: the key-encryption key, 32 bytes in base64. Empty: a passphrase or a key file.",
    ),
    Setting(
        "DAENA_LOCAL_PASSPHRASE",
        "local_passphrase",
        _secret,
        "",
        "Local store: derive the key-encryption key from this (scrypt). Empty: a key file.",
    ),
    Setting(
        "DAENA_BACKUP_RECIPIENTS",
        "backup_recipients",
        _recipients,
        "",
        "Who can open backups: age recipients (`age1…`) or ssh public keys, with commas between.",
    ),
    Setting(
        "DAENA_BACKUP_PASSPHRASE",
        "backup_passphrase",
        _secret,
        "",
        "Seal and open backups with this, where no recipient is named.",
    ),
    Setting(
        "DAENA_TICK_MINUTES",
        "tick",
        _minutes(1, LONGEST_TICK // timedelta(minutes=1)),
        "60",
        "How far apart the scheduler's ticks are: a key is rotated if it would be too old at the next one.",
    ),
    Setting(
        "DAENA_SLACK_MINUTES",
        "slack",
        _minutes(0, 7 * 24 * 60),
        "30",
        "How late a tick may come and no key be too old all the same.",
    ),
    Setting(
        "DAENA_LEASE_MINUTES",
        "lease",
        _minutes(2, 24 * 60),
        "15",
        "How long a run's claim on a key holds; then the next run takes over.",
    ),
    Setting(
        "DAENA_CALL_TIMEOUT_SECONDS",
        "call_timeout",
        _seconds(1, 60),
        "30",
        "The longest that one call to a store may take; the shortest lease is twice the longest of these.",
    ),
    Setting("DAENA_CONCURRENCY", "concurrency", _whole(1, 64), "10", "How many keys are rotated at once."),
    Setting(
        "DAENA_TIME_BUDGET_SECONDS",
        "budget_seconds",
        _whole(0, 86_400),
        "0",
        "After this many seconds a run begins no further key and reports the rest as deferred; 0 for no limit.",
    ),
)


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that the environment says. Secrets are `KeyMaterial`, which does not print itself."""

    provider: str
    home: Path
    policy: str
    manifest_url: str
    public_key: str
    prefix: str
    aws_region: str
    aws_kms_key_id: str
    aws_profile: str
    azure_vault: str
    azure_tenant: str
    azure_client: str
    azure_secret: KeyMaterial | None
    gcp_project: str
    gcp_credentials: str
    gcp_locations: tuple[str, ...]
    gcp_endpoint: str
    local_kek: KeyMaterial | None
    local_passphrase: KeyMaterial | None
    backup_recipients: tuple[str, ...]
    backup_passphrase: KeyMaterial | None
    tick: timedelta
    slack: timedelta
    lease: timedelta
    call_timeout: timedelta
    concurrency: int
    budget_seconds: int

    @property
    def ticks(self) -> Tick:
        """How often the scheduler asks, and how late it may be."""
        return Tick(self.tick, self.slack)


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in `environment`. Raises ConfigurationError listing everything that is wrong with them."""
    problems = _unknown(environment)
    fields: dict[str, Any] = {}
    for setting in SETTINGS:
        try:
            fields[setting.field] = setting.read(_text(environment.get(setting.name) or setting.default))
        except ConfigurationError as problem:
            problems.append(f"{setting.name}: {problem.message}")
    if problems:
        listing = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigurationError(f"the settings have problems:{listing}", "mend them; nothing was changed")
    return Settings(**fields)


def _text(value: str) -> str:
    """The value, if it can be written down: in a manifest, in a backup, as JSON. What is wrong with it is not shown."""
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, as Python shows them
        raise ConfigurationError("it is not UTF-8 text") from None
    return value


def _unknown(environment: Mapping[str, str]) -> list[str]:
    known = [setting.name for setting in SETTINGS]
    problems = []
    for name in environment:
        if name.startswith("DAENA_") and name not in known:
            longer = [other for other in known if other.startswith(name)]
            near = longer or difflib.get_close_matches(name, known, 1, 0.5)
            suggestion = f"; did you mean {near[0]}?" if near else ""
            told = name.encode(errors="backslashreplace").decode()
            problems.append(f"{told}: unknown setting{suggestion}")
    return problems


def settings_table() -> str:
    """The README's table of settings, in Markdown."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default else "–"
        rows.append(f"| `{setting.name}` | {default} | {setting.meaning} |")
    return "\n".join(rows) + "\n"
