"""Each block of the Cloud KMS Integration Guide, word for word, once: what was run, and what it printed.

    GUIDE=/somewhere/guide.md python -m tests.docs.verbatim

Prints a table in Markdown: the block's number, its first line, whether it was run, only checked, or needs an account,
and the first line of what it printed or of what the check found. Its own steps, which are not the guide's: a policy
file, a key to begin with in each store (the guide reads one first), recipients for the backup, and of the migration its
second step, "see provider sections above", which is AWS's configuration. What its names stand for is in `scenes`.
"""

import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import botocore.session
from botocore.validate import ParamValidator

from tests.support.blocks import Block, blocks

from . import scenes
from .session import ROOT, Ran, Session

RUN, CHECKED, ACCOUNT = "run", "only checked", "needs an account"
KEY = "daena-encryption-key"
POLICY = f"[keys.{KEY}]\n"
_WARNINGS = ("warning:", "hint:", "the manifests lie in", "made new manifests")
_CLOUDS: dict[str, Callable[[Path], AbstractContextManager[scenes.Scene]]] = {
    "aws": lambda _: scenes.aws("us-east-1"),
    "azure": lambda folder: scenes.azure(folder, blobs=False),
    "gcp": lambda _: scenes.gcp("your-project-id", "unused"),
}
_SECTIONS = {
    "aws": "AWS KMS Integration",
    "azure": "Azure Key Vault Integration",
    "gcp": "GCP Secret Manager Integration",
}


class Row(NamedTuple):
    """What became of a block."""

    block: Block
    what: str
    told: str


def trial(page: str, folder: Path) -> Iterator[Row]:
    """Every block of the guide, in the order in which it was tried."""
    left = {block.number: block for block in blocks(page)}
    for tried in (*(_cloud(name, page, folder) for name in _CLOUDS), _anywhere(page, folder), _migration(page, folder)):
        for row in tried:
            if left.pop(row.block.number, None):
                yield row
    for block in left.values():
        yield _not_run(block)


def _of(page: str, section: str) -> list[Block]:
    return [block for block in blocks(page) if block.section == section]


def _configuration(page: str, cloud: str) -> Block:
    return next(block for block in _of(page, _SECTIONS[cloud]) if block.headings[-1] == "Configuration")


@contextmanager
def _session(cloud: str, folder: Path) -> Iterator[Session]:
    place = folder / cloud
    place.mkdir(parents=True)
    with _CLOUDS[cloud](place) as scene:
        session = Session(place / "work", scene.environment, scene.replaced)
        if cloud == "aws":
            _profile(session)
        (session.folder / "Tools").symlink_to(ROOT / "Tools")
        (session.folder / "daena-kms.toml").write_text(POLICY)
        yield session


