"""A backup as one JSON document, and back. `docs/backup-format.md` describes it for somebody without this program.

The document holds material, so it exists as `KeyMaterial` only; nothing that is said about a bad one shows anything
that stood in it.
"""

import base64
import binascii
import re
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from .backup import BackedUp, Backup, Generation, Unread
from .errors import IntegrityError
from .holdings import Held, Holding
from .material import KeyMaterial
from .model import Link, Time, VersionRecord

FORMAT: Literal["daena-kms-backup/1"] = "daena-kms-backup/1"
_FORMATS = re.compile(r"daena-kms-backup/[0-9]{1,4}")
_PLACE = re.compile(r" - at `(\$[^`]*)`")
_FOREIGN = "give a file that `daena-key-rotate backup` made"


class _Version(VersionRecord, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A version's record, and its material."""

    material: KeyMaterial | None = None


class _Key(Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    origin: Link
    highest: int
    paused: bool
    left_out: tuple[int, ...]
    versions: tuple[_Version, ...]
    entries: tuple[bytes, ...]


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["daena-kms-backup/1"]
    made_at: Time
    provider: str
    store: str
    ledger: str
    actor: str
    public_key: str
    generations: tuple[Generation, ...]
    root: tuple[bytes, ...]
    keys: tuple[_Key, ...]
    failed: tuple[Unread, ...]


class _Probe(Struct):
    format: str


def document(backup: Backup) -> KeyMaterial:
    """The JSON document, UTF-8."""
    written = _Document(format=FORMAT, keys=tuple(_key(each) for each in backup.keys), **_as_it_is(backup))
    return KeyMaterial(msgspec.json.encode(written, enc_hook=_encoded))


def _as_it_is(held: Backup | _Document) -> dict[str, Any]:
    """What stands in the document as it does in the record: everything but the format and the keys."""
    fields = (name for name in _Document.__struct_fields__ if name not in ("format", "keys"))
    return {name: getattr(held, name) for name in fields}


def _key(each: BackedUp) -> _Key:
    holding = each.holding
    versions = tuple(_Version(**asdict(held.record), material=held.material) for held in holding.versions)
    return _Key(holding.key, holding.origin, holding.highest, holding.paused, holding.left_out, versions, each.entries)


def _encoded(value: Any) -> str:
    if isinstance(value, KeyMaterial):
        return base64.b64encode(value.reveal()).decode()
    raise TypeError(f"a backup holds no {type(value).__name__}")


def parse(text: KeyMaterial, *, sha256: str = "") -> Backup:
    """The backup in a document that was decrypted; `sha256` of the file it was in. What it claims is not checked.

    Raises IntegrityError if it is no such document.
    """
    _check_format(text)
    try:
        read = msgspec.json.decode(text.reveal(), type=_Document, dec_hook=_decoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise IntegrityError(f"it is no sound backup document{_place(problem)}", _FOREIGN) from None
    keys = []
    for index, each in enumerate(read.keys):
        holding = _holding(each)
        if holding.left_out != each.left_out:
            raise IntegrityError(f"it does not say which versions of $.keys[{index}] it lacks", _FOREIGN)
        keys.append(BackedUp(holding, each.entries))
    return Backup(keys=tuple(keys), sha256=sha256, **_as_it_is(read))


def _check_format(text: KeyMaterial) -> None:
    try:
        found = msgspec.json.decode(text.reveal(), type=_Probe).format
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise IntegrityError("what is sealed in it is no backup of ours", _FOREIGN) from None
    if not _FORMATS.fullmatch(found):
        raise IntegrityError("what is sealed in it is no backup of ours", _FOREIGN)
    if found != FORMAT:
        raise IntegrityError(f"it is a {found} document; this version reads {FORMAT}", "install the version it needs")


def _place(problem: Exception) -> str:
    """Where in the document it is wrong. The rest of the decoder's words may quote what stands there."""
    found = _PLACE.search(str(problem))
    return f": at {found[1]}" if found else ""


def _holding(each: _Key) -> Holding:
    held = tuple(Held(_record(version), version.material) for version in each.versions)
    return Holding(each.key, each.origin, held, each.highest, each.paused)


def _record(version: _Version) -> VersionRecord:
    fields = {name: getattr(version, name) for name in VersionRecord.__struct_fields__}
    return VersionRecord(**fields)


def _decoded(kind: type, value: Any) -> KeyMaterial:
    if kind is not KeyMaterial or not isinstance(value, str):
        raise ValueError("base64 text expected")
    try:
        return KeyMaterial(base64.b64decode(value, validate=True))
    except binascii.Error:
        raise ValueError("base64 text expected") from None
