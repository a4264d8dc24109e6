"""Every command: what it does, what its JSON looks like, and that no material comes out unasked."""

import base64
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from .sandbox import BILLING, CANARY, KEY, YOUNG, Result, Sandbox, leaked

# The JSON of each command, key by key, in order. These lists are a promise to scripts: a key that is there once is
# there always, whatever its value, so that nobody has to guess whether "absent" means "no".
OUTCOME = ["key", "status", "message", "why", "number", "hint", "next_at", "rotation_id", "recorded", "stuck", "notes"]
REPORT = ["started_at", "finished_at", "policy", "counts", "overdue", "oldest_active_days", "outcomes"]
KEY_STATUS = [
    "key",
    "active",
    "age_days",
    "material_age_days",
    "limit_days",
    "next_at",
    "overdue",
    "paused",
    "moved",
    "in_progress",
    "versions",
    "problem",
]
VERSION = [
    "number",
    "version_id",
    "fingerprint",
    "spec",
    "state",
    "made_at",
    "active_since",
    "deactivated_at",
    "compromised",
    "lost",
    "destroy_at",
    "source",
]
KEY_AUDIT = ["key", "entries", "problems", "warnings", "head"]
# A manifest entry leaves out what is empty (docs/manifest-format.md); these are never empty.
ENTRY_ALWAYS = ["format", "sequence", "time", "key", "event", "actor", "trigger", "signer", "state", "signature"]

# Commands that answer with one outcome, and what has to be done before they can.
ONE_OUTCOME = [
    pytest.param([], ["create", "new-key"], id="create"),
    pytest.param([], ["import", "new-key", "--from", "material"], id="import"),
    pytest.param([], ["rollback", BILLING], id="rollback"),
    pytest.param([], ["compromised", BILLING, "--version", "1"], id="compromised-old"),
    pytest.param([], ["compromised", BILLING, "--version", "3"], id="compromised-active"),
    pytest.param([], ["destroy", BILLING, "--version", "1", "--yes"], id="destroy"),
    pytest.param(
        [["destroy", BILLING, "--version", "1", "--yes"]],
        ["destroy", BILLING, "--version", "1", "--cancel"],
        id="destroy-cancel",
    ),
    pytest.param([], ["disable", BILLING, "--version", "2"], id="disable"),
    pytest.param([["disable", BILLING, "--version", "2"]], ["enable", BILLING, "--version", "2"], id="enable"),
    pytest.param([], ["pause", KEY], id="pause"),
    pytest.param([["pause", KEY]], ["resume", KEY], id="resume"),
    pytest.param([], ["repair", KEY], id="repair"),
]
REPORTS = [
    pytest.param(["rotate"], id="rotate"),
    pytest.param(["rotate", KEY, "--force", "--yes"], id="rotate-force"),
    pytest.param(["rotate", "--all", "--dry-run"], id="rotate-dry-run"),
    pytest.param(["plan"], id="plan"),
]


@pytest.mark.parametrize(("before", "command"), ONE_OUTCOME)
def test_json_of_a_command_for_one_key(box: Sandbox, before: list[list[str]], command: list[str]) -> None:
    (box.folder / "material").write_bytes(bytes(range(32)))
    for each in before:
        box.done(*each)
    record = box.done(*command, "--json").json
    assert record["key"] == command[1]
    assert list(record) == OUTCOME


def test_json_of_adopt(box: Sandbox) -> None:
    for entry in (box.home / "manifests" / KEY).iterdir():
        entry.unlink()
    assert list(box.done("adopt", KEY, "--json").json) == OUTCOME


@pytest.mark.parametrize("command", REPORTS)
@pytest.mark.parametrize("days", [0, 80], ids=["young", "due"])
def test_json_of_a_run(box: Sandbox, command: list[str], days: int) -> None:
    box.days = days
    report = box.done(*command, "--json").json
    assert list(report) == REPORT
    assert report["outcomes"]
    assert sum(report["counts"].values()) == len(report["outcomes"])
    assert [list(outcome) for outcome in report["outcomes"]] == [OUTCOME] * len(report["outcomes"])


