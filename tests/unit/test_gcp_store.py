"""The GCP store beyond the contract: what lies where, calls, lost replies, deaths, stale reads, permissions, limits."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any

import pytest

from daena_kms import trust
from daena_kms.errors import (
    DeniedError,
    KmsError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from daena_kms.fleet import Order
from daena_kms.material import KeyMaterial
from daena_kms.model import KeySpec, Outcome, State, Status, StoredVersion
from daena_kms.names import RESERVED_KEY
from daena_kms.service import Service
from daena_kms.stores import gcp, gcp_ledger
from daena_kms.stores import gcp_layout as layout
from daena_kms.stores.gcp_ledger import GcsLedger
from daena_kms.stores.gcp_secrets import Secrets
from daena_kms.stores.pace import Pace
from tests.support.gcp_scene import DESTROYS, NAME, STAGED, Scene, anchor, new
from tests.support.gcp_world import PREFIX
from tests.support.gsm_errors import GoogleError
from tests.support.gsm_faults import late, lost, lying, only, refusing, unavailable
from tests.support.gsm_service import Between, Call, Carried, plain, within
from tests.support.strict_gcs import StrictGcs
from tests.support.strict_secrets import FUNCTION
from tests.support.worlds import KEY, Clock, Effects, dying
from tests.support.worlds import Mortal as MortalSteps

SPEC = KeySpec.parse("AES-256")


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- what lies there


def test_a_plain_reader_gets_the_active_version_bare(scene: Scene) -> None:
    materials = scene.versions(2)
    reader = scene.double.client("a-reader@example.com")
    name = f"projects/{scene.double.project_id}/secrets/{NAME}/versions/latest"
    assert reader.access_secret_version(request={"name": name}).payload.data == materials[1].reveal()
    assert [data for _, _, data in scene.lying()] == [material.reveal() for material in materials]


def test_what_was_staged_is_destroyed_and_what_is_reserved_has_a_name_of_its_own(scene: Scene) -> None:
    scene.versions(3)
    assert scene.states_of(STAGED) == ["DESTROYED"] * 3
    assert scene.states_of() == ["ENABLED"] * 3
    reserved = f"reserved--{PREFIX}manifest-keys"
    assert set(scene.held._held) == {NAME, STAGED, reserved, reserved + "--staged"}
    assert scene.states_of(reserved + "--staged") == ["DESTROYED"]
    assert not reserved.startswith(PREFIX), "no reader's role includes it"


def test_labels_and_annotations_say_what_is_there(scene: Scene) -> None:
    scene.versions(2)
    assert dict(scene.secret().labels) == {layout.LABEL: layout.KEY}
    assert dict(scene.secret(STAGED).labels) == {layout.LABEL: layout.COPY}
    assert scene.numbers() == {1: 1, 2: 2}
    assert scene.annotation("staged") == "2"
    assert scene.annotation("ledger") == scene.ledger.address
    assert [row.key for row in scene.gcp.inventory()] == [KEY], "neither copies nor what is reserved"


def test_what_belongs_to_others_is_not_listed(scene: Scene) -> None:
    scene.put(b"theirs", name="app-database-password")
    scene.put(b"theirs", name="elsewhere-key", labels={layout.LABEL: layout.KEY})
    scene.put(b"theirs", name="app-Not-A-Key", labels={layout.LABEL: layout.KEY})
    assert list(scene.gcp.inventory()) == []


def test_many_keys_are_listed_in_order_each_with_its_newest_version(scene: Scene) -> None:
    for number in range(30):
        key = f"key-{number:02}"
        staged = scene.gcp.stage(key, new(1, key), scene.gcp.prepare(key, 1, SPEC))
        published = scene.gcp.promote(key, staged, None, KeyMaterial(b"x" * 32))
        scene.gcp.write_anchor(key, anchor(1))
        assert published.version_id == "1"
    scene.held.page = 7
    rows = list(scene.process().inventory())
    assert [row.key for row in rows] == [f"key-{number:02}" for number in range(30)]
    assert {row.newest for row in rows} == {1}


def test_material_lies_where_the_setting_says(scene: Scene) -> None:
    scene.versions(1)
    assert scene.secret().replication.HasField("automatic")
    quick = Pace(9_999, 1.0, lambda: 0.0, lambda _: None)
    made = Secrets(
        scene.project.gcp(),
        scene.double.address,
        locations=("europe-west1", "europe-west4"),
        pace=lambda *_: quick,
        sleep=lambda _: None,
    )
    store = scene.process(made)
    store.stage("other-key", new(1), store.prepare("other-key", 1, SPEC))
    for name in ("app-other-key", "app-other-key--staged"):
        replicas = scene.secret(name).replication.user_managed.replicas
        assert [replica.location for replica in replicas] == ["europe-west1", "europe-west4"]


# --- calls

STEADY = [
    "ListSecrets",  # for all keys
    f"AccessSecretVersion {NAME}/2",  # is there something newer?
    f"AddSecretVersion {STAGED}",
    f"AccessSecretVersion {STAGED}/2",  # read back
    f"AddSecretVersion {NAME}",
    f"AccessSecretVersion {NAME}/3",  # has anything come in between?
    f"AccessSecretVersion {STAGED}/3",  # was it staged twice?
    f"DestroySecretVersion {STAGED}/2",
    f"UpdateSecret {NAME}",  # the head
]


@pytest.mark.parametrize("warm", [True, False], ids=["the same process", "another process"])
def test_the_calls_of_a_rotation(scene: Scene, warm: bool) -> None:
    scene.rotate()
    scene.clock.move(days=91)
    if not warm:
        scene.restart()
    ledger = Counting(scene.memory)
    assert scene.actions(lambda: scene.rotate(ledger=ledger)) == STEADY
    assert len(ledger.asked) == 4, ledger.asked
    scene.check()


class Counting:
    """A ledger, and what it was asked for."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in {"append", "read", "sequences"}:
            self.asked.append(name)
        return getattr(self._ledger, name)


