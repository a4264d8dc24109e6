"""`infra/gcp/deploy.sh`: what it refuses, what it would do, and what it does, to an account that is a stub."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from infra.bundle import TARGETS

from .deploying import Machine, make_machine
from .terraform import GCP, ROOT

SCRIPT = "infra/gcp/deploy.sh"
PROJECT = "acme-prod-4711"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return make_machine(GCP, TARGETS["gcp"], "gcloud", ("--project", PROJECT), tmp_path)


@pytest.mark.parametrize("shell", ["/bin/sh", "bash"])
def test_every_shell_understands_it(shell: str) -> None:
    assert subprocess.run([shell, "-n", str(ROOT / SCRIPT)], check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not on this machine")
def test_shellcheck_warns_of_nothing() -> None:
    words = ["shellcheck", "--severity=warning", str(ROOT / SCRIPT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_help_names_every_option(machine: Machine) -> None:
    shown = machine.deploy("--help", tools=False).stdout
    for option in (
        "policy", "project", "name", "region", "prefix", "schedule", "tick-minutes", "email", "public-key", "var",
    ):  # fmt: skip
        assert f"--{option} " in shown
    assert machine.calls == []


def test_a_dry_run_needs_no_account_and_no_tools_and_changes_nothing(machine: Machine) -> None:
    done = machine.deployed("--dry-run", tools=False)
    assert done.returncode == 0, done.stderr
    assert "terraform -chdir=infra/gcp apply" in done.stdout
    assert "gcloud services enable cloudresourcemanager.googleapis.com" in done.stdout
    assert "not on this machine: terraform gcloud" in done.stdout
    assert not machine.variables.exists()
    assert machine.calls == []


def test_a_dry_run_builds_the_archive(machine: Machine) -> None:
    given = ("--policy", str(machine.policy), *machine.needed, "--dry-run")
    done = machine.deploy(*given, HOME=os.environ["HOME"])
    assert done.returncode == 0, done.stderr
    assert machine.archive.read_bytes().startswith(b"PK")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--wat"], "unknown option --wat"),
        (["--name"], "--name needs a value"),
        (["--project", "4711"], "--project '4711'"),
        (["--project", "acme\nprod-x"], "--project"),
        (["--name", "Daena"], "--name 'Daena'"),
        (["--region", "europe"], "--region 'europe'"),
        (["--prefix", "daena"], "--prefix 'daena'"),
        (["--prefix", "reserved-x-"], "not reserved-..."),
        (["--schedule", "hourly", "--tick-minutes", "60"], "five fields"),
        (["--schedule", "0 0 3 * * *", "--tick-minutes", "60"], "five fields"),
        (["--schedule", "0 3 * * *"], "needs --tick-minutes"),
        (["--tick-minutes", "0"], "--tick-minutes '0'"),
        (["--email", "me"], "is no address"),
        (["--public-key", "ab"], "64 hexadecimal digits"),
        (["--var", "wat=1"], "infra/gcp has project_id name"),
        (["--var", "retention_days"], "NAME=VALUE expected"),
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
        "--project ''", "--name 'A'", "--email 'x'", "--policy is not given", "no terminal", "terraform gcloud",
    ):  # fmt: skip
        assert words in done.stderr


def test_a_policy_that_the_function_would_refuse_is_refused_here(machine: Machine) -> None:
    machine.policy.write_text("[keys.x]\nrotate_after_days = 0\n")
    done = machine.deployed("--yes")
    assert done.returncode == 2
    assert "rotate_after_days" in done.stderr
    assert [call for call in machine.calls if "apply" in call or "enable" in call] == []


def test_a_list_that_is_no_json_is_refused(machine: Machine) -> None:
    done = machine.deployed("--yes", "--var", "readers=[app]")
    assert done.returncode == 2
    assert "no list in JSON" in done.stderr
    assert not machine.variables.exists()


def test_a_deployment(machine: Machine) -> None:
    reader = "serviceAccount:app@acme-prod-4711.iam.gserviceaccount.com"
    done = machine.deployed("--yes", "--email", "a@example.com", "--var", f'readers=["{reader}"]')
    assert done.returncode == 0, done.stderr
    assert machine.given == {
        "project_id": PROJECT, "name": "daena-kms", "region": "europe-west1", "key_prefix": "daena-",
        "alarm_email": "a@example.com", "readers": [reader], "policy_file": str(machine.policy),
    }  # fmt: skip
    assert [" ".join(call.split()[:4]) for call in machine.calls if "output" not in call.split()[:4]] == [
        "gcloud projects describe acme-prod-4711",
        "gcloud auth application-default print-access-token",
        "terraform -chdir=infra/gcp init -input=false",
        "gcloud services enable cloudresourcemanager.googleapis.com",
        "terraform -chdir=infra/gcp apply -auto-approve",
    ]


def test_how_to_run_it_by_hand_is_told(machine: Machine) -> None:
    shown = machine.deployed("--yes", "--region", "europe-north1").stdout
    assert f"gcloud scheduler jobs run the-job --project {PROJECT} --location europe-north1" in shown
    assert "Force run" in shown
    assert 'curl --fail-with-body -H "Authorization: Bearer $(gcloud auth print-identity-token)"' in shown
    assert "the-run_url" in shown
    assert "the-reader_role" in shown
    named = re.findall(r"@(functions/\S+\.json)", shown)
    assert named
    assert all((ROOT / file).is_file() for file in named)


def test_what_is_not_given_stays_as_it_was(machine: Machine) -> None:
    machine.deployed("--yes", "--public-key", "ab" * 32, "--prefix", "team-", "--region", "europe-west4")
    done = machine.deployed("--yes", "--email", "a@example.com")
    assert done.returncode == 0, done.stderr
    assert machine.given["public_key"] == "ab" * 32
    assert machine.given["key_prefix"] == "team-"
    assert machine.given["alarm_email"] == "a@example.com"
    assert "--location europe-west4" in done.stdout


def test_the_name_that_was_given_stays(machine: Machine) -> None:
    machine.deployed("--yes", "--name", "keys")
    done = machine.deployed("--yes", "--email", "a@example.com")
    assert done.returncode == 0, done.stderr
    assert machine.given["name"] == "keys"
    assert "infra/gcp/deploy.sh --project acme-prod-4711 --name keys" in done.stdout


def test_a_schedule_goes_with_its_tick(machine: Machine) -> None:
    assert machine.deployed("--yes", "--schedule", "30 3 * * *", "--tick-minutes", "1440").returncode == 0
    assert machine.deployed("--yes", "--schedule", "0 * * * *").returncode == 0
    assert machine.given["tick_minutes"] == "60"
    done = machine.deployed("--yes", "--var", "schedule=30 3 * * *")
    assert done.returncode == 2
    assert "needs --tick-minutes" in done.stderr


@pytest.mark.parametrize(
    "change",
    [["--prefix", "other-"], ["--name", "other"], ["--project", "acme-test-1"], ["--region", "europe-west4"]],
)
def test_what_would_lose_keys_is_refused(machine: Machine, change: list[str]) -> None:
    machine.deployed("--yes")
    before = machine.given, len(machine.calls)
    done = machine.deployed("--yes", *change)
    assert done.returncode == 2
    assert "would lose" in done.stderr
    assert machine.given == before[0]
    assert [call for call in machine.calls[before[1] :] if "apply" in call] == []


@pytest.mark.parametrize(
    ("missing", "advice"),
    [("NO_CREDENTIALS", "gcloud auth login"), ("NO_DEFAULT_CREDENTIALS", "gcloud auth application-default login")],
)
def test_credentials_that_do_not_work_are_found_first(machine: Machine, missing: str, advice: str) -> None:
    done = machine.deployed("--yes", tools=True, **{missing: "yes"})
    assert done.returncode == 2
    assert advice in done.stderr
    assert [call for call in machine.calls if call.startswith("terraform")] == []


def test_a_deployment_that_fails_says_so_and_changes_nothing_of_what_was_given(machine: Machine) -> None:
    machine.deployed("--yes", "--email", "a@example.com")
    before = machine.given
    done = machine.deployed("--yes", "--email", "b@example.com", APPLY_EXIT="7")
    assert done.returncode == 7
    assert machine.given == before
    assert "run this again" in done.stderr
    assert "By hand" not in done.stdout


def test_a_schedule_that_no_alarm_reaches_is_a_warning(machine: Machine) -> None:
    done = machine.deployed("--dry-run", "--schedule", "0 3 * * *", "--tick-minutes", "1440")
    assert "no alarm when runs stay away" in done.stdout


def test_what_cannot_be_undone_is_a_warning(machine: Machine) -> None:
    done = machine.deployed("--dry-run", "--var", "lock_retention=true", "--var", "retention_days=400")
    assert "lock_retention cannot be undone" in done.stdout


# --- the same by hand


@pytest.fixture
def typed(machine: Machine) -> list[list[str]]:
    """The commands that the help gives, as gcloud would get them from a shell."""
    recorder = machine.folder / "bin" / "gcloud"
    recorder.write_text(
        "#!/bin/sh\n"
        'case "$*" in *projectNumber*) echo 424242 ;; *serviceConfig*) echo https://x.a.run.app ;; esac\n'
        'for word in "$@"; do printf "%s\\037" "$word"; done >>"$CALLS"\n'
        'printf "\\036" >>"$CALLS"\n'
    )
    recorder.chmod(0o755)
    shown = machine.deploy("--help", tools=False).stdout
    script = shown[shown.index("\nPROJECT=") :].replace("your-project", PROJECT)
    environment = {"PATH": str(machine.folder / "bin"), "CALLS": str(machine.folder / "calls")}
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    noted = (machine.folder / "calls").read_text().split("\036")
    return [call.split("\037")[:-1] for call in noted if call]


def options(call: list[str]) -> dict[str, str]:
    """A command's options that have a value."""
    return {word: call[index + 1] for index, word in enumerate(call[:-1]) if word.startswith("--")}


