"""The embedded store: a SQLite file whose material is sealed with AES-256-GCM under a key-encryption key (KEK).

The name of the key, the number and the spec are authenticated with the material, so a sealed value that was moved to
another key or number does not open. Durable: every change is flushed to disk before the call returns.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from ..errors import (
    DAMAGED_HINT,
    ConfigurationError,
    ConflictError,
    DeniedError,
    IntegrityError,
    KmsError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from ..ledger import sync_folder, translate
from ..material import KeyMaterial
from ..model import UNREADABLE, Anchor, InventoryRow, KeySpec, Observed, StoredVersion
from ..names import RESERVED_KEY
from . import kek as keks
from .base import NewVersion, Permissions, Prepared

# The local store asks the file system, not an IAM service.
REQUIRED_PERMISSIONS: Permissions = {}

FORMAT = b"daena-kms vault 1"
BUSY_SECONDS = 60
_NONCE_BYTES = 12
_FILE_HINT = "put the file back from a copy, or move it away and `restore` a backup; nothing was changed"
_SEAL_CONTEXT = "daena-kms/local/1"
_CHECK_TEXT = b"this key opens this vault"

_SCHEMA = """
CREATE TABLE vault (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    name TEXT PRIMARY KEY,
    ledger TEXT NOT NULL,
    active INTEGER NOT NULL DEFAULT 0,
    anchor BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE versions (
    key TEXT NOT NULL REFERENCES keys (name),
    number INTEGER NOT NULL,
    version_id TEXT NOT NULL,
    rotation_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    spec TEXT NOT NULL,
    created TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('staged', 'published', 'disabled', 'destroyed')),
    sealed BLOB NOT NULL,
    PRIMARY KEY (key, number)
) STRICT, WITHOUT ROWID;
"""
_SELECT_VERSIONS = (
    "SELECT number, version_id, fingerprint, rotation_id, spec, state, created FROM versions WHERE key = ?"
)


class KekSource(Struct, frozen=True):
    """The three places a KEK may come from; the first that is set is used."""

    file: Path
    setting: KeyMaterial | None = None
    passphrase: KeyMaterial | None = None

    @property
    def kind(self) -> str:
        """The name of the place, as the vault remembers it."""
        if self.setting is not None:
            return "DAENA_LOCAL_KEK"
        return "DAENA_LOCAL_PASSPHRASE" if self.passphrase is not None else "key file"

    def kek(self, salt: bytes) -> bytes:
        """The KEK itself; `salt` is the vault's own."""
        if self.setting is not None:
            return keks.from_setting(self.setting.reveal().decode())
        if self.passphrase is not None:
            return keks.from_passphrase(self.passphrase.reveal().decode(), salt)
        return keks.read_file(self.file)


def create_vault(path: Path, source: KekSource, entropy: Callable[[int], bytes]) -> list[str]:
    """Make a vault if there is none, and its key file if it uses one. Returns warnings for people.

    Racing callers agree on one vault: it is built aside and linked into place.
    """
    warnings = []
    if source.kind == "key file" and not path.exists():
        _make_folder(path.parent)
        _, made = keks.create_file(source.file, entropy)
        if made:
            warnings.append(keks.KEK_WARNING.format(path=source.file))
    if not path.exists():
        _build_vault(path, source, entropy)
    return warnings


