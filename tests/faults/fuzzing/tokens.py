"""Who checks a token, asked without one, with wrong ones, with expired ones; and what our library makes of a refusal.

None of our own code checks a token. At the entry points the platforms' front ends do; at the stores the clouds do. So
the doubles of Key Vault and of Google are asked here, which check tokens as their clouds do, over sockets; then our
library is given such a token: it says one error of its own, and has changed nothing. Whose a token is our library reads
from it unverified, as a name for the manifest's entries: any text may stand there. moto checks no signature of a
request: of AWS there is nothing to be asked.
"""

import base64
import hashlib
import hmac
import json
import ssl
import time
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import jwt
from azure.core.credentials import AccessTokenInfo
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from daena_kms.errors import KmsError
from daena_kms.stores.azure import AzureStore
from daena_kms.stores.azure_calls import Azure, _claims
from daena_kms.stores.azure_secrets import Vault
from daena_kms.stores.pace import Pace
from tests.support import azure_world
from tests.support.google_tokens import TokenError
from tests.support.google_tokens import Tokens as GoogleTokens
from tests.support.gsm_service import AUDIENCES
from tests.support.vault_tokens import ISSUER, Tokens

from ..units import Room
from .harness import Wrong, require, sensible, tried
from .shapes import cut, cuts, edited, edits, texts, values

_OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _encoded(part: Any) -> str:
    try:
        text = json.dumps(part)
    except (TypeError, ValueError, RecursionError):
        text = "{}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _unsigned(claims: Any, header: Any, signature: str = "") -> str:
    return f"{_encoded(header)}.{_encoded(claims)}.{signature}"


def _other(token: str, real: str) -> bool:
    """True unless it is the same token: of base64 what is no digit, and the last bits, are nobody's."""
    signed, _, signature = token.rpartition(".")
    ours, _, good = real.rpartition(".")
    digits = "".join(c for c in signature if c.isascii() and (c.isalnum() or c in "-_+/"))
    return signed != ours or not digits.startswith(good[:-1])


