"""What can be done to the secrets of one Google Cloud project, every reply checked against what was asked.

Only `access`, by a version's number, sees what was added a moment ago (Google: "Secret Manager data consistency");
every other read may be hours old.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import google_crc32c
from google.api_core import exceptions as google_errors
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.secretmanager_v1 import types as g
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport
from msgspec import Struct

from ..errors import (
    ConflictError,
    ExistsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from ..material import KeyMaterial
from . import gcp_layout as layout
from .gcp_calls import SHARE_OF_ATTEMPT, SLOWER, Gcp, asked
from .gcp_layout import Secret
from .pace import Pace

ENDPOINT = "secretmanager.googleapis.com"
# After an add whose reply was lost: what was sent may still arrive.
PAUSES_SECONDS = (0.5, 2.0)
# A little less than Google's quota, 600 writes a minute in a project, for not all take the same time on their way; and
# evenly, so that nobody waits long between the last look and the add.
WRITES, WRITES_PER_SECONDS = 19, 2.0
# Google's quota of adds and updates of one secret.
OF_ONE_SECRET, OF_ONE_PER_SECONDS = 2, 1.0
_PAGE = 1_000
_FOREIGN = "a proxy, an emulator or a fault of the service? nothing further was done"
_BUSY = (google_errors.ResourceExhausted, google_errors.TooManyRequests)
_PASSING = (
    *_BUSY,
    google_errors.ServiceUnavailable,
    google_errors.DeadlineExceeded,
    google_errors.InternalServerError,
    google_errors.Unknown,  # what gRPC makes of an HTTP 500 (grpc/doc: http-grpc-status-mapping)
)
_NAME = re.compile(r"projects/([^/]+)/secrets/([^/]+)(?:/versions/([^/]+))?")

# At DEBUG the SDK would log every request and reply whole, payloads too: not even then.
logging.getLogger(SecretManagerServiceGrpcTransport.__module__).setLevel(logging.INFO)

MakePace = Callable[[int, float], Pace]


class Version(Struct, frozen=True):
    """One version as a reply shows it. Its state may be an old one."""

    version: int
    enabled: bool
    destroyed: bool = False
    etag: str = ""
    created: datetime | None = None
    destroys_at: datetime | None = None


class Secrets:
    """Secrets by name and version. Knows annotations and payloads, not what they mean."""

    def __init__(
        self,
        gcp: Gcp,
        endpoint: str = "",
        *,
        locations: Sequence[str] = (),
        pace: MakePace,
        sleep: Callable[[float], None],
    ) -> None:
        """`locations`: where payloads lie; empty for wherever Google puts them ("automatic")."""
        self.project = gcp.project
        self._gcp = gcp
        self._sleep = sleep
        self._replication = _replication(locations)
        self._writes = pace(WRITES, WRITES_PER_SECONDS)
        self._monotonic = self._writes.monotonic
        self._of_one: defaultdict[str, Pace] = defaultdict(lambda: pace(OF_ONE_SECRET, OF_ONE_PER_SECONDS))
        options = {"api_endpoint": endpoint or ENDPOINT}
        self._client: Any = asked(
            lambda: SecretManagerServiceClient(credentials=gcp.credentials, client_options=options),
            "use of Secret Manager",
        )
        self._repeatable = gcp.attempts(*_PASSING)
        self._once = gcp.attempts(*_BUSY)

    # --- looking

    def listed(self, label: str) -> list[Secret]:
        """Every secret with that value of our label. May be old."""
        request = {"parent": self._parent, "filter": f"labels.{layout.LABEL}={label}", "page_size": _PAGE}
        about = "list of the keys"
        pages = self._gcp.asked(lambda: [*self._client.list_secrets(request=request, **self._repeatable)], about)
        return [_secret(about, told, self._tail(about, told.name)[0]) for told in pages]

    def secret(self, name: str) -> Secret | None:
        """A secret without its payloads; None if there is none. May be old."""
        about = f"get of {name}"
        try:
            told = self._gcp.asked(
                lambda: self._client.get_secret(request={"name": self._path(name)}, **self._repeatable), about
            )
        except NotFoundError:
            return None
        return self._shown(about, told, name)

    def versions(self, name: str) -> list[Version]:
        """Every version of a secret, oldest first; none for a secret that is not there. May be old."""
        about = f"list of the versions of {name}"
        request = {"parent": self._path(name), "page_size": _PAGE}
        try:
            told = self._gcp.asked(
                lambda: [*self._client.list_secret_versions(request=request, **self._repeatable)], about
            )
        except NotFoundError:
            return []
        found = [self._version(about, each, name) for each in told]
        return sorted(found, key=lambda version: version.version)

    def version(self, name: str, version: int) -> Version | None:
        """One version without its payload; None if there is none. May be old."""
        about = f"get of version {version} of {name}"
        request = {"name": self._path(name, version)}
        try:
            told = self._gcp.asked(lambda: self._client.get_secret_version(request=request, **self._repeatable), about)
        except NotFoundError:
            return None
        return self._version(about, told, name, version)

    def access(self, name: str, version: int) -> KeyMaterial:
        """A version's payload, whatever was added when. Raises RefusedError if it is disabled or destroyed."""
        about = f"access of version {version} of {name}"
        request = {"name": self._path(name, version)}
        told = self._gcp.asked(lambda: self._client.access_secret_version(request=request, **self._repeatable), about)
        self._check(about, told.name, name, version)
        payload = bytes(told.payload.data)
        if not told.payload.data_crc32c or told.payload.data_crc32c != google_crc32c.value(payload):
            raise IntegrityError(f"{about}: the payload is not what its checksum says", _FOREIGN)
        return KeyMaterial(payload)

    def probe(self, name: str, version: int) -> Version | None:
        """Whether that version is there, and if it can be read. Sees what was added a moment ago."""
        try:
            self.access(name, version)
        except NotFoundError:
            return None
        except RefusedError:
            return Version(version, enabled=False)
        except IntegrityError:
            return Version(version, enabled=True)  # whoever reads it finds out what is wrong with it
        return Version(version, enabled=True)

    def newer(self, name: str, version: int) -> Iterator[Version]:
        """What was added after that version, a moment ago too."""
        while (found := self.probe(name, version + 1)) is not None:
            yield found
            version = found.version

    # --- writing

    def create(self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Secret | None:
        """Make a secret without versions; None if there is one of that name."""
        about = f"creation of {name}"
        secret = g.Secret(replication=self._replication, labels=dict(labels), annotations=dict(annotations))
        request = {"parent": self._parent, "secret_id": name, "secret": secret}
        self._writes.wait()
        try:
            told = self._gcp.asked(lambda: self._client.create_secret(request=request, **self._repeatable), about)
        except ExistsError:
            return None
        return self._shown(about, told, name)

    def update(self, secret: Secret, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Secret:
        """Replace labels and annotations, if nobody has changed the secret since it was read; else ConflictError."""
        about = f"update of {secret.name}"
        changed = g.Secret(
            name=self._path(secret.name), etag=secret.etag, labels=dict(labels), annotations=dict(annotations)
        )
        request = {"secret": changed, "update_mask": {"paths": ["labels", "annotations"]}}
        self._pass(secret.name)
        told = self._conditional(lambda: self._client.update_secret(request=request, **self._repeatable), about)
        return self._shown(about, told, secret.name)

    def add(self, name: str, material: KeyMaterial, after: int) -> Version:
        """Add one more version, once: an add whose reply was lost is looked for, after the version `after`.

        Nothing is sent once a call's time is over: whoever promotes has made sure of that much, and of no more.
        Raises NotFoundError if there is no such secret.
        """
        if len(material) > layout.MOST_PAYLOAD_BYTES:
            raise RefusedError(f"the material of {name} is too long", f"at most {layout.MOST_PAYLOAD_BYTES} bytes")
        ends = self._monotonic() + self._gcp.seconds
        for pause in (*PAUSES_SECONDS, None):
            try:
                return self._add(name, material, ends)
            except UnavailableError:
                if added := self._added(name, material, after):
                    return added
                if pause is None or self._left(ends) <= pause:
                    raise
                self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _left(self, ends: float) -> float:
        """For how many seconds more an attempt may be begun that is over when a call's time is."""
        return ends - self._monotonic() - self._gcp.seconds * SHARE_OF_ATTEMPT

    def _add(self, name: str, material: KeyMaterial, ends: float) -> Version:
        about = f"addition of a version to {name}"
        data = material.reveal()
        payload = g.SecretPayload(data=data, data_crc32c=google_crc32c.value(data))
        request = g.AddSecretVersionRequest(parent=self._path(name), payload=payload)
        if not self._pass(name, max(0.0, self._left(ends))):
            raise ThrottledError(f"{about}: too many writes of this process wait for their turn", SLOWER)
        if (left := self._left(ends)) <= 0:
            raise UnavailableError(f"{about}: the time of a call is over", "nothing is lost: the next run looks again")
        how = {**self._once, "retry": self._once["retry"].with_timeout(left)}
        told = self._gcp.asked(lambda: self._client.add_secret_version(request=request, **how), about)
        return self._version(about, told, name)

    def _added(self, name: str, material: KeyMaterial, after: int) -> Version | None:
        for found in self.newer(name, after):
            if found.enabled and self.access(name, found.version) == material:
                return found
        return None

    def disable(self, name: str, version: Version) -> Version:
        """Make a version unreadable."""
        return self._changed("disable", name, version)

    def enable(self, name: str, version: Version) -> Version:
        """Make a disabled version readable."""
        return self._changed("enable", name, version)

    def destroy(self, name: str, version: Version) -> Version:
        """Destroy a version for good: at once, or when the secret's `version_destroy_ttl` has passed."""
        return self._changed("destroy", name, version)

    def _changed(self, verb: str, name: str, version: Version) -> Version:
        about = f"{verb} of version {version.version} of {name}"
        call = getattr(self._client, f"{verb}_secret_version")
        # Where metadata does not show the version yet, there is no etag that could be sent.
        request = {"name": self._path(name, version.version), "etag": version.etag}
        self._writes.wait()
        told = self._conditional(lambda: call(request=request, **self._repeatable), about)
        return self._version(about, told, name, version.version)

    def _conditional(self, ask: Callable[[], Any], about: str) -> Any:
        """A change with an etag: who has another one is told so by FAILED_PRECONDITION (Google: "Use entity tags")."""
        try:
            return self._gcp.asked(ask, about)
        except RefusedError as problem:
            raise ConflictError(problem.message, "look again") from None

    def _pass(self, name: str, longest: float = math.inf) -> bool:
        """Wait for the turn of a write to that secret; False if either turn is further away than so many seconds."""
        return self._of_one[name].wait(longest) and self._writes.wait(longest)

    # --- replies

    @property
    def _parent(self) -> str:
        return f"projects/{self.project}"

    def _path(self, name: str, version: int = 0) -> str:
        return f"{self._parent}/secrets/{name}" + (f"/versions/{version}" if version else "")

    def _shown(self, about: str, told: Any, name: str) -> Secret:
        self._check(about, told.name, name)
        return _secret(about, told, name)

    def _version(self, about: str, told: Any, name: str, version: int = 0) -> Version:
        _, text = self._tail(about, told.name)
        _check(layout.version_of(text) > 0, f"{about}: the reply names no version")
        self._check(about, told.name, name, version or int(text))
        state = g.SecretVersion.State(told.state)
        _check(state is not g.SecretVersion.State.STATE_UNSPECIFIED, f"{about}: the reply tells no state")
        return Version(
            version=int(text),
            enabled=state is g.SecretVersion.State.ENABLED,
            destroyed=state is g.SecretVersion.State.DESTROYED,
            etag=told.etag,
            created=_time(told.create_time),
            destroys_at=_time(told.scheduled_destroy_time),
        )

    def _check(self, about: str, told: str, name: str, version: int = 0) -> None:
        expected = (name, str(version) if version else "")
        got = self._tail(about, told)
        _check(got == expected, f"{about}: told about {'/'.join(got)}")

    def _tail(self, about: str, told: str) -> tuple[str, str]:
        """Secret and version in a resource's name. The project is named by its number, whatever was sent."""
        found = _NAME.fullmatch(told)
        if found is None or not (found[1] == self.project or found[1].isdigit()):
            raise IntegrityError(f"{about}: told about {told[:200]!r}", _FOREIGN)
        return found[2], found[3] or ""


def _secret(about: str, told: Any, name: str) -> Secret:
    _check(bool(told.etag), f"{about}: the reply has no etag")
    return Secret(
        name=name,
        etag=told.etag,
        labels=dict(told.labels),
        annotations=dict(told.annotations),
        rotates="rotation" in told,
        created=_time(told.create_time),
    )


def _time(told: datetime | None) -> datetime | None:
    """A time of the SDK's as an ordinary one, in UTC: its own kind also counts nanoseconds, and goes into no JSON."""
    return datetime.combine(told.date(), told.timetz()) if told else None


def _replication(locations: Sequence[str]) -> Any:
    if not locations:
        return g.Replication(automatic=g.Replication.Automatic())
    replicas = [g.Replication.UserManaged.Replica(location=location) for location in locations]
    return g.Replication(user_managed=g.Replication.UserManaged(replicas=replicas))


def _check(holds: bool, otherwise: str) -> None:
    """Believe no reply that is about something else than what was asked: IntegrityError."""
    if not holds:
        raise IntegrityError(otherwise, _FOREIGN)
