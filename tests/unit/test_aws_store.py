"""The AWS store beyond the contract: what lies in the account, who else writes there, and replies that are wrong."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from daena_kms.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from daena_kms.holdings import location
from daena_kms.material import KeyMaterial
from daena_kms.model import State, Status, StoredVersion
from daena_kms.plan import rotation_id
from daena_kms.stores import aws_layout as layout
from daena_kms.stores.aws import AwsStore
from daena_kms.stores.aws_calls import Reply
from daena_kms.stores.aws_layout import CURRENT, NO_VERSION, PREVIOUS, STAGED
from tests.support import liars
from tests.support.aws_scene import (
    ACCOUNT,
    LOOSE,
    NAME,
    SPEC,
    THEN,
    WRITES,
    Between,
    Foreign,
    Parameters,
    Scene,
    few,
    new_version,
    once,
    promoting,
    publish,
    stage,
    vault,
)
from tests.support.aws_world import REGION
from tests.support.worlds import KEY, DiedError, dying

# --- nothing is live before it was verified


def test_nothing_is_live_before_it_was_promoted_not_even_the_first_version(scene: Scene) -> None:
    live: list[tuple[str, str]] = []

    def watching(operation: str, parameters: Parameters, send: Callable[[], Any]) -> Any:
        before = scene.current() if NAME in vault() else ""
        reply = send()
        after = scene.current() if NAME in vault() else ""
        if before != after:
            live.append((operation, after))
            assert before == "" or promoting(operation, parameters)
        return reply

    scene.secrets.between = watching
    scene.rotate()
    scene.force()
    ids = scene.ids()
    assert live == [
        ("create_secret", NO_VERSION),
        ("update_secret_version_stage", ids[1]),
        ("update_secret_version_stage", ids[2]),
    ]


def test_a_key_whose_first_rotation_died_gives_readers_nothing_and_is_no_key_yet(scene: Scene) -> None:
    def dies(_parameters: Parameters, _send: Callable[[], Any]) -> Any:
        raise DiedError

    scene.secrets.between = once("update_secret_version_stage", dies)
    with dying():
        scene.rotate()
    assert scene.by_hand("get_secret_value")["SecretString"] == layout.NO_VERSION_VALUE
    seen = scene.aws.observe(KEY)
    assert (seen.exists, seen.newest, seen.versions, len(seen.staged)) == (True, None, (), 1)
    (row,) = scene.aws.inventory()
    assert (row.key, row.newest) == (KEY, 0)
    scene.clock.move(minutes=61)
    outcome = scene.rotate()
    assert (outcome.status, outcome.number) == (Status.CREATED, 1)
    scene.check()


def test_of_many_threads_that_make_one_key_one_does(scene: Scene) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = [each.result() for each in [pool.submit(scene.rotate) for _ in range(8)]]
    assert [o.status for o in outcomes].count(Status.CREATED) == 1
    assert {o.status for o in outcomes} <= {Status.CREATED, Status.NOT_DUE, Status.IN_PROGRESS}
    assert list(scene.history().versions) == [1]
    scene.check()


def test_of_many_that_stage_one_version_the_first_is_what_lies_there(scene: Scene) -> None:
    everyone = [scene.aws.prepare(KEY, 1, SPEC) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        staged = list(pool.map(lambda prepared: scene.aws.stage(KEY, new_version(1), prepared), everyone))
        read = list(pool.map(lambda version: scene.aws.read(KEY, version), staged))
    assert len({version.version_id for version in staged}) == 1
    assert all(material == read[0] for material in read)
    assert [prepared.material for prepared in everyone].count(read[0]) == 1


def test_staging_again_with_other_bytes_keeps_the_first(scene: Scene) -> None:
    first, prepared = stage(scene, 1)
    second, other = stage(scene, 1)
    assert second == first
    assert scene.aws.read(KEY, second) == prepared.material != other.material


def test_what_somebody_put_under_the_id_of_the_next_version_never_goes_live(scene: Scene) -> None:
    scene.rotate()
    squatted = layout.version_id(rotation_id(KEY, 1, 2), 2)
    scene.by_hand("put_secret_value", ClientRequestToken=squatted, SecretString="mine" * 8, VersionStages=["mine"])
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert scene.current() == scene.ids()[1]
    scene.clock.move(hours=2)
    outcome = scene.force()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 3)
    assert scene.current() == scene.ids()[3]
    assert list(scene.history().versions) == [1, 3]  # what failed its check is not adopted as version 2
    scene.check()


# --- lost replies


def test_a_promotion_whose_reply_was_lost_and_that_the_sdk_repeats_is_found_out_at_once(scene: Scene) -> None:
    """The first attempt arrived, its reply did not; the second is told that the label sits elsewhere."""
    scene.rotate()

    def twice(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        send()
        return send()

    scene.secrets.between = once("update_secret_version_stage", twice)
    scene.secrets.calls.clear()
    scene.clock.move(days=90)
    outcome = scene.rotate()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    assert scene.secrets.calls.count("describe_secret") == 1  # found out by the promotion itself, not by starting over
    scene.check()


@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize("operation", ["put_secret_value", "update_secret_version_stage", "tag_resource"])
def test_a_write_that_got_no_reply_is_found_out_by_the_next_run(scene: Scene, operation: str, arrived: bool) -> None:
    scene.rotate()
    scene.clock.move(days=90)

    def lost(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        if arrived:
            send()
        raise UnavailableError("the connection was reset")

    scene.secrets.between = once(operation, lost)
    outcome = scene.rotate()
    if operation != "tag_resource":  # the head beside the key is stored at the next chance
        assert outcome.status is Status.FAILED
        scene.clock.move(minutes=61)
        outcome = scene.rotate()
    assert outcome.status is Status.ROTATED
    scene.rotate()
    scene.check()
    # What did not arrive is lost with the run that held it, and its number with it.
    lost_for_ever = operation == "put_secret_value" and not arrived
    assert list(scene.history().versions) == [1, 3 if lost_for_ever else 2]


# --- replies about something else are not believed

OTHER_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/another"


def _prepare(scene: Scene) -> object:
    return scene.aws.prepare(KEY, 3, SPEC)


def _import(scene: Scene) -> object:
    return scene.aws.prepare(KEY, 3, SPEC, KeyMaterial(bytes(32)))


def _put(scene: Scene) -> object:
    return stage(scene, 3)


def _read(scene: Scene) -> object:
    return scene.materials()


def _observe(scene: Scene) -> object:
    return scene.aws.observe(KEY)


WRONG: dict[str, tuple[str, Callable[[Scene], object], dict[str, object]]] = {
    "another secret described": ("describe_secret", _observe, {"Name": "app-another-key"}),
    "no secret described": ("describe_secret", _observe, {"Name": None}),
    "another secret's value": ("get_secret_value", _read, {"Name": "app-another-key"}),
    "another version's value": ("get_secret_value", _read, {"VersionId": NO_VERSION}),
    "no version's value": ("get_secret_value", _read, {"VersionId": None}),
    "another secret written": ("put_secret_value", _put, {"Name": "app-another-key"}),
    "another version written": ("put_secret_value", _put, {"VersionId": NO_VERSION}),
    "another KMS key made it": ("generate_data_key", _prepare, {"KeyId": OTHER_KEY}),
    "KMS made too little": ("generate_data_key", _prepare, {"Plaintext": bytes(31)}),
    "KMS made nothing": ("generate_data_key", _prepare, {"Plaintext": b""}),
    "another KMS key wrapped it": ("encrypt", _import, {"KeyId": OTHER_KEY}),
    "another KMS key opened it": ("decrypt", _read, {"KeyId": OTHER_KEY}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_reply_about_something_else_is_not_believed(scene: Scene, name: str) -> None:
    operation, act, other = WRONG[name]
    scene.versions(2)

    def lying(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        return {**send(), **other}

    scene.secrets.between = scene.kms.between = once(operation, lying)
    with pytest.raises(IntegrityError) as refused:
        act(scene)
    assert refused.value.hint


def emptied(operation: str) -> Between:
    """The first reply to an operation arrives without anything in it; what was asked was done."""

    def empty(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        send()
        return [Reply("it", {})] if operation == "list_secrets" else Reply("it", {})

    return once(operation, empty)


ROTATING = ["generate_data_key", "put_secret_value", "get_secret_value", "decrypt", "update_secret_version_stage"]


@pytest.mark.parametrize(
    ("first", "operation"),
    [(True, operation) for operation in ("create_secret", *ROTATING)]
    + [(False, operation) for operation in ("list_secrets", "describe_secret", *ROTATING)],
)
def test_a_reply_that_lacks_everything_says_nothing_about_the_version_and_is_no_failed_check(
    scene: Scene, operation: str, first: bool
) -> None:
    if not first:
        scene.rotate()
        if operation == "describe_secret":
            scene.by_hand("untag_resource", TagKeys=[layout.LEDGER_TAG])  # otherwise the listing says it all
        scene.clock.move(days=90)
    scene.secrets.between = scene.kms.between = emptied(operation)
    if operation == "list_secrets":
        with pytest.raises(UnavailableError):
            scene.rotate()
    else:
        outcome = scene.rotate()
        assert outcome.status is Status.FAILED, outcome.message
        assert "lacks" in outcome.message
        assert all(entry.state.failures == 0 for entry in scene.service().journal.history(KEY))
    scene.clock.move(minutes=61)
    assert scene.rotate().status is (Status.CREATED if first else Status.ROTATED)
    scene.check()


def test_a_reply_that_lacks_everything_forgets_no_age(scene: Scene) -> None:
    Foreign(scene, SecretString="hunter2").aged(30)
    scene.secrets.between = emptied("list_secret_version_ids")
    with pytest.raises(UnavailableError, match="lacks"):
        scene.service().adopt(KEY)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.history().versions[1].made_at == THEN + timedelta(days=30)


AGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "of another secret": lambda told: {**told, "Name": "app-another-key"},
    "of no version": lambda told: {**told, "Versions": []},
    "of the version before only": lambda told: {**told, "Versions": told["Versions"][:1]},
}


@pytest.mark.parametrize("name", AGES)
def test_ages_are_not_believed_unless_there_is_one_for_each_version_that_is_shown(scene: Scene, name: str) -> None:
    Foreign(scene, SecretString="older").put("newer").aged(1, 2)
    scene.secrets.between = once("list_secret_version_ids", lambda _parameters, send: AGES[name](send()))
    with pytest.raises(IntegrityError):
        scene.service().adopt(KEY)
    assert scene.memory.sequences(KEY) == []


CHANGED: dict[str, Callable[[Scene], object]] = {
    "promote": lambda scene: scene.aws.promote(KEY, scene.aws.observe(KEY).staged[0], None, KeyMaterial(b"")),
    "discard": lambda scene: scene.aws.discard(KEY, scene.aws.observe(KEY).staged[0]),
    "label": lambda scene: scene.aws.label(KEY, scene.aws.observe(KEY).versions[0], new_version(1)),
    "disable": lambda scene: scene.aws.disable(KEY, scene.aws.observe(KEY).versions[0]),
    "enable": lambda scene: scene.aws.enable(KEY, scene.aws.observe(KEY).versions[0]),
    "destroy": lambda scene: scene.aws.destroy(KEY, scene.aws.observe(KEY).versions[0]),
}


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize(
    ("reply", "problem"),
    [({}, UnavailableError), ({"ARN": "arn:another", "Name": "app-another-key"}, IntegrityError)],
    ids=["nothing", "another secret"],
)
def test_no_change_of_a_label_is_believed_unread(
    scene: Scene, change: str, reply: dict[str, Any], problem: type[Exception]
) -> None:
    publish(scene, 2, publish(scene, 1))
    stage(scene, 3)
    gone = {"label": "v1", "enable": "v1"}.get(change)
    if gone:
        scene.by_hand("update_secret_version_stage", VersionStage=gone, RemoveFromVersionId=scene.ids()[1])
    scene.secrets.between = once("update_secret_version_stage", lambda _parameters, _send: Reply("it", reply))
    with pytest.raises(problem):
        CHANGED[change](scene)


@pytest.mark.parametrize("text", ['{"format":"daena-kms/1","key":"\ud800"}', "\ud800"])
def test_a_value_that_is_no_text_is_told_as_that(scene: Scene, text: str) -> None:
    scene.rotate()
    scene.secrets.between = once("get_secret_value", lambda _parameters, send: {**send(), "SecretString": text})
    with pytest.raises(IntegrityError):
        scene.materials()


@pytest.mark.parametrize("named", ["arn", "id"])
def test_another_kms_key_is_not_believed_however_ours_is_named(scene: Scene, named: str) -> None:
    arn = scene.account.key
    scene.aws._kms_key = arn if named == "arn" else arn.partition("key/")[2]
    assert len(scene.aws.prepare(KEY, 1, SPEC).material) == SPEC.length
    scene.kms.between = once("generate_data_key", lambda _parameters, send: {**send(), "KeyId": OTHER_KEY})
    with pytest.raises(IntegrityError, match="KMS used the key"):
        scene.aws.prepare(KEY, 1, SPEC)


def test_an_envelope_of_another_key_or_number_does_not_open(scene: Scene) -> None:
    """Two versions' values swapped behind our back: KMS would refuse too, this says what is wrong."""
    first, second = scene.versions(2)
    values = {n: scene.by_hand("get_secret_value", VersionId=i)["SecretString"] for n, i in scene.ids().items()}
    found = vault()[NAME].versions
    ids = scene.ids()
    found[ids[1]]["secret_string"], found[ids[2]]["secret_string"] = values[2], values[1]
    assert first != second
    with pytest.raises(IntegrityError, match=r"version 1 of .* holds an envelope of .*, version 2"):
        scene.materials()
    assert any("holds an envelope of" in problem for problem in scene.problems())


