"""The bundles as tests use them: each built once for all workers, and kept as long as what goes into it is the same."""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from infra.bundle import ROOT, TARGETS, Target, build, for_host

KEPT = ROOT / "build" / "test-bundles"
KEPT_SECONDS = 3600
_HOST = f"{platform.platform()} {sys.version}"
AWS, AZURE, GCP = TARGETS["aws"], TARGETS["azure"], TARGETS["gcp"]


@cache
def aws_bundle() -> Path:
    """The archive for Lambda."""
    return _kept("aws", AWS) / "bundle.zip"


@cache
def host_bundle() -> Path:
    """The same for this machine and this Python, unpacked. Everybody's: leave it as it is."""
    return _kept(_HOST, for_host(AWS)) / "unpacked"


@cache
def azure_bundle() -> Path:
    """The archive for Azure Functions."""
    return _kept("azure", AZURE) / "bundle.zip"


@cache
def azure_host_bundle() -> Path:
    """The same for this machine and this Python, unpacked. Everybody's: leave it as it is."""
    return _kept(_HOST, for_host(AZURE)) / "unpacked"


@cache
def gcp_bundle() -> Path:
    """The archive for Cloud Run functions: the source, without the packages."""
    return _kept("gcp", GCP) / "bundle.zip"


@cache
def gcp_host_bundle() -> Path:
    """The same for this machine and this Python, with the packages, unpacked. Everybody's: leave it as it is."""
    return _kept(_HOST, for_host(GCP)) / "unpacked"


@cache
def compiled(unpacked: Path) -> Path:
    """A copy with bytecode, as Google builds it: a process starts in a third of the time. Everybody's too."""
    made = unpacked.with_name("compiled")
    with _locked(), tempfile.TemporaryDirectory(dir=KEPT) as folder:
        if not made.exists():
            copy = shutil.copytree(unpacked, Path(folder, "copy"))
            subprocess.run([sys.executable, "-m", "compileall", "-qq", copy], check=False)  # templates are no Python
            copy.rename(made)
    return made


@cache
def aws_sources() -> Path:
    """The checkout that `aws_bundle` was built from: a copy, because others may be editing this one."""
    return aws_bundle().parent / "checkout"


def run_isolated(bundle: Path, code: str, python: str = sys.executable) -> str:
    """What `code` prints where nothing can be imported but the standard library and the bundle."""
    script = f"import sys; sys.path.append({str(bundle)!r})\n{code}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": "/nonexistent",
    }
    command = [python, "-I", "-S", "-B", "-W", "error", "-c", script]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_checkout(folder: Path, target: Target = AWS) -> None:
    """What a bundle is built from, and what builds it."""
    entry = (f"{target.entry}/*.py", f"{target.entry}/host.json")
    for pattern in ("infra/bundle.py", target.requirements, "core/**/*.py", *entry):
        for path in ROOT.glob(pattern):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _kept(platform_key: str, target: Target) -> Path:
    with _locked():
        _forget_old()
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            made = Path(folder, "made")
            copy_checkout(made / "checkout", target)
            kept = KEPT / _digest(platform_key, made / "checkout")
            if kept.exists():
                kept.touch()
                return kept
            build(target, made / "bundle.zip", made / "checkout")
            if not target.platform:  # what is made for another machine cannot be run
                with zipfile.ZipFile(made / "bundle.zip") as archive:
                    archive.extractall(made / "unpacked")
            made.rename(kept)
    return kept


@contextmanager
def _locked() -> Iterator[None]:
    """One process at a time makes what is kept."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(platform_key: str, checkout: Path) -> str:
    digest = hashlib.sha256(platform_key.encode())
    for path in sorted(path for path in checkout.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"\n{path.relative_to(checkout)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _forget_old() -> None:
    """Each change of the tree leaves some 40 MB behind."""
    for path in KEPT.iterdir():
        if path.is_dir() and path.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(path)
