"""`infra/azure/deploy.sh`: what it refuses, what it would do, and what it does, to an account that is a stub."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from .azure_terraform import ROOT, SOURCE
from .bundles import AZURE, copy_checkout

SCRIPT = "infra/azure/deploy.sh"
SUBSCRIPTION = "00000000-0000-4000-8000-000000000000"
# All that the script may need of a machine. No az, no terraform, nothing else.
COMMANDS = ("cat", "dirname", "env", "grep", "sed", "sh", "tr", "wc")
STUB = """#!/bin/sh
name=${0##*/}
printf '%s\\n' "$name $*" >>"$CALLS"
case "$name $*" in
    "az account show"*) [ -z "${NO_CREDENTIALS-}" ] || exit 1 ;;
    *" apply"*) exit "${APPLY_EXIT:-0}" ;;
    *"output -raw "*) printf '%s' "the-${*##* }" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A checkout with a virtual environment, and a PATH that has little on it."""

    checkout: Path
    folder: Path

    def deploy(self, *options: str, tools: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("AZ", "TERRA", "ARM"))}
        variables |= {"PATH": str(self.folder / "bin"), "CALLS": str(self.folder / "calls")}
        if tools:
            variables |= {
                "AZ": str(self.folder / "stubs" / "az"),
                "TERRAFORM": str(self.folder / "stubs" / "terraform"),
            }
        return subprocess.run(
            [str(self.checkout / SCRIPT), *options],
            cwd=self.folder,
            env=variables | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def deployed(self, *options: str, tools: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        """With what every deployment needs."""
        policy = str(self.checkout / "examples" / "daena-kms.toml")
        return self.deploy(
            "--policy", policy, "--subscription", SUBSCRIPTION, "--no-build", *options, tools=tools, **environment
        )

    @property
    def calls(self) -> list[str]:
        """What the stubs were called with, in order."""
        noted = self.folder / "calls"
        return noted.read_text().splitlines() if noted.exists() else []

    @property
    def given(self) -> dict[str, str]:
        """What Terraform will read."""
        read: dict[str, str] = json.loads((self.checkout / "infra/azure/given.auto.tfvars.json").read_text())
        return read


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    checkout = tmp_path / "a checkout"
    copy_checkout(checkout, AZURE)
    shutil.copytree(SOURCE, checkout / "infra" / "azure", ignore=shutil.ignore_patterns(".terraform*", "given*"))
    shutil.copytree(ROOT / "examples", checkout / "examples")
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    archive = checkout / "build" / "bundles" / "azure.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"built before")
    for folder in ("bin", "stubs"):
        (tmp_path / folder).mkdir()
    for command in COMMANDS:
        found = shutil.which(command)
        assert found, f"{command} is not on this machine"
        (tmp_path / "bin" / command).symlink_to(found)
    for name in ("az", "terraform"):
        stub = tmp_path / "stubs" / name
        stub.write_text(STUB)
        stub.chmod(0o755)
    return Machine(checkout, tmp_path)


def test_a_shell_of_posix_understands_it() -> None:
    assert subprocess.run(["/bin/sh", "-n", str(ROOT / SCRIPT)], check=False).returncode == 0


def test_help_names_every_option(machine: Machine) -> None:
    shown = machine.deploy("--help", tools=False).stdout
    for option in (
        "policy",
        "subscription",
        "name",
        "location",
        "vault",
        "prefix",
        "schedule",
        "tick-minutes",
        "email",
    ):
        assert f"--{option} " in shown
    assert machine.calls == []


def test_a_dry_run_needs_no_account_and_no_tools_and_changes_nothing(machine: Machine) -> None:
    done = machine.deployed("--dry-run", tools=False)
    assert done.returncode == 0, done.stderr
    assert "terraform -chdir=infra/azure apply" in done.stdout
    assert "az functionapp deployment source config-zip" in done.stdout
    assert "not on this machine: terraform az" in done.stdout
    assert not (machine.checkout / "infra/azure/given.auto.tfvars.json").exists()
    assert machine.calls == []


def test_a_dry_run_builds_the_archive(machine: Machine) -> None:
    policy = str(machine.checkout / "examples" / "daena-kms.toml")
    done = machine.deploy("--policy", policy, "--subscription", SUBSCRIPTION, "--dry-run", HOME=os.environ["HOME"])
    assert done.returncode == 0, done.stderr
    assert (machine.checkout / "build" / "bundles" / "azure.zip").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--wat"], "unknown option --wat"),
        (["--name"], "--name needs a value"),
        (["--subscription", "mine"], "--subscription 'mine'"),
        (["--name", "Daena"], "--name 'Daena'"),
        (["--prefix", "daena"], "--prefix 'daena'"),
        (["--schedule", "hourly", "--tick-minutes", "60"], "six fields"),
        (["--schedule", "0 0 3 * * *"], "needs --tick-minutes"),
        (["--tick-minutes", "0"], "--tick-minutes '0'"),
        (["--email", "me"], "is no address"),
        (["--public-key", "ab"], "64 hexadecimal digits"),
        (["--var", "wat=1"], "infra/azure has subscription_id name"),
        (["--var", "log_days"], "NAME=VALUE expected"),
        (["--policy", "/none"], "cannot be read"),
    ],
)
def test_bad_input_is_refused_before_anything(machine: Machine, options: list[str], complaint: str) -> None:
    done = machine.deployed("--yes", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert machine.calls == []


def test_everything_that_is_wrong_is_told_at_once(machine: Machine) -> None:
    done = machine.deploy("--name", "A", "--email", "x", tools=False)
    assert done.returncode == 2
    for words in (
        "--subscription",
        "--name 'A'",
        "--email 'x'",
        "--policy is not given",
        "no terminal",
        "terraform az",
    ):
        assert words in done.stderr


def test_a_policy_that_the_function_would_refuse_is_refused_here(machine: Machine) -> None:
    (machine.checkout / "examples" / "daena-kms.toml").write_text("[keys.x]\nrotate_after_days = 0\n")
    done = machine.deployed("--yes")
    assert done.returncode == 2
    assert "rotate_after_days" in done.stderr
    assert [call for call in machine.calls if "apply" in call or "upload" in call] == []


def test_a_deployment(machine: Machine) -> None:
    done = machine.deployed("--yes", "--email", "a@example.com", "--var", "log_days=90")
    assert done.returncode == 0, done.stderr
    assert machine.given == {
        "subscription_id": SUBSCRIPTION, "name": "daena-kms", "alarm_email": "a@example.com", "log_days": "90",
    }  # fmt: skip
    short = [" ".join(call.split()[:4]) for call in machine.calls if "output" not in call.split()[:4]]
    assert short == [
        "az account show --subscription",
        "terraform -chdir=infra/azure init -input=false",
        "terraform -chdir=infra/azure apply -auto-approve",
        "az storage blob upload",
        "az functionapp deployment source",
    ]
    assert "--account-name the-policy_account" in "\n".join(machine.calls)
    assert "the-run_url" in done.stdout


def test_what_is_not_given_stays_as_it_was(machine: Machine) -> None:
    machine.deployed("--yes", "--public-key", "ab" * 32, "--prefix", "team-")
    machine.deployed("--yes", "--email", "a@example.com")
    assert machine.given["public_key"] == "ab" * 32
    assert machine.given["key_prefix"] == "team-"
    assert machine.given["alarm_email"] == "a@example.com"


@pytest.mark.parametrize("change", [["--prefix", "other-"], ["--name", "other"]])
def test_what_would_lose_keys_is_refused(machine: Machine, change: list[str]) -> None:
    machine.deployed("--yes", "--prefix", "team-")
    before = machine.given, len(machine.calls)
    done = machine.deployed("--yes", *change)
    assert done.returncode == 2
    assert "would lose" in done.stderr
    assert machine.given == before[0]
    assert [call for call in machine.calls[before[1] :] if "apply" in call] == []


def test_credentials_that_do_not_work_are_found_first(machine: Machine) -> None:
    done = machine.deployed("--yes", NO_CREDENTIALS="yes")
    assert done.returncode == 2
    assert "az login" in done.stderr
    assert len(machine.calls) == 1


def test_a_deployment_that_fails_uploads_nothing_and_says_so(machine: Machine) -> None:
    done = machine.deployed("--yes", APPLY_EXIT="7")
    assert done.returncode == 7
    assert [call for call in machine.calls if call.startswith("az") and "account show" not in call] == []


def test_a_schedule_that_no_alarm_reaches_is_a_warning(machine: Machine) -> None:
    done = machine.deployed("--dry-run", "--schedule", "0 0 3 1 */3 *", "--tick-minutes", "64800")
    assert "no alarm when runs stay away" in done.stdout
