"""KMS as strict as AWS, for symmetric keys. `strict_moto` lists the behaviour with its sources.

moto keeps the keys. Wrapping is done here: moto binds a context's names and values run together, so that
`{"a": "bc"}` opens what was wrapped for `{"ab": "c"}`.
"""

import base64
import binascii
import hashlib
import json
import os
import struct
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from moto.kms.models import Key, kms_backends
from moto.kms.responses import KmsResponse
from moto.kms.utils import AbstractPrivateKey, generate_private_key

from .moto_errors import AwsError, NotInDoubleError
from .moto_service import StrictService, parameters

SYMMETRIC = "SYMMETRIC_DEFAULT"
NONCE_BYTES, CHECK_BYTES = 12, 8
MAGIC = b"moto"
STATES = {
    "Enabled": ("", ""),
    "Disabled": ("DisabledException", "is disabled."),
    "PendingDeletion": ("KMSInvalidStateException", "is pending deletion."),
}

KNOWN = parameters(
    {
        "CancelKeyDeletion": "KeyId",
        "CreateAlias": "AliasName TargetKeyId",
        "CreateKey": "Description KeyUsage KeySpec Tags Policy",
        "Decrypt": "CiphertextBlob EncryptionContext KeyId EncryptionAlgorithm DryRun",
        "DeleteAlias": "AliasName",
        "DescribeKey": "KeyId",
        "DisableKey": "KeyId",
        "EnableKey": "KeyId",
        "Encrypt": "KeyId Plaintext EncryptionContext EncryptionAlgorithm DryRun",
        "GenerateDataKey": "KeyId EncryptionContext NumberOfBytes KeySpec DryRun",
        "GenerateDataKeyWithoutPlaintext": "KeyId EncryptionContext NumberOfBytes KeySpec",
        "GetKeyPolicy": "KeyId PolicyName",
        "ListAliases": "KeyId",
        "ListKeys": "",
        "ListResourceTags": "KeyId",
        "PutKeyPolicy": "KeyId PolicyName Policy",
        "ReEncrypt": "CiphertextBlob SourceKeyId SourceEncryptionContext DestinationKeyId DestinationEncryptionContext",
        "ScheduleKeyDeletion": "KeyId PendingWindowInDays",
        "TagResource": "KeyId Tags",
        "UntagResource": "KeyId TagKeys",
        "UpdateAlias": "AliasName TargetKeyId",
    }
)


