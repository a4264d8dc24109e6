"""The double of Cloud Storage, through Google's own client; what fake-gcs-server has of it, held against both."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import requests
from google.api_core.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
)
from google.auth.compute_engine import _metadata
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import InvalidOperation
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from tests.support import fake_gcs
from tests.support.gcs_http import Answer, Asked, Between, plain
from tests.support.google_tokens import Credential, GoogleEndpoint
from tests.support.strict_gcs import PROJECT, StrictGcs
from tests.support.vault_http import started

NAME = "manifests/a-key/00000001.json"
READER = {"storage.objects.get", "storage.objects.list"}
WRITER = {*READER, "storage.objects.create"}
SOON = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.02)
WITHOUT_ASIDES = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
_numbers = count(1)


@pytest.fixture(autouse=True)
def _no_asides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WITHOUT_ASIDES, "true")


@pytest.fixture(scope="module")
def running() -> Iterator[StrictGcs]:
    made = StrictGcs()
    yield made
    made.close()


@pytest.fixture
def gcs(running: StrictGcs) -> StrictGcs:
    """A service with one empty bucket."""
    running.server.empty()
    running.server.objects.create_bucket("a-bucket")
    return running


Clients = Callable[..., Any]


@pytest.fixture
def clients(gcs: StrictGcs) -> Iterator[Clients]:
    """The bucket, as a principal's client shows it."""
    made = []

    def client(credential: Any = None) -> Any:
        made.append(_client(gcs.url, credential or gcs.credential()))
        return made[-1].bucket("a-bucket")

    yield client
    for each in made:
        each.close()


@pytest.fixture
def bucket(clients: Clients) -> Any:
    return clients()


def _client(url: str, credentials: Any) -> Any:
    return storage.Client(PROJECT, credentials, client_options={"api_endpoint": url})


def _put(bucket: Any, name: str, content: bytes | str, **options: Any) -> int:
    """Write an object; its generation."""
    blob = bucket.blob(name)
    blob.upload_from_string(content, **{"content_type": "application/json", "retry": None, **options})
    return int(blob.generation)


def _read(bucket: Any, name: str, **options: Any) -> bytes:
    content: bytes = bucket.blob(name).download_as_bytes(**{"retry": None, **options})
    return content


def _names(bucket: Any, **options: Any) -> list[str]:
    return [blob.name for blob in bucket.list_blobs(**options)]


def _raw(gcs: StrictGcs, path: str, *, token: str | None = None, method: str = "GET") -> Any:
    """A request as no client makes it; the answer's status, headers and document."""
    shown = gcs.tokens.made("somebody") if token is None else token
    headers = {"Authorization": f"Bearer {shown}"} if shown else {}
    try:
        with urlopen(Request(gcs.url + path, headers=headers, method=method)) as reply:  # noqa: S310
            return reply.status, reply.headers, json.loads(reply.read())
    except HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers, json.loads(refusal.read())


def _reason(caught: pytest.ExceptionInfo[GoogleAPICallError]) -> tuple[int | None, str]:
    """The status of a refusal, and Google's word for it."""
    response: Any = caught.value.response
    return caught.value.code, response.json()["error"]["errors"][0]["reason"]


# --- what both have: this double, and fake-gcs-server where it was built


@dataclass
class Service:
    """A service with one empty bucket, and how to get at it."""

    name: str
    url: str
    credentials: Any
    bucket: Any

    def another(self) -> Any:
        """The bucket, in a client of its own."""
        return _client(self.url, self.credentials).bucket(self.bucket.name)


