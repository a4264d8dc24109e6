"""A verifier of manifests that follows docs/manifest-format.md and uses nothing of ours.

With it `tests/unit/test_manifest_format.py` shows that the page is enough to write one. The campaigns' checker goes by
it too (`tests.faults.checker`), and not by what the library says of itself.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

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
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
Json = dict[str, Any]
Objects = Mapping[int, bytes]


class Generation(NamedTuple):
    public_key: bytes
    retired_at: datetime | None = None

    @property
    def signer(self) -> str:
        return hashlib.sha256(self.public_key).hexdigest()[:16]


TEXT, INTEGER, BOOLEAN, TIME = "text", "integer", "boolean", "time"
EVENTS = {
    "initialised", "renewed", *STARTED, *RESUMED, *ENDS, "republished", "destroy-scheduled", "destroy-cancelled",
    "compromised", "paused", "resumed", "repaired",
}  # fmt: skip
Form = Any
"""What a value must be: a name above, a set of texts, [the form of each], or a table of names; `!`: always present."""
BURNT: Form = {"number!": INTEGER, "fingerprint!": TEXT, "spec!": TEXT, "made_at!": TIME}
LINK: Form = {"ledger!": TEXT, "public_key!": TEXT, "sequence!": INTEGER, "hash!": TEXT, "backup": TEXT}
VERSION: Form = {
    "number!": INTEGER, "version_id!": TEXT, "fingerprint!": TEXT, "spec!": TEXT,
    "state!": {"staged", "active", "decrypt-only", "disabled", "destroyed"}, "made_at!": TIME, "active_since!": TIME,
    "deactivated_at": TIME, "compromised": BOOLEAN, "lost": BOOLEAN, "destroy_at": TIME, "source": INTEGER,
}  # fmt: skip
CLAIM: Form = {
    "operation!": set(ENDS_AS), "number!": INTEGER, "run!": TEXT, "lease_until!": TIME, "policy!": TEXT,
    "rotation_id": TEXT, "fingerprint": TEXT, "spec": TEXT, "made_at": TIME, "planned": INTEGER, "request": TEXT,
    "reason": TEXT, "source": INTEGER, "brings": [BURNT], "origin": LINK, "destination": TEXT, "destination_key": TEXT,
    "paused": BOOLEAN,
}  # fmt: skip
STATE: Form = {
    "incarnation": INTEGER, "highest": INTEGER, "active": VERSION, "previous": VERSION, "claim": CLAIM,
    "burnt": [BURNT], "failures": INTEGER, "retry_at": TIME, "paused": BOOLEAN, "moved": TEXT, "attention_at": TIME,
    "policy": TEXT, "digest": TEXT,
}  # fmt: skip
ENTRY: Form = {
    "format!": {"daena-kms/1"}, "sequence!": INTEGER, "time!": TIME, "key!": TEXT, "event!": EVENTS, "actor!": TEXT,
    "trigger!": TEXT, "signer!": TEXT, "state!": STATE, "signature!": TEXT, "previous": TEXT, "number": INTEGER,
    "version_id": TEXT, "rotation_id": TEXT, "fingerprint": TEXT, "request": TEXT, "cloud_request_id": TEXT,
    "reason": TEXT, "verified": TEXT, "changes": [VERSION],
    "trust": {"generation!": INTEGER, "public_key!": TEXT, "check_value!": TEXT},
    "junk": [{"sequence!": INTEGER, "sha256!": TEXT}], "origin": LINK, "destination": LINK,
}  # fmt: skip
TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(?!000000)\d{6})?Z", re.ASCII)


class BadError(Exception):
    """The chain is not what a sound one would be."""


def need(condition: object, problem: str) -> None:
    if not condition:
        raise BadError(problem)


def check_form(value: object, form: Form, where: str) -> None:
    """Of the right type; every field that is required, none that is not listed, none with its empty value."""
    if isinstance(form, dict):
        need(isinstance(value, dict), f"{where} is no object")
        fields: Json = dict(value)  # type: ignore[call-overload]  # it is one
        always = {name[:-1] for name in form if name.endswith("!")}
        listed = {name.rstrip("!"): inner for name, inner in form.items()}
        need(fields.keys() >= always, f"{where} lacks a field")
        need(fields.keys() <= listed.keys(), f"{where} has a field that is not listed")
        for name, inner in fields.items():
            empty = inner in ("", 0, False) or inner == [] or (name, inner) == ("incarnation", 1)
            need(name in always or not empty, f"{where}.{name} is there, and empty")
            check_form(inner, listed[name], f"{where}.{name}")
    elif isinstance(form, list):
        need(isinstance(value, list), f"{where} is no array")
        for inner in list(value):  # type: ignore[call-overload]  # it is one
            check_form(inner, form[0], where)
    elif isinstance(form, set):
        need(isinstance(value, str) and value in form, f"{where} is none of the words for it")
    elif form == TIME:
        need(isinstance(value, str) and TIMES.fullmatch(value), f"{where} is no time")
        need(EARLIEST <= datetime.fromisoformat(str(value)) <= LATEST, f"{where} is a time at which nothing happens")
    else:
        need(type(value) is {TEXT: str, INTEGER: int, BOOLEAN: bool}[form], f"{where} is no {form}")


def open_object(stored: bytes, key: str, sequence: int, generations: list[Generation]) -> Json:
    """Canonical, for this place, signed by a generation while it was in use."""
    try:
        entry: Json = json.loads(stored)
        need(len(stored) <= 1 << 20, "too large")
        check_form(entry, ENTRY, "it")
        signature = base64.b64decode(entry["signature"], validate=True)
        unsigned = {name: value for name, value in entry.items() if name != "signature"}
        need(rfc8785.dumps(entry) == stored, "not canonical")
        need(base64.b64encode(signature).decode() == entry["signature"], "its signature is not canonical")
        need((entry["format"], entry["key"], entry["sequence"]) == ("daena-kms/1", key, sequence), "not of this place")
        by = next(g for g in generations if g.signer == entry["signer"])
        Ed25519PublicKey.from_public_bytes(by.public_key).verify(
            signature, b"daena-kms/entry/1\0" + rfc8785.dumps(unsigned)
        )
        when = datetime.fromisoformat(entry["time"])
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        StopIteration,
        InvalidSignature,
        RecursionError,
    ) as problem:
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
    if event in STARTED | RESUMED:
        need("claim" in entry["state"], "a claim that claims nothing")
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
                state |= {"previous": earlier(entry.get("changes", [])), "paused": paused, "moved": None}
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


def read_generations(objects: Objects, pinned: str, anchor: tuple[int, str] = (0, "")) -> list[Generation]:
    """The public keys of a ledger: the first is pinned, each later one is signed by the one before, as far as `anchor`.

    What lies there without being such an entry is stepped over by the next one, which names it; at the end, it is bad.
    """
    generations: list[Generation] = []
    state: Json = {}
    previous, junk, hashes = "", list[Json](), {0: ""}
    for number in range(1, max(objects, default=0) + 1):
        need(number in objects, f"reserved entry {number} is missing")
        stored = objects[number]
        try:
            entry, public = next_generation(stored, number, generations)
            need(entry.get("junk", []) == junk, "it does not name the junk before it")
            need(entry.get("previous", "") == previous, "it does not continue the chain")
            need("origin" not in entry and "destination" not in entry, "a link to elsewhere")
            need(advance(state, entry) == entry["state"], "its state does not follow")
        except BadError as problem:
            need(generations, f"reserved entry 1 is bad: {problem}")
            junk.append({"sequence": number, "sha256": hashlib.sha256(stored).hexdigest()})
            continue
        if generations:
            generations[-1] = generations[-1]._replace(retired_at=datetime.fromisoformat(entry["time"]))
        generations.append(public)
        state, junk = entry["state"], []
        previous = hashes[number] = hashlib.sha256(stored).hexdigest()
    need(generations and generations[0].public_key.hex() == pinned, "not the pinned key")
    need(not junk, f"reserved entry {junk[0]['sequence'] if junk else 0} is none")
    need(hashes.get(anchor[0]) == anchor[1], f"reserved entry {anchor[0]} is not the one that the store names")
    return generations


def next_generation(stored: bytes, number: int, before: list[Generation]) -> tuple[Json, Generation]:
    """A reserved entry and the generation that it names, signed by the last one before; the first by itself."""
    try:
        public = Generation(bytes.fromhex(json.loads(stored)["trust"]["public_key"]))
        entry = open_object(stored, RESERVED, number, before or [public])
        Ed25519PublicKey.from_public_bytes(public.public_key)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise BadError(f"reserved entry {number} is none: {problem!r}") from None
    need(entry["trust"]["generation"] == len(before) + 1, "a generation is missing")
    need(entry["event"] == ("renewed" if before else "initialised"), "not the event that belongs here")
    need(entry["signer"] == (before or [public])[-1].signer, "not signed by the generation before")
    return entry, public
