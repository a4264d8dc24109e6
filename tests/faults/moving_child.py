"""The command in a process whose clock is ahead, and which may die at a moment that is chosen.

    python -m tests.faults.moving_child MINUTES DIE_AT [ARGUMENT]...

MINUTES is how far its clock is ahead of the real one: a killed run's lease has ended for the next one, and nobody waits
for it. DIE_AT kills it, with SIGKILL, when it reads its clock for that time (0: never). It keeps to no service's quota
of writes a minute, for the doubles have none; all else is the command as it is installed.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from unittest import mock

from daena_kms import app, cli
from daena_kms.model import utc_now
from daena_kms.stores.pace import Pace


def clock(ahead: timedelta, die_at: int) -> Callable[[], datetime]:
    """The real time and something, until it is read for the last time."""
    readings = itertools.count(1)

    def now() -> datetime:
        if next(readings) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return utc_now() + ahead

    return now


def main(minutes: str, die_at: str, *arguments: str) -> None:
    """Run the command."""
    sys.argv = ["daena-key-rotate", *arguments]
    now = clock(timedelta(minutes=int(minutes)), int(die_at))
    with mock.patch.object(app, "utc_now", now), mock.patch.object(Pace, "wait", _pass):
        cli.main()


def _pass(_: Pace, __: float = 0.0) -> bool:
    """In place of waiting."""
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
