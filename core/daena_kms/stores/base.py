"""What a key store must do. Small on purpose: the rules are elsewhere; a store carries out, and checks replies.

Every method raises the children of KmsError and nothing of an SDK's. A store believes no reply that names another
key, another version or another checksum than was asked for.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from ..material import KeyMaterial
from ..model import Anchor, InventoryRow, KeySpec, Observed, StoredVersion


class Prepared(Struct, frozen=True):
    """Material made ready for one number of one key. `sealed` is what the store will hold: only it can open that."""

    material: KeyMaterial
    sealed: bytes


class NewVersion(Struct, frozen=True):
    """The version that a claim announced."""

    number: int
    rotation_id: str
    fingerprint: str
    spec: str


class KeyStore(Protocol):
    """One place that holds material.

    `fenced`: `promote` is a compare-and-set. `marked`: every version carries our marks, so that it says itself which
    one it is; where not, a version's number is a hint (0 where there is none), and `recognition` finds out.
    """

    @property
    def provider(self) -> str: ...

    @property
    def fenced(self) -> bool: ...

    @property
    def marked(self) -> bool: ...

    @property
    def destruction(self) -> str:
        """What `destroy` cannot do here, for people; empty where a destroyed version's material is gone for good."""
        ...

    @property
    def address(self) -> str:
        """What this store is, for people: a vault's path, a region, a URL."""
        ...

    @property
    def actor(self) -> str:
        """Whose credentials are in use."""
        ...

    def inventory(self) -> Iterator[InventoryRow]:
        """Every key of ours, the reserved one left out. May lag behind on some stores."""
        ...

    def observe(self, key: str, *, dated: bool = False, since: Observed | None = None) -> Observed:
        """What the store shows about one key now; `exists=False` if it has none of that name.

        `dated`: with the time when it took each version in, where that is one more question; versions without a number
        of ours come in that order then. `since`: what this run has seen and published a moment ago: where looking costs
        several questions, only what is newer is asked for.
        """
        ...

    def prepare(self, key: str, number: int, spec: KeySpec, material: KeyMaterial | None = None) -> Prepared:
        """New material (or the given one) made ready for that number. Changes nothing."""
        ...

    def stage(self, key: str, version: NewVersion, prepared: Prepared) -> StoredVersion:
        """Lay a version down where no reader looks; make the key if it is not there.

        First writer wins: if that rotation id was staged before, nothing is written. Returns what lies there.
        """
        ...

    def read(self, key: str, version: StoredVersion) -> KeyMaterial:
        """The material of one version, staged or published. Raises NotFoundError, or RefusedError if it is disabled."""
        ...

    def promote(
        self, key: str, staged: StoredVersion, planned: StoredVersion | None, material: KeyMaterial
    ) -> StoredVersion:
        """Make a version the one that readers get, if they get `planned` now (fenced stores); a no-op if it is already.

        Raises ConflictError if readers get something else. Also publishes again what was published before.
        `material` is what was read back and verified: a store that cannot move a staged version writes that.
        """
        ...

    def discard(self, key: str, staged: StoredVersion) -> None:
        """Take a staged version away. A no-op if it is gone; never touches a published one."""
        ...

    def label(self, key: str, version: StoredVersion, new: NewVersion) -> StoredVersion:
        """Write our number, rotation id and fingerprint on a version that lies there without them (`adopt`).

        Raises RefusedError if that version has another number of ours already.
        """
        ...

    def disable(self, key: str, version: StoredVersion) -> None:
        """Make a version unreadable; can be undone. RefusedError if readers get it, or nothing is left to mark."""
        ...

    def enable(self, key: str, version: StoredVersion) -> None:
        """Undo `disable`. Raises RefusedError where that cannot be: it is destroyed, or nothing is left to mark."""
        ...

    def destroy(self, key: str, version: StoredVersion) -> datetime | None:
        """Destroy a version's material for good, as far as the store can. A no-op if it is destroyed.

        Where the store itself waits, the version is disabled, and what is returned is when it will be destroyed.
        """
        ...

    def write_anchor(self, key: str, anchor: Anchor) -> None:
        """Store the manifest's head beside the key."""
        ...


# Operation of this protocol -> the permissions it needs, in the provider's own words.
Permissions = Mapping[str, tuple[str, ...]]
