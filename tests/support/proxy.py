"""A proxy for HTTP/1.1 between a client and a server, both on loopback, that lets mishaps happen to requests.

A request is read whole, framing and all, before anything is done with it; so is the reply. Each goes to the server on
a connection of its own: a server that closes idle ones is never mistaken for a fault. With a certificate (key and chain
in one PEM file, the server's own) it speaks TLS on both sides.
"""

import contextlib
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from .mishaps import Mishap, Plan

SLOW_BYTES = 20  # so many bytes of a reply trickle
_TIMEOUT_SECONDS = 60
_BODILESS = {b"204", b"304"}
RESET = struct.pack("ii", 1, 0)

Refuse = Callable[[int, str], tuple[str, bytes]]
"""Given a status and what the request was about: content type and body of a refusal, as the service words it."""


class Message(NamedTuple):
    """A request or a reply, byte for byte."""

    head: bytes
    """The first line and the headers, with the empty line."""
    body: bytes
    """As it was sent: what came in chunks is in chunks."""

    @property
    def about(self) -> str:
        """What a request does, for people: method, path without query, and AWS's name of the action."""
        method, target, _ = self.head.split(b"\r\n", 1)[0].split(b" ", 2)
        action = _headers(self.head).get(b"x-amz-target", b"").rpartition(b".")[2]
        return b" ".join(part for part in (method, target.partition(b"?")[0], action) if part).decode("latin-1")


def read_message(stream: IO[bytes], *, bodiless: bool = False) -> Message | None:
    """The next message; None if there is none. Raises ConnectionError if it breaks off."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            if head:
                raise ConnectionError("a message broke off")
            return None
        head += line
    return Message(head, b"" if bodiless else _body(stream, head))


def _headers(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs if name}


def _body(stream: IO[bytes], head: bytes) -> bytes:
    headers = _headers(head)
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        return b"".join(_chunks(stream))
    if b"content-length" in headers:
        return _exactly(stream, int(headers[b"content-length"]))
    is_reply = head.startswith(b"HTTP/")
    return stream.read() if is_reply and head.split(b" ", 2)[1] not in _BODILESS else b""


def _chunks(stream: IO[bytes]) -> list[bytes]:
    found = []
    while True:
        line = stream.readline()
        size = int(line.partition(b";")[0], 16)
        found.append(line)
        if size == 0:
            break
        found.append(_exactly(stream, size + 2))
    while found[-1] not in (b"\r\n", b""):  # trailers, to the empty line
        found.append(stream.readline())
    return found


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ConnectionError("a message broke off")
    return data


def page(status: int, _: str) -> tuple[str, bytes]:
    """A refusal by something in between that is none of the service's."""
    return "text/html", f"<html><body><h1>{status}</h1></body></html>".encode()


class Proxy:
    """Listens on a port of its own until closed."""

    def __init__(
        self, upstream: str, plan: Plan, certificate: Path | None = None, refuse: Refuse = page, port: int = 0
    ) -> None:
        """`upstream` is the server's address; the same path behind it is `url` behind the proxy."""
        parts = urlsplit(upstream)
        self.plan, self.refuse = plan, refuse
        self._address = (str(parts.hostname), int(parts.port or 0))
        self._server_side: ssl.SSLContext | None = None
        self._client_side: ssl.SSLContext | None = None
        if certificate:
            self._server_side, self._client_side = contexts(certificate)
        self._server = _Server(port, self._serve)
        self.url = f"{parts.scheme}://127.0.0.1:{self._server.server_address[1]}{parts.path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening. What is under way ends by itself."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, connection: socket.socket) -> None:
        """One client's connection: request after request."""
        with contextlib.ExitStack() as opened:
            client = opened.enter_context(_Client(connection, self._server_side))
            while (request := read_message(client.reads)) is not None:
                if not self._answered(client, request, self.plan.next(request.about)):
                    return

    def _answered(self, client: "_Client", request: Message, mishap: Mishap | None) -> bool:
        """Whether the connection stays open."""
        kind = mishap.kind if mishap is not None else ""
        if kind == "reset_before":
            client.reset()
            return False
        if kind == "late":
            self.plan.keep(lambda: self._carried_out(request))
            return False
        if mishap is not None and kind in ("status", "foreign"):
            client.send(self._refusal(request, mishap))
            return True
        reply = self._carried_out(request)
        if kind.startswith("duplicate"):
            second = self._carried_out(request)
            reply = second if kind == "duplicate" else reply
        if mishap is None or kind.startswith("duplicate"):
            client.send(reply.head + reply.body)
            return _stays_open(request, reply)
        return self._spoiled(client, reply, mishap)

    def _spoiled(self, client: "_Client", reply: Message, mishap: Mishap) -> bool:
        whole = reply.head + reply.body
        match mishap.kind:
            case "delay":
                time.sleep(mishap.seconds)
                client.send(whole)
            case "loris":
                for place in range(SLOW_BYTES):
                    client.send(whole[place : place + 1])
                    time.sleep(mishap.seconds / SLOW_BYTES)
                client.send(whole[SLOW_BYTES:])
            case "half":
                sent = len(reply.head) + len(reply.body) // 2 if len(reply.body) > 1 else len(reply.head) // 2
                client.send(whole[:sent])
            case "reset_after":
                client.reset()
            case "drop_reply":
                pass
            case other:
                raise ValueError(f"there is no mishap {other!r}")
        return False

    def _refusal(self, request: Message, mishap: Mishap) -> bytes:
        kind, body = self.refuse(mishap.status, request.about)
        if mishap.kind == "foreign":
            kind, body = "text/html", b"<html><pre>" + request.body + b"</pre></html>"
        head = [f"HTTP/1.1 {mishap.status} Refused", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        if mishap.retry_after:
            milliseconds = int(float(mishap.retry_after) * 1000)  # AWS has a header of its own
            head += [f"Retry-After: {mishap.retry_after}", f"x-amz-retry-after: {milliseconds}"]
        return "\r\n".join([*head, "", ""]).encode() + (b"" if request.head.startswith(b"HEAD ") else body)

    def _carried_out(self, request: Message) -> Message:
        """The server's reply."""
        with socket.create_connection(self._address, _TIMEOUT_SECONDS) as plain, self._secured(plain) as connection:
            connection.sendall(request.head + request.body)
            with connection.makefile("rb") as reads:
                reply = read_message(reads, bodiless=request.head.startswith(b"HEAD "))
        if reply is None:
            raise ConnectionError("the server closed the connection without a reply")
        return reply

    def _secured(self, connection: socket.socket) -> socket.socket:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._client_side.wrap_socket(connection) if self._client_side else connection


def _stays_open(request: Message, reply: Message) -> bool:
    closing = (_headers(message.head).get(b"connection", b"").lower() == b"close" for message in (request, reply))
    return not any(closing)


def contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS as the server with that certificate, and as its client."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # an address on loopback
    client.load_verify_locations(certificate)
    return server, client


class _Client:
    """A client's end of a connection."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(connection, server_side=True) if context else connection
        self.reads = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        """All of it."""
        self._socket.sendall(data)

    def reset(self) -> None:
        """End it so that the client is told of a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.reads.close()
        self._socket.close()


class _Server(socketserver.ThreadingTCPServer):
    """A thread per connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        super().__init__(("127.0.0.1", port), socketserver.BaseRequestHandler)

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """In a thread of its own."""
        with contextlib.suppress(OSError):  # a client that went away, as it may
            self._serve(request)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """The base class would say goodbye first: then there is no reset."""
        request.close()
