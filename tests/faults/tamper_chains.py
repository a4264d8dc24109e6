"""What can be done to manifests at rest: each a set of objects that lie otherwise. Pure; randomness is handed in.

Who does it may write to the ledger, and mostly has no signing key of it. Cases of kinds that begin with `holder:` have
one: what such a person writes within the rules is history (SECURITY.md), so that `verify` need not find it.
"""

import base64
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import rfc8785

from daena_kms.keyring import LocalSigner
from daena_kms.manifest import MAX_ENTRY_BYTES, SIGNATURE_CONTEXT
from tests.support.manifest_reader import RESERVED

from .tamper_scene import KEYS, Changes, House, Objects

HOLDER = "holder:"


class Case(NamedTuple):
    """One tampering with a ledger."""

    kind: str
    name: str
    key: str
    changes: Changes
    blames: tuple[str, ...] = ()
    """What `verify` has to say, one of them; any problem will do if there is none here."""

    @property
    def found(self) -> bool:
        """True if `verify` has to find it."""
        return not self.kind.startswith(HOLDER)


class Chain:
    """One key's objects, and what is to be said of each."""

    def __init__(self, house: House, key: str) -> None:
        self.key = key
        self.every: Objects = dict(house.past)
        self.objects = {sequence: data for (name, sequence), data in self.every.items() if name == key}
        self.last = max(self.objects, default=0)
        self._blamed = _blamed(self.objects)

    def case(self, kind: str, name: str, changes: dict[int, bytes | None], blamed: int, *more: int) -> Case:
        """Objects of this key that lie otherwise; `blamed` and `more` are the entries that may be named for it."""
        named = {name for sequence in (blamed, *more) for name in (sequence, self._blamed.get(sequence, sequence))}
        blames = tuple(f"entry {sequence} of {self.key} is " for sequence in sorted(named))
        blames += tuple(f"entry {sequence} is " for sequence in sorted(named))
        return Case(kind, name, self.key, {(self.key, n): data for n, data in changes.items()}, blames)


def _blamed(objects: dict[int, bytes]) -> dict[int, int]:
    """Where entries are stepped over: whatever is done to one of them or to what names them, the first is blamed."""
    found: dict[int, int] = {}
    for sequence, data in objects.items():
        entry = loaded(data)
        named = [junk["sequence"] for junk in entry.get("junk", [])]
        found |= dict.fromkeys([*named, sequence], named[0]) if named else {}
    return found


def loaded(data: bytes) -> dict[str, Any]:
    """An entry's fields; none of junk."""
    try:
        entry = json.loads(data)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


# --- one bit


def flips(chain: Chain, chance: random.Random, *, every_bit: bool, part: int, parts: int) -> Iterator[Case]:
    """Each byte of each object with one bit changed; `every_bit`: with each. Of all of them one part."""
    places = [(n, i) for n, data in sorted(chain.objects.items()) for i in range(len(data))]
    for sequence, place in places[part::parts]:
        bits = range(8) if every_bit else (chance.randrange(8),)
        for bit in bits:
            yield flip(chain, sequence, place, bit)


def flip(chain: Chain, sequence: int, place: int, bit: int) -> Case:
    """One bit of one object changed."""
    data = bytearray(chain.objects[sequence])
    data[place] ^= 1 << bit
    name = f"bit {bit} of byte {place} of entry {sequence}"
    return chain.case("a flipped bit", name, {sequence: bytes(data)}, sequence)


# --- whole objects


