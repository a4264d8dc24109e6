"""The ledger in Blob Storage beyond the contract: addresses, pages, replies that are lost, races, opening it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.core.exceptions import ServiceResponseError

from daena_kms import app
from daena_kms.errors import ConfigurationError, ConflictError, ExistsError, NotFoundError, UnavailableError
from daena_kms.journal import Journal
from daena_kms.ledger import object_name
from daena_kms.manifest import Draft, Event
from daena_kms.model import Status
from daena_kms.settings import read_settings
from daena_kms.stores import azure_ledger
from daena_kms.stores.azure_ledger import BlobLedger, split_url
from tests.support import azure_world
from tests.support.worlds import KEY, Backend, Clock, World

RACERS = 12


@pytest.fixture
def account() -> Iterator[azure_world.Account]:
    yield azure_world.emptied()
    azure_world.emptied()


@pytest.fixture
def ledger(account: azure_world.Account) -> BlobLedger:
    return account.ledger()


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
