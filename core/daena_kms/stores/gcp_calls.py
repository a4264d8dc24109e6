"""Calling Google Cloud: credentials made once, every error translated once, nothing of a request in any text."""

import contextlib
import json
import os
import warnings
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
    DAMAGED_HINT,
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
_BILLING = "give the project that GCP_PROJECT_ID names a billing account: `gcloud billing projects describe PROJECT`"
_PROJECT = (
    "GCP_PROJECT_ID must be the id of the secrets' project (`gcloud projects list`), and these credentials must have "
    "a role in it"
)
_SCOPES = (
    "these tokens were made for other APIs: give the machine the access scope cloud-platform, or on a laptop run "
    "`gcloud auth application-default login` again"
)
_NETWORK = "check the network, any proxy and GCP_SECRET_MANAGER_ENDPOINT; nothing is lost"
_LATER = "nothing is lost: the next run tries again"
SLOWER = "lower DAENA_CONCURRENCY, or ask for a higher quota of Secret Manager; the next run goes on"
_NAME = (
    "check the name (DAENA_KEY_PREFIX goes before it) and GCP_PROJECT_ID, and that it is there: "
    "`gcloud secrets list --project PROJECT`"
)
_BUCKET = "make the bucket that DAENA_MANIFEST_URL or DAENA_POLICY names, or mend the address"
_NO_WAY = ("failed to connect", "DNS resolution failed")  # gRPC's words, of the network
_NO_BUCKET = "bucket does not exist"  # Cloud Storage's words; a missing object is told with others
_STATE = "it is disabled or destroyed: `gcloud secrets versions list` shows it; `enable` undoes the first"

# How gRPC begins when credentials that it asked gave no token; then it quotes why, perhaps with the token's request.
_PLUGIN_FAILED = "Getting metadata from plugin failed"
_NOT_YET = "default"  # what google-auth calls a machine's account before the metadata server has named it

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
    (google_errors.ResourceExhausted, ThrottledError, SLOWER),
    (google_errors.TooManyRequests, ThrottledError, SLOWER),
    (google_errors.DataLoss, IntegrityError, DAMAGED_HINT),
)
# googleapis: google/api/error_reason.proto
_BY_REASON: dict[str, tuple[_Kind, str]] = {
    "SERVICE_DISABLED": (ConfigurationError, _ENABLE),
    "BILLING_DISABLED": (ConfigurationError, _BILLING),
    "CONSUMER_INVALID": (DeniedError, _PROJECT),
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": (DeniedError, _SCOPES),
}
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
    said = _said(str(problem.message or "no reason given"))
    message = f"{about}: {_code(problem)}: {said}"
    if problem.reason in _BY_REASON:
        made, hint = _BY_REASON[problem.reason]
        return made(message, hint)
    if isinstance(problem, google_errors.NotFound) and _NO_BUCKET in said:
        return ConfigurationError(message, _BUCKET)
    for kind, made, hint in _BY_CLASS:
        if isinstance(problem, kind):
            return made(message, hint)
    return UnavailableError(message, _NETWORK if said.startswith(_NO_WAY) else _LATER)


def _said(text: str) -> str:
    """The service's own words. Of what Cloud Storage answers to an upload its client quotes the whole body, in JSON."""
    before, brace, body = text.partition("{")
    if brace:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            told = json.JSONDecoder().raw_decode(brace + body)[0]["error"]["message"]
            return f"{before}{told}"[:500]
    # After its own words Cloud Storage's client says which statuses it had expected.
    return text.partition("\n")[0].partition(": ('Request failed")[0][:500]


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
        if getattr(self.credentials, "service_account_email", "") == _NOT_YET:
            asked(lambda: self.credentials.refresh(_request()), "a token from the metadata server")
        return self._known() or "gcp:unknown"

    def _known(self) -> str:
        """The same without asking anybody: nothing where that is not known yet."""
        for name in ("service_account_email", "account"):
            told = getattr(self._credentials, name, "")
            if told and told != _NOT_YET:
                return f"gcp:{told}"
        return ""

    def asked(self, ask: Callable[[], Any], about: str) -> Any:
        """As `asked`; a denial also says whose credentials were shown, where Google did not."""
        try:
            return asked(ask, about)
        except DeniedError as problem:
            whose = self._known()
            if not whose or whose.removeprefix("gcp:") in problem.message:
                raise
            raise DeniedError(f"{problem.message} (asked by {whose})", problem.hint) from None

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


def _from_file(path: str) -> Any:
    """What the SDK makes of a file that the variable names; it warns of files from strangers, this one is ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded: Any = google.auth.load_credentials_from_file(path, scopes=[SCOPE])  # type: ignore[no-untyped-call]
        return loaded[0]


def credentials(path: str) -> Any:
    """Google's application default credentials: a key file, `gcloud`'s, or the metadata server's.

    `path` is GOOGLE_APPLICATION_CREDENTIALS, which the SDK reads by itself, or a file given in its place. Raises
    ConfigurationError if it names no file: what is wrong with one that is there, the SDK finds out.
    """
    if path and not Path(path).is_file():
        raise ConfigurationError(
            f"GOOGLE_APPLICATION_CREDENTIALS names {path}, and there is no such file", "mend the path, or unset it"
        )
    try:
        if path and path != os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return _from_file(path)
        return google.auth.default(scopes=[SCOPE])[0]
    except (AttributeError, KeyError, TypeError, ValueError) as problem:  # the SDK on a file that is no key
        raise ConfigurationError(
            f"the Google credentials cannot be read ({type(problem).__name__})", _CREDENTIALS
        ) from None