def one(typed: list[list[str]], *words: str) -> dict[str, str]:
    (found,) = [call for call in typed if call[: len(words)] == [*words]]
    return options(found)


def listed(name: str) -> set[str]:
    """A list of permissions of infra/gcp."""
    (found,) = re.findall(rf"^  {name}_permissions = \[(.*?)\]", GCP.text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'"([^"]+)"', found))


def test_by_hand_the_roles_are_the_same(typed: list[list[str]]) -> None:
    roles = {call[3]: set(options(call)["--permissions"].split(",")) for call in typed if call[:2] == ["iam", "roles"]}
    assert roles == {
        "daena_kms_rotator": listed("secret"),
        "daena_kms_finder": listed("project"),
        "daena_kms_ledger": listed("ledger"),
        "daena_kms_policy": {"storage.objects.get"},
        "daena_kms_reader": {"secretmanager.versions.access"},
    }


def test_by_hand_the_conditions_are_the_same(typed: list[list[str]]) -> None:
    conditions = {
        options(call)["--role"].rpartition("/")[2]: options(call).get("--condition", "")
        for call in typed
        if "add-iam-policy-binding" in call
    }
    tests = (GCP.source / "tests" / "defaults.tftest.hcl").read_text().replace('\\"', '"')
    for role in ("daena_kms_rotator", "daena_kms_policy"):
        _, _, expression = conditions[role].partition(",expression=")
        assert f'.expression == "{expression}"' in tests
    assert {role for role, text in conditions.items() if text in ("", "None")} == {
        "artifactregistry.writer", "logging.logWriter", "storage.objectViewer", "daena_kms_finder", "daena_kms_ledger",
        "run.invoker",
    }  # fmt: skip


