"""The keys behind the evidence: Ed25519 for signatures, HMAC-SHA-256 for fingerprints and anchors.

Both lie in the key store itself under one reserved name, 64 bytes a generation: an Ed25519 seed, then the
fingerprint key. `init --renew` adds a generation. The public halves lie in the ledger, each new one signed by the
one before, so that an auditor needs the first public key and nothing else.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from .errors import IntegrityError
from .material import KeyMaterial

SEED_BYTES = 32
GENERATION_BYTES = 64
# A run that began before a renewal may sign a little after it: longer than any lease, shorter than any grace.
RETIRED_SIGNER_TOLERANCE = timedelta(hours=1)

_GENERATION = re.compile(r"[1-9][0-9]{0,8}")
_FINGERPRINT_CONTEXT = b"daena-kms/fingerprint/1\0"
_ANCHOR_CONTEXT = b"daena-kms/anchor/1\0"
_CHECK_CONTEXT = b"daena-kms/check/1"


class Signer(Protocol):
    """Signs manifest entries. One method, so that a key that never leaves a KMS can take its place."""

    @property
    def key_id(self) -> str: ...

    def sign(self, data: bytes) -> bytes: ...


class PublicGeneration(Struct, frozen=True):
    """The public half of one generation, as the ledger shows it."""

    public_key: bytes
    retired_at: datetime | None = None


def key_id(public_key: bytes) -> str:
    """The short name of a public key in entries: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


class Trust:
    """The public keys that may have signed a manifest. All that verification needs."""

    def __init__(self, generations: Sequence[PublicGeneration]) -> None:
        self.generations = tuple(generations)
        self._order = {key_id(g.public_key): i for i, g in enumerate(self.generations)}
        self._keys = [Ed25519PublicKey.from_public_bytes(g.public_key) for g in self.generations]

    @property
    def public_key(self) -> str:
        """The first generation's, in hexadecimal: the one that is printed, pinned and linked to."""
        return self.generations[0].public_key.hex()

    def order(self, signer: str) -> int:
        """The generation of a signer, counted from 0; IntegrityError if it is none of ours."""
        if signer not in self._order:
            raise IntegrityError(f"signed by {signer or 'nobody'}, which is no key of this ledger", "see `verify`")
        return self._order[signer]

    def check(self, signer: str, signature: bytes, data: bytes, when: datetime) -> None:
        """Raise IntegrityError unless `signature` over `data` is that signer's, made while it was in use."""
        order = self.order(signer)
        retired = self.generations[order].retired_at
        if retired is not None and when > retired + RETIRED_SIGNER_TOLERANCE:
            raise IntegrityError(f"signed by {signer} after that key was retired on {retired:%Y-%m-%d}")
        try:
            self._keys[order].verify(signature, data)
        except InvalidSignature:
            raise IntegrityError("its signature does not match its content") from None


class LocalSigner:
    """Signs with an Ed25519 key held in memory."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


class Withheld:
    """Signs nothing: the ledger's own keys are not what they were, and the one at hand may be retired."""

    def __init__(self, problem: str, hint: str) -> None:
        self._problem = problem
        self._hint = hint

    @property
    def key_id(self) -> str:
        raise IntegrityError(self._problem, self._hint)

    def sign(self, data: bytes) -> bytes:  # noqa: ARG002  # whatever it is
        raise IntegrityError(self._problem, self._hint)


class Fingerprints:
    """Keyed names for material: equal material of one key has one fingerprint, and nobody else can guess-and-check.

    Material may be imported and weak, so a plain hash would give it away. Keys are derived per key name, so equal
    material under two names does not show. Written `<generation>:<hex>`.
    """

    def __init__(self, secrets: Mapping[int, bytes]) -> None:
        self._secrets = dict(secrets)
        self.generation = max(self._secrets)

    def of(self, key: str, material: KeyMaterial, generation: int = 0) -> str:
        """The fingerprint of `material` as a version of `key`, under the newest generation unless told."""
        generation = generation or self.generation
        derived = self._mac(generation, _FINGERPRINT_CONTEXT + key.encode())
        return f"{generation}:{hmac.digest(derived, material.reveal(), 'sha256').hex()}"

    def check(self, key: str, material: KeyMaterial, fingerprint: str) -> None:
        """Raise IntegrityError unless `material` is what `fingerprint` names; compares in constant time."""
        head, _, _ = fingerprint.partition(":")
        generation = int(head) if _GENERATION.fullmatch(head) else 0
        if generation not in self._secrets:
            raise IntegrityError(
                f"fingerprint {fingerprint[:12]!r} of {key} was made with a fingerprint key we do not hold",
                "`restore` puts the reserved key back from a backup; see `verify`",
            )
        given = fingerprint.encode(errors="replace")
        if not hmac.compare_digest(self.of(key, material, generation).encode(), given):
            raise IntegrityError(f"the material of {key} is not the one that its fingerprint names")

    def fits(self, key: str, material: KeyMaterial, fingerprint: str) -> bool:
        """True if `material` is what `fingerprint` names, as far as we hold the key that it was made with."""
        try:
            self.check(key, material, fingerprint)
        except IntegrityError:
            return False
        return True

    def seal(self, key: str, anchor: bytes) -> str:
        """The seal of a head anchor, bound to its key."""
        return self._seal(key, anchor, self.generation)

    def sealed(self, key: str, anchor: bytes, seal: str) -> bool:
        """True if `seal` was made for that anchor of that key, with any generation of ours."""
        given = seal.encode(errors="replace")
        return any(hmac.compare_digest(self._seal(key, anchor, g).encode(), given) for g in reversed(self._secrets))

    def check_value(self) -> str:
        """Shows in the ledger which fingerprint key belongs to it, without showing the key."""
        return self._mac(self.generation, _CHECK_CONTEXT).hex()[:32]

    def _seal(self, key: str, anchor: bytes, generation: int) -> str:
        return hmac.digest(self._mac(generation, _ANCHOR_CONTEXT + key.encode()), anchor, "sha256").hex()

    def _mac(self, generation: int, data: bytes) -> bytes:
        return hmac.digest(self._secrets[generation], data, "sha256")


class Keyring:
    """What a run that writes needs: a signer, the trust to verify with, and the fingerprints."""

    def __init__(self, signer: Signer, trust: Trust, fingerprints: Fingerprints) -> None:
        self.signer = signer
        self.trust = trust
        self.fingerprints = fingerprints


def split_generation(material: KeyMaterial) -> tuple[bytes, bytes]:
    """A generation's 64 bytes as (Ed25519 seed, fingerprint key)."""
    secret = material.reveal()
    if len(secret) != GENERATION_BYTES:
        raise IntegrityError(f"the reserved key holds {len(secret)} bytes, {GENERATION_BYTES} expected")
    return secret[:SEED_BYTES], secret[SEED_BYTES:]
