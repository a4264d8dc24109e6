"""A machine on which `infra/*/deploy.sh` of a Terraform cloud runs: little on its PATH, and accounts that are stubs."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from infra.bundle import Target

from .bundles import copy_checkout
from .terraform import ROOT, Cloud

# All that a script may need of a machine. No cloud's command, no terraform, nothing else.
COMMANDS = ("cat", "dirname", "env", "grep", "mv", "rm", "sed", "sh", "tr", "wc")
STUB = """#!/bin/sh
name=${0##*/}
printf '%s\\n' "$name $*" >>"$CALLS"
case "$name $*" in
    "az account show"* | "gcloud projects describe"*) [ -z "${NO_CREDENTIALS-}" ] || exit 1 ;;
    "gcloud auth application-default"*) [ -z "${NO_DEFAULT_CREDENTIALS-}" ] || exit 1 ;;
    *" apply"*) exit "${APPLY_EXIT:-0}" ;;
    *"output -raw "*) printf '%s' "the-${*##* }" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A checkout with a virtual environment. `tools` are the programs that are stubs, `needed` what always is given."""

    cloud: Cloud
    tools: tuple[str, ...]
    needed: tuple[str, ...]
    folder: Path

    @property
    def checkout(self) -> Path:
        return self.folder / "a checkout"

    @property
    def policy(self) -> Path:
        return self.checkout / "examples" / "daena-kms.toml"

    @property
    def variables(self) -> Path:
        """Where what was given is kept, for Terraform and for the next time."""
        return self.checkout / "infra" / self.cloud.name / "given.auto.tfvars.json"

    @property
    def archive(self) -> Path:
        return self.checkout / "build" / "bundles" / f"{self.cloud.name}.zip"

    def deploy(self, *options: str, tools: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        theirs = ("AZ", "TERRA", "ARM", "GCLOUD", "GOOGLE", "CLOUDSDK")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        variables |= {"PATH": str(self.folder / "bin"), "CALLS": str(self.folder / "calls")}
        if tools:
            variables |= {name.upper(): str(self.folder / "stubs" / name) for name in self.tools}
        return subprocess.run(
            [str(self.checkout / "infra" / self.cloud.name / "deploy.sh"), *options],
            cwd=self.folder,
            env=variables | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def deployed(self, *options: str, tools: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        """With what every deployment needs."""
        given = ("--policy", str(self.policy), *self.needed, "--no-build")
        return self.deploy(*given, *options, tools=tools, **environment)

    @property
    def calls(self) -> list[str]:
        """What the stubs were called with, in order."""
        noted = self.folder / "calls"
        return noted.read_text().splitlines() if noted.exists() else []

    @property
    def given(self) -> dict[str, object]:
        """What Terraform will read."""
        read: dict[str, object] = json.loads(self.variables.read_text())
        return read


def make_machine(cloud: Cloud, target: Target, command: str, needed: tuple[str, ...], folder: Path) -> Machine:
    """One with the sources of `target`, and an archive that was built before. `command` is the cloud's own."""
    machine = Machine(cloud, (command, "terraform"), needed, folder)
    copy_checkout(machine.checkout, target)
    left_out = shutil.ignore_patterns(".terraform*", "given*")
    shutil.copytree(cloud.source, machine.checkout / "infra" / cloud.name, ignore=left_out)
    shutil.copytree(ROOT / "examples", machine.checkout / "examples")
    (machine.checkout / ".venv").symlink_to(ROOT / ".venv")
    machine.archive.parent.mkdir(parents=True)
    machine.archive.write_bytes(b"built before")
    for name in ("bin", "stubs"):
        (folder / name).mkdir()
    for name in COMMANDS:
        found = shutil.which(name)
        assert found, f"{name} is not on this machine"
        (folder / "bin" / name).symlink_to(found)
    for name in machine.tools:
        stub = folder / "stubs" / name
        stub.write_text(STUB)
        stub.chmod(0o755)
    return machine
