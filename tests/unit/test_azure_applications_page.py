"""What `docs/azure-applications.md` tells applications to do works, word for word, on what the Azure store writes.

And what `docs/azure.md` lists is what there is. Of what the pages show, one thing is not the real one: `az`, which is a
stand-in (`AZ` below) with the options and the output that the page's lines use.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from azure.core.exceptions import HttpResponseError
from cryptography.exceptions import InvalidTag

from daena_kms import documents, due, invocation
from daena_kms.errors import RefusedError
from daena_kms.fleet import Limits, Report
from daena_kms.model import Anchor, InventoryRow, Outcome, Status
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.service import Service
from daena_kms.settings import SETTINGS
from daena_kms.stores import azure, azure_calls, azure_layout, azure_ledger, azure_secrets
from daena_kms.stores.azure import AzureStore
from tests.support.azure_world import FUNCTION, PREFIX, Account, account
from tests.support.vault_secrets import Version as Put
from tests.support.worlds import BACKENDS, KEY, START, Clock, World, seeded

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "azure-applications.md").read_text()
OPERATORS_PAGE = (ROOT / "docs" / "azure.md").read_text()
TERRAFORM = {path.stem: path.read_text() for path in (ROOT / "infra" / "azure").glob("*.tf")}
SECRET, PAGES_SECRET = PREFIX + KEY, "daena-daena-encryption-key"
PAGES_VAULT = "https://daena-kms-1a2b3c.vault.azure.net"
OLD, OTHER = "billing-archive-key", "session-signing-key"
DISABLED, NEWEST = 2, 4
REPORTED = "report"

# What the page asks of `az`, by Azure's own client. Output as `az keyvault secret` has it, in the fields that are used.
AZ = f"""#!{sys.executable}
import argparse, json, os, sys
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import KeyVaultSecretIdentifier, SecretClient
words = sys.argv[1:]
verb = words[:words.index(next(word for word in words if word.startswith("--")))]
options = argparse.ArgumentParser()
for name in ("vault-name", "name", "id", "output", "query", "resource"):
    options.add_argument("--" + name)
asked = options.parse_args(words[len(verb):])
credential = ManagedIdentityCredential()
client = SecretClient(os.environ["AZURE_KEY_VAULT_URL"], credential)
assert asked.vault_name in (None, "daena-kms-1a2b3c")
def told(properties, **more):
    attributes = {{"enabled": properties.enabled, "created": properties.created_on.isoformat()}}
    kind = properties.content_type
    return {{"attributes": attributes, "contentType": kind, "id": properties.id, "tags": properties.tags, **more}}
if verb == ["account", "get-access-token"]:
    assert (asked.resource, asked.query) == ("https://vault.azure.net", "accessToken")
    made = credential.get_token(os.environ["DOUBLES_AUDIENCE"] + "/.default").token
elif verb == ["keyvault", "secret", "list-versions"]:
    made = [told(found) for found in client.list_properties_of_secret_versions(asked.name)]
else:
    assert verb == ["keyvault", "secret", "show"]
    at = KeyVaultSecretIdentifier(asked.id) if asked.id else None
    got = client.get_secret(at.name, at.version) if at else client.get_secret(asked.name)
    made = told(got.properties, value=got.value)
    if asked.query:
        made = made[asked.query]
