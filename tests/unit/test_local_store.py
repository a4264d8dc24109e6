"""The local vault: where its KEK comes from, what a wrong or altered one gets, and that destroyed means destroyed."""

import base64
import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from daena_kms.errors import ConfigurationError, IntegrityError, KmsError, NotFoundError, RefusedError, UnavailableError
from daena_kms.material import KeyMaterial
from daena_kms.model import KeySpec, StoredVersion
from daena_kms.stores import kek as keks
from daena_kms.stores import local
from daena_kms.stores.base import NewVersion
from daena_kms.stores.local import KekSource, LocalStore, create_vault
from tests.support.worlds import Clock, seeded

AES = KeySpec.parse("AES-256")
KEK = base64.b64encode(bytes(range(32))).decode()
OTHER_KEK = base64.b64encode(bytes(32)).decode()
PAGE = 4096
SECRET = b"what only the vault should hold!"


class Vault:
    """A vault in a folder, and short ways to fill it."""

    def __init__(self, folder: Path, source: KekSource | None = None) -> None:
        self.path = folder / "vault.db"
        self.source = source or KekSource(folder / "kek")
        self.warnings = create_vault(self.path, self.source, seeded())

    @contextlib.contextmanager
    def open(self, source: KekSource | None = None) -> Iterator[LocalStore]:
        """The store, as one process has it."""
        store = LocalStore(
            self.path,
            source or self.source,
            ledger="home:manifests",
            actor="local:tester",
            entropy=os.urandom,
            clock=Clock(),
        )
        try:
            yield store
        finally:
            store.close()

    @contextlib.contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        """The file, past the store: what somebody else with the file can do."""
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            yield db

    def alter(self, statement: str, *values: object) -> None:
        """Change rows behind the store's back; exactly those that are meant."""
        with self.sql() as db:
            assert db.execute(statement, values).rowcount > 0

    def bytes(self) -> bytes:
        """Everything on disk: the file and its write-ahead log."""
        return b"".join(path.read_bytes() for path in sorted(self.path.parent.glob("vault.db*")))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def put(store: LocalStore, key: str, number: int, secret: bytes = SECRET) -> StoredVersion:
    """Stage and promote material."""
    prepared = store.prepare(key, number, KeySpec.of_length(len(secret)), KeyMaterial(secret))
    spec = KeySpec.of_length(len(secret)).name
    staged = store.stage(key, NewVersion(number, f"rotation-{key}-{number}", f"1:{number}", spec), prepared)
    return store.promote(key, staged, store.observe(key).newest, prepared.material)


def setting(folder: Path, text: str) -> KekSource:
    return KekSource(folder / "kek", setting=KeyMaterial(text.encode()))


def passphrase(folder: Path, text: str) -> KekSource:
    return KekSource(folder / "kek", passphrase=KeyMaterial(text.encode()))


# --- where the KEK comes from

SOURCES: list[Callable[[Path], KekSource]] = [
    lambda folder: KekSource(folder / "kek"),
    lambda folder: setting(folder, KEK),
    lambda folder: passphrase(folder, "correct horse"),
    lambda folder: passphrase(folder, "pässwörd ☃"),
]
each_source = pytest.mark.parametrize("source", SOURCES, ids=["key-file", "setting", "passphrase", "passphrase-utf-8"])


@each_source
def test_what_is_put_in_comes_out_again_after_reopening(tmp_path: Path, source: Callable[[Path], KekSource]) -> None:
    vault = Vault(tmp_path, source(tmp_path))
    with vault.open() as store:
        version = put(store, "a", 1)
    with vault.open(source(tmp_path)) as store:
        assert store.read("a", version).reveal() == SECRET
        assert store.damage() == ""


@each_source
def test_material_is_not_in_the_file(tmp_path: Path, source: Callable[[Path], KekSource]) -> None:
    vault = Vault(tmp_path, source(tmp_path))
    with vault.open() as store:
        put(store, "a", 1)
        assert SECRET not in vault.bytes()
        assert base64.b64encode(SECRET) not in vault.bytes()
    assert SECRET not in vault.bytes()


