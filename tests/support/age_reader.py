"""Opens files of the age format, version 1, written from its specification (age-encryption.org/v1) alone.

X25519 and scrypt stanzas, the header's MAC, the payload's chunks. Of a bad file it says nothing helpful: `ValueError`,
or what `cryptography` raises.
"""

import base64
import hmac
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

AGE = Path(__file__).parents[2] / ".venv/tools/age/bin/age"
KEYGEN = AGE.with_name("age-keygen")
CHUNK = 64 * 1024
TAG = 16
NO_NONCE = bytes(12)
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


class Stanza(NamedTuple):
    """One wrapping of the file key."""

    arguments: list[str]
    body: bytes


class Parts(NamedTuple):
    """A file taken apart."""

    stanzas: list[Stanza]
    mac: bytes
    covered: bytes
    """The header as its MAC covers it."""
    payload: bytes


def take_apart(sealed: bytes) -> Parts:
    """Header and payload; ValueError if it is no such file."""
    lines = sealed.split(b"\n")
    if lines[0] != b"age-encryption.org/v1":
        raise ValueError("not an age file of version 1")
    stanzas, number = [], 1
    while lines[number].startswith(b"-> "):
        arguments, body = lines[number][3:].decode("ascii").split(" "), b""
        while True:
            number += 1
            body += lines[number]
            if len(lines[number]) < 64:
                break
        stanzas.append(Stanza(arguments, unpadded(body.decode("ascii"))))
        number += 1
    if not lines[number].startswith(b"--- "):
        raise ValueError("the header has no end")
    before = b"\n".join(lines[:number]) + b"\n---"
    payload = sealed[len(before) + len(lines[number]) - len(b"---") + 1 :]
    return Parts(stanzas, unpadded(lines[number][4:].decode("ascii")), before, payload)


def unpadded(text: str) -> bytes:
    """Base64 as age writes it: canonical, without padding."""
    decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if base64.b64encode(decoded).decode().rstrip("=") != text:
        raise ValueError("base64 is not canonical")
    return decoded


def with_identity(sealed: bytes, identity: str) -> bytes:
    """What is in a file that an `AGE-SECRET-KEY-1…` opens."""
    parts, secret = take_apart(sealed), X25519PrivateKey.from_private_bytes(bech32(identity, "age-secret-key-"))
    ours = secret.public_key().public_bytes_raw()
    for stanza in parts.stanzas:
        if stanza.arguments[0] == "X25519":
            share = unpadded(stanza.arguments[1])
            shared = secret.exchange(X25519PublicKey.from_public_bytes(share))
            wrapping = derived(shared, share + ours, b"age-encryption.org/v1/X25519")
            try:
                return _payload(parts, ChaCha20Poly1305(wrapping).decrypt(NO_NONCE, stanza.body, None))
            except InvalidTag:
                continue
    raise ValueError("sealed for somebody else")


def with_passphrase(sealed: bytes, passphrase: str) -> bytes:
    """What is in a file that a passphrase opens."""
    parts = take_apart(sealed)
    (stanza,) = parts.stanzas
    kind, salt, logarithm = stanza.arguments
    if kind != "scrypt":
        raise ValueError("sealed for recipients")
    salted = b"age-encryption.org/v1/scrypt" + unpadded(salt)
    wrapping = Scrypt(salt=salted, length=32, n=2 ** int(logarithm), r=8, p=1).derive(passphrase.encode())
    return _payload(parts, ChaCha20Poly1305(wrapping).decrypt(NO_NONCE, stanza.body, None))


def sealed_under(text: bytes, passphrase: str, logarithm: int = 10) -> bytes:
    """A file of one chunk that a passphrase opens, at a work factor of the caller's choice."""
    file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
    wrapping = Scrypt(salt=b"age-encryption.org/v1/scrypt" + salt, length=32, n=2**logarithm, r=8, p=1)
    body = ChaCha20Poly1305(wrapping.derive(passphrase.encode())).encrypt(NO_NONCE, file_key, None)
    header = f"age-encryption.org/v1\n-> scrypt {_written(salt)} {logarithm}\n{_written(body)}\n---".encode()
    mac = hmac.digest(derived(file_key, b"", b"header"), header, "sha256")
    chunk = ChaCha20Poly1305(derived(file_key, nonce, b"payload")).encrypt(bytes(11) + b"\1", text, None)
    return header + f" {_written(mac)}\n".encode() + nonce + chunk


def _written(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _payload(parts: Parts, file_key: bytes) -> bytes:
    mac = hmac.digest(derived(file_key, b"", b"header"), parts.covered, "sha256")
    if not hmac.compare_digest(mac, parts.mac):
        raise ValueError("the header was altered")
    nonce, stream = parts.payload[:16], parts.payload[16:]
    cipher = ChaCha20Poly1305(derived(file_key, nonce, b"payload"))
    chunks = [stream[start : start + CHUNK + TAG] for start in range(0, max(1, len(stream)), CHUNK + TAG)]
    opened = [
        cipher.decrypt(number.to_bytes(11, "big") + bytes([number == len(chunks) - 1]), chunk, None)
        for number, chunk in enumerate(chunks)
    ]
    if len(opened) > 1 and not opened[-1]:
        raise ValueError("the last chunk is empty")
    return b"".join(opened)


def derived(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256, 32 bytes."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def bech32(text: str, prefix: str) -> bytes:
    """The bytes of a Bech32 string (BIP 173) with that prefix; ValueError if its checksum is wrong."""
    human, _, data = text.lower().rpartition("1")
    values = [_ALPHABET.index(digit) for digit in data]
    if human != prefix or _checksum([*(ord(c) >> 5 for c in human), 0, *(ord(c) & 31 for c in human), *values]) != 1:
        raise ValueError("not such a Bech32 string")
    bits = "".join(f"{value:05b}" for value in values[:-6])
    return int(bits[: len(bits) // 8 * 8], 2).to_bytes(len(bits) // 8, "big")


def _checksum(values: list[int]) -> int:
    found = 1
    for value in values:
        top = found >> 25
        found = (found & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            found ^= generator if top >> bit & 1 else 0
    return found


# --- the standard tool


def need_age() -> None:
    """Skip where the standard tool was not built."""
    if not AGE.exists():
        pytest.skip("age was not built: there is no Go here (make .venv/tools/age/ready)")


def age_opens(sealed: Path, identity: Path) -> bytes:
    """What the standard tool gets out of a file."""
    done = subprocess.run(
        [str(AGE), "--decrypt", "--identity", str(identity), str(sealed)], capture_output=True, check=True, timeout=30
    )
    return done.stdout


def age_seals(text: bytes, *arguments: str) -> bytes:
    """A file that the standard tool made."""
    done = subprocess.run([str(AGE), "--encrypt", *arguments], input=text, capture_output=True, check=True, timeout=30)
    return done.stdout
