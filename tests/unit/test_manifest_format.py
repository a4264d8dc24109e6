"""docs/manifest-format.md is enough to write a verifier: `tests.support.manifest_reader` has nothing of ours."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daena_kms import manifest, model, trust
from daena_kms.model import Status
from daena_kms.policy import KeyPolicy
from tests.support.manifest_reader import (
    RESERVED,
    BadError,
    Generation,
    Objects,
    read_generations,
    verify_chain,
)
from tests.support.worlds import BACKENDS, KEY, Backend, Clock, World, seeded

# --- the tests

DOCUMENT = Path(__file__).parents[2] / "docs" / "manifest-format.md"


class Evidence(NamedTuple):
    """What an auditor is given."""

    objects: dict[int, bytes]
    generations: list[Generation]
    anchor: tuple[int, str]

    def verify(self, objects: Objects | None = None) -> str:
        return verify_chain(self.objects if objects is None else objects, KEY, self.generations, self.anchor)


def collect(world: World) -> Evidence:
    def all_of(key: str) -> dict[int, bytes]:
        return {n: world.ledger.read(key, n) or b"" for n in world.ledger.sequences(key)}

    pinned = trust.read_root(world.ledger).trust.generations[0].public_key.hex()
    anchor = world.store.observe(KEY).anchor
    assert anchor is not None
    return Evidence(all_of(KEY), read_generations(all_of(RESERVED), pinned), (anchor.sequence, anchor.hash))


def renew(world: World) -> None:
    world.service().renew("test")
    world.keyring = trust.open_keyring(world.store, world.ledger)


def make_world(backend: Backend, clock: Clock) -> World:
    world = World(backend, clock, KeyPolicy(create=True, destroy_after_days=7))
    world.rotate()
    world.clock.move(days=90)
    world.rotate()
    world.force("ticket-1")
    service = world.service()
    service.disable(KEY, 1)
    service.rollback(KEY)
    service.enable(KEY, 1)
    service.pause(KEY, "a freeze — “über” all")
    service.resume(KEY)
    service.compromised(KEY, 2, "seen in a log")
    world.clock.move(days=31)
    service.destroy(KEY, 1)
    renew(world)
    world.clock.move(days=8)
    world.rotate()
    world.force()
    return world


@pytest.fixture
def evidence(clock: Clock, tmp_path: Path) -> Evidence:
    return collect(make_world(BACKENDS["memory-fenced"](tmp_path, clock, seeded()), clock))


def test_a_real_chain_verifies(backend: Backend, clock: Clock) -> None:
    evidence = collect(make_world(backend, clock))
    assert evidence.verify() == hashlib.sha256(evidence.objects[max(evidence.objects)]).hexdigest()
    entries = [json.loads(stored) for stored in evidence.objects.values()]
    assert len(evidence.generations) == 2
    assert {entry["signer"] for entry in entries} == {g.signer for g in evidence.generations}
    assert {"created", "promoted", "rolled-back", "disabled", "enabled", "compromised", "destroyed"} <= {
        entry["event"] for entry in entries
    }


def test_a_flipped_byte_is_found_wherever_it_is(clock: Clock, tmp_path: Path) -> None:
    world = World(BACKENDS["memory-fenced"](tmp_path, clock, seeded()), clock)
    world.rotate()
    evidence = collect(world)
    for sequence, stored in evidence.objects.items():
        for place in range(0, len(stored), 5):
            flipped = stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]
            with pytest.raises(BadError):
                evidence.verify(evidence.objects | {sequence: flipped})


def without(objects: Objects, sequence: int) -> Objects:
    return {n: stored for n, stored in objects.items() if n != sequence}


def respelled(stored: bytes) -> bytes:
    """The same signature: base64 leaves four bits of its last letter over."""
    place = stored.index(b'=="') - 1
    return stored[:place] + bytes([stored[place] ^ 2]) + stored[place + 1 :]


FORGERIES: dict[str, Callable[[dict[int, bytes]], Objects]] = {
    "an entry removed": lambda o: without(o, 5),
    "an entry removed, the rest moved up": lambda o: {n - (n > 5): o[n] for n in o if n != 5},
    "two entries swapped": lambda o: o | {5: o[6], 6: o[5]},
    "the end cut off": lambda o: without(o, max(o)),
    "the beginning cut off": lambda o: without(o, 1),
    "all of it gone": lambda _: {},
    "an entry put twice": lambda o: o | {max(o) + 1: o[max(o)]},
    "an entry written anew, not in canonical form": lambda o: o | {3: json.dumps(json.loads(o[3])).encode()},
    "the last signature in other letters": lambda o: o | {max(o): respelled(o[max(o)])},
    "an entry emptied": lambda o: o | {4: b""},
}


@pytest.mark.parametrize("forgery", list(FORGERIES))
def test_a_forgery_is_found(evidence: Evidence, forgery: str) -> None:
    with pytest.raises(BadError):
        evidence.verify(FORGERIES[forgery](evidence.objects))


def test_a_signer_of_another_ledger_is_found(evidence: Evidence) -> None:
    foreign = Ed25519PrivateKey.from_private_bytes(bytes(32))
    entry = json.loads(evidence.objects[max(evidence.objects)])
    entry["signer"] = Generation(foreign.public_key().public_bytes_raw()).signer
    del entry["signature"]
    signature = foreign.sign(b"daena-kms/entry/1\0" + rfc8785.dumps(entry))
    forged = rfc8785.dumps(entry | {"signature": base64.b64encode(signature).decode()})
    with pytest.raises(BadError):
        evidence.verify(evidence.objects | {max(evidence.objects): forged})


def test_junk_that_a_repair_names_is_stepped_over(world: World) -> None:
    world.rotate()
    world.ledger.append(KEY, 3, b"{}")
    world.ledger.append(KEY, 4, b"not one of ours")
    with pytest.raises(BadError, match="ends in objects"):
        collect(world).verify()
    world.service().repair(KEY)
    assert world.force().status is Status.ROTATED
    repaired = collect(world)
    repaired.verify()
    with pytest.raises(BadError, match="junk"):
        repaired.verify(repaired.objects | {4: b"other junk"})


def test_a_retired_signer_is_trusted_for_an_hour(world: World) -> None:
    before = world.keyring
    world.rotate()
    world.service().renew("test")
    renewed, world.keyring = trust.open_keyring(world.store, world.ledger), before
    world.clock.move(minutes=59)
    world.force()
    collect(world).verify()
    world.clock.move(minutes=2)
    world.service().pause(KEY)
    with pytest.raises(BadError, match="ends in objects"):
        collect(world).verify()
    assert renewed.signer.key_id != before.signer.key_id


def test_a_burnt_number_and_a_failed_check_follow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.rotate()
    read = world.store.read

    def corrupt(key: str, version: Any) -> Any:
        return type(read(key, version))(bytes(32)) if version.number == 2 else read(key, version)

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "read", corrupt)
        assert world.force().status is Status.FAILED
    world.clock.move(hours=2)
    assert world.force().number == 3
    evidence = collect(world)
    evidence.verify()
    events = [json.loads(stored)["event"] for stored in evidence.objects.values()]
    assert "discarded" in events


def test_the_example_in_the_document_verifies() -> None:
    text = DOCUMENT.read_text("utf-8")
    (pinned,) = re.findall(r"^Public key: `([0-9a-f]{64})`$", text, re.MULTILINE)
    found = re.findall(r"^```json entry\n(.+)\n```\n\nSHA-256: `([0-9a-f]{64})`$", text, re.MULTILINE)
    first, *chain = [line.encode() for line, _ in found]
    assert [hashlib.sha256(line.encode()).hexdigest() for line, _ in found] == [digest for _, digest in found]
    generations = read_generations({1: first}, pinned)
    assert verify_chain(dict(enumerate(chain, 1)), KEY, generations, (len(chain), found[-1][1])) == found[-1][1]
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line, _ in found]
    assert times == sorted(times)
    assert times[0].tzinfo == UTC


@pytest.mark.parametrize(
    "record",
    [
        manifest.Entry,
        manifest.TrustRecord,
        manifest.Junk,
        model.KeyState,
        model.VersionRecord,
        model.Claim,
        model.Burnt,
        model.Anchor,
    ],
)
def test_the_document_names_every_field(record: Any) -> None:
    text = DOCUMENT.read_text("utf-8")
    assert [name for name in record.__struct_fields__ if f"`{name}`" not in text] == []


@pytest.mark.parametrize("words", [manifest.Event, model.Operation])
def test_the_document_names_every_word(words: Any) -> None:
    text = DOCUMENT.read_text("utf-8")
    assert [word for word in words if f"`{word}`" not in text] == []
