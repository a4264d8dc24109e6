"""The ledger in Blob Storage beyond the contract: addresses, pages, replies that are lost, races, opening it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport

from daena_kms import app
from daena_kms.errors import (
    ConfigurationError,
    ConflictError,
    DeniedError,
    ExistsError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)
from daena_kms.journal import Journal
from daena_kms.ledger import object_name
from daena_kms.manifest import Draft, Event
from daena_kms.model import Status
from daena_kms.settings import read_settings
from daena_kms.stores import azure_ledger
from daena_kms.stores.azure_ledger import BlobLedger, split_url
from tests.support import azure_world
from tests.support.mishaps import Mishap, Plan, at
from tests.support.proxy import Proxy
from tests.support.worlds import KEY, Backend, Clock, World

RACERS = 12


@pytest.fixture
def account() -> Iterator[azure_world.Account]:
    yield azure_world.emptied()
    azure_world.emptied()


@pytest.fixture
def ledger(account: azure_world.Account) -> BlobLedger:
    return account.ledger()


ASKS: dict[str, Callable[[BlobLedger], object]] = {
    "append": lambda ledger: ledger.append(KEY, 2, b"2"),
    "read": lambda ledger: ledger.read(KEY, 1),
    "sequences": lambda ledger: ledger.sequences(KEY),
    "names": lambda ledger: ledger.names(),
}


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("ask", ASKS)
def test_a_call_that_is_refused_in_passing_is_made_again(account: azure_world.Account, ask: str, status: int) -> None:
    account.ledger().append(KEY, 1, b"1")
    plan = Plan()
    proxy = Proxy(account.blobs.url, plan, account.vault.certificate)
    try:
        azure = account.azure(seconds=5)
        ledger = BlobLedger(azure, account.manifests.replace(account.blobs.url, proxy.url))
        plan.begin(at({1: Mishap("status", status=status)}))
        ASKS[ask](ledger)
        assert len(plan.asked) == 2
        plan.begin(lambda _: Mishap("status", status=status))
        with pytest.raises(ThrottledError if status == 429 else UnavailableError):
            ASKS[ask](ledger)
        assert len(plan.asked) == 3
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("url", "account", "container", "path"),
    [
        ("https://a.blob.core.windows.net/m/keys", "https://a.blob.core.windows.net", "m", "keys"),
        ("https://a.blob.core.windows.net/m/one/two/", "https://a.blob.core.windows.net", "m", "one/two"),
        ("http://127.0.0.1:10000/devstoreaccount1/m/keys", "http://127.0.0.1:10000/devstoreaccount1", "m", "keys"),
    ],
)
def test_an_address_is_account_container_and_folder(url: str, account: str, container: str, path: str) -> None:
    assert split_url(url) == (account, container, path)


@pytest.mark.parametrize(
    "url",
    [
        "", "https://a.blob.core.windows.net", "https://a.blob.core.windows.net/m", "http://a.blob.core.windows.net/m/k",
        "https://a.blob.core.windows.net/m/k?sv=secret", "https://a.blob.core.windows.net/m/k#x", "s3://b/k",
        "https://user:pass@a.blob.core.windows.net/m/k", "https://a.blob.core.windows.net/m//k", "https://[::1/m/k",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        split_url(url)
    assert "sv=secret" not in refused.value.message
    assert "https://ACCOUNT.blob" in refused.value.hint


def test_an_entry_lies_where_its_address_says(account: azure_world.Account, ledger: BlobLedger) -> None:
    ledger.append(KEY, 7, b"seven")
    assert ledger.where(KEY, 7) == f"{account.manifests}/{KEY}/{object_name(7)}"
    assert [blob.name for blob in account.containers().list_blobs()] == [f"keys/{KEY}/{object_name(7)}"]


def test_names_that_begin_alike_have_their_own_entries(ledger: BlobLedger) -> None:
    ledger.append(KEY, 1, b"1")
    ledger.append(f"{KEY}-2", 1, b"2")
    assert ledger.sequences(KEY) == [1]
    assert ledger.names() == [KEY, f"{KEY}-2"]


def test_what_is_no_entry_is_not_counted(account: azure_world.Account, ledger: BlobLedger) -> None:
    ledger.append(KEY, 1, b"1")
    for name in (f"keys/{KEY}/note.txt", f"keys/{KEY}/deep/00000002.json", "keys/Not A Key/x", "keys/daena-kms.toml"):
        account.containers().upload_blob(name, b"x")
    assert ledger.sequences(KEY) == [1]
    assert ledger.names() == [KEY]
    assert ledger.rewritten(KEY) == []


def test_an_empty_entry_is_one(account: azure_world.Account, ledger: BlobLedger) -> None:
    account.containers().upload_blob(f"keys/{KEY}/{object_name(1)}", b"")
    assert ledger.read(KEY, 1) == b""


def test_of_many_racing_writers_one_wins(account: azure_world.Account) -> None:
    for sequence in range(1, 6):

        def write(racer: int, sequence: int = sequence) -> int | None:
            try:
                account.ledger().append(KEY, sequence, b"%d" % racer)
            except ExistsError:
                return None
            return racer

        with ThreadPoolExecutor(RACERS) as pool:
            winners = [racer for racer in pool.map(write, range(RACERS)) if racer is not None]
        assert len(winners) == 1
        assert account.ledger().read(KEY, sequence) == b"%d" % winners[0]


def test_an_entry_whose_reply_is_lost_was_written(account: azure_world.Account) -> None:
    """The SDK sends it again and is told that it exists; the journal finds that it is ours."""
    world = World(Backend(account.store(), account.ledger()), Clock())
    world.rotate()
    ledger = account.ledger()
    upload = ledger._container.upload_blob
    lost: list[Any] = []

    def losing(*arguments: Any, **options: Any) -> Any:
        done = upload(*arguments, **options)
        if not lost:
            lost.append(arguments)
            raise ServiceResponseError("the reply was lost")
        return done

    ledger._container.upload_blob = losing
    assert world.force(ledger=ledger).status is Status.ROTATED
    assert lost
    world.check()


def _refused(status: int, code: str) -> HttpResponseError:
    """As the SDK raises it for Blob Storage."""
    refusal = HttpResponseError(message="no")
    refusal.status_code, refusal.error_code, refusal.reason = status, code, "because"  # type: ignore[attr-defined]
    return refusal


@pytest.mark.parametrize("code", ["UnauthorizedBlobOverwrite", "AuthorizationPermissionMismatch"])
def test_under_the_deployed_role_an_entry_that_lies_there_is_one_and_a_denial_is_a_denial(
    ledger: BlobLedger, code: str
) -> None:
    """That role may add blobs and not overwrite them: an existing name is a 403 to it, not a 409."""
    ledger.append(KEY, 1, b"ours")

    def denied(*_: Any, **__: Any) -> None:
        raise _refused(403, code)

    ledger._container.upload_blob = denied
    with pytest.raises(ExistsError):
        ledger.append(KEY, 1, b"again")
    with pytest.raises(ExistsError if code == "UnauthorizedBlobOverwrite" else DeniedError):
        ledger.append(KEY, 2, b"new")
    assert ledger.sequences(KEY) == [1]


def test_under_the_deployed_role_an_entry_whose_reply_is_lost_was_written(account: azure_world.Account) -> None:
    world = World(Backend(account.store(), account.ledger()), Clock())
    world.rotate()
    ledger = account.ledger()
    upload = ledger._container.upload_blob
    told: list[Any] = []

    def losing(*arguments: Any, **options: Any) -> Any:
        done = upload(*arguments, **options)
        if not told:
            told.append(arguments)
            raise _refused(403, "AuthorizationPermissionMismatch")  # to what the SDK sent again by itself
        return done

    ledger._container.upload_blob = losing
    assert world.force(ledger=ledger).status is Status.ROTATED
    assert told
    world.check()


def test_a_life_of_manifests_takes_the_actions_that_are_granted_and_no_more(
    account: azure_world.Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azurite has no roles: each request is held against the action that it takes (Azure documentation: "Put Blob")."""
    asked: set[str] = set()
    send = RequestsTransport.send

    def noted(self: Any, request: Any, **options: Any) -> Any:
        if request.url.startswith(account.blobs.url):
            asked.add(_action(request))
        return send(self, request, **options)

    monkeypatch.setattr(RequestsTransport, "send", noted)
    world = World(Backend(account.store(), account.ledger()), Clock())
    for _ in range(3):
        world.rotate()
        world.clock.move(days=91)
    with pytest.raises(ExistsError):
        world.ledger.append(KEY, 1, b"x")
    world.check()
    assert world.ledger.names()
    world.ledger.rewritten(KEY)
    granted = {action for actions in azure_ledger.REQUIRED_PERMISSIONS.values() for action in actions}
    assert asked == granted


