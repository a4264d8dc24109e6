"""What must be so after every case, by somebody who has read the format's page and nothing of the library.

    checker = Checker(seen.of_world(world))           # one for a place; it remembers what it has seen of each key
    problems = checker.check(key)                      # a list of sentences, empty when all is well
    problems = checker.check(key, watched=materials)   # and of what readers were given meanwhile
    room.materials |= checker.materials                # all that came into being

Call it when things are at rest: the case is over, and the next scheduled run has succeeded. It says whether

- the manifest verifies, reaches as far as the head beside the key says, and goes on from what was seen of it before;
- exactly one version is active, readers get it, and no claim is open;
- every version that was ever active and is not disabled or destroyed can be read, with its first fingerprint;
  disabled and destroyed ones cannot;
- no number was given out twice, and each number and each rotation id has one material;
- nothing lies in the store that no entry names; nothing staged is left over;
- readers were given nothing but materials of versions that the manifest has as once active;
- no material is in the manifest.
"""

import hashlib
import hmac
import json
import uuid
from collections.abc import Collection, Iterable
from typing import NamedTuple

from tests.support.manifest_reader import RESERVED, BadError, Generation, Json, read_generations, verify_chain

from .leaks import Search
from .seen import Eye, Shown

READABLE = ("active", "decrypt-only")
MAKING = ("create", "rotate", "rollback", "import")
NAMESPACE = uuid.UUID("6f0f3ad1-54f4-5f5f-9f49-6c8b6d9d2a10")


class Story(NamedTuple):
    """What a manifest tells, read from its entries."""

    entries: list[Json]
    first: dict[int, str]
    """Number -> the fingerprint it had when it first was announced or became a version."""
    records: dict[int, Json]
    """Number -> the last record of that version."""
    problems: list[str]

    @property
    def state(self) -> Json:
        return dict(self.entries[-1]["state"]) if self.entries else {}


class Checker:
    """Of one store with its ledger."""

    def __init__(self, eye: Eye, pinned: str = "") -> None:
        """`pinned` is the ledger's first public key, where it is known; else what is found at first is held to."""
        self._eye = eye
        self._pinned = pinned
        self._kept: dict[str, dict[int, bytes]] = {}
        self.materials: set[bytes] = set()

    def check(
        self, key: str, *, watched: Iterable[bytes] = (), at_rest: bool = True, leftovers: bool = False
    ) -> list[str]:
        """What is not as it must be. `leftovers`: what is staged may have been left over."""
        try:
            objects, shown = self._eye.objects(key), self._eye.key(key)
            generations, secrets = self._generations()
        except BadError as problem:
            return [f"the ledger's own keys: {problem}"]
        problems = self._kept_is_there(key, objects)
        try:
            verify_chain(objects, key, generations, shown.anchor)
        except BadError as problem:
            return [*problems, f"the manifest: {problem}"]
        self.materials |= {copy.material for copy in shown.copies if copy.material is not None}
        story = read(key, objects)
        problems += story.problems
        names = Names(key, secrets)
        problems += _of_versions(story, shown, names) + _of_copies(story, shown, names, leftovers=leftovers)
        problems += _of_readers(story, watched, names)
        problems += Search(copy.material for copy in shown.copies if copy.material is not None).data(
            "material is in the manifest", b"\0".join(objects.values())
        )
        if at_rest and "claim" in story.state:
            problems.append(f"a claim is open: {story.state['claim']}")
        return problems

    def _generations(self) -> tuple[list[Generation], dict[int, bytes]]:
        """The public halves from the ledger, and of each generation the key of its fingerprints from the store."""
        objects = self._eye.objects(RESERVED)
        if not self._pinned and 1 in objects:
            self._pinned = json.loads(objects[1])["trust"]["public_key"]
        generations = read_generations(objects, self._pinned)
        halves = {copy.material[32:] for copy in self._eye.key(RESERVED).copies if copy.material is not None}
        self.materials |= halves
        checks = {hmac.digest(half, b"daena-kms/check/1", "sha256").hex()[:32]: half for half in halves}
        trusts = [json.loads(stored)["trust"] for stored in objects.values()]
        return generations, {int(trust["generation"]): checks[trust["check_value"]] for trust in trusts}

    def _kept_is_there(self, key: str, objects: dict[int, bytes]) -> list[str]:
        before, self._kept[key] = self._kept.get(key, {}), objects
        return [f"entry {n} is not what it was" for n, stored in before.items() if objects.get(n) != stored]


