"""infra/gcp: what Terraform and checkov find in it, what is granted and what is not; and that all this would notice.

The provider here knows the schema alone (`.terraform`), so values are asserted by `terraform test`, in infra/gcp/tests
and here.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daena_kms.fleet import Report
from daena_kms.invocation import metrics
from daena_kms.names import RESERVED_KEY, STAGED_SUFFIX, secret_name
from daena_kms.settings import SETTINGS, read_settings
from daena_kms.stores import gcp, gcp_ledger
from daena_kms.stores.base import Permissions

from .terraform import BINARY, GCP, ROOT, Workspace, check_with_checkov, excused

TEXT = GCP.text


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Ready to be asked; not to be changed."""
    made = Workspace(GCP, tmp_path_factory.mktemp("terraform"))
    made.init()
    return made


@BINARY
def test_it_is_written_as_terraform_writes_it(checked: Workspace) -> None:
    done = checked.run("fmt", "-check", "-diff", "-recursive", str(GCP.source))
    assert done.returncode == 0, done.stdout


@BINARY
def test_terraform_finds_nothing_wrong_with_it(checked: Workspace) -> None:
    assert checked.validate() == []


@BINARY
def test_its_own_tests_pass(checked: Workspace) -> None:
    done = checked.test()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 passed, 0 failed" in done.stdout


FAULTS = {
    "an attribute that is none": ("function.tf", "ingress_settings ", "ingres_settings "),
    "a block that is none": ("function.tf", "oidc_token {", "oidc_tokens {"),
    "something required is missing": ("main.tf", '  account_id   = "${var.name}-function"\n', ""),
    "a required block is missing": ("secrets.tf", "audit_log_config", "dynamic_log_config"),
    "a block too many": ("function.tf", "  retry_config {", "  retry_config {\n  }\n  retry_config {"),
    "a resource that is not there": ("function.tf", "google_service_account.builder.id", "google_service_account.b.id"),
    "an attribute that is not there": ("function.tf", "service_config[0].uri", "service_config[0].url"),
    "a variable that is not there": ("function.tf", "var.public_key ==", "var.public_keys =="),
    "text for a number": ("function.tf", "max_instance_count               = 1", 'max_instance_count = "one"'),
    "a type that is none": ("main.tf", '"google_service_account" "function"', '"google_service_accounts" "function"'),
    "a condition without its expression": ("secrets.tf", "    expression  = local.rotator_condition\n", ""),
}


@BINARY
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    workspace = Workspace(GCP, tmp_path)
    workspace.edit(*FAULTS[fault])
    workspace.init()
    assert workspace.validate() != []


# --- inputs


REFUSED: dict[str, list[Any]] = {
    "project_id": ["", "acme", "Acme-prod", "1acme-prod", "acme-prod-", "example.com:acme", "424242", "a" * 31],
    "name": ["", "Daena", "a--b", "-a", "a-", "a" * 17, "1a", "a_b"],
    "region": ["europe", "europe-west1-b", "Europe-west1", "eu"],
    "key_prefix": ["", "daena", "Daena-", "a--", "-", "reserved-", "reserved-a-", "a" * 64 + "-"],
    "policy_file": ["nowhere.toml"],
    "schedule": [
        "", "hourly", "every 1 hours", "* * * *", "0 0 * * * *", "60 * * * *", "0 24 * * *", "0 0 0 * *", "0 0 32 * *",
        "0 0 * 13 *", "0 0 * * 8", "0  * * *", "*/0 * * * *", "5-1 * * * *", "0 0 L * *", "0 0 * JAN *", "@hourly",
    ],
    "tick_minutes": [0, 1.5, 64801, -60],
    "timeout_seconds": [599, 1801, 600.5],
    "public_key": ["ab", "g" * 64],
    "ingress": ["", "ALLOW_SOME"],
    "invokers": [["allUsers"], ["allAuthenticatedUsers"], ["ann@example.com"], ["user:ann@example.com", "allUsers"]],
    "readers": [["allUsers"], ["allAuthenticatedUsers"], ["serviceAccount:app"], ["domain:example.com"]],
    "alarm_email": ["security", "a b@c.de"],
    "notification_channels": [["security"], ["projects/p/notificationChannels/"]],
    "retention_days": [-1, 1.5, 36501],
    "lock_retention": [True],
}  # fmt: skip
TAKEN: dict[str, list[Any]] = {
    "project_id": ["acme-1", "a" * 30],
    "schedule": ["*/30 * * * *", "0 3 1 */3 *", "0,30 8-18 * * 1-5", "0 0 1 1-11/2 7"],
    "key_prefix": ["a-", "team-one-", "a" * 63 + "-"],
    "timeout_seconds": [600, 1800],
    "public_key": ["ab" * 32],
    "invokers": [["user:ann@example.com", "group:ops@example.com"]],
    "lock_retention": [False],
}
ALSO: dict[str, dict[str, Any]] = {"schedule": {"tick_minutes": 64800}, "tick_minutes": {"schedule": "0 3 * * *"}}


