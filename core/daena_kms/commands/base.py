"""What every command shares: the group they hang in, options, opening a service, questions, and exit statuses."""

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from .. import app, console
from ..errors import KmsError
from ..fleet import Report
from ..model import Outcome, Status
from ..names import check_name
from ..service import Service
from ..settings import read_settings

EXIT_FAILED, EXIT_USAGE, EXIT_UNVERIFIED = 1, 2, 3
TRIGGER = "cli"
Command = TypeVar("Command", bound=Callable[..., Any])


class Age(click.ParamType[datetime]):
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
    Also: --test-cloud-kms is doctor, --cloud-kms rotate, --backup backup, --migrate-to-cloud migrate,
    --verify-cloud-kms verify.
    """
    logging.getLogger("daena_kms").addHandler(console.log_handler() if verbose else logging.NullHandler())
    if verbose:
        logging.getLogger("daena_kms").setLevel(logging.DEBUG)


def open_service(*, writes: bool = True, makes: bool = False) -> Service:
    opened = app.open_service(read_settings(), trigger=TRIGGER, writes=writes, makes=makes)
    warn(opened)
    return opened.service


def warn(opened: app.Opened) -> None:
    for text in opened.warnings:
        console.warning(text)
    if opened.initialised is not None and opened.initialised.made:
        console.warning(f"made new manifests; their public key, for auditors: {opened.initialised.public_key}")


def confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not console.asks():
        raise click.UsageError("this needs --yes where nobody can be asked")
    if not click.confirm(question, err=True):
        raise click.Abort


def show_report(done: Report, *, as_json: bool) -> None:
    console.report(done, as_json=as_json)
    if done.failed:
        sys.exit(EXIT_FAILED)


def show_outcome(done: Outcome, *, as_json: bool) -> None:
    console.outcome(done, as_json=as_json)
    if done.status in (Status.FAILED, Status.IN_PROGRESS):
        sys.exit(EXIT_FAILED)
