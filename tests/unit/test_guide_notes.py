"""What `docs/guide-notes.md` says of this project is so, and what it says of the clouds is what their own data has."""

import re
from datetime import date
from itertools import pairwise
from pathlib import Path

import botocore.session
import pytest
from botocore import configprovider

from daena_kms.cli import cli
from daena_kms.settings import SETTINGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide-notes.md").read_text()
LINE = re.sub(r"\s+", " ", PAGE)
HEADINGS = (  # the guide's own, where it says something that is not so
    "Quick start", "AWS", "Azure", "Google Cloud", "Integration", "Schedules", "Best practices", "Troubleshooting",
    "Compliance and audit", "Migration", "Costs", "Related documentation",
)  # fmt: skip


def text(path: str) -> str:
    return (ROOT / path).read_text()


def named(pattern: str) -> set[str]:
    """What the page puts between backquotes, if all of it fits."""
    return {found for found in re.findall(r"`([^`\n]+)`", PAGE) if re.fullmatch(pattern, found)}


def test_it_goes_through_the_whole_guide() -> None:
    assert [heading for heading in HEADINGS if f"\n## {heading}\n" not in PAGE] == []
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 60
    assert [row for row in rows if row.count(" | ") != 2] == [], "each has: the guide says, true is, we do"


# --- what is named is there


def test_every_command_setting_and_make_target_that_it_names_exists() -> None:
    assert set(re.findall(r"daena-key-rotate (?:-v\b ?)?`?([a-z]+)", PAGE)) - set(cli.commands) == set()
    settings = {setting.name for setting in SETTINGS}
    assert set(re.findall(r"\b(?:DAENA|AWS|AZURE|GCP|GOOGLE)_[A-Z_]*[A-Z]\b", PAGE)) - settings == {
        "AWS_DEFAULT_REGION"
    }
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", PAGE)) <= targets


def test_every_option_of_the_guide_that_it_names_is_taken() -> None:
    ours = {"--drill": "restore", "--backup": "verify"}
    clouds = {"--location", "--oidc-service-account-email"}
    named_here = set(re.findall(r"`(?:python Tools/daena_key_rotate\.py )?(--[a-z-]+)`", PAGE))
    assert {option for option in named_here - clouds if option not in (cli.help or "")} == set()
    for option, command in ours.items():
        assert option in {each for parameter in cli.commands[command].params for each in parameter.opts}, command


def test_every_file_that_it_names_is_there_and_the_one_that_is_not_is_not() -> None:
    paths = set(re.findall(r"\b(?:core|docs|infra|Tools|memory_service)/[\w./-]*\w", PAGE))
    for path in paths - {"docs/SECURITY_HARDENING_REPORT.md"}:
        assert (ROOT / path).exists() or (ROOT / "core" / path).exists(), path
    assert not (ROOT / "docs" / "SECURITY_HARDENING_REPORT.md").exists()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert not any("shared" in link for link in links), "none leads out of the repository"
    for link in links:
        path, _, anchor = link.partition("#")
        page = ROOT / "docs" / (path or "guide-notes.md")
        assert page.resolve().is_relative_to(ROOT), link
        assert page.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, link


# --- what is said of schedules


def gaps(year: int) -> list[int]:
    """Days from each date of the guide's cron to the next, of one year."""
    dates = [date(year, month, 1) for month in (1, 4, 7, 10)] + [date(year + 1, 1, 1)]
    return [(later - earlier).days for earlier, later in pairwise(dates)]


def test_a_quarter_is_not_90_days() -> None:
    assert all(gaps(year) == [90, 91, 92, 92] for year in (2025, 2026, 2027, 2100))
    assert all(gaps(year) == [91, 91, 92, 92] for year in (2024, 2028, 2000))
    assert "90 days (91 in a leap year), 91, 92, 92" in LINE
    assert "three times a year, in a leap year four times; by up to two days" in LINE
    (tick,) = (setting for setting in SETTINGS if setting.name == "DAENA_TICK_MINUTES")
    assert tick.read(str(45 * 24 * 60)).days == 45
    assert "it takes 45 days at most" in LINE


def test_the_guides_json_is_none_of_eventbridge_schedulers() -> None:
    model = botocore.session.Session().get_service_model("scheduler")
    asked = model.operation_model("CreateSchedule").input_shape
    assert set(asked.required_members) == {"Name", "ScheduleExpression", "FlexibleTimeWindow", "Target"}
    target = asked.members["Target"]
    assert set(target.required_members) == {"Arn", "RoleArn"}
    assert "Id" not in target.members
    rule = botocore.session.Session().get_service_model("events").operation_model("PutTargets").input_shape
    assert "Id" in rule.members["Targets"].member.members


def test_the_scheduler_shows_who_it_is() -> None:
    function = text("infra/gcp/function.tf")
    assert all(word in function for word in ("oidc_token", "attempt_deadline", "retry_config", "roles/run.invoker"))
    assert "allUsers" not in function


# --- what is said of rights


def test_boto_does_not_read_the_guides_region() -> None:
    _, environment, _, _ = configprovider.BOTOCORE_DEFAUT_SESSION_VARIABLES["region"]
    assert environment == "AWS_DEFAULT_REGION"


def test_the_rights_that_it_names_are_those_that_are_granted() -> None:
    template = text("infra/aws/template.yaml")
    for action in ("CreateKey", "ListKeys", "DescribeKey", "ScheduleKeyDeletion"):
        assert f"`kms:{action}`" in PAGE
        assert f"- kms:{action}" not in template
    for action in ("GenerateDataKey", "Encrypt", "Decrypt"):
        assert f"`kms:{action}`" in PAGE
        assert f"- kms:{action}" in template
    granted = set(re.findall(r"- secretsmanager:(\w+)$", template, re.MULTILINE))
    assert granted <= named(r"[A-Z]\w+")
    azure = set(re.findall(r"vaults/secrets/(\w+)/action", text("infra/azure/vault.tf")))
    assert azure == {"getSecret", "readMetadata", "setSecret", "update"} <= named(r"\w+")
    google = set(re.findall(r'"secretmanager\.(?:secrets|versions)\.(\w+)"', text("infra/gcp/secrets.tf")))
    assert google == {"access", "add", "create", "destroy", "disable", "enable", "get", "list", "update"}
    assert google - {"create", "list", "get", "update", "add"} <= {word.rpartition(".")[2] for word in named(r"[\w.]+")}


@pytest.mark.parametrize("words", ["secretmanager.admin", "Key Vault Secrets Officer", "secretmanager.secretAccessor"])
def test_what_the_guide_grants_is_granted_nowhere(words: str) -> None:
    assert words.rpartition(".")[2] in PAGE
    for path in [*(ROOT / "infra").rglob("*.tf"), ROOT / "infra" / "aws" / "template.yaml"]:
        assert words not in path.read_text(), path


def test_the_compliance_references_are_todays() -> None:
    assert "Annex A 8.24, Use of cryptography" in LINE
    for criterion, subject in (
        ("CC6.1", "implements logical access security software, infrastructure and architectures"),
        ("CC6.6", "threats from sources outside the system's boundaries"),
        ("CC6.7", "transmission, movement and removal of information to authorised users"),
    ):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {criterion}: "))
        assert subject in row
