"""The secrets of one project as Secret Manager keeps them. Refuses what the service refuses; pure but for the clock.

Sources: googleapis `secretmanager/v1/{service,resources}.proto`; `recorded-replies.md` (GCP: etags, times, states);
Google's pages "Use entity tags for optimistic concurrency control" (a wrong etag is FAILED_PRECONDITION, 400; each
modification makes a new one, that of a version leaves its secret's alone, and "even when an update doesn't change a
resource's state"), "Delay destruction of secret versions", and "Consistency".

Staleness. The service says only that adding a version and then accessing it *by number* is strong, and that all else
converges "within minutes, but may take a few hours". Here everything else answers as of `staleness` seconds ago, all of
it as of the same moment: the oldest view that the setting allows, and the same to every reader, so that a test is
repeatable. A version younger than that is accessible by number in the state in which it was created. Writes always act
on, and answer with, what is so now: their etags and states are held against the present.

A second destroy of a version that is only scheduled for destruction is refused as unknown: no source tells.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
from google.cloud.secretmanager_v1.types import resources, service

from .gsm_checks import (
    SECRET_ID,
    check_mask,
    check_payload,
    check_replication,
    check_secret,
    secret_filter,
    version_filter,
)
from .gsm_errors import failed, invalid, lacking, missing
from .gsm_history import HeldSecret, HeldVersion, Timeline
from .gsm_messages import (
    DESTROYED,
    DISABLED,
    ENABLED,
    STATES,
    Secret,
    SecretVersion,
    check_etag,
    copied,
    etag_of,
    mark_destroyed,
    mark_replicated,
    no_version,
    replace_field,
    taken,
)
from .gsm_pages import paged

PAGE = 100


class Store:
    """All secrets of the project whose number is given. Messages that it gives out are its own: copy, do not change."""

    def __init__(self, number: str, clock: Callable[[], float]) -> None:
        self.prefix = f"projects/{number}"
        self.staleness = 0.0
        """How many seconds reads are behind."""
        self.page = PAGE
        """How many items a page has when the client does not say: "the server decides"."""
        self._clock = clock
        self._held: dict[str, list[HeldSecret]] = {}
        self._micros = 0
        self._lock = threading.RLock()

    # --- what tests do with it

    def emptied(self) -> None:
        """Forget everything."""
        with self._lock:
            self._held, self.staleness, self.page = {}, 0.0, PAGE

    def saved(self) -> Callable[[], None]:
        """Remember everything, history too; what is returned puts it back."""
        with self._lock:
            remembered = self._copied()

        def restore() -> None:
            with self._lock:
                self._held = remembered
                self._held = self._copied()

        return restore

    def _copied(self) -> dict[str, list[HeldSecret]]:
        return {secret_id: [held.copied() for held in each] for secret_id, each in self._held.items()}

    def put(self, secret_id: str, *payloads: bytes, **fields: Any) -> list[int]:
        """Add versions past the socket; the secret, with `fields`, is made if it is not there. Their numbers."""
        with self._lock:
            if self._alive(secret_id) is None:
                made = resources.Secret(replication={"automatic": {}}, **fields)
                self.create(secret_id, resources.Secret.pb(made))
            return [self._added(self._present(secret_id), data, checked=False).number for data in payloads]

    def newest(self, secret_id: str) -> list[tuple[int, str, bytes]]:
        """Number, state and payload of each version as it is now, oldest first, destroyed ones with what they had."""
        with self._lock:
            held = self._present(secret_id)
            return [(v.number, STATES[v.states.states[-1].state], v.data) for v in held.versions]

    # --- secrets

    def create(self, secret_id: str, sent: Any) -> Any:
        """A secret without versions."""
        if not SECRET_ID.fullmatch(secret_id):
            raise invalid(f"Secret id [{secret_id}] is not valid: it must match [a-zA-Z0-9_-]{{1,255}}.")
        check_replication(sent)
        check_secret(sent)
        if sent.version_aliases:
            raise invalid("A version alias names a version that is not there.")
        with self._lock:
            if self._alive(secret_id) is not None:
                raise taken(f"{self.prefix}/secrets/{secret_id}")
            order = self._tick()
            made = Secret(name=f"{self.prefix}/secrets/{secret_id}", etag=etag_of(order))
            for field in ("replication", "version_destroy_ttl"):
                if sent.HasField(field):
                    getattr(made, field).CopyFrom(getattr(sent, field))
            made.labels.update(sent.labels)
            made.annotations.update(sent.annotations)
            made.create_time.FromMicroseconds(order)
            timeline: Timeline[Any] = Timeline()
            timeline.add(self._clock(), made)
            self._held.setdefault(secret_id, []).append(HeldSecret(order, timeline))
            return made

    def get(self, secret_id: str) -> Any:
        """A secret, as of a while ago."""
        with self._lock:
            return self._seen(secret_id)[1]

    def listed(self, filter_text: str, size: int, token: str) -> Any:
        """A page of the secrets, newest first, as of a while ago."""
        keeps = secret_filter(filter_text)
        with self._lock:
            moment = self._moment()
            found = [(held.order, state) for held, state in self._all_seen(moment)]
        found.sort(key=lambda item: item[0], reverse=True)
        page, following = paged(found, keeps, size or self.page, token, f"{self.prefix} {filter_text}")
        total = 0 if filter_text else len(found)
        return service.ListSecretsResponse.pb()(secrets=page, next_page_token=following, total_size=total)

    def update(self, secret_id: str, sent: Any, paths: list[str]) -> Any:
        """Replace the fields that the mask names, each whole; the etag is looked at if it was sent."""
        wanted = check_mask(paths)
        with self._lock:
            held = self._present(secret_id)
            current = held.states.states[-1]
            check_etag(sent.etag, current)
            changed = copied(current)
            for field in wanted:
                replace_field(changed, sent, field)
            check_secret(changed)
            self._check_aliased(held, changed)
            changed.etag = etag_of(self._tick())
            held.states.add(self._clock(), changed)
            return changed

    def delete(self, secret_id: str, etag: str) -> None:
        """A secret with all its versions, at once and for good. Its name is free again."""
        with self._lock:
            held = self._present(secret_id)
            check_etag(etag, held.states.states[-1])
            held.states.add(self._clock(), None)

    # --- versions

    def add(self, secret_id: str, request: Any) -> Any:
        """One more version, whatever was added before; the secret's etag stays."""
        with self._lock:
            held = self._present(secret_id)
            check_payload(request)
            checked = request.payload.HasField("data_crc32c")
            return self._added(held, request.payload.data, checked=checked).states.states[-1]

    def version(self, secret_id: str, which: str) -> Any:
        """A version's state, as of a while ago. Works when it is destroyed too."""
        with self._lock:
            return self._seen_version(secret_id, which)[1]

    def access(self, secret_id: str, which: str) -> Any:
        """A version's payload: by number as soon as it was added, else as of a while ago. `latest` has no fallback."""
        with self._lock:
            found = self._numbered(secret_id, which) if which.isdecimal() else self._seen_version(secret_id, which)
        held, state = found
        if state.state != ENABLED:
            raise failed(f"Secret Version [{state.name}] is in {STATES[state.state]} state.")
        payload = resources.SecretPayload.pb()(data=held.data, data_crc32c=held.crc32c)
        return service.AccessSecretVersionResponse.pb()(name=state.name, payload=payload)

    def versions(self, secret_id: str, filter_text: str, size: int, token: str) -> Any:
        """A page of the versions, newest first, as of a while ago."""
        keeps = version_filter(filter_text)
        with self._lock:
            moment = self._moment()
            held, state = self._seen(secret_id)
            seen = [(each.number, each.states.at(moment)) for each in reversed(held.versions)]
        found = [(number, version) for number, version in seen if version is not None]
        page, following = paged(found, keeps, size or self.page, token, f"{state.name} {filter_text}")
        total = 0 if filter_text else len(found)
        return service.ListSecretVersionsResponse.pb()(versions=page, next_page_token=following, total_size=total)

    def enable(self, secret_id: str, which: str, etag: str) -> Any:
        """ENABLED, with a new etag even if it was; a destruction that was scheduled is cancelled."""
        return self._switched(secret_id, which, etag, ENABLED)

    def disable(self, secret_id: str, which: str, etag: str) -> Any:
        """DISABLED, likewise."""
        return self._switched(secret_id, which, etag, DISABLED)

    def destroy(self, secret_id: str, which: str, etag: str) -> Any:
        """DESTROYED for good; or, where the secret has a `version_destroy_ttl`, DISABLED until then."""
        with self._lock:
            held, version, changed = self._changing(secret_id, which, etag)
            if changed.HasField("scheduled_destroy_time"):
                raise lacking("a second destroy of a version that is scheduled for destruction")
            current, micros = held.states.states[-1], self._tick()
            if current.HasField("version_destroy_ttl"):
                changed.state = DISABLED
                due = int(self._clock() * 1_000_000) + current.version_destroy_ttl.ToMicroseconds()
                changed.scheduled_destroy_time.FromMicroseconds(due)
                held.scheduled.add(version.number)
            else:
                mark_destroyed(changed, micros)
            changed.etag = etag_of(micros)
            version.states.add(self._clock(), changed)
            return changed

    # --- helpers: finding

    def _moment(self) -> float | None:
        return self._clock() - self.staleness if self.staleness > 0 else None

    def _alive(self, secret_id: str) -> HeldSecret | None:
        held = self._held.get(secret_id, [])
        return held[-1] if held and held[-1].states.states[-1] is not None else None

    def _present(self, secret_id: str) -> HeldSecret:
        """What is there now, for a write."""
        held = self._alive(secret_id)
        if held is None:
            raise missing(f"Secret [{self.prefix}/secrets/{secret_id}] not found.")
        self._ripen(held)
        return held

    def _seen(self, secret_id: str) -> tuple[HeldSecret, Any]:
        """What a reader sees."""
        moment = self._moment()
        for held in reversed(self._held.get(secret_id, [])):
            state = held.states.at(moment)
            if state is not None:
                self._ripen(held)
                return held, state
        raise missing(f"Secret [{self.prefix}/secrets/{secret_id}] not found.")

    def _all_seen(self, moment: float | None) -> Iterator[tuple[HeldSecret, Any]]:
        for incarnations in self._held.values():
            for held in incarnations:
                state = held.states.at(moment)
                if state is not None:
                    yield held, state

    def _seen_version(self, secret_id: str, which: str) -> tuple[HeldVersion, Any]:
        moment = self._moment()
        if not any(held.states.at(moment) for held in self._held.get(secret_id, [])):
            raise missing(f"Secret [{self.prefix}/secrets/{secret_id}] not found or has no versions.")
        held, secret = self._seen(secret_id)
        visible = [(version, state) for version in held.versions if (state := version.states.at(moment)) is not None]
        if which == "latest":
            if not visible:
                raise missing(f"Secret [{secret.name}] not found or has no versions.")
            return visible[-1]
        number = int(which) if which.isdecimal() else secret.version_aliases.get(which, 0)
        if not 0 < number <= len(visible):
            raise no_version(f"{secret.name}/versions/{which}")
        return visible[number - 1]

    def _numbered(self, secret_id: str, which: str) -> tuple[HeldVersion, Any]:
        """A version by number: seen as soon as it was added, its state as of a while ago."""
        moment = self._moment()
        there = False
        for held in reversed(self._held.get(secret_id, [])):
            if held.states.states[-1] is None and held.states.at(moment) is None:
                continue
            there = True
            self._ripen(held)
            version = held.version(int(which))
            if version is not None:
                return version, version.states.at(moment) or version.states.states[0]
        name = f"{self.prefix}/secrets/{secret_id}"
        raise (
            no_version(f"{name}/versions/{which}")
            if there
            else missing(f"Secret [{name}] not found or has no versions.")
        )

    # --- helpers: changing

    def _tick(self) -> int:
        """The time in microseconds, later than any that was given before: what etags and times are made of."""
        self._micros = max(self._micros + 1, int(self._clock() * 1_000_000))
        return self._micros

    def _added(self, held: HeldSecret, data: bytes, *, checked: bool) -> HeldVersion:
        secret, micros = held.states.states[-1], self._tick()
        number = len(held.versions) + 1
        made = SecretVersion(name=f"{secret.name}/versions/{number}", state=ENABLED, etag=etag_of(micros))
        made.client_specified_payload_checksum = checked
        made.create_time.FromMicroseconds(micros)
        mark_replicated(made.replication_status, secret.replication)
        timeline: Timeline[Any] = Timeline()
        timeline.add(self._clock(), made)
        version = HeldVersion(number, data, google_crc32c.value(data), timeline)
        held.versions.append(version)
        return version

    def _changing(self, secret_id: str, which: str, etag: str) -> tuple[HeldSecret, HeldVersion, Any]:
        """The version that is there now, and a copy of its state to change."""
        held = self._present(secret_id)
        version = held.version(int(which)) if which.isdecimal() else None
        if not which.isdecimal():
            raise invalid(f"A version is changed by its number, not as [{which}].")
        if version is None:
            raise no_version(f"{self.prefix}/secrets/{secret_id}/versions/{which}")
        current = version.states.states[-1]
        if current.state == DESTROYED:
            raise failed(f"Secret Version [{current.name}] is in DESTROYED state.")
        check_etag(etag, current)
        changed = copied(current)
        return held, version, changed

    def _switched(self, secret_id: str, which: str, etag: str, state: int) -> Any:
        with self._lock:
            held, version, changed = self._changing(secret_id, which, etag)
            changed.state = state
            changed.ClearField("scheduled_destroy_time")
            held.scheduled.discard(version.number)
            changed.etag = etag_of(self._tick())
            version.states.add(self._clock(), changed)
            return changed

    def _ripen(self, held: HeldSecret) -> None:
        """Destroy what was scheduled for a time that has come."""
        if not held.scheduled:
            return
        now = int(self._clock() * 1_000_000)
        for number in sorted(held.scheduled):
            version = held.versions[number - 1]
            due = version.states.states[-1].scheduled_destroy_time.ToMicroseconds()
            if due <= now:
                held.scheduled.discard(number)
                changed = copied(version.states.states[-1])
                changed.ClearField("scheduled_destroy_time")
                mark_destroyed(changed, due)
                changed.etag = etag_of(self._tick())
                version.states.add(due / 1_000_000, changed)

    def _check_aliased(self, held: HeldSecret, secret: Any) -> None:
        for alias, number in secret.version_aliases.items():
            if held.version(number) is None:
                raise invalid(f"Version alias [{alias}] names version {number}, which is not there.")
