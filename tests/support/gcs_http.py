"""Cloud Storage behind HTTP: routes, tokens, permissions of each principal, uploads; and somebody in between."""

import json
import re
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from .gcs_fields import selected
from .gcs_objects import Conditions, GcsError, Objects, Upload, Wanted, hashes
from .google_tokens import CLOUD_PLATFORM, TokenError

AUDIENCE = "https://storage.googleapis.com/"
_SCOPE = "https://www.googleapis.com/auth/devstorage."
_WRITERS = {CLOUD_PLATFORM, _SCOPE + "full_control", _SCOPE + "read_write"}
_READERS = _WRITERS | {_SCOPE + "read_only"}
_CHUNK = 256 * 1024


class Principals(Protocol):
    """Whose a token is: google_tokens.Tokens."""

    def principal(self, authorization: str, audiences: set[str], scopes: set[str]) -> str: ...


@dataclass(frozen=True)
class Asked:
    """One request that somebody may make: the API's method, on what, and the permission that it takes."""

    method: str
    permission: str
    bucket: str
    name: str
    query: Mapping[str, str]
    upload: Upload | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    principal: str = ""
    asked_about: tuple[str, ...] = ()
    """The permissions in a question about permissions."""


@dataclass(frozen=True)
class Answer:
    """A status; a document, or bytes; and headers of its own. A Content-Length among them is not corrected."""

    status: int
    body: Mapping[str, Any] | bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Between = Callable[[Asked, Callable[[], Answer]], Answer | None]
_OBJECT = r"/storage/v1/b/([^/]+)/o/([^/]+)"
_ROUTES = [
    ("POST", r"/storage/v1/b", "buckets.insert", "storage.buckets.create"),
    ("GET", r"/storage/v1/b/([^/]+)", "buckets.get", "storage.buckets.get"),
    ("GET", r"/storage/v1/b/([^/]+)/iam/testPermissions", "buckets.testIamPermissions", ""),
    ("GET", r"/storage/v1/b/([^/]+)/o", "objects.list", "storage.objects.list"),
    ("GET", r"(?:/download)?" + _OBJECT, "objects.get", "storage.objects.get"),
    ("DELETE", _OBJECT, "objects.delete", "storage.objects.delete"),
    ("POST", r"/upload/storage/v1/b/([^/]+)/o", "objects.insert", "storage.objects.create"),
    ("PUT", r"/upload/storage/v1/b/([^/]+)/o", "objects.insert", "storage.objects.create"),
]
_COMPILED = [(verb, re.compile(pattern), method, permission) for verb, pattern, method, permission in _ROUTES]
_SHOWN = {"fields", "projection"}
_PARAMETERS = {
    "buckets.insert": {"project", *_SHOWN},
    "buckets.get": _SHOWN,
    "buckets.testIamPermissions": {"permissions"},
    "objects.list": {
        "prefix", "delimiter", "startOffset", "endOffset", "versions", "pageToken", "maxResults", *_SHOWN,
    },
    "objects.get": {"generation", "ifGenerationMatch", "ifGenerationNotMatch", *_SHOWN},
    "objects.delete": {"generation", "ifGenerationMatch", "ifGenerationNotMatch"},
    "objects.insert": {"uploadType", "upload_id", "name", "ifGenerationMatch", "ifGenerationNotMatch", *_SHOWN},
}  # fmt: skip
_ALWAYS = {"alt", "prettyPrint"}
_HEADERS = {"x-goog-api-client", "x-goog-hash"}
_METADATA = {"name", "bucket", "contentType", "metadata", "crc32c", "md5Hash"}


