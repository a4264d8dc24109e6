"""A cloud's doubles behind proxies: whoever asks for their addresses is told the proxies', until that is taken back."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol
from unittest import mock

import botocore.endpoint
from botocore.retries.bucket import TokenBucket

from daena_kms.stores.aws_calls import Aws
from daena_kms.stores.azure_ledger import BlobLedger
from daena_kms.stores.gcp_ledger import GcsLedger
from tests.support import aws_world, azure_world, gcp_world
from tests.support.gsm_errors import GoogleError
from tests.support.mishaps import Mishap, Plan
from tests.support.proxy import Proxy
from tests.support.relay import Relay
from tests.support.worlds import Backend

_LONGEST_PAUSE = 0.02  # of those that botocore makes, which are its own and take seconds


class Site(Protocol):
    """One cloud behind proxies that share a plan."""

    provider: str
    plan: Plan
    direct: dict[str, str]
    """What leads a process to the secrets past the proxies."""

    def emptied(self) -> None:
        """As if nothing had been done there."""

    def backend(self, seconds: float) -> Backend:
        """New clients, as a new process has them, with that call timeout."""

    def released(self) -> None:
        """The connections of all clients so far are closed."""

    def close(self) -> None:
        """Nothing lies in between any more."""


class AwsSite:
    """One proxy: a client's endpoint is one for all services."""

    provider = "aws"

    def __init__(self, plan: Plan) -> None:
        self.plan, self._account = plan, aws_world.account()
        self._made: dict[float, Backend] = {}
        self.direct = {"AWS_ENDPOINT_URL": self._account.server.url}
        self._undo = ExitStack()
        proxy = Proxy(self._account.server.url, plan, refuse=_aws)
        self._undo.callback(proxy.close)
        self._undo.enter_context(mock.patch.object(self._account.server, "url", proxy.url))
        self._undo.enter_context(mock.patch.dict(os.environ, AWS_ENDPOINT_URL=proxy.url))
        self._undo.enter_context(mock.patch.object(self._account, "aws", self._account.aws))
        self._undo.enter_context(mock.patch.object(botocore.endpoint, "time", _Hurried))
        self._undo.enter_context(mock.patch.object(TokenBucket, "acquire", _at_once))

    def emptied(self) -> None:
        aws_world.emptied()
        self._made.clear()

    def backend(self, seconds: float) -> Backend:
        """As a function has them that is warm: botocore takes a tenth of a second to make a client."""
        if seconds not in self._made:
            timeout = timedelta(seconds=seconds)
            self._account.aws = Aws(region=aws_world.REGION, profile="", call_timeout=timeout, concurrency=16)
            self._made[seconds] = Backend(self._account.store(), self._account.ledger())
        return self._made[seconds]

    def released(self) -> None:
        self._made.clear()

    def close(self) -> None:
        self._undo.close()


class _Hurried:
    """botocore's `time`, for pauses between attempts."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """Not for long."""
        _SLEEP(min(seconds, _LONGEST_PAUSE))


def _at_once(_: TokenBucket, amount: int = 1, block: bool = True) -> bool:
    """In place of waiting for one's turn, after a reply that said "too many"."""
    return True


_SLEEP: Callable[[float], None] = botocore.endpoint.time.sleep


class AzureSite:
    """A proxy before the vault, one before the blobs."""

    provider = "azure"

    def __init__(self, plan: Plan) -> None:
        self.plan, self._account = plan, azure_world.account()
        self._undo = ExitStack()
        vault, blobs = self._account.vault, self._account.blobs
        self.direct = {"AZURE_KEY_VAULT_URL": vault.url}
        proxies = [Proxy(vault.url, plan, vault.certificate, _vault), Proxy(blobs.url, plan, vault.certificate, _blobs)]
        for each in proxies:
            self._undo.callback(each.close)
        # What the client takes for the vault's own resource, see `vault_http`.
        audience = proxies[0].url.replace("127.0.0.1", "0.0.1")
        self._undo.enter_context(mock.patch.multiple(vault.server, url=proxies[0].url, audience=audience))
        self._undo.enter_context(mock.patch.object(vault.server.secrets, "url", proxies[0].url))
        self._undo.enter_context(mock.patch.object(blobs, "url", proxies[1].url))
        self._undo.callback(self._account.empty)

    def emptied(self) -> None:
        self._account.empty()

    def backend(self, seconds: float) -> Backend:
        ledger = BlobLedger(self._account.azure(seconds=seconds), self._account.manifests)
        return Backend(self._account.store(seconds=seconds), ledger)

    def released(self) -> None:
        """The SDK closes them when a client is forgotten."""

    def close(self) -> None:
        # What empties the account comes last, when its addresses are its own again.
        self._undo.close()


