"""The guide's commands: its flags on `daena-key-rotate`, and `python Tools/daena_key_rotate.py`."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from daena_kms.cli import cli
from daena_kms.commands.guide_flags import COMMANDS, NEED_A_CLOUD, translate
from daena_kms.errors import ConfigurationError
from tests.support.kms_scene import enter

from .sandbox import COMMAND, KEY, Sandbox, environment_with

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "Tools" / "daena_key_rotate.py"
NAMES = {"doctor", "rotate", "backup", "migrate", "verify", "status"}


def translated(*arguments: str, provider: str = "aws") -> list[str]:
    return translate(arguments, NAMES, lambda: provider)


def never() -> str:
    raise AssertionError("nobody needs to know the provider")


# --- arguments in, arguments out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--test-cloud-kms", "doctor"),
        ("--cloud-kms", "rotate"),
        ("--backup", "backup"),
        ("--migrate-to-cloud", "migrate"),
        ("--verify-cloud-kms", "verify"),
        ("--backup --to keys.age", "backup --to keys.age"),
        ("--to keys.age --backup", "backup --to keys.age"),
        ("--cloud-kms --json", "rotate --json"),
        ("--json --cloud-kms", "rotate --json"),
        ("--cloud-kms a-key --force --yes", "rotate a-key --force --yes"),
        ("a-key --cloud-kms", "rotate a-key"),
        ("-v --cloud-kms", "-v rotate"),
        ("--cloud-kms -v --json", "-v rotate --json"),
        ("--cloud-kms --verbose", "--verbose rotate"),
        ("--cloud-kms --reason verify", "rotate --reason verify"),
        ("--cloud-kms -- --backup", "rotate -- --backup"),
    ],
)
def test_a_flag_is_its_command(arguments: str, expected: str) -> None:
    assert translated(*arguments.split()) == expected.split()


UNTOUCHED = ["", "rotate", "rotate --json", "--help", "-v status", "a -- --cloud-kms", "--no"]
A_COMMANDS_OWN = ["rotate --cloud-kms", "verify --backup keys.age", "-v status --json --backup"]


@pytest.mark.parametrize("arguments", [*UNTOUCHED, *A_COMMANDS_OWN])
def test_what_has_no_flag_is_left_as_it_is(arguments: str) -> None:
    assert translate(arguments.split(), NAMES, never) == arguments.split()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--cloud-kms --backup", "--cloud-kms and --backup"),
        ("--backup --backup", "one at a time"),
        ("--cloud-kms rotate", "leave it or `rotate` out"),
        ("--backup a-key verify", "leave it or `verify` out"),
        ("--cloud-kms -v rotate", "leave it or `rotate` out"),
    ],
)
def test_two_commands_are_one_too_many(arguments: str, told: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        translate(arguments.split(), NAMES, never)
    assert told in caught.value.message


@pytest.mark.parametrize("flag", sorted(NEED_A_CLOUD))
def test_who_asks_for_the_cloud_has_to_configure_one(flag: str) -> None:
    with pytest.raises(ConfigurationError, match="none is configured") as caught:
        translated(flag, provider="local")
    assert "DAENA_CLOUD_KMS_PROVIDER" in caught.value.hint
    assert translated(flag, "--help", provider="local") == [COMMANDS[flag], "--help"]


def test_a_backup_is_made_of_the_vault_as_well() -> None:
    assert translate(["--backup"], NAMES, never) == ["backup"]


# --- the command


def test_every_flag_is_a_command_that_there_is() -> None:
    assert set(COMMANDS.values()) <= set(cli.commands)


def test_help_names_every_flag(empty: Sandbox) -> None:
    told = empty.done("--help").out
    assert [flag for flag in COMMANDS if flag not in told] == []
    assert max(map(len, told.splitlines())) <= 110


@pytest.mark.parametrize("flag", COMMANDS)
def test_the_help_of_a_flag_is_its_commands(empty: Sandbox, flag: str) -> None:
    assert empty.done(flag, "--help").out == empty.done(COMMANDS[flag], "--help").out


@pytest.mark.parametrize(
    ("arguments", "status", "kind"),
    [
        ("--cloud-kms --json", 2, "ConfigurationError"),
        ("--cloud-kms --backup --json", 2, "UsageError"),
        ("verify --verify-cloud-kms --json", 2, "UsageError"),
        ("status --backup --json", 2, "UsageError"),
        ("--cloud-kms rotate --json", 2, "UsageError"),
    ],
)
def test_a_refusal_is_a_document_too(empty: Sandbox, arguments: str, status: int, kind: str) -> None:
    result = empty.run(*arguments.split())
    assert (result.status, result.json["error"]["kind"]) == (status, kind)
    assert not empty.home.exists()


def test_settings_that_cannot_be_read_are_told(empty: Sandbox) -> None:
    result = empty.run("--cloud-kms", DAENA_CLOUD_KMS_PROVIDER="ibm")
    assert result.status == 2
    assert "DAENA_CLOUD_KMS_PROVIDER: 'ibm' is no provider" in result.err


@pytest.mark.parametrize("provider", ["aws", "azure", "gcp"])
def test_rotating_and_verifying_in_a_cloud(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's cron line, and the last step of its migration."""
    enter(provider, tmp_path, monkeypatch)
    (tmp_path / "daena-kms.toml").write_text(f"[keys.{KEY}]\ncreate = true\n")
    rotated = subprocess.run([sys.executable, LAUNCHER, "--cloud-kms"], capture_output=True, text=True, check=False)
    assert rotated.returncode == 0, rotated.stderr
    assert f"{KEY}  created" in rotated.stdout
    verified = subprocess.run([COMMAND, "--verify-cloud-kms"], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr
    assert "1 keys, 0 problems" in verified.stdout


# --- the launcher


def test_the_launcher_is_the_command(box: Sandbox) -> None:
    for arguments in (["status"], ["--version"], ["--help"], ["status", "nokey"], ["--cloud-kms"], ["rotate", "--no"]):
        ours = box.process(*arguments)
        done = subprocess.run(
            [sys.executable, LAUNCHER, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=box.folder,
            env=environment_with({}),
        )
        assert (done.returncode, done.stdout, done.stderr) == tuple(ours)


def test_without_the_package_the_launcher_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", LAUNCHER, "status"],  # -S: as if nothing were installed
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the package daena_kms is not installed for ")
    assert "pip install" in done.stderr


def test_the_launcher_changes_no_search_path() -> None:
    assert "sys.path" not in LAUNCHER.read_text()
    assert len(LAUNCHER.read_text().splitlines()) <= 25
