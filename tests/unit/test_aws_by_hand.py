"""The AWS store and a person at the console: labels moved, values put, secrets adopted, secrets that cannot be used."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from daena_kms.errors import RefusedError, UnavailableError
from daena_kms.fleet import Order
from daena_kms.material import KeyMaterial
from daena_kms.model import Observed, State, Status
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service
from daena_kms.stores import aws_layout as layout
from daena_kms.stores.aws_calls import Reply
from daena_kms.stores.aws_layout import CURRENT, PENDING, PREVIOUS, STAGED
from tests.support.aws_scene import LOOSE, NAME, THEN, Foreign, Parameters, Scene, few, once, vault
from tests.support.liars import Faulty
from tests.support.worlds import KEY, START, DiedError, Effects, Mortal, dying

# --- a person at the console


@pytest.mark.parametrize("moves", [[1], [2], [1, 3, 1], [1, 2], [2, 1], [1, 2, 1], [2, 3, 2, 1]], ids=str)
def test_a_current_version_moved_by_hand_is_drift_and_adopting_it_loses_none(scene: Scene, moves: list[int]) -> None:
    """The version that was staged last may lie there as if it were staged only, now that its label is all it has."""
    materials = scene.versions(3)
    for number in moves:
        scene.make_current(number)
    before = scene.labels()
    scene.clock.move(days=90)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert f"readers get version {moves[-1]}, which no claim names" in outcome.message
    assert scene.labels() == before
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials() == materials
    assert scene.states()[moves[-1]] is State.ACTIVE
    assert not any(record.lost for record in scene.history().versions.values())
    scene.check()
    assert (scene.force().status, scene.force().status) == (Status.ROTATED, Status.ROTATED)
    assert scene.materials()[:3] == materials
    scene.check()


def test_a_current_version_moved_away_and_back_is_no_drift(scene: Scene) -> None:
    scene.versions(3)
    scene.make_current(1)
    scene.make_current(3)
    scene.check()
    assert scene.force().status is Status.ROTATED
    scene.check()


@pytest.mark.parametrize("count", [1, 2])
def test_a_value_put_by_hand_is_drift_and_is_adopted_under_the_next_numbers(scene: Scene, count: int) -> None:
    materials = scene.versions(2)
    put = [scene.by_hand("put_secret_value", SecretString=f"by hand {n}".ljust(32)) for n in range(count)]
    scene.clock.move(days=90)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "which no claim names" in outcome.message
    assert "adopt" in outcome.hint
    assert any("no version of ours" in problem for problem in scene.problems())
    assert scene.current() == put[-1]["VersionId"]
    before = scene.history().versions
    assert scene.service().adopt(KEY).status is Status.DONE
    kept = [number for number, record in scene.history().versions.items() if not record.lost]
    assert scene.materials()[:2] == materials
    assert scene.materials()[-1].reveal() == f"by hand {count - 1}".ljust(32).encode()
    assert {1, 2} <= set(before) <= set(kept)
    assert scene.ids()[max(kept)] == put[-1]["VersionId"]
    scene.check()
    assert scene.force().number == max(kept) + 1
    scene.check()


def test_a_version_of_somebodys_that_got_our_number_is_drift_and_nothing_is_touched(scene: Scene) -> None:
    """Label `v2` and AWSCURRENT moved to a version put by hand: its number alone would look right."""
    materials = scene.versions(2)
    ours = scene.ids()[2]
    put = scene.by_hand("put_secret_value", SecretString="x" * 32, VersionStages=["mine"])["VersionId"]
    scene.move("v2", put, ours)
    scene.move(CURRENT, put, ours)
    before = scene.stages()
    scene.clock.move(days=90)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "readers get version 2, which no claim names" in outcome.message
    assert f"readers get version 2 ({put}), the manifest says version 2 ({ours})" in scene.problems()
    before_claim = scene.memory.sequences(KEY)
    with pytest.raises(RefusedError, match=r"version 2 .* cannot be adopted") as refused:
        scene.service().adopt(KEY)  # what was swapped is not taken in under a number that has its material
    assert refused.value.hint
    assert (scene.stages(), scene.memory.sequences(KEY)) == (before, before_claim)
    scene.clock.move(minutes=61)
    scene.move(CURRENT, ours, put)
    scene.move("v2", ours, put)
    scene.by_hand("update_secret_version_stage", VersionStage="mine", RemoveFromVersionId=put)
    scene.by_hand("update_secret_version_stage", VersionStage=PREVIOUS, RemoveFromVersionId=put)
    assert scene.materials() == materials
    assert scene.rotate().status is Status.ROTATED
    scene.check()


def test_verify_sees_a_foreign_version_under_a_number_of_ours_also_where_ours_lies_there_too(scene: Scene) -> None:
    scene.rotate()
    put = scene.by_hand("put_secret_value", SecretString="f" * 32, VersionStages=["mine"])["VersionId"]
    scene.force()
    ours = scene.ids()[2]
    scene.move(CURRENT, put, ours)
    scene.move("v2", put, ours)
    assert sorted(scene.problems()) == [
        f"readers get version 2 ({put}), the manifest says version 2 ({ours})",
        f"the store has version 2 ({put}), which is not the one that the manifest knows",
        "version 2 has lost the mark that keeps it: a rotation or `adopt` gives it back",
    ]


@pytest.mark.parametrize("labels", [["v3"], ["v3", "mine"], ["v3", STAGED]], ids=str)
def test_a_version_of_somebodys_that_has_our_next_number_keeps_every_label(scene: Scene, labels: list[str]) -> None:
    """Staging would move the number's label to our version, and with the last label AWS may delete theirs."""
    scene.versions(2)
    put = scene.by_hand("put_secret_value", SecretString="x" * 32, VersionStages=labels)["VersionId"]
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert "rotate of version 3 was given up: a version that is none of ours lies under" in outcome.message
    assert "`verify` names the version" in outcome.hint
    assert {*labels} == {*scene.stages()[put]}
    scene.clock.move(hours=3)
    outcome = scene.force()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 4)
    assert {*labels} - {STAGED} == {*scene.stages()[put]}  # that one is ours, and moves
    assert list(scene.states()) == [1, 2, 4]
    assert scene.problems() == [f"version 3 ({put}) lies in the store, but no entry knows it"]
    with pytest.raises(RefusedError, match=r"version 3 .* cannot be adopted: the material .* is not the one"):
        scene.service().adopt(KEY)  # number 3 was given to other material, for ever
    scene.by_hand("update_secret_version_stage", VersionStage="v3", RemoveFromVersionId=put)
    assert put not in scene.stages() or scene.service().adopt(KEY).status is Status.DONE
    assert 3 not in scene.states()


