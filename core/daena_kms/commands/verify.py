"""The command `verify`: manifests, heads, store, and a backup or another store, each against the others."""

import sys
from pathlib import Path

import click

from .. import app, audit, console, recovery
from ..audit import KeyAudit
from ..errors import ConfigurationError
from ..ledger import FolderLedger
from ..service import Service
from ..settings import Settings, read_settings
from .backup import identity_option, open_backup
from .base import EXIT_UNVERIFIED, TRIGGER, cli, json_option, keys_argument, open_service, warn
from .recovery import from_option, settings_of


@cli.command()
@keys_argument
@click.option("--manifests", type=click.Path(path_type=Path), help="Verify a copy of the manifests, offline.")
@click.option("--public-key", default="", metavar="HEX", help="With --manifests: the public key that `init` printed.")
@click.option("--backup", type=click.Path(path_type=Path), metavar="FILE", help="Compare with a backup, both ways.")
@identity_option
@from_option
@json_option
def verify(
    *,
    keys: tuple[str, ...],
    manifests: Path | None,
    public_key: str,
    backup: Path | None,
    identities: tuple[Path, ...],
    source: str,
    as_json: bool,
) -> None:
    """Prove manifests, the heads stored beside the keys, and the store, each against the others.

    \b
    Examples:
      daena-key-rotate verify
      daena-key-rotate verify --manifests /evidence/manifests --public-key 0f3c...
      daena-key-rotate verify --backup keys.age --identity id.txt
      daena-key-rotate verify --from local            after a migration, against where the keys came from
    """
    if public_key and manifests is None:
        raise click.UsageError("--public-key goes with --manifests; DAENA_PUBLIC_KEY pins the key otherwise")
    if manifests is not None and (backup or source):
        raise click.UsageError("--manifests is offline: it compares with no store and no backup")
    if manifests is not None:
        found = _offline(manifests, public_key, keys)
    else:
        service, settings = open_service(writes=False), read_settings()
        found = service.verify(keys)
        if backup is not None:
            held = [each.holding for each in open_backup(backup, identities, settings).keys]
            found += recovery.compare(service, held, "the backup")
        if source:
            found += _against(service, source, settings)
        found = [each for each in recovery.merged(found) if not keys or each.key in keys]
    console.audits(found, as_json=as_json)
    if any(each.problems for each in found):
        sys.exit(EXIT_UNVERIFIED)


def _offline(manifests: Path, public_key: str, keys: tuple[str, ...]) -> list[KeyAudit]:
    if not public_key:
        console.warning("without --public-key the copy vouches for itself: compare its key with the one `init` printed")
    if not manifests.is_dir():
        raise ConfigurationError(f"{manifests} is not a folder", "give the folder that holds a folder per key")
    ledger = FolderLedger(manifests, manifests.absolute().as_uri())
    ledger.check_ours()
    return audit.verify_manifests(ledger, public_key, keys)


def _against(service: Service, source: str, settings: Settings) -> list[KeyAudit]:
    other = app.open_service(settings_of(source, settings), trigger=TRIGGER, writes=False, policy=service.policy)
    warn(other)
    held, unread = recovery.all_of(other.service)
    return [*recovery.compare(service, held, "the other store"), *unread]
