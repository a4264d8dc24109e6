"""Expressions of four schedulers: each is read as its scheduler reads it, or refused with words."""

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daena_kms import cron, schedules
from daena_kms.errors import ConfigurationError
from daena_kms.policy import Tick
from tests.support.worlds import START

READ = {
    "the guide's, cron": ("0 0 1 */3 *", "", "unix", "0 0 0 1 */3 *"),
    "the guide's, Cloud Scheduler": ("0 0 1 */3 *", "gcp", "gcp", "0 0 0 1 */3 *"),
    "the guide's, EventBridge": ("cron(0 0 1 */3 ? *)", "", "aws", "0 0 0 1 1-12/3 *"),
    "the guide's, NCRONTAB": ("0 0 0 1 */3 *", "", "azure", "0 0 0 1 */3 *"),
    "EventBridge's without its call": ("0 0 1 */3 ? *", "", "aws", "0 0 0 1 1-12/3 *"),
    "EventBridge's Sunday is 1": ("cron(0 2 ? * 1 *)", "", "aws", "0 0 2 * * 0"),
    "EventBridge's Saturday is 7": ("cron(0 2 ? * 7 *)", "", "aws", "0 0 2 * * 6"),
    "EventBridge's names": ("cron(0 18 ? jan-mar MON-FRI *)", "", "aws", "0 0 18 * 1-3 1-5"),
    "EventBridge's last day of the month": ("cron(0 0 L * ? *)", "", "aws", "0 0 0 L * *"),
    "EventBridge's last working day": ("cron(0 0 LW * ? *)", "", "aws", "0 0 0 LW * *"),
    "EventBridge's last Friday": ("cron(0 0 ? * 6L *)", "", "aws", "0 0 0 * * 5L"),
    "EventBridge's last Friday by name": ("cron(0 0 ? * FRIL *)", "", "aws", "0 0 0 * * 5L"),
    "EventBridge's last day of the week": ("cron(0 0 ? * L *)", "", "aws", "0 0 0 * * 6"),
    "EventBridge's second Tuesday": ("cron(0 0 ? * 3#2 *)", "", "aws", "0 0 0 * * 2#2"),
    "EventBridge's step after a number": ("cron(5/15 * * * ? *)", "", "aws", "0 5-59/15 * * * *"),
    "Azure's step after a number": ("0 5/15 * * * *", "", "azure", "0 5-59/15 * * * *"),
    "Azure's week ends on Saturday": ("0 0 0 * * 1/2", "", "azure", "0 0 0 * * 1-6/2"),
    "Azure's names": ("0 30 9 * Jan Monday", "", "azure", "0 30 9 * 1 1"),
    "Azure's five fields": ("0 0 1 */3 *", "azure", "azure", "0 0 0 1 */3 *"),
    "cron's Sunday is 0 and 7": ("0 0 * * 0,7", "", "unix", "0 0 0 * * 0,7"),
    "cron's names": ("0 0 * JUL sun,Wed", "", "unix", "0 0 0 * 7 0,3"),
    "lists, ranges, steps": ("0-30/10,45 1,2 1-7 * *", "", "unix", "0 0-30/10,45 1,2 1-7 * *"),
    "a step longer than the field": ("*/70 0 * * *", "", "unix", "0 */70 0 * * *"),
    "more blanks than needed": ("  0   0 1  */3 * ", "", "unix", "0 0 0 1 */3 *"),
    "a macro": ("@monthly", "", "unix", "0 0 0 1 * *"),
}


@pytest.mark.parametrize(("text", "dialect", "found", "translated"), READ.values(), ids=READ)
def test_reading(text: str, dialect: str, found: str, translated: str) -> None:
    read = cron.read(text, dialect)
    assert (read.dialect, read.translated) == (found, translated)
    assert read.expression == text


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("rate(1 minute)", timedelta(minutes=1)),
        ("rate(1 hour)", timedelta(hours=1)),
        ("rate(12 hours)", timedelta(hours=12)),
        ("rate(90 days)", timedelta(days=90)),
    ],
)
def test_rates(text: str, interval: timedelta) -> None:
    read = cron.read(text)
    assert (read.dialect, read.every, read.translated) == ("aws", interval, "")


