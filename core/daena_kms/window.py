"""Maintenance windows: when in the week a key may be rotated. Pure; all times are UTC."""

import re
from datetime import datetime, timedelta
from itertools import pairwise

from msgspec import Struct

from .errors import ConfigurationError

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK = "[0-9]{2}:[0-9]{2}"
_FORM = re.compile(rf"(?:(?P<days>[a-z ,-]+?) +)?(?P<start>{_CLOCK})-(?P<end>{_CLOCK})")
_DAY = timedelta(days=1)


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
        closing = self.opened(now) + self.length
        return closing if now < closing else None

    def opens(self, now: datetime) -> datetime:
        """The next opening after now."""
        start = self._on_day_of(now)
        while start <= now or start.weekday() not in self.days:
            start += _DAY
        return start

    def opened(self, now: datetime) -> datetime:
        """The last opening at or before now."""
        start = self._on_day_of(now)
        while start > now or start.weekday() not in self.days:
            start -= _DAY
        return start

    def longest_closed(self) -> timedelta:
        """The longest time from one closing to the next opening."""
        gaps = [(later - earlier) % 7 or 7 for earlier, later in pairwise((*self.days, self.days[0]))]
        return max(timedelta(days=max(gaps)) - self.length, timedelta(0))

    def _on_day_of(self, now: datetime) -> datetime:
        hour, minute = divmod(self.start_minute, 60)
        return now.replace(hour=hour, minute=minute, second=0, microsecond=0)


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