def test_somebodys_version_with_our_staged_label_is_not_taken_away(scene: Scene) -> None:
    scene.versions(2)
    put = scene.by_hand("put_secret_value", SecretString="x" * 32, VersionStages=[STAGED, "mine"])["VersionId"]
    scene.clock.move(days=91)
    assert scene.rotate().status is Status.ROTATED
    assert "mine" in scene.stages()[put]


def dead(_parameters: Parameters, _send: Callable[[], Any]) -> Any:
    raise DiedError


def test_somebodys_version_under_a_number_that_was_given_up_is_not_recorded_as_ours(scene: Scene) -> None:
    scene.versions(2)
    scene.secrets.between = once("put_secret_value", dead)
    with dying():
        scene.force()
    scene.clock.move(minutes=61)
    assert scene.force().status is Status.ROTATED
    put = scene.by_hand("put_secret_value", SecretString="x" * 32, VersionStages=["v3"])["VersionId"]
    outcome = scene.force()
    assert outcome.status is Status.ROTATED
    assert 3 not in scene.states()
    assert scene.stages()[put] == ["v3"]
    assert scene.problems() == [f"version 3 ({put}) lies in the store, but no entry knows it"]


def test_what_was_given_up_is_recorded_only_once_it_was_read_and_is_what_was_claimed(scene: Scene) -> None:
    """Version 3 was staged, made current and not any more by hand, and holds something else by now."""
    scene.versions(2)
    scene.secrets.between = once("update_secret_version_stage", dead)
    with dying():
        scene.force()
    scene.make_current(3)
    scene.make_current(2)
    held = vault()[NAME].versions
    good, other = (held[scene.ids()[number]]["secret_string"] for number in (3, 2))
    held[scene.ids()[3]]["secret_string"] = other
    scene.clock.move(minutes=61)
    assert scene.force().status is Status.FAILED  # its check failed, and it cannot be taken away: it has AWSPREVIOUS
    scene.clock.move(days=91)
    outcome = scene.rotate()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 4)
    (note,) = [note for note in outcome.notes if "is not taken in" in note]
    assert f"version 3 ({scene.ids()[3]}) lies in the store under a number that was given up" in note
    assert list(scene.states()) == [1, 2, 4]
    (problem,) = scene.problems()
    assert "under a number that was given up, but: version 3" in problem
    held[scene.ids()[3]]["secret_string"] = good
    assert any("the next tick adopts it" in problem for problem in scene.problems())
    scene.clock.move(days=91)
    assert scene.rotate().status is Status.ROTATED
    assert sorted(scene.states()) == [1, 2, 3, 4, 5]
    scene.check()


