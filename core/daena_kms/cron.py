"""Schedule expressions as four schedulers write them, translated into one form. Pure.

Each scheduler's form is from its own documentation:

- crontab(5), as Debian has it;
- EventBridge, "Cron expressions reference": docs.aws.amazon.com/eventbridge/latest/userguide/eb-cron-expressions.html;
- Azure Functions, "Timer trigger", and the library NCrontab;
- Cloud Scheduler, "Cron job format and time zone": cloud.google.com/scheduler/docs/configuring/cron-job-schedules.

What only some versions of a scheduler take, or what can be read in more than one way, is refused.
"""

import re
from collections.abc import Mapping
from datetime import timedelta

from msgspec import Struct

from .errors import ConfigurationError

DIALECTS = ("unix", "aws", "azure", "gcp")
NAMES: Mapping[str, str] = {
    "unix": "cron",
    "aws": "EventBridge",
    "azure": "Azure Functions",
    "gcp": "Cloud Scheduler",
}
LONGEST_EXPRESSION = 200
LAST_YEAR = 2199  # of EventBridge
HINT = "write '0 0 1 */3 *', 'cron(0 0 1 */3 ? *)', 'rate(1 hour)' or, with seconds, '0 0 0 1 */3 *'"

_RATE = re.compile(r"(?:(1) (minute|hour|day)|([2-9]|[1-9][0-9]{1,4}) (minute|hour|day)s)")
_CALL = re.compile(r"(rate|cron|at)\((.*)\)")
_TERM = re.compile(r"(\*|[A-Z]+|[0-9]{1,4})(?:-([A-Z]+|[0-9]{1,4}))?(?:/([0-9]{1,4}))?")
_LAST_DAY, _LAST_WEEKDAY = re.compile(r"LW?"), re.compile(r"([A-Z]{3}|[1-7])L")
_NTH_WEEKDAY = re.compile(r"([A-Z]{3}|[1-7])#([1-5])")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE", "JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER",
           "DECEMBER")  # fmt: skip
_WEEKDAYS = ("SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY")


class Schedule(Struct, frozen=True):
    """When a scheduler ticks: at an interval, or by the calendar."""

    expression: str
    """As it was written."""
    dialect: str
    """One of `DIALECTS`; empty for an interval that no scheduler was named for."""
    every: timedelta | None = None
    """The interval of a rate; None for a calendar."""
    seconds: str = ""
    minutes: str = ""
    hours: str = ""
    days: str = ""
    months: str = ""
    weekdays: str = ""
    """Each of these as `cronsim` reads it; Sunday is 0."""
    both: bool = True
    """True: day of the month and day of the week must both match. False: one of them is enough."""
    years: tuple[int, ...] = ()
    """The only years in which it ticks; none given: every year."""

    @property
    def translated(self) -> str:
        """The fields from seconds to days of the week, in cron's numbers; empty for a rate."""
        fields = (self.seconds, self.minutes, self.hours, self.days, self.months, self.weekdays)
        return "" if self.every else " ".join(fields)


class _Field(Struct, frozen=True):
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    first: int = 0
    """The number of the first name."""


