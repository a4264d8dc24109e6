"""The secrets of one Key Vault as its data plane shows them. Refuses what the service refuses; pure but for the clock.

Sources: `recorded-replies.md` (what the real service answered) and `cloud-facts.md`. Not there: backup, restore,
certificates, not-before and expiry (informational in the service): whoever asks for them is told so.
"""

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
VERSION = re.compile(r"[0-9a-f]{32}")
LONGEST_VALUE, MOST_TAGS, LONGEST_TAG = 25_600, 15, 512
PAGE = 25
_RECOVERY = {"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90}


class VaultError(Exception):
    """A refusal of the service: HTTP status, code, and the inner code where it has one."""

    def __init__(self, status: int, code: str, message: str, inner: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"code": code, "message": message}}
        if inner:
            self.body["error"]["innererror"] = {"code": inner}


@dataclass(frozen=True)
class Version:
    """One version. `tags` and `content_type` are None where they were never sent."""

    version: str
    value: str
    created: int
    updated: int
    enabled: bool = True
    tags: dict[str, str] | None = None
    content_type: str | None = None


@dataclass
class Secret:
    """A name with its versions, in the order in which they were put: the last is what a versionless read gets."""

    name: str
    versions: list[Version] = field(default_factory=list)
    managed: bool = False

    def replaced(self, version: Version) -> None:
        self.versions = [version if v.version == version.version else v for v in self.versions]


