"""What is installed: both packages, with what type checkers and `cost` look for."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_wheel_has_both_packages(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "core", checkout / "core", ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, checkout)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(checkout / "core").as_posix()
        for package in ("daena_kms", "memory_service")
        for path in (checkout / "core" / package).rglob("*")
        if path.is_file()
    }
    assert names == wanted
    assert {"memory_service/py.typed", "memory_service/kms.py", "memory_service/cloud_kms.py"} <= names
