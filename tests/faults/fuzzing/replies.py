"""What a store tells, at random: tags, labels, annotations, content types, values, and replies that are none of its.

One key is meddled with; whatever comes of that one, the others go on. Where every reply is meddled with, all may be
refused, in words. Beneath the SDKs: of Azure the JSON on the wire; of AWS what its SDK makes of it, which it passes
through unchecked; of Google, whose wire is typed, what can lie there. In memory: everything that a store can say in our
own records.
"""

import base64
import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from moto.secretsmanager.models import secretsmanager_backends
from msgspec.structs import replace

from daena_kms import trust
from daena_kms.fleet import Limits, Order
from daena_kms.journal import Journal
from daena_kms.model import Anchor, StoredVersion
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick
from daena_kms.rotation import Tools
from daena_kms.service import Service
from tests.support import aws_world, azure_world, gcp_world
from tests.support.backups import A
from tests.support.doubles import MemoryLedger
from tests.support.gsm_messages import Secret as GoogleSecret
from tests.support.vault_http import Answer, Asked
from tests.support.worlds import LEASE, START, Backend, Clock

from ..units import Room
from .harness import allowed, require, tried
from .memory import Memory, asked_everything, ticked, told_well
from .shapes import NUMBERS, TIMES, WORDS, Edit, as_json, edited, edits, fitting, places, texts

SOUND = "b-key"
LONGEST = 512
"""No store has room for a longer mark."""


# --- in memory


_numbers = st.sampled_from([n for n in NUMBERS if abs(n) < 2**64]) | st.integers(-3, 6)
_words = (st.sampled_from(WORDS) | texts).map(lambda text: text[:LONGEST])
_valid = _words.map(lambda text: text.encode(errors="replace").decode())  # a head that is no text no store hands on


def in_memory(room: Room, most: int) -> None:
    """Versions and heads as no writer of ours has made them."""
    memory = Memory()
    versions = st.builds(
        lambda which, number, fingerprint, identity, flags: (which, number, fingerprint, identity, flags),
        st.integers(0, 9), st.none() | _numbers, st.none() | _words, st.none() | _words, st.integers(0, 63),
    )  # fmt: skip
    anchors = st.none() | st.builds(
        Anchor, sequence=_numbers, hash=_valid, number=_numbers, paused=st.booleans(), moved=st.booleans(), mac=_valid
    )
    kept = st.sampled_from(["kept", "kept", "none", "other"])

    def check(example: tuple[list[Any], Anchor | None, str, str]) -> None:
        changes, anchor, beside, ledger = example
        memory.put_back()
        held = memory.store.keys[A]
        for which, number, fingerprint, identity, flags in changes:
            place = which % len(held.held)
            one = held.held[place]
            version = _told(one.version, number, fingerprint, identity, flags)
            held.held[place] = dataclasses.replace(one, version=version)
        held.anchor = held.anchor if beside == "kept" else anchor
        held.ledger = ledger if beside == "other" else held.ledger
        asked_everything(memory.service(), A)

    pairs = st.tuples(st.lists(versions, max_size=3), anchors, kept, _words)
    tried(room, "versions and a head", pairs, check, most=most)


def _told(version: StoredVersion, number: Any, fingerprint: Any, identity: Any, flags: int) -> StoredVersion:
    return replace(
        version,
        number=version.number if number is None else number,
        fingerprint=version.fingerprint if fingerprint is None else fingerprint,
        rotation_id=version.rotation_id if identity is None else identity,
        enabled=version.enabled ^ bool(flags & 1),
        staged=version.staged ^ bool(flags & 2),
        loose=bool(flags & 4),
        destroyed=bool(flags & 8),
        written=flags & 3,
        spec=version.spec if flags & 16 == 0 else (fingerprint or "spec"),
    )


# --- clouds

_marks: SearchStrategy[list[tuple[int, str]]] = st.just([]) | st.lists(
    st.tuples(
        st.integers(0, 40), st.sampled_from(TIMES) | _words | st.sampled_from(["1 a b", "9" * 30 + " a b", "-1 a b"])
    ),
    min_size=1,
    max_size=3,
)
"""Texts in the place of others, for one secret alone; none: everything is meddled with."""


