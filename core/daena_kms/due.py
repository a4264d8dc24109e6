"""What is due, and why: by age, never by calendar. Pure."""

import hashlib
from datetime import datetime, timedelta

from msgspec import Struct

from .model import Anchor, InventoryRow, Status
from .policy import KeyPolicy, Tick


class Verdict(Struct, frozen=True):
    """What a tick does about one key, decided from the store's listing alone."""

    status: Status
    """DUE (look and act), NOT_DUE, WAITING (for its window), PAUSED, MOVED, UNMANAGED or FAILED (for a person)."""
    reason: str
    next_at: datetime | None = None
    hint: str = ""


def limit(key: str, policy: KeyPolicy) -> timedelta:
    """The age at which this key must have been rotated: its policy's, less its jitter."""
    return timedelta(days=policy.rotate_after_days, seconds=-jitter_seconds(key, policy.jitter_days))


def jitter_seconds(key: str, jitter_days: int) -> int:
    """How much earlier this key rotates: the same for a name always, spread evenly over names."""
    if not jitter_days:
        return 0
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % (jitter_days * 86_400)


def next_chance(policy: KeyPolicy, now: datetime, tick: Tick) -> datetime:
    """The latest time by which the tick after this one can have acted."""
    following = now + tick.interval
    if policy.window is not None:
        closes = policy.window.closes(now)
        if closes is None or following >= closes:
            following = policy.window.opens(now) + tick.interval
    return following + tick.slack


def cutoff(key: str, policy: KeyPolicy, now: datetime, tick: Tick) -> datetime:
    """A version active since this time or longer would be too old at the next chance: it is rotated now."""
    return next_chance(policy, now, tick) - limit(key, policy)


def due_at(key: str, policy: KeyPolicy, active_since: datetime, tick: Tick) -> datetime:
    """The first tick at or after this time rotates the key."""
    latest = active_since + limit(key, policy) - tick.slack - tick.interval
    if policy.window is None:
        return latest
    best = policy.window.opened(latest)
    following = policy.window.opens(best) + tick.interval
    last_tick = best + policy.window.length - tick.interval
    return max(best, min(last_tick, latest)) if following > latest else best


def overdue(policy: KeyPolicy, active_since: datetime, now: datetime) -> bool:
    """True once a key is older than its policy's limit, jitter not counted."""
    return now - active_since > timedelta(days=policy.rotate_after_days)


def assess(row: InventoryRow | None, key: str, policy: KeyPolicy | None, now: datetime, tick: Tick) -> Verdict:
    """What a tick at `now` does about a key that the store lists (or not), under its policy (or none)."""
    if policy is None:
        return _unmanaged(row, now)
    if row is None or not row.live:
        return Verdict(
            Status.DUE,
            "does not exist yet" if policy.create else "its policy names it, but it does not exist",
        )
    anchor = row.anchor
    if row.newest == 0:
        return Verdict(Status.DUE, "readers get a version that is not ours")
    if anchor is None or anchor.active_since is None or anchor.number != row.newest:
        return Verdict(Status.DUE, "the store and the manifest have to be compared")
    if needs_attention(anchor, now):
        return Verdict(Status.DUE, "something was left open or scheduled")
    if anchor.moved:
        return Verdict(Status.MOVED, "it goes on in another store: `history` says where")
    verdict = _by_age(key, policy, anchor, anchor.active_since, now, tick)
    if row.disabled and verdict.status is not Status.DUE:  # a rotation gives readers a version again
        reason = f"version {row.newest} is active, but somebody disabled it in the store: readers get nothing"
        return Verdict(Status.FAILED, reason, hint="enable it there; or rotate the key with `--force`")
    return verdict


def _unmanaged(row: InventoryRow | None, now: datetime) -> Verdict:
    if row is not None and row.anchor is not None and needs_attention(row.anchor, now):
        return Verdict(Status.DUE, "something was left open or scheduled; no policy names this key")
    return Verdict(Status.UNMANAGED, "no policy names this key: it is not rotated")


def needs_attention(anchor: Anchor, now: datetime) -> bool:
    """True if something was left open, or comes due, that the key's age says nothing of."""
    return anchor.attention_at is not None and anchor.attention_at <= now


def _by_age(key: str, policy: KeyPolicy, anchor: Anchor, active_since: datetime, now: datetime, tick: Tick) -> Verdict:
    next_at = due_at(key, policy, active_since, tick)
    if anchor.paused:
        return Verdict(Status.PAUSED, "rotation is paused: `resume` ends that")
    age = f"version {anchor.number} is {days(now - active_since)} old, the limit is {policy.rotate_after_days} days"
    if active_since > cutoff(key, policy, now, tick):
        return Verdict(Status.NOT_DUE, age, next_at)
    if policy.window is not None and policy.window.closes(now) is None:
        opens = policy.window.opens(now)
        return Verdict(Status.WAITING, f"{age}; its window {policy.window.text} opens later", opens)
    return Verdict(Status.DUE, age)


def days(span: timedelta) -> str:
    """A span for people: whole days, or hours below one day."""
    whole = span.days
    if whole == 0:
        return f"{max(0, span.seconds) // 3600} hours"
    return f"{whole} day{'s' * (whole != 1)}"