def test_the_calls_of_a_tick_that_finds_nothing_due(scene: Scene) -> None:
    scene.rotate()
    scene.restart()
    ledger = Counting(scene.memory)
    quiet = ["ListSecrets", f"AccessSecretVersion {NAME}/2"]
    assert scene.actions(lambda: scene.rotate(ledger=ledger)) == quiet
    assert scene.rotate().status is Status.NOT_DUE
    assert ledger.asked == []


def test_the_calls_of_a_first_creation(scene: Scene) -> None:
    asked = scene.actions(scene.rotate)
    done = [each for each in asked if not each.startswith(("Access", "Get", "List"))]
    assert done == [
        f"AddSecretVersion {STAGED}",  # there is no such secret
        f"CreateSecret {NAME}".replace(f" {NAME}", ""),
        "CreateSecret",
        f"AddSecretVersion {STAGED}",
        f"AddSecretVersion {NAME}",
        f"DestroySecretVersion {STAGED}/1",
        f"UpdateSecret {NAME}",
    ]
    assert len(asked) < 22


def test_every_change_of_what_was_there_is_made_with_its_etag(scene: Scene) -> None:
    scene = Scene(DESTROYS)
    sent: list[tuple[str, str]] = []
    carried_out = scene.google._carried_out

    def noting(call: Call, method: Any, request: Any, parts: Any) -> Any:
        if call.rpc in {"UpdateSecret", "DisableSecretVersion", "EnableSecretVersion", "DestroySecretVersion"}:
            sent.append((call.rpc, request.secret.etag if call.rpc == "UpdateSecret" else request.etag))
        return carried_out(call, method, request, parts)

    scene.google._carried_out = noting  # type: ignore[method-assign]
    try:
        scene.versions(4)
        scene.service().disable(KEY, 1)
        scene.service().enable(KEY, 1)
        scene.service().destroy(KEY, 1)
        scene.pass_(days=2)
        scene.rotate()
    finally:
        del scene.google._carried_out
    assert {rpc for rpc, _ in sent} == {
        "UpdateSecret", "DisableSecretVersion", "EnableSecretVersion", "DestroySecretVersion"
    }  # fmt: skip
    assert all(etag.startswith('"') for _, etag in sent)
    assert scene.states()[1] is State.DESTROYED


# --- a reply that is lost

FAULTS: dict[str, Between] = {"carried out": lost, "late": late, "not carried out": unavailable}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("place", [0, 1], ids=["staging", "promoting"])
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
def test_an_addition_whose_reply_is_lost_is_made_once(scene: Scene, place: int, name: str, stale: bool) -> None:
    materials = scene.versions(2)
    scene.restart()
    with scene.stale() if stale else nullcontext():
        scene.google.between = only(["AddSecretVersion"], FAULTS[name], times=1, after=place)
        outcome = scene.force()
    assert outcome.status is Status.ROTATED, outcome
    assert len(scene.lying(STAGED)) == len(scene.lying()) == 3
    assert scene.materials()[:2] == materials
    assert scene.states_of(STAGED) == ["DESTROYED"] * 3
    scene.restart()
    scene.rotate()
    scene.check()


@pytest.mark.parametrize("place", [0, 1], ids=["staging", "promoting"])
@pytest.mark.parametrize("told", ["the first", "the second"])
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
def test_of_an_addition_that_is_carried_out_twice_the_same_run_takes_the_copy_away(
    scene: Scene, place: int, told: str, stale: bool
) -> None:
    """Whichever of the two the reply is about: a network repeats a request, and the service takes it again."""
    materials = scene.versions(2)
    scene.restart()

    def twice(_: Call, carried: Carried) -> Any:
        replies = {"the first": carried(), "the second": carried()}
        return replies[told]

    with scene.stale() if stale else nullcontext():
        scene.google.between = only(["AddSecretVersion"], twice, times=1, after=place)
        outcome = scene.force()
        scene.google.between = plain
    assert (outcome.status, outcome.number) == (Status.ROTATED, 3), outcome
    assert scene.materials()[:2] == materials
    assert set(scene.states_of(STAGED)) == {"DESTROYED"}
    assert len(scene.lying(STAGED)) + len(scene.lying()) == 7
    scene.restart()
    scene.check()


