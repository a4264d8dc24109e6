"""The GCP store on the strict double and its ledger on fake-gcs-server (or our own double), over real sockets."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any

from google.cloud.storage import Client

from daena_kms.stores.gcp import GcpStore
from daena_kms.stores.gcp_calls import Gcp
from daena_kms.stores.gcp_ledger import GcsLedger
from daena_kms.stores.gcp_secrets import Secrets
from daena_kms.stores.pace import Pace

from . import fake_gcs
from .strict_gcs import StrictGcs
from .strict_secrets import FUNCTION, StrictSecrets

PREFIX = "app-"
SECONDS = 30.0
Wrap = Callable[[Any], Any]


class Project:
    """A project's Secret Manager, and Cloud Storage with one bucket of manifests."""

    def __init__(self, *, strict_storage: bool = False) -> None:
        self.secrets = StrictSecrets()
        self.tokens = self.secrets.tokens
        os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(self.secrets.certificate)
        faked = fake_gcs.available() and not strict_storage
        self.storage: StrictGcs | fake_gcs.FakeGcs = fake_gcs.shared() if faked else StrictGcs(tokens=self.tokens)
        os.environ["STORAGE_EMULATOR_HOST"] = self.storage.url
        self._buckets = itertools.count(1)
        self.empty()

    def empty(self) -> None:
        """As if nothing had been done here: no secrets, no bounds, and another bucket."""
        self.secrets.emptied()
        self.bucket = f"manifests-{next(self._buckets)}"
        self.client().create_bucket(self.bucket)
        self.manifests = f"gs://{self.bucket}/keys"

    def client(self) -> Any:
        """A plain client of Cloud Storage, as a person would have it."""
        person = self.secrets.credentials("a-person@example.com")
        return Client(project=self.secrets.project_id, credentials=person)

    def gcp(self, principal: str = FUNCTION, seconds: float = SECONDS) -> Gcp:
        """Credentials of a principal."""
        return Gcp(
            lambda: self.secrets.credentials(principal),
            project=self.secrets.project_id,
            call_timeout=timedelta(seconds=seconds),
        )

    def store(
        self, wrap: Wrap = lambda secrets: secrets, principal: str = FUNCTION, seconds: float = SECONDS
    ) -> GcpStore:
        """A store as one process has it, on wrapped secrets. Nothing is waited for."""
        gcp = self.gcp(principal, seconds)
        return GcpStore(
            wrap(self.calls(gcp)),
            prefix=PREFIX,
            ledger=self.manifests,
            actor=gcp.actor,
            entropy=os.urandom,
            sleep=lambda _: None,
        )

    def calls(self, gcp: Gcp) -> Secrets:
        """The calls to Secret Manager with those credentials, as fast as they go."""
        quick = Pace(1_000_000, 1.0, time.monotonic, time.sleep)
        return Secrets(gcp, self.secrets.address, pace=lambda _, __: quick, sleep=lambda _: None)

    def processes(self) -> "Processes":
        """Stores that share connections and nothing else."""
        gcp = self.gcp()
        secrets = self.calls(gcp)
        kept: dict[str, Any] = {"actor": gcp.actor, "entropy": os.urandom, "sleep": lambda _: None}
        made = Processes(lambda: GcpStore(secrets, prefix=PREFIX, ledger=self.manifests, **kept))
        _running[:] = [made]
        return made

    def ledger(self, principal: str = FUNCTION) -> GcsLedger:
        """The ledger beside it."""
        return GcsLedger(self.gcp(principal), self.manifests)

    def environment(self) -> dict[str, str]:
        """What a process needs to work with this project, under the function's service account."""
        return self.secrets.environment() | {
            "STORAGE_EMULATOR_HOST": self.storage.url,
            "DAENA_CLOUD_KMS_PROVIDER": "gcp",
            "DAENA_KEY_PREFIX": PREFIX,
            "DAENA_MANIFEST_URL": self.manifests,
        }


class Processes:
    """The store as one process has it after another: what a process remembers, no other knows."""

    def __init__(self, make: Callable[[], GcpStore]) -> None:
        self._make = make
        self._store = make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Meanwhile, in another process. Whoever dies there leaves nothing in memory."""
        here, self._store = self._store, self._make()
        yield
        self._store = here


_running: list[Processes] = []


def elsewhere() -> AbstractContextManager[None]:
    """What is done meanwhile is done by other processes, if it is this store that is used."""
    return _running[0].elsewhere() if _running else nullcontext()


@cache
def project() -> Project:
    """The project of this process."""
    return Project()


def emptied() -> Project:
    """The project, as if nothing had been done in it."""
    _running.clear()
    project().empty()
    return project()


__all__ = ["FUNCTION", "PREFIX", "Project", "emptied", "project"]
