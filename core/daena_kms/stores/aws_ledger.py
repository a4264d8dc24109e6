"""The ledger in an S3 bucket: `s3://bucket/prefix` holds `prefix/<key>/<sequence>.json`.

Create-only is `If-None-Match: *`: S3 answers 412 where the object exists (botocore: PutObject). The bucket policy that
is deployed with it refuses every write without that header, and every deletion. S3 is strongly consistent, listings
too (AWS: "Amazon S3 data consistency model").
"""

import re
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigurationError, ConflictError, ExistsError, NotFoundError, UnavailableError
from ..ledger import object_name
from ..names import RESERVED_KEY, name_problem
from .aws_calls import Client
from .base import Permissions

_OBJECT = re.compile(r"(\d{8,})\.json")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONFLICTS = 3

REQUIRED_PERMISSIONS: Permissions = {
    "append": ("s3:PutObject",),
    # Without s3:ListBucket, S3 answers 403 for an object that is not there, and nobody could look for the next entry.
    "read": ("s3:GetObject", "s3:ListBucket"),
    "sequences": ("s3:ListBucket",),
    "names": ("s3:ListBucket",),
    "rewritten": ("s3:ListBucketVersions",),
}


def split_url(url: str) -> tuple[str, str]:
    """Bucket and path of `s3://bucket/path`; ConfigurationError if it is no such address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    path = parts.path.strip("/")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or not path or parts.query or parts.fragment:
        raise ConfigurationError(f"{url!r} is no S3 address", "write s3://bucket/folder")
    return parts.netloc, path


def read_object(s3: Client, url: str) -> bytes:
    """The content of one object, such as a policy file. Raises ConfigurationError if it is not there."""
    bucket, path = split_url(url)
    try:
        return _body(s3.call("get_object", url, Bucket=bucket, Key=path), url)
    except NotFoundError:
        raise ConfigurationError(f"there is no {url}", "upload it, or set DAENA_POLICY to where it is") from None


def _body(reply: dict[str, Any], url: str) -> bytes:
    try:
        return bytes(reply["Body"].read())
    except Exception as problem:  # noqa: BLE001  # urllib3's and botocore's read errors have no common ancestor
        raise UnavailableError(f"the reply for {url} broke off ({type(problem).__name__})", "try again") from None


class S3Ledger:
    """Create-only objects in one bucket."""

    def __init__(self, s3: Client, url: str) -> None:
        self._s3 = s3
        self._bucket, self._path = split_url(url)
        self.address = f"s3://{self._bucket}/{self._path}"

    def append(self, key: str, sequence: int, data: bytes) -> None:
        for _ in range(_CONFLICTS):
            try:
                self._put(key, sequence, data)
            except ConflictError:
                # Two writers at the same moment, and S3 cannot say yet who wins: look before anything else.
                if self.read(key, sequence) is not None:
                    raise ExistsError(f"entry {sequence} of {key} is there already") from None
            else:
                return
        raise UnavailableError(f"entry {sequence} of {key} could not be written", "nothing was changed: run it again")

    def _put(self, key: str, sequence: int, data: bytes) -> None:
        reply = self._s3.call(
            "put_object",
            self.where(key, sequence),
            Bucket=self._bucket,
            Key=self._name(key, sequence),
            Body=data,
            ContentType="application/json",
            IfNoneMatch="*",
        )
        reply["ETag"]  # whoever answers without it has not stored anything

    def read(self, key: str, sequence: int) -> bytes | None:
        where = self.where(key, sequence)
        try:
            reply = self._s3.call("get_object", where, Bucket=self._bucket, Key=self._name(key, sequence))
        except NotFoundError:
            return None
        return _body(reply, where)

    def sequences(self, key: str) -> list[int]:
        prefix = f"{self._path}/{key}/"
        pages = self._s3.pages("list_objects_v2", self.address, Bucket=self._bucket, Prefix=prefix)
        names = (entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", ()))
        return sorted(int(m[1]) for name in names if (m := _OBJECT.fullmatch(name)))

    def names(self) -> list[str]:
        prefix = f"{self._path}/"
        pages = self._s3.pages("list_objects_v2", self.address, Bucket=self._bucket, Prefix=prefix, Delimiter="/")
        folders = (entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ()))
        names = (folder.removeprefix(prefix).rstrip("/") for folder in folders)
        return sorted(name for name in names if name == RESERVED_KEY or not name_problem(name))

    def rewritten(self, key: str) -> list[int]:
        prefix = f"{self._path}/{key}/"
        pages = self._s3.pages("list_object_versions", self.address, Bucket=self._bucket, Prefix=prefix)
        counted: Counter[str] = Counter()
        for page in pages:
            counted.update(entry["Key"] for entry in page.get("Versions", ()))
            # A marker alone is an entry that was deleted, and whose content was deleted for good after that.
            counted.update(2 * [entry["Key"] for entry in page.get("DeleteMarkers", ())])
        names = (name.removeprefix(prefix) for name, count in counted.items() if count > 1)
        return sorted(int(m[1]) for name in names if (m := _OBJECT.fullmatch(name)))

    def where(self, key: str, sequence: int) -> str:
        return f"{self.address}/{key}/{object_name(sequence)}"

    def _name(self, key: str, sequence: int) -> str:
        return f"{self._path}/{key}/{object_name(sequence)}"