@BINARY
@pytest.mark.parametrize(("given", "refused"), [(REFUSED, True), (TAKEN, False)], ids=["refused", "taken"])
def test_inputs(tmp_path: Path, given: dict[str, list[Any]], refused: bool) -> None:
    told = Workspace(GCP, tmp_path).plan_with(given, ALSO, refused=refused)
    assert f"{sum(map(len, given.values()))} passed, 0 failed" in told, told


@BINARY
def test_a_tick_that_does_not_fit_the_schedule_is_refused(tmp_path: Path) -> None:
    told = Workspace(GCP, tmp_path).plan_with({"tick_minutes": [30]}, {}, refused=True)
    assert "1 passed, 0 failed" in told, told


GAPS = {  # schedule: the longest time between two ticks
    "*/30 * * * *": 30,
    "37 */11 * * *": 660,
    "0,50 * * * *": 50,
    "30 3 * * *": 1440,
    "0 8-18/2 * * 1-5": 3720,
    "0 0 * * 7": 10080,
    "0 0 * * 0,7": 10080,
    "15 6 * * 6,7": 8640,
}


@BINARY
@pytest.mark.parametrize("schedule", GAPS)
def test_a_tick_is_at_least_as_long_as_the_schedules_longest_gap(tmp_path: Path, schedule: str) -> None:
    also = {"tick_minutes": {"schedule": schedule}}
    for minutes, refused in ((GAPS[schedule] - 1, True), (GAPS[schedule], False)):
        (tmp_path / str(minutes)).mkdir()
        told = Workspace(GCP, tmp_path / str(minutes)).plan_with({"tick_minutes": [minutes]}, also, refused=refused)
        assert "1 passed, 0 failed" in told, told


# --- what is granted


def permissions(name: str) -> set[str]:
    """One of the lists of permissions."""
    (found,) = re.findall(rf"^  {name}_permissions = \[(.*?)\]", TEXT, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'"([^"]+)"', found))


def needed(table: Permissions) -> set[str]:
    return {permission for each in table.values() for permission in each}


def test_the_function_may_do_with_secrets_what_the_store_needs_and_no_more() -> None:
    assert permissions("secret") | permissions("project") == needed(gcp.REQUIRED_PERMISSIONS)


def test_only_what_is_asked_of_the_project_goes_without_a_condition() -> None:
    assert permissions("project") == {"secretmanager.secrets.create", "secretmanager.secrets.list"}
    assert permissions("secret") & permissions("project") == set()


def test_the_function_may_add_manifests_and_read_them_and_no_more() -> None:
    assert permissions("ledger") == needed(gcp_ledger.REQUIRED_PERMISSIONS)
    assert permissions("ledger") == {f"storage.objects.{verb}" for verb in ("create", "get", "list")}


def test_no_role_deletes_or_gives_access_or_has_everything() -> None:
    every = re.findall(r'"([a-z]+\.[a-zA-Z]+\.[a-zA-Z*]+)"', TEXT.replace(".googleapis.com", ""))
    assert "secretmanager.versions.access" in every
    assert [permission for permission in every if re.search(r"delete|IamPolicy|\*", permission)] == []
    assert re.findall(r'^\s+permissions = (?!local\.\w+_permissions|\["[\w.]+"\])', TEXT, re.MULTILINE) == []


def blocks(kind: str) -> dict[str, str]:
    """Every resource of a kind, by its name."""
    return dict(re.findall(rf'^resource "{kind}" "(\w+)" \{{(.*?)^\}}', TEXT, re.MULTILINE | re.DOTALL))


def test_who_is_granted_what() -> None:
    granted = set()
    for kind in ("google_project_iam_member", "google_storage_bucket_iam_member"):
        for name, text in blocks(kind).items():
            (role,) = re.findall(r"^  role\s+= (\S+)$", text, re.MULTILINE)
            (member,) = re.findall(r"^  member\s+= (\S+)$", text, re.MULTILINE)
            (condition,) = re.findall(r"^    expression\s+= (\S+)", text, re.MULTILINE) or [""]
            granted.add((name, role, member, condition))
    function, builder = "google_service_account.function.member", "google_service_account.builder.member"
    ours = "google_project_iam_custom_role"
    assert granted == {
        ("builder", "each.value", builder, ""),
        ("rotator", f"{ours}.rotator.id", function, "local.rotator_condition"),
        ("finder", f"{ours}.finder.id", function, ""),
        ("reader", f"{ours}.reader.id", "each.value", "local.reader_condition"),
        ("ledger", f"{ours}.ledger.id", function, ""),
        ("policy", f"{ours}.policy.id", function, '"resource.name'),
    }
    assert re.findall(r'^resource "google_\w+_iam_(?:binding|policy)" "(\w+)"', TEXT, re.MULTILINE) == ["invoker"]


def test_predefined_roles_are_the_builders_and_the_invokers() -> None:
    code = TEXT.replace((GCP.source / "variables.tf").read_text(), "")
    roles = set(re.findall(r'"(roles/[\w.]+)"', code))
    assert roles == {
        "roles/artifactregistry.writer", "roles/logging.logWriter", "roles/storage.objectViewer", "roles/run.invoker",
    }  # fmt: skip
    assert re.search(r"allUsers|allAuthenticatedUsers", code) is None


