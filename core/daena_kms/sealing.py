"""The age format (age-encryption.org/v1) around a document, for recipients or under a passphrase.

`pyrage` does the work, and is imported when it is first needed. What its errors say is put into our words; none of
them, and none of ours, shows anything of the document, of an identity or of a passphrase.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, ExistsError, IntegrityError
from .ledger import create_file, translate
from .material import KeyMaterial

EXTRA = "backup"
_INTRO = b"age-encryption.org/"
_VERSION = _INTRO + b"v1\n"
_ARMOUR = b"-----BEGIN AGE ENCRYPTED FILE-----"
_STANZA = re.compile(rb"^-> (\S+)", re.MULTILINE)
_BY_PASSPHRASE = ["scrypt"]
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105  # how every identity begins
_KINDS = "give age1… or an ssh-ed25519 or ssh-rsa public key"
_TAMPERED = "fetch the backup again, or take another one; nothing was changed"


@contextmanager
def _pyrage() -> Iterator[Any]:
    """The package, its errors translated; ConfigurationError if it is not installed."""
    try:
        import pyrage  # noqa: PLC0415  # only backups need it
    except ModuleNotFoundError:
        raise ConfigurationError("the package pyrage is not installed", f"pip install 'daena-kms[{EXTRA}]'") from None
    try:
        yield pyrage
    except pyrage.DecryptError as problem:
        raise _translated(str(problem)) from None
    except pyrage.EncryptError:
        raise ConfigurationError("nothing was sealed: age refused its recipients", _KINDS) from None


def _translated(reason: str) -> IntegrityError:
    if "work parameter" in reason:
        return IntegrityError("its passphrase would take far too long to try: it is none of our backups", _TAMPERED)
    return IntegrityError("it is cut or was altered", _TAMPERED)


def recipients_in(text: str) -> tuple[str, ...]:
    """The recipients in a file of them: one a line, empty lines and lines that begin with # left out."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise ConfigurationError unless something can be sealed for each of them."""
    with _pyrage() as pyrage:
        for text in recipients:
            _recipient(pyrage, text)


def _recipient(pyrage: Any, text: str) -> object:
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(text)
    except (pyrage.RecipientError, ValueError):
        pass
    if _SECRET in text.upper():
        raise ConfigurationError("a recipient is an identity, the secret half", "give its public half, age1…")
    shown = repr(text[:16]) + "…" * (len(text) > 16) if text.startswith(("age1", "ssh-")) else "what was given"
    raise ConfigurationError(f"{shown} is no recipient that age knows", _KINDS)


def seal(document: KeyMaterial, recipients: Sequence[str]) -> bytes:
    """The document, so that each recipient's identity alone opens it. Raises ConfigurationError for a bad one."""
    with _pyrage() as pyrage:
        known = [_recipient(pyrage, text) for text in dict.fromkeys(recipients)]
        return bytes(pyrage.encrypt(document.reveal(), known))


def seal_with_passphrase(document: KeyMaterial, passphrase: KeyMaterial) -> bytes:
    """The document, so that the passphrase opens it (scrypt: a second or two)."""
    with _pyrage() as pyrage:
        return bytes(pyrage.passphrase.encrypt(document.reveal(), _text(passphrase)))


def _text(passphrase: KeyMaterial) -> str:
    if not len(passphrase):
        raise ConfigurationError("the passphrase is empty", "choose a long one")
    try:
        return passphrase.reveal().decode()
    except UnicodeDecodeError:
        raise ConfigurationError("the passphrase is not UTF-8 text", "choose another") from None


def kinds(sealed: bytes) -> list[str]:
    """The kinds of stanzas in a file's header, in order. Raises IntegrityError if it is no age file of version 1."""
    header = _dearmoured(sealed) if sealed.startswith(_ARMOUR) else sealed
    if not header.startswith(_INTRO):
        raise IntegrityError("it is not an age file", "give a file that `daena-key-rotate backup` made")
    if not header.startswith(_VERSION):
        raise IntegrityError("it is an age file of another version, or was altered", _TAMPERED)
    found = [match.decode("ascii", "replace") for match in _STANZA.findall(header.partition(b"\n---")[0])]
    return [kind for kind in found if not kind.endswith("-grease")]


