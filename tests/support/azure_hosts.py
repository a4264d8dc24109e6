"""Azure under its own names, for a process that takes them from here: the vault's, and Entra ID's for an application.

Code that names `https://daena-kv.vault.azure.net/` and a tenant runs as it stands: a `sitecustomize` in the process
sends the two names to this machine, and every other name nowhere. TLS, the challenge and the tokens are as ever.
"""

import json
import ssl
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .strict_vault import StrictVault
from .vault_http import JsonHandler, started
from .vault_tokens import Tokens

VAULT, ENTRA = "daena-kv.vault.azure.net", "login.microsoftonline.com"
_AUDIENCE = "https://vault.azure.net"
_TABLE = "HOSTS_ON_THIS_MACHINE"

_SITECUSTOMIZE = f"""
import json, os, socket
_ports = json.loads(os.environ[{_TABLE!r}])
_ask = socket.getaddrinfo
def _here(host, port, *args, **kwargs):
    if host in _ports:
        return _ask("127.0.0.1", _ports[host], *args, **kwargs)
    if host in ("127.0.0.1", "localhost"):
        return _ask(host, port, *args, **kwargs)
    raise socket.gaierror(f"{{host}} is not on this machine")
socket.getaddrinfo = _here
"""


class Entra(ThreadingHTTPServer):
    """Gives a token to an application that knows its secret, and to nobody else (OAuth 2.0, client credentials)."""

    daemon_threads = True

    def __init__(self, tokens: Tokens, secrets: Mapping[str, str], certificate: Path) -> None:
        """`secrets`: client id -> secret."""
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.tokens, self.secrets = tokens, secrets
        self.tenants: list[str] = []
        """Of whom a token was asked."""

    def answer(self, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """A token, or Entra's refusal of a wrong secret."""
        client, scope = form.get("client_id", ""), form.get("scope", "")
        if form.get("grant_type") != "client_credentials" or self.secrets.get(client) != form.get("client_secret"):
            return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."}
        token = self.tokens.made(client, scope.partition("/.default")[0])
        return 200, {"token_type": "Bearer", "expires_in": 3599, "access_token": token}


class _Handler(JsonHandler):
    server: Entra

    def do_GET(self) -> None:  # noqa: N802  # its name there
        tenant = self.path.split("/")[1]
        at = f"https://{ENTRA}/{tenant}"
        self.say(
            200,
            {
                "issuer": f"{at}/v2.0",
                "authorization_endpoint": f"{at}/oauth2/v2.0/authorize",
                "token_endpoint": f"{at}/oauth2/v2.0/token",
                "metadata": [],  # of other clouds, which MSAL asks for once
            },
        )

    def do_POST(self) -> None:  # noqa: N802  # its name there
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.tenants.append(self.path.split("/")[1])
        self.say(*self.server.answer({name: values[-1] for name, values in parse_qs(body).items()}))


class NamedAzure:
    """The vault and Entra ID, each under its name."""

    def __init__(self, tenant: str, secrets: Mapping[str, str], folder: Path) -> None:
        """`secrets`: client id -> secret of each application; `folder` is where the process's `sitecustomize` goes."""
        self.vault = StrictVault(hosts=(VAULT, ENTRA))
        server = self.vault.server
        server.url, server.audience, server.tenant = f"https://{VAULT}", _AUDIENCE, tenant
        self.entra = Entra(self.vault.tokens, secrets, self.vault.certificate)
        started(self.entra)
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        self._folder = folder

    def environment(self) -> dict[str, str]:
        """What a process needs to take both names from here."""
        ports = {VAULT: self.vault.server.server_port, ENTRA: self.entra.server_port}
        return {
            _TABLE: json.dumps(ports),
            "PYTHONPATH": str(self._folder),
            "REQUESTS_CA_BUNDLE": str(self.vault.certificate),
        }

    def close(self) -> None:
        """Stop serving."""
        self.entra.shutdown()
        self.entra.server_close()
        self.vault.close()
