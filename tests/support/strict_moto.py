"""moto's AWS server, made as strict as AWS is where a key rotation depends on it.

    python -m tests.support.strict_moto [--port N]

serves on 127.0.0.1 until killed; the first line it prints is its address. In a test's own process: `start()`.

moto 5.2.5 answers, with what is below laid over it. What the double does not know (an action, a parameter, a condition,
a state) is answered with HTTP 501 `NotInDouble` and never with a guess. Sources: [b] botocore's documentation of the
operation, [r] recorded-replies.md, [f] cloud-facts.md, [p] moto's faults that were measured (testing.md),
[s] the service authorization reference.

Secrets Manager
- The request token of a put becomes the version's id. Same token and data: nothing is done, the labels of now are told;
  same token, other data: `ResourceExistsException`. So the first writer wins. [b, f, p]
- A label sits on one version: a put takes it off another without a word. [r]
- A put without labels moves AWSCURRENT; AWSPREVIOUS follows, AWSPENDING leaves the old current version. [r]
- The first version of a secret gets AWSCURRENT besides the labels that were named. [b]
- At most 20 labels per secret: `LimitExceededException`, nothing changed. A value has at most 65,536 bytes. [b, f]
- UpdateSecretVersionStage is a compare-and-set: a label that sits elsewhere than `RemoveFromVersionId` says, or sits
  elsewhere while it says nothing, stays: `InvalidParameterException`. AWSPREVIOUS follows AWSCURRENT, which cannot be
  taken away without a successor. An unknown target: `ResourceNotFoundException`. [b, r, p]
- A version without labels leaves DescribeSecret, ListSecrets and (unless `IncludeDeprecated`) ListSecretVersionIds, has
  no `VersionStages` there, can be read by its id, and can get labels again. [r]
- A read that names nothing reads AWSCURRENT. Version and label that disagree: `InvalidRequestException`. [b, r, p]
- What is not there (secret, version, label, any value): `ResourceNotFoundException`. [b, r]
- A secret that is to be deleted: `InvalidRequestException` to read, put, label, tag or create it; DescribeSecret shows
  it with `DeletedDate`, ListSecrets does not. [b, r]
- CreateSecret of a taken name: `ResourceExistsException`; the same request once more is ignored. [b, r]
- Found by name, ARN, and ARN without suffix unless the name ends in a hyphen and six characters. [r]
- Tags: 50 of them, keys of 128 and values of 256 characters, letters, digits, spaces and + - = . _ : / @. [b: Tags]
- ListSecrets: the name filter compares from the first letter on, case counts; pages end with no `NextToken`. [b]

KMS
- A disabled key: `DisabledException`; one pending deletion: `KMSInvalidStateException`; an asymmetric or HMAC key:
  `InvalidKeyUsageException`; an unknown one: `NotFoundException`. [b, p]
- Another context or a damaged blob: `InvalidCiphertextException` without a message; another key than the blob's named:
  `IncorrectKeyException`. [r]
- `DryRun` of Encrypt, Decrypt and GenerateDataKey: `DryRunOperationException` for what would succeed. [r, b]
- `KeyId` in replies is the key's ARN, `KeyMaterialId` comes with Decrypt. [r, b] 1 to 1024 bytes for a data key, 1 to
  4096 to encrypt, deletion in 7 to 30 days. [b, f]

S3
- Conditional puts and versions are moto's, and right. [p] Conditions that S3 has not: 501. [r]
- Listings tell of no folder in which everything was deleted (moto does). [b: ListObjectsV2]

All three: one request at a time, as each is one step in AWS; Secrets Manager and KMS refuse with HTTP 400 and `__type`
without prefix. [r]

Permissions, once switched on
- Checked on the secret's own ARN (with a suffix made up where there is none), on the KMS key that is used and on its
  key policy, on the object with its bucket's policy. A denial is `AccessDeniedException` (S3: `AccessDenied`). [s, p]
- Conditions, all of which moto misreads: StringEquals, StringLike, Arn…, Bool, Null, …IfExists, ForAnyValue and
  ForAllValues over `kms:EncryptionContext:<key>`, `secretsmanager:VersionStage` and `VersionId` (only if the request
  names one), tags, `s3:prefix`, `s3:if-none-match` and those in `moto_policy`. [s]
- An S3 object that is not there is 404 only for who may list the bucket, else 403. [b: GetObject]
- Not judged, and an error: session policies, permissions boundaries, policy variables, NotPrincipal.
"""