class GcsServer(ThreadingHTTPServer):
    """One service on one port. `between` sees each request that is let in, and may do otherwise; None breaks it off."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, tokens: Principals, clock: Callable[[], float]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = tokens
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.objects = Objects(self.url, clock)
        self.allowed: dict[str, set[str]] = {}
        """Principal -> permissions. Who is not named may do everything."""
        self.calls: list[Asked] = []
        self.between: Between = plain
        self._sessions: dict[str, tuple[Asked, bytes]] = {}
        self._lock = threading.Lock()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def empty(self) -> None:
        """As it was when it started."""
        self.objects.empty()
        self.allowed, self.calls, self.between, self._sessions = {}, [], plain, {}

    def may(self, principal: str, permission: str) -> bool:
        """Whether somebody has a permission."""
        return not permission or permission in self.allowed.get(principal, {permission})

    def refusal(self, principal: str, permission: str) -> GcsError | None:
        """What the service says to who lacks a permission; None to who has it."""
        if self.may(principal, permission):
            return None
        thing = "object" if permission.startswith("storage.objects.") and not permission.endswith("list") else "bucket"
        says = f"{principal} does not have {permission} access to the Google Cloud Storage {thing}."
        return GcsError(403, "forbidden", f"{says} Permission '{permission}' denied on resource (or it may not exist).")

    def answer(self, asked: Asked) -> Answer:
        """What the service says to a request that is let in."""
        try:
            return self._carried_out(asked)
        except GcsError as problem:
            refusal = problem
            if problem.status == 404 and asked.method == "objects.get" and "No such object" in str(problem):
                # Who may not list is not told what is not there.
                refusal = self.refusal(asked.principal, "storage.objects.list") or problem
            return _refused(refusal, text=asked.query.get("alt") == "media")

    def _carried_out(self, asked: Asked) -> Answer:
        objects, query = self.objects, asked.query
        match asked.method:
            case "buckets.insert":
                versioning = asked.document.get("versioning", {}).get("enabled")
                return _shown(objects.create_bucket(str(asked.document.get("name", "")), versioned=versioning), query)
            case "buckets.get":
                return _shown(objects.bucket(asked.bucket), query)
            case "buckets.testIamPermissions":
                return self._tested(asked)
            case "objects.list":
                return _shown(objects.listed(asked.bucket, _wanted(query)), query)
            case "objects.delete":
                objects.delete(asked.bucket, asked.name, _generation(query), _conditions(query))
                return Answer(204)
            case "objects.insert":
                return self._inserted(asked)
        found = objects.get(asked.bucket, asked.name, _generation(query), _conditions(query))
        if query.get("alt") != "media":
            return _shown(found.resource(self.url), query)
        summed = found.hashes
        headers = {
            "Content-Type": found.content_type,
            "ETag": found.resource(self.url)["etag"],
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Metageneration": "1",
            "X-Goog-Hash": f"crc32c={summed['crc32c']},md5={summed['md5']}",
            "X-Goog-Storage-Class": "STANDARD",
            "X-Goog-Stored-Content-Encoding": "identity",
            "X-Goog-Stored-Content-Length": str(len(found.content)),
        }
        return _ranged(asked.headers.get("range", ""), found.content, headers)

    # --- uploads

    def _tested(self, asked: Asked) -> Answer:
        """Of the permissions that are asked about, those that the caller has; no field where that is none of them."""
        self.objects.bucket(asked.bucket)
        held = [each for each in asked.asked_about if self.may(asked.principal, each)]
        kind = {"kind": "storage#testIamPermissionsResponse"}
        return Answer(200, kind | ({"permissions": held} if held else {}))

    def _inserted(self, asked: Asked) -> Answer:
        if asked.query.get("uploadType") != "resumable":
            return self._written(asked)
        self.objects.bucket(asked.bucket)
        session = asked.query.get("upload_id")
        if session is None:
            session = secrets.token_urlsafe(32)
            self._sessions[session] = (asked, b"")
            where = f"{self.url}/upload/storage/v1/b/{asked.bucket}/o?uploadType=resumable&upload_id={session}"
            return Answer(200, headers={"Location": where, "X-GUploader-UploadID": session})
        with self._lock:
            return self._continued(session, asked)

    def _written(self, asked: Asked) -> Answer:
        assert asked.upload is not None
        over = self.refusal(asked.principal, "storage.objects.delete")
        return _shown(self.objects.insert(asked.bucket, asked.upload, over), asked.query)

    def _continued(self, session: str, asked: Asked) -> Answer:
        begun, so_far = self._sessions.get(session, (None, b""))
        if begun is None or begun.upload is None or asked.upload is None or asked.bucket != begun.bucket:
            raise GcsError(404, "notFound", "No such upload session.")
        content, said = asked.upload.content, asked.headers.get("content-range", "")
        found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", said)
        if found is None:
            raise GcsError(400, "invalid", f"Failed to parse Content-Range header: {said}")
        first, last, total = found.groups()
        if first is not None:
            if int(first) != len(so_far) or int(last) - int(first) + 1 != len(content):
                raise GcsError(503, "backendError", "Invalid request. The bytes are not those that follow.")
            so_far += content
            self._sessions[session] = (begun, so_far)
        if total == "*" or len(so_far) < int(total):
            if len(so_far) % _CHUNK:
                raise GcsError(400, "invalid", "Chunks must be multiples of 256 KiB, but for the last.")
            return Answer(308, headers={"Range": f"bytes=0-{len(so_far) - 1}"} if so_far else {})
        sums = {**begun.upload.hashes, **asked.upload.hashes}
        answer = self._written(replace(begun, upload=replace(begun.upload, content=so_far, hashes=sums)))
        del self._sessions[session]
        return answer


def plain(_: Asked, answer: Callable[[], Answer]) -> Answer:
    """Nobody in between."""
    return answer()


class _Handler(BaseHTTPRequestHandler):
    server: GcsServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 120

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Silent: a log of requests would hold tokens."""

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_PATCH = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815  # the names that the base class looks for

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # whoever sent it was killed: half a request is none
            self.close_connection = True
            return
        try:
            answer = self._let_in(body)
        except GcsError as refusal:
            answer = _refused(refusal, text="alt=media" in self.path)
        if answer is None:  # broken off: the client does not learn what was done
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Length": str(len(content)), **answer.headers}
        if not isinstance(answer.body, bytes):
            headers.setdefault("Content-Type", "application/json; charset=UTF-8")
        if answer.status == 204:
            del headers["Content-Length"]
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if headers.get("Content-Length", "0") != str(len(content)):
            self.close_connection = True

    def _let_in(self, body: bytes) -> Answer | None:
        server, authorization = self.server, self.headers.get("Authorization", "")
        asked = _asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        principal = self._principal(authorization, asked)
        asked = replace(_with_body(asked, body), principal=principal)
        server.calls.append(asked)
        if refusal := server.refusal(principal, asked.permission):
            raise refusal
        return server.between(asked, lambda: server.answer(asked))

    def _principal(self, authorization: str, asked: Asked) -> str:
        scopes = _READERS if not asked.permission or asked.permission.endswith((".get", ".list")) else _WRITERS
        try:
            return self.server.tokens.principal(authorization, {AUDIENCE, self.server.url}, scopes)
        except TokenError as problem:
            if problem.reason == "CREDENTIALS_MISSING":
                says = f"Anonymous caller does not have {asked.permission} access to the Google Cloud Storage"
                raise GcsError(401, "required", f"{says} {'object' if asked.name else 'bucket'}.") from problem
            if problem.reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
                raise GcsError(403, "forbidden", "Provided scope(s) are not authorized") from problem
            raise GcsError(401, "authError", "Invalid Credentials") from problem