def test_json_of_status_has_the_same_keys_for_every_key(box: Sandbox) -> None:
    box.done("pause", YOUNG)
    box.done("create", "made-today")
    document = box.done("status", "--json").json
    assert list(document) == ["keys"]
    assert [row["key"] for row in document["keys"]] == [BILLING, KEY, "made-today", YOUNG]
    assert [list(row) for row in document["keys"]] == [KEY_STATUS] * 4
    assert [list(version) for row in document["keys"] for version in row["versions"]] == [VERSION] * 8


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        pytest.param([], ["key", "version"], id="metadata"),
        pytest.param(["--reveal"], ["key", "version", "encoding", "material"], id="revealed"),
    ],
)
def test_json_of_get(box: Sandbox, options: list[str], keys: list[str]) -> None:
    document = box.done("get", BILLING, *options, "--json").json
    assert list(document) == keys
    assert list(document["version"]) == VERSION


def test_json_of_history(box: Sandbox) -> None:
    document = box.done("history", BILLING, "--json").json
    assert list(document) == ["entries"]
    assert len(document["entries"]) == 6
    for entry in document["entries"]:
        assert [key for key in ENTRY_ALWAYS if key not in entry] == []
        stored = json.loads(box.entry(BILLING, entry["sequence"]).read_bytes())
        assert entry == stored, "history shows something else than what lies in the manifest"


@pytest.mark.parametrize("options", [[], ["--manifests", ".kms/manifests"]], ids=["with-store", "offline"])
def test_json_of_verify(box: Sandbox, options: list[str]) -> None:
    document = box.done("verify", *options, "--json").json
    assert list(document) == ["verified", "keys"]
    assert document["verified"] is True
    assert [list(audit) for audit in document["keys"]] == [KEY_AUDIT] * 3


@pytest.mark.parametrize("options", [[], ["--renew"]], ids=["init", "renew"])
def test_json_of_init(box: Sandbox, options: list[str]) -> None:
    document = box.done("init", *options, "--json").json
    assert list(document) == ["manifests", "public_key", "generation", "made"]
    assert document["generation"] == 1 + len(options)
    assert document["made"] is bool(options)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        pytest.param(["get", "no-such-key", "--json"], "NotFoundError", id="not-found"),
        pytest.param(["create", KEY, "--json"], "ExistsError", id="exists"),
        pytest.param(["create", "Bad", "--json"], "ConfigurationError", id="configuration"),
        pytest.param(["disable", KEY, "--version", "2", "--json"], "RefusedError", id="refused"),
        pytest.param(["rotate", "--no-such-option", "--json"], "UsageError", id="usage"),
    ],
)
def test_an_error_is_a_json_document_too(box: Sandbox, arguments: list[str], kind: str) -> None:
    result = box.run(*arguments)
    assert result.status == 2
    assert list(result.json) == ["error"]
    assert list(result.json["error"]) == ["kind", "message", "hint"]
    assert result.json["error"]["kind"] == kind
    assert result.json["error"]["message"]
    assert result.json["error"]["hint"]


def test_json_stands_alone_on_stdout_when_warnings_are_given(empty: Sandbox) -> None:
    result = empty.done("create", KEY, "--json")
    assert result.json["status"] == "created"
    assert len(result.lines("warning: ")) == 2  # a key file was made; manifests were begun


# --- what each does


def test_rotate_makes_rotates_and_leaves_alone(empty: Sandbox) -> None:
    empty.write_policy("[keys.one]\ncreate = true\n[keys.two]\ncreate = true\nrotate_after_days = 30\n")
    assert statuses(empty.done("rotate", "--json")) == {"one": "created", "two": "created"}
    assert statuses(empty.done("rotate", "--json")) == {"one": "not-due", "two": "not-due"}
    empty.days = 40
    assert statuses(empty.done("rotate", "--json")) == {"one": "not-due", "two": "rotated"}
    assert states(empty, "two") == {1: "decrypt-only", 2: "active"}


