"""The double of Key Vault, held against what the real service was recorded to answer, through Azure's own client."""

import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceResponseError,
)
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient

from tests.support.strict_vault import FUNCTION, StrictVault
from tests.support.vault_http import Answer, Asked
from tests.support.vault_secrets import LONGEST_VALUE, MOST_TAGS, Secret, Version
from tests.support.vault_tokens import Credential

NAME = "a-key"


@pytest.fixture(scope="module")
def running() -> Iterator[StrictVault]:
    made = StrictVault()
    yield made
    made.close()


@pytest.fixture
def vault(running: StrictVault) -> StrictVault:
    """A vault in which nothing is."""
    server = running.server
    server.secrets.live, server.secrets.deleted, server.secrets.page = {}, {}, 25
    server.allowed, server.calls, server.between = {}, [], lambda _asked, answer: answer()
    return running


def _client(vault: StrictVault, credential: Any = None, **options: Any) -> SecretClient:
    return SecretClient(
        vault.url, credential or vault.credential(), connection_verify=str(vault.certificate), retry_total=0, **options
    )


@pytest.fixture
def client(vault: StrictVault) -> SecretClient:
    return _client(vault)


def _raw(vault: StrictVault, path: str, *, token: str = "", method: str = "GET") -> Any:
    """A request as no client makes it; the answer's status, headers and text."""
    context = ssl.create_default_context(cafile=str(vault.certificate))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(vault.url + path, headers=headers, method=method), context=context) as reply:  # noqa: S310
            return reply.status, reply.headers, reply.read().decode()
    except HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers, refusal.read().decode()


def _refusal(caught: pytest.ExceptionInfo[HttpResponseError]) -> tuple[int | None, str, str]:
    error = caught.value.error
    inner: Any = getattr(error, "innererror", None) or {}
    return caught.value.status_code, str(error.code if error else ""), str(inner.get("code", ""))


# --- who may ask


def test_who_shows_no_token_is_told_where_to_get_one(vault: StrictVault) -> None:
    status, headers, text = _raw(vault, "/secrets?api-version=7.4")
    assert status == 401
    assert headers["WWW-Authenticate"].startswith('Bearer authorization="https://login')
    assert "resource=" in headers["WWW-Authenticate"]
    assert '"code": "Unauthorized"' in text


@pytest.mark.parametrize(
    "claims",
    [{"iss": "https://sts.windows.net/another/"}, {"aud": "https://storage.azure.com"}, {"exp": 1}, {"nbf": 4e9}],
    ids=str,
)
def test_a_token_of_another_issuer_audience_or_time_is_none(vault: StrictVault, claims: dict[str, Any]) -> None:
    with pytest.raises(ClientAuthenticationError):
        _client(vault, Credential(vault.tokens, "somebody", **claims)).get_secret(NAME)


def test_a_token_with_another_signature_is_none(vault: StrictVault) -> None:
    good = vault.tokens.made("somebody", vault.server.audience)
    assert _raw(vault, "/secrets?api-version=7.4", token=good)[0] == 200
    head, body, signature = good.split(".")
    forged = f"{head}.{body}.{signature[:-8]}AAAAAAAA"
    assert _raw(vault, "/secrets?api-version=7.4", token=forged)[0] == 401


def test_who_lacks_a_data_action_is_refused_and_does_nothing(vault: StrictVault) -> None:
    vault.server.allowed["reader"] = {"getSecret"}
    _client(vault).set_secret(NAME, "one")
    reader = _client(vault, vault.credential("reader"))
    assert reader.get_secret(NAME).value == "one"
    with pytest.raises(HttpResponseError) as caught:
        reader.set_secret(NAME, "two")
    assert _refusal(caught) == (403, "Forbidden", "ForbiddenByRbac")
    assert _client(vault).get_secret(NAME).value == "one"


def test_each_request_is_noted_with_the_data_action_that_it_takes(vault: StrictVault, client: SecretClient) -> None:
    version = client.set_secret(NAME, "one").properties.version
    client.get_secret(NAME)
    client.update_secret_properties(NAME, version, enabled=True)
    list(client.list_properties_of_secret_versions(NAME))
    list(client.list_properties_of_secrets())
    assert [asked.action for asked in vault.server.calls] == [
        "setSecret", "getSecret", "update", "readMetadata", "readMetadata",
    ]  # fmt: skip


