"""Backups that were altered: sealed files, documents that were sealed anew, and whole chains forged inside of them.

Whoever has a recipient's public key can seal a document; whoever has the ledger's own keys can forge its chains, and
whoever has neither can make a ledger of his own: without a pinned public key a backup vouches for itself.
"""

import base64
import json
import shutil
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from daena_kms import recovery, sealing
from daena_kms.backup import BackedUp, Backup
from daena_kms.backup_check import check as checked
from daena_kms.backup_json import document, parse
from daena_kms.errors import KmsError
from daena_kms.holdings import Held
from daena_kms.keyring import Fingerprints, split_generation
from daena_kms.manifest import Entry, Head, History
from daena_kms.material import KeyMaterial
from tests.cli.sandbox import CANARY, Sandbox, leaked, lived_in
from tests.support.backups import A, Identity, Several, three_keys

from ..units import Room
from .harness import allowed, require, sensible, tried
from .manifests import Forger
from .memory import Memory, told_well
from .policies import ended
from .shapes import Edit, as_json, cut, cuts, edited, edits, fitting, values

PASSPHRASE = "correct horse battery staple"


def _as_built(backup: Backup) -> Any:
    return json.loads(document(backup).reveal())


class Target:
    """An empty store with a ledger of its own, emptied before each example."""

    def __init__(self) -> None:
        self._memory = Memory(Several(seed=7))

    def restores(self, backup: Backup) -> None:
        """All that is done with a backup that was found sound: brought, rehearsed, drilled, compared, brought again."""
        self._memory.put_back()
        service = self._memory.service()
        held = [each.holding for each in backup.keys]
        secrets = {each.number: split_generation(each.material)[1] for each in backup.generations}
        for ask in (
            lambda: recovery.restore(service, held, dry_run=True),
            lambda: recovery.restore(service, held),
            lambda: recovery.restore(service, held),
        ):
            report = allowed(ask)
            for outcome in report.outcomes if report is not None else ():
                told_well(outcome)
        allowed(lambda: recovery.compare(service, held, "the backup"))
        self._memory.put_back()
        allowed(lambda: recovery.drill(self._memory.service(), held, Fingerprints(secrets)))

    def untouched(self) -> bool:
        """True if nothing was written since it was put back."""
        return not [key for key in self._memory.store.keys if not key.startswith("reserved")]


def _read(data: bytes) -> Backup | None:
    """A document that was found sound, or None for one that was refused, without anything of it in the words."""
    try:
        backup = parse(KeyMaterial(data))
        checked(backup)
    except KmsError as problem:
        sensible(problem)
        return None
    return backup


def documents(room: Room, most: int) -> None:
    """What is sealed: a document with something changed, or none at all."""
    backup = three_keys().collect().backup
    whole, target = _as_built(backup), Target()
    written = document(backup).reveal()
    any_of = st.one_of(
        edits.map(lambda changes: as_json(edited(whole, changes))),
        fitting.map(lambda changes: as_json(edited(whole, changes))),
        cuts.map(lambda changes: cut(written, changes)),
        values.map(as_json),
        st.sampled_from(
            [b"[" * 100_000, b'{"format":' * 50_000, b'{"format":"daena-kms-backup/1","keys":' + b"[" * 60_000]
        ),
    )

    def check(data: bytes) -> None:
        sound = _read(data)
        if sound is not None:
            target.restores(sound)

    tried(room, "a backup's document", any_of, check, most=most)


def forged(room: Room, most: int) -> None:
    """A document whose chains verify, because who made it has the keys; and which holds what they tell."""
    several = three_keys()
    memory, backup, target = Memory(several), several.collect().backup, Target()
    keyring = memory.service().keyring
    forger = Forger(keyring.signer, keyring.trust)
    first = next(each for each in backup.keys if each.holding.key == A)
    pairs = st.tuples(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5, 9]), fitting)

    def check(example: tuple[int, list[Edit]]) -> None:
        which, changes = example
        entries = list(first.entries)
        made, head = forger.forged(entries, max(0, len(entries) - 1 - which), changes)
        other = _retold(backup, first, made, head)
        if other is None:
            return
        try:
            checked(other)
        except KmsError as problem:
            sensible(problem)
            return
        target.restores(other)

    tried(room, "a backup of a forged chain", pairs, check, most=most)


def _retold(backup: Backup, first: BackedUp, made: Sequence[bytes], head: Head) -> Backup | None:
    """The same backup with another chain of one key, and the versions that this one tells of."""
    try:
        entries = [msgspec.json.decode(each, type=Entry) for each in made]
        recorded = History(entries).versions
    except (msgspec.MsgspecError, KmsError):
        return None
    materials = {each.record.number: each.material for each in first.holding.versions}
    held = tuple(Held(record, materials.get(number)) for number, record in sorted(recorded.items()))
    origin = replace(first.holding.origin, sequence=head.entry.sequence if head.entry else 0, hash=head.hash)
    holding = replace(first.holding, origin=origin, versions=held, highest=head.state.highest, paused=head.state.paused)
    keys = tuple(BackedUp(holding, tuple(made)) if each is first else each for each in backup.keys)
    return replace(backup, keys=keys)


