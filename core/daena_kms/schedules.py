"""How far apart a schedule's ticks are, and what that does to the keys of a policy. Pure; all times are UTC.

The longest gap is exact. The calendar repeats after 400 years, which are a whole number of weeks: every gap that there
can be begins within 400 years from now. They are quick to look through: which days of a month have ticks depends
only on its length and on the weekday with which it begins.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from types import ModuleType

from msgspec import Struct

from .cron import LAST_YEAR, Schedule
from .errors import ConfigurationError
from .policy import LONGEST_TICK, KeyPolicy, Tick, contradictions
from .window import Window

CYCLE_DAYS = 146_097  # of 400 years
SHOWN = 4
_DAY_SECONDS = 86_400
_LAST_YEAR = 9999
_RARE_YEARS = 100  # no day comes around more rarely: 29 February on one weekday skips 40 years at most
Times = tuple[int, ...]


class Gap(Struct, frozen=True):
    """From one tick to the next."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    @property
    def days(self) -> float:
        return in_days(self.length)


class Gaps(Struct, frozen=True):
    """The longest and the shortest gap that there will be, each where it first occurs."""

    longest: Gap
    shortest: Gap


class KeyAdvice(Struct, frozen=True):
    """What a schedule does to one key."""

    key: str
    limit_days: int
    calendar: Gap | None
    """The oldest that the key gets if each tick (in its window) rotates it; None if no tick falls into its window."""
    by_age_days: float | None
    """The oldest it gets by `rotate`, which goes by age, with the tick setting that fits; None: there is none."""
    as_set_days: float | None
    """The oldest it gets by `rotate` with the tick setting as it is; None if no tick falls into its window."""
    problems: tuple[str, ...] = ()
    """Why `rotate` refuses."""

    @property
    def kept(self) -> bool:
        """True if the key keeps its limit by the calendar alone."""
        return self.calendar is not None and self.calendar.length <= timedelta(days=self.limit_days)


