"""The guide's flags: `daena-key-rotate --cloud-kms` is `daena-key-rotate rotate`, and so on.

Arguments in, arguments out, before click reads them. What stands beside a flag goes on to its command, as in
`--backup --to keys.age`.
"""

from collections.abc import Callable, Container, Sequence

import click

from ..errors import ConfigurationError

COMMANDS = {
    "--test-cloud-kms": "doctor",
    "--cloud-kms": "rotate",
    "--backup": "backup",
    "--migrate-to-cloud": "migrate",
    "--verify-cloud-kms": "verify",
}
# Who names the cloud and has none configured would otherwise be told that all is well, of the local vault.
NEED_A_CLOUD = set(COMMANDS) - {"--backup"}
_HELP = ("-h", "--help")
_OF_THE_GROUP = ("-v", "--verbose")


def translate(arguments: Sequence[str], commands: Container[str], provider: Callable[[], str]) -> list[str]:
    """The arguments with the guide's flag, if there is one, as its command; the same arguments otherwise.

    `commands` are the names that commands have; `provider` says which store is configured. Raises click.UsageError for
    two flags, or a flag before a command; ConfigurationError for a flag of the cloud where none is configured.
    """
    before = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    flags = [argument for argument in before if argument in COMMANDS]
    first = _command(before, commands)
    # What follows a command is its own: `verify --backup FILE` has an option of that name.
    if not flags or (first and before.index(first) < before.index(flags[0])):
        return list(arguments)
    flag, command = flags[0], COMMANDS[flags[0]]
    if len(flags) > 1:
        raise click.UsageError(f"{flag} and {flags[1]} are commands of their own: use one at a time")
    rest = [argument for argument in before if argument != flag]
    if other := _command(rest, commands):
        raise click.UsageError(f"{flag} is itself a command, the same as `{command}`: leave it or `{other}` out")
    if flag in NEED_A_CLOUD and not any(argument in _HELP for argument in rest) and provider() == "local":
        raise ConfigurationError(
            f"{flag} is about a cloud, but none is configured",
            f"set DAENA_CLOUD_KMS_PROVIDER to aws, azure or gcp; `daena-key-rotate {command}` works on the local vault",
        )
    ours = [argument for argument in rest if argument in _OF_THE_GROUP]
    others = [argument for argument in rest if argument not in _OF_THE_GROUP]
    return [*ours, command, *others, *arguments[len(before) :]]


def _command(rest: Sequence[str], commands: Container[str]) -> str:
    """A command's name that stands for itself, and is not perhaps the value of an option before it."""
    pairs = zip(["", *rest], rest, strict=False)
    return next((a for before, a in pairs if a in commands and (before in _OF_THE_GROUP or before[:1] != "-")), "")
