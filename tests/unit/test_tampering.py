"""Changing, removing, swapping, truncating, replaying any entry is found, and the first bad one is named."""

import base64
import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec.structs
import pytest

from daena_kms import audit, manifest
from daena_kms.errors import IntegrityError, KmsError, NotFoundError
from daena_kms.ledger import FolderLedger, object_name
from daena_kms.model import Status
from daena_kms.names import RESERVED_KEY
from tests.support.worlds import KEY, START, Clock, World, local_backend, seeded
from tests.unit.test_manifest_format import respelled


@pytest.fixture
def local(tmp_path: Path) -> World:
    """A key with two rotations and a manifest of six entries, on the real local store."""
    clock = Clock()
    world = World(local_backend(tmp_path, clock, seeded()), clock)
    for _ in range(3):
        world.rotate()
        clock.move(days=90)
    return world


def _folder(world: World) -> Path:
    return Path(world.ledger.where(KEY, 1)).parent


def _problems(world: World) -> list[str]:
    return list(world.service().verify([KEY])[0].problems)


def _offline(world: World, pin: str = "") -> list[str]:
    ledger = FolderLedger(_folder(world).parent, "file:///copy")
    return list(audit.verify_manifests(ledger, pin, [KEY])[0].problems)


def test_an_untouched_manifest_verifies_offline_with_the_public_key_alone(local: World) -> None:
    assert _offline(local, local.keyring.trust.generations[0].public_key.hex()) == []


def test_another_public_key_is_refused(local: World) -> None:
    with pytest.raises(IntegrityError, match="not the pinned one"):
        _offline(local, "00" * 32)


@pytest.mark.parametrize("sequence", range(1, 7))
def test_every_flipped_byte_is_found_and_its_entry_named(local: World, sequence: int) -> None:
    path = _folder(local) / object_name(sequence)
    original = path.read_bytes()
    for position in range(0, len(original), 7):
        changed = bytearray(original)
        changed[position] ^= 0x04
        path.write_bytes(changed)
        (problem, *_) = _offline(local)
        # A changed last byte of the signature's padding is no change of the bits that it stands for, and still found.
        assert problem.startswith(f"entry {sequence} of {KEY} is bad"), (position, problem)
    path.write_bytes(original)
    assert _offline(local) == []


def _remove(folder: Path) -> None:
    (folder / object_name(3)).unlink()


def _swap(folder: Path) -> None:
    one, two = folder / object_name(3), folder / object_name(4)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _truncate(folder: Path) -> None:
    (folder / object_name(5)).unlink()
    (folder / object_name(6)).unlink()


def _empty(folder: Path) -> None:
    (folder / object_name(4)).write_bytes(b"")


def _half(folder: Path) -> None:
    path = folder / object_name(4)
    path.write_bytes(path.read_bytes()[:100])


def _spaces(folder: Path) -> None:
    path = folder / object_name(4)
    path.write_bytes(json.dumps(json.loads(path.read_bytes())).encode())


def _respelled(folder: Path) -> None:
    path = folder / object_name(4)
    path.write_bytes(respelled(path.read_bytes()))


def _huge(folder: Path) -> None:
    (folder / object_name(4)).write_bytes(b"[" * (2 << 20))


def _deep(folder: Path) -> None:
    (folder / object_name(4)).write_bytes(b"[" * 100_000)


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "removed": (_remove, "entry 3 of daena-encryption-key is bad: it is missing"),
    "swapped": (_swap, "entry 3 of daena-encryption-key is bad: it is entry 4, not 3"),
    "truncated": (_truncate, "entry 6 is gone: the manifest was cut after entry 4"),
    "emptied": (_empty, "entry 4 of daena-encryption-key is bad: it is not a manifest entry"),
    "halved": (_half, "entry 4 of daena-encryption-key is bad: it is not a manifest entry"),
    "reformatted": (_spaces, "entry 4 of daena-encryption-key is bad: its JSON is not in canonical form"),
    "respelled": (_respelled, "entry 4 of daena-encryption-key is bad: its signature is not "),
    "blown up": (_huge, "entry 4 of daena-encryption-key is bad: it has 2097152 bytes"),
    "nested": (_deep, "entry 4 of daena-encryption-key is bad: it is not a manifest entry"),
}