def test_years_of_eventbridge() -> None:
    assert cron.read("cron(0 0 1 1 ? 2027,2030-2034/2)").years == (2027, 2030, 2032, 2034)
    assert cron.read("cron(0 0 1 1 ? *)").years == ()


REFUSED = {
    "nothing": ("", "", "fields are expected"),
    "four fields": ("0 0 1 *", "", "5 fields are expected"),
    "seven fields": ("0 0 0 1 * ? *", "", "5 fields are expected"),
    "a crontab's line": ("0 0 1 */3 * /usr/bin/python x.py --cloud-kms", "", "5 fields are expected"),
    "six fields for cron": ("0 0 0 1 */3 *", "unix", "5 fields are expected of cron"),
    "five fields for EventBridge": ("0 0 1 */3 *", "aws", "6 fields are expected of EventBridge"),
    "once": ("at(2027-01-01T00:00:00)", "", "ticks once"),
    "a rate of one in the plural": ("rate(1 hours)", "", "is not one"),
    "a rate of many in the singular": ("rate(2 hour)", "", "is not one"),
    "a rate of nothing": ("rate(0 days)", "", "is not one"),
    "a rate of weeks": ("rate(2 weeks)", "", "is not one"),
    "EventBridge's form for cron": ("cron(0 0 1 * ? *)", "unix", "EventBridge's form"),
    "a macro for Azure": ("@daily", "azure", "cron's form"),
    "at every start": ("@reboot", "", "known are @hourly"),
    "App Engine's": ("every 24 hours", "gcp", "5 fields are expected"),
    "EventBridge's two question marks": ("cron(0 0 ? * ? *)", "", "one of them"),
    "EventBridge's no question mark": ("cron(0 0 1 * MON *)", "", "one of them"),
    "EventBridge's nearest working day": ("cron(0 0 15W * ? *)", "", "only L and LW"),
    "EventBridge's third last day": ("cron(0 0 L-3 * ? *)", "", "only L and LW"),
    "EventBridge's step of weekdays": ("cron(0 0 ? * 2/2 *)", "", "no step in the day of the week"),
    "EventBridge's weekday 0": ("cron(0 0 ? * 0 *)", "", "none from 1 to 7"),
    "EventBridge's weekday 8": ("cron(0 0 ? * 8 *)", "", "none from 1 to 7"),
    "EventBridge's sixth Tuesday": ("cron(0 0 ? * 3#6 *)", "", "is not one that EventBridge takes"),
    "EventBridge's list with #": ("cron(0 0 ? * 3#1,6#3 *)", "", "is not one that EventBridge takes"),
    "a year before time": ("cron(0 0 1 1 ? 1969)", "", "none from 1970 to 2199"),
    "Azure's weekday 7": ("0 0 0 * * 7", "", "none from 0 to 6"),
    "Azure's time span": ("24:00:00", "azure", "5 or 6 fields"),
    "cron's last day": ("0 0 L * *", "", "none from 1 to 31"),
    "cron's question mark": ("0 0 1 * ?", "", "is not one that cron takes"),
    "cron's second Tuesday": ("0 0 * * 2#2", "", "is not one that cron takes"),
    "cron's step after a number": ("5/15 * * * *", "", "write 5-59/15"),
    "a minute too many": ("60 * * * *", "", "none from 0 to 59"),
    "an hour too many": ("0 24 * * *", "", "none from 0 to 23"),
    "day nought": ("0 0 0 * *", "", "none from 1 to 31"),
    "a month too many": ("0 0 1 13 *", "", "none from 1 to 12"),
    "an unknown name": ("0 0 1 FOO *", "", "month FOO is none"),
    "a name in the wrong field": ("MON 0 1 * *", "", "minute MON is none"),
    "a range that turns back": ("0 0 * * SAT-SUN", "", "ends before it begins"),
    "a step of nothing": ("*/0 * * * *", "", "a step of nothing"),
    "a star with a range": ("*-5 * * * *", "", "is not one that cron takes"),
    "an empty term": ("1,,2 * * * *", "", "is not one that cron takes"),
    "a negative number": ("-5 * * * *", "", "is not one that cron takes"),
    "two steps": ("*/2/3 * * * *", "", "is not one that cron takes"),
    "an absurd number": (f"{'9' * 150} * * * *", "", "is not one that cron takes"),
    "far too long": ("*" * 300, "", "at most 200 plain characters"),
    "digits of another script": ("٠ 0 1 * *", "", "plain characters"),  # noqa: RUF001
    "a control character": ("0 0 1 * *\x1b[2J", "", "plain characters"),
}


