"""The proxies do to requests what they say; the short campaign finds nothing; a store that puts blindly is found."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPICallError, ResourceExhausted, ServiceUnavailable, Unknown
from google.api_core.retry import Retry, if_exception_type

from daena_kms.stores import azure_secrets
from tests.faults.replies.cases import Lab
from tests.faults.replies.sites import behind
from tests.faults.units import Room
from tests.support import gcp_world
from tests.support.mishaps import KINDS, Mishap, Plan, at
from tests.support.proxy import Proxy
from tests.support.strict_secrets import PROJECT_ID, SOMEBODY

BODY = b"a reply of some length, which is told whole or in half"


class Counting(BaseHTTPRequestHandler):
    """Counts what it carries out. Answers in chunks where the path says so."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Silent."""

    def do_POST(self) -> None:  # its name there
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.carried_out.append(sent)  # type: ignore[attr-defined]
        self.send_response(200)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
        else:
            told = BODY + str(len(self.server.carried_out)).encode()  # type: ignore[attr-defined]
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)


class Between:
    """A server that counts, a proxy before it, and a client that waits for half a second."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
        self.server.carried_out = self.carried_out = []  # type: ignore[attr-defined]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.plan = Plan()
        self.proxy = Proxy(f"http://127.0.0.1:{self.server.server_port}", self.plan)

    carried_out: list[bytes]

    def ask(self, path: str = "/") -> tuple[int, bytes, dict[str, str]]:
        """One request on a connection of its own."""
        client = HTTPConnection(self.proxy.url.removeprefix("http://"), timeout=0.5)
        try:
            client.request("POST", path, b"the request")
            reply = client.getresponse()
            return reply.status, reply.read(), dict(reply.headers)
        finally:
            client.close()

    def close(self) -> None:
        self.proxy.close()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def between() -> Iterator[Between]:
    made = Between()
    yield made
    made.close()


# kind -> (how often it is carried out before the client knows how it ended, what the client is given)
SEEN: dict[str, tuple[int, type[Exception] | bytes | int]] = {
    "drop_reply": (1, HTTPException),
    "reset_before": (0, ConnectionResetError),
    "reset_after": (1, ConnectionResetError),
    "delay": (1, TimeoutError),
    "duplicate": (2, BODY + b"2"),
    "duplicate_first": (2, BODY + b"1"),
    "late": (0, HTTPException),
    "status": (0, 429),
    "loris": (1, BODY + b"1"),
    "half": (1, HTTPException),
    "foreign": (0, 429),
}


def test_every_kind_is_tried_below() -> None:
    assert set(SEEN) == set(KINDS)


@pytest.mark.parametrize("kind", SEEN)
def test_a_mishap_is_what_it_says(between: Between, kind: str) -> None:
    times, given = SEEN[kind]
    between.plan.begin(at({2: Mishap(kind, seconds=0.8, status=429, retry_after="7")}))
    assert between.ask()[0] == 200
    between.carried_out.clear()
    if isinstance(given, type):
        with pytest.raises(given) as told:
            between.ask()
        assert isinstance(told.value, HTTPException) is (given is HTTPException)  # a closed connection is not a reset
    else:
        status, body, headers = between.ask()
        assert given in (status, body)
        assert headers.get("Retry-After") == ("7" if status == 429 else None)
    assert between.carried_out == [b"the request"] * times
    assert list(between.plan.done) == [2]
    assert between.plan.deliver() == (kind == "late")
    assert between.carried_out == [b"the request"] * (times + (kind == "late"))
    assert between.ask()[:2] == (200, BODY + str(len(between.carried_out)).encode())


def test_half_a_reply_is_half_of_it_and_chunks_stay_chunks(between: Between) -> None:
    between.plan.begin(at({2: Mishap("half")}))
    assert between.ask("/chunks")[1] == BODY
    host, port = between.proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 1) as plain:
        plain.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab")
        told = b"".join(iter(lambda: plain.recv(100), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"Content-Length: 55" in head
    assert body == BODY[:27]


def test_a_slow_reply_takes_as_long_as_was_said(between: Between) -> None:
    """The first byte comes at once: a client that waits for each byte alone waits to the end."""
    between.plan.begin(at({1: Mishap("loris", seconds=0.6)}))
    begun = time.monotonic()
    assert between.ask()[1] == BODY + b"1"
    assert time.monotonic() - begun >= 0.6  # longer than its time-out


# --- gRPC


# kind -> (how often it is carried out, what the client is given; None: a reply)
CALLS: dict[str, tuple[int, Mishap, type[Exception] | None]] = {
    "drop_reply": (1, Mishap("drop_reply"), ServiceUnavailable),
    "reset_before": (0, Mishap("reset_before"), ServiceUnavailable),
    "reset_after": (1, Mishap("reset_after"), ServiceUnavailable),
    "delay": (1, Mishap("delay", seconds=1.5), GoogleAPICallError),
    "duplicate": (2, Mishap("duplicate"), None),
    "duplicate_first": (2, Mishap("duplicate_first"), None),
    "late": (0, Mishap("late"), ServiceUnavailable),
    "busy": (0, Mishap("status", status=429), ResourceExhausted),
    "busy, in front": (0, Mishap("status", status=429, retry_after="1"), ServiceUnavailable),
    "broken, in front": (0, Mishap("status", status=500, retry_after="1"), Unknown),
    "loris": (1, Mishap("loris", seconds=0.2), None),
    "half": (1, Mishap("half"), ServiceUnavailable),
    "foreign": (0, Mishap("foreign", status=502), ServiceUnavailable),
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_of_grpc_has_the_same_mishaps(kind: str) -> None:
    times, mishap, given = CALLS[kind]
    with behind("gcp") as site:
        site.emptied()
        google = gcp_world.project().secrets
        client = google.client(SOMEBODY)
        parent = f"projects/{PROJECT_ID}"
        secret: Any = {"replication": {"automatic": {}}}
        client.create_secret(parent=parent, secret_id="s", secret=secret)

        def add(retry: Retry | None = None) -> Any:
            request = {"parent": f"{parent}/secrets/s", "payload": {"data": b"x"}}
            return client.add_secret_version(request=request, retry=retry, timeout=1.0)

        site.plan.begin(at({2: mishap}))
        add()
        if given is None:
            assert add().name.endswith({"duplicate": "/3"}.get(kind, "/2"))
        else:
            with pytest.raises(given):
                add()
        assert list(site.plan.done) == [2]
        assert added(google) == 1 + times
        assert site.plan.deliver() == (kind == "late")
        assert added(google) == 1 + times + (kind == "late")
        # gRPC may not know yet that the connection is gone.
        add(Retry(if_exception_type(ServiceUnavailable), timeout=10))
        assert added(google) == 2 + times + (kind == "late")


def added(google: Any) -> int:
    """How many versions the service has."""
    return len(google.store.versions("s", "", 100, "").versions)


# --- the campaign


def room_for(folder: Path) -> Room:
    return Room(folder, random.Random(8))


def test_a_store_that_puts_blindly_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once something went wrong on the way, it puts something else on top of what it was told to put."""

    def forgetful(self: azure_secrets.Vault, name: str, *more: Any) -> Any:
        shown = plain(self, name, *more)
        if site.plan.done and not name.endswith("--staged"):
            plain(self, name, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", *more[1:])
        return shown

    plain = azure_secrets.Vault.put
    monkeypatch.setattr(azure_secrets.Vault, "put", forgetful)
    with behind("azure") as site:
        lab = Lab(room_for(tmp_path), site, tmp_path / "said")
        lab.case(lambda _: None)
        assert lab.room.tally.violations == []
        lab.case(at({1: Mishap("duplicate")}))
        assert lab.room.tally.violations
