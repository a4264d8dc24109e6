"""Tokens as Google makes and takes them: access tokens, JWTs that service accounts sign, and who gives them out.

Sources: google.aip.dev/auth/4111 (self-signed JWTs: `iss` and `sub` are the account, and an `aud` or a `scope`),
4112 (the jwt-bearer grant at `token_uri`), the comments in googleapis `google/api/error_reason.proto`, and
google-auth 2.63 for what a client asks the metadata server (`compute_engine/_metadata.py`). There are no ID tokens, no
users, no impersonation and no federation: whoever asks for them gets an error.
"""

import datetime
import json
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import jwt.types
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import credentials as google_credentials

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GOOGLES_ENDPOINT = "https://oauth2.googleapis.com/token"
"""What google-auth names as the audience of an assertion, whatever the key file's `token_uri` is."""
LIFETIME = 3600
_SKEW = 300
_UNCHECKED: jwt.types.Options = {"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False}


class TokenError(Exception):
    """A token that is not good. `reason` is as in error_reason.proto; "" where that knows no word for it."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Account:
    """A service account: its e-mail, its key, and the id of that key."""

    email: str
    key: rsa.RSAPrivateKey
    key_id: str

    @property
    def pem(self) -> str:
        """The private key, as a key file holds it."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()


@dataclass(frozen=True)
class _Access:
    """What an access token stands for."""

    email: str
    scopes: frozenset[str]
    expires: float


class Tokens:
    """Makes access tokens and keys of service accounts, and says whose a bearer token is."""

    def __init__(self, clock: Callable[[], float] = time.time, project_id: str = "daena-demo") -> None:
        self.clock = clock
        self.project_id = project_id
        self.token_uri = ""
        """Where assertions are exchanged: set by the endpoint that serves these tokens."""
        self._accounts: dict[str, Account] = {}
        self._issued: dict[str, _Access] = {}
        self._verified: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    # --- making them

    def account(self, email: str) -> Account:
        """The account of that name; its key is made when it is first asked for."""
        with self._lock:
            if email not in self._accounts:
                key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
                self._accounts[email] = Account(email, key, secrets.token_hex(20))
            return self._accounts[email]

    def key_file(self, email: str) -> dict[str, str]:
        """What `gcloud iam service-accounts keys create` writes, but for the addresses."""
        account = self.account(email)
        return {
            "type": "service_account",
            "project_id": self.project_id,
            "private_key_id": account.key_id,
            "private_key": account.pem,
            "client_email": email,
            "client_id": str(int(account.key_id, 16))[:21],
            "token_uri": self.token_uri,
            "universe_domain": "googleapis.com",
        }

    def made(self, principal: str, scopes: Collection[str] = (CLOUD_PLATFORM,), *, lifetime: float = LIFETIME) -> str:
        """An access token: opaque, as Google's are."""
        token = f"ya29.c.{secrets.token_urlsafe(48)}"
        self._issued[token] = _Access(principal, frozenset(scopes), self.clock() + lifetime)
        return token

    def signed(self, principal: str, **claims: Any) -> str:
        """A JWT that a service account signs itself. `claims` override, as a liar would; None leaves one out."""
        account, now = self.account(principal), int(self.clock())
        usual = {"iss": principal, "sub": principal, "iat": now, "exp": now + LIFETIME}
        payload = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(payload, account.key, algorithm="RS256", headers={"kid": account.key_id})

    # --- checking them

    def principal(
        self, authorization: str, audiences: Collection[str], scopes: Collection[str] = (CLOUD_PLATFORM,)
    ) -> str:
        """The e-mail behind an `Authorization` header. A scope, where a token has scopes, must be one of `scopes`."""
        if not authorization:
            raise TokenError("no token", "CREDENTIALS_MISSING")
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise TokenError(f"not a bearer token: {kind}", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
        issued = self._issued.get(token)
        if issued is None:
            return self._signer(token, audiences, scopes)
        if self.clock() >= issued.expires:
            raise TokenError("the access token has expired", "ACCESS_TOKEN_EXPIRED")
        _check_scopes(issued.scopes, scopes)
        return issued.email

    def _signer(self, token: str, audiences: Collection[str], scopes: Collection[str]) -> str:
        claims = self.claims(token)
        if claims.get("sub") != claims["iss"]:
            raise TokenError("sub is not iss", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
        if "scope" in claims:
            _check_scopes(str(claims["scope"]).split(), scopes)
        elif str(claims.get("aud", "")).rstrip("/") not in {audience.rstrip("/") for audience in audiences}:
            raise TokenError(f"a token for {claims.get('aud')}", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
        return str(claims["iss"])

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a JWT that an account of ours signed and that is in time. Not looked at: audience, scope."""
        claims = self._verified.get(token) or self._checked(token)
        now, begins, ends = self.clock(), claims.get("iat"), claims.get("exp")
        if not isinstance(begins, int | float) or not isinstance(ends, int | float) or ends - begins > LIFETIME + _SKEW:
            raise TokenError("iat and exp are not within an hour", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
        if now >= ends:
            raise TokenError("the JWT has expired", "ACCESS_TOKEN_EXPIRED")
        if begins > now + _SKEW:
            raise TokenError("the JWT is from the future", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
        return claims

    def _checked(self, token: str) -> dict[str, Any]:
        # Here the signature alone: times are held against our own clock at each use.
        try:
            unchecked: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
            account = self._accounts.get(str(unchecked.get("iss")))
            if account is None or jwt.get_unverified_header(token).get("kid") not in {account.key_id, None}:
                raise TokenError("no key of that account", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
            claims: dict[str, Any] = jwt.decode(
                token, account.key.public_key(), algorithms=["RS256"], options=_UNCHECKED
            )
        except jwt.InvalidTokenError as problem:
            raise TokenError(f"no token of ours: {problem}", "ACCESS_TOKEN_TYPE_UNSUPPORTED") from problem
        self._verified[token] = claims
        return claims


def _check_scopes(held: Collection[str], wanted: Collection[str]) -> None:
    if not set(held) & set(wanted):
        raise TokenError("none of its scopes is enough", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")


class Credential(google_credentials.Credentials):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """A principal's credentials for a client in this process, as google-auth would make them."""

    def __init__(
        self,
        tokens: Tokens,
        principal: str,
        scopes: Collection[str] = (CLOUD_PLATFORM,),
        *,
        lifetime: float = LIFETIME,
        token: str | None = None,
    ) -> None:
        """`token`, if given, is shown as it is, whatever it is."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._tokens, self._principal, self._scopes = tokens, principal, scopes
        self._lifetime, self._given = lifetime, token
        self.asked = 0

    def refresh(self, request: object) -> None:
        """A new token. Its end is told by the world's clock, by which google-auth goes."""
        self.asked += 1
        self.token = self._given or self._tokens.made(self._principal, self._scopes, lifetime=self._lifetime)
        if self._lifetime > 0:
            ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self._lifetime)
            self.expiry = ends.replace(tzinfo=None)


class GoogleEndpoint(ThreadingHTTPServer):
    """The token endpoint (`POST /token`) and the metadata server of a machine on which one account runs."""

    daemon_threads = True

    def __init__(self, tokens: Tokens, project_number: str, email: str) -> None:
        """`email` is the machine's account; '' for a machine that has none."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.tokens = tokens
        self.project_number = project_number
        self.email = email
        self.asked: list[str] = []
        """Paths, in the order in which they were asked for."""
        tokens.token_uri = f"http://{self.host}/token"

    def metadata_environment(self) -> dict[str, str]:
        """With both, google-auth asks nobody else: without the second it pings 169.254.169.254."""
        return {"GCE_METADATA_HOST": self.host, "GCE_METADATA_IP": self.host}

    def exchanged(self, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """An access token for an assertion (RFC 7523, google.aip.dev/auth/4112)."""
        if form.get("grant_type") != GRANT:
            return 400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"}
        try:
            claims = self.tokens.claims(form.get("assertion", ""))
        except TokenError as problem:
            return 400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {problem}"}
        scopes = str(claims.get("scope", "")).split()
        if claims.get("aud") not in {GOOGLES_ENDPOINT, self.tokens.token_uri}:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT audience."}
        if not scopes:
            return 400, {
                "error": "invalid_scope",
                "error_description": "Invalid OAuth scope or ID token audience provided.",
            }
        return 200, self._answer(claims["iss"], scopes)

    def metadata(self, path: str, query: Mapping[str, str]) -> object | None:
        """What the metadata server has there: text, a document for JSON, or None."""
        account = path.removeprefix("instance/service-accounts/")
        if account != path:
            return self._account_metadata(account, query) if self.email else None
        plain = {
            "": "instance/\nproject/\n",
            "project/project-id": self.tokens.project_id,
            "project/numeric-project-id": self.project_number,
            "universe/universe-domain": "googleapis.com",
        }
        return plain.get(path)

    def _account_metadata(self, path: str, query: Mapping[str, str]) -> object | None:
        who, _, what = path.partition("/")
        if who not in {"default", self.email}:
            return None
        scopes = query.get("scopes", CLOUD_PLATFORM).split(",")
        match what:
            case "" if query.get("recursive") == "true":
                return {"aliases": ["default"], "email": self.email, "scopes": [CLOUD_PLATFORM]}
            case "":
                return "aliases\nemail\nscopes\ntoken\n"
            case "email":
                return self.email
            case "scopes":
                return CLOUD_PLATFORM + "\n"
            case "token":
                return self._answer(self.email, scopes)
        return None

    def _answer(self, email: str, scopes: Collection[str]) -> dict[str, Any]:
        return {"access_token": self.tokens.made(email, scopes), "expires_in": LIFETIME - 1, "token_type": "Bearer"}


class _Handler(BaseHTTPRequestHandler):
    server: GoogleEndpoint
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 120

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Silent: a log of requests would hold tokens."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        path = self._noted()[0]
        if path != "/token":
            self._say(404, {"error": "not_found"})
            return
        self._say(*self.server.exchanged({name: values[-1] for name, values in parse_qs(content).items()}))

    def do_GET(self) -> None:
        path, query = self._noted()
        if self.headers.get("Metadata-Flavor") != "Google":
            self._say(403, "Missing Metadata-Flavor:Google header.")
            return
        # A client's first question, whether this is a metadata server at all, is for "/".
        found = self.server.metadata(path.removeprefix("/computeMetadata/v1").strip("/"), query)
        self._say(404, "Not Found") if found is None else self._say(200, found)

    def _noted(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        self.server.asked.append(parts.path)
        return parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()}

    def _say(self, status: int, document: object) -> None:
        content = document if isinstance(document, str) else json.dumps(document)
        self.send_response(status)
        self.send_header("Content-Type", "application/text" if isinstance(document, str) else "application/json")
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())
        self.wfile.flush()
