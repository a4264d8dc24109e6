"""The protocol explored in full: every order in which runs, deaths and late writers can meet (`tests.model`).

Each takes one kind of store with more that may go wrong than the tests allow for: looks that are not atomic, looks that
miss what was staged last, checks that fail, a third run. An exploration ends at the first violation it finds.
"""

from functools import partial

from tests.model.engine import Setting
from tests.model.exploration import Explorer

from .units import Room, Unit

SETTINGS = [
    Setting(fenced=fenced, **wrong)
    for fenced in (True, False)
    for wrong in (
        {"split_looks": True},
        {"split_looks": True, "failing_checks": True},
        {"split_looks": True, "failing_checks": True, "creation": True},
        {"split_looks": True, "failing_checks": True, "same_request": True},
        {"stale_looks": True, "same_request": True},
        {"stale_looks": True, "failing_checks": True, "creation": True},
        {"same_request": True, "runs": 3},
    )
]


def units(*, short: bool) -> list[Unit]:
    """One a setting; none in short, for `tests/model` has those."""
    if short:
        return []
    return [
        Unit(
            "explore",
            "memory",
            f"{setting.kind}-{setting.variant.replace(' ', '-')}",
            partial(explore, setting=setting),
        )
        for setting in SETTINGS
    ]


def explore(room: Room, *, setting: Setting) -> None:
    """One setting: each state that can be reached is a case."""
    result = Explorer(setting).explore()
    room.tally.cases += result.states
    if result.problem:
        room.violation("\n".join([result.problem, *result.story]))
