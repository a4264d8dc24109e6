"""An Azure Functions app on this machine: Microsoft's own worker library, driven as the host would, in a process.

    with FunctionApp(folder, settings) as app:
        app.functions["tick"]["bindings"]
        result = app.timer("tick", past_due=True)
        result = app.http("run", b'{"action": "plan"}')

The process works in the bundle's folder with an environment of its own, and can import the bundle, its packages and
the worker library: nothing of the environment that runs the tests. Not here: host.json, whether the schedule is
valid, singleton locks, keys. Pauses between the tries of a tick are counted, not slept.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

TOOLS = Path(__file__).resolve().parents[2] / ".venv" / "tools"
CHILD = Path(__file__).with_name("azure_worker_child.py")
PACKAGES = Path(".python_packages", "lib", "site-packages")


class Result(NamedTuple):
    """What came of one invocation."""

    ok: bool
    """What the platform records: its alarms look at this."""
    exception: str
    status: int
    """Of a reply over HTTP; 0 for a timer."""
    body: Any
    """The decoded JSON of that reply."""
    lines: tuple[str, ...]
    """What the worker would hand to Application Insights."""
    pauses: tuple[float, ...]

    def told(self) -> list[dict[str, Any]]:
        """The log's lines of JSON."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]


class FunctionApp:
    """One process of the worker with one app. `functions` is what was indexed: bindings by function."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        (worker,) = TOOLS.glob("azure-worker/lib/python*/site-packages")
        path = os.pathsep.join(map(str, (folder, folder / PACKAGES, worker)))
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        self._process = subprocess.Popen(  # our own words
            [sys.executable, "-I", "-B", str(CHILD), path, str(folder)],
            cwd=folder,
            env=inherited | {"FUNCTIONS_WORKER_RUNTIME": "python", **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.functions: dict[str, Any] = self._ask({"do": "index"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def timer(self, name: str, *, past_due: bool = False) -> Result:
        """A tick."""
        return self._result({"do": "timer", "name": name, "past_due": past_due})

    def http(self, name: str, body: bytes, invocation: str = "") -> Result:
        """A request, as the host hands it on: with a key that was good."""
        return self._result({"do": "http", "name": name, "body": body.decode("latin-1"), "invocation": invocation})

    def _result(self, asked: Mapping[str, Any]) -> Result:
        told = self._ask(asked)
        try:
            body = json.loads(told["body"]) if told["body"] else None
        except ValueError:
            body = told["body"]
        return Result(told["ok"], told["exception"], told["status"], body, tuple(told["lines"]), tuple(told["pauses"]))

    def _ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise AssertionError("all three are pipes")
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended: {process.stderr.read()}")
        told: dict[str, Any] = json.loads(line)
        return told
