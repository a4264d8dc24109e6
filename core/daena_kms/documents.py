"""The JSON documents that a command prints with `--json` and a function returns: one form of each, in one place.

A document is a dictionary that `msgspec.to_builtins` or any JSON encoder can take. None holds material.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .audit import KeyAudit
from .fleet import Report
from .model import VersionRecord
from .service import KeyStatus
from .stores.probe import Check, Standing

if TYPE_CHECKING:  # a function's cold start does not pay for what it never prints
    from .backup import Collected
    from .cost import Bill, Estimate
    from .schedules import Advice, Gap

Document = dict[str, Any]


def report(done: Report) -> Document:
    """What a fleet run did: times, counts, one outcome per key."""
    return {
        "started_at": done.started_at,
        "finished_at": done.finished_at,
        "policy": done.policy,
        "counts": done.counts(),
        "overdue": done.overdue,
        "oldest_active_days": done.oldest_active_days,
        "outcomes": done.outcomes,
    }


def status(keys: Sequence[KeyStatus]) -> Document:
    """Every key as it stands, with every field of every version."""
    return {"keys": [_fields(key) | {"versions": [version(v) for v in key.versions]} for key in keys]}


def version(record: VersionRecord) -> Document:
    """One version's record, its defaults included: a reader of JSON should not have to know them."""
    return _fields(record)


def audits(found: Sequence[KeyAudit]) -> Document:
    """What verification found, key by key."""
    return {"verified": not any(audit.problems for audit in found), "keys": list(found)}


class Written(Struct, frozen=True):
    """The sealed file of a backup."""

    file: str
    sha256: str
    bytes: int
    recipients: int
    """0 where it is sealed under a passphrase."""


def backup(done: "Collected", written: Written) -> Document:
    """A backup that was written: the file, and one outcome per key."""
    made = done.backup
    return _fields(written) | {
        "made_at": made.made_at,
        "public_key": made.public_key,
        "keys": len(made.keys),
        "failed": list(made.failed),
        "outcomes": done.outcomes,
    }


def checks(found: Sequence[Check]) -> Document:
    """What `doctor` found, check by check; `sound` where nothing failed."""
    return {"sound": not any(check.standing is Standing.FAILED for check in found), "checks": list(map(_fields, found))}


def cost(done: "Estimate") -> Document:
    """What a policy costs in each store, in US dollars."""
    asked = done.asked
    stores = [
        {
            "provider": store.provider,
            "first_month": _bill(store.first),
            "later_month": _bill(store.later),
            "creation_once": _dollars(store.creation),
        }
        for store in done.stores
    ]
    return {
        "currency": "USD",
        "prices_checked": done.checked,
        "prices_quoted": list(done.quoted),
        "keys": len(asked.keys),
        "tick_minutes": int(asked.interval.total_seconds()) // 60,
        "reads_per_key": asked.reads,
        "years": asked.years,
        "locations": asked.locations,
        "stores": stores,
        "excluded": list(done.excluded),
    }


def _bill(bill: "Bill") -> Document:
    return {name: _dollars(value) for name, value in _fields(bill).items()} | {"total": _dollars(bill.total())}


def _dollars(value: float) -> float:
    return round(value, 6)


def schedule(told: "Advice") -> Document:
    """How far apart a schedule's ticks are, and how old keys get under it."""
    keys = [
        {
            "key": key.key,
            "limit_days": key.limit_days,
            "each_tick_days": key.calendar.days if key.calendar else None,
            "by_age_days": key.by_age_days,
            "as_set_days": key.as_set_days,
            "kept": key.kept,
            "problems": list(key.problems),
        }
        for key in told.keys
    ]
    return {
        "expression": told.schedule.expression,
        "dialect": told.schedule.dialect,
        "translated": told.schedule.translated,
        "next": list(told.next),
        "longest": _gap(told.gaps.longest) if told.gaps else None,
        "shortest": _gap(told.gaps.shortest) if told.gaps else None,
        "tick_minutes": int(told.tick.interval.total_seconds()) // 60,
        "needed_tick_minutes": told.needed_minutes,
        "keys": keys,
        "warnings": list(told.warnings),
        "notes": list(told.notes),
    }


def _gap(gap: "Gap") -> Document:
    return {"days": gap.days, "from": gap.start, "to": gap.end}


def _fields(record: Any) -> Document:
    return {name: getattr(record, name) for name in record.__struct_fields__}
