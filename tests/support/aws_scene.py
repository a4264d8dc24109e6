"""A world on the AWS store, with a wire to listen to, and a person who has the console."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from moto.secretsmanager.models import secretsmanager_backends

from daena_kms.holdings import location
from daena_kms.material import KeyMaterial
from daena_kms.model import KeySpec, State, Status, StoredVersion
from daena_kms.plan import rotation_id
from daena_kms.policy import KeyPolicy
from daena_kms.stores import aws_layout as layout
from daena_kms.stores.aws import AwsStore
from daena_kms.stores.aws_calls import Client
from daena_kms.stores.aws_layout import CURRENT
from daena_kms.stores.base import NewVersion, Prepared
from tests.support import aws_world
from tests.support.aws_world import PREFIX, REGION
from tests.support.doubles import MemoryLedger
from tests.support.worlds import KEY, Backend, Clock, World

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
        account, ledger = aws_world.account(), ledger or MemoryLedger()
        self.account = account
        self.console = account.aws.client("secretsmanager")
        self.secrets, self.kms = Wire(self.console), Wire(account.aws.client("kms"))
        self.naps: list[float] = []
        self.aws = AwsStore(
            cast("Client", self.secrets),
            cast("Client", self.kms),
            kms_key=account.key,
            prefix=prefix,
            ledger=ledger.address,
            actor="arn:tester",
            pace=aws_world.QUICK,
            sleep=self.naps.append,
        )
        super().__init__(Backend(self.aws, ledger), Clock(), policy)

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
        objects, now, before = dict(self.memory.objects), self.clock.now, copied(vault())

        def restore() -> None:
            self.memory.objects, self.clock.now = dict(objects), now
            aws_world.emptied()
            for name, secret in copied(before).items():
                dict.__setitem__(vault(), name, secret)

        return restore

    @property
    def memory(self) -> MemoryLedger:
        return cast("MemoryLedger", self.ledger)


def vault() -> dict[str, Any]:
    """The double's own secrets."""
    return cast("dict[str, Any]", secretsmanager_backends[ACCOUNT][REGION].secrets)


def copied(secrets: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for name in dict.keys(secrets):
        secret = dict.__getitem__(secrets, name)
        made[name] = copy.copy(secret)
        vars(made[name]).update(copy.deepcopy(vars(secret)))
    return made


def new_version(number: int) -> NewVersion:
    return NewVersion(number, rotation_id(KEY, 1, number), f"1:fingerprint-{number}", SPEC.name)


def stage(scene: Scene, number: int) -> tuple[StoredVersion, Prepared]:
    prepared = scene.aws.prepare(KEY, number, SPEC)
    return scene.aws.stage(KEY, new_version(number), prepared), prepared


def publish(scene: Scene, number: int, planned: StoredVersion | None = None) -> StoredVersion:
    staged, prepared = stage(scene, number)
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
            vault()[NAME].versions[version]["createdate"] = (THEN + timedelta(days=day)).timestamp()
        return self


def few(monkeypatch: pytest.MonkeyPatch, kept: int = 3) -> None:
    """Archives from the fourth version on: what is tested is the same, and sooner there."""
    monkeypatch.setattr(layout, "KEPT_VERSIONS", kept)