@pytest.mark.parametrize(("text", "dialect", "why"), REFUSED.values(), ids=REFUSED)
def test_refusing(text: str, dialect: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match="this is no schedule: ") as problem:
        cron.read(text, dialect)
    assert why in problem.value.message
    assert problem.value.hint


def test_a_crontabs_line_is_told_to_leave_its_command_out() -> None:
    with pytest.raises(ConfigurationError) as problem:
        cron.read("0 0 1 */3 * /usr/bin/python Tools/daena_key_rotate.py --cloud-kms")
    assert problem.value.hint.startswith("leave the command of a crontab line out")


# --- against days that are worked out by hand

NAMES = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
SPAN_DAYS = 3 * 366


def sunday_first(day: date) -> int:
    return day.isoweekday() % 7


def expected(days: set[int], months: set[int], weekdays: set[int], *, both: bool) -> list[date]:
    """The days with ticks, from the sets of numbers that were meant."""
    found = []
    for number in range(SPAN_DAYS):
        day = START.date() + timedelta(days=number)
        of_month, of_week = day.day in days, sunday_first(day) in weekdays
        if day.month in months and ((of_month and of_week) if both else (of_month or of_week)):
            found.append(day)
    return found


def ticked(text: str, dialect: str) -> list[date]:
    """The days with ticks, as they are read from text."""
    midnight = START.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(seconds=1)
    last = START.date() + timedelta(days=SPAN_DAYS)
    calendar = schedules.Calendar(cron.read(text, dialect), midnight)
    found = []
    for tick in calendar.after():
        if tick.date() >= last:
            break
        found.append(tick.date())
    return found


def numbers(least: int, most: int) -> st.SearchStrategy[set[int]]:
    return st.sets(st.integers(least, most), min_size=1, max_size=5)


def listed(values: set[int]) -> str:
    return ",".join(str(value) for value in sorted(values))


EVERY_DAY, EVERY_MONTH, EVERY_WEEKDAY = set(range(1, 32)), set(range(1, 13)), set(range(7))
DAYS, MONTHS, WEEKDAYS = numbers(1, 28), numbers(1, 12), numbers(0, 6)


@settings(max_examples=30, deadline=None)
@given(DAYS, MONTHS, WEEKDAYS, st.sampled_from(["unix", "gcp", "azure"]))
def test_days_and_weekdays_together(days: set[int], months: set[int], weekdays: set[int], dialect: str) -> None:
    """cron and Cloud Scheduler want one of them, Azure both."""
    text = f"0 0 {listed(days)} {listed(months)} {listed(weekdays)}"
    both = dialect == "azure"
    wanted = expected(days, months, weekdays, both=both)
    assert ticked(text, dialect) == wanted


