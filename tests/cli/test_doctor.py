"""`doctor` on the local store, and what holds for it everywhere."""

import base64
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daena_kms.ledger import FolderLedger

from .doctoring import POLICY, Found, check_text, examined
from .sandbox import BILLING, Sandbox, environment_with

RESERVED = "reserved--manifest-keys"
SOUND = {
    "settings", "sdk", "credentials", "policy", "vault folder", "KEK", "key store", "manifest folder",
    "manifest reading", "create-only", "evidence keys", "pinned key", "keys",
}  # fmt: skip


def pinned(box: Sandbox) -> dict[str, str]:
    return {"DAENA_PUBLIC_KEY": box.done("init", "--json").json["public_key"]}


def look(box: Sandbox, **environment: str) -> Found:
    kek = base64.b64decode((box.home / "kek").read_bytes()) if (box.home / "kek").is_file() else b"?" * 32
    found = examined(box, environment, lambda: None, kek)
    check_text(box, environment, found)
    return found


def test_a_sound_vault(box: Sandbox) -> None:
    found = look(box, **pinned(box))
    assert found.status == 0
    assert found.named("ok") == SOUND
    assert found.named("not-tried") == {"clock"}
    assert found.named("warning") == set()


def test_before_init_it_says_what_to_do_and_makes_nothing(empty: Sandbox) -> None:
    found = look(empty)
    assert found.status == 0
    assert not empty.home.exists()
    assert {"KEK", "key store", "create-only", "evidence keys", "keys"} <= found.named("not-tried")
    assert "run `daena-key-rotate init`" in found.line("create-only")


def test_settings_that_cannot_be_read_end_it(empty: Sandbox) -> None:
    result = empty.run("doctor", "--json", DAENA_NONSENSE="1")
    assert result.status == 2
    assert "DAENA_NONSENSE" in result.json["error"]["message"]


def test_no_pin_is_a_warning_that_says_how(box: Sandbox) -> None:
    public = pinned(box)["DAENA_PUBLIC_KEY"]
    found = look(box)
    assert (found.status, found.named("warning")) == (0, {"pinned key"})
    assert f"DAENA_PUBLIC_KEY={public}" in found.line("pinned key")


def _kek(change: Callable[[Path], object]) -> Callable[[Sandbox], object]:
    return lambda box: change(box.home / "kek")


def _other_vault(box: Sandbox) -> None:
    """A vault that another init made, with its own KEK, beside these manifests."""
    other = Sandbox(box.folder.with_name("other"))
    other.done("init")
    for name in ("vault.db", "kek"):
        shutil.copy(other.home / name, box.home / name)


def _damaged(box: Sandbox) -> None:
    """A page in the middle of the file."""
    size = box.vault.stat().st_size
    with box.vault.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 4096)


