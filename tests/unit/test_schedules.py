"""Gaps between ticks, held against days that are counted one by one, and what they do to keys."""

import builtins
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daena_kms import cron, due, schedules
from daena_kms.errors import ConfigurationError
from daena_kms.model import Anchor, InventoryRow, Status
from daena_kms.policy import LONGEST_TICK, KeyPolicy, Tick
from daena_kms.schedules import Advice, Calendar, Gap
from daena_kms.settings import read_settings
from daena_kms.window import Window

NOW = datetime(2026, 11, 26, 1, 12, 13, tzinfo=UTC)
DAYS_90 = KeyPolicy()
QUARTERLY = "0 0 1 */3 *"
DAY = timedelta(days=1)


def advice(text: str, *, now: datetime = NOW, tick: Tick | None = None, **keys: KeyPolicy) -> Advice:
    return schedules.advise(cron.read(text), keys, tick or Tick(), now)


def longest(text: str, now: datetime = NOW) -> Gap:
    gaps = Calendar(cron.read(text), now).gaps()
    assert gaps is not None
    return gaps.longest


def day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


# --- gaps

GAPS = {
    "the guide's": (QUARTERLY, 92, 90, day(2027, 7, 1)),
    "the guide's, EventBridge": ("cron(0 0 1 */3 ? *)", 92, 90, day(2027, 7, 1)),
    "the guide's, Azure": ("0 0 0 1 */3 *", 92, 90, day(2027, 7, 1)),
    "monthly": ("0 0 1 * *", 31, 28, day(2026, 12, 1)),
    "weekly": ("0 2 * * 0", 7, 7, datetime(2026, 11, 29, 2, tzinfo=UTC)),
    "yearly": ("@yearly", 366, 365, day(2028, 1, 1)),
    "29 February: 2100 has none": ("0 0 29 2 *", 2921, 1461, day(2096, 2, 29)),
    "on the 31st": ("0 0 31 * *", 61, 31, day(2027, 3, 31)),
    "hours of work": ("0 9-17 * * 1-5", 2 + 16 / 24, 1 / 24, datetime(2026, 11, 27, 17, tzinfo=UTC)),
    "uneven minutes": ("0,5 * * * *", 55 / 1440, 5 / 1440, datetime(2026, 11, 26, 2, 5, tzinfo=UTC)),
    "every second": ("* * * * * *", 1 / 86_400, 1 / 86_400, NOW + timedelta(seconds=1)),
}


def brute(months: set[int], days: set[int], first: int, weekday: int | None = None) -> Iterator[date]:
    """Days of 500 years one by one: no rule but the calendar of `datetime`."""
    for ordinal in range(first, first + 500 * 366):
        found = date.fromordinal(ordinal)
        if found.month in months and found.day in days and weekday in (None, found.isoweekday() % 7):
            yield found


@pytest.mark.parametrize(("text", "most", "least", "start"), GAPS.values(), ids=GAPS)
def test_longest_and_shortest_gap(text: str, most: float, least: float, start: datetime) -> None:
    gaps = advice(text).gaps
    assert gaps is not None
    assert gaps.longest.length / DAY == pytest.approx(most)
    assert gaps.shortest.length / DAY == pytest.approx(least)
    assert gaps.longest.start == start, "the first of the longest"


EVERY_MONTH, EVERY_DAY = set(range(1, 13)), set(range(1, 32))
CYCLES = {
    "quarterly": (QUARTERLY, {1, 4, 7, 10}, {1}, None),
    "29 February": ("0 0 29 2 *", {2}, {29}, None),
    "29 February, a Monday": ("0 0 0 29 2 1", {2}, {29}, 1),  # Azure's: both must match
    "Friday the 13th": ("0 0 0 13 * 5", EVERY_MONTH, {13}, 5),
    "30th and 31st": ("0 0 30,31 * *", EVERY_MONTH, {30, 31}, None),
    "a Monday that is the fifth": ("cron(0 0 ? * 2#5 *)", EVERY_MONTH, {29, 30, 31}, 1),
    "Mondays": ("0 0 * * 1", EVERY_MONTH, EVERY_DAY, 1),
}


