"""A project on Google's doubles, and fleets on it: the real store on Secret Manager and the real ledger in GCS.

The doubles are processes of their own. Storage is fake-gcs-server where that was built, else a strict double.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import grpc
import requests
from google.api_core import grpc_helpers
from google.cloud.storage import Client

from daena_kms.policy import KeyPolicy
from daena_kms.stores.gcp import GcpStore
from daena_kms.stores.gcp_calls import Gcp, credentials
from daena_kms.stores.gcp_ledger import GcsLedger
from daena_kms.stores.gcp_secrets import Secrets
from daena_kms.stores.pace import Pace

from ..support import fake_gcs
from .clouds import CALL_TIMEOUT, CloudScene, Wire
from .processes import ROOT
from .scene import POLICY

_KINDS = {"/upload/": "storage.insert", "/download/": "storage.get"}


class Counting(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc, unused-ignore]
    """Notes each RPC that a channel carries, each attempt of it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self._wire.sent.append(f"secrets.{client_call_details.method.rpartition('/')[2]}")
        return continuation(client_call_details, request)


class Project(Wire):
    """The project that the environment names; what is sent to it is counted at the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.gcp = Gcp(lambda: credentials(""), project=os.environ["GCP_PROJECT_ID"], call_timeout=CALL_TIMEOUT)
        self.storage: Any = Client(project=self.gcp.project, credentials=self.gcp.credentials)
        self.endpoint = os.environ["GCP_SECRET_MANAGER_ENDPOINT"]
        self._buckets = itertools.count(1)

    def secrets(self) -> Secrets:
        """Calls to Secret Manager, as fast as they go."""
        quick = Pace(10**9, 1.0, time.monotonic, time.sleep)
        return Secrets(self.gcp, self.endpoint, pace=lambda _, __: quick, sleep=time.sleep)

    def bucket(self) -> str:
        """A new bucket's name."""
        name = f"bench-{next(self._buckets)}"
        self.storage.create_bucket(name)
        return name

    def note(self, request: Any) -> None:
        """One request over HTTP, unless it is one for a token."""
        parts = urlsplit(request.url)
        if "/storage/" in parts.path:
            kind = next((kind for start, kind in _KINDS.items() if parts.path.startswith(start)), "")
            self.sent.append(kind or ("storage.list" if parts.path.endswith("/o") else "storage.get metadata"))


class GcpScene(CloudScene):
    """A fleet with a prefix and a bucket."""

    def __init__(self, project: Project, prefix: str, keys: Sequence[str], policy: KeyPolicy = POLICY) -> None:
        self._project, self.prefix = project, prefix
        self.calls = project.secrets()
        ledger = GcsLedger(project.gcp, f"gs://{project.bucket()}/keys")
        super().__init__(self._made(ledger.address), ledger, dict.fromkeys(keys, policy), prefix)

    def _made(self, ledger: str) -> GcpStore:
        actor = self._project.gcp.actor
        return GcpStore(
            self.calls, prefix=self.prefix, ledger=ledger, actor=actor, entropy=os.urandom, sleep=time.sleep
        )

    def forget(self) -> None:
        """As a new process, which knows nothing of what the one before did."""
        self.store = self._made(self.ledger.address)


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Doubles that last as long as the block, and what a process needs to work with them."""
    command = (sys.executable, "-m", "tests.bench.gcp_double")
    double = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    faked = None
    try:
        if double.stdout is None or not (told := double.stdout.readline()):
            raise SystemExit("Google's doubles did not start")
        shown: dict[str, str] = json.loads(told) | {"GOOGLE_APPLICATION_CREDENTIALS": ""}
        if fake_gcs.available():
            faked = fake_gcs.FakeGcs()
            shown["STORAGE_EMULATOR_HOST"] = faked.url
        yield shown
    finally:
        if faked is not None:
            faked.close()
        double.terminate()
        double.communicate()


@contextmanager
def project() -> Iterator[Project]:
    """A project that lasts as long as the block; in it the environment is one that works with it."""
    with environment() as shown, mock.patch.dict(os.environ, shown):
        made = Project()
        send, channel = requests.Session.send, grpc_helpers.create_channel

        def sending(session: Any, request: Any, **options: Any) -> Any:
            made.note(request)
            return send(session, request, **options)

        def counted(*args: Any, **options: Any) -> Any:
            return grpc.intercept_channel(channel(*args, **options), Counting(made))

        patched = mock.patch.object(grpc_helpers, "create_channel", counted)
        with mock.patch.object(requests.Session, "send", sending), patched:
            yield made
