"""What `docs/gcp-applications.md` tells applications to do works, word for word, on what the GCP store writes.

And what `docs/gcp.md` lists is what there is. The command lines run with gcloud itself, where one is installed;
elsewhere with a stand-in (`GCLOUD` below) that has the options and the output that the page's lines use.
"""

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
from cryptography.exceptions import InvalidTag
from google.api_core.exceptions import FailedPrecondition, NotFound, PermissionDenied
from google.cloud.secretmanager_v1.types import service

from daena_kms import invocation
from daena_kms.fleet import Limits, Report
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.service import Service
from daena_kms.settings import SETTINGS
from daena_kms.stores import anchors, gcp, gcp_calls, gcp_layout, gcp_ledger, gcp_secrets
from daena_kms.stores.base import Permissions
from tests.support.gcp_scene import NAME as SECRET
from tests.support.gcp_scene import Scene as Project
from tests.support.gcp_world import FUNCTION, PREFIX
from tests.support.gsm_service import Grant
from tests.support.worlds import KEY, START

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gcp-applications.md").read_text()
OPERATORS_PAGE = (ROOT / "docs" / "gcp.md").read_text()
TERRAFORM = {path.stem: path.read_text() for path in (ROOT / "infra" / "gcp").glob("*.tf")}
PAGES_SECRET, PAGES_PROJECT = "daena-daena-encryption-key", "acme-keys-4711"
PAGES_HOST = "https://secretmanager.googleapis.com"
READER = "app@daena-demo.iam.gserviceaccount.com"
OLD = "billing-archive-key"
# Somebody put version 2's material on top, as the 4th: so 3 was published again, and ids and numbers are not the same.
IDS = {1: [1], 2: [2], 3: [3, 5], 4: [6]}
DISABLED, NEWEST = 1, 4

# What the page asks of `gcloud`, by Google's own replies over HTTP.
GCLOUD = f"""#!{sys.executable}
import argparse, base64, json, os, pathlib, sys, urllib.request
words = sys.argv[1:]
verb = words[:next((place for place, word in enumerate(words) if word.startswith("--")), len(words))]
options = argparse.ArgumentParser()
for name in ("secret", "project", "format", "out-file"):
    options.add_argument("--" + name)
asked = options.parse_args(words[len(verb):])
token = pathlib.Path(os.environ["CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"]).read_text()
def get(path):
    url = os.environ["CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER"] + f"v1/projects/{{asked.project}}/secrets/"
    request = urllib.request.Request(url + path, headers={{"Authorization": "Bearer " + token}})
    return json.load(urllib.request.urlopen(request))
if verb == ["auth", "print-access-token"]:
    print(token)
elif verb[:2] == ["secrets", "describe"]:
    print(json.dumps(get(verb[2])))
else:
    assert verb[:3] == ["secrets", "versions", "access"]
    got = get(f"{{asked.secret}}/versions/{{verb[3]}}:access")
    if asked.out_file:
        pathlib.Path(asked.out_file).write_bytes(base64.b64decode(got["payload"]["data"]))
    else:
        got["payload"]["data"] = got["payload"]["data"].replace("+", "-").replace("/", "_")
        print(json.dumps(got))
"""


class Scene(NamedTuple):
    """KEY has some versions; one of them is disabled."""

    gcp: Project
    service: Service

    def material(self, number: int, key: str = KEY) -> bytes:
        """What our own library opens."""
        found = self.service.get(key, number, reveal=True).material
        assert found is not None
        return found.reveal()

    def keys(self, secret: str = SECRET, **more: Any) -> Any:
        """What an application makes of the page's class."""
        client = self.gcp.double.client(READER)
        return code()["Keys"](self.gcp.double.project_id, secret, client=client, **more)

    def allow(self, grant: Grant) -> None:
        """From now on the application may do no more than that; daena-kms may do everything."""
        self.gcp.google.allowed |= {READER: grant, FUNCTION: lambda *_: True}


@pytest.fixture(scope="module")
def scene() -> Scene:
    project = Project()
    policies = {KEY: KeyPolicy(create=True), OLD: KeyPolicy()}
    tools = project.service().tools
    service = Service(tools, RotationPolicy(policies, "digest"), tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)
    for _ in range(3):
        project.rotate()
        project.pass_(days=91)
    project.put(project.lying()[1][2])  # an older one on top
    project.rotate()  # publishes the active one again, and rotates it: it is due
    service.disable(KEY, DISABLED)
    return Scene(project, service)