class Secrets:
    """All secrets of one vault. `url` is how ids begin."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.url = url
        self.live: dict[str, Secret] = {}
        self.deleted: dict[str, Secret] = {}
        self.page = PAGE
        self._clock = clock
        self._lock = threading.RLock()

    def saved(self) -> Callable[[], None]:
        """Remember everything; what is returned puts it back."""
        with self._lock:
            live, deleted = self._copied(self.live), self._copied(self.deleted)

        def restore() -> None:
            with self._lock:
                self.live, self.deleted = self._copied(live), self._copied(deleted)

        return restore

    @staticmethod
    def _copied(held: dict[str, Secret]) -> dict[str, Secret]:
        return {name: replace(secret, versions=list(secret.versions)) for name, secret in held.items()}

    # --- what the data plane offers

    def put(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A new version, newest at once. A name is one whatever its case; the first spelling stays."""
        _check_fields(asked, {"value", "tags", "contentType", "attributes"})
        value = asked.get("value")
        if not isinstance(value, str):
            raise _bad("The parameter value is missing.")
        if len(value.encode()) > LONGEST_VALUE:
            raise _bad(f"Secret value is too long: at most {LONGEST_VALUE} bytes.")
        with self._lock:
            if _folded(name) in self.deleted:
                raise VaultError(
                    409, "Conflict", f"Secret {name} is currently in a deleted but recoverable state.",
                    "ObjectIsDeletedButRecoverable",
                )  # fmt: skip
            now = self._now()
            version = Version(secrets.token_hex(16), value, now, now)
            version = _changed(version, asked, now)
            secret = self.live.setdefault(_folded(name), Secret(name))
            secret.versions.append(version)
            return self._bundle(secret, version, value=True)

    def get(self, name: str, version: str) -> dict[str, Any]:
        """A version with its value, or the newest. One that is disabled is not given out, the newest neither."""
        with self._lock:
            secret, found = self._found(name, version)
            if not found.enabled:
                raise VaultError(
                    403, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled"
                )
            return self._bundle(secret, found, value=True)

    def patch(self, name: str, version: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Change what is sent, leave the rest; tags are replaced whole. Works on disabled versions too."""
        _check_fields(asked, {"tags", "contentType", "attributes"})
        with self._lock:
            secret, found = self._found(name, version)
            changed = _changed(found, asked, self._now())
            secret.replaced(changed)
            return self._bundle(secret, changed, value=False)

    def versions(self, name: str, after: str, most: int) -> dict[str, Any]:
        """A page of a secret's versions in the order of their ids, which is none; of an unknown name an empty one."""
        with self._lock:
            secret = self.live.get(_folded(name))
            every = sorted(secret.versions, key=lambda v: v.version) if secret else []
            items = [(v.version, self._item(secret, v, v.version)) for v in every if secret]
            return self._paged(f"/secrets/{name}/versions", items, after, most)

    def listed(self, after: str, most: int) -> dict[str, Any]:
        """A page of the secrets by name, ignoring case; each as its newest version is, and without that one's id."""
        with self._lock:
            names = sorted(name for name in self.live if name > after)[: most + 1]  # one more tells that there are more
            items = [(n, self._item(self.live[n], self.live[n].versions[-1], "")) for n in names]
            return self._paged("/secrets", items, after, most)

    def delete(self, name: str) -> dict[str, Any]:
        """Move a secret with all its versions to where it can be recovered from."""
        with self._lock:
            secret, newest = self._found(name, "")
            self.deleted[_folded(name)] = self.live.pop(_folded(name))
            return {**self._bundle(secret, newest, value=False), "recoveryId": f"{self.url}/deletedsecrets/{name}"}

    def recover(self, name: str) -> dict[str, Any]:
        """Bring a deleted secret back."""
        with self._lock:
            secret = self.deleted.pop(_folded(name), None)
            if secret is None:
                raise _unknown(name)
            self.live[_folded(name)] = secret
            return self._bundle(secret, secret.versions[-1], value=False)

    def purge(self, name: str) -> None:
        """Destroy a deleted secret for good."""
        with self._lock:
            if self.deleted.pop(_folded(name), None) is None:
                raise _unknown(name)

    # --- helpers

    def _now(self) -> int:
        return int(self._clock())

    def _found(self, name: str, version: str) -> tuple[Secret, Version]:
        secret = self.live.get(_folded(name))
        if secret is None:
            raise _unknown(name)
        if not version:
            return secret, secret.versions[-1]
        found = next((v for v in secret.versions if v.version == version), None)
        if found is None:
            raise _unknown(f"{name}/{version}")
        return secret, found

    def _bundle(self, secret: Secret, version: Version, *, value: bool) -> dict[str, Any]:
        made = self._item(secret, version, version.version)
        return {"value": version.value, **made} if value else made

    def _item(self, secret: Secret, version: Version, shown: str) -> dict[str, Any]:
        times = {"created": version.created, "updated": version.updated}
        item: dict[str, Any] = {
            "id": f"{self.url}/secrets/{secret.name}" + (f"/{shown}" if shown else ""),
            "attributes": {"enabled": version.enabled, **times, **_RECOVERY},
        }
        if version.tags is not None:
            item["tags"] = dict(version.tags)
        if version.content_type is not None:
            item["contentType"] = version.content_type
        return {**item, "managed": True} if secret.managed else item

    def _paged(self, path: str, items: list[tuple[str, dict[str, Any]]], after: str, most: int) -> dict[str, Any]:
        left = [(mark, item) for mark, item in items if mark > after]
        size = min(most, self.page)
        page, more = left[:size], left[size:]
        following = f"{self.url}{path}?api-version=7.4&$skiptoken={page[-1][0]}&maxresults={most}" if more else None
        return {"value": [item for _, item in page], "nextLink": following}


def _changed(version: Version, asked: dict[str, Any], now: int) -> Version:
    attributes = asked.get("attributes") or {}
    _check_fields(attributes, {"enabled"})
    tags = asked.get("tags", version.tags)
    for problem in _tag_problems(tags or {}):
        raise _bad(problem)
    return replace(
        version,
        updated=now,
        enabled=attributes.get("enabled", version.enabled),
        tags=tags,
        content_type=asked.get("contentType", version.content_type),
    )


def _tag_problems(tags: dict[str, str]) -> Iterator[str]:
    if len(tags) > MOST_TAGS:
        yield f"Too many tags: at most {MOST_TAGS}."
    for text in (*tags, *tags.values()):
        if not isinstance(text, str) or len(text) > LONGEST_TAG:
            yield f"A tag's name or value is longer than {LONGEST_TAG} characters."


def _check_fields(asked: dict[str, Any], known: set[str]) -> None:
    if unknown := {name for name, value in asked.items() if value is not None} - known:
        raise _bad(f"This double does not have {min(unknown)}.")


def _folded(name: str) -> str:
    return name.lower()


def _unknown(what: str) -> VaultError:
    return VaultError(
        404, "SecretNotFound", f"A secret with (name/id) {what} was not found in this key vault."
    )  # fmt: skip


def _bad(message: str) -> VaultError:
    return VaultError(400, "BadParameter", message)
