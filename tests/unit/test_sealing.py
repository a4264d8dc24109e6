"""The sealed file: opened by others and not only by us; cut, altered and foreign ones are refused."""

import base64
import builtins
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from daena_kms import sealing
from daena_kms.errors import ConfigurationError, ExistsError, IntegrityError, KmsError, UnavailableError
from daena_kms.material import KeyMaterial
from tests.support import age_reader
from tests.support.age_reader import CHUNK, TAG, age_opens, age_seals, need_age, take_apart
from tests.support.backups import Identity

TEXT = KeyMaterial(bytes(range(256)) * 600)  # two whole chunks and a part of one
SHORT = KeyMaterial(b"a short document")
PASSPHRASE = KeyMaterial("a long passphrase, ünïcode too".encode())


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("identity"))


@pytest.fixture(scope="module")
def sealed(identity: Identity) -> bytes:
    return sealing.seal(TEXT, [identity.recipient])


@pytest.fixture(scope="module")
def by_passphrase() -> bytes:
    """With little work in it: ours takes seconds."""
    return age_reader.sealed_under(SHORT.reveal(), PASSPHRASE.reveal().decode())


# --- others open ours, we open others'


def test_our_own_reader_of_the_format_opens_it(identity: Identity, sealed: bytes) -> None:
    assert age_reader.with_identity(sealed, identity.secret) == TEXT.reveal()
    assert sealing.open_with_identities(sealed, [identity.file]) == TEXT


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_every_length_around_a_chunk(identity: Identity, length: int) -> None:
    text = KeyMaterial(os.urandom(length))
    made = sealing.seal(text, [identity.recipient])
    assert age_reader.with_identity(made, identity.secret) == text.reveal()
    assert sealing.open_with_identities(made, [identity.file]) == text


def test_the_standard_tool_opens_it(identity: Identity, sealed: bytes, tmp_path: Path) -> None:
    need_age()
    (tmp_path / "file.age").write_bytes(sealed)
    assert age_opens(tmp_path / "file.age", identity.file) == TEXT.reveal()


@pytest.mark.parametrize("armour", [(), ("--armor",)], ids=["binary", "armoured"])
def test_we_open_what_the_standard_tool_made(identity: Identity, armour: tuple[str, ...]) -> None:
    need_age()
    made = age_seals(TEXT.reveal(), "--recipient", identity.recipient, *armour)
    assert sealing.open_with_identities(made, [identity.file]) == TEXT


def test_an_identity_that_the_standard_tool_made(tmp_path: Path) -> None:
    need_age()
    file = tmp_path / "made.txt"
    done = subprocess.run([str(age_reader.KEYGEN), "-o", str(file)], capture_output=True, text=True, check=True)
    recipient = done.stderr.split()[-1]
    assert sealing.open_with_identities(sealing.seal(SHORT, [recipient]), [file]) == SHORT


def test_a_passphrase() -> None:
    made = sealing.seal_with_passphrase(SHORT, PASSPHRASE)
    assert sealing.needs_passphrase(made)
    assert int(take_apart(made).stanzas[0].arguments[2]) >= 15
    assert age_reader.with_passphrase(made, PASSPHRASE.reveal().decode()) == SHORT.reveal()
    assert sealing.open_with_passphrase(made, PASSPHRASE) == SHORT


def test_each_of_several_recipients_opens_it(identity: Identity, tmp_path: Path) -> None:
    other = Identity(tmp_path)
    made = sealing.seal(SHORT, [identity.recipient, other.recipient, identity.recipient])
    assert sealing.kinds(made) == ["X25519", "X25519"]
    for each in (identity, other):
        assert sealing.open_with_identities(made, [each.file]) == SHORT
        assert age_reader.with_identity(made, each.secret) == SHORT.reveal()


def _ssh(kind: str, folder: Path) -> tuple[str, Path]:
    """An ssh key's public line and its private file."""
    key: Any = Ed25519PrivateKey.generate() if kind == "ed25519" else generate_private_key(65537, 2048)
    file = folder / f"id_{kind}"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return f"{public.decode()} somebody@laptop", file


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys(kind: str, tmp_path: Path) -> None:
    public, private = _ssh(kind, tmp_path)
    made = sealing.seal(SHORT, [public])
    assert sealing.kinds(made) == [f"ssh-{kind}"]
    assert sealing.open_with_identities(made, [private]) == SHORT


def test_an_ssh_key_with_a_passphrase_says_so(tmp_path: Path) -> None:
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        pytest.skip("there is no ssh-keygen here")
    file = tmp_path / "id"
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "locked", "-f", str(file)], check=True)
    made = sealing.seal(SHORT, [file.with_suffix(".pub").read_text()])
    with pytest.raises(ConfigurationError, match="has a passphrase"):
        sealing.open_with_identities(made, [file])


# --- cut, altered