@pytest.mark.parametrize("place", [0, 1], ids=["staging", "promoting"])
@pytest.mark.parametrize("when", ["at once", "at the end", "after the next rotation"])
def test_an_addition_that_arrives_late_is_a_copy_and_loses_nothing(scene: Scene, place: int, when: str) -> None:
    scene.versions(2)
    late_: list[Carried] = []

    def held(_: Call, carried: Carried) -> Any:
        late_.append(carried)
        raise GoogleError("UNAVAILABLE", "on its way")

    def arriving(call: Call, carried: Carried) -> Any:
        reply = carried()
        if call.rpc == "AddSecretVersion" and len(late_) == 1:
            late_.append(carried)
            late_[0]()
        return reply

    first = only(["AddSecretVersion"], held, times=1, after=place)

    def between(call: Call, carried: Carried) -> Any:
        return arriving(call, carried) if late_ and when == "at once" else first(call, carried)

    scene.google.between = between
    assert scene.force().status is Status.ROTATED
    scene.google.between = plain
    if when == "at the end":
        late_[0]()
    if when == "after the next rotation":
        scene.restart()
        assert scene.force().number == 4
        late_[0]()
    scene.recover()
    assert [problem for problem in scene.problems() if "staged copies" not in problem] == []
    assert scene.force().status is Status.ROTATED
    assert "ENABLED" not in scene.states_of(STAGED), "nothing but destroyed copies"
    scene.restart()
    scene.check()


def test_a_store_that_never_answers_an_addition_is_unavailable_and_nothing_is_lost(scene: Scene) -> None:
    materials = scene.versions(1)
    scene.google.between = only(["AddSecretVersion"], unavailable)
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert "UNAVAILABLE" in outcome.message
    assert outcome.hint
    scene.google.between = plain
    scene.recover()
    assert scene.materials()[0] == materials[0]
    scene.check()


@pytest.mark.parametrize("rpc", ["CreateSecret", "UpdateSecret", "DestroySecretVersion", "AccessSecretVersion"])
@pytest.mark.parametrize("fault", [lost, unavailable], ids=["lost", "not sent"])
def test_a_reply_to_anything_else_that_is_lost_is_asked_for_again(scene: Scene, rpc: str, fault: Between) -> None:
    scene.google.between = only([rpc], fault, times=1)
    assert scene.rotate().status is Status.CREATED
    assert scene.states_of(STAGED) == ["DESTROYED"]
    scene.check()


# --- verification