def test_a_key_file_is_made_on_first_use_with_a_warning_and_for_its_owner_alone(vault: Vault) -> None:
    file = vault.source.file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(base64.b64decode(file.read_text())) == 32
    (warning,) = vault.warnings
    assert str(file) in warning
    assert "lost them all" in warning
    assert stat.S_IMODE(vault.path.stat().st_mode) == 0o600


def test_a_new_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    made = create_vault(tmp_path / "home" / "vault.db", KekSource(tmp_path / "home" / "kek"), seeded())
    assert made
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_making_it_again_changes_nothing_and_warns_no_more(vault: Vault) -> None:
    before = vault.bytes(), vault.source.file.read_bytes()
    assert create_vault(vault.path, vault.source, seeded(1)) == []
    assert (vault.bytes(), vault.source.file.read_bytes()) == before


def test_a_key_file_that_is_there_is_used_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "kek").write_text(KEK)
    (tmp_path / "kek").chmod(0o600)
    vault = Vault(tmp_path)
    assert vault.warnings == []
    assert (tmp_path / "kek").read_text() == KEK


@pytest.mark.parametrize("made", [setting, passphrase])
def test_no_key_file_is_made_where_none_is_used(tmp_path: Path, made: Callable[[Path, str], KekSource]) -> None:
    vault = Vault(tmp_path, made(tmp_path, KEK))
    assert vault.warnings == []
    assert not (tmp_path / "kek").exists()


def test_no_temporary_file_is_left(vault: Vault) -> None:
    assert sorted(path.name for path in vault.path.parent.iterdir()) == ["kek", "vault.db"]


def test_a_setting_comes_before_a_passphrase_before_a_file(tmp_path: Path) -> None:
    secret = KeyMaterial(KEK.encode())
    kinds = [
        KekSource(tmp_path / "kek", secret, secret).kind,
        KekSource(tmp_path / "kek", None, secret).kind,
        KekSource(tmp_path / "kek").kind,
    ]
    assert kinds == ["DAENA_LOCAL_KEK", "DAENA_LOCAL_PASSPHRASE", "key file"]


def test_the_passphrase_goes_through_scrypt_as_rfc_7914_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The RFC's third vector (section 12: N 16384, r 8, p 1), its first 32 bytes, through our own function."""
    monkeypatch.setattr(keks, "SCRYPT_LOG2_COST", 14)
    monkeypatch.setattr(keks, "SCRYPT_PARALLEL", 1)
    derived = keks.from_passphrase("pleaseletmein", b"SodiumChloride")
    assert derived.hex() == "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"


def test_scrypt_costs_what_owasp_asks_for() -> None:
    """OWASP's password storage cheat sheet, N/r/p: 2^17/8/1, 2^16/8/2 or 2^15/8/3, each of equal strength."""
    assert keks.SCRYPT_LOG2_COST >= 15
    assert keks.SCRYPT_BLOCK == 8
    assert keks.SALT_BYTES >= 16
    work = (1 << keks.SCRYPT_LOG2_COST) * keks.SCRYPT_PARALLEL
    assert work >= 3 * (1 << 15)


def test_two_vaults_with_one_passphrase_have_two_keks(tmp_path: Path) -> None:
    salts = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        create_vault(folder / "vault.db", passphrase(folder, "same"), seeded(seed))
        with contextlib.closing(sqlite3.connect(folder / "vault.db")) as db:
            salts.append(db.execute("SELECT value FROM vault WHERE name = 'salt'").fetchone()[0])
    assert salts[0] != salts[1]
    assert keks.from_passphrase("same", salts[0]) != keks.from_passphrase("same", salts[1])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("short", id="short"),
        pytest.param(base64.b64encode(bytes(31)).decode(), id="31-bytes"),
        pytest.param(base64.b64encode(bytes(33)).decode(), id="33-bytes"),
        pytest.param(bytes(32).hex(), id="hex"),
        pytest.param("é" * 44, id="not-ascii"),
        pytest.param("*" * 44, id="not-base64"),
    ],
)
def test_a_kek_that_is_none_makes_no_vault(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="DAENA_LOCAL_KEK") as refused:
        Vault(tmp_path, setting(tmp_path, text))
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


