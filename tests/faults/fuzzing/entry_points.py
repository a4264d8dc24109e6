"""The three functions, asked for what nobody asks for: bodies, headers and events, as their platforms hand them on.

Each is the bundle in a process of the platform's own runtime (functions-framework, the Azure worker, the Lambda runtime
client) on the strict doubles. Of what is refused nothing is in the store afterwards; no answer holds a traceback, or
is without bound; the process goes on to serve a good request, and does not grow.

No code of ours checks a token at an entry point: the platforms' front ends do (Cloud Run's invoker role, the function's
key at Azure, IAM at Lambda), before a request comes this far. `tokens` is about those that the stores check.
"""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from daena_kms import invocation
from daena_kms.errors import ConfigurationError
from tests.functions import aws_scene, azure_scene, gcp_scene
from tests.support.lambda_runtime import Kind
from tests.support.served_function import SCHEDULER, ServedFunction

from ..units import Room
from .harness import Wrong, require, resident_mib, sensible, tried, watched
from .shapes import as_json, cut, cuts, deep, edited, edits, texts, values

ROOT = Path(__file__).parents[3]
LONGEST_ANSWER = 64 * 1024
MOST_GROWTH_MIB = 150
"""Of a function's process over a unit: it has imports to do, and a connection to make."""
_TRACEBACK = ("Traceback (most recent", 'File "/')
GOOD = {"action": "plan"}


def _events(cloud: str) -> list[Any]:
    folder = {"aws": "aws_lambda", "azure": "azure_function", "gcp": "gcp_function"}[cloud]
    return [json.loads(path.read_bytes()) for path in sorted((ROOT / "functions" / folder / "events").glob("*.json"))]


_FIELDS = st.sampled_from(
    ["action", "keys", "force", "dry_run", "reason", "request_id", "source", "acton", "scheduled_time"]
)


def _documents(cloud: str) -> SearchStrategy[Any]:
    """Events of ours with something changed, objects with fields of ours, and anything else."""
    return st.one_of(
        st.builds(edited, st.sampled_from(_events(cloud)), edits),
        st.dictionaries(
            _FIELDS,
            st.sampled_from(["rotate", "plan", "verify", "status", ["a-key"], [], True, ""]) | values,
            max_size=4,
        ),
        values,
    )


