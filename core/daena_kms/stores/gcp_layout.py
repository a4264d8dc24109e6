"""How keys lie in Secret Manager: names of secrets, labels, annotations. Pure.

A key is one secret; what readers get is its version that was added last, and a version's payload is the material
itself, nothing around it. What is staged lies in a second secret, `<name>--staged`, where no reader looks. Versions
have no place for marks of ours: which number each one has is in an annotation of the secret, with the manifest's head,
so that one listing says what is due. Annotations may be hours old when they are read (Google: "Secret Manager data
consistency"), and anybody who may update the secret can write them: they are hints, and what decides is the version
that is read, by its number.
"""

import re
from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from ..model import Anchor
from ..names import STAGED_SUFFIX
from . import anchors

TAG = "daena-kms-"
LEDGER, NUMBERS, STAGED = TAG + "ledger", TAG + "versions", TAG + "staged"
LABEL = "daena-kms"
KEY, COPY = "key", "staged"  # values of the label
MOST_ANNOTATION_BYTES = 16 * 1024  # secretmanager/v1/resources.proto, Secret.annotations
MOST_PAYLOAD_BYTES = 64 * 1024
LONGEST_LEDGER = 512
ROOM = 2 * 1024  # for the head, the ledger, and some hundred versions
_STAGED = "staged-"
_VERSION_ID = re.compile(r"[1-9][0-9]{0,9}")
_PAIR = re.compile(r"([1-9][0-9]{0,9})=([1-9][0-9]{0,9})")


class Secret(Struct, frozen=True):
    """A secret as a read or a listing shows it."""

    name: str
    etag: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    rotates: bool = False
    """Somebody is told to rotate it: a schedule of Secret Manager's own."""
    created: datetime | None = None
    """One that was deleted and made anew has the same name, and counts its versions from 1 again."""

    @property
    def ledger(self) -> str:
        """The address of the manifest that the key belongs to; empty for what is none of ours."""
        return self.annotations.get(LEDGER, "")

    @property
    def numbers(self) -> dict[int, int]:
        """Version id -> our number, as the annotation says."""
        pairs = (_PAIR.fullmatch(text) for text in self.annotations.get(NUMBERS, "").split(" "))
        return {int(pair[2]): int(pair[1]) for pair in pairs if pair}

    @property
    def staged(self) -> int:
        """The last version of the staged copies' secret that is accounted for."""
        return version_of(self.annotations.get(STAGED, ""))

    @property
    def anchor(self) -> Anchor | None:
        """The manifest's head, if it lies here."""
        found = {n.removeprefix(TAG): t for n, t in self.annotations.items() if n.startswith(TAG)}
        return anchors.read(dict.fromkeys(anchors.FIELDS, "") | found) if _HEAD in found else None


_HEAD = anchors.FIELDS[0]


def staged_name(secret: str) -> str:
    """The secret in which a key's versions are staged."""
    return secret + STAGED_SUFFIX


def version_id(version: int, *, staged: bool = False) -> str:
    """How a version is called: Secret Manager counts those of each secret from 1, and a key has two secrets."""
    return f"{_STAGED}{version}" if staged else str(version)


def version_of(text: str) -> int:
    """The version that is called so; 0 for what is no such name."""
    digits = text.removeprefix(_STAGED)
    return int(digits) if _VERSION_ID.fullmatch(digits) else 0


def annotated(
    theirs: Mapping[str, str], ledger: str, anchor: Anchor, numbers: Mapping[int, int], staged: int
) -> dict[str, str]:
    """The annotations of a key's secret: somebody else's as they are, and ours.

    Where they would be too long, the oldest versions' numbers are left out: they are found by reading.
    """
    ours = {LEDGER: ledger, STAGED: str(staged) if staged else ""}
    ours |= {TAG + name: text for name, text in anchors.write(anchor).items()}
    kept = {name: text for name, text in theirs.items() if name != NUMBERS} | ours
    kept = {name: text for name, text in kept.items() if text}
    left = MOST_ANNOTATION_BYTES - 1 - size(kept) - len(NUMBERS)
    return kept | ({NUMBERS: text} if (text := _numbers(numbers, left)) else {})


def _numbers(numbers: Mapping[int, int], room: int) -> str:
    """`number=version id` of each, in order, the newest ones at least."""
    texts: list[str] = []
    for version, number in sorted(numbers.items(), reverse=True):
        text = f"{number}={version}"
        room -= len(text) + 1
        if room < 0:
            break
        texts.append(text)
    return " ".join(reversed(texts))


def size(annotations: Mapping[str, str]) -> int:
    """How much of the room for annotations they take."""
    return sum(len(name.encode()) + len(text.encode()) for name, text in annotations.items())


def room_problem(annotations: Mapping[str, str]) -> str:
    """Why our annotations do not fit beside those of somebody else; empty if they do."""
    theirs = size({name: text for name, text in annotations.items() if not name.startswith(TAG)})
    most = MOST_ANNOTATION_BYTES - ROOM
    return f"its annotations take {theirs} bytes, at most {most} fit beside ours" if theirs > most else ""