class Names:
    """The fingerprints of one key's materials, in each generation."""

    def __init__(self, key: str, secrets: dict[int, bytes]) -> None:
        context = b"daena-kms/fingerprint/1\0" + key.encode()
        self._keys = {number: hmac.digest(secret, context, "sha256") for number, secret in secrets.items()}

    def all_of(self, material: bytes) -> set[str]:
        """What that material may be called."""
        return {f"{number}:{hmac.digest(key, material, 'sha256').hex()}" for number, key in self._keys.items()}


def read(key: str, objects: dict[int, bytes]) -> Story:
    """What the entries tell, once they are known to be sound."""
    story = Story([], {}, {}, [])
    ids: dict[str, str] = {}
    claimed: set[int] = set()
    for _, stored in sorted(objects.items()):
        try:
            entry = json.loads(stored)
            entry["state"], entry["event"]  # junk that a repair names is stepped over
        except (ValueError, KeyError, TypeError):
            continue
        story.entries.append(entry)
        claim = entry["state"].get("claim", {})
        if entry["event"] == "rotation-started":
            number = claim["number"]
            if number in claimed:
                story.problems.append(f"number {number} was given out twice")
            claimed.add(number)
            _first(story, number, claim["fingerprint"])
            incarnation = entry["state"].get("incarnation", 1)
            wanted = str(uuid.uuid5(NAMESPACE, f"{key}\0{incarnation}\0{number}"))
            if claim["rotation_id"] != wanted:
                story.problems.append(f"the rotation id of {number} is {claim['rotation_id']}, not {wanted}")
            if ids.setdefault(claim["rotation_id"], claim["fingerprint"]) != claim["fingerprint"]:
                story.problems.append(f"rotation {claim['rotation_id']} has two materials")
        for record in entry.get("changes", ()):
            _first(story, record["number"], record["fingerprint"])
            story.records[record["number"]] = record
    return story


def _first(story: Story, number: int, fingerprint: str) -> None:
    if story.first.setdefault(number, fingerprint) != fingerprint:
        story.problems.append(f"number {number} has a second fingerprint")


def _of_versions(story: Story, shown: Shown, names: Names) -> list[str]:
    """The versions that the manifest tells of, held against the store."""
    problems = []
    active = [number for number, record in story.records.items() if record["state"] == "active"]
    if story.records and len(active) != 1:
        problems.append(f"{active} are active")
    if story.records and story.state.get("active", {}).get("number") not in active:
        problems.append(f"the state has {story.state.get('active')} as active")
    found = {name for copy in shown.copies if copy.material is not None for name in names.all_of(copy.material)}
    copies = {copy.id: copy for copy in shown.copies if not copy.staged}
    for number, record in story.records.items():
        if record["state"] in READABLE:
            if story.first[number] not in found:
                problems.append(f"version {number}, which is {record['state']}, cannot be read any more")
        elif (copy := copies.get(record["version_id"])) and copy.material is not None:
            problems.append(f"version {number}, which is {record['state']}, can be read")
    if active and (shown.live is None or story.first[active[0]] not in names.all_of(shown.live)):
        what = "nothing" if shown.live is None else _which(story, names, shown.live)
        problems.append(f"readers get {what}, active is {active[0]}")
    return problems


def _of_copies(story: Story, shown: Shown, names: Names, *, leftovers: bool) -> list[str]:
    """The versions that lie in the store, held against the manifest."""
    problems = []
    for copy in shown.copies:
        if copy.material is None:
            continue
        named = names.all_of(copy.material)
        if named.isdisjoint(story.first.values()):
            problems.append(f"{copy.id} ({copy.number}) lies in the store and no entry names it")
        elif copy.number and story.first.get(copy.number) not in named:
            problems.append(f"{copy.id} lies in the store as {copy.number}, whose material is another")
        if copy.staged and not leftovers:
            problems.append(f"{copy.id} ({copy.number}) is still staged")
    return problems


def _of_readers(story: Story, watched: Iterable[bytes], names: Names) -> list[str]:
    """What readers were given."""
    once_active = {record["fingerprint"] for record in story.records.values()}
    return [
        f"a reader was given {_which(story, names, material)}, which was never active"
        for material in set(watched)
        if names.all_of(material).isdisjoint(once_active)
    ]


def _which(story: Story, names: Names, material: bytes) -> str:
    """That material's number, for people. Never the material."""
    named: Collection[str] = names.all_of(material)
    numbers = [number for number, fingerprint in story.first.items() if fingerprint in named]
    return (
        f"number {numbers}" if numbers else f"unknown material ({hashlib.sha256(material).hexdigest()[:12]} by SHA-256)"
    )