def _action(request: Any) -> str:
    """The data action that a request takes."""
    if request.method in ("GET", "HEAD"):
        return "blobs/read"
    creates = request.method == "PUT" and "comp=" not in request.url and request.headers.get("If-None-Match") == "*"
    return "blobs/add/action" if creates else f"more: {request.method} {request.url.partition('?')[2]}"


def test_a_call_with_all_its_tries_and_pauses_stays_inside_its_time(account: azure_world.Account) -> None:
    for seconds in (1.0, 30.0, 300.0):
        azure = account.azure(seconds=seconds)
        opened: Any = azure_ledger.open_container(azure, account.blobs.url, account.container)
        policy = opened._config.retry_policy
        longest = (policy.total_retries + 1) * azure.attempt_seconds
        for count in range(1, policy.total_retries + 1):
            # its jitter goes both ways, so so many tries are enough to meet the longest but for a hair
            longest += max(policy.get_backoff_time({"count": count}) for _ in range(200))
        assert 0.9 * seconds < longest <= seconds


def test_an_entry_that_somebody_else_wrote_first_is_a_conflict(account: azure_world.Account) -> None:
    world = World(Backend(account.store(), account.ledger()), Clock())
    world.rotate()
    journal = Journal(account.ledger(), world.keyring, clock=world.clock, actor="a", trigger="t")
    head = list(journal.chain(KEY))[-1]
    account.ledger().append(KEY, head.next_sequence, b"theirs")
    with pytest.raises(ConflictError):
        journal.append(KEY, head, Draft(Event.PAUSED))


