"""A reader in a process of its own, which asks for keys all the time, as an application does, and tells what it got.

    python -m tests.faults.watcher PROVIDER PREFIX PARENT

On stdin it is told which keys to read; on stdout it tells the SHA-256 of each value when it first gets it, and what it
could not get, a line of JSON each. In the clouds it reads with their own clients. On this machine it reads the vault's
file, and asks the library as well. `Watcher` is the campaign's side of that.
"""

import base64
import ctypes
import hashlib
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120.0
SHARE = 2.0  # between two reads it pauses so many times as long as the first took: others work too
LONGEST_PAUSE = 0.05
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG: linux/prctl.h

Read = Callable[[str], list[bytes]]


class Seen(NamedTuple):
    """What a reader got, or did not."""

    key: str
    sha256: str = ""
    trouble: str = ""


# --- the campaign's side


class Watcher:
    """Has keys read while a campaign does its work."""

    def __init__(self, provider: str, prefix: str, environment: Mapping[str, str], file: Path) -> None:
        """`file` keeps all that was told."""
        self._file = file.open("w")
        with (file.parent / (file.name + ".err")).open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.watcher", provider, prefix, str(os.getpid())],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._orders = count(1)
        self._buffer = b""
        self._seen: list[Seen] = []
        self.reads = 0

    def watch(self, keys: Sequence[str], *, there: bool = True) -> None:
        """From now on these keys are read. `there`: so that not to find one is told; else from its first value on.

        Returns once each was read.
        """
        self._order({"keys": list(keys), "there": there})

    def seen(self, keys: Sequence[str] = ()) -> list[Seen]:
        """What was got up to now, after one more look; then these keys are read, for short nothing."""
        self._order({})
        self._order({"keys": list(keys), "there": True})
        seen, self._seen = self._seen, []
        return seen

    def _order(self, order: Mapping[str, object]) -> None:
        number = next(self._orders)
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("it has pipes")
        self._process.stdin.write(json.dumps({**order, "order": number}).encode() + b"\n")
        self._process.stdin.flush()
        until = time.monotonic() + TIMEOUT_SECONDS
        while self._read(until - time.monotonic()) != number:
            pass

    def _read(self, seconds: float) -> int:
        """Hear some more; the last order that was carried out, if that is told."""
        stream = self._process.stdout
        if stream is None or seconds <= 0 or not select.select([stream.fileno()], [], [], seconds)[0]:
            raise RuntimeError("the reader does not answer")
        chunk = os.read(stream.fileno(), 1 << 16)
        if not chunk:
            raise RuntimeError(f"the reader has ended with {self._process.wait()}")
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        done = 0
        for line in lines:
            self._file.write(line.decode() + "\n")
            told = json.loads(line)
            if "order" in told:
                done, self.reads = told["order"], told["reads"]
            else:
                self._seen.append(Seen(**told))
        return done

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._file):
            with suppress(OSError):
                stream and stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()


# --- the process that reads


