"""Who may call what: tokens, the project, permissions, quotas, somebody in between; then the store.

Permissions per RPC are those of Google's "Secret Manager roles and permissions" page, as `infra.md` has them. A grant
that is limited to names is held against the resource as an IAM condition on `resource.name` is: by project *number*,
a version's name includes its secret's, and for listing and creating secrets the resource is the project, so a condition
on a secret's name never grants those.

Quotas: `cloud-facts.md` (600 writes a minute for a project; 2 a second for a secret, AddSecretVersion and UpdateSecret
together). Not there: the read quotas, and 1 a second for enabling, disabling and destroying one version.
"""

import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.cloud.secretmanager_v1.types import service
from google.iam.v1 import iam_policy_pb2
from google.protobuf import empty_pb2

from .google_tokens import TokenError, Tokens
from .gsm_errors import (
    SERVICE,
    GoogleError,
    denied,
    exhausted,
    invalid,
    lacking,
    no_such_project,
    not_enabled,
    out_of_scope,
    unauthenticated,
)
from .gsm_store import Store

AUDIENCES = (f"https://{SERVICE}", f"https://{SERVICE}/google.cloud.secretmanager.v1.SecretManagerService")
_PROJECT = re.compile(r"projects/([^/]+)")
_SECRET = re.compile(r"projects/([^/]+)/secrets/([^/]+)")
_VERSION = re.compile(r"projects/([^/]+)/secrets/([^/]+)/versions/([^/]+)")


class Call(NamedTuple):
    """One call that came with a good token: by whom, which RPC, on what (by project number), and what it takes."""

    principal: str
    rpc: str
    resource: str
    permission: str


Carried = Callable[[], Any]
Between = Callable[[Call, Carried], Any]
Grant = Callable[[str, str], bool] | Collection[str]
"""Permissions; or a function that is given a permission and a resource and says whether it is granted."""


class Method(NamedTuple):
    """How an RPC is read."""

    request: Any
    shape: re.Pattern[str]
    permission: str
    writes: bool = False


METHODS = {
    "ListSecrets": Method(service.ListSecretsRequest.pb(), _PROJECT, "secrets.list"),
    "CreateSecret": Method(service.CreateSecretRequest.pb(), _PROJECT, "secrets.create", writes=True),
    "GetSecret": Method(service.GetSecretRequest.pb(), _SECRET, "secrets.get"),
    "UpdateSecret": Method(service.UpdateSecretRequest.pb(), _SECRET, "secrets.update", writes=True),
    "DeleteSecret": Method(service.DeleteSecretRequest.pb(), _SECRET, "secrets.delete", writes=True),
    "AddSecretVersion": Method(service.AddSecretVersionRequest.pb(), _SECRET, "versions.add", writes=True),
    "ListSecretVersions": Method(service.ListSecretVersionsRequest.pb(), _SECRET, "versions.list"),
    "GetSecretVersion": Method(service.GetSecretVersionRequest.pb(), _VERSION, "versions.get"),
    "AccessSecretVersion": Method(service.AccessSecretVersionRequest.pb(), _VERSION, "versions.access"),
    "EnableSecretVersion": Method(service.EnableSecretVersionRequest.pb(), _VERSION, "versions.enable", writes=True),
    "DisableSecretVersion": Method(service.DisableSecretVersionRequest.pb(), _VERSION, "versions.disable", writes=True),
    "DestroySecretVersion": Method(service.DestroySecretVersionRequest.pb(), _VERSION, "versions.destroy", writes=True),
    # Takes no permission: whoever has a token is told what he may do.
    "TestIamPermissions": Method(iam_policy_pb2.TestIamPermissionsRequest, _SECRET, ""),
}


@dataclass(frozen=True)
class Quotas:
    """How many calls are let through."""

    writes_a_minute: int = 600
    changes_a_second: int = 2
    """AddSecretVersion and UpdateSecret, for one secret."""


def within(number: str, prefix: str, permissions: Collection[str], everywhere: Collection[str] = ()) -> Grant:
    """A custom role on condition that `resource.name` starts so, and another one without a condition."""
    begins = f"projects/{number}/secrets/{prefix}"

    def granted(permission: str, resource: str) -> bool:
        return permission in everywhere or (permission in permissions and resource.startswith(begins))

    return granted


def plain(_: Call, carried: Carried) -> Any:
    """Nobody in between."""
    return carried()


