"""Replies that are lost, late, doubled, halved or refused: every request of a rotation, by each mishap, on each cloud.

The official SDKs, as the stores use them, over real sockets to the doubles, with proxies in between
(`tests.support.proxy`, `tests.support.relay`, `tests.support.mishaps`). After each case the next runs are left alone;
then the independent checker looks at store and ledger. What runs say and what is logged at DEBUG goes into the room's
folder, which is searched for material.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count

from tests.faults.units import Room, Unit
from tests.support.mishaps import Choose, Mishap, at

from .cases import HURRIED_SECONDS, Lab, logged
from .processes import rotated
from .sites import SITES, Site, behind

CAMPAIGN = "replies"
CASES_IN_A_WORLD = 8
CASES = 40
PAIRS, STORMS, PROCESSES = 2, 2, 2
LONGEST_RUN = 16  # about so many requests has a run, what it asks of the ledger's keys included
LONG = HURRIED_SECONDS * 0.4  # longer than one attempt waits for a reply
SHARE = 0.3  # of calls that are refused, where many are
_STATUSES = (429, 500, 503)
_PAUSES = ("", "0", "1", "3600")
REFUSALS = [Mishap("status", status=status, retry_after=pause) for status in _STATUSES for pause in _PAUSES]
LOST = [
    Mishap("drop_reply"),
    Mishap("reset_before"),
    Mishap("reset_after"),
    Mishap("delay", seconds=LONG),
    Mishap("duplicate"),
    Mishap("duplicate_first"),
    Mishap("late"),
    Mishap("loris", seconds=LONG),
    Mishap("half"),
    Mishap("foreign", status=200),
    Mishap("foreign", status=502),
]
EVERY = [*LOST, *REFUSALS]
PASSING = [each for each in REFUSALS if each.retry_after != "3600"] + [r for r in REFUSALS if not r.retry_after]
SHORT = [Mishap("drop_reply"), Mishap("duplicate"), Mishap("half"), Mishap("late"), REFUSALS[0]]
GROUPS = {mishap.kind: [other for other in LOST if other.kind == mishap.kind] for mishap in LOST} | {
    f"status-{status}": [each for each in REFUSALS if each.status == status] for status in _STATUSES
}


def units(*, short: bool) -> list[Unit]:
    """The short form: some mishaps for each cloud. In full: each to every request, pairs, storms, and processes."""
    made = []
    for cloud in SITES:
        if short:
            made.append(Unit(CAMPAIGN, cloud, "some", partial(_some, cloud)))
            continue
        made += [Unit(CAMPAIGN, cloud, f"each-{name}", partial(_each, cloud, kinds)) for name, kinds in GROUPS.items()]
        made += [Unit(CAMPAIGN, cloud, f"pairs-{n}", partial(_pairs, cloud)) for n in range(PAIRS)]
        made += [Unit(CAMPAIGN, cloud, f"storm-{n}", partial(_storm, cloud)) for n in range(STORMS)]
        made += [Unit(CAMPAIGN, cloud, f"processes-{n}", partial(rotated, cloud, _weather)) for n in range(PROCESSES)]
    return made


class _Labs:
    """A world after another, each for so many cases."""

    def __init__(self, room: Room, site: Site) -> None:
        self._room, self._site = room, site
        self._lab: Lab | None = None
        self.runs = self.succeeded = 0

    def case(self, choose: Choose) -> int:
        """One case, in the world whose turn it is; how many requests something happened to."""
        if self._lab is None:
            self._lab = Lab(self._room, self._site, self._room.folder / "said")
        faults = self._lab.case(choose)
        if self._lab.runs >= CASES_IN_A_WORLD:
            self.end()
        return faults

    def end(self) -> None:
        """The world is looked at as a whole; the next case has another one."""
        if self._lab is not None:
            self._lab.end()
            self.runs, self.succeeded = self.runs + self._lab.runs, self.succeeded + self._lab.succeeded
            self._lab = None


@contextmanager
def _labs(cloud: str, room: Room) -> Iterator[_Labs]:
    with behind(cloud) as site, logged(room.folder / "log"):
        labs = _Labs(room, site)
        yield labs
        labs.end()


def _each(cloud: str, mishaps: Sequence[Mishap], room: Room) -> None:
    """Each of them to every request of a run, one at a time; every so many runs, the one that makes the key."""
    with _labs(cloud, room) as labs:
        for mishap in mishaps:
            places = count(1)
            while labs.case(at({next(places): mishap})):  # to the first place that a run does not come to
                pass


def _pairs(cloud: str, room: Room) -> None:
    """Two or three of them in one run."""
    chance = room.chance
    with _labs(cloud, room) as labs:
        for _ in range(CASES):
            places = chance.sample(range(1, LONGEST_RUN), chance.choice((2, 2, 3)))
            labs.case(at({place: chance.choice(EVERY) for place in places}))


def _storm(cloud: str, room: Room) -> None:
    """Three of ten calls are refused; most runs come through all the same."""
    with _labs(cloud, room) as labs:
        for _ in range(CASES):
            labs.case(_refused(room))
    room.figure("percent of runs that failed while 30 % of calls were refused", 100 * (1 - labs.succeeded / labs.runs))
    if labs.succeeded * 2 < labs.runs:
        room.violation(
            f"{cloud}: {labs.succeeded} of {labs.runs} runs succeeded while {SHARE:.0%} of calls were refused"
        )


def _refused(room: Room) -> Choose:
    return lambda _: room.chance.choice(PASSING) if room.chance.random() < SHARE else None


def _weather(room: Room) -> Choose:
    """What happens to one process: some of everything, or calls that are refused."""
    if room.chance.random() < 0.5:
        return _refused(room)
    return lambda _: room.chance.choice(EVERY) if room.chance.random() < SHARE / 2 else None


def _some(cloud: str, room: Room) -> None:
    """The first request that writes a version, by some mishaps; then a few of chance."""
    with _labs(cloud, room) as labs:
        for mishap in SHORT:
            labs.case(at({room.chance.randrange(1, LONGEST_RUN): mishap, room.chance.randrange(5, 9): mishap}))
