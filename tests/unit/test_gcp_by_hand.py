"""The GCP store and a person at the console: what is added, disabled, destroyed, deleted, annotated by hand."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import google_crc32c
import pytest

from daena_kms.errors import ConfigurationError, ExistsError, IntegrityError, KmsError, NotFoundError, RefusedError
from daena_kms.fleet import Order
from daena_kms.material import KeyMaterial
from daena_kms.model import State, Status
from daena_kms.policy import KeyPolicy
from daena_kms.stores import gcp_layout as layout
from tests.support.gcp_scene import DESTROYS, NAME, STAGED, Scene
from tests.support.gsm_faults import only, unavailable
from tests.support.gsm_service import Call, Carried, plain
from tests.support.worlds import KEY, START, Effects, dying
from tests.support.worlds import Mortal as MortalSteps


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- drift


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("warm", [True, False], ids=["the same process", "another process"])
def test_a_version_added_by_hand_is_drift_and_is_adopted_under_the_next_numbers(
    scene: Scene, count: int, warm: bool
) -> None:
    materials = scene.versions(2)
    scene.put(*(f"by hand {index}".ljust(32).encode() for index in range(count)))
    before = scene.lying()
    if not warm:
        scene.restart()
    for days in (0, 100):
        scene.pass_(days=days)
        outcome = scene.rotate()
        assert outcome.status is Status.FAILED
        assert "which no claim names" in outcome.message
        assert "adopt" in outcome.hint
    assert scene.lying() == before, "nothing is overwritten without `adopt`"
    assert any("no version of ours" in problem for problem in scene.problems())
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials()[:2] == materials
    assert scene.materials()[-1].reveal() == f"by hand {count - 1}".ljust(32).encode()
    assert scene.states()[2 + count] is State.ACTIVE
    assert scene.numbers()[2 + count] == 2 + count
    scene.restart()
    scene.check()
    assert scene.force().number == 3 + count
    scene.check()


def test_a_version_added_between_look_and_promotion_is_drift_and_stays(scene: Scene) -> None:
    """Nothing fences an addition; what lies between two of ours is looked for."""
    scene.versions(2)
    theirs = b"theirs".ljust(32)

    def between(call: object, carried: Callable[[], object]) -> object:
        if getattr(call, "rpc", "") == "AddSecretVersion" and str(getattr(call, "resource", "")).endswith(NAME):
            scene.google.between = plain
            scene.put(theirs)
        return carried()

    scene.google.between = between
    outcome = scene.force()
    assert outcome.status is Status.ROTATED
    assert [data for _, _, data in scene.lying()][2] == theirs
    assert any("no version of ours" in problem for problem in scene.problems())
    assert scene.service().adopt(KEY).status is Status.DONE
    assert theirs in [material.reveal() for material in scene.materials()]
    scene.check()


def test_a_version_of_ours_added_again_by_hand_is_no_loss(scene: Scene) -> None:
    """A person restores an old value, and an older version of ours is on top of the active one."""
    materials = scene.versions(2)
    scene.put(materials[0].reveal())
    scene.restart()
    outcome = scene.rotate()
    assert any("published again" in note for note in outcome.notes)
    assert scene.lying()[-1][2] == materials[1].reveal()
    assert scene.materials() == materials
    assert [state for state in scene.states_of() if state != "ENABLED"] == []
    scene.restart()
    scene.check()
    assert scene.force().number == 3


def test_two_keys_whose_payloads_were_swapped_by_hand_are_found_out(scene: Scene) -> None:
    """A payload does not say whose it is."""
    scene.versions(2)
    held = scene.held._present(NAME).versions
    held[0].data, held[1].data = held[1].data, held[0].data
    held[0].crc32c, held[1].crc32c = held[1].crc32c, held[0].crc32c
    scene.restart()
    assert len(scene.problems()) >= 2
    for number in (1, 2):
        with pytest.raises(IntegrityError, match="is not the one"):
            scene.service().get(KEY, number, reveal=True)
    with pytest.raises(IntegrityError):
        scene.service().rollback(KEY, 1)


def test_material_of_another_key_is_refused_where_it_lies(scene: Scene) -> None:
    scene.versions(2)
    scene.held._present(NAME).versions[0].data = b"x" * 32
    scene.held._present(NAME).versions[0].crc32c = scene.double.store._present(NAME).versions[0].crc32c
    scene.restart()
    assert any("version 1 is decrypt-only, but" in problem for problem in scene.problems())
    with pytest.raises(IntegrityError):
        scene.service().rollback(KEY, 1)


# --- disabled, enabled, destroyed by hand


@pytest.mark.parametrize("done", ["disable", "destroy"])
def test_an_active_version_that_a_person_took_away_is_told_by_verify_and_rotated_away(scene: Scene, done: str) -> None:
    materials = scene.versions(2)
    scene.switch(2, done)
    scene.restart()
    assert any("version 2 is active, but" in problem for problem in scene.problems())
    outcome = scene.force()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 3), outcome
    assert scene.payloads()[-1] == scene.service().get(KEY, reveal=True).material.reveal()  # type: ignore[union-attr]
    assert scene.service().get(KEY, 1, reveal=True).material == materials[0]
    if done == "disable":
        scene.switch(2, "enable")
        scene.check()
        assert scene.materials()[:2] == materials


def test_an_active_version_that_a_person_disabled_is_not_adopted(scene: Scene) -> None:
    scene.versions(2)
    scene.switch(2, "disable")
    scene.restart()
    with pytest.raises(RefusedError, match="would become active, but is disabled") as refused:
        scene.service().adopt(KEY)
    assert "enable it" in refused.value.hint


def test_an_old_version_that_a_person_enabled_is_told(scene: Scene) -> None:
    scene.versions(3)
    scene.service().disable(KEY, 1)
    scene.switch(1, "enable")
    scene.restart()
    assert scene.problems() == ["version 1 is disabled, but the store still gives it out"]
    scene.switch(1, "disable")
    scene.check()


def test_an_old_version_that_a_person_destroyed_is_told_and_not_enabled(scene: Scene) -> None:
    scene.versions(3)
    scene.service().disable(KEY, 1)
    scene.switch(1, "destroy")
    scene.restart()
    assert any("the store does not have it" in problem for problem in scene.problems())
    outcome = scene.service().enable(KEY, 1)
    assert outcome.status is Status.FAILED
    assert "is destroyed" in outcome.message or "is not in the store" in outcome.message
    assert scene.states()[1] is State.DISABLED, "nothing says that it can be read"
    assert scene.force().status is Status.ROTATED


# --- annotations and labels


def test_annotations_that_somebody_took_away_are_written_again(scene: Scene) -> None:
    materials = scene.versions(3)
    scene.edit(annotations={"team": "payments"})
    scene.recover(2)
    assert scene.secret().annotations["team"] == "payments"
    assert scene.annotation("ledger") == scene.ledger.address
    assert scene.rotate().status is Status.NOT_DUE
    scene.clock.move(days=91)
    scene.restart()
    assert scene.rotate().number == 4
    assert scene.materials()[:3] == materials
    scene.check()


def test_a_label_that_somebody_took_away_is_written_again_and_the_key_goes_on(scene: Scene) -> None:
    scene.versions(2)
    scene.edit(labels={"env": "prod"})
    scene.recover(2)
    assert scene.secret().labels[layout.LABEL] == layout.KEY
    scene.clock.move(days=91)
    scene.restart()
    assert scene.rotate().number == 3
    scene.check()


# what somebody made of the annotation `daena-kms-versions` of three versions of ours
ALTERED = {
    "nothing": None, "odd": "hello", "swapped": "2=1 1=2 3=3", "the oldest on top": "2=2 3=1 1=3",
    "all one": "3=1 3=2 3=3", "more than there are": "1=1 2=2 3=3 3=9", "far more": "1=1 2=2 3=3 9=9999999999",
    "numbers that nobody gave": "7=1 8=2 9=3", "fewer": "1=1",
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_annotation_loses_nothing_and_decides_nothing(scene: Scene, name: str) -> None:
    materials = scene.versions(3)
    scene.annotate(versions=ALTERED[name])
    scene.restart()
    assert scene.problems() == []
    assert scene.rotate().status in (Status.NOT_DUE, Status.DONE)
    scene.restart()
    outcome = scene.force()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 4), outcome
    assert scene.materials()[:3] == materials
    scene.restart()
    scene.check()


@pytest.mark.parametrize("name", ALTERED)
def test_a_version_added_by_hand_is_drift_whatever_an_annotation_says_of_it(scene: Scene, name: str) -> None:
    scene.versions(3)
    theirs = b"theirs".ljust(32)
    scene.put(theirs)
    text = ALTERED[name]
    scene.annotate(versions=f"{text} 3=4" if text else "3=4")
    scene.restart()
    with suppress(KmsError):
        assert scene.force().status is Status.FAILED
    assert scene.lying()[-1][2] == theirs, "nothing was added on top"
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials()[-1].reveal() == theirs
    assert scene.states()[4] is State.ACTIVE
    scene.restart()
    scene.check()


@pytest.mark.parametrize("done", ["disable", "destroy"])
def test_an_altered_annotation_takes_no_other_version_away(done: str) -> None:
    scene = Scene(DESTROYS)
    materials = scene.versions(4)
    scene.annotate(versions="1=1 1=2 3=3 4=4")
    scene.restart()
    getattr(scene.service(), done)(KEY, 1)
    scene.pass_(days=2)
    scene.restart()
    scene.rotate()
    assert scene.states_of()[1:] == ["ENABLED"] * 3
    assert scene.materials() == materials[1:]


@pytest.mark.parametrize("done", ["disable", "destroy"])
def test_every_copy_of_a_number_is_taken_away_also_where_no_annotation_names_it(done: str) -> None:
    scene = Scene(DESTROYS)
    scene.versions(4)
    first = scene.lying()[0][2]
    scene.put(first)  # the first one again, by hand; the active one is published again on top of it
    scene.recover(1)
    scene.annotate(versions=None)
    scene.restart()
    getattr(scene.service(), done)(KEY, 1)
    scene.pass_(days=2)
    scene.restart()
    scene.rotate()
    assert first not in scene.payloads()


def test_every_copy_of_a_number_is_disabled_and_enabled(scene: Scene) -> None:
    materials = scene.versions(3)
    scene.put(materials[1].reveal())
    scene.recover(1)
    assert scene.force().number == 4
    third = [place for place, number in scene.numbers().items() if number == 3]
    assert len(third) == 2, "the active one was published again"
    scene.service().disable(KEY, 3)
    assert materials[2].reveal() not in scene.payloads()
    scene.service().enable(KEY, 3)
    assert scene.payloads().count(materials[2].reveal()) == 2


@pytest.mark.parametrize("text", ["99999999", "0", "x", None])
def test_an_altered_count_of_staged_copies_loses_nothing(scene: Scene, text: str | None) -> None:
    materials = scene.versions(2)
    scene.annotate(staged=text)
    scene.restart()
    scene.google.between = only(["AddSecretVersion"], unavailable, times=1)
    assert scene.force().status is Status.ROTATED
    scene.google.between = plain
    scene.restart()
    assert scene.force().number == 4
    assert scene.materials()[:2] == materials
    assert set(scene.states_of(STAGED)) == {"DESTROYED"}
    scene.check()


def test_more_versions_than_an_annotation_can_name_are_found_by_the_manifest(scene: Scene) -> None:
    scene.versions(3)
    room = layout.MOST_ANNOTATION_BYTES - layout.size(dict(scene.secret().annotations))
    scene.edit(annotations={**scene.secret().annotations, "note": "x" * (room - 6)})
    scene.restart()
    assert scene.force().number == 4
    assert 1 not in scene.numbers()
    scene.restart()
    assert scene.service().get(KEY, 1, reveal=True).material is not None
    scene.check()


# --- another ledger


def test_a_key_of_another_ledger_is_refused(scene: Scene) -> None:
    scene.versions(1)
    scene.annotate(ledger="gs://another/keys")
    scene.restart()
    before = scene.lying()
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "gs://another/keys" in outcome.message
    assert "DAENA_MANIFEST_URL" in outcome.hint
    assert scene.lying() == before


# --- deleted and made anew


@pytest.mark.parametrize("warm", [True, False], ids=["the same process", "another process"])
def test_a_key_whose_secret_is_gone_is_never_made_anew_by_a_tick(scene: Scene, warm: bool) -> None:
    scene.versions(2)
    scene.delete()
    if not warm:
        scene.restart()
    scene.clock.move(days=91)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "the store has no such key" in outcome.message
    assert "--anew" in outcome.hint
    assert not scene.there()


def test_a_secret_that_was_deleted_a_moment_ago_is_told_and_not_asked_for_again_and_again(scene: Scene) -> None:
    scene.versions(2)
    with scene.stale():
        scene.delete(NAME)
        scene.restart()
        before = len(scene.google.calls)
        outcome = scene.force()
        assert outcome.status is Status.FAILED
        assert "is not there, though reads still show it" in outcome.message
        assert len(scene.google.calls) - before < 40
    assert "ENABLED" in scene.states_of(STAGED), "its claim is open: whoever takes over goes on with it"


def test_a_key_made_anew_while_a_rotation_is_open_is_made_once(scene: Scene) -> None:
    scene.versions(2)
    with scene.stale():
        scene.delete(NAME)
        scene.restart()
        assert scene.force().status is Status.FAILED
    scene.pass_(minutes=20)
    scene.restart()
    scene.service().create(KEY, anew=True)
    scene.recover(1)
    scene.check()


@pytest.mark.parametrize("gone", [(NAME, STAGED), (NAME,)], ids=["both", "only what readers get"])
@pytest.mark.parametrize("warm", [True, False], ids=["the same process", "another process"])
def test_a_key_is_made_anew_and_its_numbers_go_on(scene: Scene, gone: tuple[str, ...], warm: bool) -> None:
    scene.versions(2)
    scene.delete(*gone)
    if not warm:
        scene.restart()
    outcome = scene.service().create(KEY, anew=True)
    assert (outcome.status, outcome.number) == (Status.CREATED, 3), outcome
    assert scene.states() == {1: State.DESTROYED, 2: State.DESTROYED, 3: State.ACTIVE}
    scene.restart()
    scene.rotate()
    assert scene.numbers() == {1: 3}
    assert scene.force().number == 4
    assert "ENABLED" not in scene.states_of(STAGED)
    scene.check()


def test_a_key_made_anew_while_reads_are_old_is_not_taken_for_the_one_that_was(scene: Scene) -> None:
    scene.versions(2)
    with scene.stale():
        scene.delete()
        scene.restart()
        with pytest.raises(ExistsError):
            scene.service().create(KEY, anew=True)
    scene.pass_(minutes=20)
    scene.restart()
    if scene.states().get(2) is State.ACTIVE:
        scene.service().create(KEY, anew=True)
    scene.recover(1)
    assert list(scene.states().values()).count(State.ACTIVE) == 1
    scene.check()


@pytest.mark.parametrize("warm", [True, False], ids=["the same process", "another process"])
@pytest.mark.parametrize("labels", [{}, {layout.LABEL: layout.KEY}], ids=["without our label", "with it"])
def test_a_secret_that_a_person_made_anew_is_drift_though_its_versions_count_from_1(
    scene: Scene, warm: bool, labels: dict[str, str]
) -> None:
    scene.versions(1)
    scene.delete(NAME)
    theirs = b"theirs".ljust(32)
    scene.put(theirs, labels=labels)
    if not warm:
        scene.restart()
    for days in (0, 100):
        scene.clock.move(days=days)
        outcome = scene.rotate()
        assert outcome.status is Status.FAILED, outcome
        assert "no claim names" in outcome.message
    assert scene.lying() == [(1, "ENABLED", theirs)]
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.states() == {1: State.DESTROYED, 2: State.ACTIVE}
    scene.restart()
    scene.check()
    assert scene.force().number == 3
    scene.check()


def test_a_secret_that_a_person_made_anew_with_our_material_goes_on_under_its_number(scene: Scene) -> None:
    materials = scene.versions(2)
    scene.delete(NAME)
    scene.put(materials[1].reveal())
    scene.restart()
    assert any("version 1 is decrypt-only, but" in problem for problem in scene.problems())
    outcome = scene.force()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 3), outcome
    assert scene.numbers()[2] == 3


def test_a_version_that_lies_where_another_was_recorded_is_not_taken_away_for_it() -> None:
    scene = Scene(DESTROYS)
    materials = scene.versions(3)
    scene.delete(NAME)
    scene.put(materials[2].reveal())  # number 3 lies where number 1 was
    scene.restart()
    scene.force()
    scene.force()
    with suppress(KmsError):
        scene.service().destroy(KEY, 1)
    scene.pass_(days=2)
    scene.restart()
    scene.rotate()
    assert materials[2].reveal() in scene.payloads()


def test_a_secret_of_staged_copies_that_was_deleted_is_made_again(scene: Scene) -> None:
    materials = scene.versions(2)
    scene.delete(STAGED)
    scene.restart()
    assert scene.force().status is Status.ROTATED
    assert scene.states_of(STAGED) == ["DESTROYED"]
    scene.google.between = only(["AddSecretVersion"], unavailable, times=1)
    assert scene.force().status is Status.ROTATED
    assert scene.materials()[:2] == materials
    assert "ENABLED" not in scene.states_of(STAGED)
    scene.check()


@pytest.mark.parametrize("forced", [True, False], ids=["forced", "due"])
def test_staged_copies_of_nobody_are_taken_away_by_the_next_rotation(scene: Scene, forced: bool) -> None:
    """One that is due begins with a listing, which shows no staged copies: they are looked for by number."""
    scene.versions(2)
    scene.put(b"left behind", name=STAGED)
    assert any("staged copies" in problem for problem in scene.problems())
    scene.clock.move(days=91)
    scene.restart()
    assert (scene.force() if forced else scene.rotate()).status is Status.ROTATED
    assert "ENABLED" not in scene.states_of(STAGED)
    scene.check()


# --- adopting


def test_adopting_a_secret_leaves_its_payload_and_gives_it_a_number_and_its_age(scene: Scene) -> None:
    scene.double.clock.move(-86_400)
    scene.held._micros = 0
    scene.put(b"hunter2", labels={"env": "prod"}, annotations={"team": "payments"})
    scene.double.clock.move(86_400)
    outcome = scene.service().adopt(KEY, reason="was here before")
    assert (outcome.status, outcome.number) == (Status.DONE, 1)
    (record,) = scene.history().versions.values()
    assert (record.version_id, record.state, record.spec) == ("1", State.ACTIVE, "bytes-7")
    assert abs(record.made_at - (START - timedelta(days=1))) < timedelta(minutes=5)
    assert record.made_at == record.active_since
    assert scene.lying() == [(1, "ENABLED", b"hunter2")]
    assert dict(scene.secret().labels) == {"env": "prod", layout.LABEL: layout.KEY}
    assert scene.secret().annotations["team"] == "payments"
    assert scene.materials() == [KeyMaterial(b"hunter2")]
    scene.restart()
    assert scene.rotate().status is Status.NOT_DUE
    scene.check()
    scene.clock.move(days=90)
    assert scene.rotate().status is Status.ROTATED
    assert scene.materials()[0] == KeyMaterial(b"hunter2")
    scene.check()


@pytest.mark.parametrize("create", [True, False])
def test_a_secret_that_is_not_ours_is_not_touched_and_adopt_is_named(create: bool) -> None:
    scene = Scene(KeyPolicy(create=create))
    scene.put(b"theirs")
    before, annotations = scene.lying(), dict(scene.secret().annotations)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "adopt" in outcome.hint
    assert (scene.lying(), dict(scene.secret().annotations)) == (before, annotations)
    assert scene.memory.sequences(KEY) == []


def test_a_secret_with_capitals_in_its_name_is_another_one(scene: Scene) -> None:
    """Names of secrets are told apart by case, and those of keys have none."""
    scene.put(b"x" * 32, name=NAME.upper())
    with pytest.raises(NotFoundError):
        scene.service().adopt(KEY)
    with pytest.raises(ConfigurationError):
        scene.service().adopt(KEY.upper())
    assert scene.rotate().status is Status.CREATED
    assert scene.lying(NAME.upper()) == [(1, "ENABLED", b"x" * 32)]
    scene.check()


def test_more_than_a_hundred_versions_are_adopted_with_few_writes(scene: Scene) -> None:
    scene.put(*(f"{number}".ljust(32).encode() for number in range(1, 151)))
    asked = scene.actions(lambda: scene.service().adopt(KEY))
    assert len([each for each in asked if each.startswith("Update")]) <= 2, "two a second are let through"
    assert len([each for each in asked if each.startswith("Get")]) < 20, "600 a minute are let through"
    assert len(scene.numbers()) == 150
    assert scene.states()[150] is State.ACTIVE
    scene.restart()
    assert scene.service().get(KEY, 7, reveal=True).material == KeyMaterial(b"7".ljust(32))
    assert scene.force().number == 151
    assert scene.problems() == []


def test_adopting_after_the_manifest_was_lost_keeps_every_number(scene: Scene) -> None:
    """Data that was encrypted under number 4 asks for number 4, though number 3 never came to be."""
    scene.versions(2)
    scene.google.between = only(["AddSecretVersion"], unavailable)
    scene.force()
    scene.google.between = plain
    scene.recover(1)
    scene.force()
    before = scene.numbers()
    materials = dict(zip(sorted(scene.states()), scene.materials(), strict=True))
    assert 3 not in before.values()
    scene.put(b"by hand".ljust(32))
    scene.forget_manifest()
    restore = scene.save()
    for boundary in range(1, 30, 3):
        restore()
        effects = Effects(boundary)
        ledger, store = MortalSteps(scene.ledger, effects), MortalSteps(scene.store, effects)
        with dying():
            scene.service(store=store, ledger=ledger).adopt(KEY)
        if len(effects.names) < boundary:
            break
        scene.pass_(minutes=61)
        scene.restart()
        if State.ACTIVE not in scene.states().values():
            assert scene.service().adopt(KEY).status is Status.DONE, effects.names
        scene.recover(1)
        found = dict(zip(sorted(scene.states()), scene.materials(), strict=True))
        assert materials.items() <= found.items(), effects.names
        assert scene.force().number == max(before.values()) + 2, effects.names
        scene.check()
    assert boundary > 4


def test_adopting_after_the_manifest_was_lost_takes_copies_of_one_number_in_once(scene: Scene) -> None:
    materials = scene.versions(3)
    scene.put(materials[0].reveal())
    scene.recover(1)
    assert sorted(scene.numbers().values()) == [1, 2, 3, 3] or sorted(scene.numbers().values()) == [1, 1, 2, 3, 3]
    scene.forget_manifest()
    scene.restart()
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials()[:3] == materials
    assert scene.service().get(KEY, reveal=True).material == materials[2]
    scene.restart()
    assert scene.force().status is Status.ROTATED


def test_two_materials_under_one_number_are_not_adopted(scene: Scene) -> None:
    scene.versions(3)
    scene.annotate(versions="1=1 1=2 3=3")
    scene.forget_manifest()
    scene.restart()
    with pytest.raises(RefusedError, match="two versions have it") as refused:
        scene.service().adopt(KEY)
    assert refused.value.hint
    assert scene.memory.sequences(KEY) == []


def test_what_is_disabled_waits_for_a_person_where_the_manifest_is_lost(scene: Scene) -> None:
    materials = scene.versions(3)
    scene.service().disable(KEY, 1)
    scene.forget_manifest()
    scene.restart()
    with pytest.raises(RefusedError, match="nothing says what it holds") as refused:
        scene.service().adopt(KEY)
    assert "enable it in the store" in refused.value.hint
    scene.switch(1, "enable")
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials() == materials
    scene.check()


def test_what_was_destroyed_is_none_of_what_is_adopted_where_the_manifest_is_lost() -> None:
    scene = Scene(DESTROYS)
    materials = scene.versions(4)
    scene.service().destroy(KEY, 1)
    scene.pass_(days=2)
    scene.restart()
    scene.rotate()
    scene.forget_manifest()
    scene.restart()
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials() == materials[1:]
    assert sorted(scene.states()) == [2, 3, 4]
    scene.restart()
    assert scene.force().number == 5
    scene.check()


def test_adopting_where_the_manifest_is_there_takes_in_what_is_new_alone(scene: Scene) -> None:
    materials = scene.versions(3)
    scene.service().disable(KEY, 1)
    scene.put(b"y" * 32)
    scene.edit(annotations={})
    scene.restart()
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.states() == {1: State.DISABLED, 2: State.DECRYPT_ONLY, 3: State.DECRYPT_ONLY, 4: State.ACTIVE}
    assert scene.materials()[:2] == materials[1:]
    scene.restart()
    scene.check()
    scene.service().enable(KEY, 1)
    assert scene.materials()[0] == materials[0]


@pytest.mark.parametrize("place", range(1, 9))
def test_an_adopter_that_sleeps_while_another_takes_over_loses_nothing(scene: Scene, place: int) -> None:
    scene.put(b"a" * 32, b"b" * 32)
    other = scene.process()

    def meanwhile() -> None:
        scene.pass_(minutes=16)
        with suppress(KmsError):
            scene.service(store=other).adopt(KEY)

    effects = Effects(sleep_at=place, meanwhile=meanwhile)
    with suppress(KmsError):
        scene.service(store=MortalSteps(scene.store, effects), ledger=MortalSteps(scene.ledger, effects)).adopt(KEY)
    scene.recover(1)
    if State.ACTIVE not in scene.states().values():
        scene.service().adopt(KEY)
    scene.restart()
    scene.rotate()
    assert scene.states() == {1: State.DECRYPT_ONLY, 2: State.ACTIVE}
    scene.check()


# --- rollback


def test_a_rollback_that_dies_is_ended_by_another_process_under_its_own_number(scene: Scene) -> None:
    """Two numbers have one material then: which is which, the place says, or the later one is meant."""
    materials = scene.versions(3)
    restore = scene.save()
    for boundary in range(1, 30, 2):
        restore()
        effects = Effects(boundary)
        with dying():
            scene.service(store=MortalSteps(scene.store, effects), ledger=MortalSteps(scene.ledger, effects)).rollback(
                KEY
            )
        if len(effects.names) < boundary:
            break
        scene.pass_(minutes=20)
        scene.restart()
        if scene.history().entries[-1].event != "rolled-back":
            with suppress(KmsError):
                scene.service().rollback(KEY, 2)
        scene.recover(1)
        active = scene.service().get(KEY, reveal=True)
        assert active.material == materials[1], effects.names
        assert active.record.number >= 4, effects.names
        assert scene.materials()[:3] == materials, effects.names
        scene.check()
    assert boundary > 8


def test_after_a_rollback_each_number_is_disabled_alone(scene: Scene) -> None:
    scene.versions(3)
    assert scene.service().rollback(KEY).number == 4
    scene.restart()
    scene.service().disable(KEY, 2)
    assert scene.states_of() == ["ENABLED", "DISABLED", "ENABLED", "ENABLED"]
    scene.check()
    assert scene.force().number == 5
    scene.restart()
    scene.check()


# --- late writers


def test_what_a_late_writer_adds_under_a_promotion_is_named_by_the_entry_that_ends_it(scene: Scene) -> None:
    """Nothing is asked for after the listing but by number: what lies between two of ours is looked for."""
    scene.versions(1)
    zombie = _asleep_before_promoting(scene)
    scene.pass_(minutes=61)
    scene.restart()
    before = len(scene.history().entries)

    def between(call: Call, carried: Carried) -> object:
        if call.rpc == "AddSecretVersion" and call.resource.endswith(NAME):
            scene.google.between = plain
            zombie()
        return carried()

    scene.google.between = between
    assert scene.force().status is Status.ROTATED
    ending, *_ = (entry for entry in scene.history().entries[before:] if entry.event == "promoted")
    assert sorted(change.number for change in ending.changes) == [1, 2, 3]
    scene.check()


def _asleep_before_promoting(scene: Scene) -> Callable[[], object]:
    """A process that sleeps until its claim has ended and what it had staged is gone; and what wakes it."""
    late, waking = scene.process(), list[Callable[[], object]]()

    class Sleeping:
        def __getattr__(self, name: str) -> object:
            if name != "promote" or waking:
                return getattr(late, name)

            def promote(*arguments: Any) -> None:
                waking.append(lambda: late.promote(*arguments))
                raise KeyboardInterrupt

            return promote

    with pytest.raises(KeyboardInterrupt):
        scene.service(store=Sleeping()).rotate(Order((KEY,), force=True, request="z"))
    held = scene.held._present(STAGED)
    held.versions[-1].data, held.versions[-1].crc32c = b"gone", google_crc32c.value(b"gone")
    return waking[0]


def test_a_late_addition_of_a_number_that_was_given_up_is_known_in_the_end_and_loses_nothing(scene: Scene) -> None:
    """A zombie added it after its claim had ended: readers may have used it."""
    materials = scene.versions(1)
    zombie = _asleep_before_promoting(scene)
    scene.recover(1)
    scene.force()
    zombie()
    scene.recover(2)
    active = next(number for number, state in scene.states().items() if state is State.ACTIVE)
    assert scene.lying()[-1][2] == scene.service().get(KEY, active, reveal=True).material.reveal()  # type: ignore[union-attr]
    assert scene.materials()[0] == materials[0]
    assert len(scene.states()) >= 3
    scene.check()
