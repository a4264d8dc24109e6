"""`--help` and shell completion: every example that is shown works, and every key can be completed."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from daena_kms.cli import cli
from tests.support.backups import Identity

from .sandbox import BILLING, COMMAND, KEY, YOUNG, Sandbox, environment_with

COMMANDS = sorted(cli.commands)
# The specification's commands, so that one that goes missing is missed here.
SPECIFIED = {
    "rotate", "plan", "status", "create", "import", "get", "history", "verify", "rollback", "compromised", "destroy",
    "disable", "doctor", "enable", "pause", "resume", "adopt", "repair", "init", "completion", "cost",
    "schedules", "backup",
}  # fmt: skip
RECIPIENT = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"  # an example of age's specification
WITHOUT_JSON = {"completion"}
_EXAMPLE = re.compile(r"^ +(?P<line>(?:\S.*\| )?daena-key-rotate(?: \S+)*)(?: {2,}.*)?$", re.MULTILINE)


def help_of(*command: str) -> str:
    """A command's help text, from its own source, not wrapped."""
    found: click.Command = cli
    for name in command:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found.help or ""


EXAMPLES = [
    pytest.param(found["line"], id=found["line"])
    for command in ((), *((name,) for name in COMMANDS))
    for found in _EXAMPLE.finditer(help_of(*command))
]


def test_every_specified_command_is_there() -> None:
    assert set(COMMANDS) >= SPECIFIED


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_works_without_policy_vault_or_settings(tmp_path: Path, command: str, flag: str) -> None:
    box = Sandbox(tmp_path / "work", policy="not a policy")
    before = box.digest()
    result = box.done(command, flag, DAENA_NONSENSE="1")
    assert result.out.startswith(f"Usage: daena-key-rotate {command} ")
    assert result.err == ""
    assert box.digest() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json(empty: Sandbox, command: str) -> None:
    assert ("--json" in empty.done(command, "--help").out) == (command not in WITHOUT_JSON)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_for(command: str) -> None:
    for parameter in cli.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command} {parameter.opts[0]}"


def test_the_list_of_commands_says_what_each_does(empty: Sandbox) -> None:
    listed = empty.done("--help").out.partition("Commands:")[2]
    for command in COMMANDS:
        (line,) = [line for line in listed.splitlines() if line.split()[:1] == [command]]
        assert len(line.split()) > 2


def test_help_fits_a_terminal(empty: Sandbox) -> None:
    for command in COMMANDS:
        for line in empty.done(command, "--help").out.splitlines():
            assert len(line) <= 110, line


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_works_as_it_stands(box: Sandbox, line: str) -> None:
    """Run by a shell, in a vault that has what the example names; only what stands for a value is filled in."""
    box.write_policy(f"[keys.{KEY}]\ncreate = true\n[keys.{YOUNG}]\n")
    if "import" in line:
        _forget(box)
    (box.folder / "billing.key").write_bytes(bytes(range(32)))
    (box.folder / "people.txt").write_text(f"{RECIPIENT}\n")
    for place in ("cloud", "old"):
        box.done("init", DAENA_HOME=place)
        (box.folder / f"{place}.env").write_text(f"DAENA_HOME={place}\n")
    if "keys.age --identity" in line:
        identity = Identity(box.folder)
        identity.file.rename(box.folder / "id.txt")
        box.done("backup", "--to", "keys.age", "--recipient", identity.recipient)
    public_key = box.done("init", "--json").json["public_key"]
    line = line.replace("age1...", RECIPIENT)
    line = line.replace("/evidence/manifests", str(box.home / "manifests")).replace("0f3c...", public_key)
    if "openssl" in line and shutil.which("openssl") is None:
        line = line.replace("openssl rand 32", "head -c 32 /dev/urandom")
    path = f"{COMMAND.parent}:{environment_with({})['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=box.folder,
        env=environment_with({"PATH": path}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def _forget(box: Sandbox) -> None:
    """A vault without keys: what is imported must be new."""
    shutil.rmtree(box.home)
    box.done("init")


@pytest.mark.parametrize("arguments", [["--version"]])
def test_version(empty: Sandbox, arguments: list[str]) -> None:
    assert re.fullmatch(r"daena-key-rotate, version \d+\.\d+\.\d+\n", empty.done(*arguments).out)


# --- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script(empty: Sandbox, shell: str) -> None:
    script = empty.done("completion", shell).out
    assert f"_DAENA_KEY_ROTATE_COMPLETE={shell}_complete" in script
    checker = shutil.which(shell)
    if checker is not None:
        checked = subprocess.run([checker, "-n"], input=script, capture_output=True, text=True, check=False)
        assert checked.stderr == ""


def complete(box: Sandbox, words: str, **environment: str) -> list[str]:
    """What bash would offer for the last of `words`."""
    result = box.run(
        _DAENA_KEY_ROTATE_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(shlex.split(words)) - (not words.endswith(" "))),
        **environment,
    )
    assert result.status == 0
    assert result.err == ""
    return [line.partition(",")[2] for line in result.out.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        pytest.param("daena-key-rotate get bil", [BILLING], id="a-key"),
        pytest.param("daena-key-rotate get ", [BILLING, KEY, YOUNG], id="every-key"),
        pytest.param(f"daena-key-rotate rotate {KEY} bil", [BILLING], id="one-more-key"),
        pytest.param("daena-key-rotate destroy ses", [YOUNG], id="destroy"),
        pytest.param("daena-key-rotate history no-such", [], id="none"),
        pytest.param("daena-key-rotate comp", ["completion", "compromised"], id="a-command"),
        pytest.param("daena-key-rotate rotate --dr", ["--dry-run"], id="an-option"),
        pytest.param("daena-key-rotate get --encoding h", ["hex"], id="a-choice"),
    ],
)
def test_completing(box: Sandbox, words: str, offered: list[str]) -> None:
    assert sorted(complete(box, words)) == sorted(offered)


@pytest.mark.parametrize(
    ("policy", "environment"),
    [
        pytest.param("not a policy", {}, id="bad-policy"),
        pytest.param("[keys.a]\n", {"DAENA_NONSENSE": "1"}, id="bad-setting"),
        pytest.param("[keys.a]\n", {"DAENA_POLICY": "/nowhere/at/all"}, id="no-policy"),
        pytest.param("[keys.a]\n", {"DAENA_TICK_MINUTES": "9" * 5000}, id="absurd-setting"),
    ],
)
def test_completing_is_silent_where_nothing_can_be_known(
    tmp_path: Path, policy: str, environment: dict[str, str]
) -> None:
    box = Sandbox(tmp_path / "work", policy=policy)
    assert complete(box, "daena-key-rotate get ", **environment) == []


def test_completing_opens_no_vault(empty: Sandbox) -> None:
    before = empty.digest()
    assert complete(empty, "daena-key-rotate get ") == [KEY, BILLING, YOUNG]
    assert empty.digest() == before


def test_completion_in_a_real_shell(box: Sandbox) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    script = (
        'eval "$(daena-key-rotate completion bash)"\n'
        "COMP_WORDS=(daena-key-rotate get bil); COMP_CWORD=2\n"
        "_daena_key_rotate_completion daena-key-rotate\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    path = f"{COMMAND.parent}:{environment_with({})['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        cwd=box.folder,
        env=environment_with({"PATH": path}),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout == f"{BILLING}\n", done.stderr