def _borders(sealed: bytes) -> set[int]:
    """Every line of the header, the nonce, each chunk and its tag."""
    found, start = set(), len(sealed) - len(take_apart(sealed).payload)
    found |= {i for i, byte in enumerate(sealed[:start]) if byte in b"\n> -"}
    found |= {start, start + 16}
    for border in range(start + 16, len(sealed) + 1, CHUNK + TAG):
        found |= {border, border - TAG}
    return found


def test_every_cut_is_refused_as_such(identity: Identity, sealed: bytes) -> None:
    header = len(sealed) - len(take_apart(sealed).payload)
    near = {border + step for border in _borders(sealed) for step in (-1, 0, 1)}
    cuts = sorted({*range(header + 20), *near, *range(0, len(sealed), 1009), len(sealed) - 1} & set(range(len(sealed))))
    assert len(cuts) > 300
    for length in cuts:
        with pytest.raises(IntegrityError) as caught:
            sealing.open_with_identities(sealed[:length], [identity.file])
        assert caught.value.hint, length


def test_more_behind_it_is_refused(identity: Identity, sealed: bytes) -> None:
    for more in (b"\0", b"\n", sealed, bytes(CHUNK + TAG)):
        with pytest.raises(IntegrityError, match="cut or was altered"):
            sealing.open_with_identities(sealed + more, [identity.file])


def test_every_flipped_bit_is_refused(identity: Identity, sealed: bytes) -> None:
    """In the header, which stanzas are whose cannot always be told: then it may be another's file."""
    header = len(sealed) - len(take_apart(sealed).payload)
    near = {border + step for border in _borders(sealed) for step in range(-2, 3)}
    places = sorted(({*range(header + 18), *near} | set(range(header, len(sealed), 2003))) & set(range(len(sealed))))
    assert len(places) > 250
    for place in places:
        changed = bytearray(sealed)
        changed[place] ^= 1 << place % 8
        wanted: type[KmsError] | tuple[type[KmsError], ...] = IntegrityError
        if place < header:
            wanted = (IntegrityError, ConfigurationError)
        with pytest.raises(wanted):
            sealing.open_with_identities(bytes(changed), [identity.file])


