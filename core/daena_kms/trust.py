"""Opening and making the keys behind the evidence: what `init` and `init --renew` do.

The secret halves lie in the key store under the reserved name, one version a generation; the public halves lie in
the ledger under the same name, one signed entry a generation. The store is written first, create-only; the first
ledger object decides between racing inits, and names the right material by its public key.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from . import manifest
from .errors import ConfigurationError, ConflictError, ExistsError, IntegrityError, NotFoundError, RefusedError
from .journal import bad_entry, unsealed
from .keyring import (
    GENERATION_BYTES,
    Fingerprints,
    Keyring,
    LocalSigner,
    PublicGeneration,
    Trust,
    Withheld,
    key_id,
    split_generation,
)
from .ledger import Ledger
from .manifest import EMPTY, Draft, Event, Head, Junk, TrustRecord
from .material import KeyMaterial
from .model import Anchor, KeySpec, Observed
from .names import RESERVED_KEY
from .plan import rotation_id
from .stores.base import KeyStore, NewVersion

_SPEC = KeySpec.parse(GENERATION_BYTES)
_HINT = "put that entry back from a copy; or `init --renew` names the keys anew that the store holds"


class Initialised(Struct, frozen=True):
    """What an init came to. Auditors need `public_key` and nothing else."""

    public_key: str
    """The first generation's: the one to pin."""
    generation: int
    made: bool


class _Generation(Struct, frozen=True):
    signer: LocalSigner
    fingerprint_key: bytes
    material: KeyMaterial


class Root(Struct, frozen=True):
    """What the ledger says about its own keys."""

    trust: Trust
    head: Head
    junk: tuple[Junk, ...] = ()
    """What lies behind the head without being an entry: it has no authority, and a renewal steps over it."""


def read_root(ledger: Ledger, pin: str = "") -> Root:
    """The public keys that the ledger names, each signed by the one before.

    `pin` is the first public key in hexadecimal, known from elsewhere: a ledger that starts with another is refused.
    Raises NotFoundError for a ledger that was never initialised, IntegrityError for one that does not start soundly.
    """
    generations: list[PublicGeneration] = []
    head, junk = EMPTY, list[Junk]()
    while (stored := ledger.read(RESERVED_KEY, head.next_sequence + len(junk))) is not None:
        sequence = head.next_sequence + len(junk)
        try:
            head = _next_generation(generations, head, sequence, stored, junk)
            junk = []
        except IntegrityError as problem:
            if not generations:
                raise bad_entry(RESERVED_KEY, sequence, problem) from None
            junk.append(Junk(sequence, manifest.entry_hash(stored)))
    if not generations:
        if any(sequence > 1 for sequence in ledger.sequences(RESERVED_KEY)):
            raise bad_entry(RESERVED_KEY, 1, IntegrityError("it is missing, but later ones are there"))
        raise NotFoundError(f"the manifests at {ledger.address} were never initialised", "run `daena-key-rotate init`")
    if pin and generations[0].public_key.hex() != pin.lower():
        raise IntegrityError(
            "the ledger's public key is not the pinned one", "point DAENA_MANIFEST_URL at the right manifests"
        )
    return Root(Trust(generations), head, tuple(junk))


def _next_generation(
    generations: list[PublicGeneration], head: Head, sequence: int, stored: bytes, junk: list[Junk]
) -> Head:
    entry = manifest.parse(stored)
    if entry.trust is None or entry.trust.generation != len(generations) + 1 or entry.junk != tuple(junk):
        raise IntegrityError("it names no next generation of keys")
    expected = Event.RENEWED if generations else Event.INITIALISED
    if entry.event is not expected:
        raise IntegrityError(f"a {expected} entry belongs here")
    try:
        following = PublicGeneration(bytes.fromhex(entry.trust.public_key))
        signers = Trust(generations or [following])
    except ValueError:
        raise IntegrityError("its public key is no Ed25519 key") from None
    if entry.signer != key_id(signers.generations[-1].public_key):
        raise IntegrityError("it is not signed by the generation before it")
    entry = manifest.open_entry(stored, key=RESERVED_KEY, sequence=sequence, trust=signers)
    head = manifest.follow(head, entry, stored, signers)
    if generations:
        generations[-1] = PublicGeneration(generations[-1].public_key, entry.time)
    generations.append(following)
    return head