def structure(chain: Chain, chance: random.Random) -> Iterator[Case]:
    """Entries removed, moved, swapped, cut, repeated."""
    objects, last = chain.objects, chain.last
    for n in sorted(objects):
        yield chain.case("an entry removed", f"entry {n}", {n: None}, n, last)
        moved = {m: objects.get(m + 1) for m in range(n, last + 1)}
        yield chain.case("an entry removed, the rest moved up", f"entry {n}", moved, n, last)
        yield chain.case("an old entry put behind the last", f"entry {n}", {last + 1: objects[n]}, last + 1)
        for length in sorted({0, 1, len(objects[n]) // 2, len(objects[n]) - 1, chance.randrange(len(objects[n]))}):
            yield chain.case("an entry cut short", f"entry {n} to {length}", {n: objects[n][:length]}, n)
    for n, following in pairwise(sorted(objects)):
        swapped: dict[int, bytes | None] = {n: objects[following], following: objects[n]}
        yield chain.case("two entries swapped", f"{n} and {following}", swapped, n)
    for length in range(last):
        gone: dict[int, bytes | None] = dict.fromkeys(range(length + 1, last + 1))
        yield chain.case("the end cut off", f"after {length}", gone, length, length + 1, last)
        beginning: dict[int, bytes | None] = dict.fromkeys(range(1, length + 2))
        yield chain.case("the beginning cut off", f"up to {length + 1}", beginning, 1, last)


JUNK: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
    "an empty object": lambda _: b"{}",
    "a text": lambda _: b'"daena-kms/1"',
    "no JSON": lambda _: b"\x00\xff\xfe",
    "deep": lambda _: b"[" * 100_000,
    "deep objects": lambda _: b'{"state":' * 20_000,
    "too large": lambda data: data + b" " * MAX_ENTRY_BYTES,
    "a mark in front": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "twice": lambda data: data + data,
    "a great number": lambda data: data.replace(b'"sequence":', b'"sequence":1' + b"0" * 5000, 1),
    "a lone surrogate": lambda data: data.replace(b'"trigger":"test"', b'"trigger":"\\ud800"', 1),
}


def junk(chain: Chain, chance: random.Random) -> Iterator[Case]:
    """What is no entry, in an entry's place, behind the last, and after a gap."""
    last = chain.last
    of = next(data for _, data in sorted(chain.objects.items(), reverse=True) if loaded(data))
    for what, make in JUNK.items():
        if make(of) == of:
            continue
        n = chance.choice(sorted(chain.objects))
        if make(chain.objects[n]) != chain.objects[n] or not loaded(chain.objects[n]):
            stored = make(of)
            yield chain.case("junk in an entry's place", f"{what} for {n}", {n: stored}, n)
        yield chain.case("junk behind the last", what, {last + 1: make(of)}, last + 1)
        three: dict[int, bytes | None] = dict.fromkeys(range(last + 1, last + 4), make(of))
        yield chain.case("junk behind the last", f"{what}, three times", three, last + 1)
        yield chain.case("an object after a gap", what, {last + 1 + chance.randrange(1, 9): make(of)}, last + 1)


# --- other spellings


def _respelled(entry: dict[str, Any], data: bytes) -> Iterable[tuple[str, bytes]]:
    text = data.decode()
    yield "white space", json.dumps(entry, ensure_ascii=False).encode()
    yield "a newline", data + b"\n"
    yield "a space in front", b" " + data
    yield "indented", json.dumps(entry, indent=1, sort_keys=True, ensure_ascii=False).encode()
    backwards = dict(sorted(entry.items(), reverse=True))
    yield "names backwards", json.dumps(backwards, separators=(",", ":"), ensure_ascii=False).encode()
    first = entry["event"][0]
    yield "an escape", text.replace(f'"event":"{first}', f'"event":"\\u{ord(first):04x}', 1).encode()
    yield "an escaped slash", text.replace("daena-kms/1", "daena-kms\\/1", 1).encode()
    yield "a name twice", (text[:-1] + f',"trigger":{json.dumps(entry["trigger"])}}}').encode()
    yield "a name twice, otherwise", (text[:-1] + ',"event":"paused"}').encode()
    yield "a float", text.replace(f'"sequence":{entry["sequence"]}', f'"sequence":{entry["sequence"]}.0', 1).encode()
    yield (
        "an exponent",
        text.replace(f'"sequence":{entry["sequence"]}', f'"sequence":{entry["sequence"]}e0', 1).encode(),
    )
    yield (
        "a plus in a time",
        text.replace(f'"time":"{entry["time"]}"', f'"time":"{entry["time"][:-1]}+00:00"', 1).encode(),
    )
    yield "a null more", _packed({**entry, "reason": None})
    yield "an empty text more", _packed({"request": "", **entry} if "request" not in entry else {**entry, "x": ""})
    yield "a name more", _packed({**entry, "note": "x"})
    yield "base64 without padding", _packed({**entry, "signature": entry["signature"].rstrip("=")})
    yield (
        "base64 with a newline",
        _packed({**entry, "signature": entry["signature"][:40] + "\n" + entry["signature"][40:]}),
    )


def _packed(entry: dict[str, Any]) -> bytes:
    """Canonical, but for what canonical JSON cannot hold."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def spelling(chain: Chain, _: random.Random) -> Iterator[Case]:
    """Entries that say the same, spelled otherwise, and fields taken away."""
    for n, data in sorted(chain.objects.items()):
        entry = loaded(data)
        for what, spelled in _respelled(entry, data) if entry else ():
            if spelled != data:
                yield chain.case("another spelling", f"{what} in {n}", {n: spelled}, n)
        for name in entry:
            without = _packed({other: value for other, value in entry.items() if other != name})
            yield chain.case("a field taken away", f"{name} in {n}", {n: without}, n)


# --- other keys' entries


def replays(house: House, chain: Chain, _: random.Random) -> Iterator[Case]:
    """Entries and whole chains of other keys in this one's place, under their own name and renamed."""
    for other in (*KEYS, RESERVED):
        theirs = Chain(house, other).objects
        if other == chain.key:
            continue
        for n, data in sorted(theirs.items()):
            place = min(n, chain.last + 1)
            renamed = data.replace(f'"key":"{other}"'.encode(), f'"key":"{chain.key}"'.encode())
            yield chain.case("another key's entry", f"{other} {n} at {place}", {place: data}, place)
            if renamed != data:
                yield chain.case("another key's entry, renamed", f"{other} {n} at {place}", {place: renamed}, place)
            yield chain.case("another key's entry", f"{other} {n} behind", {chain.last + 1: data}, chain.last + 1)
        for how, old, new in (("", b"", b""), (", renamed", other.encode(), chain.key.encode())):
            whole: dict[int, bytes | None] = dict.fromkeys(chain.objects)
            whole |= {n: data.replace(old, new) if old else data for n, data in theirs.items()}
            yield chain.case(f"another key's chain{how}", other, whole, 1, chain.last)


# --- signatures


class Signers(NamedTuple):
    """Who may sign: nobody we know, those that did, and the one that does."""

    foreign: LocalSigner
    retired: tuple[LocalSigner, ...]
    current: LocalSigner


def signers(house: House) -> Signers:
    """The ledger's own keys, out of the store, and a stranger's."""
    versions = house.store.observe(RESERVED).versions
    seeds = {house.store.read(RESERVED, version).reveal()[:32] for version in versions}
    found = {signer.key_id: signer for signer in map(LocalSigner, seeds)}
    order = sorted(found, key=house.keyring.trust.order)
    return Signers(LocalSigner(bytes(32)), tuple(found[i] for i in order[:-1]), found[order[-1]])


def signed(entry: dict[str, Any], by: LocalSigner, /, **changes: Any) -> bytes:
    """An entry with changed fields (None takes one away), signed anew by that signer in its own name unless changed."""
    unsigned = {name: value for name, value in {**entry, "signer": by.key_id, **changes}.items() if value is not None}
    unsigned.pop("signature", None)
    signature = by.sign(SIGNATURE_CONTEXT + rfc8785.dumps(unsigned))
    return rfc8785.dumps({**unsigned, "signature": base64.b64encode(signature).decode()})


LONG_AGO = "2026-01-01T12:00:00Z"


def signatures(house: House, chain: Chain, chance: random.Random) -> Iterator[Case]:
    """Entries signed by others, or said to be."""
    who = signers(house)
    ids = {signer.key_id for signer in (who.foreign, *who.retired, who.current)}
    for n, data in sorted(chain.objects.items()):
        entry = loaded(data)
        if not entry:
            continue
        after = next((m for m in sorted(chain.objects) if m > n and loaded(chain.objects[m])), n + 1)
        for other in sorted(ids - {entry["signer"]}):
            renamed = rfc8785.dumps({**entry, "signer": other})
            yield chain.case("another signer named", f"{n}: {other}", {n: renamed}, n)
        yield chain.case("signed by a stranger", f"{n}", {n: signed(entry, who.foreign)}, n)
        posing = signed(entry, who.foreign, signer=entry["signer"])
        yield chain.case("signed by a stranger in our name", f"{n}", {n: posing}, n)
        swapped = {
            **entry,
            "signature": loaded(chain.objects[chance.choice(sorted(chain.objects))]).get("signature", "AAAA"),
        }
        if swapped != entry:
            yield chain.case("another entry's signature", f"{n}", {n: rfc8785.dumps(swapped)}, n)
        for signer in (*who.retired, who.current):
            for when in (entry["time"], LONG_AGO):
                resigned = signed(entry, signer, time=when)
                if resigned != data:
                    name = f"{n} by {signer.key_id} {when}"
                    yield chain.case("signed again with a key of ours", name, {n: resigned}, n, n + 1, after)


def forged(house: House, chain: Chain, chance: random.Random) -> Iterator[Case]:
    """What a holder of a signing key may do: an entry more behind the last; and what is against the rules there."""
    who, last = signers(house), chain.last
    entry = loaded(chain.objects[last])
    following = {"sequence": last + 1, "previous": hashlib.sha256(chain.objects[last]).hexdigest(), "event": "paused"}
    bare = {
        n: v
        for n, v in entry.items()
        if n not in {"changes", "verified", "number", "version_id", "fingerprint", "trust", "junk"}
    }
    state = {**entry["state"], "paused": True}
    for signer in (*who.retired, who.current):
        for when in (entry["time"], LONG_AGO):
            made = signed(bare, signer, time=when, state=state, **following)
            name = f"paused by {signer.key_id} {when}"
            yield Case(HOLDER + " an entry more", name, chain.key, {(chain.key, last + 1): made})
    for name, made in _malformed(bare | following | {"state": state}, who.current, chance):
        yield Case(HOLDER + " an odd entry", name, chain.key, {(chain.key, last + 1): made})


def _malformed(entry: dict[str, Any], signer: LocalSigner, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Rightly signed, and each time odd in one place."""
    for name in sorted(entry):
        if name != "signature":
            for value in (None, *ODD):
                yield f"{name} = {value!r}", signed(entry, signer, **{name: value})
    for name in ("note", "reason", "changes", "junk", "trust", "origin", "destination", "cloud_request_id", "number"):
        for value in ODD:
            yield f"{name} = {value!r}", signed(entry, signer, **{name: value})
    yield from _odd_states(entry, signer, chance)
    for event in EVENTS:
        yield f"event = {event}", signed(entry, signer, event=event)
        bare = {name: value for name, value in entry["state"].items() if name != "paused"}
        yield f"event = {event}, not paused", signed(entry, signer, event=event, state=bare)
    for when in TIMES:
        yield f"time = {when}", signed(entry, signer, time=when)


def _odd_states(entry: dict[str, Any], signer: LocalSigner, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    for path in _paths(entry["state"]):
        for value in (None, *chance.sample(ODD, 5)):
            yield (
                f"state.{'.'.join(map(str, path))} = {value!r}",
                signed(entry, signer, state=_changed(entry["state"], path, value)),
            )
    for field in ("claim", "burnt", "moved", "retry_at", "incarnation", "failures", "extra", "attention_at"):
        for value in ODD:
            yield f"state.{field} = {value!r}", signed(entry, signer, state={**entry["state"], field: value})


ODD: tuple[Any, ...] = ("", 0, False, [], {}, -1, 1.5, "x", [1], {"x": 1}, 2**53 - 1, True)
TIMES = (
    "2026-01-01", "now", "2026-01-01T12:00:00", "2026-01-01T12:00:00+00:00", "2026-01-01T12:00:00.5Z",
    "2026-01-01t12:00:00z", "2026-01-01T12:00:00.000000Z", "2026-01-01T12:00:00.1234567Z", "9999-12-31T23:59:59Z",
    "2026-01-01T12:00:60Z", "2026-01-01T24:00:00Z", "2026-01-01T13:00:00+01:00", "0001-01-01T00:00:00Z",
    "1899-12-31T23:59:59Z", "1900-01-01T00:00:00Z", "2999-12-31T23:59:59Z", "3000-01-01T00:00:00Z",
    "3000-01-01T00:00:01Z", "2026-02-30T00:00:00Z", "\uff12026-01-01T12:00:00Z",
)  # fmt: skip
EVENTS = (
    "initialised", "renewed", "rotation-started", "rotation-resumed", "change-started", "change-resumed", "created",
    "promoted", "rolled-back", "imported", "discarded", "adopted", "republished", "retired", "disabled", "enabled",
    "destroy-scheduled", "destroy-cancelled", "destroy-pending", "destroyed", "compromised", "resumed", "repaired",
    "restored", "moved-to", "Paused", "unknown",
)  # fmt: skip


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for name, inner in pairs:
        yield (*before, name)
        yield from _paths(inner, (*before, name))


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The same with something else at a path; None takes it away."""
    made = value.copy()
    if len(path) > 1:
        made[path[0]] = _changed(value[path[0]], path[1:], new)
    elif new is None:
        del made[path[0]]
    else:
        made[path[0]] = new
    return made
