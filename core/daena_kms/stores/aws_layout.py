"""How keys lie in AWS Secrets Manager: names of secrets, staging labels, tags, and the envelope. Pure.

A key is one secret. Each of its versions is a secret version whose value is an *envelope*: the material wrapped by a
KMS key, with what is needed to open it. Staging labels say what a version is:

- `AWSCURRENT`: what readers get; `AWSPREVIOUS` follows it by itself.
- `v<number>`: our number. It also keeps the version: AWS may delete one that has lost its last label.
- `disabled-<number>`: in place of `v<number>` on a disabled version.
- `daena-staged`: on the version that was staged last. A put moves a label that sits elsewhere, so there is only one.

Sources: AWS API reference as botocore publishes it (PutSecretValue, UpdateSecretVersionStage, DescribeSecret).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct

from ..errors import DAMAGED_HINT, IntegrityError
from ..model import Anchor, StoredVersion
from . import anchors

CURRENT, PREVIOUS, PENDING = "AWSCURRENT", "AWSPREVIOUS", "AWSPENDING"
STAGED = "daena-staged"
# A new secret's first version is live at once (botocore: PutSecretValue). So that no key ever is before it was
# verified, a secret is made with a version that holds none.
NO_VERSION = "daena-kms-no-version-yet-000000000000"
NO_VERSION_VALUE = '{"format":"daena-kms/none"}'

LABELS = 20  # so many one secret holds
KEPT_VERSIONS = 16  # of those: AWSCURRENT, AWSPREVIOUS, daena-staged, one in change
ENVELOPE_FORMAT = "daena-kms/1"

TAG = "daena-kms:"
LEDGER_TAG, ARCHIVES_TAG = TAG + "ledger", TAG + "archives"

_VERSION_ID = re.compile(r"([0-9a-f-]{36})-v([1-9]\d{0,9})")
_NUMBER_LABEL = re.compile(r"(?:v|disabled-)([1-9]\d{0,9})")
_OURS_FOR_NOW = {CURRENT, PREVIOUS, STAGED}
_INDEXES = re.compile(r"([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?")
_MOST_ARCHIVES = 999

_TAG_LENGTH = 256
_TAG_VALUE = re.compile(r"[\w\s+\-=.:/@]*")

Stages = Mapping[str, Iterable[str]]


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    """What a version's value holds. `wrapped` is what KMS made; everything else may be known to anybody."""

    format: str
    key: str
    number: int
    spec: str
    fingerprint: str
    kms_key: str
    wrapped: bytes


class Held(Struct, frozen=True):
    """What one secret shows of its versions."""

    newest: StoredVersion | None
    versions: tuple[StoredVersion, ...]
    staged: tuple[StoredVersion, ...]


def archive_index(number: int) -> int:
    """Which archive takes a number: fixed, so that a reader finds it without looking it up."""
    return (number - 1) // KEPT_VERSIONS + 1


def archive_name(secret: str, index: int) -> str:
    """The secret that holds a key's versions that no longer fit beside the others."""
    return f"{secret}--archive-{index}"


def archives_near(shown: Collection[int]) -> set[int]:
    """The archives in which numbers may lie that are missing below those shown: their own, and the next below each."""
    highest = max(shown, default=0)

    def lacks(index: int) -> bool:
        last = index * KEPT_VERSIONS
        return any(n not in shown for n in range(last - KEPT_VERSIONS + 1, min(last, highest) + 1))

    near = {archive_index(number) - below for number in shown for below in (0, 1)}
    return {index for index in near if index and lacks(index)}


def write_archives(indexes: Iterable[int]) -> str:
    """A tag's text that names archives: `1-88 90`."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read_archives(text: str) -> set[int]:
    """The archives that a tag names; what is none of our writing names none."""
    return {index for word in text.split() for index in _run(word)}


def _run(word: str) -> Iterable[int]:
    run = _INDEXES.fullmatch(word)
    if run is None:
        return ()
    first, last = int(run[1]), int(run[2] or run[1])
    return range(first, last + 1) if last - first < _MOST_ARCHIVES else ()


def version_id(rotation_id: str, number: int) -> str:
    """The id that a version gets. It tells the number even where every label was lost."""
    return f"{rotation_id}-v{number}"


def kept(number: int) -> str:
    """The label of a readable version."""
    return f"v{number}"


def disabled(number: int) -> str:
    """The label of a disabled version."""
    return f"disabled-{number}"


def held(stages: Stages) -> Held:
    """What version ids and their labels say; lowest number first. A version without a number of ours has 0."""
    every = {i: frozenset(labels) for i, labels in stages.items() if i != NO_VERSION}
    shown = {i: labels for i, labels in every.items() if labels - {PENDING}}
    current = next((i for i, labels in shown.items() if CURRENT in labels), None)
    newest = _stored(current, shown[current]) if current else None
    versions = sorted((_stored(i, labels) for i, labels in shown.items()), key=lambda v: v.number)
    return Held(newest, tuple(v for v in versions if not v.staged), tuple(v for v in versions if v.staged))


def _stored(identity: str, labels: frozenset[str]) -> StoredVersion:
    ours = _VERSION_ID.fullmatch(identity)
    number = read_number(identity, labels)
    return StoredVersion(
        number=number,
        version_id=identity,
        rotation_id=ours[1] if ours else "",
        enabled=disabled(number) not in labels or kept(number) in labels,
        # In doubt (a late writer's put took the label, or the id is somebody else's) a version counts as published:
        # that is kept, not taken away.
        staged=ours is not None and STAGED in labels and not labels & {CURRENT, PREVIOUS},
        loose=not labels & {kept(number), disabled(number)},
    )


def foreign(labels: Iterable[str]) -> list[str]:
    """The labels that are somebody else's."""
    return [label for label in labels if label not in _OURS_FOR_NOW and not read_number("", [label])]


