"""`python -m tests.faults`: units in processes of their own, sums, what an interruption loses, and what counts."""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from . import __main__ as campaigns
from .units import Room, Tally, Unit

SHORT = ["--short", "--only", "soak", "--seed", "3", "--jobs", "1"]


def test_what_is_through_is_kept_and_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "faults.json"
    assert campaigns.main([*SHORT, "--json", str(file)]) == 0
    first = json.loads(file.read_text())
    told = capsys.readouterr().out
    assert first["seed"] == 3
    (row,) = first["campaigns"]
    assert (row["campaign"], row["store"], row["cases"], row["violations"]) == ("soak", "local", 12, 0)
    assert row["faults"] > 0
    assert [line.split()[:2] for line in told.splitlines() if line.startswith("all ")] == [["all", "12"]]

    def no_process(*_: object, **__: object) -> None:
        raise AssertionError("it is through")

    monkeypatch.setattr(subprocess, "run", no_process)
    assert campaigns.main([*SHORT, "--json", str(file)]) == 0
    assert json.loads(file.read_text()) == first
    with pytest.raises(AssertionError, match="it is through"):
        campaigns.main([*SHORT, "--seed", "4", "--json", str(file)])


def test_an_interruption_loses_what_is_under_way_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    units = [Unit("soak", "local", name, lambda _: None) for name in ("first", "second", "third")]
    monkeypatch.setattr(campaigns, "all_units", lambda **_: units)

    def run(unit: Unit, *_: object, **__: object) -> Tally:
        if unit.name == "second":
            raise KeyboardInterrupt
        return Tally(cases=1)

    monkeypatch.setattr(campaigns, "in_process", run)
    assert campaigns.main(["--seed", "3", "--jobs", "1", "--json", str(tmp_path / "faults.json")]) == 1
    assert "interrupted: --seed 3 goes on from here" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "faults.json").read_text())["campaigns"]
    assert row["units"] == 1


def _breaks(room: Room) -> None:
    room.case(faults=1)
    raise ValueError("a bug")


def _leaks(room: Room) -> None:
    room.materials.add(b"a canary of 32 bytes, no more....")
    (room.folder / "log").write_text(b"a canary of 32 bytes, no more....".hex())


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (_breaks, "the unit ended in ValueError: a bug"),
        (_leaks, "material in log"),
        (lambda room: room.violation("a key is lost"), "a key is lost"),
    ],
)
def test_what_counts_as_a_violation(work: Callable[[Room], None], told: str) -> None:
    assert campaigns.run(Unit("soak", "local", "x", work), seed=1).violations == [told]


def test_a_process_that_dies_is_a_violation(tmp_path: Path) -> None:
    tally = campaigns.in_process(Unit("soak", "local", "no-such-unit", lambda _: None), 1, tmp_path, short=True)
    assert tally.violations[0].startswith("its process ended with 1: see ")
    assert list(tmp_path.glob("*.json")) == []


def test_a_unit_does_the_same_for_the_same_seed() -> None:
    drawn: list[float] = []
    unit = Unit("soak", "local", "x", lambda room: drawn.append(room.chance.random()))
    for seed in (1, 1, 2):
        campaigns.run(unit, seed)
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == random.Random("1 soak.local.x").random()