print(json.dumps(made) if asked.output == "json" else made)
"""


class Scene(NamedTuple):
    """KEY has some versions; one of them is disabled."""

    azure: Account
    service: Service

    def material(self, number: int, key: str = KEY) -> bytes:
        """What our own library opens."""
        found = self.service.get(key, number, reveal=True).material
        assert found is not None
        return found.reveal()

    def keys(self, secret: str = SECRET, kind: str = "Keys", **more: Any) -> Any:
        """What an application makes of the page's class."""
        return code()[kind](self.azure.vault.url, secret, **more)

    def lying(self, secret: str = SECRET) -> list[Put]:
        """What the vault holds, in the order in which it was put."""
        return self.azure.vault.server.secrets.live[secret].versions

    def ids(self, number: int) -> list[str]:
        """Key Vault's ids of a number."""
        return [v.version for v in self.lying() if azure_layout.number(v.tags or {}) == number]

    def actions(self, work: Any) -> list[str]:
        """What the vault is asked for meanwhile."""
        calls = self.azure.vault.server.calls
        before = len(calls)
        work()
        return [call.action for call in calls[before:]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    clock = Clock()
    world = World(BACKENDS["azure"](tmp_path_factory.mktemp("azure"), clock, seeded()), clock)
    policies = {KEY: KeyPolicy(create=True), OLD: KeyPolicy(), OTHER: KeyPolicy()}
    service = Service(
        world.service().tools, RotationPolicy(policies, "digest"), tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0
    )
    for _ in range(NEWEST):
        world.rotate()
        clock.move(days=91)
    service.disable(KEY, DISABLED)
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
            patched.delenv(name)
        for name, value in account().vault.environment().items():
            patched.setenv(name, value)
        yield Scene(account(), service)


@pytest.fixture
def unchanged(scene: Scene) -> Iterator[None]:
    """What a test does to the vault is undone."""
    restore = scene.azure.vault.server.secrets.saved()
    yield
    restore()
    scene.azure.vault.server.allowed.clear()


@pytest.fixture
def adopted(scene: Scene, unchanged: None) -> str:
    """A secret with a past of its own."""
    scene.azure.vault.server.secrets.put(PREFIX + OLD, {"value": "written by hand", "contentType": "text/plain"})
    return PREFIX + OLD


@cache
def code() -> dict[str, Any]:
    """Everything that the page's Python defines."""
    defined: dict[str, Any] = {"__name__": "page"}
    for block in blocks("python"):
        exec(compile(block, "docs/azure-applications.md", "exec"), defined)  # noqa: S102  # our own page
    return defined


def blocks(language: str, page: str = PAGE) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    return found


# In Python.


def test_the_active_version_is_what_the_library_has(scene: Scene) -> None:
    active = scene.keys().active()
    assert (active.number, active.material) == (NEWEST, scene.material(NEWEST))


def test_every_earlier_version_opens_by_its_number(scene: Scene) -> None:
    keys = scene.keys()
    for number in (1, 3, NEWEST):
        assert keys.version(number).material == scene.material(number), number


def test_every_version_opens_by_its_id(scene: Scene) -> None:
    keys = scene.keys()
    active = keys.active()
    assert keys.version_by_id(active.id) == active
    assert keys.version_by_id(scene.ids(1)[0]).material == scene.material(1)


def test_a_disabled_version_is_refused_and_one_that_never_was_too(scene: Scene) -> None:
    for number in (DISABLED, NEWEST + 1, 1000):
        with pytest.raises(LookupError, match=rf"no version {number} that can be read"):
            scene.keys().version(number)
    with pytest.raises(HttpResponseError) as refused:
        scene.keys().version_by_id(scene.ids(DISABLED)[0])
    assert refused.value.error is not None
    assert "SecretDisabled" in str(refused.value.error.innererror)


def test_what_was_encrypted_before_a_rotation_decrypts_after_it(scene: Scene) -> None:
    keys, new = scene.keys(), scene.keys(keep_seconds=-1)
    keys._kept["active"] = (float("inf"), keys.version(1))  # a process that read it long ago
    stored = code()["encrypt"](keys, b"invoice 17", b"17")
    assert code()["decrypt"](new, stored, b"17") == b"invoice 17"
    assert code()["decrypt"](new, code()["encrypt"](new, b"invoice 18", b"18"), b"18") == b"invoice 18"
    with pytest.raises(InvalidTag):
        code()["decrypt"](new, stored, b"18")


def test_what_was_opened_is_kept_for_a_while(scene: Scene) -> None:
    kept, fresh = scene.keys(), scene.keys(keep_seconds=-1)
    asked = [scene.actions(lambda keys=keys: (keys.version(3), keys.version(3))) for keys in (kept, fresh)]
    assert asked == [["readMetadata", "getSecret"], ["readMetadata", "getSecret"] * 2]


@pytest.mark.usefixtures("unchanged")
def test_versions_on_later_pages_are_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.azure.vault.server.secrets, "page", 1)
    assert [scene.keys().version(number).number for number in (1, 3, NEWEST)] == [1, 3, NEWEST]


@pytest.mark.usefixtures("unchanged")
def test_a_number_that_lies_there_twice_is_read_where_it_lay_first(scene: Scene) -> None:
    """Put again by a late writer, or by somebody who may write and has other material for it."""
    first, secrets = scene.lying()[0], scene.azure.vault.server.secrets
    secrets.put(SECRET, {"value": "AAAA", "tags": first.tags, "contentType": first.content_type})
    created = {v.version: v.created for v in scene.lying()}
    assert len(scene.ids(1)) == 2
    for index, version in enumerate(scene.lying()):  # as outside of tests, where they lie minutes apart
        secrets.live[SECRET].replaced(Put(**{**vars(version), "created": created[version.version] + 600 * index}))
    assert scene.keys().version(1).material == scene.material(1)


