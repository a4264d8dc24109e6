"""What must be so after keys have moved or come back: held against what was made, not by what moved them."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import pairwise
from typing import Any

from daena_kms.errors import KmsError
from daena_kms.fleet import Order
from daena_kms.material import KeyMaterial
from daena_kms.model import State, Status
from daena_kms.service import KeyStatus, Service

from .killing import Runner
from .scene import Place, Scene, canary, opened_outside, require

READABLE = (State.ACTIVE, State.DECRYPT_ONLY)
SAMPLE = 5  # keys that are read with a cloud's own client, and again where they came from
LATER = timedelta(days=400)


def all_arrived(scene: Scene, place: Place, *, without_disabled: bool = False) -> None:
    """Every version of every key is what was made under its number; the highest is active; nothing else is there."""
    with place.opened(scene.now) as service:
        require(service.known() == set(scene.keys), f"{place.name} has the keys {sorted(service.known())}")
        for status in service.status(scene.keys):
            _versions(scene, place, service, status, without_disabled=without_disabled)
    for key in scene.keys[:SAMPLE]:
        numbers = {number: canary(key, number) for number in range(1, scene.versions + 1)}
        opened_outside(place, key, numbers)


def _versions(scene: Scene, place: Place, service: Service, status: KeyStatus, *, without_disabled: bool) -> None:
    key = status.key
    asleep = State.DESTROYED if without_disabled else State.DISABLED
    expected = {
        number: State.ACTIVE if number == scene.versions else State.DECRYPT_ONLY
        for number in range(1, scene.versions + 1)
    } | ({1: asleep} if key in scene.disabled() else {})
    found = {version.number: version.state for version in status.versions}
    require(found == expected, f"{place.name}: {key} has {found}, it should have {expected}")
    for number in (number for number, state in found.items() if state in READABLE):
        material = service.get(key, number, reveal=True).material
        require(material == KeyMaterial(canary(key, number)), f"{place.name}: version {number} of {key} is another")


def untouched(scene: Scene, place: Place) -> None:
    """The material of some keys lies where they were, all of it."""
    with place.opened(scene.now) as service:
        for key in scene.keys[:SAMPLE]:
            for number in range(1 + (key in scene.disabled()), scene.versions + 1):
                material = service.get(key, number, reveal=True).material
                require(material == KeyMaterial(canary(key, number)), f"{place.name}: {number} of {key} was touched")


def sound(scene: Scene, place: Place, keys: Sequence[str] = ()) -> None:
    """Verification of all keys, or of some, finds nothing there."""
    with place.opened(scene.now) as service:
        for each in service.verify(keys):
            require(not (each.problems or each.warnings), f"{place.name}: {each}")


def agrees(runner: Runner, place: Place, *how: str) -> None:
    """`verify` in a process of its own, against another place or a backup, ends well and has nothing to say."""
    ran = runner.run(["verify", *how], place.settings, logs=False)
    require(ran.status == 0, f"{place.name}: verify {how} ended with {ran.status}: {ran.told}")


def in_one_place(scene: Scene, way: Sequence[Place]) -> None:
    """Every key is rotated in the last place of its way alone, and its manifests point at each other all the way."""
    with ExitStack() as opened:
        services = [opened.enter_context(place.opened(scene.now)) for place in way]
        for key in scene.keys:
            moved = [bool(service.state(key).moved) for service in services]
            require(moved == [True] * (len(way) - 1) + [False], f"{key} is moved at {moved} of {way}")
            for before, after in pairwise(services):
                _linked(key, before, after)


def _linked(key: str, before: Service, after: Service) -> None:
    there, here = list(before.journal.chain(key)), list(after.journal.chain(key))
    came = next(head for head in here if head.entry and head.entry.origin)
    went = there[-1]
    origin, destination = _entry(came).origin, _entry(went).destination
    for link, service, heads, back in ((origin, before, there, went), (destination, after, here, came)):
        require(link is not None, f"{key}: a manifest points nowhere")
        pointed = next((head for head in heads if _entry(head).sequence == link.sequence), None)
        found = (service.journal.ledger.address, service.keyring.trust.generations[0].public_key.hex())
        require((link.ledger, link.public_key) == found, f"{key} points at {link.ledger}")
        require(pointed is not None and pointed.hash == link.hash, f"{key} points at an entry that is not there")
        require(link.sequence <= _entry(back).sequence, f"{key} points past the end")


def _entry(head: Any) -> Any:
    return head.entry


def rotates_nothing(scene: Scene, place: Place, later: timedelta = LATER) -> None:
    """A tick where keys were, when every one would be long due, leaves them alone."""
    with place.opened(lambda: scene.now() + later) as service:
        found = service.rotate(Order()).counts()
        require(found == {Status.MOVED.value: len(scene.keys)}, f"{place.name}: a tick came to {found}")


def harmless_tick(scene: Scene, place: Place) -> None:
    """A tick while keys are on their way makes no version. Where there is no ledger yet, nothing ticks."""
    with ExitStack() as opened:
        try:
            service = opened.enter_context(place.opened(scene.now))
        except KmsError:
            return
        for outcome in service.rotate(Order()).outcomes:
            made = outcome.status in (Status.ROTATED, Status.CREATED)
            waits = "half done" in outcome.message or "does not exist" in outcome.message
            fails = outcome.status is Status.FAILED and not waits
            require(not made and not fails, f"{place.name}: a tick in between: {outcome}")
