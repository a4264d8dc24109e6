"""The JSON documents that a command prints with `--json` and a function returns: one form of each, in one place.

A document is a dictionary that `msgspec.to_builtins` or any JSON encoder can take. None holds material.
"""

from collections.abc import Sequence
from typing import Any

from .audit import KeyAudit
from .fleet import Report
from .model import VersionRecord
from .service import KeyStatus

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


def _fields(record: Any) -> Document:
    return {name: getattr(record, name) for name in record.__struct_fields__}
