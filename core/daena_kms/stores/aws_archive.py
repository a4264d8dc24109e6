"""More versions than one secret has labels for: the oldest lie in archives, wrapped as they are.

A secret holds 20 labels. Past 16 kept versions the oldest are copied to `<secret>--archive-<n>`, read back there, and
only then lose their label in the main secret; a tag there names the archives. The number alone says which archive.
What has a label of somebody else's stays: its readers may ask for that label. Such labels leave room for fewer of ours.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from ..errors import NotFoundError
from ..model import StoredVersion
from . import aws_layout as layout
from .aws_calls import RejectedError
from .aws_secrets import Secrets, Stages, check, content, tags

_OURS_FOR_NOW = {layout.CURRENT, layout.PREVIOUS, layout.STAGED}


def everywhere(manager: Secrets, name: str) -> Iterator[tuple[str, Stages]]:
    """The secret and its archives, each with its versions' labels."""
    main = manager.describe(name)
    yield name, main["VersionIdsToStages"]
    for archive in _archives(name, main):
        yield archive, _stages(manager, archive)


def archived(manager: Secrets, name: str, main: Mapping[str, Any]) -> list[StoredVersion]:
    """The versions that lie in archives only, lowest number first."""
    found = [
        version
        for archive in _archives(name, main)
        for version in layout.held(_stages(manager, archive)).versions
        if version.version_id not in main["VersionIdsToStages"]
    ]
    return sorted(found, key=lambda version: version.number)


def made(manager: Secrets, name: str, main: Mapping[str, Any]) -> dict[str, datetime]:
    """Version id -> the time when AWS took it in; of a copy, once AWS has deleted what was copied, the copy's time."""
    times: dict[str, datetime] = {}
    for place in (*_archives(name, main), name):
        try:
            times |= manager.made(place)
        except NotFoundError:
            continue  # see `_stages`
    return times


def _archives(name: str, main: Mapping[str, Any]) -> list[str]:
    return [layout.archive_name(name, index) for index in _indexes(main)]


def _indexes(main: Mapping[str, Any]) -> list[int]:
    return [int(text) for text in tags(main).get(layout.ARCHIVES_TAG, "").split() if text.isdecimal()]


def _stages(manager: Secrets, archive: str) -> Stages:
    """An archive's labels. It is named before it is made: a run may have died in between."""
    try:
        return manager.stages(archive)
    except NotFoundError:
        return {}


def with_room(manager: Secrets, name: str, write: Callable[[], None]) -> None:
    """Do a write that adds a label; where the secret can hold no more, make room and do it again."""
    try:
        write()
    except RejectedError as problem:
        if problem.code != "LimitExceededException":
            raise
        make_room(manager, name)
        write()


def make_room(manager: Secrets, name: str) -> None:
    """See that one more version fits. Any step may be the last: what was begun is done again by the next run."""
    main = manager.describe(name)
    stages: Stages = main["VersionIdsToStages"]
    moving = _movable(stages)[: max(0, _taken(stages) + 1 - layout.KEPT_VERSIONS)]
    # Named first: whoever disables a version meanwhile must find its copy.
    known = set(_indexes(main))
    needed = {layout.archive_index(number) for number, _ in moving} - known
    if needed:
        manager.tag(name, {layout.ARCHIVES_TAG: " ".join(map(str, sorted(known | needed)))})
    for number, identity in moving:
        new = layout.archive_index(number) in needed
        _copy(manager, name, stages[identity], number, identity, new=new)
        manager.take_labels(name, identity, stages[identity])


def _taken(stages: Stages) -> int:
    """The labels that stay: one for each kept version, and those of somebody else."""
    kept = sum(1 for identity, labels in stages.items() if layout.read_number(identity, labels))
    return kept + sum(1 for labels in stages.values() for label in labels if _foreign(label))


def _movable(stages: Stages) -> list[tuple[int, str]]:
    """Number and id of each version that has labels of its number only, oldest first."""
    numbered = ((layout.read_number("", labels), i) for i, labels in stages.items() if not _OURS_FOR_NOW & {*labels})
    return sorted((number, i) for number, i in numbered if number and not any(map(_foreign, stages[i])))


def _foreign(label: str) -> bool:
    return label not in _OURS_FOR_NOW and not layout.read_number("", [label])


def _copy(manager: Secrets, name: str, labels: list[str], number: int, identity: str, *, new: bool) -> None:
    archive = layout.archive_name(name, layout.archive_index(number))
    # With both labels it is being disabled or enabled, and still readable.
    label = layout.kept(number) if layout.kept(number) in labels else layout.disabled(number)
    original = content(manager.get(name, identity))
    manager.put(archive, identity, original, (label,), new=new)
    copy = content(manager.patiently(lambda: manager.get(archive, identity, label)))
    check(copy == original, f"the copy of version {number} in {archive} is not what was copied")