def _marked(document: Any, changes: Sequence[tuple[int, str]]) -> Any:
    """A copy with other texts in it, and names of fields: of the same shape."""
    made = copy.deepcopy(document)
    for place, text in changes:
        leaves = [(holder, at) for holder, at in places(made) if isinstance(holder[at], str)]
        named = [
            (holder, at) for holder, at in places(made) if isinstance(holder, dict) and isinstance(holder[at], list)
        ]
        if leaves and (place % 4 or not named):
            holder, at = leaves[place % len(leaves)]
            holder[at] = text
        elif named:
            holder, at = named[place % len(named)]
            if holder is not made:
                holder[text] = holder.pop(at)
    return made


class Fleet:
    """Two keys in a store, and a process's service on it. The ledger is in memory: it tells nothing of its own."""

    def __init__(self, store: Any, address: str, saved: Callable[[], Callable[[], None]]) -> None:
        """`saved` remembers what lies in the store; what it returns puts that back."""
        self.clock, ledger = Clock(START), MemoryLedger()
        ledger.address = address
        self.backend = backend = Backend(store, ledger)
        clock = self.clock
        trust.initialise(backend.store, backend.ledger, clock=clock, trigger="test")
        self.policy = {key: KeyPolicy(create=True) for key in (A, SOUND)}
        self.keyring = trust.open_keyring(backend.store, backend.ledger)
        for _ in range(2):
            self.service().rotate(Order())
            clock.move(days=100)
        self.service().rotate(Order())
        self._back, self._objects = saved(), dict(ledger.objects)
        self.put_back()

    def put_back(self) -> None:
        """Everything as it was, at a time when nothing is due."""
        self._back()
        self.backend.ledger.objects = dict(self._objects)
        self.clock.now = START + timedelta(days=201)

    def service(self, store: Any = None) -> Service:
        """A service on that store, or on the sound one."""
        journal = Journal(self.backend.ledger, self.keyring, clock=self.clock, actor="t:t", trigger="fuzz")
        tools = Tools(store or self.backend.store, journal, self.clock, LEASE, timedelta(seconds=30), "digest")
        policy = RotationPolicy(self.policy, "digest")
        return Service(tools, policy, tick=Tick(), limits=Limits(1), monotonic=lambda: 0.0)


def _asked(service: Service, sound: Sequence[str]) -> None:
    """What a store is asked for in all: listed, looked at, verified, rotated."""
    store = service.tools.store
    answers = [
        allowed(lambda: list(store.inventory())),
        allowed(service.verify),
        allowed(service.status),
    ]
    require(not sound or None not in answers, "one bad key stops the listing, verify or status of all")
    for audit in answers[1] or ():
        require(audit.key not in sound or not audit.problems, f"{audit.key} does not verify: {audit.problems}")
    for ask in (lambda: store.observe(A, dated=True), lambda: service.get(A, reveal=True)):
        told_well(allowed(ask))
    ticked(service, Order(), sound)
    ticked(service, Order((A,), force=True, request="fuzz"), ())


def azure(room: Room, most: int) -> None:
    """Key Vault's JSON, changed on its way: of one secret only, or of everything."""
    account = azure_world.emptied()
    server = account.vault.server
    fleet = Fleet(account.store(), account.manifests, server.secrets.saved)
    name = azure_world.PREFIX + A

    def check(example: tuple[list[tuple[int, str]], list[Edit], int]) -> None:
        alone, changes, since = example
        fleet.put_back()
        count = 0

        def meddle(asked: Asked, answer: Callable[[], Answer]) -> Answer:
            nonlocal count
            told = answer()
            count += 1
            if told.status != 200 or told.document is None or count <= since:
                return told
            document = _of_one(told.document, name, alone) if alone else edited(told.document, changes)
            return Answer(told.status, document, told.headers)

        server.between = meddle
        try:
            _asked(fleet.service(account.store()), (SOUND,) if alone else ())
        finally:
            server.between = lambda _, answer: answer()

    pairs = st.tuples(_marks, edits | fitting | _azure_tags, st.sampled_from([0, 0, 1, 3, 6]))
    tried(room, "replies of Key Vault", pairs, check, most=most, shrinks=False)
    account.empty()


