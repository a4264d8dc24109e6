"""One rotation after the other, on every store."""

from typing import Any

import pytest

from daena_kms.fleet import Order
from daena_kms.model import State, Status
from daena_kms.policy import KeyPolicy
from tests.support.liars import Faulty
from tests.support.worlds import KEY, World


def test_first_run_creates_the_key(world: World) -> None:
    outcome = world.rotate()
    assert (outcome.status, outcome.number) == (Status.CREATED, 1)
    world.check()


def test_a_young_key_is_left_alone(world: World) -> None:
    world.rotate()
    outcome = world.rotate()
    assert outcome.status is Status.NOT_DUE
    assert outcome.next_at is not None
    assert len(world.history().entries) == 2


def test_an_old_key_is_rotated_and_its_old_version_still_decrypts(world: World) -> None:
    world.rotate()
    before = world.service().get(KEY, reveal=True).material
    world.clock.move(days=90)
    outcome = world.rotate()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    assert world.service().get(KEY, 1, reveal=True).material == before
    assert world.history().versions[1].state is State.DECRYPT_ONLY
    world.check()


def test_an_ordinary_rotation_writes_two_entries(world: World) -> None:
    world.rotate()
    world.clock.move(days=90)
    world.rotate()
    assert [e.event for e in world.history().entries[2:]] == ["rotation-started", "promoted"]


def test_a_forced_request_is_carried_out_once(world: World) -> None:
    world.rotate()
    assert world.force("ticket-7").status is Status.ROTATED
    again = world.force("ticket-7")
    assert again.status is Status.NOT_DUE
    assert "ticket-7" in again.message
    assert len(world.history().versions) == 2
    world.check()


# --- a key that no listing shows: its mark is gone, or the listing lags


def unlisted(world: World) -> Any:
    return Faulty(world.store, "inventory", lambda _real: iter(()))


@pytest.mark.parametrize("create", [True, False])
def test_a_key_that_no_listing_shows_is_rotated_when_it_is_old(world: World, create: bool) -> None:
    world.rotate()
    world.policy = KeyPolicy(create=create)
    world.clock.move(days=30)
    young = world.rotate(store=unlisted(world))
    assert young.status is Status.NOT_DUE
    assert "young enough" in young.message
    world.clock.move(days=60)
    outcome = world.rotate(store=unlisted(world))
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    world.check()


def test_a_key_that_no_listing_shows_is_rotated_when_that_is_forced_and_a_request_once(world: World) -> None:
    world.rotate()
    assert world.force("ticket-7", store=unlisted(world)).status is Status.ROTATED
    assert world.force("ticket-7", store=unlisted(world)).status is Status.NOT_DUE
    assert list(world.history().versions) == [1, 2]
    world.check()


def test_a_key_that_no_listing_shows_is_overdue_where_it_is_not_rotated(world: World) -> None:
    world.rotate()
    world.service().pause(KEY)
    world.clock.move(days=91)
    report = world.service(store=unlisted(world)).rotate(Order())
    assert [o.status for o in report.outcomes] == [Status.PAUSED]
    assert (report.overdue, report.oldest_active_days) == ((KEY,), 91)
