"""A search through everything that a campaign has written, for material.

`Search` looks for materials that are known; `search` for the bytes that every material of the moves begins with.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moto.secretsmanager.models import secretsmanager_backends

from daena_kms import app
from daena_kms.settings import read_settings
from tests.cli.sandbox import forms, leaked
from tests.support import aws_world, azure_world, gcp_world

from .scene import STEM, Scene

SHORTEST = 12
"""What is shorter than so many bytes in some form occurs by chance."""


class Search:
    """For materials in every form that they may have in text."""

    def __init__(self, materials: Iterable[bytes]) -> None:
        every = {form for material in materials for form in forms(material)}
        self._forms = [form.encode("latin-1") for form in every if len(form) >= SHORTEST]
        self.files = 0

    def data(self, what: str, data: bytes) -> list[str]:
        """`what`, if one of them is in there."""
        return [what] if any(form in data for form in self._forms) else []

    def folder(self, folder: Path) -> list[str]:
        """The files with material, of all that are in a folder."""
        leaks = []
        for file in _files(folder):
            self.files += 1
            leaks += self.data(str(file.relative_to(folder)), file.read_bytes())
        return leaks


class Found:
    """How much was searched, and where material was seen."""

    def __init__(self) -> None:
        self.files = self.bytes = self.records = 0
        self.leaks: list[str] = []

    def search(self, what: str, data: bytes) -> None:
        """Look for it, in every form that it may have."""
        self.bytes += len(data)
        if forms := leaked(data.decode("latin-1"), STEM):
            self.leaks.append(f"{what}: {len(forms)} forms")


def search(scene: Scene) -> Found:
    """Search every file (sealed vaults and backups too), every manifest, and what the doubles hold or have noted."""
    found = Found()
    for file in _files(scene.folder):
        found.files += 1
        found.search(str(file.relative_to(scene.folder)), file.read_bytes())
    for what, data in (*_manifests(scene), *_aws(), *_azure(), *_google()):
        found.records += 1
        found.search(what, data)
    return found


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _manifests(scene: Scene) -> Iterator[tuple[str, bytes]]:
    """Every object of every ledger in a cloud; local ones are files."""
    for place in scene.places:
        if place.provider == "local":
            continue
        settings = read_settings(place.settings)
        ledger, _ = app.open_ledger(settings, app.Clouds(settings))
        for key in ledger.names():
            for sequence in ledger.sequences(key):
                yield f"{place.name}: {key} {sequence}", ledger.read(key, sequence) or b""


def _aws() -> Iterator[tuple[str, bytes]]:
    """Every secret whole, its values too: they are sealed with KMS."""
    for secret in secretsmanager_backends["123456789012"][aws_world.REGION].secrets.values():
        yield f"aws: {secret.name}", repr((secret.versions, secret.tags, secret.description)).encode()


def _azure() -> Iterator[tuple[str, bytes]]:
    """What was asked of the vault, and what lies in it, but for the values themselves."""
    server = azure_world.account().vault.server
    for asked in server.calls:
        body = {name: value for name, value in asked.body.items() if name != "value"}
        yield f"azure: {asked.action} {asked.name}", repr((asked.method, asked.name, asked.version, body)).encode()
    for secret in server.secrets.live.values():
        yield f"azure: {secret.name}", repr([_without_value(version) for version in secret.versions]).encode()


def _without_value(version: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(version).items() if name != "value"}


def _google() -> Iterator[tuple[str, bytes]]:
    """What is told of secrets by listings, which leave payloads out; what was asked of Cloud Storage, where noted."""
    project = gcp_world.project()
    client = project.secrets.client()
    for secret in client.list_secrets(request={"parent": f"projects/{project.secrets.project_id}"}):
        yield f"gcp: {secret.name}", repr(secret).encode()
    calls = getattr(getattr(project.storage, "server", None), "calls", ())
    for asked in calls:
        yield f"gcs: {asked.name}", repr(asked).encode()
