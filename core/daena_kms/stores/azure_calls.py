"""Calling Azure: credentials and clients made once, every error translated once, nothing of a request in any text."""

import base64
import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.policies import RetryPolicy
from azure.identity import (
    AzureCliCredential,
    ChainedTokenCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
)
from msgspec import Struct

from ..errors import (
    ConfigurationError,
    ConflictError,
    DeniedError,
    ExistsError,
    KmsError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from ..material import KeyMaterial

ATTEMPTS = 3
# One call, with all its attempts and the pauses between them, stays inside the setting.
_SHARE_OF_CONNECTING, _SHARE_OF_READING = 0.06, 0.22
_VAULT_SCOPE = "https://vault.azure.net/.default"
THROTTLED = 429
# They log every request's URL and headers at INFO.
_TALKATIVE = ("azure.core.pipeline.policies.http_logging_policy", "azure.identity")

_CREDENTIALS = (
    "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or the app's managed identity; "
    "on a laptop, `az login`"
)
_TENANT = (
    "the vault does not take this token: get a new one (`az login --tenant …`, or AZURE_TENANT_ID with a valid "
    "AZURE_CLIENT_SECRET) of the vault's own tenant, and check AZURE_KEY_VAULT_URL: `az keyvault show --name …`"
)
_NOT_THERE = (
    "check the name (DAENA_KEY_PREFIX goes before it) and AZURE_KEY_VAULT_URL; was it deleted? "
    "`az keyvault secret list-deleted --vault-name …`"
)
_PERMISSIONS = (
    "give these credentials the role that infra/azure defines (in a vault with access policies: get, list and set of "
    "secrets); a new assignment takes some minutes"
)
_NETWORK_RULES = "add this network to the firewall of the vault or the storage account, or give it a private endpoint"
_NETWORK = "check AZURE_KEY_VAULT_URL, DAENA_MANIFEST_URL, the network and any proxy; nothing is lost"
_LATER = "nothing is lost: the next run tries again"
SLOWER = "lower DAENA_CONCURRENCY, or use a vault of its own; the next run goes on"
_RECOVER = (
    "a secret of that name was deleted and can be recovered: `az keyvault secret recover --vault-name … --name {name}`"
)
_TELLING = ("Caller: ", "Action: ", "Resource: ")
_DELETING = "somebody deletes the container of the manifests: restore it, or put the manifests back from a copy"
_CONTAINER = "make the container that DAENA_MANIFEST_URL names, or mend the address"


class RecoverableError(UnavailableError):
    """A secret of that name was deleted, and waits to be recovered or purged. Asking again changes nothing."""


_Kind = Callable[[str, str], KmsError]
_BY_CODE: dict[str, tuple[_Kind, str]] = {
    code: made
    for codes, made in {
        ("ForbiddenByFirewall", "ForbiddenByConnection", "AuthorizationFailure"): (DeniedError, _NETWORK_RULES),
        ("SecretDisabled",): (RefusedError, "`enable` undoes that"),
        ("ObjectIsDeletedButRecoverable", "ObjectIsBeingDeleted"): (RecoverableError, _RECOVER),
        ("BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite"): (ExistsError, ""),
        ("ContainerNotFound",): (ConfigurationError, _CONTAINER),
        ("ContainerBeingDeleted",): (UnavailableError, _DELETING),
    }.items()
    for code in codes
}
_BY_STATUS: dict[int, tuple[_Kind, str]] = {
    400: (RefusedError, "see the key's secret in the Azure portal"),
    401: (DeniedError, _TENANT),
    403: (DeniedError, _PERMISSIONS),
    404: (NotFoundError, _NOT_THERE),
    409: (ConflictError, "look again"),
    412: (ExistsError, ""),
    THROTTLED: (ThrottledError, SLOWER),
}


def translate(problem: AzureError, about: str, name: str = "") -> KmsError:
    """An SDK's error in our words; `about` is what was tried, on what, `name` the secret's.

    The service's own message is kept where it is one: it names principal, action and object, never a value. Other
    texts of the SDK are not: some quote the whole reply.
    """
    if isinstance(problem, CredentialUnavailableError):
        return ConfigurationError(f"{about}: there are no Azure credentials", _CREDENTIALS)
    if isinstance(problem, HttpResponseError) and problem.status_code is not None:
        return _refusal(problem, about, name)
    if isinstance(problem, ClientAuthenticationError):
        return DeniedError(f"{about}: Entra ID gave no token{_entra_code(problem)}", _CREDENTIALS)
    kind = type(problem).__name__
    if isinstance(problem, ServiceRequestError):
        return UnavailableError(f"{about}: Azure could not be reached ({kind})", _NETWORK)
    return UnavailableError(f"{about}: the reply was lost or could not be read ({kind})", _LATER)


def _entra_code(problem: AzureError) -> str:
    found = re.search(r"AADSTS\d+", str(problem.message))
    return f" ({found[0]})" if found else ""


def _refusal(problem: HttpResponseError, about: str, name: str) -> KmsError:
    status = problem.status_code or 0
    codes, said = _told(problem)
    if isinstance(problem, ClientAuthenticationError) and not said:
        return DeniedError(f"{about}: Entra ID gave no token{_entra_code(problem)}", _CREDENTIALS)
    message = f"{about}: {codes[0] if codes else status}: {said or 'no reason given'}"
    for code in reversed(codes):
        if code in _BY_CODE:
            kind, hint = _BY_CODE[code]
            return kind(message, hint.format(name=name or "…"))
    kind, hint = _BY_STATUS.get(status, (UnavailableError, _LATER))
    return kind(message, hint)


def _told(problem: HttpResponseError) -> tuple[list[str], str]:
    """The service's codes, the outer one first, and its message; nothing where the body was none of Azure's."""
    blob_code = getattr(problem, "error_code", None)  # azure-storage's own, from a header
    if blob_code:
        return [str(getattr(blob_code, "value", blob_code))], str(getattr(problem, "reason", "") or "")
    error = problem.error
    if error is None or not error.code:
        return [], ""
    inner = error.innererror if isinstance(error.innererror, Mapping) else {}
    codes = [str(error.code), *([str(inner["code"])] if inner.get("code") else [])]
    return codes, _one_line(str(error.message or ""))


def _one_line(said: str) -> str:
    """The first line of a message, and those after it that tell who was denied what, where.

    As quoted in Azure/Commercial-Marketplace-SaaS-Accelerator issue 710 and piyushsachdeva/Terraform_AKS issue 2.
    """
    first, *more = (line.strip() for line in said.splitlines() or [""])
    return " ".join([first[:500], *(line[:400] for line in more if line.startswith(_TELLING))])


def asked(ask: Callable[[], Any], about: str, name: str = "") -> Any:
    """Ask; the children of KmsError come out, and nothing else."""
    try:
        return ask()
    except KmsError:
        raise
    except AzureError as problem:
        raise translate(problem, about, name) from None
    except Exception as problem:  # noqa: BLE001  # the SDK on a reply that is none of Azure's; its text may quote it
        raise UnavailableError(f"{about}: the reply could not be read ({type(problem).__name__})", _NETWORK) from None


class Patience(RetryPolicy[Any, Any]):
    """The SDK's retries, but for a put of a secret: it takes no condition, so each repeat is one more version.

    Only "too many requests" is surely not carried out. Whoever puts looks for what it wrote before it puts again.
    Nobody waits longer than a call may take, whatever Retry-After says.
    """

    def __init__(self, longest: float) -> None:
        super().__init__(retry_total=ATTEMPTS - 1, retry_backoff_factor=longest / 40, timeout=longest)
        self._longest = longest

    def is_retry(self, settings: dict[str, Any], response: "PipelineResponse[Any, Any]") -> bool:
        if response.http_request.method == "PUT" and response.http_response.status_code != THROTTLED:
            return False
        if (self.get_retry_after(response) or 0) > settings.get("timeout", self._longest):
            return False
        return bool(super().is_retry(settings, response))

    def _is_method_retryable(self, settings: dict[str, Any], request: Any, response: Any = None) -> bool:
        if response is None and request.method == "PUT":
            return False  # the reply was lost
        return bool(super()._is_method_retryable(settings, request, response))


class Identity:
    """A credential that remembers whose it is. What the SDK's clients are given."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential
        self._claims: dict[str, Any] = {}

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        """A token for `scopes`, from the credential itself."""
        made: AccessTokenInfo = self._credential.get_token_info(*scopes, options=options)
        self._claims = self._claims or _claims(made.token)
        return made

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: Any,
    ) -> AccessToken:
        """The same for clients that ask in the older way."""
        wanted = {"claims": claims, "tenant_id": tenant_id, "enable_cae": enable_cae}
        made = self.get_token_info(*scopes, options={name: value for name, value in wanted.items() if value})
        return AccessToken(made.token, made.expires_on)

    def actor(self) -> str:
        """Who these credentials are, as the token says: a managed identity's resource, a user, or an application."""
        if not self._claims:
            asked(lambda: self.get_token_info(_VAULT_SCOPE), "a token for Key Vault")
        return self.known() or "azure:unknown"

    def known(self) -> str:
        """The same without asking for a token: nothing where there was none yet."""
        for claim in ("xms_mirid", "upn", "unique_name", "appid", "oid"):
            if self._claims.get(claim):
                return f"azure:{self._claims[claim]}"
        return ""


def _claims(token: str) -> dict[str, Any]:
    """What a token says of its bearer. Not verified: whoever is asked with it does that."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


class Login(Struct, frozen=True):
    """What the settings say about credentials."""

    tenant: str
    client: str
    secret: KeyMaterial | None
    managed: bool
    """This runs in Azure, under a managed identity."""


def credential(login: Login) -> Any:
    """The credential that the settings name. Raises ConfigurationError for half of one.

    All three of tenant, client and secret: that application. Otherwise the managed identity, which AZURE_CLIENT_ID
    names where an app has several, and in Azure nothing else; on a laptop `az login` comes first.
    """
    if login.secret is not None or login.tenant:
        if not (login.tenant and login.client and login.secret):
            raise ConfigurationError(
                "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET go together, and one of them is not set",
                "set all three; or neither tenant nor secret, for the managed identity or `az login`",
            )
        return ClientSecretCredential(login.tenant, login.client, login.secret.reveal().decode())
    identity = ManagedIdentityCredential(client_id=login.client or None)
    return identity if login.managed else ChainedTokenCredential(AzureCliCredential(), identity)


class Azure:
    """What every client of Azure needs: the credentials, made once, and how long a call may take."""

    def __init__(self, make_credential: Callable[[], Any], *, call_timeout: timedelta) -> None:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._make_credential = make_credential
        self._identity: Identity | None = None
        self.seconds = call_timeout.total_seconds()

    @property
    def identity(self) -> Identity:
        """The credentials in use."""
        if self._identity is None:
            self._identity = asked(lambda: Identity(self._make_credential()), "use of the Azure credentials")
        return self._identity

    def asked(self, ask: Callable[[], Any], about: str, name: str = "", *, needs: str = "") -> Any:
        """As `asked`; a denial also says which action it `needs`, and whose credentials were shown."""
        try:
            return asked(ask, about, name)
        except DeniedError as problem:
            if "Caller: " in problem.message:  # Key Vault has said all of it
                raise
            whose = self._identity.known() if self._identity is not None else ""
            told = [f"the action is {needs}"] * bool(needs) + [f"asked by {whose}"] * bool(whose)
            added = f" ({', '.join(told)})" if told else ""
            raise DeniedError(problem.message + added, problem.hint) from None

    @property
    def attempt_seconds(self) -> float:
        """How long one attempt of a call may take."""
        return self.seconds * (_SHARE_OF_CONNECTING + _SHARE_OF_READING)

    @property
    def timeouts(self) -> dict[str, Any]:
        """How long one attempt of a call may take, as the SDK's clients want it."""
        return {
            "connection_timeout": self.seconds * _SHARE_OF_CONNECTING,
            "read_timeout": self.seconds * _SHARE_OF_READING,
        }
