"""What a run takes from AWS's listing, which may be old."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daena_kms.fleet import Order
from daena_kms.model import Status
from daena_kms.stores import aws_layout as layout
from tests.support.aws_scene import NAME, Between, Parameters, Scene, few, once
from tests.support.aws_world import PREFIX
from tests.support.doubles import MemoryLedger
from tests.support.worlds import KEY, DiedError, dying

# --- the listing


def test_the_listing_saves_the_first_look(scene: Scene) -> None:
    scene.versions(2)
    scene.clock.move(days=90)
    scene.secrets.calls.clear()
    scene.kms.calls.clear()
    assert scene.rotate().status is Status.ROTATED
    assert scene.secrets.calls == [
        "list_secrets", "put_secret_value", "get_secret_value", "update_secret_version_stage", "tag_resource",
    ]  # fmt: skip
    assert scene.kms.calls == ["generate_data_key", "decrypt"]


def test_a_tick_with_nothing_due_is_one_listing(scene: Scene) -> None:
    scene.versions(2)
    scene.secrets.calls.clear()
    assert scene.rotate().status is Status.NOT_DUE
    assert scene.secrets.calls == ["list_secrets"]


def _row(scene: Scene) -> Any:
    """What ListSecrets tells of the key now."""
    (entry,) = scene.console.pages("list_secrets", "the key", Filters=[{"Key": "name", "Values": [NAME]}])
    return next((found for found in entry["SecretList"] if found["Name"] == NAME), None)


def stale(row: Any, **newer: Any) -> Between:
    """A listing that still has an older row of the key, or none, with some fields as new as they are."""

    def between(operation: str, _parameters: Parameters, send: Callable[[], Any]) -> Any:
        reply = send()
        if operation != "list_secrets":
            return reply
        others = [entry for page in reply for entry in page["SecretList"] if entry["Name"] != NAME]
        return [{"SecretList": [*others, *([{**row, **newer}] if row else [])]}]

    return between


def _history(scene: Scene) -> list[tuple[str, Any]]:
    """A key's life, and what a listing showed at each step. It ends with version 4 active, 90 days old."""
    rows: list[tuple[str, Any]] = [("missing", None)]

    def note(name: str) -> None:
        rows.append((name, _row(scene)))

    def made(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        reply = send()
        note("placeholder")
        return reply

    def staged(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        note("claimed, nothing staged")
        reply = send()
        note("staged")
        return reply

    def dead(_parameters: Parameters, _send: Callable[[], Any]) -> Any:
        raise DiedError

    scene.secrets.between = once("create_secret", made)
    scene.rotate()
    note("version 1")
    scene.secrets.between = once("put_secret_value", staged)
    scene.force()
    note("version 2")
    scene.make_current(1)
    note("moved by hand")
    scene.make_current(2)
    scene.secrets.between = once("update_secret_version_stage", dead)
    with dying():
        scene.force()
    note("version 3 staged by a dead run")
    scene.clock.move(minutes=61)
    scene.secrets.between = lambda _o, _p, send: send()
    scene.force()
    note("version 3 taken over")
    scene.service().pause(KEY)
    note("paused")
    scene.service().resume(KEY)
    scene.force()
    note("version 4")
    scene.clock.move(days=90)
    return rows


def test_a_stale_listing_never_makes_a_wrong_decision(scene: Scene) -> None:
    rows = _history(scene)
    now = _row(scene)
    restore, top = scene.save(), max(scene.history().versions)
    tried = 0
    for name, row in rows:
        fields: list[dict[str, Any]] = [{}]
        if row is not None:
            fields += [{"Tags": now["Tags"]}, {"SecretVersionsToStages": now["SecretVersionsToStages"]}]
        for newer in fields:
            restore()
            what = f"{name}, but new {', '.join(newer) or 'nothing'}"
            scene.secrets.between = stale(row, **newer)
            outcome = scene.rotate()
            assert outcome.status in (Status.ROTATED, Status.NOT_DUE, Status.PAUSED), (what, outcome)
            scene.secrets.between = lambda _o, _p, send: send()
            if outcome.status is not Status.ROTATED:
                scene.rotate()
            assert max(scene.history().versions) == top + 1, what
            assert scene.problems() == [], what  # every version was read, and is what it was
            tried += 1
    assert tried > 20


def test_a_stale_listing_does_not_hide_that_a_person_was_there(scene: Scene) -> None:
    scene.versions(3)
    before = _row(scene)
    scene.make_current(1)
    scene.clock.move(days=90)
    scene.secrets.between = stale(before)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "readers get version 1" in outcome.message
    assert scene.current() == scene.ids()[1]


def _crowd(scene: Scene, names: list[str], **more: Any) -> None:
    def make(name: str) -> None:
        scene.console.call("create_secret", name, Name=name, SecretString="x", **more)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, names))