def test_rotate_says_what_happened_why_and_where_it_is_recorded(box: Sandbox) -> None:
    box.days = 80
    out = box.done("rotate", KEY).out
    assert "rotated" in out
    assert "100 days old, the limit is 90 days" in out
    assert str(box.entry(KEY, 6).relative_to(box.folder)) in out
    assert out.endswith("1 rotated\n")


def test_a_named_key_that_is_not_due_is_left_alone(box: Sandbox) -> None:
    before = box.digest()
    assert statuses(box.done("rotate", KEY, "--json")) == {KEY: "not-due"}
    assert box.digest() == before


def test_force_rotates_what_is_not_due_and_records_why(box: Sandbox) -> None:
    assert statuses(box.done("rotate", KEY, "--force", "--yes", "--reason", "laptop lost", "--json")) == {
        KEY: "rotated"
    }
    assert states(box, KEY) == {1: "decrypt-only", 2: "decrypt-only", 3: "active"}
    entries = box.done("history", KEY, "--json").json["entries"]
    assert entries[-2]["reason"] == "laptop lost"


def test_force_all_rotates_every_key(box: Sandbox) -> None:
    report = box.done("rotate", "--all", "--force", "--yes", "--json")
    assert statuses(report) == {BILLING: "rotated", KEY: "rotated", YOUNG: "rotated"}


def test_a_forced_request_id_is_carried_out_once(box: Sandbox) -> None:
    order = ["rotate", KEY, "--force", "--yes", "--request-id", "ticket-7", "--json"]
    assert statuses(box.done(*order)) == {KEY: "rotated"}
    assert statuses(box.done(*order)) == {KEY: "not-due"}
    assert max(states(box, KEY)) == 3


@pytest.mark.parametrize("command", [["plan"], ["rotate", "--dry-run"], ["rotate", "--force", "--all", "--dry-run"]])
def test_a_look_ahead_names_what_is_due_and_changes_nothing(box: Sandbox, command: list[str]) -> None:
    box.days = 80
    before = box.digest()
    assert statuses(box.done(*command, "--json")) == {BILLING: "due", KEY: "due", YOUNG: "due"}
    assert box.digest() == before


def test_plan_agrees_with_rotate_about_a_key_that_cannot_be_rotated(box: Sandbox) -> None:
    """Missing and not to be made: `rotate` fails it, so a look ahead does not promise a rotation."""
    box.write_policy("[keys.daena-encryption-key]\n[keys.mistyped]\n")
    result = box.run("plan", "mistyped")
    assert "would be rotated" not in result.out
    assert "create = true" in result.out


def test_status_shows_age_limit_versions_and_standing(box: Sandbox) -> None:
    box.done("pause", YOUNG)
    box.done("compromised", BILLING, "--version", "1")
    lines = {line.split()[0]: line for line in box.done("status").out.splitlines()}
    assert "20 of 90 days" in lines[KEY]
    assert lines[KEY].endswith("ok")
    assert "1:decrypt-only! 2:decrypt-only 3:active" in lines[BILLING]
    assert lines[YOUNG].endswith("paused")


def test_status_does_not_call_a_key_that_does_not_exist_ok(box: Sandbox) -> None:
    box.write_policy("[keys.daena-encryption-key]\n[keys.mistyped]\n")
    lines = {line.split()[0]: line for line in box.done("status").out.splitlines()}
    assert not lines["mistyped"].endswith("ok")
    (row,) = box.done("status", "mistyped", "--json").json["keys"]
    assert row["problem"]