@pytest.mark.usefixtures("unchanged")
def test_another_keys_value_and_what_a_person_puts_are_refused(scene: Scene) -> None:
    secrets = scene.azure.vault.server.secrets
    newest = scene.lying()[-1]
    secrets.put("app-stolen-key", {"value": newest.value, "tags": newest.tags, "contentType": newest.content_type})
    with pytest.raises(LookupError, match="none of daena-kms"):
        scene.keys("app-stolen-key").active()
    secrets.put(SECRET, {"value": "by hand"})
    with pytest.raises(LookupError, match="none of daena-kms"):
        scene.keys().active()
    assert scene.keys().version(NEWEST).material == scene.material(NEWEST)


@pytest.mark.usefixtures("unchanged")
def test_the_deployed_reader_role_reads_values_and_by_id_and_cannot_find_a_number(scene: Scene) -> None:
    granted = set(re.findall(r"secrets/(\w+)/action", role("reader")))
    assert granted == {"getSecret"}
    active, first = scene.keys().active(), scene.ids(1)[0]
    scene.azure.vault.server.allowed[FUNCTION] = granted
    assert scene.keys().active() == active
    assert scene.keys().version_by_id(first).material == scene.material(1)
    with pytest.raises(HttpResponseError, match="Forbidden"):
        scene.keys().version(1)


def test_an_adopted_secret_is_read_before_and_after_its_first_rotation(scene: Scene, adopted: str) -> None:
    keys = scene.keys(adopted, "AdoptedKeys", plain={1}, keep_seconds=-1)
    assert (keys.active().number, keys.active().material) == (1, b"written by hand")
    scene.service.adopt(OLD)
    with pytest.raises(LookupError, match="none of daena-kms"):
        scene.keys(adopted).active()
    assert (keys.active().number, keys.active().material) == (1, b"written by hand")
    assert keys.version(1).material == b"written by hand" == scene.material(1, OLD)
    scene.service.compromised(OLD, 1)
    assert (keys.active().number, keys.active().material) == (2, scene.material(2, OLD))
    assert keys.version(1).material == b"written by hand"
    with pytest.raises(LookupError, match="should be in base64"):
        scene.keys(adopted, "AdoptedKeys", plain={7}).version(1)


@pytest.mark.usefixtures("unchanged")
def test_a_secret_that_was_made_with_capitals_is_asked_for_in_lower_case(scene: Scene) -> None:
    secret = PREFIX + OTHER
    scene.azure.vault.server.secrets.put(secret.upper(), {"value": "written by hand"})
    scene.service.adopt(OTHER)
    keys = scene.keys(secret, "AdoptedKeys", plain={1}, keep_seconds=-1)
    assert keys.active().material == b"written by hand"
    scene.service.compromised(OTHER, 1)
    assert (keys.active().number, keys.active().material) == (2, scene.material(2, OTHER))
    assert keys.version(1).material == b"written by hand"


# From the shell.


