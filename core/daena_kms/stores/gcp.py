"""Google Cloud: a key is a secret of Secret Manager, its versions' payloads are the material.

How that lies there is in `gcp_layout`. An addition takes no condition (secretmanager/v1/service.proto:
`AddSecretVersionRequest` has neither etag nor request id), so a promotion is not fenced: the protocol looks before it
and after it. Versions are counted from 1 without gaps, and reading one by its number always shows what was added
(Google: "Secret Manager data consistency"), so "what is on top" is asked by number: the last that is known, plus one.
"""

import contextlib
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from ..errors import ConflictError, NotFoundError, RefusedError, ThrottledError, UnavailableError
from ..material import KeyMaterial
from ..model import Anchor, InventoryRow, KeySpec, Observed, StoredVersion
from ..names import RESERVED_KEY, key_of, secret_name
from . import gcp_layout as layout
from .base import NewVersion, Permissions, Prepared
from .gcp_layout import Secret
from .gcp_secrets import Secrets, Version

_ACCESS, _ADD = "secretmanager.versions.access", "secretmanager.versions.add"
_EVERY = (_ACCESS, "secretmanager.versions.list")
_LOOK = (*_EVERY, "secretmanager.secrets.get")
_MARK = ("secretmanager.secrets.get", "secretmanager.secrets.update")

REQUIRED_PERMISSIONS: Permissions = {
    "inventory": ("secretmanager.secrets.list", *_LOOK),
    "observe": _LOOK,
    "prepare": (),
    "stage": (_ADD, _ACCESS, "secretmanager.secrets.create"),
    "read": (_ACCESS,),
    "promote": (_ADD, _ACCESS, "secretmanager.secrets.create"),
    "discard": ("secretmanager.versions.get", "secretmanager.versions.destroy"),
    "label": (_ACCESS, "secretmanager.secrets.get"),
    "disable": (_ACCESS, "secretmanager.versions.get", "secretmanager.versions.disable"),
    "enable": ("secretmanager.versions.get", "secretmanager.versions.enable"),
    "destroy": (_ACCESS, "secretmanager.versions.get", "secretmanager.versions.destroy"),
    "write_anchor": _MARK,
}
_TRIES = 3
_AT_ONCE = 16  # how many keys are looked at together; such a look is one question, and the quota for them is 90,000/min
_PAUSE_SECONDS = 1.0  # a secret that was made a moment ago need not be there for everybody


class OldStateError(UnavailableError):
    """Reads are so far behind that a change cannot be made: its etag is an old one."""


class _Memory(Struct):
    """What this process knows of one key's secrets besides what reads show, which may be hours old."""

    secret: Secret | None = None
    """As this process read or wrote it last."""
    made: dict[int, StoredVersion] = field(default_factory=dict)
    """By version id: what this process published or labelled."""
    laid: dict[int, StoredVersion] = field(default_factory=dict)
    """The same of what it staged, until that is taken away."""
    etags: dict[int, str] = field(default_factory=dict)
    """Of those."""
    staged: int = 0
    """The last version of the staged copies' secret that is accounted for."""
    replaced: set[str] = field(default_factory=set)
    """Etags of states of the secret that this process has replaced: what has one is out of date."""