@pytest.mark.parametrize(("attack", "expected"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_found_and_named(local: World, attack: Callable[[Path], None], expected: str) -> None:
    attack(_folder(local))
    assert any(problem.startswith(expected) for problem in _problems(local)), _problems(local)


def test_a_replayed_entry_of_another_key_is_found(local: World) -> None:
    other = _folder(local).parent / "another-key"
    other.mkdir()
    for path in _folder(local).iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (found,) = audit.verify_manifests(FolderLedger(other.parent, "file:///copy"), "", ["another-key"])
    assert found.problems[0].startswith("entry 1 of another-key is bad: it belongs to key 'daena-encryption-key'")


def test_an_entry_signed_with_a_foreign_key_is_found(local: World, tmp_path: Path) -> None:
    clock = Clock(START)
    foreign = World(local_backend(tmp_path / "foreign", clock, seeded(1)), clock)
    foreign.rotate()
    for sequence in (1, 2):
        forged = Path(foreign.ledger.where(KEY, sequence)).read_bytes()
        (_folder(local) / object_name(sequence)).write_bytes(forged)
    assert "which is no key of this ledger" in _problems(local)[0]


def test_a_cut_manifest_is_never_written_on(local: World) -> None:
    _truncate(_folder(local))
    before = sorted(path.name for path in _folder(local).iterdir())
    outcome = local.rotate()
    assert outcome.status is Status.FAILED
    assert "the manifest was cut" in outcome.message
    assert sorted(path.name for path in _folder(local).iterdir()) == before
    with pytest.raises(KmsError, match="good ones end at 4"):
        local.service().repair(KEY)


def test_junk_at_the_next_place_stops_the_key_until_it_is_repaired(local: World) -> None:
    (_folder(local) / object_name(7)).write_bytes(b"junk")
    (_folder(local) / object_name(8)).write_bytes(b"more junk")
    outcome = local.force()
    assert outcome.status is Status.FAILED
    assert "entry 7 of daena-encryption-key is bad" in outcome.message
    assert local.service().repair(KEY).message.startswith("repaired: 2 objects")
    assert _problems(local) == []
    assert _offline(local) == []
    assert local.force().status is Status.ROTATED
    local.check()
    assert (_folder(local) / object_name(7)).read_bytes() == b"junk"


def test_junk_that_a_repair_named_may_not_change_afterwards(local: World) -> None:
    (_folder(local) / object_name(7)).write_bytes(b"junk")
    local.service().repair(KEY)
    (_folder(local) / object_name(7)).write_bytes(b"other junk")
    assert _offline(local)[0].startswith(f"entry 7 of {KEY} is bad")


def test_the_reserved_chain_is_verified_too(local: World) -> None:
    path = _folder(local).parent / RESERVED_KEY / object_name(1)
    path.write_bytes(path.read_bytes().replace(b'"generation":1', b'"generation":2'))
    with pytest.raises(IntegrityError, match=f"entry 1 of {RESERVED_KEY} is bad"):
        _offline(local)


def test_an_anchor_that_somebody_else_wrote_stops_the_key(local: World) -> None:
    anchor = local.store.observe(KEY).anchor
    assert anchor is not None
    local.store.write_anchor(KEY, msgspec.structs.replace(anchor, active_since=local.clock()))
    outcome = local.rotate()
    assert outcome.status is Status.FAILED
    assert "was not written by us" in outcome.message
    assert "the head stored beside the key was not written by us" in _problems(local)
    local.service().repair(KEY)
    assert local.rotate().status is Status.ROTATED
    local.check()


def test_an_old_anchor_put_back_cannot_hide_that_a_key_is_due(local: World) -> None:
    old = local.store.observe(KEY).anchor
    assert old is not None
    local.rotate()
    local.store.write_anchor(KEY, old)
    assert _problems(local) == []
    assert local.rotate().status is Status.NOT_DUE
    assert local.store.observe(KEY).anchor != old


def _paused_after(local: World, head: manifest.Head) -> bytes:
    """An entry behind that head, by somebody who has the signing key."""
    return manifest.seal(
        head,
        manifest.Draft(manifest.Event.PAUSED),
        key=KEY,
        now=local.clock(),
        actor="forger",
        trigger="test",
        signer=local.keyring.signer,
    )


def test_an_entry_of_ours_that_continues_another_past_is_found(local: World) -> None:
    """Signed by the right key, with the right state: only its link to the entry before gives it away."""
    (*_, head) = local.service().journal.chain(KEY)
    forged = _paused_after(local, msgspec.structs.replace(head, hash="0" * 64))
    local.ledger.append(KEY, head.next_sequence, forged)
    assert _offline(local)[0].endswith("it does not continue the entry before it: one of the two was replaced")


def test_where_a_manifest_was_cut_is_told_by_the_number_of_the_entry(local: World) -> None:
    """Not by how many good ones there are: what was stepped over counts too."""
    (_folder(local) / object_name(7)).write_bytes(b"junk")
    local.service().repair(KEY)
    local.force()
    for gone in (9, 10):
        (_folder(local) / object_name(gone)).unlink()
    assert any(p.startswith("entry 10 is gone: the manifest was cut after entry 8") for p in _problems(local))


def test_a_segment_that_was_begun_elsewhere_is_named_too(local: World) -> None:
    """Objects stepped over, rightly named by an entry of ours, which continues another past."""
    (*_, head) = local.service().journal.chain(KEY)
    (_folder(local) / object_name(7)).write_bytes(b"junk")
    behind = msgspec.structs.replace(head, hash="0" * 64, next_sequence=8)
    junk = (manifest.Junk(7, manifest.entry_hash(b"junk")),)
    forged = manifest.seal(
        behind,
        manifest.Draft(manifest.Event.REPAIRED, junk=junk),
        key=KEY,
        now=local.clock(),
        actor="forger",
        trigger="test",
        signer=local.keyring.signer,
    )
    local.ledger.append(KEY, 8, forged)
    assert _offline(local)[0].startswith(f"entry 8 of {KEY} is bad: it does not continue the entry before it")


@pytest.mark.parametrize("time", ["2026-01-01T13:00:00+01:00", "2026-01-01T12:00:00-00:30"])
def test_a_time_that_is_not_written_in_utc_is_none(local: World, time: str) -> None:
    """Signed rightly: what a verifier of this format refuses, ours does."""
    (*_, head) = local.service().journal.chain(KEY)
    forged = _paused_after(local, head)
    entry = json.loads(forged) | {"time": time}
    del entry["signature"]
    unsigned = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    signature = local.keyring.signer.sign(manifest.SIGNATURE_CONTEXT + unsigned)
    signed = entry | {"signature": base64.b64encode(signature).decode()}
    local.ledger.append(KEY, 7, json.dumps(signed, sort_keys=True, separators=(",", ":")).encode())
    assert _offline(local)[0].startswith(f"entry 7 of {KEY} is bad: the time {time} is not in UTC")


def test_a_version_that_is_not_where_the_manifest_looks_for_it_is_found(local: World) -> None:
    with sqlite3.connect(_folder(local).parent.parent / "vault.db") as vault:
        vault.execute("UPDATE versions SET version_id = 'elsewhere' WHERE key = ? AND number = 1", (KEY,))
    vault.close()
    with pytest.raises(NotFoundError):
        local.service().get(KEY, 1, reveal=True)
    assert any("version 1 lies in the store, but not as " in problem for problem in _problems(local))


def test_a_clock_that_runs_wild_writes_nothing(local: World) -> None:
    """Whoever reads a time of the year 9999 and reckons from it gets one that no date can be: for every key at once."""
    before = local.ledger.sequences(KEY)
    local.clock.now = datetime(9998, 1, 1, tzinfo=UTC)
    outcome = local.force()
    assert (outcome.status, outcome.hint) == (Status.FAILED, "")
    assert "9998-01-01T00:15:00+00:00 is none at which anything of ours happens" in outcome.message
    assert local.ledger.sequences(KEY) == before


@pytest.mark.parametrize("year", [b"9999", b"0001", b"1899"])
def test_a_time_at_which_nothing_of_ours_can_have_happened_is_in_no_entry(local: World, year: bytes) -> None:
    stored = local.ledger.read(KEY, 2) or b""
    for field in (b"active_since", b"made_at", b"time"):
        forged = stored.replace(b'"%s":"2026' % field, b'"%s":"%s' % (field, year))
        assert forged != stored
        with pytest.raises(IntegrityError, match="none at which anything of ours happens"):
            manifest.parse(forged)


def test_what_lies_where_an_entry_belongs_is_quoted_as_far_as_it_says_something(local: World) -> None:
    entry = json.loads(local.ledger.read(KEY, 2) or b"")
    forged = manifest.canonical({**entry, "signer": "s" * 70_000})
    local.ledger.append(KEY, max(local.ledger.sequences(KEY)) + 1, forged.replace(b'"sequence":2', b'"sequence":7'))
    (found,) = local.service().verify([KEY])
    assert "sss" in found.problems[0]
    assert len(found.problems[0]) < 1_000