def test_a_managed_identity_gets_its_token_from_the_endpoint(
    vault: StrictVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in vault.environment().items():
        monkeypatch.setenv(name, value)
    with ManagedIdentityCredential() as credential, SecretClient(vault.url, credential) as client:
        client.set_secret(NAME, "one")
    assert {asked.principal for asked in vault.server.calls} == {FUNCTION}
    with (
        ManagedIdentityCredential(client_id="another") as unknown,
        SecretClient(vault.url, unknown) as client,
        pytest.raises(ClientAuthenticationError),
    ):
        client.get_secret(NAME)


# --- versions


def test_what_is_put_is_newest_at_once_and_shows_only_what_was_sent(client: SecretClient) -> None:
    first = client.set_secret(NAME, "one")
    second = client.set_secret(NAME, "two", tags={"n": "2"}, content_type="text/plain")
    assert client.get_secret(NAME).value == "two"
    assert client.get_secret(NAME, first.properties.version).value == "one"
    assert (first.properties.tags, first.properties.content_type) == (None, None)
    assert (second.properties.tags, second.properties.content_type) == ({"n": "2"}, "text/plain")
    assert len(str(second.properties.version)) == 32


def test_a_name_is_one_whatever_its_case(client: SecretClient) -> None:
    client.set_secret(NAME, "one")
    client.set_secret(NAME.upper(), "two")
    assert client.get_secret(NAME).value == "two"
    assert [listed.name for listed in client.list_properties_of_secrets()] == [NAME]


def test_a_disabled_version_is_not_given_out_the_newest_neither(client: SecretClient) -> None:
    version = client.set_secret(NAME, "one").properties.version
    changed = client.update_secret_properties(NAME, version, enabled=False)
    assert changed.enabled is False
    for asked in (version, None):
        with pytest.raises(HttpResponseError) as caught:
            client.get_secret(NAME, asked)
        assert _refusal(caught) == (403, "Forbidden", "SecretDisabled")
    client.update_secret_properties(NAME, version, enabled=True)
    assert client.get_secret(NAME).value == "one"


def test_a_change_leaves_what_it_does_not_name_and_replaces_tags_whole(client: SecretClient) -> None:
    version = client.set_secret(NAME, "one", tags={"a": "1", "b": "2"}, content_type="text/plain").properties.version
    client.update_secret_properties(NAME, version, enabled=False)
    changed = client.update_secret_properties(NAME, version, tags={"c": "3"})
    assert (changed.enabled, changed.tags, changed.content_type) == (False, {"c": "3"}, "text/plain")
    assert client.update_secret_properties(NAME, version, tags={}).tags == {}


def test_versions_are_listed_by_id_never_by_time_and_without_values(vault: StrictVault, client: SecretClient) -> None:
    made = [str(client.set_secret(NAME, str(n)).properties.version) for n in range(8)]
    listed = [str(v.version) for v in client.list_properties_of_secret_versions(NAME)]
    assert listed == sorted(made)
    held = vault.server.secrets.versions(NAME, "", 25)["value"]
    assert all("value" not in item for item in held)


def test_only_a_null_link_ends_a_listing(vault: StrictVault, client: SecretClient) -> None:
    for n in range(7):
        client.set_secret(NAME, str(n))
    vault.server.secrets.page = 2
    vault.server.calls.clear()
    assert len(list(client.list_properties_of_secret_versions(NAME))) == 7
    assert len(vault.server.calls) == 4


def test_the_versions_of_an_unknown_name_are_an_empty_page(client: SecretClient) -> None:
    assert list(client.list_properties_of_secret_versions("nobody")) == []


def test_secrets_are_listed_by_name_as_their_newest_is_and_without_its_id(
    vault: StrictVault, client: SecretClient
) -> None:
    for name in ("b", "C", "a"):
        client.set_secret(name, "one", tags={"n": "1"})
        client.set_secret(name, "two", tags={"n": "2"})
    vault.server.secrets.live["cert"] = Secret("cert", [Version("0" * 32, "x", 1, 1)], managed=True)
    listed = list(client.list_properties_of_secrets())
    assert [secret.name for secret in listed] == ["a", "b", "C", "cert"]
    assert [secret.version for secret in listed] == [None] * 4
    assert {secret.name: secret.tags for secret in listed[:3]} == {name: {"n": "2"} for name in "abC"}
    assert [secret.managed for secret in listed] == [None, None, None, True]


def test_times_are_whole_seconds_that_versions_can_share(vault: StrictVault, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [vault.server.secrets.put(NAME, {"value": "x"})["attributes"]["created"] for _ in range(3)]
    assert all(isinstance(time, int) for time in made)
    monkeypatch.setattr(vault.server.secrets, "_clock", lambda: 1_000_000.9)
    assert vault.server.secrets.put(NAME, {"value": "x"})["attributes"]["created"] == 1_000_000


# --- refusals


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda c: c.get_secret("nobody"), (404, "SecretNotFound", "")),
        (lambda c: c.get_secret(NAME, "0" * 32), (404, "SecretNotFound", "")),
        (lambda c: c.update_secret_properties(NAME, "0" * 32, enabled=True), (404, "SecretNotFound", "")),
        (lambda c: c.set_secret("under_score", "x"), (400, "BadParameter", "")),
        (lambda c: c.set_secret("n" * 128, "x"), (400, "BadParameter", "")),
        (lambda c: c.set_secret(NAME, "x" * (LONGEST_VALUE + 1)), (400, "BadParameter", "")),
        (lambda c: c.set_secret(NAME, "x", tags={str(n): "" for n in range(MOST_TAGS + 1)}), (400, "BadParameter", "")),
        (lambda c: c.set_secret(NAME, "x", tags={"a": "x" * 513}), (400, "BadParameter", "")),
        (lambda c: c.begin_recover_deleted_secret("nobody"), (404, "SecretNotFound", "")),
    ],
    ids=["no name", "no version", "no version to change", "a name", "a long name", "25 KB", "16 tags", "a long tag",
         "nothing to recover"],
)  # fmt: skip
def test_what_the_service_refuses(
    client: SecretClient, act: Callable[[SecretClient], object], expected: tuple[int, str, str]
) -> None:
    client.set_secret(NAME, "one")
    with pytest.raises(HttpResponseError) as caught:
        act(client)
    assert _refusal(caught) == expected
    assert client.get_secret(NAME).value == "one"


