"""How keys lie in Azure Key Vault: names of secrets, tags, and the content type. Pure.

A key is one secret, each of its published versions a version of that secret, and what readers get is the version that
was put last. What is staged lies in a second secret, `<name>--staged`, where no reader looks. Tags on a version say
which number it is and by which rotation; nothing else orders versions (`recorded-replies`: listed by id, `created` in
whole seconds). The manifest's head lies in the tags of the version that readers get, so that one listing of the vault
says what is due.

A value is the material in base64; the content type says so, and for which key and number it was written. What has no
such content type was written by somebody else, and is the material itself.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from msgspec import Struct

from ..errors import DAMAGED_HINT, IntegrityError
from ..material import KeyMaterial
from ..model import Anchor, StoredVersion
from ..names import STAGED_SUFFIX
from . import anchors
from .base import NewVersion

MOST_TAGS, LONGEST_TAG = 15, 512  # Microsoft: "About Azure Key Vault secrets"
LONGEST_VALUE = 25 * 1024
TAG = "daena-kms-"
NUMBER, ROTATION, FINGERPRINT, SPEC = TAG + "version", TAG + "rotation", TAG + "fingerprint", TAG + "spec"
LEDGER, WRITE, DESTROYED = TAG + "ledger", TAG + "write", TAG + "destroyed"
# At most so many of ours are on one version; `destroyed` takes the place of what a version has no more use for.
OURS = (NUMBER, ROTATION, FINGERPRINT, SPEC, LEDGER, WRITE, *(TAG + name for name in anchors.FIELDS))
# Times are whole seconds, and of several machines: closer than this, they say nothing about what was put last.
UNORDERED = timedelta(seconds=5)

_CONTENT_TYPE = "application/vnd.daena-kms.material+base64"
_VERSION_ID = re.compile(r"[0-9a-f]{32}")


class Shown(Struct, frozen=True):
    """One version of a secret as a listing shows it: everything but its value. `version` is empty in a vault's list."""

    name: str
    version: str
    enabled: bool
    created: datetime
    tags: Mapping[str, str]
    content_type: str = ""
    managed: bool = False
    """A certificate's: only the vault itself writes it."""

    @property
    def ours(self) -> bool:
        """True if the version has a number of ours."""
        return number(self.tags) > 0

    @property
    def anchor(self) -> Anchor | None:
        """The manifest's head, if it lies here."""
        return anchors.read({name.removeprefix(TAG): t for name, t in self.tags.items() if name.startswith(TAG)})


def staged_name(secret: str) -> str:
    """The secret in which a key's versions are staged."""
    return secret + STAGED_SUFFIX


def is_version_id(text: str) -> bool:
    """True for what Key Vault may have given to a version."""
    return _VERSION_ID.fullmatch(text) is not None


def number(tags: Mapping[str, str]) -> int:
    """Our number in a version's tags; 0 for a version that is not ours."""
    text = tags.get(NUMBER, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 and text[0] != "0" else 0


def version_tags(version: NewVersion | StoredVersion, ledger: str) -> dict[str, str]:
    """The tags that say which version it is."""
    texts = {
        NUMBER: str(version.number),
        ROTATION: version.rotation_id,
        FINGERPRINT: version.fingerprint,
        SPEC: version.spec,
        LEDGER: ledger,
    }
    return {name: text for name, text in texts.items() if text}


def anchor_tags(ledger: str, anchor: Anchor) -> dict[str, str]:
    """An anchor, and the ledger that it is of, as tags."""
    return {LEDGER: ledger} | {TAG + name: text for name, text in anchors.write(anchor).items()}


def without_anchor(tags: Mapping[str, str]) -> dict[str, str]:
    """The same tags, but for the manifest's head."""
    heads = {TAG + name for name in anchors.FIELDS}
    return {name: text for name, text in tags.items() if name not in heads}


def anchor_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The manifest's head alone."""
    return {name: text for name, text in tags.items() if name not in without_anchor(tags)}


def room_problem(tags: Mapping[str, str]) -> str:
    """Why our tags do not fit beside those of somebody else; empty if they do."""
    theirs = [name for name in tags if not name.startswith(TAG)]
    most = MOST_TAGS - len(OURS)
    return f"it has {len(theirs)} tags, at most {most} fit beside ours" if len(theirs) > most else ""


def stored(shown: Shown, *, staged: bool = False) -> StoredVersion:
    """A version in our words."""
    tags = shown.tags
    held = number(tags)
    return StoredVersion(
        number=held,
        version_id=shown.version,
        fingerprint=tags.get(FINGERPRINT, ""),
        rotation_id=tags.get(ROTATION, ""),
        spec=tags.get(SPEC, ""),
        enabled=shown.enabled,
        staged=staged,
        created_at=shown.created,
        written=0 if held else _written(shown),
        destroyed=DESTROYED in tags,
    )


def _written(shown: Shown) -> int:
    """The number in the content type of a version of its own secret; 0 for any other."""
    found = number({NUMBER: shown.content_type.rpartition("=")[2]})
    # The secret's name may be spelled as somebody else made it: to Key Vault it is one, whatever its case.
    return found if shown.content_type == content_type(shown.name.lower(), found) else 0


def latest(versions: Iterable[Shown]) -> list[Shown]:
    """Those that may have been put last; more than one where times are too close to tell."""
    every = list(versions)
    last = max((version.created for version in every), default=None)
    return [version for version in every if last is not None and last - version.created <= UNORDERED]


def content_type(secret: str, version: int) -> str:
    """What a value is, and for which key and number it was written."""
    return f"{_CONTENT_TYPE};key={secret};number={version}"


def seal(material: KeyMaterial) -> str:
    """Material as it is stored."""
    return base64.b64encode(material.reveal()).decode()


def unseal(value: KeyMaterial, kind: str, secret: str, version: int) -> KeyMaterial:
    """The material in a value's text. Raises IntegrityError if it was written for another key or number, or is damaged.

    `version` is 0 where any number will do.
    """
    if not kind.startswith(_CONTENT_TYPE):
        return value  # adopted: it lies there as somebody else wrote it
    expected = content_type(secret, version or number({NUMBER: kind.rpartition("=")[2]}))
    if kind != expected:
        raise IntegrityError(f"what is stored was written as {kind!r}, not as {expected!r}", DAMAGED_HINT)
    try:
        return KeyMaterial(base64.b64decode(value.reveal(), validate=True))
    except binascii.Error:
        raise IntegrityError("the stored value is no base64", DAMAGED_HINT) from None
