"""The campaign in short: a few keys, two moves, and a death in each. `make faults` has it at size."""

from pathlib import Path

import pytest

from . import checks
from .leaks import search
from .moves import TOURS, Campaign
from .restores import Safe, check_restored, run_backup
from .scene import STORES, Place, canary, require

KEYS, VERSIONS, SEED = 4, 3, 1
DEATHS = (60, 125)
"""Which reading of the clock a run dies at, of some 145: some versions are at the target by then, not all."""


def moved_with_a_death(campaign: Campaign, way: list[Place], target: Place) -> None:
    wanted: list[str | Path] = ["migrate", "--from", way[-1].file, "--to", target.file]
    died = campaign.runner.run(wanted, logs=False, die_at=campaign.chance.randint(*DEATHS))
    assert died.killed, died.told
    assert "daena_kms.rotation: step" in died.err.read_text()
    for place in (way[-1], target):
        checks.harmless_tick(campaign.scene, place)
    went_on = campaign.runner.run(wanted, logs=False)
    assert went_on.status == 0, went_on.told
    campaign.check_moved(way, target)


def test_keys_go_from_store_to_store_though_the_command_is_killed(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, KEYS, VERSIONS, SEED)
    with campaign.scene.doubles.entered():
        way = [campaign.scene.lived_in()]
        for provider in ("aws", "gcp"):
            moved_with_a_death(campaign, way, campaign.scene.place(provider))
        checks.rotates_nothing(campaign.scene, way[0])
        found = search(campaign.scene)
    assert campaign.runner.kills == 2
    assert found.files > 20
    assert found.records > 40
    assert found.leaks == []


def test_keys_come_back_from_a_backup_though_the_command_is_killed(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, KEYS, VERSIONS, SEED)
    safe, runner, scene = Safe(tmp_path), campaign.runner, campaign.scene
    source, target = scene.lived_in(), scene.place("local")
    assert run_backup(runner, safe, source, safe.file(source)).status == 0
    wanted: list[str | Path] = ["restore", safe.file(source), "--identity", safe.identity.file]
    died = runner.run(wanted, target.settings, logs=False, die_at=campaign.chance.randint(*DEATHS))
    assert died.killed, died.told
    went_on = runner.run(wanted, target.settings, logs=False)
    assert went_on.status == 0, went_on.told
    check_restored(runner, safe, source, target)
    assert search(scene).leaks == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, 1, 1, SEED)
    with campaign.scene.doubles.entered():
        place = campaign.scene.place("aws")
        service = place.service(campaign.scene.now, makes=True)
        (tmp_path / "said" / "out").write_bytes(b"key: " + canary("key-0000", 1))
        assert [leak.partition(":")[0] for leak in search(campaign.scene).leaks] == ["said/out"]
        (tmp_path / "said" / "out").write_bytes(canary("key-0000", 1).hex().encode())
        ledger = service.journal.ledger
        ledger.append("key-0000", 1, canary("key-0000", 1))
        assert len(search(campaign.scene).leaks) == 2


def test_each_ordered_pair_is_moved_along_once_and_goes_on_to_a_third() -> None:
    pairs = {(a, b) for a in STORES for b in STORES if a != b}
    chains = [tour[n : n + 3] for tour in TOURS for n in range(len(tour) - 2)]
    assert sorted(chain[:2] for chain in chains) == sorted(pairs)
    assert sorted(chain[1:] for chain in chains) == sorted(pairs)
    assert all(len(set(chain)) == 3 for chain in chains)


def test_a_violation_is_told_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = Campaign(tmp_path, 1, 1, SEED)
    assert campaign.case("part", "good", lambda: require(1, "never"))
    assert not campaign.case("part", "bad", lambda: require(0, "it is not so"))
    assert [case.problem for case in campaign.cases] == ["", "Violation: it is not so"]
    assert "VIOLATION: Violation: it is not so" in capsys.readouterr().out
