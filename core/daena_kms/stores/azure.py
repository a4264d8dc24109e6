"""Azure: a key is a secret of a Key Vault, its versions' values are the material.

How that lies there is in `azure_layout`. A put takes no condition (azure-keyvault-secrets: `set_secret`), so a
promotion is not fenced: the protocol looks before it and after it, and every version says which number it is.

Key Vault destroys no single version ("It is not possible to delete previous versions", Microsoft's backup page):
`destroy` disables a version for good and marks it, and who may update secrets in the vault could enable it again.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from ..errors import ConflictError, NotFoundError, RefusedError
from ..material import KeyMaterial
from ..model import Anchor, InventoryRow, KeySpec, Observed, StoredVersion
from ..names import STAGED_SUFFIX, key_of, secret_name
from . import azure_layout as layout
from .azure_layout import Shown
from .azure_secrets import Vault
from .base import NewVersion, Permissions, Prepared

_LOOK = ("secrets/readMetadata/action", "secrets/getSecret/action")
_CHANGE = (*_LOOK, "secrets/update/action")
_PUT = ("secrets/setSecret/action", "secrets/readMetadata/action")

# All under Microsoft.KeyVault/vaults/.
REQUIRED_PERMISSIONS: Permissions = {
    "inventory": ("secrets/readMetadata/action",),
    "observe": _LOOK,
    "prepare": (),
    "stage": _PUT,
    "read": ("secrets/getSecret/action",),
    "promote": _PUT,
    "discard": ("secrets/update/action",),
    "label": _CHANGE,
    "disable": _CHANGE,
    "enable": _CHANGE,
    "destroy": _CHANGE,
    "write_anchor": _CHANGE,
}
_LOOKS = 3


class AzureStore:
    """The KeyStore in one vault. Safe for many threads and many processes."""

    provider = "azure"
    fenced = False
    marked = True
    destruction = (
        "Key Vault destroys no single version: a destroyed one is disabled and marked, so that nobody is given it; "
        "whoever may update secrets in the vault can undo that, until the whole secret is deleted and purged"
    )

    def __init__(
        self, vault: Vault, *, prefix: str, ledger: str, actor: Callable[[], str], entropy: Callable[[int], bytes]
    ) -> None:
        self.address = vault.url
        self._vault = vault
        self._prefix = prefix
        self._ledger = ledger
        self._actor = actor
        self._entropy = entropy
        self._marked: dict[str, Shown] = {}
        """Key -> the version whose tags hold the manifest's head, as seen last; in a listing it has no id."""
        self._others: dict[str, list[Shown]] = {}
        """Key -> the other versions that have a head, as seen last: earlier ones, in the ordinary case."""

    @property
    def actor(self) -> str:
        return self._actor()

    # --- looking

    def inventory(self) -> Iterator[InventoryRow]:
        # To Key Vault a name is one whatever its case; it shows the first spelling, a person's of what was adopted.
        listed = {shown.name.lower(): shown for shown in self._vault.listed()}
        keys = {key_of(self._prefix, name.removesuffix(STAGED_SUFFIX)) for name in listed}
        for key in sorted(keys - {""}):
            name = self._name(key)
            live = listed.get(name)
            if row := _row(key, live, listed.get(layout.staged_name(name))):
                self._mark(key, live)
                yield row

    def _mark(self, key: str, marked: Shown | None) -> None:
        if marked is None:
            self._marked.pop(key, None)
        else:
            self._marked[key] = marked

    def observe(
        self,
        key: str,
        *,
        dated: bool = False,  # noqa: ARG002  # its versions always are
        since: Observed | None = None,  # noqa: ARG002  # all of it is one question
    ) -> Observed:
        name = self._name(key)
        live, newest = self._live(name)
        staged = self._vault.versions(layout.staged_name(name))
        marked = _marked(newest, live, staged)
        self._mark(key, marked)
        self._others[key] = [v for v in (*live, *staged) if v is not marked and v.anchor is not None]
        return Observed(
            exists=bool(live or staged),
            newest=layout.stored(newest) if newest else None,
            versions=_in_order(live, newest),
            staged=tuple(layout.stored(v, staged=True) for v in staged if v.ours and v.enabled),
            ledger=next((v.tags[layout.LEDGER] for v in _ledger_first(newest, live, staged)), ""),
            anchor=_anchor(newest, live, staged),
            rival=_rival(newest),
            crowded=next((problem for v in live if not v.ours and (problem := layout.room_problem(v.tags))), ""),
        )

    def _live(self, name: str) -> tuple[list[Shown], Shown | None]:
        """Every published version, and the one that readers get."""
        for _ in range(_LOOKS):
            live = self._vault.versions(name)
            last = layout.latest(live)
            if len(last) < 2:
                return live, last[0] if last else None
            current = self._current(name, last)
            if current in live:
                return live, current
        raise ConflictError(f"{name} kept changing while we looked", "run it again")

    def _current(self, name: str, last: Sequence[Shown]) -> Shown | None:
        """The version that readers get, of several that were put at about the same time."""
        try:
            got, _ = self._vault.get(name)
        except RefusedError:  # the newest is disabled, and Key Vault does not say which that is
            return max((v for v in last if not v.enabled), key=lambda v: layout.number(v.tags), default=None)
        return next((v for v in last if v.version == got.version), None)

    # --- making and reading

    def prepare(self, key: str, number: int, spec: KeySpec, material: KeyMaterial | None = None) -> Prepared:
        # What is "sealed" says what the material is for: it lies beside the value, which is the material itself.
        made = material or KeyMaterial(self._entropy(spec.length))
        return Prepared(made, layout.content_type(self._name(key), number).encode())

    def stage(self, key: str, version: NewVersion, prepared: Prepared) -> StoredVersion:
        name = layout.staged_name(self._name(key))
        tags = layout.version_tags(version, self._ledger)
        put = self._vault.put(name, layout.seal(prepared.material), prepared.sealed.decode(), tags)
        return layout.stored(put, staged=True)

    def read(self, key: str, version: StoredVersion) -> KeyMaterial:
        name = self._name(key)
        place = layout.staged_name(name) if version.staged else name
        if not layout.is_version_id(version.version_id):
            raise NotFoundError(f"{place} has no version {version.version_id!r}", "see `status`")
        got, value = self._vault.get(place, version.version_id)
        return layout.unseal(value, got.content_type, name, version.number)

    # --- changing

    def promote(
        self,
        key: str,
        staged: StoredVersion,
        planned: StoredVersion | None,  # noqa: ARG002  # a put takes no condition
        material: KeyMaterial,
    ) -> StoredVersion:
        name = self._name(key)
        kind, tags = layout.content_type(name, staged.number), layout.version_tags(staged, self._ledger)
        if key in self._marked:
            tags = layout.anchor_of(self._marked[key].tags) | tags  # what readers get always tells where a manifest is
        put = self._marked[key] = self._vault.put(name, layout.seal(material), kind, tags)
        return layout.stored(put)

    def discard(self, key: str, staged: StoredVersion) -> None:
        if staged.staged:
            with contextlib.suppress(NotFoundError):
                self._vault.patch(layout.staged_name(self._name(key)), staged.version_id, enabled=False)

    def label(self, key: str, version: StoredVersion, new: NewVersion) -> StoredVersion:
        live = self._vault.versions(self._name(key))
        found = next((v for v in live if v.version == version.version_id), None)
        if found is None:
            raise NotFoundError(f"{self._name(key)} has no version {version.version_id!r}", "see `status`")
        if layout.number(found.tags) not in (0, new.number):
            raise RefusedError(f"version {version.version_id} of {key} has the number {layout.number(found.tags)}")
        # Who destroyed it has enabled it again, or it could not be taken in: it lives.
        kept = {name: text for name, text in found.tags.items() if name != layout.DESTROYED or not found.enabled}
        tags = {**kept, **layout.version_tags(new, self._ledger)}
        if problem := layout.room_problem(tags):
            raise RefusedError(f"version {version.version_id} of {key} has no room for our tags", problem)
        return layout.stored(self._patched(key, found, tags))

    def _patched(self, key: str, found: Shown, tags: dict[str, str]) -> Shown:
        changed = self._vault.patch(found.name, found.version, tags=tags)
        if key in self._marked and self._marked[key].version == found.version:
            self._marked[key] = changed
        return changed

    def disable(self, key: str, version: StoredVersion) -> None:
        for copy in self._unused_copies(key, version):
            self._vault.patch(copy.name, copy.version, enabled=False)

    def enable(self, key: str, version: StoredVersion) -> None:
        copies = [copy for copy in self._vault.versions(self._name(key)) if _same(copy, version)]
        living = [copy for copy in copies if layout.DESTROYED not in copy.tags]
        if copies and not living:
            raise RefusedError(
                f"version {version.number} of {key} was destroyed",
                "whoever may update secrets can undo that at the vault",
            )
        for copy in living:
            if not copy.enabled:
                self._vault.patch(copy.name, copy.version, enabled=True)

    def destroy(self, key: str, version: StoredVersion) -> None:
        for copy in self._unused_copies(key, version):
            if copy.enabled or layout.DESTROYED not in copy.tags:
                tags = layout.without_anchor(copy.tags) | {layout.DESTROYED: "yes"}
                self._vault.patch(copy.name, copy.version, enabled=False, tags=tags)

    def _unused_copies(self, key: str, version: StoredVersion) -> list[Shown]:
        """Every copy of a version, staged ones too. Raises RefusedError if readers get one of them."""
        name = self._name(key)
        live, newest = self._live(name)
        if newest is not None and _same(newest, version):
            raise RefusedError(f"version {version.number} of {key} is active", "rotate the key first")
        return [v for v in (*live, *self._vault.versions(layout.staged_name(name))) if _same(v, version)]

    def write_anchor(self, key: str, anchor: Anchor) -> None:
        marked = self._marked.get(key)
        # All tags of a version are written at once: those of one that had no number may be another run's by now.
        if marked is None or not marked.version or not marked.ours:
            self.observe(key)
            marked = self._marked.get(key)
        if marked is None:
            raise NotFoundError(f"{self._name(key)} has no version that could tell where its manifest ends")
        self._patched(key, marked, {**marked.tags, **layout.anchor_tags(self._ledger, anchor)})
        if any(_belies(other, anchor) for other in self._others.pop(key, ())):
            self.observe(key)  # for the same reason
            for other in self._others.pop(key, ()):
                if _belies(other, anchor):
                    self._vault.patch(other.name, other.version, tags=layout.without_anchor(other.tags))

    def _name(self, key: str) -> str:
        return secret_name(self._prefix, key)


