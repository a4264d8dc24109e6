"""All campaigns there are, by name: what each one is for is told where its units are."""

from collections.abc import Callable, Iterator

from . import boundaries, explorations, fuzzing, kill, load, overlap, replies, soak, tamper, tours
from .units import Unit

# The quick ones first.
_ROOMS: tuple[Callable[..., list[Unit]], ...] = (
    explorations.units,
    boundaries.units,
    tamper.units,
    fuzzing.units,
    kill.units,
    overlap.units,
    replies.units,
    soak.units,
    load.units,
    tours.units,
)
CAMPAIGNS = (
    "explore", "once", "pairs", "chance", "tamper", "fuzz", "kill", "overlap", "replies", "soak", "load", "moves",
)  # fmt: skip


def all_units(*, short: bool) -> Iterator[Unit]:
    """Every unit of every campaign, in the order in which they are run."""
    for units in _ROOMS:
        yield from units(short=short)
