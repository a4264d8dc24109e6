"""S3 as strict as AWS where moto is not; the rest of moto's S3, conditional puts and versions above all, is right.

`strict_moto` lists the behaviour with its sources.
"""

from types import SimpleNamespace
from typing import Any

from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket, FakeKey, FakeMultipart, S3Backend, s3_backends
from moto.s3.responses import S3Response

NOT_IMPLEMENTED = (
    "<Error><Code>NotImplemented</Code>"
    "<Message>A header you provided implies functionality that is not implemented</Message></Error>"
)


class StrictObjects(S3Response):
    """One request to S3."""

    def put_object(self) -> Any:
        """PutObject. Of the conditions AWS has `If-None-Match: *` and `If-Match: <etag>`, one at a time."""
        match, none_match = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if none_match not in (None, "*") or match == "*" or (match and none_match):
            return 501, {"Content-Type": "application/xml"}, NOT_IMPLEMENTED
        return super().put_object()


_list_objects = S3Backend.list_objects


def list_objects(backend: S3Backend, bucket: FakeBucket, *rest: Any, **named: Any) -> Any:
    """Listings without what was deleted. moto tells of a folder also where nothing but delete markers lies in it."""
    living = {name: key for name, key in bucket.keys.items() if isinstance(key, FakeKey)}
    seen: Any = SimpleNamespace(keys=living)
    return _list_objects(backend, seen, *rest, **named)


def neutral(_bucket: FakeBucket, _action: str, _resource: str) -> PermissionResult:
    """In place of moto's own look at a bucket's policy, which takes every condition for a denial: see `moto_iam`."""
    return PermissionResult.NEUTRAL


def clear() -> None:
    """Forgets every object, version and unfinished upload. Buckets stay as they are."""
    for account in s3_backends.values():
        for backend in account.values():
            for bucket in backend.buckets.values():
                bucket.keys = type(bucket.keys)()
                bucket.multiparts.clear()
    # Each holds an open temporary file; moto keeps a list of all that were ever made.
    for model in (FakeMultipart, FakeKey):
        tracked: list[Any] = vars(model)["instances_tracked"]
        for held in tracked:
            held.dispose()
        tracked.clear()