def _bodies(cloud: str) -> SearchStrategy[bytes]:
    whole = [as_json(event) for event in _events(cloud)]
    return st.one_of(
        _documents(cloud).map(as_json),
        st.builds(cut, st.sampled_from(whole), cuts),
        st.sampled_from([*deep(20_000), b" " * 65_537, b"[" * 65_536, b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}"]),
        st.builds(lambda text: text.encode("utf-16"), st.sampled_from([item.decode() for item in whole])),
        st.binary(max_size=80),
    )


def parsed(room: Room, most: int) -> None:
    """What all three do first: bytes to JSON to an invocation. In this process, where much can be tried."""

    def check(body: bytes) -> None:
        try:
            decoded = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        try:
            invocation.parse(decoded, "a-request")
        except ConfigurationError as problem:
            sensible(problem, 1_000)
            require(problem.hint, "without a hint")

    tried(room, "a body", _bodies("gcp"), check, most=most)


def events(room: Room, most: int) -> None:
    """The same for what is decoded already, and may hold what no JSON does."""

    def check(event: Any) -> None:
        try:
            invocation.parse(event, "a-request")
        except ConfigurationError as problem:
            sensible(problem, 1_000)

    tried(room, "an event", _documents("aws"), check, most=most)


@contextmanager
def _steady(room: Room, name: str, processes: Callable[[], list[int]]) -> Iterator[None]:
    """A process that serves many requests does not grow."""
    before = sum(map(resident_mib, processes()))
    yield
    grown = sum(map(resident_mib, processes())) - before
    room.figure(f"growth of {name}, MiB", round(grown))
    if grown > MOST_GROWTH_MIB:
        room.violation(f"{name} grew by {grown:.0f} MiB")


def _family(process: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *map(int, children)]


def _bounded(told: str, what: str) -> None:
    require(len(told) <= LONGEST_ANSWER, f"{what} has {len(told)} characters")
    for mark in _TRACEBACK:
        require(mark not in told, f"a traceback is in {what}: {told[-400:]}")


# --- Cloud Run

_HEADERS = st.dictionaries(
    st.sampled_from(
        ["X-CloudScheduler", "X-CloudScheduler-JobName", "X-CloudScheduler-ScheduleTime", "traceparent", "Content-Type",
         "X-Cloud-Trace-Context", "Content-Encoding", "Expect", "Accept", "Cookie", "Authorization"]
    ),
    st.sampled_from(["true", "gzip", "100-continue", "text/html", "application/json; charset=utf-16"])
    | texts.map(lambda text: "".join(c for c in text if " " <= c <= "\xff" and c != "\x7f")[:7_000]),
    max_size=4,
)  # fmt: skip


def gcp(room: Room, most: int) -> None:
    """POSTs and other methods with any body and headers, and bytes that are no HTTP at all."""
    scene = gcp_scene.Scene()
    try:
        function = scene.function()
        require(function.post({"action": "rotate"}, SCHEDULER).status == 200, "the function serves nothing")
        with _steady(room, "the Cloud Run function", lambda: _family(function._process.pid)):
            _posted(room, scene, function, most - most // 4)
            _raw(room, scene, function, most // 4)
        require(scene.active(), "no key is active any more")
    except Wrong as problem:
        room.violation(f"gcp: {problem}")
    finally:
        scene.close()


def _posted(room: Room, scene: gcp_scene.Scene, function: ServedFunction, most: int) -> None:
    methods = st.sampled_from(
        ["POST"] * 12 + ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "A" * 300]
    )
    count = 0

    def check(example: tuple[str, bytes, dict[str, str], bool]) -> None:
        nonlocal count
        method, body, headers, in_chunks = example
        writes, count = _writes(scene), count + 1
        sent = [body[: len(body) // 2], body[len(body) // 2 :]] if in_chunks else body
        told = {name: text.encode("latin-1") for name, text in headers.items()}
        reply = function.ask(method, sent, told)  # type: ignore[arg-type]  # bytes are what http.client sends them as
        require(200 <= reply.status < 600 or reply.status == 0, f"status {reply.status}")
        require(reply.status != 0 or method != "POST", "the connection was broken off")
        _bounded(json.dumps(reply.body), "the answer")
        _bounded(reply.stderr[:1_000] if "Traceback" not in reply.stderr else reply.stderr, "standard error")
        if 400 <= reply.status < 500:
            require(_writes(scene) == writes, f"a refused request ({reply.status}) has written something")
        if count % 25 == 0:
            require(function.post(GOOD).status == 200, "a good request is not served any more")

    pairs = st.tuples(methods, _bodies("gcp"), _HEADERS, st.booleans())
    tried(room, "a request to Cloud Run", pairs, check, most=most, shrinks=False)


def _writes(scene: gcp_scene.Scene) -> int:
    return sum(call.rpc in ("AddSecretVersion", "CreateSecret", "UpdateSecret") for call in scene.calls)


_LINES = (
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n" + b'{"action": "plan"}',
    b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n{"action": "plan"}\r\n0\r\n\r\n',
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nxx\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nffffffffffffffffff\r\nx",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{}",
    b"POST / HTTP/1.0\r\n\r\n",
    b"POST /%00%ff/../..?a=%zz HTTP/1.1\r\nHost: \xff\r\nContent-Length: 2\r\n\r\n{}",
    b"GET " + b"/" * 9_000 + b" HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"Content-Length: 2\r\n\r\n{}",
    b"POST / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


def _raw(room: Room, scene: gcp_scene.Scene, function: ServedFunction, most: int) -> None:
    count = 0

    def check(example: bytes) -> None:
        nonlocal count
        writes, count = _writes(scene), count + 1
        told = _exchanged(function.port, example)
        _bounded(told.decode("latin-1"), "the answer")
        _out, err = function.written()
        _bounded(err[:1_000] if "Traceback" not in err else err, "standard error")
        require(_writes(scene) == writes, "bytes that are no request of ours have written something")
        if count % 10 == 0:
            require(function.post(GOOD).status == 200, "a good request is not served any more")

    raw = st.sampled_from(_LINES) | st.builds(cut, st.sampled_from(_LINES), cuts) | st.binary(min_size=1, max_size=60)
    tried(room, "bytes to Cloud Run", raw, check, most=most, shrinks=False)


def _exchanged(port: int, sent: bytes) -> bytes:
    """What comes back, once no more is sent."""
    told = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            told += piece
    return told


# --- Azure Functions


def azure(room: Room, most: int) -> None:
    """Bodies, as the worker hands them on, and ticks in between."""
    scene = azure_scene.Scene()
    try:
        require(scene.app.timer("tick").ok, "the function serves nothing")
        with _steady(room, "the Azure function", lambda: [scene.app._process.pid]):
            _to_azure(room, scene, most)
    except Wrong as problem:
        room.violation(f"azure: {problem}")
    finally:
        scene.close()


def _to_azure(room: Room, scene: azure_scene.Scene, most: int) -> None:
    count = 0

    def check(example: tuple[bytes, str]) -> None:
        nonlocal count
        body, request_id = example
        writes, count = _azure_writes(scene), count + 1
        result = scene.app.http("run", body, request_id)
        require(result.ok, f"the platform records a failure: {result.exception[:300]}")
        require(result.status in (200, 400, 413, 500), f"status {result.status}")
        _bounded(json.dumps(result.body), "the answer")
        require(not any("Traceback" in line for line in result.lines), "a traceback is in the log")
        if 400 <= result.status < 500:
            require(_azure_writes(scene) == writes, f"a refused request ({result.status}) has written something")
        if count % 25 == 0:
            require(scene.app.http("run", as_json(GOOD)).status == 200, "a good request is not served any more")
            require(scene.app.timer("tick", past_due=count % 2 == 0).ok, "a tick fails")

    pairs = st.tuples(_bodies("azure"), st.sampled_from(["", "a-request"]))
    tried(room, "a request to Azure", pairs, check, most=most, shrinks=False)


def _azure_writes(scene: azure_scene.Scene) -> int:
    return sum(call.action in ("setSecret", "update") for call in scene.calls)


# --- Lambda


def aws(room: Room, most: int) -> None:
    """Events: any JSON, which is what Lambda lets through."""
    scene = aws_scene.Scene()
    try:
        function = scene.function()
        require(function.invoke({"action": "rotate"}).kind is Kind.RESPONSE, "the function serves nothing")
        with _steady(room, "the Lambda function", lambda: _lambda_process(function)):
            _to_lambda(room, scene, function, most)
    except Wrong as problem:
        room.violation(f"aws: {problem}")
    finally:
        scene.close()


def _lambda_process(function: Any) -> list[int]:
    return [function._process._popen.pid]


_OURS = {"ConfigurationError", "RunFailedError", "NotFoundError", "RefusedError"}


def _to_lambda(room: Room, scene: aws_scene.Scene, function: Any, most: int) -> None:
    count = 0

    def check(event: Any) -> None:
        nonlocal count
        body, count = json.loads(as_json(event)), count + 1
        scene.gate.forget()
        result = function.invoke(body)
        require(result.kind in (Kind.RESPONSE, Kind.ERROR), f"the process {result.kind}")
        require(not result.cold, "the process had died")
        if result.kind is Kind.ERROR:
            require(
                result.payload["errorType"] in _OURS,
                f"{result.payload['errorType']}: {result.payload['errorMessage'][:300]}",
            )
            _bounded(result.payload["errorMessage"], "the error")
        else:
            _bounded(json.dumps(result.payload), "the answer")
        if result.kind is Kind.ERROR and result.payload["errorType"] == "ConfigurationError":
            written = [each for each in scene.gate.requests if each.writes]
            require(not written, f"a refused event has written {written[:3]}")
        if count % 25 == 0:
            require(function.invoke(GOOD).kind is Kind.RESPONSE, "a good event is not served any more")

    tried(room, "an event to Lambda", _documents("aws").filter(_is_json), check, most=most, shrinks=False)


def _is_json(event: Any) -> bool:
    """False of what only Python's json writes and reads: NaN and the infinities."""
    try:
        json.dumps(event, allow_nan=False)
    except ValueError:
        return False
    return True


__all__ = ["aws", "azure", "events", "gcp", "parsed", "watched"]