def test_status_says_which_keys_no_policy_names(box: Sandbox) -> None:
    box.write_policy("[keys.daena-encryption-key]\n")
    lines = {line.split()[0]: line for line in box.done("status").out.splitlines()}
    assert lines[BILLING].endswith("no policy")


def test_create_makes_a_key_that_can_be_read(box: Sandbox) -> None:
    box.done("create", "new-key", "--reason", "a new service")
    assert states(box, "new-key") == {1: "active"}
    assert len(base64.b64decode(box.done("get", "new-key", "--reveal").out)) == 32
    assert box.run("verify").status == 0


def test_create_anew_goes_on_with_the_numbers_of_a_key_that_the_store_lost(box: Sandbox) -> None:
    with contextlib.closing(sqlite3.connect(box.vault)) as db, db:
        db.execute("DELETE FROM versions WHERE key = ?", (KEY,))
        db.execute("DELETE FROM keys WHERE name = ?", (KEY,))
    assert statuses(box.run("rotate", KEY, "--json")) == {KEY: "failed"}
    assert box.run("create", KEY).status == 2
    assert box.done("create", KEY, "--anew", "--json").json["number"] == 3
    assert states(box, KEY) == {1: "destroyed", 2: "destroyed", 3: "active"}
    assert box.run("create", KEY, "--anew").status == 2  # now it is there: nothing is made anew


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        pytest.param("raw", CANARY, id="raw"),
        pytest.param("base64", base64.b64encode(CANARY), id="base64"),
        pytest.param("base64", base64.b64encode(CANARY) + b"\n", id="base64-line"),
        pytest.param("base64", base64.encodebytes(CANARY * 4), id="base64-wrapped"),
        pytest.param("hex", CANARY.hex().encode() + b"\n", id="hex"),
    ],
)
def test_import_takes_what_the_usual_tools_write(box: Sandbox, encoding: str, data: bytes) -> None:
    (box.folder / "material").write_bytes(data)
    box.done("import", "new-key", "--from", "material", "--encoding", encoding)
    shown = box.done("get", "new-key", "--reveal", "--encoding", "hex").out
    assert bytes.fromhex(shown) in (CANARY, CANARY * 4)


def test_import_reads_standard_input(box: Sandbox) -> None:
    assert box.run("import", "new-key", "--from", "-", stdin=CANARY.decode()).status == 0
    assert base64.b64decode(box.done("get", "new-key", "--reveal").out) == CANARY


def test_import_keeps_the_true_age_so_that_an_old_key_is_rotated_at_once(box: Sandbox) -> None:
    box.write_policy("[keys.old-key]\n[keys.young-key]\n")
    (box.folder / "material").write_bytes(CANARY)
    box.done("import", "old-key", "--from", "material", "--created", "400d")
    box.done("import", "young-key", "--from", "material")
    ages = {row["key"]: row.get("age_days", 0) for row in box.done("status", "--json").json["keys"]}
    assert (ages["old-key"], ages["young-key"]) == (400, 0)
    assert statuses(box.done("rotate", "old-key", "young-key", "--json")) == {
        "old-key": "rotated",
        "young-key": "not-due",
    }
    assert base64.b64decode(box.done("get", "old-key", "--version", "1", "--reveal").out) == CANARY


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        pytest.param("base64", base64.b64encode(CANARY).decode() + "\n", id="base64"),
        pytest.param("hex", CANARY.hex() + "\n", id="hex"),
        pytest.param("raw", CANARY.decode(), id="raw"),
    ],
)
def test_get_reveals_material_and_nothing_else(box: Sandbox, encoding: str, shown: str) -> None:
    result = box.done("get", BILLING, "--version", "1", "--reveal", "--encoding", encoding)
    assert result.out == shown
    assert leaked(result.err, CANARY) == []


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        pytest.param("base64", base64.b64encode(CANARY).decode(), id="base64"),
        pytest.param("hex", CANARY.hex(), id="hex"),
    ],
)
def test_get_reveals_in_json_in_the_encoding_that_was_asked_for(box: Sandbox, encoding: str, shown: str) -> None:
    arguments = ["get", BILLING, "--version", "1", "--reveal", "--encoding", encoding, "--json"]
    document = box.done(*arguments).json
    assert (document["encoding"], document["material"]) == (encoding, shown)


