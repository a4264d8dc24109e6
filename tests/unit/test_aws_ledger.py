"""The ledger in S3 beyond the contract: addresses, rewritten entries, conflicts, replies that break off, races."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, cast

import pytest

from daena_kms.errors import ConfigurationError, ConflictError, ExistsError, KmsError, UnavailableError
from daena_kms.model import Status
from daena_kms.names import RESERVED_KEY
from daena_kms.stores import aws_ledger
from daena_kms.stores.aws_calls import Aws, Client, Reply
from daena_kms.stores.aws_ledger import S3Ledger, split_url
from tests.support import aws_world
from tests.support.aws_world import BUCKET, CREDENTIALS, MANIFESTS, REGION
from tests.support.worlds import KEY, Backend, Clock, World

RACERS = 16
Send = Callable[[], Any]


class Wire:
    """The client of S3 with somebody in between."""

    def __init__(self, client: Client) -> None:
        self.puts = 0
        self.before_put: Callable[[Send], Any] = lambda send: send()
        self.page: dict[str, Any] = {}
        self._client = client

    def call(self, operation: str, subject: str, **parameters: Any) -> Any:
        if operation != "put_object":
            return self._client.call(operation, subject, **parameters)
        self.puts += 1
        return self.before_put(lambda: self._client.call(operation, subject, **parameters))

    def pages(self, operation: str, subject: str, **parameters: Any) -> Any:
        return self._client.pages(operation, subject, **parameters, **self.page)


@pytest.fixture
def s3() -> Iterator[Client]:
    yield aws_world.emptied().aws.client("s3")
    aws_world.emptied()


@pytest.fixture
def wire(s3: Client) -> Wire:
    return Wire(s3)


@pytest.fixture
def ledger(wire: Wire) -> S3Ledger:
    return S3Ledger(cast("Client", wire), MANIFESTS)


def _by_hand(s3: Client, operation: str, key: str, sequence: int, **parameters: object) -> dict[str, Any]:
    """What somebody with more rights than ours can do to an entry."""
    name = f"manifests/{key}/{sequence:08d}.json"
    return s3.call(operation, "by hand", Bucket=BUCKET, Key=name, **parameters)


# --- addresses


@pytest.mark.parametrize(
    ("url", "bucket", "path"),
    [
        ("s3://bucket/manifests", "bucket", "manifests"),
        ("s3://bucket/manifests/", "bucket", "manifests"),
        ("s3://bucket/a/b/c", "bucket", "a/b/c"),
        ("s3://my.bucket-1/x", "my.bucket-1", "x"),
        ("s3://" + "b" * 63 + "/x", "b" * 63, "x"),
        ("s3://bbb/x", "bbb", "x"),
    ],
)
def test_an_address_is_a_bucket_and_a_folder(url: str, bucket: str, path: str) -> None:
    assert split_url(url) == (bucket, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3:",
        "s3://",
        "s3:///folder",
        "s3:/bucket/folder",
        "s3:bucket/folder",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket//",
        "s3://bucket?versions",
        "s3://bucket/folder?versionId=1",
        "s3://bucket/folder#part",
        "s3://Bucket/folder",
        "s3://bu/folder",
        "s3://" + "b" * 64 + "/folder",
        "s3://-bucket/folder",
        "s3://bucket-/folder",
        "s3://bucket_1/folder",
        "s3://bucket:443/folder",
        "s3://user@bucket/folder",
        "s3://user:password@bucket/folder",
        "s3://[::1/folder",
        "https://bucket.s3.amazonaws.com/folder",
        "gs://bucket/folder",
        "file:///folder",
        "/folder",
        "bucket/folder",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no S3 address") as refused:
        split_url(url)
    assert refused.value.hint == "write s3://bucket/folder"


def test_an_entry_lies_where_its_address_says(ledger: S3Ledger, s3: Client) -> None:
    ledger.append(KEY, 42, b"entry")
    where = f"s3://{BUCKET}/manifests/{KEY}/00000042.json"
    assert ledger.where(KEY, 42) == where
    assert aws_ledger.read_object(s3, where) == b"entry"


def test_a_slash_at_the_end_of_an_address_means_nothing(s3: Client) -> None:
    with_slash, without = S3Ledger(s3, MANIFESTS + "/"), S3Ledger(s3, MANIFESTS)
    with_slash.append(KEY, 1, b"entry")
    assert with_slash.address == without.address == MANIFESTS
    assert without.read(KEY, 1) == b"entry"


# --- what is in a folder


def test_a_key_whose_name_begins_anothers_has_its_own_entries(ledger: S3Ledger) -> None:
    for name, sequence in (("app", 1), ("app-key", 2), ("app-key-2", 3), ("ap", 4)):
        ledger.append(name, sequence, name.encode())
    assert [ledger.sequences(name) for name in ("app", "app-key", "app-key-2", "ap", "a")] == [[1], [2], [3], [4], []]
    assert ledger.names() == ["ap", "app", "app-key", "app-key-2"]
    assert [ledger.rewritten(name) for name in ("app", "app-key")] == [[], []]


def test_a_ledger_whose_folder_begins_anothers_has_its_own_keys(s3: Client) -> None:
    one, other = S3Ledger(s3, f"s3://{BUCKET}/manifests"), S3Ledger(s3, f"s3://{BUCKET}/manifests-2")
    other.append(KEY, 1, b"other")
    assert one.names() == []
    assert one.sequences(KEY) == []
    inside = S3Ledger(s3, f"s3://{BUCKET}/manifests/inside")
    inside.append(KEY, 1, b"inside")
    assert one.sequences(KEY) == []


def test_what_is_no_entry_is_not_counted(ledger: S3Ledger, s3: Client) -> None:
    ledger.append(KEY, 1, b"entry")
    for name in (
        f"{KEY}/README", f"{KEY}/2.json", f"{KEY}/00000003.json.bak", f"{KEY}/old/00000004.json", f"{KEY}/",
        "loose.json", "Not_A_Key/00000001.json", f"{KEY}--archive-1/00000001.json", "",
    ):  # fmt: skip
        s3.call("put_object", "by hand", Bucket=BUCKET, Key=f"manifests/{name}", Body=b"x")
    assert ledger.sequences(KEY) == [1]
    assert ledger.names() == [KEY]
    assert ledger.rewritten(KEY) == []


def test_the_ledgers_own_chain_has_a_name_like_the_keys(ledger: S3Ledger) -> None:
    ledger.append(RESERVED_KEY, 1, b"entry")
    ledger.append(KEY, 1, b"entry")
    assert ledger.names() == [KEY, RESERVED_KEY]


def test_more_entries_than_a_page_holds_are_all_there(ledger: S3Ledger, wire: Wire) -> None:
    wire.page = {"PaginationConfig": {"PageSize": 3}}
    for sequence in range(1, 9):
        ledger.append(KEY, sequence, b"entry")
        ledger.append(f"{KEY}-{sequence}", 1, b"entry")
    assert ledger.sequences(KEY) == list(range(1, 9))
    assert ledger.names() == [KEY, *(f"{KEY}-{sequence}" for sequence in range(1, 9))]
    assert ledger.rewritten(KEY) == []


# --- entries that were written again, or deleted


def test_an_entry_that_was_written_again_is_named(ledger: S3Ledger, s3: Client) -> None:
    for sequence in (1, 2, 3):
        ledger.append(KEY, sequence, b"entry")
    assert ledger.rewritten(KEY) == []
    _by_hand(s3, "put_object", KEY, 2, Body=b"another")
    assert ledger.rewritten(KEY) == [2]
    _by_hand(s3, "put_object", KEY, 2, Body=b"entry")  # as it was: that it was touched stays to be seen
    assert ledger.rewritten(KEY) == [2]


def test_an_entry_that_was_deleted_is_named_also_once_it_is_back(ledger: S3Ledger, s3: Client) -> None:
    ledger.append(KEY, 1, b"entry")
    ledger.append(KEY, 2, b"entry")
    gone = _by_hand(s3, "delete_object", KEY, 2)
    assert ledger.sequences(KEY) == [1]
    assert ledger.rewritten(KEY) == [2]
    ledger.append(KEY, 2, b"another")
    assert ledger.rewritten(KEY) == [2]
    _by_hand(s3, "delete_object", KEY, 2, VersionId=gone["VersionId"])  # the marker itself: two versions are left
    assert ledger.rewritten(KEY) == [2]


def test_an_entry_that_was_deleted_and_then_purged_is_named_while_its_marker_lies_there(
    ledger: S3Ledger, s3: Client
) -> None:
    ledger.append(KEY, 1, b"entry")
    ledger.append(KEY, 2, b"entry")
    (page,) = s3.pages("list_object_versions", "it", Bucket=BUCKET, Prefix=f"manifests/{KEY}/00000002.json")
    _by_hand(s3, "delete_object", KEY, 2)
    _by_hand(s3, "delete_object", KEY, 2, VersionId=page["Versions"][0]["VersionId"])
    assert ledger.rewritten(KEY) == [2]


def _world() -> World:
    account = aws_world.emptied()
    return World(Backend(account.store(), account.ledger()), Clock())


@pytest.mark.parametrize("change", ["written again", "written again as it was", "deleted", "deleted and put back"])
def test_verify_tells_of_an_entry_that_was_touched(s3: Client, change: str) -> None:
    world = _world()
    for _ in range(2):
        world.force() if world.ledger.sequences(KEY) else world.rotate()
    assert world.problems() == []
    was = world.ledger.read(KEY, 2)
    assert was is not None
    if change.startswith("deleted"):
        _by_hand(s3, "delete_object", KEY, 2)
    if change != "deleted":
        _by_hand(s3, "put_object", KEY, 2, Body=was if "as it was" in change or "back" in change else was + b" ")
    (found,) = world.service().verify([KEY])
    assert "entry 2 was written more than once, or deleted" in found.problems
    sound = change in ("written again as it was", "deleted and put back")
    assert (len(found.problems) == 1) == sound  # whoever reads the entries alone would not see it


def test_an_entry_put_back_as_it_was_stops_no_rotation(s3: Client) -> None:
    world = _world()
    world.rotate()
    was = world.ledger.read(KEY, 2)
    _by_hand(s3, "delete_object", KEY, 2)
    _by_hand(s3, "put_object", KEY, 2, Body=was)
    world.clock.move(days=90)
    assert world.rotate().status is Status.ROTATED


# --- conflicts and races


def _conflict(_send: Send) -> Any:
    raise ConflictError("ConditionalRequestConflict")


def _times(count: int, fault: Callable[[Send], Any]) -> Callable[[Send], Any]:
    left = [count]

    def before_put(send: Send) -> Any:
        if left[0]:
            left[0] -= 1
            return fault(send)
        return send()

    return before_put


def test_a_conflict_that_nobody_won_is_tried_again(ledger: S3Ledger, wire: Wire) -> None:
    wire.before_put = _times(1, _conflict)
    ledger.append(KEY, 1, b"ours")
    assert (ledger.read(KEY, 1), wire.puts) == (b"ours", 2)


def test_a_conflict_that_somebody_else_won_is_lost(ledger: S3Ledger, wire: Wire, s3: Client) -> None:
    def beaten(send: Send) -> Any:
        _by_hand(s3, "put_object", KEY, 1, Body=b"theirs")
        return _conflict(send)

    wire.before_put = _times(1, beaten)
    with pytest.raises(ExistsError):
        ledger.append(KEY, 1, b"ours")
    assert (ledger.read(KEY, 1), wire.puts) == (b"theirs", 1)
    assert ledger.rewritten(KEY) == []


def test_a_conflict_that_we_won_after_all_is_told_as_written_by_somebody(ledger: S3Ledger, wire: Wire) -> None:
    """Our put arrived, and S3 says conflict: whose it is, the journal finds out by reading it."""

    def arrived(send: Send) -> Any:
        send()
        return _conflict(send)

    wire.before_put = _times(1, arrived)
    with pytest.raises(ExistsError):
        ledger.append(KEY, 1, b"ours")
    assert ledger.read(KEY, 1) == b"ours"


def test_conflicts_without_end_are_unavailable(ledger: S3Ledger, wire: Wire) -> None:
    wire.before_put = _conflict
    with pytest.raises(UnavailableError, match=r"entry 1 of .* could not be written") as refused:
        ledger.append(KEY, 1, b"ours")
    assert refused.value.hint
    assert wire.puts == 3
    assert ledger.read(KEY, 1) is None


@pytest.mark.parametrize("fault", ["conflict", "conflict that we won", "lost reply", "repeated by the SDK"])
def test_a_rotation_goes_on_through_it_in_the_same_run(wire: Wire, ledger: S3Ledger, fault: str) -> None:
    account = aws_world.emptied()
    world = World(Backend(account.store(), ledger), Clock())
    world.rotate()
    world.clock.move(days=90)

    def lost(send: Send) -> Any:
        send()
        raise UnavailableError("the connection was reset")

    def arrived(send: Send) -> Any:
        send()
        return _conflict(send)

    def repeated(send: Send) -> Any:
        send()
        return send()

    faults = {
        "conflict": _conflict, "conflict that we won": arrived, "lost reply": lost, "repeated by the SDK": repeated,
    }  # fmt: skip
    wire.before_put = _times(1, faults[fault])
    outcome = world.rotate()
    assert (outcome.status, outcome.number) == (Status.ROTATED, 2)
    world.check()


def test_of_many_racing_writers_one_wins_and_nothing_is_rewritten(ledger: S3Ledger) -> None:
    ready = threading.Barrier(RACERS, timeout=60)

    def write(racer: int) -> bool:
        ready.wait()
        try:
            ledger.append(KEY, 1, b"racer %d" % racer)
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(write, range(RACERS)))
    assert won.count(True) == 1
    assert ledger.read(KEY, 1) == b"racer %d" % won.index(True)
    assert ledger.rewritten(KEY) == []


# --- what cannot be read or written


def test_a_bucket_that_is_not_there(s3: Client) -> None:
    ledger = S3Ledger(s3, "s3://no-such-bucket/manifests")
    acts: list[Callable[[], object]] = [
        lambda: ledger.append(KEY, 1, b"entry"),
        lambda: ledger.read(KEY, 1),
        lambda: ledger.sequences(KEY),
        ledger.names,
        lambda: ledger.rewritten(KEY),
    ]
    for act in acts:
        with pytest.raises(ConfigurationError, match="NoSuchBucket") as refused:
            act()
        assert "DAENA_MANIFEST_URL" in refused.value.hint


def test_an_object_that_is_not_there_is_named(s3: Client) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no s3://{BUCKET}/daena-kms.toml") as refused:
        aws_ledger.read_object(s3, f"s3://{BUCKET}/daena-kms.toml")
    assert "DAENA_POLICY" in refused.value.hint


def test_an_entry_that_nobody_says_is_stored_is_not_written(ledger: S3Ledger, wire: Wire) -> None:
    """A proxy's page in the place of S3's reply."""
    wire.before_put = lambda _send: Reply("put-object of it", {})
    with pytest.raises(UnavailableError, match="the reply lacks ETag"):
        ledger.append(KEY, 1, b"{}")


def _half_a_body(listening: socket.socket) -> None:
    """Answers with less than it promises, until nobody listens any more."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as stream:
            while stream.readline().strip():
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: x\r\n\r\nhalf an entry")


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of an S3 whose replies break off."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=_half_a_body, args=(listening,))
        serving.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        aws = Aws(region=REGION, profile="", call_timeout=timedelta(seconds=5), concurrency=1)
        yield aws.client("s3")
        listening.shutdown(socket.SHUT_RDWR)
        serving.join()


def test_a_body_that_breaks_off_is_neither_an_entry_nor_no_entry(half: Client) -> None:
    acts: list[Callable[[], object]] = [
        lambda: S3Ledger(half, MANIFESTS).read(KEY, 1),
        lambda: aws_ledger.read_object(half, f"s3://{BUCKET}/daena-kms.toml"),
    ]
    for act in acts:
        with pytest.raises(UnavailableError, match="broke off") as refused:
            act()
        assert isinstance(refused.value, KmsError)
        assert "half an entry" not in refused.value.message