def test_chunks_that_changed_places_are_refused(identity: Identity, sealed: bytes) -> None:
    start = len(sealed) - len(take_apart(sealed).payload) + 16
    first, second = sealed[start : start + CHUNK + TAG], sealed[start + CHUNK + TAG : start + 2 * (CHUNK + TAG)]
    for forged in (second + first, first + first, first):
        with pytest.raises(IntegrityError, match="cut or was altered"):
            sealing.open_with_identities(sealed[:start] + forged + sealed[start + 2 * len(first) :], [identity.file])


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s[:40], lambda s: s[:-1] + b"\0"])
def test_a_file_under_a_passphrase_that_was_cut_or_altered(
    by_passphrase: bytes, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(IntegrityError, match="cut or was altered"):
        sealing.open_with_passphrase(change(by_passphrase), PASSPHRASE)


def test_a_passphrase_that_would_take_for_ever(by_passphrase: bytes) -> None:
    """Whoever made the file chose how long its passphrase takes to try. It is not tried."""
    stanza = b"-> scrypt "
    before, _, rest = by_passphrase.partition(stanza)
    salt, _, body = rest.partition(b" ")
    forged = before + stanza + salt + b" 40" + body[2:]
    with pytest.raises(IntegrityError, match="far too long"):
        sealing.open_with_passphrase(forged, PASSPHRASE)


# --- foreign


def _zip() -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a", "b")
    return made.getvalue()


FOREIGN: list[Any] = [
    pytest.param(b"", "not an age file", id="empty"),
    pytest.param(b"dear diary\n", "not an age file", id="text"),
    pytest.param(_zip(), "not an age file", id="zip"),
    pytest.param(b"age-encryption.org/v2\n-> X25519 a\n", "another version", id="another-version"),
    pytest.param(b"age-encryption.org/v1\n", "cut or was altered", id="nothing-but-the-first-line"),
    pytest.param(b"-----BEGIN AGE ENCRYPTED FILE-----\n%%\n-----END AGE ENCRYPTED FILE-----\n", "armour", id="armour"),
    pytest.param(
        b"-----BEGIN AGE ENCRYPTED FILE-----\naGVsbG8=\n-----END AGE ENCRYPTED FILE-----\n",
        "not an age file",
        id="hello",
    ),
    pytest.param(b"\xff\xfe" * 100, "not an age file", id="noise"),
]


@pytest.mark.parametrize(("data", "words"), FOREIGN)
def test_a_foreign_file_is_refused(identity: Identity, data: bytes, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        sealing.open_with_identities(data, [identity.file])
    with pytest.raises(IntegrityError):
        sealing.open_with_passphrase(data, PASSPHRASE)


def test_an_armoured_file_that_was_cut(identity: Identity) -> None:
    made = bytes(pyrage.encrypt(TEXT.reveal(), [pyrage.x25519.Recipient.from_str(identity.recipient)], armored=True))
    assert sealing.open_with_identities(made, [identity.file]) == TEXT
    for length in (40, 100, 1000, 50_000, len(made) - 40):
        with pytest.raises(IntegrityError):
            sealing.open_with_identities(made[:length], [identity.file])


# --- somebody else's, and what people give by mistake


def test_another_identity(sealed: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no identity that was given opens it") as caught:
        sealing.open_with_identities(sealed, [Identity(tmp_path).file])
    assert "sealed for 1 recipient (X25519)" in caught.value.hint


def test_another_passphrase(by_passphrase: bytes) -> None:
    with pytest.raises(ConfigurationError, match="the passphrase does not open it"):
        sealing.open_with_passphrase(by_passphrase, KeyMaterial(b"another"))


@pytest.mark.parametrize("text", [b"", b"\xff\xfe"], ids=["empty", "not-text"])
def test_what_is_no_passphrase(text: bytes) -> None:
    with pytest.raises(ConfigurationError, match="the passphrase is"):
        sealing.seal_with_passphrase(SHORT, KeyMaterial(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "what was given is no recipient", id="empty"),
        pytest.param("bob", "what was given is no recipient", id="a-name"),
        pytest.param("age1nonsense", "'age1nonsense' is no recipient", id="cut"),
        pytest.param("ssh-ed25519 AAAA", "'ssh-ed25519 AAAA' is no recipient", id="bad-ssh"),
        pytest.param("ecdsa-sha2-nistp256 AAAA", "what was given is no recipient", id="ecdsa"),
        pytest.param("AGE-SECRET-KEY-1QQQQ", "an identity, the secret half", id="an-identity"),
        pytest.param("\udc80", "what was given is no recipient", id="not-text"),
    ],
)
def test_what_is_no_recipient(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        sealing.check_recipients([text])
    assert "QQQQ" not in caught.value.line
    with pytest.raises(ConfigurationError):
        sealing.seal(SHORT, [text])


def test_nobody_is_no_recipient() -> None:
    with pytest.raises(ConfigurationError, match="nothing was sealed"):
        sealing.seal(SHORT, [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"# nothing\n\n", "holds no identity$", id="comments"),
        pytest.param(b"hello HIDDEN", "no identity that can be read", id="text"),
        pytest.param(b"AGE-SECRET-KEY-1HIDDEN", "no identity that can be read", id="cut"),
        pytest.param(b"\xff\xfeHIDDEN", "no identity that can be read", id="noise"),
        pytest.param(b"-----BEGIN OPENSSH PRIVATE KEY-----\nHIDDEN\n", "no identity that can be read", id="bad-ssh"),
        pytest.param(None, "cannot be read: No such file", id="missing"),
    ],
)
def test_what_is_no_identity(sealed: bytes, tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "given.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        sealing.open_with_identities(sealed, [file])
    assert "HIDDEN" not in caught.value.line


def test_recipients_in_a_file() -> None:
    assert sealing.recipients_in("# people\n\n age1a \nssh-ed25519 AAAA me@x\n") == ("age1a", "ssh-ed25519 AAAA me@x")


@pytest.fixture
def without_pyrage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = builtins.__import__

    def importing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pyrage":
            raise ModuleNotFoundError("No module named 'pyrage'", name=name)
        return original(name, *rest, **named)

    monkeypatch.delitem(sys.modules, "pyrage")
    monkeypatch.setattr(builtins, "__import__", importing)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("without_pyrage")
def test_the_package_may_be_missing() -> None:
    with pytest.raises(ConfigurationError, match="pyrage is not installed") as caught:
        sealing.seal(SHORT, ["age1"])
    assert caught.value.hint == "pip install 'daena-kms[backup]'"


# --- the file


def test_a_file_is_written_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "a.age"
    sealing.write_new(file, b"sealed")
    assert file.read_bytes() == b"sealed"
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ExistsError, match="is there already"):
        sealing.write_new(file, b"another")
    assert file.read_bytes() == b"sealed"
    assert os.listdir(tmp_path) == ["a.age"]


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sealing.write_new(Path("a.age"), b"sealed")
    assert (tmp_path / "a.age").read_bytes() == b"sealed"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot use"):
        sealing.write_new(tmp_path / "no" / "a.age", b"sealed")


def test_what_reads_back_otherwise_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"other")
    with pytest.raises(IntegrityError, match="does not hold what was written"):
        sealing.write_new(tmp_path / "a.age", b"sealed")


def test_base64_that_is_not_canonical_is_refused_by_our_reader() -> None:
    assert base64.b64decode("QQ==") == b"A"
    with pytest.raises(ValueError, match="canonical"):
        age_reader.unpadded("QR")
