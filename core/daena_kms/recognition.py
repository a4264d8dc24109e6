"""Which versions these are that a store shows without saying so: found out by where they lie, or by reading them.

Not every store has a place for our marks on each version, and on some what marks there are may be hours old. So they
are hints: a version is what the manifest's entry says of its place, or what its material proves it to be.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from .errors import IntegrityError, NotFoundError, RefusedError
from .keyring import Fingerprints
from .manifest import History
from .model import Burnt, Claim, KeyState, Observed, StoredVersion, VersionRecord
from .stores.base import KeyStore

Name = VersionRecord | Claim | Burnt


def recognised(
    store: KeyStore,
    key: str,
    seen: Observed,
    fingerprints: Fingerprints,
    state: KeyState,
    history: History | None = None,
) -> Observed:
    """What was seen, with the number of each version that the store did not tell, as far as the manifest names it.

    `history` is the whole manifest, where it was read: then no mark is believed that it does not bear out. Without it,
    that is so of what readers get alone; the last entry does not name everything. What is nobody's keeps the number 0,
    and gets its fingerprint: it is not read again, until the whole manifest is there. Where there is no manifest, or it
    is lost, marks are all there is.
    """
    if store.marked:
        return seen
    known = _names(state, history)
    placed = history.placed if history is not None else {}

    def told(version: StoredVersion) -> StoredVersion:
        doubted = bool(known) and (history is not None or _same(version, seen.newest))
        if history is not None and not version.number:
            version = replace(version, fingerprint="")  # nobody's, as far as less than this told
        if doubted and not version.fingerprint and not any(_recorded(name, version) for name in known):
            version = replace(version, number=0)
        if not version.enabled and not version.number:
            return _placed(version, known, placed)
        return _told(store, key, version, known, fingerprints)

    versions = tuple(sorted(map(told, seen.versions), key=lambda version: version.number))
    newest = next((v for v in versions if _same(v, seen.newest)), None) or (seen.newest and told(seen.newest))
    return replace(seen, newest=newest, versions=versions, staged=tuple(map(told, seen.staged)))


def _names(state: KeyState, history: History | None) -> list[Name]:
    """Everything that a manifest says of a key's versions: all of it, or what its last entry carries."""
    recorded = history.versions.values() if history is not None else (state.active, state.previous)
    claim = state.claim
    claimed: tuple[Claim | Burnt | None, ...] = claim.brings if claim is not None and claim.brings else (claim,)
    return [name for name in (*recorded, *claimed, *state.burnt) if name is not None and name.fingerprint]


def _same(version: StoredVersion, other: StoredVersion | None) -> bool:
    return other is not None and version.version_id == other.version_id


def _recorded(name: Name, version: StoredVersion) -> bool:
    return isinstance(name, VersionRecord) and version.is_recorded(name)


def _placed(version: StoredVersion, known: Sequence[Name], placed: Mapping[str, int]) -> StoredVersion:
    """Nobody is given it, so its place will do. Otherwise it would not: a key made anew counts from 1 again."""
    living = [name for name in known if isinstance(name, VersionRecord) and not name.lost]
    number = placed.get(version.version_id)
    name = next((name for name in living if name.number == number), None)  # the last that was put there
    name = name or next((name for name in living if _lies(name, version)), None)
    return replace(version, number=name.number, spec=name.spec) if name else version


def _told(
    store: KeyStore, key: str, version: StoredVersion, known: Sequence[Name], fingerprints: Fingerprints
) -> StoredVersion:
    if version.number or version.fingerprint:
        return version
    try:
        material = store.read(key, version)
    except (IntegrityError, NotFoundError, RefusedError):  # damaged; or gone, or disabled, since it was seen
        return version
    fitting = [name for name in known if fingerprints.fits(key, material, name.fingerprint)]
    if not fitting:
        return replace(version, fingerprint=fingerprints.of(key, material))
    # After a rollback two numbers have one material: it is the one recorded here, otherwise the later one.
    name = max(fitting, key=lambda name: (_lies(name, version), name.number))
    return replace(
        version,
        number=name.number,
        fingerprint=name.fingerprint,
        rotation_id=name.rotation_id if isinstance(name, Claim) else "",
        spec=name.spec,
    )


def _lies(name: Name, version: StoredVersion) -> bool:
    """True if the manifest says that this is the named one's place."""
    return isinstance(name, VersionRecord) and not name.lost and name.version_id == version.version_id