# --- what was written a moment ago

PAUSES = [0.2, 0.8, 2.0]


def not_yet(operation: str, times: int) -> Between:
    """AWS does not show what was written a moment ago, so many times."""
    left = [times]

    def between(asked: str, _parameters: Parameters, send: Callable[[], Any]) -> Any:
        if asked == operation and left[0]:
            left[0] -= 1
            raise NotFoundError("ResourceNotFoundException")
        return send()

    return between


@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.parametrize("operation", ["get_secret_value", "update_secret_version_stage"])
def test_what_was_staged_just_now_is_waited_for(scene: Scene, operation: str, times: int) -> None:
    scene.rotate()
    scene.naps.clear()
    scene.secrets.between = not_yet(operation, times)
    assert scene.force().status is Status.ROTATED
    assert scene.naps == PAUSES[:times]


def test_what_is_not_there_is_not_waited_for_for_ever(scene: Scene) -> None:
    staged, _ = stage(scene, 1)
    scene.secrets.between = not_yet("get_secret_value", 99)
    with pytest.raises(NotFoundError):
        scene.aws.read(KEY, staged)
    assert scene.naps == PAUSES


def test_what_lies_there_for_long_is_not_waited_for(scene: Scene) -> None:
    scene.versions(2)
    scene.naps.clear()
    with pytest.raises(NotFoundError):
        scene.aws.read(KEY, StoredVersion(7, layout.version_id(rotation_id(KEY, 1, 7), 7)))
    with pytest.raises(NotFoundError):
        scene.aws.read("another-key", StoredVersion(1, layout.version_id(rotation_id(KEY, 1, 1), 1)))
    assert scene.naps == []


