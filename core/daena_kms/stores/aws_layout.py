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
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from ..errors import IntegrityError
from ..model import Anchor, StoredVersion
from . import anchors

CURRENT, PREVIOUS, PENDING = "AWSCURRENT", "AWSPREVIOUS", "AWSPENDING"
STAGED = "daena-staged"
# A new secret's first version is live at once (botocore: PutSecretValue). So that no key ever is before it was
# verified, a secret is made with a version that holds none.
NO_VERSION = "daena-kms-no-version-yet-000000000000"
NO_VERSION_VALUE = '{"format":"daena-kms/none"}'

KEPT_VERSIONS = 16  # of the 20 labels that a secret holds: AWSCURRENT, AWSPREVIOUS, daena-staged, one in change
ENVELOPE_FORMAT = "daena-kms/1"

TAG = "daena-kms:"
LEDGER_TAG, ARCHIVES_TAG = TAG + "ledger", TAG + "archives"

_VERSION_ID = re.compile(r"([0-9a-f-]{36})-v([1-9]\d{0,9})")
_NUMBER_LABEL = re.compile(r"(?:v|disabled-)([1-9]\d{0,9})")

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
        # In doubt (a late writer's put took the label) a version counts as published: that is kept, not taken away.
        staged=STAGED in labels and not labels & {CURRENT, PREVIOUS},
    )


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
        raise IntegrityError("the stored value is no sound envelope", "restore it from a backup") from None


def plain(text: str) -> bytes:
    """A value that is none of ours, as the material that it is. Raises IntegrityError for what no text can be."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise IntegrityError("the stored value is no text", "restore it from a backup") from None


def anchor_tags(ledger: str, anchor: Anchor) -> dict[str, str]:
    """An anchor, and the ledger that it is of, as tags."""
    return {LEDGER_TAG: ledger} | {TAG + name: text for name, text in anchors.write(anchor).items()}


def read_anchor(tags: Mapping[str, str]) -> Anchor | None:
    """The anchor in a secret's tags; None if there is none, UNREADABLE if what is there is not one."""
    return anchors.read({name.removeprefix(TAG): text for name, text in tags.items() if name.startswith(TAG)})
