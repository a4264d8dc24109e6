"""Build what is deployed: one archive for each cloud, the same bytes from the same tree, wherever it lies.

    python infra/bundle.py aws                            build/bundles/aws.zip, for the function's platform
    python infra/bundle.py aws --add daena-kms.toml       with the policy at its root, where the function looks for it
    python infra/bundle.py aws --host                     build/bundles/aws-host.zip, to be run on this machine

In an archive lie the pinned packages (wheels only, their hashes checked), the library from `core/`, the function's
entry files at the root, and nothing that the function cannot use. Names are sorted, times and modes fixed; only
another zlib may pack the same files into other bytes. Needs `uv`, which `make` brings.

No bytecode is shipped, although Lambda then compiles whatever it imports at every cold start: only Lambda's own Python
can make it, and an archive should not depend on whether the machine that built it has one.
"""

import argparse
import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "core"
BUNDLES = "build/bundles"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can name
LARGEST_SHOWN = 10
LARGEST_WITH_PACKAGES = 30_000_000  # of an archive that is deployed without them


class BundleError(Exception):
    """Nothing was built. `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Target:
    """What one cloud's archive is made of.

    `requirements` and `entry` (a folder: every *.py directly in it goes to the root, and its host.json) are relative to
    the checkout; `extra` are files that go to the root too. `platform` and `python` are uv's words, empty for this
    machine's own. Of what packages install, files that match `unused` stay out unless they match `used`; in both, `*`
    stands for slashes too. `limit` is the most that the archive may weigh, in bytes. `packages` is where in the archive
    packages go; where it is not the root, the pins lie there beside the entry file, for a platform that looks for them.
    """

    requirements: str
    entry: str
    platform: str
    python: str
    unused: tuple[str, ...]
    used: tuple[str, ...]
    limit: int
    extra: tuple[Path, ...] = ()
    shrunk: tuple[tuple[str, Callable[[bytes], bytes]], ...] = ()
    """Files of which a part is enough, and what leaves the rest out."""
    packages: str = ""
    remote: bool = False
    """The platform installs the packages itself: none is in the archive, and the pins lie beside the entry file."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive that was built. Sizes in bytes; `parts` are compressed sizes by the first two steps of a path."""

    path: Path
    size: int
    sha256: str
    files: int
    parts: Counter[str]


# No package needs these to run. What scanners and lawyers read stays: METADATA, WHEEL, licences, bills of materials.
_UNUSED_EVERYWHERE = (
    ".lock",
    "bin/*",
    "*.pyc",
    "*.pyi",
    "*.h",
    "*/py.typed",
    "*/test/*",
    "*/tests/*",
    "*.dist-info/INSTALLER",
    "*.dist-info/RECORD",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
    "*.dist-info/entry_points.txt",
    "*.dist-info/top_level.txt",
    "*.dist-info/uv_cache.json",
    "*.dist-info/zip-safe",
)
_AWS_SERVICES = ("kms", "s3", "secretsmanager", "sts")
_AWS_MODELS = ("service-2", "endpoint-rule-set-1", "paginators-1")  # each with its sdk-extras, which botocore merges in


def _endpoints(data: bytes) -> bytes:
    """botocore's table of endpoints for the services used: reading the whole is 60 ms of each cold start."""
    table = json.loads(data)
    for partition in table["partitions"]:
        partition["services"] = {name: at for name, at in partition["services"].items() if name in _AWS_SERVICES}
    return json.dumps(table, separators=(",", ":")).encode()


