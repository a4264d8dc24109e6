"""`docs/guide.md`: every block of it is run, on each store that it is about, and prints what the page says.

A session per store, in the page's order; what its names stand for is in `scenes`. The sections that are about any store
(Integration, moving) are run on each. What is not run is in NOT_RUN, with the reason, and checked as far as it can be.
"""

import json
import re
import shlex
import shutil
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from daena_kms import cron
from daena_kms.kms import LocalVaultAdapter
from daena_kms.stores import aws, aws_ledger, azure, azure_ledger, gcp, gcp_ledger
from tests.cli.sandbox import leaked
from tests.support.age_reader import need_age
from tests.support.blocks import Block, blocks

from .scenes import AWS_ACCOUNT, SCENES
from .session import FILES, ROOT, Session

PAGE = (ROOT / "docs" / "guide.md").read_text()
BLOCKS = blocks(PAGE)
CLOUDS = {"aws": "AWS", "azure": "Azure", "gcp": "Google Cloud"}
QUICK, INTEGRATION, MOVING, LOST = "Quick start", "Integration", "Move from local to a cloud", "When a store is lost"
# In a session on the local store, after the quick start. What of them is a cloud's needs a double, not a session there.
LOCAL = ("Schedules", "Compliance", "Cost")
SECTIONS = {QUICK, *CLOUDS.values(), INTEGRATION, *LOCAL, MOVING, LOST}

_INDEX = "needs a package index; its extras are held against pyproject.toml"
_AZ = "needs an account, and az is not installed here; commands and options are held against a list from its reference"
_GCLOUD = "needs an account; commands and options are held against gcloud's own list"
NOT_RUN = {
    "pip install 'daena-kms[cli]'": _INDEX,
    "pip install 'daena-kms[aws,cli]'": _INDEX,
    "pip install 'daena-kms[azure,cli]'": _INDEX,
    "pip install 'daena-kms[gcp,cli]'": _INDEX,
    "aws sso login --profile production": "needs an account, a browser, and version 2 of the CLI; 1 has no `sso`",
    "az keyvault create --name daena-kv --resource-group daena-rg --location westeurope \\": _AZ,
    "az role definition create --role-definition @key-rotator.json": _AZ,
    "gcloud services enable secretmanager.googleapis.com --project=daena-demo": _GCLOUD,
    'gcloud iam roles create daena_kms_rotator --project=daena-demo --title="daena-kms: rotates keys" \\': _GCLOUD,
    "gcloud scheduler jobs create http daena-kms --project=daena-demo --location=europe-west1 \\": _GCLOUD,
}
PLACEHOLDERS = {"SUBSCRIPTION_ID", "PRINCIPAL_ID", "PROJECT_NUMBER", "FUNCTION_URL"}


# --- sessions


@cache
def of(section: str) -> list[Block]:
    """The blocks of a section."""
    return [block for block in BLOCKS if block.section == section]


def block(language: str, start: str) -> Block:
    """The only block of that language whose text begins so, or that is kept in a file of that name."""
    (found,) = [b for b in BLOCKS if b.language == language and (b.mark == start or b.text.startswith(start))]
    return found


def walk(session: Session, section: str) -> None:
    """Every block of a section, in order, but for those that are not run."""
    for each in of(section):
        if each.line not in NOT_RUN:
            run(session, each)


def run(session: Session, each: Block) -> None:
    """One block: it must succeed, and print what the page says."""
    if each.language == "console":
        session.console(each)
        return
    if each.language == "cron":
        each = each._replace(language="bash", text=cron_command(each.line, session.folder))
    ran = session.run(each)
    assert ran.status == 0, f"{each.text}\n{ran.printed}"
    if each.language == "python":
        assert ran.printed.splitlines() == says_it_prints(each.text), f"{each.text}\n{ran.printed}"


