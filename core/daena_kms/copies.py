"""A readable copy of a manifest in a local folder: evidence to keep, to archive and to verify offline.

A copy is written create-only, byte for byte, and never changed. `daena-key-rotate verify --manifests FOLDER` verifies
it with the public key alone.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from . import audit, trust
from .errors import ConfigurationError, ExistsError, IntegrityError
from .ledger import FolderLedger, Ledger
from .names import RESERVED_KEY

_HINT = "keep the folder for whoever looks into it, and move it away: the next call makes a new copy"


def copy_manifest(ledger: Ledger, folder: Path, keys: Sequence[str]) -> int:
    """Bring the copy of these keys' manifests in `folder` up to date; how many entries were missing.

    The ledger's own chain (its public keys) comes along first. Of what lies there already, the chain is verified and
    its last entry held against the ledger's: that one names all before it, so nothing is fetched twice.

    Raises IntegrityError, with nothing written for that key, if the copy is not this ledger's or was changed;
    ConfigurationError if the folder holds something else; DeniedError or UnavailableError if it cannot be written, or
    the ledger not read.
    """
    copy = FolderLedger(folder, folder.absolute().as_uri())
    try:
        copy.check_ours()
    except ConfigurationError as problem:
        raise ConfigurationError(problem.message, "move it away, or choose another DAENA_HOME") from None
    lying = _unbroken(copy, RESERVED_KEY)
    _check_same(ledger, copy, RESERVED_KEY, lying)
    written = _copy(ledger, copy, RESERVED_KEY, len(lying) + 1)
    for key in keys:
        lying = _verified(copy, key)
        _check_same(ledger, copy, key, lying[-1:])
        written += _copy(ledger, copy, key, len(lying) + 1)
    return written


def _unbroken(copy: FolderLedger, key: str) -> list[int]:
    """The entries that the copy has; IntegrityError if one is missing between them."""
    lying = copy.sequences(key)
    missing = set(range(1, len(lying) + 1)) - set(lying)
    if missing:
        raise IntegrityError(f"{copy.where(key, min(missing))} is gone, but later entries are there", _HINT)
    return lying


def _verified(copy: FolderLedger, key: str) -> list[int]:
    lying = _unbroken(copy, key)
    chain = audit.read_chain(copy, key, trust.read_root(copy).trust)
    if chain.problem:
        raise IntegrityError(f"the copy of {key} in {copy.where(key, 1).rpartition('/')[0]}: {chain.problem}", _HINT)
    return lying


def _check_same(ledger: Ledger, copy: FolderLedger, key: str, sequences: Iterable[int]) -> None:
    for sequence in sequences:
        theirs = ledger.read(key, sequence)
        if theirs is None:
            raise IntegrityError(
                f"{copy.where(key, sequence)} is there, but {ledger.where(key, sequence)} is not: "
                "the manifest was cut, or it is another ledger's copy",
                f"run `daena-key-rotate verify`; if the ledger is another one, choose another DAENA_HOME; or {_HINT}",
            )
        if copy.read(key, sequence) != theirs:
            raise IntegrityError(
                f"{copy.where(key, sequence)} is not the same as {ledger.where(key, sequence)}: "
                "one of them was changed, or it is another ledger's copy",
                f"run `daena-key-rotate verify`; if the ledger is another one, choose another DAENA_HOME; or {_HINT}",
            )


def _copy(ledger: Ledger, copy: FolderLedger, key: str, sequence: int) -> int:
    """Copy what lies from there on, in order, so that what is there is always the beginning of a chain."""
    first = sequence
    while (data := ledger.read(key, sequence)) is not None:
        try:
            copy.append(key, sequence, data)
        except ExistsError:  # another process copies at the same time
            _check_same(ledger, copy, key, [sequence])
        sequence += 1
    return sequence - first
