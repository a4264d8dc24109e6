"""On a terminal: tables, colour, a progress bar, questions. In a pipe: plain lines. Terminals are real: `pty`."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable

import pytest

from .sandbox import BILLING, COMMAND, KEY, TIMEOUT_SECONDS, YOUNG, Sandbox, environment_with

ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TALK_SECONDS = 15
RED, GREEN = f"{ESCAPE}[31m", f"{ESCAPE}[32m"


class Seen:
    """What a person at a terminal saw, and how the command ended."""

    def __init__(self, status: int, raw: str) -> None:
        self.status = status
        self.raw = raw

    @property
    def text(self) -> str:
        """Without escape codes."""
        return CONTROL.sub("", self.raw).replace("\r", "")


def at_terminal(
    box: Sandbox, *arguments: str, answer: str = "", columns: int = 120, stdout: int | None = None, **environment: str
) -> Seen:
    """Run the command on a terminal of its own; type `answer` once it asks. `stdout`: a file in its place."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    child = subprocess.Popen(
        [str(COMMAND), *arguments],
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        cwd=box.folder,
        env=environment_with({"TERM": "xterm-256color", **environment}),
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509  # two system calls
    )
    os.close(theirs)
    try:
        raw = _talk(ours, answer)
        return Seen(child.wait(TIMEOUT_SECONDS), raw)
    finally:
        child.kill()
        os.close(ours)


def _take_terminal() -> None:
    """In the child: ^C on its terminal reaches it, even if whoever runs the tests ignores ^C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _talk(terminal: int, answer: str) -> str:
    seen, deadline = b"", time.monotonic() + TALK_SECONDS
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 1)
        if not ready:
            continue
        with contextlib.suppress(OSError):  # what Linux answers once the other side is closed
            data = os.read(terminal, 1 << 16)
            seen += data
            if answer and b"[y/N]" in seen:
                time.sleep(0.2)  # a person reads first; a key struck before the program waits for it may get lost
                os.write(terminal, answer.encode())
                answer = ""
            if data:
                continue
        return seen.decode()
    raise TimeoutError(seen.decode())


def mistyped(box: Sandbox) -> None:
    """A run has something to show in red."""
    box.write_policy((box.folder / "daena-kms.toml").read_text() + "\n[keys.mistyped]\n")


# --- tables and colour


def test_a_table_with_a_header_on_a_terminal(box: Sandbox) -> None:
    seen = at_terminal(box, "status")
    assert seen.status == 0
    header, *rows = seen.text.splitlines()
    assert header.split() == ["key", "active", "age", "next", "rotation", "versions", "standing"]
    assert [row.split()[0] for row in rows] == [BILLING, KEY, YOUNG]


def test_lines_without_a_header_in_a_pipe(box: Sandbox) -> None:
    result = box.process("status")
    assert [line.split()[0] for line in result.out.splitlines()] == [BILLING, KEY, YOUNG]


@pytest.mark.parametrize("command", [["status"], ["rotate"], ["verify"], ["history", KEY], ["plan"], ["get", KEY]])
def test_no_escape_codes_in_a_pipe(box: Sandbox, command: list[str]) -> None:
    mistyped(box)
    result = box.run(*command)
    assert result.out
    assert ESCAPE not in result.out + result.err


def test_no_escape_codes_in_a_pipe_even_when_the_rest_is_a_terminal(box: Sandbox) -> None:
    mistyped(box)
    with (box.folder / "out").open("wb") as file:
        at_terminal(box, "rotate", "--all", "--force", "--yes", stdout=file.fileno())
    written = (box.folder / "out").read_text()
    assert "rotated" in written
    assert ESCAPE not in written


@pytest.mark.parametrize("forced", [{"FORCE_COLOR": "1"}, {"TERM": "xterm-256color"}], ids=["force-color", "term"])
def test_no_escape_codes_in_a_pipe_whatever_the_environment_says(box: Sandbox, forced: dict[str, str]) -> None:
    mistyped(box)
    result = box.process("rotate", **forced)
    assert "failed" in result.out
    assert ESCAPE not in result.out + result.err


def test_colour_on_a_terminal(box: Sandbox) -> None:
    mistyped(box)
    seen = at_terminal(box, "rotate", "--all", "--force", "--yes")
    assert seen.status == 1
    assert RED in seen.raw
    assert GREEN in seen.raw


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["rotate", "--all", "--force", "--yes"], id="rotate-with-bar"),
        pytest.param(["status"], id="status"),
        pytest.param(["verify"], id="verify"),
    ],
)
def test_no_colour_under_no_color(box: Sandbox, command: list[str]) -> None:
    mistyped(box)
    seen = at_terminal(box, *command, NO_COLOR="1")
    assert BILLING in seen.text
    assert COLOUR.search(seen.raw) is None


def test_an_empty_no_color_is_no_wish(box: Sandbox) -> None:
    """no-color.org: only when it is not an empty string."""
    mistyped(box)
    assert COLOUR.search(at_terminal(box, "rotate", NO_COLOR="").raw)


def test_a_dumb_terminal_gets_plain_lines(box: Sandbox) -> None:
    mistyped(box)
    seen = at_terminal(box, "rotate", "--all", "--force", "--yes", TERM="dumb")
    assert "rotated" in seen.raw
    assert ESCAPE not in seen.raw


@pytest.mark.parametrize("command", [["status"], ["plan"], ["verify"]], ids=["status", "plan", "verify"])
def test_nothing_is_cut_in_a_terminal_of_80_columns(box: Sandbox, command: list[str]) -> None:
    """A name that is cut, or broken over two lines, cannot be copied into the next command."""
    seen = at_terminal(box, *command, columns=80)
    for name in (BILLING, KEY, YOUNG):
        assert name in seen.text
    assert "…" not in seen.text


def test_a_reason_is_shown_not_obeyed(box: Sandbox) -> None:
    """Neither as markup of the table's library nor as codes of the terminal."""
    box.done("pause", KEY, "--reason", "[red]see [link=http://x]x[/] \x1b]0;title\x07\x1b[8m")
    seen = at_terminal(box, "history", KEY)
    assert "[red]see [link=http://x]x[/]" in seen.text
    assert f"{ESCAPE}]0;" not in seen.raw
    assert f"{ESCAPE}[8m" not in seen.raw