def condition(name: str, prefix: str = "daena-") -> str:
    """An IAM condition as it is for project 7."""
    (found,) = re.findall(rf"^  {name}_condition\s+= \"(.*)\"$", TEXT, re.MULTILINE)
    filled = str(found).replace('\\"', '"').replace("${local.secrets}", "projects/7/secrets/")
    return filled.replace("${var.key_prefix}", prefix)


def test_the_function_reaches_every_secret_of_a_key_and_no_other() -> None:
    prefixes = re.fullmatch(
        r'resource\.name\.startsWith\("([^"]+)"\) \|\| resource\.name\.startsWith\("([^"]+)"\)', condition("rotator")
    )
    assert prefixes

    def reached(secret: str) -> bool:
        return f"projects/7/secrets/{secret}".startswith(prefixes.groups())

    key = secret_name("daena-", "billing")
    for secret in (key, key + STAGED_SUFFIX, secret_name("daena-", RESERVED_KEY)):
        assert reached(secret), secret
    for secret in ("billing", "daena", "other-daena-x", secret_name("other-", RESERVED_KEY), RESERVED_KEY):
        assert not reached(secret), secret


def test_a_reader_reads_keys_and_nothing_staged_or_reserved() -> None:
    shape = re.fullmatch(
        r'resource\.type == "secretmanager\.googleapis\.com/SecretVersion"'
        r' && resource\.name\.startsWith\("([^"]+)"\)'
        r' && !resource\.name\.extract\("/secrets/\{name\}/versions/"\)\.endsWith\("([^"]+)"\)',
        condition("reader"),
    )
    assert shape
    prefix, staged = shape.groups()
    assert staged == STAGED_SUFFIX
    assert f"projects/7/secrets/{secret_name('daena-', 'billing')}".startswith(prefix)
    assert not f"projects/7/secrets/{secret_name('daena-', RESERVED_KEY)}".startswith(prefix)
    assert re.findall(r"permissions = (\[.*\])", blocks("google_project_iam_custom_role")["reader"]) == [
        '["secretmanager.versions.access"]'
    ]


# --- what is safe


@pytest.mark.parametrize(
    ("words", "times"),
    [
        (r"uniform_bucket_level_access = true", 2),
        (r'public_access_prevention\s+= "enforced"', 2),
        (r"prevent_destroy = true", 1),
        (r"disable_on_destroy = false", 1),
        (r"is_locked\s+= var\.lock_retention", 1),
        (r"max_instance_request_concurrency = 1\n", 1),
        (r'available_memory\s+= "(256|512)Mi"', 1),
        (r"google_service_account_key", 0),
    ],
)
def test_what_must_be_said_is_said(words: str, times: int) -> None:
    assert len(re.findall(words, TEXT)) == times


def test_the_functions_settings_are_settings_of_ours() -> None:
    (block,) = re.findall(r"environment_variables = merge\((.*?)^    \)", TEXT, re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"\b([A-Z][A-Z_]+)\s+=", block))
    assert {"DAENA_CLOUD_KMS_PROVIDER", "DAENA_PUBLIC_KEY", "GCP_PROJECT_ID"} <= names
    assert names <= {setting.name for setting in SETTINGS}
    (left,) = re.findall(r"DAENA_TIME_BUDGET_SECONDS\s+= tostring\(var\.timeout_seconds - (\d+)\)", block)
    assert int(left) > 2 * read_settings({}).call_timeout.total_seconds()


def test_the_function_is_the_one_in_main_py() -> None:
    (named,) = re.findall(r'entry_point\s+= "(\w+)"', TEXT)
    assert f"\ndef {named}(" in (ROOT / "functions" / "gcp_function" / "main.py").read_text()


def test_the_alarms_look_for_fields_that_a_run_logs() -> None:
    now = datetime.now(UTC)
    logged = set(metrics(Report(now, now, "", ())))
    asked = set(re.findall(r"jsonPayload\.metrics\.(\w+)", TEXT)) | set(re.findall(r'field = "(\w+)"', TEXT))
    assert {"Runs", "KeysOverdue", "KeysStuck", "KeysRotated", "KeysFailed"} <= asked <= logged
    entry = (ROOT / "functions" / "gcp_function" / "main.py").read_text()
    for message in re.findall(r'jsonPayload\.message=\\"(\w+)\\"', TEXT):
        assert f'"{message}"' in entry


def test_checkov_finds_nothing_but_what_is_excused_and_every_excuse_is_needed(tmp_path: Path) -> None:
    outcome = check_with_checkov(GCP, tmp_path)
    assert [f"{check['check_id']} {check['resource']}" for check in outcome["failed_checks"]] == []
    assert len(outcome["passed_checks"]) > 20, "checkov did not read the configuration"
    assert sorted(check["check_id"] for check in outcome["skipped_checks"]) == sorted(excused(GCP))
