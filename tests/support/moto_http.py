"""The HTTP side of the AWS double: moto's applications behind a server that keeps connections open.

werkzeug's own handler closes every connection, and waits 10 ms after every reply to drain what a client may still be
sending. Here the request's body is read before the application is called, so nothing is left to drain.
"""

import json
import logging
import socket
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from io import BytesIO
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment
from xml.sax.saxutils import escape

from flask import Flask
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer
from werkzeug.wrappers import Response

from .moto_service import JSON_TYPE

log = logging.getLogger(__name__)

# The services that the double makes strict. Their state changes in several steps in moto, in one step in AWS: one
# request at a time, so that racing writers see what AWS would show them.
LOCKS = {"secretsmanager": threading.RLock(), "kms": threading.RLock(), "s3": threading.RLock()}

NOT_IN_DOUBLE = "NotInDouble"


class Application(DomainDispatcherApplication):
    """moto's dispatcher: quick for the strict services, and loud when something is missing or breaks."""

    def __init__(self) -> None:
        super().__init__(create_backend_app)

    def get_application(self, environ: dict[str, Any]) -> Flask:
        """The application of the service that the request was signed for.

        moto lists its own folder and tries some 200 patterns per request to find it.
        """
        service = signed_for(environ)
        at_its_path = environ["PATH_INFO"].startswith("/v20180820/")  # S3's control plane, signed for s3 as well
        if service not in LOCKS or at_its_path:
            return super().get_application(environ)
        with self.lock:
            if service not in self.app_instances:
                self.app_instances[service] = self.create_app(service)  # type: ignore[arg-type]
            return self.app_instances[service]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request; what the double lacks, and what breaks in it, is an error that no SDK retries."""
        service = signed_for(environ)
        with LOCKS.get(service, nullcontext()):
            try:
                application = self.get_application(environ)
                return application(environ, start_response)
            except Exception as error:
                log.exception("the AWS double cannot answer this request")
                return refusal(environ, error)(environ, start_response)


def signed_for(environ: WSGIEnvironment) -> str:
    """The service in the signature's scope (`Credential=<key>/<date>/<region>/<service>/aws4_request`)."""
    _, _, scope = str(environ.get("HTTP_AUTHORIZATION", "")).partition("Credential=")
    parts = scope.partition(",")[0].split("/")
    return parts[3] if len(parts) > 3 else ""


def refusal(environ: WSGIEnvironment, error: Exception) -> Response:
    """The reply to what the double has not: neither success nor an error that AWS would give."""
    text = f"{type(error).__name__}: {error}"
    if "HTTP_X_AMZ_TARGET" in environ:
        body = json.dumps({"__type": NOT_IN_DOUBLE, "message": text})
        return Response(body, status=501, content_type=JSON_TYPE)
    xml = f"<Error><Code>{NOT_IN_DOUBLE}</Code><Message>{escape(text)}</Message></Error>"
    whole = xml if signed_for(environ) == "s3" else f"<ErrorResponse>{xml}</ErrorResponse>"
    return Response(whole, status=501, content_type="application/xml")


class Handler(MotoRequestHandler):
    """One connection: requests one after another until the client closes it. Silent."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a reply must not wait for the acknowledgement of the one before
    wbufsize = -1  # headers and body leave in one packet

    def run_wsgi(self) -> None:
        """Reads a whole request, answers it, and leaves the connection open."""
        self.environ = environ = self.make_environ()
        if self.headers.get("Expect", "").strip().lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        body = self._body(environ)
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        self._send(Response.from_app(self.server.app, environ, buffered=True))

    def _body(self, environ: WSGIEnvironment) -> bytes:
        if environ.pop("wsgi.input_terminated", False):  # chunked: werkzeug put a decoder there
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            chunked: bytes = environ["wsgi.input"].read()
            return chunked
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # whoever sent it was killed: AWS carries out no half of a request (S3: IncompleteBody)
            raise ConnectionAbortedError("the rest of a request never came")
        return body

    def _send(self, response: Response) -> None:
        body = b"" if self.command == "HEAD" else response.get_data()
        if self.command != "HEAD" and response.status_code not in (204, 304):
            response.headers["Content-Length"] = str(len(body))
        _code, _, reason = response.status.partition(" ")
        self.send_response(response.status_code, reason)
        for name, value in response.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle_expect_100(self) -> bool:
        """`run_wsgi` answers it; http.server would answer a second time."""
        return True

    def log(self, *_args: object) -> None:
        """Says nothing."""


class KeepAliveServer(ThreadedWSGIServer):
    """A thread per connection, and a way to end them all."""

    def __init__(self, port: int, application: Application) -> None:
        self.accepted = 0
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__("127.0.0.1", port, application, handler=Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection and remembers it."""
        connection, address = super().get_request()
        with self._changed:
            self._open.add(connection)
            self.accepted += 1
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection and forgets it."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def close(self) -> None:
        """Stops accepting, ends open connections and waits until their threads have let go of them."""
        self.shutdown()
        with self._changed:
            for connection in self._open:
                _hang_up(connection)
            self._changed.wait_for(lambda: not self._open, timeout=5)
        self.server_close()

    def log(self, *_args: object) -> None:
        """Says nothing."""


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client was first
