"""Calling Azure: what its errors become, which credentials are used, and that nothing leaks on the way."""

import base64
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import requests
from azure.core.credentials import AccessTokenInfo
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline.transport import RequestsTransport, RequestsTransportResponse
from azure.identity import (
    ChainedTokenCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
)

from daena_kms import app
from daena_kms.errors import (
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
from daena_kms.material import KeyMaterial
from daena_kms.model import KeySpec, StoredVersion
from daena_kms.settings import read_settings
from daena_kms.stores import azure_calls
from daena_kms.stores.azure_calls import Azure, Identity, Login, RecoverableError, credential
from daena_kms.stores.base import NewVersion
from tests.cli.sandbox import CANARY, leaked
from tests.support import azure_world
from tests.support.azure_scene import refusal
from tests.support.vault_http import Answer
from tests.support.vault_tokens import TENANT
from tests.support.worlds import KEY

SPEC = KeySpec.parse("AES-256")


@pytest.fixture
def account() -> Iterator[azure_world.Account]:
    yield azure_world.emptied()
    azure_world.emptied()


def told(problem: KmsError) -> str:
    """Everything that a person could get to see of it."""
    return f"{problem!r} {problem} {problem.line} {problem.__cause__} {problem.__suppress_context__}"


# --- errors

# answer: (what it becomes, words that the hint must have)
TRANSLATED: dict[str, tuple[Answer, type[KmsError], tuple[str, ...]]] = {
    # the guide: verify service principal permissions, check RBAC assignments, ensure the vault's URL is correct
    "no good token": (refusal(401, "Unauthorized"), DeniedError, ("az login", "AZURE_KEY_VAULT_URL", "tenant")),
    "no role": (refusal(403, "Forbidden", "ForbiddenByRbac"), DeniedError, ("role", "infra/azure")),
    "no policy": (refusal(403, "Forbidden", "AccessDenied"), DeniedError, ("access policies", "get, list and set")),
    "firewall": (refusal(403, "Forbidden", "ForbiddenByFirewall"), DeniedError, ("firewall",)),
    "disabled": (refusal(403, "Forbidden", "SecretDisabled"), RefusedError, ("enable",)),
    # the guide: verify that the secret's name matches and that it exists
    "not there": (
        refusal(404, "SecretNotFound"),
        NotFoundError,
        ("name", "DAENA_KEY_PREFIX", "AZURE_KEY_VAULT_URL", "list-deleted"),
    ),
    "soft-deleted": (
        refusal(409, "Conflict", "ObjectIsDeletedButRecoverable"),
        RecoverableError,
        (f"az keyvault secret recover --vault-name … --name app-{KEY}",),
    ),
    "being deleted": (refusal(409, "Conflict", "ObjectIsBeingDeleted"), RecoverableError, ("recover",)),
    "another conflict": (refusal(409, "Conflict"), ConflictError, ("look again",)),
    "throttled": (refusal(429, "Throttled"), ThrottledError, ("DAENA_CONCURRENCY",)),
    "wrong": (refusal(400, "BadParameter"), RefusedError, ("Azure portal",)),
    "down": (refusal(503, "ServiceUnavailable"), UnavailableError, ("next run",)),
    "broken": (refusal(500, "InternalServerError"), UnavailableError, ("next run",)),
    "unknown": (refusal(418, "Teapot"), UnavailableError, ("next run",)),
}


@pytest.mark.parametrize("name", TRANSLATED)
def test_an_error_of_key_vault_in_our_words(account: azure_world.Account, name: str) -> None:
    answer, kind, words = TRANSLATED[name]
    account.vault.server.between = lambda *_: answer
    with pytest.raises(KmsError) as refused:
        account.store(seconds=0.4).read(KEY, StoredVersion(1, "0" * 32))
    assert type(refused.value) is kind
    assert "get of version" in refused.value.message
    assert "because" in refused.value.message
    assert all(word in refused.value.hint for word in words)


SAID = (
    "Caller is not authorized to perform action on resource.\r\nIf role assignments were changed recently, wait.\r\n"
    "Caller: appid=a;oid=o;iss=i\r\nAction: 'getSecret/action'\r\nResource: '/subscriptions/s'\r\n"
    "Assignment: (not found)\r\nVault: v;location=l\r\n"
)


def test_who_was_denied_what_where_is_told_in_one_line(account: azure_world.Account) -> None:
    """The service tells it on lines of their own; of a message without end not all is kept."""
    for said, kept in (
        (
            SAID,
            "on resource. Caller: appid=a;oid=o;iss=i Action: 'getSecret/action' Resource: '/subscriptions/s'",
        ),
        ("x" * 9_000, "x" * 500),
        (f"no\nAction: {'y' * 9_000}", "no Action: " + "y" * 392),
    ):
        error = {"code": "Forbidden", "message": said, "innererror": {"code": "ForbiddenByRbac"}}
        answer = Answer(403, {"error": error})
        account.vault.server.between = lambda *_, answer=answer: answer
        with pytest.raises(DeniedError) as refused:
            account.store().read(KEY, StoredVersion(1, "0" * 32))
        assert refused.value.message.partition(" (asked by")[0].endswith(kept)


def test_a_denial_says_which_action_and_whose_credentials_where_azure_does_not() -> None:
    def denied() -> None:
        refused = HttpResponseError(message="no")
        refused.status_code, refused.error_code, refused.reason = 403, "AuthorizationPermissionMismatch", "no"  # type: ignore[attr-defined]
        raise refused

    claims = base64.b64encode(b'{"oid": "somebody"}').decode()
    azure = Azure(lambda: Fixed(f"x.{claims}.y"), call_timeout=timedelta(1))
    with pytest.raises(DeniedError, match=r": no \(the action is blobs/read\)$"):
        azure.asked(denied, "get of it", needs="blobs/read")  # no token was asked for yet
    azure.identity.actor()
    with pytest.raises(DeniedError, match=r": no \(the action is blobs/read, asked by azure:somebody\)$"):
        azure.asked(denied, "get of it", needs="blobs/read")


# code of Blob Storage: (status, what it becomes, words that the hint must have)
BLOBS: dict[str, tuple[int, type[KmsError], str]] = {
    "BlobAlreadyExists": (409, ExistsError, ""),
    "ConditionNotMet": (412, ExistsError, ""),
    # what exists, to credentials that may add and not overwrite
    "UnauthorizedBlobOverwrite": (403, ExistsError, ""),
    "AuthorizationPermissionMismatch": (403, DeniedError, "role"),
    "ContainerNotFound": (404, ConfigurationError, "DAENA_MANIFEST_URL"),
    "ContainerBeingDeleted": (409, UnavailableError, "restore"),
}


@pytest.mark.parametrize("code", BLOBS)
def test_an_error_of_blob_storage_by_its_code(code: str) -> None:
    status, kind, words = BLOBS[code]
    told = HttpResponseError(message="no")
    told.status_code, told.error_code, told.reason = status, code, "because"  # type: ignore[attr-defined]
    refused = azure_calls.translate(told, "put of it")
    assert type(refused) is kind
    assert "because" in refused.message
    assert words in refused.hint


def test_every_kind_of_refusal_is_in_the_table_above() -> None:
    inner = {
        json.loads(json.dumps(a.document))["error"].get("innererror", {}).get("code") for a, _, _ in TRANSLATED.values()
    }
    assert set(azure_calls._BY_CODE) <= inner | set(BLOBS) | {"AuthorizationFailure", "ForbiddenByConnection"}
    assert set(azure_calls._BY_STATUS) - {412} <= {answer.status for answer, _, _ in TRANSLATED.values()}


def test_a_token_that_the_vault_does_not_take(account: azure_world.Account) -> None:
    azure = Azure(lambda: Expired(account.vault.credential()), call_timeout=timedelta(seconds=1))
    account_store = account.store()
    account_store._vault._client = _client(account, azure)
    with pytest.raises(DeniedError) as refused:
        account_store.observe(KEY)
    assert "AZURE_CLIENT_SECRET" in refused.value.hint
    assert "get a new one" in refused.value.hint


class Expired:
    """A credential whose tokens have expired."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        """One that was good an hour ago."""
        made = self._inner._tokens.made("somebody", scopes[0].removesuffix("/.default"), lifetime=-60)
        return AccessTokenInfo(made, 2**40)


def _client(account: azure_world.Account, azure: Azure) -> Any:
    from azure.keyvault.secrets import SecretClient  # noqa: PLC0415

    return SecretClient(account.vault.url, azure.identity, retry_policy=azure_calls.Patience(1.0))


SDK_ERRORS: dict[str, tuple[Exception, type[KmsError], str]] = {
    "no credentials": (CredentialUnavailableError(message="x " + CANARY.decode()), ConfigurationError, "az login"),
    "a wrong secret": (
        ClientAuthenticationError(message=f"AADSTS7000215: Invalid client secret {CANARY.decode()}"),
        DeniedError, "AZURE_CLIENT_SECRET",
    ),
    "no connection": (ServiceRequestError("no way " + CANARY.decode()), UnavailableError, "AZURE_KEY_VAULT_URL"),
    "no reply": (ServiceResponseError("broke off " + CANARY.decode()), UnavailableError, "next run"),
    "no answer of Azure's": (HttpResponseError(message="Content: " + CANARY.decode()), UnavailableError, "next run"),
    "a bug": (KeyError(CANARY.decode()), UnavailableError, "proxy"),
}  # fmt: skip


@pytest.mark.parametrize("name", SDK_ERRORS)
def test_an_error_of_the_sdk_gives_nothing_away(name: str) -> None:
    raised, kind, words = SDK_ERRORS[name]

    def ask() -> None:
        raise raised

    with pytest.raises(KmsError) as refused:
        azure_calls.asked(ask, "get of it")
    assert type(refused.value) is kind
    assert refused.value.message.startswith("get of it: ")
    assert words in refused.value.hint
    assert leaked(told(refused.value), CANARY) == []
    if name == "a wrong secret":
        assert "AADSTS7000215" in refused.value.message


@pytest.mark.parametrize("body", [CANARY, b'"' + CANARY + b'"', b'{"x": "' + CANARY + b'"}'])
def test_a_failure_that_is_none_of_azures_is_not_quoted(account: azure_world.Account, body: bytes) -> None:
    account.vault.server.between = lambda *_: Answer(502, {"html": body.decode()})
    with pytest.raises(UnavailableError) as refused:
        account.store(seconds=0.4).read(KEY, StoredVersion(1, "0" * 32))
    assert leaked(told(refused.value), CANARY) == []


def test_a_reply_that_the_sdk_finds_out_about_late_is_an_error_of_ours(account: azure_world.Account) -> None:
    vault: Any = account.store(seconds=0.4)._vault
    version = vault.put("a-secret", "value", "", {}).version

    def meddle(_: object, answer: Callable[[], Answer]) -> Answer:
        told = answer()
        return replace(told, document={**(told.document or {}), "attributes": 102})

    account.vault.server.between = meddle
    asks: list[Callable[[], object]] = [lambda: vault.get("a-secret"), lambda: vault.patch("a-secret", version)]
    for ask in asks:
        with pytest.raises(UnavailableError, match="could not be read"):
            ask()
    written = vault.put("a-secret", "another", "", {})  # it was carried out: it is looked for
    assert [each.version for each in vault.versions("a-secret")].count(written.version) == 1


def test_a_vault_that_is_not_there() -> None:
    azure = Azure(Nobody, call_timeout=timedelta(seconds=0.5))
    from daena_kms.stores.azure_secrets import Vault  # noqa: PLC0415
    from daena_kms.stores.pace import Pace  # noqa: PLC0415

    pace = Pace(9, 1, lambda: 0.0, lambda _: None)
    there = Vault(azure, "https://127.0.0.1:9", pace=pace, token=lambda: "x", sleep=lambda _: None)
    with pytest.raises(UnavailableError, match="could not be reached") as refused:
        there.versions("x")
    assert "AZURE_KEY_VAULT_URL" in refused.value.hint


class Nobody:
    """A credential that is never asked."""

    def get_token_info(self, *_: str, options: Any = None) -> AccessTokenInfo:
        """None."""
        raise CredentialUnavailableError(message="nobody")


# --- credentials


def login(tenant: str = "", client: str = "", secret: str = "", *, managed: bool = False) -> Login:
    """As the settings have it."""
    return Login(tenant, client, KeyMaterial(secret.encode()) if secret else None, managed)


def test_all_three_settings_are_an_application() -> None:
    made = credential(login("00000000-0000-4000-8000-000000000001", "client", CANARY.decode(), managed=True))
    assert isinstance(made, ClientSecretCredential)
    assert leaked(repr(made), CANARY) == []


@pytest.mark.parametrize("half", [("t", "", "s"), ("t", "c", ""), ("", "c", "s"), ("", "", "s"), ("t", "", "")])
def test_half_of_an_application_is_refused(half: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigurationError, match="go together"):
        credential(login(*half))


def test_in_azure_it_is_the_managed_identity_and_nothing_else() -> None:
    assert isinstance(credential(login(managed=True)), ManagedIdentityCredential)
    assert isinstance(credential(login(client="c", managed=True)), ManagedIdentityCredential)


def test_on_a_laptop_az_login_comes_first() -> None:
    made = credential(login())
    assert isinstance(made, ChainedTokenCredential)
    assert [type(each).__name__ for each in made.credentials] == ["AzureCliCredential", "ManagedIdentityCredential"]


@pytest.mark.parametrize("name", ["IDENTITY_ENDPOINT", "FUNCTIONS_WORKER_RUNTIME"])
def test_the_platform_says_where_it_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    made = app.Clouds(read_settings({})).azure.identity
    assert isinstance(made._credential, ManagedIdentityCredential)


def test_the_managed_identity_is_asked_through_its_endpoint(
    account: azure_world.Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in account.environment().items():
        monkeypatch.setenv(name, value)
    settings = read_settings({**os.environ, "DAENA_POLICY": "examples/daena-kms.toml"})
    connection = app.connect(settings, trigger="test", makes=True)
    assert connection.store.actor == "azure:the-function"
    assert {asked["resource"] for asked in account.vault.identity.asked} >= {"https://storage.azure.com"}


@pytest.mark.parametrize(
    ("claims", "actor"),
    [
        ({"xms_mirid": "/subscriptions/x/rotator", "oid": "o"}, "/subscriptions/x/rotator"),
        ({"upn": "a@example.com", "oid": "o"}, "a@example.com"),
        ({"appid": "a", "oid": "o"}, "a"),
        ({"oid": "o"}, "o"),
        ({}, "unknown"),
    ],
)  # fmt: skip
def test_the_actor_is_who_the_token_is_of(claims: dict[str, str], actor: str) -> None:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert Identity(Fixed(f"x.{body}.y")).actor() == f"azure:{actor}"


@pytest.mark.parametrize("token", ["", "x", "x.y.z", "x.W10.y", "x.////.y"])
def test_a_token_that_tells_nothing_names_nobody(token: str) -> None:
    assert Identity(Fixed(token)).actor() == "azure:unknown"


# Microsoft: "Microsoft Entra authentication and authorization error codes"; its body is as RFC 6749 has it.
ENTRA = {
    "AADSTS7000222": "The provided client secret keys for app 'client' are expired.",
    "AADSTS7000215": "Invalid client secret provided.",
    "AADSTS700016": "Application with identifier 'client' was not found in the directory.",
}


@pytest.mark.parametrize("code", ENTRA)
def test_an_application_that_entra_refuses_is_told_what_to_mend_and_nothing_is_asked_of_the_vault(
    account: azure_world.Account, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """All the way from the settings; Entra alone is played, at the wire."""
    application = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": CANARY.decode()}
    for name, value in (account.environment() | application).items():
        monkeypatch.setenv(name, value)
    send = RequestsTransport.send
    asked: list[str] = []

    def entra(self: Any, request: Any, **options: Any) -> Any:
        if not request.url.startswith("https://login.microsoftonline.com/"):
            return send(self, request, **options)
        asked.append(request.url)
        return _entra(request, code)

    monkeypatch.setattr(RequestsTransport, "send", entra)
    monkeypatch.setattr(RequestsTransport, "sleep", lambda *_: None)
    with pytest.raises(DeniedError) as refused:
        app.connect(
            read_settings({**os.environ, "DAENA_POLICY": "examples/daena-kms.toml"}), trigger="test", makes=True
        )
    assert code in refused.value.message
    assert "AZURE_CLIENT_SECRET" in refused.value.hint
    assert leaked(told(refused.value), CANARY) == []
    assert any(url.endswith("/oauth2/v2.0/token") for url in asked)
    assert account.vault.server.calls == []


def _entra(request: Any, code: str) -> Any:
    """What Entra answers: where its endpoints are, and no token."""
    host = f"https://login.microsoftonline.com/{TENANT}"
    status, document = 200, {
        "tenant_discovery_endpoint": f"{host}/v2.0/.well-known/openid-configuration",
        "authorization_endpoint": f"{host}/oauth2/v2.0/authorize",
        "token_endpoint": f"{host}/oauth2/v2.0/token",
        "issuer": f"{host}/v2.0",
        "metadata": [],
    }  # fmt: skip
    if request.method == "POST":
        status, document = 401, {"error": "invalid_client", "error_description": f"{code}: {ENTRA[code]} Trace ID: 0"}
    reply = requests.Response()
    reply.status_code, reply._content = status, json.dumps(document).encode()
    reply.headers["Content-Type"] = "application/json"
    return RequestsTransportResponse(request, reply)


class Fixed:
    """A credential with one token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token_info(self, *_: str, options: Any = None) -> AccessTokenInfo:
        """It."""
        return AccessTokenInfo(self._token, 2**40)


# --- nothing leaks


def test_the_log_holds_no_material_and_no_token_at_debug(
    account: azure_world.Account, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store, material = account.store(), KeyMaterial(CANARY)
    staged = store.stage(KEY, NewVersion(1, "r", "1:1", SPEC.name), store.prepare(KEY, 1, SPEC, material))
    store.promote(KEY, staged, None, store.read(KEY, staged))
    assert caplog.records
    said = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert leaked(said, CANARY) == []
    assert "eyJ" not in said, "a token begins so"


@pytest.mark.parametrize(
    "fault", [lambda *_: None, lambda *_: refusal(500, "X"), lambda *_: refusal(400, "BadParameter")]
)
def test_what_was_sent_is_not_in_the_error(account: azure_world.Account, fault: Callable[..., Answer | None]) -> None:
    store = account.store(seconds=0.4)
    account.vault.server.between = fault
    with pytest.raises(KmsError) as refused:
        store.stage(KEY, NewVersion(1, "r", "1:1", SPEC.name), store.prepare(KEY, 1, SPEC, KeyMaterial(CANARY)))
    assert leaked(told(refused.value), CANARY) == []


# --- blobs


def test_an_error_of_blob_storage_in_our_words(account: azure_world.Account) -> None:
    ledger = account.ledger()
    ledger.append(KEY, 1, b"{}")
    with pytest.raises(ExistsError):
        ledger.append(KEY, 1, b"{}")
    account.containers().delete_container()
    for ask in (lambda: ledger.read(KEY, 2), lambda: ledger.append(KEY, 2, b"{}"), lambda: ledger.sequences(KEY)):
        with pytest.raises(ConfigurationError) as refused:
            ask()
        assert "DAENA_MANIFEST_URL" in refused.value.hint


def test_a_token_that_goes_deeper_than_anybody_reads_names_nobody() -> None:
    body = base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=")
    assert Identity(Fixed(f"x.{body}.y")).actor() == "azure:unknown"
