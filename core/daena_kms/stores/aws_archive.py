"""More versions than one secret has labels for: the oldest lie in archives, wrapped as they are.

A secret holds 20 labels. Past 16 kept versions the oldest are copied to `<secret>--archive-<n>`, read back there, and
only then lose their label in the main secret. The number alone says which archive; a tag there names them all.
What has a label of somebody else's stays: its readers may ask for that label. Such labels leave room for fewer of ours.

Nothing hangs on the tag alone, which anybody may take away: numbers that the main secret lacks are looked for where
they would lie, and further down as long as there is an archive.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from ..errors import NotFoundError, RefusedError
from ..model import StoredVersion
from . import aws_layout as layout
from .aws_calls import RejectedError
from .aws_secrets import Secrets, Stages, check, content, tags

_TOO_MANY = "LimitExceededException"


def everywhere(manager: Secrets, name: str, number: int) -> Iterator[tuple[str, Stages]]:
    """Where a version of that number may lie: the secret, and the number's archive; with the labels there."""
    yield name, manager.stages(name)
    archive = layout.archive_name(name, layout.archive_index(number))
    if (stages := _stages(manager, archive)) is not None:
        yield archive, stages


def archived(manager: Secrets, name: str, main: Mapping[str, Any]) -> dict[str, list[StoredVersion]]:
    """Archives by name, with the versions that lie there only, lowest number first."""
    return {
        layout.archive_name(name, index): [
            version for version in layout.held(stages).versions if version.version_id not in main["VersionIdsToStages"]
        ]
        for index, stages in sorted(_found(manager, name, main))
    }


def made(manager: Secrets, name: str, archives: Iterable[str]) -> dict[str, datetime]:
    """Version id -> the time when AWS took it in; of a copy, once AWS has deleted what was copied, the copy's time."""
    times: dict[str, datetime] = {}
    for place in (*archives, name):
        times |= manager.made(place)
    return times


def possible(main: Mapping[str, Any], stages: Stages) -> set[int]:
    """The archives that are named, or in which versions may lie that the secret itself does not show."""
    shown = {layout.read_number(identity, labels) for identity, labels in stages.items()} - {0}
    return _named(main) | layout.archives_near(shown)


def _named(main: Mapping[str, Any]) -> set[int]:
    return layout.read_archives(tags(main).get(layout.ARCHIVES_TAG, ""))


def _found(manager: Secrets, name: str, main: Mapping[str, Any]) -> Iterator[tuple[int, Stages]]:
    """The archives that are there, by index, with their labels."""
    todo = sorted(possible(main, main["VersionIdsToStages"]))
    asked = {0}
    for index in todo:  # it grows on the way: below an archive there may be another
        if index in asked:
            continue
        asked.add(index)
        stages = _stages(manager, layout.archive_name(name, index))
        if stages is not None:
            todo.append(index - 1)
            yield index, stages


def _stages(manager: Secrets, archive: str) -> Stages | None:
    """An archive's labels; None if it is not there. It is named before it is made: a run may die in between."""
    try:
        stages = manager.stages(archive)
    except NotFoundError:
        return None
    # What makes one gives it a version at once, whose AWSCURRENT nobody can take away.
    check(bool(stages), f"the archive {archive} is there, and shows not one version")
    return stages


def with_room(manager: Secrets, name: str, write: Callable[[], None]) -> None:
    """Do a write that adds a label; where the secret can hold no more, make room and do it again."""
    try:
        write()
    except RejectedError as problem:
        if problem.code != _TOO_MANY:
            raise
        make_room(manager, name)
        _with_the_room_there_is(name, write)


def _with_the_room_there_is(name: str, write: Callable[[], None]) -> None:
    try:
        write()
    except RejectedError as problem:
        if problem.code != _TOO_MANY:
            raise
        raise RefusedError(
            f"{name} has {layout.LABELS} labels, of which none of ours can be spared: {problem.message}",
            "take away labels that are not ours",
        ) from None


def make_room(manager: Secrets, name: str) -> None:
    """See that one more version fits. Any step may be the last: what was begun is done again by the next run."""
    main = manager.describe(name)
    stages: Stages = main["VersionIdsToStages"]
    moving = layout.movable(stages)[: max(0, layout.taken(stages) + 1 - layout.KEPT_VERSIONS)]
    # Named first: a run that dies in between leaves a copy that everybody finds.
    named = _named(main)
    needed = {layout.archive_index(number) for number, _ in moving} - named
    if needed:
        named |= {index for index, _ in _found(manager, name, main)}
        manager.tag(name, {layout.ARCHIVES_TAG: layout.write_archives(named | needed)})
    for number, identity in moving:
        new = layout.archive_index(number) not in named
        _copy(manager, name, stages[identity], number, identity, new=new)
        manager.take_labels(name, identity, stages[identity])


def _copy(manager: Secrets, name: str, labels: list[str], number: int, identity: str, *, new: bool) -> None:
    archive = layout.archive_name(name, layout.archive_index(number))
    # With both labels it is being disabled or enabled, and still readable.
    label = layout.kept(number) if layout.kept(number) in labels else layout.disabled(number)
    original = content(manager.get(name, identity))
    manager.put(archive, identity, original, (label,), new=new)
    copy = content(manager.patiently(lambda: manager.get(archive, identity, label)))
    check(copy == original, f"the copy of version {number} in {archive} is not what was copied")
