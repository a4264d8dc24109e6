"""Calling Google Cloud: credentials made once, every error translated once, nothing of a request in any text."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import google.auth
from google.api_core import exceptions as google_errors
from google.api_core.retry import Retry, if_exception_type
from google.api_core.timeout import ConstantTimeout
from google.auth import exceptions as auth_errors

from ..errors import (
    ConfigurationError,
    ConflictError,
    DeniedError,
    ExistsError,
    IntegrityError,
    KmsError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# One call, with all its attempts and the pauses between them, stays inside the setting.
SHARE_OF_ATTEMPT, SHARE_OF_RETRIES = 0.3, 0.65

_CREDENTIALS = (
    "check GOOGLE_APPLICATION_CREDENTIALS, or the function's service account; "
    "on a laptop, `gcloud auth application-default login`"
)
_PERMISSIONS = (
    "check GCP_PROJECT_ID, and that the service account has the roles that infra/gcp defines, for names that begin "
    "with DAENA_KEY_PREFIX; a new binding takes some minutes"
)
_ENABLE = "`gcloud services enable secretmanager.googleapis.com --project PROJECT`, then wait a minute"
_NETWORK = "check the network, any proxy and GCP_SECRET_MANAGER_ENDPOINT; nothing is lost"
_LATER = "nothing is lost: the next run tries again"
_SLOWER = "lower DAENA_CONCURRENCY, or ask for a higher quota of Secret Manager; the next run goes on"
_NAME = "check the name and GCP_PROJECT_ID"
_STATE = "it is disabled or destroyed: `gcloud secrets versions list` shows it; `enable` undoes the first"

# How gRPC begins when credentials that it asked gave no token; then it quotes why, perhaps with the token's request.
_PLUGIN_FAILED = "Getting metadata from plugin failed"

_Kind = Callable[[str, str], KmsError]
_BY_CLASS: tuple[tuple[type[Exception], _Kind, str], ...] = (
    (google_errors.Unauthenticated, DeniedError, _CREDENTIALS),
    (google_errors.Unauthorized, DeniedError, _CREDENTIALS),
    (google_errors.Forbidden, DeniedError, _PERMISSIONS),
    (google_errors.NotFound, NotFoundError, _NAME),
    (google_errors.AlreadyExists, ExistsError, ""),
    (google_errors.PreconditionFailed, ExistsError, ""),
    (google_errors.Aborted, ConflictError, "look again"),
    (google_errors.Conflict, ConflictError, "look again"),
    (google_errors.FailedPrecondition, RefusedError, _STATE),
    (google_errors.OutOfRange, RefusedError, _STATE),
    (google_errors.BadRequest, RefusedError, "see the key's secret in the Google Cloud console"),
    (google_errors.ResourceExhausted, ThrottledError, _SLOWER),
    (google_errors.TooManyRequests, ThrottledError, _SLOWER),
    (google_errors.DataLoss, IntegrityError, "restore it from a backup"),
)
_AUTH: tuple[tuple[type[Exception], _Kind, str], ...] = (
    (auth_errors.DefaultCredentialsError, ConfigurationError, "there are no Google credentials"),
    (auth_errors.RefreshError, DeniedError, "Google gave no token for these credentials"),
    (auth_errors.TransportError, UnavailableError, "the token endpoint could not be reached"),
    (auth_errors.GoogleAuthError, DeniedError, "the credentials cannot be used"),
)


def translate(problem: Exception, about: str) -> KmsError:
    """Google's error in our words; `about` is what was tried, on what.

    The service's own message is kept: it names principal, permission and resource, never a payload. Other texts are
    not: some quote what could not be read.
    """
    for kind, made, text in _AUTH:
        if isinstance(problem, kind):
            return made(f"{about}: {text} ({type(problem).__name__})", _CREDENTIALS)
    if not isinstance(problem, google_errors.GoogleAPICallError):
        return UnavailableError(
            f"{about}: the reply was lost or could not be read ({type(problem).__name__})", _NETWORK
        )
    if isinstance(problem, google_errors.ServiceUnavailable) and str(problem.message).startswith(_PLUGIN_FAILED):
        return UnavailableError(f"{about}: there was no token for these credentials", _CREDENTIALS)
    # After its own words Cloud Storage's client says which statuses it had expected.
    said = str(problem.message or "no reason given").partition("\n")[0].partition(": ('Request failed")[0][:500]
    message = f"{about}: {_code(problem)}: {said}"
    if problem.reason == "SERVICE_DISABLED":
        return ConfigurationError(message, _ENABLE)
    for kind, made, hint in _BY_CLASS:
        if isinstance(problem, kind):
            return made(message, hint)
    return UnavailableError(message, _LATER)


def _code(problem: google_errors.GoogleAPICallError) -> str:
    status = problem.grpc_status_code
    return str(status.name) if status is not None else str(int(problem.code or 0))


def asked(ask: Callable[[], Any], about: str) -> Any:
    """Ask; the children of KmsError come out, and nothing else."""
    try:
        return ask()
    except KmsError:
        raise
    except google_errors.RetryError as problem:  # the retries ran out: what they ran into is what counts
        raise translate(problem.cause or problem, about) from None
    except Exception as problem:  # noqa: BLE001  # also the SDK on a reply that is none of Google's; it may quote it
        raise translate(problem, about) from None


class Gcp:
    """What every client of Google Cloud needs: credentials, made once, and how long a call may take."""

    def __init__(self, make_credentials: Callable[[], Any], *, project: str, call_timeout: timedelta) -> None:
        self._make_credentials = make_credentials
        self._credentials: Any = None
        self.project = project
        self.seconds = call_timeout.total_seconds()

    @property
    def credentials(self) -> Any:
        """The credentials in use."""
        if self._credentials is None:
            self._credentials = asked(self._make_credentials, "use of the Google credentials")
        return self._credentials

    def actor(self) -> str:
        """Whose credentials these are: a service account, or the account of `gcloud`."""
        if getattr(self.credentials, "service_account_email", "") == "default":
            asked(lambda: self.credentials.refresh(_request()), "a token from the metadata server")
        for name in ("service_account_email", "account"):
            if told := getattr(self.credentials, name, ""):
                return f"gcp:{told}"
        return "gcp:unknown"

    def attempts(self, *kinds: type[Exception]) -> dict[str, Any]:
        """`retry` and `timeout` of a gRPC call: after which errors it is tried again, and how long all of it takes."""
        return {
            "retry": Retry(
                predicate=if_exception_type(*kinds),
                initial=self.seconds / 60,
                maximum=self.seconds / 6,
                multiplier=2.0,
                timeout=self.seconds * SHARE_OF_RETRIES,
            ),
            "timeout": ConstantTimeout(self.seconds * SHARE_OF_ATTEMPT),  # type: ignore[no-untyped-call]
        }


def _request() -> Any:
    from google.auth.transport.requests import Request  # noqa: PLC0415  # needed by few credentials only

    return Request()


def credentials(path: str) -> Any:
    """Google's application default credentials: a key file, `gcloud`'s, or the metadata server's.

    `path` is GOOGLE_APPLICATION_CREDENTIALS, which the SDK reads by itself. Raises ConfigurationError if it names no
    file: what is wrong with one that is there, the SDK finds out.
    """
    if path and not Path(path).is_file():
        raise ConfigurationError(
            f"GOOGLE_APPLICATION_CREDENTIALS names {path}, and there is no such file", "mend the path, or unset it"
        )
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except (AttributeError, KeyError, TypeError, ValueError) as problem:  # the SDK on a file that is no key
        raise ConfigurationError(
            f"the Google credentials cannot be read ({type(problem).__name__})", _CREDENTIALS
        ) from None