@pytest.fixture(params=["strict", "fake-gcs-server"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    credentials: Any
    if request.param == "strict":
        gcs: StrictGcs = request.getfixturevalue("gcs")
        url, credentials = gcs.url, gcs.credential()
    else:
        if not fake_gcs.available():
            pytest.skip(f"no fake-gcs-server at {fake_gcs.BINARY}: it is built where Go is")
        url, credentials = fake_gcs.shared().url, AnonymousCredentials()  # type: ignore[no-untyped-call]
    with closing(_client(url, credentials)) as client:
        bucket = client.bucket(f"bucket-{next(_numbers)}")
        bucket.versioning_enabled = True
        client.create_bucket(bucket)
        yield Service(request.param, url, credentials, bucket)


def test_create_only_writes_once(service: Service) -> None:
    generation = _put(service.bucket, NAME, "one", if_generation_match=0)
    with pytest.raises(PreconditionFailed) as caught:
        _put(service.bucket, NAME, "two", if_generation_match=0)
    assert _reason(caught) == (412, "conditionNotMet")
    assert _read(service.bucket, NAME) == b"one"
    assert service.bucket.get_blob(NAME).generation == generation


def test_of_sixteen_who_create_at_once_one_wins(service: Service) -> None:
    gate, buckets = threading.Barrier(16), [service.another() for _ in range(16)]

    def create(number: int) -> bool:
        gate.wait()
        try:
            _put(buckets[number], NAME, str(number), if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    for each in buckets:
        each.client.close()
    assert won.count(True) == 1
    assert _read(service.bucket, NAME) == str(won.index(True)).encode()


def test_a_large_one_in_pieces_is_create_only_too(service: Service) -> None:
    content = bytes(range(256)) * 1200

    def send() -> None:
        blob = service.bucket.blob(NAME, chunk_size=256 * 1024)
        blob.upload_from_file(BytesIO(content), if_generation_match=0, retry=None)

    send()
    with pytest.raises(PreconditionFailed):
        send()
    assert _read(service.bucket, NAME) == content


def test_what_was_written_is_read_with_its_sums(service: Service) -> None:
    generation = _put(service.bucket, NAME, b"\r\n--\x00\xff\r\n", checksum="md5")
    blob = service.bucket.blob(NAME)
    assert blob.download_as_bytes() == b"\r\n--\x00\xff\r\n"
    shown = service.bucket.get_blob(NAME)
    assert (blob.generation, blob.md5_hash, blob.crc32c) == (generation, shown.md5_hash, shown.crc32c)
    assert (shown.content_type, shown.size, shown.metageneration) == ("application/json", 8, 1)


@pytest.mark.parametrize("kind", ["md5_hash", "crc32c"])
def test_a_wrong_sum_is_refused(service: Service, kind: str) -> None:
    blob = service.bucket.blob(NAME)
    setattr(blob, kind, {"md5_hash": "XUFAKrxLKna5cZ2REBfFkg==", "crc32c": "mnG7TA=="}[kind])
    with pytest.raises(BadRequest):
        blob.upload_from_string("x", checksum=None, retry=None)
    assert not service.bucket.blob(NAME).exists()


def test_what_is_not_there_is_not_found(service: Service) -> None:
    nowhere = service.bucket.client.bucket("nobody")
    acts: list[Callable[[], object]] = [
        lambda: _read(service.bucket, "nobody"),
        lambda: service.bucket.blob("nobody").reload(retry=None),
        lambda: service.bucket.blob("nobody").delete(retry=None),
        lambda: _put(nowhere, NAME, "x"),
        lambda: _names(nowhere, retry=None),
        lambda: nowhere.reload(retry=None),
    ]
    for act in acts:
        with pytest.raises(NotFound):
            act()
    assert service.bucket.get_blob("nobody") is None


def test_a_listing_is_by_prefix_and_folder_in_the_order_of_names(service: Service) -> None:
    for name in ("m/b/2", "m/b/1", "m/a/1", "m/é", "m/z", "n", "m.x"):
        _put(service.bucket, name, "x")
    assert _names(service.bucket, prefix="m/b/") == ["m/b/1", "m/b/2"]
    assert _names(service.bucket, start_offset="m/b/2", end_offset="m/é") == ["m/b/2", "m/z"]
    folders = service.bucket.list_blobs(prefix="m/", delimiter="/")
    assert [blob.name for blob in folders] == ["m/z", "m/é"]
    assert folders.prefixes == {"m/a/", "m/b/"}
    assert _names(service.bucket, prefix="nothing/") == []


def test_a_listing_comes_in_pages(service: Service) -> None:
    for number in range(7):
        _put(service.bucket, f"m/{number}", "x")
    pages = service.bucket.list_blobs(prefix="m/", page_size=3, fields="items(name,generation),nextPageToken").pages
    assert [[blob.name for blob in page] for page in pages] == [["m/0", "m/1", "m/2"], ["m/3", "m/4", "m/5"], ["m/6"]]


def test_a_bucket_is_made_once(service: Service) -> None:
    assert service.bucket.client.get_bucket(service.bucket.name).versioning_enabled
    with pytest.raises(Conflict):
        service.bucket.client.create_bucket(service.bucket.name)


# --- what fake-gcs-server v1.55.1 does otherwise than the service, and this double does not


def _old_generations(bucket: Any) -> bool:
    _put(bucket, NAME, "one")
    _put(bucket, NAME, "two")
    return len(list(bucket.list_blobs(versions=True))) == 2


def _refuses_delete(bucket: Any) -> bool:
    _put(bucket, NAME, "one")
    try:
        bucket.blob(NAME).delete(if_generation_match=1, retry=None)
    except PreconditionFailed:
        return True
    return False


def _refuses_read(bucket: Any) -> bool:
    _put(bucket, NAME, "one")
    try:
        _read(bucket, NAME, if_generation_match=1)
    except PreconditionFailed:
        return True
    return False


def _counts_folders(bucket: Any) -> bool:
    for name in ("a/1", "b/1", "c"):
        _put(bucket, name, "x")
    return len(list(bucket.list_blobs(delimiter="/", page_size=2).pages)) == 2


def _leaves_fields_out(bucket: Any) -> bool:
    _put(bucket, NAME, "x")
    (blob,) = bucket.list_blobs(fields="items(name,generation),nextPageToken")
    return blob.size is None


def _refuses_names(bucket: Any) -> bool:
    try:
        _put(bucket, "n" * 1025, "x")
    except BadRequest:
        return True
    return False


def _refuses_who_shows_nothing(bucket: Any) -> bool:
    where = f"{bucket.client.api_endpoint}/storage/v1/b/{bucket.name}/o"
    return requests.get(where, timeout=10).status_code == 401


@pytest.mark.parametrize(
    "rule",
    [
        _old_generations,  # the client asks for versions=True, it looks for "true"
        _refuses_delete,
        _refuses_read,
        _counts_folders,
        _leaves_fields_out,
        _refuses_names,
        _refuses_who_shows_nothing,  # nor has it permissions
    ],
    ids=lambda rule: rule.__name__.strip("_").replace("_", " "),
)
def test_what_fake_gcs_server_does_not_have(service: Service, rule: Callable[[Any], bool]) -> None:
    """Whoever rewrites this for a newer one that has it, tests it on both above."""
    assert rule(service.bucket) is (service.name == "strict")


# --- who may ask


def test_who_shows_no_token_is_told_so(gcs: StrictGcs) -> None:
    status, headers, document = _raw(gcs, "/storage/v1/b/a-bucket/o", token="")
    assert (status, document["error"]["errors"][0]["reason"]) == (401, "required")
    assert "storage.objects.list" in document["error"]["message"]
    assert headers["WWW-Authenticate"].startswith("Bearer ")


def test_a_bad_token_is_none_and_the_client_asks_for_three(gcs: StrictGcs, clients: Clients) -> None:
    late = Credential(gcs.tokens, "somebody", lifetime=-1)
    forged = Credential(gcs.tokens, "somebody", token="ya29.forged")
    for credential in (late, forged):
        with pytest.raises(Unauthorized) as caught:
            _put(clients(credential), NAME, "x")
        assert _reason(caught) == (401, "authError")
        assert credential.asked == 3
    assert gcs.server.calls == []
    assert _raw(gcs, "/storage/v1/b/a-bucket", token="ya29.forged")[0] == 401


def test_a_token_of_another_scope_is_not_enough(gcs: StrictGcs, clients: Clients) -> None:
    reads = "https://www.googleapis.com/auth/devstorage.read_only"
    _put(clients(), NAME, "one")
    bucket = clients(Credential(gcs.tokens, "somebody", [reads]))
    assert _read(bucket, NAME) == b"one"
    with pytest.raises(Forbidden, match="scope"):
        _put(bucket, "another", "x")


def test_who_lacks_a_permission_is_refused_and_does_nothing(gcs: StrictGcs, clients: Clients) -> None:
    gcs.server.allowed["reader"] = READER
    _put(clients(), NAME, "one")
    bucket = clients(gcs.credential("reader"))
    assert (_read(bucket, NAME), _names(bucket)) == (b"one", [NAME])
    acts: dict[str, Callable[[], object]] = {
        "storage.objects.create": lambda: _put(bucket, "another", "x"),
        "storage.objects.delete": lambda: bucket.blob(NAME).delete(retry=None),
        "storage.buckets.get": lambda: bucket.reload(retry=None),
        "storage.buckets.create": lambda: bucket.client.create_bucket("another"),
    }
    for name, act in acts.items():
        with pytest.raises(Forbidden, match=f"reader does not have {name} access") as caught:
            act()
        assert _reason(caught) == (403, "forbidden")
    assert _names(clients()) == [NAME]


def test_who_may_create_and_not_delete_writes_over_nothing(gcs: StrictGcs, clients: Clients) -> None:
    gcs.server.allowed["writer"] = WRITER
    bucket = clients(gcs.credential("writer"))
    generation = _put(bucket, NAME, "one")
    for condition in ({}, {"if_generation_match": generation}):
        with pytest.raises(Forbidden, match=r"writer does not have storage\.objects\.delete access") as caught:
            _put(bucket, NAME, "two", **condition)
        assert _reason(caught) == (403, "forbidden")
    assert _read(bucket, NAME) == b"one"
    assert len(_names(bucket, versions=True)) == 1


@pytest.mark.parametrize(("first", "told"), [(True, PreconditionFailed), (False, Forbidden)])
def test_who_comes_second_and_may_not_delete_is_told_one_or_the_other(
    gcs: StrictGcs, clients: Clients, first: bool, told: type[GoogleAPICallError]
) -> None:
    """Nothing that Google publishes says which; whoever appends to a log must take either for "it is taken"."""
    gcs.server.allowed["writer"] = WRITER
    gcs.server.objects.condition_first = first
    bucket = clients(gcs.credential("writer"))
    _put(bucket, NAME, "one", if_generation_match=0)
    with pytest.raises(told):
        _put(bucket, NAME, "two", if_generation_match=0)
    assert _read(bucket, NAME) == b"one"


def test_who_may_not_list_is_not_told_what_is_not_there(gcs: StrictGcs, clients: Clients) -> None:
    gcs.server.allowed["blind"] = {"storage.objects.get"}
    with pytest.raises(Forbidden):
        _read(clients(gcs.credential("blind")), "nobody")


def test_each_request_is_noted_with_the_permission_that_it_takes(gcs: StrictGcs, bucket: Any) -> None:
    _put(bucket, NAME, "x", if_generation_match=0)
    _read(bucket, NAME)
    bucket.get_blob(NAME)
    _names(bucket)
    bucket.blob(NAME).delete()
    assert [call.permission.rpartition(".")[2] for call in gcs.server.calls] == [
        "create", "get", "get", "list", "delete",
    ]  # fmt: skip
    sent = gcs.server.calls[0].upload
    assert sent is not None
    assert (sent.name, sent.content, sent.conditions.match, set(sent.hashes)) == (NAME, b"x", 0, {"crc32c"})


# --- where a client goes, and what it shows


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE"])
def test_credentials_that_are_given_are_shown_wherever_it_goes(
    gcs: StrictGcs, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)  # another test's project may be there
    monkeypatch.setenv(variable, gcs.url)
    with closing(storage.Client(PROJECT, gcs.credential("given"))) as client:
        _names(client.bucket("a-bucket"))
    assert [call.principal for call in gcs.server.calls] == ["given"]


def test_without_credentials_an_emulators_client_shows_none_and_another_finds_some(
    gcs: StrictGcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = GoogleEndpoint(gcs.tokens, "1", "the-machine")
    started(machine)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    found = {"CLOUDSDK_CONFIG": str(tmp_path), "GOOGLE_CLOUD_PROJECT": PROJECT, **machine.metadata_environment()}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", found["GCE_METADATA_HOST"])  # read when it was imported
    with closing(storage.Client(client_options={"api_endpoint": gcs.url})) as client:
        _names(client.bucket("a-bucket"))
    assert [call.principal for call in gcs.server.calls] == ["the-machine"]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    with closing(storage.Client()) as client, pytest.raises(InvalidOperation, match="Anonymous credentials"):
        _names(client.bucket("a-bucket"))
    assert len(gcs.server.calls) == 1
    machine.shutdown()
    machine.server_close()


def test_a_client_asks_for_its_bucket_aside_unless_told_not_to(
    gcs: StrictGcs, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes storage.buckets.get, which a ledger does not need; who is refused it is none the wiser."""
    gcs.server.allowed["writer"] = WRITER
    _put(clients(gcs.credential("writer")), NAME, "one")
    assert len(gcs.server.calls) == 1
    monkeypatch.delenv(WITHOUT_ASIDES)
    _put(clients(gcs.credential("writer")), "another", "two")
    until = time.monotonic() + 10
    while len(gcs.server.calls) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert {call.method for call in gcs.server.calls} == {"objects.insert", "buckets.get"}


# --- generations


def test_old_generations_stay_and_are_listed_oldest_first(bucket: Any) -> None:
    first, second = _put(bucket, NAME, "one"), _put(bucket, NAME, "two")
    _put(bucket, "manifests/b", "x")
    assert first < second
    listed = list(bucket.list_blobs(prefix="manifests/a-key/", versions=True))
    assert [(blob.generation, blob.time_deleted is None) for blob in listed] == [(first, False), (second, True)]
    assert [blob.download_as_bytes() for blob in listed] == [b"one", b"two"]
    assert [blob.generation for blob in bucket.list_blobs(prefix="manifests/a-key/")] == [second]


def test_what_is_deleted_can_still_be_seen_until_its_generation_is(bucket: Any) -> None:
    first = _put(bucket, NAME, "one")
    bucket.blob(NAME).delete(if_generation_match=first)
    assert (_names(bucket), _names(bucket, versions=True)) == ([], [NAME])
    second = _put(bucket, NAME, "two", if_generation_match=0)
    bucket.blob(NAME, generation=first).delete()
    assert [blob.generation for blob in bucket.list_blobs(versions=True)] == [second]


def test_a_bucket_without_versioning_forgets(bucket: Any) -> None:
    without = bucket.client.bucket("without")
    without.versioning_enabled = False
    bucket.client.create_bucket(without)
    first, second = _put(without, NAME, "one"), _put(without, NAME, "two")
    assert [blob.generation for blob in without.list_blobs(versions=True)] == [second]
    with pytest.raises(NotFound):
        without.blob(NAME, generation=first).download_as_bytes()


def test_a_generation_is_matched_or_nothing_is_done(bucket: Any) -> None:
    first = _put(bucket, NAME, "one")
    second = _put(bucket, NAME, "two", if_generation_match=first)
    acts: list[Callable[[], object]] = [
        lambda: _put(bucket, NAME, "three", if_generation_match=first),
        lambda: _put(bucket, NAME, "three", if_generation_not_match=second),
        lambda: _read(bucket, NAME, if_generation_match=first),
        lambda: bucket.blob(NAME).delete(if_generation_match=first, retry=None),
    ]
    for act in acts:
        with pytest.raises(PreconditionFailed):
            act()
    assert _read(bucket, NAME) == b"two"


def test_generations_grow_though_the_clock_stands_still(
    gcs: StrictGcs, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs.server.objects, "_clock", lambda: 1.0)
    made = [_put(bucket, NAME, "x") for _ in range(3)]
    assert made == sorted(set(made))


def test_a_short_page_is_no_end(gcs: StrictGcs, bucket: Any) -> None:
    for number in range(5):
        _put(bucket, str(number), "x")
    gcs.server.objects.page = 2
    gcs.server.calls.clear()
    assert _names(bucket, page_size=4) == list("01234")
    assert len(gcs.server.calls) == 3
    assert _raw(gcs, "/storage/v1/b/a-bucket/o?pageToken=nonsense")[0] == 400


def test_an_object_shows_what_was_sent_with_it(bucket: Any) -> None:
    blob = bucket.blob(NAME)
    blob.metadata = {"sequence": "1"}
    blob.upload_from_string("{}", content_type="application/json", if_generation_match=0)
    assert bucket.get_blob(NAME).metadata == {"sequence": "1"}
    _put(bucket, "another", "x")
    assert bucket.get_blob("another").metadata is None


@pytest.mark.parametrize("name", ["..", "a\nb", "n" * 1025])
def test_names_that_the_service_refuses(bucket: Any, name: str) -> None:
    with pytest.raises(BadRequest):
        _put(bucket, name, "x")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/storage/v1/b"),
        ("GET", "/storage/v1/b/a-bucket/o/x/acl"),
        ("PATCH", "/storage/v1/b/a-bucket/o/x"),
        ("GET", "/a-bucket/x"),
        ("GET", "/storage/v1/b/a-bucket/o?matchGlob=x"),
        ("GET", "/storage/v1/b/a-bucket/o?projection=full"),
        ("POST", "/upload/storage/v1/b/a-bucket/o?uploadType=other&name=x"),
    ],
)
def test_what_the_double_does_not_have_is_an_error_never_a_guess(gcs: StrictGcs, method: str, path: str) -> None:
    status, _, document = _raw(gcs, path, method=method)
    assert (status, document["error"]["errors"][0]["reason"]) == (501, "notImplemented")
    assert gcs.server.calls == []


def test_a_field_that_it_does_not_have_is_an_error(bucket: Any) -> None:
    blob = bucket.blob(NAME)
    blob.cache_control = "no-store"
    with pytest.raises(GoogleAPICallError, match="does not have the field cacheControl"):
        blob.upload_from_string("x", retry=None)


# --- what tests do with it


def _lost(_: Asked, answer: Callable[[], Answer]) -> Answer | None:
    answer()
    return None


def _once(fault: Between) -> Between:
    """That fault to the first request, and nobody in between of those that follow."""
    left = [fault]

    def between(asked: Asked, answer: Callable[[], Answer]) -> Answer | None:
        return left.pop()(asked, answer) if left else plain(asked, answer)

    return between


def test_a_reply_can_be_lost_after_the_write_was_done(gcs: StrictGcs, bucket: Any) -> None:
    gcs.server.between = _lost
    with pytest.raises(requests.exceptions.ConnectionError):
        _put(bucket, NAME, "one", if_generation_match=0)
    gcs.server.between = plain
    assert _read(bucket, NAME) == b"one"


def test_half_a_request_is_not_carried_out(gcs: StrictGcs, bucket: Any) -> None:
    """Its sender was killed."""
    connection = http.client.HTTPConnection(gcs.url.removeprefix("http://"))
    connection.putrequest("POST", "/upload/storage/v1/b/a-bucket/o?uploadType=media&name=half")
    connection.putheader("Authorization", f"Bearer {gcs.tokens.made('somebody')}")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"half")
    connection.sock.shutdown(socket.SHUT_WR)
    assert connection.sock.recv(1) == b""
    connection.close()
    assert _names(bucket) == []


def test_the_clients_own_retry_of_a_lost_create_is_told_of_its_own_write(gcs: StrictGcs, bucket: Any) -> None:
    """Why a ledger reads what is there before it says that somebody else was first. The default repeats too."""
    gcs.server.between = _once(_lost)
    with pytest.raises(PreconditionFailed):
        _put(bucket, NAME, "one", if_generation_match=0, retry=SOON)
    assert len(gcs.server.calls) == 2
    assert _read(bucket, NAME) == b"one"


def test_the_clients_own_retry_of_a_lost_write_without_condition_is_a_second_generation(
    gcs: StrictGcs, bucket: Any
) -> None:
    gcs.server.between = _once(_lost)
    _put(bucket, NAME, "one", retry=SOON)
    assert len(_names(bucket, versions=True)) == 2


def test_without_a_word_about_retries_a_write_is_repeated(gcs: StrictGcs, bucket: Any) -> None:
    gcs.server.between = _once(lambda _asked, _answer: Answer(503))
    bucket.blob(NAME).upload_from_string("one", if_generation_match=0)
    assert len(gcs.server.calls) == 2


@pytest.mark.parametrize(("status", "told"), [(429, TooManyRequests), (503, ServiceUnavailable)])
def test_a_busy_service_is_asked_again_and_when_it_says_is_not_heeded(
    gcs: StrictGcs, bucket: Any, status: int, told: type[GoogleAPICallError]
) -> None:
    busy = Answer(status, {"error": {"code": status, "message": "Slow down."}}, {"Retry-After": "60"})
    gcs.server.between = lambda _asked, _answer: busy
    with pytest.raises(told) as caught:
        _put(bucket, NAME, "one", if_generation_match=0)
    assert caught.value.response.headers["Retry-After"] == "60"
    gcs.server.between = _once(lambda _asked, _answer: busy)
    begun = time.monotonic()
    _put(bucket, NAME, "one", if_generation_match=0, retry=SOON)
    assert time.monotonic() - begun < 30


def test_half_a_body_is_noticed_and_the_rest_asked_for(gcs: StrictGcs, bucket: Any) -> None:
    content = b"0123456789" * 5000

    def half(_: Asked, answer: Callable[[], Answer]) -> Answer:
        whole = answer()
        assert isinstance(whole.body, bytes)
        return Answer(200, whole.body[:25_000], {**whole.headers, "Content-Length": str(len(whole.body))})

    _put(bucket, NAME, content)
    gcs.server.between = half
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _read(bucket, NAME)
    gcs.server.between = _once(half)
    gcs.server.calls.clear()
    assert _read(bucket, NAME, retry=SOON) == content
    assert gcs.server.calls[-1].headers["range"].startswith("bytes=")


def test_other_bytes_than_were_written_are_noticed(gcs: StrictGcs, bucket: Any) -> None:
    _put(bucket, NAME, "one")
    gcs.server.between = lambda _, answer: Answer(200, b"two", answer().headers)
    with pytest.raises(DataCorruption):
        _read(bucket, NAME)


def test_other_bytes_without_sums_are_believed(gcs: StrictGcs, bucket: Any) -> None:
    """Why a ledger holds what it reads against sums of its own: the client looks at them only where they are sent."""
    _put(bucket, NAME, "one")
    gcs.server.between = lambda _, __: Answer(200, b"two")
    assert _read(bucket, NAME) == b"two"


def test_an_empty_listing_is_believed(gcs: StrictGcs, bucket: Any) -> None:
    _put(bucket, NAME, "one")
    gcs.server.between = lambda _, __: Answer(200, {"kind": "storage#objects"})
    assert _names(bucket) == []


def test_everything_can_be_put_back_as_it_was(gcs: StrictGcs, bucket: Any) -> None:
    first = _put(bucket, NAME, "one")
    restore = gcs.server.objects.saved()
    second = _put(bucket, NAME, "two")
    bucket.client.create_bucket("another")
    restore()
    assert [blob.generation for blob in bucket.list_blobs(versions=True)] == [first]
    assert bucket.client.lookup_bucket("another") is None
    assert _put(bucket, NAME, "three") > second


def test_it_starts_alone_and_says_where_it_is() -> None:
    command = [sys.executable, "-m", "tests.support.strict_gcs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first, *rest = [program.stdout.readline().strip() for _ in range(6)]
        program.terminate()
    assert first.startswith("http://127.0.0.1:")
    assert rest[0] == f"export STORAGE_EMULATOR_HOST={first}"
    assert {line.partition("=")[0].removeprefix("export ") for line in rest} == {
        "STORAGE_EMULATOR_HOST", WITHOUT_ASIDES, "GOOGLE_CLOUD_PROJECT", "GCE_METADATA_HOST", "GCE_METADATA_IP",
    }  # fmt: skip
