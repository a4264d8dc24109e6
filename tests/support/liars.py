"""Stores and ledgers that lie, stall or lose replies."""

from collections.abc import Callable
from typing import Any

from daena_kms.errors import ThrottledError, UnavailableError
from daena_kms.material import KeyMaterial


class Faulty:
    """Passes everything on, but lets one method be replaced by a function of the real one."""

    def __init__(self, target: Any, method: str, fault: Callable[..., Any]) -> None:
        self._target = target
        self._method = method
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._target, name)
        if name != self._method:
            return real
        return lambda *args, **kwargs: self._fault(real, *args, **kwargs)


def flipped_bit(read: Callable[..., KeyMaterial], *args: Any) -> KeyMaterial:
    """Material with one bit changed on its way back."""
    secret = bytearray(read(*args).reveal())
    secret[0] ^= 1
    return KeyMaterial(bytes(secret))


def shortened(read: Callable[..., KeyMaterial], *args: Any) -> KeyMaterial:
    """Material that lost its last byte."""
    return KeyMaterial(read(*args).reveal()[:-1])


def throttled(_real: Callable[..., Any], *_args: Any) -> Any:
    """A store that asks to slow down, for good."""
    raise ThrottledError("too many requests", "try again later")


def lost_reply(real: Callable[..., Any], *args: Any) -> Any:
    """The request arrives, the reply does not."""
    real(*args)
    raise UnavailableError("the connection was reset")


def throttled_reply(real: Callable[..., Any], *args: Any) -> Any:
    """One request arrives and its reply does not; the next ones are asked to slow down."""
    real(*args)
    raise ThrottledError("too many requests", "try again later")


def lost_request(_real: Callable[..., Any], *_args: Any) -> Any:
    """The request does not arrive."""
    raise UnavailableError("the connection was reset")
