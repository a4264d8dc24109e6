"""AWS: a key is a secret of Secrets Manager, its versions' values are material wrapped by one KMS key.

How that lies there, labels above all, is in `aws_layout`. Promotion is a compare-and-set: `UpdateSecretVersionStage`
fails unless the version that the plan was based on still has `AWSCURRENT` (botocore's API reference).

AWS does not offer to destroy one version: `destroy` takes its last label away, and AWS deletes such a version when it
chooses to (botocore: UpdateSecretVersionStage). Until then whoever may read a version by its id can read it.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from ..errors import DAMAGED_HINT, ConflictError, IntegrityError, NotFoundError, RefusedError
from ..material import KeyMaterial
from ..model import Anchor, InventoryRow, KeySpec, Observed, StoredVersion
from ..names import key_of, secret_name
from . import aws_archive as archive
from . import aws_layout as layout
from .aws_calls import Client, RejectedError, Reply
from .aws_secrets import Secrets, check, tags
from .base import NewVersion, Permissions, Prepared
from .pace import Pace

_FIND = ("secretsmanager:DescribeSecret",)
_LABEL = (*_FIND, "secretsmanager:UpdateSecretVersionStage")

REQUIRED_PERMISSIONS: Permissions = {
    "inventory": ("secretsmanager:ListSecrets",),
    "observe": (*_FIND, "secretsmanager:ListSecretVersionIds"),
    "prepare": ("kms:GenerateDataKey", "kms:Encrypt"),
    "stage": (
        "secretsmanager:PutSecretValue",
        "secretsmanager:CreateSecret",
        "secretsmanager:TagResource",
        # to make room for one more version:
        "secretsmanager:GetSecretValue",
        *_LABEL,
    ),
    "read": ("secretsmanager:GetSecretValue", "kms:Decrypt", *_FIND),
    "promote": _LABEL,
    "discard": _LABEL,
    "label": _LABEL,
    "disable": _LABEL,
    "enable": _LABEL,
    "destroy": _LABEL,
    "write_anchor": ("secretsmanager:TagResource",),
}


class AwsStore:
    """The KeyStore in one region of one account. Safe for many threads and many processes."""

    provider = "aws"
    fenced = True
    marked = True
    destruction = (
        "AWS deletes no single version on request: a destroyed one loses its labels, so that AWS may delete it and "
        "readers no longer find it; until then it can be read by its version id"
    )

    def __init__(
        self,
        secrets_manager: Client,
        kms: Client,
        *,
        kms_key: str,
        prefix: str,
        ledger: str,
        actor: str,
        pace: Pace,
        sleep: Callable[[float], None],
    ) -> None:
        self.actor = actor
        self._secrets = Secrets(secrets_manager, ledger=ledger, pace=pace, sleep=sleep)
        self._kms = kms
        self._kms_key = kms_key
        self._prefix = prefix
        self._ledger = ledger
        self.address = f"aws:{self._secrets.region}"

    # --- looking

    def inventory(self) -> Iterator[InventoryRow]:
        rows = (self._row(entry) for entry in self._secrets.listed(self._prefix))
        yield from sorted((row for row in rows if row is not None), key=lambda row: row.key)

    def _row(self, entry: Reply) -> InventoryRow | None:
        key, marks = key_of(self._prefix, str(entry["Name"])), tags(entry)
        if not key or layout.LEDGER_TAG not in marks:
            return None
        seen = _seen(entry, entry.get("SecretVersionsToStages", {}))
        newest = seen.newest.number if seen.newest else 0
        # A key that may have archives is not seen whole here: it is looked at when it is due.
        whole = None if archive.possible(entry, entry.get("SecretVersionsToStages", {})) else seen
        return InventoryRow(key, seen.ledger, newest, seen.anchor, whole)

    def observe(
        self,
        key: str,
        *,
        dated: bool = False,
        since: Observed | None = None,  # noqa: ARG002  # all of it is one question
    ) -> Observed:
        name = self._name(key)
        try:
            found = self._secrets.describe(name)
        except NotFoundError:
            return Observed(exists=False)
        seen = _seen(found, found["VersionIdsToStages"])
        if seen.newest is None and not seen.ledger:
            raise RefusedError(
                f"the secret {name} exists, has no value, and is not ours",
                "delete it, or give it a value and `adopt` it",
            )
        archives = archive.archived(self._secrets, name, found)
        seen = replace(seen, versions=(*itertools.chain(*archives.values()), *seen.versions))
        return _dated(seen, archive.made(self._secrets, name, archives)) if dated else seen

    # --- making and reading

    def prepare(self, key: str, number: int, spec: KeySpec, material: KeyMaterial | None = None) -> Prepared:
        asked = {"KeyId": self._kms_key, "EncryptionContext": layout.context(self._name(key), number)}
        about = f"the KMS key {self._kms_key}"
        if material is not None:
            return Prepared(
                material, self._sealed(self._kms.call("encrypt", about, Plaintext=material.reveal(), **asked))
            )
        made = self._kms.call("generate_data_key", about, NumberOfBytes=spec.length, **asked)
        material = KeyMaterial(made["Plaintext"])
        check(len(material) == spec.length, f"KMS made {len(material)} bytes, {spec.length} were asked for")
        return Prepared(material, self._sealed(made))

    def _sealed(self, reply: Reply) -> bytes:
        """What KMS wrapped, behind the ARN of the key that did it."""
        arn = str(reply["KeyId"])
        same = arn == self._kms_key or arn.endswith(f":key/{self._kms_key}") or "alias/" in self._kms_key
        check(same, f"KMS used the key {arn}, {self._kms_key} was asked for")
        return arn.encode() + b"\0" + bytes(reply["CiphertextBlob"])

    def stage(self, key: str, version: NewVersion, prepared: Prepared) -> StoredVersion:
        name = self._name(key)
        arn, _, wrapped = prepared.sealed.partition(b"\0")
        envelope = layout.Envelope(
            format=layout.ENVELOPE_FORMAT,
            key=name,
            number=version.number,
            spec=version.spec,
            fingerprint=version.fingerprint,
            kms_key=arn.decode(),
            wrapped=wrapped,
        )
        if version.number > layout.KEPT_VERSIONS:
            archive.make_room(self._secrets, name)
        identity = layout.version_id(version.rotation_id, version.number)
        labels = (layout.kept(version.number), layout.STAGED)
        value = {"SecretString": layout.seal(envelope)}
        new = version.number == 1
        archive.with_room(self._secrets, name, lambda: self._secrets.put(name, identity, value, labels, new=new))
        return StoredVersion(version.number, identity, rotation_id=version.rotation_id, staged=True)

    def read(self, key: str, version: StoredVersion) -> KeyMaterial:
        name = self._name(key)
        reply = self._value(name, version)
        if "SecretString" not in reply:
            return KeyMaterial(reply["SecretBinary"])
        envelope = layout.unseal(reply["SecretString"])
        if envelope is None:
            return KeyMaterial(layout.plain(reply["SecretString"]))  # adopted: it lies there as somebody else wrote it
        if (envelope.key, envelope.number) != (name, version.number or envelope.number):
            raise IntegrityError(
                f"version {version.number} of {key} holds an envelope of {envelope.key}, version {envelope.number}",
                DAMAGED_HINT,
            )
        opened = self._kms.call(
            "decrypt",
            f"version {version.number} of {key}",
            CiphertextBlob=envelope.wrapped,
            KeyId=envelope.kms_key,
            EncryptionContext=layout.context(name, envelope.number),
        )
        check(opened["KeyId"] == envelope.kms_key, f"KMS opened with {opened['KeyId']}, not {envelope.kms_key}")
        return KeyMaterial(opened["Plaintext"])

    def _value(self, name: str, version: StoredVersion) -> Reply:
        """The stored value of a version that is readable, wherever it lies."""
        if version.number == 0:
            return self._secrets.get(name, version.version_id)

        def asked() -> Reply:
            return self._secrets.get(name, version.version_id, layout.kept(version.number))

        try:
            return self._secrets.patiently(asked) if version.staged else asked()
        except (RejectedError, NotFoundError):  # another label, or another secret: find out where it lies
            return self._secrets.get(*self._locate(name, version))

    def _locate(self, name: str, version: StoredVersion) -> tuple[str, str, str]:
        """Secret, id and label of a readable version. Raises NotFoundError or RefusedError."""
        disabled = layout.disabled(version.number)
        for place, stages in archive.everywhere(self._secrets, name, version.number):
            labels = stages.get(version.version_id, [])
            if disabled in labels and layout.kept(version.number) not in labels:
                raise RefusedError(f"version {version.number} in {place} is disabled", "`enable` undoes that")
            if readable := [label for label in labels if label != disabled]:
                return place, version.version_id, readable[0]
        self._secrets.get(name, version.version_id)  # NotFoundError where it never was, or is deleted by now
        raise RefusedError(f"version {version.number} in {name} has lost its labels: it was destroyed or discarded")

    # --- labels

    def promote(
        self,
        key: str,
        staged: StoredVersion,
        planned: StoredVersion | None,
        material: KeyMaterial,  # noqa: ARG002  # the staged version itself becomes what readers get
    ) -> StoredVersion:
        name = self._name(key)
        expected = planned.version_id if planned else layout.NO_VERSION
        try:
            self._secrets.patiently(lambda: self._secrets.move_label(name, layout.CURRENT, staged.version_id, expected))
        except RejectedError:
            # Not what was planned on; or an earlier try of this call arrived, and only its reply was lost.
            current = layout.held(self._secrets.stages(name)).newest
            if current is None or current.version_id != staged.version_id:
                got = f"version {current.number}" if current else "nothing"
                raise ConflictError(f"readers of {key} get {got}, not the one planned on") from None
        return replace(staged, staged=False)

    def discard(self, key: str, staged: StoredVersion) -> None:
        name = self._name(key)
        labels = self._secrets.stages(name).get(staged.version_id, [])
        if staged.staged and not {layout.CURRENT, layout.PREVIOUS} & {*labels}:
            self._secrets.take_labels(name, staged.version_id, labels)

    def label(self, key: str, version: StoredVersion, new: NewVersion) -> StoredVersion:
        name, label = self._name(key), layout.kept(new.number)
        places = archive.everywhere(self._secrets, name, new.number)
        place, stages = next(((p, held) for p, held in places if version.version_id in held), (name, {}))
        labels = stages.get(version.version_id, [])
        holder = next((i for i, held in stages.items() if label in held), version.version_id)
        if layout.read_number(version.version_id, labels) not in (0, new.number) or holder != version.version_id:
            raise RefusedError(
                f"version {version.version_id} of {key} cannot get the number {new.number}: it is taken",
                f"{holder} has the label {label}" if holder != version.version_id else "it has another number",
            )
        if label not in labels:
            archive.with_room(self._secrets, name, lambda: self._secrets.add_label(place, label, version.version_id))
        return replace(version, number=new.number)

    def disable(self, key: str, version: StoredVersion) -> None:
        archive.with_room(self._secrets, self._name(key), lambda: self._disable(key, version))

    def enable(self, key: str, version: StoredVersion) -> None:
        archive.with_room(self._secrets, self._name(key), lambda: self._enable(key, version))

    def destroy(self, key: str, version: StoredVersion) -> None:
        for name, labels in self._copies(key, version):
            _refuse_current(key, version, labels)
            self._secrets.take_labels(name, version.version_id, labels)

    def _disable(self, key: str, version: StoredVersion) -> None:
        """On every copy one label takes the place of all others: readers may ask for any. First that one is there."""
        label = layout.disabled(version.number)
        for name, labels in self._labelled(key, version):
            _refuse_current(key, version, labels)
            if label not in labels:
                self._secrets.add_label(name, label, version.version_id)
            self._secrets.take_labels(name, version.version_id, [other for other in labels if other != label])

    def _enable(self, key: str, version: StoredVersion) -> None:
        before, after = layout.disabled(version.number), layout.kept(version.number)
        for name, labels in self._labelled(key, version):
            if after not in labels:
                self._secrets.add_label(name, after, version.version_id)
            if before in labels:
                self._secrets.remove_label(name, before, version.version_id)

    def _copies(self, key: str, version: StoredVersion) -> list[tuple[str, list[str]]]:
        """Every secret in which a version lies with a label, and its labels there."""
        places = archive.everywhere(self._secrets, self._name(key), version.number)
        return [(name, stages[version.version_id]) for name, stages in places if version.version_id in stages]

    def _labelled(self, key: str, version: StoredVersion) -> list[tuple[str, list[str]]]:
        """The same, for what can be done only where it has one: RefusedError if it has none anywhere."""
        if copies := self._copies(key, version):
            return copies
        raise RefusedError(
            f"version {version.number} of {key} has no label left: it was destroyed or discarded, or a person took it",
            f"if AWS still has the version {version.version_id}, put the label {layout.kept(version.number)} on it: "
            "`aws secretsmanager update-secret-version-stage`",
        )

    def write_anchor(self, key: str, anchor: Anchor) -> None:
        self._secrets.tag(self._name(key), layout.anchor_tags(self._ledger, anchor))

    def _name(self, key: str) -> str:
        return secret_name(self._prefix, key)


def _dated(seen: Observed, made: Mapping[str, datetime]) -> Observed:
    """The same with the age of each version, by which those without a number are in order."""

    def aged(version: StoredVersion) -> StoredVersion:
        check(version.version_id in made, f"{version.version_id} is shown, but not in the list of versions")
        return replace(version, created_at=made[version.version_id])

    newest = aged(seen.newest) if seen.newest else None
    versions = sorted(map(aged, seen.versions), key=lambda v: (v.number, made[v.version_id]))
    return replace(seen, newest=newest, versions=tuple(versions), staged=tuple(map(aged, seen.staged)))


def _seen(secret: Mapping[str, Any], stages: layout.Stages) -> Observed:
    """What a description or a listing shows of one key, its archives left out."""
    held, marks = layout.held(stages), tags(secret)
    notes = []
    if any(layout.PENDING in labels for labels in stages.values()):
        notes.append("a version has the label AWSPENDING, which we do not use: native rotation was tried here")
    rival = ""
    if secret.get("RotationEnabled"):
        rival = f"`aws secretsmanager cancel-rotate-secret --secret-id {secret['Name']}` turns native rotation off"
        notes.append(f"native rotation is on: two rotators of one key will fight; {rival}")
    return Observed(
        exists=True,
        newest=held.newest,
        versions=held.versions,
        staged=held.staged,
        ledger=marks.get(layout.LEDGER_TAG, ""),
        anchor=layout.read_anchor(marks),
        notes=tuple(notes),
        rival=rival,
        crowded=layout.crowding(stages),
    )


def _refuse_current(key: str, version: StoredVersion, labels: list[str]) -> None:
    if layout.CURRENT in labels:
        raise RefusedError(f"version {version.number} of {key} is active", "rotate the key first")
