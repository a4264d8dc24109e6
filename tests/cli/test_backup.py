"""`backup`: one sealed file that others open too; refused early where nobody could open it or a place is taken."""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest

from daena_kms import sealing
from daena_kms.backup import export_manifests
from daena_kms.commands.backup import open_backup
from daena_kms.errors import ConfigurationError, IntegrityError, KmsError
from daena_kms.material import KeyMaterial
from daena_kms.settings import read_settings
from tests.support import age_reader
from tests.support.age_reader import age_opens, need_age
from tests.support.backups import Identity

from .sandbox import BILLING, CANARY, COMMAND, KEY, YOUNG, Sandbox, environment_with, leaked

PASSPHRASE = "correct horse battery staple"  # of files that live as long as a test
TALK_SECONDS = 60


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    (tmp_path / "safe").mkdir()
    return Identity(tmp_path / "safe")


def material_in(document: bytes, key: str, number: int) -> bytes:
    """A version's bytes, as a reader of docs/backup-format.md gets them."""
    (found,) = (k for k in json.loads(document)["keys"] if k["key"] == key)
    (version,) = (v for v in found["versions"] if v["number"] == number)
    return base64.b64decode(version["material"])


def revealed(box: Sandbox, key: str, number: int) -> bytes:
    return base64.b64decode(box.done("get", key, "--version", str(number), "--reveal").out)


# --- it is written, and opens


