"""The shape of the house, read from its source: which way imports point, what is imported when, who owns the clock."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import daena_kms

CORE = Path(daena_kms.__file__).parent
PACKAGE = "daena_kms"

# Bottom to top. A module imports modules of the layers below its own; inside a layer, one that stands before it.
# `*` stands for every other file of that folder.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "material", "dumps"),  # ground floor: no imports of ours, or only these
    ("names", "window", "model"),
    ("policy", "keyring", "ledger", "stores.base"),
    (
        "manifest",
        "lifecycle",
        "due",
        "verification",
        "logs",
        "sealing",
        "stores.kek",
        "stores.anchors",
        "stores.pace",
        "stores.aws_calls",
        "stores.aws_layout",
        "stores.aws_secrets",
        "stores.aws_archive",
        "stores.probe",
        "stores.azure_calls",
        "stores.azure_layout",
        "stores.azure_secrets",
        "stores.gcp_calls",
        "stores.gcp_layout",
        "stores.gcp_secrets",
        "stores.*",
        "stores.aws_probe",
        "stores.azure_probe",
        "stores.gcp_probe",
        "stores.local_probe",
    ),
    ("plan", "drafts", "many", "journal", "recognition", "cost", "cron", "schedules"),
    ("trust", "audit", "copies", "holdings", "backup", "backup_json", "backup_check", "intake", "changes"),
    ("rotation",),
    ("fleet",),
    ("service",),
    ("recovery",),
    ("documents", "invocation"),
    ("settings",),
    ("app",),
    ("warm", "kms", "doctor"),
    ("console",),
    ("commands.base",),
    ("commands.backup", "commands.recovery"),
    ("commands.*",),
    ("cli",),
)
# A store knows what a store must do, the words it does it in, and how files are written; no rule, no policy, no plan.
STORES_MAY_IMPORT = {
    "errors", "material", "model", "names", "ledger", "stores.base", "stores.kek", "stores.anchors",
    "stores.aws_archive", "stores.aws_calls", "stores.aws_layout", "stores.aws_secrets",
    "stores.azure_calls", "stores.azure_layout", "stores.azure_secrets", "stores.pace", "stores.probe",
    "stores.gcp_calls", "stores.gcp_layout", "stores.gcp_secrets",
}  # fmt: skip
# What tries permissions has to do with the store and the ledger that need them.
PROBES_MAY_IMPORT = {"stores.aws_ledger", "stores.azure_ledger", "stores.gcp_ledger", "stores.local"}
# Annotations alone may point up, where two modules are one thing in two files.
TYPES_ONLY = {("changes", "rotation"), ("intake", "rotation")}
PURE = {
    "cost",
    "cron",
    "drafts",
    "due",
    "errors",
    "lifecycle",
    "manifest",
    "model",
    "names",
    "plan",
    "policy",
    "schedules",
    "window",
}
TOUCHES_THE_WORLD = {
    "getpass", "os", "pathlib", "random", "secrets", "shutil", "socket", "sqlite3", "subprocess", "tempfile",
    "threading", "time", "urllib",
}  # fmt: skip
FOREIGN = ("boto3", "botocore", "azure", "google", "click", "rich", "cryptography", "msgspec")
SDKS = ("boto3", "botocore", "azure", "google")


def parsed() -> dict[str, ast.Module]:
    """Every module of the library by its dotted name; packages by their own."""
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


SOURCES = parsed()
PACKAGES = ("", "stores", "commands")
MODULES = sorted(name for name in SOURCES if name not in PACKAGES)


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """Our modules that `module` imports, anywhere in its text, and whether for annotations alone."""
    tree = SOURCES[module]
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for target in _targets(module, node):
                yield target, node in typing_only
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.name.removeprefix(f"{PACKAGE}."), node in typing_only


def _targets(module: str, node: ast.ImportFrom) -> list[str]:
    """The modules that one `from … import …` names: `from . import a` names a, `from .a import b` names a."""
    if node.level:
        package = module.split(".")[: -node.level] if module.count(".") >= node.level else []
        base = [*package, *(node.module or "").split(".")] if node.module else package
    elif node.module and node.module.split(".")[0] == PACKAGE:
        base = node.module.split(".")[1:]
    else:
        return []
    name = ".".join(base)
    if name in SOURCES and name not in PACKAGES:
        return [name]
    return [".".join([*base, alias.name]) for alias in node.names]


def place(module: str) -> tuple[int, int]:
    """A module's layer and its place in it."""
    for wanted in (module, f"{module.rpartition('.')[0]}.*"):
        for number, layer in enumerate(LAYERS):
            if wanted in layer:
                return number, layer.index(wanted)
    pytest.fail(f"{module} has no place in the house: give it one in LAYERS")


