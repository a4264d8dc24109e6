"""What is deployed to AWS and to Azure: reproducible, small, complete, and nothing that does not belong there."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from infra import bundle

from .bundles import (
    AWS,
    AZURE,
    GCP,
    aws_bundle,
    aws_sources,
    azure_bundle,
    azure_host_bundle,
    copy_checkout,
    gcp_bundle,
    host_bundle,
    run_isolated,
)

SERVICES = {"kms", "s3", "secretsmanager", "sts"}
AARCH64, X86_64 = 183, 62  # e_machine in an ELF header
CREATE_CLIENTS = f"""
import botocore.session
from botocore.config import Config

session = botocore.session.Session()
for mode in ("legacy", "standard", "adaptive"):
    config = Config(retries={{"mode": mode}}, defaults_mode="in-region", s3={{"addressing_style": "virtual"}})
    clients = {{name: session.create_client(name, "eu-west-1", config=config) for name in {sorted(SERVICES)}}}
print(*sorted(clients))
clients["secretsmanager"].get_paginator("list_secrets")
clients["s3"].get_paginator("list_objects_v2")
print(clients["s3"].generate_presigned_url("get_object", {{"Bucket": "manifests", "Key": "a"}}).partition("?")[0])
print(clients["kms"].generate_presigned_url("list_keys").partition("?")[0])
"""
CLIENTS_CREATED = [
    "kms s3 secretsmanager sts",
    "https://manifests.s3.eu-west-1.amazonaws.com/a",
    "https://kms.eu-west-1.amazonaws.com/",
]


def infos() -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(aws_bundle()) as archive:
        return archive.infolist()


def names() -> list[str]:
    return [info.filename for info in infos()]


def pinned() -> dict[str, str]:
    text = (aws_sources() / AWS.requirements).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


# The archive for Lambda.


def test_another_checkout_gives_the_same_bytes(tmp_path: Path) -> None:
    checkout = tmp_path / "elsewhere" / "under another name"
    shutil.copytree(aws_sources(), checkout, copy_function=shutil.copyfile)  # with times of its own
    command = [sys.executable, "infra/bundle.py", "aws"]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=checkout, env=environment, umask=0o077, capture_output=True, text=True, check=True
    )
    again = (checkout / "build/bundles/aws.zip").read_bytes()
    assert again == aws_bundle().read_bytes()
    assert f"sha256 {hashlib.sha256(again).hexdigest()}" in done.stdout


def test_it_weighs_at_most_nine_megabytes() -> None:
    assert AWS.limit == 9_000_000
    assert aws_bundle().stat().st_size <= AWS.limit


def test_every_file_has_the_same_time_a_readable_mode_and_its_place_in_the_order() -> None:
    for info in infos():
        assert info.date_time == (1980, 1, 1, 0, 0, 0), info.filename
        mode = 0o755 if info.filename.endswith(".so") else 0o644
        assert info.external_attr >> 16 == stat.S_IFREG | mode, info.filename
        assert info.create_system == 3, info.filename
    assert names() == sorted(set(names()))


def test_library_and_entry_files_lie_in_it_as_they_are_in_the_tree() -> None:
    checkout = aws_sources()
    expected = {path.relative_to(checkout / "core").as_posix(): path for path in (checkout / "core").rglob("*.py")}
    expected |= {path.name: path for path in (checkout / AWS.entry).glob("*.py")}
    assert {"daena_kms/__init__.py", "daena_kms/stores/base.py", "handler.py"} <= set(expected)
    with zipfile.ZipFile(aws_bundle()) as archive:
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name
    assert {name for name in names() if name.startswith("daena_kms/")} <= set(expected)


def test_it_holds_every_pinned_package_in_its_version_and_no_other() -> None:
    found: dict[str, str] = {}
    with zipfile.ZipFile(aws_bundle()) as archive:
        for name in names():
            if name.endswith(".dist-info/METADATA"):
                metadata = archive.read(name).decode()
                found.update(re.findall(r"^Name: (\S+)$[\s\S]*?^Version: (\S+)$", metadata, re.MULTILINE)[:1])
    assert {re.sub("[-_.]+", "-", name).lower(): version for name, version in found.items()} == pinned()


def test_every_wheel_is_made_for_lambdas_python_and_processor() -> None:
    with zipfile.ZipFile(aws_bundle()) as archive:
        for name in names():
            if name.endswith(".dist-info/WHEEL"):
                tags = re.findall(r"^Tag: (\S+)", archive.read(name).decode(), re.MULTILINE)
                fitting = r"(py2\.)?py3-none-any|cp313-cp313-manylinux\S+aarch64|cp3\d+-abi3-manylinux\S+aarch64"
                assert any(re.fullmatch(fitting, tag) for tag in tags), (name, tags)
        libraries = [name for name in names() if ".so" in name]
        assert libraries
        for name in libraries:
            assert re.search(r"\.(cpython-313-aarch64-linux-gnu|abi3)\.so$", name), name
            assert int.from_bytes(archive.read(name)[18:20], "little") == AARCH64, name


def test_what_cannot_be_used_stays_out() -> None:
    unused = r"\.(pyc|pyi|h|exe)$|(^|/)(__pycache__|tests?|egg-info)/|^bin/|/(RECORD|INSTALLER|REQUESTED|py\.typed)$"
    assert [name for name in names() if re.search(unused, name)] == []
    top = {name.split("/")[0] for name in names()}
    assert top.isdisjoint({"click", "rich", "moto", "pytest", "setuptools", "azure", "google", "tests", "events"})


def test_licences_stay_in() -> None:
    packages = {name.split("/")[0] for name in names() if ".dist-info/" in name}
    licensed = {name.split("/")[0] for name in names() if re.search(r"\.dist-info/.*(LICENSE|COPYING)", name)}
    assert packages == licensed


def test_botocore_knows_the_four_services_in_one_api_version_each() -> None:
    data = [name.split("/")[2:] for name in names() if name.startswith("botocore/data/")]
    shared = {path[0] for path in data if len(path) == 1}
    assert shared == {"_retry.json", "endpoints.json", "partitions.json", "sdk-default-configuration.json"}
    folders = {tuple(path[:2]) for path in data if len(path) > 1}
    assert sorted(service for service, _ in folders) == sorted(SERVICES)
    models = {path[2].partition(".")[0] for path in data if len(path) > 1}
    assert models == {"service-2", "endpoint-rule-set-1", "paginators-1"}


# The archive for Azure Functions.


def azure_sources() -> Path:
    """The checkout that it was built from."""
    return azure_bundle().parent / "checkout"


def test_for_azure_another_checkout_gives_the_same_bytes(tmp_path: Path) -> None:
    checkout = tmp_path / "elsewhere" / "under another name"
    shutil.copytree(azure_sources(), checkout, copy_function=shutil.copyfile)  # with times of its own
    command = [sys.executable, "infra/bundle.py", "azure"]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, cwd=checkout, env=environment, umask=0o077, capture_output=True, text=True, check=True)
    assert (checkout / "build/bundles/azure.zip").read_bytes() == azure_bundle().read_bytes()


def test_for_azure_it_weighs_at_most_nine_megabytes_and_every_file_is_as_every_other() -> None:
    assert AZURE.limit == 9_000_000
    assert azure_bundle().stat().st_size <= AZURE.limit
    with zipfile.ZipFile(azure_bundle()) as archive:
        found = archive.infolist()
    for info in found:
        mode = 0o755 if info.filename.endswith(".so") else 0o644
        assert (info.date_time, info.external_attr >> 16) == ((1980, 1, 1, 0, 0, 0), stat.S_IFREG | mode), info.filename
    assert [info.filename for info in found] == sorted({info.filename for info in found})


def test_for_azure_the_root_holds_what_the_host_looks_for_and_the_rest_lies_where_the_worker_looks() -> None:
    """Microsoft's Python developer guide: host.json and function_app.py in the root, packages where it has them."""
    checkout = azure_sources()
    expected = {path.relative_to(checkout / "core").as_posix(): path for path in (checkout / "core").rglob("*.py")}
    expected |= {name: checkout / AZURE.entry / name for name in ("function_app.py", "host.json")}
    expected["requirements.txt"] = checkout / AZURE.requirements
    with zipfile.ZipFile(azure_bundle()) as archive:
        held = {name for name in archive.namelist() if not name.startswith(".python_packages/lib/site-packages/")}
        assert held == set(expected)
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name