def _build_vault(path: Path, source: KekSource, entropy: Callable[[int], bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{entropy(8).hex()}.tmp")
    salt = entropy(keks.SALT_BYTES)
    nonce = entropy(_NONCE_BYTES)
    check = AESGCM(source.kek(salt)).encrypt(nonce, _CHECK_TEXT, FORMAT)
    _make_folder(path.parent)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
            facts = {"format": FORMAT, "kek": source.kind.encode(), "salt": salt, "check": nonce + check}
            db.executemany("INSERT INTO vault VALUES (?, ?)", facts.items())
        os.link(temporary, path)
        sync_folder(path.parent)
    except FileExistsError:
        pass  # another process made it first: its vault is the one we open
    except OSError as problem:
        raise translate(problem, path) from None
    except sqlite3.Error as problem:
        raise _translate(problem, path) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as problem:
        raise translate(problem, folder) from None


class LocalStore:
    """The KeyStore in one file. Safe for many threads and many processes."""

    provider = "local"
    fenced = True
    marked = True
    destruction = ""

    def __init__(
        self,
        path: Path,
        source: KekSource,
        *,
        ledger: str,
        actor: str,
        entropy: Callable[[int], bytes],
        clock: Callable[[], datetime],
    ) -> None:
        self.address = str(path)
        self.actor = actor
        self._path = path
        self._ledger = ledger
        self._entropy = entropy
        self._clock = clock
        self._lock = threading.RLock()
        self._db = _connect(path)
        try:
            self._cipher = AESGCM(self._open(source))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._db.close()

    def inventory(self) -> Iterator[InventoryRow]:
        rows = self._rows("SELECT name, ledger, active, anchor FROM keys WHERE name <> ? ORDER BY name", RESERVED_KEY)
        for name, ledger, active, anchor in rows:
            yield InventoryRow(name, ledger, active, _anchor(anchor))

    def observe(
        self,
        key: str,
        *,
        dated: bool = False,  # noqa: ARG002  # its versions always are
        since: Observed | None = None,  # noqa: ARG002  # all of it is one question
    ) -> Observed:
        with self._reading():
            rows = self._rows("SELECT ledger, active, anchor FROM keys WHERE name = ?", key)
            if not rows:
                return Observed(exists=False)
            ledger, active, anchor = rows[0]
            listed = self._rows(_SELECT_VERSIONS + " ORDER BY number", key)
        every = [_stored(row) for row in listed]
        published = tuple(v for v in every if not v.staged)
        return Observed(
            exists=True,
            newest=next((v for v in published if v.number == active), None),
            versions=published,
            staged=tuple(v for v in every if v.staged),
            ledger=ledger,
            anchor=_anchor(anchor),
        )

    def prepare(self, key: str, number: int, spec: KeySpec, material: KeyMaterial | None = None) -> Prepared:
        material = material or KeyMaterial(self._entropy(spec.length))
        nonce = self._entropy(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, material.reveal(), _context(key, number, spec.name))
        return Prepared(material, sealed)

    def stage(self, key: str, version: NewVersion, prepared: Prepared) -> StoredVersion:
        with self._changing() as db:
            db.execute("INSERT INTO keys (name, ledger) VALUES (?, ?) ON CONFLICT DO NOTHING", (key, self._ledger))
            db.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, 'staged', ?) ON CONFLICT DO NOTHING",
                (
                    key,
                    version.number,
                    version.rotation_id,
                    version.rotation_id,
                    version.fingerprint,
                    version.spec,
                    self._clock().isoformat(),
                    prepared.sealed,
                ),
            )
            return self._version(key, version.number)

    def read(self, key: str, version: StoredVersion) -> KeyMaterial:
        rows = self._rows(
            "SELECT spec, state, sealed FROM versions WHERE key = ? AND number = ? AND version_id = ?",
            key,
            version.number,
            version.version_id,
        )
        if not rows:
            raise NotFoundError(f"version {version.number} of {key} is not in the vault", "see `status`")
        spec, state, sealed = rows[0]
        if state in ("disabled", "destroyed"):
            raise RefusedError(f"version {version.number} of {key} is {state}", "`enable` undoes a disabled one")
        try:
            opened = self._cipher.decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _context(key, version.number, spec)
            )
        except (InvalidTag, ValueError):
            raise IntegrityError(
                f"version {version.number} of {key} does not open: it was altered or moved in the vault",
                DAMAGED_HINT,
            ) from None
        return KeyMaterial(opened)

    def promote(
        self,
        key: str,
        staged: StoredVersion,
        planned: StoredVersion | None,
        material: KeyMaterial,  # noqa: ARG002  # the staged row itself is published
    ) -> StoredVersion:
        expected = planned.number if planned else 0
        with self._changing() as db:
            (active,) = self._one("SELECT active FROM keys WHERE name = ?", key)
            if active not in (expected, staged.number):
                raise ConflictError(f"version {active} of {key} is active, {expected} expected")
            target = self._version(key, staged.number)
            if target.version_id != staged.version_id or not target.enabled:
                raise NotFoundError(f"version {staged.number} of {key} is not there to be promoted", "run it again")
            db.execute("UPDATE versions SET state = 'published' WHERE key = ? AND number = ?", (key, staged.number))
            db.execute("UPDATE keys SET active = ? WHERE name = ?", (staged.number, key))
            return self._version(key, staged.number)

    def discard(self, key: str, staged: StoredVersion) -> None:
        with self._changing() as db:
            db.execute("DELETE FROM versions WHERE key = ? AND number = ? AND state = 'staged'", (key, staged.number))

    def label(self, key: str, version: StoredVersion, new: NewVersion) -> StoredVersion:
        if version.number != new.number:
            raise RefusedError(f"version {version.number} of {key} is sealed under its number", "adopt it as it is")
        with self._changing() as db:
            db.execute(
                "UPDATE versions SET fingerprint = ? WHERE key = ? AND number = ?", (new.fingerprint, key, new.number)
            )
            return self._version(key, new.number)

    def disable(self, key: str, version: StoredVersion) -> None:
        self._set_state(key, version, "published", "disabled")

    def enable(self, key: str, version: StoredVersion) -> None:
        self._set_state(key, version, "disabled", "published")

    def destroy(self, key: str, version: StoredVersion) -> None:
        with self._changing() as db:
            (active,) = self._one("SELECT active FROM keys WHERE name = ?", key)
            if active == version.number:
                raise RefusedError(f"version {version.number} of {key} is active", "rotate the key first")
            db.execute(
                "UPDATE versions SET state = 'destroyed', sealed = x'' WHERE key = ? AND number = ?",
                (key, version.number),
            )
        with self._lock, self._translated():  # the write-ahead log holds the old page until it is folded in
            (busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise UnavailableError(
                f"version {version.number} of {key} is destroyed, but a reader keeps the log", "run it again"
            )

    def write_anchor(self, key: str, anchor: Anchor) -> None:
        with self._changing() as db:
            db.execute("UPDATE keys SET anchor = ? WHERE name = ?", (msgspec.json.encode(anchor), key))

    def damage(self) -> str:
        """What SQLite's own check finds wrong with the file; empty when it is sound. Reads all of it."""
        rows = self._rows("PRAGMA integrity_check(1)")
        return "" if rows == [("ok",)] else str(rows[0][0])

    def _open(self, source: KekSource) -> bytes:
        facts = dict(self._rows("SELECT name, value FROM vault"))
        if facts.get("format") != FORMAT:
            raise ConfigurationError(f"{self._path} is not a vault that this version knows", "see CHANGELOG.md")
        if missing := {"kek", "salt", "check"} - set(facts):
            raise ConfigurationError(
                f"{self._path} is no sound vault: it lacks {', '.join(sorted(missing))}",
                _FILE_HINT,
            )
        kind = facts["kek"].decode()
        check = facts["check"]
        try:
            kek = source.kek(facts["salt"])
            AESGCM(kek).decrypt(check[:_NONCE_BYTES], check[_NONCE_BYTES:], FORMAT)
        except InvalidTag:
            hint = f"it was made with the {kind}: use the same one; nothing was changed"
            raise ConfigurationError(f"the {source.kind} given does not open the vault {self._path}", hint) from None
        return kek

    def _set_state(self, key: str, version: StoredVersion, before: str, after: str) -> None:
        with self._changing() as db:
            (active,) = self._one("SELECT active FROM keys WHERE name = ?", key)
            if active == version.number and after == "disabled":
                raise RefusedError(f"version {version.number} of {key} is active", "rotate the key first")
            db.execute(
                "UPDATE versions SET state = ? WHERE key = ? AND number = ? AND state = ?",
                (after, key, version.number, before),
            )

    def _version(self, key: str, number: int) -> StoredVersion:
        return _stored(self._one(_SELECT_VERSIONS + " AND number = ?", key, number))

    def _one(self, query: str, *parameters: object) -> tuple[Any, ...]:
        rows = self._rows(query, *parameters)
        if not rows:
            raise NotFoundError(f"{parameters[0]} has no such version in the vault", "see `status`")
        return rows[0]

    def _rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._lock, self._translated():
            return self._db.execute(query, parameters).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Several queries that see one moment."""
        with self._lock:
            self._rows("BEGIN")
            try:
                yield
            finally:
                self._rows("COMMIT")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction."""
        with self._lock, self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise _translate(problem, self._path) from None


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise ConfigurationError(f"there is no vault at {path}", "run `daena-key-rotate init`")
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA foreign_keys = ON")
        _check_length(db, path)
    except sqlite3.Error as problem:
        db.close()
        raise _translate(problem, path) from None
    except ConfigurationError:
        db.close()
        raise
    return db


def _check_length(db: sqlite3.Connection, path: Path) -> None:
    """A file shorter than its own count of pages was cut, unless the rest is still in the write-ahead log."""
    (pages,), (size,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA page_size").fetchone()
    log = path.with_name(path.name + "-wal")
    if path.stat().st_size < pages * size and not (log.exists() and log.stat().st_size):
        raise ConfigurationError(
            f"the vault {path} was cut short",
            _FILE_HINT,
        )


def _translate(problem: sqlite3.Error, path: Path) -> KmsError:
    name = getattr(problem, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return UnavailableError(f"the vault {path} was locked for {BUSY_SECONDS} s", "look for a process that hangs")
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
        return DeniedError(f"the vault {path} cannot be used: {problem}", "check the folder's owner and permissions")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return UnavailableError(f"cannot write the vault {path}: {problem}", "free some space, look at the disk")
    return ConfigurationError(
        f"{path} is no sound vault: {problem}",
        _FILE_HINT,
    )


def _context(key: str, number: int, spec: str) -> bytes:
    return "\0".join((_SEAL_CONTEXT, key, str(number), spec)).encode()


def _stored(row: tuple[Any, ...]) -> StoredVersion:
    number, version_id, fingerprint, rotation_id, spec, state, created = row
    return StoredVersion(
        number=number,
        version_id=version_id,
        fingerprint=fingerprint,
        rotation_id=rotation_id,
        spec=spec,
        enabled=state in ("staged", "published"),
        staged=state == "staged",
        created_at=datetime.fromisoformat(created),
    )


def _anchor(stored: bytes | None) -> Anchor | None:
    if stored is None:
        return None
    try:
        return msgspec.json.decode(stored, type=Anchor)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return UNREADABLE