class StrictKeys(StrictService, KmsResponse):
    """One request to KMS."""

    KNOWN = KNOWN

    def create_key(self) -> str:
        """CreateKey: material made by KMS, in one region."""
        key = self.kms_backend.create_key(
            self.asked.get("Policy"),
            self.asked.get("KeyUsage", "ENCRYPT_DECRYPT"),  # moto leaves it empty
            self.asked.get("KeySpec", SYMMETRIC),
            self.asked.get("Description", ""),
            self.asked.get("Tags"),
        )
        return json.dumps(key.to_dict())

    def encrypt(self) -> str:
        """Encrypt: 1 to 4096 bytes."""
        self._check_algorithm()
        key = self._usable("KeyId")
        data = self._blob("Plaintext", 4096)
        self._stop_if_dry()
        return _reply(KeyId=key.arn, CiphertextBlob=wrap(key, data, self._context()), EncryptionAlgorithm=SYMMETRIC)

    def generate_data_key(self) -> str:
        """GenerateDataKey: 1 to 1024 bytes, or by key spec."""
        size = _data_key_size(self.asked.get("NumberOfBytes"), self.asked.get("KeySpec"))
        key = self._usable("KeyId")
        self._stop_if_dry()
        data = os.urandom(size)
        blob = wrap(key, data, self._context())
        return _reply(KeyId=key.arn, Plaintext=data, CiphertextBlob=blob, KeyMaterialId=_material_id(key))

    def decrypt(self) -> str:
        """Decrypt. The blob tells the key; a key that is named as well must be that one."""
        self._check_algorithm()
        key, data = self._unwrapped("KeyId", self._context())
        self._stop_if_dry()
        return _reply(KeyId=key.arn, Plaintext=data, EncryptionAlgorithm=SYMMETRIC, KeyMaterialId=_material_id(key))

    def re_encrypt(self) -> str:
        """ReEncrypt."""
        source, data = self._unwrapped("SourceKeyId", self._context("SourceEncryptionContext"))
        key = self._usable("DestinationKeyId")
        blob = wrap(key, data, self._context("DestinationEncryptionContext"))
        return _reply(KeyId=key.arn, SourceKeyId=source.arn, CiphertextBlob=blob)

    def enable_key(self) -> str:
        """EnableKey."""
        self._undying().key_state = "Enabled"
        self._key("KeyId").enabled = True
        return ""

    def disable_key(self) -> str:
        """DisableKey."""
        self._undying().key_state = "Disabled"
        self._key("KeyId").enabled = False
        return ""

    def schedule_key_deletion(self) -> str:
        """ScheduleKeyDeletion: in 7 to 30 days. The key is unusable from now on."""
        days = int(self.asked.get("PendingWindowInDays", 30))
        if not 7 <= days <= 30:
            raise _error("ValidationException", "PendingWindowInDays must be between 7 and 30.")
        key = self._undying()
        when = self.kms_backend.schedule_key_deletion(key.id, days)
        return _reply(KeyId=key.arn, DeletionDate=when, KeyState="PendingDeletion", PendingWindowInDays=days)

    def cancel_key_deletion(self) -> str:
        """CancelKeyDeletion: the key is disabled afterwards."""
        key = self._key("KeyId")
        if key.key_state != "PendingDeletion":
            raise _error("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
        self.kms_backend.cancel_key_deletion(key.id)
        return _reply(KeyId=key.arn)

    def _stop_if_dry(self) -> None:
        """With DryRun, what would succeed is an error; what would fail fails as ever."""
        if self.asked.get("DryRun"):
            raise _error("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")

    def _context(self, name: str = "EncryptionContext") -> dict[str, str]:
        return dict(self.asked.get(name) or {})

    def _blob(self, name: str, most: int) -> bytes:
        data = decoded(self.asked.get(name))
        if not 1 <= len(data) <= most:
            raise _error("ValidationException", f"{name} must have 1 to {most} bytes.")
        return data

    def _check_algorithm(self) -> None:
        if self.asked.get("EncryptionAlgorithm", SYMMETRIC) != SYMMETRIC:
            raise NotInDoubleError("asymmetric encryption")

    def _unwrapped(self, named: str, context: dict[str, str]) -> tuple[Key, bytes]:
        blob = self._blob("CiphertextBlob", 6144)
        key_id = wrapped_by(blob)
        if named in self.asked and self._key(named).id != key_id:
            raise _error(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        key = self.kms_backend.keys.get(key_id)
        if key is None:
            raise _error(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or "
                "you are not allowed to access.",
            )
        _check_usable(key)
        return key, unwrap(key, blob, context)

    def _usable(self, parameter: str) -> Key:
        key = self._key(parameter)
        _check_usable(key)
        return key

    def _undying(self) -> Key:
        key = self._key("KeyId")
        if key.key_state == "PendingDeletion":
            raise _error("KMSInvalidStateException", f"{key.arn} is pending deletion.")
        return key

    def _key(self, parameter: str) -> Key:
        named = str(self.asked.get(parameter, ""))
        key = find(self.current_account, self.region, named)
        if key is None:
            kind = "Alias" if "alias/" in named else "Key"
            raise _error("NotFoundException", f"{kind} '{named}' does not exist")
        return key


def private_key(spec: str) -> AbstractPrivateKey | None:
    """The private half of a key that has one. moto makes an RSA pair for symmetric keys too, which takes its time."""
    return None if spec == SYMMETRIC or spec.startswith("HMAC") else generate_private_key(spec)


def find(account: str, region: str, named: str) -> Key | None:
    """A key by id, ARN, alias or alias ARN."""
    keys = kms_backends[account][region].keys
    here = f"arn:aws:kms:{region}:{account}:"
    name = named.removeprefix(here)
    if name.startswith("alias/"):
        return next((key for key in keys.values() if name in key.aliases), None)
    return keys.get(name.removeprefix("key/") if name != named else name)


def wrap(key: Key, data: bytes, context: dict[str, str]) -> bytes:
    """A blob that names its key, and opens with that key and context only."""
    nonce = os.urandom(NONCE_BYTES)
    named = key.id.encode()
    header = MAGIC + struct.pack(">H", len(named)) + named + nonce
    body = header + AESGCM(key.key_material).encrypt(nonce, data, _bound(context))
    return body + _check(body)


def wrapped_by(blob: bytes) -> str:
    """The id of the key in a blob's header. Damage anywhere in it is told from a key that is not there."""
    body, check = blob[:-CHECK_BYTES], blob[-CHECK_BYTES:]
    if not body.startswith(MAGIC) or _check(body) != check:
        raise _error("InvalidCiphertextException")
    return _header(body)[0].decode()


def unwrap(key: Key, blob: bytes, context: dict[str, str]) -> bytes:
    """The data. A wrong context is told with the same error as a damaged blob (recorded-replies)."""
    _named, rest = _header(blob[:-CHECK_BYTES])
    try:
        return AESGCM(key.key_material).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], _bound(context))
    except InvalidTag:
        raise _error("InvalidCiphertextException") from None


def decoded(text: str | None) -> bytes:
    """A blob as JSON carries it."""
    try:
        return base64.b64decode(text or "", validate=True)
    except binascii.Error:
        raise _error("SerializationException") from None


def _header(body: bytes) -> tuple[bytes, bytes]:
    start = len(MAGIC) + 2
    (length,) = struct.unpack(">H", body[len(MAGIC) : start])
    return body[start : start + length], body[start + length :]


def _bound(context: dict[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:CHECK_BYTES]


def _check_usable(key: Key) -> None:
    if key.key_state not in STATES:
        raise NotInDoubleError(f"a KMS key in state {key.key_state}")
    error, words = STATES[key.key_state]
    if error:
        raise _error(error, f"{key.arn} {words}")
    if key.key_usage != "ENCRYPT_DECRYPT" or key.key_spec != SYMMETRIC:
        raise _error("InvalidKeyUsageException", f"{key.arn} key usage is {key.key_usage}, its spec {key.key_spec}.")


def _data_key_size(size: int | None, spec: str | None) -> int:
    if (size is None) == (spec is None):
        raise _error("ValidationException", "Please specify either number of bytes or key spec.")
    if spec is not None:
        if spec not in ("AES_128", "AES_256"):
            raise _error("ValidationException", f"Value '{spec}' at 'keySpec' must be AES_256 or AES_128.")
        return 16 if spec == "AES_128" else 32
    if size is None or not 1 <= size <= 1024:
        raise _error("ValidationException", f"Value '{size}' at 'numberOfBytes' must be between 1 and 1024.")
    return size


def _material_id(key: Key) -> str:
    return hashlib.sha256(key.key_material).hexdigest()


def _reply(**fields: Any) -> str:
    told = {name: base64.b64encode(v).decode() if isinstance(v, bytes) else v for name, v in fields.items()}
    return json.dumps(told)


def _error(code: str, message: str = "") -> AwsError:
    return AwsError(code, message, field="message")
