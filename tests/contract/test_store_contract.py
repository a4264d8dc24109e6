"""What every key store must do. New stores are added to BACKENDS and pass this as it is."""

from contextlib import suppress
from datetime import timedelta

import pytest
from msgspec.structs import replace

from daena_kms.errors import ConflictError, IntegrityError, NotFoundError, RefusedError
from daena_kms.material import KeyMaterial
from daena_kms.model import Anchor, KeySpec, StoredVersion
from daena_kms.names import RESERVED_KEY
from daena_kms.plan import rotation_id
from daena_kms.stores.base import NewVersion, Prepared
from tests.support.worlds import START, Backend

KEY = "contract-key"
SPEC = KeySpec.parse("AES-256")


def _new(number: int) -> NewVersion:
    return NewVersion(number, rotation_id(KEY, 1, number), f"1:fingerprint-{number}", SPEC.name)


def _stage(backend: Backend, number: int, material: KeyMaterial | None = None) -> tuple[StoredVersion, Prepared]:
    prepared = backend.store.prepare(KEY, number, SPEC, material)
    return backend.store.stage(KEY, _new(number), prepared), prepared


def _publish(backend: Backend, number: int, planned: StoredVersion | None = None) -> StoredVersion:
    staged, _ = _stage(backend, number)
    published = backend.store.promote(KEY, staged, planned, backend.store.read(KEY, staged))
    for copy in backend.store.observe(KEY).staged:
        backend.store.discard(KEY, copy)
    assert isinstance(published, StoredVersion)
    return published


def _numbers(versions: tuple[StoredVersion, ...]) -> list[int]:
    return [version.number for version in versions]


def test_a_key_that_is_not_there_is_said_not_to_be(backend: Backend) -> None:
    seen = backend.store.observe(KEY)
    assert (seen.exists, seen.newest, seen.versions, seen.staged) == (False, None, (), ())
    assert list(backend.store.inventory()) == []


def test_preparing_changes_nothing_and_makes_fresh_material_of_the_spec(backend: Backend) -> None:
    first, second = (backend.store.prepare(KEY, 1, SPEC).material for _ in range(2))
    assert len(first) == len(second) == SPEC.length
    assert first != second
    assert backend.store.observe(KEY).exists is False


def test_what_is_staged_is_seen_by_no_reader(backend: Backend) -> None:
    first = _publish(backend, 1)
    staged, _ = _stage(backend, 2)
    seen = backend.store.observe(KEY)
    assert seen.newest == first
    assert _numbers(seen.staged) == [2]
    assert staged.staged
    assert staged.holds(2, "1:fingerprint-2")


def test_what_was_staged_is_read_back_as_it_was(backend: Backend) -> None:
    staged, prepared = _stage(backend, 1)
    assert backend.store.read(KEY, staged) == prepared.material


def test_given_material_is_kept(backend: Backend) -> None:
    material = KeyMaterial(bytes(range(32)))
    staged, _ = _stage(backend, 1, material)
    assert backend.store.read(KEY, staged) == material


def test_staging_the_same_rotation_twice_keeps_the_first(backend: Backend) -> None:
    first, prepared = _stage(backend, 1)
    second, _ = _stage(backend, 1)
    if backend.store.fenced:
        assert second == first
        assert backend.store.read(KEY, second) == prepared.material
    else:
        assert second.version_id != first.version_id
        assert backend.store.read(KEY, first) == prepared.material


def test_promoting_makes_it_what_readers_get_and_keeps_the_one_before(backend: Backend) -> None:
    first = _publish(backend, 1)
    second = _publish(backend, 2, first)
    seen = backend.store.observe(KEY)
    assert seen.newest == second
    assert _numbers(seen.versions) == [1, 2]
    assert seen.staged == ()
    assert isinstance(backend.store.read(KEY, first), KeyMaterial)


def test_promoting_against_another_version_than_planned_is_refused(backend: Backend) -> None:
    if not backend.store.fenced:
        pytest.skip("this store cannot fence a promotion: the protocol's other rules stand in")
    first = _publish(backend, 1)
    second = _publish(backend, 2, first)
    late, prepared = _stage(backend, 3)
    with pytest.raises(ConflictError):
        backend.store.promote(KEY, late, first, prepared.material)
    assert backend.store.observe(KEY).newest == second


def test_promoting_what_is_active_already_is_a_no_op(backend: Backend) -> None:
    if not backend.store.fenced:
        pytest.skip("on this store a repeated write is one more version, which the protocol looks for first")
    first = _publish(backend, 1)
    assert backend.store.promote(KEY, first, None, backend.store.read(KEY, first)) == first
    assert backend.store.observe(KEY).newest == first