@pytest.fixture
def unchanged(scene: Scene) -> Iterator[None]:
    """What a test does to the project is undone."""
    restore = scene.gcp.held.saved()
    yield
    restore()
    scene.gcp.google.allowed.clear()


@cache
def code() -> dict[str, Any]:
    """Everything that the page's Python defines."""
    defined: dict[str, Any] = {"__name__": "page"}
    for block in blocks("python"):
        exec(compile(block, "docs/gcp-applications.md", "exec"), defined)  # noqa: S102  # our own page
    return defined


def blocks(language: str, page: str = PAGE) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    return found


# In Python.


def test_ids_and_numbers_are_not_the_same_here(scene: Scene) -> None:
    told = scene.gcp.numbers()
    assert {number: [v for v, n in sorted(told.items()) if n == number] for number in IDS} == IDS
    assert len(scene.gcp.lying()) == max(max(ids) for ids in IDS.values())


def test_the_active_version_is_what_the_library_has(scene: Scene) -> None:
    active = scene.keys().active()
    assert (active.id, active.material) == (IDS[NEWEST][0], scene.material(NEWEST))


def test_every_earlier_version_opens_by_its_id(scene: Scene) -> None:
    keys = scene.keys()
    found = {number: [keys.version(each).material for each in ids] for number, ids in IDS.items() if number != DISABLED}
    assert found == {number: [scene.material(number)] * len(IDS[number]) for number in found}


def test_every_version_opens_by_its_number(scene: Scene) -> None:
    keys = scene.keys()
    for number in (2, 3, NEWEST):
        assert (keys.number(number).id, keys.number(number).material) == (IDS[number][0], scene.material(number))


def test_what_cannot_be_read_says_why(scene: Scene) -> None:
    keys = scene.keys()
    with pytest.raises(FailedPrecondition):
        keys.version(IDS[DISABLED][0])
    with pytest.raises(FailedPrecondition):
        keys.number(DISABLED)
    with pytest.raises(NotFound):
        keys.version(7)
    with pytest.raises(NotFound):
        scene.keys("app-no-such-key").active()
    with pytest.raises(LookupError, match="does not tell where its version 5 is"):
        keys.number(5)


def test_what_was_encrypted_before_a_rotation_decrypts_after_it(scene: Scene) -> None:
    keys, new = scene.keys(), scene.keys(keep_seconds=-1)
    keys._kept["latest"] = (float("inf"), keys.version(IDS[2][0]))  # a process that read it long ago
    stored = code()["encrypt"](keys, b"invoice 17", b"17")
    assert code()["decrypt"](new, stored, b"17") == b"invoice 17"
    assert code()["decrypt"](new, code()["encrypt"](new, b"invoice 18", b"18"), b"18") == b"invoice 18"
    with pytest.raises(InvalidTag):
        code()["decrypt"](new, stored, b"18")


def test_what_was_read_is_kept_for_a_while(scene: Scene) -> None:
    kept, fresh = scene.keys(), scene.keys(keep_seconds=-1)
    access = f"AccessSecretVersion {SECRET}/3"
    assert scene.gcp.actions(lambda: [kept.version(3) for _ in range(2)]) == [access]
    assert scene.gcp.actions(lambda: [fresh.version(3) for _ in range(2)]) == [access] * 2


@pytest.mark.usefixtures("unchanged")
def test_old_reads_hide_numbers_and_the_newest_and_mislead_nobody(scene: Scene) -> None:
    """As right after a rotation: `latest` is the one before, and says so; an id opens what it always opened."""
    scene.gcp.pass_(hours=3)
    scene.gcp.held.add(SECRET, _payload(b"the next one"))
    scene.gcp.held.staleness = 3600.0
    active, newest = scene.keys().active(), scene.keys().version(7)
    scene.gcp.held.staleness = 0.0
    assert (active.id, active.material) == (IDS[NEWEST][0], scene.material(NEWEST))
    assert newest.material == b"the next one"


@pytest.mark.usefixtures("unchanged")
def test_an_active_version_that_was_disabled_by_hand_is_refused(scene: Scene) -> None:
    scene.gcp.switch(IDS[NEWEST][0], "disable")
    with pytest.raises(FailedPrecondition):
        scene.keys().active()


