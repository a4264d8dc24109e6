"""A strict double of Azure Key Vault's secrets, on loopback: HTTPS, the challenge, tokens, data actions, refusals.

`python -m tests.support.strict_vault` starts it alone: its address on the first line, then how to point a client at it.
What it does is in `vault_secrets` (the data plane), `vault_http` (routes, permissions) and `vault_tokens`. It differs
from the service in this: the resource of its challenge is a part of its own address, not https://vault.azure.net;
deletion is done at once; there are no certificates, keys, backup and restore.
"""

import datetime
import ipaddress
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http.server import ThreadingHTTPServer
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .vault_http import JsonHandler, VaultServer, started
from .vault_tokens import Credential, Tokens

FUNCTION = "the-function"


class IdentityEndpoint(ThreadingHTTPServer):
    """What App Service offers to an app with a managed identity: tokens over plain HTTP, for who knows the header.

    Source: Microsoft's "How to use managed identities for App Service", REST endpoint reference (2019-08-01).
    """

    daemon_threads = True

    def __init__(self, tokens: Tokens, clients: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _IdentityHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/msi/token"
        self.header = "the-header-of-this-app"
        self.tokens = tokens
        self.clients = clients
        """Client id -> principal; '' for the identity of the app itself, if it has one."""
        self.asked: list[dict[str, str]] = []


class _IdentityHandler(JsonHandler):
    server: IdentityEndpoint

    def do_GET(self) -> None:  # noqa: N802  # its name there
        query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append(query)
        principal = self.server.clients.get(query.get("client_id", ""))
        known = self.headers.get("X-IDENTITY-HEADER") == self.server.header and "resource" in query
        if not known or principal is None:
            self.say(400, {"statusCode": 400, "message": "No managed identity was found for this app."})
            return
        made = self.server.tokens.made(principal, query["resource"])
        expires = str(int(time.time()) + 3600)
        self.say(
            200, {"access_token": made, "expires_on": expires, "resource": query["resource"], "token_type": "Bearer"}
        )


class StrictVault:
    """A vault, the tokens for it, an identity endpoint, and the certificate to trust."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        tokens_clock: Callable[[], float] = time.time,
        hosts: Iterable[str] = (),
    ) -> None:
        """`hosts` are further names that the certificate is good for."""
        self.certificate = made_certificate(Path(mkdtemp(prefix="daena-vault-")), hosts)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.tokens = Tokens(tokens_clock)
        self.server = VaultServer(self.tokens, clock, context)
        self.identity = IdentityEndpoint(self.tokens, {"": FUNCTION})
        for each in (self.server, self.identity):
            started(each)

    @property
    def url(self) -> str:
        """The vault's address."""
        return self.server.url

    def credential(self, principal: str = "somebody") -> Credential:
        """A credential of that principal."""
        return Credential(self.tokens, principal)

    def environment(self) -> dict[str, str]:
        """What a process needs so that azure-identity and the SDK find all this."""
        return {
            "AZURE_KEY_VAULT_URL": self.url,
            "IDENTITY_ENDPOINT": self.identity.url,
            "IDENTITY_HEADER": self.identity.header,
            "REQUESTS_CA_BUNDLE": str(self.certificate),
        }

    def close(self) -> None:
        """Stop serving."""
        for each in (self.server, self.identity):
            each.shutdown()
            each.server_close()


def made_certificate(folder: Path, hosts: Iterable[str] = ()) -> Path:
    """A key and a certificate for 127.0.0.1 (and hosts) that signs itself, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([address, *map(x509.DNSName, ("localhost", *hosts))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "vault.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    path.chmod(0o600)
    return path


def main() -> None:
    """Serve until told to stop. An argument is how much faster than the world's the vault's clock runs."""
    rate, begun = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, time.time()
    vault = StrictVault(lambda: begun + (time.time() - begun) * rate)
    lines = [vault.url, *(f"export {name}={value}" for name, value in vault.environment().items())]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
