"""The command `backup`, and opening a backup for the commands that read one."""

import hashlib
import sys
from pathlib import Path

import click
from msgspec import Struct

from .. import app, console, documents, sealing
from ..backup import Backup, collect
from ..backup_check import check
from ..backup_json import document, parse
from ..errors import ConfigurationError, KmsError
from ..material import KeyMaterial
from ..settings import Settings, read_settings
from .base import EXIT_FAILED, cli, json_option, keys_argument, open_service

NOBODY = (
    "make an identity with `age-keygen -o FILE`, keep FILE elsewhere, and give its public half with --recipient or "
    "DAENA_BACKUP_RECIPIENTS; or give a passphrase with --passphrase or DAENA_BACKUP_PASSPHRASE"
)
_LARGEST_IDENTITY = 1 << 14

identity_option = click.option(
    "--identity",
    "identities",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A file with an age identity, or an ssh private key, that opens the backup. May be given again.",
)


class Lock(Struct, frozen=True):
    """How a backup is sealed: for recipients, or under a passphrase."""

    recipients: tuple[str, ...] = ()
    passphrase: KeyMaterial | None = None

    def seal(self, text: KeyMaterial) -> bytes:
        if self.passphrase is not None:
            return sealing.seal_with_passphrase(text, self.passphrase)
        return sealing.seal(text, self.recipients)


@cli.command("backup")
@keys_argument
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FILE", help="The new file; else DAENA_HOME/backups/TIME.age."
)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="RECIPIENT",
    help="Who can open it: age1…, or an ssh public key. May be given again; else DAENA_BACKUP_RECIPIENTS.",
)
@click.option(
    "--recipients-file", type=click.Path(path_type=Path), metavar="FILE", help="A file with a recipient on each line."
)
@click.option(
    "--passphrase", "asks", is_flag=True, help="Seal under DAENA_BACKUP_PASSPHRASE, or a passphrase that is asked for."
)
@json_option
def backup_(
    *,
    keys: tuple[str, ...],
    to: Path | None,
    recipients: tuple[str, ...],
    recipients_file: Path | None,
    asks: bool,
    as_json: bool,
) -> None:
    """Put every key, or those named, with history and states into one sealed file that `age` can open.

    \b
    Examples:
      daena-key-rotate backup --recipient age1...
      daena-key-rotate backup daena-encryption-key --to keys.age --recipients-file people.txt
    """
    settings = read_settings()
    if asks and (recipients or recipients_file):
        raise click.UsageError("--passphrase goes with no recipient: age seals in one way or the other")
    lock = _lock(settings, recipients + _in_file(recipients_file), asks=asks)
    target = _target(settings, to)
    service = open_service(writes=False)
    with console.progress(len(keys or service.known())) as tick:
        done = collect(service.tools.store, service.journal, keys, concurrency=settings.concurrency, progress=tick)
    sealed = lock.seal(document(done.backup))
    sealing.write_new(target, sealed)
    _warn_of_what_lies_beside(settings, target)
    digest = hashlib.sha256(sealed).hexdigest()
    written = documents.Written(str(target), digest, len(sealed), len(lock.recipients))
    console.backup(done, written, as_json=as_json)
    if done.failed:
        sys.exit(EXIT_FAILED)


# --- who opens it


def _lock(settings: Settings, recipients: tuple[str, ...], *, asks: bool) -> Lock:
    """How it is to be sealed; ConfigurationError, before anything is read, if nobody could open it."""
    recipients = () if asks else tuple(dict.fromkeys(recipients or settings.backup_recipients))
    if recipients:
        sealing.check_recipients(recipients)
        return Lock(recipients)
    if settings.backup_passphrase is not None:
        return Lock(passphrase=settings.backup_passphrase)
    if not asks:
        raise ConfigurationError("nobody could open that backup: no recipient and no passphrase is given", NOBODY)
    return Lock(passphrase=_asked("Passphrase for the backup", twice=True))


