"""The double of Secret Manager, held against what Google documents and was seen to answer, through its own client."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import google_crc32c
import grpc
import pytest
from google.api_core.exceptions import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    GoogleAPICallError,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from google.auth.transport.requests import Request as AuthRequest
from google.oauth2 import service_account

from tests.support.google_tokens import GRANT, Tokens
from tests.support.gsm_checks import DAY, LONGEST_ANNOTATIONS, LONGEST_PAYLOAD, MOST_LABELS
from tests.support.gsm_faults import delayed as slowly
from tests.support.gsm_faults import late, lost, lying, only, refusing, unavailable
from tests.support.gsm_grpc import NAME as SERVICE_NAME
from tests.support.gsm_service import METHODS, Call, Quotas, within
from tests.support.strict_secrets import FUNCTION, SOMEBODY, StrictSecrets

AUDIENCE = "https://secretmanager.googleapis.com/"
PROJECT, NUMBER = "projects/daena-demo", "projects/482913337105"
SECRET = f"{NUMBER}/secrets/a-key"
AUTOMATIC: dict[str, Any] = {"replication": {"automatic": {}}}


@pytest.fixture(scope="module")
def running() -> Iterator[StrictSecrets]:
    made = StrictSecrets()
    yield made
    made.close()


@pytest.fixture(scope="module")
def connected(running: StrictSecrets) -> Any:
    return running.client(SOMEBODY)


@pytest.fixture
def secrets(running: StrictSecrets) -> StrictSecrets:
    """A project in which nothing is."""
    running.emptied()
    return running


@pytest.fixture
def client(secrets: StrictSecrets, connected: Any) -> Any:
    return connected


@pytest.fixture
def held(secrets: StrictSecrets) -> str:
    """A secret with two versions; its name."""
    secrets.store.put("a-key", b"one", b"two")
    return SECRET


def _refusal(act: Callable[[], object]) -> tuple[str, str]:
    """Status and reason of what is refused."""
    with pytest.raises(GoogleAPICallError) as caught:
        act()
    assert caught.value.grpc_status_code is not None
    return caught.value.grpc_status_code.name, str(caught.value.reason or "")


def _state(client: Any, number: int) -> str:
    return str(client.get_secret_version(name=f"{SECRET}/versions/{number}").state.name)


def _shown(secrets: StrictSecrets, authorization: str) -> tuple[str, str]:
    """Status and text of a listing under that header."""
    method = METHODS["ListSecrets"]
    call = secrets.channel().unary_unary(
        f"/{SERVICE_NAME}/ListSecrets", lambda request: request.SerializeToString(), lambda content: content
    )
    try:
        call(method.request(parent=PROJECT), metadata=[("authorization", authorization)] if authorization else [])
    except grpc.RpcError as refusal:
        return refusal.code().name, refusal.details()
    return "OK", ""


# --- who may ask


@pytest.mark.parametrize(
    "made",
    [
        lambda tokens: tokens.made(SOMEBODY),
        lambda tokens: tokens.signed(FUNCTION, aud=AUDIENCE),
        lambda tokens: tokens.signed(FUNCTION, aud=AUDIENCE.rstrip("/")),
        lambda tokens: tokens.signed(FUNCTION, scope="https://www.googleapis.com/auth/cloud-platform"),
    ],
    ids=["access token", "signed for the API", "without the slash", "signed with a scope"],
)
def test_a_good_token_is_let_in(secrets: StrictSecrets, made: Callable[[Tokens], str]) -> None:
    assert _shown(secrets, f"Bearer {made(secrets.tokens)}") == ("OK", "")


def _forged(tokens: Tokens) -> str:
    head, body, signature = tokens.signed(FUNCTION, aud=AUDIENCE).split(".")
    return f"{head}.{body}.{signature[:-8]}AAAAAAAA"


@pytest.mark.parametrize(
    "made",
    [
        lambda _: "",
        lambda _: "Basic YTpi",
        lambda _: "Bearer nonsense",
        lambda tokens: f"Bearer {tokens.made(SOMEBODY, lifetime=-1)}",
        lambda tokens: f"Bearer {_forged(tokens)}",
        lambda tokens: f"Bearer {tokens.signed(FUNCTION, aud='https://storage.googleapis.com/')}",
        lambda tokens: f"Bearer {tokens.signed(FUNCTION)}",
        lambda tokens: f"Bearer {tokens.signed(FUNCTION, aud=AUDIENCE, exp=int(time.time()) - 1)}",
        lambda tokens: f"Bearer {tokens.signed(FUNCTION, aud=AUDIENCE, iat=int(time.time()) + 900)}",
        lambda tokens: f"Bearer {tokens.signed(FUNCTION, aud=AUDIENCE, exp=int(time.time()) + 86_400)}",
        lambda tokens: f"Bearer {tokens.signed(FUNCTION, aud=AUDIENCE, sub='another@example.com')}",
        lambda tokens: f"Bearer {tokens.signed(FUNCTION, aud=AUDIENCE, iss='another@example.com')}",
        lambda _: f"Bearer {Tokens().signed(FUNCTION, aud=AUDIENCE)}",
    ],
    ids=["none", "not bearer", "garbled", "expired", "forged", "for another API", "for nothing", "signed and expired",
         "from the future", "for a day", "for another", "by another", "with another key"],
)  # fmt: skip
def test_a_bad_token_is_none(secrets: StrictSecrets, made: Callable[[Tokens], str]) -> None:
    status, text = _shown(secrets, made(secrets.tokens))
    assert status == "UNAUTHENTICATED"
    assert "Expected OAuth 2 access token" in text
    assert secrets.service.calls == []


def test_the_reason_of_a_bad_token_is_told(secrets: StrictSecrets) -> None:
    expired = secrets.client(credentials=secrets.credentials(lifetime=-1))
    assert _refusal(lambda: expired.get_secret(name=SECRET)) == ("UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED")
    narrow = secrets.client(
        credentials=secrets.credentials(scopes=["https://www.googleapis.com/auth/devstorage.read_only"])
    )
    assert _refusal(lambda: narrow.get_secret(name=SECRET)) == ("PERMISSION_DENIED", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")


def test_the_clients_own_signed_tokens_are_taken(secrets: StrictSecrets, held: str) -> None:
    info = secrets.tokens.key_file(FUNCTION)
    credentials = service_account.Credentials.from_service_account_info(info, always_use_jwt_access=True)  # type: ignore[no-untyped-call]
    assert secrets.client(credentials=credentials).get_secret(name=held).name == held
    assert secrets.service.calls[-1].principal == FUNCTION


def test_an_assertion_is_exchanged_for_an_access_token(secrets: StrictSecrets) -> None:
    info, scopes = secrets.tokens.key_file(FUNCTION), ["https://www.googleapis.com/auth/cloud-platform"]
    credentials = service_account.Credentials.from_service_account_info(info, scopes=scopes)  # type: ignore[no-untyped-call]
    credentials.refresh(AuthRequest())
    assert secrets.tokens.principal(f"Bearer {credentials.token}", [AUDIENCE]) == FUNCTION


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "unsupported_grant_type"),
        ({"assertion": "nonsense"}, "invalid_grant"),
        ({"assertion": {"aud": AUDIENCE, "scope": "x"}}, "invalid_grant"),
        ({"assertion": {}}, "invalid_scope"),
    ],
    ids=["no grant", "garbled", "for another", "no scope"],
)
def test_what_the_token_endpoint_refuses(secrets: StrictSecrets, form: dict[str, Any], error: str) -> None:
    assertion, uri = form.get("assertion"), secrets.tokens.token_uri
    if isinstance(assertion, dict):
        assertion = secrets.tokens.signed(FUNCTION, **{"aud": uri, **assertion})
    sent = {"grant_type": GRANT, "assertion": str(assertion)} if form else {}
    status, document = secrets.google.exchanged(sent)
    assert (status, document["error"]) == (400, error)


_CHILD = """
import os, google.auth
from google.cloud.secretmanager import SecretManagerServiceClient
credentials, project = google.auth.default()
options = {"api_endpoint": os.environ["GCP_SECRET_MANAGER_ENDPOINT"]}
client = SecretManagerServiceClient(credentials=credentials, client_options=options)
name = f"projects/{project}/secrets/a-key/versions/2"
print(type(credentials).__module__, client.access_secret_version(name=name).payload.data.decode())
"""


@pytest.mark.parametrize(
    ("principal", "kind"),
    [
        ("", "google.auth.compute_engine.credentials"),
        ("batch@daena-demo.iam.gserviceaccount.com", "google.oauth2.service_account"),
    ],
    ids=["metadata server", "key file"],
)
def test_application_default_credentials_are_found_in_another_process(
    secrets: StrictSecrets, held: str, principal: str, kind: str
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_"))}
    private = {"CLOUDSDK_CONFIG": str(secrets.folder / "no-gcloud")}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        env={**clean, **private, **secrets.environment(principal)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [kind, "two"], done.stderr
    assert secrets.service.calls[-1].principal == (principal or FUNCTION)


@pytest.mark.parametrize(
    ("path", "flavor", "status", "content"),
    [
        ("/", "Google", 200, "instance/"),
        ("/computeMetadata/v1/project/project-id", "Google", 200, "daena-demo"),
        ("/computeMetadata/v1/project/numeric-project-id", "Google", 200, "482913337105"),
        ("/computeMetadata/v1/instance/service-accounts/default/?recursive=true", "Google", 200, f'": "{FUNCTION}"'),
        ("/computeMetadata/v1/instance/service-accounts/default/email", "Google", 200, FUNCTION),
        (f"/computeMetadata/v1/instance/service-accounts/{FUNCTION}/token", "Google", 200, '"token_type": "Bearer"'),
        ("/computeMetadata/v1/instance/service-accounts/another/token", "Google", 404, ""),
        ("/computeMetadata/v1/instance/service-accounts/default/identity?audience=x", "Google", 404, ""),
        ("/computeMetadata/v1/project/project-id", "", 403, "Metadata-Flavor"),
    ],
)  # fmt: skip
def test_the_metadata_server_answers_whom_it_knows(
    secrets: StrictSecrets, path: str, flavor: str, status: int, content: str
) -> None:
    headers = {"Metadata-Flavor": flavor} if flavor else {}
    answered, told, text = _get(f"http://{secrets.google.host}{path}", headers)
    assert (answered, told["Metadata-Flavor"]) == (status, "Google")
    assert content in text


# --- what may be asked


def test_each_call_is_noted_with_the_permission_that_it_takes(secrets: StrictSecrets, client: Any) -> None:
    client.create_secret(parent=PROJECT, secret_id="a-key", secret=AUTOMATIC)
    name = f"{PROJECT}/secrets/a-key"
    client.add_secret_version(parent=name, payload={"data": b"one"})
    client.get_secret(name=name)
    client.update_secret(secret={"name": name, "labels": {"a": "b"}}, update_mask={"paths": ["labels"]})
    list(client.list_secrets(parent=PROJECT))
    list(client.list_secret_versions(parent=name))
    for act in ("access", "get", "disable", "enable", "destroy"):
        getattr(client, f"{act}_secret_version")(name=f"{name}/versions/1")
    client.delete_secret(name=name)
    calls = secrets.service.calls
    assert [(call.resource.removeprefix(NUMBER), call.permission.partition(".")[2]) for call in calls] == [
        ("", "secrets.create"), ("/secrets/a-key", "versions.add"), ("/secrets/a-key", "secrets.get"),
        ("/secrets/a-key", "secrets.update"), ("", "secrets.list"), ("/secrets/a-key", "versions.list"),
        ("/secrets/a-key/versions/1", "versions.access"), ("/secrets/a-key/versions/1", "versions.get"),
        ("/secrets/a-key/versions/1", "versions.disable"), ("/secrets/a-key/versions/1", "versions.enable"),
        ("/secrets/a-key/versions/1", "versions.destroy"), ("/secrets/a-key", "secrets.delete"),
    ]  # fmt: skip
    assert secrets.service.calls[0] == Call(SOMEBODY, "CreateSecret", NUMBER, "secretmanager.secrets.create")


def test_who_lacks_a_permission_is_refused_and_does_nothing(secrets: StrictSecrets, held: str) -> None:
    secrets.service.allowed[FUNCTION] = {"secretmanager.versions.access"}
    function = secrets.client(FUNCTION)
    assert function.access_secret_version(name=f"{held}/versions/1").payload.data == b"one"
    with pytest.raises(PermissionDenied) as caught:
        function.add_secret_version(parent=f"{PROJECT}/secrets/a-key", payload={"data": b"three"})
    sent = f"{PROJECT}/secrets/a-key"
    assert caught.value.message == (
        f"Permission 'secretmanager.versions.add' denied for resource '{sent}' (or it may not exist)."
    )
    assert (caught.value.reason, caught.value.domain) == ("IAM_PERMISSION_DENIED", "iam.googleapis.com")
    assert caught.value.metadata == {"permission": "secretmanager.versions.add", "resource": sent}
    assert _refusal(lambda: secrets.client("nobody").get_secret(name=held))[0] == "PERMISSION_DENIED"
    assert len(secrets.store.newest("a-key")) == 2


def test_a_condition_on_names_holds_for_versions_and_never_grants_listing(secrets: StrictSecrets) -> None:
    secrets.store.put("app-one", b"1")
    secrets.store.put("other", b"1")
    inside = {"secretmanager.versions.access", "secretmanager.secrets.list"}
    secrets.service.allowed[FUNCTION] = within(secrets.number, "app-", inside, {"secretmanager.secrets.create"})
    function = secrets.client(FUNCTION)
    assert function.access_secret_version(name=f"{PROJECT}/secrets/app-one/versions/1").payload.data == b"1"
    denied = ("PERMISSION_DENIED", "IAM_PERMISSION_DENIED")
    assert _refusal(lambda: function.access_secret_version(name=f"{PROJECT}/secrets/other/versions/1")) == denied
    assert _refusal(lambda: function.list_secrets(parent=PROJECT)) == denied
    function.create_secret(parent=PROJECT, secret_id="app-two", secret=AUTOMATIC)


def test_an_api_that_is_not_enabled_says_where_to_enable_it(secrets: StrictSecrets, client: Any) -> None:
    secrets.service.enabled = False
    with pytest.raises(PermissionDenied) as caught:
        client.list_secrets(parent=PROJECT)
    assert caught.value.message.startswith("Secret Manager API has not been used in project 482913337105 before")
    assert caught.value.reason == "SERVICE_DISABLED"
    assert caught.value.metadata["consumer"] == NUMBER
    assert caught.value.metadata["service"] == "secretmanager.googleapis.com"


def test_a_project_goes_by_its_id_and_by_its_number(client: Any, held: str) -> None:
    by_id = client.access_secret_version(name=f"{PROJECT}/secrets/a-key/versions/1")
    assert by_id.name == client.access_secret_version(name=f"{held}/versions/1").name == f"{held}/versions/1"
    assert _refusal(lambda: client.get_secret(name="projects/another/secrets/a-key")) == (
        "PERMISSION_DENIED", "CONSUMER_INVALID",
    )  # fmt: skip


def test_quotas_count_what_writes(secrets: StrictSecrets, client: Any, held: str) -> None:
    secrets.clock.source = lambda: 1_700_000_000.0
    try:
        secrets.service.quotas = Quotas(writes_a_minute=4)

        def add() -> object:
            return client.add_secret_version(parent=held, payload={"data": b"x"}, retry=None)

        for wait in (0.0, 0.0, 1.0):
            secrets.clock.move(wait)
            add()
        client.update_secret(secret={"name": held}, update_mask={"paths": ["labels"]})
        assert _refusal(add) == ("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED")
        secrets.clock.move(30)
        assert _refusal(add) == ("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED")
        client.get_secret(name=held)
        secrets.clock.move(31)
        add()
    finally:
        secrets.clock.source = time.time


# --- secrets


def test_a_secret_is_as_it_was_sent_and_no_more(client: Any) -> None:
    sent = {**AUTOMATIC, "labels": {"a": "b"}, "annotations": {"n": "1"}, "version_destroy_ttl": {"seconds": DAY}}
    made = client.create_secret(parent=PROJECT, secret_id="a-key", secret=sent)
    assert made == client.get_secret(name=SECRET)
    assert (made.name, dict(made.labels), dict(made.annotations)) == (SECRET, {"a": "b"}, {"n": "1"})
    assert made.version_destroy_ttl.days == 1
    assert re.fullmatch(r'"[0-9a-f]{14}"', made.etag)
    assert "automatic" in made.replication
    client.delete_secret(name=SECRET)
    user_managed = {"replication": {"user_managed": {"replicas": [{"location": "europe-west6"}]}}}
    client.create_secret(parent=PROJECT, secret_id="a-key", secret=user_managed)
    version = client.add_secret_version(parent=SECRET, payload={"data": b"x"})
    assert version.replication_status.user_managed.replicas[0].location == "europe-west6"


def test_an_update_replaces_what_the_mask_names_and_leaves_the_rest(client: Any) -> None:
    sent = {
        **AUTOMATIC,
        "labels": {"a": "1", "b": "2"},
        "annotations": {"n": "1"},
        "version_destroy_ttl": {"seconds": DAY},
    }
    made = client.create_secret(parent=PROJECT, secret_id="a-key", secret=sent)
    change = {"name": SECRET, "labels": {"c": "3"}, "annotations": {"n": "2"}, "etag": made.etag}
    changed = client.update_secret(secret=change, update_mask={"paths": ["labels", "version_destroy_ttl"]})
    assert (dict(changed.labels), dict(changed.annotations)) == ({"c": "3"}, {"n": "1"})
    assert not changed.version_destroy_ttl
    assert changed.etag != made.etag
    assert changed.create_time == made.create_time


def test_a_deleted_secret_is_gone_and_its_name_is_free(client: Any, held: str) -> None:
    client.delete_secret(name=held)
    for act in (client.get_secret, client.delete_secret):
        with pytest.raises(NotFound) as caught:
            act(name=held)
        assert caught.value.message == f"Secret [{held}] not found."
        assert caught.value.details == []
    client.create_secret(parent=PROJECT, secret_id="a-key", secret=AUTOMATIC)
    assert client.add_secret_version(parent=held, payload={"data": b"x"}).name == f"{held}/versions/1"


def _create(**fields: Any) -> Callable[[Any], object]:
    secret_id = fields.pop("secret_id", "another")
    return lambda c: c.create_secret(parent=PROJECT, secret_id=secret_id, secret={**AUTOMATIC, **fields})


def _add(**payload: Any) -> Callable[[Any], object]:
    return lambda c: c.add_secret_version(parent=SECRET, payload=payload or None)


def _update(*paths: str, **fields: Any) -> Callable[[Any], object]:
    return lambda c: c.update_secret(secret={"name": SECRET, **fields}, update_mask={"paths": list(paths)})


def _list(**asked: Any) -> Callable[[Any], object]:
    return lambda c: c.list_secrets(request={"parent": PROJECT, **asked})


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (_create(secret_id="a-key"), "ALREADY_EXISTS"),
        (_create(secret_id="a.b"), "INVALID_ARGUMENT"),
        (_create(secret_id="a" * 256), "INVALID_ARGUMENT"),
        (_create(replication=None), "INVALID_ARGUMENT"),
        (_create(replication={"user_managed": {}}), "INVALID_ARGUMENT"),
        (_create(labels={"A": "b"}), "INVALID_ARGUMENT"),
        (_create(labels={"1": "b"}), "INVALID_ARGUMENT"),
        (_create(labels={"a": "B"}), "INVALID_ARGUMENT"),
        (_create(labels={"a": "b" * 64}), "INVALID_ARGUMENT"),
        (_create(labels={f"l{n}": "" for n in range(MOST_LABELS + 1)}), "INVALID_ARGUMENT"),
        (_create(annotations={"a": "x" * (LONGEST_ANNOTATIONS - 1)}), "INVALID_ARGUMENT"),
        (_create(annotations={"a-": "x"}), "INVALID_ARGUMENT"),
        (_create(version_destroy_ttl={"seconds": DAY - 1}), "INVALID_ARGUMENT"),
        (_create(version_aliases={"current": 1}), "INVALID_ARGUMENT"),
        (_create(ttl={"seconds": 9}), "UNIMPLEMENTED"),
        (_create(topics=[{"name": "projects/p/topics/t"}]), "UNIMPLEMENTED"),
        (_add(), "INVALID_ARGUMENT"),
        (_add(data=b""), "INVALID_ARGUMENT"),
        (_add(data=b"x" * (LONGEST_PAYLOAD + 1)), "INVALID_ARGUMENT"),
        (_add(data=b"x", data_crc32c=1), "INVALID_ARGUMENT"),
        (_update(labels={"a": "b"}), "INVALID_ARGUMENT"),
        (_update("replication"), "INVALID_ARGUMENT"),
        (_update("rotation"), "UNIMPLEMENTED"),
        (_update("labels", labels={"A": "b"}), "INVALID_ARGUMENT"),
        (_update("version_aliases", version_aliases={"latest": 1}), "INVALID_ARGUMENT"),
        (_update("version_aliases", version_aliases={"1st": 1}), "INVALID_ARGUMENT"),
        (_update("version_aliases", version_aliases={"current": 9}), "INVALID_ARGUMENT"),
        (_list(page_size=-1), "INVALID_ARGUMENT"),
        (_list(page_token="nonsense"), "INVALID_ARGUMENT"),
        (_list(filter="create_time>2026-01-01"), "UNIMPLEMENTED"),
        (lambda c: c.list_secret_versions(request={"parent": SECRET, "filter": "state:GONE"}), "UNIMPLEMENTED"),
        (lambda c: c.access_secret_version(name=f"{SECRET}/versions/9"), "NOT_FOUND"),
        (lambda c: c.get_secret_version(name=f"{SECRET}/versions/no-alias"), "NOT_FOUND"),
        (lambda c: c.disable_secret_version(name=f"{SECRET}/versions/latest"), "INVALID_ARGUMENT"),
        (lambda c: c.add_secret_version(parent=f"{NUMBER}/secrets/b", payload={"data": b"x"}), "NOT_FOUND"),
        (lambda c: c.get_secret(name="a-key"), "INVALID_ARGUMENT"),
        (lambda c: c.get_secret(name=f"{PROJECT}/locations/europe-west6/secrets/a-key"), "UNIMPLEMENTED"),
        (lambda c: c.get_iam_policy(request={"resource": SECRET}), "UNIMPLEMENTED"),
    ],
)
def test_what_is_refused(
    secrets: StrictSecrets, client: Any, held: str, act: Callable[[Any], object], status: str
) -> None:
    before = client.get_secret(name=held)
    assert _refusal(lambda: act(client))[0] == status
    assert client.get_secret(name=held) == before
    assert [name for name, _, _ in secrets.store.newest("a-key")] == [1, 2]


def test_what_is_just_allowed(client: Any) -> None:
    labels = {f"l{n}": "" for n in range(MOST_LABELS - 1)} | {"ß-é_1": "x" * 63}
    sent = {**AUTOMATIC, "labels": labels, "annotations": {"a.b": "x" * (LONGEST_ANNOTATIONS - 4)}}
    client.create_secret(parent=PROJECT, secret_id="A" * 255, secret=sent)
    payload = {"data": b"x" * LONGEST_PAYLOAD}
    assert client.add_secret_version(parent=f"{PROJECT}/secrets/{'A' * 255}", payload=payload).state.name == "ENABLED"


# --- etags


_WITH_ETAG: dict[str, Callable[[Any, str], Any]] = {
    "update": lambda c, etag: c.update_secret(
        secret={"name": SECRET, "labels": {"x": "y"}, "etag": etag}, update_mask={"paths": ["labels"]}
    ),
    "enable": lambda c, etag: c.enable_secret_version(request={"name": f"{SECRET}/versions/1", "etag": etag}),
    "disable": lambda c, etag: c.disable_secret_version(request={"name": f"{SECRET}/versions/1", "etag": etag}),
    "destroy": lambda c, etag: c.destroy_secret_version(request={"name": f"{SECRET}/versions/1", "etag": etag}),
    "delete": lambda c, etag: c.delete_secret(request={"name": SECRET, "etag": etag}),
}


def _etag(client: Any, act: str) -> str:
    if act in {"update", "delete"}:
        return str(client.get_secret(name=SECRET).etag)
    return str(client.get_secret_version(name=f"{SECRET}/versions/1").etag)


@pytest.mark.parametrize("act", list(_WITH_ETAG))
def test_a_stale_etag_fails_a_current_one_and_none_do_not(
    secrets: StrictSecrets, client: Any, held: str, act: str
) -> None:
    stale = _etag(client, act)
    _WITH_ETAG["update" if act in {"update", "delete"} else "enable"](client, "")
    before = _etag(client, act)
    assert before != stale
    assert _refusal(lambda: _WITH_ETAG[act](client, stale))[0] == "FAILED_PRECONDITION"
    assert _etag(client, act) == before
    restore = secrets.store.saved()
    _WITH_ETAG[act](client, before)
    restore()
    _WITH_ETAG[act](client, "")


def test_enabling_what_is_enabled_makes_a_new_etag_and_no_version_touches_the_secrets(client: Any, held: str) -> None:
    secret, first = client.get_secret(name=held), client.get_secret_version(name=f"{held}/versions/1")
    etags = {first.etag}
    for act in ("enable", "enable", "disable", "disable", "destroy"):
        etags.add(_WITH_ETAG[act](client, "").etag)
    client.add_secret_version(parent=held, payload={"data": b"three"})
    assert len(etags) == 6
    assert client.get_secret(name=held) == secret


# --- versions


def test_adding_again_is_one_more_version_and_numbers_are_never_used_twice(client: Any, held: str) -> None:
    payload = {"data": b"three", "data_crc32c": google_crc32c.value(b"three")}
    third = client.add_secret_version(parent=held, payload=payload)
    assert client.add_secret_version(parent=held, payload={"data": b"three"}).name == f"{held}/versions/4"
    assert third.client_specified_payload_checksum
    client.destroy_secret_version(name=f"{held}/versions/4")
    assert client.add_secret_version(parent=held, payload={"data": b"five"}).name == f"{held}/versions/5"


def test_a_payload_comes_with_its_checksum(client: Any, held: str) -> None:
    reply = client.access_secret_version(name=f"{held}/versions/1")
    assert (reply.payload.data, reply.payload.data_crc32c) == (b"one", google_crc32c.value(b"one"))


@pytest.mark.parametrize("act", ["disable", "destroy"])
def test_latest_is_the_newest_whatever_its_state(client: Any, held: str, act: str) -> None:
    latest = f"{held}/versions/latest"
    assert client.access_secret_version(name=latest).name == f"{held}/versions/2"
    getattr(client, f"{act}_secret_version")(name=f"{held}/versions/2")
    state = {"disable": "DISABLED", "destroy": "DESTROYED"}[act]
    for name in (latest, f"{held}/versions/2"):
        with pytest.raises(FailedPrecondition) as caught:
            client.access_secret_version(name=name)
        assert caught.value.message == f"Secret Version [{held}/versions/2] is in {state} state."
    assert client.get_secret_version(name=latest).state.name == state


def test_latest_of_no_version_and_of_no_secret_are_not_found_alike(client: Any) -> None:
    client.create_secret(parent=PROJECT, secret_id="a-key", secret=AUTOMATIC)
    for name in ("a-key", "b"):
        with pytest.raises(NotFound) as caught:
            client.access_secret_version(name=f"{PROJECT}/secrets/{name}/versions/latest")
        assert caught.value.message == f"Secret [{NUMBER}/secrets/{name}] not found or has no versions."


def test_destruction_is_final_and_still_shown(client: Any, held: str) -> None:
    client.destroy_secret_version(name=f"{held}/versions/1")
    for act in ("destroy", "enable", "disable", "access"):
        refused = getattr(client, f"{act}_secret_version")
        assert _refusal(lambda refused=refused: refused(name=f"{held}/versions/1"))[0] == "FAILED_PRECONDITION"  # type: ignore[misc]
    shown = client.get_secret_version(name=f"{held}/versions/1")
    assert shown.state.name == "DESTROYED"
    assert shown.destroy_time.nanosecond % 1000


def test_a_disabled_version_can_be_enabled_again(client: Any, held: str) -> None:
    client.disable_secret_version(name=f"{held}/versions/1")
    client.enable_secret_version(name=f"{held}/versions/1")
    assert client.access_secret_version(name=f"{held}/versions/1").payload.data == b"one"


@pytest.fixture
def delayed(client: Any, held: str) -> str:
    """A version that is scheduled for destruction in a day; its name."""
    ttl = {"name": held, "version_destroy_ttl": {"seconds": DAY}}
    client.update_secret(secret=ttl, update_mask={"paths": ["version_destroy_ttl"]})
    scheduled = client.destroy_secret_version(name=f"{held}/versions/1")
    assert (scheduled.state.name, bool(scheduled.destroy_time)) == ("DISABLED", False)
    return str(scheduled.name)


def test_a_destruction_waits_for_the_time_that_the_secret_sets(
    secrets: StrictSecrets, client: Any, delayed: str
) -> None:
    due = client.get_secret_version(name=delayed).scheduled_destroy_time
    assert abs(due.timestamp() - (secrets.clock() + DAY)) < 60
    assert _refusal(lambda: client.access_secret_version(name=delayed))[0] == "FAILED_PRECONDITION"
    assert _refusal(lambda: client.destroy_secret_version(name=delayed))[0] == "UNIMPLEMENTED"
    secrets.clock.move(DAY - 60)
    assert _state(client, 1) == "DISABLED"
    secrets.clock.move(61)
    destroyed = client.get_secret_version(name=delayed)
    assert (destroyed.state.name, bool(destroyed.scheduled_destroy_time)) == ("DESTROYED", False)
    assert int(destroyed.destroy_time.timestamp()) == int(due.timestamp())


@pytest.mark.parametrize("act", ["enable", "disable"])
def test_a_scheduled_destruction_is_cancelled(secrets: StrictSecrets, client: Any, delayed: str, act: str) -> None:
    getattr(client, f"{act}_secret_version")(name=delayed)
    secrets.clock.move(2 * DAY)
    assert _state(client, 1) == f"{act}d".upper()


def test_an_alias_is_good_for_reading(client: Any, held: str) -> None:
    aliased = {"name": held, "version_aliases": {"current": 1}}
    client.update_secret(secret=aliased, update_mask={"paths": ["version_aliases"]})
    assert client.access_secret_version(name=f"{held}/versions/current").name == f"{held}/versions/1"
    assert client.get_secret_version(name=f"{held}/versions/current").name == f"{held}/versions/1"
    assert dict(client.get_secret(name=held).version_aliases) == {"current": 1}


# --- listings


def test_versions_are_listed_newest_first_in_pages(secrets: StrictSecrets, client: Any, held: str) -> None:
    secrets.store.put("a-key", b"3", b"4", b"5")
    pages = list(client.list_secret_versions(request={"parent": held, "page_size": 2}).pages)
    assert [[version.name.rpartition("/")[2] for version in page.versions] for page in pages] == [
        ["5", "4"],
        ["3", "2"],
        ["1"],
    ]
    assert [page.total_size for page in pages] == [5, 5, 5]
    secrets.store.page = 3
    assert len(list(client.list_secret_versions(parent=held).pages)) == 2
    token = pages[0].next_page_token
    elsewhere = {"parent": PROJECT, "page_token": token}
    assert _refusal(lambda: client.list_secrets(request=elsewhere))[0] == "INVALID_ARGUMENT"


def test_a_page_begins_where_the_last_ended_whatever_came_in_between(
    secrets: StrictSecrets, client: Any, held: str
) -> None:
    first = next(iter(client.list_secret_versions(request={"parent": held, "page_size": 1}).pages))
    secrets.store.put("a-key", b"three")
    rest = client.list_secret_versions(request={"parent": held, "page_token": first.next_page_token})
    assert [version.name for version in rest] == [f"{held}/versions/1"]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [("state:ENABLED", [2]), ("state=DISABLED", [3]), ("state:DISABLED OR state:DESTROYED", [3, 1]), ("", [3, 2, 1])],
)
def test_versions_are_filtered_by_state(
    secrets: StrictSecrets, client: Any, held: str, wanted: str, numbers: list[int]
) -> None:
    secrets.store.put("a-key", b"three")
    client.destroy_secret_version(name=f"{held}/versions/1")
    client.disable_secret_version(name=f"{held}/versions/3")
    listed = client.list_secret_versions(request={"parent": held, "filter": wanted})
    assert [int(version.name.rpartition("/")[2]) for version in listed] == numbers
    assert listed.total_size == (0 if wanted else 3)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("", ["b-two", "b-one", "a-one"]),
        ("labels.kms=daena", ["b-one", "a-one"]),
        ('labels.kms="daena" AND name:a-', ["a-one"]),
        ("name:one", ["b-one", "a-one"]),
        ("name:a-o OR name:two", ["b-two", "a-one"]),
        ("labels.kms=another", []),
    ],
)
def test_secrets_are_listed_newest_first_and_filtered(
    secrets: StrictSecrets, client: Any, wanted: str, names: list[str]
) -> None:
    for name, labels in (("a-one", {"kms": "daena"}), ("b-one", {"kms": "daena"}), ("b-two", {})):
        secrets.store.put(name, labels=labels)
    listed = client.list_secrets(request={"parent": PROJECT, "filter": wanted, "page_size": 1})
    assert [secret.name.rpartition("/")[2] for secret in listed] == names


# --- staleness


def test_what_is_not_read_by_number_is_as_it_was(secrets: StrictSecrets, client: Any, held: str) -> None:
    secrets.clock.move(100)
    third = client.add_secret_version(parent=held, payload={"data": b"three"}).name
    client.update_secret(secret={"name": held, "labels": {"new": ""}}, update_mask={"paths": ["labels"]})
    client.disable_secret_version(name=f"{held}/versions/1")
    secrets.store.put("another", b"x")
    secrets.store.staleness = 60
    assert client.access_secret_version(name=third).payload.data == b"three"
    assert client.access_secret_version(name=f"{held}/versions/latest").payload.data == b"two"
    assert client.access_secret_version(name=f"{held}/versions/1").payload.data == b"one"
    assert _state(client, 1) == "ENABLED"
    assert _refusal(lambda: client.get_secret_version(name=third))[0] == "NOT_FOUND"
    assert [version.name for version in client.list_secret_versions(parent=held)] == [
        f"{held}/versions/2",
        f"{held}/versions/1",
    ]
    assert dict(client.get_secret(name=held).labels) == {}
    assert [secret.name for secret in client.list_secrets(parent=PROJECT)] == [held]
    assert _refusal(lambda: client.get_secret(name=f"{NUMBER}/secrets/another"))[0] == "NOT_FOUND"
    assert client.access_secret_version(name=f"{NUMBER}/secrets/another/versions/1").payload.data == b"x"


@pytest.mark.parametrize("by", ["time", "setting"])
def test_views_converge(secrets: StrictSecrets, client: Any, held: str, by: str) -> None:
    secrets.clock.move(100)
    secrets.store.put("a-key", b"three")
    secrets.store.staleness = 60
    latest = f"{held}/versions/latest"
    assert client.access_secret_version(name=latest).payload.data == b"two"
    if by == "time":
        secrets.clock.move(61)
    else:
        secrets.store.staleness = 0
    assert client.access_secret_version(name=latest).payload.data == b"three"
    secrets.store.staleness = 3600
    assert _refusal(lambda: client.access_secret_version(name=latest))[0] == "NOT_FOUND"


def test_writes_are_held_against_the_present(secrets: StrictSecrets, client: Any, held: str) -> None:
    secrets.clock.move(100)
    now = _WITH_ETAG["update"](client, "").etag
    secrets.store.staleness = 60
    seen = client.get_secret(name=held).etag
    assert seen != now
    assert _refusal(lambda: _WITH_ETAG["update"](client, seen))[0] == "FAILED_PRECONDITION"
    _WITH_ETAG["update"](client, now)


def test_a_deleted_secret_is_still_seen_for_a_while(secrets: StrictSecrets, client: Any, held: str) -> None:
    secrets.clock.move(100)
    client.delete_secret(name=held)
    secrets.store.put("a-key", b"other")
    secrets.store.staleness = 60
    assert client.access_secret_version(name=f"{held}/versions/latest").payload.data == b"two"
    assert client.access_secret_version(name=f"{held}/versions/1").payload.data == b"other"
    assert [secret.name for secret in client.list_secrets(parent=PROJECT)] == [held]
    secrets.store.staleness = 0
    assert client.access_secret_version(name=f"{held}/versions/latest").payload.data == b"other"


# --- what tests do with it


@pytest.mark.parametrize(
    ("fault", "error", "versions"),
    [
        (lost, ServiceUnavailable, 3),
        (unavailable, ServiceUnavailable, 2),
        (late, DeadlineExceeded, 3),
        (refusing("ABORTED"), Aborted, 2),
    ],
    ids=["lost reply", "not done", "too late", "refused"],
)
def test_a_call_can_fail_before_and_after_it_was_done(
    secrets: StrictSecrets,
    client: Any,
    held: str,
    fault: Any,
    error: type[Exception],
    versions: int,
) -> None:
    secrets.service.between = fault
    with pytest.raises(error):
        client.add_secret_version(parent=held, payload={"data": b"three"}, retry=None)
    assert len(secrets.store.newest("a-key")) == versions


def test_a_reply_can_be_a_lie_and_what_is_stored_is_not(secrets: StrictSecrets, client: Any, held: str) -> None:
    def other(reply: Any) -> None:
        reply.payload.data = b"lie"

    secrets.service.between = only({"AccessSecretVersion"}, lying(other), times=1, after=1)
    read = [client.access_secret_version(name=f"{held}/versions/1").payload.data for _ in range(3)]
    assert read == [b"one", b"lie", b"one"]
    assert client.get_secret_version(name=f"{held}/versions/1").name == f"{held}/versions/1"


def test_a_reply_can_come_after_the_clients_own_deadline(secrets: StrictSecrets, client: Any, held: str) -> None:
    secrets.service.between = slowly(0.3)
    with pytest.raises(DeadlineExceeded):
        client.add_secret_version(parent=held, payload={"data": b"three"}, retry=None, timeout=0.1)
    assert len(secrets.store.newest("a-key")) == 3


def test_everything_can_be_put_back_as_it_was(secrets: StrictSecrets, client: Any, held: str) -> None:
    restore = secrets.store.saved()
    for _ in range(2):
        client.destroy_secret_version(name=f"{held}/versions/1")
        secrets.store.put("a-key", b"three")
        secrets.store.put("another", b"x")
        restore()
        assert secrets.store.newest("a-key") == [(1, "ENABLED", b"one"), (2, "ENABLED", b"two")]
        assert [secret.name for secret in client.list_secrets(parent=PROJECT)] == [held]


def test_many_clients_at_once_lose_no_version(secrets: StrictSecrets, client: Any, held: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda n: client.add_secret_version(parent=held, payload={"data": b"%d" % n}).name, range(40))
        assert sorted(int(name.rpartition("/")[2]) for name in made) == list(range(3, 43))


def test_of_many_who_hold_one_etag_one_wins(secrets: StrictSecrets, client: Any, held: str) -> None:
    etag = client.get_secret(name=held).etag

    def won(_: int) -> bool:
        try:
            _WITH_ETAG["update"](client, etag)
        except FailedPrecondition:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(won, range(16))) == 1


# --- over HTTP


def _get(url: str, headers: dict[str, str]) -> tuple[int, Any, str]:
    try:
        with urlopen(Request(url, headers=headers)) as reply:  # noqa: S310
            return reply.status, reply.headers, reply.read().decode()
    except HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers, refusal.read().decode()


def _rest(secrets: StrictSecrets, path: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {secrets.tokens.made(SOMEBODY)}"}
    status, _, text = _get(f"{secrets.rest.url}/v1/{path}", headers)
    return status, json.loads(text)


def test_a_payload_over_http_has_its_checksum_as_text(secrets: StrictSecrets, held: str) -> None:
    payload = {"data": "b25l", "dataCrc32c": str(google_crc32c.value(b"one"))}
    answer = {"name": f"{held}/versions/1", "payload": payload}
    assert _rest(secrets, f"{PROJECT}/secrets/a-key/versions/1:access?alt=json") == (200, answer)


def test_reads_over_http_have_googles_names(secrets: StrictSecrets, held: str) -> None:
    status, secret = _rest(secrets, held)
    assert (status, set(secret)) == (200, {"name", "replication", "createTime", "etag"})
    status, version = _rest(secrets, f"{held}/versions/1?$alt=json;enum-encoding=int")
    assert (status, version["state"]) == (200, 1)
    assert set(version) == {"name", "createTime", "state", "replicationStatus", "etag"}
    assert len(version["createTime"].rpartition(".")[2]) == len("123456Z")
    _, listed = _rest(secrets, f"{PROJECT}/secrets?filter=name:a")
    assert set(listed) == {"secrets"}
    _, listed = _rest(secrets, f"{held}/versions?pageSize=1")
    assert (listed["totalSize"], len(listed["versions"]), "nextPageToken" in listed) == (2, 1, True)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("secrets/b", "NOT_FOUND", 404),
        ("secrets/a-key/versions/2:access", "FAILED_PRECONDITION", 400),
        ("secrets/a-key/versions/1?unknown=1", "INVALID_ARGUMENT", 400),
        ("secrets/a-key:getIamPolicy", "UNIMPLEMENTED", 501),
        ("keys", "UNIMPLEMENTED", 501),
    ],
)
def test_errors_over_http_are_json(secrets: StrictSecrets, held: str, path: str, status: str, code: int) -> None:
    secrets.store.disable("a-key", "2", "")
    answered, document = _rest(secrets, f"{PROJECT}/{path}")
    assert (answered, document["error"]["code"], document["error"]["status"]) == (code, code, status)
    assert "details" not in document["error"]


def test_who_shows_no_token_over_http_is_told_so(secrets: StrictSecrets) -> None:
    status, headers, text = _get(f"{secrets.rest.url}/v1/{PROJECT}/secrets", {})
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Bearer ")
    assert json.loads(text)["error"]["details"][0]["reason"] == "CREDENTIALS_MISSING"


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed: it could not read from the double")
def test_gcloud_reads_a_version(secrets: StrictSecrets, held: str) -> None:
    done = subprocess.run(
        ["gcloud", "secrets", "versions", "access", "1", "--secret=a-key"],  # noqa: S607
        env={**os.environ, **secrets.gcloud_environment(SOMEBODY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"one", done.stderr.decode()
    assert secrets.service.calls == [
        Call(SOMEBODY, "AccessSecretVersion", f"{held}/versions/1", "secretmanager.versions.access")
    ]


# --- alone


def test_it_starts_alone_and_says_where_it_is() -> None:
    command = [sys.executable, "-m", "tests.support.strict_secrets", "--metadata"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first, *rest = [program.stdout.readline().strip() for _ in range(13)]
        program.terminate()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", first)
    told = dict(line.removeprefix("export ").split("=", 1) for line in rest)
    assert told["GCP_SECRET_MANAGER_ENDPOINT"] == first
    assert {name for name in told if not name.startswith("CLOUDSDK_")} == {
        "GCP_PROJECT_ID", "GCP_SECRET_MANAGER_ENDPOINT", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GCE_METADATA_HOST",
        "GCE_METADATA_IP",
    }  # fmt: skip
    assert told["CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER"].startswith("http://127.0.0.1:")