@pytest.mark.usefixtures("unchanged")
def test_a_reply_that_is_damaged_or_about_another_version_is_not_believed(scene: Scene) -> None:
    first, keys = scene.keys().version(2), scene.keys()
    keys._kept["3"] = (float("inf"), first)
    with pytest.raises(LookupError, match="asked for version 3"):
        keys.version(3)
    reply = scene.gcp.double.client(READER).access_secret_version(name=f"{keys._secret}/versions/2")
    reply.payload.data = b"damaged"
    keys._client = type("Client", (), {"access_secret_version": lambda *_, **__: reply})()
    with pytest.raises(ValueError, match="came damaged"):
        keys.version(2)


def test_an_adopted_secret_is_read_before_and_after_its_first_rotation(scene: Scene) -> None:
    name = PREFIX + OLD
    scene.gcp.put(b"written by hand", name=name)
    keys = scene.keys(name, keep_seconds=-1)
    assert keys.active() == (1, b"written by hand")
    scene.service.adopt(OLD)
    assert keys.active() == (1, b"written by hand") == (1, scene.material(1, OLD))
    scene.service.compromised(OLD, 1)
    assert keys.active() == (2, scene.material(2, OLD))
    assert (len(keys.active().material), keys.version(1).material) == (32, b"written by hand")


# Rights.


@pytest.mark.usefixtures("unchanged")
def test_the_deployed_reader_role_is_enough_for_all_but_numbers(scene: Scene) -> None:
    (granted,) = re.findall(
        r'"google_project_iam_custom_role" "reader" \{.*?permissions = \[(.*?)\]', text(), re.DOTALL
    )
    role = {permission.strip(' "') for permission in granted.split(",")}
    assert role == {"secretmanager.versions.access"} <= named(r"secretmanager\.[a-z.]+", PAGE)
    scene.allow(lambda permission, resource: permission in role and _on(resource, SECRET))
    keys = scene.keys()
    assert keys.active().id == IDS[NEWEST][0]
    assert keys.version(2).material == scene.material(2)
    with pytest.raises(PermissionDenied):
        keys.number(2)
    scene.allow(role | {"secretmanager.secrets.get"})
    assert keys.number(2).material == scene.material(2)


@pytest.mark.usefixtures("unchanged")
def test_the_condition_for_all_keys_leaves_out_what_is_staged_and_what_is_reserved(scene: Scene) -> None:
    (condition,) = re.findall(r"reader_condition = (.*)", TERRAFORM["secrets"])
    assert 'startsWith(\\"${local.secrets}${var.key_prefix}\\")' in condition
    assert 'extract(\\"/secrets/{name}/versions/\\").endsWith(\\"--staged\\")' in condition

    def let_through(permission: str, resource: str) -> bool:
        secret = resource.split("/")[3] if "/versions/" in resource else ""
        return permission.endswith("versions.access") and secret.startswith(PREFIX) and not secret.endswith("--staged")

    scene.allow(let_through)
    assert scene.keys().active().id == IDS[NEWEST][0]
    for name in (f"{SECRET}--staged", f"reserved--{PREFIX}manifest-keys"):
        assert scene.gcp.there(name)
        with pytest.raises(PermissionDenied):
            scene.keys(name).active()


# From the shell.


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("which", ["gcloud", "stand-in"])
def test_the_command_lines_open_what_the_store_wrote(scene: Scene, tmp_path: Path, which: str) -> None:
    bash = shutil.which("bash") or "bash"
    if missing := [tool for tool in (bash, "jq", "base64", "curl") if shutil.which(tool) is None]:
        pytest.skip(f"not here: {', '.join(missing)}")
    if which == "gcloud" and shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed: the page's lines ran with a stand-in alone")
    stand_in = tmp_path / "bin" / "gcloud"
    stand_in.parent.mkdir()
    if which == "stand-in":
        stand_in.write_text(GCLOUD)
        stand_in.chmod(0o755)
    script = "set -eu\n" + "".join(blocks("sh")).replace(PAGES_SECRET, SECRET)
    script = script.replace(PAGES_PROJECT, scene.gcp.double.project_id).replace(PAGES_HOST, scene.gcp.double.rest.url)
    assert not [theirs for theirs in (PAGES_SECRET, PAGES_PROJECT, PAGES_HOST) if theirs in script]
    reader = scene.gcp.double.gcloud_environment(READER)
    environment = reader | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    scene.service.enable(KEY, DISABLED)  # the lines read the first one too
    done = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    scene.service.disable(KEY, DISABLED)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    expected = {"active.key": NEWEST, "active-over-http.key": NEWEST, "version-2.key": 2, "number-3.key": 3}
    expected |= {"version-1.key": 1}
    assert {name: (tmp_path / name).read_bytes() for name in expected} == {
        name: scene.gcp.lying()[IDS[number][0] - 1][2] for name, number in expected.items()
    }
    for name in ("active.id", "active-over-http.id"):
        assert (tmp_path / name).read_text() == f"{IDS[NEWEST][0]}\n"
    left = {path.name for path in tmp_path.iterdir()} - {"bin", *expected, "active.id", "active-over-http.id"}
    assert [name for name in left if name.endswith(".json") or name == "header"] == []


