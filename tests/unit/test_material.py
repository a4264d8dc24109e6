"""Key material: the bytes come out by `reveal()` and by no other way, and it is known who calls that."""

import ast
import copy
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import daena_kms
from daena_kms.kms import CloudKey
from daena_kms.material import KeyMaterial
from daena_kms.model import State, VersionRecord, utc_now
from daena_kms.service import Fetched
from daena_kms.stores.base import Prepared
from tests.cli.sandbox import leaked

SECRET = b"a secret of exactly 32 bytes ..."
CORE = Path(daena_kms.__file__).parent

# Who may see bytes, and what for. A module that is not here needs a reason that can be written down here.
MAY_REVEAL = {
    "backup_json": "writes a backup's document in base64, and reads one that was decrypted",
    "console": "prints what was asked for with --reveal",
    "keyring": "fingerprints it; splits the reserved key into its two halves",
    "verification": "encrypts and decrypts with it before it goes live",
    "sealing": "gives a backup's document and a passphrase to age",
    "stores.aws": "wraps imported material with KMS",
    "stores.azure_calls": "gives the application's secret to Entra ID",
    "stores.azure_layout": "writes it in base64, and back",
    "stores.gcp_secrets": "sends it as a payload, whose checksum it takes",
    "stores.local": "seals it; reads the KEK or passphrase that a setting brought",
}


@pytest.fixture
def material() -> KeyMaterial:
    return KeyMaterial(SECRET)


def holders(material: KeyMaterial) -> list[object]:
    """Records that carry material."""
    now = utc_now()
    record = VersionRecord(1, "id", "1:00", "AES-256", State.ACTIVE, now, now)
    held = [Fetched("a", record, material), Prepared(material, b"sealed"), CloudKey("a", material, 1, "id")]
    return [material, [material], {"key": material}, *held]


def test_reveal_gives_the_bytes(material: KeyMaterial) -> None:
    assert material.reveal() == SECRET
    assert len(material) == 32


def test_it_keeps_a_copy_of_its_own() -> None:
    """What the caller does to a buffer afterwards is the caller's."""
    buffer = bytearray(SECRET)
    material = KeyMaterial(buffer)  # type: ignore[arg-type]  # bytes in the signature, but nothing holds to it
    buffer[:] = bytes(32)
    assert material.reveal() == SECRET


SHOWN: list[Callable[[object], str]] = [
    repr,
    str,
    ascii,
    lambda held: f"{held}",
    lambda held: f"{held!r:>80}",
    lambda held: "%s %r" % (held, held),  # noqa: UP031  # the way logging does it
    pprint.pformat,
    lambda held: json.dumps(held, default=repr),
    lambda held: repr(dir(held)),
]


@pytest.mark.parametrize(
    "show", SHOWN, ids=["repr", "str", "ascii", "format", "format-repr", "percent", "pprint", "json-repr", "dir"]
)
@pytest.mark.parametrize("index", range(5), ids=["itself", "list", "dict", "fetched", "prepared"])
def test_it_is_in_nothing_that_is_shown(material: KeyMaterial, show: Callable[[object], str], index: int) -> None:
    assert leaked(show(holders(material)[index]), SECRET) == []


def test_its_repr_says_how_long_it_is(material: KeyMaterial) -> None:
    assert repr(material) == "KeyMaterial(<32 bytes, not shown>)"


def test_it_is_in_no_log_and_no_traceback(material: KeyMaterial, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("here is %s", material, extra={"material": material})
    shown = "".join(traceback.format_exception(ValueError(material)))
    assert "KeyMaterial" in caplog.text
    assert leaked(caplog.text + shown, SECRET) == []


REFUSED: list[Callable[[object], object]] = [
    *(lambda held, protocol=protocol: pickle.dumps(held, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    copy.deepcopy,
    json.dumps,
    msgspec.json.encode,
    msgspec.msgpack.encode,
    msgspec.to_builtins,
]


@pytest.mark.parametrize(
    "way", REFUSED, ids=[*(f"pickle-{n}" for n in range(6)), "deepcopy", "json", "msgspec-json", "msgpack", "builtins"]
)
@pytest.mark.parametrize("index", range(5), ids=["itself", "list", "dict", "fetched", "prepared"])
def test_it_refuses_to_be_serialised(material: KeyMaterial, way: Callable[[object], object], index: int) -> None:
    with pytest.raises(TypeError):
        way(holders(material)[index])


OUT: list[Any] = [
    copy.copy,
    vars,
    bytes,
    bytearray,
    memoryview,
    list,
    iter,
    hash,
    lambda m: m[0],
    lambda m: format(m, "x"),
    lambda m: m + b"",
    lambda m: b"".join([m]),
]


@pytest.mark.parametrize(
    "way", OUT,
    ids=["copy", "vars", "bytes", "bytearray", "memoryview", "list", "iter", "hash", "index", "format", "add", "join"],
)  # fmt: skip
def test_there_is_no_other_way_to_the_bytes(material: KeyMaterial, way: Callable[[KeyMaterial], object]) -> None:
    with pytest.raises(TypeError):
        way(material)


def test_it_cannot_be_given_more_attributes(material: KeyMaterial) -> None:
    with pytest.raises(AttributeError):
        material.note = "x"  # type: ignore[attr-defined]  # that it has none is what is tested


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        pytest.param(KeyMaterial(SECRET), True, id="same-bytes"),
        pytest.param(KeyMaterial(SECRET[:-1] + b"!"), False, id="last-byte-differs"),
        pytest.param(KeyMaterial(SECRET[:-1]), False, id="shorter"),
        pytest.param(KeyMaterial(b""), False, id="empty"),
        pytest.param(SECRET, False, id="plain-bytes"),
        pytest.param(None, False, id="none"),
    ],
)
def test_equality(material: KeyMaterial, other: object, equal: bool) -> None:
    assert (material == other) is equal
    assert (material != other) is not equal


def test_equality_takes_the_constant_time_path(material: KeyMaterial, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return True

    monkeypatch.setattr("daena_kms.material.hmac.compare_digest", compare)
    assert material == KeyMaterial(b"other")
    assert compared == [(SECRET, b"other")]


def test_who_reveals() -> None:
    """The modules under core/ that take bytes out of material are those listed above: no more, no fewer."""
    found = {module for module, tree in modules() if any(_reveals(node) for node in ast.walk(tree))}
    assert found == set(MAY_REVEAL)


def test_nobody_reaches_past_reveal() -> None:
    """`_secret` is named in material.py and nowhere else."""
    found = {
        module
        for module, tree in modules()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "_secret")
        or (isinstance(node, ast.Constant) and node.value == "_secret")
    }
    assert found == {"material"}


def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the library, parsed."""
    return [
        (".".join(path.relative_to(CORE).with_suffix("").parts), ast.parse(path.read_text()))
        for path in sorted(CORE.rglob("*.py"))
    ]


def _reveals(node: ast.AST) -> bool:
    """`x.reveal`, called or handed on; or its name as text, for `getattr`. Not `reveal=…`, which is an option."""
    return isinstance(node, ast.Attribute) and node.attr == "reveal"