def initialised(ledger: Ledger) -> bool:
    """True if anything lies where the ledger's own chain begins, sound or not."""
    return ledger.read(RESERVED_KEY, 1) is not None


def open_keyring(store: KeyStore, ledger: Ledger, pin: str = "") -> Keyring:
    """Signer, trust and fingerprints.

    The signer signs nothing if the ledger lacks a generation that it had: what a retired key signed is no evidence.
    Raises NotFoundError if there was no init, IntegrityError if the secret halves do not fit the public ones.
    """
    try:
        root = read_root(ledger, pin)
    except NotFoundError:
        _check_unused(store, ledger)
        raise
    trust, seen = root.trust, store.observe(RESERVED_KEY)
    secret = _fitting(_held(store, seen), ledger, trust)
    fingerprints = _fingerprints(secret)
    entry = root.head.entry
    if entry is None or entry.trust is None or entry.trust.check_value != fingerprints.check_value():
        raise IntegrityError("the store's fingerprint key is not the one that the manifests were begun with")
    problem = doubt(ledger, root, seen.anchor, fingerprints)
    return Keyring(Withheld(problem, _HINT) if problem else secret[-1].signer, trust, fingerprints)


def _check_unused(store: KeyStore, ledger: Ledger) -> None:
    """Raise IntegrityError if the store says that a ledger which has nothing of ours had something."""
    seen = store.observe(RESERVED_KEY)
    if seen.anchor is not None and seen.ledger == ledger.address:
        raise IntegrityError(
            f"entry 1 of {RESERVED_KEY} is gone: the manifests of this store lay at {ledger.address}",
            "put the manifests back from a copy; or, if they are lost for good, `init` and `adopt` each key",
        )


def doubt(ledger: Ledger, root: Root, anchor: Anchor | None, fingerprints: Fingerprints) -> str:
    """Why the ledger's own chain is not the one whose head lies beside the reserved key; empty if all is well."""
    if anchor is None or root.head.entry is None:
        return ""
    place = f"entry {anchor.sequence} of {RESERVED_KEY}"
    if anchor.sequence > root.head.entry.sequence:
        return f"{place} is gone, or is no entry of ours any more: the newest keys of these manifests are not named"
    if not fingerprints.sealed(RESERVED_KEY, unsealed(anchor), anchor.mac):
        return f"the head stored beside {RESERVED_KEY} was not written by us"
    found = root.head.hash
    if anchor.sequence < root.head.entry.sequence:
        found = manifest.entry_hash(ledger.read(RESERVED_KEY, anchor.sequence) or b"")
    return "" if found == anchor.hash else f"{place} is not the one that the store names: it was replaced"


def _anchor(store: KeyStore, ledger: Ledger, *, anew: bool) -> None:
    """Store the chain's head beside the reserved key, as with any key: then a renewal cannot be taken back unnoticed.

    Raises IntegrityError if what lies there is not of this chain, unless it is begun `anew`, or was renewed just now.
    """
    root, seen = read_root(ledger), store.observe(RESERVED_KEY)
    fingerprints = _fingerprints(_fitting(_held(store, seen), ledger, root.trust))
    if root.head.entry is None:
        return
    if not anew and (problem := doubt(ledger, root, seen.anchor, fingerprints)):
        raise IntegrityError(problem, _HINT)
    anchor = Anchor(root.head.entry.sequence, root.head.hash, len(root.trust.generations))
    if anew or seen.anchor is None or seen.anchor.sequence < anchor.sequence:
        sealed = replace(anchor, mac=fingerprints.seal(RESERVED_KEY, unsealed(anchor)))
        store.write_anchor(RESERVED_KEY, sealed)