# --- numbers


def test_a_version_has_one_number_and_a_number_one_version(scene: Scene) -> None:
    first = publish(scene, 1)
    foreign = scene.by_hand("put_secret_value", SecretString="x" * 32, VersionStages=["mine"])["VersionId"]
    before = scene.stages()
    with pytest.raises(RefusedError, match="it is taken"):
        scene.aws.label(KEY, first, new_version(2))
    with pytest.raises(RefusedError, match="it is taken"):
        scene.aws.label(KEY, StoredVersion(0, foreign), new_version(1))
    assert scene.stages() == before
    assert scene.aws.label(KEY, StoredVersion(0, foreign), new_version(2)).number == 2
    assert scene.aws.label(KEY, first, new_version(1)).number == 1
    assert (scene.labels()[1], scene.labels()[2]) == ({"v1", CURRENT, STAGED}, {"v2", "mine"})


# --- disable, enable, destroy, discard


def test_a_disabled_version_is_found_by_no_label_of_a_readers(scene: Scene) -> None:
    first = publish(scene, 1)
    publish(scene, 2, first)
    assert scene.labels()[1] == {"v1", PREVIOUS}
    scene.aws.disable(KEY, first)
    assert scene.labels() == {1: {"disabled-1"}, 2: {"v2", CURRENT, STAGED}}
    for label in ("v1", PREVIOUS):
        with pytest.raises(NotFoundError):
            scene.by_hand("get_secret_value", VersionStage=label)
    with pytest.raises(RefusedError, match="disabled") as refused:
        scene.aws.read(KEY, first)
    assert "enable" in refused.value.hint