@settings(max_examples=30, deadline=None)
@given(DAYS, MONTHS, WEEKDAYS, st.booleans())
def test_eventbridge_counts_weekdays_from_one(
    days: set[int], months: set[int], weekdays: set[int], by_name: bool
) -> None:
    shown = ",".join(NAMES[day] for day in sorted(weekdays)) if by_name else listed({day + 1 for day in weekdays})
    by_week = f"cron(0 0 ? {listed(months)} {shown} *)"
    assert ticked(by_week, "") == expected(EVERY_DAY, months, weekdays, both=True)
    by_month = f"cron(0 0 {listed(days)} {listed(months)} ? *)"
    assert ticked(by_month, "") == expected(days, months, EVERY_WEEKDAY, both=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), WEEKDAYS)
def test_a_star_with_a_step_beside_a_weekday(step: int, weekdays: set[int]) -> None:
    """Debian's cron then wants both; Cloud Scheduler says that only a star alone is no restriction."""
    days = set(range(1, 32, step))
    text = f"0 0 */{step} * {listed(weekdays)}"
    assert ticked(text, "unix") == expected(days, EVERY_MONTH, weekdays, both=True)
    assert ticked(text, "gcp") == expected(days, EVERY_MONTH, weekdays, both=False)


def test_last_days_and_nth_weekdays() -> None:
    every = expected(EVERY_DAY, EVERY_MONTH, EVERY_WEEKDAY, both=True)
    ends = [day for day in every if (day + timedelta(days=1)).day == 1]
    assert ticked("cron(0 0 L * ? *)", "") == ends
    working = [max(day for day in every if (day.year, day.month) == (end.year, end.month) and day.isoweekday() < 6)
               for end in ends]  # fmt: skip
    assert ticked("cron(0 0 LW * ? *)", "") == working
    fridays = [day for day in every if day.isoweekday() == 5]
    assert ticked("cron(0 0 ? * 6L *)", "") == [day for day in fridays if (day + timedelta(days=7)).month != day.month]
    assert ticked("cron(0 0 ? * 6#2 *)", "") == [day for day in fridays if 8 <= day.day <= 14]


# --- text that means harm

_PIECES = st.sampled_from(
    [*"*?/-,#LW0123456789() \t", "cron(", "rate(", "at(", "MON", "FEB", "30", "31", "99999", "@", "é", "\n", "\x00"]
)
HOSTILE = st.one_of(
    st.text(max_size=40),
    st.lists(_PIECES, max_size=40).map("".join),
    st.lists(st.lists(_PIECES, min_size=1, max_size=4).map("".join), min_size=5, max_size=6).map(" ".join),
)


@settings(max_examples=300, deadline=None)
@given(HOSTILE, st.sampled_from(["", *cron.DIALECTS]))
def test_hostile_text_is_read_or_refused_in_one_way(text: str, dialect: str) -> None:
    """And what is read can be reckoned with: nothing hangs, nothing else is raised."""
    told, problem = reckoned(text, dialect)
    if told is not None:
        assert told.next[0] > START
    else:
        assert problem is not None
        assert problem.message.isprintable()
        assert problem.hint


def reckoned(text: str, dialect: str) -> tuple[schedules.Advice | None, ConfigurationError | None]:
    """What is said of a text, or why it was refused."""
    try:
        return schedules.advise(cron.read(text, dialect), {}, Tick(), START), None
    except ConfigurationError as problem:
        return None, problem


def test_a_refusal_steers_no_terminal() -> None:
    _, problem = reckoned("0\t0 30 2 *", "")
    assert problem is not None
    assert problem.message == "'0\\t0 30 2 *' never ticks again"


VALUES = st.sampled_from(["*", "*/2", "1", "28-31", "29", "30,31", "MON", "1-5", "*/31", "2", "FEB"])


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=5, max_size=6).map(" ".join), st.sampled_from(["", "gcp", "azure"]))
def test_rare_days_are_found_or_known_not_to_be(text: str, dialect: str) -> None:
    told, _ = reckoned(text, dialect)
    if told is None:
        return
    assert told.gaps is not None
    assert told.gaps.longest.length >= told.gaps.shortest.length > timedelta(0)
