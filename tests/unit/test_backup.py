"""A backup: what is in it, the document it is written as, and every lie in one that is refused before it is used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daena_kms import audit, manifest, trust
from daena_kms.backup import BackedUp, Backup, BackupLedger, Unread, export_manifests
from daena_kms.backup_check import check
from daena_kms.backup_json import document, parse
from daena_kms.errors import (
    ConfigurationError,
    ExistsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from daena_kms.fleet import Order
from daena_kms.keyring import LocalSigner
from daena_kms.ledger import FolderLedger, object_name
from daena_kms.material import KeyMaterial
from daena_kms.model import Anchor, Claim, InventoryRow, Operation, State, Status
from daena_kms.names import RESERVED_KEY
from daena_kms.policy import KeyPolicy
from tests.cli.sandbox import leaked
from tests.support.backups import A, B, C, Several, generation, three_keys, with_versions
from tests.support.worlds import Effects, Mortal, dying


@pytest.fixture(scope="module")
def good() -> Backup:
    """A backup of three keys. Records are frozen: no test changes it."""
    return three_keys().collect().backup


# --- what is in it


def test_every_key_with_every_version_that_can_be_read() -> None:
    made = three_keys()
    done = made.collect()
    assert not done.failed
    assert [(o.key, o.status, o.message) for o in done.outcomes] == [
        (A, Status.DONE, "3 versions, 6 manifest entries"),
        (B, Status.DONE, "1 version, 6 manifest entries"),
        (C, Status.DONE, "1 version, 2 manifest entries"),
    ]
    assert with_versions(done.backup) == {
        A: {n: made.material(A, n) for n in (1, 2, 3)},
        B: {1: None, 2: made.material(B, 2)},
        C: {1: made.material(C, 1)},
    }
    assert done.outcomes[1].notes == ("version 1 is disabled: its material is not in the backup",)
    check(done.backup)


def test_named_keys_alone() -> None:
    done = three_keys().collect(C, A)
    assert [each.holding.key for each in done.backup.keys] == [A, C]
    check(done.backup)


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(NotFoundError, match="there is no key 'no-such-key'"):
        three_keys().collect(A, "no-such-key")


def test_an_empty_store_has_a_backup_of_its_own_keys() -> None:
    done = Several().collect()
    assert done.backup.keys == ()
    assert len(done.backup.generations) == len(done.backup.root) == 1
    check(done.backup)


def test_every_generation_of_the_ledgers_own_keys_is_in_it() -> None:
    made = three_keys()
    trust.renew(made.backend.store, made.backend.ledger, clock=made.clock, trigger="test")
    made.make("d-key")
    backup = made.collect().backup
    assert [each.number for each in backup.generations] == [1, 2]
    assert len({each.material.reveal() for each in backup.generations}) == 2
    check(backup, backup.public_key)


def test_each_key_is_told_of_as_it_is_done() -> None:
    seen: list[str] = []
    three_keys().collect(concurrency=1, progress=lambda outcome: seen.append(outcome.key))
    assert seen == [A, B, C]


class Lacking:
    """A store in which one version of one key has a fault."""

    def __init__(self, store: Any, fault: Callable[[], KeyMaterial]) -> None:
        self._store = store
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key: str, version: Any) -> KeyMaterial:
        if (key, version.number) == (A, 2):
            return self._fault()
        found = self._store.read(key, version)
        assert isinstance(found, KeyMaterial)
        return found


def _raising(problem: Exception) -> Callable[[], KeyMaterial]:
    def fault() -> KeyMaterial:
        raise problem

    return fault


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(_raising(NotFoundError("version 2 is gone")), "version 2 is gone", id="gone"),
        pytest.param(_raising(UnavailableError("no answer")), "no answer", id="unavailable"),
        pytest.param(_raising(RefusedError("disabled by hand")), "disabled by hand", id="disabled-by-another-hand"),
        pytest.param(lambda: KeyMaterial(bytes(32)), f"the material of {A} is not", id="other-material"),
        pytest.param(_raising(ValueError("SECRET")), "unexpected ValueError", id="a-bug"),
    ],
)
def test_a_key_of_which_a_version_cannot_be_read_is_missing_and_the_others_are_in(
    fault: Callable[[], KeyMaterial], reason: str
) -> None:
    made = three_keys()
    done = made.collect(store=Lacking(made.backend.store, fault))
    assert done.failed
    assert [o.status for o in done.outcomes] == [Status.FAILED, Status.DONE, Status.DONE]
    assert done.outcomes[0].message.startswith(reason)
    assert [each.key for each in done.backup.failed] == [A]
    assert done.backup.failed[0].reason.startswith(reason)
    assert [each.holding.key for each in done.backup.keys] == [B, C]
    check(done.backup)
    assert b"SECRET" not in document(done.backup).reveal()


def test_a_key_that_is_being_changed_is_missing_and_said_to_be() -> None:
    made = three_keys()
    with dying():
        made.service(store=Mortal(made.backend.store, Effects(die_at=3))).rollback(A)
    done = made.collect()
    assert done.outcomes[0].status is Status.IN_PROGRESS
    assert "is being changed (rollback)" in done.outcomes[0].message
    assert done.backup.failed == (Unread(A, done.outcomes[0].message),)
    check(done.backup)


def test_a_manifest_that_was_cut_is_no_history() -> None:
    made = three_keys()
    for sequence in (5, 6):
        del made.backend.ledger.objects[A, sequence]
    done = made.collect()
    assert done.outcomes[0].status is Status.FAILED
    assert done.outcomes[0].message == f"entry 6 of {A} is gone: the manifest was cut"


def test_a_head_that_is_not_ours_is_noted_and_the_key_is_in() -> None:
    made = three_keys()
    made.backend.store.write_anchor(A, Anchor(1, "00", 1, mac="00"))
    done = made.collect()
    assert done.outcomes[0].status is Status.DONE
    assert done.outcomes[0].notes == ("the manifest head stored beside it was not written by us: see `verify`",)


def test_what_is_no_key_of_ours_is_left_alone() -> None:
    made = three_keys()
    rows = [*made.backend.store.inventory(), InventoryRow("foreign", "", 1), InventoryRow("other", "another:ledger", 1)]
    store = Lacking(made.backend.store, _raising(AssertionError()))
    store.inventory = lambda: iter(rows)  # type: ignore[attr-defined]
    done = made.collect(B, C, "foreign", store=store)
    assert not done.failed
    assert [(o.key, o.status) for o in done.outcomes] == [
        (B, Status.DONE),
        (C, Status.DONE),
        ("foreign", Status.UNMANAGED),
    ]


def test_a_manifest_that_is_gone_is_a_failure() -> None:
    made = three_keys()
    for sequence in made.backend.ledger.sequences(C):
        del made.backend.ledger.objects[C, sequence]
    done = made.collect()
    assert [o.status for o in done.outcomes] == [Status.DONE, Status.DONE, Status.FAILED]
    assert done.outcomes[2].message == f"the manifest of {C} is gone"


def test_a_key_that_was_never_finished_is_no_failure() -> None:
    made = three_keys()
    made.keys["d-key"] = KeyPolicy(create=True)
    journal = made.service().journal
    claim = Claim(Operation.CREATE, 1, "run", made.clock(), "digest", "id", "1:00", "AES-256", made.clock())
    head = journal.append("d-key", manifest.EMPTY, manifest.Draft(manifest.Event.ROTATION_STARTED, 1, claim=claim))
    journal.append("d-key", head, manifest.Draft(manifest.Event.DISCARDED, 1, fingerprint="1:00"))
    done = made.collect()
    assert (done.outcomes[3].status, done.outcomes[3].message) == (
        Status.DONE,
        "nothing to back up: it was never finished",
    )
    assert not done.failed


def test_what_was_verified_is_what_is_backed_up() -> None:
    """An entry that changes after it was read is not what goes into the file."""
    made = three_keys()
    original = made.backend.ledger.read

    class Turning:
        address = made.backend.ledger.address
        reads: dict[tuple[str, int], int] = {}  # noqa: RUF012  # one per test

        def __getattr__(self, name: str) -> Any:
            return getattr(made.backend.ledger, name)

        def read(self, key: str, sequence: int) -> bytes | None:
            self.reads[key, sequence] = self.reads.get((key, sequence), 0) + 1
            stored = original(key, sequence)
            assert stored is None or isinstance(stored, bytes)
            return b"junk" if self.reads[key, sequence] > 1 and stored is not None else stored

    done = made.collect(A, ledger=Turning())
    check(done.backup)


# --- the document


def test_a_document_is_read_as_it_was_written(good: Backup) -> None:
    text = document(good)
    assert parse(text) == good
    assert parse(text, sha256="ab").sha256 == "ab"
    assert document(parse(text)) == text


def test_the_document_is_what_its_page_says(good: Backup) -> None:
    found = json.loads(document(good).reveal())
    assert found["format"] == "daena-kms-backup/1"
    assert list(found) == [
        "format", "made_at", "provider", "store", "ledger", "actor", "public_key", "generations", "root", "keys",
        "failed",
    ]  # fmt: skip
    page = (Path(__file__).parents[2] / "docs/backup-format.md").read_text()
    for name in {*found, *found["keys"][0], *found["keys"][0]["versions"][0], *found["generations"][0]}:
        assert f"`{name}`" in page, name


def test_nothing_of_a_backup_shows_material(good: Backup) -> None:
    shown = repr(good) + repr(document(good))
    for numbers in with_versions(good).values():
        for material in numbers.values():
            assert material is None or leaked(shown, material.reveal()) == []
    for each in good.generations:
        assert leaked(shown, each.material.reveal()) == []


SECRET = "hunter2-hunter2-hunter2-hunter2-"  # stands where no secret belongs


def _changed(good: Backup, change: Callable[[dict[str, Any]], object]) -> KeyMaterial:
    found = json.loads(document(good).reveal())
    change(found)
    return KeyMaterial(json.dumps(found).encode())


BAD_DOCUMENTS: list[Any] = [
    pytest.param(lambda d: d.update(format=SECRET), "no backup of ours", id="another-format"),
    pytest.param(lambda d: d.pop("format"), "no backup of ours", id="no-format"),
    pytest.param(lambda d: d.update(format="daena-kms-backup/2"), "daena-kms-backup/2 document", id="another-version"),
    pytest.param(lambda d: d.update(more=SECRET), "no sound backup document", id="an-unknown-field"),
    pytest.param(lambda d: d.update({SECRET: 1}), "no sound backup document", id="an-unknown-name"),
    pytest.param(lambda d: d.pop("root"), "no sound backup document", id="a-field-missing"),
    pytest.param(lambda d: d.update(made_at=SECRET), r"at \$.made_at", id="no-time"),
    pytest.param(lambda d: d.update(made_at="2026-01-01T00:00:00"), r"at \$.made_at", id="no-zone"),
    pytest.param(lambda d: d["root"].append(SECRET + "!"), r"at \$.root", id="no-base64-entry"),
    pytest.param(lambda d: d["keys"][0]["versions"][0].update(state=SECRET), r"versions\[0\].state", id="no-state"),
    pytest.param(
        lambda d: d["keys"][0]["versions"][0].update(material=SECRET + "!"), r"versions\[0\].material", id="no-base64"
    ),
    pytest.param(lambda d: d["keys"][0]["versions"][0].update(material=[SECRET]), "material", id="material-is-a-list"),
    pytest.param(lambda d: d["keys"][0].update(left_out=[1]), r"which versions of \$.keys\[0\]", id="left-out-lies"),
    pytest.param(lambda d: d["keys"][1].update(left_out=[]), r"which versions of \$.keys\[1\]", id="left-out-hidden"),
    pytest.param(lambda d: d["keys"][0].update(origin=None), r"origin", id="no-origin"),
]


@pytest.mark.parametrize(("change", "words"), BAD_DOCUMENTS)
def test_a_bad_document_is_refused_without_showing_it(good: Backup, change: Any, words: str) -> None:
    with pytest.raises(IntegrityError, match=words) as caught:
        parse(_changed(good, change))
    assert "hunter2" not in caught.value.line


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"some text", id="text"),
        pytest.param(b"PK\x03\x04", id="zip"),
        pytest.param(b'"daena-kms-backup/1"', id="a-string"),
        pytest.param(b'{"format": 1}', id="a-number"),
        pytest.param(b'{"format": "daena-kms-backup/1"', id="cut"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"\xff\xfe", id="not-utf-8"),
    ],
)
def test_what_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(IntegrityError, match="no backup of ours"):
        parse(KeyMaterial(text))


# --- lies


def _first(good: Backup, change: Callable[[BackedUp], BackedUp]) -> Backup:
    return replace(good, keys=(change(good.keys[0]), *good.keys[1:]))


def _origin(**fields: Any) -> Callable[[Backup], Backup]:
    def forge(good: Backup) -> Backup:
        return _first(
            good, lambda k: replace(k, holding=replace(k.holding, origin=replace(k.holding.origin, **fields)))
        )

    return forge


def _holding(**fields: Any) -> Callable[[Backup], Backup]:
    return lambda good: _first(good, lambda k: replace(k, holding=replace(k.holding, **fields)))


def _entries(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Backup], Backup]:
    return lambda good: _first(good, lambda k: replace(k, entries=tuple(change(list(k.entries)))))


def _version(number: int, key: int = 0, **fields: Any) -> Callable[[Backup], Backup]:
    """A version whose material or record is changed."""

    def forge(good: Backup) -> Backup:
        def changed(held: Any) -> Any:
            if held.record.number != number:
                return held
            record = {name: value for name, value in fields.items() if name != "material"}
            material = fields.get("material", held.material)
            material = material(good) if callable(material) else material
            return replace(held, record=replace(held.record, **record), material=material)

        keys = list(good.keys)
        holding = keys[key].holding
        keys[key] = replace(
            keys[key], holding=replace(holding, versions=tuple(changed(each) for each in holding.versions))
        )
        return replace(good, keys=tuple(keys))

    return forge


def _of(key: int, number: int) -> Callable[[Backup], KeyMaterial | None]:
    return lambda good: good.keys[key].holding.versions[number - 1].material


def _resigned(entries: list[bytes]) -> list[bytes]:
    """The last entry as somebody else would sign it."""
    signer = LocalSigner(bytes(range(32)))
    entry = manifest.parse(entries[-1])
    head = manifest.Head(manifest.parse(entries[-2]), entry.previous, entry.sequence)
    draft = manifest.as_draft(entry)
    sealed = manifest.seal(head, draft, key=A, now=entry.time, actor=entry.actor, trigger=entry.trigger, signer=signer)
    return [*entries[:-1], sealed]


def _cut_in_a_change(good: Backup) -> Backup:
    """Everything fits, but for that the chain ends in a claim."""
    first = good.keys[0]
    entries = first.entries[:5]
    origin = replace(first.holding.origin, sequence=5, hash=manifest.entry_hash(entries[-1]))
    versions = first.holding.versions[:2]
    active = replace(versions[1], record=replace(versions[1].record, state=State.ACTIVE, deactivated_at=None))
    holding = replace(first.holding, origin=origin, versions=(versions[0], active))
    return replace(good, keys=(BackedUp(holding, entries), *good.keys[1:]))


def _generations(*forged: tuple[int, Callable[[bytes], bytes]]) -> Callable[[Backup], Backup]:
    def forge(good: Backup) -> Backup:
        secret = good.generations[0].material.reveal()
        return replace(good, generations=tuple(generation(number, change(secret)) for number, change in forged))

    return forge


def _other(_: Backup) -> Backup:
    return three_keys(seed=7).collect().backup


LIES: list[Any] = [
    # the ledger's own chain
    pytest.param(lambda g: replace(g, root=()), "own chain is missing", id="no-root"),
    pytest.param(lambda g: replace(g, root=_other(g).root), "the ledger's own chain: ", id="anothers-root"),
    pytest.param(lambda g: replace(g, root=(*g.root, b"junk")), "goes on with what is no entry", id="junk-behind-root"),
    pytest.param(lambda g: replace(g, root=(b"{}",)), "entry 1 of reserved--manifest-keys is bad", id="junk-root"),
    pytest.param(lambda g: replace(g, public_key="00" * 32), "not the pinned one", id="another-public-key"),
    pytest.param(lambda g: replace(g, public_key=g.public_key.upper()), "public key is not written", id="upper-case"),
    pytest.param(_generations(), "other generations than the 1", id="no-generation"),
    pytest.param(_generations((2, bytes)), "other generations than the 1", id="another-number"),
    pytest.param(_generations((1, bytes), (1, bytes)), "other generations than the 1", id="generation-twice"),
    pytest.param(_generations((1, lambda s: s[:63])), "holds 63 bytes", id="short-generation"),
    pytest.param(_generations((1, lambda s: bytes(32) + s[32:])), "is not the chain's", id="another-seed"),
    pytest.param(_generations((1, lambda s: s[:32] + bytes(32))), "is not the chain's", id="another-fingerprint-key"),
    # names
    pytest.param(lambda g: replace(g, keys=(*g.keys, g.keys[0])), f"names {A} more than once", id="key-twice"),
    pytest.param(lambda g: replace(g, failed=(Unread(A, ""),)),
                 f"names {A} more than once", id="in-and-missing"),
    pytest.param(_holding(key="../../evil"), "not one that every store takes", id="a-path"),
    pytest.param(_holding(key=RESERVED_KEY), "kept for our own copies", id="reserved"),
    pytest.param(_holding(key="renamed-key"), f"belongs to key '{A}'", id="renamed"),
    # chains
    pytest.param(_entries(lambda _: []), "its manifest is missing", id="no-entries"),
    pytest.param(_entries(lambda e: e[:-1]), "not where its manifest ends, which is entry 5", id="end-cut"),
    pytest.param(_entries(lambda e: e[:2] + e[3:]), "entry 3 of a-key is bad: it is entry 4, not 3",
                 id="entry-dropped"),
    pytest.param(_entries(lambda e: [*e, e[-1]]), "entry 7 of a-key is bad", id="entry-repeated"),
    pytest.param(_entries(lambda e: [*e[:3], e[3].replace(b"tester", b"taster"), *e[4:]]), "entry 4 of a-key is bad",
                 id="entry-changed"),
    pytest.param(_entries(_resigned), "which is no key of this ledger", id="signed-by-another"),
    pytest.param(lambda g: _first(g, lambda k: replace(k, entries=g.keys[2].entries)), f"belongs to key '{C}'",
                 id="anothers-chain"),
    pytest.param(_cut_in_a_change, "in the middle of a change", id="cut-in-a-change"),
    pytest.param(_origin(sequence=5), "origin is not where", id="origin-sequence"),
    pytest.param(_origin(hash="00" * 32), "origin is not where", id="origin-hash"),
    pytest.param(_origin(ledger="elsewhere"), "origin is not where", id="origin-ledger"),
    pytest.param(_origin(public_key="00" * 32), "origin is not where", id="origin-public-key"),
    pytest.param(_origin(backup="00" * 32), "origin is not where", id="origin-backup"),
    # what is said of keys and versions
    pytest.param(_holding(highest=9), "its highest number", id="highest"),
    pytest.param(_holding(paused=True), "whether it is paused", id="paused"),
    pytest.param(_holding(versions=()), "its versions are none", id="no-versions"),
    pytest.param(lambda g: _first(g, lambda k: replace(k, holding=replace(k.holding, versions=k.holding.versions[1:]))),
                 "its versions are 2, 3, its manifest says 1, 2, 3", id="version-dropped"),
    pytest.param(
        lambda g: _first(g, lambda k: replace(k, holding=replace(k.holding, versions=k.holding.versions[::-1]))),
        "its versions are 3, 2, 1", id="order"),
    pytest.param(_version(2, state=State.DISABLED), "version 2 is not recorded as", id="state"),
    pytest.param(_version(3, compromised=True), "version 3 is not recorded as", id="compromised"),
    pytest.param(_version(1, fingerprint="1:00"), "version 1 is not recorded as", id="fingerprint"),
    pytest.param(_version(1, spec="bytes-32"), "version 1 is not recorded as", id="spec"),
    # material
    pytest.param(_version(2, material=_of(2, 1)), "version 2: the material of a-key is not", id="anothers-material"),
    pytest.param(_version(2, material=_of(0, 1)), "version 2: the material of a-key is not", id="anothers-version"),
    pytest.param(_version(3, material=None), "is active, but its material is missing", id="no-active-material"),
    pytest.param(_version(1, material=None), "is decrypt-only, but its material is missing", id="no-old-material"),
    pytest.param(_version(1, key=1, material=KeyMaterial(bytes(32))), "b-key: version 1: the material",
                 id="false-material-of-a-disabled-version"),
    pytest.param(_version(1, material=KeyMaterial(b"")), "version 1: the material", id="empty-material"),
]  # fmt: skip


def test_the_good_one_is_good(good: Backup) -> None:
    check(good)
    check(good, good.public_key.upper())


@pytest.mark.parametrize(("forge", "words"), LIES)
def test_a_lie_is_refused_by_what_it_is_about(good: Backup, forge: Callable[[Backup], Backup], words: str) -> None:
    forged = forge(good)
    with pytest.raises(IntegrityError, match=words):
        check(forged)
    with pytest.raises(IntegrityError):
        check(parse(document(forged)))


def test_a_destroyed_version_has_no_material() -> None:
    made = three_keys()
    made.keys[A] = KeyPolicy(create=True, destroy_after_days=7)
    made.clock.move(days=60)
    made.service().destroy(A, 1)
    made.clock.move(days=8)
    made.service().rotate(Order())
    backup = made.collect(A).backup
    assert backup.keys[0].holding.versions[0].record.state is State.DESTROYED
    check(backup)
    with pytest.raises(IntegrityError, match="version 1 is destroyed, but has material"):
        check(_version(1, material=KeyMaterial(bytes(32)))(backup))


def test_another_ledgers_backup_is_sound_and_the_pin_tells_it_apart(good: Backup) -> None:
    other = _other(good)
    check(other)
    with pytest.raises(IntegrityError, match="the backup's public key is not the pinned one"):
        check(other, good.public_key)


def test_repaired_junk_stays_part_of_the_chain() -> None:
    made = three_keys()
    made.backend.ledger.append(A, 7, b"\xff junk")
    made.service().repair(A, "a stray object")
    backup = made.collect(A).backup
    assert backup.keys[0].entries[6] == b"\xff junk"
    assert len(backup.keys[0].entries) == 8
    check(parse(document(backup)))


# --- the manifests in it


def test_its_manifests_verify_from_a_folder(good: Backup, tmp_path: Path) -> None:
    export_manifests(good, tmp_path / "copy")
    export_manifests(good, tmp_path / "copy")  # again is once
    ledger = FolderLedger(tmp_path / "copy", "file:///copy")
    found = audit.verify_manifests(ledger, good.public_key)
    assert [(each.key, each.problems) for each in found] == [(A, ()), (B, ()), (C, ())]
    assert [found[0].head, found[0].entries] == [good.keys[0].holding.origin.hash, 6]


def test_other_manifests_are_not_written_over(good: Backup, tmp_path: Path) -> None:
    export_manifests(_other(good), tmp_path / "copy")
    before = (tmp_path / "copy" / RESERVED_KEY / object_name(1)).read_bytes()
    with pytest.raises(ExistsError, match="entry 1 of reserved--manifest-keys is there already, and is another"):
        export_manifests(good, tmp_path / "copy")
    assert (tmp_path / "copy" / RESERVED_KEY / object_name(1)).read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="not a manifest folder of ours"):
        export_manifests(good, tmp_path / "full")


def test_a_backup_is_read_as_a_ledger_and_never_written(good: Backup) -> None:
    ledger = BackupLedger(good)
    assert ledger.names() == [A, B, C, RESERVED_KEY]
    assert ledger.sequences(C) == [1, 2]
    assert (ledger.read(C, 0), ledger.read(C, 3), ledger.read("no-key", 1)) == (None, None, None)
    assert ledger.rewritten(C) == []
    assert C in ledger.where(C, 1)
    with pytest.raises(RefusedError):
        ledger.append(C, 3, b"")


def test_many_keys_are_read_at_once() -> None:
    """Every one of a hundred is in it once, whatever order threads end in."""
    made = Several()
    for number in range(100):
        made.make(f"key-{number}")
    done = made.collect(concurrency=8)
    assert [each.holding.key for each in done.backup.keys] == sorted(f"key-{number}" for number in range(100))
    check(done.backup)
