"""All of Azure on this machine, without an account: `make demo-azure`.

    python -m examples.demo_azure

Starts the strict double of Key Vault as a process of its own and Azurite for the manifests, runs the function app's
archive in Microsoft's own worker library with a tick and with a request by hand, under its managed identity, and reads
a key back as an application would, with Azure's own client. Everything is on loopback and stopped in the end; of the
working tree only build/ is written to.

Exit status: 0 all of it worked, 1 something did not, 130 interrupted.
"""

import argparse
import base64
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from azure.core.exceptions import AzureError
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient
from examples.demo import (
    INTERRUPTED,
    DemoError,
    Environment,
    environment,
    interrupt,
    run,
    say,
    table,
    title,
    unpacked,
    workplace,
)
from infra.bundle import BUNDLES, ROOT, TARGETS, BundleError, build, for_host
from tests.support.azure_worker import FunctionApp, Result
from tests.support.azurite import Azurite

CONTAINER, PREFIX = "manifests", "daena-"
POLICY = "examples/daena-kms.toml"
EVENTS = "functions/azure_function/events"
KEY = "daena-encryption-key"
SECRET = PREFIX + KEY
COMMAND = Path(sys.executable).with_name("daena-key-rotate")


class Account(NamedTuple):
    """Where the doubles listen, and how this machine's identity is asked for."""

    vault: str
    blobs: str
    identity: Environment

    @property
    def settings(self) -> Environment:
        """The function's environment, as Terraform sets it."""
        return self.identity | {
            "DAENA_CLOUD_KMS_PROVIDER": "azure",
            "AZURE_KEY_VAULT_URL": self.vault,
            "DAENA_KEY_PREFIX": PREFIX,
            "DAENA_MANIFEST_URL": f"{self.blobs}/{CONTAINER}/daena-kms",
            "DAENA_POLICY": f"{self.blobs}/{CONTAINER}/policy/daena-kms.toml",
            "ROTATION_SCHEDULE": "0 0 * * * *",
        }

    def secrets(self) -> SecretClient:
        """A plain client, as any application has it."""
        return SecretClient(self.vault, ManagedIdentityCredential())

    def manifests(self) -> ContainerClient:
        """A plain client of the container."""
        return ContainerClient(self.blobs, CONTAINER, ManagedIdentityCredential())


# --- the account


@contextmanager
def doubles() -> Iterator[Account]:
    """Key Vault, Blob Storage and an identity endpoint, as long as this lasts."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "tests.support.strict_vault"],
        cwd=ROOT,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
    )
    try:
        url, told = _told(process)
        with closing(Azurite(Path(told["REQUESTS_CA_BUNDLE"]))) as azurite:
            yield Account(url, azurite.url, told)
    finally:
        process.kill()
        process.communicate()


def _told(process: "subprocess.Popen[str]") -> tuple[str, Environment]:
    """The double's address, and what it says that a client needs."""
    if process.stdout is None:
        raise AssertionError("it is a pipe")
    url, told = process.stdout.readline().strip(), {}
    while url and "REQUESTS_CA_BUNDLE" not in told:
        name, _, value = process.stdout.readline().strip().removeprefix("export ").partition("=")
        if not name:
            break
        told[name] = value
    if "REQUESTS_CA_BUNDLE" not in told:
        raise DemoError("the Key Vault double did not start", "`python -m tests.support.strict_vault` says why")
    return url, told


