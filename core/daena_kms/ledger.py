"""Where manifests lie: small objects `<key>/<sequence>.json`, written create-only, never changed, never deleted.

A ledger knows nothing of what an entry means. Its one promise is that of two writers of the same object exactly one
wins; the whole protocol stands on it. S3, Blob Storage and Cloud Storage sit beside their key stores.
"""

import contextlib
import errno
import os
import re
import uuid
from pathlib import Path
from typing import Protocol

from .errors import ConfigurationError, DeniedError, ExistsError, KmsError, UnavailableError
from .names import RESERVED_KEY, name_problem

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_OBJECT = re.compile(r"(\d{8,})\.json")


class Ledger(Protocol):
    """Append-only objects per key. `address` is the URL that is stored beside each key."""

    @property
    def address(self) -> str: ...

    def append(self, key: str, sequence: int, data: bytes) -> None:
        """Write an object that is not there yet. Raises ExistsError if it is; UnavailableError if nobody can tell."""
        ...

    def read(self, key: str, sequence: int) -> bytes | None:
        """The object's bytes; None if it is not there. Reads what was last written, always."""
        ...

    def sequences(self, key: str) -> list[int]:
        """The sequence numbers that a key's manifest has, in order. May lag behind on some stores."""
        ...

    def names(self) -> list[str]:
        """Every key that has a manifest here, in order, the reserved one included."""
        ...

    def rewritten(self, key: str) -> list[int]:
        """Entries that were written more than once, or deleted, where the ledger keeps count; nothing elsewhere."""
        ...

    def where(self, key: str, sequence: int) -> str:
        """The place of one entry, for people."""
        ...


def object_name(sequence: int) -> str:
    """`00000042.json`: zero-padded, so that a plain listing is in order."""
    return f"{sequence:08d}.json"


class FolderLedger:
    """A ledger in a folder of the local file system.

    Create-only is `link(2)`: the entry is written and flushed under a temporary name, then linked to its own, which
    fails if that name exists; a reader never sees half an entry. The folder itself is flushed before we say it is
    written.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._root = str(folder)
        self.address = address

    def append(self, key: str, sequence: int, data: bytes) -> None:
        target = self._path(key, sequence)
        try:
            self._create(target, data)
        except FileExistsError:
            raise ExistsError(f"entry {sequence} of {key} is there already") from None
        except OSError as problem:
            raise translate(problem, target) from None

    def read(self, key: str, sequence: int) -> bytes | None:
        path = self._path(key, sequence)
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise translate(problem, path) from None

    def sequences(self, key: str) -> list[int]:
        try:
            names = os.listdir(self._folder / key)
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise translate(problem, self._folder / key) from None
        return sorted(int(m[1]) for name in names if (m := _OBJECT.fullmatch(name)))

    def names(self) -> list[str]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise translate(problem, self._folder) from None
        return sorted(name for name in names if name == RESERVED_KEY or not name_problem(name))

    def rewritten(self, key: str) -> list[int]:  # noqa: ARG002  # a file system keeps no count
        return []

    def where(self, key: str, sequence: int) -> str:
        return self._path(key, sequence)

    def check_ours(self) -> None:
        """Raise ConfigurationError if the folder holds something else than manifests."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise ConfigurationError(
                f"{self._folder} is not a folder", "point DAENA_MANIFEST_URL at another place"
            ) from None
        except OSError as problem:
            error = translate(problem, self._folder)
            raise ConfigurationError(error.message, error.hint) from None
        if names and RESERVED_KEY not in names:
            raise ConfigurationError(
                f"{self._folder} is not a manifest folder of ours: it holds {min(names)!r}, but not {RESERVED_KEY!r}",
                "point DAENA_MANIFEST_URL at an empty folder or at the manifests of this vault",
            )

    def _path(self, key: str, sequence: int) -> str:
        # Plain strings: this is the hottest place of a local rotation, and pathlib costs as much as a signature.
        return f"{self._root}/{key}/{object_name(sequence)}"

    def _create(self, target: str, data: bytes) -> None:
        try:
            create_file(target, data)
        except FileNotFoundError:
            self._make_folder(Path(target.rpartition("/")[0]))
            create_file(target, data)

    def _make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for made in (folder, *folder.parents):
            sync_folder(made.parent)
            if made == self._folder:
                break


def create_file(target: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file that is not there yet, whole and durably, or not at all. Raises FileExistsError if it is there.

    It is written and flushed beside its place under a name of its own, then linked, which fails if the place is taken.
    """
    folder = target.rpartition("/")[0]
    temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
    descriptor = os.open(temporary, _NEW, mode)
    try:
        _write(descriptor, data)
        os.link(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108  # plain strings here: see `FolderLedger._path`
    sync_folder(folder)


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, durably, and close."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path | str) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def translate(problem: OSError, path: Path | str) -> KmsError:
    """An operating system's error in our words."""
    reason = problem.strerror or str(problem)
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DeniedError(f"cannot write {path}: {reason}", "check the folder's owner and that it is not read-only")
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UnavailableError(f"cannot write {path}: {reason}", "free some space; nothing was changed")
    return UnavailableError(f"cannot use {path}: {reason}", "check the path and the disk")