@pytest.mark.parametrize("begin", [day(2026, 11, 26), day(2095, 3, 1), day(2399, 12, 31)], ids=lambda d: f"{d:%Y}")
@pytest.mark.parametrize(("text", "months", "days", "weekday"), CYCLES.values(), ids=CYCLES)
def test_the_longest_gap_is_that_of_a_whole_cycle_of_the_calendar(
    text: str, months: set[int], days: set[int], weekday: int | None, begin: datetime
) -> None:
    counted = list(brute(months, days, begin.toordinal() + 1, weekday))
    spans = [(later - earlier).days for earlier, later in pairwise(counted)]
    gaps = Calendar(cron.read(text), begin).gaps()
    assert gaps is not None
    assert (gaps.longest.length.days, gaps.shortest.length.days) == (max(spans), min(spans))
    assert gaps.longest.start.date() == counted[spans.index(max(spans))]
    assert gaps.longest.end.date() == counted[spans.index(max(spans)) + 1]


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.integers(0, 59), min_size=1, max_size=4),
    st.sets(st.integers(0, 23), min_size=1, max_size=4),
    st.sets(st.integers(0, 6), min_size=1, max_size=4),
    st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001  # its zone is put on below
)
def test_ticks_are_those_that_cronsim_counts(
    minutes: set[int], hours: set[int], days: set[int], start: datetime
) -> None:
    """And their gaps: here every week is as the other, so two weeks of them show all there are."""
    from cronsim import CronSim  # noqa: PLC0415

    now = start.replace(tzinfo=UTC)
    text = f"{_list(minutes)} {_list(hours)} * * {_list(days)}"
    count = len(minutes) * len(hours) * len(days) * 2 + 1
    theirs = CronSim(text, now)
    wanted = [next(theirs) for _ in range(count)]
    calendar = Calendar(cron.read(text), now)
    ours = calendar.after()
    assert [next(ours) for _ in range(count)] == wanted
    spans = [later - earlier for earlier, later in pairwise(wanted)]
    gaps = calendar.gaps()
    assert gaps is not None
    assert (gaps.longest.length, gaps.shortest.length) == (max(spans), min(spans))
    at = spans.index(max(spans))
    assert gaps.longest == Gap(wanted[at], wanted[at + 1])


def _list(values: set[int]) -> str:
    return ",".join(str(value) for value in sorted(values))


def test_the_next_ticks_are_after_now() -> None:
    assert advice("12 1 * * *").next[0] == datetime(2026, 11, 27, 1, 12, tzinfo=UTC)  # thirteen seconds ago
    assert advice("13 1 * * *").next[0] == datetime(2026, 11, 26, 1, 13, tzinfo=UTC)
    assert len(advice(QUARTERLY).next) == schedules.SHOWN


def test_at_the_end_of_time() -> None:
    assert longest("0 0 1 * *", now=day(9998, 1, 15)).length == 31 * DAY


# --- schedules that end, or never begin


@pytest.mark.parametrize(
    "text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 0 */28 2 8", "cron(0 0 1 1 ? 2026)", "0 0 0 30 2 1"]
)
def test_what_never_ticks_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        advice(text)


def test_what_ticks_once_more() -> None:
    told = advice("cron(0 0 1 1 ? 2027)", key=DAYS_90)
    assert told.gaps is None
    assert told.keys == ()
    assert told.warnings == ("it ticks once more and never again",)


def test_what_ends_is_warned_of() -> None:
    assert any("ends with the year 2030" in text for text in advice("cron(0 0 1 * ? 2027-2030)").warnings)
    assert advice("cron(0 0 1 * ? 2020-2199)", tick=Tick(timedelta(days=31))).warnings == ()


