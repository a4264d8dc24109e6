"""The AWS store beyond the contract: what lies in the account, who else writes there, and replies that are wrong."""

import copy
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from moto.secretsmanager.models import secretsmanager_backends

from daena_kms.changes import location
from daena_kms.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from daena_kms.material import KeyMaterial
from daena_kms.model import KeySpec, State, Status, StoredVersion
from daena_kms.plan import rotation_id
from daena_kms.policy import KeyPolicy
from daena_kms.stores import aws_layout as layout
from daena_kms.stores.aws import AwsStore
from daena_kms.stores.aws_calls import Client
from daena_kms.stores.aws_layout import CURRENT, NO_VERSION, PENDING, PREVIOUS, STAGED
from daena_kms.stores.base import NewVersion, Prepared
from tests.cli.sandbox import Result, Sandbox
from tests.support import aws_world, liars
from tests.support.aws_world import BUCKET, PREFIX, REGION
from tests.support.doubles import MemoryLedger
from tests.support.worlds import KEY, START, Backend, Clock, DiedError, Effects, Mortal, World, dying

NAME = PREFIX + KEY
SPEC = KeySpec.parse("AES-256")
ACCOUNT = "123456789012"
MAKE = KeyPolicy(create=True)
LOOSE = KeyPolicy(create=True, grace_days=0, destroy_after_days=1)
WRITES = {"create_secret", "put_secret_value", "update_secret_version_stage", "tag_resource"}
Parameters = dict[str, Any]
Between = Callable[[str, Parameters, Callable[[], Any]], Any]


class Wire:
    """A client of AWS with somebody in between, who sees every call and may do otherwise."""

    def __init__(self, client: Client) -> None:
        self.calls: list[str] = []
        self.between: Between = lambda _operation, _parameters, send: send()
        self._client = client

    @property
    def region(self) -> str:
        return self._client.region

    def call(self, operation: str, subject: str, **parameters: Any) -> Any:
        self.calls.append(operation)
        return self.between(operation, parameters, lambda: self._client.call(operation, subject, **parameters))

    def pages(self, operation: str, subject: str, **parameters: Any) -> Any:
        self.calls.append(operation)
        return self.between(operation, parameters, lambda: self._client.pages(operation, subject, **parameters))


class Scene(World):
    """A world on the AWS store, with a wire to listen to, and a person who has the console."""

    def __init__(self, policy: KeyPolicy = MAKE, prefix: str = PREFIX, ledger: MemoryLedger | None = None) -> None:
        account = aws_world.account()
        self.account = account
        self.console = account.aws.client("secretsmanager")
        self.secrets, self.kms = Wire(self.console), Wire(account.aws.client("kms"))
        self.naps: list[float] = []
        self.aws = AwsStore(
            cast("Client", self.secrets),
            cast("Client", self.kms),
            kms_key=account.key,
            prefix=prefix,
            ledger=MemoryLedger.address,
            actor="arn:tester",
            sleep=self.naps.append,
        )
        super().__init__(Backend(self.aws, ledger or MemoryLedger()), Clock(), policy)

    # --- what a person sees and does

    def by_hand(self, operation: str, secret: str = NAME, **parameters: object) -> dict[str, Any]:
        return self.console.call(operation, "by hand", SecretId=secret, **parameters)

    def stages(self, secret: str = NAME) -> dict[str, list[str]]:
        found: dict[str, list[str]] = self.by_hand("describe_secret", secret).get("VersionIdsToStages", {})
        return found

    def labels(self, secret: str = NAME) -> dict[int, set[str]]:
        """The labels of every version that has a number of ours."""
        stages = self.stages(secret)
        return {n: set(labels) for i, labels in stages.items() if (n := layout.read_number(i, labels))}

    def ids(self, secret: str = NAME) -> dict[int, str]:
        """The version ids by number."""
        return {n: i for i, labels in self.stages(secret).items() if (n := layout.read_number(i, labels))}

    def current(self, secret: str = NAME) -> str:
        """The id of the version that readers get."""
        return next(i for i, labels in self.stages(secret).items() if CURRENT in labels)

    def move(self, label: str, target: str, source: str = "") -> None:
        removing = {"RemoveFromVersionId": source} if source else {}
        self.by_hand("update_secret_version_stage", VersionStage=label, MoveToVersionId=target, **removing)

    def make_current(self, number: int) -> None:
        """What the console does on `Make current version`."""
        self.move(CURRENT, self.ids()[number], self.current())

    def tags(self, secret: str = NAME) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self.by_hand("describe_secret", secret).get("Tags", [])}

    # --- short ways

    def versions(self, count: int) -> list[KeyMaterial]:
        """Rotate until the key has so many versions; their materials, the first first."""
        self.rotate()
        for _ in range(count - 1):
            assert self.force().status is Status.ROTATED
        return self.materials()

    def materials(self) -> list[KeyMaterial]:
        records = self.history().versions
        return [self.aws.read(KEY, location(records[number])) for number in sorted(records)]

    def states(self) -> dict[int, State]:
        return {number: record.state for number, record in self.history().versions.items()}

    def save(self) -> Callable[[], None]:
        """Remember everything; what is returned puts it back."""
        objects, now, vault = dict(self.memory.objects), self.clock.now, _copied(_vault())

        def restore() -> None:
            self.memory.objects, self.clock.now = dict(objects), now
            aws_world.emptied()
            for name, secret in _copied(vault).items():
                dict.__setitem__(_vault(), name, secret)

        return restore

    @property
    def memory(self) -> MemoryLedger:
        return cast("MemoryLedger", self.ledger)


