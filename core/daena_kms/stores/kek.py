"""Where the local vault's key-encryption key (KEK) comes from: a setting, a passphrase, or a key file."""

import base64
import binascii
import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigurationError
from ..ledger import sync_folder, translate

KEK_BYTES = 32
SALT_BYTES = 16
SCRYPT_LOG2_COST = 15  # with p = 3, one of OWASP's settings of equal strength (password storage cheat sheet)
SCRYPT_BLOCK = 8
SCRYPT_PARALLEL = 3

KEK_WARNING = (
    "made a new key file: {path}. Whoever has this file and the vault has every key; "
    "whoever loses it has lost them all. Keep a copy somewhere else, and never in the same backup as the vault."
)


def from_setting(text: str) -> bytes:
    """The KEK in `DAENA_LOCAL_KEK`: 32 bytes in base64."""
    try:
        kek = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        kek = b""
    if len(kek) != KEK_BYTES:
        raise ConfigurationError(
            f"DAENA_LOCAL_KEK is not {KEK_BYTES} bytes in base64", "make one with: openssl rand -base64 32"
        )
    return kek


def from_passphrase(passphrase: str, salt: bytes) -> bytes:
    """The KEK that scrypt (RFC 7914) derives from a passphrase and the vault's salt."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt  # noqa: PLC0415  # only vaults with a passphrase pay

    derivation = Scrypt(salt=salt, length=KEK_BYTES, n=1 << SCRYPT_LOG2_COST, r=SCRYPT_BLOCK, p=SCRYPT_PARALLEL)
    return derivation.derive(passphrase.encode())


def read_file(path: Path) -> bytes:
    """The KEK in a key file, which nobody but its owner may read."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii")
    except FileNotFoundError:
        raise ConfigurationError(
            f"the vault's key file {path} is missing",
            "put the file back, or set DAENA_LOCAL_KEK; without it nothing in the vault can be read",
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigurationError(f"the key file {path} cannot be read: {problem}", "check its owner") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(f"the key file {path} can be read by others", f"chmod 600 {path}")
    try:
        return from_setting(text.strip())
    except ConfigurationError:
        raise ConfigurationError(f"{path} does not hold a key", "put the right file back") from None


def create_file(path: Path, entropy: Callable[[int], bytes]) -> tuple[bytes, bool]:
    """The KEK in a key file that is made if it is not there; True if this call made it.

    Two racing callers agree: the file is linked into place, and the loser reads the winner's.
    """
    temporary = path.with_name(f".{path.name}.{entropy(8).hex()}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(base64.b64encode(entropy(KEK_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        sync_folder(path.parent)
        made = True
    except FileExistsError:
        made = False
    except OSError as problem:
        raise translate(problem, path) from None
    finally:
        temporary.unlink(missing_ok=True)
    return read_file(path), made