_azure_tags = st.lists(st.builds(Edit, st.just("fit"), st.integers(0, 60), st.integers(0, 400)), min_size=1, max_size=4)


def _of_one(document: Any, name: str, changes: Sequence[tuple[int, str]]) -> Any:
    """The reply with what it says of one secret changed, where it says anything of that one; but not whose it is."""
    if isinstance(document.get("value"), list):
        return {**document, "value": [_meddled(item, name, changes) for item in document["value"]]}
    return _meddled(document, name, changes)


def _meddled(item: Any, name: str, changes: Sequence[tuple[int, str]]) -> Any:
    if f"/secrets/{name}/" not in f"{item.get('id', '')}/":
        return item
    inner = {field: held for field, held in item.items() if field not in ("id", "attributes")}
    return {**item, **_marked(inner, changes)}


def azure_values(room: Room, most: int) -> None:
    """What anybody who may write a secret can put into one version: value, content type and tags."""
    account = azure_world.emptied()
    secrets = account.vault.server.secrets
    fleet = Fleet(account.store(), account.manifests, secrets.saved)
    secret = azure_world.PREFIX + A
    names = st.sampled_from(
        ["daena-kms-version", "daena-kms-rotation", "daena-kms-fingerprint", "daena-kms-spec", "daena-kms-ledger",
         "daena-kms-head", "daena-kms-number", "daena-kms-active-since", "daena-kms-attention-at", "daena-kms-paused",
         "daena-kms-destroyed", "daena-kms-write", "theirs"]
    )  # fmt: skip
    kinds = (
        st.none()
        | _words.map(lambda text: text[:255])
        | st.sampled_from(
            [
                f"application/vnd.daena-kms.material+base64;key={secret};number={n}"
                for n in (0, 1, 2, 99, "²", "9" * 400)
            ]
        )
    )
    told = st.sampled_from(TIMES) | _words | st.sampled_from(["1 a b", "9" * 30 + " a b", "-1 a b"])

    def check(example: tuple[int, str | None, str | None, dict[str, str]]) -> None:
        which, value, kind, tags = example
        fleet.put_back()
        held = secrets.live[secret]
        place = -1 - which % len(held.versions)
        one = held.versions[place]
        held.versions[place] = dataclasses.replace(
            one, value=one.value if value is None else value, content_type=kind or one.content_type,
            tags={**(one.tags or {}), **tags},
        )  # fmt: skip
        _asked(fleet.service(account.store()), (SOUND,))

    pairs = st.tuples(st.integers(0, 3), st.none() | _words, kinds, st.dictionaries(names, told, max_size=4))
    tried(room, "what lies in Key Vault", pairs, check, most=most, shrinks=False)
    account.empty()


def _saved() -> Callable[[], None]:
    """Remember the double's secrets; what is returned puts them back."""
    backend: Any = secretsmanager_backends["123456789012"][aws_world.REGION]
    kept = copy.deepcopy(dict(backend.secrets))

    def back() -> None:
        backend.secrets.clear()
        backend.secrets.update(copy.deepcopy(kept))

    return back