def test_by_hand_the_services_are_the_same(typed: list[list[str]]) -> None:
    (enabled,) = [call[2:] for call in typed if call[:2] == ["services", "enable"]]
    assert set(enabled) == set(re.findall(r'^    "(\w+\.googleapis\.com)",$', GCP.text, re.MULTILINE))


def test_by_hand_the_function_and_its_schedule_are_the_same(typed: list[list[str]]) -> None:
    function, job = one(typed, "functions", "deploy"), one(typed, "scheduler", "jobs", "create", "http")
    (block,) = re.findall(
        r"environment_variables == tomap\(\{(.*?)\}\)",
        (GCP.source / "tests" / "defaults.tftest.hcl").read_text(),
        re.DOTALL,
    )
    settings = dict(pair.split("=", 1) for pair in function["--set-env-vars"].split(","))
    assert settings == dict(re.findall(r'(\w+)\s+= "(.*)"', block))
    assert (function["--concurrency"], function["--max-instances"], function["--memory"]) == ("1", "1", "512Mi")
    assert job["--uri"] == job["--oidc-token-audience"] == "https://x.a.run.app"
    assert job["--attempt-deadline"] == function["--timeout"] == "1800s"
    assert job["--message-body"] == '{"action":"rotate"}'
    assert job["--schedule"] == "0 * * * *"


def test_no_command_of_the_help_lets_everybody_in(typed: list[list[str]]) -> None:
    words = shlex.join(word for call in typed for word in call)
    assert "--no-allow-unauthenticated" in words
    assert "allUsers" not in words
