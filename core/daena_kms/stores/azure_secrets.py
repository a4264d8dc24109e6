"""What can be done to the secrets of one Key Vault, every reply checked against what was asked."""

from collections.abc import Callable, Mapping
from typing import Any

from azure.keyvault.secrets import KeyVaultSecret, SecretClient, SecretProperties

from ..errors import ConfigurationError, IntegrityError, RefusedError, ThrottledError, UnavailableError
from ..material import KeyMaterial
from . import azure_layout as layout
from .azure_calls import SLOWER, Azure, Patience, RecoverableError, asked
from .azure_layout import Shown
from .pace import Pace

# After a put whose reply was lost: what was sent may still arrive.
PAUSES_SECONDS = (0.5, 2.0)
# A little less than Key Vault's limit per vault, 300 in ten seconds (azure-docs: key-vault-limits), for not all take
# the same time on their way; and evenly, so that nobody waits long between the last look and the put.
CREATES, PER_SECONDS = 29, 1.0
_FOREIGN = "a proxy, an emulator or a fault of the service? nothing further was done"


class Vault:
    """Secrets by name and version. Knows tags and values, not what they mean."""

    def __init__(
        self,
        azure: Azure,
        url: str,
        *,
        pace: Pace,
        token: Callable[[], str],
        sleep: Callable[[float], None],
    ) -> None:
        """`token` makes a text that no other put has: by it a put whose reply was lost is found again."""
        self.url = url.rstrip("/")
        self._azure = azure
        self._seconds, self._attempt_seconds = azure.seconds, azure.attempt_seconds
        self._pace = pace
        self._monotonic = pace.monotonic
        self._token = token
        self._sleep = sleep
        self._client: Any = asked(
            lambda: SecretClient(self.url, azure.identity, retry_policy=Patience(azure.seconds), **azure.timeouts),
            "use of Key Vault",
        )

    # --- looking

    def listed(self) -> list[Shown]:
        """Every secret as its newest version is, without that one's id."""
        return self._listing("the keys", lambda hook: self._client.list_properties_of_secrets(raw_response_hook=hook))

    def versions(self, name: str) -> list[Shown]:
        """Every version of a secret, in no order; none for a secret that is not there, or that waits for deletion."""

        def ask(hook: Callable[[Any], None]) -> Any:
            return self._client.list_properties_of_secret_versions(name, raw_response_hook=hook)

        found = self._listing(name, ask)
        for shown in found:
            self._check(shown, name, shown.version)
            _check(layout.is_version_id(shown.version), f"a version of {name} has no id")
        return found

    def _listing(self, about: str, ask: Callable[[Callable[[Any], None]], Any]) -> list[Shown]:
        text = f"list of {about}"
        found: list[Shown] = self._azure.asked(lambda: [_shown(text, told) for told in ask(_whole(text))], text)
        return found

    def get(self, name: str, version: str = "") -> tuple[Shown, KeyMaterial]:
        """A version and its value's text; without `version` what readers get. RefusedError if it is disabled."""
        about = f"get of version {version or '(newest)'} of {name}"

        def ask() -> tuple[Shown, object]:
            got: KeyVaultSecret = self._client.get_secret(name, version)
            return _shown(about, got.properties), got.value

        shown, value = self._azure.asked(ask, about, name)
        self._check(shown, name, version or shown.version)
        if not isinstance(value, str):
            raise UnavailableError(f"{about}: the reply lacks the value", _FOREIGN)
        return shown, KeyMaterial(value.encode(errors="surrogatepass"))

    # --- writing

    def put(self, name: str, value: str, content_type: str, tags: Mapping[str, str]) -> Shown:
        """Write one more version, once: a put whose reply was lost is looked for before it is sent again.

        Nothing is sent once a call's time is over: whoever promotes has made sure of that much, and of no more.
        """
        mark = self._token()
        marked = {**tags, layout.WRITE: mark}
        _check_limits(name, marked, value)
        ends = self._monotonic() + self._seconds
        for pause in (*PAUSES_SECONDS, None):
            try:
                return self._put(name, value, content_type, marked, ends)
            except RecoverableError:
                raise
            except UnavailableError:
                if written := self._written(name, mark):
                    kept = _folded(marked).items() <= _folded(written.tags).items()
                    _check(kept, f"put of {name}: it has other tags than were sent")
                    return written
                if pause is None or self._left(ends) <= pause:
                    raise
                self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _left(self, ends: float) -> float:
        """For how many seconds more an attempt may be begun that is over when a call's time is."""
        return ends - self._monotonic() - self._attempt_seconds

    def _put(self, name: str, value: str, content_type: str, tags: Mapping[str, str], ends: float) -> Shown:
        about = f"put of {name}"
        if not self._pace.wait(max(0.0, self._left(ends))):
            raise ThrottledError(f"{about}: too many puts of this process wait for their turn", SLOWER)
        if (left := self._left(ends)) <= 0:
            raise UnavailableError(f"{about}: the time of a call is over", "nothing is lost: the next run looks again")

        def ask() -> Shown:
            told = self._client.set_secret(name, value, content_type=content_type, tags=dict(tags), timeout=left)
            return _shown(about, told.properties)

        shown: Shown = self._azure.asked(ask, about, name)
        self._check(shown, name, shown.version)
        if _folded(shown.tags) != _folded(tags):
            raise UnavailableError(f"{about}: the reply has other tags than were sent", _FOREIGN)
        return shown

    def _written(self, name: str, mark: str) -> Shown | None:
        return next((v for v in self.versions(name) if v.tags.get(layout.WRITE) == mark), None)

    def patch(
        self, name: str, version: str, *, enabled: bool | None = None, tags: Mapping[str, str] | None = None
    ) -> Shown:
        """Change a version's tags (all of them) or whether it is enabled. The same again changes nothing."""
        about = f"update of version {version} of {name}"
        _check_limits(name, tags or {})
        sent = {} if tags is None else {"tags": dict(tags)}

        def ask() -> Shown:
            return _shown(about, self._client.update_secret_properties(name, version, enabled=enabled, **sent))

        changed: Shown = self._azure.asked(ask, about, name)
        self._check(changed, name, version)
        if enabled is not None:
            _check(changed.enabled is enabled, f"{about}: it should be enabled={enabled}, and is not")
        if tags is not None:
            _check(_folded(changed.tags) == _folded(tags), f"{about}: the reply has other tags than were sent")
        return changed

    def _check(self, shown: Shown, name: str, version: str) -> None:
        told = (shown.name.lower(), shown.version)  # a name is one whatever its case; the first spelling stays
        _check(told == (name.lower(), version), f"asked for version {version} of {name}, told about {told}")