OURS = {"Tags": [{"Key": layout.LEDGER_TAG, "Value": MemoryLedger.address}]}


def test_more_keys_than_a_page_holds_are_all_listed(scene: Scene) -> None:
    names = [f"key-{n:03}" for n in range(203)]
    _crowd(scene, [PREFIX + name for name in names], **OURS)
    pages: list[int] = []

    def counting(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        reply = send()
        pages.extend(len(page["SecretList"]) for page in reply)
        return reply

    scene.secrets.between = once("list_secrets", counting)
    assert [row.key for row in scene.aws.inventory()] == names
    assert pages == [100, 100, 3]


def test_what_is_not_ours_is_not_listed(scene: Scene) -> None:
    scene.rotate()
    _crowd(scene, [PREFIX + "foreign-key", "prod/database"])
    _crowd(
        scene,
        ["other-key", PREFIX + "Capital", f"{NAME}--archive-1", f"{PREFIX}path/key", PREFIX.upper() + "key", PREFIX],
        **OURS,
    )
    assert [row.key for row in scene.aws.inventory()] == [KEY]


def test_a_key_with_archives_is_looked_at_before_it_is_touched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing does not show what lies in archives, so it does not stand for a look."""
    few(monkeypatch)
    scene.versions(3)
    (row,) = scene.aws.inventory()
    assert row.seen == scene.aws.observe(KEY)
    scene.force()
    (row,) = scene.aws.inventory()
    assert row.seen is None


def test_two_prefixes_in_one_account_do_not_see_each_other(scene: Scene) -> None:
    other = Scene(prefix="blue-")
    assert scene.memory is not other.memory
    scene.versions(2)
    assert other.aws.observe(KEY).exists is False
    assert other.rotate().status is Status.CREATED
    for each, versions in ((scene, [1, 2]), (other, [1])):
        assert [row.key for row in each.aws.inventory()] == [KEY]
        assert list(each.history().versions) == versions
        each.check()
    scene.clock.move(days=90)
    assert scene.rotate().number == 3
    assert other.current(f"blue-{KEY}") == other.ids(f"blue-{KEY}")[1]
    other.check()


def test_a_key_of_a_prefix_that_begins_with_ours_is_none_of_ours(scene: Scene) -> None:
    """`app-` and `app-blue-` in one account: each has its manifests elsewhere, and the listing shows both."""
    elsewhere = MemoryLedger()
    elsewhere.address = "memory:elsewhere"
    other = Scene(prefix=f"{PREFIX}blue-", ledger=elsewhere)
    assert other.rotate().status is Status.CREATED
    scene.rotate()
    report = scene.service().rotate(Order())
    assert [(o.key, o.status) for o in report.outcomes] == [(KEY, Status.NOT_DUE)]
    assert [key.key for key in scene.service().status()] == [KEY]
    assert [audit.key for audit in scene.service().verify()] == [KEY]


def test_a_key_of_ours_that_names_another_ledger_is_a_failure_and_no_new_key(scene: Scene) -> None:
    scene.rotate()
    scene.by_hand("tag_resource", Tags=[{"Key": layout.LEDGER_TAG, "Value": "s3:somebody"}])
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "belongs to the manifest at s3:somebody" in outcome.message
    assert any("s3:somebody" in problem for problem in scene.problems())
