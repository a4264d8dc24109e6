"""The function's bundle on the AWS double: a policy, processes of the real runtime client, and a gate before the double
that notes every request of theirs, and can hold one up.
"""

import atexit
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from daena_kms import app, names
from daena_kms.holdings import location
from daena_kms.manifest import History
from daena_kms.material import KeyMaterial
from daena_kms.model import utc_now
from daena_kms.names import RESERVED_KEY
from daena_kms.service import Service
from daena_kms.settings import read_settings
from tests.infra.bundles import host_bundle
from tests.support.aws_world import BUCKET, PREFIX, account, emptied
from tests.support.lambda_runtime import Function
from tests.support.moto_http import Application, KeepAliveServer, signed_for

KEY, BILLING = "daena-encryption-key", "billing-key"
POLICY = f"""
[defaults]
create = true

[keys.{KEY}]
[keys.{BILLING}]
"""
POLICY_OBJECT = "policy/daena-kms.toml"
RESERVED_SECRET = names.secret_name(PREFIX, RESERVED_KEY)
HANDLER = "handler.lambda_handler"
SERVICE = "keys"


class Request(NamedTuple):
    """One request to the double."""

    service: str
    action: str
    """In AWS's spelling; the HTTP method for S3."""
    subject: str
    """The secret, the KMS key, or bucket and object."""

    @property
    def writes(self) -> bool:
        """True if something is another afterwards. KMS is asked for nothing that changes it."""
        return self.service in ("s3", "secretsmanager") and not self.action.startswith(("GET", "Get", "List", "Desc"))


class Gate(Application):
    """Another port of the account's double. What comes through it is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.before: Callable[[Request], object] = lambda _: None
        """Called before a request is answered, in a thread of the double."""
        self._server = KeepAliveServer(0, self)
        self.url = f"http://127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="gate", daemon=True).start()
        atexit.register(self._server.close)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Note a request, then have it answered."""
        request = _read(environ)
        self.requests.append(request)
        self.before(request)
        return super().__call__(environ, start_response)

    def forget(self) -> None:
        """Forget what was noted, and hold up nothing."""
        self.requests, self.before = [], lambda _: None

    def count(self, action: str, subject: str = "") -> int:
        """How many requests there were of that kind."""
        return sum(r.action == action and r.subject.endswith(subject) for r in self.requests)


def _read(environ: WSGIEnvironment) -> Request:
    body = environ["wsgi.input"].read()
    environ["wsgi.input"] = BytesIO(body)
    service = signed_for(environ)
    if target := environ.get("HTTP_X_AMZ_TARGET", ""):
        asked = json.loads(body)
        return Request(service, target.partition(".")[2], str(asked.get("SecretId") or asked.get("Name") or ""))
    if service == "s3":
        return Request(service, environ["REQUEST_METHOD"], environ["PATH_INFO"])
    return Request(service, parse_qs(body.decode())["Action"][0], "")


@cache
def gate() -> Gate:
    """The gate of this process."""
    return Gate()


@cache
def _clouds() -> app.Clouds:
    return app.Clouds(read_settings(account().environment()))


class Scene:
    """An account in which nothing was done yet but the policy put where it belongs."""

    def __init__(self) -> None:
        self.account = emptied()
        self.gate = gate()
        self.gate.forget()
        self._functions: list[Function] = []
        self.write_policy(POLICY)

    def write_policy(self, text: str) -> None:
        """Put the policy file beside the manifests."""
        self.s3("put_object", Body=text.encode())

    def s3(self, operation: str, **more: object) -> None:
        """Call an operation on the policy's object."""
        self.account.aws.client("s3").call(operation, POLICY_OBJECT, Bucket=BUCKET, Key=POLICY_OBJECT, **more)

    def environment(self, settings: Mapping[str, str] = {}) -> dict[str, str]:
        """What the function is deployed with, `settings` in its place."""
        deployed = {
            "AWS_ENDPOINT_URL": self.gate.url,
            "DAENA_POLICY": f"s3://{BUCKET}/{POLICY_OBJECT}",
            "DAENA_PUBLIC_KEY": "",
            "DAENA_TICK_MINUTES": "60",
            "POWERTOOLS_LOG_LEVEL": "INFO",
            "POWERTOOLS_METRICS_NAMESPACE": "DaenaKms",
            "POWERTOOLS_SERVICE_NAME": SERVICE,
        }
        return {**self.account.environment(), **deployed, **settings}

    def function(
        self, settings: Mapping[str, str] = {}, handler: str = HANDLER, layers: Sequence[Path] = ()
    ) -> Function:
        """The function, without a process yet."""
        self._functions.append(Function(host_bundle(), handler, self.environment(settings), layers))
        return self._functions[-1]

    def close(self) -> None:
        """End every process."""
        self.gate.forget()
        for function in self._functions:
            function.close()

    # --- the same account, from this process, past the gate

    def opened(self) -> Service:
        """What a person with the command has."""
        settings, clouds = read_settings(self.environment()), _clouds()
        connection = app.connect(settings, trigger="test", makes=True, clouds=clouds)
        policy = app.load_policy(settings, clouds)
        return app.serve(connection, settings, policy, trigger="test", budget_seconds=None)

    def imported(self, key: str, material: bytes, days: int = 400) -> None:
        """Take in a key that has been in use for so many days."""
        self.opened().import_key(key, KeyMaterial(material), created=utc_now() - timedelta(days=days))

    def active(self) -> dict[str, int]:
        """The number of every key's active version; nothing may be open or wrong."""
        service = self.opened()
        assert [audit for audit in service.verify() if audit.problems or audit.warnings] == []
        standing = service.status()
        assert [key for key in standing if key.in_progress] == []
        return {key.key: key.active for key in standing if key.active}

    def materials(self) -> list[bytes]:
        """What signs the manifests, then the material of every version that they tell of."""
        service = self.opened()
        store, ledger = service.tools.store, service.journal.ledger
        found = [store.read(RESERVED_KEY, version) for version in store.observe(RESERVED_KEY).versions]
        for key in ledger.names():
            if key != RESERVED_KEY:
                records = History(service.journal.history(key)).versions.values()
                found += [store.read(key, location(record)) for record in records]
        return [material.reveal() for material in found]


def figures(lines: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The one embedded metrics document among the lines, or nothing."""
    found = [line for line in lines if "_aws" in line]
    assert len(found) <= 1
    return found[0] if found else {}