def secret_halves(store: KeyStore, ledger: Ledger, trust: Trust) -> list[KeyMaterial]:
    """The reserved key's material of each generation, in order. Raises IntegrityError if the store lacks one."""
    held = _held(store, store.observe(RESERVED_KEY))
    return [generation.material for generation in _fitting(held, ledger, trust)]


def _fitting(every: Iterable[_Generation], ledger: Ledger, trust: Trust) -> list[_Generation]:
    """Of what the store holds, what the ledger names, in order. Raises IntegrityError if one is lacking."""
    held = {generation.signer.public_key: generation for generation in every}
    for number, public in enumerate(trust.generations, 1):
        if public.public_key not in held:
            raise IntegrityError(
                f"the store has no reserved key that fits generation {number} of the manifests at {ledger.address}",
                "is it the store of these manifests? `restore` puts the reserved key back from a backup otherwise",
            )
    return [held[public.public_key] for public in trust.generations]


def _fingerprints(secret: Sequence[_Generation]) -> Fingerprints:
    """The fingerprint keys of all generations, in order."""
    return Fingerprints({number: each.fingerprint_key for number, each in enumerate(secret, 1)})


def initialise(store: KeyStore, ledger: Ledger, *, clock: Callable[[], datetime], trigger: str) -> Initialised:
    """Make the first generation, or find that it is there. May be called by many at once, and again after a crash."""
    try:
        root, made = read_root(ledger), False
    except NotFoundError:
        _refuse_foreign(ledger)
        candidate, made = _candidate(store, ledger), False
        if candidate is not None:
            announced = _Announcement(EMPTY, (), candidate, candidate, 1)
            made = _announce(ledger, announced, actor=store.actor, clock=clock, trigger=trigger)
        root = read_root(ledger)
    trust = root.trust
    _anchor(store, ledger, anew=made)
    open_keyring(store, ledger)
    _tidy(store, len(trust.generations))
    return Initialised(trust.public_key, len(trust.generations), made)


def _candidate(store: KeyStore, ledger: Ledger) -> _Generation | None:
    """The first generation as this init would have it; None if another one has ended meanwhile."""
    try:
        return next(_held(store, store.observe(RESERVED_KEY)), None) or _make(store, 1)
    except (NotFoundError, RefusedError):  # what this one had staged was taken away by that one
        if not initialised(ledger):
            raise
        return None


def _tidy(store: KeyStore, generations: int) -> None:
    """Take away what an init that died has left staged: copies of what is published, or of what never will be."""
    if store.fenced:
        return  # there what was staged is what is published, moved
    for staged in store.observe(RESERVED_KEY).staged:
        if staged.number <= generations:
            store.discard(RESERVED_KEY, staged)


def renew(store: KeyStore, ledger: Ledger, *, clock: Callable[[], datetime], trigger: str) -> Initialised:
    """Add a generation: new signing and fingerprint keys, announced by a signature of the old one."""
    open_keyring(store, ledger)
    root = read_root(ledger)
    trust = root.trust
    number = len(trust.generations) + 1
    known = {generation.public_key for generation in trust.generations}
    held = list(_held(store, store.observe(RESERVED_KEY)))
    signer = next(g for g in held if g.signer.public_key == trust.generations[-1].public_key)
    # A renewal that was cut short left its material in the store: go on with that.
    following = next((g for g in held if g.signer.public_key not in known), None) or _make(store, number)
    announced = _Announcement(root.head, root.junk, signer, following, number)
    made = _announce(ledger, announced, actor=store.actor, clock=clock, trigger=trigger)
    _anchor(store, ledger, anew=True)
    open_keyring(store, ledger)
    _tidy(store, number)
    return Initialised(trust.public_key, number, made)