def _vault() -> dict[str, Any]:
    """The double's own secrets."""
    return cast("dict[str, Any]", secretsmanager_backends[ACCOUNT][REGION].secrets)


def _copied(secrets: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for name in dict.keys(secrets):
        secret = dict.__getitem__(secrets, name)
        made[name] = copy.copy(secret)
        vars(made[name]).update(copy.deepcopy(vars(secret)))
    return made


@pytest.fixture
def scene() -> Iterator[Scene]:
    aws_world.emptied()
    yield Scene()
    aws_world.emptied()


def _new(number: int) -> NewVersion:
    return NewVersion(number, rotation_id(KEY, 1, number), f"1:fingerprint-{number}", SPEC.name)


def _stage(scene: Scene, number: int) -> tuple[StoredVersion, Prepared]:
    prepared = scene.aws.prepare(KEY, number, SPEC)
    return scene.aws.stage(KEY, _new(number), prepared), prepared


def _publish(scene: Scene, number: int, planned: StoredVersion | None = None) -> StoredVersion:
    staged, prepared = _stage(scene, number)
    return scene.aws.promote(KEY, staged, planned, prepared.material)


def once(operation: str, fault: Callable[[Parameters, Callable[[], Any]], Any]) -> Between:
    """Something else for the first call of an operation."""
    done: list[str] = []

    def between(asked: str, parameters: Parameters, send: Callable[[], Any]) -> Any:
        if asked != operation or done:
            return send()
        done.append(asked)
        return fault(parameters, send)

    return between


def promoting(operation: str, parameters: Parameters) -> bool:
    return operation == "update_secret_version_stage" and parameters["VersionStage"] == CURRENT


# --- nothing is live before it was verified


def test_nothing_is_live_before_it_was_promoted_not_even_the_first_version(scene: Scene) -> None:
    live: list[tuple[str, str]] = []

    def watching(operation: str, parameters: Parameters, send: Callable[[], Any]) -> Any:
        before = scene.current() if NAME in _vault() else ""
        reply = send()
        after = scene.current() if NAME in _vault() else ""
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
        staged = list(pool.map(lambda prepared: scene.aws.stage(KEY, _new(1), prepared), everyone))
        read = list(pool.map(lambda version: scene.aws.read(KEY, version), staged))
    assert len({version.version_id for version in staged}) == 1
    assert all(material == read[0] for material in read)
    assert [prepared.material for prepared in everyone].count(read[0]) == 1


def test_staging_again_with_other_bytes_keeps_the_first(scene: Scene) -> None:
    first, prepared = _stage(scene, 1)
    second, other = _stage(scene, 1)
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
    return _stage(scene, 3)


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


def test_an_envelope_of_another_key_or_number_does_not_open(scene: Scene) -> None:
    """Two versions' values swapped behind our back: KMS would refuse too, this says what is wrong."""
    first, second = scene.versions(2)
    values = {n: scene.by_hand("get_secret_value", VersionId=i)["SecretString"] for n, i in scene.ids().items()}
    found = _vault()[NAME].versions
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
    staged, _ = _stage(scene, 1)
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
    first = _publish(scene, 1)
    foreign = scene.by_hand("put_secret_value", SecretString="x" * 32, VersionStages=["mine"])["VersionId"]
    before = scene.stages()
    with pytest.raises(RefusedError, match="it is taken"):
        scene.aws.label(KEY, first, _new(2))
    with pytest.raises(RefusedError, match="it is taken"):
        scene.aws.label(KEY, StoredVersion(0, foreign), _new(1))
    assert scene.stages() == before
    assert scene.aws.label(KEY, StoredVersion(0, foreign), _new(2)).number == 2
    assert scene.aws.label(KEY, first, _new(1)).number == 1
    assert (scene.labels()[1], scene.labels()[2]) == ({"v1", CURRENT, STAGED}, {"v2", "mine"})


# --- disable, enable, destroy, discard


def test_a_disabled_version_is_found_by_no_label_of_a_readers(scene: Scene) -> None:
    first = _publish(scene, 1)
    _publish(scene, 2, first)
    assert scene.labels()[1] == {"v1", PREVIOUS}
    scene.aws.disable(KEY, first)
    assert scene.labels() == {1: {"disabled-1"}, 2: {"v2", CURRENT, STAGED}}
    for label in ("v1", PREVIOUS):
        with pytest.raises(NotFoundError):
            scene.by_hand("get_secret_value", VersionStage=label)
    with pytest.raises(RefusedError, match="disabled") as refused:
        scene.aws.read(KEY, first)
    assert "enable" in refused.value.hint


def test_an_enabled_version_is_found_by_its_number_again(scene: Scene) -> None:
    first = _publish(scene, 1)
    _publish(scene, 2, first)
    material = scene.aws.read(KEY, first)
    scene.aws.disable(KEY, first)
    scene.aws.enable(KEY, first)
    assert scene.labels()[1] == {"v1"}
    assert scene.aws.read(KEY, first) == material


def test_a_destroyed_version_has_no_label_left(scene: Scene) -> None:
    first = _publish(scene, 1)
    _publish(scene, 2, first)
    scene.aws.destroy(KEY, first)
    scene.aws.destroy(KEY, first)
    scene.aws.enable(KEY, first)
    assert scene.labels() == {2: {"v2", CURRENT, STAGED}}
    with pytest.raises(RefusedError, match="lost its labels"):
        scene.aws.read(KEY, first)


def test_a_destroyed_version_that_aws_has_deleted_is_not_there(scene: Scene) -> None:
    first = _publish(scene, 1)
    _publish(scene, 2, first)
    scene.aws.destroy(KEY, first)
    del _vault()[NAME].versions[first.version_id]
    scene.aws.destroy(KEY, first)
    with pytest.raises(NotFoundError):
        scene.aws.read(KEY, first)


@pytest.mark.parametrize("change", ["disable", "destroy"])
def test_what_readers_get_is_neither_disabled_nor_destroyed(scene: Scene, change: str) -> None:
    first = _publish(scene, 1)
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
    first = _publish(scene, 1)
    _publish(scene, 2, first)
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
    first = _publish(scene, 1)
    staged, _ = _stage(scene, 2)
    scene.aws.discard(KEY, staged)
    assert scene.labels() == {1: {"v1", CURRENT}}
    scene.aws.discard(KEY, staged)
    assert scene.aws.observe(KEY).versions == (first,)


def test_a_version_that_was_published_is_not_discarded(scene: Scene) -> None:
    first = _publish(scene, 1)
    _publish(scene, 3, _publish(scene, 2, first))
    before = scene.labels()
    assert before[1] == {"v1"}
    scene.aws.discard(KEY, first)
    assert scene.labels() == before


@pytest.mark.parametrize("label", [CURRENT, PREVIOUS])
def test_what_readers_may_get_is_never_discarded_whatever_a_run_believes(scene: Scene, label: str) -> None:
    first = _publish(scene, 1)
    second = _publish(scene, 2, first)
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
    assert any("version 2 is active, but: the material" in problem for problem in scene.problems())
    with pytest.raises(IntegrityError):  # what was swapped is not taken in under a number that has its material
        scene.service().adopt(KEY)
    assert scene.stages() == before
    scene.clock.move(minutes=61)
    scene.move(CURRENT, ours, put)
    scene.move("v2", ours, put)
    scene.by_hand("update_secret_version_stage", VersionStage="mine", RemoveFromVersionId=put)
    scene.by_hand("update_secret_version_stage", VersionStage=PREVIOUS, RemoveFromVersionId=put)
    assert scene.materials() == materials
    assert scene.rotate().status is Status.ROTATED
    scene.check()


def test_a_secret_with_labels_like_ours_is_adopted_under_those_numbers(scene: Scene) -> None:
    there = Foreign(scene, SecretString="older").put("newer").aged(1, 2)
    scene.move("v7", there.made[1])
    assert scene.service().adopt(KEY).number == 7
    assert scene.labels()[7] == {"v7", CURRENT}
    assert {material.reveal() for material in scene.materials()} == {b"older", b"newer"}
    scene.check()
    assert scene.force().number == 9
    scene.check()


# --- archives


def few(monkeypatch: pytest.MonkeyPatch, kept: int = 3) -> None:
    """Archives from the fourth version on: what is tested is the same, and sooner there."""
    monkeypatch.setattr(layout, "KEPT_VERSIONS", kept)


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
    assert scene.tags()[layout.ARCHIVES_TAG] == "1 2"
    assert [v.number for v in scene.aws.observe(KEY).versions] == list(range(1, 10))
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


# --- adopting

DAY = 86_400
THEN = datetime(2025, 6, 1, tzinfo=UTC)


class Foreign:
    """A secret that somebody else made, with its versions' ages."""

    def __init__(self, scene: Scene, **value: object) -> None:
        self.scene = scene
        self.made = [str(scene.console.call("create_secret", "by hand", Name=NAME, **value)["VersionId"])]

    def put(self, value: str, *stages: str) -> "Foreign":
        named: dict[str, Any] = {"VersionStages": list(stages)} if stages else {}
        self.made.append(str(self.scene.by_hand("put_secret_value", SecretString=value, **named)["VersionId"]))
        return self

    def aged(self, *days: int) -> "Foreign":
        """So many days after THEN each version was made."""
        for version, day in zip(self.made, days, strict=True):
            _vault()[NAME].versions[version]["createdate"] = (THEN + timedelta(days=day)).timestamp()
        return self


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


def test_an_adoption_that_dies_anywhere_can_be_asked_again(scene: Scene) -> None:
    Foreign(scene, SecretString="older").put("newer").aged(1, 2)
    restore, boundary = scene.save(), 0
    while True:
        boundary += 1
        restore()
        effects = Effects(boundary)
        service = scene.service(store=Mortal(scene.store, effects), ledger=Mortal(scene.ledger, effects))
        with dying():
            service.adopt(KEY)
        if len(effects.names) < boundary:
            break
        scene.clock.move(minutes=61)
        if State.ACTIVE not in scene.states().values():
            assert scene.service().adopt(KEY).status is Status.DONE, effects.names
        assert [material.reveal() for material in scene.materials()] == [b"older", b"newer"], effects.names
        assert scene.states() == {1: State.DECRYPT_ONLY, 2: State.ACTIVE}
        scene.rotate()
        assert scene.problems() == []
    assert boundary > 8


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
    assert NAME not in _vault()
    assert scene.service().create(KEY, anew=True).status is Status.CREATED
    assert scene.current() == scene.ids()[3]
    scene.check()


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


# --- settings that cannot be used

POLICY = f"[keys.{KEY}]\ncreate = true\n"


class Office:
    """The command, with settings for the double's account."""

    used: object = None

    def __init__(self, folder: Path) -> None:
        self.account = aws_world.account()
        self.sandbox = Sandbox(folder, policy=POLICY)
        gc.freeze()  # a sandbox collects garbage after each call: what is there by now stays

    def lived_in(self) -> object:
        """A key that is due; made again only if somebody changed something. Returns everything there is."""
        if Office.used is None or self.everything() != Office.used:
            aws_world.emptied()
            assert self.run("rotate").status == 0
            Office.used = self.everything()
        self.sandbox.days = 90
        return Office.used

    def empty(self) -> object:
        """An account in which nothing was made. Returns everything there is."""
        aws_world.emptied()
        return self.everything()

    def run(self, *arguments: str, **environment: str) -> Result:
        return self.sandbox.run(*arguments, **{**self.account.environment(), **environment})

    def kms(self, operation: str, **parameters: object) -> dict[str, Any]:
        return self.account.aws.client("kms").call(operation, "a KMS key", **parameters)

    def key(self, *, state: str = "", **spec: str) -> str:
        """The ARN of another KMS key."""
        made = str(self.kms("create_key", **spec)["KeyMetadata"]["Arn"])
        if state == "disabled":
            self.kms("disable_key", KeyId=made)
        if state == "pending deletion":
            self.kms("schedule_key_deletion", KeyId=made, PendingWindowInDays=7)
        return made

    def everything(self) -> object:
        """Every secret with its versions, labels, values and tags; every version of every object."""
        secrets = {name: (secret.versions, secret.tags) for name, secret in _copied(_vault()).items()}
        pages = self.account.aws.client("s3").pages("list_object_versions", BUCKET, Bucket=BUCKET)
        kinds = ("Versions", "DeleteMarkers")
        entries = [entry for page in pages for kind in kinds for entry in page.get(kind, ())]
        return secrets, sorted((entry["Key"], entry["VersionId"], entry.get("ETag", "")) for entry in entries)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "work")