def test_for_azure_it_holds_every_pinned_package_for_its_python_and_processor_and_no_other() -> None:
    found: dict[str, str] = {}
    with zipfile.ZipFile(azure_bundle()) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/METADATA"):
                metadata = archive.read(name).decode().replace("\r\n", "\n")  # msal's
                found.update(re.findall(r"^Name: (\S+)$[\s\S]*?^Version: (\S+)$", metadata, re.MULTILINE)[:1])
            if name.endswith(".dist-info/WHEEL"):
                tags = re.findall(r"^Tag: (\S+)", archive.read(name).decode(), re.MULTILINE)
                fitting = r"(py2\.)?py3-none-any|cp313-cp313-manylinux\S+x86_64|cp3\d+-abi3-manylinux\S+x86_64"
                assert any(re.fullmatch(fitting, tag) for tag in tags), (name, tags)
            if ".so" in name:
                assert re.search(r"\.(cpython-313-x86_64-linux-gnu|abi3)\.so$", name), name
                assert int.from_bytes(archive.read(name)[18:20], "little") == X86_64, name
    named = {re.sub("[-_.]+", "-", name).lower(): version for name, version in found.items()}
    text = (azure_sources() / AZURE.requirements).read_text()
    assert named == dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))
    assert {"azure-functions", "azure-identity", "azure-keyvault-secrets", "azure-storage-blob"} <= set(named)


