"""Every campaign in short: each unit as `make faults` would run it, but in this process where that does no harm."""

from pathlib import Path

import pytest

from .__main__ import in_process, run
from .campaigns import CAMPAIGNS, all_units
from .units import Unit

SHORT = list(all_units(short=True))


@pytest.mark.usefixtures("dropped_connections")
@pytest.mark.parametrize("unit", SHORT, ids=[unit.id for unit in SHORT])
def test_nothing_is_lost(unit: Unit, tmp_path: Path) -> None:
    tally = in_process(unit, 1, tmp_path, short=True) if unit.alone else run(unit, seed=1)
    assert tally.violations == []
    assert tally.cases > 0


def test_units_are_named_once_and_belong_to_a_campaign() -> None:
    for short in (True, False):
        ids = [unit.id for unit in all_units(short=short)]
        assert len(ids) == len(set(ids))
    assert {unit.campaign for unit in all_units(short=False)} == set(CAMPAIGNS)
