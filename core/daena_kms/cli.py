"""The command `daena-key-rotate`: every error becomes a line, a hint and an exit status.

Exit status: 0 done, 1 some key failed, 2 usage or configuration, 3 verification failed.
"""

import sys

import click

from . import console, dumps
from .commands import backup as _backup  # noqa: F401  # as below
from .commands import cost as _cost  # noqa: F401
from .commands import doctor as _doctor  # noqa: F401  # as below
from .commands import keys as _keys  # noqa: F401  # importing a room hangs its commands in the group
from .commands import recovery as _recovery  # noqa: F401
from .commands import schedules as _schedules  # noqa: F401
from .commands import verify as _verify  # noqa: F401
from .commands.base import EXIT_FAILED, EXIT_UNVERIFIED, EXIT_USAGE
from .commands.base import cli as cli  # noqa: PLC0414  # offered: completion and tests ask it
from .commands.guide_flags import translate
from .errors import IntegrityError, KmsError
from .settings import read_settings

PROGRAM = "daena-key-rotate"


class UsageError(KmsError):
    """The command line cannot be understood."""


def _usage_hint(problem: click.ClickException) -> str:
    context = getattr(problem, "ctx", None)
    return f"see `{context.command_path if context else PROGRAM} --help`"


def main() -> None:
    """The command: translates every error into a line, a hint and an exit status."""
    dumps.forbid()
    as_json = "--json" in sys.argv[1:]
    try:
        arguments = translate(sys.argv[1:], cli.commands, lambda: read_settings().provider)
        cli(arguments, prog_name=PROGRAM, standalone_mode=False)
    except KmsError as problem:
        console.error(problem, as_json=as_json)
        sys.exit(EXIT_UNVERIFIED if isinstance(problem, IntegrityError) else EXIT_USAGE)
    except click.Abort:
        print("stopped", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except click.ClickException as problem:
        console.error(UsageError(problem.format_message(), _usage_hint(problem)), as_json=as_json)
        sys.exit(EXIT_USAGE)
