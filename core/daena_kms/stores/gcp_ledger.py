"""The ledger in Google Cloud Storage: `gs://bucket/folder` holds `folder/<key>/<sequence>.json`.

Create-only is `ifGenerationMatch=0` (Google: "Request preconditions"): whoever comes second is answered 412. The role
that is deployed with it may create objects and may not delete any, so that it cannot overwrite one either. Cloud
Storage is strongly consistent, listings too (Google: "Cloud Storage consistency").
"""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from ..errors import ConfigurationError, DeniedError, ExistsError, NotFoundError
from ..ledger import object_name
from ..names import RESERVED_KEY, name_problem
from .base import Permissions
from .gcp_calls import SHARE_OF_ATTEMPT, SHARE_OF_RETRIES, Gcp, asked

_OBJECT = re.compile(r"(\d{8,})\.json")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")

# The SDK asks for each bucket's metadata, for traces that nobody made, in a thread of its own.
_QUIET = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"

REQUIRED_PERMISSIONS: Permissions = {
    "append": ("storage.objects.create",),
    "read": ("storage.objects.get",),
    "sequences": ("storage.objects.list",),
    "names": ("storage.objects.list",),
    "rewritten": ("storage.objects.list",),
}


def split_url(url: str) -> tuple[str, str]:
    """Bucket and path of a `gs://` address; ConfigurationError if it is none."""
    try:
        parts = urlsplit(url)
        bucket, path = parts.netloc, parts.path.removeprefix("/").removesuffix("/")
    except ValueError:
        bucket, path = "", ""
    odd = "?" in url or "#" in url or not url.isprintable() or "" in path.split("/")
    if not url.startswith("gs://") or not _BUCKET.fullmatch(bucket) or odd:
        raise ConfigurationError(f"{url.partition('?')[0]!r} is no address of an object", "write gs://BUCKET/folder")
    return bucket, path


class Objects:
    """The objects of one bucket."""

    def __init__(self, gcp: Gcp, bucket: str) -> None:
        os.environ.setdefault(_QUIET, "true")
        self._client: Any = asked(
            lambda: Client(project=gcp.project or None, credentials=gcp.credentials), "use of Cloud Storage"
        )
        self._gcp = gcp
        self._bucket = self._client.bucket(bucket)
        self._how: dict[str, Any] = {
            "timeout": gcp.seconds * SHARE_OF_ATTEMPT,
            # Every write is create-only: one that is sent twice is refused the second time, and then looked up.
            "retry": DEFAULT_RETRY.with_timeout(gcp.seconds * SHARE_OF_RETRIES).with_delay(
                initial=gcp.seconds / 60, maximum=gcp.seconds / 6
            ),
        }

    def create(self, name: str, data: bytes, about: str) -> None:
        """Write an object that is not there yet. Raises ExistsError if it is."""
        blob = self._bucket.blob(name)
        self._gcp.asked(
            lambda: blob.upload_from_string(
                data, content_type="application/json", if_generation_match=0, checksum="crc32c", **self._how
            ),
            about,
        )

    def content(self, name: str, about: str) -> bytes:
        """An object's bytes, held against its checksum. Raises NotFoundError if there is none."""
        got = self._gcp.asked(lambda: self._bucket.blob(name).download_as_bytes(checksum="crc32c", **self._how), about)
        return bytes(got)

    def names(self, prefix: str, about: str, *, versions: bool = False) -> list[str]:
        """The names that begin so, in order; with `versions` each as often as it was written."""

        def ask() -> list[str]:
            return [
                blob.name
                for blob in self._client.list_blobs(self._bucket, prefix=prefix, versions=versions, **self._how)
            ]

        return list(self._gcp.asked(ask, about))

    def folders(self, prefix: str, about: str) -> list[str]:
        """The folders right under `prefix`."""

        def ask() -> list[str]:
            listed = self._client.list_blobs(self._bucket, prefix=prefix, delimiter="/", **self._how)
            for _ in listed.pages:
                pass
            return [folder.removeprefix(prefix).rstrip("/") for folder in listed.prefixes]

        return list(self._gcp.asked(ask, about))


def read_object(gcp: Gcp, url: str) -> bytes:
    """The content of one object, such as a policy file. Raises ConfigurationError if it is not there."""
    bucket, path = split_url(url)
    try:
        return Objects(gcp, bucket).content(path, f"get of {url}")
    except NotFoundError:
        raise ConfigurationError(f"there is no {url}", "upload it, or set DAENA_POLICY to where it is") from None


class GcsLedger:
    """Create-only objects in one bucket."""

    def __init__(self, gcp: Gcp, url: str) -> None:
        bucket, self._path = split_url(url)
        self._objects = Objects(gcp, bucket)
        self.address = f"gs://{bucket}/{self._path}"

    def append(self, key: str, sequence: int, data: bytes) -> None:
        name, about = self._name(key, sequence), f"put of {self.where(key, sequence)}"
        try:
            self._objects.create(name, data, about)
        except DeniedError:
            # Who may not overwrite may be told so before the condition is looked at.
            if self.read(key, sequence) is None:
                raise
            raise ExistsError(f"{about}: it is there already") from None

    def read(self, key: str, sequence: int) -> bytes | None:
        try:
            return self._objects.content(self._name(key, sequence), f"get of {self.where(key, sequence)}")
        except NotFoundError:
            return None

    def sequences(self, key: str) -> list[int]:
        return sorted(self._sequences(key, versions=False))

    def names(self) -> list[str]:
        folders = self._objects.folders(f"{self._path}/", f"list of {self.address}")
        return sorted(name for name in folders if name == RESERVED_KEY or not name_problem(name))

    def rewritten(self, key: str) -> list[int]:
        """Where the bucket keeps versions of objects, an entry with two was written again, or was deleted before."""
        written = list(self._sequences(key, versions=True))
        there = set(self._sequences(key, versions=False))
        return sorted({sequence for sequence in written if written.count(sequence) > 1 or sequence not in there})

    def _sequences(self, key: str, *, versions: bool) -> Iterator[int]:
        prefix = f"{self._path}/{key}/"
        for name in self._objects.names(prefix, f"list of {self.address}/{key}", versions=versions):
            if found := _OBJECT.fullmatch(name.removeprefix(prefix)):
                yield int(found[1])

    def where(self, key: str, sequence: int) -> str:
        return f"{self.address}/{key}/{object_name(sequence)}"

    def _name(self, key: str, sequence: int) -> str:
        return f"{self._path}/{key}/{object_name(sequence)}"