def test_a_number_that_is_not_told_stops_the_lines(scene: Scene, tmp_path: Path) -> None:
    if missing := [tool for tool in ("bash", "jq") if shutil.which(tool) is None]:
        pytest.skip(f"not here: {', '.join(missing)}")
    (block,) = (block for block in blocks("sh") if block.startswith("number=3"))
    stand_in = tmp_path / "gcloud"
    stand_in.write_text(GCLOUD)
    stand_in.chmod(0o755)
    given = f"set -eu\nsecret={SECRET} project={scene.gcp.double.project_id}\n"
    environment = scene.gcp.double.gcloud_environment(READER) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = given + block.replace("number=3", "number=9")
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607  # whichever bash the reader has
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "version 9 is not there, or not told yet" in done.stderr


# The page for who runs it.


def named(pattern: str, page: str = OPERATORS_PAGE) -> set[str]:
    """What the page puts between backquotes, if all of it fits."""
    return {found for found in re.findall(r"`([^`\n]+)`", page) if re.fullmatch(pattern, found)}


def text() -> str:
    """All of infra/gcp."""
    return "\n".join(TERRAFORM.values())


def plain(page: str) -> str:
    """Text without line breaks."""
    return re.sub(r"\s+", " ", page)


def test_every_hint_of_the_calls_is_quoted() -> None:
    """The table's second column quotes what is printed."""
    printed = {hint for _, _, hint in gcp_calls._BY_CLASS}
    printed |= {gcp_calls._CREDENTIALS, gcp_calls._ENABLE, gcp_calls._NETWORK, gcp_calls._LATER, gcp_secrets._FOREIGN}
    assert {hint for hint in printed if hint and hint not in plain(OPERATORS_PAGE)} == set()


def test_every_code_that_is_translated_is_explained() -> None:
    """By gRPC's word for it, or by the status where it comes over HTTP alone."""
    rows = " ".join(row.split("|")[1] for row in OPERATORS_PAGE.splitlines() if row.startswith("| "))
    for kind, _, _ in gcp_calls._BY_CLASS:
        code = gcp_calls.translate(kind("said"), "get of it").message.split(": ")[1]
        assert (f"({code})" if code.isdigit() else f"`{code}`") in rows, kind


def test_every_message_about_credentials_is_explained() -> None:
    for _, _, message in gcp_calls._AUTH:
        assert message in plain(OPERATORS_PAGE), message


def test_every_permission_of_the_functions_roles_is_named_and_no_other() -> None:
    tables: list[Permissions] = [gcp.REQUIRED_PERMISSIONS, gcp_ledger.REQUIRED_PERMISSIONS]
    needed = {permission for table in tables for permissions in table.values() for permission in permissions}
    assert named(r"(?:secretmanager|storage)\.[a-z]+\.[a-z]+") - {"storage.objects.delete"} == needed
    granted = set(re.findall(r'"((?:secretmanager|storage)\.(?!googleapis)[a-z]+\.[a-z]+)"', text()))
    assert granted == needed


def test_every_annotation_and_label_is_explained() -> None:
    ours = {
        gcp_layout.LEDGER,
        gcp_layout.NUMBERS,
        gcp_layout.STAGED,
        *(gcp_layout.TAG + name for name in anchors.FIELDS),
    }
    assert ours <= named(r"daena-kms-[a-z-]+")
    assert {gcp_layout.LABEL, gcp_layout.KEY, gcp_layout.COPY, "reserved"} <= named(r"[a-z-]+")
    assert gcp_layout.NUMBERS in named(r"daena-kms-[a-z-]+", PAGE)


