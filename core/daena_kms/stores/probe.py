"""What trying a store's permissions comes to: a line for each. Whoever uses this changes nothing.

A permission that is needed to write is tried by a request that cannot succeed, or that asks for what is there
already; each store's probe says by which, and why that is harmless.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from msgspec import Struct

from ..errors import ConfigurationError, DeniedError, ExistsError, KmsError, UnavailableError
from ..ledger import Ledger
from ..names import RESERVED_KEY

T = TypeVar("T")
FIRST = 1  # the sequence number of what `init` writes first
CREATE_ONLY = "create-only"
INIT = "run `daena-key-rotate init`"


class Standing(StrEnum):
    """How a check stands."""

    OK = "ok"
    WARNING = "warning"
    NOT_TRIED = "not-tried"
    FAILED = "failed"


class Check(Struct, frozen=True):
    """One thing that was looked at. `message` says what was found, or what is wrong; `hint` what to do about it."""

    name: str
    standing: Standing
    message: str
    hint: str = ""


def ok(name: str, message: str) -> Check:
    """It is as it should be."""
    return Check(name, Standing.OK, message)


def warning(name: str, message: str, hint: str = "") -> Check:
    """It works, and a person should know something about it."""
    return Check(name, Standing.WARNING, message, hint)


def not_tried(name: str, why: str, hint: str = "") -> Check:
    """It was not looked at; `why` begins with a word such as `because`."""
    return Check(name, Standing.NOT_TRIED, why, hint)


def failed(name: str, problem: KmsError) -> Check:
    """It is not as it should be."""
    return Check(name, Standing.FAILED, problem.message, problem.hint)


class Probe(Protocol):
    """Tries what one key store's credentials may do."""

    def credentials(self) -> str:
        """Whose credentials are in use. Raises the children of KmsError where there are none that work."""
        ...

    def checks(self) -> list[Check]:
        """A line for each permission, and for whatever else can be wrong with the store."""
        ...


class Watch:
    """Compares our clock with the times that replies tell. `skew` is ours less theirs; None until one was told."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.skew: timedelta | None = None

    def heard(self, date: str) -> None:
        """A reply's `Date`. What is no date says nothing. Of several the nearest counts: replies only come late."""
        try:
            said = parsedate_to_datetime(date)
        except ValueError:
            return
        skew = self._clock() - (said if said.tzinfo else said.replace(tzinfo=UTC))
        if self.skew is None or abs(skew) < abs(self.skew):
            self.skew = skew


class Trials:
    """Requests to one service, a line each. Where one shows that the rest would fail too, no more are sent."""

    def __init__(self, service: str = "") -> None:
        """`service` gets a line of its own: whether it can be reached."""
        self.found: list[Check] = []
        self._service = service
        self._answered = False
        self._because = ""

    def ask(self, name: str, request: Callable[[], T], *, refusals: tuple[type[KmsError], ...] = ()) -> T | None:
        """Send a request, if one makes sense still; its reply, or None.

        `refusals`: how the service answers whoever may do this to a request that cannot succeed; where there are such,
        success is a failure.
        """
        replies: list[T] = []

        def attempt() -> list[Check]:
            try:
                replies.append(request())
            except refusals:
                return [ok(name, "allowed")]
            if refusals:
                return [Check(name, Standing.FAILED, "a request was carried out that nobody can carry out", _FOREIGN)]
            return [ok(name, "allowed")]

        self.judge(name, attempt)
        return replies[0] if replies else None

    def judge(self, name: str, attempt: Callable[[], list[Check]]) -> None:
        """The same, where it is not one line that comes of it, or another than usual."""
        if self._because:
            self.found.append(not_tried(name, self._because))
            return
        try:
            self._add(attempt())
        except (UnavailableError, ConfigurationError) as problem:
            self._lost(name, problem)
        except KmsError as problem:
            self._add([failed(name, problem)])

    def skip(self, name: str, why: str, hint: str = "", *, needs: str = "") -> None:
        """One that is not sent. Where what it `needs` was not allowed, that is why."""
        why, hint = (self._because, "") if self._because else (why, hint)
        self.found.append(not_tried(name, f"because of {needs}") if self.lacks(needs) else not_tried(name, why, hint))

    def lacks(self, name: str) -> bool:
        """True where that was tried, and is not allowed."""
        return any(check.name == name and check.standing is Standing.FAILED for check in self.found)

    def stop(self, check: Check) -> None:
        """What failed makes the rest useless."""
        self._add([check])
        self._because = f"because of {check.name}"

    def _lost(self, name: str, problem: KmsError) -> None:
        if self._answered or not self._service or isinstance(problem, ConfigurationError):
            self.stop(failed(name, problem))
            return
        self.found.append(failed(self._service, problem))
        self._because = f"because {self._service} gives no answer"
        self.found.append(not_tried(name, self._because))

    def _add(self, checks: list[Check]) -> None:
        if not self._answered and self._service:
            self._answered = True
            self.found.append(ok(self._service, "answers"))
        self.found += checks


def read_first(trials: Trials, permission: str, ledger: Ledger) -> bytes | None:
    """The first object of the manifests; None if it cannot be read, or was never written."""
    return trials.ask(permission, lambda: ledger.read(RESERVED_KEY, FIRST))


def create_again(
    trials: Trials,
    permission: str,
    reading: str,
    stored: bytes | None,
    put: Callable[[bytes], None],
    denied: Callable[[DeniedError], list[Check]] | None = None,
) -> None:
    """Try whether what `init` made can be made again, which must be refused.

    The very bytes that were read are put: should the object vanish in between, or should the place be one that lets
    itself be overwritten, the same manifest lies there afterwards. `permission` is empty where something else has told
    of it; `reading` is the one that `stored` took. `denied` judges a denial, where its words may mean several things.
    """
    allowed = [ok(permission, "allowed")] if permission else []
    if stored is None:
        for name in filter(None, (permission, CREATE_ONLY)):
            trials.skip(name, "because there is no first entry yet", INIT, needs=reading)
        return

    def attempt() -> list[Check]:
        try:
            put(stored)
        except ExistsError:
            return [*allowed, ok(CREATE_ONLY, "what is there already is not written again")]
        except DeniedError as problem:
            if denied is not None:
                return denied(problem)
            return [failed(permission, problem), not_tried(CREATE_ONLY, f"because of {permission}")]
        return [*allowed, Check(CREATE_ONLY, Standing.FAILED, _OVERWRITTEN, _ELSEWHERE)]

    trials.judge(permission or CREATE_ONLY, attempt)


_FOREIGN = "a proxy or an emulator? `verify` shows whether anything is wrong"
_OVERWRITTEN = "what `init` wrote could be written again: of two runs that claim a key, both would win"
_ELSEWHERE = "point DAENA_MANIFEST_URL at a store with conditional writes (If-None-Match): an emulator or a proxy?"
