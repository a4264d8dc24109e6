"""Staging labels as Secrets Manager moves them: rules alone, no server.

Sources: botocore's documentation of PutSecretValue and UpdateSecretVersionStage; recorded-replies.md (AWS).
"""

from collections.abc import Iterable, Sequence

from .moto_errors import AwsError, NotInDoubleError

CURRENT = "AWSCURRENT"
PREVIOUS = "AWSPREVIOUS"
PENDING = "AWSPENDING"
MOST_LABELS = 20  # per secret, over all its versions (cloud-facts)

Labels = dict[str, list[str]]
"""The labels of each version of a secret, by version id. A label stands in one list at most."""


def put(labels: Labels, version_id: str, stages: Sequence[str] | None) -> Labels:
    """The labels after a new version was put; `stages` is None if the request named none."""
    after = _copy(labels)
    former = holder(labels, CURRENT)
    after[version_id] = []
    wanted = list(stages or [CURRENT])
    if not labels:
        wanted.append(CURRENT)  # the first version of a secret is its current one, whatever was asked for
    for stage in wanted:
        _move(after, stage, version_id)
    if CURRENT in wanted and former is not None:
        _move(after, PREVIOUS, former)
        if stages is None and PENDING in after[former]:
            after[former].remove(PENDING)
    return _within_limit(after)


def update(labels: Labels, stage: str, remove_from: str | None, move_to: str | None) -> Labels:
    """The labels after UpdateSecretVersionStage: compare-and-set, `remove_from` being what is expected to hold it."""
    at = holder(labels, stage)
    _check_update(labels, stage, remove_from, move_to)
    after = _copy(labels)
    if move_to is None:
        after[str(remove_from)].remove(stage)
        return after
    if at == move_to:
        return after  # asked for what is so already
    _move(after, stage, move_to)
    if stage == CURRENT and at is not None:
        _move(after, PREVIOUS, at)
    return _within_limit(after)


def _check_update(labels: Labels, stage: str, remove_from: str | None, move_to: str | None) -> None:
    at = holder(labels, stage)
    if move_to is not None and move_to not in labels:
        raise AwsError("ResourceNotFoundException", f"Secrets Manager can't find the specified version {move_to}.")
    if remove_from is None and move_to is None:
        raise AwsError("InvalidParameterException", "Neither RemoveFromVersionId nor MoveToVersionId is given.")
    if remove_from is None and at not in (None, move_to):
        raise AwsError(
            "InvalidParameterException",
            f"The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently attached to version "
            f"{at}, so you must explicitly reference that version in RemoveFromVersionId.",
        )
    if remove_from is not None and at != remove_from:
        raise AwsError(
            "InvalidParameterException", f"Staging label {stage} is not attached to version {remove_from}, but to {at}."
        )
    if remove_from is not None and remove_from == move_to:
        raise NotInDoubleError("RemoveFromVersionId and MoveToVersionId are the same: AWS's answer is on no record")
    if stage == CURRENT and move_to is None:
        raise AwsError(
            "InvalidParameterException",
            "You can only move staging label AWSCURRENT to a different secret version. It can't be completely removed.",
        )


def holder(labels: Labels, stage: str) -> str | None:
    """The version that a label sits on."""
    return next((version_id for version_id, stages in labels.items() if stage in stages), None)


def _move(labels: Labels, stage: str, version_id: str) -> None:
    at = holder(labels, stage)
    if at == version_id:
        return
    if at is not None:
        labels[at].remove(stage)
    labels[version_id].append(stage)


def _copy(labels: Labels) -> Labels:
    return {version_id: list(stages) for version_id, stages in labels.items()}


def _within_limit(labels: Labels) -> Labels:
    if _count(labels.values()) > MOST_LABELS:
        raise AwsError("LimitExceededException", f"A secret can't have more than {MOST_LABELS} staging labels.")
    return labels


def _count(lists: Iterable[list[str]]) -> int:
    return sum(len(stages) for stages in lists)