def test_get_shows_the_active_version_unless_told(box: Sandbox) -> None:
    assert box.done("get", BILLING, "--json").json["version"]["number"] == 3
    assert box.done("get", BILLING, "--version", "1", "--json").json["version"]["number"] == 1
    assert "decrypt-only" in box.done("get", BILLING, "--version", "2").out


def test_history_lists_every_entry_with_actor_and_reason(box: Sandbox) -> None:
    box.done("pause", BILLING, "--reason", "audit week")
    lines = box.done("history", BILLING).out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5", "6", "7"]
    assert lines[0].split()[3:5] == ["rotation-started", "(import)"]
    assert lines[-1].endswith("audit week")
    assert all("local:" in line for line in lines)


def test_verify_says_how_far_it_looked(box: Sandbox) -> None:
    out = box.done("verify").out
    assert out.endswith("3 keys, 0 problems\n")
    assert "billing-key           6  ok" in out


def test_verify_can_be_pinned_to_the_public_key_that_init_printed(box: Sandbox) -> None:
    public_key = box.done("init", "--json").json["public_key"]
    manifests = box.home / "manifests"
    assert box.run("verify", "--manifests", str(manifests), "--public-key", public_key).status == 0
    assert box.run("verify", DAENA_PUBLIC_KEY=public_key.upper()).status == 0


def test_rollback_brings_the_old_material_back_under_a_new_number(box: Sandbox) -> None:
    box.done("rollback", BILLING, "--version", "1", "--reason", "bad deploy")
    assert states(box, BILLING) == {1: "decrypt-only", 2: "decrypt-only", 3: "decrypt-only", 4: "active"}
    assert base64.b64decode(box.done("get", BILLING, "--reveal").out) == CANARY
    (row,) = box.done("status", BILLING, "--json").json["keys"]
    assert row["material_age_days"] == 230  # the material's own age; the version itself is new


def test_rollback_takes_the_previous_version_unless_told(box: Sandbox) -> None:
    second = box.done("get", BILLING, "--version", "2", "--reveal").out
    box.done("rollback", BILLING)
    assert box.done("get", BILLING, "--reveal").out == second


def test_a_compromised_active_version_is_marked_and_replaced_at_once(box: Sandbox) -> None:
    box.done("compromised", KEY, "--version", "2", "--reason", "in a log")
    assert states(box, KEY) == {1: "decrypt-only", 2: "decrypt-only", 3: "active"}
    marks = {v["number"]: v.get("compromised", False) for v in versions(box, KEY)}
    assert marks == {1: False, 2: True, 3: False}
    assert box.run("rollback", KEY).status == 2  # never back to what others know


def test_a_compromised_old_version_is_marked_and_nothing_is_rotated(box: Sandbox) -> None:
    box.done("compromised", KEY, "--version", "1")
    assert states(box, KEY) == {1: "decrypt-only", 2: "active"}


def test_destroy_waits_as_long_as_the_policy_says_and_is_then_final(box: Sandbox) -> None:
    out = box.done("destroy", BILLING, "--version", "1", "--yes").out
    assert "destroy-scheduled" in out
    box.days = 6
    box.done("rotate")
    assert states(box, BILLING)[1] == "decrypt-only"
    box.days = 8
    box.done("rotate")
    assert states(box, BILLING) == {1: "destroyed", 2: "decrypt-only", 3: "active"}
    assert box.run("get", BILLING, "--version", "1", "--reveal").status == 2
    assert box.run("verify").status == 0


