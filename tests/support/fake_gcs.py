"""fake-gcs-server, as one process on loopback: HTTP, no tokens, all in memory.

It has what a ledger needs: of writers with ifGenerationMatch=0 one wins. It has not: permissions and tokens; conditions
on a delete are not looked at (v1.55.1). What else it does otherwise than the service, `test_strict_gcs` says.
"""

import atexit
import socket
import subprocess
import threading
from collections import deque
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / ".venv" / "tools" / "fake-gcs" / "bin" / "fake-gcs-server"


def available() -> bool:
    """Whether it was built, which takes Go."""
    return BINARY.is_file()


class FakeGcs:
    """The service. `url` is its address."""

    def __init__(self) -> None:
        if not available():
            raise RuntimeError(f"fake-gcs-server is not at {BINARY}: it is built where Go is")
        told: list[str] = []
        for _ in range(3):  # it does not say which port it took for 0, and one that was free may be taken meanwhile
            self.url = f"http://127.0.0.1:{_free_port()}"
            if self._starts(told):
                return
        raise RuntimeError(f"fake-gcs-server did not start: {''.join(told)}")

    def _starts(self, told: list[str]) -> bool:
        where = ["-scheme", "http", "-host", "127.0.0.1", "-port", self.url.rpartition(":")[2]]
        self._process = subprocess.Popen(
            [str(BINARY), *where, "-external-url", self.url, "-backend", "memory", "-log-level", "info"],
            env={},  # FAKE_GCS_... would change it
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        output = self._process.stderr or ()
        self._reader = threading.Thread(target=deque, args=(output, 0), daemon=True)
        for line in output:
            told.append(line)
            if "server started at" in line:
                self._reader.start()  # it notes every request, and stops when nobody reads that
                return True
        self._process.communicate()
        return False

    def close(self) -> None:
        """Stop serving."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stderr:
            self._process.stderr.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def shared() -> FakeGcs:
    """One for this process, stopped when it ends."""
    made = FakeGcs()
    atexit.register(made.close)
    return made
