"""More versions than one secret has labels for: the oldest lie in archives, wrapped as they are.

A secret holds 20 labels. Past 16 kept versions the oldest are copied to `<secret>--archive-<n>`, read back there, and
only then lose their label in the main secret; a tag there names the archives. The number alone says which archive.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..model import StoredVersion
from . import aws_layout as layout
from .aws_secrets import Secrets, Stages, check, content, tags

_LIVE = {layout.CURRENT, layout.PREVIOUS, layout.STAGED}


def indexes(main: Mapping[str, Any]) -> list[int]:
    """The archives that a secret's tag names."""
    return [int(text) for text in tags(main).get(layout.ARCHIVES_TAG, "").split() if text.isdigit()]


def everywhere(manager: Secrets, name: str) -> Iterator[tuple[str, Stages]]:
    """The secret and its archives, each with its versions' labels."""
    main = manager.describe(name)
    yield name, main["VersionIdsToStages"]
    for index in indexes(main):
        archive = layout.archive_name(name, index)
        yield archive, manager.stages(archive)


def archived(manager: Secrets, name: str, main: Mapping[str, Any]) -> list[StoredVersion]:
    """The versions that lie in archives only, lowest number first."""
    found = [
        version
        for index in indexes(main)
        for version in layout.held(manager.stages(layout.archive_name(name, index))).versions
        if version.version_id not in main["VersionIdsToStages"]
    ]
    return sorted(found, key=lambda version: version.number)


def make_room(manager: Secrets, name: str) -> None:
    """See that one more version fits. Any step may be the last: what was begun is done again by the next run."""
    main = manager.describe(name)
    stages: Stages = main["VersionIdsToStages"]
    numbered = sorted((number, i) for i, labels in stages.items() if (number := layout.read_number("", labels)))
    movable = [(number, i) for number, i in numbered if not _LIVE & {*stages[i]}]
    for number, identity in movable[: max(0, len(numbered) + 1 - layout.KEPT_VERSIONS)]:
        known = indexes(main)
        index = layout.archive_index(number)
        _copy(manager, name, stages[identity], number, identity)
        if index not in known:
            named = {layout.ARCHIVES_TAG: " ".join(str(i) for i in sorted({*known, index}))}
            manager.tag(name, named)
            main["Tags"] = [*main.get("Tags", []), *({"Key": tag, "Value": value} for tag, value in named.items())]
        manager.take_labels(name, identity, stages[identity])


def _copy(manager: Secrets, name: str, labels: list[str], number: int, identity: str) -> None:
    archive = layout.archive_name(name, layout.archive_index(number))
    (label, *_) = [text for text in labels if layout.read_number("", [text])]
    original = content(manager.get(name, identity))
    manager.put(archive, identity, original, (label,))
    copy = content(manager.patiently(lambda: manager.get(archive, identity, label)))
    check(copy == original, f"the copy of version {number} in {archive} is not what was copied")