@contextmanager
def nobody_else(account: Account) -> Iterator[None]:
    """Let this process's clients find the demo's identity, and no real account's."""
    names = [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_", "DAENA_"))]
    taken = {name: os.environ.pop(name) for name in names}
    os.environ |= account.identity
    try:
        yield
    finally:
        for name in account.identity:
            del os.environ[name]
        os.environ |= taken


# --- the function


def show(ask: Callable[[], Result], expected: Mapping[str, str]) -> None:
    """Have the function run, show its report, and hold it against what every key should have come to."""
    started = time.monotonic()
    result = ask()
    if not result.ok or result.status not in (0, 200):
        raise DemoError(f"the function failed: {result.exception or result.body}")
    # A tick's report lies in the log, in pieces that fit into a line each.
    reports = [result.body] if result.body else [told["report"] for told in result.told() if "report" in told]
    outcomes = [outcome for report in reports for outcome in report["outcomes"]]
    table([(o["key"], o["status"], o["message"], o.get("why", "")) for o in outcomes])
    metrics = next(told["metrics"] for told in result.told() if "metrics" in told)
    shown = ("KeysCreated", "KeysRotated", "KeysFailed", "KeysOverdue")
    say("metrics", ", ".join(f"{name} {metrics[name]:g}" for name in shown))
    say("took", f"{time.monotonic() - started:.1f} s")
    got = {o["key"]: o["status"] for o in outcomes}
    if got != dict(expected):
        raise DemoError(f"the report should say {dict(expected)}, it says {got}")


def run_function(app: FunctionApp) -> None:
    """A tick, another one, and a rotation by hand."""
    title("The timer's tick")
    first = {"billing-archive-key": "rotated", KEY: "created", "session-signing-key": "not-due"}
    show(lambda: app.timer("tick"), first)
    title("The next tick")
    show(lambda: app.timer("tick"), dict.fromkeys(first, "not-due"))
    title(f"By hand, {KEY} alone: POST {EVENTS}/rotate-now.json")
    event: dict[str, Any] = json.loads((ROOT / EVENTS / "rotate-now.json").read_text())
    event["request_id"] = f"demo-{time.time_ns()}"
    show(lambda: app.http("run", json.dumps(event).encode()), {KEY: "rotated"})


# --- an application


def read_back(account: Account) -> None:
    """Open both versions of the key from outside, and hold each against what our own command has. Shows no material."""
    client, opened = account.secrets(), {}
    versions = {
        int((found.tags or {})["daena-kms-version"]): found.version
        for found in client.list_properties_of_secret_versions(SECRET)
    }
    for number, asked in ((2, ()), (1, (versions[1],))):
        print(f"SecretClient({account.vault!r}, …).get_secret({', '.join(map(repr, (SECRET, *asked)))})", flush=True)
        material = opened[number] = base64.b64decode(str(client.get_secret(SECRET, *asked).value))
        ours = [str(COMMAND), "get", KEY, "--version", str(number), "--reveal", "--encoding", "raw"]
        if not hmac.compare_digest(material, run(ours, account).stdout):
            raise DemoError(f"version {number} of {KEY} is not what `daena-key-rotate get --reveal` has")
        say("opened", f"version {number}: {len(material)} bytes, the same as `daena-key-rotate get … --reveal` has")
    if hmac.compare_digest(opened[1], opened[2]):
        raise DemoError(f"versions 1 and 2 of {KEY} are the same")
    say("and", "the two are not the same: it was rotated, and what was encrypted before can still be read")


def show_evidence(account: Account) -> None:
    """Verify manifests against store, and list what lies in the container."""
    print("$ daena-key-rotate verify")
    print(run([COMMAND, "verify"], account).stdout.decode().strip(), flush=True)
    blobs = list(account.manifests().list_blobs())
    say("container", f"holds {len(blobs)} blobs now")
    table([(blob.name, f"{blob.size} bytes") for blob in blobs])


# --- all of it


def demo() -> None:
    """The steps, in order. Whatever was started is ended, however this ends."""
    with doubles() as account, nobody_else(account):
        title("An Azure subscription on this machine")
        say("vault", f"{account.vault}: Key Vault, as strict as Azure; nothing leaves this machine")
        say("storage", f"{account.blobs}: Azurite, Microsoft's emulator of Blob Storage")
        say("identity", f"{account.identity['IDENTITY_ENDPOINT']}: who asks here gets the function's tokens")
        account.manifests().create_container()
        account.manifests().upload_blob("policy/daena-kms.toml", (ROOT / POLICY).read_bytes())
        bundle = build(for_host(TARGETS["azure"]), ROOT / BUNDLES / "azure-host.zip", ROOT)
        where = os.path.relpath(bundle.path, ROOT)
        say("function", f"{where}, {bundle.size / 1e6:.1f} MB, run by azure-functions-runtime as in Azure")
        title("Two keys that are older than daena-kms")
        done = run([sys.executable, "-B", ROOT / "examples" / "prepare.py"], account)
        print(done.stderr.decode().strip(), flush=True)
        with unpacked(bundle.path) as folder, FunctionApp(folder, account.settings) as app:
            run_function(app)
        title(f"An application reads {KEY} with azure-keyvault-secrets")
        read_back(account)
        title("The evidence")
        show_evidence(account)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo_azure", description="Try daena-kms on Azure, without Azure."
    )
    parser.parse_args(arguments)
    started = time.monotonic()
    try:
        with workplace():
            demo()
    except (DemoError, BundleError) as problem:
        hint = f"\nhint: {problem.hint}" if problem.hint else ""
        print(f"error: {problem.message}{hint}", file=sys.stderr)
        return 1
    except AzureError as problem:
        print(f"error: {problem}\nhint: this is a bug of the demo: please report it", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started is stopped", file=sys.stderr)
        return INTERRUPTED
    print(f"\nAll of it worked, in {time.monotonic() - started:.0f} s. Everything that was started is stopped.")
    return 0


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, interrupt)
    sys.exit(main())
