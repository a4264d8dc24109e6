"""Commands that take keys out of one store and into another: restore, migrate."""

import sys
from pathlib import Path

import click
from msgspec.structs import replace

from .. import app, backup, console, holdings, recovery
from ..errors import ConfigurationError
from ..keyring import Fingerprints, split_generation
from ..policy import RotationPolicy
from ..service import Service
from ..settings import Settings, read_settings
from .backup import identity_option, open_backup
from .base import (
    EXIT_UNVERIFIED,
    TRIGGER,
    cli,
    json_option,
    keys_argument,
    reason_option,
    show_report,
    warn,
)

LOCAL = "local"
from_option = click.option(
    "--from",
    "source",
    default="",
    metavar="SETTINGS",
    help="The other store: `local`, or a file of lines NAME=value with its settings.",
)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@keys_argument
@identity_option
@click.option(
    "--public-key", default="", metavar="HEX", help="The public key that `init` printed where the backup was made."
)
@click.option("--drill", is_flag=True, help="Prove the backup in a throw-away store; change nothing.")
@click.option("--dry-run", is_flag=True, help="Say what would be restored, change nothing.")
@click.option(
    "--manifests-to", type=click.Path(path_type=Path), metavar="FOLDER", help="Also write the backup's manifests there."
)
@reason_option
@json_option
def restore(  # noqa: PLR0913  # one for each option
    *,
    file: Path,
    keys: tuple[str, ...],
    identities: tuple[Path, ...],
    public_key: str,
    drill: bool,
    dry_run: bool,
    manifests_to: Path | None,
    reason: str,
    as_json: bool,
) -> None:
    """Bring the keys of a backup into the store, with their numbers and states. Overwrites nothing.

    \b
    Examples:
      daena-key-rotate restore keys.age --identity id.txt --drill
      daena-key-rotate restore keys.age --identity id.txt
      daena-key-rotate restore keys.age --identity id.txt daena-encryption-key --dry-run
    """
    settings = read_settings()
    read = open_backup(file, identities, settings, public_key)
    held = _chosen(read, keys)
    if manifests_to is not None:
        backup.export_manifests(read, manifests_to)
    if drill:
        _drill(read, held, as_json=as_json)
        return
    generations = [generation.material for generation in read.generations]
    opened = app.open_service(
        settings, trigger=TRIGGER, writes=not dry_run, makes=not dry_run, generations=() if dry_run else generations
    )
    warn(opened)
    with console.progress(len(held)) as tick:
        done = recovery.restore(opened.service, held, reason=reason, dry_run=dry_run, progress=tick)
    show_report(done, as_json=as_json)


def _chosen(read: backup.Backup, keys: tuple[str, ...]) -> list[holdings.Holding]:
    held = {each.holding.key: each.holding for each in read.keys}
    if missing := [key for key in keys if key not in held]:
        raise ConfigurationError(
            f"the backup has no key {missing[0]!r}", f"it has: {', '.join(sorted(held)) or 'none'}"
        )
    chosen = [held[key] for key in sorted(keys or held)]
    return [replace(each, origin=replace(each.origin, backup=read.sha256)) for each in chosen]


def _drill(read: backup.Backup, held: list[holdings.Holding], *, as_json: bool) -> None:
    secrets = {generation.number: split_generation(generation.material)[1] for generation in read.generations}
    with app.throw_away(trigger=TRIGGER) as service:
        found = recovery.drill(service, held, Fingerprints(secrets))
    console.audits(found, as_json=as_json)
    if any(each.problems for each in found):
        sys.exit(EXIT_UNVERIFIED)


@cli.command()
@keys_argument
@from_option
@click.option("--to", "target", default="", metavar="SETTINGS", help="Where to, if not to the environment's store.")
@click.option("--copy", is_flag=True, help="Leave the keys where they are, too. From then on the two differ.")
@click.option("--cancel", is_flag=True, help="Let keys stay that a migration has left half done.")
@click.option("--dry-run", is_flag=True, help="Say what would be moved, change nothing.")
@reason_option
@json_option
def migrate(
    *,
    keys: tuple[str, ...],
    source: str,
    target: str,
    copy: bool,
    cancel: bool,
    dry_run: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Move keys to another store, all versions with their numbers: from the local one, if --from does not say.

    Material stays where it was; the manifest there ends with `moved-to`, so that it is rotated in one place only. Asked
    again, it goes on where it stopped.

    \b
    Examples:
      daena-key-rotate migrate --to cloud.env --dry-run
      daena-key-rotate migrate --to cloud.env
      daena-key-rotate migrate --from old.env
    """
    if copy and cancel:
        raise click.UsageError("--copy leaves nothing half done that --cancel could end")
    if cancel and not keys:
        raise click.UsageError("--cancel needs the names of the keys")
    here = read_settings()
    to = settings_of(target, here) if target else here
    away = settings_of(source or LOCAL, here)
    if away.provider == to.provider == LOCAL and away.home == to.home:
        raise ConfigurationError(
            "the keys are in the local store already", "set DAENA_CLOUD_KMS_PROVIDER, or name another store with --to"
        )
    policy = app.load_policy(here)
    from_there = _service(away, policy, makes=False)
    to_there = _service(to, policy, makes=not dry_run and not cancel)
    if cancel:
        show_report(recovery.cancel(from_there, to_there, keys, reason), as_json=as_json)
        return
    with console.progress(len(keys or from_there.known())) as tick:
        done = recovery.migrate(from_there, to_there, keys, copy=copy, reason=reason, dry_run=dry_run, progress=tick)
    show_report(done, as_json=as_json)


def settings_of(name: str, here: Settings) -> Settings:
    """Another store's settings: the local one's beside the environment's, or a file's."""
    if name == LOCAL:
        return replace(here, provider=LOCAL, manifest_url="", public_key="")
    try:
        text = Path(name).read_text()
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no text"
        raise ConfigurationError(f"the settings file {name} cannot be read: {reason}", "or say `local`") from None
    return app.other_settings(text)


def _service(settings: Settings, policy: RotationPolicy, *, makes: bool) -> Service:
    opened = app.open_service(settings, trigger=TRIGGER, makes=makes, policy=policy)
    warn(opened)
    return opened.service