Environment = Callable[[Office], dict[str, str]]


def kms_key(state: str = "", **spec: str) -> Environment:
    return lambda office: {"AWS_KMS_KEY_ID": office.key(state=state, **spec)}


def setting(**environment: str) -> Environment:
    return lambda _: environment


RSA = {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}
HMAC = {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}
NOWHERE = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"

# name: (what is set, exit status where nothing was made yet and where a key is due, words of the error, of the hint)
UNUSABLE: dict[str, tuple[Environment, int, int, str, str]] = {
    "wrong region": (
        setting(AWS_REGION="eu-central-1"), 2, 2, "is not in the region eu-central-1", "AWS_REGION",
    ),
    "no KMS key": (setting(AWS_KMS_KEY_ID=""), 2, 2, "AWS_KMS_KEY_ID is not set", "symmetric"),
    "unknown KMS key": (setting(AWS_KMS_KEY_ID=NOWHERE), 2, 1, "NotFoundException", "AWS_KMS_KEY_ID"),
    "unknown alias": (setting(AWS_KMS_KEY_ID="alias/nobody"), 2, 1, "NotFoundException", "AWS_KMS_KEY_ID"),
    "asymmetric KMS key": (kms_key(**RSA), 2, 1, "InvalidKeyUsageException", "symmetric"),
    "HMAC KMS key": (kms_key(**HMAC), 2, 1, "InvalidKeyUsageException", "symmetric"),
    "disabled KMS key": (kms_key("disabled"), 2, 1, "DisabledException", "aws kms enable-key"),
    "dying KMS key": (kms_key("pending deletion"), 2, 1, "KMSInvalidStateException", "aws kms cancel-key-deletion"),
    "unknown bucket": (
        setting(DAENA_MANIFEST_URL="s3://no-such-bucket/manifests"), 2, 2, "NoSuchBucket", "DAENA_MANIFEST_URL",
    ),
    "bucket without a folder": (
        setting(DAENA_MANIFEST_URL=f"s3://{BUCKET}"), 2, 2, "is no S3 address", "s3://bucket/folder",
    ),
    "malformed address": (
        setting(DAENA_MANIFEST_URL="s3:/manifests"), 2, 2, "is no S3 address", "s3://bucket/folder",
    ),
    "another cloud's address": (
        setting(DAENA_MANIFEST_URL="gs://bucket/manifests"), 2, 2, "DAENA_MANIFEST_URL", "s3://bucket/folder",
    ),
    "no policy in S3": (
        setting(DAENA_POLICY=f"s3://{BUCKET}/daena-kms.toml"), 2, 2, f"there is no s3://{BUCKET}", "DAENA_POLICY",
    ),
    "unknown profile": (setting(AWS_PROFILE="production"), 2, 2, "AWS_PROFILE", "aws configure list-profiles"),
    "no credentials": (
        setting(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", AWS_SHARED_CREDENTIALS_FILE="none"),
        2, 2, "there are no AWS credentials", "aws sts get-caller-identity",
    ),
    "malformed endpoint": (setting(AWS_ENDPOINT_URL="not an address"), 2, 2, "can be made", "AWS_"),
}  # fmt: skip


def _told(result: Result) -> tuple[str, str]:
    """What went wrong and the hint, wherever the command wrote it."""
    lines = [*result.err.splitlines(), *result.out.splitlines()]
    hints = [line for line in lines if "hint: " in line]
    return "\n".join(line for line in lines if line not in hints), "\n".join(hints)


@pytest.mark.parametrize("in_use", [False, True], ids=["nothing made yet", "a key is due"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_a_clear_error_and_changes_nothing(office: Office, name: str, in_use: bool) -> None:
    made, fresh_status, used_status, words, hint = UNUSABLE[name]
    before = office.lived_in() if in_use else office.empty()
    environment = made(office)
    result = office.run("rotate", **environment)
    error, hints = _told(result)
    assert result.status == (used_status if in_use else fresh_status), result
    assert words in error
    assert hint in hints
    assert "Traceback" not in error
    assert office.everything() == before


@pytest.mark.parametrize(
    ("state", "error"), [("disabled", "DisabledException"), ("pending deletion", "KMSInvalidStateException")]
)
def test_a_kms_key_that_cannot_be_used_for_a_while_stops_everything_and_changes_nothing(
    office: Office, state: str, error: str
) -> None:
    office.empty()
    key = office.key()
    assert office.run("rotate", AWS_KMS_KEY_ID=key).status == 0
    office.sandbox.days = 90
    if state == "disabled":
        office.kms("disable_key", KeyId=key)
    else:
        office.kms("schedule_key_deletion", KeyId=key, PendingWindowInDays=7)
    before = office.everything()
    for command in ("rotate", "verify", "status"):
        result = office.run(command, AWS_KMS_KEY_ID=key)
        assert result.status == 2, result
        assert error in _told(result)[0]
        assert "enable-key" in _told(result)[1]
    assert office.everything() == before
    if state != "disabled":
        office.kms("cancel_key_deletion", KeyId=key)
    office.kms("enable_key", KeyId=key)
    done = office.run("rotate", AWS_KMS_KEY_ID=key)
    assert (done.status, "promoted: version 2" in done.out) == (0, True), done


@pytest.mark.parametrize("operation", ["generate_data_key", "decrypt"])
@pytest.mark.parametrize("change", ["disable_key", "schedule_key_deletion"])
def test_a_kms_key_that_fails_in_a_rotation_burns_no_number_and_is_no_failed_check(
    scene: Scene, operation: str, change: str
) -> None:
    scene.rotate()
    kms = scene.account.aws.client("kms")
    key = str(kms.call("create_key", "another")["KeyMetadata"]["Arn"])
    scene.aws._kms_key = key
    scene.clock.move(days=90)

    def fails(_parameters: Parameters, send: Callable[[], Any]) -> Any:
        kms.call(change, "the key", KeyId=key)
        return send()

    scene.kms.between = once(operation, fails)
    outcome = scene.rotate()
    assert outcome.status is Status.FAILED
    assert "enable-key" in outcome.hint
    state = scene.history().entries[-1].state
    assert (state.failures, state.burnt, state.highest) == (0, (), 1 if operation == "generate_data_key" else 2)
    if change == "schedule_key_deletion":
        kms.call("cancel_key_deletion", "the key", KeyId=key)
    kms.call("enable_key", "the key", KeyId=key)
    scene.clock.move(minutes=61)
    outcome = scene.rotate()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    assert list(scene.history().versions) == [1, 2]
    scene.check()


def test_a_policy_in_s3_is_read_from_there(office: Office) -> None:
    office.empty()
    s3 = office.account.aws.client("s3")
    s3.call("put_object", "the policy", Bucket=BUCKET, Key="daena-kms.toml", Body=POLICY.encode())
    (office.sandbox.folder / "daena-kms.toml").unlink()
    result = office.run("rotate", DAENA_POLICY=f"s3://{BUCKET}/daena-kms.toml")
    assert (result.status, "created: version 1" in result.out) == (0, True), result


def test_a_kms_key_may_be_named_by_arn_id_or_alias(office: Office) -> None:
    office.empty()
    arn = office.key()
    alias = f"alias/daena-{arn[-12:]}"
    office.kms("create_alias", AliasName=alias, TargetKeyId=arn)
    named = [arn, arn.partition("key/")[2], alias, f"arn:aws:kms:{REGION}:{ACCOUNT}:{alias}"]
    for number, name in enumerate(named, 1):
        result = office.run("rotate", "--all", "--force", "--yes", AWS_KMS_KEY_ID=name)
        assert (result.status, f"version {number}" in result.out) == (0, True), result
    assert office.run("verify").status == 0