FAULTS: dict[str, tuple[Callable[[Sandbox], object], str, tuple[str, ...]]] = {
    "no-kek": (_kek(Path.unlink), "KEK", ("is missing", "put the file back")),
    "kek-for-all": (_kek(lambda path: path.chmod(0o644)), "KEK", ("can be read by others", "chmod 600")),
    "kek-of-another": (
        _kek(lambda path: path.write_bytes(base64.b64encode(bytes(32)))), "key store", ("does not open the vault",),
    ),
    "kek-that-is-none": (_kek(lambda path: path.write_text("nonsense")), "KEK", ("does not hold a key",)),
    "no-vault": (lambda box: box.vault.unlink(), "evidence keys", ("no vault at", "put the vault back")),
    "no-manifests": (
        lambda box: shutil.rmtree(box.home / "manifests"), "evidence keys", ("nothing at", "DAENA_MANIFEST_URL"),
    ),
    "another-vault": (_other_vault, "evidence keys", ("no reserved key that fits", "is it the store of these")),
    "damaged": (_damaged, "key store", ("vault.db", "backup")),
    "no-policy": (lambda box: (box.folder / "daena-kms.toml").unlink(), "policy", ("cannot be read", "DAENA_POLICY")),
    "bad-policy": (lambda box: box.write_policy("[keys.a]\nrotate_after = 3\n"), "policy", ("rotate_after", "mend")),
    "cut-entry": (
        lambda box: box.entry(RESERVED, 1).write_bytes(b"{}"), "evidence keys", (RESERVED,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_once_where_it_lies(box: Sandbox, name: str) -> None:
    plant, check, words = FAULTS[name]
    environment = pinned(box)
    plant(box)
    line = look(box, **environment).only(check)
    for word in words:
        assert word in line


def test_two_faults_that_have_nothing_to_do_with_each_other_are_both_told(box: Sandbox) -> None:
    (box.home / "kek").chmod(0o644)
    (box.folder / "daena-kms.toml").unlink()
    assert look(box).failed == {"KEK", "policy"}
    box.write_policy(POLICY)
    assert look(box, DAENA_PUBLIC_KEY="0" * 64).failed == {"KEK", "pinned key"}


def test_another_pin(box: Sandbox) -> None:
    line = look(box, DAENA_PUBLIC_KEY="0" * 64).only("pinned key")
    assert "DAENA_MANIFEST_URL" in line
    assert pinned(box)["DAENA_PUBLIC_KEY"] in line


@pytest.mark.parametrize(
    ("setting", "check", "word"),
    [
        pytest.param({"DAENA_LOCAL_KEK": base64.b64encode(bytes(32)).decode()}, "key store", "key file", id="other"),
        pytest.param({"DAENA_LOCAL_KEK": "short"}, "KEK", "openssl rand", id="malformed"),
        pytest.param({"DAENA_LOCAL_PASSPHRASE": "guess"}, "key store", "key file", id="passphrase"),
    ],
)
def test_a_kek_in_a_setting_that_is_not_the_vaults(
    box: Sandbox, setting: dict[str, str], check: str, word: str
) -> None:
    assert word in look(box, **pinned(box), **setting).only(check)


def test_a_folder_that_is_something_else(box: Sandbox) -> None:
    (box.folder / "mine").mkdir()
    (box.folder / "mine" / "letter").write_text("dear")
    line = look(box, DAENA_MANIFEST_URL=f"file://{box.folder}/mine").only("manifests")
    assert "not a manifest folder" in line


def test_an_address_that_is_none(box: Sandbox) -> None:
    assert "s3://bucket/folder" in look(box, DAENA_MANIFEST_URL="ftp://a/b").only("manifests")


@pytest.mark.parametrize(("name", "check"), [("manifests", "manifest folder"), (".kms", "vault folder")])
def test_a_folder_that_cannot_be_written_to(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str, check: str
) -> None:
    """Root may write everywhere, so what the system says is put into its mouth."""
    environment = pinned(box)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != name)
    assert "check the folder's owner" in look(box, **environment).only(check)


def test_a_full_disk(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    found = look(box, **pinned(box))
    assert found.failed == {"vault folder", "manifest folder"}
    assert "free some space" in found.line("vault folder")


def test_manifests_that_let_themselves_be_overwritten(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = pinned(box)
    monkeypatch.setattr(FolderLedger, "append", lambda *_: None)
    line = look(box, **environment).only("create-only")
    assert "both would win" in line


def test_keys_that_the_policy_names_and_nobody_has(box: Sandbox) -> None:
    box.write_policy(f"[keys.{BILLING}]\n[keys.typo-key]\n[keys.new-key]\ncreate = true\n")
    found = look(box, **pinned(box))
    assert (found.status, found.named("warning")) == (0, {"key typo-key"})
    assert "daena-key-rotate create typo-key" in found.line("key typo-key")


def test_keys_whose_manifests_lie_elsewhere(box: Sandbox) -> None:
    environment = pinned(box)
    with sqlite3.connect(box.vault) as db:
        db.execute("UPDATE keys SET ledger = 's3://elsewhere/keys' WHERE name = ?", (BILLING,))
    db.close()
    line = look(box, **environment).only(f"key {BILLING}")
    assert "s3://elsewhere/keys" in line


@pytest.mark.parametrize(
    ("provider", "package", "extra"),
    [("aws", "botocore", "aws"), ("azure", "azure", "azure"), ("gcp", "google", "gcp")],
)
def test_an_sdk_that_is_not_installed(empty: Sandbox, provider: str, package: str, extra: str) -> None:
    """In an interpreter of its own, which finds no such package."""
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from daena_kms import cli\nsys.argv = ['daena-key-rotate', 'doctor', '--json']\ncli.main()"
    )
    environment = environment_with({"DAENA_CLOUD_KMS_PROVIDER": provider})
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"pip install 'daena-kms[{extra}]'" in done.stdout
    assert done.stdout.count('"standing": "failed"') == 1