def test_the_command_lines_open_what_the_store_wrote(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bash = shutil.which("bash") or "bash"
    if missing := [tool for tool in (bash, "jq", "base64", "curl") if shutil.which(tool) is None]:
        pytest.skip(f"not here: {', '.join(missing)}")
    monkeypatch.setattr(scene.azure.vault.server.secrets, "page", 2)
    stand_in = tmp_path / "bin" / "az"
    stand_in.parent.mkdir()
    stand_in.write_text(AZ)
    stand_in.chmod(0o755)
    script = "set -eu\n" + "".join(blocks("sh")).replace(PAGES_SECRET, SECRET)
    script = script.replace(PAGES_VAULT, scene.azure.vault.url)
    assert PAGES_VAULT not in script
    environment = scene.azure.environment() | {
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CURL_CA_BUNDLE": str(scene.azure.vault.certificate),
        "DOUBLES_AUDIENCE": scene.azure.vault.server.audience,
    }
    done = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = {"active.key": NEWEST, "active-over-http.key": NEWEST, "version-3.key": 3, "version-1.key": 1}
    assert {name: (tmp_path / name).read_bytes() for name in expected} == {
        name: scene.material(number) for name, number in expected.items()
    }
    assert (tmp_path / "active.number").read_text() == f"{NEWEST}\n"
    assert not (tmp_path / "header").exists()


def test_the_content_type_that_it_shows_is_the_stores() -> None:
    assert f"\n{azure_layout.content_type(PAGES_SECRET, 3)}\n" in PAGE


# The page for who runs it.


def named(pattern: str) -> set[str]:
    """What the page puts between backquotes, if all of it fits."""
    return {text for text in re.findall(r"`([^`\n]+)`", OPERATORS_PAGE) if re.fullmatch(pattern, text)}


def role(name: str) -> str:
    """A custom role of infra/azure, as text."""
    text = "\n".join(TERRAFORM.values())
    (found,) = re.findall(rf'resource "azurerm_role_definition" "{name}" \{{(.*?)\n\}}', text, re.DOTALL)
    return str(found)


def test_every_error_code_that_is_translated_is_explained() -> None:
    rows = [row for row in OPERATORS_PAGE.splitlines() if row.startswith("| `")]
    listed = [code for row in rows for code in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert {code: listed.count(code) for code in azure_calls._BY_CODE} == dict.fromkeys(azure_calls._BY_CODE, 1)


def test_every_hint_that_it_quotes_is_printed() -> None:
    """The table's second column quotes what is printed; where a name goes in, the page has an ellipsis."""
    printed = {hint.format(name="…") for _, hint in (*azure_calls._BY_CODE.values(), *azure_calls._BY_STATUS.values())}
    printed |= {azure_calls._CREDENTIALS, azure_calls._NETWORK, azure_calls._LATER}
    printed |= {azure_secrets._FOREIGN}
    assert {hint for hint in printed if hint and hint not in plain(OPERATORS_PAGE)} == set()


@pytest.mark.usefixtures("unchanged")
def test_what_it_quotes_of_a_version_that_was_disabled_by_hand_is_printed(scene: Scene) -> None:
    anchor = Anchor(2, "0" * 64, 1, START)
    row = InventoryRow(KEY, "a ledger", 1, anchor, disabled=True)
    told = due.assess(row, KEY, KeyPolicy(), START, Tick())
    assert told.status is Status.FAILED
    assert told.reason.replace("version 1", "version N") in plain(OPERATORS_PAGE)
    assert all(words in plain(OPERATORS_PAGE) for words in told.hint.split("; or "))
    newest = Put(**{**vars(scene.lying()[-1]), "enabled": False})
    scene.azure.vault.server.secrets.live[SECRET].replaced(newest)
    with pytest.raises(RefusedError) as refused:
        scene.service.adopt(KEY)
    assert "would become active, but is disabled" in refused.value.message
    assert "would become active, but is disabled" in plain(OPERATORS_PAGE)
    assert refused.value.hint in plain(OPERATORS_PAGE).lower()


@pytest.mark.usefixtures("unchanged")
def test_adopt_writes_tags_again_that_somebody_took_away(scene: Scene) -> None:
    first = scene.lying()[0]
    scene.azure.vault.server.secrets.live[SECRET].replaced(Put(**{**vars(first), "tags": {"team": "payments"}}))
    with pytest.raises(LookupError, match="no version 1 that can be read"):
        scene.keys().version(1)
    scene.service.adopt(KEY)
    assert scene.keys().version(1).material == scene.material(1)


def plain(text: str) -> str:
    """Text without line breaks."""
    return re.sub(r"\s+", " ", text)


def test_every_data_action_of_the_functions_roles_is_named_and_no_other() -> None:
    needed = {
        action
        for table in (azure.REQUIRED_PERMISSIONS, azure_ledger.REQUIRED_PERMISSIONS)
        for actions in table.values()
        for action in actions
    }
    assert named(r"(?:secrets|blobs)/\w+(?:/action)?") - {"blobs/write"} == needed
    granted = {action for name in ("rotator", "ledger") for action in re.findall(r'"(Microsoft\.[^"]+)"', role(name))}
    assert {re.sub(r"^Microsoft.*/((?:secrets|blobs)/.*)$", r"\1", action) for action in granted} == needed


def test_every_tag_is_explained() -> None:
    assert named(r"daena-kms-[a-z-]+") >= {*azure_layout.OURS, azure_layout.DESTROYED}


def test_every_alert_is_explained_and_its_query_is_the_pages() -> None:
    text = TERRAFORM["alerts"]
    alerts = set(re.findall(r"^ {6}(\w+) = \{$", text, re.MULTILINE))
    assert alerts == {"failed", "overdue", "silent"}
    assert named(r"<name>-[a-z]+") >= {f"<name>-{alert}" for alert in alerts}
    (runs,) = re.findall(r"runs += <<-KQL\n(.*?)\n  KQL", text, re.DOTALL)
    (shown, *_) = blocks("kusto", OPERATORS_PAGE)
    assert [line.strip() for line in runs.splitlines()] == shown.splitlines()[: len(runs.splitlines())]


def test_the_fields_that_its_queries_read_are_what_the_function_writes() -> None:
    shown = "\n".join(blocks("kusto", OPERATORS_PAGE))
    function = (ROOT / "functions" / "azure_function" / "function_app.py").read_text()
    report = Report(START, START, "", (Outcome(KEY, Status.FAILED, "why"),))
    assert set(re.findall(r"run\.metrics\.(\w+)", shown)) <= set(invocation.metrics(report))
    assert {name for name in re.findall(r"run\.(\w+)", shown) if f'"{name}"' not in function} == set()
    assert f'message": "{REPORTED}"' in shown
    assert f'logger.info("{REPORTED}", extra={{"{REPORTED}": piece}})' in function
    assert "outcomes" in documents.report(report)
    assert set(re.findall(r"outcome\.(\w+)", shown)) <= set(Outcome.__struct_fields__)
    assert f"'{Status.FAILED}'" in shown


def test_every_variable_output_and_option_is_explained() -> None:
    variables = set(re.findall(r'^variable "(\w+)"', TERRAFORM["variables"], re.MULTILINE))
    outputs = set(re.findall(r'^output "(\w+)"', TERRAFORM["outputs"], re.MULTILINE))
    assert variables | outputs <= named(r"\w+")
    usage = (ROOT / "infra" / "azure" / "deploy.sh").read_text().partition("TEXT\n}")[0]
    options = set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE)) - {"--help"}
    assert options <= {text.split(" ")[0] for text in named(r"--.+")}