def test_a_disabled_version_keeps_no_label_that_readers_may_ask_for(scene: Scene) -> None:
    first = publish(scene, 1)
    publish(scene, 2, first)
    scene.move("v-reports", first.version_id)
    scene.move(STAGED, first.version_id, scene.ids()[2])
    scene.aws.disable(KEY, first)
    assert scene.labels()[1] == {"disabled-1"}


@pytest.mark.parametrize("kept", ["AWSPREVIOUS", "mine"])
def test_a_version_that_lost_the_label_of_its_number_is_disabled_and_enabled_all_the_same(
    scene: Scene, kept: str
) -> None:
    first = publish(scene, 1)
    publish(scene, 2, first)
    if kept == "mine":
        scene.move("mine", first.version_id)
        scene.by_hand("update_secret_version_stage", VersionStage=PREVIOUS, RemoveFromVersionId=first.version_id)
    scene.by_hand("update_secret_version_stage", VersionStage="v1", RemoveFromVersionId=first.version_id)
    scene.aws.disable(KEY, first)
    assert scene.labels()[1] == {"disabled-1"}
    scene.aws.enable(KEY, first)
    assert scene.labels()[1] == {"v1"}


@pytest.mark.parametrize("change", ["disable", "enable"])
def test_nothing_is_said_to_be_done_to_a_version_that_has_no_label_left(scene: Scene, change: str) -> None:
    scene.versions(3)
    last = "v1"
    if change == "enable":
        scene.service().disable(KEY, 1)
        last = "disabled-1"
    version, before = scene.ids()[1], scene.states()
    scene.by_hand("update_secret_version_stage", VersionStage=last, RemoveFromVersionId=version)
    outcome = getattr(scene.service(), change)(KEY, 1)
    assert outcome.status is Status.FAILED
    assert "version 1" in outcome.message
    assert "has no label left" in outcome.message
    assert f"{version}, put the label v1 on it" in outcome.hint
    assert scene.states() == before
    scene.move("v1", version)  # as the hint says
    assert getattr(scene.service(), change)(KEY, 1).status is Status.DONE
    scene.check()


