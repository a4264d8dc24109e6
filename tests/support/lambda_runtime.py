"""AWS Lambda on this machine: its Runtime API on loopback, and Amazon's own runtime client (awslambdaric) in a process.

    with Function(bundle, "handler.lambda_handler", settings) as function:
        result = function.invoke({"action": "rotate"})

As in Lambda, one process answers one event after another (warm); it is killed where an event's deadline passes, and
after that, or after its death, the next event starts another (cold). It works in the bundle's folder with an
environment of its own, and can import the standard library, the bundle, its layers and the runtime client: nothing of
the environment that runs the tests. Warnings are errors in it.

Not here: freezing between events, memory limits, retries of asynchronous events, extensions, SnapStart.

Sources: AWS Lambda developer guide, "Using the Lambda runtime API for custom runtimes", "Understanding the Lambda
execution environment lifecycle", "Defined runtime environment variables"; awslambdaric itself.
"""

import atexit
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, NamedTuple, Self

RUNTIME_CLIENT = "awslambdaric"
NAME = "rotate"
ARN = f"arn:aws:lambda:eu-west-1:123456789012:function:{NAME}"
PATIENCE_SECONDS = 60.0
"""A process that says nothing for so long, its deadline far away, hangs: that is the test's failure, not a result."""
_API = "/2018-06-01/runtime"


class Kind(StrEnum):
    """How an event ended."""

    RESPONSE = "response"
    ERROR = "error"
    """The handler raised, or could not be imported."""
    TIMEOUT = "timeout"
    """The deadline passed; the process was killed."""
    DIED = "died"


class Result(NamedTuple):
    """What came of one event."""

    kind: Kind
    payload: Any
    """What the handler returned, or `errorType`, `errorMessage` and `stackTrace`, decoded; None if there is none."""
    cold: bool
    """True if a process was started for the event. What it wrote at its start is in the two below as well."""
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output, which must be JSON, line by line: what CloudWatch shows."""
        return [json.loads(line) for line in self.stdout.split("\n") if line]

    @property
    def everything(self) -> str:
        """All that left the process."""
        return self.stdout + self.stderr + json.dumps(self.payload, ensure_ascii=False)


class Event(NamedTuple):
    """One event on its way to the process."""

    body: bytes
    request_id: str
    seconds: float


class _News(NamedTuple):
    """What is heard from a process. Without a kind: it took an event."""

    kind: Kind | None
    payload: Any = None


class Function:
    """One Lambda function. At most one process at a time, so one event at a time."""

    def __init__(self, bundle: Path, handler: str, environment: Mapping[str, str], layers: Sequence[Path] = ()) -> None:
        self._bundle = bundle
        self._handler = handler
        self._environment = {**_environment(bundle, handler, layers), **environment}
        self._process: _Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def invoke(self, event: object, seconds: float = 900, request_id: str = "") -> Result:
        """Have an event answered. `seconds` is the function's timeout, counted from when the process takes the event.

        `request_id` is a new one if empty. Raises TimeoutError for a process that hangs long before its deadline.
        """
        if self._process is not None and not self._process.alive:
            self.close()
        cold = self._process is None
        process = self._process = self._process or _Process(self._bundle, self._handler, self._environment)
        kind, payload = process.answer(Event(json.dumps(event).encode(), request_id or str(uuid.uuid4()), seconds))
        return Result(kind, payload, cold, *process.written())

    def kill(self) -> None:
        """End the process without a warning (SIGKILL), if there is one. From any thread."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Kill the process and let go of all that it had."""
        process, self._process = self._process, None
        if process is not None:
            process.close()


class _Process:
    """A process of the runtime client, with a Runtime API that it alone talks to."""

    def __init__(self, bundle: Path, handler: str, environment: Mapping[str, str]) -> None:
        self._api = _RuntimeApi()
        # Files, not pipes: what was written before an answer is in them by the time of the answer.
        self._stdout, self._stderr = _Stream(), _Stream()
        self._popen = subprocess.Popen(
            [sys.executable, "-S", "-W", "error", "-m", RUNTIME_CLIENT, handler],
            cwd=bundle,
            env={**environment, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._api.server_port}"},
            stdin=subprocess.DEVNULL,
            stdout=self._stdout.file,
            stderr=self._stderr.file,
        )
        self._threads = (
            threading.Thread(target=self._api.serve_forever, args=(0.01,)),
            threading.Thread(target=self._tell_the_end),
        )
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """True if it can take an event."""
        return self._popen.poll() is None

    def answer(self, event: Event) -> tuple[Kind, Any]:
        """How the event ended. The process is dead afterwards if Lambda would let it take no other."""
        self._api.todo.put(event)
        heard = self._heard(PATIENCE_SECONDS)
        if begun := heard is not None and heard.kind is None:
            heard = self._heard(min(event.seconds, PATIENCE_SECONDS))
        if heard is None or not begun:  # late; or it could not even start
            self.kill()
        if heard is None and not (begun and event.seconds <= PATIENCE_SECONDS):
            raise TimeoutError(f"nothing heard for {PATIENCE_SECONDS} s; it wrote {self.written()}")
        if heard is None or heard.kind is None:
            return Kind.TIMEOUT, None
        return heard.kind, heard.payload

    def _heard(self, seconds: float) -> _News | None:
        try:
            return self._api.news.get(timeout=seconds)
        except Empty:
            return None

    def _tell_the_end(self) -> None:
        self._popen.wait()
        self._api.news.put(_News(Kind.DIED))

    def written(self) -> tuple[str, str]:
        """What was written to standard output and standard error since this was asked last."""
        return self._stdout.read(), self._stderr.read()

    def kill(self) -> None:
        """SIGKILL. It is gone when this returns."""
        self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """Kill it and let go of all that it had."""
        self.kill()
        self._api.todo.put(None)
        self._api.shutdown()
        for thread in self._threads:
            thread.join()
        self._api.server_close()
        self._stdout.file.close()
        self._stderr.file.close()


