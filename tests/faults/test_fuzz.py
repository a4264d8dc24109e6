"""That the fuzzing campaign sees what it looks for: a bug that is planted is a violation, with its example.

That the short form finds none is `test_short`'s.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

from daena_kms import backup_check, fleet, invocation, manifest, policy
from daena_kms.errors import ConfigurationError, KmsError

from . import fuzzing
from .fuzzing import backups, entry_points, harness, manifests, policies, replies
from .fuzzing.memory import Memory
from .units import Room


@pytest.fixture(autouse=True)
def as_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is made smaller is hypothesis's business."""
    monkeypatch.setattr(harness, "SHRINKS", False)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path, random.Random(8))


def _raising(problem: Exception) -> Callable[..., Any]:
    def planted(*_: Any, **__: Any) -> Any:
        raise problem

    return planted


def _as_bug(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that raises what is no error of ours wherever it should."""

    def planted(*given: Any, **more: Any) -> Any:
        try:
            return real(*given, **more)
        except KmsError as problem:
            raise LookupError("planted") from problem

    return planted


def _once_made(monkeypatch: pytest.MonkeyPatch, campaign: ModuleType, plant: Callable[[], None]) -> None:
    """Plant a bug as soon as the keys are made that are then meddled with."""

    class Planted(Memory):
        def __init__(self) -> None:
            super().__init__()
            plant()

    monkeypatch.setattr(campaign, "Memory", Planted)


def _found(room: Room, *words: str) -> None:
    """One violation that says so."""
    (told,) = room.tally.violations
    for word in words:
        assert word in told, told


def test_an_exception_of_a_parser_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_toml", _as_bug(policy._toml))
    policies.policies(room, 20)
    _found(room, "a policy file: ", "Error: ", "policy.py:")


def test_an_error_without_a_hint_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "parse_policy", _raising(ConfigurationError("no")))
    policies.policies(room, 5)
    _found(room, "without a hint")


def test_a_traceback_of_the_command_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_toml", _raising(ValueError("planted")))
    with pytest.raises(ValueError, match="planted"):  # the command has to work once, before it is tried
        policies.command(room, 5)
    monkeypatch.undo()
    real = policy._toml
    monkeypatch.setattr(
        policy, "_toml", lambda data, source: real(data, source) if data.startswith(b"[keys.a-key]\ncre") else 1 / 0
    )
    policies.command(room, 30)
    _found(room, "the command under a policy", "ZeroDivisionError")


def test_a_bug_in_reading_a_manifest_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "parse", _as_bug(manifest.parse))
    manifests.bytes_of_entries(room, 20)
    _found(room, "bytes in the place of an entry", "LookupError: planted")


def test_a_bug_that_only_a_signed_entry_reaches_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "follow", _as_bug(manifest.follow))
    manifests.signed(room, 40)
    _found(room, "an entry signed again", "LookupError: planted")


def test_a_bug_behind_a_whole_forged_chain_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` alone asks for it, of a key whose chain and head fit."""
    problem = OverflowError("date value out of range")
    _once_made(monkeypatch, manifests, lambda: monkeypatch.setattr("daena_kms.service.History", _raising(problem)))
    manifests.forged(room, 10)
    _found(room, "a chain forged from one entry on", "OverflowError")


def test_a_bug_that_becomes_an_outcome_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    _once_made(monkeypatch, replies, lambda: monkeypatch.setattr(fleet, "_work", _raising(ValueError("planted"))))
    replies.in_memory(room, 3)
    _found(room, "unexpected ValueError")


def test_one_key_that_stops_another_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ConfigurationError("all of them", "no")
    _once_made(monkeypatch, replies, lambda: monkeypatch.setattr(fleet.Fleet, "plan", _raising(problem)))
    replies.in_memory(room, 3)
    _found(room, "one bad key stops")


def test_a_backup_that_is_believed_unseen_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_check, "_check_material", _raising(KeyError("planted")))
    backups.documents(room, 40)
    _found(room, "a backup's document", "KeyError")


def test_an_event_that_raises_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "check_name", _raising(UnicodeError("planted")))
    entry_points.events(room, 300)
    _found(room, "an event", "UnicodeError")


def test_what_hangs_is_broken_off(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PATIENCE_SECONDS", 0.05)

    def turns(example: int) -> None:
        while example == 3:
            pass

    harness.tried(room, "a loop", st.just(3), turns, most=1)
    _found(room, "a loop: 3: hangs", "test_fuzz.py")


def test_what_waits_for_ever_is_broken_off(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "IDLE_SECONDS", 0.05)
    harness.tried(room, "a wait", st.just(3), lambda _: time.sleep(30), most=1)
    _found(room, "hangs")


def test_what_grows_is_seen(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "MOST_GROWTH_MIB", 20)
    kept: list[bytes] = []
    harness.tried(room, "a leak", st.integers(), lambda _: kept.append(b"x" * (1 << 20)), most=60)
    _found(room, "a leak: the process grew by")


def test_examples_come_from_the_seed_and_are_all_counted(tmp_path: Path) -> None:
    def drawn(seed: int) -> list[bytes]:
        found: list[bytes] = []
        made = Room(tmp_path, random.Random(seed))
        harness.tried(made, "files", policies.files, found.append, most=50)
        assert (made.tally.cases, made.tally.faults) == (len(found), len(found))
        assert len(found) > 40
        return found

    assert drawn(1) == drawn(1) != drawn(2)


def test_units_have_names_of_their_own() -> None:
    for short in (True, False):
        names = [unit.id for unit in fuzzing.units(short=short)]
        assert len(set(names)) == len(names)
        assert all(name.startswith("fuzz.") for name in names)
