"""The reads of the service as JSON over HTTP, for clients that are no gRPC clients, gcloud among them.

Sources: the `google.api.http` annotations in `secretmanager/v1/service.proto`; `recorded-replies.md` for the shape of
replies and errors. What writes is not there: 501.
"""

import json
import re
import socket
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from google.protobuf import json_format

from .gsm_errors import GoogleError, invalid, lacking
from .gsm_service import METHODS, Service

_ROUTES = [
    (re.compile(r"/v1/(projects/[^/]+/secrets/[^/]+/versions/[^/:]+):access"), "AccessSecretVersion", "name"),
    (re.compile(r"/v1/(projects/[^/]+/secrets/[^/]+/versions/[^/:]+)"), "GetSecretVersion", "name"),
    (re.compile(r"/v1/(projects/[^/]+/secrets/[^/]+)/versions"), "ListSecretVersions", "parent"),
    (re.compile(r"/v1/(projects/[^/]+/secrets/[^/:]+)"), "GetSecret", "name"),
    (re.compile(r"/v1/(projects/[^/]+)/secrets"), "ListSecrets", "parent"),
]
_SYSTEM = {"alt", "$alt", "prettyPrint", "$prettyPrint", "quotaUser", "$.xgafv"}


class RestServer(ThreadingHTTPServer):
    """On a port of its own, plain HTTP."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: Service) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = service
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def answer(self, path: str, query: Mapping[str, str], authorization: str) -> dict[str, Any]:
        """The document for a GET."""
        for route, rpc, field in _ROUTES:
            if found := route.fullmatch(path):
                request = _request(rpc, field, unquote(found[1]), query)
                integers = "enum-encoding=int" in query.get("$alt", "")
                reply = self.service.answer(rpc, request, authorization)
                document: dict[str, Any] = json_format.MessageToDict(reply, use_integers_for_enums=integers)
                return document
        raise lacking(f"GET {path}")


def _request(rpc: str, field: str, name: str, query: Mapping[str, str]) -> Any:
    wanted = {**{key: value for key, value in query.items() if key not in _SYSTEM}, field: name}
    request = METHODS[rpc].request()
    try:
        return json_format.ParseDict(wanted, request)
    except json_format.ParseError as problem:
        raise invalid(f"Invalid JSON payload received. {problem}") from problem


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 120

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Silent."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        try:
            self._say(200, self.server.answer(parts.path, query, self.headers.get("Authorization", "")))
        except GoogleError as refusal:
            self._say(*refusal.http)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._say(*lacking(f"{self.command} over REST").http)

    do_PATCH = do_DELETE = do_PUT = do_POST  # noqa: N815  # the names that the base class looks for

    def _say(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        if status == 401:
            self.send_header("WWW-Authenticate", 'Bearer realm="https://accounts.google.com/"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
