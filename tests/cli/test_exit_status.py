"""Exit status: 0 done, 1 some key failed, 2 usage or configuration, 3 verification failed."""

import json
from collections.abc import Callable

import pytest

from .sandbox import BILLING, KEY, YOUNG, Result, Sandbox

DONE, FAILED, USAGE, UNVERIFIED = 0, 1, 2, 3

Change = Callable[[Sandbox], object]


def nothing(_: Sandbox) -> None:
    """Leave the sandbox as it is."""


def mistype_a_key(box: Sandbox) -> None:
    """A policy that names a key which does not exist and may not be made."""
    policy = (box.folder / "daena-kms.toml").read_text()
    box.write_policy(policy + "\n[keys.a-key-mistyped]\n")


def tamper(box: Sandbox, sequence: int = 2) -> None:
    """One letter of one entry; still JSON, still the same length."""
    entry = box.entry(BILLING, sequence)
    record = json.loads(entry.read_bytes())
    stored = entry.read_bytes()
    actor = record["actor"].encode()
    assert stored.count(actor) == 1
    entry.write_bytes(stored.replace(actor, b"X" + actor[1:]))


def tamper_head(box: Sandbox) -> None:
    """The last entry of a key."""
    tamper(box, 6)


def cut(box: Sandbox) -> None:
    """The end of a manifest is gone."""
    box.entry(BILLING, 6).unlink()


def swap(box: Sandbox) -> None:
    """Another key's entry in its place, properly signed."""
    box.entry(BILLING, 4).write_bytes(box.entry(KEY, 4).read_bytes())


def tamper_trust(box: Sandbox) -> None:
    """The entry that names the public key."""
    entry = box.entry("reserved--manifest-keys", 1)
    entry.write_bytes(entry.read_bytes().replace(b'"generation":1', b'"generation":2'))


def drop_policy(box: Sandbox) -> None:
    """No policy file."""
    (box.folder / "daena-kms.toml").unlink()


def due(box: Sandbox) -> None:
    """Every key is too old."""
    box.days = 80


def due_and_one_broken(box: Sandbox) -> None:
    """Every key is too old, and one has a manifest that is not what was signed."""
    box.days = 80
    tamper_head(box)


TABLE = [
    # What went as asked.
    pytest.param(DONE, nothing, ["rotate"], id="0-nothing-due"),
    pytest.param(DONE, due, ["rotate"], id="0-rotated"),
    pytest.param(DONE, due, ["plan"], id="0-a-plan-with-something-due"),
    pytest.param(DONE, nothing, ["verify"], id="0-verified"),
    pytest.param(DONE, nothing, ["verify", "--manifests", ".kms/manifests"], id="0-verified-offline"),
    pytest.param(DONE, drop_policy, ["verify", "--manifests", ".kms/manifests"], id="0-offline-needs-no-policy"),
    pytest.param(DONE, nothing, ["--help"], id="0-help"),
    pytest.param(DONE, nothing, ["--version"], id="0-version"),
    pytest.param(DONE, nothing, ["completion", "bash"], id="0-completion"),
    pytest.param(DONE, nothing, ["rotate", "--force", "--all", "--yes"], id="0-forced"),
    # Some key failed; the others did not.
    pytest.param(FAILED, mistype_a_key, ["rotate"], id="1-missing-key-that-may-not-be-made"),
    pytest.param(FAILED, mistype_a_key, ["rotate", "a-key-mistyped"], id="1-missing-key-by-name"),
    pytest.param(FAILED, due_and_one_broken, ["rotate"], id="1-one-manifest-broken"),
    pytest.param(FAILED, tamper_head, ["rotate", BILLING, "--force", "--yes"], id="1-forced-but-broken"),
    # Nobody could do that.
    pytest.param(USAGE, nothing, ["rotate", "--force"], id="2-force-needs-a-key-or-all"),
    pytest.param(USAGE, nothing, ["rotate", KEY, "--force"], id="2-force-asks-where-nobody-is"),
    pytest.param(USAGE, nothing, ["destroy", BILLING, "--version", "1"], id="2-destroy-asks-where-nobody-is"),
    pytest.param(USAGE, nothing, ["rotate", "no-such-key"], id="2-unknown-key"),
    pytest.param(USAGE, nothing, ["no-such-command"], id="2-unknown-command"),
    pytest.param(USAGE, nothing, ["get"], id="2-argument-missing"),
    pytest.param(USAGE, nothing, [], id="2-no-command"),
    pytest.param(USAGE, nothing, ["create", KEY], id="2-exists"),
    pytest.param(USAGE, drop_policy, ["rotate"], id="2-no-policy"),
    pytest.param(USAGE, nothing, ["verify", "no-such-key"], id="2-verify-unknown-key"),
    pytest.param(USAGE, nothing, ["verify", "--manifests", "nowhere"], id="2-verify-no-folder"),
    # The evidence does not hold.
    pytest.param(UNVERIFIED, tamper, ["verify"], id="3-entry-altered"),
    pytest.param(UNVERIFIED, tamper, ["verify", "--json"], id="3-entry-altered-json"),
    pytest.param(UNVERIFIED, tamper, ["verify", BILLING], id="3-entry-altered-by-name"),
    pytest.param(UNVERIFIED, tamper, ["verify", "--manifests", ".kms/manifests"], id="3-entry-altered-offline"),
    pytest.param(UNVERIFIED, tamper, ["history", BILLING], id="3-history-of-what-was-altered"),
    pytest.param(UNVERIFIED, cut, ["verify"], id="3-manifest-cut"),
    pytest.param(UNVERIFIED, swap, ["verify"], id="3-entry-of-another-key"),
    pytest.param(UNVERIFIED, tamper_trust, ["verify"], id="3-public-key-entry-altered"),
    pytest.param(UNVERIFIED, tamper_trust, ["rotate"], id="3-nothing-works-without-trust"),
    pytest.param(
        UNVERIFIED,
        nothing,
        ["verify", "--manifests", ".kms/manifests", "--public-key", "00" * 32],
        id="3-other-public-key",
    ),
]