# --- a wrong KEK is a clear error, never garbage


@pytest.mark.parametrize(
    ("made", "opened", "said"),
    [
        pytest.param(lambda f: setting(f, KEK), lambda f: setting(f, OTHER_KEK), "DAENA_LOCAL_KEK", id="setting"),
        pytest.param(
            lambda f: passphrase(f, "right"), lambda f: passphrase(f, "wrong"), "DAENA_LOCAL_PASSPHRASE", id="phrase"
        ),
        pytest.param(
            lambda f: KekSource(f / "kek"), lambda f: setting(f, OTHER_KEK), "key file", id="setting-for-file"
        ),
        pytest.param(lambda f: KekSource(f / "kek"), lambda f: passphrase(f, "x"), "key file", id="phrase-for-file"),
        pytest.param(lambda f: setting(f, KEK), lambda f: passphrase(f, KEK), "DAENA_LOCAL_KEK", id="phrase-for-kek"),
    ],
)
def test_a_wrong_kek_names_what_the_vault_was_made_with(
    tmp_path: Path, made: Callable[[Path], KekSource], opened: Callable[[Path], KekSource], said: str
) -> None:
    vault = Vault(tmp_path, made(tmp_path))
    before = vault.bytes()
    with pytest.raises(ConfigurationError, match="does not open the vault") as refused, vault.open(opened(tmp_path)):
        pass
    assert said in refused.value.hint
    assert vault.bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o620])
def test_a_key_file_that_others_may_read_or_write_is_refused(vault: Vault, mode: int) -> None:
    vault.source.file.chmod(mode)
    with pytest.raises(ConfigurationError, match="others") as refused, vault.open():
        pass
    assert "chmod 600" in refused.value.hint


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_for_its_owner_alone_is_taken(vault: Vault, mode: int) -> None:
    vault.source.file.chmod(mode)
    with vault.open() as store:
        assert list(store.inventory()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "is missing", id="missing"),
        pytest.param(b"", "does not hold a key", id="empty"),
        pytest.param(b"short", "does not hold a key", id="short"),
        pytest.param(b"\xff" * 44, "cannot be read", id="binary"),
        pytest.param(OTHER_KEK.encode(), "does not open the vault", id="other"),
    ],
)
def test_a_key_file_that_is_not_the_one(vault: Vault, content: bytes | None, said: str) -> None:
    vault.source.file.unlink()
    if content is not None:
        vault.source.file.write_bytes(content)
        vault.source.file.chmod(0o600)
    with pytest.raises(ConfigurationError, match=said) as refused, vault.open():
        pass
    assert refused.value.hint
    assert KEK not in refused.value.message


def test_opening_never_makes_a_key_file(vault: Vault) -> None:
    """A new key file beside an old vault would look like the right one."""
    vault.source.file.unlink()
    create_vault(vault.path, vault.source, seeded())
    with pytest.raises(ConfigurationError), vault.open():
        pass
    assert not vault.source.file.exists()


def test_a_vault_whose_check_value_was_altered_does_not_open(vault: Vault) -> None:
    vault.alter("UPDATE vault SET value = zeroblob(length(value)) WHERE name = 'check'")
    with pytest.raises(ConfigurationError, match="does not open"), vault.open():
        pass


@pytest.mark.parametrize("fact", ["format", "kek", "salt", "check"])
def test_a_vault_that_lost_one_of_its_facts_is_a_clear_error(vault: Vault, fact: str) -> None:
    vault.alter("DELETE FROM vault WHERE name = ?", fact)
    with pytest.raises(ConfigurationError) as refused, vault.open():
        pass
    assert refused.value.hint


# --- altered or moved


def two_keys(vault: Vault) -> dict[tuple[str, int], StoredVersion]:
    with vault.open() as store:
        return {
            ("a", 1): put(store, "a", 1),
            ("a", 2): put(store, "a", 2, bytes(32)),
            ("b", 1): put(store, "b", 1, b"b" * 32),
            ("b", 2): put(store, "b", 2, b"c" * 48),
        }