def test_a_backup_of_everything(box: Sandbox, identity: Identity) -> None:
    result = box.done("backup", "--recipient", identity.recipient)
    (file,) = (box.home / "backups").iterdir()
    sealed = file.read_bytes()
    assert result.out.splitlines() == [
        f"{BILLING}           done  3 versions, 6 manifest entries",
        f"{KEY}  done  2 versions, 4 manifest entries",
        f"{YOUNG}           done  2 versions, 4 manifest entries",
        "3 keys in the backup, 0 missing",
        f"file: .kms/backups/{file.name}",
        f"sha256: {hashlib.sha256(sealed).hexdigest()}",
        f"sealed for 1 recipient, {len(sealed)} bytes, read back; `restore --drill` proves that it opens",
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert f"{box.now():%Y-%m-%d}" in file.name
    assert file.suffix == ".age"
    document = age_reader.with_identity(sealed, identity.secret)
    assert material_in(document, BILLING, 1) == CANARY
    for key, number in ((BILLING, 2), (BILLING, 3), (KEY, 1), (KEY, 2)):
        assert material_in(document, key, number) == revealed(box, key, number)


def test_the_standard_tool_gets_a_key_out(box: Sandbox, identity: Identity) -> None:
    need_age()
    box.done("backup", BILLING, "--to", "keys.age", "--recipient", identity.recipient)
    assert material_in(age_opens(box.folder / "keys.age", identity.file), BILLING, 1) == CANARY


def test_json(box: Sandbox, identity: Identity) -> None:
    result = box.done("backup", KEY, "--to", "keys.age", "--json", DAENA_BACKUP_RECIPIENTS=identity.recipient)
    found = result.json
    outcomes = found.pop("outcomes")
    assert [(o["key"], o["status"], o["number"]) for o in outcomes] == [(KEY, "done", 2)]
    assert found.pop("made_at").startswith(f"{box.now():%Y-%m-%d}")
    sealed = (box.folder / "keys.age").read_bytes()
    assert found == {
        "file": "keys.age",
        "sha256": hashlib.sha256(sealed).hexdigest(),
        "bytes": len(sealed),
        "recipients": 1,
        "public_key": box.done("init", "--json").json["public_key"],
        "keys": 1,
        "failed": [],
    }


def test_a_backup_changes_nothing_else(box: Sandbox, identity: Identity) -> None:
    before = box.digest()
    box.done("backup", "--to", "keys.age", "--recipient", identity.recipient)
    after = box.digest()
    assert set(after) - set(before) == {"keys.age"}
    assert {name: after[name] for name in before} == before


def test_recipients_in_a_file_and_beside_it(box: Sandbox, identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = Identity(tmp_path / "b")
    (box.folder / "people.txt").write_text(f"# the two of us\n{identity.recipient}\n\n")
    arguments = ("--recipients-file", "people.txt", "--recipient", other.recipient, "--recipient", other.recipient)
    found = box.done("backup", KEY, "--to", "keys.age", "--json", *arguments, DAENA_BACKUP_RECIPIENTS="age1nobody")
    assert found.json["recipients"] == 2
    for each in (identity, other):
        opened = age_reader.with_identity((box.folder / "keys.age").read_bytes(), each.secret)
        assert material_in(opened, KEY, 1) == revealed(box, KEY, 1)


def test_a_passphrase_from_the_settings(box: Sandbox) -> None:
    result = box.done("backup", BILLING, "--to", "keys.age", DAENA_BACKUP_PASSPHRASE=PASSPHRASE)
    assert result.out.splitlines()[-1].startswith("sealed under a passphrase, ")
    settings = read_settings({"DAENA_BACKUP_PASSPHRASE": PASSPHRASE})
    (found,) = open_backup(box.folder / "keys.age", (), settings).keys
    assert found.holding.versions[0].material == KeyMaterial(CANARY)


def at_terminal(box: Sandbox, answers: list[str], *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal of its own and answer each question that ends with a colon."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [str(COMMAND), *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=box.folder,
        env=environment_with({"TERM": "dumb"}),
        start_new_session=True, preexec_fn=_take_terminal,  # noqa: PLW1509  # two system calls
    )  # fmt: skip
    os.close(theirs)
    seen, answered, deadline = b"", 0, time.monotonic() + TALK_SECONDS
    try:
        while child.poll() is None and time.monotonic() < deadline:
            ready, _, _ = select.select([ours], [], [], 0.1)
            with contextlib.suppress(OSError):  # what Linux answers once the other side is closed
                seen += os.read(ours, 1 << 16) if ready else b""
            hidden = not termios.tcgetattr(ours)[3] & termios.ECHO  # it waits for an answer that is not shown
            if hidden and seen.count(b": ") > answered and answers:
                os.write(ours, answers.pop(0).encode() + b"\n")
                answered = seen.count(b": ")
        return child.wait(TALK_SECONDS), seen.decode()
    finally:
        child.kill()
        os.close(ours)


def _take_terminal() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_passphrase_that_is_asked_for_twice(box: Sandbox) -> None:
    status, seen = at_terminal(
        box, [PASSPHRASE, "mistyped", PASSPHRASE, PASSPHRASE], "backup", BILLING, "--to", "keys.age", "--passphrase"
    )
    assert status == 0, seen
    assert "do not match" in seen
    assert PASSPHRASE not in seen
    sealed = (box.folder / "keys.age").read_bytes()
    assert material_in(age_reader.with_passphrase(sealed, PASSPHRASE), BILLING, 1) == CANARY


# --- what is not in it


def test_a_disabled_version_is_left_out_and_said_so(box: Sandbox, identity: Identity) -> None:
    box.done("disable", BILLING, "--version", "1")
    result = box.done("backup", BILLING, "--to", "keys.age", "--recipient", identity.recipient)
    note = f"  {BILLING}: note: version 1 is disabled: its material is not in the backup"
    assert note in result.out.splitlines()
    document = json.loads(age_reader.with_identity((box.folder / "keys.age").read_bytes(), identity.secret))
    assert document["keys"][0]["left_out"] == [1]
    assert "material" not in document["keys"][0]["versions"][0]


def damage(box: Sandbox) -> None:
    """One version in the vault does not open any more."""
    with contextlib.closing(sqlite3.connect(box.vault)) as db, db:
        change = "UPDATE versions SET sealed = zeroblob(length(sealed)) WHERE key = ? AND number = 2"
        assert db.execute(change, (BILLING,)).rowcount == 1


def test_a_damaged_version_fails_its_key_and_the_others_are_in(box: Sandbox, identity: Identity) -> None:
    damage(box)
    result = box.run("backup", "--to", "keys.age", "--recipient", identity.recipient)
    assert result.status == 1
    assert result.out.splitlines()[0].startswith(f"{BILLING}           failed  ")
    assert "2 keys in the backup, 1 missing" in result.out
    found = open_backup(box.folder / "keys.age", (identity.file,), read_settings({}))
    assert [each.holding.key for each in found.keys] == [KEY, YOUNG]
    assert [each.key for each in found.failed] == [BILLING]


# --- refused, before anything is read or written


def test_nobody_could_open_it(box: Sandbox) -> None:
    before = box.digest()
    result = box.run("backup")
    assert result.status == 2
    assert result.lines("error: ") == ["error: nobody could open that backup: no recipient and no passphrase is given"]
    (hint,) = result.lines("hint: ")
    for word in ("age-keygen", "--recipient", "DAENA_BACKUP_RECIPIENTS", "--passphrase", "DAENA_BACKUP_PASSPHRASE"):
        assert word in hint
    assert box.digest() == before


REFUSED: list[Any] = [
    pytest.param(["--recipient", "age1nonsense"], "'age1nonsense' is no recipient that age knows", id="no-recipient"),
    pytest.param(["--recipient", "AGE-SECRET-KEY-1HIDDEN"], "an identity, the secret half", id="an-identity"),
    pytest.param(["--recipients-file", "nowhere.txt"], "nowhere.txt cannot be read", id="no-recipients-file"),
    pytest.param(["--recipients-file", "daena-kms.toml"], "is no recipient that age knows", id="not-recipients"),
    pytest.param(["--passphrase"], "there is nobody here to ask for the passphrase", id="nobody-to-ask"),
    pytest.param(["--passphrase", "--recipient", "age1x"], "--passphrase goes with no recipient", id="both"),
    pytest.param(["GOOD", "--to", "no/such/folder/keys.age"], "there is no folder no/such/folder", id="no-folder"),
    pytest.param(["GOOD", "--to", "daena-kms.toml"], "daena-kms.toml is there already", id="taken"),
    pytest.param(["GOOD", "--to", "."], ". is there already", id="a-folder"),
    pytest.param(["GOOD", "--to", "keys.age", "no-such-key"], "there is no key 'no-such-key'", id="no-key"),
    pytest.param(["GOOD", "--to", "keys.age", "No_Key"], "not one that every store takes", id="no-name"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_refused_with_nothing_written(box: Sandbox, identity: Identity, arguments: list[str], words: str) -> None:
    before = box.digest()
    good = ["--recipient", identity.recipient]
    asked = [word for each in arguments for word in (good if each == "GOOD" else [each])]
    result = box.run("backup", *asked)
    assert result.status == 2
    assert words in result.err
    assert "HIDDEN" not in result.err
    assert result.out == ""
    assert box.digest() == before


def test_without_a_vault_there_is_nothing_to_back_up(empty: Sandbox, identity: Identity) -> None:
    before = empty.digest()
    result = empty.run("backup", "--recipient", identity.recipient)
    assert result.status == 2
    assert result.lines("hint: ")
    assert empty.digest() == before


# --- what lies beside what


def test_a_backup_beside_its_vault_is_warned_of(box: Sandbox, identity: Identity) -> None:
    assert "the backup lies beside the vault" in box.done("backup", "--recipient", identity.recipient).err
    elsewhere = box.done("backup", "--to", "keys.age", "--recipient", identity.recipient)
    assert elsewhere.err == ""


@pytest.mark.parametrize("place", [".kms/id.txt", "id.txt"])
def test_an_identity_beside_vault_or_backup_is_warned_of(box: Sandbox, identity: Identity, place: str) -> None:
    (box.folder / place).write_bytes(identity.file.read_bytes())
    result = box.done("backup", "--to", "keys.age", "--recipient", identity.recipient)
    assert f"{box.folder / place} looks like an identity" in result.err
    assert identity.secret not in result.err


# --- opened again, or refused


def opened_by(box: Sandbox, identity: Identity, **environment: str) -> Callable[[bytes], Any]:
    """Opens a file with that content as `restore` does."""
    file = box.folder / "given.age"

    def opened(sealed: bytes) -> Any:
        file.write_bytes(sealed)
        return open_backup(file, (identity.file,), read_settings(environment))

    return opened


@pytest.fixture
def made(box: Sandbox, identity: Identity) -> bytes:
    box.done("backup", "--to", "keys.age", "--recipient", identity.recipient)
    return (box.folder / "keys.age").read_bytes()


def test_it_opens_and_knows_its_file(
    box: Sandbox, identity: Identity, made: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = box.done("init", "--json").json["public_key"]
    found = opened_by(box, identity)(made)
    assert found.sha256 == hashlib.sha256(made).hexdigest()
    assert found.public_key == pin
    assert f"vouches for itself: compare its public key with the one `init` printed: {pin}" in capsys.readouterr().err
    assert opened_by(box, identity, DAENA_PUBLIC_KEY=pin)(made) == found
    assert open_backup(box.folder / "given.age", (identity.file,), read_settings({}), pin.upper()) == found
    assert capsys.readouterr().err == ""


def test_its_manifests_verify_with_the_command(box: Sandbox, identity: Identity, made: bytes) -> None:
    found = opened_by(box, identity)(made)
    export_manifests(found, box.folder / "evidence")
    result = box.done("verify", "--manifests", "evidence", "--public-key", found.public_key)
    assert "3 keys, 0 problems" in result.out


def _sealed(identity: Identity, text: bytes) -> bytes:
    return sealing.seal(KeyMaterial(text), [identity.recipient])


def _with_a_flipped_byte(sealed: bytes, _: Identity) -> bytes:
    return sealed[:-9] + bytes([sealed[-9] ^ 1]) + sealed[-8:]


def _with_another_state(sealed: bytes, identity: Identity) -> bytes:
    """Sealed anew by somebody who has the recipient's public key and, here, the document too."""
    document = json.loads(age_reader.with_identity(sealed, identity.secret))
    document["keys"][0]["versions"][1]["state"] = "active"
    return _sealed(identity, json.dumps(document).encode())


def _with_swapped_material(sealed: bytes, identity: Identity) -> bytes:
    document = json.loads(age_reader.with_identity(sealed, identity.secret))
    one, two = document["keys"][0]["versions"][1], document["keys"][1]["versions"][1]
    one["material"], two["material"] = two["material"], one["material"]
    return _sealed(identity, json.dumps(document).encode())


BAD: list[Any] = [
    pytest.param(lambda s, _: s[:-1], IntegrityError, "it is cut or was altered", id="cut"),
    pytest.param(lambda s, _: s[:30], IntegrityError, "it is cut or was altered", id="cut-in-the-header"),
    pytest.param(_with_a_flipped_byte, IntegrityError, "it is cut or was altered", id="altered"),
    pytest.param(lambda _, __: b"dear diary", IntegrityError, "it is not an age file", id="text"),
    pytest.param(
        lambda _, i: _sealed(i, b"dear diary"), IntegrityError, "no backup of ours", id="something-else-sealed"
    ),
    pytest.param(
        lambda _, i: _sealed(i, b'{"format": "daena-kms-backup/9"}'), IntegrityError, "daena-kms-backup/9", id="newer"
    ),
    pytest.param(_with_another_state, IntegrityError, "version 2 is not recorded as", id="state"),
    pytest.param(_with_swapped_material, IntegrityError, "version 2: the material of", id="swapped"),
    pytest.param(
        lambda _, __: _sealed_for_another(), ConfigurationError, "no identity that was given opens it", id="anothers"
    ),
    pytest.param(
        lambda _, __: age_reader.sealed_under(b"", "x"), ConfigurationError, "nobody here to ask", id="passphrase"
    ),
]


def _sealed_for_another() -> bytes:
    return sealing.seal(KeyMaterial(b"x"), [str(pyrage.x25519.Identity.generate().to_public())])


@pytest.mark.parametrize(("change", "kind", "words"), BAD)
def test_a_bad_file_is_refused_by_name(
    box: Sandbox,
    identity: Identity,
    made: bytes,
    change: Callable[[bytes, Identity], bytes],
    kind: type[KmsError],
    words: str,
) -> None:
    with pytest.raises(kind) as caught:
        opened_by(box, identity)(change(made, identity))
    assert caught.value.message.startswith(f"{box.folder / 'given.age'}: ")
    assert words in caught.value.message
    assert caught.value.hint
    assert leaked(caught.value.line, CANARY) == []


def test_another_pin_is_refused(box: Sandbox, identity: Identity, made: bytes) -> None:
    with pytest.raises(IntegrityError, match="the backup's public key is not the pinned one"):
        opened_by(box, identity, DAENA_PUBLIC_KEY="ab" * 32)(made)


def test_what_is_missing_to_open_it_is_said(box: Sandbox, made: bytes) -> None:
    assert made
    with pytest.raises(ConfigurationError, match="it is sealed for recipients") as caught:
        open_backup(box.folder / "keys.age", (), read_settings({}))
    assert "--identity FILE" in caught.value.hint
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        open_backup(box.folder / "nowhere.age", (), read_settings({}))


# --- nothing of it shows


def test_no_material_in_outputs_logs_errors_or_the_sealed_file(box: Sandbox, identity: Identity) -> None:
    said = []
    for arguments in (
        ["-v", "backup", "--to", "one.age", "--recipient", identity.recipient],
        ["-v", "backup", "--to", "two.age", "--recipient", identity.recipient, "--json"],
        ["-v", "backup", "--to", "two.age", "--recipient", identity.recipient],
    ):
        result = box.process(*arguments)
        said += [result.out, result.err]
    damage(box)
    said += [*box.run("-v", "backup", "--to", "three.age", "--recipient", identity.recipient)[1:]]
    sealed = [(box.folder / name).read_bytes() for name in ("one.age", "two.age", "three.age")]
    document = age_reader.with_identity(sealed[0], identity.secret)
    reserved = base64.b64decode(json.loads(document)["generations"][0]["material"])
    for secret in (CANARY, revealed(box, KEY, 2), reserved, reserved[:32], reserved[32:]):
        for text in (*said, *(each.decode("latin-1") for each in sealed)):
            assert leaked(text, secret) == []
    assert material_in(document, BILLING, 1) == CANARY


def test_a_temporary_file_is_sealed_too(box: Sandbox, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written to disk on the way is the sealed file, nothing before it."""
    written: list[bytes] = []
    original = os.write

    def write(descriptor: int, data: bytes) -> int:
        written.append(bytes(data))
        return original(descriptor, data)

    monkeypatch.setattr("daena_kms.ledger.os.write", write)
    box.done("backup", "--to", "keys.age", "--recipient", identity.recipient)
    assert b"".join(written) == (box.folder / "keys.age").read_bytes()
