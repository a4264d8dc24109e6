"""Appending to manifests of different lengths, and verifying a long one, beside bare writes and bare signatures."""

import base64
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec.structs import replace

from daena_kms.manifest import SIGNATURE_CONTEXT, Draft, Event, Head, canonical
from daena_kms.model import Anchor

from .durable import write_entry
from .figures import Figure, Scale, compared
from .scene import POLICY, Scene

APPEND = "3. append to a manifest"
CHAIN = "4. verify a manifest"
WRITE = "a bare durable write of that size"


class Manifest:
    """One key whose manifest has about so many entries, and what the rounds on it measured, in milliseconds."""

    def __init__(self, scene: Scene, key: str, folder: Path) -> None:
        self.scene = scene
        self.key = key
        anchor = scene.store.observe(key).anchor
        if anchor is None:
            raise SystemExit(f"{key} was not rotated")
        self.anchor: Anchor = anchor
        self.head: Head = scene.journal.head(key, anchor)
        self.entries = self.head.next_sequence - 1
        self._bare = folder / key
        self._bare.mkdir(parents=True)
        self.known: list[float] = []
        self.found: list[float] = []
        self.bare: list[float] = []

    def take(self) -> None:
        """One round; what it appends is taken away again."""
        self.known.append(self._append(lambda: self.head))
        self.found.append(self._append(lambda: self.scene.journal.head(self.key, self.anchor)))
        size = Path(self.scene.ledger.where(self.key, self.entries)).stat().st_size
        started = time.perf_counter()
        write_entry(self._bare, "entry", bytes(size))
        self.bare.append((time.perf_counter() - started) * 1e3)
        (self._bare / "entry").unlink()

    def _append(self, find: Callable[[], Head]) -> float:
        draft = Draft(Event.PAUSED, reason="bench")
        started = time.perf_counter()
        head = self.scene.journal.append(self.key, find(), draft)
        seconds = time.perf_counter() - started
        Path(self.scene.ledger.where(self.key, head.next_sequence - 1)).unlink()
        return seconds * 1e3

    def figures(self) -> list[Figure]:
        """Head known, and head found through what is stored beside the key."""
        name = f"{self.entries:,} entries"
        return [
            compared(APPEND, f"{name}, head known", self.known, "ms", self.bare, WRITE),
            compared(APPEND, f"{name}, head found by its anchor", self.found, "ms", self.bare, WRITE),
        ]


def measure(folder: Path, scale: Scale) -> list[Figure]:
    """The figures of both groups."""
    sizes = {f"manifest-{entries}": entries for entries in scale.manifest_entries}
    scene = Scene(folder / "manifests", dict.fromkeys(sizes, POLICY))
    scene.create()
    with scene.unflushed():
        for key, entries in sizes.items():
            for _ in range((entries - 2) // 2):  # creating wrote two entries, each rotation writes two more
                scene.rotate(1, key)
    manifests = [Manifest(scene, key, folder / "bare") for key in sizes]
    for _ in range(scale.append_rounds):
        for each in manifests:
            each.take()
    figures = [figure for each in manifests for figure in each.figures()]
    figures += _flatness(manifests[0], manifests[-1])
    figures.append(_chain(manifests[-1], scale.chain_rounds))
    scene.close()
    return figures


def _flatness(short: Manifest, long: Manifest) -> list[Figure]:
    name, peer_is = f"at {long.entries:,} entries", f"at {short.entries:,} entries"
    return [
        compared(APPEND, f"{name}, head known", long.known, "ms", short.known, peer_is, "flat: ratio ~ 1"),
        compared(APPEND, f"{name}, head found", long.found, "ms", short.found, peer_is, "flat: ratio ~ 1"),
    ]


def _chain(subject: Manifest, rounds: int) -> Figure:
    """Read, parse, check the canonical form, the chain, the state and the signature; beside the signature alone."""
    journal, key = subject.scene.journal, subject.key
    public = Ed25519PublicKey.from_public_bytes(journal.keyring.trust.generations[0].public_key)
    entries = journal.history(key)
    signed = [
        (base64.b64decode(entry.signature), SIGNATURE_CONTEXT + canonical(replace(entry, signature="")))
        for entry in entries
    ]
    ours, floor = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        count = sum(1 for _ in journal.chain(key))
        ours.append(count / (time.perf_counter() - started))
        started = time.perf_counter()
        for signature, message in signed:
            public.verify(signature, message)
        floor.append(count / (time.perf_counter() - started))
    name = f"{len(entries):,} entries"
    return compared(CHAIN, name, ours, "entries/s", floor, "bare Ed25519 verify, same messages")
