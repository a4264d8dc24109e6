"""Trying what credentials may do on Google Cloud, without changing anything.

What writes is asked of `TestIamPermissions`, on the secret of the reserved key, which `init` made, and on the bucket.
Google's caveat: it "is designed to be used for building permission-aware UIs and command-line tools, not for
authorization checking", and "may fail open" (secretmanager/v1/service.proto); of a secret that is not there it says
that nothing is granted. It knows conditions on a resource's name, because it is asked about the resource.
`secrets.create` is a matter of the project: it is tried by making the secret that is there, which must be refused.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.api_core import exceptions as google_errors
from google.auth.transport.requests import AuthorizedSession
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.secretmanager_v1 import types as g
from google.cloud.storage import Client

from ..errors import DeniedError, ExistsError, KmsError, NotFoundError, RefusedError
from ..ledger import object_name
from ..names import RESERVED_KEY, secret_name
from . import gcp_layout as layout
from .gcp_calls import SHARE_OF_ATTEMPT, Gcp, asked
from .gcp_ledger import GcsLedger, Objects, split_url
from .gcp_secrets import ENDPOINT
from .probe import CREATE_ONLY, FIRST, INIT, Check, Trials, Watch, create_again, failed, not_tried, ok, read_first

_SECRETS, _STORAGE = "Secret Manager", "Cloud Storage"
_PERMISSION = "secretmanager."
# What is not tried by doing it.
_GRANTED = (
    "secretmanager.secrets.update", "secretmanager.versions.add", "secretmanager.versions.disable",
    "secretmanager.versions.enable", "secretmanager.versions.destroy",
)  # fmt: skip
_CREATE, _OVERWRITE = "storage.objects.create", "storage.objects.delete"
_ROLES = "give the service account the roles that infra/gcp defines; a new binding takes some minutes"
_SAYS_SO = "granted, says TestIamPermissions"


class GcpProbe:
    """Tries the permissions of one project's secrets."""

    def __init__(self, gcp: Gcp, *, endpoint: str, prefix: str, ledger: str) -> None:
        self._gcp = gcp
        self._endpoint = endpoint or ENDPOINT
        self._ledger = ledger
        self._id = secret_name(prefix, RESERVED_KEY)
        self._project = f"projects/{gcp.project}"
        self._name = f"{self._project}/secrets/{self._id}"

    def credentials(self) -> str:
        return self._gcp.actor()

    def checks(self) -> list[Check]:
        options = {"api_endpoint": self._endpoint}
        client: Any = asked(
            lambda: SecretManagerServiceClient(credentials=self._gcp.credentials, client_options=options),
            "use of Secret Manager",
        )
        trials = Trials(_SECRETS)
        newest = f"{self._name}/versions/latest"
        asks = {
            "secrets.list": ("list_secrets", {"parent": self._project, "page_size": 1}),
            "secrets.get": ("get_secret", {"name": self._name}),
            "versions.list": ("list_secret_versions", {"parent": self._name, "page_size": 1}),
            "versions.get": ("get_secret_version", {"name": newest}),
            "versions.access": ("access_secret_version", {"name": newest}),
        }
        seen = [trials.ask(_PERMISSION + p, lambda a=a: self._seen(client, *a)) for p, a in asks.items()]  # type: ignore[misc]
        there = any(seen[1:])
        self._written(trials, client, there=there)
        return trials.found

    def _call(self, client: Any, operation: str, request: Any, about: str) -> Any:
        how = self._gcp.attempts(google_errors.ResourceExhausted)
        return self._gcp.asked(lambda: getattr(client, operation)(request=request, **how), about)

    def _seen(self, client: Any, operation: str, request: dict[str, Any]) -> bool:
        """True if it is there: who may not look is not told. A payload that comes is shown to nobody."""
        try:
            self._call(client, operation, request, f"{operation.replace('_', '-')} of {self._id}")
        except NotFoundError:
            return False
        except RefusedError:  # the newest version is disabled
            return True
        return True

    def _written(self, trials: Trials, client: Any, *, there: bool) -> None:
        created = "secretmanager.secrets.create"
        if not there:
            for permission in (created, *_GRANTED):
                trials.skip(permission, "because there is no reserved key yet", INIT, needs=f"{_PERMISSION}secrets.get")
            return
        # As `init` makes it, so that nothing else could come of it.
        secret = g.Secret(
            replication=g.Replication(automatic=g.Replication.Automatic()),
            labels={layout.LABEL: "reserved"},
            annotations={layout.LEDGER: self._ledger},
        )
        request = {"parent": self._project, "secret_id": self._id, "secret": secret}
        trials.ask(
            created,
            lambda: self._call(client, "create_secret", request, f"creation of {self._id}"),
            refusals=(ExistsError,),
        )
        asking = {"resource": self._name, "permissions": list(_GRANTED)}

        def tested() -> Iterable[str]:
            reply = self._call(client, "test_iam_permissions", asking, f"a test of permissions on {self._id}")
            return list(reply.permissions)

        trials.judge("TestIamPermissions", lambda: _granted(_GRANTED, tested))


def gcs_checks(gcp: Gcp, url: str, watch: Watch) -> list[Check]:
    """Tries the permissions of a ledger in Cloud Storage, and whether it is create-only."""
    ledger = GcsLedger(gcp, url)
    bucket, path = split_url(url)
    objects = Objects(gcp, bucket)
    first, about = f"{path}/{RESERVED_KEY}/{object_name(FIRST)}", f"put of {url}/{RESERVED_KEY}/{object_name(FIRST)}"
    trials = Trials(_STORAGE)
    reading = "storage.objects.get"
    stored = read_first(trials, reading, ledger)
    trials.ask("storage.objects.list", lambda: ledger.sequences(RESERVED_KEY))
    trials.judge("TestIamPermissions", lambda: _granted((_CREATE,), lambda: _tested(gcp, bucket, watch)))

    def denied(problem: DeniedError) -> list[Check]:
        if _OVERWRITE in problem.message:
            return [ok(CREATE_ONLY, "these credentials may overwrite nothing")]
        return [not_tried(CREATE_ONLY, f"because of {_CREATE}")]

    create_again(trials, "", reading, stored, lambda data: objects.create(first, data, about), denied)
    return trials.found


def _tested(gcp: Gcp, bucket: str, watch: Watch) -> Iterable[str]:
    session = AuthorizedSession(gcp.credentials)  # type: ignore[no-untyped-call]
    session.hooks["response"].append(lambda reply, **_: watch.heard(reply.headers.get("Date", "")))
    client: Any = asked(lambda: Client(project=gcp.project or None, _http=session), "use of Cloud Storage")

    def ask() -> Iterable[str]:
        held = client.bucket(bucket).test_iam_permissions([_CREATE], timeout=gcp.seconds * SHARE_OF_ATTEMPT)
        return list(held)

    return list(gcp.asked(ask, f"a test of permissions on {bucket}"))


def _granted(wanted: Sequence[str], ask: Callable[[], Iterable[str]]) -> list[Check]:
    """A line for each permission that is asked about."""
    try:
        held = set(ask())
    except KmsError as problem:
        return [not_tried(each, f"because TestIamPermissions failed: {problem.message}") for each in wanted]
    return [
        ok(each, _SAYS_SO) if each in held else failed(each, DeniedError(f"{each} is not granted", _ROLES))
        for each in wanted
    ]
