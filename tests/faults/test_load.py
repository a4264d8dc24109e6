"""What the load campaign gives each function is what infra/ gives it; it sees a key that fails and one that is left."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daena_kms.model import Outcome, Status
from daena_kms.settings import read_settings
from daena_kms.warm import budget_seconds
from tests.support.virtual_time import VirtualTime

from . import load
from .load_places import GROUNDS, Ground
from .units import Room

ROOT = Path(__file__).parents[2]


def said(path: str, pattern: str) -> float:
    (found,) = re.findall(pattern, (ROOT / path).read_text())
    return float(found)


def ground(store: str, folder: Path) -> Ground:
    return GROUNDS[store](VirtualTime(time.time()), folder)


def test_a_lambda_has_the_time_that_its_template_gives(tmp_path: Path) -> None:
    assert ground("aws", tmp_path).seconds == said("infra/aws/template.yaml", r"Timeout: (\d+)")
    assert "CONCURRENCY" not in (ROOT / "infra/aws/template.yaml").read_text()


def test_a_function_app_has_the_time_that_terraform_gives(tmp_path: Path) -> None:
    made = ground("azure", tmp_path)
    shipped = said("infra/azure/function.tf", r'DAENA_TIME_BUDGET_SECONDS\s+= "(\d+)"')
    assert budget_seconds(read_settings(_daena(made)), made.seconds) == shipped
    assert made.seconds == 60 * said("functions/azure_function/host.json", r'"functionTimeout": "00:(\d+):00"')


def test_a_cloud_function_has_the_time_that_terraform_gives(tmp_path: Path) -> None:
    made = ground("gcp", tmp_path)
    most = said("infra/gcp/variables.tf", r'variable "timeout_seconds" {[^}]*default\s+= (\d+)')
    left = said("infra/gcp/function.tf", r"DAENA_TIME_BUDGET_SECONDS = tostring\(var\.timeout_seconds - (\d+)\)")
    assert budget_seconds(read_settings(_daena(made)), made.seconds) == most - left


def _daena(made: Ground) -> dict[str, str]:
    return {name: text for name, text in made.settings.items() if name.startswith("DAENA_")}


def room(folder: Path) -> Room:
    return Room(folder, random.Random(1))


def test_the_local_store_rotates_all(tmp_path: Path) -> None:
    made = room(tmp_path)
    load.load(made, store="local", count=30, others=False)
    assert made.tally.violations == []
    assert (made.tally.cases, made.tally.figures["keys"], made.tally.figures["ticks"]) == (1, 30, 1)
    assert len(made.materials) > 30


@pytest.mark.parametrize("status", [Status.FAILED, Status.DEFERRED])
def test_a_key_that_fails_and_one_that_is_never_done_are_violations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    execute = load.Work._tick

    def tick(work: Any) -> Any:
        counts = execute(work)
        if counts[Status.ROTATED]:
            counts[Status.ROTATED] -= 1
            counts[status] += 1
        return counts

    monkeypatch.setattr(load.Work, "_tick", tick)
    made = room(tmp_path)
    load.load(made, store="local", count=3, others=False)
    assert any("were rotated" in story for story in made.tally.violations)


def test_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from daena_kms import fleet  # noqa: PLC0415

    rotate_one: Callable[..., fleet.Tried] = fleet.rotate_one

    def once(tools: Any, item: Any, *rest: Any) -> fleet.Tried:
        if item.key == "key-00001" and item.exists:
            return fleet.Tried(Outcome(item.key, Status.FAILED, "broken"))
        return rotate_one(tools, item, *rest)

    monkeypatch.setattr(fleet, "rotate_one", once)
    made = room(tmp_path)
    load.load(made, store="local", count=3, others=False)
    assert any("1 of a tick failed: key-00001: broken" in story for story in made.tally.violations)
    assert any("key-00001: version 1 is active" in story for story in made.tally.violations)
