"""A strict double of Google's Secret Manager, on loopback: gRPC over TLS, tokens, permissions, etags, stale reads.

`python -m tests.support.strict_secrets` starts it alone: the address of its gRPC server on the first line, then how to
point a client at it (`--metadata`: through a metadata server instead of a key file; a number: how much faster than the
world's the service's clock runs). What it does is in `gsm_store` (secrets, versions, staleness), `gsm_service` (tokens,
permissions, quotas), `gsm_checks` (what may be stored), `gsm_errors` (how it refuses), `gsm_rest` (reads over HTTP, for
gcloud), `gsm_faults` (what a test puts in between) and `google_tokens`, each with its sources.

TestIamPermissions tells of a secret that is not there that nothing is granted, and takes no permission itself
(secretmanager/v1/service.proto). Unlike the service it never "fails open".

Not there, and answered with UNIMPLEMENTED: IAM policies themselves, regional secrets, expiry, rotation and its topics,
customer-managed keys, tags, typed secrets, filters but the simplest, writing over REST.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import grpc
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport

from .google_tokens import Credential, GoogleEndpoint, Tokens
from .gsm_errors import SERVICE
from .gsm_grpc import served
from .gsm_rest import RestServer
from .gsm_service import Service
from .gsm_store import Store
from .strict_vault import made_certificate
from .vault_http import started

PROJECT_ID, PROJECT_NUMBER = "daena-demo", "482913337105"
FUNCTION = f"the-function@{PROJECT_ID}.iam.gserviceaccount.com"
SOMEBODY = "somebody@example.com"


@cache
def certificate() -> Path:
    """One for all doubles of a process: gRPC reads GRPC_DEFAULT_SSL_ROOTS_FILE_PATH once, at the first channel."""
    return made_certificate(Path(mkdtemp(prefix="daena-secrets-certificate-")))


class Clock:
    """The world's time, or another's, plus what a test adds to it."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self.source = source
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.source() + self.ahead

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.ahead += seconds


class StrictSecrets:
    """A project's Secret Manager, tokens for it, a metadata server, and the certificate to trust."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        tokens_clock: Callable[[], float] = time.time,
        project_id: str = PROJECT_ID,
    ) -> None:
        self.project_id, self.number = project_id, PROJECT_NUMBER
        self.clock = Clock(clock)
        self.folder = Path(mkdtemp(prefix="daena-secrets-"))
        self.certificate = certificate()
        self.tokens = Tokens(tokens_clock, self.project_id)
        self.store = Store(self.number, self.clock)
        self.service = Service(self.tokens, self.store, self.project_id, self.number, self.clock)
        self.google = GoogleEndpoint(self.tokens, self.number, FUNCTION)
        self.rest = RestServer(self.service)
        self._server, port = served(self.service, self.certificate)
        self._channels: list[Any] = []
        self.address = f"127.0.0.1:{port}"
        for each in (self.google, self.rest):
            started(each)

    def emptied(self) -> None:
        """As when it was started: nothing stored, nobody restricted, no faults, the clock as it was."""
        self.store.emptied()
        self.service.reset()
        self.clock.ahead = 0.0

    # --- for clients

    def credentials(self, principal: str = SOMEBODY, **options: Any) -> Credential:
        """Credentials of that principal, for a client in this process."""
        return Credential(self.tokens, principal, **options)

    def client(self, principal: str = SOMEBODY, credentials: Any = None) -> Any:
        """The official client, as that principal or with these credentials. Untyped: so that it takes plain dicts."""
        shown = credentials or self.credentials(principal)
        plugin = AuthMetadataPlugin(shown, Request(), default_host=SERVICE)  # type: ignore[no-untyped-call]
        transport = SecretManagerServiceGrpcTransport(channel=self.channel(grpc.metadata_call_credentials(plugin)))
        return SecretManagerServiceClient(transport=transport)

    def channel(self, credentials: Any = None) -> Any:
        """A channel that trusts the certificate; without credentials it shows none. Closed with everything else."""
        trusted = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        both = grpc.composite_channel_credentials(trusted, credentials) if credentials else trusted
        self._channels.append(grpc.secure_channel(self.address, both))
        return self._channels[-1]

    def environment(self, principal: str = "") -> dict[str, str]:
        """What a process needs to find all this: the metadata server, or else a key file of `principal`."""
        return {
            "GCP_PROJECT_ID": self.project_id,
            "GCP_SECRET_MANAGER_ENDPOINT": self.address,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.certificate),
            **({"GOOGLE_APPLICATION_CREDENTIALS": str(self.key_file(principal))} if principal else {}),
            **({} if principal else self.google.metadata_environment()),
        }

    def gcloud_environment(self, principal: str = SOMEBODY) -> dict[str, str]:
        """What gcloud needs to read from here as that principal: a configuration of its own, and a token in a file."""
        token, configuration = self.folder / f"token-{principal}", self.folder / "gcloud"
        configuration.mkdir(exist_ok=True)
        token.write_text(self.tokens.made(principal, lifetime=86_400))
        token.chmod(0o600)
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": self.rest.url + "/",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
            "CLOUDSDK_CONFIG": str(configuration),
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "CLOUDSDK_CORE_PROJECT": self.project_id,
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        }

    def key_file(self, principal: str) -> Path:
        """A key of that service account, in a file."""
        path = self.folder / f"key-{principal}.json"
        path.write_text(json.dumps(self.tokens.key_file(principal)))
        path.chmod(0o600)
        return path

    def close(self) -> None:
        """Stop serving."""
        for channel in self._channels:
            channel.close()
        self._server.stop(None).wait()
        for each in (self.google, self.rest):
            each.shutdown()
            each.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> None:
    """Serve until told to stop."""
    rates, begun = [float(each) for each in sys.argv[1:] if each != "--metadata"], time.time()
    secrets = StrictSecrets(lambda: begun + (time.time() - begun) * (rates[0] if rates else 1.0))
    principal = "" if "--metadata" in sys.argv[1:] else FUNCTION
    variables = {**secrets.environment(principal), **secrets.gcloud_environment(FUNCTION)}
    lines = [secrets.address, *(f"export {name}={value}" for name, value in variables.items())]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
