"""`infra/azure/deploy.sh`: what it refuses, what it would do, and what it does, to an account that is a stub."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .bundles import AZURE as TARGET
from .deploying import Machine, make_machine
from .terraform import AZURE, ROOT

SCRIPT = "infra/azure/deploy.sh"
SUBSCRIPTION = "00000000-0000-4000-8000-000000000000"
# Keeps what it was given.
TERRAFORM = """#!/bin/sh
printf '%s\n' "terraform $*" >>"$CALLS"
case "$*" in
    *" apply"*)
        cat "${*##*-var-file=}" >"$CALLS.asked"
        exit "${APPLY_EXIT:-0}" ;;
    *"output -raw "*)
        [ -z "${NO_OUTPUT-}" ] || exit 1
        printf '%s' "the-${*##* }" ;;
esac
"""
VAULT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/x/providers/Microsoft.KeyVault/vaults/"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = make_machine(AZURE, TARGET, "az", ("--subscription", SUBSCRIPTION), tmp_path)
    (made.folder / "stubs" / "terraform").write_text(TERRAFORM)
    return made


def asked(machine: Machine) -> dict[str, str]:
    """What Terraform was given last."""
    read: dict[str, str] = json.loads((machine.folder / "calls.asked").read_text())
    return read


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
    assert "Storage Blob Data Contributor" in shown
    assert machine.calls == []


def test_a_dry_run_needs_no_account_and_no_tools_and_changes_nothing(machine: Machine) -> None:
    done = machine.deployed("--dry-run", tools=False)
    assert done.returncode == 0, done.stderr
    assert "terraform -chdir=infra/azure apply" in done.stdout
    assert "az functionapp deployment source config-zip" in done.stdout
    assert "not on this machine: terraform az" in done.stdout
    assert not machine.variables.exists()
    assert machine.calls == []


def test_a_dry_run_builds_the_archive(machine: Machine) -> None:
    given = ("--policy", str(machine.policy), *machine.needed, "--dry-run")
    done = machine.deploy(*given, HOME=os.environ["HOME"])
    assert done.returncode == 0, done.stderr
    assert machine.archive.stat().st_size > 1_000_000


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
    machine.policy.write_text("[keys.x]\nrotate_after_days = 0\n")
    done = machine.deployed("--yes")
    assert done.returncode == 2
    assert "rotate_after_days" in done.stderr
    assert [call for call in machine.calls if "apply" in call or "upload" in call] == []


@pytest.mark.parametrize("minutes", ["abc", "", "0", "1.5", "-60", "64801", "٣"])
def test_a_tick_that_is_no_number_is_refused_with_what_is_expected(machine: Machine, minutes: str) -> None:
    done = machine.deployed("--yes", "--var", f"tick_minutes={minutes}")
    assert done.returncode == 2
    assert f"tick_minutes {minutes!r}: a whole number from 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert [call for call in machine.calls if "apply" in call] == []


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


def test_the_name_stays_too_and_is_that_of_the_resource_group(machine: Machine) -> None:
    machine.deployed("--yes", "--name", "other")
    done = machine.deployed("--yes")
    assert done.returncode == 0, done.stderr
    assert machine.given["name"] == "other"
    uploads = [call for call in machine.calls if "config-zip" in call]
    assert len(uploads) == 2
    assert all("--resource-group other " in call for call in uploads)


def test_what_did_not_work_is_not_kept(machine: Machine) -> None:
    machine.deployed("--yes")
    before = machine.given
    done = machine.deployed("--yes", "--var", "log_days=1", APPLY_EXIT="1")
    assert done.returncode == 1
    assert machine.given == before
    assert asked(machine)["log_days"] == "1", "Terraform was given it all the same"
    assert list(machine.archive.parent.iterdir()) == [machine.archive]


def test_back_to_the_hourly_schedule_is_back_to_its_tick(machine: Machine) -> None:
    machine.deployed("--yes", "--schedule", "0 0 3 * * *", "--tick-minutes", "1440")
    machine.deployed("--yes", "--email", "a@example.com")
    assert (machine.given["schedule"], machine.given["tick_minutes"]) == ("0 0 3 * * *", "1440")
    machine.deployed("--yes", "--schedule", "0 0 * * * *")
    assert machine.given["tick_minutes"] == asked(machine)["tick_minutes"] == "60"


def test_another_schedule_needs_its_tick_in_whatever_way_it_is_given(machine: Machine) -> None:
    done = machine.deployed("--yes", "--var", "schedule=0 0 3 * * *")
    assert done.returncode == 2
    assert "needs --tick-minutes" in done.stderr


def test_a_value_that_is_empty_on_purpose_is_given(machine: Machine) -> None:
    machine.deployed("--yes", "--var", "key_prefix=")
    assert machine.given["key_prefix"] == asked(machine)["key_prefix"] == ""


def test_without_terraforms_outputs_nothing_is_uploaded(machine: Machine) -> None:
    done = machine.deployed("--yes", NO_OUTPUT="yes")
    assert done.returncode == 1
    assert [call for call in machine.calls if "upload" in call or "config-zip" in call] == []


@pytest.mark.parametrize("change", [["--prefix", "other-"], ["--name", "other"]])
def test_what_would_lose_keys_is_refused(machine: Machine, change: list[str]) -> None:
    machine.deployed("--yes", "--prefix", "team-")
    before = machine.given, len(machine.calls)
    done = machine.deployed("--yes", *change)
    assert done.returncode == 2
    assert "would lose" in done.stderr
    assert machine.given == before[0]
    assert [call for call in machine.calls[before[1] :] if "apply" in call] == []


@pytest.mark.parametrize(
    "change",
    [
        ["--prefix", "team-"],
        ["--name", "other"],
        ["--vault", VAULT + "ours"],
        ["--var", f"key_vault_id={VAULT}ours"],
        ["--var", "key_prefix="],
    ],
)
def test_what_was_left_at_its_default_cannot_be_changed_either(machine: Machine, change: list[str]) -> None:
    machine.deployed("--yes")
    before = len(machine.calls)
    done = machine.deployed("--yes", *change)
    assert done.returncode == 2
    assert "would lose" in done.stderr
    assert [call for call in machine.calls[before:] if "apply" in call] == []


def test_another_vault_is_refused_and_the_same_one_is_taken_in_any_spelling(machine: Machine) -> None:
    machine.deployed("--yes", "--vault", VAULT + "one", "--prefix", "daena-")
    assert machine.deployed("--yes", "--vault", VAULT + "two").returncode == 2
    done = machine.deployed("--yes", "--vault", VAULT + "ONE", "--prefix", "daena-", "--name", "daena-kms")
    assert done.returncode == 0, done.stderr


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
