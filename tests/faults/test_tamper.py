"""The campaign of tampering: a short form of it, and that it sees what it is there for."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daena_kms import audit, keyring, manifest, trust
from daena_kms.keyring import Fingerprints, Trust
from daena_kms.material import KeyMaterial
from daena_kms.stores.local import LocalStore
from tests.support.manifest_reader import RESERVED
from tests.support.worlds import KEY

from . import tamper, tamper_stores
from .tamper_chains import Case, Chain, flips, signatures, structure
from .tamper_judge import Judge
from .tamper_scene import YOUNG, House, plain
from .units import Room


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path, random.Random(8))


def test_the_full_campaign_is_made_of_units_with_names_of_their_own() -> None:
    every = tamper.units(short=False)
    assert len({unit.id for unit in every}) == len(every)
    assert {unit.store for unit in every} == {"memory", "local", "aws", "azure", "gcp"}


def _stories(room: Room, cases: Callable[[House, Chain], Iterator[Case]], key: str = KEY) -> str:
    judge = Judge(plain("memory-fenced", room.folder), room)
    for case in cases(judge.house, Chain(judge.house, key)):
        judge.ledger(case)
    assert room.tally.violations, "the hole was not seen"
    return "\n".join(room.tally.violations)


def _flips(_: House, chain: Chain) -> Iterator[Case]:
    return flips(chain, random.Random(8), every_bit=False, part=0, parts=211)


def _signatures(house: House, chain: Chain) -> Iterator[Case]:
    return signatures(house, chain, random.Random(8))


def _structure(_: House, chain: Chain) -> Iterator[Case]:
    return structure(chain, random.Random(8))


def test_it_sees_that_signatures_are_not_looked_at(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "check_signature", lambda *_: None)
    told = _stories(room, _signatures)
    assert "signed by a stranger in our name: 2 of daena-encryption-key; verify does not name it" in told


def test_it_sees_that_another_spelling_is_let_through(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "parse", manifest._decoder.decode)
    assert "no error of ours" in _stories(room, _flips)


def test_it_sees_that_the_head_beside_the_key_is_not_looked_at(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_check_anchor", lambda *_: ())
    assert "the end cut off: after 3 of daena-encryption-key; verify does not name it" in _stories(room, _structure)


def test_it_sees_that_a_retired_key_signs(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it found: a renewal taken out of the ledger, and a key that was not touched since."""
    monkeypatch.setattr(trust, "doubt", lambda *_: "")
    told = _stories(room, _structure, RESERVED)
    assert f"{YOUNG} is bad: signed by" in told
    assert "after that key was retired" in told


def test_it_sees_that_a_run_dies_of_something_else(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Trust, *_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Judge, "restore", lambda _: None)
    judge = Judge(plain("memory-fenced", room.folder), room)
    monkeypatch.setattr(keyring.Trust, "check", check)
    judge.ledger(next(_flips(judge.house, Chain(judge.house, KEY))))
    assert "no error of ours" in room.tally.violations[0]


def _store_stories(room: Room, name: str) -> str:
    judge = Judge(plain(name, room.folder), room)
    for deed in tamper_stores.swaps(judge):
        judge.store(deed)
    return "\n".join(room.tally.violations)


def test_it_sees_that_material_is_not_held_against_its_fingerprint(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(self: LocalStore, key: str, version: Any) -> Any:
        rows = self._rows("SELECT key, number, spec FROM versions")
        (wanted,) = self._rows("SELECT sealed FROM versions WHERE key = ? AND number = ?", key, version.number)
        for owner, number, spec in rows:
            try:
                context = f"daena-kms/local/1\0{owner}\0{number}\0{spec}".encode()
                return KeyMaterial(self._cipher.decrypt(wanted[0][:12], wanted[0][12:], context))
            except Exception:  # noqa: BLE001, S112  # sealed for another place
                continue
        raise AssertionError(rows)

    monkeypatch.setattr(LocalStore, "read", opened)
    monkeypatch.setattr(Fingerprints, "check", lambda *_: None)
    told = _store_stories(room, "local")
    assert "gives other bytes" in told
    assert "verify finds nothing, but" in told
