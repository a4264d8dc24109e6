"""Messages of Secret Manager as they are stored: etags, what a change makes of one, and the refusals that name one."""

from typing import Any

from google.cloud.secretmanager_v1.types import resources

from .gsm_errors import GoogleError, failed, missing

ENABLED, DISABLED, DESTROYED = 1, 2, 3
STATES = {ENABLED: "ENABLED", DISABLED: "DISABLED", DESTROYED: "DESTROYED"}
Secret: Any = resources.Secret.pb()
SecretVersion: Any = resources.SecretVersion.pb()


def etag_of(micros: int) -> str:
    """14 hex digits inside quotes (recorded). Made of a time in microseconds, which nobody should read from it."""
    return f'"1{micros:013x}"'


def copied(message: Any) -> Any:
    """The same, to change."""
    made = type(message)()
    made.CopyFrom(message)
    return made


def check_etag(sent: str, current: Any) -> None:
    """None that is sent is none that is looked at; a wrong one is FAILED_PRECONDITION."""
    if sent and sent != current.etag:
        raise failed(f"The etag {sent} does not match the current etag {current.etag} of [{current.name}].")


def replace_field(changed: Any, sent: Any, field: str) -> None:
    """Take a field, whole, from what was sent."""
    changed.ClearField(field)
    value = getattr(sent, field)
    if field != "version_destroy_ttl":
        getattr(changed, field).update(value)
    elif sent.HasField(field):
        changed.version_destroy_ttl.CopyFrom(value)


def mark_destroyed(changed: Any, micros: int) -> None:
    """DESTROYED at that time, which is told with 9 digits (recorded)."""
    changed.state = DESTROYED
    changed.destroy_time.FromNanoseconds(micros * 1000 + 1 + micros % 999)


def mark_replicated(status: Any, replication: Any) -> None:
    """The status of a version, as its secret is replicated."""
    if replication.HasField("automatic"):
        status.automatic.SetInParent()
    for replica in replication.user_managed.replicas:
        status.user_managed.replicas.add(location=replica.location)


def taken(name: str) -> GoogleError:
    """A name that is in use."""
    return GoogleError("ALREADY_EXISTS", f"Secret [{name}] already exists.")


def no_version(name: str) -> GoogleError:
    """A version that is not there."""
    return missing(f"Secret Version [{name}] not found.")
