"""What can happen to a request on its way, and a plan that says to which requests it does.

`tests.support.proxy` (HTTP/1.1) and `tests.support.relay` (HTTP/2) carry it out; several of them may share one plan, so
that the requests of a whole run have one numbering, whatever they go to.
"""

import threading
from collections.abc import Callable, Mapping

from msgspec import Struct

KINDS = {
    "drop_reply": "carried out; then the connection is closed",
    "reset_before": "not carried out; the connection is reset",
    "reset_after": "carried out; then the connection is reset",
    "delay": "carried out at once, answered after `seconds`",
    "duplicate": "carried out twice; the second reply is passed on",
    "duplicate_first": "carried out twice; the first reply is passed on",
    "late": "the connection is closed; the request is kept, and carried out when the plan is told to `deliver`",
    "status": "not carried out; answered with `status`, `retry_after` if it is set, and a body as the service has it",
    "loris": "carried out; the first bytes of the reply trickle over `seconds`, then the rest comes at once",
    "half": "carried out; half of the reply's body arrives (or of its head), then the connection is closed",
    "foreign": "not carried out; answered with `status` and a page that quotes the request",
}
"""Every kind, and what it does."""


class Mishap(Struct, frozen=True):
    """One thing that happens to one request."""

    kind: str
    seconds: float = 0.0
    status: int = 0
    retry_after: str = ""

    def __str__(self) -> str:
        told = [str(part) for part in (self.status, self.retry_after and f"Retry-After {self.retry_after}") if part]
        return f"{self.kind}({', '.join(told)})" if told else self.kind


Choose = Callable[[int], Mishap | None]
"""Given a request's number, from 1 on: what happens to it."""


def nothing(_: int) -> None:
    """Every request gets through."""


def at(places: Mapping[int, Mishap]) -> Choose:
    """At these numbers."""
    return places.get


class Plan:
    """Numbers requests from when it was begun. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._choose: Choose = nothing
        self._kept: list[Callable[[], object]] = []
        self.asked: list[str] = []
        """What every request since then was about."""
        self.done: dict[int, Mishap] = {}
        """What happened to which of them."""

    def begin(self, choose: Choose) -> None:
        """From now on, and with the next request as number 1."""
        with self._lock:
            self._choose, self.asked, self.done = choose, [], {}

    def end(self) -> None:
        """Nothing happens any more; what did is kept to be read."""
        with self._lock:
            self._choose = nothing

    def next(self, about: str) -> Mishap | None:
        """One more request."""
        with self._lock:
            self.asked.append(about)
            number = len(self.asked)
            mishap = self._choose(number)
            if mishap is not None:
                self.done[number] = mishap
            return mishap

    def name(self, old: str, new: str) -> None:
        """The last request turns out to be about that."""
        with self._lock:
            if self.asked and self.asked[-1] == old:
                self.asked[-1] = new

    def keep(self, carry_out: Callable[[], object]) -> None:
        """A request that is carried out later."""
        with self._lock:
            self._kept.append(carry_out)

    def deliver(self) -> int:
        """Carry out what was kept; how many requests these were."""
        with self._lock:
            kept, self._kept = self._kept, []
        for carry_out in kept:
            carry_out()
        return len(kept)

    def story(self) -> str:
        """What happened to which request, in words."""
        return "; ".join(f"{mishap} to request {n} ({self.asked[n - 1]})" for n, mishap in sorted(self.done.items()))