def test_an_enabled_version_is_found_by_its_number_again(scene: Scene) -> None:
    first = publish(scene, 1)
    publish(scene, 2, first)
    material = scene.aws.read(KEY, first)
    scene.aws.disable(KEY, first)
    scene.aws.enable(KEY, first)
    assert scene.labels()[1] == {"v1"}
    assert scene.aws.read(KEY, first) == material


def test_a_destroyed_version_has_no_label_left(scene: Scene) -> None:
    first = publish(scene, 1)
    publish(scene, 2, first)
    scene.aws.destroy(KEY, first)
    scene.aws.destroy(KEY, first)
    with pytest.raises(RefusedError, match="has no label left"):
        scene.aws.enable(KEY, first)
    assert scene.labels() == {2: {"v2", CURRENT, STAGED}}
    with pytest.raises(RefusedError, match="lost its labels"):
        scene.aws.read(KEY, first)


def test_a_destroyed_version_that_aws_has_deleted_is_not_there(scene: Scene) -> None:
    first = publish(scene, 1)
    publish(scene, 2, first)
    scene.aws.destroy(KEY, first)
    del vault()[NAME].versions[first.version_id]
    scene.aws.destroy(KEY, first)
    with pytest.raises(NotFoundError):
        scene.aws.read(KEY, first)


@pytest.mark.parametrize("change", ["disable", "destroy"])
def test_what_readers_get_is_neither_disabled_nor_destroyed(scene: Scene, change: str) -> None:
    first = publish(scene, 1)
    with pytest.raises(RefusedError, match="active"):
        getattr(scene.aws, change)(KEY, first)
    assert scene.labels() == {1: {"v1", CURRENT, STAGED}}


def dying_at(boundary: int, seen: list[str]) -> Between:
    """Dies right before (odd) or right after (even) a write; `seen` collects them."""

    def between(operation: str, _parameters: Parameters, send: Callable[[], Any]) -> Any:
        if operation not in WRITES:
            return send()
        seen.append(f"before {operation}")
        if len(seen) == boundary:
            raise DiedError
        reply = send()
        seen.append(f"after {operation}")
        if len(seen) == boundary:
            raise DiedError
        return reply

    return between


def deaths(scene: Scene, act: Callable[[], object]) -> Iterator[str]:
    """The same beginning each time, and `act` dying at each of its writes in turn; says where."""
    restore, boundary = scene.save(), 0
    while True:
        boundary += 1
        restore()
        seen: list[str] = []
        scene.secrets.between = dying_at(boundary, seen)
        with dying():
            act()
        scene.secrets.between = lambda _operation, _parameters, send: send()
        if len(seen) < boundary:
            assert boundary > 4
            return
        yield f"{boundary}: {seen[-1]}"


@pytest.mark.parametrize("change", ["disable", "enable", "destroy"])
def test_a_change_that_dies_at_any_write_is_done_by_doing_it_again(scene: Scene, change: str) -> None:
    first = publish(scene, 1)
    publish(scene, 2, first)
    if change == "enable":
        scene.aws.disable(KEY, first)
    act = getattr(scene.aws, change)
    for where in deaths(scene, lambda: act(KEY, first)):
        lying = scene.labels().get(1, set())
        assert lying or change == "destroy", where
        act(KEY, first)
        expected = {"disable": {"disabled-1"}, "enable": {"v1"}, "destroy": None}[change]
        assert scene.labels().get(1) == expected, where


def test_a_destruction_that_dies_leaves_an_adopted_version_its_number_to_the_last(scene: Scene) -> None:
    """Its id tells no number: without the label it would be a version that nobody knows."""
    there = Foreign(scene, SecretString="older").put("newer")
    scene.move("blue", there.made[0])
    scene.service().adopt(KEY)
    first = location(scene.history().versions[1])
    for where in deaths(scene, lambda: scene.aws.destroy(KEY, first)):
        assert scene.stages().get(there.made[0]) is None or 1 in scene.labels(), where
        scene.aws.destroy(KEY, first)
        assert there.made[0] not in scene.stages(), where


def test_asking_for_a_destruction_says_what_aws_does_not_do(scene: Scene) -> None:
    scene.policy = LOOSE
    scene.versions(3)
    outcome = scene.service().destroy(KEY, 1)
    (note,) = outcome.notes
    assert note == AwsStore.destruction
    assert "by its version id" in note


