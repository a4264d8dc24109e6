"""Calling Google Cloud: what its errors become, which credentials are used, what is repeated, what is not believed."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import google.auth
import pytest
from google.api_core import exceptions as google_exceptions
from google.auth import compute_engine as google_compute_engine
from google.auth import exceptions as google_auth_exceptions
from google.auth.compute_engine import _metadata

from daena_kms.errors import (
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
from daena_kms.material import KeyMaterial
from daena_kms.stores import gcp_calls, gcp_layout, gcp_secrets
from daena_kms.stores.gcp_calls import Gcp, credentials, translate
from daena_kms.stores.gcp_secrets import OF_ONE_SECRET, Secrets
from daena_kms.stores.pace import Pace
from tests.cli.sandbox import CANARY, leaked
from tests.support import gcp_world
from tests.support.google_tokens import Credential
from tests.support.gsm_errors import GoogleError
from tests.support.gsm_faults import delayed, late, lost, lying, only, refusing, unavailable
from tests.support.gsm_service import Between, Call, Carried
from tests.support.strict_secrets import FUNCTION

# Nothing in them has types.
google_errors: Any = google_exceptions
auth_errors: Any = google_auth_exceptions
compute_engine: Any = google_compute_engine

NAME = "app-some-key"
MATERIAL = KeyMaterial(CANARY)


@pytest.fixture
def project() -> Iterator[gcp_world.Project]:
    yield gcp_world.emptied()
    gcp_world.emptied()


@pytest.fixture
def secrets(project: gcp_world.Project) -> Secrets:
    """The calls, and a secret with one version."""
    project.secrets.store.put(NAME, CANARY)
    return project.calls(project.gcp(seconds=2.0))


def told(problem: KmsError) -> str:
    """Everything that a person could get to see of it."""
    return f"{problem!r} {problem} {problem.line} {problem.__cause__} {problem.__suppress_context__}"


# --- errors

# status of gRPC: (what it becomes, words that the hint must have)
STATUSES: dict[str, tuple[type[KmsError], tuple[str, ...]]] = {
    # the guide: verify the service account's permissions, check IAM bindings, ensure that the project's id is correct
    "PERMISSION_DENIED": (DeniedError, ("infra/gcp", "GCP_PROJECT_ID", "DAENA_KEY_PREFIX", "some minutes")),
    "UNAUTHENTICATED": (DeniedError, ("GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth application-default login")),
    # the guide: verify the secret's name, check the project's id, ensure that the secret exists
    "NOT_FOUND": (NotFoundError, ("the name", "DAENA_KEY_PREFIX", "GCP_PROJECT_ID", "gcloud secrets list")),
    "ALREADY_EXISTS": (ExistsError, ()),
    "ABORTED": (ConflictError, ("look again",)),
    "FAILED_PRECONDITION": (RefusedError, ("disabled or destroyed", "gcloud secrets versions list")),
    "OUT_OF_RANGE": (RefusedError, ()),
    "INVALID_ARGUMENT": (RefusedError, ("console",)),
    "RESOURCE_EXHAUSTED": (ThrottledError, ("DAENA_CONCURRENCY", "quota")),
    "DATA_LOSS": (IntegrityError, ("backup",)),
    "UNAVAILABLE": (UnavailableError, ("next run",)),
    "DEADLINE_EXCEEDED": (UnavailableError, ("next run",)),
    "INTERNAL": (UnavailableError, ("next run",)),
    "UNKNOWN": (UnavailableError, ("next run",)),
    "CANCELLED": (UnavailableError, ("next run",)),
    "UNIMPLEMENTED": (UnavailableError, ("next run",)),
}


@pytest.mark.parametrize("status", STATUSES)
def test_an_error_of_secret_manager_in_our_words(project: gcp_world.Project, status: str) -> None:
    kind, words = STATUSES[status]
    project.secrets.service.between = refusing(status, "because")
    with pytest.raises(KmsError) as refused:
        project.calls(project.gcp(seconds=0.4)).access(NAME, 1)
    assert type(refused.value) is kind
    assert refused.value.message == f"access of version 1 of {NAME}: {status}: because"
    assert all(word in refused.value.hint for word in words)


# status of HTTP: the same for Cloud Storage
HTTP: dict[int, type[KmsError]] = {
    400: RefusedError, 401: DeniedError, 403: DeniedError, 404: NotFoundError, 409: ConflictError, 412: ExistsError,
    429: ThrottledError, 500: UnavailableError, 503: UnavailableError, 504: UnavailableError, 418: UnavailableError,
}  # fmt: skip


@pytest.mark.parametrize("status", HTTP)
def test_an_error_of_cloud_storage_in_our_words(status: int) -> None:
    said = "POST https://storage/o?uploadType=multipart: no: ('Request failed with status code', 412, 'Expected one')"
    refused = translate(google_errors.from_http_status(status, said), "put of it")
    assert type(refused) is HTTP[status]
    assert refused.message.startswith("put of it: ")
    assert refused.message.endswith(": POST https://storage/o?uploadType=multipart: no")


def test_an_api_that_was_never_enabled_is_named_with_the_command_that_enables_it(
    project: gcp_world.Project, secrets: Secrets
) -> None:
    project.secrets.service.enabled = False
    with pytest.raises(ConfigurationError, match="has not been used in project") as refused:
        secrets.listed("key")
    assert "gcloud services enable secretmanager.googleapis.com" in refused.value.hint


def test_another_project_is_denied_and_named(project: gcp_world.Project) -> None:
    gcp = Gcp(project.secrets.credentials, project="another-project", call_timeout=timedelta(seconds=1))
    with pytest.raises(DeniedError, match="another-project") as refused:
        project.calls(gcp).listed("key")
    assert "GCP_PROJECT_ID" in refused.value.hint


class Holder:
    """Credentials that say whose they are."""

    def __init__(self, **told: str) -> None:
        vars(self).update(told)


# the credentials, what Google says: what we add
WHOSE: list[tuple[Holder, str, str]] = [
    (Holder(service_account_email=FUNCTION), "no", f" (asked by gcp:{FUNCTION})"),
    (Holder(account="me@example.org"), "no", " (asked by gcp:me@example.org)"),
    (Holder(service_account_email=FUNCTION), f"{FUNCTION} does not have access", ""),
    (Holder(service_account_email="default"), "no", ""),  # the metadata server has not named it yet
    (Holder(), "no", ""),
]


@pytest.mark.parametrize(("holder", "said", "added"), WHOSE)
def test_a_denial_names_the_account_once(holder: Holder, said: str, added: str) -> None:
    def denied() -> None:
        raise google_errors.Forbidden(said)

    gcp = Gcp(lambda: holder, project="p", call_timeout=timedelta(seconds=1))
    assert gcp.credentials is holder
    with pytest.raises(DeniedError) as refused:
        gcp.asked(denied, "get of it")
    assert refused.value.message == f"get of it: 403: {said}{added}"


# ErrorInfo's reason: (what it becomes, words that the hint must have)
REASONS: dict[str, tuple[type[KmsError], str]] = {
    "SERVICE_DISABLED": (ConfigurationError, "gcloud services enable"),
    "BILLING_DISABLED": (ConfigurationError, "billing account"),
    "CONSUMER_INVALID": (DeniedError, "gcloud projects list"),
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": (DeniedError, "access scope"),
    "IAM_PERMISSION_DENIED": (DeniedError, "infra/gcp"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_denials_are_told_apart_by_their_reason(project: gcp_world.Project, reason: str) -> None:
    def denied(*_: object) -> Any:
        raise GoogleError("PERMISSION_DENIED", "because", reason)

    project.secrets.service.between = denied
    with pytest.raises(KmsError) as refused:
        project.calls(project.gcp(seconds=0.4)).access(NAME, 1)
    kind, words = REASONS[reason]
    assert type(refused.value) is kind
    assert words in refused.value.hint
    assert set(gcp_calls._BY_REASON) <= set(REASONS)


def test_of_a_body_in_json_its_message_is_told() -> None:
    """As Cloud Storage answers to an upload, on many lines; what is no such body is cut at its first."""
    body = '{\n  "error": {\n    "code": 403,\n    "message": "a@b may not storage.objects.create"\n  }\n}\n'
    told = translate(google_errors.Forbidden(f"POST https://storage/o: {body}: ('Request failed', 403)"), "put of it")
    assert told.message == "put of it: 403: POST https://storage/o: a@b may not storage.objects.create"
    for odd in ('{"error": "x"}', '{"error"', "{}", "{\n"):
        assert translate(google_errors.Forbidden(f"no: {odd}"), "put of it").message.startswith("put of it: 403: no: {")


def test_a_bucket_that_is_not_there_is_told_from_an_object_that_is_not() -> None:
    said = "GET https://storage/b/x/o/y?alt=media: {}: ('Request failed with status code', 404)"
    missing = translate(google_errors.NotFound(said.format("The specified bucket does not exist.")), "get of it")
    assert type(missing) is ConfigurationError
    assert "DAENA_MANIFEST_URL" in missing.hint
    assert type(translate(google_errors.NotFound(said.format("No such object: x/y")), "get of it")) is NotFoundError


def test_a_message_without_end_is_cut() -> None:
    assert len(translate(google_errors.Forbidden("x" * 10_000), "get of it").message) < 600
    assert "no reason given" in translate(google_errors.Forbidden(""), "get of it").message


def test_a_secret_manager_that_is_not_there(project: gcp_world.Project) -> None:
    pace = Pace(9, 1, lambda: 0.0, lambda _: None)
    there = Secrets(project.gcp(seconds=0.5), "127.0.0.1:9", pace=lambda *_: pace, sleep=lambda _: None)
    with pytest.raises(UnavailableError) as refused:
        there.listed("key")
    assert "GCP_SECRET_MANAGER_ENDPOINT" in refused.value.hint


# --- credentials

# what the SDK raises: (what it becomes, words that the message must have); the hint says where to look
AUTH: dict[str, tuple[Exception, type[KmsError], str]] = {
    "none": (auth_errors.DefaultCredentialsError(CANARY.decode()), ConfigurationError, "there are no Google credent"),
    "expired": (auth_errors.RefreshError(CANARY.decode()), DeniedError, "gave no token"),
    "no endpoint": (auth_errors.TransportError(CANARY.decode()), UnavailableError, "could not be reached"),
    "malformed": (auth_errors.MalformedError(CANARY.decode()), ConfigurationError, "there are no Google credent"),
    "any other": (auth_errors.UserAccessTokenError(CANARY.decode()), DeniedError, "cannot be used"),
    "a bug": (KeyError(CANARY.decode()), UnavailableError, "KeyError"),
}  # fmt: skip


@pytest.mark.parametrize("name", AUTH)
def test_an_error_of_the_credentials_gives_nothing_away(name: str) -> None:
    raised, kind, words = AUTH[name]

    def fail() -> None:
        raise raised

    gcp = Gcp(fail, project="p", call_timeout=timedelta(seconds=1))
    with pytest.raises(KmsError) as refused:
        gcp.actor()
    assert type(refused.value) is kind
    assert words in refused.value.message
    assert refused.value.hint
    assert leaked(told(refused.value), CANARY) == []


class Failing(Credential):
    """Credentials that are found out to be none when the first call needs a token."""

    def __init__(self, project: gcp_world.Project, problem: Exception) -> None:
        super().__init__(project.secrets.tokens, FUNCTION)
        self._problem = problem

    def refresh(self, request: object) -> None:
        """No token."""
        raise self._problem


@pytest.mark.parametrize(
    "problem",
    [auth_errors.RefreshError(CANARY.decode()), auth_errors.TransportError(CANARY.decode())],
    ids=["expired", "metadata server down"],
)
def test_a_token_that_cannot_be_had_during_a_call_gives_nothing_away(
    project: gcp_world.Project, problem: Exception
) -> None:
    gcp = Gcp(lambda: Failing(project, problem), project=project.secrets.project_id, call_timeout=timedelta(seconds=1))
    with pytest.raises((DeniedError, UnavailableError)) as refused:
        project.calls(gcp).access(NAME, 1)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in refused.value.hint
    assert leaked(told(refused.value), CANARY) == []


@pytest.mark.parametrize("token", ["", "x", CANARY.decode()])
def test_a_token_that_secret_manager_does_not_take_is_named_nowhere(project: gcp_world.Project, token: str) -> None:
    shown = project.secrets.credentials(token=token or None, lifetime=60 if token else -60)
    gcp = Gcp(lambda: shown, project=project.secrets.project_id, call_timeout=timedelta(seconds=1))
    with pytest.raises(DeniedError) as refused:
        project.calls(gcp).access(NAME, 1)
    assert "gcloud auth application-default login" in refused.value.hint
    assert leaked(told(refused.value), CANARY) == []


def on_a_machine(project: gcp_world.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of Google's, whose account the metadata server tells. The SDK reads its address once."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    host = project.secrets.google.host
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
    monkeypatch.setattr(google.auth, "default", lambda **_: (compute_engine.Credentials(), ""))


KEY_FILES = {
    "empty": b"", "no JSON": b"not json " + CANARY, "another JSON": b'{"type": "x", "k": "' + CANARY + b'"}',
    "a list": b"[1]", "half": b'{"type": "service_account", "private_key": "' + CANARY + b'"}', "binary": b"\xff\x00",
}  # fmt: skip


@pytest.mark.parametrize("name", KEY_FILES)
def test_a_garbled_key_file_is_named_and_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(KEY_FILES[name])
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises((ConfigurationError, DeniedError)) as refused:
        Gcp(lambda: credentials(str(path)), project="p", call_timeout=timedelta(seconds=1)).actor()
    assert "GOOGLE_APPLICATION_CREDENTIALS" in refused.value.hint
    assert leaked(told(refused.value), CANARY) == []


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"names .*nothing\.json, and there is no such file") as refused:
        credentials(str(tmp_path / "nothing.json"))
    assert "mend the path" in refused.value.hint


def test_a_key_file_of_a_key_that_is_no_more_is_denied(
    project: gcp_world.Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project.secrets.key_file("gone@example.com")
    content = json.loads(path.read_text()) | {"client_email": "another@example.com"}
    mended = tmp_path / "key.json"
    mended.write_text(json.dumps(content))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(mended))
    gcp = Gcp(lambda: credentials(str(mended)), project=project.secrets.project_id, call_timeout=timedelta(seconds=1))
    with pytest.raises(DeniedError):
        project.calls(gcp).access(NAME, 1)


def test_no_metadata_server_and_no_key_file_are_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
    monkeypatch.setattr(_metadata, "ping", lambda *_, **__: False)
    monkeypatch.setattr(_metadata, "is_on_gce", lambda *_, **__: False)
    gcp = Gcp(lambda: credentials(""), project="p", call_timeout=timedelta(seconds=1))
    with pytest.raises(ConfigurationError, match="no Google credentials") as refused:
        gcp.actor()
    assert "the function's service account" in refused.value.hint


def test_a_metadata_server_that_goes_down_is_unavailable(
    project: gcp_world.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(project, monkeypatch)
    gcp = Gcp(lambda: credentials(""), project="p", call_timeout=timedelta(seconds=1))
    assert gcp.credentials
    project.secrets.google.email, before = "", project.secrets.google.email
    try:
        with pytest.raises((DeniedError, UnavailableError)) as refused:
            gcp.actor()
    finally:
        project.secrets.google.email = before
    assert "service account" in refused.value.hint


# --- who


def test_the_actor_is_the_account_of_the_key_file(project: gcp_world.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(project.secrets.key_file("rotator@example.com"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    gcp = Gcp(lambda: credentials(path), project="p", call_timeout=timedelta(seconds=1))
    assert gcp.actor() == "gcp:rotator@example.com"


def test_the_actor_is_the_account_of_the_machine(project: gcp_world.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(project, monkeypatch)
    gcp = Gcp(lambda: credentials(""), project="p", call_timeout=timedelta(seconds=1))
    assert gcp.actor() == f"gcp:{FUNCTION}", "not `default`, which the SDK says before it has asked"


@pytest.mark.parametrize(("account", "actor"), [("somebody@example.com", "somebody@example.com"), ("", "unknown")])
def test_the_actor_is_the_account_of_gcloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: str, actor: str
) -> None:
    person = {
        "type": "authorized_user",
        "client_id": "i",
        "client_secret": "s",
        "refresh_token": "r",
        "account": account,
    }
    path = tmp_path / "adc.json"
    path.write_text(json.dumps(person))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    gcp = Gcp(lambda: credentials(str(path)), project="p", call_timeout=timedelta(seconds=1))
    assert gcp.actor() == f"gcp:{actor}"


def test_credentials_are_made_once() -> None:
    made: list[object] = []
    gcp = Gcp(lambda: made.append(object()) or made[-1], project="p", call_timeout=timedelta(seconds=1))  # type: ignore[func-returns-value]
    assert gcp.credentials is gcp.credentials
    assert len(made) == 1


# --- replies that are about something else, or half

Change = Callable[[Any], None]


def field(name: str, value: object) -> Change:
    """A reply with another value there."""
    return lambda reply: setattr(reply, name, value)


def named(tail: str) -> Change:
    """A reply about that secret or version of our project."""
    return lambda reply: setattr(reply, "name", f"{SECRETS}/{tail}")


SECRETS = "projects/482913337105/secrets"
ONE = gcp_secrets.Version(1, enabled=True)
ABOUT, SUM = "told about", "checksum"
REPLIES: dict[str, tuple[str, Callable[[Secrets], object], Change, str]] = {
    "payload of another secret": ("Access", lambda s: s.access(NAME, 1), named("other/versions/1"), ABOUT),
    "payload of another version": ("Access", lambda s: s.access(NAME, 1), named(f"{NAME}/versions/2"), ABOUT),
    "payload of another project": (
        "Access", lambda s: s.access(NAME, 1), field("name", f"projects/x-y/secrets/{NAME}/versions/1"), ABOUT,
    ),
    "payload of nothing": ("Access", lambda s: s.access(NAME, 1), field("name", ""), ABOUT),
    "payload changed": ("Access", lambda s: s.access(NAME, 1), lambda r: setattr(r.payload, "data", b"x"), SUM),
    "payload cut": ("Access", lambda s: s.access(NAME, 1), lambda r: setattr(r.payload, "data", CANARY[:16]), SUM),
    "no payload": ("Access", lambda s: s.access(NAME, 1), lambda r: r.ClearField("payload"), SUM),
    "no checksum": ("Access", lambda s: s.access(NAME, 1), lambda r: r.payload.ClearField("data_crc32c"), SUM),
    "wrong checksum": ("Access", lambda s: s.access(NAME, 1), lambda r: setattr(r.payload, "data_crc32c", 7), SUM),
    "secret of another name": ("GetSecret", lambda s: s.secret(NAME), named("other"), ABOUT),
    "a version for a secret": ("GetSecret", lambda s: s.secret(NAME), named(f"{NAME}/versions/1"), ABOUT),
    "secret without etag": ("GetSecret", lambda s: s.secret(NAME), field("etag", ""), "no etag"),
    "listing of another project": (
        "ListSecrets", lambda s: s.listed("key"), lambda r: setattr(r.secrets[0], "name", "projects/x-y/secrets/z"),
        ABOUT,
    ),
    "version of another secret": ("Get", lambda s: s.version(NAME, 1), named("other/versions/1"), ABOUT),
    "version of another number": ("Get", lambda s: s.version(NAME, 1), named(f"{NAME}/versions/3"), ABOUT),
    "an alias": ("Get", lambda s: s.version(NAME, 1), named(f"{NAME}/versions/latest"), "names no version"),
    "version without state": ("Get", lambda s: s.version(NAME, 1), field("state", 0), "tells no state"),
    "versions of another secret": (
        "ListSecretVersions", lambda s: s.versions(NAME),
        lambda r: setattr(r.versions[0], "name", f"{SECRETS}/other/versions/1"), ABOUT,
    ),
    "added elsewhere": ("Add", lambda s: s.add(NAME, MATERIAL, 1), named("other/versions/2"), ABOUT),
    "added nothing": ("Add", lambda s: s.add(NAME, MATERIAL, 1), named(NAME), "names no version"),
    "added without state": ("Add", lambda s: s.add(NAME, MATERIAL, 1), field("state", 0), "tells no state"),
    "disabled another": ("Disable", lambda s: s.disable(NAME, ONE), named(f"{NAME}/versions/2"), ABOUT),
    "enabled another": ("Enable", lambda s: s.enable(NAME, ONE), named(f"{NAME}/versions/2"), ABOUT),
    "destroyed another": ("Destroy", lambda s: s.destroy(NAME, ONE), named(f"{NAME}/versions/2"), ABOUT),
    "updated another": (
        "UpdateSecret", lambda s: s.update(gcp_layout.Secret(NAME, "", {}, {}), {}, {}), named("other"), ABOUT,
    ),
    "made another": ("CreateSecret", lambda s: s.create("app-new", {}, {}), named("other"), ABOUT),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_about_something_else_is_not_believed(project: gcp_world.Project, secrets: Secrets, name: str) -> None:
    rpc, ask, change, words = REPLIES[name]
    project.secrets.store.put("app-listed", b"x", labels={"daena-kms": "key"})
    project.secrets.service.between = only([rpc, f"{rpc}SecretVersion"], lying(change))
    with pytest.raises(IntegrityError, match=words) as refused:
        ask(secrets)
    assert "nothing further was done" in refused.value.hint
    assert leaked(told(refused.value), CANARY) == []


def test_a_project_is_named_by_its_number_in_replies(secrets: Secrets) -> None:
    assert secrets.access(NAME, 1) == MATERIAL
    assert [version.version for version in secrets.versions(NAME)] == [1]


def test_a_reply_that_is_cut_off_is_none(project: gcp_world.Project, secrets: Secrets) -> None:
    """gRPC itself finds that the message does not end."""

    def cut(_: Call, carried: Carried) -> Any:
        content = carried().SerializeToString()
        return type("Half", (), {"SerializeToString": lambda _: content[: len(content) // 2]})()

    project.secrets.service.between = only(["AccessSecretVersion"], cut)
    with pytest.raises((UnavailableError, IntegrityError)) as refused:
        secrets.access(NAME, 1)
    assert leaked(told(refused.value), CANARY) == []


def test_long_listings_are_read_to_their_end(project: gcp_world.Project, secrets: Secrets) -> None:
    project.secrets.store.put(NAME, *[b"%d" % number for number in range(2, 1202)])
    for number in range(5):
        project.secrets.store.put(f"app-{number}", b"x", labels={"daena-kms": "key"})
    assert [version.version for version in secrets.versions(NAME)] == list(range(1, 1202))
    assert len(secrets.listed("key")) == 5


# --- what is repeated

ASKS: dict[str, Callable[[Secrets], object]] = {
    "ListSecrets": lambda s: s.listed("key"),
    "GetSecret": lambda s: s.secret(NAME),
    "ListSecretVersions": lambda s: s.versions(NAME),
    "GetSecretVersion": lambda s: s.version(NAME, 1),
    "AccessSecretVersion": lambda s: s.access(NAME, 1),
    "CreateSecret": lambda s: s.create("app-new", {}, {}),
    "UpdateSecret": lambda s: s.update(s.secret(NAME) or gcp_layout.Secret(NAME, "", {}, {}), {"a": "b"}, {}),
    "DisableSecretVersion": lambda s: s.disable(NAME, gcp_secrets.Version(1, enabled=True)),
    "EnableSecretVersion": lambda s: s.enable(NAME, gcp_secrets.Version(1, enabled=False)),
    "DestroySecretVersion": lambda s: s.destroy(NAME, gcp_secrets.Version(1, enabled=True)),
    "AddSecretVersion": lambda s: s.add(NAME, MATERIAL, 1),
}
PASSING = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN"]


@pytest.mark.parametrize("status", PASSING)
@pytest.mark.parametrize("rpc", ASKS)
def test_a_call_that_fails_in_passing_is_made_again(
    project: gcp_world.Project, secrets: Secrets, rpc: str, status: str
) -> None:
    project.secrets.service.between = only([rpc], refusing(status), times=1)
    ASKS[rpc](secrets)
    assert [call.rpc for call in project.secrets.service.calls].count(rpc) == 2


@pytest.mark.parametrize("status", ["NOT_FOUND", "PERMISSION_DENIED", "ABORTED", "FAILED_PRECONDITION"])
@pytest.mark.parametrize("rpc", ["GetSecretVersion", "UpdateSecret", "DestroySecretVersion"])
def test_a_call_that_is_refused_is_not_made_again(
    project: gcp_world.Project, secrets: Secrets, rpc: str, status: str
) -> None:
    project.secrets.service.between = only([rpc], refusing(status))
    with suppress(KmsError):
        ASKS[rpc](secrets)
    assert [call.rpc for call in project.secrets.service.calls].count(rpc) == 1


def added(project: gcp_world.Project) -> int:
    """How many versions there are."""
    return len(project.secrets.store.newest(NAME))


# how an addition fails: (what happens, how often it is sent)
ADDS: dict[str, tuple[Between, int]] = {
    "lost": (lost, 1),
    "late": (late, 1),
    "not sent": (unavailable, 2),
    "throttled": (refusing("RESOURCE_EXHAUSTED"), 2),
}


@pytest.mark.parametrize("name", ADDS)
def test_an_addition_whose_reply_is_lost_is_looked_for_and_made_once(
    project: gcp_world.Project, secrets: Secrets, name: str
) -> None:
    fault, sent = ADDS[name]
    project.secrets.service.between = only(["AddSecretVersion"], fault, times=1)
    assert secrets.add(NAME, KeyMaterial(b"x" * 32), 1).version == 2
    assert added(project) == 2
    assert [call.rpc for call in project.secrets.service.calls].count("AddSecretVersion") == sent


def test_an_addition_that_is_lost_is_told_from_what_others_added_and_what_was_there(
    project: gcp_world.Project, secrets: Secrets
) -> None:
    """Also where the same material lies there already, disabled or before."""

    def crowd(_: Call, carried: Carried) -> Any:
        project.secrets.store.put(NAME, b"theirs", b"x" * 32)
        project.secrets.store.disable(NAME, "4", "")
        carried()
        project.secrets.store.put(NAME, b"later")
        raise GoogleError("UNAVAILABLE", "lost")

    project.secrets.store.put(NAME, b"x" * 32)
    project.secrets.service.between = only(["AddSecretVersion"], crowd, times=1)
    assert secrets.add(NAME, KeyMaterial(b"x" * 32), 2).version == 5
    assert added(project) == 6


def test_an_addition_without_any_reply_is_tried_three_times_and_is_unavailable(
    project: gcp_world.Project, secrets: Secrets
) -> None:
    secrets = project.calls(project.gcp())
    project.secrets.service.between = only(["AddSecretVersion"], unavailable)
    with pytest.raises(UnavailableError) as refused:
        secrets.add(NAME, MATERIAL, 1)
    assert refused.value.hint
    assert leaked(told(refused.value), CANARY) == []
    assert [call.rpc for call in project.secrets.service.calls] == ["AddSecretVersion", "AccessSecretVersion"] * 3


def test_an_addition_that_arrives_after_it_was_looked_for_is_there_twice_and_both_are_found(
    project: gcp_world.Project, secrets: Secrets
) -> None:
    late_: list[Carried] = []

    def held(_: Call, carried: Carried) -> Any:
        late_.append(carried)
        raise GoogleError("UNAVAILABLE", "on its way")

    project.secrets.service.between = only(["AddSecretVersion"], held, times=1)
    assert secrets.add(NAME, KeyMaterial(b"x" * 32), 1).version == 2
    late_[0]()
    assert [found.version for found in secrets.newer(NAME, 1)] == [2, 3]


class Ticking:
    """A clock that each sleep and each look at it moves."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def with_clock(project: gcp_world.Project, clock: Ticking, seconds: float = 30.0) -> Secrets:
    """Calls by that clock."""
    quick = Pace(10_000, 1.0, clock, lambda _: None)

    def sleep(pause: float) -> None:
        clock.now += pause

    return Secrets(project.gcp(seconds=seconds), project.secrets.address, pace=lambda *_: quick, sleep=sleep)


