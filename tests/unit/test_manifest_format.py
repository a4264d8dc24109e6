"""A verifier that follows docs/manifest-format.md and nothing of ours: the document is enough to write one."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daena_kms import manifest, model, trust
from daena_kms.model import Status
from daena_kms.policy import KeyPolicy
from tests.support.worlds import BACKENDS, KEY, Backend, Clock, World, seeded

# --- the verifier: the standard library, an Ed25519 and an RFC 8785

RESERVED = "reserved--manifest-keys"
STARTED, RESUMED = {"rotation-started", "change-started"}, {"rotation-resumed", "change-resumed"}
ENDS_AS = {
    "create": "created", "rotate": "promoted", "rollback": "rolled-back", "import": "imported", "adopt": "adopted",
    "retire": "retired", "disable": "disabled", "enable": "enabled", "destroy": "destroyed", "restore": "restored",
    "migrate": "moved-to",
}  # fmt: skip
ENDS_TOO = {("destroy", "destroy-pending"), ("restore", "imported")}
ENDS = {*ENDS_AS.values(), "destroy-pending", "discarded"}
MAKING = {"create", "rotate", "rollback", "import"}
TOLERANCE = timedelta(hours=1)
Json = dict[str, Any]
Objects = Mapping[int, bytes]


class Generation(NamedTuple):
    public_key: bytes
    retired_at: datetime | None = None

    @property
    def signer(self) -> str:
        return hashlib.sha256(self.public_key).hexdigest()[:16]


class BadError(Exception):
    """The chain is not what a sound one would be."""


def need(condition: object, problem: str) -> None:
    if not condition:
        raise BadError(problem)


def open_object(stored: bytes, key: str, sequence: int, generations: list[Generation]) -> Json:
    """Canonical, for this place, signed by a generation while it was in use."""
    try:
        entry: Json = json.loads(stored)
        signature = base64.b64decode(entry["signature"], validate=True)
        unsigned = {name: value for name, value in entry.items() if name != "signature"}
        need(rfc8785.dumps(entry) == stored, "not canonical")
        need((entry["format"], entry["key"], entry["sequence"]) == ("daena-kms/1", key, sequence), "not of this place")
        by = next(g for g in generations if g.signer == entry["signer"])
        Ed25519PublicKey.from_public_bytes(by.public_key).verify(
            signature, b"daena-kms/entry/1\0" + rfc8785.dumps(unsigned)
        )
        when = datetime.fromisoformat(entry["time"])
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, InvalidSignature) as problem:
        raise BadError(f"entry {sequence} is none: {problem!r}") from None
    need(by.retired_at is None or when <= by.retired_at + TOLERANCE, "signed after the key was retired")
    return entry


def verify_chain(objects: Objects, key: str, generations: list[Generation], anchor: tuple[int, str] = (0, "")) -> str:
    """The hash of the last entry of a chain that is sound, and reaches as far as `anchor`."""
    state: Json = {}
    previous, sequence, newest, hashes, junk = "", 1, 0, {0: ""}, list[Json]()
    order = [g.signer for g in generations]
    while sequence in objects:
        stored = objects[sequence]
        try:
            entry = open_object(stored, key, sequence, generations)
        except BadError:
            junk.append({"sequence": sequence, "sha256": hashlib.sha256(stored).hexdigest()})
            sequence += 1
            continue
        need(entry.get("junk", []) == junk, f"what lies before entry {sequence} is not the junk that it names")
        need(not junk or entry["event"] in ("repaired", "renewed"), "junk where none may be named")
        need(entry.get("previous", "") == previous, f"entry {sequence} does not continue the chain")
        need(order.index(entry["signer"]) >= newest, f"entry {sequence} is signed by an older key")
        need(("trust" in entry) == (entry["event"] in ("initialised", "renewed")), "trust where none belongs")
        need(
            "origin" not in entry or entry["event"] in ("restored", "imported"), "a link to where it did not come from"
        )
        need(("destination" in entry) == (entry["event"] == "moved-to"), "a link to where it did not go")
        need(advance(state, entry) == entry["state"], f"the state of entry {sequence} does not follow")
        state, newest, junk = entry["state"], order.index(entry["signer"]), []
        previous = hashes[sequence] = hashlib.sha256(stored).hexdigest()
        sequence += 1
    need(not junk, "it ends in objects that are no entries")
    need(max(objects, default=0) < sequence, f"entry {sequence} is missing")
    need(hashes.get(anchor[0]) == anchor[1], f"entry {anchor[0]} is not the one that the store names")
    return previous


def advance(before: Json, entry: Json) -> Json:
    """The state that follows from the one before; fields with their empty value left out."""
    event, claim, state = entry["event"], before.get("claim"), changed(before, entry.get("changes", []))
    state["attention_at"] = entry["state"].get("attention_at")
    made = claim is not None and claim["operation"] in MAKING
    if event in STARTED:
        state = started(burned(state), entry["state"]["claim"])
    elif event in RESUMED:
        taken = entry["state"]["claim"]
        need(claim and taken == claim | {n: taken[n] for n in ("run", "lease_until")}, "a take-over of another claim")
        state["claim"] = taken
    elif event in ENDS:
        need(claim or event == "adopted", "an end without a claim")
        failures = before.get("failures", 0)
        if event == "discarded":
            state = burned(state) | {"failures": failures + made, "retry_at": entry["state"].get("retry_at")}
        else:
            operation = claim["operation"] if claim else ""
            ends = not claim or ENDS_AS[operation] == event or (operation, event) in ENDS_TOO
            need(ends, "an end of another operation")
            need(entry.get("origin") == (claim or {}).get("origin"), "an origin that was not announced")
            state |= {"failures": 0, "retry_at": None} if made or operation == "restore" else {}
            if operation == "restore":
                paused = (claim or {}).get("paused")
                state |= {"previous": earlier(entry["changes"]), "paused": paused, "moved": None}
            elif operation == "migrate":
                gone, said = entry["destination"], claim or {}
                need(gone["ledger"] == said["destination"], "gone to another place than was announced")
                need(gone["public_key"] == said["destination_key"], "gone to another ledger than was announced")
                state["moved"] = entry["destination"]["ledger"]
        state["claim"] = None
    elif event in ("paused", "resumed"):
        state["paused"] = event == "paused"
        state |= {"failures": 0, "retry_at": None} if event == "resumed" else {}
    return {name: value for name, value in state.items() if value and (name, value) != ("incarnation", 1)}


def earlier(changes: list[Json]) -> Json | None:
    """The version that was active before, of a key that came from elsewhere."""
    replaced = [record for record in changes if "deactivated_at" in record and record["state"] != "active"]
    when = lambda record: (datetime.fromisoformat(record["deactivated_at"]), record["number"])  # noqa: E731
    return max(replaced, key=when, default=None)


def changed(state: Json, changes: list[Json]) -> Json:
    """What the changed records make of active, previous, burnt, highest and digest."""
    if not changes:
        return dict(state)
    numbers = {record["number"]: record for record in changes}
    active, previous = state.get("active"), state.get("previous")
    for record in changes:
        if record["state"] == "active":
            if active and active["number"] != record["number"]:
                previous = active
            active = record
    active, previous = (one and numbers.get(one["number"], one) for one in (active, previous))
    need(not active or active["state"] == "active", "no version would be active")
    digest = hashlib.sha256(state.get("digest", "").encode() + rfc8785.dumps(changes)).hexdigest()
    burnt = [b for b in state.get("burnt", []) if b["number"] not in numbers]
    highest = max(state.get("highest", 0), *numbers)
    return state | {"active": active, "previous": previous, "burnt": burnt, "highest": highest, "digest": digest}


def started(state: Json, claim: Json) -> Json:
    """The state once `claim` is open."""
    making, highest = claim["operation"] in MAKING, state.get("highest", 0)
    need(not making or claim["number"] > highest, "a number was given out twice")
    lost = claim["operation"] == "restore" and not state.get("moved")
    anew = (claim["operation"] == "create" or lost) and bool(state.get("active"))
    more = {"highest": max(highest, claim["number"]), "incarnation": state.get("incarnation", 1) + anew}
    return state | {"claim": claim, "policy": claim["policy"]} | more


def burned(state: Json) -> Json:
    """The state once the open claim's number, if it has one of its own, is given up."""
    claim = state.get("claim")
    if not claim or claim["operation"] not in MAKING or "made_at" not in claim:
        return state
    burnt = {"number": claim["number"], "fingerprint": claim.get("fingerprint", "")}
    burnt |= {"spec": claim.get("spec", ""), "made_at": claim["made_at"]}
    return state | {"burnt": [*state.get("burnt", []), burnt]}