def test_every_metric_is_named() -> None:
    assert set(invocation.metrics(Report(START, START, "", ()))) <= named(r"\w+")


def test_every_event_that_lies_beside_the_function_is_explained() -> None:
    events = {path.name for path in (ROOT / "functions" / "azure_function" / "events").iterdir()}
    assert events == named(r"[a-z-]+\.json") - {"host.json"}


def test_every_setting_that_it_exports_exists_and_both_ways_to_log_in_are_there() -> None:
    exported = set(re.findall(r"^export (\w+)=", OPERATORS_PAGE, re.MULTILINE))
    assert exported
    assert exported <= {setting.name for setting in SETTINGS}
    ours = {setting.name for setting in SETTINGS if setting.name.startswith("AZURE_")}
    assert ours <= exported | named(r"AZURE_\w+")


def test_what_it_says_of_destruction_is_what_the_store_says() -> None:
    assert AzureStore.destruction in plain(OPERATORS_PAGE)


def test_the_limits_that_it_names_are_the_codes() -> None:
    function = (ROOT / "functions" / "azure_function" / "function_app.py").read_text()
    host = json.loads((ROOT / "functions" / "azure_function" / "host.json").read_text())
    assert "PAUSES_SECONDS = (10.0, 60.0)" in function
    assert "after 10 seconds, and after 60" in plain(OPERATORS_PAGE)
    assert "LARGEST_BODY = 64 * 1024" in function
    assert "64 KiB" in OPERATORS_PAGE
    assert host["functionTimeout"] == "00:30:00"
    assert host["logging"]["logLevel"]["Host.Results"] == "Information"
    assert "`Host.Results` must stay at `Information`" in plain(OPERATORS_PAGE)
    (longest,) = re.findall(r"^LONGEST_PIECE, .* = ([\d_]+),", function, re.MULTILINE)
    assert f"at most {int(longest):,} characters" in plain(OPERATORS_PAGE)
    (terraform,) = re.findall(r'required_version = ">= ([\d.]+)"', TERRAFORM["versions"])
    assert f"Terraform {terraform} or newer" in OPERATORS_PAGE
    (timeout,) = (setting.default for setting in SETTINGS if setting.name == "DAENA_CALL_TIMEOUT_SECONDS")
    assert f"(`DAENA_CALL_TIMEOUT_SECONDS`, {timeout})" in plain(OPERATORS_PAGE)
    assert azure_layout.LONGEST_VALUE == 25 * 1024
    assert azure_layout.MOST_TAGS - len(azure_layout.OURS) == 4
    assert "at most 4 tags of your own" in plain(OPERATORS_PAGE)


@pytest.mark.parametrize("name", ["azure.md", "azure-applications.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / name).read_text())
    for link in (link for link in links if not link.startswith("https://")):
        path, _, anchor = link.partition("#")
        page = ROOT / "docs" / (path or name)
        assert page.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, link