def test_an_addition_is_not_sent_again_once_the_time_of_a_call_is_over(project: gcp_world.Project) -> None:
    """Its claim was looked at for so long and no longer: another run may have gone on since."""
    project.secrets.store.put(NAME, b"x")
    clock = Ticking()

    def slow(_: Call, __: Carried) -> Any:
        clock.now += 22.0
        raise GoogleError("INVALID_ARGUMENT" if clock.now > 30 else "UNAVAILABLE", "no")

    secrets = with_clock(project, clock)
    project.secrets.service.between = only(["AddSecretVersion"], slow)
    with pytest.raises(UnavailableError):
        secrets.add(NAME, MATERIAL, 1)
    assert [call.rpc for call in project.secrets.service.calls].count("AddSecretVersion") == 1
    assert clock.now == 22.0, "nor waited for"


def test_an_addition_that_waits_for_its_turn_longer_than_a_call_may_take_is_not_sent(
    project: gcp_world.Project,
) -> None:
    project.secrets.store.put(NAME, b"x")
    clock = Ticking(step=25.0)
    with pytest.raises(UnavailableError, match="time of a call is over") as refused:
        with_clock(project, clock).add(NAME, MATERIAL, 1)
    assert refused.value.hint
    assert added(project) == 1


@pytest.mark.parametrize("crowded", ["the project", "the secret"])
def test_an_addition_whose_turn_is_further_away_than_a_call_may_take_is_throttled_and_not_waited_for(
    project: gcp_world.Project, crowded: str
) -> None:
    project.secrets.store.put(NAME, b"x")
    waited: list[float] = []

    def pace(most: int, _: float) -> Pace:
        slow = (most == OF_ONE_SECRET) == (crowded == "the secret")
        return Pace(1, 22.0 if slow else 0.0, lambda: 0.0, waited.append)

    secrets = Secrets(project.gcp(), project.secrets.address, pace=pace, sleep=waited.append)
    secrets.add(NAME, MATERIAL, 1)
    with pytest.raises(ThrottledError, match="wait for their turn") as refused:
        secrets.add(NAME, MATERIAL, 2)
    assert "DAENA_CONCURRENCY" in refused.value.hint
    assert waited == []
    assert added(project) == 2