def _whole(about: str) -> Callable[[Any], None]:
    """A hook that refuses a page which is none of Key Vault's: to the SDK it would be an empty one."""

    def check(response: Any) -> None:
        reply = response.http_response
        if reply.status_code != 200:  # anything else is an error, told elsewhere
            return
        page = reply.json()
        if not isinstance(page, dict) or not isinstance(page.get("value"), list) or "nextLink" not in page:
            raise UnavailableError(f"{about}: the reply is no page of a listing", _FOREIGN)

    return check


def _shown(about: str, told: SecretProperties) -> Shown:
    """To be called within `asked`: where a reply is none of Azure's, the SDK may find out only as it is looked at."""
    if not told.id or told.created_on is None or told.enabled is None:
        raise UnavailableError(f"{about}: the reply lacks id, creation time or state", _FOREIGN)
    return Shown(
        name=told.name or "",
        version=told.version or "",
        enabled=told.enabled,
        created=told.created_on,
        tags=told.tags or {},
        content_type=told.content_type or "",
        managed=bool(told.managed),
    )


def _check(holds: bool, otherwise: str) -> None:
    """Believe no reply that is about something else than what was asked: IntegrityError."""
    if not holds:
        raise IntegrityError(otherwise, _FOREIGN)


def _folded(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as they are compared: to Azure their names are the same whatever their case."""
    return {name.lower(): text for name, text in tags.items()}


def _check_limits(name: str, tags: Mapping[str, str], value: str = "") -> None:
    """Refuse, before the call, what Key Vault would refuse after it."""
    if len(value.encode()) > layout.LONGEST_VALUE:
        raise RefusedError(f"the material of {name} is too long for Key Vault", f"at most {layout.LONGEST_VALUE} bytes")
    if len(tags) > layout.MOST_TAGS:
        raise RefusedError(f"{name} would have {len(tags)} tags", f"Key Vault takes {layout.MOST_TAGS}")
    if long := [tag for tag, text in tags.items() if len(text) > layout.LONGEST_TAG]:
        raise ConfigurationError(f"the tag {long[0]} of {name} is too long", f"at most {layout.LONGEST_TAG} characters")