class Service:
    """Secret Manager of one project, whatever it is reached through. Raises GoogleError."""

    def __init__(self, tokens: Tokens, store: Store, project_id: str, number: str, clock: Callable[[], float]) -> None:
        self.tokens = tokens
        self.store = store
        self.project_id = project_id
        self.number = number
        self._clock = clock
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """No calls, no restrictions, nobody in between."""
        self.enabled = True
        """Whether the API is enabled in the project."""
        self.allowed: dict[str, Grant] = {}
        """Principal -> what is granted. Empty: everybody may do everything. Else who is not in it may do nothing."""
        self.quotas: Quotas | None = None
        self.calls: list[Call] = []
        self.between: Between = plain
        self._spent: defaultdict[str, deque[float]] = defaultdict(deque)

    def answer(self, rpc: str, request: Any, authorization: str) -> Any:
        """The reply to a call."""
        method = METHODS[rpc]
        principal = self._principal(rpc, authorization)
        sent, parts = self._resource(method, request)
        if not self.enabled:
            raise not_enabled(self.number)
        if parts[0] not in {self.project_id, self.number}:
            raise no_such_project(parts[0])
        resource = f"projects/{self.number}" + sent.removeprefix(f"projects/{parts[0]}")
        call = Call(principal, rpc, resource, f"secretmanager.{method.permission}" if method.permission else "")
        self.calls.append(call)
        if not self._granted(call):
            raise denied(call.permission, sent)
        return self.between(call, lambda: self._carried_out(call, method, request, parts))

    def _principal(self, rpc: str, authorization: str) -> str:
        try:
            return self.tokens.principal(authorization, AUDIENCES)
        except TokenError as problem:
            if problem.reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
                raise out_of_scope(rpc) from problem
            raise unauthenticated(problem.reason, rpc) from problem

    def _resource(self, method: Method, request: Any) -> tuple[str, tuple[str, ...]]:
        holder = request.secret if method.request is METHODS["UpdateSecret"].request else request
        field = next(each for each in ("name", "parent", "resource") if hasattr(holder, each))
        sent = str(getattr(holder, field))
        found = method.shape.fullmatch(sent)
        if found is not None:
            return sent, found.groups()
        if "/locations/" in sent:
            raise lacking("regional secrets")
        raise invalid(f"Resource name [{sent}] is not valid.")

    def _granted(self, call: Call) -> bool:
        if not self.allowed or not call.permission:
            return True
        grant = self.allowed.get(call.principal, ())
        return grant(call.permission, call.resource) if callable(grant) else call.permission in grant

    def _carried_out(self, call: Call, method: Method, request: Any, parts: tuple[str, ...]) -> Any:
        if self.quotas is not None and method.writes:
            self._spend(self.quotas, call)
        if call.rpc == "TestIamPermissions":
            return self._tested(call, request, parts[1])
        return getattr(self, f"_{call.rpc}")(request, *parts[1:])

    def _tested(self, call: Call, request: Any, secret: str) -> Any:
        """Of the permissions that are asked about, those that the caller has. None on a secret that is not there."""
        try:
            self.store.get(secret)
        except GoogleError:
            return iam_policy_pb2.TestIamPermissionsResponse()
        held = [each for each in request.permissions if self._granted(call._replace(permission=each))]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=held)

    # --- quotas

    def _spend(self, quotas: Quotas, call: Call) -> None:
        with self._lock:
            self._spend_one("", 60, quotas.writes_a_minute, "Write requests", "Write requests per minute")
            if call.rpc in {"AddSecretVersion", "UpdateSecret"}:
                limit = "Secret version writes per second"
                self._spend_one(call.resource, 1, quotas.changes_a_second, "Write requests", limit)

    def _spend_one(self, key: str, seconds: float, most: int, metric: str, limit: str) -> None:
        now, spent = self._clock(), self._spent[key]
        while spent and spent[0] <= now - seconds:
            spent.popleft()
        if len(spent) >= most:
            raise exhausted(self.number, metric, limit)
        spent.append(now)

    # --- one method for each RPC, of its name

    def _ListSecrets(self, request: Any) -> Any:  # noqa: N802
        return self.store.listed(request.filter, request.page_size, request.page_token)

    def _CreateSecret(self, request: Any) -> Any:  # noqa: N802
        return self.store.create(request.secret_id, request.secret)

    def _GetSecret(self, _: Any, secret: str) -> Any:  # noqa: N802
        return self.store.get(secret)

    def _UpdateSecret(self, request: Any, secret: str) -> Any:  # noqa: N802
        return self.store.update(secret, request.secret, list(request.update_mask.paths))

    def _DeleteSecret(self, request: Any, secret: str) -> Any:  # noqa: N802
        self.store.delete(secret, request.etag)
        return empty_pb2.Empty()

    def _AddSecretVersion(self, request: Any, secret: str) -> Any:  # noqa: N802
        return self.store.add(secret, request)

    def _ListSecretVersions(self, request: Any, secret: str) -> Any:  # noqa: N802
        return self.store.versions(secret, request.filter, request.page_size, request.page_token)

    def _GetSecretVersion(self, _: Any, secret: str, which: str) -> Any:  # noqa: N802
        return self.store.version(secret, which)

    def _AccessSecretVersion(self, _: Any, secret: str, which: str) -> Any:  # noqa: N802
        return self.store.access(secret, which)

    def _EnableSecretVersion(self, request: Any, secret: str, which: str) -> Any:  # noqa: N802
        return self.store.enable(secret, which, request.etag)

    def _DisableSecretVersion(self, request: Any, secret: str, which: str) -> Any:  # noqa: N802
        return self.store.disable(secret, which, request.etag)

    def _DestroySecretVersion(self, request: Any, secret: str, which: str) -> Any:  # noqa: N802
        return self.store.destroy(secret, which, request.etag)