def _with_public_key(claims: dict[str, Any], public: rsa.RSAPublicKey) -> str:
    """HS256, its secret the public key that everybody knows: what a careless library takes for good."""
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{_encoded({'alg': 'HS256', 'typ': 'JWT'})}.{_encoded(claims)}"
    mac = hmac.digest(pem, signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def bad_tokens(tokens: Tokens, audience: str) -> SearchStrategy[str]:
    """Tokens of which none is good."""
    now = int(time.time())
    public = tokens._key.public_key()
    good = {"iss": ISSUER, "aud": audience, "oid": "somebody", "iat": now, "nbf": now - 300, "exp": now + 3600}
    real = tokens.made("somebody", audience)
    head, body, signature = real.split(".")
    named = [
        tokens.made("somebody", audience, lifetime=-1),
        tokens.made("somebody", audience, nbf=now + 3600),
        tokens.made("somebody", "https://management.azure.com"),
        tokens.made("somebody", audience + "/"),
        tokens.made("somebody", audience, iss="https://sts.windows.net/another/"),
        jwt.encode(good, _OTHER_KEY, algorithm="RS256"),
        jwt.encode(good, "a secret that is long enough for HS256", algorithm="HS256"),
        _with_public_key(good, public),
        _unsigned(good, {"alg": "none", "typ": "JWT"}),
        _unsigned(good, {"alg": "None"}, signature),
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{_encoded({**good, 'oid': 'an administrator'})}.{signature}",
        "",
        "null",
        "a" * 20_000,
    ]
    changed = st.one_of(
        edits.map(lambda changes: f"{head}.{_encoded(edited(good, changes))}.{signature}"),
        edits.map(lambda changes: _unsigned(edited(good, changes), {"alg": "RS256"}, signature)),
        cuts.map(lambda changes: cut(real.encode(), changes).decode("latin-1")),
        values.map(lambda held: _unsigned(held, held)),
        texts,
    )
    return st.sampled_from(named) | _sendable(changed).filter(lambda text: _other(text, real))


def _sendable(tokens: SearchStrategy[str]) -> SearchStrategy[str]:
    """A header can hold no more."""
    return tokens.map(lambda text: "".join(c for c in text if "!" <= c <= "~")[:30_000])


def vault(room: Room, most: int) -> None:
    """Key Vault's double, over its socket: 401, and a challenge."""
    double = azure_world.account().vault
    server = double.server
    trusting = ssl.create_default_context(cafile=str(double.certificate))
    url = f"{double.url}/secrets?api-version=7.4"

    def asked(token: str) -> int:
        """The status of a listing."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  # it is https
        try:
            return int(urllib.request.urlopen(request, context=trusting, timeout=30).status)  # noqa: S310
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return refusal.code

    require(asked(double.tokens.made("me", server.audience)) == 200, "a good token is refused")

    def check(token: str) -> None:
        before, status = len(server.calls), asked(token)
        # A header that is too long is refused as such.
        require(status in (401, 431), f"the double lets it in: {status}")
        require(len(server.calls) == before, "the double carried something out")

    tried(room, "a token for Key Vault", bad_tokens(double.tokens, server.audience), check, most=most, shrinks=False)


class _Bearer:
    """A credential that gives one token, whatever it is."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token_info(self, *_scopes: str, options: Any = None) -> AccessTokenInfo:  # the SDK's
        return AccessTokenInfo(self._token, int(time.time()) + 3600)


def library(room: Room, most: int) -> None:
    """Our store of Azure under such a token: DeniedError or another one of ours, and nothing has changed."""
    account = azure_world.emptied()
    server = account.vault.server

    def check(token: str) -> None:
        before = len(server.calls)
        azure = Azure(lambda: _Bearer(token), call_timeout=timedelta(seconds=5))
        pace = Pace(1_000, 10, time.monotonic, time.sleep)
        for ask in (
            lambda store: list(store.inventory()),
            lambda store: store.observe("a-key"),
            lambda store: store.actor,
        ):
            try:
                calls = Vault(azure, account.vault.url, pace=pace, token=lambda: "t", sleep=lambda _: None)
                store = AzureStore(calls, prefix="", ledger="l", actor=azure.identity.actor, entropy=bytes)
                told = ask(store)
            except KmsError as problem:
                sensible(problem)
                require(token[:60] not in problem.message or len(token) < 60, "the token is in the error")
            else:
                require(isinstance(told, str), "it was let in")
        require(len(server.calls) == before, "something was asked for, and done")

    narrow = bad_tokens(account.vault.tokens, server.audience)
    tried(room, "the Azure store under a bad token", narrow, check, most=most, shrinks=False)
    tried(
        room,
        "whose a token is",
        narrow,
        lambda token: require(isinstance(_claims(token), dict), "no claims"),
        most=most,
    )


def google(room: Room, most: int) -> None:
    """Google's double: opaque tokens, and JWTs that service accounts sign themselves."""
    tokens = GoogleTokens()
    now = int(time.time())
    account = tokens.account("me@example.com")
    good = {"iss": "me@example.com", "sub": "me@example.com", "aud": AUDIENCES[0], "iat": now, "exp": now + 3000}
    real = tokens.signed("me@example.com", aud=AUDIENCES[0])
    require(tokens.principal(f"Bearer {real}", AUDIENCES) == "me@example.com", "a good token is refused")
    head, body, signature = real.split(".")
    named = [
        tokens.made("me@example.com", lifetime=-1),
        tokens.made("me@example.com", ["https://www.googleapis.com/auth/devstorage.read_only"]),
        tokens.signed("me@example.com", aud="https://storage.googleapis.com/"),
        tokens.signed("me@example.com", aud=AUDIENCES[0], exp=now - 10),
        tokens.signed("me@example.com", aud=AUDIENCES[0], iat=now + 3600, exp=now + 7200),
        tokens.signed("me@example.com", aud=AUDIENCES[0], exp=now + 10**9),
        tokens.signed("me@example.com", aud=AUDIENCES[0], sub="an-administrator@example.com"),
        jwt.encode(good, _OTHER_KEY, algorithm="RS256"),
        jwt.encode({**good, "iss": "nobody@example.com"}, account.key, algorithm="RS256"),
        _with_public_key(good, account.key.public_key()),
        _unsigned(good, {"alg": "none"}),
        f"{head}.{body}.",
        f"{head}.{_encoded({**good, 'iss': 'other@example.com'})}.{signature}",
        "ya29.c.made-up",
        "",
    ]
    changed = st.one_of(
        edits.map(lambda changes: f"{head}.{_encoded(edited(good, changes))}.{signature}"),
        values.map(lambda held: _unsigned(held, {"alg": "RS256"}, signature)),
        cuts.map(lambda changes: cut(real.encode(), changes).decode("latin-1")),
        texts,
    )
    changed = _sendable(changed).filter(lambda text: _other(text, real))

    def check(token: str) -> None:
        try:
            whose = tokens.principal(f"Bearer {token}", AUDIENCES)
        except TokenError:
            return
        raise Wrong(f"the double takes it for {whose}")

    tried(room, "a token for Google", st.sampled_from(named) | changed, check, most=most)
