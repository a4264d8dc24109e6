"""A function on this machine: its bundle served by Google's functions-framework, as Cloud Run serves it.

    with ServedFunction(folder, settings) as function:
        reply = function.post({"action": "rotate"}, SCHEDULER)

The process is `python -m functions_framework`, which is what `functions-framework` is: gunicorn with a worker and
threads. It has an environment of its own and can import the standard library and the bundle: nothing of what runs the
tests. Not here: Cloud Run's front end, which checks who asks, bounds the time of a request, and starts instances.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

SCHEDULER = {
    "Content-Type": "application/json",
    "User-Agent": "Google-Cloud-Scheduler",
    "X-CloudScheduler": "true",
    "X-CloudScheduler-JobName": "daena-kms",
    "X-CloudScheduler-ScheduleTime": "2026-11-24T03:00:00Z",
}
"""What Cloud Scheduler sends along (Google: "Cloud Scheduler overview", "REST Resource: projects.locations.jobs")."""
PATIENCE_SECONDS = 60.0
# gunicorn's own, for which it is asked so that it says where it listens.
_GUNICORN = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[INFO\] .*\n")


class Reply(NamedTuple):
    """What came of one request."""

    status: int
    """0 for a connection that was broken off."""
    headers: Mapping[str, str]
    body: Any
    """The decoded JSON; the text, of a reply that is none."""
    stdout: str
    """What was written since the request before."""
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output, which must be JSON, line by line: what Cloud Logging reads."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def everything(self) -> str:
        """All that left the process."""
        return self.stdout + self.stderr + json.dumps(dict(self.headers)) + json.dumps(self.body, ensure_ascii=False)


class ServedFunction:
    """One instance."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], source: Path | None = None, target: str = "run"
    ) -> None:
        """`source` is another file than the bundle's main.py. It may import that as `main`."""
        source = source or folder / "main.py"
        # Files, not pipes: what was written before an answer is in them by the time of the answer.
        self._stdout, self._stderr = _Stream(), _Stream()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-B", "-m", "functions_framework", "--target", target, "--source", str(source),
             "--host", "127.0.0.1", "--port", "0"],
            cwd=folder,
            env={
                "PATH": os.defpath,
                "HOME": "/nonexistent",
                "LANG": "C.UTF-8",
                "TMPDIR": tempfile.gettempdir(),
                "PYTHONPATH": str(folder),
                "GUNICORN_LOG_LEVEL": "info",
                **settings,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._stdout.file,
            stderr=self._stderr.file,
            start_new_session=True,  # the worker is in its group; and Ctrl-C in a terminal is not for it
        )  # fmt: skip
        try:
            self.port = self._listening()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listening(self) -> int:
        ends, told = time.monotonic() + PATIENCE_SECONDS, ""
        while time.monotonic() < ends and self._process.poll() is None:
            told += self._stderr.read()
            if found := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", told):
                return int(found[1])
            time.sleep(0.02)
        raise RuntimeError(f"the function did not start: {told}{self._stderr.read()}{self._stdout.read()}")

    def post(self, body: object, headers: Mapping[str, str] = {}) -> Reply:  # only read
        """POST that as JSON."""
        return self.ask("POST", json.dumps(body).encode(), {"Content-Type": "application/json", **headers})

    def ask(self, method: str, body: bytes | Iterable[bytes], headers: Mapping[str, str] = {}) -> Reply:  # only read
        """Any request. What is no bytes is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it answers before all was sent
                connection.request(method, "/", body, dict(headers), encode_chunked=not isinstance(body, bytes))
            try:
                response = connection.getresponse()
                content = response.read().decode(errors="replace")  # gunicorn quotes what it refuses
            except (http.client.HTTPException, ConnectionError):
                return Reply(0, {}, "", *self.written())
        try:
            decoded = json.loads(content)
        except ValueError:
            decoded = content
        return Reply(response.status, dict(response.getheaders()), decoded, *self.written())

    def written(self) -> tuple[str, str]:
        """What was written to standard output and standard error since the last time."""
        return self._stdout.read(), _GUNICORN.sub("", self._stderr.read())

    def kill(self) -> None:
        """End it without a warning, its worker with it. From any thread."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Kill it and let go of all that it had."""
        self.kill()
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
