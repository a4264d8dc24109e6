"""A backup of a key on every store: each version is in it, and everything in it is proved."""

from pathlib import Path

import pytest

from daena_kms.backup import collect
from daena_kms.backup_check import check
from daena_kms.backup_json import document, parse
from daena_kms.model import State
from tests.support.worlds import BACKENDS, KEY, Clock, World, seeded


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backup_holds_every_version_and_changes_nothing(backend: str, tmp_path: Path) -> None:
    clock = Clock()
    world = World(BACKENDS[backend](tmp_path, clock, seeded()), clock)
    for _ in range(4):
        world.rotate()
        clock.move(days=91)
    service = world.service()
    assert service.disable(KEY, 1).status == "done"
    service.pause(KEY)
    entries = world.ledger.sequences(KEY)

    done = collect(world.store, service.journal)
    text = document(done.backup)
    found = parse(text)
    check(found, world.keyring.trust.generations[0].public_key.hex())
    assert found == done.backup

    ((key,), outcome) = found.keys, done.outcomes[0]
    assert outcome.notes == ("version 1 is disabled: its material is not in the backup",)
    assert {v.record.number: v.record.state for v in key.holding.versions} == {
        1: State.DISABLED,
        2: State.DECRYPT_ONLY,
        3: State.DECRYPT_ONLY,
        4: State.ACTIVE,
    }
    assert key.holding.left_out == (1,)
    assert key.holding.paused
    for held in key.holding.versions[1:]:
        assert held.material == service.get(KEY, held.record.number, reveal=True).material
    assert [world.ledger.read(KEY, n) for n in entries] == list(key.entries)
    assert world.ledger.sequences(KEY) == entries
    assert world.problems() == []
