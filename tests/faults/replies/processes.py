"""The same with the command in processes of its own: its SDKs' own pauses, what it prints, its exit status.

A reader in yet another process, which goes past the proxies, asks for the keys all the time.
"""

from collections.abc import Callable, Iterator
from unittest import mock

from tests.faults import grounds
from tests.faults.grounds import PERIOD_DAYS, Grounds, Ran
from tests.faults.rotators import News
from tests.faults.units import Room
from tests.faults.watcher import Watcher
from tests.support.mishaps import Choose

from .sites import Site, behind

SECONDS = 5  # DAENA_CALL_TIMEOUT_SECONDS
KEYS, ROUNDS = 6, 3
_SETTINGS = {"DAENA_CALL_TIMEOUT_SECONDS": str(SECONDS)}


def rotated(
    cloud: str, choice: Callable[[Room], Choose], room: Room, *, keys: int = KEYS, rounds: int = ROUNDS
) -> None:
    """Every key is rotated by a process of its own, in rounds, with what `choice` makes happen to its requests."""
    with behind(cloud) as site:

        def past(provider: str, prefix: str, environment: dict[str, str], *more: object) -> Watcher:
            return Watcher(provider, prefix, environment | site.direct, *more)  # type: ignore[arg-type]

        with mock.patch.object(grounds, "Watcher", past), Grounds(room, cloud, keys) as ground:
            ground.make(ground.keys)
            ground.reader.watch(ground.keys)
            for _ in range(rounds):
                _round(site, ground, choice)
                ground.clock.move(days=PERIOD_DAYS)


def _round(site: Site, ground: Grounds, choice: Callable[[Room], Choose]) -> None:
    before, stories, succeeded = ground.versions(ground.keys), {}, 0
    for key in ground.keys:
        site.plan.begin(choice(ground.room))
        ran, news = ground.run("rotate", key, "--json", settings=_SETTINGS)
        site.plan.end()
        stories[key] = f"{site.plan.story()}; {news.what} with {news.status}: {ran.told()[-600:]}"
        faults = len(site.plan.done)
        ground.room.case(faults=faults, signals=faults)
        done = ground.versions([key])[key] > before[key]
        succeeded += done
        for problem in _of_report(ran, news, done=done):
            ground.room.violation(f"{site.provider}: {key}: {problem}; {stories[key]}")
    site.plan.deliver()
    ground.room.figure(f"failed of {len(ground.keys)} processes in a round", len(ground.keys) - succeeded)
    grown = {key: (number + 1, number + 2) for key, number in before.items()}
    ground.settle(ground.keys, stories, grown)


def _of_report(ran: Ran, news: News, *, done: bool) -> Iterator[str]:
    """A success is one. What was done may be told as failed, where the last reply was lost: the next run knows."""
    try:
        outcomes = ran.report().get("outcomes", [])
    except ValueError:  # who cannot open the ledger or list the keys prints no report
        outcomes = []
    statuses = {outcome["status"] for outcome in outcomes}
    if statuses & {"rotated", "created"} and not done:
        yield "a success that is none"
    if ("failed" in statuses or not statuses) is not (news.status != 0):
        yield f"it tells of {statuses or 'nothing'}, and ended with {news.status}"
    if any(not outcome["hint"] for outcome in outcomes if outcome["status"] in ("failed", "deferred")):
        yield "a failure without a hint"