def movable(stages: Stages) -> list[tuple[int, str]]:
    """Number and id of each version that has labels of its number only, oldest first: those an archive may take."""
    return sorted(_movable(stages))


def _movable(stages: Stages) -> Iterator[tuple[int, str]]:
    for identity, labels in stages.items():
        number = read_number("", labels)
        if number and not foreign(labels) and not _OURS_FOR_NOW & {*labels}:
            yield number, identity


def taken(stages: Stages) -> int:
    """The labels that stay: one for each kept version, and those of somebody else."""
    kept_ones = sum(1 for identity, labels in stages.items() if read_number(identity, labels))
    return kept_ones + sum(len(foreign(labels)) for labels in stages.values())


def crowding(stages: Stages) -> str:
    """Why a secret could not be rotated for ever beside somebody else's labels; empty if it could.

    A version with such a label stays, and needs one of ours; so do the active one, the one before and the next.
    """
    labels = sum(len(foreign(held)) for held in stages.values())
    bearers = sum(1 for held in stages.values() if foreign(label for label in held if label != PENDING))
    if labels + bearers + 3 <= KEPT_VERSIONS:
        return ""
    return f"of the {LABELS} labels that a secret can have, {labels} are somebody else's"


def read_number(identity: str, labels: Iterable[str]) -> int:
    """Our number of a version: by its label, or by its id where the label was lost; 0 for one that is not ours."""
    by_label = next((int(m[1]) for label in sorted(labels) if (m := _NUMBER_LABEL.fullmatch(label))), 0)
    by_id = _VERSION_ID.fullmatch(identity)
    return by_label or (int(by_id[2]) if by_id else 0)


def context(secret: str, number: int) -> dict[str, str]:
    """The encryption context: what is wrapped for one key and number opens for no other. Shown in CloudTrail."""
    return {TAG + "key": secret, TAG + "number": str(number)}


def tag_problem(value: str) -> str:
    """Why a text cannot be a tag's value; empty if it can (AWS: "Tag naming limits and requirements")."""
    if len(value) > _TAG_LENGTH:
        return f"longer than {_TAG_LENGTH} characters"
    return "" if _TAG_VALUE.fullmatch(value) else "only letters, digits, spaces and + - = . _ : / @ can be in a tag"


def seal(envelope: Envelope) -> str:
    """An envelope as it is stored: JSON, the same text for the same envelope."""
    return msgspec.json.encode(envelope).decode()


def unseal(text: str) -> Envelope | None:
    """The envelope in a value; None if the value is none of ours. Raises IntegrityError for a damaged one."""
    if f'"format":"{ENVELOPE_FORMAT}"' not in text:
        return None
    try:
        return msgspec.json.decode(text, type=Envelope)
    except (msgspec.DecodeError, UnicodeError):
        raise IntegrityError("the stored value is no sound envelope", DAMAGED_HINT) from None


def plain(text: str) -> bytes:
    """A value that is none of ours, as the material that it is. Raises IntegrityError for what no text can be."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise IntegrityError("the stored value is no text", DAMAGED_HINT) from None


def anchor_tags(ledger: str, anchor: Anchor) -> dict[str, str]:
    """An anchor, and the ledger that it is of, as tags."""
    return {LEDGER_TAG: ledger} | {TAG + name: text for name, text in anchors.write(anchor).items()}


def read_anchor(tags: Mapping[str, str]) -> Anchor | None:
    """The anchor in a secret's tags; None if there is none, UNREADABLE if what is there is not one."""
    return anchors.read({name.removeprefix(TAG): text for name, text in tags.items() if name.startswith(TAG)})