def test_for_azure_what_cannot_be_used_stays_out() -> None:
    with zipfile.ZipFile(azure_bundle()) as archive:
        names = archive.namelist()
    unused = r"\.(pyc|pyi|h|exe)$|(^|/)(__pycache__|tests?|aio|egg-info)/|/(RECORD|INSTALLER|REQUESTED|py\.typed)$"
    assert [name for name in names if re.search(unused, name)] == []
    top = {name.removeprefix(AZURE.packages).split("/")[0] for name in names}
    assert top.isdisjoint({"click", "rich", "boto3", "botocore", "pytest", "setuptools", "google", "tests", "events"})


def test_for_azure_what_the_function_imports_is_there() -> None:
    packages = azure_host_bundle() / AZURE.packages
    code = f"import sys; sys.path.append({str(packages)!r}); import function_app, daena_kms.app, daena_kms.stores.azure"
    run_isolated(azure_host_bundle(), code)


# The same for this machine, run with nothing else to import.


def test_the_trimmed_bundle_makes_the_four_clients_with_every_kind_of_retries() -> None:
    assert run_isolated(host_bundle(), CREATE_CLIENTS).split("\n")[:3] == CLIENTS_CREATED


def test_a_service_that_was_trimmed_away_is_unknown() -> None:
    code = "import botocore.session; print(*botocore.session.Session().get_available_services())"
    assert run_isolated(host_bundle(), code).split() == sorted(SERVICES)


@pytest.mark.parametrize(
    "code",
    [
        "import boto3; boto3.session.Session(region_name='eu-west-1').client('s3')",
        "from aws_lambda_powertools import Logger, Metrics, Tracer; Logger(service='s').info('said')",
        "import daena_kms.app, daena_kms.service, daena_kms.stores.aws",
        "from cryptography.hazmat.primitives.ciphers import aead; aead.AESGCM(bytes(16)).encrypt(bytes(12), b'', b'')",
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey as K; K.generate().sign(b'')",
    ],
)
def test_what_the_function_imports_is_there(code: str) -> None:
    run_isolated(host_bundle(), code)


def test_nothing_is_imported_from_elsewhere() -> None:
    code = "import importlib.util as u; print([n for n in ('pytest', 'moto', 'click') if u.find_spec(n)])"
    assert run_isolated(host_bundle(), code) == "[]\n"


def test_lambdas_own_python_runs_it_where_there_is_one(tmp_path: Path) -> None:
    python = lambdas_python()
    if python is None:
        pytest.skip(f"no Python {AWS.python} on this machine: neither on PATH nor among pyenv's")
    checkout, archive = tmp_path / "checkout", tmp_path / "host.zip"
    shutil.copytree(aws_sources(), checkout)
    (checkout / ".venv").symlink_to(sys.prefix)  # uv is there, not beside this other Python
    command = [python, "infra/bundle.py", "aws", "--host", "--out", str(archive)]
    subprocess.run(command, cwd=checkout, capture_output=True, check=True)
    with zipfile.ZipFile(archive) as made:
        made.extractall(tmp_path / "unpacked")
    lines = run_isolated(tmp_path / "unpacked", f"{CREATE_CLIENTS}\nimport daena_kms.app", python).split("\n")
    assert lines[:3] == CLIENTS_CREATED


def lambdas_python() -> str | None:
    pyenv = Path.home() / ".pyenv" / "versions"
    candidates = [shutil.which(f"python{AWS.python}"), *map(str, pyenv.glob(f"{AWS.python}.*/bin/python"))]
    for python in filter(None, candidates):
        version = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != {AWS.python!r})"
        if subprocess.run([python, "-c", version], capture_output=True, check=False).returncode == 0:
            return python
    return None


# The source for Cloud Run functions, whose build installs the packages.