def _belies(other: Shown, anchor: Anchor) -> bool:
    """True for the head of a manifest that is lost: it would belie this one wherever a person's version is on top."""
    return other.anchor is not None and other.anchor.sequence >= anchor.sequence


def _same(shown: Shown, version: StoredVersion) -> bool:
    """True if this is a copy of that version."""
    copy = shown.ours and layout.stored(shown).holds(version.number, version.fingerprint)
    return copy or shown.version == version.version_id


def _in_order(live: Sequence[Shown], newest: Shown | None) -> tuple[StoredVersion, ...]:
    """By number; what has none first, oldest first."""
    ordered = sorted(live, key=lambda v: (layout.number(v.tags), v.created, v is newest, v.version))
    return tuple(map(layout.stored, ordered))


def _marked(newest: Shown | None, live: Sequence[Shown], staged: Sequence[Shown]) -> Shown | None:
    """The version whose tags are to hold the manifest's head: what readers get, if it is ours or there is no other."""
    if newest is not None and newest.ours:
        return newest
    ours = [version for version in live if version.ours] or [version for version in staged if version.ours]
    return max(ours, key=lambda version: version.created, default=newest)


def _anchor(newest: Shown | None, live: Sequence[Shown], staged: Sequence[Shown]) -> Anchor | None:
    """The head beside the key. Where what readers get has none, as a person's has not, the last of the others."""
    for places in ([newest] if newest else [], live, staged):
        if found := [anchor for version in places if (anchor := version.anchor) is not None]:
            return max(found, key=lambda anchor: anchor.sequence)
    return None


