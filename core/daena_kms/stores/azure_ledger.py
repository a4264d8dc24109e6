"""The ledger in Azure Blob Storage: `https://ACCOUNT.blob.core.windows.net/container/folder` holds
`folder/<key>/<sequence>.json`.

Create-only is `If-None-Match: *`: an existing blob answers 409 `BlobAlreadyExists` (`recorded-replies`). The role that
is deployed with it may add blobs and read them, and neither overwrite nor delete any: to it the answer is a 403. Blob
Storage is strongly consistent, listings too (Microsoft: "Azure Storage: A Highly Available Cloud Storage Service with
Strong Consistency").
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.transport import HttpRequest, RequestsTransport, RequestsTransportResponse
from azure.storage.blob import BlobPrefix, ContainerClient, LinearRetry

from ..errors import ConfigurationError, DeniedError, ExistsError, NotFoundError, UnavailableError
from ..ledger import object_name
from ..names import RESERVED_KEY, name_problem
from .azure_calls import ATTEMPTS, THROTTLED, Azure, asked
from .base import Permissions

_OBJECT = re.compile(r"(\d{8,})\.json")
_LOOPBACK = ("127.0.0.1", "localhost")
_SHARE_OF_A_PAUSE, _SHARE_OF_JITTER = 0.05, 0.02
_EMULATED = "devstoreaccount1"  # Azurite has the account in the path, not in the host's name

# All under Microsoft.Storage/storageAccounts/blobServices/containers/.
_ADD, _READ = "blobs/add/action", "blobs/read"
REQUIRED_PERMISSIONS: Permissions = {
    "append": (_ADD, _READ),
    "read": (_READ,),
    "sequences": (_READ,),
    "names": (_READ,),
    "rewritten": (_READ,),
}


def split_url(url: str) -> tuple[str, str, str]:
    """Account, container and path of a blob's address; ConfigurationError if it is none.

    `http://` is taken on loopback alone: a token goes with each request.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    account = f"{parts.scheme}://{parts.netloc}"
    segments = parts.path.strip("/").split("/")
    if host in _LOOPBACK and segments[0] == _EMULATED:
        account += f"/{segments.pop(0)}"
    container, path = segments[0], "/".join(segments[1:])
    safe = parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
    if not safe or not container or not path or parts.query or parts.fragment or "@" in parts.netloc or "" in segments:
        raise ConfigurationError(
            f"{url.partition('?')[0]!r} is no address of a blob",
            "write https://ACCOUNT.blob.core.windows.net/container/folder",
        )
    return account, container, path


class _Transport(RequestsTransport):  # type: ignore[misc]  # azure.core makes this name only when it is asked for
    """Fails where it is told "too many requests": to the SDK's retries for storage that is a reply like any other."""

    def send(self, request: HttpRequest, **how: Any) -> RequestsTransportResponse:
        response = super().send(request, **how)
        if response.status_code == THROTTLED:
            raise HttpResponseError(response=response)
        return response


def open_container(azure: Azure, account: str, container: str) -> ContainerClient:
    """A client of one container."""
    return asked(  # type: ignore[no-any-return]
        lambda: ContainerClient(
            account,
            container,
            azure.identity,
            # Every write is create-only: one that is sent twice is refused the second time, and then looked up.
            # The pauses, jitter included, take what the attempts leave of a call's time.
            retry_policy=LinearRetry(
                backoff=azure.seconds * _SHARE_OF_A_PAUSE,  # type: ignore[arg-type]  # seconds, whole or not
                retry_total=ATTEMPTS - 1,
                random_jitter_range=azure.seconds * _SHARE_OF_JITTER,  # type: ignore[arg-type]
            ),
            transport=_Transport(**azure.timeouts),
        ),
        f"use of {account}",
    )


def read_blob(azure: Azure, url: str) -> bytes:
    """The content of one blob, such as a policy file. Raises ConfigurationError if it is not there."""
    account, container, path = split_url(url)
    try:
        return _content(azure, open_container(azure, account, container), path, url)
    except NotFoundError:
        raise ConfigurationError(f"there is no {url}", "upload it, or set DAENA_POLICY to where it is") from None


def _content(azure: Azure, container: ContainerClient, name: str, where: str) -> bytes:
    def ask() -> bytes:
        downloaded = container.download_blob(name)
        content = downloaded.readall()
        if len(content) != downloaded.size:
            raise UnavailableError(f"the reply for {where} broke off", "try again")
        return bytes(content)

    return azure.asked(ask, f"get of {where}", needs=_READ)  # type: ignore[no-any-return]


class BlobLedger:
    """Create-only blobs in one container."""

    def __init__(self, azure: Azure, url: str) -> None:
        account, container, self._path = split_url(url)
        self._azure = azure
        self._container: Any = open_container(azure, account, container)
        self.address = f"{account}/{container}/{self._path}"

    def append(self, key: str, sequence: int, data: bytes) -> None:
        name, about = self._name(key, sequence), f"put of {self.where(key, sequence)}"
        try:
            self._azure.asked(lambda: self._container.upload_blob(name, data, overwrite=False), about, needs=_ADD)
        except DeniedError:
            # Who may add blobs and not overwrite them is denied, in one word or another, where one lies already.
            if self.read(key, sequence) is None:
                raise
            raise ExistsError(f"{about}: it lies there already") from None

    def read(self, key: str, sequence: int) -> bytes | None:
        try:
            return _content(self._azure, self._container, self._name(key, sequence), self.where(key, sequence))
        except NotFoundError:
            return None

    def sequences(self, key: str) -> list[int]:
        return sorted(self._sequences(key, self._listed(key, ())))

    def names(self) -> list[str]:
        prefix = f"{self._path}/"

        def ask() -> list[str]:
            walked = self._container.walk_blobs(name_starts_with=prefix, delimiter="/")
            return [found.name for found in walked if isinstance(found, BlobPrefix)]

        listed = self._azure.asked(ask, f"list of {self.address}", needs=_READ)
        folders = (name.removeprefix(prefix).rstrip("/") for name in listed)
        return sorted(name for name in folders if name == RESERVED_KEY or not name_problem(name))

    def rewritten(self, key: str) -> list[int]:
        """Where the account keeps versions of blobs, an entry with two was written again, or was deleted before."""
        found = list(self._sequences(key, self._listed(key, ("versions",))))
        return sorted({sequence for sequence in found if found.count(sequence) > 1})

    def _listed(self, key: str, include: tuple[str, ...]) -> list[str]:
        prefix = f"{self._path}/{key}/"

        def ask() -> list[str]:
            return [found.name for found in self._container.list_blobs(name_starts_with=prefix, include=[*include])]

        return self._azure.asked(ask, f"list of {self.address}/{key}", needs=_READ)  # type: ignore[no-any-return]

    def _sequences(self, key: str, names: list[str]) -> Iterator[int]:
        prefix = f"{self._path}/{key}/"
        for name in names:
            if found := _OBJECT.fullmatch(name.removeprefix(prefix)):
                yield int(found[1])

    def where(self, key: str, sequence: int) -> str:
        return f"{self.address}/{key}/{object_name(sequence)}"

    def _name(self, key: str, sequence: int) -> str:
        return f"{self._path}/{key}/{object_name(sequence)}"
