"""What `doctor` says, check by check, of a sandbox; and what must hold whatever it says."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.gcp_world import FUNCTION, Project

from .sandbox import CANARY, Result, Sandbox, leaked

POLICY = "[keys.orders-key]\ncreate = true\n"
MINUTES = 1 / (24 * 60)
NOWHERE = "127.0.0.1:9"  # nobody listens there


class Found(NamedTuple):
    """The lines that `doctor` printed, by the name of the check."""

    status: int
    checks: Mapping[str, Mapping[str, str]]

    def named(self, standing: str) -> set[str]:
        """The checks that stand so."""
        return {name for name, check in self.checks.items() if check["standing"] == standing}

    @property
    def failed(self) -> set[str]:
        return self.named("failed")

    def line(self, name: str) -> str:
        """A check's message and hint."""
        return f"{self.checks[name]['message']} | {self.checks[name]['hint']}"

    def only(self, name: str) -> str:
        """The line of the one check that failed."""
        assert (self.status, self.failed) == (1, {name}), self.checks
        assert self.checks[name]["hint"], "it says what to do"
        return self.line(name)


def of_a_key_file(project: Project) -> dict[str, str]:
    """A Google project's environment, with a key file: where the metadata server is, google-auth reads at import."""
    found = {name: value for name, value in project.environment().items() if "METADATA" not in name}
    return found | project.secrets.environment(FUNCTION)


def with_a_key(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a store that is initialised, has one key, and is pinned."""
    box = Sandbox(folder / "work", policy=POLICY)
    made = box.done("init", "--json", **environment).json
    box.done("rotate", **environment)
    return {**environment, "DAENA_PUBLIC_KEY": made["public_key"]}


def examined(
    box: Sandbox, environment: Mapping[str, str], state: Callable[[], Any] = lambda: None, *secrets: bytes
) -> Found:
    """What `doctor` finds. It changes nothing, and shows nothing secret."""
    before = box.digest(), state()
    result = box.run("doctor", "--json", **environment)
    assert (box.digest(), state()) == before
    for secret in (CANARY, *secrets):
        assert leaked(result.out + result.err, secret) == []
    return read(result)


def read(result: Result) -> Found:
    """The document, which must make sense."""
    told = result.json
    assert result.err == ""
    assert result.status == (0 if told["sound"] else 1)
    found = Found(result.status, {check["name"]: check for check in told["checks"]})
    assert len(found.checks) == len(told["checks"]), "a check has one line"
    assert (found.failed == set()) == told["sound"]
    for check in told["checks"]:
        assert check["message"]
        assert check["hint"] or check["standing"] in ("ok", "not-tried"), check
    return found


def check_text(box: Sandbox, environment: Mapping[str, str], found: Found) -> None:
    """For people it says the same, a line each, and what to do."""
    result = box.run("doctor", **environment)
    lines = result.out.splitlines()
    assert (result.status, result.err) == (found.status, "")
    assert [line.split("  ")[0] for line in lines[: len(found.checks)]] == list(found.checks)
    for name, check in found.checks.items():
        assert not check["hint"] or f"  {name}: hint: {check['hint']}" in lines