def _refuse_foreign(ledger: Ledger) -> None:
    keys = [key for key in ledger.names() if key != RESERVED_KEY]
    if keys:
        raise ConfigurationError(
            f"the ledger at {ledger.address} holds a manifest of {keys[0]}, but nothing says whose keys signed it",
            f"put {RESERVED_KEY} back from a copy, or point DAENA_MANIFEST_URL at an empty place",
        )


class _Announcement(Struct, frozen=True):
    head: Head
    junk: tuple[Junk, ...]
    signer: _Generation
    following: _Generation
    number: int


def _announce(
    ledger: Ledger, wanted: _Announcement, *, actor: str, clock: Callable[[], datetime], trigger: str
) -> bool:
    """Append the entry that names a generation's public key. False if another init was first."""
    number, following = wanted.number, wanted.following
    record = TrustRecord(
        generation=number,
        public_key=following.signer.public_key.hex(),
        check_value=Fingerprints({number: following.fingerprint_key}).check_value(),
    )
    event = Event.RENEWED if number > 1 else Event.INITIALISED
    behind = replace(wanted.head, next_sequence=wanted.head.next_sequence + len(wanted.junk))
    stored = manifest.seal(
        behind,
        Draft(event, number=number, trust=record, junk=wanted.junk),
        key=RESERVED_KEY,
        now=clock(),
        actor=actor,
        trigger=trigger,
        signer=wanted.signer.signer,
    )
    try:
        ledger.append(RESERVED_KEY, behind.next_sequence, stored)
    except ExistsError:
        if number > 1:
            raise ConflictError("somebody else renewed the keys just now", "nothing more to do") from None
        return False
    return True


def _held(store: KeyStore, seen: Observed) -> Iterator[_Generation]:
    """Every generation whose secret half lies in the store, oldest first; on some stores also a racing init's."""
    for version in seen.versions:
        yield _opened(store.read(RESERVED_KEY, version))


def put_back(store: KeyStore, ledger: Ledger, generations: Sequence[KeyMaterial]) -> None:
    """Give a store that has lost the keys of its manifests the ones that a backup holds. A no-op if it has them.

    Raises IntegrityError if they are not the keys of these manifests: nothing is put there then.
    """
    trust = read_root(ledger).trust
    held = {generation.signer.public_key for generation in _held(store, store.observe(RESERVED_KEY))}
    offered = {_opened(material).signer.public_key: material for material in generations}
    missing = {n: public.public_key for n, public in enumerate(trust.generations, 1) if public.public_key not in held}
    if not offered.keys() >= set(missing.values()):
        raise IntegrityError(
            f"the backup does not hold the keys of the manifests at {ledger.address}",
            "point DAENA_MANIFEST_URL at the manifests that the backup was made beside, or at an empty place",
        )
    for number, public_key in missing.items():
        _make(store, number, offered[public_key])


def _make(store: KeyStore, number: int, given: KeyMaterial | None = None) -> _Generation:
    """Put a new generation into the store; if another init was first, take that one. `given`: put that one there."""
    prepared = store.prepare(RESERVED_KEY, number, _SPEC, given)
    version = NewVersion(number, rotation_id(RESERVED_KEY, 1, number), "", _SPEC.name)
    staged = store.stage(RESERVED_KEY, version, prepared)
    material = store.read(RESERVED_KEY, staged)
    planned = store.observe(RESERVED_KEY).newest
    if given is not None or planned is None or planned.number < number:  # what is put back may be an older one
        store.promote(RESERVED_KEY, staged, planned, material)
    else:  # what was staged here is announced by nobody: where a stage takes no condition, it is not what is published
        material = store.read(RESERVED_KEY, planned)
    if not store.fenced:
        store.discard(RESERVED_KEY, staged)  # a copy; what readers get was written beside it
    return _opened(material)


def _opened(material: KeyMaterial) -> _Generation:
    seed, fingerprint_key = split_generation(material)
    return _Generation(LocalSigner(seed), fingerprint_key, material)
