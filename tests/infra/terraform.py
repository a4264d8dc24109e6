"""infra/azure and infra/gcp under the real Terraform, offline: its provider is one that knows the schema alone.

Terraform's own tests ask a provider that knows no values, so what a value must be is asserted in `infra/*/tests`, and
by the rules of the variables, for which no provider is needed at all. Where there is no `terraform`, what needs it is
skipped and says so; what is read from the text, and what checkov finds, is tested everywhere.
"""

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_HOST = ".".join(("registry", "terraform", "io"))  # where Terraform believes that the provider comes from
_TOOLS = ROOT / ".venv" / "tools"


@dataclass(frozen=True)
class Cloud:
    """One folder of infra/, its provider, and the version that the provider here pretends to be."""

    name: str
    provider: str
    version: str

    @property
    def source(self) -> Path:
        return ROOT / "infra" / self.name

    @property
    def schema(self) -> Path:
        return Path(__file__).with_name(f"{self.provider}.json")

    @property
    def text(self) -> str:
        """All of its configuration."""
        return "\n".join(path.read_text() for path in sorted(self.source.glob("*.tf")))

    @property
    def given(self) -> str:
        """What its tests give to every run: the provider's stand-ins, and the variables that have no default."""
        return (self.source / "tests" / "defaults.tftest.hcl").read_text().partition("\nrun ")[0]


# The package's provider is older than the floor of infra/azure: there is no newer one.
AZURE = Cloud("azure", "azurerm", "4.81.0")
GCP = Cloud("gcp", "google", "6.50.0")


def terraform() -> str:
    """The binary; empty where there is none."""
    return shutil.which("terraform") or ""


BINARY = pytest.mark.skipif(not terraform(), reason="terraform is not on this machine, and no package has it")


class Workspace:
    """A copy of a cloud's configuration in which Terraform works."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud = cloud
        self.path = folder / cloud.name
        shutil.copytree(
            cloud.source, self.path, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "given.auto*")
        )
        for path in self.path.glob("*.tf"):  # a test's resources have to go when it ends
            path.write_text(path.read_text().replace("prevent_destroy = true", "prevent_destroy = false"))
        self._config = folder / "terraformrc"
        mirror = folder / "mirror"
        self._config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
        self._provide(mirror / _HOST / "hashicorp" / cloud.provider / cloud.version / "linux_amd64")

    def _provide(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        script = folder / f"terraform-provider-{self._cloud.provider}_v{self._cloud.version}"
        python, provider = _TOOLS / "terraform" / "bin" / "python", ROOT / "tests" / "support" / "schema_provider.py"
        script.write_text(f'#!/bin/sh\nexec "{python}" -B "{provider}" "{self._cloud.schema}"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """One command of Terraform."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path.parent),
            "TF_CLI_CONFIG_FILE": str(self._config),
            "TF_DISABLE_PLUGIN_TLS": "1",
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }
        return subprocess.run(  # our own words
            [terraform(), *words, "-no-color"],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def init(self) -> None:
        """Find the provider."""
        done = self.run("init", "-input=false", "-backend=false")
        assert done.returncode == 0, done.stdout + done.stderr

    def validate(self) -> list[str]:
        """What is wrong with the configuration."""
        told = json.loads(self.run("validate", "-json").stdout)
        return [f"{d['summary']}: {d.get('detail', '')}" for d in told["diagnostics"]]

    def test(self) -> "subprocess.CompletedProcess[str]":
        """Its own tests."""
        return self.run("test")

    def edit(self, name: str, before: str, after: str) -> None:
        """Plant a fault."""
        path = self.path / name
        text = path.read_text()
        assert before in text, f"{name} has no {before!r}"
        path.write_text(text.replace(before, after, 1))

    def plan_with(
        self, given: Mapping[str, Sequence[Any]], also: Mapping[str, Mapping[str, Any]], *, refused: bool
    ) -> str:
        """What Terraform says of variables that are given these values, one at a time, `also` beside them.

        Nothing but the variables is left in the folder then: their rules need no provider, and are quick without.
        """
        for path in self.path.glob("*.tf"):
            if path.name != "variables.tf":
                path.unlink()
        shutil.rmtree(self.path / "tests")
        (self.path / "tests").mkdir()
        made = [self._cloud.given[self._cloud.given.index("\nvariables {") :]]
        for name, values in given.items():
            for index, value in enumerate(values):
                variables = {name: value, **also.get(name, {})}
                lines = "".join(f"    {each} = {json.dumps(text)}\n" for each, text in variables.items())
                expected = f"  expect_failures = [var.{name}]\n" if refused else ""
                made.append(f'run "{name}_{index}" {{\n  command = plan\n  variables {{\n{lines}  }}\n{expected}}}\n')
        (self.path / "tests" / "given.tftest.hcl").write_text("\n".join(made))
        done = self.test()
        return done.stdout + done.stderr


def check_with_checkov(cloud: Cloud, home: Path) -> dict[str, Any]:
    """What checkov finds, offline: passed_checks, failed_checks and skipped_checks."""
    program = _TOOLS / "checkov" / "bin" / "checkov"
    words = ["--directory", str(cloud.source), "--framework", "terraform", "--output", "json", "--skip-download"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "BC_SKIP_MAPPING": "TRUE"}
    done = subprocess.run(  # our own words
        [str(program), *words], capture_output=True, text=True, check=False, env=environment, cwd=home
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    results: dict[str, Any] = json.loads(done.stdout)["results"]
    return results


def excused(cloud: Cloud) -> list[str]:
    """The checks of checkov's that the configuration skips, each with a reason."""
    return re.findall(r"#checkov:skip=(\w+):\S+", cloud.text)
