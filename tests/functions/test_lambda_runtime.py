"""Lambda on this machine, with handlers of a few lines: what it does is what tests of real functions rest on."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import lambda_runtime
from tests.support.lambda_runtime import Function, Kind

CODE = """
import logging, os, sys, threading
count = 0

def warm(event, context):
    global count
    count += 1
    print('{"count": %d}' % count)
    return {"count": count, "pid": os.getpid(), "id": context.aws_request_id, "event": event}

def remaining(event, context):
    return context.get_remaining_time_in_millis()

def raises(event, context):
    raise ValueError("an umlaut: ü\\u2028, and a wrong " + event)

def blocks(event, context):
    print('{"blocks": true}')
    threading.Event().wait()

def leaves(event, context):
    os.write(2, b"the last words")
    os._exit(3)

def logs(event, context):
    logging.getLogger("some").info("line %s", 1)
    logging.getLogger("some").debug("not at this level")
    print("to the other stream", file=sys.stderr)

def environment(event, context):
    return [dict(os.environ), sys.path]

def warns(event, context):
    import warnings
    warnings.warn("deprecated", DeprecationWarning)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "tiny.py").write_text(CODE)
    return folder


@pytest.fixture
def run(bundle: Path) -> Iterator["Run"]:
    made = Run(bundle)
    yield made
    for function in made.functions:
        function.close()


class Run:
    """Makes functions, and closes them in the end."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.functions: list[Function] = []

    def __call__(self, handler: str, **environment: str) -> Function:
        self.functions.append(Function(self.bundle, handler, environment))
        return self.functions[-1]


def test_one_process_answers_one_event_after_another(run: Run) -> None:
    function = run("tiny.warm")
    first, second = function.invoke({"umlaut": "ü"}, request_id="id-1"), function.invoke([1, None])
    assert (first.kind, first.cold, first.payload["count"]) == (Kind.RESPONSE, True, 1)
    assert (second.kind, second.cold, second.payload["count"]) == (Kind.RESPONSE, False, 2)
    assert first.payload["pid"] == second.payload["pid"] != os.getpid()
    assert first.payload["event"] == {"umlaut": "ü"}
    assert second.payload["event"] == [1, None]
    assert first.payload["id"] == "id-1" != second.payload["id"]
    assert [result.lines for result in (first, second)] == [[{"count": 1}], [{"count": 2}]]


def test_the_deadline_is_what_the_handler_is_told(run: Run) -> None:
    function = run("tiny.remaining")
    for seconds in (900.0, 60.0):
        left = function.invoke({}, seconds).payload / 1000
        assert seconds - 30 < left <= seconds


def test_an_error_of_the_handler_is_told_and_the_process_stays(run: Run) -> None:
    function = run("tiny.raises")
    first, second = function.invoke("one"), function.invoke("two")
    assert (first.kind, first.payload["errorType"]) == (Kind.ERROR, "ValueError")
    assert first.payload["errorMessage"] == "an umlaut: ü\u2028, and a wrong one"
    assert "tiny.py" in first.payload["stackTrace"][0]
    assert [line["level"] for line in first.lines] == ["ERROR"]
    assert second.payload["errorMessage"].endswith("two")
    assert not second.cold


def test_who_is_late_is_killed_and_the_next_event_starts_another(run: Run) -> None:
    function = run("tiny.blocks")
    for _ in range(2):
        begun = time.monotonic()
        late = function.invoke({}, 0.3)
        assert (late.kind, late.payload, late.cold) == (Kind.TIMEOUT, None, True)
        assert late.lines == [{"blocks": True}]
        assert time.monotonic() - begun >= 0.3


def test_who_dies_is_noticed_at_once(run: Run) -> None:
    function = run("tiny.leaves")
    for _ in range(2):
        died = function.invoke({})
        assert (died.kind, died.payload, died.cold, died.stderr) == (Kind.DIED, None, True, "the last words")


def test_a_kill_from_another_thread_ends_the_event(run: Run) -> None:
    function = run("tiny.blocks")
    killer = threading.Timer(0.3, function.kill)
    killer.start()
    assert function.invoke({}).kind is Kind.DIED
    killer.join()


def test_a_process_that_was_killed_while_idle_is_replaced(run: Run) -> None:
    function = run("tiny.warm")
    assert function.invoke({}).cold
    function.kill()
    assert function.invoke({}).cold


def test_a_process_that_hangs_long_before_its_deadline_fails_the_test(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = run("tiny.blocks")
    monkeypatch.setattr(lambda_runtime, "PATIENCE_SECONDS", 1.0)
    with pytest.raises(TimeoutError, match="blocks"):
        function.invoke({}, 900)


@pytest.mark.parametrize(
    ("handler", "kind", "said"),
    [
        ("missing.handler", "Runtime.ImportModuleError", "No module named 'missing'"),
        ("tiny.missing", "Runtime.HandlerNotFound", "'missing' missing on module 'tiny'"),
        ("broken.handler", "Runtime.UserCodeSyntaxError", "broken.py"),
        ("raises.handler", "ZeroDivisionError", "division"),
    ],
)
def test_what_cannot_be_imported_is_told(run: Run, bundle: Path, handler: str, kind: str, said: str) -> None:
    (bundle / "broken.py").write_text("def :")
    (bundle / "raises.py").write_text("1 / 0")
    function = run(handler)
    for _ in range(2):
        failed = function.invoke({})
        assert (failed.kind, failed.payload["errorType"], failed.cold) == (Kind.ERROR, kind, True)
        assert said in failed.payload["errorMessage"]


def test_both_streams_are_kept_apart(run: Run) -> None:
    said = run("tiny.logs").invoke({})
    assert [(line["level"], line["message"]) for line in said.lines] == [("INFO", "line 1")]
    assert said.stderr == "to the other stream\n"


def test_a_warning_is_an_error(run: Run) -> None:
    assert run("tiny.warns").invoke({}).payload["errorType"] == "DeprecationWarning"


def test_nothing_of_this_environment_can_be_seen_or_imported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "yes")
    environment, path = run("tiny.environment", OURS="1").invoke({}).payload
    assert "CANARY" not in environment
    assert environment["OURS"] == "1"
    ours = [entry for entry in path if entry.startswith(sys.prefix)]
    assert ours == []
    names = {entry.name.partition(".")[0] for entry in lambda_runtime.runtime_folder().iterdir()}
    assert names == {"awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py"}