TARGETS = {
    "aws": Target(
        requirements="requirements/aws.txt",
        entry="functions/aws_lambda",
        platform="aarch64-manylinux_2_28",
        python="3.13",
        unused=(
            "aws_lambda_powertools/event_handler/*",  # HTTP APIs, Swagger UI included
            "boto3/data/*",  # resources: clients alone are used
            "boto3/examples/*",
            "botocore/data/*",
        ),
        used=(
            "botocore/data/_retry.json",
            "botocore/data/endpoints.json",
            "botocore/data/partitions.json",
            "botocore/data/sdk-default-configuration.json",
            *(f"botocore/data/{service}/*/{model}.*" for service in _AWS_SERVICES for model in _AWS_MODELS),
        ),
        limit=9_000_000,
        shrunk=(("botocore/data/endpoints.json", _endpoints),),
    ),
    "azure": Target(
        requirements="requirements/azure.txt",
        entry="functions/azure_function",
        platform="x86_64-manylinux_2_28",
        python="3.13",
        unused=(
            "*/aio/*",  # nothing here is asynchronous
        ),
        used=(),
        limit=9_000_000,
        packages=".python_packages/lib/site-packages/",
    ),
    "gcp": Target(
        requirements="requirements/gcp.txt",
        entry="functions/gcp_function",
        platform="x86_64-manylinux_2_28",
        python="3.13",
        unused=(),
        used=(),
        limit=500_000,
        remote=True,
    ),
}


def build(target: Target, out: Path, root: Path) -> Bundle:
    """Write the archive of the checkout at `root` to `out`, whole or not at all. Raises `BundleError`."""
    files = _contents(target, root)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.parent) as folder:
            bundle = _pack(files, Path(folder, out.name))
            _check_size(bundle, target)
            bundle.path.replace(out)
    except OSError as error:
        raise BundleError(f"{out} cannot be written: {error.strerror}", "choose another place with --out") from error
    return replace(bundle, path=out)


def for_host(target: Target) -> Target:
    """The same, for the platform and the Python that run this: with the packages, whoever installs them elsewhere."""
    limit = max(target.limit, LARGEST_WITH_PACKAGES) if target.remote else target.limit
    return replace(target, platform="", python="", remote=False, limit=limit)


def _contents(target: Target, root: Path) -> dict[str, bytes]:
    """Every file of the archive by its name there."""
    entries = sorted((root / target.entry).glob("*.py"))
    if not entries:
        raise BundleError(f"no *.py in {root / target.entry}", "the function's entry file belongs there")
    files: dict[str, bytes] = {}
    if not target.remote:
        with tempfile.TemporaryDirectory(prefix="daena-bundle-") as folder:
            packages = Path(folder)
            _install(target, packages, root)
            used = ((name, path) for name, path in _tree(packages, "*") if _is_used(name, target))
            _add(files, ((target.packages + name, path) for name, path in used))
    for name, shrink in target.shrunk:
        files[name] = shrink(files[name])
    _add(files, _tree(root / LIBRARY, "*.py"))
    settings = (root / target.entry).glob("host.json")
    _add(files, ((path.name, path) for path in (*entries, *settings, *target.extra)))
    if target.packages or target.remote:
        _add(files, [("requirements.txt", root / target.requirements)])
    return files


def _tree(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    return ((path.relative_to(folder).as_posix(), path) for path in folder.rglob(pattern) if path.is_file())


def _add(files: dict[str, bytes], sources: Iterable[tuple[str, Path]]) -> None:
    for name, path in sources:
        if name in files:
            raise BundleError(f"two files want to be {name} in the archive, one of them {path}", "rename one")
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}", "is the path right?") from error


def _is_used(name: str, target: Target) -> bool:
    unused = any(fnmatchcase(name, pattern) for pattern in (*_UNUSED_EVERYWHERE, *target.unused))
    return not unused or any(fnmatchcase(name, pattern) for pattern in target.used)


def _install(target: Target, folder: Path, root: Path) -> None:
    """Let uv unpack the pinned wheels into `folder`."""
    requirements = root / target.requirements
    if not requirements.is_file():
        raise BundleError(f"{requirements} is not there", "`make requirements` pins what pyproject.toml asks for")
    command = [str(_uv()), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder)]
    command += ["--requirements", str(requirements), "--require-hashes", "--only-binary", ":all:", "--no-compile"]
    if target.platform:
        command += ["--python-platform", target.platform, "--python-version", target.python]
    status, complaint = _run(command)
    if status:
        raise BundleError(f"uv could not install {requirements}:\n{complaint.strip()}", _advice(complaint))


