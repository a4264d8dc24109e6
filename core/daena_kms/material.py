"""Key material: the one type that holds secret bytes.

Python cannot promise to wipe memory, so this type does not pretend to. What it does promise: the bytes are in no
`repr`, no format string, no pickle and no JSON, and two materials compare in constant time.
"""

import hmac
from typing import NoReturn


class KeyMaterial:
    """The secret bytes of one version. `reveal()` is the only way to them."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, (bytes, bytearray, memoryview)):
            raise TypeError(f"material is bytes, not {type(secret).__name__}")  # bytes(32) would be 32 zeros
        self._secret = bytes(secret)

    def reveal(self) -> bytes:
        """The bytes themselves. A test keeps the list of modules that may call this."""
        return self._secret

    def __len__(self) -> int:
        return len(self._secret)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyMaterial):
            return NotImplemented
        return hmac.compare_digest(self._secret, other._secret)

    __hash__ = None  # type: ignore[assignment]  # a hash would be a fingerprint that is not keyed

    def __repr__(self) -> str:
        return f"KeyMaterial(<{len(self._secret)} bytes, not shown>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("KeyMaterial is never pickled or copied")
