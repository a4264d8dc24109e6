"""Proving a backup before anything is written from it: every chain, every record, every version's material.

Whoever has a recipient's public key can make a file that opens. So nothing is believed because it was sealed: the
chains are verified from their root, under the one public key that the reader knows from elsewhere. What stands
outside the chains (when the backup was made, by whom, from which store) is for people, and proves nothing.
"""

from collections import Counter
from collections.abc import Sequence

from . import manifest
from .backup import BackedUp, Backup, BackupLedger
from .errors import IntegrityError, KmsError, NotFoundError
from .holdings import READABLE, Held, Holding
from .journal import walk
from .keyring import Fingerprints, LocalSigner, Trust, split_generation
from .manifest import EMPTY, Head, History
from .model import KeySpec, Link, State, VersionRecord
from .names import RESERVED_KEY, name_problem
from .trust import Root, read_root

_HINT = "take another backup; nothing was changed"


def check(backup: Backup, pin: str = "") -> None:
    """Raise IntegrityError, which says what and where, unless everything that the backup claims holds.

    `pin` is the ledger's first public key in hexadecimal, known from elsewhere; without it a backup vouches for itself.
    """
    if pin and backup.public_key != pin.lower():
        raise IntegrityError(
            "the backup's public key is not the pinned one", "it is another ledger's backup, or a forged one"
        )
    _check_names(backup)
    root = _root(backup)
    fingerprints = _fingerprints(backup, root)
    ledger = BackupLedger(backup)
    for each in backup.keys:
        try:
            _check_key(backup, ledger, each, root.trust, fingerprints)
        except IntegrityError as problem:
            raise IntegrityError(f"{each.holding.key}: {problem.message}", _HINT) from None


# --- the ledger's own keys


def _root(backup: Backup) -> Root:
    try:
        root = read_root(BackupLedger(backup), backup.public_key)
    except NotFoundError:
        raise IntegrityError("the ledger's own chain is missing in it", _HINT) from None
    except IntegrityError as problem:
        raise IntegrityError(f"the ledger's own chain: {problem.message}", _HINT) from None
    if root.junk:
        raise IntegrityError("the ledger's own chain goes on with what is no entry of it", _HINT)
    if backup.public_key != root.trust.public_key:
        raise IntegrityError("the public key is not written as the ledger's own chain writes it", _HINT)
    return root


def _fingerprints(backup: Backup, root: Root) -> Fingerprints:
    """The fingerprint keys, each held against what the chain says of it."""
    public = [generation.public_key for generation in root.trust.generations]
    if [each.number for each in backup.generations] != list(range(1, len(public) + 1)):
        raise IntegrityError(f"it holds the reserved key of other generations than the {len(public)} there are", _HINT)
    secrets: dict[int, bytes] = {}
    values = _check_values(backup, root.trust)
    for each in backup.generations:
        seed, secrets[each.number] = split_generation(each.material)
        fits = LocalSigner(seed).public_key == public[each.number - 1]
        if not fits or Fingerprints({each.number: secrets[each.number]}).check_value() != values.get(each.number):
            raise IntegrityError(f"generation {each.number} of the reserved key is not the chain's", _HINT)
    return Fingerprints(secrets)


def _check_values(backup: Backup, trust: Trust) -> dict[int, str]:
    values: dict[int, str] = {}
    for sequence, stored in enumerate(backup.root, 1):
        try:
            entry = manifest.open_entry(stored, key=RESERVED_KEY, sequence=sequence, trust=trust)
        except IntegrityError:
            continue  # junk that a later entry names
        if entry.trust is not None:
            values[entry.trust.generation] = entry.trust.check_value
    return values


# --- keys


def _check_names(backup: Backup) -> None:
    names = [each.holding.key for each in backup.keys]
    for name, count in Counter([*names, *(each.key for each in backup.failed)]).items():
        if problem := name_problem(name):
            raise IntegrityError(problem, _HINT)
        if count > 1:
            raise IntegrityError(f"it names {name} more than once", _HINT)


def _check_key(backup: Backup, ledger: BackupLedger, each: BackedUp, trust: Trust, fingerprints: Fingerprints) -> None:
    holding, head, entries = each.holding, EMPTY, []
    for head in walk(ledger, holding.key, trust):
        if head.entry is not None:
            entries.append(head.entry)
    _check_end(backup, holding, head)
    _check_records(holding, History(entries).versions)
    for held in holding.versions:
        _check_material(holding.key, held, fingerprints)


def _check_end(backup: Backup, holding: Holding, head: Head) -> None:
    """That the holding stands where its chain ends."""
    if head.entry is None:
        raise IntegrityError("its manifest is missing")
    ends = Link(backup.ledger, backup.public_key, head.entry.sequence, head.hash)
    if holding.origin != ends:
        raise IntegrityError(f"its origin is not where its manifest ends, which is entry {head.entry.sequence}")
    state = head.state
    if state.active is None or state.claim is not None:
        raise IntegrityError("its manifest ends in the middle of a change")
    if (holding.highest, holding.paused) != (state.highest, state.paused):
        raise IntegrityError("its highest number, or whether it is paused, is not what its manifest says")


def _check_records(holding: Holding, recorded: dict[int, VersionRecord]) -> None:
    numbers: Sequence[int] = [held.record.number for held in holding.versions]
    if list(numbers) != sorted(recorded):
        raise IntegrityError(f"its versions are {_listed(numbers)}, its manifest says {_listed(sorted(recorded))}")
    for held in holding.versions:
        if held.record != recorded[held.record.number]:
            raise IntegrityError(f"version {held.record.number} is not recorded as its manifest records it")


def _check_material(key: str, held: Held, fingerprints: Fingerprints) -> None:
    record, material = held.record, held.material
    if material is None:
        if record.state in READABLE:
            raise IntegrityError(f"version {record.number} is {record.state}, but its material is missing")
        return
    if record.state is State.DESTROYED:
        raise IntegrityError(f"version {record.number} is destroyed, but has material")
    try:
        fits = KeySpec.parse(record.spec).length == len(material)
        fingerprints.check(key, material, record.fingerprint)
    except KmsError as problem:
        raise IntegrityError(f"version {record.number}: {problem.message}") from None
    if not fits:
        raise IntegrityError(f"version {record.number} has {len(material)} bytes, which is no {record.spec}")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers) or "none"
