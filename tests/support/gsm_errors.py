"""How Google refuses: a gRPC status with an ErrorInfo, and the same as JSON over HTTP.

Sources: googleapis `google/api/error_reason.proto` (reasons, domain, metadata) and `google/rpc/code.proto` (HTTP
statuses); texts from `recorded-replies.md` and from replies quoted in public issues: NOT_FOUND and states (a gcloud
capture of 2026-09), "already exists", SERVICE_DISABLED (nodejs-secret-manager #20, #58), CONSUMER_INVALID
(get-secretmanager-secrets #303), quota (python-docs-samples #3482, of Cloud KMS), and PERMISSION_DENIED, which repeats
the resource as it was sent, by id too (python-secret-manager #389), where the others say the number.
"""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

SERVICE = "secretmanager.googleapis.com"
_CONSOLE = "https://console.developers.google.com/apis/api"
_AUTHENTICATION = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""google/rpc/code.proto; what is not here is 500."""


class GoogleError(Exception):
    """A status other than OK. `code` is the name of a gRPC status code."""

    def __init__(
        self,
        code: str,
        message: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        domain: str = "googleapis.com",
    ) -> None:
        super().__init__(message)
        self.code, self.message = grpc.StatusCode[code], message
        self._reason, self._metadata, self._domain = reason, dict(metadata or {}), domain

    @property
    def status(self) -> Any:
        """The google.rpc.Status."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self._reason:
            info = error_details_pb2.ErrorInfo(reason=self._reason, domain=self._domain, metadata=self._metadata)
            detail = any_pb2.Any()
            detail.Pack(info)
            status.details.append(detail)
        return status

    @property
    def http(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status, and the body that goes with it. Without a reason there are no `details` (recorded)."""
        number = HTTP.get(self.code.name, 500)
        error: dict[str, Any] = {"code": number, "message": self.message, "status": self.code.name}
        if self._reason:
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            info = {"@type": kind, "reason": self._reason, "domain": self._domain, "metadata": self._metadata}
            error["details"] = [info]
        return number, {"error": error}


def invalid(message: str) -> GoogleError:
    """A request that is wrong whatever is stored."""
    return GoogleError("INVALID_ARGUMENT", message)


def failed(message: str) -> GoogleError:
    """A request that what is stored forbids."""
    return GoogleError("FAILED_PRECONDITION", message)


def missing(message: str) -> GoogleError:
    """Nothing is there."""
    return GoogleError("NOT_FOUND", message)


def lacking(what: str) -> GoogleError:
    """What this double does not have, or about which no source says what the service does."""
    return GoogleError("UNIMPLEMENTED", f"This double does not have {what}.")


def unauthenticated(reason: str, rpc: str) -> GoogleError:
    """No token, or one that is not good."""
    began = "Request is missing required authentication credential."
    if reason != "CREDENTIALS_MISSING":
        began = "Request had invalid authentication credentials."
    method = f"google.cloud.secretmanager.v1.SecretManagerService.{rpc}"
    return GoogleError("UNAUTHENTICATED", f"{began} {_AUTHENTICATION}", reason, {"service": SERVICE, "method": method})


def out_of_scope(rpc: str) -> GoogleError:
    """A good token that was not made for this API."""
    method = f"google.cloud.secretmanager.v1.SecretManagerService.{rpc}"
    told = {"service": SERVICE, "method": method}
    message = "Request had insufficient authentication scopes."
    return GoogleError("PERMISSION_DENIED", message, "ACCESS_TOKEN_SCOPE_INSUFFICIENT", told)


def denied(permission: str, resource: str) -> GoogleError:
    """The principal may not do that there, or there is nothing there."""
    message = f"Permission '{permission}' denied for resource '{resource}' (or it may not exist)."
    told = {"permission": permission, "resource": resource}
    return GoogleError("PERMISSION_DENIED", message, "IAM_PERMISSION_DENIED", told, "iam.googleapis.com")


def not_enabled(number: str) -> GoogleError:
    """The API was never enabled in that project."""
    where = f"{_CONSOLE}/{SERVICE}/overview?project={number}"
    message = (
        f"Secret Manager API has not been used in project {number} before or it is disabled. Enable it by visiting "
        f"{where} then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our "
        "systems and retry."
    )
    return GoogleError("PERMISSION_DENIED", message, "SERVICE_DISABLED", _consumer(number, activationUrl=where))


def no_such_project(project: str) -> GoogleError:
    """A project that is not there, or that the caller may not know of."""
    message = f"Permission denied on resource project {project}."
    return GoogleError("PERMISSION_DENIED", message, "CONSUMER_INVALID", _consumer(project))


def exhausted(number: str, metric: str, limit: str) -> GoogleError:
    """A quota is used up."""
    message = (
        f"Quota exceeded for quota metric '{metric}' and limit '{limit}' of service '{SERVICE}' for consumer "
        f"'project_number:{number}'."
    )
    told = _consumer(number, quota_metric=metric, quota_limit=limit)
    return GoogleError("RESOURCE_EXHAUSTED", message, "RATE_LIMIT_EXCEEDED", told)


def _consumer(project: str, **more: str) -> dict[str, str]:
    return {"service": SERVICE, "consumer": f"projects/{project}", **more}
