"""The check that every version passes before it goes live."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import IntegrityError
from .keyring import Fingerprints
from .material import KeyMaterial
from .model import KeySpec

VERIFIED = "read back, length, fingerprint, AES-GCM round trip"
_PROBE = b"daena-kms verifies what it publishes"
_AES_LENGTHS = (16, 24, 32)


def verify(key: str, spec: str, fingerprint: str, material: KeyMaterial, fingerprints: Fingerprints) -> None:
    """Raise IntegrityError unless `material` is what was claimed, and encrypts and decrypts.

    Material that is no AES key by its length is stretched with HKDF-SHA-256 for the round trip.
    """
    expected = KeySpec.parse(spec).length
    if len(material) != expected:
        raise IntegrityError(f"read back {len(material)} bytes, {expected} expected")
    fingerprints.check(key, material, fingerprint)
    round_trip(material)


def round_trip(material: KeyMaterial) -> None:
    """Encrypt and decrypt a probe; IntegrityError if what comes back differs."""
    secret = material.reveal()
    if len(secret) not in _AES_LENGTHS:
        secret = HKDF(SHA256(), 32, None, b"daena-kms/round-trip/1").derive(secret)
    nonce = bytes(12)  # nothing of this leaves the function, so a nonce that repeats gives nothing away
    try:
        opened = AESGCM(secret).decrypt(nonce, AESGCM(secret).encrypt(nonce, _PROBE, None), None)
    except InvalidTag:
        opened = b""
    if opened != _PROBE:
        raise IntegrityError("an AES-GCM round trip with the material failed")
