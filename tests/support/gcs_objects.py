"""Buckets and objects of Cloud Storage as its JSON API shows them. Refuses what the service refuses; no network.

Sources: `recorded-replies.md`, `cloud-facts.md`; Google's pages "Objects: insert/get/list", "Request preconditions",
"HTTP status and error codes for JSON", "IAM permissions for JSON methods"; replies quoted in public issues
(google-github-actions/upload-cloud-storage#388: a write over an object is 403 for want of storage.objects.delete).
Not there: changes of metadata, ACLs, holds, retention, soft deletion, folders: whoever asks for them is told so.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import google_crc32c

LONGEST_NAME, MOST_RESULTS = 1024, 1000
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")


class GcsError(Exception):
    """A refusal of the service: HTTP status, reason, message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        where = {"locationType": "header", "location": "Authorization"} if status == 401 else {}
        one = {"message": message, "domain": "global", "reason": reason, **where}
        self.body: dict[str, Any] = {"error": {"code": status, "message": message, "errors": [one]}}


@dataclass(frozen=True)
class Conditions:
    """What must be so of the live object: its generation, 0 for none there."""

    match: int | None = None
    not_match: int | None = None

    def hold(self, live: "Stored | None") -> bool:
        current = live.generation if live else 0
        return self.match in (None, current) and self.not_match != current


@dataclass(frozen=True)
class Upload:
    """What somebody sends. `hashes` are those that came with it, "crc32c" and "md5", in Base64."""

    name: str
    content: bytes
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class Stored:
    """One generation of an object. `deleted` is when it ceased to be the live one."""

    bucket: str
    name: str
    generation: int
    content: bytes
    content_type: str
    metadata: Mapping[str, str] | None
    created: float
    deleted: float | None = None

    @property
    def hashes(self) -> dict[str, str]:
        return hashes(self.content)

    def resource(self, url: str) -> dict[str, Any]:
        """The object as the API shows it."""
        path = f"b/{self.bucket}/o/{_quoted(self.name)}"
        made, summed = _time(self.created), self.hashes
        shown: dict[str, Any] = {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "selfLink": f"{url}/storage/v1/{path}",
            "mediaLink": f"{url}/download/storage/v1/{path}?generation={self.generation}&alt=media",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": self.content_type,
            "storageClass": "STANDARD",
            "size": str(len(self.content)),
            "md5Hash": summed["md5"],
            "crc32c": summed["crc32c"],
            "etag": base64.b64encode(f"{self.generation}/1".encode()).decode(),
            "timeCreated": made,
            "updated": made,
            "timeStorageClassUpdated": made,
            "timeFinalized": made,
        }
        if self.metadata is not None:
            shown["metadata"] = dict(self.metadata)
        return {**shown, "timeDeleted": _time(self.deleted)} if self.deleted is not None else shown


@dataclass
class Bucket:
    """A bucket with the generations of each name, oldest first; without versioning there is at most the live one."""

    name: str
    created: float
    versioned: bool
    held: dict[str, list[Stored]] = field(default_factory=dict)

    def live(self, name: str) -> Stored | None:
        newest = self.held.get(name, [])[-1:]
        return newest[0] if newest and newest[0].deleted is None else None

    def resource(self, url: str) -> dict[str, Any]:
        made = _time(self.created)
        return {
            "kind": "storage#bucket",
            "id": self.name,
            "selfLink": f"{url}/storage/v1/b/{self.name}",
            "name": self.name,
            "projectNumber": "1",
            "metageneration": "1",
            "location": "EUROPE-WEST1",
            "locationType": "region",
            "storageClass": "STANDARD",
            "etag": "CAE=",
            "timeCreated": made,
            "updated": made,
            "versioning": {"enabled": self.versioned},
            "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}, "publicAccessPrevention": "enforced"},
        }


@dataclass(frozen=True)
class Wanted:
    """What a listing is of. `most` entries a page, names and prefixes together; `after` is a page token."""

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str = ""
    versions: bool = False
    most: int = MOST_RESULTS
    after: str = ""


