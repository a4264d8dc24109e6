"""Maintenance windows: what is read, when one is open, when the next one opens. All times are UTC."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daena_kms.errors import ConfigurationError
from daena_kms.window import Window

MON, TUE, WED, THU, FRI, SAT, SUN = range(7)
EVERY_DAY = (MON, TUE, WED, THU, FRI, SAT, SUN)

# 2024-01-01 is a Monday.
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def at(day: int, clock: str) -> datetime:
    """A time in the week of 2024-01-01."""
    hours, minutes = clock.split(":")
    return MONDAY + timedelta(days=day, hours=int(hours), minutes=int(minutes))


@pytest.mark.parametrize(
    ("text", "days", "start", "length"),
    [
        pytest.param("02:00-04:00", EVERY_DAY, 120, 120, id="every-day"),
        pytest.param("Sun 02:00-04:00", (SUN,), 120, 120, id="one-day"),
        pytest.param("Sat,Sun 02:00-06:00", (SAT, SUN), 120, 240, id="list"),
        pytest.param("Sat, Sun 02:00-06:00", (SAT, SUN), 120, 240, id="list-with-space"),
        pytest.param("Mon-Fri 22:00-02:00", (MON, TUE, WED, THU, FRI), 1320, 240, id="over-midnight"),
        pytest.param("Fri-Mon 00:00-01:00", (MON, FRI, SAT, SUN), 0, 60, id="days-over-the-week-end"),
        pytest.param("Mon,Wed-Fri 01:30-01:45", (MON, WED, THU, FRI), 90, 15, id="list-and-range"),
        pytest.param("monday 01:00-02:00", (MON,), 60, 60, id="whole-name"),
        pytest.param("  SAT 01:00-02:00 ", (SAT,), 60, 60, id="case-and-space"),
        pytest.param("00:00-00:00", EVERY_DAY, 0, 1440, id="always"),
        pytest.param("Sat 00:00-00:00", (SAT,), 0, 1440, id="a-whole-day"),
        pytest.param("Sat 20:00-00:00", (SAT,), 1200, 240, id="until-midnight"),
    ],
)
def test_a_window(text: str, days: tuple[int, ...], start: int, length: int) -> None:
    window = Window.parse(text)
    assert (window.days, window.start_minute, window.length_minutes) == (days, start, length)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("Sat", id="no-hours"),
        pytest.param("2:00-4:00", id="one-digit"),
        pytest.param("02:00", id="no-end"),
        pytest.param("02:00 - 04:00", id="spaces-inside"),
        pytest.param("25:00-26:00", id="no-such-hour"),
        pytest.param("02:60-03:00", id="no-such-minute"),
        pytest.param("24:01-03:00", id="after-midnight"),
        pytest.param("24:00-02:00", id="starts-at-24"),
        pytest.param("Sat 20:00-24:00", id="ends-at-24"),
        pytest.param("Sut 02:00-04:00", id="no-such-day"),
        pytest.param("Monkey 02:00-04:00", id="begins-like-a-day"),
        pytest.param("Satan 02:00-04:00", id="begins-like-saturday"),
        pytest.param("Mon-Fri-Sun 02:00-04:00", id="range-of-three"),
        pytest.param("Mon- 02:00-04:00", id="range-without-end"),
        pytest.param("-Fri 02:00-04:00", id="range-without-start"),
        pytest.param(", 02:00-04:00", id="only-a-comma"),
        pytest.param("02:00-04:00 UTC", id="trailing"),
        pytest.param("Sat 02:00-04:00\nSun 02:00-04:00", id="two-lines"),
        pytest.param("\u0660\u0662:00-04:00", id="other-digits"),
    ],
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Window.parse(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "now", "closes"),
    [
        pytest.param("Sat 02:00-04:00", at(SAT, "01:59"), None, id="before"),
        pytest.param("Sat 02:00-04:00", at(SAT, "02:00"), at(SAT, "04:00"), id="at-its-opening"),
        pytest.param("Sat 02:00-04:00", at(SAT, "03:59"), at(SAT, "04:00"), id="within"),
        pytest.param("Sat 02:00-04:00", at(SAT, "04:00"), None, id="at-its-end"),
        pytest.param("Sat 02:00-04:00", at(SUN, "03:00"), None, id="another-day"),
        pytest.param("Fri 22:00-02:00", at(SAT, "01:00"), at(SAT, "02:00"), id="after-midnight"),
        pytest.param("Fri 22:00-02:00", at(FRI, "01:00"), None, id="the-night-before"),
        pytest.param("Sun 22:00-02:00", at(MON, "01:00") + timedelta(days=7), at(MON, "02:00") + timedelta(days=7),
                     id="from-sunday-into-monday"),
        pytest.param("Sat 00:00-00:00", at(SAT, "23:59"), at(SUN, "00:00"), id="whole-day"),
        pytest.param("Sat 00:00-00:00", at(SUN, "00:00"), None, id="whole-day-is-over"),
    ],
)  # fmt: skip
def test_when_it_closes(text: str, now: datetime, closes: datetime | None) -> None:
    assert Window.parse(text).closes(now) == closes


@pytest.mark.parametrize(
    ("text", "now", "opens"),
    [
        pytest.param("Sat 02:00-04:00", at(MON, "00:00"), at(SAT, "02:00"), id="later-this-week"),
        pytest.param("Sat 02:00-04:00", at(SAT, "01:59"), at(SAT, "02:00"), id="in-a-minute"),
        pytest.param("Sat 02:00-04:00", at(SAT, "02:00"), at(SAT, "02:00") + timedelta(days=7), id="open-now"),
        pytest.param("02:00-04:00", at(MON, "03:00"), at(TUE, "02:00"), id="tomorrow"),
        pytest.param("Mon,Thu 02:00-04:00", at(TUE, "00:00"), at(THU, "02:00"), id="the-nearer-of-two"),
    ],
)
def test_when_it_opens(text: str, now: datetime, opens: datetime) -> None:
    assert Window.parse(text).opens(now) == opens


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        pytest.param("00:00-00:00", timedelta(0), id="never"),
        pytest.param("02:00-04:00", timedelta(hours=22), id="every-day"),
        pytest.param("Sat 02:00-04:00", timedelta(days=7, hours=-2), id="one-day-a-week"),
        pytest.param("Sat,Sun 02:00-06:00", timedelta(days=6, hours=-4), id="week-ends"),
        pytest.param("Mon-Fri 22:00-02:00", timedelta(days=3, hours=-4), id="week-days"),
    ],
)
def test_how_long_it_is_closed(text: str, closed: timedelta) -> None:
    assert Window.parse(text).longest_closed() == closed


_CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
_DAYS = st.lists(st.sampled_from(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]), min_size=1, unique=True)


@given(_DAYS, _CLOCKS, _CLOCKS, st.integers(0, 14 * 24 * 60))
def test_open_closing_and_opening_agree(days: list[str], start: str, end: str, minutes: int) -> None:
    """At any minute it is open, or it opens within the longest time that it is ever closed."""
    window, now = Window.parse(f"{','.join(days)} {start}-{end}"), MONDAY + timedelta(minutes=minutes)
    closes, opens = window.closes(now), window.opens(now)
    assert opens > now
    assert window.closes(opens) is not None
    if closes is None:
        assert opens - now <= window.longest_closed()
        assert window.closes(opens - timedelta(microseconds=1)) is None
    else:
        assert now < closes <= now + window.length