# --- opening


def test_a_policy_lies_beside_the_manifests(account: azure_world.Account) -> None:
    account.containers().upload_blob("policy/daena-kms.toml", b"[keys.a-key]\n")
    url = f"{account.blobs.url}/{account.container}/policy/daena-kms.toml"
    assert azure_ledger.read_blob(account.azure(), url) == b"[keys.a-key]\n"
    with pytest.raises(ConfigurationError, match="there is no https") as refused:
        azure_ledger.read_blob(account.azure(), url + "x")
    assert "DAENA_POLICY" in refused.value.hint


def test_everything_opens_from_settings(account: azure_world.Account, monkeypatch: pytest.MonkeyPatch) -> None:
    account.containers().upload_blob("policy.toml", b"[defaults]\ncreate = true\n[keys.a-key]\n")
    given = account.environment() | {"DAENA_POLICY": f"{account.blobs.url}/{account.container}/policy.toml"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotFoundError, match="never initialised"):
        app.open_service(read_settings(), trigger="test")
    opened = app.open_service(read_settings(), trigger="test", init=True)
    assert opened.initialised is not None
    assert opened.initialised.made
    again = app.open_service(read_settings(), trigger="test")
    assert again.initialised is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AZURE_KEY_VAULT_URL": ""}, "AZURE_KEY_VAULT_URL is not set"),
        ({"DAENA_MANIFEST_URL": "https://a.blob.core.windows.net/" + "x" * 600 + "/k"}, "has 634 characters"),
        ({"DAENA_MANIFEST_URL": "http://a.blob.core.windows.net/m/k"}, "no address of a blob"),
        ({"AZURE_TENANT_ID": "t"}, "go together"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    account: azure_world.Account, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], words: str
) -> None:
    for name, value in (account.environment() | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=words) as refused:
        app.connect(read_settings(), trigger="test")
    assert refused.value.hint


def test_a_body_that_breaks_off_is_neither_an_entry_nor_no_entry(ledger: BlobLedger) -> None:
    class Half:
        size = 10

        def readall(self) -> bytes:
            return b"half"

    ledger._container.download_blob = lambda _: Half()
    with pytest.raises(UnavailableError, match="broke off"):
        ledger.read(KEY, 1)