# --- what a request says


def _asked(verb: str, target: str, headers: Mapping[str, str]) -> Asked:
    parts = urlsplit(target)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = dict(pairs)
    method, permission, found = _route(verb, parts.path)
    allowed = _PARAMETERS[method] | _ALWAYS
    if unknown := sorted({name for name, _ in pairs} - allowed):
        raise _lacks(f"the parameter {unknown[0]} of {method}")
    if query.get("projection", "noAcl") != "noAcl" or query.get("alt", "json") not in {"json", "media"}:
        raise _lacks(f"that projection or alt of {method}")
    for name in headers:
        if name.startswith("x-goog-") and name not in _HEADERS:
            raise _lacks(f"the header {name}")
    bucket, name, *_ = (*(unquote(each) for each in found), "", "")
    kept = {name: headers[name] for name in ("content-type", "content-range", "range", "x-goog-hash",
                                             "x-upload-content-type") if name in headers}  # fmt: skip
    asked_about = tuple(value for each, value in pairs if each == "permissions")
    return Asked(method, permission, bucket, name, query, headers=kept, asked_about=asked_about)


def _route(verb: str, path: str) -> tuple[str, str, tuple[str, ...]]:
    for expected, pattern, method, permission in _COMPILED:
        if expected == verb and (found := pattern.fullmatch(path)):
            return method, permission, found.groups()
    raise _lacks(f"{verb} {path}")