def test_destroy_can_be_taken_back(box: Sandbox) -> None:
    box.done("destroy", BILLING, "--version", "1", "--yes")
    box.done("destroy", BILLING, "--version", "1", "--cancel")
    box.days = 8
    box.done("rotate")
    assert states(box, BILLING)[1] == "decrypt-only"


def test_disable_makes_unreadable_and_enable_readable_again(box: Sandbox) -> None:
    box.done("disable", BILLING, "--version", "1")
    assert states(box, BILLING)[1] == "disabled"
    assert box.run("get", BILLING, "--version", "1", "--reveal").status == 2
    box.done("enable", BILLING, "--version", "1")
    assert base64.b64decode(box.done("get", BILLING, "--version", "1", "--reveal").out) == CANARY


def test_a_paused_key_is_not_rotated_until_resume(box: Sandbox) -> None:
    box.done("pause", KEY)
    box.days = 80
    assert statuses(box.done("rotate", KEY, "--json")) == {KEY: "paused"}
    box.done("resume", KEY)
    assert statuses(box.done("rotate", KEY, "--json")) == {KEY: "rotated"}


def test_adopt_takes_in_a_key_whose_manifest_is_gone(box: Sandbox) -> None:
    for entry in (box.home / "manifests" / KEY).iterdir():
        entry.unlink()
    assert box.run("rotate", KEY, "--force", "--yes").status == 1
    box.done("adopt", KEY, "--created", "2d")
    assert states(box, KEY) == {1: "decrypt-only", 2: "active"}
    assert box.run("verify", KEY).status == 0


def test_repair_steps_over_junk_and_overwrites_nothing(box: Sandbox) -> None:
    junk = box.entry(KEY, 5)
    junk.write_bytes(b"not an entry")
    assert box.run("rotate", KEY, "--force", "--yes").status == 1
    out = box.done("repair", KEY, "--reason", "a stray file").out
    assert "repaired: 1 " in out
    assert junk.read_bytes() == b"not an entry"
    assert statuses(box.done("rotate", KEY, "--force", "--yes", "--json")) == {KEY: "rotated"}
    assert box.run("verify").status == 0


def test_repair_of_a_sound_manifest_changes_no_entry(box: Sandbox) -> None:
    before = sorted(path.name for path in (box.home / "manifests" / KEY).iterdir())
    assert "sound already" in box.done("repair", KEY).out
    assert sorted(path.name for path in (box.home / "manifests" / KEY).iterdir()) == before


def test_init_prints_the_public_key_and_may_be_run_again(empty: Sandbox) -> None:
    first = empty.done("init")
    again = empty.done("init")
    public = [line for line in first.out.splitlines() if line.startswith("public key: ")]
    assert len(public) == 1
    assert public[0] in again.out
    assert "made before" in again.out
    assert (empty.home / "kek").stat().st_mode & 0o777 == 0o600
    assert len(first.lines("warning: made a new key file")) == 1
    assert again.err == ""


def test_renewed_keys_sign_what_follows_and_old_entries_still_verify(box: Sandbox) -> None:
    signer = box.done("history", KEY, "--json").json["entries"][-1]["signer"]
    box.done("init", "--renew")
    box.done("rotate", KEY, "--force", "--yes")
    assert box.done("history", KEY, "--json").json["entries"][-1]["signer"] != signer
    assert box.run("verify").status == 0


# --- what people write is shown, never obeyed


def test_a_reason_cannot_forge_a_line_or_steer_a_terminal(box: Sandbox) -> None:
    reason = "ok\n8  2026-01-01 00:00:00  promoted  9  somebody-else  cli\x1b[2K\r\x9b31m"
    box.done("pause", KEY, "--reason", reason)
    out = box.done("history", KEY).out
    assert len(out.splitlines()) == 5
    assert not {"\x1b", "\r", "\x9b"} & set(out)
    assert box.done("history", KEY, "--json").json["entries"][-1]["reason"] == reason


# --- material

