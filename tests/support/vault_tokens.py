"""Tokens as Entra ID makes them: RS256, for one audience, for a time. Who holds none, or a bad one, is nobody."""

import time
from collections.abc import Callable
from typing import Any

import jwt
import jwt.types
from azure.core.credentials import AccessToken, AccessTokenInfo
from cryptography.hazmat.primitives.asymmetric import rsa

TENANT = "00000000-0000-4000-8000-000000000001"
ISSUER = f"https://sts.windows.net/{TENANT}/"
_LIFETIME = 3600


class Tokens:
    """Makes tokens and checks them: signature, issuer, audience, times."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._clock = clock
        self._known: dict[str, dict[str, Any]] = {}

    def made(self, principal: str, audience: str, *, lifetime: int = _LIFETIME, **other: Any) -> str:
        """A token for a principal. `other` overrides claims, as a liar would."""
        now = int(self._clock())
        claims = {"iss": ISSUER, "aud": audience, "oid": principal, "tid": TENANT, "iat": now, "nbf": now - 300}
        return jwt.encode({**claims, "exp": now + lifetime, **other}, self._key, algorithm="RS256")

    def principal(self, token: str, audience: str) -> str:
        """Whose token it is; empty for one that is not good."""
        claims = self._known.get(token) or self._verified(token)
        now = self._clock()
        good = claims.get("iss") == ISSUER and claims.get("aud") == audience
        return str(claims["oid"]) if good and claims["nbf"] <= now < claims["exp"] else ""

    def _verified(self, token: str) -> dict[str, Any]:
        # Here the signature alone; the claims are held against our own clock at each use.
        unchecked: jwt.types.Options = {"verify_aud": False, "verify_exp": False, "verify_nbf": False}
        unchecked["verify_iat"] = False
        try:
            claims: dict[str, Any] = jwt.decode(token, self._key.public_key(), algorithms=["RS256"], options=unchecked)
        except jwt.InvalidTokenError:
            return {}
        self._known[token] = claims
        return claims


class Credential:
    """A principal's credential, as azure-identity would make one. `asked` are the scopes of each token."""

    def __init__(self, tokens: Tokens, principal: str, **claims: Any) -> None:
        self.asked: list[str] = []
        self._tokens = tokens
        self._principal = principal
        self._claims = claims

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        """A token for the audience that a scope names."""
        (scope,) = scopes
        self.asked.append(scope)
        made = self._tokens.made(self._principal, scope.removesuffix("/.default"), **self._claims)
        return AccessTokenInfo(made, int(time.time()) + _LIFETIME)

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: Any,
    ) -> AccessToken:
        """The same, as older clients ask."""
        made = self.get_token_info(*scopes)
        return AccessToken(made.token, made.expires_on)
