"""The ledger in Cloud Storage beyond the contract: addresses, pages, lost replies, races, permissions, opening it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daena_kms import app
from daena_kms.errors import (
    ConfigurationError,
    ConflictError,
    DeniedError,
    ExistsError,
    IntegrityError,
    KmsError,
    NotFoundError,
    UnavailableError,
)
from daena_kms.journal import Journal
from daena_kms.ledger import object_name
from daena_kms.manifest import Draft, Event
from daena_kms.model import Status
from daena_kms.settings import read_settings
from daena_kms.stores import gcp_ledger
from daena_kms.stores.gcp_ledger import GcsLedger, read_object, split_url
from tests.cli.sandbox import CANARY, leaked
from tests.support import gcp_world
from tests.support.gcp_scene import Scene
from tests.support.gcs_http import Answer, Asked, plain
from tests.support.google_tokens import Credential
from tests.support.strict_gcs import StrictGcs
from tests.support.strict_secrets import FUNCTION
from tests.support.worlds import KEY

pytestmark = pytest.mark.usefixtures("dropped_connections")
RACERS = 12
BUCKET = "manifests"
GRANTED = {permission for each in gcp_ledger.REQUIRED_PERMISSIONS.values() for permission in each}
URL = f"gs://{BUCKET}/keys"


@pytest.fixture(scope="module")
def running() -> Iterator[StrictGcs]:
    made = StrictGcs(tokens=gcp_world.project().tokens)
    yield made
    made.close()


_clients: list[Any] = []


@pytest.fixture
def storage(running: StrictGcs, monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictGcs]:
    """Cloud Storage with an empty bucket. Its clients are closed afterwards."""
    running.server.empty()
    running.server.objects.create_bucket(BUCKET)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
    yield running
    while _clients:
        _clients.pop().close()


@pytest.fixture
def ledger(storage: StrictGcs) -> GcsLedger:
    return opened()


def opened(seconds: float = 30.0) -> GcsLedger:
    """The ledger, as another process has it."""
    made = GcsLedger(gcp_world.project().gcp(seconds=seconds), URL)
    _clients.append(made._objects._client)
    return made


def person() -> Any:
    """The bucket, as a person has it."""
    _clients.append(gcp_world.project().client())
    return _clients[-1].bucket(BUCKET)


def put(name: str, content: bytes) -> None:
    """An object by hand."""
    person().blob(name).upload_from_string(content)


# --- addresses


@pytest.mark.parametrize(
    ("url", "bucket", "path"),
    [("gs://a-bucket/keys", "a-bucket", "keys"), ("gs://a.b_c/one/two/", "a.b_c", "one/two")],
)
def test_an_address_is_bucket_and_folder(url: str, bucket: str, path: str) -> None:
    assert split_url(url) == (bucket, path)


@pytest.mark.parametrize(
    "url",
    [
        "", "gs://", "gs://bucket", "gs://bucket/", "s3://bucket/k", "gs://Bucket/k", "gs://b/k", "gs:/bucket/k",
        "gs://bucket/k?alt=secret", "gs://bucket/k#x", "gs://bucket//k", "gs://bucket/a//k", "gs://user:pass@bucket/k",
        "gs://bucket:80/k", "gs://[::1/k", "gs://bucket/k\n", "https://storage.googleapis.com/bucket/k", "gs://-bucket/k",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        split_url(url)
    assert "alt=secret" not in refused.value.message
    assert "gs://BUCKET/folder" in refused.value.hint


# --- objects


def test_an_entry_lies_where_its_address_says(storage: StrictGcs, ledger: GcsLedger) -> None:
    ledger.append(KEY, 7, b"{}")
    assert ledger.where(KEY, 7) == f"{URL}/{KEY}/{object_name(7)}"
    shown = [blob.name for blob in person().list_blobs()]
    assert shown == [f"keys/{KEY}/{object_name(7)}"]


def test_names_that_begin_alike_have_their_own_entries(ledger: GcsLedger) -> None:
    ledger.append(KEY, 1, b"1")
    ledger.append(f"{KEY}-2", 1, b"2")
    assert ledger.sequences(KEY) == [1]
    assert ledger.names() == [KEY, f"{KEY}-2"]


def test_what_is_no_entry_is_not_counted(storage: StrictGcs, ledger: GcsLedger) -> None:
    ledger.append(KEY, 1, b"1")
    for name in (f"keys/{KEY}/note.txt", f"keys/{KEY}/deep/00000002.json", "keys/Not A Key/x", "keys/daena-kms.toml"):
        put(name, b"x")
    assert ledger.sequences(KEY) == [1]
    assert ledger.names() == [KEY]
    assert ledger.rewritten(KEY) == []


@pytest.mark.parametrize("content", [b"", b"x" * 300_000], ids=["empty", "long"])
def test_an_entry_comes_back_as_it_was(ledger: GcsLedger, content: bytes) -> None:
    ledger.append(KEY, 1, content)
    assert ledger.read(KEY, 1) == content
    assert ledger.read(KEY, 2) is None


def test_listings_of_many_pages_are_read_to_their_end(storage: StrictGcs, ledger: GcsLedger) -> None:
    objects = storage.server.objects
    objects.page = 3
    for sequence in range(1, 11):
        ledger.append(KEY, sequence, b"x")
        ledger.append(f"key-{sequence:02}", 1, b"x")
    assert ledger.sequences(KEY) == list(range(1, 11))
    assert ledger.names() == sorted([KEY, *(f"key-{sequence:02}" for sequence in range(1, 11))])


def test_of_many_racing_writers_one_wins(storage: StrictGcs) -> None:
    ledgers = [opened() for _ in range(RACERS)]
    for sequence in range(1, 4):

        def write(racer: int, sequence: int = sequence) -> int | None:
            try:
                ledgers[racer].append(KEY, sequence, b"%d" % racer)
            except ExistsError:
                return None
            return racer

        with ThreadPoolExecutor(RACERS) as pool:
            winners = [racer for racer in pool.map(write, range(RACERS)) if racer is not None]
        assert len(winners) == 1
        assert ledgers[0].read(KEY, sequence) == b"%d" % winners[0]


@pytest.mark.parametrize("again", [True, False], ids=["written again", "deleted"])
def test_an_entry_that_somebody_wrote_again_or_deleted_is_told(
    storage: StrictGcs, ledger: GcsLedger, again: bool
) -> None:
    for sequence in (1, 2, 3):
        ledger.append(KEY, sequence, b"ours")
    place = f"keys/{KEY}/{object_name(2)}"
    if again:
        put(place, b"theirs")
    else:
        person().blob(place).delete()
    assert ledger.rewritten(KEY) == [2]


# --- permissions


@pytest.mark.parametrize("first", [True, False], ids=["the condition is looked at first", "the permission is"])
def test_who_may_not_overwrite_is_told_that_an_entry_is_there(
    storage: StrictGcs, ledger: GcsLedger, first: bool
) -> None:
    """Nothing says which of the two the service looks at first."""
    storage.server.allowed = {FUNCTION: GRANTED}
    storage.server.objects.condition_first = first
    ledger.append(KEY, 1, b"ours")
    with pytest.raises(ExistsError):
        ledger.append(KEY, 1, b"again")
    assert ledger.read(KEY, 1) == b"ours"


ACTS: dict[str, Callable[[GcsLedger], object]] = {
    "append": lambda ledger: ledger.append(KEY, 9, b"x"),
    "read": lambda ledger: ledger.read(KEY, 1),
    "sequences": lambda ledger: ledger.sequences(KEY),
    "names": lambda ledger: ledger.names(),
    "rewritten": lambda ledger: ledger.rewritten(KEY),
}


@pytest.mark.parametrize("act", ACTS)
def test_each_act_needs_what_its_table_says_and_no_more(storage: StrictGcs, ledger: GcsLedger, act: str) -> None:
    ledger.append(KEY, 1, b"x")
    needed = set(gcp_ledger.REQUIRED_PERMISSIONS[act])
    storage.server.allowed = {FUNCTION: needed}
    before = len(storage.server.calls)
    ACTS[act](opened())
    assert {call.permission for call in storage.server.calls[before:]} == needed
    storage.server.allowed = {FUNCTION: set()}
    with pytest.raises(DeniedError) as refused:
        ACTS[act](opened())
    assert "infra/gcp" in refused.value.hint


def test_every_operation_is_in_the_table() -> None:
    assert set(ACTS) == set(gcp_ledger.REQUIRED_PERMISSIONS)


@pytest.mark.parametrize("missing", sorted(GRANTED))
def test_a_permission_that_is_missing_fails_the_key_and_nothing_is_lost(storage: StrictGcs, missing: str) -> None:
    scene = Scene(ledger=opened())
    materials = scene.versions(2)
    storage.server.allowed = {FUNCTION: GRANTED - {missing}}
    told = []
    try:
        outcome = scene.force(store=scene.process())
        told = [outcome.message] * (outcome.status is Status.FAILED)
        scene.service().verify([KEY])
    except DeniedError as problem:
        told.append(problem.message)
    assert any(missing in each for each in told), told
    storage.server.allowed = {}
    scene.recover()
    assert scene.materials()[:2] == materials
    scene.check()


# --- replies

Fault = Callable[[Asked, Callable[[], Answer]], Answer | None]


def first(method: str, fault: Fault, times: int = 1) -> Fault:
    """That on the first requests of the method alone."""
    done: list[str] = []

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer | None:
        if asked.method != method or len(done) >= times:
            return answer()
        done.append(method)
        return fault(asked, answer)

    return between


def lost(_: Asked, answer: Callable[[], Answer]) -> None:
    """Done, and nobody is told."""
    answer()


def refusing(status: int) -> Fault:
    """Not done."""
    return lambda *_: Answer(status, {"error": {"code": status, "message": "because", "errors": []}})


LOST: dict[str, Fault] = {"lost": lost, "not sent": lambda *_: None, "busy": refusing(429), "down": refusing(503)}


@pytest.mark.parametrize("name", LOST)
def test_an_entry_whose_reply_is_lost_is_written_once(storage: StrictGcs, name: str) -> None:
    """The SDK sends it again and is told that it exists; the journal finds that it is ours."""
    scene = Scene(ledger=opened())
    scene.versions(1)
    storage.server.between = first("objects.insert", LOST[name])
    assert scene.force(store=scene.process()).status is Status.ROTATED
    storage.server.between = plain
    assert scene.ledger.rewritten(KEY) == []
    scene.check()


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("method", ["objects.get", "objects.list"])
def test_a_look_that_fails_in_passing_is_made_again(
    storage: StrictGcs, ledger: GcsLedger, method: str, name: str
) -> None:
    ledger.append(KEY, 1, b"x")
    storage.server.between = first(method, LOST[name])
    assert ledger.read(KEY, 1) == b"x"
    storage.server.between = first(method, LOST[name])
    assert ledger.sequences(KEY) == [1]


def test_a_service_that_never_answers_is_unavailable_within_the_time_of_a_call(storage: StrictGcs) -> None:
    storage.server.between = refusing(503)
    slow = opened(seconds=1.0)
    for ask in (lambda: slow.read(KEY, 1), lambda: slow.append(KEY, 1, b"x"), lambda: slow.sequences(KEY)):
        begun = time.monotonic()
        with pytest.raises(UnavailableError) as refused:
            ask()
        assert refused.value.hint
        assert time.monotonic() - begun < 1.3


def changed(body: bytes, times: int = 1000) -> Fault:
    """Another body under the same sums."""

    def fault(_: Asked, answer: Callable[[], Answer]) -> Answer:
        got = answer()
        return Answer(got.status, body, got.headers)

    return first("objects.get", fault, times)


def test_the_rest_of_a_body_that_breaks_off_is_asked_for(storage: StrictGcs, ledger: GcsLedger) -> None:
    content = bytes(range(250)) * 4
    ledger.append(KEY, 1, content)
    storage.server.between = changed(content[:500], times=1)
    assert ledger.read(KEY, 1) == content


@pytest.mark.parametrize("body", [b"y" * 1000, b"x" * 1001, b""], ids=["changed", "longer", "empty"])
def test_a_body_that_was_changed_is_neither_an_entry_nor_no_entry(
    storage: StrictGcs, ledger: GcsLedger, body: bytes
) -> None:
    ledger.append(KEY, 1, b"x" * 1000)
    storage.server.between = changed(body)
    with pytest.raises((IntegrityError, UnavailableError)):
        opened(seconds=1.0).read(KEY, 1)


def test_what_was_sent_is_not_in_the_error(storage: StrictGcs) -> None:
    storage.server.between = refusing(400)
    with pytest.raises(KmsError) as refused:
        opened().append(KEY, 1, CANARY)
    assert leaked(f"{refused.value!r} {refused.value.line} {refused.value.__cause__}", CANARY) == []


def test_a_token_that_cloud_storage_does_not_take(storage: StrictGcs) -> None:
    gcp = gcp_world.project().gcp()
    gcp._make_credentials = lambda: Credential(gcp_world.project().tokens, FUNCTION, token=CANARY.decode())
    refused_ = GcsLedger(gcp, URL)
    _clients.append(refused_._objects._client)
    with pytest.raises(DeniedError) as refused:
        refused_.read(KEY, 1)
    assert "gcloud auth application-default login" in refused.value.hint
    assert leaked(f"{refused.value!r} {refused.value.line}", CANARY) == []


def test_a_bucket_that_is_not_there_is_told_from_an_entry_that_is_not(storage: StrictGcs) -> None:
    gone = GcsLedger(gcp_world.project().gcp(), "gs://no-such-bucket/keys")
    _clients.append(gone._objects._client)
    with pytest.raises((NotFoundError, ConfigurationError)) as refused:
        gone.sequences(KEY)
    assert "no-such-bucket" in refused.value.message
    with pytest.raises((NotFoundError, ConfigurationError, DeniedError)):
        gone.append(KEY, 1, b"x")


def test_an_entry_that_somebody_else_wrote_first_is_a_conflict(storage: StrictGcs) -> None:
    scene = Scene(ledger=opened())
    scene.versions(1)
    journal = Journal(opened(), scene.keyring, clock=scene.clock, actor="a", trigger="t")
    head = list(journal.chain(KEY))[-1]
    opened().append(KEY, head.next_sequence, b"theirs")
    with pytest.raises(ConflictError):
        journal.append(KEY, head, Draft(Event.PAUSED))


# --- opening


def test_a_policy_lies_beside_the_manifests(storage: StrictGcs) -> None:
    put("policy/daena-kms.toml", b"[keys.a-key]\n")
    gcp = gcp_world.project().gcp()
    assert read_object(gcp, f"gs://{BUCKET}/policy/daena-kms.toml") == b"[keys.a-key]\n"
    with pytest.raises(ConfigurationError, match="there is no gs://") as refused:
        read_object(gcp, f"gs://{BUCKET}/policy/x.toml")
    assert "DAENA_POLICY" in refused.value.hint


def test_everything_opens_from_settings(storage: StrictGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    project: Any = Scene().project
    put("policy.toml", b"[defaults]\ncreate = true\n[keys.a-key]\n")
    given = project.environment() | {
        "DAENA_POLICY": f"gs://{BUCKET}/policy.toml",
        "DAENA_MANIFEST_URL": URL,
        "STORAGE_EMULATOR_HOST": storage.url,
        "GOOGLE_APPLICATION_CREDENTIALS": str(project.secrets.key_file(FUNCTION)),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotFoundError, match="never initialised"):
        app.open_service(read_settings(), trigger="test")
    opened_ = app.open_service(read_settings(), trigger="test", init=True)
    assert opened_.initialised is not None
    assert opened_.initialised.made
    again = app.open_service(read_settings(), trigger="test")
    assert again.initialised is None
    assert again.service.tools.store.actor == f"gcp:{FUNCTION}"
