"""MiniStack: an AWS that others wrote, as a process on loopback with TLS, and with authentication on.

    with MiniStack(folder) as server:
        session.create_client("s3", **server.options())

It has an environment of its own (`make .venv/tools/ministack/ready`); `ministack_server` is what runs there, and has
what MiniStack lacks. It keeps all that it writes in the folder, and ends with whoever started it, however that ends.
"""

import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PYTHON = Path(__file__).parents[2] / ".venv" / "tools" / "ministack" / "bin" / "python"
SERVER = Path(__file__).with_name("ministack_server.py")
ACCOUNT, REGION = "123456789012", "eu-west-1"
ROOT = "test"
"""Access key and secret of the account's root, whom no policy holds back."""
PATIENCE_SECONDS = 300.0
_PAUSE_SECONDS = 0.2

Found = TypeVar("Found")


def wait_for(what: str, look: Callable[[], Found | None], alive: Callable[[], object] = lambda: None) -> Found:
    """What `look` finds at last. `alive` raises if there is no hope. Raises TimeoutError long after it should be."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        alive()
        time.sleep(_PAUSE_SECONDS)
    raise TimeoutError(f"{what}: not in {PATIENCE_SECONDS:.0f} s")


class MiniStack:
    """One server."""

    def __init__(self, folder: Path) -> None:
        """Returns when it answers. Raises FileNotFoundError if it is not installed, RuntimeError if it ends."""
        if not PYTHON.exists():
            raise FileNotFoundError(f"{PYTHON}: run `make .venv/tools/ministack/ready` (`make test` does)")
        self.certificate = folder / "certificate.pem"
        self._log = folder / "ministack.log"
        key = folder / "key.pem"
        _make_certificate(self.certificate, key)
        port = _free_port()
        self.url = f"https://127.0.0.1:{port}"
        variables = {
            "AUTH": "true",
            "AWS_CA_BUNDLE": str(self.certificate),  # the functions' too
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "HOME": str(folder),
            "IOT_MTLS_ENABLED": "0",
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "MINISTACK_SSL_CERT": str(self.certificate),
            "MINISTACK_SSL_KEY": str(key),
            "PATH": os.defpath,
            "S3_DATA_DIR": str(folder / "s3"),
            "STATE_DIR": str(folder / "state"),
            "TMPDIR": str(folder),
            "USE_SSL": "1",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-P", SERVER],  # without the folder of this file, which has a `ministack` too
                env=variables,
                cwd=folder,
                stdin=subprocess.PIPE,  # it ends when this does
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            wait_for("MiniStack answers", lambda: _listens(port), self._check)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it, and every function's process."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _check(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(f"MiniStack ended: {self._log.read_text()[-2000:]}")


def variables(url: str, certificate: str) -> dict[str, str]:
    """The environment of a process that is to work there, as root."""
    return {
        "AWS_ACCESS_KEY_ID": ROOT,
        "AWS_CA_BUNDLE": certificate,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_SECRET_ACCESS_KEY": ROOT,
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _make_certificate(certificate: Path, key: Path) -> None:
    """For 127.0.0.1, signed by itself, for two days."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MiniStack in a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
