"""docs/python.md: what it shows is run, and prints what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from daena_kms import kms
from tests.support.kms_scene import CLOUDS, enter

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("provider", CLOUDS)
def test_the_examples_print_what_they_say(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(provider, tmp_path, monkeypatch)
    expected = re.findall(r"print\(.*\)  # (.*)", "".join(BLOCKS))
    done = subprocess.run([sys.executable, "-c", "\n".join(BLOCKS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
    assert len(expected) >= 8


def test_it_names_every_parameter_and_method() -> None:
    told = set(re.findall(r"`(\w+)", PAGE))
    for adapter in (kms.AWSKMSAdapter, kms.AzureKeyVaultAdapter, kms.GCPSecretManagerAdapter, kms.LocalVaultAdapter):
        names = adapter.__init__.__code__.co_varnames[1 : adapter.__init__.__code__.co_argcount]
        assert {adapter.__name__, *names} <= told
    for shown in (kms.KeyStoreAdapter, kms.KeyManagementService):
        methods = {name for name in vars(shown) if callable(getattr(shown, name)) and not name.startswith("_")}
        assert methods <= told
    assert {"CloudKey", *kms.CloudKey.__struct_fields__} <= told
