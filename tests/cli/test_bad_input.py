"""What bad input gets: one error line, a hint, exit status 2, and nothing changed.

"Nothing" is meant: every file and folder under the working folder is compared by name and content before and after,
SQLite's write-ahead log included, because a change may lie there and nowhere else.
"""

import base64
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .sandbox import BILLING, KEY, POLICY, TIMEOUT_SECONDS, Result, Sandbox, environment_with

Change = Callable[[Sandbox], object]


def nothing(_: Sandbox) -> None:
    """The sandbox as it is."""


def policy(text: str) -> Change:
    """Another policy."""
    return lambda box: box.write_policy(text)


def policy_bytes(data: bytes) -> Change:
    """Another policy, byte by byte."""
    return lambda box: (box.folder / "daena-kms.toml").write_bytes(data)


def file(name: str, data: bytes) -> Change:
    """One more file."""
    return lambda box: (box.folder / name).write_bytes(data)


def no_policy(box: Sandbox) -> None:
    """The policy is gone."""
    (box.folder / "daena-kms.toml").unlink()


def policy_is_a_folder(box: Sandbox) -> None:
    """A folder in the policy's place."""
    no_policy(box)
    (box.folder / "daena-kms.toml").mkdir()


def foreign_manifests(box: Sandbox) -> None:
    """Somebody else's folder where the manifests would lie."""
    (box.folder / "photos").mkdir()
    (box.folder / "photos" / "holiday.jpg").write_bytes(b"\xff\xd8")


def manifests_are_a_file(box: Sandbox) -> None:
    """A file where the manifests lie."""
    shutil.rmtree(box.home / "manifests")
    (box.home / "manifests").write_text("")


def cut_vault(keep: Callable[[int], int]) -> Change:
    """A vault of which only the beginning is left."""

    def cut(box: Sandbox) -> None:
        data = box.vault.read_bytes()
        box.vault.write_bytes(data[: keep(len(data))])

    return cut


def garbled_vault(box: Sandbox) -> None:
    """A vault of the right length that is no database."""
    box.vault.write_bytes(os.urandom(box.vault.stat().st_size))


def key_file(text: bytes, mode: int = 0o600) -> Change:
    """Another key file."""

    def change(box: Sandbox) -> None:
        (box.home / "kek").write_bytes(text)
        (box.home / "kek").chmod(mode)

    return change


def no_key_file(box: Sandbox) -> None:
    """The key file is lost."""
    (box.home / "kek").unlink()


def open_key_file(box: Sandbox) -> None:
    """The right key file, but everybody may read it."""
    (box.home / "kek").chmod(0o644)


def scheduled(box: Sandbox) -> None:
    """A destruction that was asked for."""
    box.done("destroy", BILLING, "--version", "1", "--yes")


def destroyed(box: Sandbox) -> None:
    """A version that is gone."""
    scheduled(box)
    box.days = 8
    box.done("rotate")


def disabled(box: Sandbox) -> None:
    """A version that is disabled."""
    box.done("disable", BILLING, "--version", "1")


def compromised(box: Sandbox) -> None:
    """A version that others know."""
    box.done("compromised", BILLING, "--version", "1")


OTHER_KEK = base64.b64encode(bytes(32)).decode()
RESERVED = "reserved--manifest-keys"
HUGE = "9" * 5000