def test_without_cronsim(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cronsim":
            raise ModuleNotFoundError("No module named 'cronsim'", name="cronsim")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigurationError, match="cronsim is not installed") as problem:
        advice(QUARTERLY)
    assert problem.value.hint == "pip install 'daena-kms[cli]'"
    assert advice("rate(1 hour)").gaps is not None  # an interval needs none


# --- what it does to keys


def test_the_guides_calendar_misses_ninety_days_by_two() -> None:
    told = advice(QUARTERLY, key=DAYS_90)
    (key,) = told.keys
    assert key.calendar == Gap(day(2027, 7, 1), day(2027, 10, 1))
    assert not key.kept
    assert key.by_age_days is None  # 92 days are more than 45, and more than 90
    assert key.as_set_days == pytest.approx(90 + 92 - 1 / 24, abs=0.01)
    assert any("DAENA_TICK_MINUTES is 60, but ticks are up to 92 days apart" in text for text in told.warnings)
    assert (
        "key: rotated at each tick it gets 92 days old, from 2027-07-01 00:00 to 2027-10-01 00:00; the limit is 90 days"
        in told.warnings
    )


def test_a_limit_of_92_days_is_kept_by_the_calendar() -> None:
    (key,) = advice(QUARTERLY, key=KeyPolicy(rotate_after_days=92)).keys
    assert key.kept


def test_monthly_ticks_keep_ninety_days_once_the_setting_says_so() -> None:
    told = advice("cron(0 0 1 * ? *)", key=DAYS_90)
    assert told.needed_minutes == 44_640
    (key,) = told.keys
    assert key.kept
    assert key.by_age_days == 90
    assert key.as_set_days == pytest.approx(90 + 31 - 1 / 24, abs=0.01)
    assert [text for text in told.warnings if "set it to 44640" in text]
    right = advice("cron(0 0 1 * ? *)", tick=Tick(timedelta(minutes=44_640)), key=DAYS_90)
    assert right.warnings == ()
    assert right.keys[0].as_set_days == 90


def test_a_limit_that_the_right_setting_cannot_keep_is_refused() -> None:
    told = advice("0 0 1 * *", key=KeyPolicy(rotate_after_days=30))
    assert told.keys[0].by_age_days is None
    assert any("`rotate` refuses: ticks 31 days" in text for text in told.warnings)


def test_the_longest_setting_is_the_settings_own() -> None:
    most = LONGEST_TICK // timedelta(minutes=1)
    assert read_settings({"DAENA_TICK_MINUTES": str(most)}).tick == LONGEST_TICK
    with pytest.raises(ConfigurationError):
        read_settings({"DAENA_TICK_MINUTES": str(most + 1)})


WEEKEND = Window.parse("Sat,Sun 02:00-06:00")


@pytest.mark.parametrize(
    ("text", "window", "days"),
    [
        pytest.param("0 3 * * *", WEEKEND, 6, id="daily"),
        pytest.param("0 3 * * 6", WEEKEND, 7, id="on-saturdays"),
        pytest.param("0 6 * * *", WEEKEND, None, id="as-it-closes"),
        pytest.param("0 2 * * *", WEEKEND, 6, id="as-it-opens"),
        pytest.param("0 3 * * 1-5", WEEKEND, None, id="on-working-days"),
        pytest.param("0 1 * * *", Window.parse("Mon 22:00-02:00"), 7, id="over-midnight"),
        pytest.param("0 3 * * *", Window.parse("Mon 22:00-02:00"), None, id="after-midnight-too-late"),
        pytest.param("0 23 * * 0", Window.parse("Sun 22:00-02:00"), 7, id="sunday-into-monday"),
        pytest.param("0 1 * * 1", Window.parse("Sun 22:00-02:00"), 7, id="sunday-into-monday-after-midnight"),
        pytest.param("rate(1 hour)", WEEKEND, 5 + 21 / 24, id="hourly"),
        pytest.param("rate(3 hours)", WEEKEND, 5 + 23 / 24 + 1 / 24, id="every-three-hours"),
        pytest.param("rate(6 hours)", WEEKEND, None, id="may-miss-it"),
        pytest.param("rate(1 hour)", None, 1 / 24, id="no-window"),
    ],
)
def test_ticks_in_a_window(text: str, window: Window | None, days: float | None) -> None:
    (key,) = advice(text, key=KeyPolicy(window=window)).keys
    if days is None:
        assert key.calendar is None
        assert key.as_set_days is None
        assert key.by_age_days is None
        assert any(
            "no tick is sure to fall into its window" in told
            for told in advice(text, key=KeyPolicy(window=window)).warnings
        )
    else:
        assert key.calendar is not None
        assert key.calendar.length / DAY == pytest.approx(days)


