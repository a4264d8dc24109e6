"""What campaigns are made of: units, each with a name, randomness and an empty folder of its own, and sums that add up.

A campaign is a module with `units(*, short: bool) -> list[Unit]`; `tests.faults.campaigns` knows them all, and
`python -m tests.faults` runs each unit in a process of its own and adds up what came of it. With `short` they take
seconds: that is what `make test` has.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, field


class Tally(Struct):
    """What a unit came to."""

    cases: int = 0
    """Situations that were built, left alone at their end, and checked."""
    faults: int = 0
    """How often something was made to go wrong: deaths, lost replies, lies, sleeps, forged bytes, …"""
    signals: int = 0
    """Of the faults, those that hit a process of its own: signals, and what was done to its connections."""
    violations: list[str] = field(default_factory=list)
    """Each with what is needed to see it again."""
    figures: dict[str, float] = field(default_factory=dict)
    """What was measured besides; the largest of all units of a campaign and store is told."""
    seconds: float = 0.0


class Room:
    """What a unit works with."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        """`folder` is there and empty; all that is written goes into it, to be searched for material at the end."""
        self.folder = folder
        self.chance = chance
        self.tally = Tally()
        self.materials: set[bytes] = set()
        """All material that came into being, as far as the checker has met it: none of it may be in the folder."""

    def case(self, *, faults: int, signals: int = 0) -> None:
        """One more case is through."""
        self.tally.cases += 1
        self.tally.faults += faults
        self.tally.signals += signals

    def violation(self, story: str) -> None:
        """Something was not as it must be; `story` says what was done, and what was found."""
        self.tally.violations.append(story)

    def figure(self, name: str, value: float) -> None:
        """Something that was measured; the largest is kept."""
        self.tally.figures[name] = max(value, self.tally.figures.get(name, value))


class Unit(NamedTuple):
    """A piece of a campaign, of a minute or so: what an interruption loses."""

    campaign: str
    store: str
    """local, aws, azure, gcp; memory for doubles of the library's own protocol; "" for what has none."""
    name: str
    """Unique in its campaign and store."""
    work: Callable[[Room], None]
    alone: bool = False
    """Not to be tried among other tests: it changes what is its whole process's, as `make faults` always gives it."""

    @property
    def id(self) -> str:
        """Unique among all."""
        return ".".join(part for part in (self.campaign, self.store, self.name) if part)
