"""The command that looks at everything that a rotation needs."""

import sys

from .. import app, console, doctor
from ..settings import read_settings
from ..stores.probe import Standing
from .base import EXIT_FAILED, cli, json_option


@cli.command("doctor")
@json_option
def examine(*, as_json: bool) -> None:
    """Check settings, credentials, permissions, clock, manifests and keys. Changes nothing.

    \b
    Examples:
      daena-key-rotate doctor
      daena-key-rotate doctor --json
    """
    found = list(doctor.examine(read_settings(), clock=app.utc_now))
    console.checks(found, as_json=as_json)
    if any(check.standing is Standing.FAILED for check in found):
        sys.exit(EXIT_FAILED)
