"""In-memory stores and ledger for tests.

`MemoryStore(fenced=True)` promotes by compare-and-set, as AWS and the local vault do. `MemoryStore(fenced=False)`
behaves as Azure Key Vault and GCP Secret Manager do: staging and publishing take no condition, each write is one more
version with an id of its own, and what was written last is what readers get (cloud-facts: `set_secret` has no ETag
and no token; `AddSecretVersion` has neither request id nor etag). Both refuse what those refuse.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec.structs

from daena_kms.errors import ConflictError, ExistsError, IntegrityError, NotFoundError, RefusedError
from daena_kms.material import KeyMaterial
from daena_kms.model import Anchor, InventoryRow, KeySpec, Observed, StoredVersion
from daena_kms.names import RESERVED_KEY
from daena_kms.stores.base import NewVersion, Prepared


class MemoryLedger:
    """Create-only objects in a dictionary."""

    address = "memory:ledger"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, int], bytes] = {}
        self._lock = threading.Lock()

    def append(self, key: str, sequence: int, data: bytes) -> None:
        with self._lock:
            if (key, sequence) in self.objects:
                raise ExistsError(f"entry {sequence} of {key} is there already")
            self.objects[key, sequence] = data

    def read(self, key: str, sequence: int) -> bytes | None:
        return self.objects.get((key, sequence))

    def sequences(self, key: str) -> list[int]:
        with self._lock:
            return sorted(sequence for name, sequence in self.objects if name == key)

    def names(self) -> list[str]:
        with self._lock:
            return sorted({name for name, _ in self.objects})

    def rewritten(self, key: str) -> list[int]:
        return []

    def where(self, key: str, sequence: int) -> str:
        return f"{self.address}/{key}/{sequence}"


@dataclass(frozen=True)
class Held:
    """One version as the double holds it. A staged copy that is published stays staged where nothing is moved."""

    version: StoredVersion
    sealed: bytes
    destroyed: bool = False


@dataclass
class Container:
    """One key as the double holds it."""

    held: list[Held]
    newest: str = ""
    ledger: str = ""
    anchor: Anchor | None = None


class MemoryStore:
    """A strict key store in memory, of either kind."""

    provider = "memory"
    destruction = ""
    address = "memory:store"
    actor = "memory:tester"

    def __init__(
        self,
        *,
        fenced: bool,
        entropy: Callable[[int], bytes],
        clock: Callable[[], datetime],
        ledger: str = MemoryLedger.address,
    ) -> None:
        self.fenced = fenced
        self.marked = True
        self.keys: dict[str, Container] = {}
        self._entropy = entropy
        self._clock = clock
        self._ledger = ledger
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    def inventory(self) -> Iterator[InventoryRow]:
        with self._lock:
            rows = [
                InventoryRow(key, c.ledger, self._newest(c).number if c.newest else 0, c.anchor)
                for key, c in sorted(self.keys.items())
                if key != RESERVED_KEY
            ]
        yield from rows

    def observe(
        self,
        key: str,
        *,
        dated: bool = False,
        since: Observed | None = None,
    ) -> Observed:
        with self._lock:
            container = self.keys.get(key)
            if container is None:
                return Observed(exists=False)
            versions = [h.version for h in container.held]
            return Observed(
                exists=True,
                newest=self._newest(container) if container.newest else None,
                versions=tuple(v for v in versions if not v.staged),
                staged=tuple(v for v in versions if v.staged),
                ledger=container.ledger,
                anchor=container.anchor,
            )

    def prepare(self, key: str, number: int, spec: KeySpec, material: KeyMaterial | None = None) -> Prepared:
        material = material or KeyMaterial(self._entropy(spec.length))
        return Prepared(material, _context(key, number) + material.reveal())

    def stage(self, key: str, version: NewVersion, prepared: Prepared) -> StoredVersion:
        with self._lock:
            container = self.keys.setdefault(key, Container([], ledger=self._ledger))
            if self.fenced:
                for held in container.held:
                    if held.version.rotation_id == version.rotation_id:
                        return held.version
            stored = StoredVersion(
                number=version.number,
                version_id=version.rotation_id if self.fenced else f"staged-{next(self._ids)}",
                fingerprint=version.fingerprint,
                rotation_id=version.rotation_id,
                spec=version.spec,
                staged=True,
                created_at=self._clock(),
            )
            container.held.append(Held(stored, prepared.sealed))
            return stored

    def read(self, key: str, version: StoredVersion) -> KeyMaterial:
        with self._lock:
            held = self._held(key, version.version_id)
            if held.destroyed or not held.version.enabled:
                raise RefusedError(f"version {version.number} of {key} is disabled")
            context = _context(key, held.version.number)
            if not held.sealed.startswith(context):
                raise IntegrityError(f"version {version.number} of {key} does not open")
            return KeyMaterial(held.sealed[len(context) :])

    def promote(
        self, key: str, staged: StoredVersion, planned: StoredVersion | None, material: KeyMaterial
    ) -> StoredVersion:
        with self._lock:
            container = self.keys[key]
            if self.fenced:
                return self._promote_fenced(key, container, self._held(key, staged.version_id), planned)
            published = replace_version(staged, version_id=f"live-{next(self._ids)}", staged=False)
            container.held.append(Held(published, _context(key, staged.number) + material.reveal()))
            container.newest = published.version_id
            return published

    def _promote_fenced(
        self, key: str, container: Container, held: Held, planned: StoredVersion | None
    ) -> StoredVersion:
        expected = planned.version_id if planned else ""
        if container.newest not in (expected, held.version.version_id):
            raise ConflictError(f"{container.newest} is active, {expected} expected")
        if not held.version.enabled:
            raise NotFoundError("not there to be promoted")
        published = replace_version(held.version, staged=False)
        self._replace(key, held, replace(held, version=published))
        container.newest = published.version_id
        return published

    def discard(self, key: str, staged: StoredVersion) -> None:
        with self._lock:
            container = self.keys[key]
            container.held = [
                h for h in container.held if not (h.version.staged and h.version.version_id == staged.version_id)
            ]

    def label(self, key: str, version: StoredVersion, new: NewVersion) -> StoredVersion:
        if version.number != new.number:
            raise RefusedError(f"version {version.number} of {key} has a number already")
        with self._lock:
            held = self._held(key, version.version_id)
            labelled = replace_version(held.version, fingerprint=new.fingerprint)
            self._replace(key, held, replace(held, version=labelled))
            return labelled

    def disable(self, key: str, version: StoredVersion) -> None:
        self._each_copy(key, version, enabled=False)

    def enable(self, key: str, version: StoredVersion) -> None:
        self._each_copy(key, version, enabled=True)

    def destroy(self, key: str, version: StoredVersion) -> None:
        with self._lock:
            for held in list(self.keys[key].held):
                if held.version.number == version.number:
                    disabled = replace_version(held.version, enabled=False)
                    self._replace(key, held, Held(disabled, b"", destroyed=True))

    def write_anchor(self, key: str, anchor: Anchor) -> None:
        with self._lock:
            self.keys[key].anchor = anchor

    def _each_copy(self, key: str, version: StoredVersion, *, enabled: bool) -> None:
        with self._lock:
            if self._newest(self.keys[key]).number == version.number and not enabled:
                raise RefusedError(f"version {version.number} of {key} is active")
            for held in list(self.keys[key].held):
                if held.version.number == version.number and not held.destroyed:
                    self._replace(key, held, replace(held, version=replace_version(held.version, enabled=enabled)))

    def _replace(self, key: str, old: Held, new: Held) -> None:
        container = self.keys[key]
        container.held = [new if held is old else held for held in container.held]

    def _held(self, key: str, version_id: str) -> Held:
        if key in self.keys:
            for held in self.keys[key].held:
                if held.version.version_id == version_id:
                    return held
        raise NotFoundError(f"{key} has no version {version_id}")

    def _newest(self, container: Container) -> StoredVersion:
        return next(h.version for h in container.held if h.version.version_id == container.newest)


def replace_version(version: StoredVersion, **changes: object) -> StoredVersion:
    """A version with some fields changed."""
    return msgspec.structs.replace(version, **changes)


def _context(key: str, number: int) -> bytes:
    return f"{key}\0{number}\0".encode()
