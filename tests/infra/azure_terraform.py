"""infra/azure under the real Terraform, offline: its provider is one that knows the schema alone."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "infra" / "azure"
SCHEMA = Path(__file__).with_name("azurerm.json")
# The schema's own provider is older than the floor of infra/azure: no package has a newer one.
PRETENDED = "4.81.0"
_HOST = ".".join(("registry", "terraform", "io"))  # where Terraform believes that the provider comes from
_TOOLS = ROOT / ".venv" / "tools"


def terraform() -> str:
    """The binary; empty where there is none."""
    return shutil.which("terraform") or ""


class Workspace:
    """A copy of infra/azure in which Terraform works."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "azure"
        shutil.copytree(SOURCE, self.path, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        for path in self.path.glob("*.tf"):  # a test's resources have to go when it ends
            path.write_text(path.read_text().replace("prevent_destroy = true", "prevent_destroy = false"))
        self._config = folder / "terraformrc"
        mirror = folder / "mirror"
        self._config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
        self._provide(mirror / _HOST / "hashicorp" / "azurerm" / PRETENDED / "linux_amd64")

    def _provide(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        script = folder / f"terraform-provider-azurerm_v{PRETENDED}"
        python, provider = _TOOLS / "terraform" / "bin" / "python", ROOT / "tests" / "support" / "schema_provider.py"
        script.write_text(f'#!/bin/sh\nexec "{python}" -B "{provider}" "{SCHEMA}"\n')
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

    def test(self, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Its own tests; or those of one file that is written for it."""
        if text:
            (self.path / "tests" / "given.tftest.hcl").write_text(text)
        return self.run("test", *(["-filter=tests/given.tftest.hcl"] if text else []))

    def edit(self, name: str, before: str, after: str) -> None:
        """Plant a fault."""
        path = self.path / name
        text = path.read_text()
        assert before in text, f"{name} has no {before!r}"
        path.write_text(text.replace(before, after, 1))