# id, what is wrong in the world, the command
COMMANDS = [
    # A policy that does not parse, or cannot be kept.
    pytest.param(no_policy, ["rotate"], id="policy-missing"),
    pytest.param(policy_is_a_folder, ["rotate"], id="policy-is-a-folder"),
    pytest.param(policy(""), ["rotate"], id="policy-empty"),
    pytest.param(policy("[keys.a\n"), ["rotate"], id="policy-no-toml"),
    pytest.param(policy_bytes(b"\xff\xfe"), ["rotate"], id="policy-no-text"),
    pytest.param(policy("[keys.a]\nx = " + "[" * 5000), ["rotate"], id="policy-too-deep"),
    pytest.param(policy(f"[keys.a]\nrotate_after_days = {HUGE}\n"), ["rotate"], id="policy-number-of-5000-digits"),
    pytest.param(policy(f"[keys.a]\nspec = '{HUGE}'\n"), ["rotate"], id="policy-spec-of-5000-digits"),
    pytest.param(policy("[keys.a]\nrotate_after_day = 3\n"), ["plan"], id="policy-unknown-field"),
    pytest.param(policy("[keys.Bad_Name]\n"), ["status"], id="policy-bad-name"),
    pytest.param(policy("[keys.a]\nwindow = 'Sun 02:00-03:00'\nrotate_after_days = 7\n"), ["rotate"], id="window"),
    # Key names that no cloud would take.
    pytest.param(nothing, ["create", "Upper"], id="name-upper-case"),
    pytest.param(nothing, ["create", "under_score"], id="name-underscore"),
    pytest.param(nothing, ["create", "-leading", "--reason", "x"], id="name-leading-hyphen"),
    pytest.param(nothing, ["create", "--", "-leading"], id="name-leading-hyphen-as-argument"),
    pytest.param(nothing, ["create", "trailing-"], id="name-trailing-hyphen"),
    pytest.param(nothing, ["create", "double--hyphen"], id="name-double-hyphen"),
    pytest.param(nothing, ["create", ""], id="name-empty"),
    pytest.param(nothing, ["create", "a" * 115], id="name-too-long"),
    pytest.param(nothing, ["create", "schlüssel"], id="name-not-ascii"),
    pytest.param(nothing, ["create", "key\n"], id="name-newline"),
    pytest.param(nothing, ["create", "../escape"], id="name-path"),
    pytest.param(file("m", bytes(32)), ["import", "Upper", "--from", "m"], id="name-import"),
    pytest.param(nothing, ["rotate", "Upper"], id="name-rotate"),
    pytest.param(nothing, ["plan", "Upper"], id="name-plan"),
    pytest.param(nothing, ["status", "Upper"], id="name-status"),
    pytest.param(nothing, ["verify", "../manifests"], id="name-verify"),
    pytest.param(nothing, ["history", "../manifests/billing-key"], id="name-history-path"),
    pytest.param(nothing, ["get", "x y"], id="name-get-space"),
    pytest.param(nothing, ["adopt", "Upper"], id="name-adopt"),
    # The name under which our own keys lie is nobody's to work with.
    *(
        pytest.param(nothing, [*command, *options], id=f"reserved-{command[0]}")
        for command, options in (
            (["create", RESERVED], []),
            (["rotate", RESERVED], []),
            (["rotate", RESERVED], ["--force", "--yes"]),
            (["get", RESERVED], ["--reveal"]),
            (["rollback", RESERVED], []),
            (["compromised", RESERVED], ["--version", "1"]),
            (["destroy", RESERVED], ["--version", "1", "--yes"]),
            (["disable", RESERVED], ["--version", "1"]),
            (["enable", RESERVED], ["--version", "1"]),
            (["pause", RESERVED], []),
            (["resume", RESERVED], []),
            (["repair", RESERVED], []),
            (["adopt", RESERVED], []),
        )
    ),
    # Keys that are not there, or are there already.
    *(
        pytest.param(nothing, [command, "no-such-key", *options], id=f"no-such-key-{command}")
        for command, options in (
            ("rotate", []),
            ("plan", []),
            ("status", []),
            ("get", []),
            ("history", []),
            ("verify", []),
            ("rollback", []),
            ("compromised", ["--version", "1"]),
            ("destroy", ["--version", "1", "--yes"]),
            ("disable", ["--version", "1"]),
            ("enable", ["--version", "1"]),
            ("pause", []),
            ("resume", []),
            ("adopt", []),
            ("repair", []),
        )
    ),
    pytest.param(nothing, ["create", KEY], id="create-existing"),
    pytest.param(file("m", bytes(32)), ["import", KEY, "--from", "m"], id="import-existing"),
    pytest.param(nothing, ["rotate", KEY, "no-such-key", "--force", "--yes"], id="one-good-one-unknown"),
    # Versions that are not there.
    *(
        pytest.param(nothing, [command, BILLING, "--version", number, *options], id=f"no-version-{command}-{name}")
        for name, number in (("9", "9"), ("0", "0"), ("-1", "-1"), ("two", "two"), ("5000-digits", HUGE))
        for command, options in (("get", []), ("disable", []), ("destroy", ["--yes"]))
    ),
    pytest.param(nothing, ["get", BILLING, "--version", "9", "--reveal"], id="no-version-get-reveal"),
    pytest.param(nothing, ["rollback", BILLING, "--version", "9"], id="no-version-rollback"),
    pytest.param(nothing, ["enable", BILLING, "--version", "9"], id="no-version-enable"),
    pytest.param(nothing, ["compromised", BILLING, "--version", "9"], id="no-version-compromised"),
    pytest.param(nothing, ["destroy", BILLING, "--version", "9", "--cancel"], id="no-version-destroy-cancel"),
    # What would lose or expose something.
    pytest.param(nothing, ["destroy", BILLING, "--version", "3", "--yes"], id="destroy-active"),
    pytest.param(nothing, ["destroy", BILLING, "--version", "2", "--yes"], id="destroy-one-of-the-last-two"),
    pytest.param(
        lambda box: box.done("rotate", BILLING, "--force", "--yes"),
        ["destroy", BILLING, "--version", "2", "--yes"],
        id="destroy-inside-its-grace",
    ),
    pytest.param(scheduled, ["destroy", BILLING, "--version", "1", "--yes"], id="destroy-twice"),
    pytest.param(destroyed, ["destroy", BILLING, "--version", "1", "--yes"], id="destroy-destroyed"),
    pytest.param(nothing, ["destroy", BILLING, "--version", "1", "--cancel"], id="cancel-what-is-not-scheduled"),
    pytest.param(
        policy("[keys.billing-key]\n"), ["destroy", BILLING, "--version", "1", "--yes"], id="destroy-by-policy-never"
    ),
    pytest.param(policy("[keys.a]\n"), ["destroy", BILLING, "--version", "1", "--yes"], id="destroy-without-policy"),
    pytest.param(nothing, ["disable", BILLING, "--version", "3"], id="disable-active"),
    pytest.param(disabled, ["disable", BILLING, "--version", "1"], id="disable-disabled"),
    pytest.param(destroyed, ["disable", BILLING, "--version", "1"], id="disable-destroyed"),
    pytest.param(nothing, ["enable", BILLING, "--version", "1"], id="enable-enabled"),
    pytest.param(destroyed, ["enable", BILLING, "--version", "1"], id="enable-destroyed"),
    pytest.param(disabled, ["get", BILLING, "--version", "1", "--reveal"], id="reveal-disabled"),
    pytest.param(destroyed, ["get", BILLING, "--version", "1", "--reveal"], id="reveal-destroyed"),
    pytest.param(nothing, ["rollback", BILLING, "--version", "3"], id="rollback-to-active"),
    pytest.param(compromised, ["rollback", BILLING, "--version", "1"], id="rollback-to-compromised"),
    pytest.param(disabled, ["rollback", BILLING, "--version", "1"], id="rollback-to-disabled"),
    pytest.param(lambda box: box.done("create", "fresh"), ["rollback", "fresh"], id="rollback-without-previous"),
    pytest.param(policy("[keys.a]\n"), ["rotate", KEY, "--force", "--yes"], id="force-without-policy"),
    pytest.param(nothing, ["adopt", KEY], id="adopt-what-is-known"),
    # Options.
    pytest.param(nothing, ["rotate", "--force"], id="force-without-key"),
    pytest.param(nothing, ["rotate", "--force", "--all"], id="force-unasked"),
    pytest.param(nothing, ["destroy", BILLING, "--version", "1"], id="destroy-unasked"),
    pytest.param(nothing, ["destroy", BILLING, "--yes"], id="destroy-without-version"),
    pytest.param(nothing, ["rotate", "--froce"], id="option-mistyped"),
    pytest.param(nothing, ["rotat"], id="command-mistyped"),
    pytest.param(nothing, ["get"], id="argument-missing"),
    pytest.param(nothing, ["get", KEY, "--encoding", "rot13"], id="encoding-unknown"),
    pytest.param(nothing, ["completion", "tcsh"], id="shell-unknown"),
    # Material and dates.
    pytest.param(nothing, ["import", "new-key", "--from", "nowhere"], id="import-no-file"),
    pytest.param(nothing, ["import", "new-key"], id="import-no-from"),
    pytest.param(nothing, ["import", "new-key", "--from", ".kms"], id="import-a-folder"),
    pytest.param(file("m", b""), ["import", "new-key", "--from", "m"], id="import-empty"),
    pytest.param(file("m", bytes(1025)), ["import", "new-key", "--from", "m"], id="import-too-long"),
    pytest.param(file("m", bytes(1 << 20)), ["import", "new-key", "--from", "m"], id="import-far-too-long"),
    pytest.param(file("m", b"*" * 32), ["import", "new-key", "--from", "m", "--encoding", "base64"], id="no-base64"),
    pytest.param(file("m", b"xyz"), ["import", "new-key", "--from", "m", "--encoding", "hex"], id="no-hex"),
    pytest.param(file("m", b"\xff" * 32), ["import", "new-key", "--from", "m", "--encoding", "hex"], id="binary-hex"),
    *(
        pytest.param(
            file("m", bytes(32)), ["import", "new-key", "--from", "m", "--created", text], id=f"created-{name}"
        )
        for name, text in (
            ("no-date", "yesterday"),
            ("no-such-day", "2025-02-30"),
            ("in-the-future", "2999-01-01"),
            ("too-many-days", "99999999999d"),
            ("negative", "-5d"),
            ("empty", ""),
            ("before-time-began", "0001-01-01T00:00+14:00"),
        )
    ),
    # Folders and files that are not what they should be.
    pytest.param(manifests_are_a_file, ["rotate"], id="manifests-are-a-file"),
    pytest.param(cut_vault(lambda _: 0), ["status"], id="vault-empty"),
    pytest.param(cut_vault(lambda _: 50), ["status"], id="vault-cut-in-its-header"),
    pytest.param(cut_vault(lambda _: 4096), ["status"], id="vault-cut-after-a-page"),
    pytest.param(cut_vault(lambda size: size // 2), ["status"], id="vault-cut-in-half"),
    pytest.param(cut_vault(lambda size: size // 2), ["rotate", "--force", "--all", "--yes"], id="vault-cut-rotate"),
    pytest.param(cut_vault(lambda size: size // 2), ["init"], id="vault-cut-init"),
    pytest.param(cut_vault(lambda size: size - 1), ["verify"], id="vault-cut-by-a-byte"),
    pytest.param(garbled_vault, ["rotate"], id="vault-garbled"),
    # A wrong KEK is a clear error, never garbage.
    pytest.param(no_key_file, ["status"], id="kek-file-missing"),
    pytest.param(no_key_file, ["rotate"], id="kek-file-missing-rotate"),
    pytest.param(no_key_file, ["init"], id="kek-file-missing-init"),
    pytest.param(open_key_file, ["status"], id="kek-file-open-to-all"),
    pytest.param(key_file(OTHER_KEK.encode()), ["status"], id="kek-file-wrong"),
    pytest.param(key_file(OTHER_KEK.encode()), ["rotate", "--force", "--all", "--yes"], id="kek-file-wrong-rotate"),
    pytest.param(key_file(OTHER_KEK.encode()), ["init"], id="kek-file-wrong-init"),
    pytest.param(key_file(b"short"), ["status"], id="kek-file-short"),
    pytest.param(key_file(b""), ["status"], id="kek-file-empty"),
    pytest.param(key_file(b"\xff" * 44), ["status"], id="kek-file-binary"),
]

SETTINGS = [
    pytest.param(nothing, {"DAENA_POLCY": "x"}, id="unknown"),
    pytest.param(nothing, {"DAENA_CLOUD_KMS_PROVIDER": "ibm"}, id="provider"),
    pytest.param(nothing, {"DAENA_TICK_MINUTES": "soon"}, id="tick"),
    pytest.param(nothing, {"DAENA_TICK_MINUTES": HUGE}, id="tick-of-5000-digits"),
    pytest.param(nothing, {"DAENA_LEASE_MINUTES": "0"}, id="lease"),
    pytest.param(nothing, {"DAENA_PUBLIC_KEY": "abc"}, id="public-key"),
    pytest.param(nothing, {"DAENA_KEY_PREFIX": "No_"}, id="prefix"),
    pytest.param(nothing, {"DAENA_KEY_PREFIX": "a" * 200}, id="prefix-that-leaves-no-room"),
    pytest.param(nothing, {"DAENA_POLICY": "/nowhere/policy.toml"}, id="policy"),
    pytest.param(nothing, {"DAENA_MANIFEST_URL": "s3://bucket"}, id="manifest-url-of-another-kind"),
    pytest.param(nothing, {"DAENA_MANIFEST_URL": "file://host/x"}, id="manifest-url-of-another-host"),
    pytest.param(nothing, {"DAENA_MANIFEST_URL": "http://[::1"}, id="manifest-url-no-url"),
    pytest.param(nothing, {"DAENA_LOCAL_KEK": OTHER_KEK}, id="kek-wrong"),
    pytest.param(nothing, {"DAENA_LOCAL_KEK": "short"}, id="kek-short"),
    pytest.param(nothing, {"DAENA_LOCAL_PASSPHRASE": "not this one"}, id="passphrase-wrong"),
    pytest.param(file("f", b""), {"DAENA_HOME": "f"}, id="home-is-a-file"),
    pytest.param(file("f", b""), {"DAENA_HOME": "f/under"}, id="home-under-a-file"),
    pytest.param(nothing, {"DAENA_HOME": "a" * 300}, id="home-name-too-long"),
    pytest.param(nothing, {"DAENA_HOME": "/proc/nowhere"}, id="home-where-nothing-can-be-made"),
]


def check_refused(result: Result, before: dict[str, str], box: Sandbox) -> None:
    """One error line, one hint line at least, status 2, no traceback, nothing changed."""
    assert result.status == 2, result
    assert result.out == ""
    assert len(result.lines("error: ")) == 1, result.err
    assert result.lines("hint: "), result.err
    assert "Traceback" not in result.err
    assert box.digest() == before


@pytest.mark.parametrize(("change", "command"), COMMANDS)
def test_bad_input(box: Sandbox, change: Change, command: list[str]) -> None:
    change(box)
    before = box.digest()
    check_refused(box.run(*command), before, box)


@pytest.mark.parametrize(("change", "environment"), SETTINGS)
@pytest.mark.parametrize("command", [["rotate"], ["status"], ["init"]], ids=["rotate", "status", "init"])
def test_bad_settings(box: Sandbox, change: Change, environment: dict[str, str], command: list[str]) -> None:
    change(box)
    before = box.digest()
    check_refused(box.run(*command, **environment), before, box)


FIRST_USE = [
    pytest.param(["rotate", "Bad_Name"], id="rotate-bad-name"),
    pytest.param(["rotate", "no-such-key"], id="rotate-unknown-key"),
    pytest.param(["create", "Bad_Name"], id="create-bad-name"),
    pytest.param(["import", "Bad_Name", "--from", "daena-kms.toml"], id="import-bad-name"),
    pytest.param(["import", "new-key", "--from", "empty"], id="import-empty"),
    pytest.param(["import", "new-key", "--from", "daena-kms.toml", "--created", "2999-01-01"], id="import-future"),
    pytest.param(["rotate", "other-key", "--force", "--yes"], id="force-without-policy"),
    pytest.param(["rollback", KEY], id="rollback"),
    pytest.param(["compromised", KEY, "--version", "1"], id="compromised"),
    pytest.param(["destroy", KEY, "--version", "1", "--yes"], id="destroy"),
    pytest.param(["disable", KEY, "--version", "1"], id="disable"),
    pytest.param(["enable", KEY, "--version", "1"], id="enable"),
    pytest.param(["pause", KEY], id="pause"),
    pytest.param(["resume", KEY], id="resume"),
    pytest.param(["adopt", KEY], id="adopt"),
    pytest.param(["repair", KEY], id="repair"),
    pytest.param(["status"], id="status"),
    pytest.param(["plan"], id="plan"),
    pytest.param(["verify"], id="verify"),
    pytest.param(["get", KEY], id="get"),
    pytest.param(["history", KEY], id="history"),
]


@pytest.mark.parametrize("command", FIRST_USE)
def test_bad_input_on_first_use_makes_no_vault(empty: Sandbox, command: list[str]) -> None:
    (empty.folder / "empty").write_bytes(b"")
    before = empty.digest()
    check_refused(empty.run(*command), before, empty)


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"DAENA_LOCAL_KEK": "short"}, id="kek-short"),
        pytest.param({"DAENA_LOCAL_KEK": "é" * 43 + "="}, id="kek-not-ascii"),
        pytest.param({"DAENA_MANIFEST_URL": "s3://bucket"}, id="manifest-url"),
        pytest.param({"DAENA_HOME": "daena-kms.toml"}, id="home-is-a-file"),
        pytest.param({"DAENA_CLOUD_KMS_PROVIDER": "nimbus"}, id="provider"),
    ],
)
@pytest.mark.parametrize("command", [["rotate"], ["init"]], ids=["rotate", "init"])
def test_bad_settings_on_first_use_make_no_vault(
    empty: Sandbox, environment: dict[str, str], command: list[str]
) -> None:
    before = empty.digest()
    check_refused(empty.run(*command, **environment), before, empty)


@pytest.mark.parametrize("command", [["rotate"], ["init"], ["create", "new-key"]], ids=["rotate", "init", "create"])
def test_a_manifest_folder_that_is_not_ours_is_left_alone(empty: Sandbox, command: list[str]) -> None:
    foreign_manifests(empty)
    before = empty.digest()
    url = (empty.folder / "photos").as_uri()
    result = empty.run(*command, DAENA_MANIFEST_URL=url)
    check_refused(result, before, empty)
    assert "holiday.jpg" in result.err


def test_the_manifests_of_another_vault_are_not_written_to(box: Sandbox, empty: Sandbox) -> None:
    """Ours, but signed with keys that lie in another vault."""
    other = box.copy(empty.folder / "other")
    shutil.rmtree(box.home / "manifests")
    fresh = Sandbox(empty.folder / "fresh")
    fresh.done("init")
    shutil.copytree(fresh.home / "manifests", box.home / "manifests")
    before = box.digest(), other.digest()
    result = box.run("rotate")
    assert result.status == 3
    assert result.lines("error: ")
    assert result.lines("hint: ")
    assert (box.digest(), other.digest()) == before


def test_a_key_that_belongs_to_other_manifests_is_not_rotated(box: Sandbox) -> None:
    elsewhere = box.folder / "elsewhere"
    shutil.copytree(box.home / "manifests", elsewhere)
    before = box.digest()
    result = box.run("rotate", KEY, "--force", "--yes", DAENA_MANIFEST_URL=elsewhere.as_uri())
    assert result.status == 1
    assert "belongs to the manifest at home:manifests" in result.out
    assert box.digest() == before


def test_a_compromised_key_that_no_policy_names_is_replaced_or_left_alone(box: Sandbox) -> None:
    """Never half: marked, and then "nothing was changed" for want of a policy."""
    box.write_policy("[keys.other-key]\n")
    before = box.digest()
    result = box.run("compromised", KEY, "--version", "2")
    assert result.status in (0, 2)
    assert (result.status == 2) == (box.digest() == before)


def test_every_problem_of_a_policy_is_listed_at_once(box: Sandbox) -> None:
    box.write_policy("[keys.Bad]\ncreate = 'yes'\n[keys.good]\nrotate_after_days = 0\ngrace = 1\n")
    result = box.run("rotate")
    assert result.status == 2
    for expected in ("4 problems", "keys.Bad: ", "keys.Bad.create", "keys.good.rotate_after_days", "'grace_days'?"):
        assert expected in result.err


def test_every_problem_of_the_settings_is_listed_at_once(box: Sandbox) -> None:
    result = box.run("rotate", DAENA_POLCY="x", DAENA_TICK_MINUTES="x", DAENA_CLOUD_KMS_PROVIDER="x")
    assert result.status == 2
    for expected in ("did you mean DAENA_POLICY?", "DAENA_TICK_MINUTES", "DAENA_CLOUD_KMS_PROVIDER"):
        assert expected in result.err


@pytest.mark.parametrize("name", ["DAENA_LOCAL_KEK", "DAENA_LOCAL_PASSPHRASE", "DAENA_LOCAL_PASSWORD"])
def test_a_wrong_secret_is_not_repeated_in_the_error(box: Sandbox, name: str) -> None:
    result = box.run("status", **{name: "correct horse battery staple"})
    assert result.status == 2
    assert "horse" not in result.err


@pytest.mark.parametrize(
    ("made_with", "opened_with", "named"),
    [
        pytest.param({}, {"DAENA_LOCAL_KEK": OTHER_KEK}, "key file", id="key-file"),
        pytest.param({"DAENA_LOCAL_KEK": OTHER_KEK}, {}, "key file", id="setting-forgotten"),
        pytest.param(
            {"DAENA_LOCAL_PASSPHRASE": "correct"},
            {"DAENA_LOCAL_PASSPHRASE": "wrong"},
            "DAENA_LOCAL_PASSPHRASE",
            id="passphrase",
        ),
    ],
)
def test_a_wrong_kek_says_what_the_vault_was_made_with(
    empty: Sandbox, made_with: dict[str, str], opened_with: dict[str, str], named: str
) -> None:
    empty.done("init", **made_with)
    before = empty.digest()
    result = empty.run("status", **opened_with)
    check_refused(result, before, empty)
    assert named in result.err
    assert empty.run("status", **made_with).status == 0


# --- disks and permissions. Root may do everything, so these need a mount, a limit, or another user.


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something on `folder`; skip where that is not permitted."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("mount is not installed: neither a full disk nor a read-only one can be provided")
    done = subprocess.run([mount, *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no right to mount, so no such disk can be provided: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([umount, "-l", str(folder)], check=True)


WRITING = [
    pytest.param(["rotate"], id="rotate"),
    pytest.param(["rotate", "--force", "--all", "--yes"], id="force"),
    pytest.param(["create", "new-key"], id="create"),
    pytest.param(["pause", KEY], id="pause"),
    pytest.param(["init"], id="init"),
]


@pytest.mark.parametrize("command", WRITING)
def test_a_read_only_folder(box: Sandbox, command: list[str]) -> None:
    before = box.digest()
    with read_only(box.home):
        result = box.run(*command)
    check_refused(result, before, box)
    assert str(box.home.name) in result.err


@pytest.mark.parametrize("command", [["rotate"], ["init"]])
def test_a_read_only_folder_on_first_use(empty: Sandbox, command: list[str]) -> None:
    before = empty.digest()
    with read_only(empty.folder):
        check_refused(empty.run(*command), before, empty)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write in `folder`: by its mode, or by a mount where modes do not bind us."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)  # noqa: S607
        yield


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk(box: Sandbox, tmp_path: Path, command: list[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=512k", "tmpfs"):
        full = box.copy(disk / "work")
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        before = full.digest()
        result = full.run(*command)
        check_refused(result, before, full)
        assert "space" in result.err
        (disk / "filler").unlink()
        assert full.run("verify").status == 0


def test_a_full_disk_on_first_use(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        full = Sandbox(disk / "work")
        before = full.digest()
        check_refused(full.run("rotate"), before, full)


def test_files_that_may_not_grow(box: Sandbox) -> None:
    """The same as a full disk, where nothing may be mounted: no file may be longer than a page."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    box.before_process = limit
    before = box.digest()
    result = box.process("rotate", "--force", "--all", "--yes")
    check_refused(result, before, box)


# Everything is imported before privileges are dropped: the interpreter may lie where only its owner may read.
_AS_NOBODY = """
import os, sys
import click, getpass, pwd, uuid
import daena_kms.cli
import daena_kms.stores.local
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
daena_kms.cli.main()
"""


@pytest.mark.parametrize("command", [["status"], ["rotate"], ["init"]], ids=["status", "rotate", "init"])
@pytest.mark.parametrize("shut", [".", ".kms"], ids=["working-folder", "home"])
def test_a_folder_that_this_user_may_not_enter(past: Sandbox, command: list[str], shut: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="daena-") as name:  # pytest's is root's
        open_to_all = Path(name)
        open_to_all.chmod(0o755)
        box = past.copy(open_to_all / "work")
        (box.folder / shut).chmod(0o700)
        before = box.digest()
        policy_file = open_to_all / "policy.toml"
        policy_file.write_text(POLICY)
        environment = {"DAENA_HOME": str(box.home), "DAENA_POLICY": str(policy_file)}
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, *command],
            cwd=open_to_all,
            env=environment_with(environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        check_refused(Result(done.returncode, done.stdout, done.stderr), before, box)


def test_a_path_that_is_no_text_is_told_all_the_same(box: Sandbox) -> None:
    for arguments in (
        ["restore", "caf\udcff.age"],
        ["verify", "--manifests", "caf\udcff"],
        ["migrate", "--from", "\udcff"],
    ):
        result = box.run(*arguments, "--json")
        assert result.status == 2
        assert "\ufffd" in result.json["error"]["message"]


@pytest.mark.parametrize("url", ["file:///tmp/a%00b", "FILE:/%00", "file:%2F%00"])
def test_a_folder_of_manifests_that_can_be_none(box: Sandbox, url: str) -> None:
    before = box.digest()
    result = box.run("status", DAENA_MANIFEST_URL=url)
    assert (result.status, box.digest()) == (2, before)
    assert "no address that this version knows" in result.err