def sealed_files(room: Room, most: int) -> None:
    """Files whose container was altered: never opened to anything but what was sealed."""
    identity = Identity(room.folder)
    plain = document(three_keys().collect().backup)
    sealed = sealing.seal(plain, [identity.recipient])
    armoured = _armoured(sealed)
    two = sealing.seal(plain, [identity.recipient, "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"])
    any_of = st.one_of(
        cuts.map(lambda changes: cut(sealed, changes)),
        cuts.map(lambda changes: cut(sealed[:400], changes) + sealed[400:]),  # mostly the header
        cuts.map(lambda changes: cut(armoured, changes)),
        cuts.map(lambda changes: cut(two[:600], changes) + two[600:]),
        st.binary(max_size=200).map(lambda data: b"age-encryption.org/v1\n" + data),
        st.binary(max_size=100),
    )

    def check(data: bytes) -> None:
        allowed(lambda: sealing.needs_passphrase(data))
        opened = allowed(lambda: sealing.open_with_identities(data, [identity.file]))
        require(opened is None or opened == plain, "an altered file opened to something else")

    tried(room, "a sealed file", any_of, check, most=most)


def under_passphrase(room: Room, most: int) -> None:
    """The same under a passphrase: each try costs a scrypt, unless the file is refused before."""
    plain = document(three_keys().collect().backup)
    sealed = sealing.seal_with_passphrase(plain, KeyMaterial(PASSPHRASE.encode()))
    factor = sealed.split(b"\n")[1].rpartition(b" ")[2]
    factors = st.sampled_from([b"1", b"10", b"0", b"24", b"30", b"63", b"64", b"255", b"-1", b"", b"9" * 400])
    any_of = st.one_of(
        factors.map(lambda other: sealed.replace(b" " + factor + b"\n", b" " + other + b"\n", 1)),
        cuts.map(lambda changes: cut(sealed[:200], changes) + sealed[200:]),
        cuts.map(lambda changes: sealed[:200] + cut(sealed[200:], changes)),
    )

    def check(data: bytes) -> None:
        opened = allowed(lambda: sealing.open_with_passphrase(data, KeyMaterial(PASSPHRASE.encode())))
        require(opened is None or opened == plain, "an altered file opened to something else")

    tried(room, "a file under a passphrase", any_of, check, most=most, shrinks=False)


def _armoured(sealed: bytes) -> bytes:
    text = base64.b64encode(sealed)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    begin, end = b"-----BEGIN AGE ENCRYPTED FILE-----", b"-----END AGE ENCRYPTED FILE-----"
    return b"\n".join([begin, *lines, end, b""])


# --- the command


def command(room: Room, most: int) -> None:
    """restore, restore --drill, restore --dry-run, verify --backup: what is refused has written nothing."""
    identity = Identity(room.folder)
    box = lived_in(room.folder / "lived")
    file = room.folder / "it.age"
    box.done("backup", "--to", str(file), "--recipient", identity.recipient)
    sealed = file.read_bytes()
    whole = json.loads(sealing.open_with_identities(sealed, [identity.file]).reveal())
    empty = Sandbox(room.folder / "empty", policy="[keys.billing-key]\n")
    mangled = st.one_of(
        cuts.map(lambda changes: cut(sealed, changes)),
        edits.map(lambda changes: _sealed(as_json(edited(whole, changes)), identity)),
        fitting.map(lambda changes: _sealed(as_json(edited(whole, changes)), identity)),
        values.map(lambda value: _sealed(as_json(value), identity)),
        st.binary(max_size=100),
    )
    asked = st.sampled_from([
        (False, "restore"), (False, "restore", "--drill"), (False, "restore", "--dry-run"), (True, "restore"),
        (True, "verify", "--backup"), (True, "verify", "--json", "--backup"), (False, "restore", "--json"),
    ])  # fmt: skip
    looks = {True: box.digest(), False: empty.digest()}

    def check(example: tuple[bytes, tuple[Any, ...]]) -> None:
        data, (full, *arguments) = example
        file.write_bytes(data)
        at = box if full else empty
        named = [*arguments, str(file)] if "--backup" in arguments else [arguments[0], str(file), *arguments[1:]]
        result = at.run(*named, "--identity", str(identity.file))
        ended(result)
        require(not leaked(result.out + result.err, CANARY), "material is in what was printed")
        if result.status >= 2 or "--drill" in arguments or "--dry-run" in arguments or "--backup" in arguments:
            require(at.digest() == looks[full], f"{named} ended with {result.status} and wrote something")
        elif at is empty:
            _emptied(empty)

    tried(room, "the command with a backup", st.tuples(mangled, asked), check, most=most, shrinks=False)


def _sealed(data: bytes, identity: Identity) -> bytes:
    return sealing.seal(KeyMaterial(data), [identity.recipient])


def _emptied(box: Sandbox) -> None:
    shutil.rmtree(box.home, ignore_errors=True)