def test_promoting_what_was_discarded_fails_or_shows_under_its_own_number(backend: Backend) -> None:
    if not backend.store.fenced:
        pytest.skip("this store writes what the run holds, whatever became of the staged copy")
    first = _publish(backend, 1)
    staged, prepared = _stage(backend, 2)
    backend.store.discard(KEY, staged)
    try:
        expected = backend.store.promote(KEY, staged, first, prepared.material)
    except NotFoundError:
        expected = first
    newest = backend.store.observe(KEY).newest
    assert replace(newest, loose=False) == expected
    assert backend.store.read(KEY, newest) == (
        prepared.material if newest.number == 2 else backend.store.read(KEY, first)
    )
    backend.store.label(KEY, newest, _new(newest.number))
    assert backend.store.observe(KEY).newest == expected


def test_discarding_takes_a_staged_version_away_and_never_a_published_one(backend: Backend) -> None:
    first = _publish(backend, 1)
    staged, _ = _stage(backend, 2)
    backend.store.discard(KEY, staged)
    backend.store.discard(KEY, staged)
    backend.store.discard(KEY, first)
    seen = backend.store.observe(KEY)
    assert (seen.staged, seen.newest) == ((), first)


def test_a_version_that_is_not_there_is_not_found(backend: Backend) -> None:
    _publish(backend, 1)
    with pytest.raises(NotFoundError):
        backend.store.read(KEY, StoredVersion(7, f"{rotation_id(KEY, 1, 7)}-v7"))
    with pytest.raises(NotFoundError):
        backend.store.read("another-key", StoredVersion(1, rotation_id(KEY, 1, 1)))


def test_a_disabled_version_is_not_read_until_it_is_enabled(backend: Backend) -> None:
    first = _publish(backend, 1)
    material = backend.store.read(KEY, first)
    _publish(backend, 2, first)
    backend.store.disable(KEY, first)
    backend.store.disable(KEY, first)
    with pytest.raises(RefusedError):
        backend.store.read(KEY, first)
    assert [v.enabled for v in backend.store.observe(KEY).versions] == [False, True]
    backend.store.enable(KEY, first)
    assert backend.store.read(KEY, first) == material


def test_a_destroyed_version_never_comes_back(backend: Backend) -> None:
    first = _publish(backend, 1)
    _publish(backend, 2, first)
    backend.store.destroy(KEY, first)
    backend.store.destroy(KEY, first)
    with suppress(RefusedError):
        backend.store.enable(KEY, first)
    with pytest.raises(RefusedError):
        backend.store.read(KEY, first)


def test_the_active_version_is_never_disabled(backend: Backend) -> None:
    first = _publish(backend, 1)
    with pytest.raises(RefusedError):
        backend.store.disable(KEY, first)
    assert isinstance(backend.store.read(KEY, first), KeyMaterial)


BARE = "this store holds bare material: whose it is, the manifest's fingerprint says"


def test_material_sealed_for_another_number_does_not_open(backend: Backend) -> None:
    if not backend.store.marked:
        pytest.skip(BARE)
    prepared = backend.store.prepare(KEY, 1, SPEC)
    staged = backend.store.stage(KEY, _new(2), prepared)
    with pytest.raises(IntegrityError):
        backend.store.read(KEY, staged)


def test_material_sealed_for_another_key_does_not_open(backend: Backend) -> None:
    if not backend.store.marked:
        pytest.skip(BARE)
    prepared = backend.store.prepare("another-key", 1, SPEC)
    staged = backend.store.stage(KEY, _new(1), prepared)
    with pytest.raises(IntegrityError):
        backend.store.read(KEY, staged)


def test_the_anchor_and_the_ledgers_address_lie_beside_the_key(backend: Backend) -> None:
    _publish(backend, 1)
    anchor = Anchor(7, "0" * 64, 1, START, START + timedelta(days=1), paused=True, mac="seal")
    backend.store.write_anchor(KEY, anchor)
    seen = backend.store.observe(KEY)
    assert (seen.anchor, seen.ledger) == (anchor, backend.ledger.address)
    (row,) = backend.store.inventory()
    assert (row.key, row.newest, row.anchor, row.ledger) == (KEY, 1, anchor, backend.ledger.address)


def test_the_inventory_lists_keys_in_order_and_never_the_reserved_one(backend: Backend) -> None:
    for name in ("b-key", "a-key", RESERVED_KEY):
        prepared = backend.store.prepare(name, 1, SPEC)
        staged = backend.store.stage(name, _new(1), prepared)
        backend.store.promote(name, staged, None, prepared.material)
    assert [row.key for row in backend.store.inventory()] == ["a-key", "b-key"]


def test_a_version_that_lies_there_can_be_given_our_fingerprint_but_no_second_number(backend: Backend) -> None:
    first = _publish(backend, 1)
    labelled = backend.store.label(KEY, first, NewVersion(1, "rotation-1", "1:another", SPEC.name))
    assert labelled.holds(1, "1:another")
    assert backend.store.observe(KEY).newest == labelled
    with pytest.raises(RefusedError):
        backend.store.label(KEY, first, NewVersion(2, "rotation-2", "1:another", SPEC.name))