@pytest.mark.parametrize("rpc", ["GetSecret", "AddSecretVersion", "UpdateSecret"])
@pytest.mark.parametrize(
    "fault", [unavailable, delayed(0.5), refusing("RESOURCE_EXHAUSTED")], ids=["down", "slow", "busy"]
)
def test_all_tries_of_a_call_stay_inside_its_time(project: gcp_world.Project, rpc: str, fault: Between) -> None:
    project.secrets.store.put(NAME, b"x")
    secrets = project.calls(project.gcp(seconds=1.0))
    shown = secrets.secret(NAME)
    assert shown is not None
    project.secrets.service.between = only([rpc], fault)
    asks: dict[str, Callable[[], object]] = {
        "GetSecret": lambda: secrets.secret(NAME),
        "AddSecretVersion": lambda: secrets.add(NAME, MATERIAL, 1),
        "UpdateSecret": lambda: secrets.update(shown, {"a": "b"}, {}),
    }
    begun = time.monotonic()
    with suppress(UnavailableError, ThrottledError, ConflictError):
        asks[rpc]()
    assert time.monotonic() - begun < 1.2


# --- quotas


def spent(most: int, seconds: float, times: list[float]) -> bool:
    """Whether more passed in some window than may."""
    return any(len([at for at in times if start <= at < start + seconds]) > most for start in times)