_SECOND, _MINUTE = _Field("second", 0, 59), _Field("minute", 0, 59)
_HOUR, _DAY = _Field("hour", 0, 23), _Field("day of the month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS, 1)
_YEAR = _Field("year", 1970, LAST_YEAR)
_WEEKDAY = {
    "unix": _Field("day of the week", 0, 7, _WEEKDAYS),
    "gcp": _Field("day of the week", 0, 7, _WEEKDAYS),
    "azure": _Field("day of the week", 0, 6, _WEEKDAYS),
    "aws": _Field("day of the week", 1, 7, _WEEKDAYS, 1),
}


def read(expression: str, dialect: str = "") -> Schedule:
    """The schedule that an expression means. Raises ConfigurationError for one that cannot be read, with why.

    `dialect` says whose expression it is; without it the form says so, and five fields are cron's.
    """
    text = " ".join(expression.split())
    if len(text) > LONGEST_EXPRESSION or not text.isascii() or not text.isprintable():
        raise _bad(f"an expression of at most {LONGEST_EXPRESSION} plain characters is expected")
    if call := _CALL.fullmatch(text):
        _only("aws", dialect, f"{call[1]}(…) is EventBridge's form")
        return _called(expression, call[1], call[2])
    if text.startswith("@"):
        return _macro(expression, text, dialect)
    return _fields(expression, text.split(), dialect)


def _called(expression: str, form: str, inside: str) -> Schedule:
    if form == "at":
        raise _bad("at(…) ticks once and never again: keys have to be rotated again and again")
    if form == "rate":
        return Schedule(expression, "aws", every=_rate(inside))
    return _fields(expression, inside.split(), "aws")


def _rate(text: str) -> timedelta:
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise _bad(f"rate({text}) is not one: rate(1 minute|hour|day), or rate(N minutes|hours|days) from 2 to 99999")
    count, unit = int(match[1] or match[3]), match[2] or match[4]
    return timedelta(**{f"{unit}s": count})


def _macro(expression: str, text: str, dialect: str) -> Schedule:
    _only("unix", dialect, f"{text} is cron's form")
    if text.lower() not in _MACROS:
        raise _bad(f"{text} is no schedule that repeats by the calendar; known are {', '.join(_MACROS)}")
    return _fields(expression, _MACROS[text.lower()].split(), "unix")


def _only(right: str, dialect: str, why: str) -> None:
    if dialect not in ("", right):
        raise _bad(f"{why}, not one of {NAMES[dialect]}")


def _fields(expression: str, fields: list[str], dialect: str) -> Schedule:
    dialect = dialect or _found(fields)
    count = {"unix": (5,), "gcp": (5,), "aws": (6,), "azure": (5, 6)}[dialect]
    if len(fields) not in count:
        expected = " or ".join(str(each) for each in count)
        raise _bad(f"{expected} fields are expected of {NAMES[dialect]}, got {len(fields)}", _fields_hint(fields))
    fields = [field.upper() for field in fields]
    if dialect == "aws":
        return _aws(expression, fields)
    seconds = _list(_SECOND, fields.pop(0), dialect) if len(fields) == 6 else "0"
    minutes, hours, days, months, weekdays = fields
    return Schedule(
        expression,
        dialect,
        seconds=seconds,
        minutes=_list(_MINUTE, minutes, dialect),
        hours=_list(_HOUR, hours, dialect),
        days=_list(_DAY, days, dialect),
        months=_list(_MONTH, months, dialect),
        weekdays=_list(_WEEKDAY[dialect], weekdays, dialect),
        both=_both(dialect, days, weekdays),
    )


def _found(fields: list[str]) -> str:
    """Whose form it is. In six fields a question mark is EventBridge's; Azure's have none."""
    if len(fields) == 6:
        return "aws" if "?" in fields else "azure"
    return "unix"


def _both(dialect: str, days: str, weekdays: str) -> bool:
    """NCrontab wants both. Debian's cron does where one begins with a star, Cloud Scheduler where one is a star."""
    if dialect == "unix":
        return days.startswith("*") or weekdays.startswith("*")
    return dialect != "gcp" or "*" in (days, weekdays)


def _aws(expression: str, fields: list[str]) -> Schedule:
    minutes, hours, days, months, weekdays, years = fields
    if (days == "?") == (weekdays == "?"):
        raise _bad("EventBridge wants a ? as day of the month or as day of the week, one of them")
    return Schedule(
        expression,
        "aws",
        seconds="0",
        minutes=_list(_MINUTE, minutes, "aws"),
        hours=_list(_HOUR, hours, "aws"),
        days="*" if days == "?" else _aws_days(days),
        months=_list(_MONTH, months, "aws"),
        weekdays="*" if weekdays == "?" else _aws_weekdays(weekdays),
        years=_years(years),
    )


def _aws_days(text: str) -> str:
    if _LAST_DAY.fullmatch(text):
        return text
    if "W" in text or "L" in text:
        raise _bad(f"the day of the month {text} cannot be reckoned with: of L and W only L and LW can")
    return _list(_DAY, text, "aws")


def _aws_weekdays(text: str) -> str:
    field = _WEEKDAY["aws"]
    if text == "L":
        return "6"  # "the last day of the week", which ends on Saturday there
    if match := _LAST_WEEKDAY.fullmatch(text):
        return f"{_number(field, match[1], 'aws') - 1}L"
    if match := _NTH_WEEKDAY.fullmatch(text):
        return f"{_number(field, match[1], 'aws') - 1}#{match[2]}"
    if "/" in text:
        raise _bad(f"EventBridge takes no step in the day of the week, got {text}")
    return _list(field, text, "aws")


def _years(text: str) -> tuple[int, ...]:
    if text == "*":
        return ()
    found: set[int] = set()
    for term in text.split(","):
        first, last, step = _span(_YEAR, term, "aws")
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))


def _list(field: _Field, text: str, dialect: str) -> str:
    """A field, every term of it checked, in cron's numbers."""
    return ",".join(_term(field, term, dialect) for term in text.split(","))


def _term(field: _Field, text: str, dialect: str) -> str:
    first, last, step = _span(field, text, dialect)
    if text == "*":
        return "*"
    if text.startswith("*") and dialect != "aws":
        return f"*/{step}"
    shift = 1 if dialect == "aws" and field.names == _WEEKDAYS else 0
    if first == last:
        return str(first - shift)
    return f"{first - shift}-{last - shift}" + (f"/{step}" if step > 1 else "")


def _span(field: _Field, text: str, dialect: str) -> tuple[int, int, int]:
    """First, last and step of one term."""
    match = _TERM.fullmatch(text)
    if match is None or (match[1] == "*" and match[2]):
        raise _bad(f"the {field.name} {text!r} is not one that {NAMES[dialect]} takes")
    step = int(match[3] or 1)
    if step == 0:
        raise _bad(f"the {field.name} {text!r} has a step of nothing")
    if match[1] == "*":
        return field.least, field.most, step
    first = _number(field, match[1], dialect)
    last = _number(field, match[2], dialect) if match[2] else first
    if match[3] and not match[2]:
        if dialect in ("unix", "gcp"):
            raise _bad(f"the {field.name} {text!r} has a step after a number: write {first}-{field.most}/{step}")
        last = field.most
    if last < first:
        raise _bad(f"the {field.name} {text!r} ends before it begins: write two ranges with a comma")
    return first, last, step


def _number(field: _Field, text: str, dialect: str) -> int:
    if text.isdigit():
        value = int(text)
    else:
        full = dialect == "azure"  # NCrontab knows names by their beginnings
        fitting = [n for n, name in enumerate(field.names) if text == name[:3] or (full and text == name)]
        value = field.first + fitting[0] if fitting else -1
    if not field.least <= value <= field.most:
        raise _bad(f"the {field.name} {text} is none from {field.least} to {field.most}")
    return value


def _fields_hint(fields: list[str]) -> str:
    if len(fields) > 6:
        return "leave the command of a crontab line out; " + HINT
    return HINT


def _bad(why: str, hint: str = HINT) -> ConfigurationError:
    return ConfigurationError(f"this is no schedule: {why}", hint)
