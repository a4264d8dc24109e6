"""Maintenance windows: when in the week a key may be rotated. Pure; all times are UTC."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from msgspec import Struct

from .errors import ConfigurationError

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK = "[0-9]{2}:[0-9]{2}"
_FORM = re.compile(rf"(?:(?P<days>[a-z ,-]+?) +)?(?P<start>{_CLOCK})-(?P<end>{_CLOCK})")
_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)


class Window(Struct, frozen=True):
    """A span of hours on some days of the week. One that ends before it starts runs into the next day."""

    days: tuple[int, ...]
    """Monday is 0; the day on which the window opens."""
    start_minute: int
    length_minutes: int
    text: str

    @classmethod
    def parse(cls, text: str) -> "Window":
        """From `02:00-04:00`, `Sat,Sun 02:00-06:00` or `Mon-Fri 22:00-02:00`; ConfigurationError otherwise."""
        match = _FORM.fullmatch(text.strip().lower())
        if not match:
            raise ConfigurationError(f"{text!r} is not a window", "write one like 'Sat,Sun 02:00-06:00' (UTC)")
        start, end = _minute(match["start"], text), _minute(match["end"], text)
        length = (end - start) % (24 * 60) or 24 * 60
        return cls(_days(match["days"] or "mon-sun", text), start, length, text.strip())

    @property
    def length(self) -> timedelta:
        return timedelta(minutes=self.length_minutes)

    def closes(self, now: datetime) -> datetime | None:
        """When the window that is open now closes; None if none is open."""
        open_now = [start for start in self._openings(now - _DAY, now) if now < start + self.length]
        return max(open_now) + self.length if open_now else None

    def opens(self, now: datetime) -> datetime:
        """The next opening after now."""
        return next(start for start in self._openings(now, now + _WEEK + _DAY) if start > now)

    def longest_closed(self) -> timedelta:
        """The longest time from one closing to the next opening."""
        monday = datetime(2024, 1, 1)  # noqa: DTZ001  # a week like any other; only differences are used
        starts = list(self._openings(monday, monday + 2 * _WEEK))
        gaps = [later - (earlier + self.length) for earlier, later in pairwise(starts)]
        return max([*gaps, timedelta(0)])

    def _openings(self, first: datetime, last: datetime) -> Iterator[datetime]:
        day = first.replace(hour=0, minute=0, second=0, microsecond=0)
        while day <= last:
            start = day + timedelta(minutes=self.start_minute)
            if start.weekday() in self.days and start <= last:
                yield start
            day += _DAY


def _minute(clock: str, text: str) -> int:
    hours, minutes = (int(part) for part in clock.split(":"))
    if hours > 23 or minutes > 59:
        raise ConfigurationError(f"{clock} in {text!r} is no time of day", "hours run from 00:00 to 23:59")
    return hours * 60 + minutes


def _days(text: str, whole: str) -> tuple[int, ...]:
    days: set[int] = set()
    for part in re.split(r"[ ,]+", text.strip()):
        first, *last = (_day(name, whole) for name in part.split("-", 1))
        length = (last[0] - first) % 7 if last else 0
        days.update((first + i) % 7 for i in range(length + 1))
    return tuple(sorted(days))


def _day(name: str, whole: str) -> int:
    for number, day in enumerate(_DAYS):
        if name in (day, day[:3]):
            return number
    raise ConfigurationError(f"{name!r} in {whole!r} is no day", "use Mon Tue Wed Thu Fri Sat Sun")