@pytest.mark.parametrize(("status", "change", "command"), TABLE)
def test_exit_status(box: Sandbox, status: int, change: Change, command: list[str]) -> None:
    change(box)
    result = box.run(*command)
    assert result.status == status, result


@pytest.mark.parametrize(
    ("status", "change", "command"),
    [
        pytest.param(DONE, nothing, ["rotate"], id="0"),
        pytest.param(FAILED, mistype_a_key, ["rotate"], id="1"),
        pytest.param(USAGE, nothing, ["rotate", "no-such-key"], id="2"),
        pytest.param(UNVERIFIED, tamper, ["verify"], id="3"),
    ],
)
def test_exit_status_as_a_shell_sees_it(box: Sandbox, status: int, change: Change, command: list[str]) -> None:
    change(box)
    result = box.process(*command)
    assert result.status == status, result
    assert "Traceback" not in result.err


def test_one_bad_key_does_not_stop_the_others(box: Sandbox) -> None:
    mistype_a_key(box)
    due_and_one_broken(box)
    result = box.run("rotate", "--json")
    assert result.status == FAILED
    assert {o["key"]: o["status"] for o in result.json["outcomes"]} == {
        "a-key-mistyped": "failed",
        BILLING: "failed",
        KEY: "rotated",
        YOUNG: "rotated",
    }
    assert result.json["counts"] == {"rotated": 2, "failed": 2}


def test_a_key_that_failed_says_why_and_what_to_do(box: Sandbox) -> None:
    mistype_a_key(box)
    result = box.process("rotate")
    (line,) = [line for line in result.out.splitlines() if line.startswith("a-key-mistyped")]
    assert "failed" in line
    assert "does not say create = true" in line
    assert "  a-key-mistyped: hint: " in result.out
    assert result.err == "", "the reasons are in the report; stderr adds nothing that a person can use"


def test_verify_names_the_first_bad_entry(box: Sandbox) -> None:
    tamper(box)
    out = box.run("verify").out
    assert "billing-key: problem: entry 2 of billing-key is bad: its signature does not match its content" in out
    assert [line.split()[2] for line in out.splitlines() if line.startswith(KEY)] == ["ok"]


def test_verify_finds_a_manifest_that_was_cut_only_with_the_store(box: Sandbox) -> None:
    """The head stored beside the key shows the cut; a copy alone cannot: that is why both are looked at."""
    cut(box)
    assert box.run("verify").status == UNVERIFIED
    assert box.run("verify", "--manifests", ".kms/manifests").status == DONE


@pytest.mark.parametrize("asked", [["status"], ["plan"], ["rotate"]])
def test_a_broken_manifest_changes_nothing(box: Sandbox, asked: list[str]) -> None:
    tamper_trust(box)
    before = box.digest()
    result: Result = box.run(*asked)
    assert result.status == UNVERIFIED
    assert result.lines("error: ")
    assert result.lines("hint: ")
    assert box.digest() == before