def says_it_prints(program: str) -> list[str]:
    """What stands behind each `print(…)` of a program."""
    return re.findall(r"^ *print\(.*\)  # (.+)$", program, re.MULTILINE)


def settled(folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> Session:
    """A session whose policy is that of the quick start, in a clone."""
    session = Session(folder, environment, replaced)
    (folder / "Tools").symlink_to(ROOT / "Tools")
    session.run(block("toml", "[keys.daena-encryption-key]\nrotate_after_days = 90\ncreate"))
    return session


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A session on the local store, after the quick start. It is copied, never changed."""
    session = settled(tmp_path_factory.mktemp("home") / "work", {}, {})
    walk(session, QUICK)
    return session


_READ = """
from memory_service.cloud_kms import get_cloud_kms_adapter
adapter = get_cloud_kms_adapter()
for key in adapter.service().status():
    for version in key.versions:
        print(adapter.get_key(key.key, version.number).material.reveal().hex())
"""


def leaks(session: Session, materials: Iterable[bytes]) -> list[str]:
    """Everything that was printed, held against materials."""
    assert materials
    return [form for material in materials for form in leaked("\n".join(session.told), material)]


def in_the_cloud(session: Session) -> list[bytes]:
    """Every version's material there is in the session's store, by a process of its own."""
    told, session.told = session.told, []
    ran, session.told = session.python(_READ), told
    assert ran.status == 0, ran.printed
    return [bytes.fromhex(line) for line in ran.printed.splitlines()]


def in_the_vault(home: Path) -> list[bytes]:
    """Every version's material there is in a local vault."""
    with LocalVaultAdapter(home=home) as adapter:
        found = [(key.key, version.number) for key in adapter.service().status() for version in key.versions]
        return [adapter.get_key(*each).material.reveal() for each in found]


@pytest.mark.parametrize("section", LOCAL)
def test_a_section_on_the_local_store(home: Session, tmp_path: Path, section: str) -> None:
    session = home.copy(tmp_path / "work")
    if section == "Schedules":
        with SCENES["aws"](tmp_path) as scene:
            session.environment |= {**scene.environment, "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}
            walk(session, section)
    else:
        walk(session, section)


def test_integration_and_a_lost_store_on_the_local_store(home: Session, tmp_path: Path) -> None:
    need_age()
    session = home.copy(tmp_path / "work")
    run(session, of(MOVING)[0])
    walk(session, LOST)
    walk(session, INTEGRATION)
    materials = in_the_vault(session.folder / "new-home")
    assert len(materials) == 2
    assert leaks(session, materials) == []


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_cloud(cloud: str, tmp_path: Path) -> None:
    """Set up, doctor, a rotation, the adapter, its permissions where they can be tried, the service."""
    with SCENES[cloud](tmp_path) as scene:
        session = settled(tmp_path / "work", scene.environment, scene.replaced)
        walk(session, CLOUDS[cloud])
        walk(session, INTEGRATION)
        materials = in_the_cloud(session)
        assert len(materials) == 4
        assert leaks(session, materials) == []


def test_moving_there_and_back(cloud: str, home: Session, tmp_path: Path) -> None:
    """What the third step says, the cloud's settings, is done where it is said."""
    need_age()
    with SCENES[cloud](tmp_path) as scene:
        session = home.copy(tmp_path / "work")
        session.environment |= scene.environment
        session.replaced |= scene.replaced
        for each in of(MOVING):
            run(session, each)
            if each.language == "toml":
                run(session, settings(cloud))
    materials = in_the_vault(session.folder / ".kms")
    assert len(materials) == 1
    assert leaks(session, materials) == []


def settings(cloud: str) -> Block:
    """The block of a cloud's settings."""
    (found,) = [b for b in of(CLOUDS[cloud]) if b.headings[-1] == "Settings" and b.language == "bash"]
    return found


# --- what is not run


def test_every_block_is_run_or_said_not_to_be() -> None:
    assert {each.section for each in BLOCKS} == SECTIONS
    assert {each.line for each in BLOCKS if each.mark == "account" or each.text.startswith("pip")} == set(NOT_RUN)
    known = {"bash", "console", "cron", "python", *FILES}
    assert [each.line for each in BLOCKS if each.language not in known] == []
    assert [each.line for each in BLOCKS if each.language in FILES and not each.mark] == []


def words() -> Iterator[list[str]]:
    """Every command that is not run, in words."""
    for each in BLOCKS:
        if each.line in NOT_RUN:
            for line in each.text.replace("\\\n", " ").splitlines():
                yield shlex.split(line, comments=True)


def test_the_extras_that_are_installed_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    asked = [re.fullmatch(r"daena-kms\[(.+)\]", said[2]) for said in words() if said[0] == "pip"]
    assert len(asked) == 4
    assert [found for found in asked if found is None or not set(found[1].split(",")) <= extras] == []


def options(said: list[str]) -> tuple[list[str], set[str]]:
    """The words before the first option, and the options' names."""
    first = next((n for n, word in enumerate(said) if word.startswith("--")), len(said))
    return said[:first], {word.partition("=")[0] for word in said if word.startswith("--")}


def test_what_is_said_to_gcloud_it_knows() -> None:
    program = shutil.which("gcloud")
    if program is None:
        pytest.skip("gcloud is not installed here, so nobody has its list of commands")
    tree = Path(program).resolve().parents[1] / "data" / "cli" / "gcloud_completions.py"
    defined: dict[str, Any] = {}
    exec(compile(tree.read_text(), tree, "exec"), defined)  # noqa: S102  # gcloud's own
    said = [each for each in words() if each[0] == "gcloud"]
    assert len(said) == 10
    for each in said:
        node, asked = defined["STATIC_COMPLETION_CLI_TREE"], options(each)
        known, rest = set(node["flags"]), asked[0][1:]
        while rest and rest[0] in node["commands"]:
            node = node["commands"][rest.pop(0)]
            known |= set(node["flags"])
        assert node["commands"] == {}, each
        assert len(rest) <= 1, each
        assert asked[1] - known == set(), each


# Microsoft's reference of the Azure CLI (2.80): `az keyvault create`, `az role definition create`, `az role assignment
# create`; of their options those that the page has.
_AZ_KNOWS = {
    "keyvault create": {
        "--name", "--resource-group", "--location", "--enable-rbac-authorization", "--enable-purge-protection",
        "--retention-days",
    },
    "role definition create": {"--role-definition"},
    "role assignment create": {"--role", "--assignee-object-id", "--assignee-principal-type", "--scope"},
}  # fmt: skip


def test_what_is_said_to_az_is_in_its_reference() -> None:
    said = [options(each) for each in words() if each[0] == "az"]
    assert {" ".join(command[1:]) for command, _ in said} == set(_AZ_KNOWS)
    assert [command for command, given in said if given - _AZ_KNOWS[" ".join(command[1:])]] == []


def test_what_is_said_to_aws_it_knows() -> None:
    """The rest by botocore, which is what the AWS CLI makes its commands of."""
    said = [options(each)[0][1:] for each in words() if each[0] == "aws"]
    assert said == [["sso", "login"], ["sts", "get-caller-identity"]]
    assert "GetCallerIdentity" in botocore.session.get_session().get_service_model("sts").operation_names


def test_names_that_everybody_fills_in_are_few_and_the_same() -> None:
    account = "\n".join(each.text for each in BLOCKS if each.mark == "account" or each.language == "json")
    assert set(re.findall(r"\b[A-Z]+_[A-Z]+\b", account)) == PLACEHOLDERS
    everything = "\n".join(each.text for each in BLOCKS)
    arns = [arn.split(":") for arn in re.findall(r"arn:aws:[^\s\",]+", everything)]
    assert {(arn[3], arn[4]) for arn in arns} == {("eu-west-1", AWS_ACCOUNT), ("", AWS_ACCOUNT), ("", "")}
    assert set(re.findall(r"--project=(\S+)", everything)) == {"daena-demo"}
    one = {r"KeyVault/vaults/([\w-]+)[\s\"]|https://([\w-]+)\.vault|keyvault create --name (\S+)": "daena-kv"}
    one |= {r"Storage/storageAccounts/(\w+)[\s\"]|https://(\w+)\.blob": "daenamanifests"}
    for pattern, name in one.items():
        found = re.findall(pattern, everything)
        assert {"".join(each) for each in found} == {name}, pattern


# --- JSON, permissions, schedules


def needed(*tables: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Every permission of those tables."""
    return {permission for table in tables for wanted in table.values() for permission in wanted}


def test_every_json_block_is_json() -> None:
    assert [json.loads(each.text) for each in BLOCKS if each.language == "json"]


def test_the_policy_of_aws_grants_what_is_needed_and_no_more() -> None:
    policy = json.loads(block("json", "rotator-policy.json").text)
    granted = [a for s in policy["Statement"] for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])]
    assert sorted(set(granted)) == sorted(needed(aws.REQUIRED_PERMISSIONS, aws_ledger.REQUIRED_PERMISSIONS))
    assert len(granted) == len(set(granted))
    assert [s["Sid"] for s in policy["Statement"] if s["Resource"] == "*"] == ["ListSecrets"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parliament imports pkg_resources, which says that it will go
        import parliament  # noqa: PLC0415

        assert parliament.analyze_policy_string(json.dumps(policy)).findings == []


def test_the_roles_of_azure_grant_what_is_needed_and_no_more() -> None:
    vault, container = (json.loads(block("json", name).text) for name in ("key-rotator.json", "manifest-appender.json"))
    data, blob = "Microsoft.KeyVault/vaults/", "Microsoft.Storage/storageAccounts/blobServices/containers/"
    assert vault["DataActions"] == sorted(data + action for action in needed(azure.REQUIRED_PERMISSIONS))
    assert {*container["DataActions"]} == {blob + action for action in needed(azure_ledger.REQUIRED_PERMISSIONS)}
    roles = {role["Name"]: role["AssignableScopes"][0] for role in (vault, container)}
    given = {
        each[each.index("--role") + 1]: each[each.index("--scope") + 1] for each in words() if each[2] == "assignment"
    }
    assert given == roles


def test_the_roles_of_google_grant_what_is_needed_and_no_more() -> None:
    made = {
        each[4]: set(each[-1].removeprefix("--permissions=").split(","))
        for each in words()
        if each[:4] == ["gcloud", "iam", "roles", "create"]
    }
    rotator, finder, appender = made.values()
    assert rotator | finder == needed(gcp.REQUIRED_PERMISSIONS)
    assert finder == {"secretmanager.secrets.create", "secretmanager.secrets.list"}
    assert rotator & finder == set()
    assert appender == needed(gcp_ledger.REQUIRED_PERMISSIONS)
    granted = [word.rpartition("/")[2] for each in words() for word in each if word.startswith("--role=projects/")]
    assert granted == list(made)


def test_the_schedule_of_eventbridge_is_one() -> None:
    schedule = json.loads(block("json", "schedule.json").text)
    operation = botocore.session.get_session().get_service_model("scheduler").operation_model("CreateSchedule")
    assert not ParamValidator().validate(schedule, operation.input_shape).has_errors()
    assert cron.read(schedule["ScheduleExpression"])


def cron_command(line: str, folder: Path) -> str:
    """The command of a crontab's line, whose folder is that one. Its five fields must be a schedule."""
    *fields, command = line.split(maxsplit=5)
    assert cron.read(" ".join(fields), "unix")
    return command.replace("/srv/keys", str(folder))


# --- links


def test_every_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = ROOT / "docs" / path if path else ROOT / "docs" / "guide.md"
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, link
