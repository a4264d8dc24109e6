"""Due by age: at the next tick no key is older than its policy allows."""

from datetime import datetime, timedelta
from itertools import pairwise

import msgspec.structs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daena_kms import due
from daena_kms.model import Anchor, InventoryRow, Status
from daena_kms.policy import KeyPolicy, Tick
from daena_kms.window import Window
from tests.support.worlds import KEY, START

TICK = Tick()
WEEKEND = Window.parse("Sat,Sun 02:00-06:00")


def _row(age: timedelta, now: datetime = START, **anchor: object) -> InventoryRow:
    fields = {"sequence": 2, "hash": "h", "number": 1, "active_since": now - age, **anchor}
    return InventoryRow(KEY, "ledger", 1, Anchor(**fields))  # type: ignore[arg-type]


def _verdict(row: InventoryRow | None, policy: KeyPolicy | None, now: datetime = START) -> due.Verdict:
    return due.assess(row, KEY, policy, now, TICK)


DAYS_90 = KeyPolicy()
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
LIMIT = timedelta(days=90)

CASES = {
    "young": (_row(timedelta(days=10)), DAYS_90, Status.NOT_DUE),
    "would be too old at the next tick": (_row(LIMIT - HOUR), DAYS_90, Status.DUE),
    "would be too old at a late next tick": (_row(LIMIT - HOUR - 30 * MINUTE), DAYS_90, Status.DUE),
    "would not even at a late next tick": (_row(LIMIT - HOUR - 31 * MINUTE), DAYS_90, Status.NOT_DUE),
    "long overdue": (_row(timedelta(days=312)), DAYS_90, Status.DUE),
    "no policy": (_row(timedelta(days=312)), None, Status.UNMANAGED),
    "does not exist": (None, KeyPolicy(create=True), Status.DUE),
    "exists without a version": (InventoryRow(KEY, "ledger", 0), DAYS_90, Status.DUE),
    "no head beside the key": (InventoryRow(KEY, "ledger", 1), DAYS_90, Status.DUE),
    "readers get another version than the manifest says": (
        _row(timedelta(days=1), number=2), DAYS_90, Status.DUE,
    ),
    "paused": (_row(timedelta(days=312), paused=True), DAYS_90, Status.PAUSED),
    "something is scheduled": (_row(timedelta(days=1), attention_at=START), DAYS_90, Status.DUE),
    "something is scheduled for later": (_row(timedelta(days=1), attention_at=START + MINUTE), DAYS_90, Status.NOT_DUE),
    "a clock that stepped back": (_row(timedelta(days=-1)), DAYS_90, Status.NOT_DUE),
    "due, but outside its window": (_row(timedelta(days=89)), KeyPolicy(window=WEEKEND), Status.WAITING),
}  # fmt: skip


@pytest.mark.parametrize(("row", "policy", "status"), CASES.values(), ids=CASES)
def test_verdicts(row: InventoryRow | None, policy: KeyPolicy | None, status: Status) -> None:
    assert _verdict(row, policy).status is status


def test_the_guides_calendar_misses_its_own_ninety_days_and_ticks_do_not() -> None:
    """`0 0 1 */3 *` fires with gaps of up to 92 days; every hour asked, no key is ever older than 90 days."""
    quarters = [datetime(2026, month, 1, tzinfo=START.tzinfo) for month in (1, 4, 7, 10)]
    assert max(later - earlier for earlier, later in pairwise(quarters)) > LIMIT
    assert _oldest_age(DAYS_90) <= LIMIT


def _oldest_age(policy: KeyPolicy, days: int = 200) -> timedelta:
    """Hourly ticks, each up to its slack late: the greatest age that the key reached."""
    since = now = START
    oldest = timedelta(0)
    for hour in range(days * 24):
        now = START + timedelta(hours=hour, minutes=hour * 7 % 30)
        oldest = max(oldest, now - since)
        row = msgspec.structs.replace(_row(now - since, now))
        if _verdict(row, policy, now).status is Status.DUE:
            since = now
    return oldest


@pytest.mark.parametrize(
    "policy",
    [
        KeyPolicy(rotate_after_days=30),
        KeyPolicy(rotate_after_days=30, jitter_days=5),
        KeyPolicy(rotate_after_days=30, window=WEEKEND),
        KeyPolicy(rotate_after_days=14, window=Window.parse("Tue 22:00-02:00")),
        KeyPolicy(rotate_after_days=2, window=Window.parse("03:00-04:30")),
    ],
    ids=["plain", "jitter", "weekends", "one night a week", "short nightly window"],
)
def test_no_key_is_ever_older_than_its_policy_allows(policy: KeyPolicy) -> None:
    assert _oldest_age(policy) <= timedelta(days=policy.rotate_after_days)


@given(st.from_regex(r"[a-z]{1,20}", fullmatch=True), st.integers(0, 30))
def test_jitter_is_the_same_for_a_name_and_only_makes_earlier(name: str, days: int) -> None:
    seconds = due.jitter_seconds(name, days)
    assert seconds == due.jitter_seconds(name, days)
    assert 0 <= seconds < max(1, days * 86_400)
    assert due.limit(name, KeyPolicy(jitter_days=days)) <= LIMIT


def test_jitter_spreads_over_names() -> None:
    spread = {due.jitter_seconds(f"key-{i}", 10) // 86_400 for i in range(200)}
    assert spread == set(range(10))


@pytest.mark.parametrize("policy", [DAYS_90, KeyPolicy(window=WEEKEND), KeyPolicy(jitter_days=9)])
def test_the_date_that_is_shown_is_the_date_on_which_it_becomes_due(policy: KeyPolicy) -> None:
    at = due.due_at(KEY, policy, START, TICK)
    day_before = at - timedelta(hours=2)
    assert _verdict(_row(day_before - START, day_before), policy, day_before).status is not Status.DUE
    after = at + timedelta(minutes=1)
    assert _verdict(_row(after - START, after), policy, after).status is Status.DUE