def die_with(parent: int) -> None:
    """From now on this process ends when its parent does, whatever it is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def reader(provider: str, prefix: str) -> Read:
    """How to get what an application gets of a key that names no version. Raises LookupError if there is nothing."""
    kinds = {"local": _of_this_machine, "aws": _of_aws, "azure": _of_azure, "gcp": _of_gcp}
    return kinds[provider](prefix)


def _of_this_machine(_: str) -> Read:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # each imports only its own

    from daena_kms import app  # noqa: PLC0415
    from daena_kms.settings import read_settings  # noqa: PLC0415

    home = Path(os.environ["DAENA_HOME"])
    service = app.open_service(read_settings(), trigger="reader", writes=False).service
    cipher = AESGCM(base64.b64decode((home / "kek").read_text()))

    def read(key: str) -> list[bytes]:
        with closing(sqlite3.connect(f"file:{home / 'vault.db'}?mode=ro", uri=True, timeout=60)) as db:
            row = db.execute(
                "SELECT number, spec, sealed FROM versions JOIN keys ON key = name AND number = active WHERE name = ?",
                (key,),
            ).fetchone()
        if row is None:
            raise LookupError
        number, spec, sealed = row
        bound = "\0".join(("daena-kms/local/1", key, str(number), spec)).encode()
        values = [cipher.decrypt(sealed[:12], sealed[12:], bound)]
        if service.state(key).active is not None:  # a key that is being made has a value before its manifest says so
            material = service.get(key, reveal=True).material
            values += [material.reveal()] if material is not None else []
        return values

    return read


def _of_aws(prefix: str) -> Read:
    import botocore.session  # noqa: PLC0415

    session = botocore.session.get_session()
    secrets, kms = (
        session.create_client(name, region_name=os.environ["AWS_REGION"]) for name in ("secretsmanager", "kms")
    )

    def read(key: str) -> list[bytes]:
        try:
            told = secrets.get_secret_value(SecretId=prefix + key)
        except secrets.exceptions.ResourceNotFoundException:
            raise LookupError from None
        envelope = json.loads(told["SecretString"])
        if envelope["format"] != "daena-kms/1":
            raise LookupError  # a secret is made with a version that holds nothing
        bound = {"daena-kms:key": prefix + key, "daena-kms:number": str(envelope["number"])}
        opened = kms.decrypt(CiphertextBlob=base64.b64decode(envelope["wrapped"]), EncryptionContext=bound)
        return [bytes(opened["Plaintext"])]

    return read


def _of_azure(prefix: str) -> Read:
    from azure.core.exceptions import ResourceNotFoundError  # noqa: PLC0415
    from azure.identity import ManagedIdentityCredential  # noqa: PLC0415
    from azure.keyvault.secrets import SecretClient  # noqa: PLC0415

    credential = ManagedIdentityCredential()
    client = SecretClient(os.environ["AZURE_KEY_VAULT_URL"], credential, verify_challenge_resource=False)

    def read(key: str) -> list[bytes]:
        try:
            return [base64.b64decode(str(client.get_secret(prefix + key).value))]
        except ResourceNotFoundError:
            raise LookupError from None

    return read


def _of_gcp(prefix: str) -> Read:
    from google.api_core.exceptions import NotFound  # noqa: PLC0415
    from google.cloud.secretmanager_v1 import SecretManagerServiceClient  # noqa: PLC0415

    client: Any = SecretManagerServiceClient(client_options={"api_endpoint": os.environ["GCP_SECRET_MANAGER_ENDPOINT"]})
    parent = f"projects/{os.environ['GCP_PROJECT_ID']}/secrets/{prefix}"

    def read(key: str) -> list[bytes]:
        try:
            return [bytes(client.access_secret_version(name=f"{parent}{key}/versions/latest").payload.data)]
        except NotFound:
            raise LookupError from None

    return read


class Reading:
    """What is read, and what was told of it."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._told: set[tuple[str, str]] = set()
        self._there: set[str] = set()
        self._keys: list[str] = []
        self.reads = 0

    def order(self, order: Mapping[str, Any]) -> Iterator[Seen]:
        """Carry one out: read other keys from now on, perhaps; and each of them once."""
        if "keys" in order:
            self._keys = order["keys"]
            self._told.clear()
            self._there = set(self._keys) if order["there"] else set()
        for _ in self._keys:
            yield from self.once()

    def once(self) -> Iterator[Seen]:
        """Read the next key."""
        key = self._keys[self.reads % len(self._keys)]
        self.reads += 1
        try:
            values = [hashlib.sha256(value).hexdigest() for value in self._read(key)]
        except LookupError:
            if key in self._there:
                yield from self._new(Seen(key, trouble="missing"))
            return
        except Exception as problem:  # noqa: BLE001  # whatever it is: a reader got nothing
            yield from self._new(Seen(key, trouble=f"refused: {type(problem).__name__}: {str(problem)[:300]}"))
            return
        self._there.add(key)
        for value in values:
            yield from self._new(Seen(key, value))

    def _new(self, seen: Seen) -> Iterator[Seen]:
        what = (seen.key, seen.sha256 or seen.trouble)
        if what not in self._told:
            self._told.add(what)
            yield seen


def main(provider: str, prefix: str, parent: str) -> None:
    """Read until stdin ends, or the parent does: a client may go on asking for long what has gone."""
    die_with(int(parent))
    os.nice(5)
    reading = Reading(reader(provider, prefix))
    buffer, busy, pause = b"", False, 0.0
    while True:
        if select.select([0], [], [], pause if busy else None)[0]:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                order = json.loads(line)
                for seen in reading.order(order):
                    _say(seen._asdict())
                _say({"order": order["order"], "reads": reading.reads})
                busy = bool(order.get("keys", busy))
        if busy:
            started = time.monotonic()
            for seen in reading.once():
                _say(seen._asdict())
            pause = min(SHARE * (time.monotonic() - started), LONGEST_PAUSE)


def _say(told: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
