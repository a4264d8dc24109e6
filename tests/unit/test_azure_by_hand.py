"""The Azure store and a person at the portal: values put by hand, secrets adopted, deleted, disabled, tagged."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
from msgspec import structs

from daena_kms.errors import IntegrityError, KmsError, RefusedError, UnavailableError
from daena_kms.fleet import Order
from daena_kms.material import KeyMaterial
from daena_kms.model import State, Status, StoredVersion
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service
from tests.support.azure_scene import NAME, STAGED, Scene, replaced
from tests.support.vault_http import Answer, Asked
from tests.support.worlds import KEY, START, Effects, Mortal, dying


@pytest.fixture
def scene() -> Scene:
    return Scene()


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


# --- drift


@pytest.mark.parametrize("count", [1, 2])
def test_a_value_put_by_hand_is_drift_and_is_adopted_under_the_next_numbers(scene: Scene, count: int) -> None:
    materials = scene.versions(2)
    for index in range(count):
        scene.put(f"by hand {index}".ljust(32))
    before = scene.lying()
    scene.clock.move(days=90)
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
    scene.check()
    assert scene.force().number == 3 + count
    scene.check()


def test_a_version_with_tags_like_ours_and_other_material_is_found_out(scene: Scene) -> None:
    scene.versions(2)
    forged = dict(scene.lying()[-1].tags or {})
    scene.put("x" * 32, tags=forged)
    assert any("is not" in problem or "version 2 is active, but" in problem for problem in scene.problems())
    with pytest.raises(RefusedError, match="cannot be adopted"):
        scene.service().adopt(KEY)


def test_a_version_of_ours_put_again_by_hand_is_no_loss(scene: Scene) -> None:
    """A person restores an old value with its tags: an older version of ours is on top of the active one."""
    materials = scene.versions(2)
    old = scene.lying()[0]
    scene.put(old.value, tags=old.tags, contentType=old.content_type)
    outcome = scene.force()
    assert outcome.status in (Status.ROTATED, Status.DONE)
    scene.rotate()
    assert scene.materials()[:2] == materials
    assert scene.numbers()[-1] == max(scene.states())
    scene.check()


# --- adopting


def test_adopting_a_secret_leaves_its_value_and_gives_it_a_number_and_its_age(scene: Scene) -> None:
    there = scene.put("hunter2", tags={"team": "payments"}, contentType="password")
    scene.secrets.live[NAME].versions = [replaced(v, created=int(START.timestamp()) - 86_400) for v in scene.lying()]
    outcome = scene.service().adopt(KEY, reason="was here before")
    assert (outcome.status, outcome.number) == (Status.DONE, 1)
    (record,) = scene.history().versions.values()
    assert (record.version_id, record.state, record.spec) == (there, State.ACTIVE, "bytes-7")
    assert record.made_at == record.active_since == START - timedelta(days=1)
    (version,) = scene.lying()
    assert (version.value, version.content_type, (version.tags or {})["team"]) == ("hunter2", "password", "payments")
    assert scene.materials() == [KeyMaterial(b"hunter2")]
    scene.check()
    scene.clock.move(days=90)
    assert scene.rotate().status is Status.ROTATED
    assert scene.materials()[0] == KeyMaterial(b"hunter2")
    scene.check()


def test_the_versions_of_an_adopted_secret_are_numbered_by_their_age(scene: Scene) -> None:
    for value in ("oldest", "middle", "youngest"):
        scene.put(value)
    scene.apart()
    assert scene.service().adopt(KEY).status is Status.DONE
    assert [material.reveal() for material in scene.materials()] == [b"oldest", b"middle", b"youngest"]
    assert scene.states() == {1: State.DECRYPT_ONLY, 2: State.DECRYPT_ONLY, 3: State.ACTIVE}
    scene.check()


def test_an_adoption_that_dies_anywhere_can_be_asked_again(scene: Scene) -> None:
    for value in ("older", "newer"):
        scene.put(value)
    scene.apart()
    for names in deaths(scene, lambda service: service.adopt(KEY)):
        scene.clock.move(minutes=61)
        if State.ACTIVE not in scene.states().values():
            assert scene.service().adopt(KEY).status is Status.DONE, names
        assert [material.reveal() for material in scene.materials()] == [b"older", b"newer"], names
        scene.rotate()
        assert scene.problems() == [], names


@pytest.mark.parametrize("at", range(1, 11))
def test_an_adopter_that_sleeps_while_another_takes_over_takes_nothing_from_what_that_one_wrote(
    scene: Scene, at: int
) -> None:
    for value in ("a" * 32, "b" * 32):
        scene.put(value)
    scene.apart()
    other = scene.account.store()
    other._ledger = scene.ledger.address

    def meanwhile() -> None:
        scene.clock.move(minutes=16)
        with suppress(KmsError):
            scene.service(store=other).adopt(KEY)

    effects = Effects(sleep_at=at, meanwhile=meanwhile)
    with suppress(KmsError):
        scene.service(store=Mortal(scene.store, effects), ledger=Mortal(scene.ledger, effects)).adopt(KEY)
    assert len(effects.names) >= at
    scene.clock.move(minutes=61)
    scene.rotate()
    if State.ACTIVE not in scene.states().values():
        scene.service().adopt(KEY)
    scene.check()
    assert scene.states() == {1: State.DECRYPT_ONLY, 2: State.ACTIVE}


def test_an_adopter_that_was_overtaken_marks_nothing(scene: Scene) -> None:
    """It sleeps while it reads what it is about to mark; the other one has ended when it wakes."""
    scene.put("a" * 32)
    other = scene.account.store()
    other._ledger = scene.ledger.address
    asked: list[str] = []

    class Sleeping:
        def __getattr__(self, name: str) -> object:
            if name not in ("read", "label"):
                return getattr(scene.azure, name)

            def call(*given: object) -> object:
                asked.append(name)
                if asked == ["read", "read"]:  # once before it claims, once after
                    scene.clock.move(minutes=16)
                    assert scene.service(store=other).adopt(KEY).status is Status.DONE
                return getattr(scene.azure, name)(*given)

            return call

    scene.service(store=Sleeping()).adopt(KEY)
    assert asked == ["read", "read"]
    scene.check()


def test_a_head_is_written_beside_what_lies_there_by_then(scene: Scene) -> None:
    """A late writer has seen versions without numbers, and heads that have moved on since."""
    scene.put("a" * 32)
    scene.apart()
    late = scene.account.store()
    late._ledger = scene.ledger.address
    late.observe(KEY)
    assert scene.service().adopt(KEY).status is Status.DONE
    late.write_anchor(KEY, scene.service().journal.anchor(KEY, scene.service().journal.head(KEY), attention_at=None))
    assert scene.numbers() == [1]
    scene.check()


def test_a_secret_with_capitals_in_its_name_is_rotated_once_it_is_adopted(scene: Scene) -> None:
    scene.put("x" * 32, name=NAME.upper())
    assert scene.service().adopt(KEY).status is Status.DONE
    scene.clock.move(days=400)
    assert scene.service().dry_run(Order()).overdue == ()
    assert scene.rotate().status is Status.ROTATED
    assert list(scene.secrets.live.values())[-2].name == NAME.upper()
    scene.check()


@pytest.mark.parametrize("which", [[0], [1], [2], [0, 1, 2]], ids=["the oldest", "the middle", "the newest", "all"])
@pytest.mark.parametrize("lost", [False, True], ids=["the manifest is there", "the manifest is lost"])
def test_tags_that_somebody_took_away_are_written_back_by_adopt(scene: Scene, which: list[int], lost: bool) -> None:
    materials = scene.versions(3)
    scene.apart()
    for index in which:
        scene.change(scene.lying()[index].version, tags={"team": "payments"})
    if lost:
        scene.forget_manifest()
    assert scene.problems() != []
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.numbers() == [1, 2, 3]
    assert all((scene.lying()[index].tags or {})["team"] == "payments" for index in which)
    assert scene.materials() == materials
    scene.rotate()
    scene.check()
    assert scene.actions(scene.rotate) == ["GET"], "one listing says again what is due"
    assert scene.force().number == 4
    scene.check()


def test_the_tags_of_an_adopted_secret_are_written_back_too(scene: Scene) -> None:
    """Nothing in its value says its number; an entry says which version it is."""
    for value in ("older", "newer"):
        scene.put(value)
    scene.apart()
    scene.service().adopt(KEY)
    scene.force()
    scene.apart()
    for version in scene.lying()[:2]:
        scene.change(version.version, tags={})
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.numbers() == [1, 2, 3]
    scene.check()


def test_a_version_without_tags_that_claims_a_number_of_ours_is_found_out(scene: Scene) -> None:
    scene.versions(2)
    scene.apart()
    old = scene.lying()[1]
    scene.put("x" * 44, contentType=old.content_type)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED, "the number in a content type is no mark of ours"
    with pytest.raises(RefusedError, match="cannot be adopted"):
        scene.service().adopt(KEY)
    scene.change(scene.lying()[-1].version, attributes={"enabled": False})
    scene.put("y" * 32)
    with pytest.raises(RefusedError, match="nothing says what it holds"):
        scene.service().adopt(KEY)


def test_what_was_destroyed_stays_so_where_the_manifest_is_lost() -> None:
    scene = Scene(KeyPolicy(create=True, grace_days=0, destroy_after_days=1))
    scene.versions(4)
    scene.service().destroy(KEY, 1)
    scene.service().disable(KEY, 2)
    scene.clock.move(days=2)
    scene.rotate()
    scene.forget_manifest()
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.states() == {1: State.DESTROYED, 2: State.DISABLED, 3: State.DECRYPT_ONLY, 4: State.ACTIVE}
    with pytest.raises(RefusedError, match="destroyed, not disabled"):
        scene.service().enable(KEY, 1)
    scene.check()


def test_what_was_destroyed_and_enabled_by_hand_is_adopted_as_a_version_that_lives() -> None:
    scene = Scene(KeyPolicy(create=True, grace_days=0, destroy_after_days=1))
    scene.versions(4)
    scene.service().destroy(KEY, 1)
    scene.clock.move(days=2)
    scene.rotate()
    scene.change(scene.lying()[0].version, attributes={"enabled": True})
    assert scene.problems() != []
    scene.forget_manifest()
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.states()[1] is State.DECRYPT_ONLY
    scene.service().disable(KEY, 1)
    assert scene.service().enable(KEY, 1).status is Status.DONE
    assert scene.states()[1] is State.DECRYPT_ONLY
    scene.check()


@pytest.mark.parametrize("lost", [False, True])
def test_what_would_become_active_must_be_readable(scene: Scene, lost: bool) -> None:
    scene.versions(2)
    scene.apart()
    scene.change(scene.lying()[-1].version, attributes={"enabled": False})
    if lost:
        scene.forget_manifest()
    before = scene.lying(), dict(scene.memory.objects)
    with pytest.raises(RefusedError, match="would become active, but is disabled") as refused:
        scene.service().adopt(KEY)
    assert "enable it" in refused.value.hint
    assert (scene.lying(), scene.memory.objects) == before
    scene.change(scene.lying()[-1].version, attributes={"enabled": True})
    if lost:
        assert scene.service().adopt(KEY).status is Status.DONE
    scene.check()


def test_the_number_of_an_adopted_version_is_the_one_that_was_asked_for(scene: Scene) -> None:
    scene.put("x" * 32)

    class Forgetful:
        def __getattr__(self, name: str) -> object:
            if name != "label":
                return getattr(scene.azure, name)
            return lambda *given: structs.replace(scene.azure.label(*given), number=0)

    assert scene.service(store=Forgetful()).adopt(KEY).status is Status.DONE
    assert scene.states() == {1: State.ACTIVE}
    scene.check()


def test_a_reply_that_has_lost_the_marks_of_an_adopted_version_is_not_believed(scene: Scene) -> None:
    scene.put("x" * 32)

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer:
        got = answer()
        return Answer(got.status, {**(got.document or {}), "tags": {}}) if asked.action == "update" else got

    scene.server.between = between
    with pytest.raises(IntegrityError, match="other tags than were sent"):
        scene.service().adopt(KEY)
    scene.server.between = lambda _, answer: answer()
    scene.clock.move(minutes=61)
    scene.rotate()
    scene.service().adopt(KEY)
    assert scene.states() == {1: State.ACTIVE}
    scene.check()


def test_adopting_after_the_manifest_was_lost_keeps_every_version(scene: Scene) -> None:
    materials = scene.versions(3)
    scene.put("by hand".ljust(32))
    scene.forget_manifest()
    for names in deaths(scene, lambda service: service.adopt(KEY)):
        scene.clock.move(minutes=61)
        if State.ACTIVE not in scene.states().values():
            assert scene.service().adopt(KEY).status is Status.DONE, names
        assert scene.materials()[:3] == materials, names
        scene.clock.move(days=91)
        assert scene.rotate().number == 5, names
        assert scene.problems() == [], names


def _managed(scene: Scene) -> None:
    scene.put("x" * 32)
    scene.secrets.live[NAME].managed = True


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda s: s.put("x" * 5000), "5000 bytes"),
        (lambda s: s.change(s.put("x" * 32), attributes={"enabled": False}), "nothing says what it holds"),
        (lambda s: s.put("x" * 32, tags={f"t{n}": "x" for n in range(5)}), "at most 4 fit"),
        (_managed, "somebody else rotates"),
    ],
    ids=["too long", "disabled", "too many tags", "a certificate's"],
)
def test_what_cannot_be_adopted_is_refused_before_anything_is_written(
    scene: Scene, prepare: Callable[[Scene], object], words: str
) -> None:
    prepare(scene)
    before = scene.lying()
    with pytest.raises(RefusedError) as refused:
        scene.service().adopt(KEY)
    assert words in refused.value.message
    assert refused.value.hint
    assert scene.lying() == before
    assert scene.memory.sequences(KEY) == []


@pytest.mark.parametrize("create", [True, False])
def test_a_secret_that_is_not_ours_is_not_touched_and_adopt_is_named(create: bool) -> None:
    scene = Scene(KeyPolicy(create=create))
    scene.put("theirs")
    before = scene.lying()
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "adopt" in outcome.hint
    assert scene.lying() == before
    assert scene.memory.sequences(KEY) == []


# --- deleted, gone, disabled


def test_a_name_that_waits_to_be_purged_is_not_made_anew_and_goes_on_once_recovered(scene: Scene) -> None:
    materials = scene.versions(2)
    scene.secrets.delete(NAME)
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert "the store has no such key" in outcome.message
    with pytest.raises(UnavailableError) as refused:
        scene.azure.promote(KEY, StoredVersion(3, "", "1:3", "r"), None, materials[1])
    assert f"az keyvault secret recover --vault-name … --name {NAME}" in refused.value.hint
    scene.secrets.recover(NAME)
    scene.clock.move(minutes=61)
    assert scene.materials() == materials
    assert scene.force().number == 3
    scene.check()


def test_a_new_key_whose_name_was_deleted_before_waits_and_then_goes_on(scene: Scene) -> None:
    scene.put("theirs")
    scene.secrets.delete(NAME)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "recover" in outcome.hint
    scene.secrets.purge(NAME)
    scene.clock.move(minutes=61)
    assert scene.rotate().status in (Status.CREATED, Status.ROTATED, Status.NOT_DUE, Status.DONE)
    scene.rotate()
    assert scene.states() == {1: State.ACTIVE}
    scene.check()


def test_a_key_whose_secret_is_gone_is_never_made_anew_by_a_tick(scene: Scene) -> None:
    scene.versions(2)
    for name in (NAME, STAGED):
        scene.secrets.delete(name)
        scene.secrets.purge(name)
    scene.clock.move(days=91)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "the store has no such key" in outcome.message
    assert NAME not in scene.secrets.live


def test_an_active_version_that_a_person_disables_is_told_and_rotated_away(scene: Scene) -> None:
    scene.versions(1)
    scene.change(scene.lying()[-1].version, attributes={"enabled": False})
    assert any("disabled" in problem for problem in scene.problems())
    before = scene.lying(), dict(scene.memory.objects)
    for _ in range(2):
        scene.clock.move(hours=1)
        outcome = scene.rotate()
        assert outcome.status is Status.FAILED
        assert "readers get nothing" in outcome.message
        assert "enable it" in outcome.hint
    assert (scene.lying(), scene.memory.objects) == before, "a tick touches nothing"
    assert scene.force().status is Status.ROTATED
    got = scene.secrets.get(NAME, "")
    assert got["tags"]["daena-kms-version"] == "2"


# --- late writers


def test_a_late_put_of_a_number_that_was_given_up_is_known_in_the_end_and_loses_nothing(scene: Scene) -> None:
    """A zombie put it after its claim had ended: readers may have used it."""
    scene.versions(1)
    zombie: list[Callable[[], object]] = []

    class Sleeping:
        def __getattr__(self, name: str) -> object:
            if name != "promote" or zombie:
                return getattr(scene.azure, name)

            def promote(*arguments: object) -> None:
                zombie.append(lambda: scene.azure.promote(*arguments))  # type: ignore[arg-type]
                raise KeyboardInterrupt

            return promote

    with pytest.raises(KeyboardInterrupt):
        scene.service(store=Sleeping()).rotate(Order((KEY,), force=True))
    scene.clock.move(minutes=61)
    scene.rotate()
    scene.force()
    zombie[0]()
    scene.clock.move(minutes=61)
    scene.rotate()
    active = next(number for number, state in scene.states().items() if state is State.ACTIVE)
    assert scene.numbers()[-1] == active
    scene.check()


def test_a_disabled_version_is_rotated_away_when_it_is_due_and_is_well_when_it_is_enabled(scene: Scene) -> None:
    scene.versions(1)
    version = scene.lying()[-1].version
    scene.change(version, attributes={"enabled": False})
    assert scene.rotate().status is Status.FAILED
    scene.change(version, attributes={"enabled": True})
    assert scene.rotate().status is Status.NOT_DUE
    scene.change(version, attributes={"enabled": False})
    scene.clock.move(days=91)
    assert scene.rotate().status is Status.ROTATED
    assert scene.numbers() == [1, 2]


def test_a_staged_copy_of_another_run_is_taken_away_too(scene: Scene) -> None:
    scene.versions(1)
    material = scene.materials()[0]
    record = scene.history().versions[1]
    scene.put("AAAA", name=STAGED, tags={"daena-kms-version": "1", "daena-kms-fingerprint": record.fingerprint})
    assert material
    scene.force()
    assert scene.enabled(STAGED) == []
    scene.check()


def test_two_materials_under_one_number_are_not_adopted_and_a_copy_is_taken_in_once(scene: Scene) -> None:
    scene.versions(2)
    again = scene.lying()[0]
    scene.put(again.value, tags=again.tags, contentType=again.content_type)
    scene.forget_manifest()
    assert scene.service().adopt(KEY).status is Status.DONE
    (adopted,) = (entry for entry in scene.history().entries if entry.event == "adopted")
    assert sorted(change.number for change in adopted.changes) == [1, 2]
    scene.check()
    forged = {tag: text for tag, text in (again.tags or {}).items() if tag != "daena-kms-fingerprint"}
    scene.put("x" * 32, tags=forged)
    scene.forget_manifest()
    with pytest.raises(RefusedError, match="two versions have it"):
        scene.service().adopt(KEY)
