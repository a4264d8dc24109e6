"""Looking at what the local store and its manifests need of the file system, without writing anything."""

import os
from pathlib import Path

from ..errors import ConfigurationError, DeniedError, KmsError, UnavailableError
from ..ledger import FolderLedger
from ..names import RESERVED_KEY
from . import kek as keks
from .local import KekSource
from .probe import CREATE_ONLY, FIRST, INIT, Check, Trials, create_again, failed, not_tried, ok, read_first

_ROOM_BYTES = 1 << 20  # many rotations' worth: of a vault's page and two entries each
_VAULT_FOLDER, _KEK = "vault folder", "KEK"
_LEDGER_FOLDER, _FIRST_ENTRY = "manifest folder", "manifest reading"


class LocalProbe:
    """Looks at the vault's folder and at the key-encryption key. The vault itself is opened by whoever uses it."""

    def __init__(self, vault: Path, source: KekSource, actor: str) -> None:
        self._vault = vault
        self._source = source
        self._actor = actor

    def credentials(self) -> str:
        return self._actor

    def checks(self) -> list[Check]:
        return [folder_check(_VAULT_FOLDER, self._vault.parent), self._kek()]

    def _kek(self) -> Check:
        source = self._source
        if source.kind == "key file" and not source.file.exists() and not self._vault.exists():
            return not_tried(_KEK, "because there is no vault yet", INIT)
        try:
            self._read()
        except KmsError as problem:
            return failed(_KEK, problem)
        told = f"{source.file}, which only its owner may read" if source.kind == "key file" else source.kind
        return ok(_KEK, told)

    def _read(self) -> None:
        if self._source.kind != "DAENA_LOCAL_PASSPHRASE":  # any passphrase is one; if it is the one, the vault knows
            self._source.kek(bytes(keks.SALT_BYTES))


def folder_check(name: str, folder: Path) -> Check:
    """Whether files can be made in a folder, or the folder itself where it is not there. Nothing is made."""
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise ConfigurationError(f"{existing} is not a folder", "set DAENA_HOME or DAENA_MANIFEST_URL to another")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DeniedError(
                f"{existing} cannot be written to", "check the folder's owner and that it is not read-only"
            )
        left = os.statvfs(existing)
    except OSError as problem:
        return failed(name, UnavailableError(f"{folder} cannot be looked at: {problem.strerror}", "check its owner"))
    except KmsError as problem:
        return failed(name, problem)
    if left.f_bavail * left.f_frsize < _ROOM_BYTES:
        return failed(name, UnavailableError(f"the disk of {existing} is full", "free some space"))
    return ok(name, f"{folder} can be written to" if existing == folder else f"{folder} can be made")


def folder_checks(ledger: FolderLedger, folder: Path) -> list[Check]:
    """Looks at a ledger in a folder, and whether it is create-only."""

    def denied(_: DeniedError) -> list[Check]:
        return [not_tried(CREATE_ONLY, f"because of {_LEDGER_FOLDER}")]

    trials = Trials()
    stored = read_first(trials, _FIRST_ENTRY, ledger)
    create_again(trials, "", _FIRST_ENTRY, stored, lambda data: ledger.append(RESERVED_KEY, FIRST, data), denied)
    return [folder_check(_LEDGER_FOLDER, folder), *trials.found]