_FROM_A1 = "(SELECT sealed FROM versions WHERE key = 'a' AND number = 1)"


@pytest.mark.parametrize(
    ("key", "number", "change"),
    [
        pytest.param("b", 1, f"sealed = {_FROM_A1}", id="another-key's"),
        pytest.param("a", 2, f"sealed = {_FROM_A1}", id="another-version's"),
        pytest.param("a", 1, "sealed = zeroblob(60)", id="zeros"),
        pytest.param("a", 1, "sealed = x''", id="nothing"),
        pytest.param("a", 1, "sealed = x'00'", id="shorter-than-nonce"),
        pytest.param("a", 1, "sealed = substr(sealed, 1, 20)", id="cut"),
        pytest.param("a", 1, "sealed = CAST(sealed || x'00' AS BLOB)", id="longer"),
        pytest.param("a", 1, "spec = 'bytes-32'", id="another-spec"),
    ],
)
def test_sealed_material_that_was_moved_or_altered_does_not_open(
    vault: Vault, key: str, number: int, change: str
) -> None:
    versions = two_keys(vault)
    vault.alter(f"UPDATE versions SET {change} WHERE key = ? AND number = ?", key, number)  # noqa: S608  # from above
    with vault.open() as store:
        with pytest.raises(IntegrityError, match=f"version {number} of {key} does not open") as refused:
            store.read(key, versions[key, number])
        assert refused.value.hint
        others = [place for place in versions if place != (key, number)]
        for place in others:
            assert len(store.read(place[0], versions[place])) in (32, 48)


@pytest.mark.parametrize("index", [0, 11, 12, 30, -1], ids=["nonce", "nonce-end", "first", "middle", "tag"])
def test_one_bit_anywhere_is_noticed(vault: Vault, index: int) -> None:
    version = two_keys(vault)["a", 1]
    with vault.sql() as db:
        ((sealed,),) = db.execute("SELECT sealed FROM versions WHERE key = 'a' AND number = 1").fetchall()
        flipped = bytearray(sealed)
        flipped[index] ^= 1
        db.execute("UPDATE versions SET sealed = ? WHERE key = 'a' AND number = 1", (bytes(flipped),))
    with vault.open() as store, pytest.raises(IntegrityError):
        store.read("a", version)


def test_a_renamed_row_does_not_open(vault: Vault) -> None:
    """The whole row moved under another number: the number is authenticated, not only the bytes."""
    version = two_keys(vault)["a", 1]
    vault.alter("UPDATE versions SET number = 7 WHERE key = 'a' AND number = 1")
    with vault.open() as store:
        with pytest.raises(NotFoundError):
            store.read("a", version)
        moved = next(v for v in store.observe("a").versions if v.number == 7)
        with pytest.raises(IntegrityError):
            store.read("a", moved)


def test_sealing_twice_never_gives_the_same_bytes(vault: Vault) -> None:
    with vault.open() as store:
        sealed = {store.prepare("a", 1, AES, KeyMaterial(SECRET)).sealed for _ in range(100)}
        nonces = {each[:12] for each in sealed}
    assert len(nonces) == 100


def test_material_of_another_vault_does_not_open(tmp_path: Path) -> None:
    vaults = []
    for name, kek in (("one", KEK), ("two", OTHER_KEK)):
        (tmp_path / name).mkdir()
        vaults.append(Vault(tmp_path / name, setting(tmp_path / name, kek)))
    one, two = vaults
    two_keys(one)
    version = two_keys(two)["a", 1]
    with one.sql() as db:
        ((sealed,),) = db.execute("SELECT sealed FROM versions WHERE key = 'a' AND number = 1").fetchall()
    two.alter("UPDATE versions SET sealed = ? WHERE key = 'a' AND number = 1", sealed)
    with two.open() as store, pytest.raises(IntegrityError):
        store.read("a", version)


