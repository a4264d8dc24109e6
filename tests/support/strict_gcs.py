"""A strict double of Cloud Storage's JSON API, on loopback: HTTP, tokens, permissions, conditions, generations.

`python -m tests.support.strict_gcs` starts it alone: its address on the first line, then how to point a client at it.
What it does is in `gcs_objects` (buckets and objects), `gcs_http` (routes, uploads, permissions), `gcs_fields` and
`google_tokens`. In short, with where it is known from:

* ifGenerationMatch=0 writes only where no live object is; who fails is told 412 conditionNotMet ("Request
  preconditions"; the words from replies of the service in public issues).
* A write over an object takes storage.objects.delete beside storage.objects.create: 403, "… does not have
  storage.objects.delete access to the Google Cloud Storage object." ("IAM permissions for JSON methods";
  google-github-actions/upload-cloud-storage#388). Which of the two is told to who fails both, is known from nowhere:
  `server.objects.condition_first` sets it, and a client must take either as "somebody was there first".
* Sums that were sent are checked: 400, 'Provided CRC32C "…" doesn't match calculated CRC32C "…".'; sums are returned
  with objects, and in X-Goog-Hash with downloads ("Hashes and ETags").
* Listings: names by their bytes, generations oldest first with versions=true, names and prefixes together counted by
  maxResults, nextPageToken alone says that there is more ("Objects: list"). They are never late.
* Errors are Google's JSON; those of a download (alt=media) are the words alone. 401 `required` without a token,
  `authError` with a bad one ("HTTP status and error codes for JSON").
* testPermissions of a bucket takes no permission ("Buckets: testIamPermissions").
* Who may not list is not told what is not there: 403, not 404 (seen of the service, in no recording).

It differs from the service in this: buckets keep old generations unless their maker says otherwise; nothing deleted
lingers; a session of an upload does not end; 501 is what it answers to whatever it does not have: changes of metadata,
ACLs, copies, composition, folders, retention, holds, keys, batches, XML.
"""

import sys
import threading
import time
from collections.abc import Callable

from .gcs_http import GcsServer
from .google_tokens import Credential, GoogleEndpoint, Tokens
from .vault_http import started

BUCKET = "the-manifests"
PROJECT = "daena-demo"
SOMEBODY = f"somebody@{PROJECT}.iam.gserviceaccount.com"


class StrictGcs:
    """The service, and the tokens for it. `tokens` are its own where none are given."""

    def __init__(self, clock: Callable[[], float] = time.time, tokens: Tokens | None = None) -> None:
        self.tokens = tokens or Tokens()
        self.server = GcsServer(self.tokens, clock)
        started(self.server)

    @property
    def url(self) -> str:
        """The service's address."""
        return self.server.url

    def credential(self, principal: str = SOMEBODY) -> Credential:
        """Credentials of that principal, for a client in this process."""
        return Credential(self.tokens, principal)

    def environment(self) -> dict[str, str]:
        """What a process needs so that its client comes here. One that is given no credentials shows none."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            # Without it each client asks for its bucket's metadata, in a thread of its own.
            "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
        }

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()


def main() -> None:
    """Serve until told to stop. An argument is how much faster than the world's the clock runs."""
    rate, begun = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, time.time()
    gcs = StrictGcs(lambda: begun + (time.time() - begun) * rate)
    gcs.server.objects.create_bucket(BUCKET)
    machine = GoogleEndpoint(gcs.tokens, "1", SOMEBODY)
    started(machine)
    shown = {**gcs.environment(), "GOOGLE_CLOUD_PROJECT": PROJECT, **machine.metadata_environment()}
    lines = [gcs.url, *(f"export {name}={value}" for name, value in shown.items())]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