class Counted:
    """Paces on one clock, and when each let pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passed: dict[int, list[float]] = {}

    def make(self, most: int, seconds: float) -> Pace:
        """As `Secrets` asks for one."""
        pace = Pace(most, seconds, lambda: self.now, self.sleep)
        kept = self.passed.setdefault(most, [])
        wait = pace.wait

        def noted(longest: float = math.inf) -> bool:
            passes = wait(longest)
            kept.append(self.now)
            return passes

        pace.wait = noted  # type: ignore[method-assign]
        return pace

    def sleep(self, pause: float) -> None:
        """Time passes."""
        self.now += pause


def test_no_more_is_written_than_the_project_and_each_secret_take(project: gcp_world.Project) -> None:
    counted = Counted()
    project.secrets.service.between = only(["AddSecretVersion"], refusing("INVALID_ARGUMENT"))
    secrets = Secrets(project.gcp(), project.secrets.address, pace=counted.make, sleep=lambda _: None)
    for _ in range(130):
        for name in ("one", "two", "three", "four", "five"):
            with pytest.raises(RefusedError):
                secrets.add(name, KeyMaterial(b"x"), 0)
    assert set(counted.passed) == {19, 2}
    assert not spent(600, 60.0, counted.passed[19])
    assert not spent(10, 1.0, counted.passed[2]), "two of each of the five"
    assert len(counted.passed[19]) == len(counted.passed[2]) == 650
    assert counted.now < 650 / 10 * 1.06, "and nearly as many as it takes"


def test_a_change_of_a_version_counts_as_a_write_of_the_project(project: gcp_world.Project, secrets: Secrets) -> None:
    counted = Counted()
    made = Secrets(project.gcp(), project.secrets.address, pace=counted.make, sleep=lambda _: None)
    made.create("app-new", {}, {})
    made.disable(NAME, gcp_secrets.Version(1, enabled=True))
    shown = made.secret(NAME)
    assert shown is not None
    made.update(shown, {}, {"a": "b"})
    assert {most: len(times) for most, times in counted.passed.items()} == {19: 3, 2: 1}


# --- nothing leaks


def test_the_log_holds_no_material_and_no_token_at_debug(
    project: gcp_world.Project, secrets: Secrets, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets.add(NAME, MATERIAL, 1)
    secrets.access(NAME, 2)
    project.secrets.service.between = only(["AddSecretVersion"], unavailable)
    with pytest.raises(UnavailableError):
        secrets.add(NAME, MATERIAL, 2)
    said = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert leaked(said, CANARY) == []
    assert "ya29" not in said, "a token begins so"


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INVALID_ARGUMENT", "INTERNAL", "DATA_LOSS", "PERMISSION_DENIED"])
def test_what_was_sent_is_not_in_the_error(project: gcp_world.Project, status: str) -> None:
    project.secrets.store.put(NAME, b"x")
    project.secrets.service.between = only(["AddSecretVersion"], refusing(status))
    with pytest.raises(KmsError) as refused:
        project.calls(project.gcp(seconds=0.4)).add(NAME, MATERIAL, 1)
    assert leaked(told(refused.value), CANARY) == []


@pytest.mark.parametrize("length", [65_536, 65_537])
def test_what_secret_manager_would_refuse_is_refused_before(
    project: gcp_world.Project, secrets: Secrets, length: int
) -> None:
    material = KeyMaterial(b"x" * length)
    if length <= 65_536:
        assert secrets.add(NAME, material, 1).version == 2
        return
    before = len(project.secrets.service.calls)
    with pytest.raises(RefusedError, match="too long"):
        secrets.add(NAME, material, 1)
    assert len(project.secrets.service.calls) == before


def test_a_payload_is_sent_with_its_checksum(project: gcp_world.Project, secrets: Secrets) -> None:
    secrets.add(NAME, MATERIAL, 1)
    shown = project.secrets.store._present(NAME).versions[1].states.states[-1]
    assert shown.client_specified_payload_checksum


@pytest.mark.parametrize("rpc", ["DisableSecretVersion", "EnableSecretVersion", "DestroySecretVersion"])
def test_an_etag_that_is_out_of_date_is_a_conflict(project: gcp_world.Project, secrets: Secrets, rpc: str) -> None:
    shown = secrets.version(NAME, 1)
    assert shown is not None
    project.secrets.store.disable(NAME, "1", "")
    verb = rpc.removesuffix("SecretVersion").lower()
    with pytest.raises(ConflictError, match="etag"):
        getattr(secrets, verb)(NAME, shown)
    before = secrets.secret(NAME)
    assert before is not None
    secrets.update(before, {"a": "b"}, {})
    with pytest.raises(ConflictError, match="etag"):
        secrets.update(before, {"a": "c"}, {})
