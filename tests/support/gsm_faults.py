"""Somebody between the client and the service: what tests put into `Service.between`."""

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from .gsm_errors import GoogleError
from .gsm_service import Between, Call, Carried


def lost(_: Call, carried: Carried) -> Any:
    """It is done, and the client does not learn so."""
    carried()
    raise GoogleError("UNAVAILABLE", "Socket closed")


def unavailable(_: Call, __: Carried) -> Any:
    """It is not done."""
    raise GoogleError("UNAVAILABLE", "The service is currently unavailable.")


def late(_: Call, carried: Carried) -> Any:
    """It is done, after the client's deadline."""
    carried()
    raise GoogleError("DEADLINE_EXCEEDED", "Deadline Exceeded")


def refusing(code: str, message: str = "refused by the test") -> Between:
    """Not done, with that status."""

    def refused(_: Call, __: Carried) -> Any:
        raise GoogleError(code, message)

    return refused


def delayed(seconds: float) -> Between:
    """Done at once, answered later."""

    def slow(_: Call, carried: Carried) -> Any:
        reply = carried()
        time.sleep(seconds)
        return reply

    return slow


def lying(change: Callable[[Any], None]) -> Between:
    """A reply that is changed on its way; `change` is given a copy."""

    def lied(_: Call, carried: Carried) -> Any:
        reply = carried()
        copy = type(reply)()
        copy.CopyFrom(reply)
        change(copy)
        return copy

    return lied


def only(rpcs: Collection[str], fault: Between, times: int | None = None, after: int = 0) -> Between:
    """That fault on these RPCs alone: on at most so many calls, and not on the first `after` ones."""
    counted, lock = [0], threading.Lock()

    def chosen(call: Call, carried: Carried) -> Any:
        if call.rpc not in rpcs:
            return carried()
        with lock:
            counted[0] += 1
            place = counted[0] - after
        return fault(call, carried) if place > 0 and (times is None or place <= times) else carried()

    return chosen
