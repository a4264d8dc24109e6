"""infra/azure: what Terraform and checkov find in it, what is granted and what is not; and that all this would notice.

The provider here knows the schema alone (`.terraform`), so values are asserted by `terraform test`, in
infra/azure/tests and here.
"""

import json
import re
from pathlib import Path

import pytest

from daena_kms.settings import SETTINGS, read_settings
from daena_kms.stores import azure, azure_ledger

from .terraform import AZURE, BINARY, ROOT, Workspace, check_with_checkov, excused

TEXT = AZURE.text
VAULT, CONTAINERS = "Microsoft.KeyVault/vaults/", "Microsoft.Storage/storageAccounts/blobServices/containers/"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Ready to be asked; not to be changed."""
    made = Workspace(AZURE, tmp_path_factory.mktemp("terraform"))
    made.init()
    return made


@BINARY
def test_it_is_written_as_terraform_writes_it(checked: Workspace) -> None:
    done = checked.run("fmt", "-check", "-diff", "-recursive", str(AZURE.source))
    assert done.returncode == 0, done.stdout


@BINARY
def test_terraform_finds_nothing_wrong_with_it(checked: Workspace) -> None:
    assert checked.validate() == []


@BINARY
def test_its_own_tests_pass(checked: Workspace) -> None:
    done = checked.test()
    assert done.returncode == 0, done.stdout + done.stderr
    written = (AZURE.source / "tests" / "defaults.tftest.hcl").read_text().count("\nrun ")
    assert written > 6
    assert f"{written} passed, 0 failed" in done.stdout


FAULTS = {
    "an attribute that is none": ("vault.tf", "purge_protection_enabled", "purge_protecton_enabled"),
    "a block that is none": ("vault.tf", "enabled_log {", "enabled_logs {"),
    "something required is missing": ("main.tf", '  application_type    = "web"\n', ""),
    "a block too many": ("function.tf", "  site_config {", "  site_config {\n  }\n  site_config {"),
    "a resource that is not there": ("function.tf", "azurerm_service_plan.this.id", "azurerm_service_plan.that.id"),
    "an attribute of another type": ("function.tf", "azurerm_service_plan.this.id", "azurerm_service_plan.this.url"),
    "a variable that is not there": ("function.tf", "var.public_key", "var.public_keys"),
    "text for a number": ("vault.tf", "soft_delete_retention_days = 90", 'soft_delete_retention_days = "long"'),
    "a type that is none": ("main.tf", '"azurerm_resource_group"', '"azurerm_resource_groups"'),
}


@BINARY
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    workspace = Workspace(AZURE, tmp_path)
    workspace.edit(*FAULTS[fault])
    workspace.init()
    assert workspace.validate() != []


# --- inputs


REFUSED = {
    "subscription_id": ["mine", "00000000-0000-0000-0000-00000000000g"],
    "name": ["", "Daena", "a--b", "-a", "a-", "a" * 17, "1a"],
    "location": ["West Europe"],
    "key_vault_id": ["ours", "/subscriptions/x/providers/Microsoft.Storage/storageAccounts/a"],
    "key_prefix": ["daena", "Daena-", "a--", "-", "reserved-", "a" * 64 + "-"],
    "schedule": [
        "", "hourly", "0 * * * *", "0 0 * * * * *", "60 0 * * * *", "0 0 24 * * *", "0 0 0 0 * *", "0 0 0 * 13 *",
        "0 0 0 * * 7", "0 0  * * *", "cron(0 * * * ? *)", "0 */0 * * * *", "0 0 5-3 * * *", "0 0 1-3,9-8 * * *",
    ],
    "public_key": ["ab", "g" * 64],
    "alarm_email": ["security", "a b@c.de"],
}  # fmt: skip
TAKEN = {
    "schedule": ["0 */30 * * * *", "0 0 3 1 */3 *", "0 0,30 8-18 * * 1-5"],
    "key_prefix": ["", "a-", "team-one-"],
    "public_key": ["ab" * 32],
}


@BINARY
@pytest.mark.parametrize(("given", "refused"), [(REFUSED, True), (TAKEN, False)], ids=["refused", "taken"])
def test_inputs(tmp_path: Path, given: dict[str, list[str]], refused: bool) -> None:
    told = Workspace(AZURE, tmp_path).plan_with(given, {"schedule": {"tick_minutes": 64800}}, refused=refused)
    assert f"{sum(map(len, given.values()))} passed, 0 failed" in told, told


# schedule: the longest time between two ticks, where it is the same every week
GAPS = {
    "0 0 * * * *": 60,
    "0 */5 * * * *": 5,
    "0 */7 * * * *": 7,
    "0 5/15 * * * *": 15,
    "30 0,30 * * * *": 30,
    "0 0 */12 * * *": 720,
    "0 30 3,15 * * *": 720,
    "0 0 3 * * *": 1440,
    "0 30 3 * * 1-5": 3 * 1440,
    "0 0,30 8-18 * * 1-5": 61 * 60 + 30,
    "0 0 3 * * 0": 7 * 1440,
}


@BINARY
@pytest.mark.parametrize("schedule", GAPS)
def test_a_tick_that_does_not_fit_the_schedule_is_refused(tmp_path: Path, schedule: str) -> None:
    also = {"tick_minutes": {"schedule": schedule}}
    for minutes, refused in ((GAPS[schedule], False), (GAPS[schedule] - 1, True)):
        workspace = Workspace(AZURE, tmp_path / str(minutes))
        told = workspace.plan_with({"tick_minutes": [minutes]}, also, refused=refused)
        assert "1 passed, 0 failed" in told, told


# --- what is granted


def granted(role: str) -> set[str]:
    """The data actions of a custom role."""
    (found,) = re.findall(rf'resource "azurerm_role_definition" "{role}" \{{(.*?)\n\}}', TEXT, re.DOTALL)
    return set(re.findall(r'"(Microsoft\.[^"]+)"', found))


def test_the_rotator_may_do_in_the_vault_what_the_store_needs_and_no_more() -> None:
    needed = {VAULT + action for actions in azure.REQUIRED_PERMISSIONS.values() for action in actions}
    assert granted("rotator") == needed
    assert len(needed) == 4


def test_the_rotator_may_add_manifests_and_read_them_and_no_more() -> None:
    needed = {CONTAINERS + action for actions in azure_ledger.REQUIRED_PERMISSIONS.values() for action in actions}
    assert granted("ledger") == needed == {f"{CONTAINERS}blobs/add/action", f"{CONTAINERS}blobs/read"}


def test_a_reader_reads_and_lists_nothing() -> None:
    assert granted("reader") == {f"{VAULT}secrets/getSecret/action"}


def test_no_role_deletes_purges_or_has_everything() -> None:
    every = granted("rotator") | granted("ledger") | granted("reader")
    assert [action for action in every if re.search(r"delete|purge|\*|write", action, re.IGNORECASE)] == []
    assert "actions = [" not in TEXT.replace("data_actions = [", ""), "no role acts on resources themselves"


def test_what_the_function_owns_is_its_hosts_account_alone() -> None:
    assigned = re.findall(
        r'resource "azurerm_role_assignment" "(\w+)" \{\s+scope\s+= (\S+)\s+role_definition_\w+\s+= (\S.*)', TEXT
    )
    ours = "role_definition_resource_id"
    assert {(name, scope, role.strip('"')) for name, scope, role in assigned} == {
        ("host", "azurerm_storage_account.host.id", "Storage Blob Data Owner"),
        (
            "ledger",
            "azurerm_storage_container.manifests.id",
            "azurerm_role_definition.ledger.role_definition_resource_id",
        ),
        ("policy", "azurerm_storage_container.policy.id", "Storage Blob Data Reader"),
        ("rotator", "local.vault_id", f"azurerm_role_definition.rotator.{ours}"),
    }


def test_the_app_starts_once_it_may_do_what_it_does() -> None:
    (after,) = re.findall(r"depends_on = \[(.*?)\]", TEXT, re.DOTALL)
    roles = re.findall(r'resource "(azurerm_role_assignment)" "(\w+)"', TEXT)
    assert {".".join(role) for role in roles} == {name.strip() for name in after.split(",")} - {""}


# --- what is safe


@pytest.mark.parametrize(
    ("words", "times"),
    [
        (r"shared_access_key_enabled\s+= false", 2),
        (r"allow_nested_items_to_be_public\s+= false", 2),
        (r'min_tls_version\s+= "TLS1_2"', 2),
        (r"local_user_enabled\s+= false", 2),
        (r"prevent_destroy = true", 2),
        (r"purge_protection_enabled\s+= true", 1),
        (r"rbac_authorization_enabled\s+= true", 1),
        (r"versioning_enabled\s+= true", 1),
        (r"https_only\s+= true", 1),
        (r"webdeploy_publish_basic_authentication_enabled = false", 1),
        (r"locked\s+=", 0),
    ],
)
def test_what_must_be_said_is_said(words: str, times: int) -> None:
    assert len(re.findall(words, TEXT)) == times


def test_the_functions_settings_are_settings_of_ours() -> None:
    (block,) = re.findall(r"app_settings = \{(.*?)\n  \}", TEXT, re.DOTALL)
    names = set(re.findall(r"^\s+(\w+)\s+=", block, re.MULTILINE))
    ours = {name for name in names if name.startswith(("DAENA_", "AZURE_"))}
    assert ours <= {setting.name for setting in SETTINGS}
    assert names - ours == {
        "AzureWebJobsStorage__accountName", "AzureWebJobsStorage__clientId", "AzureWebJobsStorage__credential",
        "ROTATION_SCHEDULE",
    }  # fmt: skip
    budget = int(re.findall(r'DAENA_TIME_BUDGET_SECONDS\s+= "(\d+)"', block)[0])
    host = json.loads((ROOT / "functions" / "azure_function" / "host.json").read_text())
    hours, minutes, seconds = map(int, host["functionTimeout"].split(":"))
    longest = 2 * read_settings({}).call_timeout.total_seconds()
    assert budget + longest < hours * 3600 + minutes * 60 + seconds


def test_the_alarms_look_for_lines_that_the_function_writes() -> None:
    """Their fields are held against real lines in tests/functions."""
    entry = (ROOT / "functions" / "azure_function" / "function_app.py").read_text()
    asked = set(re.findall(r"run\.metrics\.(\w+)", TEXT))
    assert asked == {"Runs", "KeysOverdue", "KeysStuck"}
    assert set(re.findall(r"name in \('(\w+)', '(\w+)'\)", TEXT)) == {("tick", "run")}
    assert {'@app.function_name("tick")', '@app.function_name("run")'} <= set(entry.splitlines())


def test_checkov_finds_nothing_but_what_is_excused_and_every_excuse_is_needed(tmp_path: Path) -> None:
    outcome = check_with_checkov(AZURE, tmp_path)
    assert [f"{check['check_id']} {check['resource']}" for check in outcome["failed_checks"]] == []
    assert len(outcome["passed_checks"]) > 20, "checkov did not read the configuration"
    assert sorted(check["check_id"] for check in outcome["skipped_checks"]) == sorted(excused(AZURE))