def _dearmoured(sealed: bytes) -> bytes:
    body = b"".join(line for line in sealed.splitlines() if not line.startswith(b"-----"))
    try:
        return base64.b64decode(body[: 1 << 20], validate=True)
    except binascii.Error:
        raise IntegrityError("its armour is cut or was altered", _TAMPERED) from None


def needs_passphrase(sealed: bytes) -> bool:
    """True if a passphrase opens it, not an identity. Raises IntegrityError as `kinds` does."""
    return kinds(sealed) == _BY_PASSPHRASE


def open_with_passphrase(sealed: bytes, passphrase: KeyMaterial) -> KeyMaterial:
    """The document. Raises ConfigurationError for another passphrase, IntegrityError if it was cut or altered."""
    kinds(sealed)
    wrong = ConfigurationError("the passphrase does not open it", "if it is the right one, the file was altered")
    with _pyrage() as pyrage:
        return _opened(lambda: pyrage.passphrase.decrypt(sealed, _text(passphrase)), pyrage, wrong)


def open_with_identities(sealed: bytes, files: Sequence[Path]) -> KeyMaterial:
    """The document, opened with any identity in the files.

    Raises ConfigurationError if none of them opens it, IntegrityError if it was cut or altered.
    """
    found = kinds(sealed)
    sealed_for = f"{len(found)} recipient{'s' * (len(found) != 1)} ({', '.join(sorted(set(found)))})"
    wrong = ConfigurationError(
        "no identity that was given opens it",
        f"it is sealed for {sealed_for}: give the identity of one; if you did, the file was altered",
    )
    with _pyrage() as pyrage:
        known = [identity for file in files for identity in _identities(pyrage, file)]
        return _opened(lambda: pyrage.decrypt(sealed, known), pyrage, wrong)


def _opened(decrypt: Callable[[], bytes], pyrage: Any, wrong: ConfigurationError) -> KeyMaterial:
    try:
        return KeyMaterial(decrypt())
    except pyrage.DecryptError as problem:
        if str(problem) in ("No matching keys found", "Decryption failed"):
            raise wrong from None
        raise


def _identities(pyrage: Any, file: Path) -> list[object]:
    """What a file of identities holds; ConfigurationError, which shows nothing of it, if there is none."""
    data = read_file(file, "the identity")
    try:
        if b"-----BEGIN" in data:
            return [pyrage.ssh.Identity.from_buffer(data)]
        lines = recipients_in(data.decode())
        found = [pyrage.x25519.Identity.from_str(line) for line in lines]
    except (pyrage.IdentityError, ValueError) as problem:
        if "must be decrypted" in str(problem):
            hint = "take the passphrase off a copy of it: ssh-keygen -p -N '' -f COPY"
            raise ConfigurationError(f"the ssh key {file} has a passphrase", hint) from None
        hint = "give a file that `age-keygen` made, or an ssh-ed25519 or ssh-rsa private key"
        raise ConfigurationError(f"{file} holds no identity that can be read", hint) from None
    if not found:
        raise ConfigurationError(f"{file} holds no identity", "give a file that `age-keygen` made")
    return found


def read_file(path: Path, what: str) -> bytes:
    """A file that somebody named. Raises ConfigurationError, which says `what` it should have been."""
    try:
        return path.read_bytes()
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ConfigurationError(f"{what} {path} cannot be read: {reason}", "check its path") from None


def write_new(path: Path, sealed: bytes) -> None:
    """Write a sealed file that is not there yet, for its owner's eyes, and read it back.

    Raises ExistsError if it is there, UnavailableError or DeniedError if it cannot be written.
    """
    try:
        create_file(str(path.absolute()), sealed, 0o600)
        back = path.read_bytes()
    except FileExistsError:
        raise exists(path) from None
    except OSError as problem:
        raise translate(problem, path) from None
    if back != sealed:
        raise IntegrityError(f"{path} does not hold what was written to it", "check the disk, and write another")


def exists(path: Path) -> ExistsError:
    """What is said of a place that is taken."""
    return ExistsError(f"{path} is there already", "name another file: a backup is never written over")