def _ledger_first(newest: Shown | None, live: Sequence[Shown], staged: Sequence[Shown]) -> list[Shown]:
    return [v for v in (*([newest] if newest else []), *live, *staged) if v.tags.get(layout.LEDGER)]


def _rival(newest: Shown | None) -> str:
    return "give the key another name: this one is a certificate's" if newest is not None and newest.managed else ""


def _row(key: str, live: Shown | None, staged: Shown | None) -> InventoryRow | None:
    """What a listing shows of one key; None for what is none of ours."""
    ledger = next((v.tags[layout.LEDGER] for v in (live, staged) if v is not None and v.tags.get(layout.LEDGER)), "")
    if not ledger:
        return None
    if live is None:
        return InventoryRow(key, ledger, 0, staged.anchor if staged else None)
    newest = layout.stored(live)
    # A run may begin with this where nothing is staged and the head beside the key is of what readers get. It also
    # tells that readers get something, where that is not ours.
    at_rest = live.enabled and live.anchor is not None and live.anchor.number == newest.number
    shows = (at_rest and not (staged and staged.enabled)) or not newest.number
    seen = Observed(exists=True, newest=newest, versions=(newest,), ledger=ledger, anchor=live.anchor)
    return InventoryRow(key, ledger, newest.number, live.anchor, seen if shows else None, disabled=not live.enabled)