# --- truncated files


def fill(vault: Vault) -> dict[str, bytes]:
    """More than a few pages, and no write-ahead log left. Returns what is in it."""
    put_in = {f"key-{number}": os.urandom(1024) for number in range(1, 40)}
    with vault.open() as store:
        for key, material in put_in.items():
            put(store, key, 1, material)
    return put_in


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.1, 0.5, 0.9, 0.9999], ids=lambda part: f"{part:.2%}")
def test_a_truncated_file_is_a_clear_error_and_stays_as_it_is(vault: Vault, kept: float) -> None:
    fill(vault)
    data = vault.path.read_bytes()
    assert len(data) > 16 * PAGE
    vault.path.write_bytes(data[: int(len(data) * kept)])
    before = vault.bytes()
    with pytest.raises(ConfigurationError, match=str(vault.path)) as refused, vault.open():
        pass
    assert "backup" in refused.value.hint
    assert vault.bytes() == before


def test_a_garbled_page_never_gives_garbage(vault: Vault) -> None:
    """Found by opening, by SQLite's own check, or by the seal; what can still be read is what was put in."""
    put_in = fill(vault)
    sound = vault.path.read_bytes()
    pages = [start for start in range(0, len(sound), PAGE) if any(sound[start : start + PAGE])]
    assert len(pages) > 16
    for start in pages:
        vault.path.write_bytes(sound[:start] + bytes(PAGE) + sound[start + PAGE :])
        assert _found(vault, put_in), f"page {start // PAGE + 1}"


def _found(vault: Vault, put_in: dict[str, bytes]) -> bool:
    """True if anything says that something is wrong."""
    try:
        with vault.open() as store:
            damage = store.damage()
            lost = [key for key, material in put_in.items() if not _reads(store, key, material)]
    except KmsError:
        return True
    return bool(damage or lost)


def _reads(store: LocalStore, key: str, material: bytes) -> bool:
    """True if the material is there; False if the store says that it is not; anything else is garbage."""
    try:
        newest = store.observe(key).newest
        got = store.read(key, newest).reveal() if newest is not None else b""
    except KmsError:
        return False
    assert got in (material, b"")
    return got == material


def test_a_file_that_is_another_application_s_database_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "vault.db")) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
    before = (tmp_path / "vault.db").read_bytes()
    with pytest.raises(ConfigurationError, match="no sound vault"):
        LocalStore(
            tmp_path / "vault.db", setting(tmp_path, KEK), ledger="", actor="", entropy=os.urandom, clock=Clock()
        )
    assert (tmp_path / "vault.db").read_bytes() == before


# --- destroyed means destroyed


def sealed_bytes(vault: Vault, key: str, number: int) -> bytes:
    with vault.sql() as db:
        ((sealed,),) = db.execute("SELECT sealed FROM versions WHERE key = ? AND number = ?", (key, number)).fetchall()
    assert isinstance(sealed, bytes)
    return sealed


@pytest.mark.parametrize("state", ["published", "disabled"])
def test_destroyed_material_is_gone_from_the_file_and_its_log(vault: Vault, state: str) -> None:
    with vault.open() as store:
        version = put(store, "a", 1)
        put(store, "a", 2)
        if state == "disabled":
            store.disable("a", version)
        sealed = sealed_bytes(vault, "a", 1)
        assert sealed in vault.bytes(), "the net must see it while it is there"
        store.destroy("a", version)
        assert sealed not in vault.bytes()
        for start in range(0, len(sealed) - 16, 8):
            assert sealed[start : start + 16] not in vault.bytes()
        with pytest.raises(RefusedError):
            store.read("a", version)
    assert sealed not in vault.bytes()


def test_destroyed_material_is_gone_among_many_keys(vault: Vault) -> None:
    """Rows move between pages as a table grows and shrinks; no page keeps an old copy."""
    with vault.open() as store:
        versions = {n: put(store, f"key-{n}", 1, os.urandom(1024)) for n in range(40)}
        for n in range(40):
            put(store, f"key-{n}", 2, os.urandom(1024))
    sealed = {n: sealed_bytes(vault, f"key-{n}", 1) for n in range(40)}
    with vault.open() as store:
        for n in range(0, 40, 2):
            store.destroy(f"key-{n}", versions[n])
        held = vault.bytes()
    for n in range(40):
        assert (sealed[n][100:200] in held) == bool(n % 2), n