def test_json_is_the_same_on_a_terminal(box: Sandbox) -> None:
    seen = at_terminal(box, "verify", "--json")
    assert seen.raw.replace("\r\n", "\n") == box.done("verify", "--json").out


# --- the progress bar


def test_a_progress_bar_while_several_keys_are_rotated(box: Sandbox) -> None:
    seen = at_terminal(box, "rotate", "--all", "--force", "--yes")
    assert "━" in seen.raw
    assert "100%" in seen.raw
    assert seen.text.rstrip().endswith("3 rotated")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["rotate", KEY, "--force", "--yes"], id="for-one-key"),
        pytest.param(["rotate", "--all", "--force", "--dry-run"], id="for-a-dry-run"),
        pytest.param(["status"], id="for-a-look"),
    ],
)
def test_no_progress_bar(box: Sandbox, command: list[str]) -> None:
    assert "━" not in at_terminal(box, *command).raw


def test_the_bar_is_drawn_on_stderr_so_that_output_can_be_kept(box: Sandbox) -> None:
    with (box.folder / "out").open("wb") as file:
        seen = at_terminal(box, "rotate", "--all", "--force", "--yes", "--json", stdout=file.fileno())
    assert "━" in seen.raw
    assert (box.folder / "out").read_text().startswith("{")


# --- questions

ASKING = [
    pytest.param(["destroy", BILLING, "--version", "1"], "can then never be read", id="destroy"),
    pytest.param(["rotate", KEY, "--force"], f"Rotate {KEY} now", id="force-one"),
    pytest.param(["rotate", "--all", "--force"], "Rotate every key now", id="force-all"),
]


@pytest.mark.parametrize(("command", "question"), ASKING)
def test_yes_does_it(box: Sandbox, command: list[str], question: str) -> None:
    before = box.digest()
    seen = at_terminal(box, *command, answer="y\n")
    assert question in seen.text
    assert seen.status == 0
    assert box.digest() != before


@pytest.mark.parametrize(("command", "question"), ASKING)
@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04", "\x03"], ids=["no", "return", "end-of-file", "interrupt"])
def test_anything_else_does_not(box: Sandbox, command: list[str], question: str, answer: str) -> None:
    before = box.digest()
    seen = at_terminal(box, *command, answer=answer)
    assert question in seen.text
    assert seen.status != 0
    assert "stopped" in seen.text
    assert "Traceback" not in seen.text
    assert box.digest() == before


@pytest.mark.parametrize(("command", "question"), ASKING)
def test_with_yes_nobody_is_asked(box: Sandbox, command: list[str], question: str) -> None:
    seen = at_terminal(box, *command, "--yes")
    assert seen.status == 0
    assert question not in seen.text


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["destroy", BILLING, "--version", "1", "--cancel"], id="cancelling-a-destruction"),
        pytest.param(["rotate", "--all", "--force", "--dry-run"], id="a-dry-run"),
    ],
)
def test_what_harms_nothing_does_not_ask(box: Sandbox, command: list[str]) -> None:
    box.done("destroy", BILLING, "--version", "1", "--yes")
    seen = at_terminal(box, *command)
    assert seen.status == 0
    assert "[y/N]" not in seen.text


def test_an_answer_in_a_pipe_is_no_answer(box: Sandbox) -> None:
    """`yes | daena-key-rotate destroy …` is somebody else's yes."""
    before = box.digest()
    result = box.process("destroy", BILLING, "--version", "1", stdin="y\n")
    assert result.status == 2
    assert "--yes" in result.err
    assert box.digest() == before


ON_BOTH: list[Callable[[Sandbox], str]] = [
    lambda box: box.process("get", "no-such-key").err,
    lambda box: at_terminal(box, "get", "no-such-key").text,
]


@pytest.mark.parametrize("shown", ON_BOTH, ids=["pipe", "terminal"])
def test_an_error_reads_the_same_everywhere(box: Sandbox, shown: Callable[[Sandbox], str]) -> None:
    assert shown(box) == "error: there is no key no-such-key\nhint: see `status` for the keys there are\n"
