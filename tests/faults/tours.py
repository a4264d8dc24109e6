"""The moves as units: keys migrated, backed up and restored by processes that are killed (`tests.faults.moves`)."""

from collections.abc import Callable
from functools import partial

from . import moves
from .units import Room, Unit

KEYS, VERSIONS, THOUSAND = 50, 4, 1000


def units(*, short: bool) -> list[Unit]:
    """A unit a tour, one of restores, one of many keys; none in short, for `test_moves` has those."""
    if short:
        return []
    parts: dict[str, Callable[[moves.Campaign], object]] = {
        f"tour-{number}": partial(_tour, number=number) for number in range(len(moves.TOURS))
    }
    parts |= {"restores": moves.Campaign.restores, "thousand": lambda campaign: campaign.thousand(THOUSAND)}
    return [Unit("moves", "", name, partial(move, part=part)) for name, part in parts.items()]


def _tour(campaign: moves.Campaign, *, number: int) -> None:
    campaign.tour(moves.TOURS[number])


def move(room: Room, *, part: Callable[[moves.Campaign], object]) -> None:
    """One part, and the search through everything that it wrote."""
    campaign = moves.Campaign(room.folder, KEYS, VERSIONS, room.chance.randrange(10**6))
    with moves.logged(room.folder / "said" / "campaign.log"), campaign.scene.doubles.entered():
        part(campaign)
        campaign.leaks()
    for case in campaign.cases:
        room.case(faults=case.kills, signals=case.kills)
        if case.problem:
            room.violation(f"{case.part}, {case.name}: {case.problem}")
