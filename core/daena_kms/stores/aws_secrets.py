"""What can be done to one secret of AWS Secrets Manager, every reply checked against what was asked."""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ..errors import ExistsError, IntegrityError, NotFoundError, UnavailableError
from . import aws_layout as layout
from .aws_calls import Client, Reply
from .pace import Pace

# Reads lag behind writes by seconds at most; listings by minutes (botocore: ListSecrets, "eventually consistent").
PATIENCE_SECONDS = (0.2, 0.8, 2.0)
# A little less than AWS's quota, 50 a second in a region: PutSecretValue and UpdateSecretVersionStage together (AWS:
# "AWS Secrets Manager quotas"; TagResource has another of 50). For not all take the same time on their way; and evenly,
# since in one second there is no room for two bursts.
WRITES, PER_SECONDS = 1, 1 / 47
_PAGE = 100
_DESCRIPTION = "An encryption key, rotated by daena-kms; wrapped by KMS. See docs/aws-applications.md of daena-kms."

Stages = dict[str, list[str]]


class Secrets:
    """Secrets by name. Knows labels and values, not what they mean."""

    def __init__(self, client: Client, *, ledger: str, pace: Pace, sleep: Callable[[float], None]) -> None:
        self.region = client.region
        self._client = client
        self._ledger = ledger
        self._pace = pace
        self._sleep = sleep

    def listed(self, prefix: str) -> list[Reply]:
        """Every secret whose name begins with `prefix`, without those that wait for deletion."""
        filters = [{"Key": "name", "Values": [prefix]}] if prefix else []
        pages = self._client.pages("list_secrets", "the keys", Filters=filters, PaginationConfig={"PageSize": _PAGE})
        return [entry for page in pages for entry in page["SecretList"]]

    def describe(self, name: str) -> Reply:
        """Labels and tags. Raises NotFoundError, or UnavailableError for a secret that waits for its deletion."""
        found = self._client.call("describe_secret", name, SecretId=name)
        check(found["Name"] == name, f"asked about the secret {name}, told about {found['Name']}")
        if "DeletedDate" in found:
            # A removed key is not a missing one: nothing may be made in its place.
            raise UnavailableError(
                f"the secret {name} is scheduled for deletion",
                f"`aws secretsmanager restore-secret --secret-id {name}` takes that back",
            )
        found.setdefault("VersionIdsToStages", {})
        return found

    def stages(self, name: str) -> Stages:
        """Version id -> labels, of every version that has one."""
        stages: Stages = self.describe(name)["VersionIdsToStages"]
        return stages

    def made(self, name: str) -> dict[str, datetime]:
        """Version id -> the time when AWS took it in; those without any label too, while AWS keeps them."""
        found: dict[str, datetime] = {}
        asked: dict[str, object] = {"SecretId": name, "MaxResults": _PAGE, "IncludeDeprecated": True}
        more: dict[str, str] = {}
        while True:  # botocore has no paginator for this one
            page = self._client.call("list_secret_version_ids", name, **asked, **more)
            check(page["Name"] == name, f"asked about the versions of {name}, told about those of {page['Name']}")
            found.update({v["VersionId"]: v["CreatedDate"].astimezone(UTC) for v in page["Versions"]})
            if "NextToken" not in page:
                return found
            more = {"NextToken": page["NextToken"]}

    def put(self, name: str, identity: str, value: Mapping[str, object], labels: tuple[str, ...], *, new: bool) -> None:
        """Write a version, unless one of that id is there; make the secret if it is not there (`new`: it hardly is)."""
        parameters = {"SecretId": name, "ClientRequestToken": identity, "VersionStages": list(labels), **value}
        if new:
            self._make(name)
        try:
            self._put(name, identity, parameters)
        except NotFoundError:
            self._make(name)
            self._put(name, identity, parameters)

    def _put(self, name: str, identity: str, parameters: Mapping[str, object]) -> None:
        self._pace.wait()
        # Another run's bytes under that id: whoever was first wins, and what lies there is read back.
        with contextlib.suppress(ExistsError):
            reply = self._client.call("put_secret_value", name, **parameters)
            told = (reply["Name"], reply["VersionId"])
            check(told == (name, identity), f"wrote version {identity} of {name}, told {told}")

    def _make(self, name: str) -> None:
        with contextlib.suppress(ExistsError):  # another run made it just now
            reply = self._client.call(
                "create_secret",
                name,
                Name=name,
                Description=_DESCRIPTION,
                ClientRequestToken=layout.NO_VERSION,
                SecretString=layout.NO_VERSION_VALUE,
                Tags=[{"Key": layout.LEDGER_TAG, "Value": self._ledger}],
            )
            told = (reply["Name"], reply["VersionId"])
            check(told == (name, layout.NO_VERSION), f"made the secret {name} without a version of ours, told {told}")

    def get(self, name: str, identity: str, label: str = "") -> Reply:
        """A version's value; with `label`, only if it has that label (RejectedError otherwise)."""
        labelled = {"VersionStage": label} if label else {}
        reply = self._client.call("get_secret_value", name, SecretId=name, VersionId=identity, **labelled)
        told = (reply["Name"], reply["VersionId"])
        check(told == (name, identity), f"asked for version {identity} of {name}, got {told}")
        return reply

    def patiently(self, attempt: Callable[[], Reply]) -> Reply:
        """For what was written just now: it may take a moment until it can be seen."""
        for pause in PATIENCE_SECONDS:
            try:
                return attempt()
            except NotFoundError:
                self._sleep(pause)
        return attempt()

    def move_label(self, name: str, label: str, target: str, source: str) -> Reply:
        """Move a label from one version to another; RejectedError unless it sits on `source`."""
        return self._relabel(name, label, MoveToVersionId=target, RemoveFromVersionId=source)

    def add_label(self, name: str, label: str, identity: str) -> None:
        """Give a version a label that no other has; RejectedError if another has it."""
        self._relabel(name, label, MoveToVersionId=identity)

    def remove_label(self, name: str, label: str, identity: str) -> None:
        """Take a label from the version that has it."""
        self._relabel(name, label, RemoveFromVersionId=identity)

    def _relabel(self, name: str, label: str, **versions: str) -> Reply:
        self._pace.wait()
        reply = self._client.call("update_secret_version_stage", name, SecretId=name, VersionStage=label, **versions)
        check(reply["Name"] == name, f"changed the label {label} of {name}, told about {reply['Name']}")
        return reply

    def take_labels(self, name: str, identity: str, labels: list[str]) -> None:
        """Take every label: AWS may delete the version from then on."""
        # Ours last: should this run die in between, the version can still be found by its number.
        for label in sorted(labels, key=lambda text: bool(layout.read_number("", [text]))):
            self.remove_label(name, label, identity)

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """Set tags; those not named stay."""
        pairs = [{"Key": tag, "Value": value} for tag, value in tags.items()]
        self._client.call("tag_resource", name, SecretId=name, Tags=pairs)


def tags(secret: Mapping[str, Any]) -> dict[str, str]:
    """A secret's tags, as a description or a listing shows them."""
    return {tag["Key"]: tag["Value"] for tag in secret.get("Tags", ())}


def content(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The value in a reply, in the one of two fields where it is."""
    field = "SecretBinary" if "SecretBinary" in reply else "SecretString"
    return {field: reply[field]}


def check(holds: bool, otherwise: str) -> None:
    """Believe no reply that is about something else than what was asked: IntegrityError."""
    if not holds:
        raise IntegrityError(otherwise, "a proxy, an emulator or a fault of the service? nothing further was done")