def outside(module: str) -> set[str]:
    """The top-level names of other packages that a module imports."""
    found = set()
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - {PACKAGE}


def test_the_reader_of_imports_reads() -> None:
    """Were it blind, everything below would pass."""
    assert ("errors", False) in set(imports("names"))
    assert ("stores.kek", False) in set(imports("stores.local"))
    assert ("stores.local", False) in set(imports("app"))
    assert ("rotation", True) in set(imports("changes"))
    assert ("trust", False) in set(imports("app"))
    assert "sqlite3" in outside("stores.local")
    assert len(MODULES) > 20


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    here = place(module)
    for target, typing_only in imports(module):
        if typing_only and (module, target) in TYPES_ONLY:
            continue
        assert place(target) < here, f"{module} imports {target}, which stands above it"


def test_exceptions_are_needed() -> None:
    assert {(m, t) for m in MODULES for t, typing_only in imports(m) if typing_only} >= TYPES_ONLY


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("stores.")])
def test_a_store_imports_the_ground_floor_only(module: str) -> None:
    allowed = STORES_MAY_IMPORT | (PROBES_MAY_IMPORT if module.endswith("_probe") else set())
    assert {target for target, _ in imports(module)} <= allowed


@pytest.mark.parametrize("module", sorted(PURE))
def test_the_rules_touch_nothing_of_the_world(module: str) -> None:
    assert outside(module) & TOUCHES_THE_WORLD == set()


@pytest.mark.parametrize("module", MODULES)
def test_terminal_libraries_are_imported_by_the_command_alone(module: str) -> None:
    if module not in ("cli", "console") and not module.startswith("commands."):
        assert outside(module) & {"click", "rich"} == set()


@pytest.mark.parametrize("module", MODULES)
def test_an_sdk_is_imported_by_stores_alone(module: str) -> None:
    if not module.startswith("stores."):
        assert outside(module) & set(SDKS) == set()


# --- the clock and randomness


def uses(tree: ast.AST) -> set[str]:
    """Clocks and sources of randomness that code names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in _SOURCES or node.value.id in ("secrets", "random"):
                found.add(name)
        elif isinstance(node, ast.Name) and node.id in ("utc_now", "urandom") and isinstance(node.ctx, ast.Load):
            found.add(node.id)
    return found


_SOURCES = {
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns", "time.monotonic",
    "time.perf_counter", "os.urandom", "model.utc_now",
}  # fmt: skip


@pytest.mark.parametrize("module", [m for m in MODULES if m != "app"])
def test_clock_and_randomness_are_handed_in(module: str) -> None:
    """Only the composition root names them. `utc_now` itself has to be written somewhere: in the model."""
    expected = {"datetime.now"} if module == "model" else set()
    assert uses(SOURCES[module]) == expected


def test_the_composition_root_does_name_them() -> None:
    assert {"utc_now", "os.urandom", "time.monotonic"} <= uses(SOURCES["app"])


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_built_at_import_time(module: str) -> None:
    """No clock is read and no randomness drawn while a module is imported."""
    for node in SOURCES[module].body:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Expr)):
            assert uses(node) == set()


# --- what an import costs


def imported_by(code: str) -> set[str]:
    """The top-level modules that a clean interpreter holds after running `code`."""
    # Before anything is imported, some packages' .pth files have made their namespaces.
    script = (
        "import sys\nearly = {*sys.modules} - {'sys'}\n"
        f"{code}\nprint(*sorted({{name.split('.')[0] for name in {{*sys.modules}} - early}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(CORE.parent)}
    )
    return set(done.stdout.split())


def test_importing_the_library_imports_no_other() -> None:
    held = imported_by("import daena_kms")
    assert "daena_kms" in held
    assert held & set(FOREIGN) == set()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import daena_kms.app", id="composition-root"),
        pytest.param("import daena_kms; daena_kms.open_service; daena_kms.read_settings()", id="what-a-function-uses"),
    ],
)
def test_a_function_pays_for_no_terminal_and_no_foreign_sdk(code: str) -> None:
    held = imported_by(code)
    assert "msgspec" in held
    assert held & {"click", "rich", *SDKS} == set()


def test_help_pays_for_no_table() -> None:
    code = "sys.argv = ['daena-key-rotate', '--version']\nfrom daena_kms import cli\ncli.main()"
    assert "rich" not in imported_by(code)


def test_every_name_that_is_offered_is_there() -> None:
    for name in daena_kms.__all__:
        assert getattr(daena_kms, name) is not None
    with pytest.raises(AttributeError):
        daena_kms.no_such_name  # noqa: B018  # that it raises is what is tested