# --- the label that keeps a version, taken by hand


def take(scene: Scene, number: int, label: str = "") -> None:
    """What the console does on `Remove` of a label."""
    version = scene.ids()[number]
    scene.by_hand("update_secret_version_stage", VersionStage=label or f"v{number}", RemoveFromVersionId=version)


@pytest.mark.parametrize("number", [1, 2])
def test_a_version_that_lost_the_label_of_its_number_gets_it_back_before_it_would_be_lost(
    scene: Scene, number: int
) -> None:
    """AWSPREVIOUS or AWSCURRENT is all it has, and moves on with the next rotation or the one after it."""
    materials = scene.versions(2)
    take(scene, number)
    expected = f"version {number} has lost the mark that keeps it: a rotation or `adopt` gives it back"
    assert scene.problems() == [expected]
    outcome = scene.force()
    assert outcome.status is Status.ROTATED
    assert f"version {number} had lost the mark that keeps it; it has it again" in outcome.notes
    scene.check()
    assert scene.force().status is Status.ROTATED
    assert scene.materials()[:2] == materials
    scene.check()


def test_an_adopted_version_that_lost_the_label_of_its_number_gets_it_back(scene: Scene) -> None:
    """Its id tells no number: the manifest does."""
    Foreign(scene, SecretString="hunter2")
    scene.service().adopt(KEY)
    scene.force()
    take(scene, 1)
    assert scene.force().status is Status.ROTATED
    assert scene.materials()[0].reveal() == b"hunter2"
    scene.check()


def test_adopting_gives_a_known_version_its_label_back(scene: Scene) -> None:
    materials = scene.versions(2)
    take(scene, 1)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.labels()[1] == {"v1", PREVIOUS}
    scene.check()
    scene.force()
    assert scene.materials()[:2] == materials
    scene.check()


def test_a_label_that_somebody_else_has_taken_stops_the_rotation_that_would_lose_the_version(scene: Scene) -> None:
    materials = scene.versions(2)
    put = scene.by_hand("put_secret_value", SecretString="x" * 32, VersionStages=["mine"])["VersionId"]
    scene.move("v1", put, scene.ids()[1])
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert "cannot get the number 1: it is taken" in outcome.message
    assert f"{put} has the label v1" in outcome.hint
    scene.by_hand("update_secret_version_stage", VersionStage="v1", RemoveFromVersionId=put)
    scene.clock.move(minutes=61)
    assert scene.force().status is Status.ROTATED
    assert scene.materials()[:2] == materials


def test_a_destroyed_version_that_a_person_makes_current_is_kept_once_it_is_adopted(scene: Scene) -> None:
    scene.policy = LOOSE
    materials = scene.versions(3)
    version = scene.ids()[1]
    scene.clock.move(days=2)
    scene.service().destroy(KEY, 1)
    scene.clock.move(days=2)
    scene.rotate()
    assert scene.states()[1] is State.DESTROYED
    scene.move(CURRENT, version, scene.current())
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.labels()[1] == {"v1", CURRENT}
    for _ in range(2):
        assert scene.force().status is Status.ROTATED
    assert scene.materials()[0] == materials[0]
    scene.check()


def test_what_was_recorded_as_lost_and_is_there_again_is_decrypt_only_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    materials = scene.versions(6)
    archive = f"{NAME}--archive-1"
    kept = dict.pop(vault(), archive)  # the region's copy is away for a while
    scene.make_current(5)
    scene.service().adopt(KEY)
    assert [number for number, record in scene.history().versions.items() if record.lost] == [1, 2, 3]
    dict.__setitem__(vault(), archive, kept)
    assert sum("still gives it out" in problem for problem in scene.problems()) == 3
    assert scene.service().adopt(KEY).status is Status.DONE
    assert {number: scene.states()[number] for number in (1, 2, 3)} == dict.fromkeys((1, 2, 3), State.DECRYPT_ONLY)
    assert scene.materials() == materials
    scene.check()