class GcpSite:
    """A relay before Secret Manager, a proxy before Cloud Storage."""

    provider = "gcp"

    def __init__(self, plan: Plan) -> None:
        self.plan, self._project = plan, gcp_world.project()
        self._undo = ExitStack()
        secrets, storage = self._project.secrets, self._project.storage
        self.direct = {"GCP_SECRET_MANAGER_ENDPOINT": secrets.address}
        self._inside: Mishap | None = None
        relay = Relay(secrets.address, plan, secrets.certificate, self._to_do)
        proxy = Proxy(storage.url, plan, refuse=_google)
        for each in (relay, proxy):
            self._undo.callback(each.close)
        self._undo.enter_context(mock.patch.object(secrets, "address", relay.address))
        self._undo.enter_context(mock.patch.object(storage, "url", proxy.url, create=True))
        self._undo.enter_context(mock.patch.dict(os.environ, STORAGE_EMULATOR_HOST=proxy.url))
        self._answer = secrets.service.answer
        self._undo.enter_context(mock.patch.object(secrets.service, "answer", self._answered))
        self._stores: list[Any] = []

    def emptied(self) -> None:
        gcp_world.emptied()

    def backend(self, seconds: float) -> Backend:
        ledger = GcsLedger(self._project.gcp(seconds=seconds), self._project.manifests)
        made: list[Any] = []

        def kept(secrets: Any) -> Any:
            made.append(secrets)
            return secrets

        store = self._project.store(kept, seconds=seconds)
        self._stores += made
        return Backend(store, ledger)

    def released(self) -> None:
        for secrets in self._stores:
            secrets._client.transport.close()
        self._stores.clear()

    def close(self) -> None:
        self.released()
        self._undo.close()

    def _to_do(self, mishap: Mishap | None) -> None:
        self._inside = mishap

    def _answered(self, rpc: str, request: Any, authorization: str) -> Any:
        mishap, self._inside = self._inside, None
        named = request.secret.name if rpc == "UpdateSecret" else getattr(request, "name", "") or request.parent
        self.plan.name("gRPC", f"{rpc} {named.rpartition('/')[2]}")

        def carried() -> Any:
            return self._answer(rpc, request, authorization)

        if mishap is None:
            return carried()
        if mishap.kind == "late":
            self.plan.keep(lambda: _ignoring(carried))
            raise GoogleError("UNAVAILABLE", "Socket closed")
        first = carried()
        if mishap.kind == "duplicate":
            return carried()
        _ignoring(carried)
        return first


def _ignoring(carried: Callable[[], Any]) -> None:
    """Whether it is refused, nobody learns."""
    with suppress(GoogleError):
        carried()


def _aws(status: int, about: str) -> tuple[str, bytes]:
    """As AWS words it: JSON to who names an action in a header, XML to who speaks to S3."""
    code = {429: "ThrottlingException", 503: "ServiceUnavailableException"}.get(status, "InternalServiceError")
    if len(about.split(" ")) > 2:
        return "application/x-amz-json-1.1", json.dumps({"__type": code, "message": "try again"}).encode()
    code = {429: "SlowDown", 503: "SlowDown"}.get(status, "InternalError")
    return "application/xml", f"<Error><Code>{code}</Code><Message>try again</Message></Error>".encode()


def _vault(status: int, _: str) -> tuple[str, bytes]:
    code = {429: "Throttled", 503: "ServiceUnavailable"}.get(status, "InternalServerError")
    return "application/json", json.dumps({"error": {"code": code, "message": "try again"}}).encode()


def _blobs(status: int, _: str) -> tuple[str, bytes]:
    code = {429: "ServerBusy", 503: "ServerBusy"}.get(status, "InternalError")
    xml = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>try again</Message></Error>'
    return "application/xml", xml.encode()


def _google(status: int, _: str) -> tuple[str, bytes]:
    reason = {429: "rateLimitExceeded", 503: "backendError"}.get(status, "internalError")
    error = {"code": status, "message": "try again", "errors": [{"reason": reason, "message": "try again"}]}
    return "application/json", json.dumps({"error": error}).encode()


SITES: dict[str, Callable[[Plan], Site]] = {"aws": AwsSite, "azure": AzureSite, "gcp": GcpSite}


@contextmanager
def behind(provider: str) -> Iterator[Site]:
    """That cloud behind proxies, for a block."""
    site = SITES[provider](Plan())
    try:
        yield site
    finally:
        site.close()