class Objects:
    """All buckets of one service. `url` is how links begin."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.url = url
        self.buckets: dict[str, Bucket] = {}
        self.versioned = True
        """Whether a bucket keeps old generations where its maker says nothing. In the service: no."""
        self.condition_first = True
        """What a create-only write over an object is told who may not delete: that its condition failed (412), or that
        it lacks storage.objects.delete (403). No page and no recording says which; a client must take both."""
        self.page = MOST_RESULTS
        self._clock = clock
        self._newest = 0
        self._lock = threading.RLock()

    def saved(self) -> Callable[[], None]:
        """Remember everything; what is returned puts it back. Generations are never given out twice."""
        with self._lock:
            kept = self._copied(self.buckets)

        def restore() -> None:
            with self._lock:
                self.buckets = self._copied(kept)

        return restore

    def empty(self) -> None:
        """Forget every bucket, and settings with them."""
        with self._lock:
            self.buckets, self.versioned, self.condition_first, self.page = {}, True, True, MOST_RESULTS

    @staticmethod
    def _copied(buckets: Mapping[str, Bucket]) -> dict[str, Bucket]:
        return {
            name: replace(bucket, held={key: list(held) for key, held in bucket.held.items()})
            for name, bucket in buckets.items()
        }

    # --- what the API offers

    def create_bucket(self, name: str, *, versioned: bool | None = None) -> dict[str, Any]:
        """A bucket; its name is taken for ever."""
        if not _BUCKET.fullmatch(name):
            raise GcsError(400, "invalid", f"Invalid bucket name: '{name}'")
        with self._lock:
            if name in self.buckets:
                raise GcsError(409, "conflict", "Your previous request to create the named bucket succeeded and you already own it.")  # fmt: skip  # noqa: E501
            kept = self.versioned if versioned is None else versioned
            self.buckets[name] = Bucket(name, self._clock(), kept)
            return self.buckets[name].resource(self.url)

    def bucket(self, name: str) -> dict[str, Any]:
        """A bucket as the API shows it."""
        with self._lock:
            return self._bucket(name).resource(self.url)

    def insert(self, bucket: str, upload: Upload, over: GcsError | None = None) -> dict[str, Any]:
        """Write an object. `over` is what a write over another is refused with, for who may not delete."""
        _check_name(upload.name)
        _check_hashes(upload)
        with self._lock:
            held = self._bucket(bucket)
            live = held.live(upload.name)
            failed = None if upload.conditions.hold(live) else _condition_failed()
            denied = over if live else None
            refusals = (failed, denied) if self.condition_first else (denied, failed)
            for refusal in filter(None, refusals):
                raise refusal
            now = self._clock()
            made = Stored(
                bucket, upload.name, self._generation(now), upload.content, upload.content_type, upload.metadata, now
            )
            self._retire(held, upload.name, now)
            held.held.setdefault(upload.name, []).append(made)
            return made.resource(self.url)

    def get(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> Stored:
        """The live generation of an object, or the one asked for."""
        with self._lock:
            found = self._found(bucket, name, generation)
            if not conditions.hold(found):
                raise _condition_failed()
            return found

    def delete(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> None:
        """Delete the live generation, which versioning keeps; or, for good, the one asked for."""
        with self._lock:
            found = self._found(bucket, name, generation)
            if not conditions.hold(found):
                raise _condition_failed()
            held = self._bucket(bucket)
            if generation is None:
                self._retire(held, name, self._clock())
            else:
                held.held[name] = [each for each in held.held[name] if each.generation != generation]

    def listed(self, bucket: str, wanted: Wanted) -> dict[str, Any]:
        """A page of a listing: names in the order of their bytes, generations of each oldest first."""
        with self._lock:
            entries = list(_entries(self._bucket(bucket), wanted))
        if wanted.after:
            mark = _mark(wanted.after)
            entries = [entry for entry in entries if entry[0] > mark]
        size = min(wanted.most, self.page)
        page, more = entries[:size], entries[size:]
        made: dict[str, Any] = {"kind": "storage#objects"}
        if more:
            made["nextPageToken"] = _token(page[-1][0])
        if prefixes := [each for _, each in page if isinstance(each, str)]:
            made["prefixes"] = prefixes
        if items := [each.resource(self.url) for _, each in page if not isinstance(each, str)]:
            made["items"] = items
        return made

    # --- helpers

    def _bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise GcsError(404, "notFound", "The specified bucket does not exist.")
        return self.buckets[name]

    def _found(self, bucket: str, name: str, generation: int | None) -> Stored:
        held = self._bucket(bucket)
        if generation is None:
            found = held.live(name)
        else:
            found = next((each for each in held.held.get(name, []) if each.generation == generation), None)
        if found is None:
            shown = f"{bucket}/{name}" + (f"#{generation}" if generation is not None else "")
            raise GcsError(404, "notFound", f"No such object: {shown}")
        return found

    def _retire(self, bucket: Bucket, name: str, now: float) -> None:
        if live := bucket.live(name):
            kept = [replace(live, deleted=now)] if bucket.versioned else []
            bucket.held[name] = bucket.held[name][:-1] + kept

    def _generation(self, now: float) -> int:
        self._newest = max(self._newest + 1, int(now * 1e6))
        return self._newest


Mark = tuple[bytes, int]


def _entries(bucket: Bucket, wanted: Wanted) -> Iterator[tuple[Mark, Stored | str]]:
    begun: set[str] = set()
    for name in sorted(bucket.held, key=str.encode):
        if not name.startswith(wanted.prefix) or not _within(name, wanted):
            continue
        shown = [each for each in bucket.held[name] if wanted.versions or each.deleted is None]
        rest = name.removeprefix(wanted.prefix)
        if not wanted.delimiter or wanted.delimiter not in rest:
            yield from (((name.encode(), each.generation), each) for each in shown)
            continue
        folder = wanted.prefix + rest.partition(wanted.delimiter)[0] + wanted.delimiter
        if shown and folder not in begun:
            begun.add(folder)
            # After a folder comes what is not in it.
            yield (folder.encode() + b"\xff", 0), folder


def _within(name: str, wanted: Wanted) -> bool:
    here = name.encode()
    return here >= wanted.start.encode() and (not wanted.end or here < wanted.end.encode())


def _token(mark: Mark) -> str:
    return base64.urlsafe_b64encode(json.dumps([mark[0].hex(), mark[1]]).encode()).decode()


def _mark(token: str) -> Mark:
    try:
        name, generation = json.loads(base64.urlsafe_b64decode(token))
        return bytes.fromhex(name), int(generation)
    except (ValueError, TypeError) as error:
        raise GcsError(400, "invalid", "Invalid argument.") from error


def hashes(content: bytes) -> dict[str, str]:
    """The two sums of the service, in Base64."""
    crc = google_crc32c.Checksum(content).digest()  # type: ignore[no-untyped-call, unused-ignore]
    return {
        "crc32c": base64.b64encode(crc).decode(),
        "md5": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
    }


def _check_hashes(upload: Upload) -> None:
    words, real = {"crc32c": "CRC32C", "md5": "MD5 hash"}, hashes(upload.content)
    for kind, sent in upload.hashes.items():
        if sent != real[kind]:
            word = words[kind]
            raise GcsError(400, "invalid", f'Provided {word} "{sent}" doesn\'t match calculated {word} "{real[kind]}".')


def _check_name(name: str) -> None:
    bad = name in {"", ".", ".."} or len(name.encode()) > LONGEST_NAME or "\r" in name or "\n" in name
    if bad or name.startswith(".well-known/acme-challenge/"):
        raise GcsError(400, "invalid", f"Invalid object name: '{name}'" if name else "Required")


def _condition_failed() -> GcsError:
    return GcsError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(name: str) -> str:
    return quote(name, safe="")