def test_what_a_look_does_not_show_is_not_lost_if_it_can_be_read_by_its_number(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    materials = scene.versions(6)
    scene.make_current(5)

    def shortened(observe: Callable[..., Observed], *asked: Any, **how: Any) -> Observed:
        seen = observe(*asked, **how)
        return replace(seen, versions=seen.versions[3:])

    assert scene.service(store=Faulty(scene.store, "observe", shortened)).adopt(KEY).status is Status.DONE
    assert not any(record.lost for record in scene.history().versions.values())
    assert scene.materials() == materials
    scene.check()


def staged_label_alone(scene: Scene) -> list[KeyMaterial]:
    """Three versions, and AWSCURRENT moved by hand so often that the last one has `v3` and `daena-staged` only."""
    materials = scene.versions(3)
    scene.make_current(1)
    scene.make_current(2)
    assert scene.labels()[3] == {"v3", STAGED}
    return materials


def test_whatever_dies_after_labels_were_moved_by_hand_no_version_loses_its_last_label(scene: Scene) -> None:
    """Version 3 looks as if it were staged: a run that takes over must not clear it away."""
    materials = staged_label_alone(scene)
    scene.service().adopt(KEY)
    for names in deaths(scene, lambda service: service.rotate(Order((KEY,), force=True))):
        scene.clock.move(days=91)
        scene.rotate()
        assert "v3" in scene.labels()[3], names
        assert scene.materials()[:3] == materials, names
        assert scene.problems() == [], names


def test_whatever_dies_in_an_adoption_no_readable_version_is_recorded_as_lost(scene: Scene) -> None:
    materials = staged_label_alone(scene)
    for names in deaths(scene, lambda service: service.adopt(KEY)):
        scene.clock.move(minutes=61)
        if scene.problems():
            assert scene.service().adopt(KEY).status is Status.DONE, names
        assert scene.states() == {1: State.DECRYPT_ONLY, 2: State.ACTIVE, 3: State.DECRYPT_ONLY}, names
        assert scene.materials() == materials, names


def test_a_disabled_version_that_a_person_makes_current_stays_readable_once_it_is_adopted(scene: Scene) -> None:
    materials = scene.versions(2)
    scene.service().disable(KEY, 1)
    scene.make_current(1)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.states() == {1: State.ACTIVE, 2: State.DECRYPT_ONLY}
    scene.check()
    assert scene.force().number == 3
    assert scene.materials()[:2] == materials
    scene.check()


def test_an_adoption_that_ends_another_runs_rotation_takes_in_what_lies_there_after_it(scene: Scene) -> None:
    """That rotation's promotion moves AWSPREVIOUS: what had it before is no longer to be seen."""
    scene.rotate()
    effects = Effects(8)
    with dying():
        scene.service(store=Mortal(scene.store, effects), ledger=Mortal(scene.ledger, effects)).rotate(
            Order((KEY,), force=True)
        )
    assert scene.history().versions.keys() == {1}
    for value in ("one", "two", "three"):
        scene.by_hand("put_secret_value", SecretString=value.ljust(32))
    scene.clock.move(minutes=61)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert {1, 2} <= set(scene.states())
    scene.check()


def deaths(scene: Scene, act: Callable[[Service], object]) -> Iterator[list[str]]:
    """Do it again and again, each time with a process that dies one boundary later; what it came to by then."""
    restore, boundary = scene.save(), 0
    while True:
        boundary += 1
        restore()
        effects = Effects(boundary)
        with dying():
            act(scene.service(store=Mortal(scene.store, effects), ledger=Mortal(scene.ledger, effects)))
        if len(effects.names) < boundary:
            break
        yield effects.names
    assert boundary > 4


def test_a_secret_with_labels_like_ours_is_adopted_under_those_numbers(scene: Scene) -> None:
    there = Foreign(scene, SecretString="older").put("newer").aged(1, 2)
    scene.move("v7", there.made[1])
    assert scene.service().adopt(KEY).number == 7
    assert scene.labels()[7] == {"v7", CURRENT}
    assert {material.reveal() for material in scene.materials()} == {b"older", b"newer"}
    scene.check()
    assert scene.force().number == 9
    scene.check()


# --- adopting


def test_adopting_a_secret_leaves_its_value_and_gives_it_a_number_and_its_age(scene: Scene) -> None:
    there = Foreign(scene, SecretString="hunter2").aged(30)
    outcome = scene.service().adopt(KEY, reason="was here before")
    assert (outcome.status, outcome.number) == (Status.DONE, 1)
    (record,) = scene.history().versions.values()
    assert (record.version_id, record.state, record.spec) == (there.made[0], State.ACTIVE, "bytes-7")
    assert record.made_at == record.active_since == THEN + timedelta(days=30)
    assert scene.by_hand("get_secret_value")["SecretString"] == "hunter2"
    assert scene.labels() == {1: {"v1", CURRENT}}
    assert scene.materials() == [KeyMaterial(b"hunter2")]
    scene.check()


def test_an_adopted_secret_is_due_by_its_own_age_and_its_old_value_stays(scene: Scene) -> None:
    Foreign(scene, SecretString="hunter2").aged(30)  # half a year before the clock
    scene.service().adopt(KEY)
    outcome = scene.rotate()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    assert scene.materials()[0].reveal() == b"hunter2"
    assert layout.unseal(scene.by_hand("get_secret_value")["SecretString"]) is not None
    assert scene.by_hand("get_secret_value", VersionStage="v1")["SecretString"] == "hunter2"
    scene.check()


def test_a_binary_secret_is_adopted_as_it_is(scene: Scene) -> None:
    Foreign(scene, SecretBinary=bytes(range(32)))
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials() == [KeyMaterial(bytes(range(32)))]
    assert scene.history().versions[1].spec == "AES-256"
    scene.check()
    assert scene.force().status is Status.ROTATED
    scene.check()


def test_the_versions_of_an_adopted_secret_are_numbered_by_their_age(scene: Scene) -> None:
    """The list of versions is in no order; what readers get need not be the youngest."""
    there = Foreign(scene, SecretString="middle").put("oldest").put("youngest", "kept-for-audit").aged(2, 1, 3)
    scene.move("kept-too", there.made[0])
    scene.move(CURRENT, there.made[0], there.made[1])
    assert scene.service().adopt(KEY).status is Status.DONE
    assert [material.reveal() for material in scene.materials()] == [b"oldest", b"middle", b"youngest"]
    assert scene.states() == {1: State.DECRYPT_ONLY, 2: State.ACTIVE, 3: State.DECRYPT_ONLY}
    made_at = {number: record.made_at for number, record in scene.history().versions.items()}
    assert made_at == {number: THEN + timedelta(days=number) for number in (1, 2, 3)}
    assert scene.labels() == {
        1: {"v1", PREVIOUS}, 2: {"v2", CURRENT, "kept-too"}, 3: {"v3", "kept-for-audit"},
    }  # fmt: skip
    scene.check()
    assert scene.force().number == 4
    scene.check()


def test_a_person_knows_better_since_when_it_is_in_use(scene: Scene) -> None:
    Foreign(scene, SecretString="hunter2").aged(30)
    scene.service().adopt(KEY, created=START - timedelta(days=10))
    assert scene.history().versions[1].active_since == START - timedelta(days=10)
    assert scene.rotate().status is Status.NOT_DUE


def test_an_adoption_that_dies_anywhere_can_be_asked_again_and_forgets_no_age(scene: Scene) -> None:
    Foreign(scene, SecretString="older").put("newer").aged(1, 2)
    for names in deaths(scene, lambda service: service.adopt(KEY)):
        scene.clock.move(minutes=61)
        if State.ACTIVE not in scene.states().values():
            assert scene.service().adopt(KEY).status is Status.DONE, names
        assert [material.reveal() for material in scene.materials()] == [b"older", b"newer"], names
        assert scene.states() == {1: State.DECRYPT_ONLY, 2: State.ACTIVE}
        assert made_at(scene) == {1: THEN + timedelta(days=1), 2: THEN + timedelta(days=2)}, names
        scene.rotate()
        assert scene.problems() == []


def made_at(scene: Scene) -> dict[int, datetime]:
    return {number: record.made_at for number, record in scene.history().versions.items()}


def forget_manifest(scene: Scene) -> None:
    """Somebody emptied the bucket."""
    for place in [place for place in scene.memory.objects if place[0] == KEY]:
        del scene.memory.objects[place]


def test_adopting_after_the_manifest_was_lost_forgets_no_age(scene: Scene) -> None:
    scene.versions(2)
    for number, identity in scene.ids().items():
        vault()[NAME].versions[identity]["createdate"] = (THEN + timedelta(days=number)).timestamp()
    forget_manifest(scene)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert made_at(scene) == {1: THEN + timedelta(days=1), 2: THEN + timedelta(days=2)}


def test_an_adoption_after_the_manifest_was_lost_that_dies_anywhere_can_be_asked_again(scene: Scene) -> None:
    """The head beside the key is the lost manifest's until the new one's lies there."""
    materials = scene.versions(2)
    forget_manifest(scene)
    for names in deaths(scene, lambda service: service.adopt(KEY)):
        scene.clock.move(minutes=61)
        if State.ACTIVE not in scene.states().values():
            assert scene.service().adopt(KEY).status is Status.DONE, names
        assert scene.materials() == materials, names
        scene.clock.move(days=91)
        assert scene.rotate().status is Status.ROTATED, names
        assert scene.problems() == []


def test_adopting_after_the_manifest_was_lost_keeps_what_looks_as_if_it_were_staged_only(scene: Scene) -> None:
    """Two values put by hand leave our version with nothing that tells that it was live."""
    (ours,) = scene.versions(1)
    for value in ("one", "two"):
        scene.by_hand("put_secret_value", SecretString=value.ljust(32))
    assert scene.labels()[1] == {"v1", STAGED}
    forget_manifest(scene)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert "v1" in scene.labels()[1]
    assert scene.materials()[0] == ours
    assert [material.reveal()[:3] for material in scene.materials()[1:]] == [b"one", b"two"]
    assert scene.force().number == 4
    scene.check()


def test_adopting_after_the_manifest_was_lost_finds_what_lies_in_archives(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    materials = scene.versions(6)
    before = scene.stages(f"{NAME}--archive-1")
    forget_manifest(scene)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.stages(f"{NAME}--archive-1") == before
    assert scene.materials() == materials
    scene.check()


def test_a_secret_with_labels_of_its_own_is_rotated_on_and_keeps_them(scene: Scene) -> None:
    """They leave less room: archives begin sooner, and a version that readers find by such a label is not moved."""
    there = Foreign(scene, SecretString="x" * 32)
    for label in ("blue", "green"):
        scene.move(label, there.made[0])
    scene.service().adopt(KEY)
    for _ in range(18):
        outcome = scene.force()
        assert outcome.status is Status.ROTATED, outcome.message
    assert {"blue", "green", "v1"} <= set(scene.stages()[there.made[0]])
    scene.service().disable(KEY, 5)  # there is always room for the label that is put in another's place
    scene.check()


def _too_long(scene: Scene) -> None:
    Foreign(scene, SecretString="x" * 5000)


def _disabled(scene: Scene) -> None:
    there = Foreign(scene, SecretString="older").put("newer")
    scene.move("disabled-9", there.made[0])
    scene.by_hand("update_secret_version_stage", VersionStage=PREVIOUS, RemoveFromVersionId=there.made[0])


def _rotated_by_another(scene: Scene) -> None:
    Foreign(scene, SecretString="older").put("newer")
    scene.secrets.between = rotating


def _crowded(scene: Scene, labels: int = 14) -> None:
    there = Foreign(scene, SecretString="x" * 32)
    for n in range(labels):
        scene.move(f"mine-{n}", there.made[0])


def _crowded_versions(scene: Scene, versions: int = 11) -> None:
    there = Foreign(scene, SecretString="0" * 32)
    for n in range(versions):
        there.put(str(n) * 16, f"mine-{n}")


@pytest.mark.parametrize(("crowd", "most"), [(_crowded, 12), (_crowded_versions, 6)])
def test_a_secret_as_crowded_as_it_may_be_is_rotated_on_for_ever(
    scene: Scene, crowd: Callable[[Scene, int], None], most: int
) -> None:
    crowd(scene, most)
    before = scene.stages()
    assert scene.service().adopt(KEY).status is Status.DONE
    highest = max(scene.states())
    for _ in range(6):
        outcome = scene.force()
        assert outcome.status is Status.ROTATED, outcome.message
    scene.service().disable(KEY, highest + 3)
    scene.service().enable(KEY, highest + 3)
    theirs = {label: i for i, labels in before.items() for label in labels if label.startswith("mine")}
    assert theirs == {label: i for i, labels in scene.stages().items() for label in labels if label.startswith("mine")}
    scene.check()


def test_a_key_that_became_crowded_says_what_to_take_away(scene: Scene) -> None:
    scene.versions(2)
    for n in range(15):
        scene.move(f"mine-{n}", scene.current())
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert f"{NAME} has 20 labels" in outcome.message
    assert "take away labels that are not ours" in outcome.hint
    for n in range(15):
        scene.by_hand("update_secret_version_stage", VersionStage=f"mine-{n}", RemoveFromVersionId=scene.current())
    scene.clock.move(minutes=61)
    assert scene.rotate().status is Status.ROTATED
    scene.check()


UNADOPTABLE = {
    "longer than any key": (_too_long, "5000 bytes is outside 1 to 1024", "take it away"),
    "a disabled version of which nothing is known": (_disabled, "nothing says what it holds", "enable it in the store"),
    "native rotation": (_rotated_by_another, "somebody else rotates", "cancel-rotate-secret"),
    "no room for our labels": (_crowded, "of the 20 labels .* 14 are somebody else's", "take some away"),
    "no room for our labels on many versions": (_crowded_versions, "of the 20 labels .* 11 are", "take some away"),
}


@pytest.mark.parametrize("name", UNADOPTABLE)
def test_what_cannot_be_adopted_is_refused_before_anything_is_written(scene: Scene, name: str) -> None:
    prepare, message, hint = UNADOPTABLE[name]
    prepare(scene)
    before, tags = scene.stages(), scene.tags()
    with pytest.raises(RefusedError, match=message) as refused:
        scene.service().adopt(KEY)
    assert hint in refused.value.hint
    assert (scene.stages(), scene.tags()) == (before, tags)
    assert scene.memory.sequences(KEY) == []


def rotating(operation: str, _parameters: Parameters, send: Callable[[], Any]) -> Any:
    """Native rotation is switched on, for every secret."""
    reply, on = send(), {"RotationEnabled": True}
    if operation == "describe_secret":
        return {**reply, **on}
    if operation == "list_secrets":
        return [{**page, "SecretList": [{**entry, **on} for entry in page["SecretList"]]} for page in reply]
    return reply


def test_native_rotation_of_a_key_of_ours_is_told_on_every_run_and_by_verify(scene: Scene) -> None:
    scene.versions(2)
    scene.secrets.between = rotating
    assert any("native rotation is on" in note for note in scene.force().notes)
    assert any("native rotation is on" in problem for problem in scene.problems())


def test_a_stray_pending_label_is_a_note_and_no_version(scene: Scene) -> None:
    """What an interrupted native rotation leaves: a version that has this label only, and perhaps no value."""
    there = Foreign(scene, SecretString="hunter2").put("half done", PENDING)
    outcome = scene.service().adopt(KEY)
    assert outcome.status is Status.DONE
    assert any(PENDING in note for note in outcome.notes)
    assert list(scene.history().versions) == [1]
    (audit,) = scene.service().verify([KEY])
    assert audit.problems == ()
    assert any(PENDING in warning for warning in audit.warnings)
    assert scene.force().status is Status.ROTATED
    assert scene.stages()[there.made[1]] == [PENDING]


# --- tags written, or taken away, by hand


@pytest.mark.parametrize(
    "tags", [["ledger"], ["head"], ["ledger", "head", "number", "active-since", "paused"]], ids=str
)
def test_a_key_whose_tags_were_taken_is_rotated_and_has_them_again(scene: Scene, tags: list[str]) -> None:
    """Without the ledger's address no listing shows it as ours."""
    scene.versions(1)
    before = scene.tags()
    scene.by_hand("untag_resource", TagKeys=[layout.TAG + tag for tag in tags])
    assert scene.rotate().status is Status.NOT_DUE
    assert scene.tags() == before
    scene.by_hand("untag_resource", TagKeys=[layout.TAG + tag for tag in tags])
    scene.clock.move(days=91)
    report = scene.service().rotate(Order())
    assert [outcome.status for outcome in report.outcomes] == [Status.ROTATED]
    assert scene.tags().keys() == before.keys()
    scene.check()


def test_a_listing_that_shows_nothing_makes_no_key_overdue_and_stops_no_rotation(scene: Scene) -> None:
    scene.versions(1)
    scene.clock.move(days=91)
    scene.secrets.between = once("list_secrets", lambda _parameters, _send: [Reply("it", {"SecretList": []})])
    report = scene.service().rotate(Order())
    assert [outcome.status for outcome in report.outcomes] == [Status.ROTATED]
    scene.check()


def test_all_tags_of_a_key_with_archives_taken_away_lose_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    materials = scene.versions(6)
    scene.by_hand("untag_resource", TagKeys=list(scene.tags()))
    for _ in range(3):
        scene.clock.move(days=91)
        assert scene.rotate().status is Status.ROTATED
    assert scene.materials()[:6] == materials
    scene.check()


@pytest.mark.parametrize("value", ["9999-12-31T00:00:00+00:00", "0001-01-01T00:00:00+00:00", "soon"])
def test_a_time_that_no_run_of_ours_wrote_fails_that_key_and_stops_no_other(scene: Scene, value: str) -> None:
    scene.rotate()
    scene.by_hand("tag_resource", Tags=[{"Key": "daena-kms:active-since", "Value": value}])
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "was not written by us" in outcome.message


@pytest.mark.parametrize("value", ["\u00b2", "0", "7", "one"])
def test_an_archives_tag_that_names_no_archive_hides_none(scene: Scene, value: str) -> None:
    scene.rotate()
    scene.by_hand("tag_resource", Tags=[{"Key": layout.ARCHIVES_TAG, "Value": value}])
    scene.clock.move(days=91)
    assert scene.rotate().status is Status.ROTATED
    scene.check()


# --- secrets that cannot be used


@pytest.mark.parametrize("create", [True, False])
def test_a_secret_that_is_not_ours_is_not_touched_and_adopt_is_named(scene: Scene, create: bool) -> None:
    scene.policy = KeyPolicy(create=create)
    Foreign(scene, SecretString="hunter2")
    before = scene.by_hand("describe_secret")
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "there is no manifest of it" in outcome.message
    assert f"adopt {KEY}" in outcome.hint
    after = scene.by_hand("describe_secret")
    assert (after["VersionIdsToStages"], after.get("Tags")) == (before["VersionIdsToStages"], before.get("Tags"))
    assert scene.memory.sequences(KEY) == []


@pytest.mark.parametrize("create", [True, False])
def test_an_empty_secret_that_is_not_ours_is_not_touched(scene: Scene, create: bool) -> None:
    scene.policy = KeyPolicy(create=create)
    scene.console.call("create_secret", "by hand", Name=NAME)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "has no value, and is not ours" in outcome.message
    assert "adopt" in outcome.hint
    for act in (scene.service().adopt, scene.service().create):
        with pytest.raises(RefusedError, match="is not ours"):
            act(KEY)
    assert scene.stages() == {}
    assert scene.memory.sequences(KEY) == []


def test_a_key_whose_secret_waits_for_deletion_is_not_made_anew(scene: Scene) -> None:
    materials = scene.versions(2)
    scene.by_hand("delete_secret", RecoveryWindowInDays=7)
    scene.clock.move(days=90)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "is scheduled for deletion" in outcome.message
    assert f"restore-secret --secret-id {NAME}" in outcome.hint
    assert any("is scheduled for deletion" in problem for problem in scene.problems())
    with pytest.raises(UnavailableError):
        scene.service().create(KEY, anew=True)
    scene.by_hand("restore_secret")
    assert scene.rotate().status is Status.ROTATED
    assert scene.materials()[:2] == materials
    scene.check()


def test_a_key_whose_secret_is_gone_is_never_made_anew_by_a_tick(scene: Scene) -> None:
    scene.versions(2)
    scene.by_hand("delete_secret", ForceDeleteWithoutRecovery=True)
    scene.clock.move(days=90)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "the store has no such key" in outcome.message
    assert NAME not in vault()
    assert scene.service().create(KEY, anew=True).status is Status.CREATED
    assert scene.current() == scene.ids()[3]
    scene.check()