@given(
    st.integers(1, 12), st.integers(0, 59), st.sampled_from(["Sat,Sun 02:00-06:30", "22:00-11:15", "Mon 00:00-13:00"])
)
def test_no_rate_does_worse_in_a_window_than_is_said(hours: int, minutes: int, text: str) -> None:
    """Every tick of some weeks, one by one: what falls into the window is never further apart."""
    window, every = Window.parse(text), timedelta(hours=hours)
    told = schedules.Rate(every, NOW).gaps(window)
    start = NOW + timedelta(minutes=minutes)
    ticks = [start + number * every for number in range(21 * 24 // hours)]
    hits = [tick for tick in ticks if window.closes(tick) is not None]
    if told is None:
        assert window.length < every
    else:
        assert max(later - earlier for earlier, later in pairwise(hits)) <= told.longest.length


def lived(text: str, tick: Tick, policy: KeyPolicy, years: int = 12) -> timedelta:
    """Ticks for years, by the rule of `rotate` itself: the oldest that a key got, whenever it was made."""
    oldest = timedelta(0)
    for made in range(0, 95, 5):
        since = NOW + timedelta(days=made)
        for now in Calendar(cron.read(text), since).after():
            if now > NOW + timedelta(days=365 * years):
                break
            row = InventoryRow("key", "ledger", 1, Anchor(sequence=2, hash="h", number=1, active_since=since))
            if due.assess(row, "key", policy, now, tick).status is Status.DUE:
                oldest, since = max(oldest, now - since), now
    return oldest


@pytest.mark.parametrize("minutes", [60, 44_640, 64_800])
@pytest.mark.parametrize("text", ["0 0 1 * *", "0 0 1 */3 *", "0 3 * * 0"])
def test_what_is_said_of_going_by_age_is_what_the_rule_does(text: str, minutes: int) -> None:
    tick = Tick(timedelta(minutes=minutes))
    (key,) = advice(text, tick=tick, key=DAYS_90).keys
    assert key.as_set_days is not None
    oldest = lived(text, tick, DAYS_90) / DAY
    assert oldest <= key.as_set_days
    assert oldest > min(key.as_set_days, 90) - 46, "it is not said far too much either"
    if key.by_age_days == 90 and minutes >= advice(text, key=DAYS_90).needed_minutes:
        assert oldest <= 90


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(days=92), "92 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=25), "25 hours"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(days=92, hours=1), "92.04 days"),
    ],
)
def test_spans_for_people(length: timedelta, text: str) -> None:
    assert schedules.span(length) == text


def test_notes_say_whose_time_zone_it_is() -> None:
    assert any(
        "its job's time zone" in note for note in schedules.advise(cron.read(QUARTERLY, "gcp"), {}, Tick(), NOW).notes
    )
    assert any("WEBSITE_TIME_ZONE" in note for note in advice("0 0 0 1 */3 *").notes)
    assert any("summer time" in note for note in advice(QUARTERLY).notes)
    assert advice("rate(1 hour)").notes == (
        "an interval is counted from when the schedule was made: the next ticks are examples",
    )