def test_threads_of_one_process_destroy_and_look_at_the_same_time(vault: Vault) -> None:
    keys = [f"key-{number}" for number in range(8)]
    with vault.open() as store:
        old = {key: put(store, key, 1) for key in keys}
        for key in keys:
            put(store, key, 2)

        def work(key: str) -> None:
            for _ in range(10):
                store.destroy(key, old[key])
                assert not store.observe(key).versions[0].enabled

        with ThreadPoolExecutor(len(keys)) as pool:
            list(pool.map(work, keys))


def test_destroying_twice_is_destroying_once(vault: Vault) -> None:
    with vault.open() as store:
        version = put(store, "a", 1)
        put(store, "a", 2)
        store.destroy("a", version)
        store.destroy("a", version)
        assert [v.enabled for v in store.observe("a").versions] == [False, True]


def test_the_active_version_is_not_destroyed(vault: Vault) -> None:
    with vault.open() as store:
        version = put(store, "a", 1)
        with pytest.raises(RefusedError):
            store.destroy("a", version)
        assert store.read("a", version).reveal() == SECRET


def test_what_is_destroyed_cannot_be_enabled_again(vault: Vault) -> None:
    with vault.open() as store:
        version = put(store, "a", 1)
        put(store, "a", 2)
        store.destroy("a", version)
        store.enable("a", version)
        with pytest.raises(RefusedError):
            store.read("a", version)


def test_a_reader_that_holds_the_old_pages_does_not_make_destroying_a_lie(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process in the middle of a read keeps the write-ahead log alive, and with it the sealed material.

    Then `destroy` must not return as if all were done: it says so, and doing it again later finishes.
    """
    monkeypatch.setattr(local, "BUSY_SECONDS", 0.2)
    with vault.open() as store:
        version = put(store, "a", 1)
        put(store, "a", 2)
        sealed = sealed_bytes(vault, "a", 1)
        with contextlib.closing(sqlite3.connect(vault.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM versions").fetchall()
            with pytest.raises(UnavailableError) as refused:
                store.destroy("a", version)
            assert refused.value.hint
            reader.execute("ROLLBACK")
        store.destroy("a", version)
        assert sealed not in vault.bytes()


def test_discarded_material_cannot_be_read(vault: Vault) -> None:
    with vault.open() as store:
        put(store, "a", 1)
        prepared = store.prepare("a", 2, AES)
        staged = store.stage("a", NewVersion(2, "r", "1:2", AES.name), prepared)
        store.discard("a", staged)
        with pytest.raises(NotFoundError):
            store.read("a", staged)
        assert store.observe("a").staged == ()


# --- errors of the file system, in our words


@pytest.mark.parametrize("held", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_vault_that_stays_locked_is_unavailable_not_broken(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setattr(local, "BUSY_SECONDS", 0.1)
    with vault.open() as store, contextlib.closing(sqlite3.connect(vault.path, isolation_level=None)) as other:
        other.execute(held)
        with pytest.raises(UnavailableError, match="locked") as refused:
            put(store, "a", 1)
        assert refused.value.hint
        other.execute("ROLLBACK")
        assert put(store, "a", 1)


def test_there_is_no_vault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no vault") as refused:
        LocalStore(tmp_path / "vault.db", KekSource(tmp_path / "kek"), **_REST)
    assert "init" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_vault_cannot_be_made_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for source in (KekSource(tmp_path / "file" / "kek"), setting(tmp_path, KEK)):
        with pytest.raises(KmsError) as refused:
            create_vault(tmp_path / "file" / "vault.db", source, os.urandom)
        assert refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


_REST: dict[str, Any] = {"ledger": "", "actor": "", "entropy": os.urandom, "clock": Clock()}
