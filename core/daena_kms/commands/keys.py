"""Commands about keys: rotate them, look at them, change one."""

import base64
import binascii
from datetime import datetime
from typing import BinaryIO

import click

from .. import app, console
from ..errors import ConfigurationError
from ..fleet import Order
from ..material import KeyMaterial
from ..model import MAX_MATERIAL_BYTES
from ..service import check_import
from ..settings import read_settings
from .base import (
    TRIGGER,
    Age,
    cli,
    confirm,
    json_option,
    key_argument,
    keys_argument,
    open_service,
    reason_option,
    show_outcome,
    show_report,
    version_option,
    warn,
    yes_option,
)


@cli.command()
@keys_argument
@click.option("--all", "every", is_flag=True, help="Every key; needed with --force if no key is named.")
@click.option("--force", is_flag=True, help="Rotate whether due or not. Asks first.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
@click.option("--request-id", default="", metavar="ID", help="Carry a forced rotation out once for this id.")
@reason_option
@yes_option
@json_option
def rotate(
    *,
    keys: tuple[str, ...],
    every: bool,
    force: bool,
    dry_run: bool,
    request_id: str,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Rotate the keys that are due, or those named if they are due.

    \b
    Examples:
      daena-key-rotate rotate
      daena-key-rotate rotate daena-encryption-key --force --yes --reason "laptop lost"
      daena-key-rotate rotate --all --dry-run --json
    """
    if request_id and not force:
        raise click.UsageError("--request-id goes with --force")
    if force and not keys and not every:
        raise click.UsageError("--force without a key needs --all")
    if force and not dry_run:
        confirm(f"Rotate {', '.join(keys) or 'every key'} now, due or not?", yes=yes)
    named = app.load_policy(read_settings()).keys
    service = open_service(writes=not dry_run, makes=not dry_run and all(key in named for key in keys))
    order = Order(keys, force, request_id if force else "", reason)
    if dry_run:
        show_report(service.dry_run(order), as_json=as_json)
        return
    with console.progress(len(service.plan(order))) as tick:
        done = service.rotate(order, tick)
    show_report(done, as_json=as_json)


@cli.command()
@keys_argument
@json_option
def plan(*, keys: tuple[str, ...], as_json: bool) -> None:
    """Say which keys are due and why. Changes nothing."""
    show_report(open_service(writes=False).dry_run(Order(keys)), as_json=as_json)


@cli.command()
@keys_argument
@json_option
def status(*, keys: tuple[str, ...], as_json: bool) -> None:
    """Show every key's active version, age, next rotation and versions."""
    console.status(open_service(writes=False).status(keys), as_json=as_json)


@cli.command()
@key_argument
@click.option("--anew", is_flag=True, help="Also if the store has lost a key that the manifest knows.")
@reason_option
@json_option
def create(*, key: str, anew: bool, reason: str, as_json: bool) -> None:
    """Make a new key. Refuses one that exists."""
    show_outcome(open_service(makes=True).create(key, anew=anew, reason=reason), as_json=as_json)


@cli.command("import")
@key_argument
@click.option("--from", "source", type=click.File("rb"), required=True, help="File with the material; - for stdin.")
@click.option("--created", type=Age(), metavar="DATE", help="In use since: 2025-01-31, or an age such as 120d.")
@click.option(
    "--encoding",
    type=click.Choice(["raw", "base64", "hex"]),
    default="raw",
    show_default=True,
    help="How the material is written down.",
)
@reason_option
@json_option
def import_(*, key: str, source: BinaryIO, created: datetime | None, encoding: str, reason: str, as_json: bool) -> None:
    """Take in a key that lived elsewhere, with its true age.

    \b
    Examples:
      daena-key-rotate import billing-key --from billing.key --created 2025-01-31
      openssl rand 32 | daena-key-rotate import session-key --from -
    """
    material = _decode(source.read(8 * MAX_MATERIAL_BYTES), encoding)
    check_import(material, created, app.utc_now())
    show_outcome(open_service(makes=True).import_key(key, material, created=created, reason=reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=False)
@click.option("--reveal", is_flag=True, help="Print the material itself.")
@click.option(
    "--encoding",
    type=click.Choice(["base64", "hex", "raw"]),
    default="base64",
    show_default=True,
    help="How to write the material down.",
)
@json_option
def get(*, key: str, number: int | None, reveal: bool, encoding: str, as_json: bool) -> None:
    """Show a version, the active one unless --version says; with --reveal its material."""
    console.fetched(open_service(writes=False).get(key, number or 0, reveal=reveal), encoding=encoding, as_json=as_json)


@cli.command()
@key_argument
@json_option
def history(*, key: str, as_json: bool) -> None:
    """Show a key's manifest, every entry verified."""
    console.history(open_service(writes=False).history(key), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=False)
@reason_option
@json_option
def rollback(*, key: str, number: int | None, reason: str, as_json: bool) -> None:
    """Make the previous version's material active again, as a new number."""
    show_outcome(open_service().rollback(key, number or 0, reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=True)
@reason_option
@json_option
def compromised(*, key: str, number: int, reason: str, as_json: bool) -> None:
    """Mark a version as known to others; if it is the active one, rotate at once."""
    show_outcome(open_service().compromised(key, number, reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=True)
@click.option("--cancel", is_flag=True, help="Take an asked-for destruction back.")
@reason_option
@yes_option
@json_option
def destroy(*, key: str, number: int, cancel: bool, reason: str, yes: bool, as_json: bool) -> None:
    """Ask for a version's destruction. It waits as long as the policy's destroy_after_days; then it is final."""
    if not cancel:
        confirm(
            f"Schedule version {number} of {key} for destruction? What it encrypted can then never be read.",
            yes=yes,
        )
    show_outcome(open_service().destroy(key, number, cancel=cancel, reason=reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=True)
@reason_option
@json_option
def disable(*, key: str, number: int, reason: str, as_json: bool) -> None:
    """Make an earlier version unreadable; `enable` undoes it."""
    show_outcome(open_service().disable(key, number, reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=True)
@reason_option
@json_option
def enable(*, key: str, number: int, reason: str, as_json: bool) -> None:
    """Make a disabled version readable again."""
    show_outcome(open_service().enable(key, number, reason), as_json=as_json)


@cli.command()
@key_argument
@reason_option
@json_option
def pause(*, key: str, reason: str, as_json: bool) -> None:
    """Stop rotating a key until `resume`."""
    show_outcome(open_service().pause(key, reason), as_json=as_json)


@cli.command()
@key_argument
@reason_option
@json_option
def resume(*, key: str, reason: str, as_json: bool) -> None:
    """End a pause; also lets a key that waits for a person be tried again."""
    show_outcome(open_service().resume(key, reason), as_json=as_json)


@cli.command()
@key_argument
@click.option("--created", type=Age(), metavar="DATE", help="In use since: 2025-01-31, or an age such as 120d.")
@reason_option
@json_option
def adopt(*, key: str, created: datetime | None, reason: str, as_json: bool) -> None:
    """Take in, in place, what the store holds and no manifest knows."""
    show_outcome(open_service().adopt(key, created=created, reason=reason), as_json=as_json)


@cli.command()
@key_argument
@reason_option
@json_option
def repair(*, key: str, reason: str, as_json: bool) -> None:
    """Step over objects in a manifest that are no entries, naming each; nothing is overwritten."""
    show_outcome(open_service().repair(key, reason), as_json=as_json)


@cli.command()
@click.option("--renew", is_flag=True, help="Make new signing and fingerprint keys, announced by the old.")
@json_option
def init(*, renew: bool, as_json: bool) -> None:
    """Make store, manifests and their keys, and print the public key for auditors. Safe to run again."""
    settings = read_settings()
    opened = app.open_service(settings, trigger=TRIGGER, init=True)
    warn(opened)
    done = opened.service.renew(TRIGGER) if renew else opened.initialised
    if done is None:
        raise AssertionError("init always says what it came to")
    console.initialised(done, opened.service.journal.ledger.where("", 0).rsplit("/", 1)[0].rstrip("/"), as_json=as_json)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print the shell's completion script: eval "$(daena-key-rotate completion bash)"."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(complete(cli, {}, "daena-key-rotate", "_DAENA_KEY_ROTATE_COMPLETE").source())


def _decode(data: bytes, encoding: str) -> KeyMaterial:
    try:
        if encoding == "base64":
            data = base64.b64decode(b"".join(data.split()), validate=True)
        elif encoding == "hex":
            data = bytes.fromhex(data.decode("ascii").strip())
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"the material is not {encoding}", "see --encoding") from None
    return KeyMaterial(data)