def _with_body(asked: Asked, body: bytes) -> Asked:
    if asked.method == "buckets.insert":
        return replace(asked, document=_document(body, {"name", "versioning"}))
    if asked.method != "objects.insert":
        return asked
    query, kind, sent = asked.query, asked.headers.get("content-type", ""), dict[str, Any]()
    content = body
    match query.get("uploadType"):
        case "media":
            pass
        case "multipart":
            sent, kind, content = _parts(kind, body)
        case "resumable" if "upload_id" not in query:
            sent, content = _document(body or b"{}", _METADATA), b""
            kind = asked.headers.get("x-upload-content-type", "")
        case "resumable":
            pass
        case other:
            raise _lacks(f"uploadType={other}")
    name = str(sent.get("name", query.get("name", "")))
    sums = {"crc32c": sent.get("crc32c"), "md5": sent.get("md5Hash")} | _sums(asked.headers.get("x-goog-hash", ""))
    upload = Upload(
        name,
        content,
        str(sent.get("contentType") or kind or "application/octet-stream"),
        sent.get("metadata"),
        {kind: str(each) for kind, each in sums.items() if each is not None},
        _conditions(query),
    )
    return replace(asked, name=name, upload=upload)


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], str, bytes]:
    """The document, and the media with its type, of a multipart/related body as the API takes it."""
    found = re.fullmatch(r'multipart/related;\s*boundary="?([^";]+)"?', content_type, re.IGNORECASE)
    pieces = (b"\r\n" + body).split(b"\r\n--" + found[1].encode()) if found else []
    if len(pieces) != 4 or pieces[0].strip() or pieces[3].strip() != b"--":
        raise GcsError(400, "badContent", "Malformed multipart body.")
    heads, bodies = zip(*(piece.split(b"\r\n\r\n", 1) for piece in pieces[1:3]), strict=True)
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", heads[1])
    return _document(bodies[0], _METADATA), kind[1].decode() if kind else "", bodies[1]


def _document(body: bytes, known: set[str]) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as problem:
        raise GcsError(400, "parseError", "Parse Error") from problem
    if not isinstance(document, dict):
        raise GcsError(400, "parseError", "Parse Error")
    if unknown := sorted(set(document) - known):
        raise _lacks(f"the field {unknown[0]}")
    return document


def _sums(header: str) -> dict[str, str]:
    pairs = (each.strip().partition("=") for each in header.split(",") if each.strip())
    sums = {kind: value for kind, _, value in pairs}
    if unknown := sorted(set(sums) - set(hashes(b""))):
        raise _lacks(f"the sum {unknown[0]}")
    return sums


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,19}", text):
        raise GcsError(400, "invalidParameter", f"Invalid value for {name}: '{text}'")
    return int(text)


def _generation(query: Mapping[str, str]) -> int | None:
    return _number(query, "generation")


def _conditions(query: Mapping[str, str]) -> Conditions:
    return Conditions(_number(query, "ifGenerationMatch"), _number(query, "ifGenerationNotMatch"))


def _wanted(query: Mapping[str, str]) -> Wanted:
    most = _number(query, "maxResults")
    if most == 0:
        raise _lacks("maxResults=0")
    versions = query.get("versions", "false").lower()
    if versions not in {"true", "false"}:
        raise GcsError(400, "invalidParameter", f"Invalid value for versions: '{versions}'")
    wanted = Wanted(
        query.get("prefix", ""),
        query.get("delimiter", ""),
        query.get("startOffset", ""),
        query.get("endOffset", ""),
        versions == "true",
        after=query.get("pageToken", ""),
    )
    return replace(wanted, most=most) if most else wanted


# --- what an answer says


def _shown(document: Mapping[str, Any], query: Mapping[str, str]) -> Answer:
    fields = query.get("fields", "")
    return Answer(200, selected(document, fields) if fields else document)


def _ranged(asked: str, content: bytes, headers: Mapping[str, str]) -> Answer:
    if not asked:
        return Answer(200, content, headers)
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if found is None:
        raise _lacks(f"the range {asked}")
    first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
    if first > last:
        raise GcsError(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
    return Answer(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"})


def _refused(refusal: GcsError, *, text: bool) -> Answer:
    """A document; to a download, which answers with what it has, the words alone."""
    challenge = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/"'} if refusal.status == 401 else {}
    if text:
        return Answer(refusal.status, str(refusal).encode(), {"Content-Type": "text/html; charset=UTF-8", **challenge})
    return Answer(refusal.status, refusal.body, challenge)


def _lacks(what: str) -> GcsError:
    return GcsError(501, "notImplemented", f"This double does not have {what}.")