class _Stream:
    """What a process writes, in a file without a name."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        self._read = 0

    def read(self) -> str:
        """What was added since the last time."""
        descriptor = self.file.fileno()
        # The process shares the file's position: it must stay where it is.
        new = os.pread(descriptor, os.fstat(descriptor).st_size - self._read, self._read)
        self._read += len(new)
        return new.decode("utf-8", "backslashreplace")


class _RuntimeApi(ThreadingHTTPServer):
    """The Runtime API of one process."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.todo: SimpleQueue[Event | None] = SimpleQueue()
        """None: there will be no more."""
        self.news: SimpleQueue[_News] = SimpleQueue()
        self.current = ""
        """The id of the event that the process has."""

    def handle_error(self, request: object, client_address: object) -> None:
        """A process that was killed breaks its connection off; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Request(BaseHTTPRequestHandler):
    """One connection of the runtime client."""

    protocol_version = "HTTP/1.1"
    server: _RuntimeApi

    def handle(self) -> None:
        """Answer until the other side is gone, however it went."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:  # http.server calls it so
        """The next event, whenever there is one."""
        if self.path != f"{_API}/invocation/next":
            return self._reply(404)
        event = self.server.todo.get()
        if event is None:  # the process is no more
            self.close_connection = True
            return None
        self.server.current = event.request_id
        self.server.news.put(_News(None))
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": event.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + event.seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": ARN,
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
        }
        return self._reply(200, event.body, headers)

    def do_POST(self) -> None:
        """What came of an event, or of the start."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
        current = f"{_API}/invocation/{self.server.current}"
        kinds = {
            f"{current}/response": Kind.RESPONSE,
            f"{current}/error": Kind.ERROR,
            f"{_API}/init/error": Kind.ERROR,
        }
        if self.path not in kinds:
            return self._reply(404)
        self.server.news.put(_News(kinds[self.path], body))
        return self._reply(202, b'{"status":"OK"}', {"Content-Type": "application/json"})

    def _reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:  # only read
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _environment(bundle: Path, handler: str, layers: Sequence[Path]) -> dict[str, str]:
    """What Lambda puts into a process's environment; nothing is inherited."""
    runtime = runtime_folder()
    return {
        "_HANDLER": handler,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_NAME": NAME,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_LEVEL": "INFO",
        "LAMBDA_RUNTIME_DIR": str(runtime),
        "LAMBDA_TASK_ROOT": str(bundle),
        "LANG": "en_US.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(map(str, (bundle, *layers, runtime))),
        # The bundle has no compiled files and must not get any; without them each start takes a second longer.
        "PYTHONPYCACHEPREFIX": str(runtime.parent / "compiled"),
        "TZ": ":UTC",
    }


@cache
def runtime_folder() -> Path:
    """Lambda's /var/runtime: the runtime client and what it needs, nothing else of this environment."""
    kept = tempfile.TemporaryDirectory(prefix="lambda-")
    atexit.register(kept.cleanup)
    folder = Path(kept.name, "runtime")
    folder.mkdir()
    return link(folder, *_with_requirements(RUNTIME_CLIENT))


def link(folder: Path, *distributions: str) -> Path:
    """Make packages of this environment, and nothing else of it, importable from `folder`; returns it."""
    for name in distributions:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not top.endswith(".dist-info"):
                (folder / top).symlink_to(str(distribution.locate_file(top)))
    return folder


def _with_requirements(name: str) -> set[str]:
    required = (re.match(r"[\w.-]+", line) for line in metadata.requires(name) or ())
    return {name}.union(*(_with_requirements(found[0]) for found in required if found))