def aws(room: Room, most: int) -> None:  # noqa: C901  # one for each thing that is meddled with
    """Secrets Manager's JSON, changed before the SDK reads it: of one secret only, or of everything."""
    account = aws_world.emptied()
    fleet = Fleet(account.store(), aws_world.MANIFESTS, _saved)
    name = aws_world.PREFIX + A
    change: list[Callable[[str, Any], Any]] = []

    def meddle(response_dict: dict[str, Any], operation_model: Any, **_: object) -> None:
        if change and response_dict["status_code"] == 200 and isinstance(response_dict["body"], bytes):
            told = change[0](operation_model.name, json.loads(response_dict["body"]))
            response_dict["body"] = body = as_json(told)
            response_dict["headers"]["content-length"] = str(len(body))

    for service in ("secretsmanager", "kms"):
        account.aws.client(service)._client.meta.events.register_first("before-parse", meddle)

    def check(example: tuple[list[tuple[int, str]], list[Edit], int, str]) -> None:
        alone, changes, since, value = example
        fleet.put_back()
        count = 0

        def changed(operation: str, told: Any) -> Any:
            nonlocal count
            count += 1
            if count <= since:
                return told
            if not alone:
                return edited(told, changes)
            if operation == "ListSecrets":
                return {**told, "SecretList": [_secret(entry, name, alone) for entry in told["SecretList"]]}
            if operation == "GetSecretValue" and told.get("Name") == name:
                return {**told, "SecretString": value}
            return _secret(told, name, alone)

        change.append(changed)
        try:
            _asked(fleet.service(), (SOUND,) if alone else ())
        finally:
            change.clear()

    pairs = st.tuples(_marks, edits | fitting, st.sampled_from([0, 0, 2, 5]), texts | _envelopes(name))
    try:
        tried(room, "replies of Secrets Manager", pairs, check, most=most, shrinks=False)
    finally:
        for service in ("secretsmanager", "kms"):
            account.aws.client(service)._client.meta.events.unregister("before-parse", meddle)
        aws_world.emptied()


def _envelopes(name: str) -> Any:
    sound = {
        "format": "daena-kms/1", "key": name, "number": 1, "spec": "AES-256", "fingerprint": "1:" + "0" * 64,
        "kms_key": "arn:aws:kms:eu-west-1:123456789012:key/none", "wrapped": base64.b64encode(b"nothing").decode(),
    }  # fmt: skip
    return (edits | fitting).map(lambda changes: json.dumps(edited(sound, changes), separators=(",", ":")))


def _secret(told: Any, name: str, changes: Sequence[tuple[int, str]]) -> Any:
    """What is said of one secret, changed; but not whose it is."""
    if told.get("Name") != name:
        return told
    inner = {field: told[field] for field in ("Tags", "VersionIdsToStages", "SecretVersionsToStages") if field in told}
    return {**told, **_marked(inner, changes)}


def gcp(room: Room, most: int) -> None:
    """What can lie in Secret Manager: annotations, labels and payloads of anybody's."""
    project = gcp_world.emptied()
    secrets = project.secrets.store
    fleet = Fleet(project.store(), project.manifests, secrets.saved)
    secret = gcp_world.PREFIX + A
    names = st.sampled_from(
        ["daena-kms-ledger", "daena-kms-versions", "daena-kms-staged", "daena-kms-head", "daena-kms-number",
         "daena-kms-active-since", "daena-kms-attention-at", "daena-kms-paused", "theirs"]
    )  # fmt: skip
    valid = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
        [
            *TIMES,
            "1 a b",
            "9" * 30 + " a b",
            "1=1 2=2",
            "9=9999999999",
            "9999999999",
            "1=1 1=2 2=1",
            "0=0",
            "²=²",
            "x" * 9_000,
        ]
    )

    def check(example: tuple[dict[str, str], list[bytes]]) -> None:
        annotations, payloads = example
        fleet.put_back()

        def meddle(call: Any, carried: Callable[[], Any]) -> Any:
            told = carried()
            for each in getattr(told, "secrets", [told] if isinstance(told, GoogleSecret) else []):
                if each.name.endswith(f"/secrets/{secret}"):
                    each.annotations.update(annotations)
            return told

        if payloads:
            secrets.put(secret, *payloads)
        project.secrets.service.between = meddle
        try:
            _asked(fleet.service(project.store()), (SOUND,))
        finally:
            project.secrets.service.between = lambda _, carried: carried()

    pairs = st.tuples(
        st.dictionaries(names, valid, max_size=4), st.lists(st.binary(min_size=1, max_size=80), max_size=2)
    )
    tried(room, "what lies in Secret Manager", pairs, check, most=most, shrinks=False)
    project.empty()
