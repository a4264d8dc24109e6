"""What `docs/aws-applications.md` tells applications to do works, word for word, on what the AWS store writes.

And what `docs/aws.md` lists is what there is.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidTag

from daena_kms import invocation
from daena_kms.fleet import Limits, Report
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.service import Service
from daena_kms.settings import SETTINGS
from daena_kms.stores import aws_calls
from tests.infra import aws_template
from tests.support.aws_world import PREFIX, Account, account
from tests.support.worlds import BACKENDS, KEY, START, Clock, World, seeded

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "aws-applications.md").read_text()
OPERATORS_PAGE = (ROOT / "docs" / "aws.md").read_text()
AWS_CLI = ROOT / ".venv" / "tools" / "awscli" / "bin" / "aws"
SECRET, PAGES_SECRET = PREFIX + KEY, "daena-daena-encryption-key"
OLD = "billing-archive-key"
DISABLED, NEWEST = 5, 18


class Scene(NamedTuple):
    """KEY has so many versions that the oldest lie in an archive; one of them is disabled."""

    aws: Account
    service: Service

    def material(self, number: int, key: str = KEY) -> bytes:
        """What our own library opens."""
        found = self.service.get(key, number, reveal=True).material
        assert found is not None
        return found.reveal()

    def keys(self, secret: str = SECRET, kind: str = "Keys", **more: Any) -> Any:
        """What an application makes of the page's class."""
        return code()[kind](secret, self.aws.key, **more)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    clock = Clock()
    world = World(BACKENDS["aws"](tmp_path_factory.mktemp("aws"), clock, seeded()), clock)
    policies = {KEY: KeyPolicy(create=True), OLD: KeyPolicy()}
    service = Service(
        world.service().tools, RotationPolicy(policies, "digest"), tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0
    )
    for _ in range(NEWEST):
        world.rotate()
        clock.move(days=91)
    service.disable(KEY, DISABLED)
    return Scene(account(), service)


@pytest.fixture
def adopted(scene: Scene) -> str:
    """A secret with a past of its own, taken in."""
    name = PREFIX + OLD
    scene.aws.aws.client("secretsmanager").call("create_secret", name, Name=name, SecretString="written by hand")
    scene.service.adopt(OLD)
    return name


@cache
def code() -> dict[str, Any]:
    """Everything that the page's Python defines."""
    defined: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "docs/aws-applications.md", "exec"), defined)  # noqa: S102  # our own page
    return defined


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found


# In Python.


def test_the_active_version_is_what_the_library_has(scene: Scene) -> None:
    assert scene.keys().active() == (NEWEST, scene.material(NEWEST))


def test_every_earlier_version_opens_by_its_number(scene: Scene) -> None:
    keys = scene.keys()
    for number in (2, 3, 4, 16, 17, NEWEST):
        assert keys.version(number) == scene.material(number), number


def test_a_version_in_the_archive_opens_by_its_number(scene: Scene) -> None:
    with pytest.raises(LookupError):
        scene.keys()._get("v1", [SECRET])  # it is not in the secret itself any more
    assert scene.keys().version(1) == scene.material(1)


def test_a_disabled_version_is_refused_and_one_that_never_was_too(scene: Scene) -> None:
    for number in (DISABLED, NEWEST + 1, 1000):
        with pytest.raises(LookupError, match=rf"no version v{number} that can be read"):
            scene.keys().version(number)


def test_what_was_encrypted_before_a_rotation_decrypts_after_it(scene: Scene) -> None:
    keys, new = scene.keys(), scene.keys(keep_seconds=-1)
    keys._kept["AWSCURRENT"] = (float("inf"), 1, scene.material(1))  # a process that read it long ago
    stored = code()["encrypt"](keys, b"invoice 17", b"17")
    assert code()["decrypt"](new, stored, b"17") == b"invoice 17"
    assert code()["decrypt"](new, code()["encrypt"](new, b"invoice 18", b"18"), b"18") == b"invoice 18"
    with pytest.raises(InvalidTag):
        code()["decrypt"](new, stored, b"18")


def test_what_was_opened_is_kept_for_a_while(scene: Scene) -> None:
    kept, fresh = scene.keys(), scene.keys(keep_seconds=-1)
    asked = [calls(keys, lambda keys=keys: (keys.version(3), keys.version(3))) for keys in (kept, fresh)]
    assert asked == [["GetSecretValue", "Decrypt"], ["GetSecretValue", "Decrypt"] * 2]


def calls(keys: Any, work: Any) -> list[str]:
    """The operations that `work` asks AWS for."""
    made: list[str] = []
    for client in (keys._secrets, keys._kms):
        client.meta.events.register("before-call", lambda model, **_: made.append(model.name))
    work()
    return made


@pytest.fixture
def stolen(scene: Scene) -> Iterator[str]:
    """A secret whose current value is another key's sound envelope, put there by somebody who may write."""
    secrets, name = scene.aws.aws.client("secretsmanager"), PREFIX + "stolen-key"
    value = secrets.call("get_secret_value", SECRET, SecretId=SECRET)["SecretString"]
    secrets.call("create_secret", name, Name=name, SecretString=value)
    yield name
    secrets.call("delete_secret", name, SecretId=name, ForceDeleteWithoutRecovery=True)


def test_another_keys_envelope_does_not_open(scene: Scene, stolen: str) -> None:
    with pytest.raises(ClientError, match="InvalidCiphertextException"):
        scene.keys(stolen).active()