def test_the_source_for_google_holds_the_entry_file_the_pins_and_the_library(tmp_path: Path) -> None:
    copy_checkout(tmp_path, GCP)
    expected = {path.relative_to(tmp_path / "core").as_posix() for path in (tmp_path / "core").rglob("*.py")}
    with zipfile.ZipFile(gcp_bundle()) as archive:
        held = archive.namelist()
        pins = archive.read("requirements.txt")
    assert held == sorted(expected | {"main.py", "requirements.txt"})
    assert {"daena_kms/__init__.py", "daena_kms/stores/gcp.py"} <= expected
    assert pins == (bundle.ROOT / "requirements/gcp.txt").read_bytes()


def test_the_source_for_google_is_small() -> None:
    assert GCP.limit == 500_000
    assert gcp_bundle().stat().st_size <= GCP.limit


def test_another_checkout_gives_google_the_same_bytes(tmp_path: Path) -> None:
    copy_checkout(tmp_path / "under another name", GCP)
    again = bundle.build(GCP, tmp_path / "again.zip", tmp_path / "under another name")
    assert again.path.read_bytes() == gcp_bundle().read_bytes()


def test_googles_build_finds_a_pinned_and_hashed_framework_and_no_package_of_another_cloud() -> None:
    """With one hash, pip wants all of them: what is not pinned fails the build."""
    text = (bundle.ROOT / GCP.requirements).read_text()
    pins = re.findall(r"^([a-z0-9-]+)==\S+.*\\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z]", text, re.MULTILINE))
    names = {name for name, _ in pins}
    assert {"functions-framework", "google-cloud-secret-manager", "google-cloud-storage", "cryptography"} <= names
    assert not {name for name in names if name.startswith(("boto", "azure", "aws"))}


# A small checkout, to see what the builder refuses.

