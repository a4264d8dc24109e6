"""What a cloud function is asked for and what it answers: the same JSON on every cloud, translated in one place.

    {"action": "rotate", "keys": ["daena-encryption-key"], "force": true, "request_id": "ticket-7", "reason": "…"}

An entry point turns its platform's event into an `Invocation`, has it performed, and turns the `Answer` into what its
platform calls success or failure. A failed answer is never a success to the platform: its alarms must fire.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from . import documents
from .errors import ConfigurationError, KmsError
from .fleet import Order, Report
from .model import Outcome, Status
from .names import check_name
from .service import Service

ACTIONS = ("rotate", "plan", "status", "verify")
MOST_KEYS = 10_000
LONGEST_TEXT = 500
NAMED_FAILURES = 20


class Invocation(Struct, frozen=True, forbid_unknown_fields=True):
    """One request. All fields but `action` have meaning for `rotate` only, `keys` for all."""

    action: str = "rotate"
    keys: tuple[str, ...] = ()
    """Empty for every key."""
    force: bool = False
    dry_run: bool = False
    reason: str = ""
    request_id: str = ""
    """A forced rotation is carried out once for one id, however often it is delivered."""


class Answer(Struct, frozen=True):
    """What came of it. `failures` has a line for people per key that failed; empty when all is well."""

    document: dict[str, Any]
    failures: tuple[str, ...] = ()
    report: Report | None = None


class RunFailedError(KmsError):
    """At least one key failed, or did not verify. Raised so that no platform takes the run for a success."""


def parse(body: object, request_id: str = "") -> Invocation:
    """The invocation in a decoded JSON body. Raises ConfigurationError that names the field.

    `request_id` is the platform's own id of the request, the same however often it is delivered, if it has one.
    """
    try:
        asked = _read(body)
        _check(asked)
    except ConfigurationError as problem:
        raise ConfigurationError(problem.message, f"{problem.hint}; nothing was changed") from None
    if asked.force and not asked.request_id:
        return msgspec.structs.replace(asked, request_id=request_id)
    return asked


_EXAMPLE = 'such as {"action": "rotate", "keys": ["daena-encryption-key"], "dry_run": true}'


def _read(body: object) -> Invocation:
    if not isinstance(body, Mapping):
        raise ConfigurationError(f"a JSON object expected, got {type(body).__name__}", _EXAMPLE)
    for name in (str(field)[:40] for field in body):
        if name not in Invocation.__struct_fields__:
            near = difflib.get_close_matches(name, Invocation.__struct_fields__, 1, 0.5)
            suggestion = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(f"unknown field {name!r}{suggestion}", _EXAMPLE)
    try:
        return msgspec.convert(dict(body), type=Invocation)
    except msgspec.ValidationError as problem:
        raise ConfigurationError(f"a field has the wrong type: {problem}", _EXAMPLE) from None
    except UnicodeEncodeError:  # half a surrogate pair, as `json` reads it, where no text belongs
        raise ConfigurationError("a field is not valid text", _EXAMPLE) from None


def _check(asked: Invocation) -> None:
    if asked.action not in ACTIONS:
        raise ConfigurationError(f"'action' is {asked.action[:40]!r}, one of {', '.join(ACTIONS)} expected", _EXAMPLE)
    if len(asked.keys) > MOST_KEYS:
        raise ConfigurationError(f"'keys' has {len(asked.keys)} names, at most {MOST_KEYS} fit", "leave it out for all")
    for key in asked.keys:
        check_name(key)
    for name in ("reason", "request_id"):
        if len(text := getattr(asked, name)) > LONGEST_TEXT or not text.isprintable():
            raise ConfigurationError(f"{name!r} is not one line of at most {LONGEST_TEXT} characters", "shorten it")
    if asked.action != "rotate" and (asked.force or asked.dry_run or asked.request_id):
        raise ConfigurationError("'force', 'dry_run' and 'request_id' go with the action 'rotate'", _EXAMPLE)
    if asked.force and not asked.keys:
        raise ConfigurationError("'force' without 'keys' would rotate every key", "name the keys")
    if asked.request_id and not asked.force:
        raise ConfigurationError("'request_id' goes with 'force'", "a due rotation needs none: its id is derived")


def perform(service: Service, asked: Invocation) -> Answer:
    """Do what was asked. Raises the children of KmsError where nothing could be begun."""
    if asked.action == "status":
        standing = service.status(asked.keys)
        return Answer(_document(asked, documents.status(standing)))
    if asked.action == "verify":
        found = service.verify(asked.keys)
        bad = tuple(f"{audit.key}: {'; '.join(audit.problems)}" for audit in found if audit.problems)
        return Answer(_document(asked, documents.audits(found)), bad)
    order = Order(asked.keys, asked.force, asked.request_id, asked.reason)
    dry = asked.dry_run or asked.action == "plan"
    done = service.dry_run(order) if dry else service.rotate(order)
    failures = tuple(_line(outcome) for outcome in done.outcomes if outcome.status is Status.FAILED)
    return Answer(_document(asked, documents.report(done)), failures, None if dry else done)


def _document(asked: Invocation, document: documents.Document) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins({"action": asked.action, **document})
    return built


def _line(outcome: Outcome) -> str:
    line = KmsError(outcome.message, outcome.hint).line
    return line if line.startswith(outcome.key) else f"{outcome.key}: {line}"


def failed(answer: Answer) -> RunFailedError:
    """The error that a failed answer is to the platform."""
    shown = answer.failures[:NAMED_FAILURES]
    more = len(answer.failures) - len(shown)
    lines = "; ".join(shown) + (f"; and {more} more" if more else "")
    return RunFailedError(f"{len(answer.failures)} failed: {lines}", "the log has the whole report")


def metrics(done: Report) -> dict[str, float]:
    """A run's figures by the names that the alarms use. Counts, but for OldestActiveDays and Duration (seconds)."""
    counts = done.counts()
    return {
        "Runs": 1,
        "KeysCreated": counts.get(Status.CREATED, 0),
        "KeysRotated": counts.get(Status.ROTATED, 0),
        "KeysNotDue": counts.get(Status.NOT_DUE, 0),
        "KeysInProgress": counts.get(Status.IN_PROGRESS, 0),
        "KeysDeferred": counts.get(Status.DEFERRED, 0),
        "KeysFailed": counts.get(Status.FAILED, 0),
        "KeysOverdue": len(done.overdue),
        "KeysStuck": sum(outcome.stuck for outcome in done.outcomes),
        "OldestActiveDays": done.oldest_active_days,
        "Duration": (done.finished_at - done.started_at).total_seconds(),
    }
