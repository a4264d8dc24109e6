"""The commands `restore`, `migrate` and `verify --backup/--from`, as people type them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backups import Identity

from .sandbox import BILLING, CANARY, KEY, YOUNG, Result, Sandbox, leaked

BACKUP = ("--identity", "identity.txt")
ELSEWHERE = {"DAENA_HOME": "elsewhere"}


class Watched(Sandbox):
    """Everything that is printed is kept, to be searched."""

    def __init__(self, folder: Path, **how: Any) -> None:
        super().__init__(folder, **how)
        self.printed: list[str] = []

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        result = super().run(*arguments, stdin=stdin, **environment)
        self.printed += [result.out, result.err]
        return result


@pytest.fixture
def kept(box: Sandbox) -> Iterator[Watched]:
    """A vault with a past, and a backup of it in keys.age. No test prints material that it was not asked for."""
    made = Watched(box.folder, policy=(box.folder / "daena-kms.toml").read_text(), days=box.days)
    identity = Identity(made.folder)
    assert identity.file.name == BACKUP[1]
    made.done("backup", "--to", "keys.age", "--recipient", identity.recipient)
    (made.folder / "elsewhere.env").write_text("DAENA_HOME=elsewhere\n")
    yield made
    assert not leaked("\n".join(made.printed), CANARY)


def canary_in(box: Sandbox, **environment: str) -> bool:
    """Whether version 1 of BILLING is what it was, wherever it lies. Not run under watch: it prints it."""
    found = Sandbox.done(box, "get", BILLING, "--version", "1", "--reveal", "--encoding", "hex", **environment)
    if isinstance(box, Watched):
        del box.printed[-2:]
    return found.out.strip() == CANARY.hex()


def problems(result: Result) -> dict[str, list[str]]:
    """What `verify --json` found wrong, by key; nothing of keys without problems."""
    return {each["key"]: each["problems"] for each in result.json["keys"] if each["problems"]}


# --- restore


def test_a_backup_comes_back_into_an_empty_place(kept: Watched) -> None:
    result = kept.done("restore", "keys.age", *BACKUP, "--json", **ELSEWHERE)
    assert {o["key"]: o["status"] for o in result.json["outcomes"]} == dict.fromkeys((BILLING, KEY, YOUNG), "done")
    assert canary_in(kept, **ELSEWHERE)
    before, after = (kept.done("status", "--json", **place).json["keys"] for place in ({}, ELSEWHERE))
    told = ("number", "state", "spec", "made_at", "active_since", "deactivated_at", "compromised")
    assert [[[v[name] for name in told] for v in k["versions"]] for k in after] == [
        [[v[name] for name in told] for v in k["versions"]] for k in before
    ]
    assert kept.done("verify", **ELSEWHERE).out.endswith("3 keys, 0 problems\n")
    again = kept.done("restore", "keys.age", *BACKUP, **ELSEWHERE)
    assert again.out.count("all of it is there already") == 3


@pytest.mark.parametrize("how", ["--drill", "--dry-run"])
def test_a_rehearsal_changes_nothing(how: str, kept: Watched) -> None:
    before = kept.digest()
    result = kept.done("restore", "keys.age", *BACKUP, how)
    assert kept.digest() == before
    assert KEY in result.out


def test_what_a_drill_leaves_behind(kept: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert kept.done("restore", "keys.age", *BACKUP, "--drill").out.endswith("3 keys, 0 problems\n")
    assert list(folder.iterdir()) == []


def test_another_key_of_the_same_name_is_not_overwritten(kept: Watched) -> None:
    kept.done("create", KEY, **ELSEWHERE)
    before = kept.done("get", KEY, "--json", **ELSEWHERE).json
    result = kept.run("restore", "keys.age", *BACKUP, **ELSEWHERE)
    assert result.status == 1
    assert f"there is a key {KEY} already" in result.out
    assert kept.done("get", KEY, "--json", **ELSEWHERE).json == before
    assert canary_in(kept, **ELSEWHERE)  # the others came


def test_a_lost_vault_comes_back_under_its_manifests(kept: Watched) -> None:
    """What is newer than the backup is lost, and its number is not given out again."""
    kept.done("rotate", KEY, "--force", "--yes")
    for path in kept.home.glob("vault.db*"):
        path.unlink()
    assert kept.run("status").status != 0
    kept.done("restore", "keys.age", *BACKUP)
    assert canary_in(kept)
    versions = next(k for k in kept.done("status", "--json").json["keys"] if k["key"] == KEY)["versions"]
    assert [(v["number"], v["state"], v["lost"]) for v in versions] == [
        (1, "decrypt-only", False), (2, "active", False), (3, "destroyed", True),
    ]  # fmt: skip
    assert kept.done("verify").out.endswith("3 keys, 0 problems\n")
    assert "version 4" in kept.done("rotate", KEY, "--force", "--yes").out


def _cut(sealed: bytes) -> bytes:
    return sealed[:-1]


def _flipped(sealed: bytes) -> bytes:
    return sealed[:-40] + bytes([sealed[-40] ^ 1]) + sealed[-39:]


def _foreign(_: bytes) -> bytes:
    return b"PK\x03\x04 no backup"


@pytest.mark.parametrize("spoil", [_cut, _flipped, _foreign])
def test_a_bad_file_is_refused_before_anything_is_written(spoil: Callable[[bytes], bytes], kept: Watched) -> None:
    path = kept.folder / "keys.age"
    path.write_bytes(spoil(path.read_bytes()))
    before = kept.digest()
    for place in ({}, ELSEWHERE):
        assert kept.run("restore", "keys.age", *BACKUP, **place).status == 3
    assert kept.digest() == before


def test_the_manifests_of_a_backup_can_be_written_out(kept: Watched) -> None:
    public_key = kept.done("init", "--json").json["public_key"]
    kept.done("restore", "keys.age", *BACKUP, "--drill", "--manifests-to", "evidence")
    told = kept.done("verify", "--manifests", "evidence", "--public-key", public_key)
    assert told.out.endswith("3 keys, 0 problems\n")


# --- verify


def test_verify_against_a_backup_finds_no_difference(kept: Watched) -> None:
    assert problems(kept.done("verify", "--backup", "keys.age", *BACKUP, "--json")) == {}


def test_what_is_newer_than_the_backup_is_a_warning(kept: Watched) -> None:
    kept.done("rotate", KEY, "--force", "--yes")
    kept.done("import", "new-key", "--from", "daena-kms.toml")
    told = kept.done("verify", "--backup", "keys.age", *BACKUP).out
    assert f"{KEY}: warning: version 3 is newer than the backup" in told
    assert "new-key: warning: it is not in the backup" in told


def test_what_the_backup_has_and_the_store_has_not_is_a_problem(kept: Watched) -> None:
    kept.done("restore", "keys.age", *BACKUP, KEY, **ELSEWHERE)
    kept.done("create", YOUNG, **ELSEWHERE)
    result = kept.run("verify", "--backup", "keys.age", *BACKUP, "--json", **ELSEWHERE)
    assert result.status == 3
    found = problems(result)
    assert found[BILLING] == ["it is in the backup, but not here"]
    assert found[YOUNG][0] == "version 1 is other material here, but it is in the backup"
    assert KEY not in found


def test_verify_against_another_store_is_told_both_ways(kept: Watched) -> None:
    kept.done("migrate", "--to", "elsewhere.env")
    assert problems(kept.done("verify", "--from", "local", "--json", DAENA_HOME="elsewhere")) == {}
    (kept.folder / "old.env").write_text(f"DAENA_HOME={kept.home}\n")
    assert problems(kept.done("verify", "--from", "old.env", "--json", **ELSEWHERE)) == {}
    kept.done("rotate", KEY, "--force", "--yes", **ELSEWHERE)
    newer = kept.done("verify", "--from", "old.env", **ELSEWHERE)
    assert "version 3 is newer than the other store" in newer.out
    back = kept.run("verify", "--from", "elsewhere.env", "--json")
    assert back.status == 3
    assert problems(back) == {KEY: ["version 3 is missing here, but it is in the other store"]}


# --- migrate


def test_keys_move_with_the_command_and_are_rotated_there_only(kept: Watched) -> None:
    result = kept.done("migrate", "--to", "elsewhere.env", "--json")
    assert {o["status"] for o in result.json["outcomes"]} == {"done"}
    assert canary_in(kept, **ELSEWHERE)
    kept.days += 91
    here, there = kept.done("rotate", "--json"), kept.done("rotate", "--json", **ELSEWHERE)
    assert {o["status"] for o in here.json["outcomes"]} == {"moved"}
    assert here.json["overdue"] == []
    assert {o["status"] for o in there.json["outcomes"]} == {"rotated"}
    refused = kept.run("rotate", KEY, "--force", "--yes")
    assert refused.status == 1
    assert "moved to" in refused.out
    assert "moved there before" in kept.done("migrate", "--to", "elsewhere.env").out


def test_a_copy_stays_where_it_was_too(kept: Watched) -> None:
    told = kept.done("migrate", KEY, "--copy", "--to", "elsewhere.env").out
    assert "from its next rotation on the two differ" in told
    kept.done("rotate", KEY, "--force", "--yes")
    kept.done("rotate", KEY, "--force", "--yes", **ELSEWHERE)
    assert canary_in(kept)


def test_a_key_that_arrived_is_not_called_off(kept: Watched) -> None:
    kept.done("migrate", KEY, "--to", "elsewhere.env")
    result = kept.run("migrate", "--cancel", KEY, BILLING, "--to", "elsewhere.env", "--json")
    assert result.status == 1
    told = {o["key"]: o["message"] for o in result.json["outcomes"]}
    assert "has arrived" in told[KEY]
    assert "no migration" in told[BILLING]


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "to where it is": (("migrate",), "set DAENA_CLOUD_KMS_PROVIDER"),
    "settings that are not there": (("migrate", "--to", "nowhere.env"), "cannot be read"),
    "copy and cancel": (("migrate", KEY, "--copy", "--cancel"), "--copy"),
    "cancel of nothing": (("migrate", "--cancel"), "names of the keys"),
    "a key that is not there": (("migrate", "no-key", "--to", "elsewhere.env"), "there is no key 'no-key'"),
    "a key that is in no backup": (("restore", "keys.age", *BACKUP, "no-key"), "the backup has no key 'no-key'"),
    "no identity": (("restore", "keys.age"), "--identity FILE"),
    "a backup of a copy": (("verify", "--manifests", ".kms/manifests", "--backup", "keys.age"), "offline"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_makes_no_sense_is_refused_and_changes_nothing(name: str, kept: Watched) -> None:
    arguments, word = BAD[name]
    kept.done("init", **ELSEWHERE)
    before = kept.digest()
    result = kept.run(*arguments)
    assert result.status == 2
    assert word in result.err
    assert kept.digest() == before


def test_a_file_of_settings_may_hold_secrets_and_shows_none(kept: Watched) -> None:
    (kept.folder / "bad.env").write_text("DAENA_LOCAL_PASSPHRASE=hush hush\n")
    result = kept.run("migrate", "--to", "bad.env")
    assert result.status == 2
    assert "line 1" in result.err
    assert "hush" not in result.out + result.err
