"""Proving the evidence: manifests against themselves, against the heads stored beside the keys, and against the store.

The first part needs the manifests and a public key, nothing else: it runs offline, from a copy.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from . import plan
from .errors import IntegrityError, KmsError, NotFoundError, RefusedError
from .journal import unsealed, walk
from .keyring import Fingerprints, Keyring, Trust
from .ledger import Ledger
from .manifest import EMPTY, Head, History
from .model import Anchor, Observed, State, StoredVersion, VersionRecord
from .names import RESERVED_KEY
from .recognition import recognised
from .stores.base import KeyStore
from .trust import Root, read_root


class KeyAudit(Struct, frozen=True):
    """What verification found about one key. No problems: every claim holds."""

    key: str
    entries: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    head: str = ""
    """Hash of the last good entry: keep it, and a later audit shows whether history was cut."""


class Chain(Struct, frozen=True):
    """A key's manifest as far as it is good, every hash by its sequence number."""

    head: Head
    hashes: dict[int, str]
    history: History
    problem: str = ""


def read_chain(ledger: Ledger, key: str, trust: Trust) -> Chain:
    """Verify a key's whole manifest; the first bad entry is named, not raised."""
    head, hashes, entries, problem = EMPTY, {}, [], ""
    try:
        for head in walk(ledger, key, trust):
            if head.entry is not None:
                hashes[head.entry.sequence] = head.hash
                entries.append(head.entry)
    except IntegrityError as found:
        problem = found.message
    return Chain(head, hashes, History(entries), problem)


def verify_manifests(ledger: Ledger, pin: str = "", keys: Sequence[str] = ()) -> list[KeyAudit]:
    """Verify manifests offline, from a copy of the folder and (pinned) the first public key.

    Raises IntegrityError if the ledger's own keys are not sound, NotFoundError if it was never initialised.
    """
    root = read_root(ledger, pin)
    wanted = keys or [key for key in ledger.names() if key != RESERVED_KEY]
    return [*verify_root(ledger, root), *(_offline(key, read_chain(ledger, key, root.trust)) for key in wanted)]


def verify_root(ledger: Ledger, root: Root, doubt: str = "") -> list[KeyAudit]:
    """What is wrong with the ledger's own chain; nothing, if nothing is. `doubt`: what its store says against it."""
    problems = [f"entry {junk.sequence} of {RESERVED_KEY} is no entry of ours" for junk in root.junk]
    following = root.head.next_sequence + len(root.junk)
    if any(sequence > following for sequence in ledger.sequences(RESERVED_KEY)):
        problems.append(f"entry {following} of {RESERVED_KEY} is missing, but later ones are there")
    problems += [doubt] if doubt else []
    entries = len(root.trust.generations)
    return [KeyAudit(RESERVED_KEY, entries, tuple(problems), head=root.head.hash)] if problems else []


def _offline(key: str, chain: Chain) -> KeyAudit:
    problems = [chain.problem] if chain.problem else []
    if not chain.hashes and not problems:
        problems.append(f"there is no manifest of {key}")
    return KeyAudit(key, len(chain.hashes), tuple(problems), head=chain.head.hash)


def verify_key(store: KeyStore, ledger: Ledger, keyring: Keyring, key: str, now: datetime) -> KeyAudit:
    """Verify one key's manifest, and hold it against its store: head, versions, material."""
    chain = read_chain(ledger, key, keyring.trust)
    audit = _offline(key, chain)
    problems = list(audit.problems)
    warnings: list[str] = []
    try:
        seen = store.observe(key)
        seen = recognised(store, key, seen, keyring.fingerprints, chain.head.state, chain.history)
        if store.fenced:
            seen = seen.with_published(chain.history.versions)
        if seen.ledger not in ("", ledger.address):
            problems.append(f"the store says that its manifest lies at {seen.ledger}, not at {ledger.address}")
        problems += [f"entry {n} was written more than once, or deleted" for n in ledger.rewritten(key)]
        if seen.anchor is not None:
            problems += _check_anchor(key, seen.anchor, chain, keyring.fingerprints)
        problems += _check_store(store, key, chain, seen, keyring.fingerprints)
        warnings += _warnings(chain, seen, now)
        for stray in plan.strays(chain.head.state, seen):
            problem = _check_stray(store, key, chain, stray, keyring.fingerprints)
            left = f"version {stray.number} was left by a run that was given up: the next tick adopts it"
            (problems if problem else warnings).append(problem or left)
    except KmsError as problem:
        problems.append(problem.line)
    return KeyAudit(key, audit.entries, tuple(problems), tuple(warnings), audit.head)