def _run(command: list[str]) -> tuple[int, str]:
    """Exit status and complaints. However this ends, the program has ended too: it writes where we clean up."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:  # noqa: S603  # our own words
        try:
            _, complaint = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process.returncode, complaint


def _uv() -> Path:
    """The pinned uv of `make`: beside the Python that runs this, or in the checkout's environment."""
    places = (Path(sys.executable).parent, ROOT / ".venv" / "bin")
    for place in places:
        if (place / "uv").is_file():
            return place / "uv"
    looked = " nor in ".join(str(place) for place in places)
    raise BundleError(f"uv is not in {looked}", "run `make .venv/ready` once: it sets up .venv with the pinned uv")


def _advice(complaint: str) -> str:
    if "Hash mismatch" in complaint:
        return "a package is not the one that was pinned: do not deploy it. Find out why before `make requirements`"
    if "--require-hashes" in complaint or "no trusted hash" in complaint:
        return "every package needs a hash, those that others need too: `make requirements` writes them"
    if "wheels" in complaint.lower():
        return "a pinned package has no wheel for this platform and Python: pin another version of it"
    return "can the package index be reached? With UV_OFFLINE=1 what was fetched before comes from uv's cache"


def _pack(files: dict[str, bytes], path: Path) -> Bundle:
    parts: Counter[str] = Counter()
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix: otherwise the modes mean nothing
            # Lambda runs the code as a user of its own: what only its owner may read cannot be imported.
            info.external_attr = (stat.S_IFREG | (0o755 if name.endswith(".so") else 0o644)) << 16
            archive.writestr(info, files[name], zipfile.ZIP_DEFLATED, compresslevel=9)
            parts["/".join(name.split("/")[:-1][:2]) or name] += archive.getinfo(name).compress_size
    content = path.read_bytes()
    return Bundle(path, len(content), hashlib.sha256(content).hexdigest(), len(files), parts)


def _check_size(bundle: Bundle, target: Target) -> None:
    if bundle.size > target.limit:
        raise BundleError(
            f"the archive weighs {_megabytes(bundle.size)}, at most {_megabytes(target.limit)} expected; its largest "
            f"parts:\n{_largest(bundle)}",
            "leave out what the function cannot use: `unused` in infra/bundle.py",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _largest(bundle: Bundle) -> str:
    return "\n".join(f"  {_megabytes(size):>8}  {part}" for part, size in bundle.parts.most_common(LARGEST_SHOWN))


def main(arguments: list[str] | None = None) -> int:
    """Build the archive that the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description="Build what is deployed to a cloud, reproducibly.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--out", type=Path, help=f"where to write it (default: {BUNDLES}/TARGET.zip)")
    parser.add_argument("--add", type=Path, action="append", default=[], help="a file for the root, such as the policy")
    parser.add_argument("--host", action="store_true", help="for this machine and this Python, to try it here")
    asked = parser.parse_args(arguments)
    target = replace(TARGETS[asked.target], extra=(*TARGETS[asked.target].extra, *asked.add))
    target = for_host(target) if asked.host else target
    out = asked.out or ROOT / BUNDLES / f"{asked.target}{'-host' if asked.host else ''}.zip"
    try:
        bundle = build(target, out, ROOT)
    except BundleError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return 1
    where = target.platform or "this machine"
    print(f"{os.path.relpath(bundle.path)}: {_megabytes(bundle.size)}, {bundle.files:,} files, for {where}")
    print(f"sha256 {bundle.sha256}\nlargest parts, compressed:\n{_largest(bundle)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