def _asked(question: str, *, twice: bool) -> KeyMaterial:
    if not console.asks():
        raise ConfigurationError(
            "there is nobody here to ask for the passphrase", "set DAENA_BACKUP_PASSPHRASE, or use recipients"
        )
    text = click.prompt(question, hide_input=True, confirmation_prompt=twice, err=True)
    return KeyMaterial(str(text).encode(errors="surrogateescape"))


def _in_file(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        found = sealing.recipients_in(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is no text"
        raise ConfigurationError(f"the recipients in {path} cannot be read: {reason}", "check its path") from None
    if not found:
        raise ConfigurationError(f"{path} names no recipient", "write one on each line")
    return found


# --- where it goes


def _target(settings: Settings, to: Path | None) -> Path:
    """The file to be made; refused, before anything is read, if it is there or its folder is not."""
    if to is None:
        to = settings.home / "backups" / f"{app.utc_now():%Y-%m-%dT%H%M%SZ}.age"
        if settings.home.is_dir():  # without a home there is nothing to back up, which is said later
            to.parent.mkdir(mode=0o700, exist_ok=True)
    elif not to.parent.is_dir():
        raise ConfigurationError(f"there is no folder {to.parent}", "make it, or name another place")
    if to.exists() or to.is_symlink():
        raise sealing.exists(to)
    return to


def _warn_of_what_lies_beside(settings: Settings, target: Path) -> None:
    home = settings.home.absolute()
    if settings.provider == "local" and target.absolute().is_relative_to(home):
        console.warning(f"the backup lies beside the vault: copy it to another place, or it is lost with {home}")
    for folder in {home, target.absolute().parent}:
        for file in _identities_in(folder):
            console.warning(f"{file} looks like an identity: whoever takes the folder can open what lies in it")


def _identities_in(folder: Path) -> list[Path]:
    """Small files there that an age identity stands in."""
    try:
        files = [file for file in sorted(folder.iterdir()) if file.is_file()]
        small = [file for file in files if file.stat().st_size < _LARGEST_IDENTITY]
        return [file for file in small if b"AGE-SECRET-KEY-1" in file.read_bytes()]
    except OSError:
        return []  # it is a help, not a promise


# --- opening one


def open_backup(path: Path, identities: tuple[Path, ...], settings: Settings, public_key: str = "") -> Backup:
    """A backup from a file, decrypted and checked as a whole, for whatever is to be done with it.

    `public_key` pins the first public key of the backup's ledger; empty: DAENA_PUBLIC_KEY; neither: a warning. Without
    identities the passphrase is DAENA_BACKUP_PASSPHRASE, or is asked for on a terminal. Raises IntegrityError for a
    file that is foreign, cut or altered, ConfigurationError if it cannot be read or is not opened by what was given.
    """
    sealed = sealing.read_file(path, "the backup")
    pin = public_key or settings.public_key
    try:
        text = _unsealed(sealed, identities, settings)
        opened = parse(text, sha256=hashlib.sha256(sealed).hexdigest())
        check(opened, pin)
    except KmsError as problem:
        raise type(problem)(f"{path}: {problem.message}", problem.hint) from None
    if not pin:
        console.warning(
            f"without --public-key or DAENA_PUBLIC_KEY {path} vouches for itself: compare its public key with the one "
            f"`init` printed: {opened.public_key}"
        )
    return opened


def _unsealed(sealed: bytes, identities: tuple[Path, ...], settings: Settings) -> KeyMaterial:
    if sealing.needs_passphrase(sealed):
        passphrase = settings.backup_passphrase or _asked("Passphrase of the backup", twice=False)
        return sealing.open_with_passphrase(sealed, passphrase)
    if not identities:
        raise ConfigurationError("it is sealed for recipients", "give the identity of one: --identity FILE")
    return sealing.open_with_identities(sealed, identities)