def test_a_staged_version_is_discarded_whole(scene: Scene) -> None:
    first = publish(scene, 1)
    staged, _ = stage(scene, 2)
    scene.aws.discard(KEY, staged)
    assert scene.labels() == {1: {"v1", CURRENT}}
    scene.aws.discard(KEY, staged)
    assert scene.aws.observe(KEY).versions == (first,)


def test_a_version_that_was_published_is_not_discarded(scene: Scene) -> None:
    first = publish(scene, 1)
    publish(scene, 3, publish(scene, 2, first))
    before = scene.labels()
    assert before[1] == {"v1"}
    scene.aws.discard(KEY, first)
    assert scene.labels() == before


@pytest.mark.parametrize("label", [CURRENT, PREVIOUS])
def test_what_readers_may_get_is_never_discarded_whatever_a_run_believes(scene: Scene, label: str) -> None:
    first = publish(scene, 1)
    second = publish(scene, 2, first)
    victim = {CURRENT: second, PREVIOUS: first}[label]
    before = scene.labels()
    scene.aws.discard(KEY, msgspec.structs.replace(victim, staged=True))
    scene.aws.discard(KEY, victim)
    assert scene.labels() == before


def test_a_late_put_takes_the_staged_label_from_a_version_that_waits_and_takes_nothing_else(scene: Scene) -> None:
    """One run sleeps before it stages version 2; another gives 2 up and dies with 3 staged; then the first wakes."""
    materials = scene.versions(1)
    late: list[Callable[[], Any]] = []

    def sleeping(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        late.append(send)
        raise DiedError

    scene.secrets.between = once("put_secret_value", sleeping)
    with dying():
        scene.force()
    scene.clock.move(minutes=61)

    def dead(_parameters: Parameters, _send: Callable[[], Any]) -> Any:
        raise DiedError

    scene.secrets.between = once("update_secret_version_stage", dead)
    with dying():
        scene.force()
    assert scene.labels()[3] == {"v3", STAGED}
    late[0]()
    assert (scene.labels()[2], scene.labels()[3]) == ({"v2", STAGED}, {"v3"})
    scene.clock.move(minutes=61)
    outcome = scene.force()
    assert outcome.status is Status.ROTATED
    assert scene.materials()[0] == materials[0]
    scene.rotate()
    scene.check()
    assert scene.current() == scene.ids()[max(scene.ids())]


def _discarded_and_promoted_late(scene: Scene) -> Callable[[], Any]:
    """Version 2 was staged by a run that sleeps before it promotes; another found it bad and took its labels away."""
    scene.rotate()
    late: list[Callable[[], Any]] = []

    def sleeping(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        late.append(send)
        raise DiedError

    scene.secrets.between = once("update_secret_version_stage", sleeping)
    with dying():
        scene.force()
    scene.clock.move(minutes=61)
    lying = liars.Faulty(scene.store, "read", liars.flipped_bit)
    scene.force(store=lying)
    assert scene.labels().keys() == {1}
    return late[0]


def test_what_goes_live_after_it_was_discarded_gets_its_number_back(scene: Scene) -> None:
    """Without it AWS might delete the version as soon as the next one is live."""
    promote = _discarded_and_promoted_late(scene)
    promote()
    assert scene.stages()[scene.current()] == [CURRENT]
    scene.clock.move(days=1)
    scene.rotate()
    assert CURRENT in scene.labels()[2]
    assert "v2" in scene.labels()[2]
    assert scene.states()[2] is State.ACTIVE
    scene.check()


def test_what_goes_live_late_while_another_is_on_its_way_gets_its_number_back(scene: Scene) -> None:
    promote = _discarded_and_promoted_late(scene)
    scene.clock.move(days=1)

    def just_before(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        promote()
        return send()

    scene.secrets.between = once("update_secret_version_stage", just_before)
    outcome = scene.force()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 3)
    assert (scene.labels()[2], scene.labels()[3]) == ({"v2", PREVIOUS}, {"v3", CURRENT, STAGED})
    assert scene.states()[2] is State.DECRYPT_ONLY
    scene.check()


# --- archives


def test_more_versions_than_a_secret_has_labels_for(scene: Scene) -> None:
    """With AWS's own limit of 20 labels, which the double keeps; and each where the page for applications says."""
    materials = scene.versions(19)
    assert sum(map(len, scene.stages().values())) <= 20
    assert {*scene.labels()} == set(range(4, 20))
    assert scene.labels(f"{NAME}--archive-1") == {1: {"v1"}, 2: {"v2"}, 3: {"v3"}}
    assert len({material.reveal() for material in materials}) == 19
    assert [row.key for row in scene.aws.inventory()] == [KEY]
    scene.check()


def test_more_archives_than_one_each_found_by_number_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    scene.versions(9)
    archives = {index: scene.labels(f"{NAME}--archive-{index}") for index in (1, 2)}
    assert archives == {1: {1: {"v1"}, 2: {"v2"}, 3: {"v3"}}, 2: {4: {"v4"}, 5: {"v5"}, 6: {"v6"}}}
    assert scene.tags()[layout.ARCHIVES_TAG] == "1-2"
    assert [v.number for v in scene.aws.observe(KEY).versions] == list(range(1, 10))
    scene.check()


TAGGED = {
    "no tag": lambda scene: scene.by_hand("untag_resource", TagKeys=[layout.ARCHIVES_TAG]),
    "no tag of ours": lambda scene: scene.by_hand("untag_resource", TagKeys=list(scene.tags())),
    "a tag that names others": lambda scene: scene.by_hand(
        "tag_resource", Tags=[{"Key": layout.ARCHIVES_TAG, "Value": "7 99"}]
    ),
    "a tag as it was written once": lambda scene: scene.by_hand(
        "tag_resource", Tags=[{"Key": layout.ARCHIVES_TAG, "Value": "1 2"}]
    ),
}


@pytest.mark.parametrize("name", TAGGED)
def test_archives_are_found_whatever_became_of_the_tag(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    few(monkeypatch)
    materials = scene.versions(9)
    TAGGED[name](scene)
    assert scene.service().get(KEY, 1, reveal=True).material == materials[0]
    assert [v.number for v in scene.aws.observe(KEY).versions] == list(range(1, 10))
    assert scene.materials() == materials
    scene.service().disable(KEY, 2)
    assert scene.labels(f"{NAME}--archive-1")[2] == {"disabled-2"}
    scene.service().enable(KEY, 2)
    for _ in range(3):
        scene.clock.move(days=91)
        assert scene.rotate().status is Status.ROTATED
    assert scene.materials()[:9] == materials
    named = layout.read_archives(scene.tags()[layout.ARCHIVES_TAG])
    assert {1, 2, 3} <= named  # once more is archived, the tag is whole again
    scene.check()


def test_adopting_where_the_tag_of_the_archives_was_lost_loses_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    materials = scene.versions(6)
    scene.by_hand("untag_resource", TagKeys=[layout.ARCHIVES_TAG])
    scene.make_current(5)
    assert scene.service().adopt(KEY).status is Status.DONE
    assert not any(record.lost for record in scene.history().versions.values())
    assert scene.materials() == materials
    scene.check()


def test_more_archives_than_a_tag_could_name_one_by_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 1)
    scene.versions(2)
    scene.by_hand("tag_resource", Tags=[{"Key": layout.ARCHIVES_TAG, "Value": " ".join(map(str, range(11, 96)))}])
    for _ in range(3):
        assert scene.force().status is Status.ROTATED
    assert scene.tags()[layout.ARCHIVES_TAG] == "1-2 11-95"
    scene.check()


def test_an_archive_that_is_said_to_hold_no_version_is_not_believed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It always holds one: a reply that lacks them would look as if what lies there were lost."""
    few(monkeypatch)
    materials = scene.versions(6)
    scene.make_current(5)

    def without_versions(operation: str, parameters: Parameters, send: Callable[[], Any]) -> Any:
        reply = send()
        if operation == "describe_secret" and "archive" in parameters["SecretId"]:
            del reply["VersionIdsToStages"]
        return reply

    scene.secrets.between = without_versions
    before = scene.memory.sequences(KEY)
    with pytest.raises(IntegrityError, match="shows not one version"):
        scene.service().adopt(KEY)
    scene.secrets.between = lambda _operation, _parameters, send: send()
    assert scene.memory.sequences(KEY) == before
    assert not any(record.lost for record in scene.history().versions.values())
    assert scene.service().adopt(KEY).status is Status.DONE
    assert scene.materials() == materials
    scene.check()


def test_what_lies_in_an_archive_is_disabled_enabled_and_destroyed_there(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    scene.policy = LOOSE
    materials = scene.versions(6)
    archive = f"{NAME}--archive-1"
    assert scene.labels(archive) == {1: {"v1"}, 2: {"v2"}, 3: {"v3"}}
    scene.service().disable(KEY, 2)
    assert scene.labels(archive)[2] == {"disabled-2"}
    with pytest.raises(RefusedError):
        scene.service().get(KEY, 2, reveal=True)
    scene.check()
    scene.service().enable(KEY, 2)
    assert scene.labels(archive)[2] == {"v2"}
    assert scene.service().get(KEY, 2, reveal=True).material == materials[1]
    scene.check()
    scene.service().destroy(KEY, 2)
    scene.clock.move(days=2)
    assert scene.rotate().notes == ("destroyed: version 2",)
    assert scene.labels(archive) == {1: {"v1"}, 3: {"v3"}}
    scene.check()
    assert scene.states()[2] is State.DESTROYED


def test_a_version_that_is_disabled_when_it_is_archived_stays_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    materials = scene.versions(3)
    scene.service().disable(KEY, 1)
    scene.force()
    assert scene.labels(f"{NAME}--archive-1") == {1: {"disabled-1"}}
    scene.check()
    scene.service().enable(KEY, 1)
    assert scene.materials()[:3] == materials
    scene.check()


def test_an_adopted_value_is_archived_as_it_is(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    scene.console.call("create_secret", "by hand", Name=NAME, SecretBinary=bytes(range(32)))
    scene.service().adopt(KEY)
    for _ in range(4):
        scene.force()
    assert scene.labels(f"{NAME}--archive-1") == {1: {"v1"}, 2: {"v2"}}
    assert scene.materials()[0].reveal() == bytes(range(32))
    scene.check()


@pytest.mark.parametrize("first", [True, False], ids=["new archive", "archive that is there"])
def test_archiving_that_dies_at_any_write_loses_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    few(monkeypatch)
    materials = scene.versions(3 if first else 4)
    for where in deaths(scene, scene.force):
        assert scene.materials()[: len(materials)] == materials, where
        shown = [version.number for version in scene.aws.observe(KEY).versions]
        assert shown == sorted(set(shown)), where
        scene.clock.move(days=91)
        assert scene.rotate().status is Status.ROTATED, where
        assert scene.problems() == [], where  # every version was read, and is what it was
        assert f"v{len(materials) - 2}" in scene.labels(f"{NAME}--archive-1")[len(materials) - 2], where


@pytest.mark.parametrize("change", ["disable", "enable"])
def test_what_was_half_archived_when_it_is_disabled_or_enabled_is_so_in_both_places(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    few(monkeypatch)
    scene.versions(3)
    if change == "enable":
        scene.service().disable(KEY, 1)
    first = location(scene.history().versions[1])
    shown = {"disable": "disabled-1", "enable": "v1"}[change]
    for where in deaths(scene, scene.force):
        getattr(scene.aws, change)(KEY, first)
        for labels in (scene.labels(), scene.labels(f"{NAME}--archive-1") if f"{NAME}--archive-1" in vault() else {}):
            assert labels.get(1, {shown}) == {shown}, where
        scene.clock.move(days=91)
        assert scene.rotate().status is Status.ROTATED, where
        assert scene.labels(f"{NAME}--archive-1")[1] == {shown}, where


def test_a_version_that_is_archived_between_two_labels_stays_readable(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is disabled it has both labels; AWS shows them in no order."""
    few(monkeypatch)
    materials = scene.versions(3)
    vault()[NAME].versions[scene.ids()[1]]["version_stages"] = ["disabled-1", "v1"]
    scene.force()
    assert scene.labels(f"{NAME}--archive-1") == {1: {"v1"}}
    assert scene.materials()[:3] == materials
    scene.check()


def test_what_readers_get_is_never_archived_however_old_it_is(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    materials = scene.versions(3)
    scene.make_current(1)
    scene.service().adopt(KEY)
    assert scene.force().status is Status.ROTATED
    assert scene.labels() == {1: {"v1", PREVIOUS}, 3: {"v3"}, 4: {"v4", CURRENT, STAGED}}
    assert scene.labels(f"{NAME}--archive-1") == {2: {"v2"}}
    assert scene.materials()[:3] == materials
    scene.check()


def test_a_copy_that_is_not_what_was_copied_costs_the_original_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    materials = scene.versions(3)

    def flipped(parameters: Parameters, send: Callable[[], Any]) -> Any:
        assert parameters["SecretId"] == NAME
        scene.secrets.between = once("get_secret_value", altered)
        return send()

    def altered(parameters: Parameters, send: Callable[[], Any]) -> Any:
        assert parameters["SecretId"] == f"{NAME}--archive-1"
        return {**send(), "SecretString": "something else"}

    scene.secrets.between = once("get_secret_value", flipped)
    outcome = scene.force()
    assert outcome.status is Status.FAILED
    assert "is not what was copied" in outcome.message
    assert scene.labels()[1] == {"v1"}
    scene.clock.move(days=91)
    scene.rotate()
    assert scene.materials()[:3] == materials
    scene.check()


def test_an_archive_that_waits_for_its_deletion_stops_everything_and_costs_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    materials = scene.versions(5)
    archive = f"{NAME}--archive-1"
    scene.by_hand("delete_secret", archive)
    before = scene.labels()
    scene.clock.move(days=90)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert f"{archive} is scheduled for deletion" in outcome.message
    assert archive in outcome.hint
    assert scene.labels() == before
    assert any("scheduled for deletion" in problem for problem in scene.problems())
    scene.by_hand("restore_secret", archive)
    assert scene.rotate().status is Status.ROTATED
    assert scene.materials()[:5] == materials
    scene.check()