class GcpStore:
    """The KeyStore in one project. Safe for many threads and many processes."""

    provider = "gcp"
    fenced = False
    marked = False
    destruction = ""

    def __init__(
        self,
        calls: Secrets,
        *,
        prefix: str,
        ledger: str,
        actor: Callable[[], str],
        entropy: Callable[[int], bytes],
        sleep: Callable[[float], None],
    ) -> None:
        self.address = f"projects/{calls.project}"
        self._secrets = calls
        self._prefix = prefix
        self._ledger = ledger
        self._actor = actor
        self._entropy = entropy
        self._sleep = sleep
        self._memories: dict[str, _Memory] = {}

    @property
    def actor(self) -> str:
        return self._actor()

    # --- looking

    def inventory(self) -> Iterator[InventoryRow]:
        listed = {key_of(self._prefix, secret.name): secret for secret in self._secrets.listed(layout.KEY)}
        ours = sorted((key, secret) for key, secret in listed.items() if key and secret.ledger)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(lambda each: self._row(*each), ours)

    def _row(self, key: str, secret: Secret) -> InventoryRow:
        """One key of the listing. Whether somebody has added a version is asked for: a listing does not tell."""
        secret = self._remember(key, secret)
        last, number = max(self._numbers(key).items(), default=(0, 0))
        unseen = InventoryRow(key, secret.ledger, number, secret.anchor)
        try:
            added = self._secrets.probe(secret.name, last + 1)
        except (ThrottledError, UnavailableError):
            return unseen  # one key stops no other: a run that has something to do with it looks for itself
        if added is not None:
            seen = self.observe(key)
            number = seen.newest.number if seen.newest else 0
            return InventoryRow(key, secret.ledger, number, secret.anchor, seen)
        if not last:
            return unseen
        newest = StoredVersion(number, layout.version_id(last))
        seen = Observed(exists=True, newest=newest, versions=(newest,), ledger=secret.ledger, anchor=secret.anchor)
        return InventoryRow(key, secret.ledger, number, secret.anchor, seen)

    def observe(self, key: str, *, dated: bool = False, since: Observed | None = None) -> Observed:  # noqa: ARG002  # here every version has its date
        if since is not None:
            return self._newer(key, since)
        name, place = self._name(key), layout.staged_name(self._name(key))
        secret = self._read(key)
        live, staged = self._every(name, self._last(key)), self._every(place, self._memory(key).staged)
        versions = [self._stored(key, version) for version in live]
        newest = versions[-1] if versions else None
        lying = [stored for stored, version in zip(versions, live, strict=True) if not version.destroyed]
        return Observed(
            exists=bool(secret or live or staged),
            newest=newest,
            versions=tuple(sorted(lying, key=lambda version: version.number)),
            staged=tuple(self._staged(key, version) for version in staged if version.enabled),
            ledger=self._told_ledger(secret) if secret else "",
            anchor=secret.anchor if secret else None,
            notes=_notes(live),
            rival=_rival(secret),
            crowded=layout.room_problem(secret.annotations) if secret else "",
        )

    def _told_ledger(self, secret: Secret) -> str:
        """The ledger beside a key; nothing where the label that lists it is gone: then both are written again."""
        unlisted = secret.ledger == self._ledger and layout.LABEL not in secret.labels
        return "" if unlisted else secret.ledger

    def _every(self, name: str, last: int) -> list[Version]:
        """Every version of a secret, oldest first: what is listed, and what a listing does not show yet."""
        listed = self._secrets.versions(name)
        seen = max((version.version for version in listed), default=0)
        last = last if last > seen and self._secrets.probe(name, last) else seen  # what an annotation says may be wrong
        missing = sorted({*range(1, last + 1)} - {version.version for version in listed})
        unlisted = [found for number in missing if (found := self._secrets.probe(name, number))]
        return sorted([*listed, *unlisted, *self._secrets.newer(name, last)], key=lambda version: version.version)

    def _newer(self, key: str, since: Observed) -> Observed:
        """What came since, also around what this run has published and staged itself: a network may repeat that."""
        name, place = self._name(key), layout.staged_name(self._name(key))
        had = [layout.version_of(version.version_id) for version in since.versions]
        known = {*had, *self._numbers(key)}
        found = [*self._between(name, min(had), max(had), known), *self._secrets.newer(name, max(had))]
        versions = (*since.versions, *(self._stored(key, version) for version in found))
        ours = [layout.version_of(version.version_id) for version in since.staged]
        accounted = self._memory(key).staged
        last = max(ours, default=accounted)
        strange = [*self._between(place, accounted, last, {*ours}), *self._secrets.newer(place, last)]
        staged = (*since.staged, *(self._staged(key, version) for version in strange if version.enabled))
        newest = max(versions, key=lambda version: layout.version_of(version.version_id))
        return replace(since, newest=newest, versions=versions, staged=staged)

    def _between(self, name: str, first: int, last: int, known: Container[int]) -> list[Version]:
        """Versions are counted without gaps: what lies between two of ours was added by somebody else."""
        unknown = [number for number in range(first + 1, last) if number not in known]
        return [found for number in unknown if (found := self._secrets.probe(name, number))]

    # --- making and reading

    def prepare(self, key: str, number: int, spec: KeySpec, material: KeyMaterial | None = None) -> Prepared:  # noqa: ARG002  # a payload is bare: what it is for, the manifest says
        return Prepared(material or KeyMaterial(self._entropy(spec.length)), b"")

    def stage(self, key: str, version: NewVersion, prepared: Prepared) -> StoredVersion:
        place = layout.staged_name(self._name(key))
        after = self._memory(key).staged
        try:
            added = self._secrets.add(place, prepared.material, after)
        except NotFoundError:
            added = self._add_to_new(key, place, prepared.material)
        memory = self._memory(key)
        memory.etags[added.version] = added.etag
        memory.laid[added.version] = stored = _named(version, added, staged=True)
        return stored

    def _add_to_new(self, key: str, place: str, material: KeyMaterial) -> Version:
        """Make the secrets of a key that is not there, then add. First the one that is listed."""
        name = self._name(key)
        label = layout.KEY if key != RESERVED_KEY else "reserved"
        made = self._secrets.create(name, {layout.LABEL: label}, {layout.LEDGER: self._ledger})
        if made is not None:
            self._remember(key, made)
        self._secrets.create(place, {layout.LABEL: layout.COPY}, {layout.LEDGER: self._ledger})
        for _ in range(_TRIES - 1):
            with contextlib.suppress(NotFoundError):
                return self._secrets.add(place, material, 0)
            self._sleep(_PAUSE_SECONDS)
        return self._secrets.add(place, material, 0)

    def read(self, key: str, version: StoredVersion) -> KeyMaterial:
        name = self._name(key)
        place = layout.staged_name(name) if version.staged else name
        if not (number := layout.version_of(version.version_id)):
            raise NotFoundError(f"{place} has no version {version.version_id!r}", "see `status`")
        return self._secrets.access(place, number)

    # --- changing

    def promote(
        self, key: str, staged: StoredVersion, planned: StoredVersion | None, material: KeyMaterial
    ) -> StoredVersion:
        name, after = self._name(key), layout.version_of(planned.version_id) if planned is not None else 0
        try:
            added = self._secrets.add(name, material, after)
        except NotFoundError:
            if planned is not None:
                raise UnavailableError(
                    f"{name} is not there, though reads still show it", "was it deleted? the next run looks again"
                ) from None
            added = self._add_to_new(key, name, material)  # somebody deleted it, and left the other one
        self._memory(key).made[added.version] = stored = _named(staged, added)
        return stored

    def discard(self, key: str, staged: StoredVersion) -> None:
        if not staged.staged:
            return
        place, number = layout.staged_name(self._name(key)), layout.version_of(staged.version_id)
        memory = self._memory(key)
        memory.staged = max(memory.staged, number)
        memory.laid.pop(number, None)
        etag = memory.etags.pop(number, "")
        first = Version(number, enabled=True, etag=etag) if etag else None
        with contextlib.suppress(OldStateError, NotFoundError):  # another run did it, or the next one will
            self._change(place, number, self._secrets.destroy, lambda shown: shown.destroyed, first)

    def label(self, key: str, version: StoredVersion, new: NewVersion) -> StoredVersion:
        """Remembered only: whoever labels writes the head afterwards, and all numbers with it."""
        number, name = layout.version_of(version.version_id), self._name(key)
        secret = self._memory(key).secret or self._read(key)
        found = self._secrets.probe(name, number)
        if found is None or secret is None:
            raise NotFoundError(f"{name} has no version {version.version_id!r}", "see `status`")
        made = self._memory(key).made
        if number in made and made[number].number != new.number:
            raise RefusedError(f"version {version.version_id} of {key} has the number {made[number].number}")
        if problem := layout.room_problem(secret.annotations):
            raise RefusedError(f"{name} has no room for our annotations", problem)
        made[number] = labelled = _named(new, replace(found, created=version.created_at))
        return labelled

    def disable(self, key: str, version: StoredVersion) -> None:
        number = self._unused(key, version)
        with contextlib.suppress(RefusedError):  # it is destroyed
            self._change(self._name(key), number, self._secrets.disable, _never)

    def enable(self, key: str, version: StoredVersion) -> None:
        self._change(self._name(key), layout.version_of(version.version_id), self._secrets.enable, _never)

    def destroy(self, key: str, version: StoredVersion) -> datetime | None:
        number = self._unused(key, version)
        done = self._change(
            self._name(key), number, self._secrets.destroy, lambda shown: shown.destroyed or shown.destroys_at
        )
        return done.destroys_at

    def _unused(self, key: str, version: StoredVersion) -> int:
        """The version of the secret. Raises RefusedError if readers get it."""
        number = layout.version_of(version.version_id)
        if self._secrets.probe(self._name(key), number + 1) is None:
            raise RefusedError(f"version {version.number} of {key} is active", "rotate the key first")
        return number

    def _change(
        self,
        name: str,
        version: int,
        change: Callable[[str, Version], Version],
        done: Callable[[Version], Any],
        shown: Version | None = None,
    ) -> Version:
        """Change a version's state, whoever changes it too. `shown` is how it is, where that is known."""
        for _ in range(_TRIES):
            now = shown or self._secrets.version(name, version) or Version(version, enabled=True)
            if done(now):
                return now
            if now.destroyed:
                raise RefusedError(f"version {version} of {name} is destroyed", "nothing can be done")
            try:
                return change(name, now)
            except ConflictError:
                shown = None
        raise _old_state(f"version {version} of {name}")

    def write_anchor(self, key: str, anchor: Anchor) -> None:
        """With it: which number each version has, and the label that lists the key."""
        name = self._name(key)
        secret = self._memory(key).secret or self._read(key)
        for _ in range(_TRIES):
            if secret is None:
                raise NotFoundError(f"there is no {name} that could tell where its manifest ends", "see `status`")
            labels = {**secret.labels, layout.LABEL: secret.labels.get(layout.LABEL, layout.KEY)}
            numbers, staged = self._numbers(key), self._memory(key).staged
            texts = layout.annotated(secret.annotations, self._ledger, anchor, numbers, max(staged, secret.staged))
            if (labels, texts) == (secret.labels, secret.annotations):
                return
            try:
                changed = self._secrets.update(secret, labels, texts)
            except ConflictError:
                secret = self._read(key)
            else:
                self._memory(key).replaced.add(secret.etag)
                self._remember(key, changed)
                return
        raise _old_state(name)

    # --- what is known

    def _name(self, key: str) -> str:
        return secret_name(self._prefix, key)

    def _memory(self, key: str) -> _Memory:
        return self._memories.setdefault(key, _Memory())

    def _remember(self, key: str, secret: Secret) -> Secret:
        """What is known of the secret now: what was read, or what this process has made of that since."""
        memory = self._memory(key)
        if memory.secret is not None and memory.secret.created != secret.created:
            memory = self._memories[key] = _Memory()  # the one that we knew was deleted
        if memory.secret is None or secret.etag not in memory.replaced:
            memory.secret = secret
        memory.staged = max(memory.staged, secret.staged)
        return memory.secret

    def _read(self, key: str) -> Secret | None:
        secret = self._secrets.secret(self._name(key))
        return self._remember(key, secret) if secret is not None else None

    def _numbers(self, key: str) -> dict[int, int]:
        """Version id -> number: what the annotation says, and what this process did itself."""
        memory = self._memory(key)
        made = {version: stored.number for version, stored in memory.made.items()}
        return (memory.secret.numbers if memory.secret else {}) | made

    def _last(self, key: str) -> int:
        return max(self._numbers(key), default=0)

    def _stored(self, key: str, version: Version) -> StoredVersion:
        unread = StoredVersion(self._numbers(key).get(version.version, 0), layout.version_id(version.version))
        return _shown(self._memory(key).made.get(version.version, unread), version)

    def _staged(self, key: str, version: Version) -> StoredVersion:
        return _shown(
            self._memory(key).laid.get(
                version.version, StoredVersion(0, layout.version_id(version.version, staged=True))
            ),
            version,
            staged=True,
        )


def _never(_: Version) -> bool:
    """That it is done already is not believed: a state may be an old one. Doing it again changes nothing."""
    return False


def _old_state(name: str) -> OldStateError:
    return OldStateError(f"{name} shows an older state than it has", "nothing is lost: the next run tries again")


def _named(version: NewVersion | StoredVersion, added: Version, *, staged: bool = False) -> StoredVersion:
    known = StoredVersion(
        version.number,
        layout.version_id(added.version, staged=staged),
        version.fingerprint,
        version.rotation_id,
        version.spec,
    )
    return _shown(known, added, staged=staged)


def _shown(stored: StoredVersion, version: Version, *, staged: bool = False) -> StoredVersion:
    return replace(
        stored, enabled=version.enabled, staged=staged, created_at=version.created, destroyed=version.destroyed
    )


def _rival(secret: Secret | None) -> str:
    if secret is None or not secret.rotates:
        return ""
    return f"`gcloud secrets update {secret.name} --remove-rotation-period --remove-next-rotation-time`"


def _notes(live: list[Version]) -> tuple[str, ...]:
    return tuple(
        f"version {v.version} of the secret will be destroyed on {v.destroys_at:%Y-%m-%d %H:%M} UTC"
        for v in live
        if v.destroys_at
    )