def test_every_alert_is_explained_and_its_filter_is_the_pages() -> None:
    alerts = {*re.findall(r"^ {4}(\w+) = \{$", TERRAFORM["alerts"], re.MULTILINE), "silent"} - {"figures"}
    assert {"failed", "overdue", "silent"} <= alerts
    assert {f"NAME: {alert}" for alert in alerts} == named(r"NAME: [a-z]+")
    (logged,) = re.findall(r'logged += "(.*)"\n', TERRAFORM["alerts"])
    (ran,) = re.findall(r'ran = "(.*)"\n', TERRAFORM["alerts"])
    runs = ran.replace("${local.logged}", logged).replace('\\"', '"').replace("${var.name}", "daena-kms")
    shown, hints, _ = (block.strip() for block in blocks("logging", OPERATORS_PAGE))
    assert shown == runs
    assert hints.startswith(logged.replace('\\"', '"').replace("${var.name}", "daena-kms"))
    metrics = 1 + len(re.findall(r"^ {4}[a-z-]+ += \{ field", TERRAFORM["alerts"], re.MULTILINE))
    assert (len(alerts), metrics) == (5, 8)
    assert "five alerts, eight metrics" in OPERATORS_PAGE


def test_every_variable_output_and_option_is_explained() -> None:
    variables = set(re.findall(r'^variable "(\w+)"', TERRAFORM["variables"], re.MULTILINE))
    outputs = set(re.findall(r'^output "(\w+)"', TERRAFORM["outputs"], re.MULTILINE))
    assert variables | outputs <= named(r"\w+")
    usage = (ROOT / "infra" / "gcp" / "deploy.sh").read_text().partition("What Terraform makes")[0]
    options = set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE)) - {"--help"}
    assert options
    assert options <= {found.split(" ")[0] for found in named(r"--.+")}


def test_every_metric_and_event_is_named() -> None:
    assert set(invocation.metrics(Report(START, START, "", ()))) <= named(r"\w+")
    events = {path.name for path in (ROOT / "functions" / "gcp_function" / "events").iterdir()}
    assert events == named(r"[a-z-]+\.json")


def test_every_status_that_the_function_answers_is_explained() -> None:
    function = (ROOT / "functions" / "gcp_function" / "main.py").read_text()
    answered = set(re.findall(r"_(?:refused|response)\((\d{3})", function)) | {"200"}
    assert answered == {"200", "400", "405", "413", "500"}
    listed = {code for row in re.findall(r"^\| ([\d, ]+) \|", OPERATORS_PAGE, re.MULTILINE) for code in row.split(", ")}
    assert listed == answered | {"401", "403"}


def test_every_setting_that_it_exports_exists_and_each_of_gcp_is_there() -> None:
    exported = set(re.findall(r"^export (\w+)=", OPERATORS_PAGE, re.MULTILINE))
    assert exported
    assert exported <= {setting.name for setting in SETTINGS}
    ours = {setting.name for setting in SETTINGS if setting.name.startswith(("GCP_", "GOOGLE_"))}
    assert ours <= exported | named(r"(?:GCP|GOOGLE)_\w+")


def test_the_limits_that_it_names_are_the_codes() -> None:
    function = (ROOT / "functions" / "gcp_function" / "main.py").read_text()
    assert "64 * 1024" in function
    a_minute = gcp_secrets.WRITES * 60 / gcp_secrets.WRITES_PER_SECONDS
    assert 560 <= a_minute < 600
    assert 140 <= a_minute // 4 <= 150
    assert (gcp_secrets.OF_ONE_SECRET, gcp_secrets.OF_ONE_PER_SECONDS) == (2, 1.0)
    assert (gcp_layout.MOST_PAYLOAD_BYTES, gcp_layout.MOST_ANNOTATION_BYTES) == (64 * 1024, 16 * 1024)
    assert gcp_layout.MOST_ANNOTATION_BYTES - gcp_layout.ROOM == 14 * 1024
    assert gcp_layout.LONGEST_LEDGER == 512
    for told in ("600 a minute", "at most 150 keys a minute", "64 KiB", "16 KiB", "at most 14", "512 characters"):
        assert told in OPERATORS_PAGE, told
    (silence,) = re.findall(r"silence = \((.*)\) \* 60", TERRAFORM["alerts"])
    assert silence == "2 * var.tick_minutes + 15"
    assert "135 minutes" in OPERATORS_PAGE
    assert re.search(r"retry_count += 2\n", TERRAFORM["function"])


@pytest.mark.parametrize("name", ["gcp.md", "gcp-applications.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / name).read_text())
    for link in (link for link in links if not link.startswith("https://")):
        path, _, anchor = link.partition("#")
        page = ROOT / "docs" / (path or name)
        assert page.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, link


def _on(resource: str, secret: str) -> bool:
    """Whether a resource is that secret or a version of it."""
    return resource.split("/")[3:4] == [secret]


def _payload(data: bytes) -> Any:
    request = service.AddSecretVersionRequest(payload={"data": data})
    return service.AddSecretVersionRequest.pb(request)