WHEEL = "tiny-1.0-py3-none-any.whl"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose only package is a wheel beside it."""
    root = tmp_path / "checkout"
    for folder in ("wheels", "core/daena_kms/__pycache__", "core/daena_kms.egg-info", "entry/events"):
        (root / folder).mkdir(parents=True)
    with zipfile.ZipFile(root / "wheels" / WHEEL, "w") as wheel:
        wheel.writestr("tiny/__init__.py", "")
        for unused in ("stub.pyi", "data/unused.json", "data/used.json", "tests/__init__.py", "__init__.pyc"):
            wheel.writestr(f"tiny/{unused}", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    pin(root, f"tiny==1.0 --hash=sha256:{wheel_digest(root)}")
    for name in ("core/daena_kms/__init__.py", "core/daena_kms/__pycache__/x.pyc", "core/daena_kms.egg-info/PKG-INFO"):
        (root / name).touch()
    (root / "entry/handler.py").write_text("handler = print\n")
    (root / "entry/events/test.json").touch()
    (root / "policy.toml").touch()
    return root


def pin(root: Path, line: str) -> None:
    (root / "pinned.txt").write_text(f"--no-index\n--find-links {root / 'wheels'}\n{line}\n")


def wheel_digest(root: Path) -> str:
    return hashlib.sha256((root / "wheels" / WHEEL).read_bytes()).hexdigest()


TINY = bundle.Target(
    requirements="pinned.txt",
    entry="entry",
    platform="aarch64-manylinux_2_28",
    python="3.13",
    unused=("tiny/data/*",),
    used=("tiny/data/used.json",),
    limit=10_000,
)


def refusal(root: Path, target: bundle.Target = TINY) -> bundle.BundleError:
    """The error of a build, which leaves nothing behind."""
    out = root / "built" / "bundle.zip"
    with pytest.raises(bundle.BundleError) as refused:
        bundle.build(target, out, root)
    assert not out.parent.exists() or not list(out.parent.iterdir())
    return refused.value


def test_only_what_is_used_is_taken(checkout: Path) -> None:
    built = bundle.build(replace(TINY, extra=(checkout / "policy.toml",)), checkout / "bundle.zip", checkout)
    with zipfile.ZipFile(built.path) as archive:
        assert archive.namelist() == [
            "daena_kms/__init__.py",
            "handler.py",
            "policy.toml",
            "tiny-1.0.dist-info/METADATA",
            "tiny-1.0.dist-info/WHEEL",
            "tiny/__init__.py",
            "tiny/data/used.json",
        ]
    assert built.files == 7
    assert built.size == built.path.stat().st_size
    assert built.sha256 == hashlib.sha256(built.path.read_bytes()).hexdigest()


def test_a_package_that_is_not_the_pinned_one_is_refused(checkout: Path) -> None:
    pin(checkout, f"tiny==1.0 --hash=sha256:{'0' * 64}")
    refused = refusal(checkout)
    assert "Hash mismatch" in refused.message
    assert "do not deploy" in refused.hint


def test_a_package_without_a_hash_is_refused(checkout: Path) -> None:
    pin(checkout, "tiny==1.0")
    assert "`make requirements`" in refusal(checkout).hint


def test_a_package_without_a_wheel_for_lambda_is_refused(checkout: Path) -> None:
    pin(checkout, f"tiny==1.0 --hash=sha256:{wheel_digest(checkout)}")
    (checkout / "wheels" / WHEEL).rename(checkout / "wheels" / "tiny-1.0-cp313-cp313-win_amd64.whl")
    assert "no wheel for this platform" in refusal(checkout).hint


def test_a_package_that_nobody_has_is_refused(checkout: Path) -> None:
    (checkout / "wheels" / WHEEL).unlink()
    assert "package index" in refusal(checkout).hint


def test_missing_pins_are_refused(checkout: Path) -> None:
    (checkout / "pinned.txt").unlink()
    assert "`make requirements`" in refusal(checkout).hint


def test_a_function_without_an_entry_file_is_refused(checkout: Path) -> None:
    (checkout / "entry/handler.py").unlink()
    assert str(checkout / "entry") in refusal(checkout).message


def test_two_files_of_one_name_are_refused(checkout: Path) -> None:
    (checkout / "handler.py").touch()
    refused = refusal(checkout, replace(TINY, extra=(checkout / "handler.py",)))
    assert "two files want to be handler.py" in refused.message


def test_a_file_to_add_that_is_not_there_is_refused(checkout: Path) -> None:
    assert "No such file" in refusal(checkout, replace(TINY, extra=(checkout / "polcy.toml",))).message


def test_a_place_that_cannot_be_written_is_named(checkout: Path) -> None:
    with pytest.raises(bundle.BundleError, match=r"wheels cannot be written: Is a directory"):
        bundle.build(TINY, checkout / "wheels", checkout)


def test_an_archive_above_the_limit_is_refused_with_its_largest_parts(checkout: Path) -> None:
    refused = refusal(checkout, replace(TINY, limit=100))
    assert "at most" in refused.message
    assert "tiny-1.0.dist-info" in refused.message


REMOTE = replace(TINY, remote=True)


def test_what_the_platform_installs_stays_out_and_its_pins_lie_beside_the_entry_file(checkout: Path) -> None:
    built = bundle.build(REMOTE, checkout / "bundle.zip", checkout)
    with zipfile.ZipFile(built.path) as archive:
        assert archive.namelist() == ["daena_kms/__init__.py", "handler.py", "requirements.txt"]
        assert archive.read("requirements.txt") == (checkout / "pinned.txt").read_bytes()


def test_to_be_run_here_the_packages_come_along(checkout: Path) -> None:
    built = bundle.build(bundle.for_host(replace(REMOTE, limit=1)), checkout / "bundle.zip", checkout)
    with zipfile.ZipFile(built.path) as archive:
        assert {"handler.py", "tiny/__init__.py", "tiny/data/used.json"} <= set(archive.namelist())


def test_an_archive_that_is_there_survives_a_build_that_fails(checkout: Path) -> None:
    out = checkout / "bundle.zip"
    first = bundle.build(TINY, out, checkout).sha256
    with pytest.raises(bundle.BundleError):
        bundle.build(replace(TINY, limit=100), out, checkout)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == first


def test_without_uv_the_command_says_how_to_get_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundle, "ROOT", checkout)
    monkeypatch.setattr(sys, "executable", str(checkout / "bin" / "python"))
    monkeypatch.setitem(bundle.TARGETS, "aws", TINY)
    assert bundle.main(["aws"]) == 1
    assert "hint: run `make .venv/ready` once" in capsys.readouterr().err


def test_the_command_adds_a_policy_and_prints_what_it_built(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundle, "ROOT", checkout)
    monkeypatch.setitem(bundle.TARGETS, "aws", TINY)
    out = checkout / "out.zip"
    assert bundle.main(["aws", "--host", "--add", str(checkout / "policy.toml"), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "out.zip: 0.00 MB, 7 files, for this machine\n" in shown
    assert re.search(r"^sha256 [0-9a-f]{64}$", shown, re.MULTILINE)
    with zipfile.ZipFile(out) as archive:
        assert "policy.toml" in archive.namelist()