QUIET = [
    ["status"],
    ["status", BILLING],
    ["plan"],
    ["history", BILLING],
    ["get", BILLING],
    ["get", BILLING, "--version", "1"],
    ["get", BILLING, "--version", "1", "--encoding", "hex"],
    ["get", BILLING, "--version", "9", "--reveal"],
    ["verify"],
    ["import", BILLING, "--from", "material"],
    ["import", "new-key", "--from", "material", "--encoding", "hex"],
    ["import", "new-key", "--from", "material", "--encoding", "base64"],
    ["import", "new-key", "--from", "material", "--created", "2999-01-01"],
    ["import", "new-key", "--from", "material"],
    ["rollback", BILLING, "--version", "1"],
    ["rotate", BILLING, "--force", "--yes"],
    ["disable", BILLING, "--version", "1"],
    ["get", BILLING, "--version", "1", "--reveal"],
    ["enable", BILLING, "--version", "1"],
    ["compromised", BILLING, "--version", "1"],
    ["rollback", BILLING, "--version", "1"],
    ["adopt", BILLING],
    ["repair", BILLING],
    ["init", "--renew"],
    ["destroy", BILLING, "--version", "1", "--yes"],
]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_no_command_prints_material_unasked(box: Sandbox, options: list[str]) -> None:
    (box.folder / "material").write_bytes(CANARY)
    for command in QUIET:
        result = box.run(*command, *options)
        assert result.status in (0, 2), result
        assert leaked(result.out + result.err, CANARY) == [], command


def test_not_even_a_log_of_every_step_shows_material(box: Sandbox) -> None:
    (box.folder / "material").write_bytes(CANARY)
    for command in (["import", "new-key", "--from", "material"], ["rollback", BILLING, "--version", "1"]):
        result = box.process("--verbose", *command)
        assert result.status == 0, result
        assert "daena_kms.rotation: step key=" in result.err, "nothing was logged, so nothing is proved"
        assert "Traceback" not in result.err
        assert leaked(result.out + result.err, CANARY) == []


def test_a_broken_vault_does_not_spill_material(box: Sandbox) -> None:
    box.entry(BILLING, 2).write_bytes(b"{}")
    for command in (["verify"], ["history", BILLING], ["status"], ["rollback", BILLING, "--version", "1"]):
        result = box.run(*command)
        assert "entry 2" in result.out + result.err
        assert leaked(result.out + result.err, CANARY) == []


def test_no_file_holds_material(box: Sandbox) -> None:
    looked_at = [path for path in box.folder.rglob("*") if path.is_file()]
    assert any(path.name == "vault.db" for path in looked_at)
    for path in looked_at:
        assert leaked(path.read_bytes().decode("latin-1"), CANARY) == [], path


def test_the_canary_would_be_seen(box: Sandbox) -> None:
    """The net has no hole: each way of printing material that there is, is caught."""
    for options in (["--encoding", "raw"], ["--encoding", "hex"], ["--encoding", "base64"], ["--json"]):
        assert leaked(box.done("get", BILLING, "--version", "1", "--reveal", *options).out, CANARY)
    wrapped = base64.b64encode(b"x" + CANARY + b"yz").decode()
    assert leaked(wrapped, CANARY)
    assert not leaked(Path(__file__).read_text(), CANARY)


def statuses(result: Result) -> dict[str, str]:
    """What a run came to, by key."""
    return {outcome["key"]: outcome["status"] for outcome in result.json["outcomes"]}


def versions(box: Sandbox, key: str) -> list[dict[str, Any]]:
    """A key's versions, as `status` shows them."""
    (row,) = box.done("status", key, "--json").json["keys"]
    found: list[dict[str, Any]] = row["versions"]
    return found


def states(box: Sandbox, key: str) -> dict[int, str]:
    """The state of each of a key's versions."""
    return {version["number"]: version["state"] for version in versions(box, key)}