def test_another_versions_envelope_does_not_open(scene: Scene) -> None:
    keys = scene.keys()
    value = keys._read("v3", [SECRET])
    assert keys._open("v3", value)[1] == scene.material(3)
    with pytest.raises(ClientError, match="InvalidCiphertextException"):
        keys._open("v4", value)


def test_another_kms_key_does_not_open(scene: Scene) -> None:
    other = scene.aws.aws.client("kms").call("create_key", "another key")["KeyMetadata"]["Arn"]
    with pytest.raises(ClientError, match="IncorrectKeyException"):
        code()["Keys"](SECRET, other).active()


def test_a_secret_without_a_version_of_ours_is_refused(scene: Scene) -> None:
    with pytest.raises(LookupError, match="no envelope"):
        scene.keys(f"{SECRET}--archive-1").active()  # an archive has no current version


def test_an_adopted_secret_is_read_before_and_after_its_first_rotation(scene: Scene, adopted: str) -> None:
    keys = scene.keys(adopted, "AdoptedKeys", plain={1}, keep_seconds=-1)
    with pytest.raises(LookupError, match="no envelope"):
        scene.keys(adopted).active()
    assert keys.active() == (1, b"written by hand")
    assert keys.version(1) == b"written by hand" == scene.material(1, OLD)
    scene.service.compromised(OLD, 1)
    assert keys.active() == (2, scene.material(2, OLD))
    assert keys.version(1) == b"written by hand"
    with pytest.raises(LookupError, match="should be wrapped"):
        scene.keys(adopted, "AdoptedKeys", plain={7}).version(1)


# From the shell.


def test_the_command_lines_open_what_the_store_wrote(scene: Scene, tmp_path: Path) -> None:
    bash = shutil.which("bash") or "bash"
    if missing := [tool for tool in (str(AWS_CLI), bash, "jq", "base64") if shutil.which(tool) is None]:
        pytest.skip(f"not here: {', '.join(missing)}; `make .venv/tools/awscli/ready` installs the AWS CLI")
    script = "set -eu\n" + "".join(blocks("sh")).replace(PAGES_SECRET, SECRET)
    environment = scene.aws.environment() | {"PATH": f"{AWS_CLI.parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = {"active.key": NEWEST, "version-3.key": 3, "version-1.key": 1}
    assert {name: (tmp_path / name).read_bytes() for name in expected} == {
        name: scene.material(number) for name, number in expected.items()
    }
    envelope = json.loads((tmp_path / "envelope.json").read_text())
    explained = re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE)
    assert list(envelope) == explained


# Rights.


def test_the_policy_that_it_shows_is_the_templates() -> None:
    (shown,) = blocks("json")
    made = aws_template.stack(KeyPrefix="daena-")["ReaderPolicy"]["Properties"]["PolicyDocument"]
    assert neutral(json.loads(shown)) == neutral(made)


def neutral(policy: Any) -> Any:
    """A policy without what differs from account to account."""
    text = json.dumps(policy)
    text = re.sub(r"arn:aws(-cn)?:(\w+):[\w-]+:\d+:", r"arn:\2:", text)
    return json.loads(re.sub(r'"arn:kms:key/[^"]+"|"[^"]*WrappingKey[^"]*"', '"the key"', text))


# The page for who runs it.


def named(pattern: str) -> set[str]:
    """What the page puts between backquotes, if all of it fits."""
    return {text for text in re.findall(r"`([^`\n]+)`", OPERATORS_PAGE) if re.fullmatch(pattern, text)}


def test_every_error_code_that_is_translated_is_explained() -> None:
    codes = {*aws_calls._BY_CODE, *aws_calls._REQUEST_IS_WRONG}
    rows = [row for row in OPERATORS_PAGE.splitlines() if row.startswith("| `")]
    listed = [code for row in rows for code in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert {code: listed.count(code) for code in codes} == dict.fromkeys(codes, 1)


def test_every_alarm_is_explained() -> None:
    resources = aws_template.stack().values()
    alarms = {r["Properties"]["AlarmName"] for r in resources if r["Type"] == "AWS::CloudWatch::Alarm"}
    assert {name.replace("<stack>", aws_template.STACK) for name in named(r"<stack>-[a-z-]+")} >= alarms
    assert f"{len(alarms)} alarms" in OPERATORS_PAGE


def test_every_parameter_and_option_is_explained() -> None:
    assert set(aws_template.parameters(aws_template.shipped())) <= named(r"\w+")
    usage = (ROOT / "infra" / "aws" / "deploy.sh").read_text().partition("TEXT\n}")[0]
    options = set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE)) - {"--help"}
    assert options <= {text.split(" ")[0] for text in named(r"--.+")}


def test_every_metric_is_named() -> None:
    made = set(invocation.metrics(Report(START, START, "", ())))
    assert made <= named(r"\w+")
    assert f"{len(made)} metrics" in OPERATORS_PAGE


def test_every_event_that_lies_beside_the_function_is_explained() -> None:
    events = {path.name for path in (ROOT / "functions" / "aws_lambda" / "events").iterdir()} - {"scheduler.json"}
    assert events == named(r"[a-z-]+\.json") - {"daena-kms.json"}


def test_every_setting_that_it_exports_exists() -> None:
    exported = set(re.findall(r"^export (\w+)=", OPERATORS_PAGE, re.MULTILINE))
    assert exported
    assert exported <= {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("name", ["aws.md", "aws-applications.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / name).read_text()):
        path, _, anchor = link.partition("#")
        page = ROOT / "docs" / (path or name)
        assert page.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, link
