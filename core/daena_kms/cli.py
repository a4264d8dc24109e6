"""The command `daena-key-rotate`: options in, one call of the service, its result to the console.

Exit status: 0 done, 1 some key failed, 2 usage or configuration, 3 verification failed.
"""

import base64
import binascii
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from . import app, audit, console
from .errors import ConfigurationError, IntegrityError, KmsError
from .fleet import Order, Report
from .ledger import FolderLedger
from .material import KeyMaterial
from .model import MAX_MATERIAL_BYTES, Outcome, Status
from .names import check_name
from .service import Service, check_import
from .settings import read_settings

EXIT_FAILED, EXIT_USAGE, EXIT_UNVERIFIED = 1, 2, 3
TRIGGER = "cli"
Command = TypeVar("Command", bound=Callable[..., Any])


class _Age(click.ParamType[datetime]):
    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return parse_created(str(value), app.utc_now())
        except (ValueError, OverflowError):
            return self.fail(f"{value!r} is no date: write 2025-01-31, or an age such as 120d", param, ctx)


def parse_created(text: str, now: datetime) -> datetime:
    """A `--created` as people write it: `2025-01-31`, `2025-01-31T12:00`, or an age such as `120d`."""
    if text.endswith("d") and text[:-1].isdigit():
        return now - timedelta(days=int(text[:-1]))
    parsed = datetime.fromisoformat(text)
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _checked(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuse a name that no store takes before anything is opened or made."""
    for name in (value,) if isinstance(value, str) else value or ():
        check_name(name)
    return value


def _complete_key(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    try:
        return [key for key in app.load_policy(read_settings()).keys if key.startswith(incomplete)]
    except KmsError:
        return []


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; recorded in the manifest.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
key_argument = click.argument("key", shell_complete=_complete_key, callback=_checked)
keys_argument = click.argument("keys", nargs=-1, metavar="[KEY]...", shell_complete=_complete_key, callback=_checked)


def version_option(*, required: bool) -> Callable[[Command], Command]:
    """`--version N`, a version's number."""
    number = click.IntRange(1, 10**9)
    return click.option(
        "--version", "number", type=number, required=required, metavar="N", help="The version's number."
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="daena-kms")
@click.option("-v", "--verbose", is_flag=True, help="Log every step to stderr.")
def cli(*, verbose: bool) -> None:
    """Rotate encryption keys on schedule, keep old versions readable, keep evidence.

    \b
    Examples:
      daena-key-rotate rotate                    rotate what is due
      daena-key-rotate plan                      what would be rotated, and why
      daena-key-rotate status                    every key's age and next rotation
      daena-key-rotate get daena-encryption-key --reveal
      daena-key-rotate verify                    hold manifests and store against each other

    Settings come from the environment (DAENA_...); the policy from daena-kms.toml or DAENA_POLICY.
    """
    logging.getLogger("daena_kms").addHandler(console.log_handler() if verbose else logging.NullHandler())
    if verbose:
        logging.getLogger("daena_kms").setLevel(logging.DEBUG)


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
        _confirm(f"Rotate {', '.join(keys) or 'every key'} now, due or not?", yes=yes)
    named = app.load_policy(read_settings()).keys
    service = _open(writes=not dry_run, makes=not dry_run and all(key in named for key in keys))
    order = Order(keys, force, request_id if force else "", reason)
    if dry_run:
        _report(service.dry_run(order), as_json=as_json)
        return
    with console.progress(len(service.plan(order))) as tick:
        done = service.rotate(order, tick)
    _report(done, as_json=as_json)


@cli.command()
@keys_argument
@json_option
def plan(*, keys: tuple[str, ...], as_json: bool) -> None:
    """Say which keys are due and why. Changes nothing."""
    _report(_open(writes=False).dry_run(Order(keys)), as_json=as_json)


@cli.command()
@keys_argument
@json_option
def status(*, keys: tuple[str, ...], as_json: bool) -> None:
    """Show every key's active version, age, next rotation and versions."""
    console.status(_open(writes=False).status(keys), as_json=as_json)


@cli.command()
@key_argument
@click.option("--anew", is_flag=True, help="Also if the store has lost a key that the manifest knows.")
@reason_option
@json_option
def create(*, key: str, anew: bool, reason: str, as_json: bool) -> None:
    """Make a new key. Refuses one that exists."""
    _outcome(_open(makes=True).create(key, anew=anew, reason=reason), as_json=as_json)


@cli.command("import")
@key_argument
@click.option("--from", "source", type=click.File("rb"), required=True, help="File with the material; - for stdin.")
@click.option("--created", type=_Age(), metavar="DATE", help="In use since: 2025-01-31, or an age such as 120d.")
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
    _outcome(_open(makes=True).import_key(key, material, created=created, reason=reason), as_json=as_json)


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
    console.fetched(_open(writes=False).get(key, number or 0, reveal=reveal), encoding=encoding, as_json=as_json)


@cli.command()
@key_argument
@json_option
def history(*, key: str, as_json: bool) -> None:
    """Show a key's manifest, every entry verified."""
    console.history(_open(writes=False).history(key), as_json=as_json)


@cli.command()
@keys_argument
@click.option("--manifests", type=click.Path(path_type=Path), help="Verify a copy of the manifests, offline.")
@click.option("--public-key", default="", metavar="HEX", help="With --manifests: the public key that `init` printed.")
@json_option
def verify(*, keys: tuple[str, ...], manifests: Path | None, public_key: str, as_json: bool) -> None:
    """Prove manifests, the heads stored beside the keys, and the store, each against the others.

    \b
    Examples:
      daena-key-rotate verify
      daena-key-rotate verify --manifests /evidence/manifests --public-key 0f3c...
    """
    if public_key and manifests is None:
        raise click.UsageError("--public-key goes with --manifests; DAENA_PUBLIC_KEY pins the key otherwise")
    if manifests is not None:
        if not public_key:
            console.warning(
                "without --public-key the copy vouches for itself: compare its key with the one `init` printed"
            )
        if not manifests.is_dir():
            raise ConfigurationError(f"{manifests} is not a folder", "give the folder that holds a folder per key")
        ledger = FolderLedger(manifests, manifests.absolute().as_uri())
        ledger.check_ours()
        found = audit.verify_manifests(ledger, public_key, keys)
    else:
        found = _open(writes=False).verify(keys)
    console.audits(found, as_json=as_json)
    if any(each.problems for each in found):
        sys.exit(EXIT_UNVERIFIED)


@cli.command()
@key_argument
@version_option(required=False)
@reason_option
@json_option
def rollback(*, key: str, number: int | None, reason: str, as_json: bool) -> None:
    """Make the previous version's material active again, as a new number."""
    _outcome(_open().rollback(key, number or 0, reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=True)
@reason_option
@json_option
def compromised(*, key: str, number: int, reason: str, as_json: bool) -> None:
    """Mark a version as known to others; if it is the active one, rotate at once."""
    _outcome(_open().compromised(key, number, reason), as_json=as_json)


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
        _confirm(
            f"Schedule version {number} of {key} for destruction? What it encrypted can then never be read.",
            yes=yes,
        )
    _outcome(_open().destroy(key, number, cancel=cancel, reason=reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=True)
@reason_option
@json_option
def disable(*, key: str, number: int, reason: str, as_json: bool) -> None:
    """Make an earlier version unreadable; `enable` undoes it."""
    _outcome(_open().disable(key, number, reason), as_json=as_json)


@cli.command()
@key_argument
@version_option(required=True)
@reason_option
@json_option
def enable(*, key: str, number: int, reason: str, as_json: bool) -> None:
    """Make a disabled version readable again."""
    _outcome(_open().enable(key, number, reason), as_json=as_json)


@cli.command()
@key_argument
@reason_option
@json_option
def pause(*, key: str, reason: str, as_json: bool) -> None:
    """Stop rotating a key until `resume`."""
    _outcome(_open().pause(key, reason), as_json=as_json)


@cli.command()
@key_argument
@reason_option
@json_option
def resume(*, key: str, reason: str, as_json: bool) -> None:
    """End a pause; also lets a key that waits for a person be tried again."""
    _outcome(_open().resume(key, reason), as_json=as_json)


@cli.command()
@key_argument
@click.option("--created", type=_Age(), metavar="DATE", help="In use since: 2025-01-31, or an age such as 120d.")
@reason_option
@json_option
def adopt(*, key: str, created: datetime | None, reason: str, as_json: bool) -> None:
    """Take in, in place, what the store holds and no manifest knows."""
    _outcome(_open().adopt(key, created=created, reason=reason), as_json=as_json)


@cli.command()
@key_argument
@reason_option
@json_option
def repair(*, key: str, reason: str, as_json: bool) -> None:
    """Step over objects in a manifest that are no entries, naming each; nothing is overwritten."""
    _outcome(_open().repair(key, reason), as_json=as_json)


@cli.command()
@click.option("--renew", is_flag=True, help="Make new signing and fingerprint keys, announced by the old.")
@json_option
def init(*, renew: bool, as_json: bool) -> None:
    """Make store, manifests and their keys, and print the public key for auditors. Safe to run again."""
    settings = read_settings()
    opened = app.open_service(settings, trigger=TRIGGER, init=True)
    _warn(opened)
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


def _open(*, writes: bool = True, makes: bool = False) -> Service:
    opened = app.open_service(read_settings(), trigger=TRIGGER, writes=writes, makes=makes)
    _warn(opened)
    return opened.service


def _warn(opened: app.Opened) -> None:
    for text in opened.warnings:
        console.warning(text)
    if opened.initialised is not None and opened.initialised.made:
        console.warning(f"made new manifests; their public key, for auditors: {opened.initialised.public_key}")


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not console.asks():
        raise click.UsageError("this needs --yes where nobody can be asked")
    if not click.confirm(question, err=True):
        raise click.Abort


def _decode(data: bytes, encoding: str) -> KeyMaterial:
    try:
        if encoding == "base64":
            data = base64.b64decode(b"".join(data.split()), validate=True)
        elif encoding == "hex":
            data = bytes.fromhex(data.decode("ascii").strip())
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"the material is not {encoding}", "see --encoding") from None
    return KeyMaterial(data)


def _report(done: Report, *, as_json: bool) -> None:
    console.report(done, as_json=as_json)
    if done.failed:
        sys.exit(EXIT_FAILED)


def _outcome(done: Outcome, *, as_json: bool) -> None:
    console.outcome(done, as_json=as_json)
    if done.status in (Status.FAILED, Status.IN_PROGRESS):
        sys.exit(EXIT_FAILED)


class UsageError(KmsError):
    """The command line cannot be understood."""


def _usage_hint(problem: click.ClickException) -> str:
    context = getattr(problem, "ctx", None)
    return f"see `{context.command_path if context else 'daena-key-rotate'} --help`"


def main() -> None:
    """The command: translates every error into a line, a hint and an exit status."""
    as_json = "--json" in sys.argv[1:]
    try:
        cli(standalone_mode=False)
    except KmsError as problem:
        console.error(problem, as_json=as_json)
        sys.exit(EXIT_UNVERIFIED if isinstance(problem, IntegrityError) else EXIT_USAGE)
    except click.Abort:
        print("stopped", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except click.ClickException as problem:
        console.error(UsageError(problem.format_message(), _usage_hint(problem)), as_json=as_json)
        sys.exit(EXIT_USAGE)
