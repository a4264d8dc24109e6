"""A vault behind HTTPS: the challenge, tokens, per-principal data actions, routes; and somebody in between."""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .vault_secrets import NAME, VERSION, Secrets, VaultError
from .vault_tokens import TENANT, Tokens

API_VERSIONS = {"7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"}


@dataclass(frozen=True)
class Asked:
    """One request that somebody may make: what it does, on what, and the data action that it takes."""

    method: str
    name: str
    version: str
    action: str
    body: Mapping[str, Any]
    principal: str = ""


@dataclass(frozen=True)
class Answer:
    """A status, a document, and headers of its own."""

    status: int
    document: Mapping[str, Any] | None
    headers: Mapping[str, str] = field(default_factory=dict)


Between = Callable[[Asked, Callable[[], Answer]], Answer | None]
_ROUTES = [
    ("PUT", r"/secrets/([^/]+)/?", "setSecret"),
    ("GET", r"/secrets/([^/]+)/versions/?", "readMetadata"),
    ("GET", r"/secrets/([^/]+)/?([^/]*)/?", "getSecret"),
    ("PATCH", r"/secrets/([^/]+)/?([^/]*)/?", "update"),
    ("GET", r"/secrets/?", "readMetadata"),
    ("DELETE", r"/secrets/([^/]+)/?", "delete"),
    ("POST", r"/deletedsecrets/([^/]+)/recover/?", "recover"),
    ("DELETE", r"/deletedsecrets/([^/]+)/?", "purge"),
]
_COMPILED = [(method, re.compile(pattern), action) for method, pattern, action in _ROUTES]


class JsonHandler(BaseHTTPRequestHandler):
    """Answers with JSON documents, and logs nothing: a log of requests would hold secrets."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Silent."""

    def say(self, status: int, document: dict[str, Any]) -> None:
        """The reply, whole."""
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class VaultServer(ThreadingHTTPServer):
    """One vault on one port. `between` sees each request that is let in, and may do otherwise; None breaks it off."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, tokens: Tokens, clock: Callable[[], float], context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = tokens
        self.url = f"https://127.0.0.1:{self.server_port}"
        # The client takes only a resource of which its vault's host is a part, and a double has no domain of Azure's.
        self.audience = f"https://0.0.1:{self.server_port}"
        self.tenant = TENANT  # that of the challenge
        self.secrets = Secrets(self.url, clock)
        self.context = context
        self.allowed: dict[str, set[str]] = {}
        """Principal -> data actions. Who is not named may do everything."""
        self.calls: list[Asked] = []
        self.between: Between = plain

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def answer(self, asked: Asked, query: Mapping[str, str]) -> Answer:
        """What the vault says to a request that is let in."""
        try:
            return Answer(200, self._carried_out(asked, query)) if asked.action != "purge" else self._purged(asked)
        except VaultError as refusal:
            return Answer(refusal.status, refusal.body)

    def _purged(self, asked: Asked) -> Answer:
        self.secrets.purge(asked.name)
        return Answer(204, None)

    def _carried_out(self, asked: Asked, query: Mapping[str, str]) -> dict[str, Any]:
        secrets, most = self.secrets, min(int(query.get("maxresults", "25")), 25)
        after = query.get("$skiptoken", "")
        match asked.action:
            case "setSecret":
                return secrets.put(asked.name, dict(asked.body))
            case "getSecret":
                return secrets.get(asked.name, asked.version)
            case "update":
                return secrets.patch(asked.name, asked.version, dict(asked.body))
            case "delete":
                return secrets.delete(asked.name)
            case "recover":
                return secrets.recover(asked.name)
        return secrets.versions(asked.name, after, most) if asked.name else secrets.listed(after, most)


def plain(_: Asked, answer: Callable[[], Answer]) -> Answer:
    """Nobody in between."""
    return answer()


class _Handler(BaseHTTPRequestHandler):
    server: VaultServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 120

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Silent: a log of requests would hold tokens."""

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_PATCH = do_POST = do_DELETE = do_GET  # noqa: N815  # the names that the base class looks for

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self._let_in(body)
        if answer is None:  # broken off: the client does not learn what was done
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = json.dumps(answer.document).encode() if answer.document is not None else b""
        self.send_response(answer.status)
        if content:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if "Content-Length" in answer.headers:
            self.close_connection = True

    def _let_in(self, body: bytes) -> Answer | None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        principal = self.server.tokens.principal(token, self.server.audience) if token else ""
        if not principal:
            return self._challenge()
        if query.get("api-version") not in API_VERSIONS:
            return _refusal(400, "BadParameter", "The specified version is not supported.")
        asked = _asked(self.command, parts.path, body, principal)
        if isinstance(asked, Answer):
            return asked
        self.server.calls.append(asked)
        if asked.action not in self.server.allowed.get(principal, {asked.action}):
            return _refusal(403, "Forbidden", _denied(asked), "ForbiddenByRbac")
        return self.server.between(asked, lambda: self.server.answer(asked, query))

    def _challenge(self) -> Answer:
        authority = f'authorization="https://login.microsoftonline.com/{self.server.tenant}"'
        header = {"WWW-Authenticate": f'Bearer {authority}, resource="{self.server.audience}"'}
        refusal = _refusal(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.")
        return Answer(refusal.status, refusal.document, header)


def _asked(method: str, path: str, body: bytes, principal: str) -> Asked | Answer:
    for verb, pattern, action in _COMPILED:
        if verb == method and (found := pattern.fullmatch(path)):
            name, version = (*found.groups(), "", "")[:2]
            if name and not NAME.fullmatch(name):
                return _refusal(400, "BadParameter", f"The request URI contains an invalid name: {name}")
            if version and not VERSION.fullmatch(version):
                return _refusal(400, "BadParameter", f"The request URI contains an invalid version: {version}")
            try:
                document = json.loads(body or b"{}")
            except ValueError:
                return _refusal(400, "BadParameter", "The request body is no JSON.")
            return Asked(method, name, version, action, document, principal)
    return _refusal(501, "NotImplemented", f"This double does not have {method} {path}.")


def _denied(asked: Asked) -> str:
    """As the service words it (Commercial-Marketplace-SaaS-Accelerator issue 710, Terraform_AKS issue 2)."""
    action = f"Microsoft.KeyVault/vaults/secrets/{asked.action}" + "/action" * (asked.action != "delete")
    vault = "/subscriptions/s/resourcegroups/g/providers/microsoft.keyvault/vaults/the-vault"
    later = "If role assignments, deny assignments or role definitions were changed recently, please observe"
    lines = (
        "Caller is not authorized to perform action on resource.",
        f"{later} propagation time.",
        f"Caller: appid={asked.principal};oid={asked.principal};iss=https://sts.windows.net/{TENANT}/",
        f"Action: '{action}'",
        f"Resource: '{vault}" + (f"/secrets/{asked.name}'" if asked.name else "'"),
        "Assignment: (not found)",
        "DenyAssignmentId: null",
        "DecisionReason: null ",
        "Vault: the-vault;location=westeurope",
    )
    return "\r\n".join([*lines, ""])


def _refusal(status: int, code: str, message: str, inner: str = "") -> Answer:
    return Answer(status, VaultError(status, code, message, inner).body)


def started(server: ThreadingHTTPServer) -> threading.Thread:
    """Serve in the background."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    return thread