BAD: dict[str, Callable[[Any], None]] = {
    "changed": lambda reply: setattr(reply.payload, "data", b"x" * 32),
    "cut": lambda reply: setattr(reply.payload, "data", reply.payload.data[:-1]),
    "without a checksum": lambda reply: reply.payload.ClearField("data_crc32c"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_read_back_otherwise_is_discarded_and_the_active_version_stays(scene: Scene, name: str) -> None:
    materials = scene.versions(2)

    def bad(call: Call, carried: Carried) -> Any:
        staged = call.rpc == "AccessSecretVersion" and "--staged" in call.resource
        return lying(BAD[name])(call, carried) if staged else carried()

    scene.google.between = bad
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert "checksum" in outcome.message
    assert len(scene.lying()) == 2
    assert "ENABLED" not in scene.states_of(STAGED)
    scene.google.between = plain
    assert scene.materials() == materials
    scene.pass_(hours=3)
    assert scene.force().number == 4, "its number is burnt"
    scene.check()


# --- dying on the wire


def deaths(scene: Scene, act: Callable[[Service], object], most: int = 60) -> Iterator[list[str]]:
    """Do it again and again, each time with a process that dies one RPC later; what it came to by then."""
    restore = scene.save()
    for boundary in range(1, most):
        restore()
        effects = Effects(boundary)
        with dying():
            act(scene.service(store=scene.mortal(effects)))
        if len(effects.names) < boundary:
            assert boundary > 4
            return
        yield effects.names
    raise AssertionError("it does not end")


LIVES: dict[str, tuple[int, Callable[[Service], object], int]] = {
    "create": (0, lambda s: s.rotate(Order()), 1),
    "rotate": (2, lambda s: s.rotate(Order((KEY,), force=True, request="r")), 3),
    "rollback": (3, lambda s: s.rollback(KEY), 4),
    "disable": (3, lambda s: s.disable(KEY, 1), 3),
}


@pytest.mark.parametrize(
    ("name", "stale"), [("create", True), ("rotate", True), ("rollback", False), ("disable", False)]
)
def test_a_death_before_or_after_any_write_is_mended_by_the_next_run(name: str, stale: bool) -> None:
    scene = Scene(DESTROYS)
    rotations, act, active = LIVES[name]
    materials = scene.versions(rotations) if rotations else []
    for names in deaths(scene, act):
        with scene.stale() if stale else nullcontext():
            scene.recover(1)
            if name == "disable" or (active > 1 and scene.states().get(active) is not State.ACTIVE):
                scene.pass_(minutes=20)
                with suppress(KmsError):
                    act(scene.service())
        scene.recover(1)
        assert scene.problems() == [], names
        kept = scene.materials()
        assert kept[: len(materials)] == materials or name == "disable", names
        scene.check()


def test_a_death_while_destroying_is_mended_by_the_next_run() -> None:
    scene = Scene(DESTROYS)
    materials = scene.versions(4)
    scene.service().destroy(KEY, 1)
    scene.pass_(days=2)
    for names in deaths(scene, lambda s: s.rotate(Order())):
        scene.recover(2)
        assert scene.states()[1] is State.DESTROYED, names
        assert scene.states_of() == ["DESTROYED", "ENABLED", "ENABLED", "ENABLED"], names
        assert scene.materials() == materials[1:], names
        scene.check()


def test_a_death_while_adopting_is_mended_by_asking_again(scene: Scene) -> None:
    scene.put(b"a" * 32, b"b" * 32)
    restore = scene.save()
    for boundary in range(1, 20):
        restore()
        effects = Effects(boundary)
        store = MortalSteps(scene.mortal(effects), effects)
        with dying():
            scene.service(store=store, ledger=MortalSteps(scene.ledger, effects)).adopt(KEY)
        if len(effects.names) < boundary:
            break
        scene.pass_(minutes=61)
        scene.restart()
        if State.ACTIVE not in scene.states().values():
            assert scene.service().adopt(KEY).status is Status.DONE, effects.names
        scene.restart()
        scene.rotate()
        assert [material.reveal() for material in scene.materials()] == [b"a" * 32, b"b" * 32], effects.names
        scene.check()
    assert boundary > 6


def test_an_init_that_dies_on_the_wire_leaves_no_copy_of_what_it_staged(scene: Scene) -> None:
    name = f"reserved--{PREFIX}manifest-keys"
    for boundary in range(1, 20):
        made = Scene.__new__(Scene)
        made.project = scene.project
        scene.held.emptied()
        for place in list(scene.memory.objects):
            del scene.memory.objects[place]
        effects = Effects(boundary)
        with dying():
            trust.initialise(scene.mortal(effects), scene.ledger, clock=Clock(), trigger="test")
        if len(effects.names) < boundary:
            break
        trust.initialise(scene.process(), scene.ledger, clock=Clock(), trigger="test")
        trust.open_keyring(scene.process(), scene.ledger)
        assert "ENABLED" not in scene.states_of(name + "--staged"), effects.names
        assert scene.states_of(name) == ["ENABLED"], effects.names
    assert boundary > 6


@pytest.mark.parametrize("place", range(1, 12))
def test_a_run_that_sleeps_at_any_write_while_others_rotate_publishes_nothing_for_long(
    scene: Scene, place: int
) -> None:
    materials = scene.versions(2)

    def meanwhile() -> None:
        scene.pass_(minutes=20)
        other = scene.process()
        scene.rotate(store=other)
        scene.force(store=other)

    effects = Effects(sleep_at=place, meanwhile=meanwhile)
    with suppress(KmsError):
        scene.force(store=scene.mortal(effects))
    if len(effects.names) < place:
        return
    scene.recover()
    assert scene.problems() == []
    active = next(number for number, state in scene.states().items() if state is State.ACTIVE)
    assert scene.lying()[-1][2] == scene.service().get(KEY, active, reveal=True).material.reveal()  # type: ignore[union-attr]
    assert scene.materials()[:2] == materials
    scene.check()


# --- reads that are hours old


def test_a_key_is_made_and_rotated_while_nothing_of_it_can_be_listed_yet(scene: Scene) -> None:
    with scene.stale():
        assert scene.rotate().status is Status.CREATED
        for number in (2, 3):
            scene.restart()
            scene.clock.move(days=91)
            outcome = scene.rotate()
            assert (outcome.status, outcome.number) == (Status.ROTATED, number), outcome
        assert len(scene.lying()) == 3
        scene.restart()
        assert scene.service().get(KEY, 1, reveal=True).material is not None
    scene.recover()
    scene.check()


def test_ticks_of_other_processes_make_nothing_twice(scene: Scene) -> None:
    with scene.stale():
        scene.rotate()
        for _ in range(4):
            scene.restart()
            outcome = scene.rotate()
            assert outcome.status in (Status.NOT_DUE, Status.DONE), outcome
        assert len(scene.lying()) == len(scene.lying(STAGED)) == 1
    scene.recover(1)
    scene.check()


def test_rotations_go_on_while_reads_are_hours_old_and_no_number_is_given_twice(scene: Scene) -> None:
    materials = scene.versions(2)
    with scene.stale():
        for number in range(3, 7):
            scene.restart()
            outcome = scene.force()
            assert (outcome.status, outcome.number) == (Status.ROTATED, number), outcome
        assert scene.materials()[:2] == materials
        assert scene.service().rollback(KEY).number == 7
    scene.recover(2)
    assert sorted(scene.states()) == list(range(1, 8))
    scene.check()


def test_what_was_written_since_is_seen_by_number(scene: Scene) -> None:
    scene.versions(2)
    with scene.stale():
        scene.versions(3)
        seen = scene.process().observe(KEY)
        assert seen.newest is not None
        assert seen.newest.version_id == str(len(scene.lying()))
        assert len(seen.versions) == len(scene.lying())


def test_a_version_put_by_hand_a_moment_ago_is_drift_at_once(scene: Scene) -> None:
    scene.versions(2)
    with scene.stale():
        scene.put(b"theirs".ljust(32))
        scene.restart()
        outcome = scene.rotate()
        assert outcome.status is Status.FAILED
        assert "no claim names" in outcome.message
        assert len(scene.lying()) == 3


@pytest.mark.parametrize("first", ["disable", "enable"])
def test_what_cannot_be_done_while_reads_are_old_says_so_and_is_done_later(scene: Scene, first: str) -> None:
    """A state that reads show may be that of hours ago: it is not taken for the one that was asked for."""
    second = {"disable": "enable", "enable": "disable"}[first]
    scene.versions(3)
    if first == "enable":
        scene.service().disable(KEY, 1)
    with scene.stale():
        scene.restart()
        assert getattr(scene.service(), first)(KEY, 1).status is Status.DONE
        scene.restart()
        with pytest.raises(UnavailableError, match="older state") as refused:
            getattr(scene.service(), second)(KEY, 1)
        assert "next run" in refused.value.hint
    scene.pass_(minutes=20)
    scene.restart()
    assert getattr(scene.service(), second)(KEY, 1).status is Status.DONE
    assert scene.states_of()[0] == ("ENABLED" if second == "enable" else "DISABLED")
    scene.recover(1)
    scene.check()


def test_a_process_goes_by_what_it_wrote_itself_and_not_by_an_older_state(scene: Scene) -> None:
    scene.versions(2)
    with scene.stale():
        for number in (3, 4):
            assert scene.force().number == number
            assert scene.numbers()[number] == number, "the head was written each time"
        assert scene.rotate().status is Status.NOT_DUE
        assert scene.service().pause(KEY).status is Status.DONE
        assert scene.annotation("paused") == "yes"


def test_adopting_takes_in_everything_while_reads_are_old(scene: Scene) -> None:
    scene.put(b"a" * 32, b"b" * 32, b"c" * 32)
    with scene.stale():
        scene.put(b"d" * 32)
        assert scene.service().adopt(KEY).status is Status.DONE
        assert [material.reveal()[:1] for material in scene.materials()] == [b"a", b"b", b"c", b"d"]
    scene.recover(1)
    assert scene.numbers() == {1: 1, 2: 2, 3: 3, 4: 4}
    scene.check()


def test_verifying_while_reads_are_old_finds_nothing_that_is_not_so(scene: Scene) -> None:
    scene.versions(2)
    with scene.stale():
        scene.restart()
        scene.force()
        scene.restart()
        (found,) = scene.service().verify([KEY])
        assert found.problems == ()


# --- the head beside the key


def test_the_head_lies_beside_what_others_wrote_there(scene: Scene) -> None:
    scene.rotate()
    scene.edit(labels={**scene.secret().labels, "env": "prod"})
    scene.edit(annotations={**scene.secret().annotations, "team": "payments"})
    scene.restart()
    scene.service().pause(KEY, reason="audit")
    assert scene.secret().labels["env"] == "prod"
    assert scene.secret().annotations["team"] == "payments"
    assert scene.annotation("paused") == "yes"
    assert scene.rotate().status is Status.PAUSED


def test_a_head_is_written_over_a_change_that_somebody_made_meanwhile_and_keeps_it(scene: Scene) -> None:
    scene.versions(1)
    scene.edit(annotations={**scene.secret().annotations, "team": "payments"})
    scene.gcp.write_anchor(KEY, anchor())
    assert scene.secret().annotations["team"] == "payments"
    assert scene.annotation("head").startswith("9 ")


def test_a_head_that_is_there_is_not_written_again(scene: Scene) -> None:
    scene.versions(1)
    scene.gcp.write_anchor(KEY, anchor())
    assert scene.actions(lambda: scene.gcp.write_anchor(KEY, anchor())) == []


def test_a_head_that_is_none_of_ours_fails_the_key(scene: Scene) -> None:
    scene.rotate()
    scene.annotate(head=f"1 {'0' * 64} {'0' * 64}")
    scene.restart()
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "was not written by us" in outcome.message


def test_a_key_that_is_not_there_has_no_place_for_a_head(scene: Scene) -> None:
    with pytest.raises(NotFoundError, match="there is no app-"):
        scene.gcp.write_anchor(KEY, anchor())


def test_a_head_that_cannot_be_written_is_no_failure_of_a_rotation(scene: Scene) -> None:
    scene.versions(1)
    scene.google.between = only(["UpdateSecret"], refusing("FAILED_PRECONDITION", "etag"))
    outcome = scene.force()
    assert outcome.status is Status.ROTATED
    assert any("could not be stored beside the key" in note for note in outcome.notes)
    scene.google.between = plain
    scene.restart()
    scene.rotate()
    scene.check()


# --- life of a version


def test_a_version_that_is_not_there_is_not_found(scene: Scene) -> None:
    scene.versions(1)
    for version in ("7", "../x", "", "latest", "0"):
        with pytest.raises(NotFoundError):
            scene.gcp.read(KEY, StoredVersion(1, version))
    with pytest.raises(NotFoundError):
        scene.gcp.label(KEY, StoredVersion(1, "7"), new(1))


def test_what_readers_get_is_neither_disabled_nor_destroyed(scene: Scene) -> None:
    scene.versions(2)
    for act in (scene.gcp.disable, scene.gcp.destroy):
        with pytest.raises(RefusedError, match="is active"):
            act(KEY, StoredVersion(2, "2"))
    assert scene.states_of() == ["ENABLED", "ENABLED"]


def test_changes_of_a_version_can_be_made_twice(scene: Scene) -> None:
    scene.versions(3)
    first = StoredVersion(1, "1")
    for act, state in (
        (scene.gcp.disable, "DISABLED"),
        (scene.gcp.enable, "ENABLED"),
        (scene.gcp.destroy, "DESTROYED"),
    ):
        act(KEY, first)
        act(KEY, first)
        assert scene.states_of()[0] == state
    with pytest.raises(RefusedError, match="destroyed"):
        scene.gcp.enable(KEY, first)
    scene.gcp.disable(KEY, first)
    assert scene.states_of() == ["DESTROYED", "ENABLED", "ENABLED"]


@pytest.mark.parametrize("rpc", ["DisableSecretVersion", "DestroySecretVersion"])
def test_a_change_that_somebody_comes_before_is_made_all_the_same(scene: Scene, rpc: str) -> None:
    scene.versions(3)

    def meddled(_: Call, carried: Carried) -> Any:
        scene.switch(1, "enable")
        return carried()

    scene.google.between = only([rpc], meddled, times=1)
    getattr(scene.gcp, rpc.removesuffix("SecretVersion").lower())(KEY, StoredVersion(1, "1"))
    assert scene.states_of()[0] in ("DISABLED", "DESTROYED")


def test_a_secret_that_waits_before_it_destroys_says_until_when(scene: Scene) -> None:
    scene.versions(3)
    scene.edit(version_destroy_ttl=timedelta(days=3))
    waits = scene.gcp.destroy(KEY, StoredVersion(1, "1"))
    assert waits is not None
    assert scene.states_of()[0] == "DISABLED"
    assert scene.gcp.destroy(KEY, StoredVersion(1, "1")) == waits, "it goes on waiting"
    assert any("will be destroyed on" in note for note in scene.gcp.observe(KEY).notes)
    scene.double.clock.move(3 * 86_400 + 60)
    assert scene.gcp.destroy(KEY, StoredVersion(1, "1")) is None
    assert scene.states_of()[0] == "DESTROYED"


def test_what_is_to_be_destroyed_can_be_kept(scene: Scene) -> None:
    scene.versions(3)
    scene.edit(version_destroy_ttl=timedelta(days=3))
    for keep, state in ((scene.gcp.enable, "ENABLED"), (scene.gcp.disable, "DISABLED")):
        scene.gcp.destroy(KEY, StoredVersion(1, "1"))
        keep(KEY, StoredVersion(1, "1"))
        scene.double.clock.move(4 * 86_400)
        scene.gcp.observe(KEY)
        assert scene.states_of()[0] == state


def test_a_life_under_a_secret_that_waits_before_it_destroys() -> None:
    scene = Scene(DESTROYS)
    materials = scene.versions(4)
    scene.edit(version_destroy_ttl=timedelta(days=3))
    scene.edit(STAGED, version_destroy_ttl=timedelta(days=3))
    scene.service().destroy(KEY, 1)
    scene.pass_(days=2)
    scene.restart()
    scene.rotate()
    assert scene.states()[1] is not State.DESTROYED, "not recorded before it is so"
    assert scene.states_of()[0] == "DISABLED"
    assert scene.force().status is Status.ROTATED
    scene.pass_(days=4)
    scene.recover(2)
    assert scene.states()[1] is State.DESTROYED
    assert scene.states_of()[0] == "DESTROYED"
    assert scene.materials()[:3] == materials[1:]
    assert set(scene.states_of(STAGED)) == {"DESTROYED"}
    scene.check()


# --- what cannot be adopted


def _rotating(scene: Scene) -> None:
    scene.put(b"x" * 32)

    def scheduled(reply: Any) -> None:
        reply.rotation.next_rotation_time.seconds = 2_000_000_000

    scene.google.between = only(["GetSecret"], lying(scheduled))


def _disabled(scene: Scene) -> None:
    scene.put(b"x" * 32)
    scene.switch(1, "disable")


def _old_disabled(scene: Scene) -> None:
    scene.put(b"x" * 32, b"y" * 32)
    scene.switch(1, "disable")


UNADOPTABLE: dict[str, tuple[Callable[[Scene], object], str]] = {
    "too long": (lambda s: s.put(b"x" * 5000), "5000 bytes"),
    "disabled": (_disabled, "disabled"),
    "an older one is disabled": (_old_disabled, "nothing says what it"),
    "no room": (lambda s: s.put(b"x" * 32, annotations={"note": "x" * 15_000}), "15004 bytes"),
    "somebody else is to rotate it": (_rotating, "somebody else rotates"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNADOPTABLE)
def test_what_cannot_be_adopted_is_refused_before_anything_is_written(scene: Scene, name: str) -> None:
    prepare, words = UNADOPTABLE[name]
    prepare(scene)
    before, annotations = scene.lying(), dict(scene.secret().annotations)
    with pytest.raises(RefusedError) as refused:
        scene.service().adopt(KEY)
    assert words in refused.value.message
    assert refused.value.hint
    assert (scene.lying(), dict(scene.secret().annotations)) == (before, annotations)
    assert scene.memory.sequences(KEY) == []
    if name == "somebody else is to rotate it":
        assert "--remove-rotation-period" in refused.value.hint


# --- permissions

ACTS: dict[str, Callable[[Scene], object]] = {
    "inventory": lambda s: list(s.gcp.inventory()),
    "observe": lambda s: s.gcp.observe(KEY),
    "prepare": lambda s: s.gcp.prepare(KEY, 9, SPEC),
    "stage": lambda s: s.gcp.stage("new-key", new(9), s.gcp.prepare("new-key", 9, SPEC)),
    "read": lambda s: s.gcp.read(KEY, StoredVersion(1, "1")),
    "promote": lambda s: s.gcp.promote(KEY, StoredVersion(9, "", "1:9", "r", SPEC.name), None, KeyMaterial(b"x" * 32)),
    "discard": lambda s: s.gcp.discard(KEY, StoredVersion(3, "staged-4", staged=True)),
    "label": lambda s: s.gcp.label(KEY, StoredVersion(1, "1"), new(1)),
    "disable": lambda s: s.gcp.disable(KEY, StoredVersion(1, "1")),
    "enable": lambda s: s.gcp.enable(KEY, StoredVersion(2, "2")),
    "destroy": lambda s: s.gcp.destroy(KEY, StoredVersion(1, "1")),
    "write_anchor": lambda s: s.gcp.write_anchor(KEY, anchor()),
}  # fmt: skip
LOOKED_FOR_ONLY = {"promote": "secretmanager.secrets.create", "stage": "secretmanager.versions.access"}


def test_every_operation_is_in_the_table() -> None:
    assert set(ACTS) == set(gcp.REQUIRED_PERMISSIONS)


@pytest.mark.parametrize("act", ACTS)
def test_each_act_needs_what_its_table_says_and_no_more(scene: Scene, act: str) -> None:
    scene.versions(3)
    scene.switch(2, "disable")
    scene.put(b"left", name=STAGED)
    if act == "inventory":
        scene.put(b"theirs")
    needed = set(gcp.REQUIRED_PERMISSIONS[act])
    scene.restart()
    before = len(scene.google.calls)
    scene.google.allowed = {FUNCTION: needed}
    if act == "promote":  # a reply that is lost is looked for; a secret that was deleted is made
        scene.google.between = only(["AddSecretVersion"], lost, times=1)
        ACTS[act](scene)
        scene.google.allowed = {}
        scene.delete(NAME)
        scene.google.allowed = {FUNCTION: needed}
    if act == "stage":
        scene.google.between = only(["AddSecretVersion"], lost, times=1, after=1)
    ACTS[act](scene)
    used = {call.permission for call in scene.google.calls[before:]}
    assert used == needed
    scene.google.allowed = {"nobody": set()}
    if needed:
        with pytest.raises(DeniedError) as refused:
            ACTS[act](Denied(scene))  # type: ignore[arg-type]
        assert "infra/gcp" in refused.value.hint


class Denied:
    """The scene with another process, to which nothing was granted."""

    def __init__(self, scene: Scene) -> None:
        self.gcp = scene.process()


def life(scene: Scene) -> None:
    """Everything that is done to a key from its creation on."""
    scene.versions(4)
    scene.service().rollback(KEY)
    scene.restart()
    scene.service().disable(KEY, 2)
    scene.service().enable(KEY, 2)
    scene.service().destroy(KEY, 1)
    scene.pass_(days=2)
    scene.restart()
    scene.rotate()
    scene.google.between = only(["DestroySecretVersion"], refusing("FAILED_PRECONDITION", "etag"), times=1)
    scene.force()
    scene.google.between = plain
    scene.check()


GRANTED = {permission for each in gcp.REQUIRED_PERMISSIONS.values() for permission in each}


def test_a_life_uses_the_permissions_of_the_table_and_all_of_them() -> None:
    scene = Scene(DESTROYS)
    scene.google.calls.clear()
    scene.google.allowed = {FUNCTION: GRANTED}
    life(scene)
    scene.service(store=scene.process())
    trust.renew(scene.process(), scene.ledger, clock=scene.clock, trigger="test")
    used = {call.permission for call in scene.google.calls if call.principal == FUNCTION}
    assert used == GRANTED


def test_a_role_on_condition_of_the_names_prefix_is_enough() -> None:
    scene = Scene(DESTROYS)
    everywhere = {"secretmanager.secrets.list", "secretmanager.secrets.create"}
    ours: Any = within(scene.double.number, PREFIX, GRANTED - everywhere, everywhere)
    reserved: Any = within(scene.double.number, f"reserved--{PREFIX}", GRANTED - everywhere)
    scene.google.allowed = {FUNCTION: lambda *asked: ours(*asked) or reserved(*asked)}
    life(scene)
    scene.held.emptied()
    scene.memory.objects.clear()
    trust.initialise(scene.process(), scene.ledger, clock=Clock(), trigger="test")
    scene.google.allowed = {FUNCTION: ours}
    with pytest.raises(DeniedError):
        trust.open_keyring(scene.process(), scene.ledger)
    scene.put(b"x" * 32, name="another-secret")
    with pytest.raises(DeniedError):
        scene.calls.access("another-secret", 1)


@pytest.mark.parametrize("missing", sorted(GRANTED))
def test_a_permission_that_is_missing_is_named_and_nothing_is_lost(missing: str) -> None:
    scene = Scene(DESTROYS)
    materials = scene.versions(4)
    scene.restart()
    scene.google.allowed = {FUNCTION: GRANTED - {missing}}
    failed = []
    acts: list[Callable[[Service], Outcome]] = [
        lambda s: s.rotate(Order((KEY,), force=True, request="r")).outcomes[0],
        lambda s: s.disable(KEY, 2),
        lambda s: s.enable(KEY, 2),
        lambda s: s.destroy(KEY, 1),
    ]
    for act in acts:
        scene.pass_(minutes=61)
        scene.restart()
        try:
            outcome = act(scene.service())
        except KmsError as problem:
            failed.append(f"{problem.message} {problem.hint}")
        else:
            failed += [f"{outcome.message} {outcome.hint} {outcome.notes}"] * (
                outcome.status is Status.FAILED or bool(outcome.notes)
            )
    if missing != "secretmanager.secrets.create":
        assert any(missing in each for each in failed), failed
        assert any("infra/gcp" in each for each in failed) or "secrets.update" in missing
    scene.google.allowed = {}
    scene.recover()
    for number in (1, 2):
        if scene.states()[number] is State.DISABLED:
            scene.service().enable(KEY, number)
    scene.recover(1)
    assert scene.materials()[:4] == materials
    scene.check()


# --- the ledger's permissions


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictGcs]:
    scene = Scene()
    made = StrictGcs(tokens=scene.double.tokens)
    made.server.objects.create_bucket("manifests")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", made.url)
    yield made
    made.close()


def ledger_of(scene_project: Any) -> GcsLedger:
    """A ledger in that bucket, under the function's account."""
    return GcsLedger(scene_project.gcp(), "gs://manifests/keys")


def test_a_life_of_manifests_takes_the_permissions_of_the_table_and_no_more(bucket: StrictGcs) -> None:
    granted = {permission for each in gcp_ledger.REQUIRED_PERMISSIONS.values() for permission in each}
    project = Scene().project
    scene = Scene(ledger=ledger_of(project))
    bucket.server.allowed = {FUNCTION: granted}
    scene.versions(3)
    scene.check()
    assert scene.ledger.names()
    scene.ledger.rewritten(KEY)
    assert {call.permission for call in bucket.server.calls if call.principal == FUNCTION} == granted
    assert "storage.objects.delete" not in granted, "which a write over an object would take"


# --- the first creation


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_secret_that_was_made_a_moment_ago_is_waited_for(scene: Scene, missing: int) -> None:
    """What was created need not be there for everybody at once."""
    waited: list[float] = []
    scene.gcp._sleep = waited.append
    scene.google.between = only(["AddSecretVersion"], refusing("NOT_FOUND", "not yet"), times=missing)
    outcome = scene.rotate()
    if missing < 3:
        assert outcome.status is Status.CREATED
    assert len(waited) == missing - 1
    scene.google.between = plain
    scene.recover()
    scene.check()


def test_a_secret_without_versions_that_somebody_made_is_taken(scene: Scene) -> None:
    """Terraform makes it, with its labels and replication; the first version is ours."""
    scene.put(labels={"env": "prod"})
    assert scene.rotate().status is Status.CREATED
    assert dict(scene.secret().labels) == {"env": "prod", layout.LABEL: layout.KEY}
    scene.restart()
    assert scene.rotate().status is Status.NOT_DUE
    scene.check()


def test_two_processes_that_make_a_key_at_once_make_one(scene: Scene) -> None:
    other = scene.process()
    outcomes = []

    def meanwhile() -> None:
        outcomes.append(scene.rotate(store=other))

    effects = Effects(sleep_at=1, meanwhile=meanwhile)
    outcomes.append(scene.rotate(store=scene.mortal(effects)))
    scene.recover(2)
    assert list(scene.states().values()).count(State.ACTIVE) == 1
    scene.check()


def test_the_reserved_key_is_renewed_and_old_fingerprints_still_fit(scene: Scene) -> None:
    scene.versions(2)
    scene.restart()
    trust.renew(scene.store, scene.ledger, clock=scene.clock, trigger="test")
    scene.keyring = trust.open_keyring(scene.process(), scene.ledger)
    scene.restart()
    assert scene.force().status is Status.ROTATED
    scene.check()
    seen = scene.process().observe(RESERVED_KEY)
    assert (len(seen.versions), seen.staged) == (2, ())
