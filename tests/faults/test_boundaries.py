"""The campaign in this process sees a library that is wrong: each mutant is found by some fault at some call."""

import random
from pathlib import Path
from typing import Any

import pytest

from daena_kms import rotation
from tests.support.doubles import Held, MemoryLedger, MemoryStore

from . import boundaries, lives
from .script import FAULTS, possible
from .units import Room


def violations(tmp_path: Path, deed: str = "rotate", store: str = "memory-fenced") -> list[str]:
    """What one campaign in full finds."""
    room = Room(tmp_path, random.Random(1))
    boundaries.once(room, store=store, deed=lives.DEEDS[deed], some=1)
    assert room.tally.faults == room.tally.cases > 90
    return room.tally.violations


def test_a_ledger_that_lets_the_second_writer_win_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(self: MemoryLedger, key: str, sequence: int, data: bytes) -> None:
        self.objects[key, sequence] = data

    monkeypatch.setattr(MemoryLedger, "append", append)
    assert any("sleep before" in story for story in violations(tmp_path))


def test_a_library_that_does_not_verify_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore.stage

    def damaged(self: MemoryStore, *arguments: Any) -> Any:
        stored = real(self, *arguments)
        (held,) = (h for h in self.keys[arguments[0]].held if h.version == stored)
        broken = Held(held.version, held.sealed[:-1] + bytes([held.sealed[-1] ^ 1]))
        self._replace(arguments[0], held, broken)
        return stored

    monkeypatch.setattr(MemoryStore, "stage", damaged)
    monkeypatch.setattr(rotation, "verify", lambda *_, **__: None)
    found = violations(tmp_path)
    assert any("readers get unknown material" in story for story in found)
    assert any("a reader was given unknown material" in story for story in found)


def test_staged_copies_that_stay_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStore, "discard", lambda *_: None)
    assert any("is still staged" in story for story in violations(tmp_path, store="memory-unfenced"))


def test_each_fault_can_befall_some_call_and_deaths_can_befall_every() -> None:
    names = ("inventory", "observe", "read", "read entry", "sequences", "prepare", "append", "stage", "promote")
    assert all(any(possible(fault, name) for name in names) for fault in FAULTS)
    assert all(possible("die before", name) and possible("die after", name) for name in names)
    assert not possible("flip a bit", "read entry")