def test_a_name_that_was_deleted_is_taken_until_it_is_recovered_or_purged(client: SecretClient) -> None:
    client.set_secret(NAME, "one")
    client._client.delete_secret(NAME)
    with pytest.raises(ResourceNotFoundError):
        client.get_secret(NAME)
    with pytest.raises(ResourceExistsError) as caught:
        client.set_secret(NAME, "two")
    assert _refusal(caught) == (409, "Conflict", "ObjectIsDeletedButRecoverable")
    client._client.recover_deleted_secret(NAME)
    assert client.get_secret(NAME).value == "one"
    client._client.delete_secret(NAME)
    client.purge_deleted_secret(NAME)
    assert client.set_secret(NAME, "two").value == "two"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/secrets", "GET", 400),  # no api-version
        ("/secrets?api-version=1.0", "GET", 400),
        ("/secrets/a-key/backup?api-version=7.4", "POST", 501),
        ("/keys?api-version=7.4", "GET", 501),
    ],
)
def test_what_the_double_does_not_have_is_an_error_never_a_guess(
    vault: StrictVault, path: str, method: str, status: int
) -> None:
    token = vault.tokens.made("somebody", vault.server.audience)
    assert _raw(vault, path, token=token, method=method)[0] == status


def test_a_field_that_it_does_not_have_is_an_error(client: SecretClient) -> None:
    with pytest.raises(HttpResponseError) as caught:
        client.set_secret(NAME, "x", expires_on=datetime(2030, 1, 1, tzinfo=UTC))
    assert "does not have exp" in str(caught.value)


# --- what tests do with it


def test_a_reply_can_be_lost_after_the_write_was_done(vault: StrictVault, client: SecretClient) -> None:
    client.set_secret("warm", "up")

    def lost(_: Asked, answer: Callable[[], Answer]) -> Answer | None:
        answer()
        return None

    vault.server.between = lost
    with pytest.raises(ServiceResponseError):
        client.set_secret(NAME, "one")
    vault.server.between = lambda _asked, answer: answer()
    assert client.get_secret(NAME).value == "one"


def test_the_clients_own_retry_of_a_lost_write_is_a_second_version(vault: StrictVault) -> None:
    """Why a store must not let the client repeat it: nothing in the protocol makes a put idempotent."""
    eager = SecretClient(
        vault.url, vault.credential(), connection_verify=str(vault.certificate), retry_total=1, retry_backoff_factor=0
    )
    eager.set_secret("warm", "up")
    lost: list[str] = []

    def once(asked: Asked, answer: Callable[[], Answer]) -> Answer | None:
        done = answer()
        if asked.action == "setSecret" and not lost:
            lost.append(asked.name)
            return None
        return done

    vault.server.between = once
    eager.set_secret(NAME, "one")
    assert len(list(eager.list_properties_of_secret_versions(NAME))) == 2


def test_everything_can_be_put_back_as_it_was(vault: StrictVault, client: SecretClient) -> None:
    client.set_secret(NAME, "one")
    restore = vault.server.secrets.saved()
    client.set_secret(NAME, "two")
    client.set_secret("another", "x")
    restore()
    assert client.get_secret(NAME).value == "one"
    assert [listed.name for listed in client.list_properties_of_secrets()] == [NAME]


def test_many_clients_at_once_lose_no_version(vault: StrictVault) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _client(vault).set_secret(NAME, str(n)), range(24)))
    assert len(list(_client(vault).list_properties_of_secret_versions(NAME))) == 24


def test_it_starts_alone_and_says_where_it_is() -> None:
    command = [sys.executable, "-m", "tests.support.strict_vault"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first, *rest = [program.stdout.readline().strip() for _ in range(5)]
        program.terminate()
    assert first.startswith("https://127.0.0.1:")
    assert rest[0] == f"export AZURE_KEY_VAULT_URL={first}"
    assert {line.partition("=")[0] for line in rest} == {
        "export AZURE_KEY_VAULT_URL", "export IDENTITY_ENDPOINT", "export IDENTITY_HEADER", "export REQUESTS_CA_BUNDLE",
    }  # fmt: skip
