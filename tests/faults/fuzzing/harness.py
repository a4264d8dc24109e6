"""Examples from hypothesis, one after another, each under a watch: what must hold, in time, and in bounded memory.

What raises an example's check is a violation, told with the example (the smallest that hypothesis found) and with where
it was raised. An example that works for longer than `PATIENCE_SECONDS`, or waits for longer than `IDLE_SECONDS`, is
broken off by an alarm and "hangs"; where nothing can be broken off any more, the whole process ends with a traceback of
every thread, which kills the unit.
"""

import faulthandler
import logging
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

from daena_kms.errors import LONGEST_MESSAGE, KmsError

from ..units import Room

PATIENCE_SECONDS = 10.0
"""Of this process's own work. The slowest example that is right needs a scrypt of two or three."""
IDLE_SECONDS = 60.0
"""Of the world's time: whoever waits for so long waits for ever. Other processes may have the machine meanwhile."""
_HOPELESS_SECONDS = 180.0
MOST_GROWTH_MIB = 400
"""Of a unit's process over all of its examples. Hypothesis itself keeps a few dozen."""
LONGEST_TOLD = 600
SHRINKS = True
"""Whether what was found is made as small as it can be: some hundred examples more."""

Example = TypeVar("Example")


class Wrong(Exception):  # noqa: N818  # what a campaign looks for
    """Something is not as it must be."""


class HangsError(BaseException):
    """Raised by the alarm into whatever runs. Not an Exception: nothing may catch it."""


def require(holds: object, otherwise: str) -> None:
    """Raise Wrong unless it is so."""
    if not holds:
        raise Wrong(otherwise)


def tried(
    room: Room,
    name: str,
    strategy: SearchStrategy[Example],
    check: Callable[[Example], None],
    *,
    most: int,
    shrinks: bool = True,
) -> None:
    """Check so many examples; each is a case and a fault. The first that is wrong is told, and ends the search."""
    logging.getLogger("daena_kms").addHandler(logging.NullHandler())  # nobody reads what is logged on the way
    found: list[str] = []
    slowest = 0.0
    before = resident_mib()

    def one(example: Example) -> None:
        nonlocal slowest
        began = time.monotonic()
        try:
            with watched():
                check(example)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # noqa: BLE001  # what a Rust extension raises where it panics is no Exception
            found.append(f"{name}: {told(example)}: {_story(problem)}")
            raise Wrong(found[-1]) from None
        finally:
            slowest = max(slowest, time.monotonic() - began)
            room.case(faults=1)

    phases = (Phase.generate, Phase.shrink) if shrinks and SHRINKS else (Phase.generate,)
    searched = hypothesis.given(strategy)(one)
    searched = hypothesis.settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=phases,
        verbosity=Verbosity.quiet,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )(searched)
    searched = hypothesis.seed(room.chance.randrange(2**32))(searched)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)  # that what it found is long
            searched()
    except Exception as problem:  # noqa: BLE001  # hypothesis on what was found; or something of its own
        room.violation(found[-1] if found else f"{name}: {_story(problem)}")
    room.figure("slowest example, seconds", round(slowest, 2))
    growth = resident_mib() - before
    room.figure("growth over a unit, MiB", round(growth))
    if growth > MOST_GROWTH_MIB:
        room.violation(f"{name}: the process grew by {growth:.0f} MiB over {most} examples")


@contextmanager
def watched() -> Iterator[None]:
    """Break off what takes longer. Elsewhere than in the main thread there is no alarm: only the end of hope."""
    faulthandler.dump_traceback_later(_HOPELESS_SECONDS, exit=True, file=sys.__stderr__ or 2)
    alarms = threading.current_thread() is threading.main_thread()
    if alarms:
        before = [signal.signal(name, _ring) for name in (signal.SIGALRM, signal.SIGPROF)]
        signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, PATIENCE_SECONDS)
    try:
        yield
    finally:
        if alarms:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            for name, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
                signal.signal(name, handler)
        faulthandler.cancel_dump_traceback_later()


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise HangsError


def told(example: object) -> str:
    """An example for a line of a report."""
    text = example.hex() if isinstance(example, bytes) and not example.isascii() else ascii(example)
    return text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}… ({len(text)} characters)"


def _story(problem: BaseException) -> str:
    if isinstance(problem, Wrong):
        return str(problem)
    if isinstance(problem, HangsError):
        return (
            f"hangs: no end after {PATIENCE_SECONDS:.0f} s of work, or {IDLE_SECONDS:.0f} s in all; {_where(problem)}"
        )
    text = ascii(str(problem))[1:-1][:200]
    return f"{type(problem).__name__}: {text}; {_where(problem)}"


def _where(problem: BaseException) -> str:
    frames = traceback.extract_tb(problem.__traceback__)
    ours = [frame for frame in frames if "/daena_kms/" in frame.filename] or frames
    return "at " + " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in ours[:-5:-1])


def sensible(problem: KmsError, most: int = LONGEST_MESSAGE) -> None:
    """An error of ours is words for people, of a bounded length, and no traceback."""
    require(problem.message, f"{type(problem).__name__} without a message")
    for text in (problem.message, problem.hint):
        require(len(text) <= most, f"{type(problem).__name__} of {len(text)} characters")
    require("Traceback (most recent" not in problem.message, "a traceback is in the message")


def allowed(do: Callable[[], Any]) -> Any:
    """What came of it; an error of ours is an answer, and is returned as None. Everything else comes out."""
    try:
        return do()
    except KmsError as problem:
        sensible(problem)
        return None


def resident_mib(process: int | str = "self") -> float:
    """Memory that a process holds now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)