def _check_anchor(key: str, anchor: Anchor, chain: Chain, fingerprints: Fingerprints) -> Iterable[str]:
    if not fingerprints.sealed(key, unsealed(anchor), anchor.mac):
        yield "the head stored beside the key was not written by us"
    elif anchor.sequence not in chain.hashes:
        if not chain.problem:
            yield f"entry {anchor.sequence} is gone: the manifest was cut after entry {chain.head.next_sequence - 1}"
    elif chain.hashes[anchor.sequence] != anchor.hash:
        yield f"entry {anchor.sequence} is not the one that the store names: it was replaced"


def _check_store(store: KeyStore, key: str, chain: Chain, seen: Observed, fingerprints: Fingerprints) -> Iterable[str]:
    records, active = chain.history.versions, chain.head.state.active
    for record in records.values():
        # Where a version was published again there are several; what readers get may be any of them.
        copies = [v for v in seen.versions if v.is_recorded(record)]
        lying: Sequence[StoredVersion | None] = copies or [None]
        problems = (_check_version(store, key, record, copy, fingerprints) for copy in lying)
        yield from dict.fromkeys(problem for problem in problems if problem)
        readable = record.state in (State.ACTIVE, State.DECRYPT_ONLY)
        if copies and readable and record.version_id not in [copy.version_id for copy in copies]:
            yield f"version {record.number} lies in the store, but not as {record.version_id}, where it is looked for"
    if active is not None and (seen.newest is None or not seen.newest.is_recorded(active)):
        yield f"readers get {_called(seen.newest)}, the manifest says version {active.number} ({active.version_id})"
    strays = plan.strays(chain.head.state, seen)
    held = chain.head.state.claim.number if chain.head.state.claim else 0
    for version in seen.versions:
        if version.number in records:
            if not version.is_recorded(records[version.number]):
                yield f"the store has {_called(version)}, which is not the one that the manifest knows"
            elif version.loose:
                yield f"version {version.number} has lost the mark that keeps it: a rotation or `adopt` gives it back"
        elif not version.number:
            yield f"the store has {version.version_id}, which is no version of ours"
        elif version not in strays and version.number != held:
            yield f"{_called(version)} lies in the store, but no entry knows it"


def _called(version: StoredVersion | None) -> str:
    if version is None:
        return "nothing"
    return f"version {version.number} ({version.version_id})" if version.number else f"version {version.version_id}"


def _check_version(
    store: KeyStore, key: str, record: VersionRecord, lying: StoredVersion | None, fingerprints: Fingerprints
) -> str:
    if lying is not None and lying.enabled and record.state in (State.DISABLED, State.DESTROYED):
        return f"version {record.number} is {record.state}, but the store still gives it out"
    if record.state is State.DESTROYED:
        return ""
    if lying is None and record.state is State.DISABLED and record.destroy_at is not None:
        return ""  # the store had been told to destroy it; the next tick records that it has
    if lying is None:
        return f"version {record.number} is {record.state}, but the store does not have it"
    if record.state is State.DISABLED:
        return ""
    try:
        fingerprints.check(key, store.read(key, lying), record.fingerprint)
    except KmsError as problem:
        return f"version {record.number} is {record.state}, but: {problem.message}"
    return ""


def _check_stray(store: KeyStore, key: str, chain: Chain, stray: StoredVersion, fingerprints: Fingerprints) -> str:
    named = next(burnt for burnt in chain.head.state.burnt if burnt.number == stray.number)
    try:
        fingerprints.check(key, store.read(key, stray), named.fingerprint)
    except (IntegrityError, NotFoundError, RefusedError) as problem:
        return f"{_called(stray)} lies in the store under a number that was given up, but: {problem.message}"
    return ""


def _warnings(chain: Chain, seen: Observed, now: datetime) -> Iterable[str]:
    state = chain.head.state
    yield from seen.notes
    if state.claim is not None:
        late = "has ended" if state.claim.lease_until <= now else f"ends {state.claim.lease_until:%Y-%m-%d %H:%M} UTC"
        yield f"{state.claim.work} is open; its lease {late}"
    elif seen.staged:
        yield f"{len(seen.staged)} staged copies that no run needs: the next rotation takes them away"