def read_generations(objects: Objects, pinned: str) -> list[Generation]:
    """The public keys of a ledger: the first is pinned, each later one is signed by the one before."""
    generations: list[Generation] = []
    for number in range(1, len(objects) + 1):
        need(number in objects, f"reserved entry {number} is missing")
        entry = json.loads(objects[number])
        public = Generation(bytes.fromhex(entry["trust"]["public_key"]))
        signers = generations or [public]
        open_object(objects[number], RESERVED, number, signers)
        need(entry["trust"]["generation"] == number, "a generation is missing")
        need(entry["event"] == ("renewed" if generations else "initialised"), "not the event that belongs here")
        need(entry["signer"] == signers[-1].signer, "not signed by the generation before")
        if generations:
            generations[-1] = generations[-1]._replace(retired_at=datetime.fromisoformat(entry["time"]))
        generations.append(public)
    need(generations and generations[0].public_key.hex() == pinned, "not the pinned key")
    verify_chain(objects, RESERVED, generations)
    return generations


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


FORGERIES: dict[str, Callable[[dict[int, bytes]], Objects]] = {
    "an entry removed": lambda o: without(o, 5),
    "an entry removed, the rest moved up": lambda o: {n - (n > 5): o[n] for n in o if n != 5},
    "two entries swapped": lambda o: o | {5: o[6], 6: o[5]},
    "the end cut off": lambda o: without(o, max(o)),
    "the beginning cut off": lambda o: without(o, 1),
    "all of it gone": lambda _: {},
    "an entry put twice": lambda o: o | {max(o) + 1: o[max(o)]},
    "an entry written anew, not in canonical form": lambda o: o | {3: json.dumps(json.loads(o[3])).encode()},
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