def _profile(session: Session) -> None:
    """The profile that the guide names, which `aws configure` would have made."""
    told = [session.environment.pop(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        del session.environment[name]
    folder = Path(session.environment["HOME"]) / ".aws"
    folder.mkdir()
    keys = f"aws_access_key_id = {told[0]}\naws_secret_access_key = {told[1]}\n"
    (folder / "credentials").write_text(f"[production]\n{keys}")
    (folder / "config").write_text("[profile production]\n")


def _own(session: Session, command: str) -> None:
    """A step that is not the guide's."""
    ran = session.shell(command)
    if ran.status:
        raise RuntimeError(f"{command}: {ran.printed}")


def _ran(block: Block, ran: Ran) -> Row:
    return Row(block, RUN, _summary(ran))


def _summary(ran: Ran) -> str:
    """How it ended, and the first and the last line that are no warnings."""
    lines = [" ".join(line.split()) for line in ran.printed.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_WARNINGS)]
    ended = "" if ran.status == 0 else f"**status {ran.status}**: "
    if not said:
        return ended + (f"a warning: {lines[0]}" if lines else "nothing, as it should")
    return ended + " … ".join(dict.fromkeys((said[0], said[-1])))


def _cloud(cloud: str, page: str, folder: Path) -> Iterator[Row]:
    """A cloud's section, and what comes before it and is about any cloud."""
    with _session(cloud, folder) as session:
        start = _of(page, "Quick Start") if cloud == "aws" else []
        if start:
            yield _ran(start[0], session.run(start[0]))
        configuration = _configuration(page, cloud)
        yield _ran(configuration, session.run(configuration))
        if start:
            yield _ran(start[1], session.run(start[1]))
        _own(session, f"daena-key-rotate create {KEY}")
        for block in _of(page, _SECTIONS[cloud]):
            if block.language == "python":
                yield _ran(block, session.run(block))


def _anywhere(page: str, folder: Path) -> Iterator[Row]:
    """The service, and cron's command, on AWS as the guide has configured it."""
    with _session("aws", folder / "service") as session:
        session.run(_configuration(page, "aws"))
        for block in _of(page, "Integration with Daena KMS"):
            yield _ran(block, session.run(block))
        for block in _of(page, "Key Rotation Automation"):
            if fields := re.match(r"((?:\S+ ){5})(/usr/bin/python )", block.line):
                cron = session.shell(f"daena-key-rotate schedules '{fields[1].strip()}'").printed.splitlines()
                gap = next(line for line in cron if line.startswith("longest gap"))
                ran = session.shell(block.line.removeprefix(fields[1]).replace(fields[2], f"{sys.executable} "))
                yield Row(block, RUN, f"{gap}; the command, with another interpreter: {_summary(ran)}")


def _migration(page: str, folder: Path) -> Iterator[Row]:
    """Local to AWS, in its own order."""
    with _session("aws", folder / "migration") as session:
        _own(session, f"daena-key-rotate create {KEY}")
        _own(session, "age-keygen -o /media/usb/id.txt")
        _own(session, "export DAENA_BACKUP_RECIPIENTS=$(age-keygen -y /media/usb/id.txt)")
        first, *rest = _of(page, "Migration Guide")
        yield _ran(first, session.run(first))
        session.run(_configuration(page, "aws"))
        for block in rest:
            yield _ran(block, session.run(block))


def _not_run(block: Block) -> Row:
    """What nobody can run here: what can be said of it."""
    if block.language == "json":
        return Row(block, CHECKED, _said_of(json.loads(block.text)))
    if block.line.startswith("pip install"):
        missing = [name for name in block.line.split()[2:] if not _installed(name)]
        return Row(block, CHECKED, f"not installed: {missing}" if missing else "no package index here; it is installed")
    return Row(block, ACCOUNT, "")


def _said_of(document: dict[str, object]) -> str:
    if "Statement" in document:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parliament imports pkg_resources, which says that it will go
            import parliament  # noqa: PLC0415

            found = parliament.analyze_policy_string(json.dumps(document)).findings
        issues = ", ".join(str(each.issue) for each in found)
        return f"a policy in form, but for {issues}; it grants no secretsmanager: and no s3: action"
    shape = botocore.session.get_session().get_service_model("scheduler").operation_model("CreateSchedule").input_shape
    report = str(ParamValidator().validate(document, shape).generate_report())
    return report.partition(", must be")[0].replace("\n", "; ")


def _installed(name: str) -> bool:
    return any(ROOT.glob(f".venv/lib/python*/site-packages/{name.replace('-', '_')}-*.dist-info"))


def main() -> int:
    """Print the table; 2 if there is no guide."""
    path = Path(os.environ.get("GUIDE", ""))
    if not path.is_file():
        print("set GUIDE to the path of the guide", file=sys.stderr)
        return 2
    print("| block | first line | | printed, or found |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="daena-guide-") as folder:
        for row in trial(path.read_text(), Path(folder)):
            told = row.told.replace("|", "\\|")
            print(f"| {row.block.number} | `{row.block.line}` | {row.what} | {told} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