class Advice(Struct, frozen=True):
    """What there is to know of a schedule under a policy."""

    schedule: Schedule
    next: tuple[datetime, ...]
    """The next ticks; those of a rate are counted from now."""
    gaps: Gaps | None
    """None if it ticks only once more."""
    tick: Tick
    """The settings as they are."""
    needed_minutes: int
    """What DAENA_TICK_MINUTES must say for `rotate` to be right under this schedule."""
    keys: tuple[KeyAdvice, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def advise(schedule: Schedule, keys: Mapping[str, KeyPolicy], tick: Tick, now: datetime) -> Advice:
    """What a schedule means for each key. Raises ConfigurationError for one that never ticks, or without `cronsim`."""
    ticks = ticks_of(schedule, now)
    coming = tuple(islice(ticks.after(), SHOWN))
    if not coming:
        raise ConfigurationError(f"{schedule.expression!r} never ticks again", "there is no such day any more")
    gaps = ticks.gaps()
    longest = gaps.longest.length if gaps else timedelta(0)
    needed = math.ceil(longest / timedelta(minutes=1))
    seen = {policy.window: ticks.gaps(policy.window) for policy in keys.values()}
    told = tuple(_key(key, policy, seen[policy.window], longest, tick) for key, policy in keys.items()) if gaps else ()
    warnings = (*_ending(schedule, gaps), *_setting(longest, tick, needed, told), *_too_old(told, schedule, longest))
    return Advice(schedule, coming, gaps, tick, needed, told, warnings, _notes(schedule))


def ticks_of(schedule: Schedule, now: datetime) -> "Rate | Calendar":
    """The ticks after `now`."""
    return Rate(schedule.every, now) if schedule.every else Calendar(schedule, now)


class Rate:
    """Ticks at an interval, whose beginning only the scheduler knows: its gaps begin now for want of a better time."""

    def __init__(self, every: timedelta, now: datetime) -> None:
        self._every, self._now = every, now

    def after(self) -> Iterator[datetime]:
        now = self._now.replace(microsecond=0)
        return (now + number * self._every for number in range(1, SHOWN + 1))

    def gaps(self, window: Window | None = None) -> Gaps | None:
        """The interval. With a window the longest that two ticks in it may be apart; None if one may miss it."""
        start, longest = self._now.replace(microsecond=0), self._every
        if window is not None:
            if window.length < self._every:
                return None
            longest *= math.ceil(window.longest_closed() / self._every) + 1
        return Gaps(Gap(start, start + longest), Gap(start, start + self._every))


class Calendar:
    """Ticks by the calendar, from one time on."""

    def __init__(self, schedule: Schedule, now: datetime) -> None:
        sim = _cronsim().CronSim
        # Days and months apart: together, cronsim refuses days that no month has by a rule that is not every dialect's.
        head = f"{schedule.seconds} {schedule.minutes} {schedule.hours}"
        self._sim = sim(f"{head} {schedule.days} * {schedule.weekdays}", now)
        self._months: set[int] = sim(f"0 0 0 1 {schedule.months} *", now).months
        self._years, self._both = schedule.years, schedule.both
        self._now = now
        self._times: Times = tuple(
            hour * 3600 + minute * 60 + second
            for hour in sorted(self._sim.hours)
            for minute in sorted(self._sim.minutes)
            for second in sorted(self._sim.seconds)
        )
        self._days_of = cache(self._days_of_month)

    def after(self, window: Window | None = None) -> Iterator[datetime]:
        """Every tick after now; with a window those that fall into it."""
        on = self._on(window)
        for day in self._days():
            for second in self._left(day, on[(day - 1) % 7]):
                yield _moment(day * _DAY_SECONDS + second)

    def gaps(self, window: Window | None = None) -> Gaps | None:
        """The longest and shortest gap from the first tick after now on; None if there are not two ticks."""
        on = self._on(window)
        inner = {times: _extremes(times) for times in set(on)}
        found, before, today = _Found(), 0, self._now.toordinal()
        for day in self._days():
            times = on[(day - 1) % 7]
            within = inner.pop(times, []) if day > today else _extremes(times := self._left(day, times))
            if not times:
                continue
            base = day * _DAY_SECONDS
            if before:
                found.take(before, base + times[0])
            for start, end in within:
                found.take(base + start, base + end)
            before = base + times[-1]
            if day > today + CYCLE_DAYS:
                break
        return found.gaps()

    def _on(self, window: Window | None) -> list[Times]:
        """The times of day on each weekday, Monday first."""
        if window is None:
            return [self._times] * 7
        return [tuple(time for time in self._times if _open(window, weekday, time)) for weekday in range(7)]

    def _left(self, day: int, times: Times) -> Times:
        """Those of a day's times that are still to come."""
        if day > self._now.toordinal():
            return times
        now = self._now.hour * 3600 + self._now.minute * 60 + self._now.second
        return tuple(time for time in times if time > now)

    def _days(self) -> Iterator[int]:
        """Every day with ticks from today on, as ordinals: a cycle of the calendar, and as far as the next rare day."""
        today = self._now.date()
        for year in range(today.year, min(today.year + 400 + _RARE_YEARS, _LAST_YEAR) + 1):
            if self._years and year not in self._years:
                continue
            for month in sorted(self._months):
                first = date(year, month, 1).toordinal()
                for day in self._days_of(month, first % 7, _length(year, month)):
                    if first + day - 1 >= today.toordinal():
                        yield first + day - 1

    def _days_of_month(self, month: int, begins: int, length: int) -> tuple[int, ...]:
        """The days with ticks of a month of that length that begins with that weekday."""
        year = next(
            year
            for year in range(2000, 2028)  # 28 years have every kind of month
            if date(year, month, 1).toordinal() % 7 == begins and _length(year, month) == length
        )
        return tuple(day for day in range(1, length + 1) if self._matches(date(year, month, day)))

    def _matches(self, day: date) -> bool:
        of_month, of_week = bool(self._sim.match_dom(day)), bool(self._sim.match_dow(day))
        return (of_month and of_week) if self._both else (of_month or of_week)


class _Found:
    """The longest and the shortest so far, in seconds; of equals the first."""

    def __init__(self) -> None:
        self._longest: tuple[int, int] | None = None
        self._shortest: tuple[int, int] | None = None

    def take(self, start: int, end: int) -> None:
        if self._longest is None or self._shortest is None:
            self._longest = self._shortest = (start, end)
        elif end - start > self._longest[1] - self._longest[0]:
            self._longest = (start, end)
        elif end - start < self._shortest[1] - self._shortest[0]:
            self._shortest = (start, end)

    def gaps(self) -> Gaps | None:
        if self._longest is None or self._shortest is None:
            return None
        return Gaps(_gap(*self._longest), _gap(*self._shortest))


def _gap(start: int, end: int) -> Gap:
    return Gap(_moment(start), _moment(end))


def _moment(seconds: int) -> datetime:
    day, second = divmod(seconds, _DAY_SECONDS)
    return datetime.fromordinal(day).replace(tzinfo=UTC) + timedelta(seconds=second)


def _length(year: int, month: int) -> int:
    start = date(year, month, 1)
    return (date(year + month // 12, month % 12 + 1, 1) - start).days if year < _LAST_YEAR or month < 12 else 31


def _extremes(times: Times) -> list[tuple[int, int]]:
    """Of the gaps inside a day the first longest and the first shortest."""
    if len(times) < 2:
        return []
    lengths = [end - start for start, end in pairwise(times)]
    places = (lengths.index(max(lengths)), lengths.index(min(lengths)))
    return [(times[place], times[place + 1]) for place in places]


def _open(window: Window, weekday: int, second: int) -> bool:
    """True if the window is open on that weekday at that time."""
    start, length = window.start_minute * 60, window.length_minutes * 60
    today = weekday in window.days and start <= second < start + length
    return today or ((weekday - 1) % 7 in window.days and second + _DAY_SECONDS < start + length)


def _cronsim() -> ModuleType:
    try:
        import cronsim  # noqa: PLC0415  # only who asks about a calendar needs it
    except ModuleNotFoundError:
        raise ConfigurationError("the package cronsim is not installed", "pip install 'daena-kms[cli]'") from None
    return cronsim


def _key(key: str, policy: KeyPolicy, gaps: Gaps | None, longest: timedelta, tick: Tick) -> KeyAdvice:
    """`gaps` are those of the ticks in the key's window, `longest` is that of all ticks."""
    problems = tuple(contradictions(policy, Tick(longest, tick.slack)))
    limit = timedelta(days=policy.rotate_after_days)
    worst = gaps.longest if gaps else None
    # By age a key is rotated at the last tick before its limit. A tick setting that is too short says "not yet" at that
    # tick, and then the key waits a whole gap more.
    late = timedelta(0)
    if worst is not None and longest > tick.interval:
        late = worst.length - tick.interval
    return KeyAdvice(
        key,
        policy.rotate_after_days,
        worst,
        None if problems or worst is None or longest > LONGEST_TICK else in_days(limit),
        None if worst is None else in_days(limit + late),
        problems,
    )


def in_days(span: timedelta) -> float:
    """A span in days, to the hundredth."""
    return round(span / timedelta(days=1), 2)


def _ending(schedule: Schedule, gaps: Gaps | None) -> list[str]:
    if gaps is None:
        return ["it ticks once more and never again"]
    if not schedule.years or schedule.years[-1] == LAST_YEAR:
        return []
    return [f"it ends with the year {schedule.years[-1]}: after that nothing rotates"]


def _setting(longest: timedelta, tick: Tick, needed: int, keys: Sequence[KeyAdvice]) -> list[str]:
    if longest <= tick.interval:
        return []
    minutes = tick.interval // timedelta(minutes=1)
    oldest = max((key.as_set_days or 0 for key in keys), default=0)
    as_set = f"DAENA_TICK_MINUTES is {minutes}, but ticks are up to {span(longest)} apart"
    if longest > LONGEST_TICK:
        most = LONGEST_TICK // timedelta(minutes=1)
        advice = f"{as_set}, and {most} is the most that it takes: let it tick more often"
    else:
        advice = f"{as_set}: set it to {needed}"
    return [f"{advice}; as it is, `rotate` lets a key get {oldest:g} days old"]


def _too_old(keys: Sequence[KeyAdvice], schedule: Schedule, longest: timedelta) -> list[str]:
    told = []
    for key in keys:
        if key.calendar is None:
            told.append(f"{key.key}: no tick is sure to fall into its window: it may never be rotated")
        elif not key.kept:
            gap = key.calendar
            dates = f", from {gap.start:%Y-%m-%d %H:%M} to {gap.end:%Y-%m-%d %H:%M}" if not schedule.every else ""
            told.append(
                f"{key.key}: rotated at each tick it gets {span(gap.length)} old{dates}; "
                f"the limit is {key.limit_days} days"
            )
        if longest <= LONGEST_TICK:  # a longer one cannot be set, so it does not come to that
            told += [f"{key.key}: `rotate` refuses: {problem}" for problem in key.problems]
    return told


def _notes(schedule: Schedule) -> tuple[str, ...]:
    zones = {
        "unix": "cron ticks in its machine's time zone",
        "aws": "EventBridge Scheduler ticks in its schedule's time zone, UTC unless it says another",
        "azure": "Azure Functions tick in UTC, unless WEBSITE_TIME_ZONE says another zone",
        "gcp": "Cloud Scheduler ticks in its job's time zone",
    }
    if schedule.every or not schedule.dialect:
        return ("an interval is counted from when the schedule was made: the next ticks are examples",)
    return (
        f"all times here are UTC; {zones[schedule.dialect]}",
        "where there is summer time, one gap a year is an hour longer, and DAENA_TICK_MINUTES has to be 60 more",
    )


def span(length: timedelta) -> str:
    """A span for people: in its largest whole unit, or in days to the hundredth."""
    for name, unit in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, rest = divmod(round(length.total_seconds()), unit)
        if not rest:
            return f"{count} {name}{'s' * (count != 1)}"
        if name == "day" and count >= 10:
            return f"{in_days(length):g} days"
    return "0 seconds"
