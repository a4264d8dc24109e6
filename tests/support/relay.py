"""A relay for HTTP/2 over TLS between a gRPC client and its server, on loopback, that lets mishaps happen to calls.

It passes frames on as they are and reads of them no more than their nine bytes of header (RFC 9113, section 4.1): a
call is a stream that the client opens. So a reply is lost, halved or late on the wire, with everything that gRPC makes
of that. What takes an understanding of the call is left to the server's double (`inside`): to carry it out twice, or
later.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from .mishaps import Mishap, Plan
from .proxy import RESET, SLOW_BYTES, contexts

PREFACE = 24  # bytes that every client says first
DATA, HEADERS, RESET_STREAM = 0x0, 0x1, 0x3
END_STREAM, END_HEADERS = 0x1, 0x4
CANCEL = 0x8
INSIDE = {"duplicate", "duplicate_first", "late"}
_CODES = {429: "8", 500: "13", 503: "14"}  # google/rpc/code.proto: RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE
_SPOILED = {"drop_reply", "reset_after", "delay", "half", "loris"}


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def whole(self) -> bytes:
        """As it goes over the wire."""
        length = struct.pack(">I", len(self.payload))[1:]
        return length + struct.pack(">BBI", self.kind, self.flags, self.stream) + self.payload

    @property
    def last(self) -> bool:
        """Whether its sender has nothing more to say on this stream."""
        ends = self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)
        return ends or self.kind == RESET_STREAM


async def read_frame(reads: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end, or where one breaks off."""
    try:
        head = await reads.readexactly(9)
        kind, flags, number = struct.unpack(">BBI", head[3:])
        payload = await reads.readexactly(int.from_bytes(head[:3], "big"))
    except (asyncio.IncompleteReadError, OSError):
        return None
    return Frame(kind, flags, number & 0x7FFF_FFFF, payload)


class Relay:
    """Listens on a port of its own until closed, in a thread of its own."""

    def __init__(
        self, upstream: str, plan: Plan, certificate: Path, inside: Callable[[Mishap | None], object], port: int = 0
    ) -> None:
        """`upstream` is the server's host:port. `inside` is told of each call before the server sees it."""
        host, _, at = upstream.rpartition(":")
        self.plan, self.inside = plan, inside
        self.upstream = (host, int(at))
        server_side, self.client_side = contexts(certificate)
        for context in (server_side, self.client_side):
            context.set_alpn_protocols(["h2"])
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", port, ssl=server_side, backlog=128)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Stop listening, and end what is under way."""
        asyncio.run_coroutine_threadsafe(self._ended(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ended(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for writes in self._open:
            writes.transport.abort()
        await asyncio.sleep(0.01)  # the sockets are closed by what is called soon

    async def _serve(self, reads: asyncio.StreamReader, writes: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("asyncio serves each connection in a task")
        self._connections.add(task)
        try:
            server = await asyncio.open_connection(*self.upstream, ssl=self.client_side)
            self._open |= {writes, server[1]}
            await _Connection(self, (reads, writes), server).pass_on()
        except (OSError, asyncio.CancelledError):  # one end went away, as it may, or the relay closes
            writes.transport.abort()
        finally:
            self._connections.discard(task)


End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """One client's connection, and ours to the server."""

    def __init__(self, relay: Relay, client: End, server: End) -> None:
        self._relay, self._client, self._server = relay, client, server
        self._mishaps: dict[int, Mishap] = {}
        self._opened = 0
        self._begun: set[int] = set()

    async def pass_on(self) -> None:
        """Frames of both, until one of them goes."""
        both = [asyncio.create_task(self._requests()), asyncio.create_task(self._replies())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for _, writes in (self._client, self._server):
                writes.close()

    async def _requests(self) -> None:
        reads, _ = self._client
        _, server = self._server
        server.write(await reads.readexactly(PREFACE))
        while (frame := await read_frame(reads)) is not None:
            if frame.kind == HEADERS and frame.stream > self._opened:
                self._opened = frame.stream
                if self._next(frame) == "reset_before":
                    self._reset()
                    return
            self._request(frame)
            await server.drain()

    def _next(self, frame: Frame) -> str:
        mishap = self._relay.plan.next("gRPC")
        inside = mishap is not None and mishap.kind in INSIDE
        self._relay.inside(mishap if inside else None)
        if mishap is not None and not inside:
            self._mishaps[frame.stream] = mishap
        return mishap.kind if mishap is not None else ""

    def _request(self, frame: Frame) -> None:
        mishap, (_, server) = self._mishaps.get(frame.stream), self._server
        if mishap is None or mishap.kind in _SPOILED:
            server.write(frame.whole)
        elif frame.kind == HEADERS:
            # They must get through, for what they do to the connection's compression; without data nothing is called.
            server.write(frame._replace(flags=frame.flags & ~END_STREAM).whole)
            server.write(Frame(RESET_STREAM, 0, frame.stream, struct.pack(">I", CANCEL)).whole)
            _, client = self._client
            client.write(Frame(HEADERS, END_HEADERS | END_STREAM, frame.stream, _refusal(mishap)).whole)

    async def _replies(self) -> None:
        (reads, _), (_, client) = self._server, self._client
        while (frame := await read_frame(reads)) is not None:
            mishap = self._mishaps.get(frame.stream)
            if mishap is None:
                client.write(frame.whole)
            elif not await self._spoiled(frame, mishap):
                return
            await client.drain()

    async def _spoiled(self, frame: Frame, mishap: Mishap) -> bool:
        """A frame of a reply to which something happens; whether the connection stays open."""
        _, client = self._client
        match mishap.kind:
            case "delay":
                if frame.kind == HEADERS and not self._told(frame):
                    await asyncio.sleep(mishap.seconds)
                client.write(frame.whole)
            case "loris":
                slow = SLOW_BYTES if frame.kind == HEADERS and not self._told(frame) else 0
                for place in range(slow):
                    client.write(frame.whole[place : place + 1])
                    await asyncio.sleep(mishap.seconds / SLOW_BYTES)
                client.write(frame.whole[slow:])
            case "half" if frame.kind == DATA or frame.last:
                client.write(frame.whole[: 9 + len(frame.payload) // 2])
                return False
            case "half":
                client.write(frame.whole)
            case "drop_reply" if frame.last:
                return False
            case "reset_after" if frame.last:
                self._reset()
                return False
        return True

    def _told(self, frame: Frame) -> bool:
        """Whether this reply had begun before that frame."""
        told, self._begun = frame.stream in self._begun, self._begun | {frame.stream}
        return told

    def _reset(self) -> None:
        """End it so that the client is told of a reset."""
        _, client = self._client
        client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.transport.abort()


def _refusal(mishap: Mishap) -> bytes:
    """The header block of a refusal.

    A plain one is as the service says it, in `grpc-status`. gRPC has no Retry-After: a refusal with one, and a foreign
    one, are HTTP's alone, as from something in front of the service.
    """
    code = _CODES.get(mishap.status)
    if mishap.kind == "status" and not mishap.retry_after and code is not None:
        fields = {"content-type": "application/grpc", "grpc-status": code, "grpc-message": "try again"}
        return _literals({":status": "200"} | fields)
    fields = {"retry-after": mishap.retry_after} if mishap.retry_after else {}
    return _literals({":status": str(mishap.status), "content-type": "text/html"} | fields)


def _literals(fields: Mapping[str, str]) -> bytes:
    """Names and values in full, in no table (RFC 7541, section 6.2.2); none has more than 126 bytes."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