import argparse
import atexit
import contextlib
import sys
import threading
from functools import cache
from typing import Any

from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.iam import access_control
from moto.kms import models as kms_models
from moto.kms import urls as kms_urls
from moto.s3 import responses as s3_responses
from moto.s3.models import FakeBucket, S3Backend
from moto.secretsmanager import urls as secrets_urls

from . import moto_keys, moto_objects, moto_vault
from .moto_http import LOCKS, Application, KeepAliveServer
from .moto_iam import StrictRequest, StrictS3Request
from .moto_keys import StrictKeys
from .moto_objects import StrictObjects
from .moto_secrets import StrictSecrets


class Server:
    """The double, listening on loopback. Servers of one process share what they hold: it is moto's."""

    def __init__(self, port: int = 0) -> None:
        _make_strict()
        self._server = KeepAliveServer(port, Application())
        self.url = f"http://127.0.0.1:{self._server.port}"

    @property
    def connections(self) -> int:
        """How many connections it has accepted."""
        return self._server.accepted

    def serve(self) -> None:
        """Answers requests until closed."""
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        """Ends every connection and its thread."""
        self._server.close()

    def clear(self) -> None:
        """Forgets every secret, object, metric and log line. Buckets, KMS keys and IAM stay."""
        with LOCKS["secretsmanager"]:
            moto_vault.clear()
        with LOCKS["s3"]:
            moto_objects.clear()
        _clear_watch()

    def enforce_iam(self, on: bool) -> None:
        """Switches permission checks on or off (what `POST /moto-api/reset-auth` does)."""
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0 if on else float("inf")
        ActionAuthenticatorMixin.request_count = 0


@cache
def start() -> Server:
    """The server of this process, started once, in a thread. It ends with the process."""
    server = Server()
    threading.Thread(target=server.serve, name="strict-moto", daemon=True).start()
    atexit.register(server.close)
    return server


@cache
def _make_strict() -> None:
    """Puts the strict services in place of moto's: before its applications are made, which is at the first request."""
    secrets_urls.url_paths["{0}/$"] = StrictSecrets.dispatch
    kms_urls.url_paths["{0}/$"] = StrictKeys.dispatch
    # moto takes these where it needs them, by name.
    _replace(s3_responses, "S3Response", StrictObjects)
    _replace(S3Backend, "list_objects", moto_objects.list_objects)
    _replace(FakeBucket, "get_permission", moto_objects.neutral)
    _replace(kms_models, "generate_private_key", moto_keys.private_key)
    _replace(access_control, "IAMRequest", StrictRequest)
    _replace(access_control, "S3IAMRequest", StrictS3Request)


def _replace(owner: object, name: str, new: object) -> None:
    if not hasattr(owner, name):
        raise RuntimeError(f"moto has no {name} any more: the double must be brought up to date")
    setattr(owner, name, new)


def _clear_watch() -> None:
    """Metrics and log lines, if something has made moto load the services that keep them."""
    for service, clear in (("cloudwatch", _clear_metrics), ("logs", _clear_streams)):
        backends = getattr(sys.modules.get(f"moto.{service}.models"), f"{service}_backends", {})
        for account in backends.values():
            for backend in account.values():
                clear(backend)


def _clear_metrics(backend: Any) -> None:
    backend.metric_data.clear()


def _clear_streams(backend: Any) -> None:
    for group in backend.groups.values():
        group.streams.clear()


def main() -> None:
    """Serves until killed; the address is the first line printed."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.strict_moto", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0, the default: a free one")
    server = Server(parser.parse_args().port)
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


if __name__ == "__main__":
    main()
