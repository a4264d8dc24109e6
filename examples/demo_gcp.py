"""All of Google Cloud on this machine, without an account: `make demo-gcp`.

    python -m examples.demo_gcp

Starts the strict doubles of Secret Manager and Cloud Storage as a process of its own, serves the function's archive
with Google's own functions-framework, calls it as Cloud Scheduler would and by hand, and reads a key back as an
application would: with Google's own client, and with gcloud where one works. Everything is on loopback and stopped in
the end; of the working tree only build/ is written to.

Exit status: 0 all of it worked, 1 something did not, 130 interrupted.
"""

import argparse
import base64
import hmac
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import google.auth
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
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.storage import Client
from infra.bundle import BUNDLES, ROOT, TARGETS, BundleError, build, for_host
from tests.support.served_function import SCHEDULER, Reply, ServedFunction

PREFIX = "daena-"
POLICY = "examples/daena-kms.toml"
EVENTS = "functions/gcp_function/events"
KEY = "daena-encryption-key"
SECRET = PREFIX + KEY
COMMAND = Path(sys.executable).with_name("daena-key-rotate")
# How the variables begin that would lead a client of Google's to another project, or to a proxy.
ELSEWHERE = ("CLOUDSDK_", "DAENA_", "GCE_", "GCLOUD_", "GCP_", "GOOGLE_", "GRPC_", "NO_GCE_", "STORAGE_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

Opener = Callable[[int], bytes]
"""Opens a version of the key's secret."""


class Project(NamedTuple):
    """What clients, the function and gcloud need to find the doubles."""

    told: Environment

    @property
    def id(self) -> str:
        """The project's id."""
        return self.told["GCP_PROJECT_ID"]

    @property
    def bucket(self) -> str:
        """The bucket that was made there."""
        return self.told["DAENA_MANIFEST_URL"].removeprefix("gs://").partition("/")[0]

    @property
    def settings(self) -> Environment:
        """The function's environment, as Terraform sets it."""
        return self.told | {
            "DAENA_KEY_PREFIX": PREFIX,
            "DAENA_MANIFEST_URL": f"gs://{self.bucket}/manifests",
            "DAENA_POLICY": f"gs://{self.bucket}/policy/daena-kms.toml",
            "DAENA_TICK_MINUTES": "60",
            "DAENA_TIME_BUDGET_SECONDS": "1500",
        }

    def secrets(self) -> Any:
        """A plain client, as any application has it."""
        return SecretManagerServiceClient(client_options={"api_endpoint": self.told["GCP_SECRET_MANAGER_ENDPOINT"]})

    def objects(self) -> Any:
        """A plain client of the bucket. Where STORAGE_EMULATOR_HOST is set, it looks for no credentials by itself."""
        return Client(project=self.id, credentials=google.auth.default()[0]).bucket(self.bucket)


# --- the project


@contextmanager
def doubles() -> Iterator[Project]:
    """Secret Manager, Cloud Storage and a metadata server, as long as this lasts."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "tests.support.strict_gcp"],
        cwd=ROOT,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
    )
    try:
        yield Project(_told(process))
    finally:
        process.kill()
        process.communicate()


def _told(process: "subprocess.Popen[str]") -> Environment:
    """What the doubles say that a client needs."""
    if process.stdout is None:
        raise AssertionError("it is a pipe")
    told: Environment = {}
    for line in process.stdout:
        if line.startswith("# ready"):
            return told
        if line.startswith("export "):
            name, _, told[name] = line.strip().removeprefix("export ").partition("=")
    raise DemoError("the doubles did not start", "`python -m tests.support.strict_gcp` says why")


@contextmanager
def nobody_else(project: Project) -> Iterator[None]:
    """Let this process's clients find the demo's project, and no real one."""
    names = [name for name in os.environ if name.startswith(ELSEWHERE) or name.upper() in PROXIES]
    taken = {name: os.environ.pop(name) for name in names}
    os.environ |= project.told
    try:
        yield
    finally:
        for name in project.told:
            del os.environ[name]
        os.environ |= taken


# --- the function


def show(ask: Callable[[], Reply], expected: Mapping[str, str]) -> None:
    """Have the function run, show its report, and hold it against what every key should have come to."""
    started = time.monotonic()
    reply = ask()
    if reply.status != 200:
        raise DemoError(f"the function failed: {reply.status} {reply.body} {reply.stderr}")
    outcomes = reply.body["outcomes"]
    table([(o["key"], o["status"], o["message"], o.get("why", "")) for o in outcomes])
    metrics = next(line["metrics"] for line in reply.lines if "metrics" in line)
    shown = ("KeysCreated", "KeysRotated", "KeysFailed", "KeysOverdue")
    say("metrics", ", ".join(f"{name} {metrics[name]:g}" for name in shown))
    say("took", f"{time.monotonic() - started:.1f} s")
    got = {o["key"]: o["status"] for o in outcomes}
    if got != dict(expected):
        raise DemoError(f"the report should say {dict(expected)}, it says {got}")


def event(name: str) -> dict[str, Any]:
    """One of the requests that lie beside the function."""
    loaded: dict[str, Any] = json.loads((ROOT / EVENTS / name).read_text())
    return loaded


def run_function(function: ServedFunction) -> None:
    """A tick, another one, and a rotation by hand."""
    title(f"Cloud Scheduler's tick: POST {EVENTS}/rotate.json with X-CloudScheduler: true")
    first = {"billing-archive-key": "rotated", KEY: "created", "session-signing-key": "not-due"}
    show(lambda: function.post(event("rotate.json"), SCHEDULER), first)
    title("The next tick")
    show(lambda: function.post(event("rotate.json"), SCHEDULER), dict.fromkeys(first, "not-due"))
    title(f"By hand, {KEY} alone: POST {EVENTS}/rotate-now.json")
    forced = event("rotate-now.json") | {"request_id": f"demo-{time.time_ns()}"}
    show(lambda: function.post(forced), {KEY: "rotated"})


# --- an application


def gcloud() -> str:
    """A gcloud that works, from the PATH; empty if there is none."""
    found = shutil.which("gcloud") or ""
    if found:
        tried = subprocess.run([found, "--version"], env=environment({}), capture_output=True, check=False)  # noqa: S603
        found = "" if tried.returncode else found
    return found


def open_with_client(project: Project, version: int) -> bytes:
    """With google-cloud-secret-manager, as any application would."""
    name = f"projects/{project.id}/secrets/{SECRET}/versions/{version if version == 1 else 'latest'}"
    print(f"SecretManagerServiceClient().access_secret_version(name={name!r})", flush=True)
    return bytes(project.secrets().access_secret_version(name=name).payload.data)


def open_with_gcloud(program: str, project: Project, version: int) -> bytes:
    """With gcloud, as a person would. Shows the command."""
    command = f"secrets versions access {version} --secret={SECRET} --format=get(payload.data)"
    print(f"$ gcloud {command.replace('get(payload.data)', shlex.quote('get(payload.data)'))} |", flush=True)
    print("    tr '_-' '/+' | base64 -d", flush=True)
    return base64.urlsafe_b64decode(run([program, *command.split()], project).stdout)


def read_back(opener: Opener, project: Project) -> None:
    """Open both versions of the key from outside, and hold each against what our own command has. Shows no material."""
    opened = {}
    for number in (2, 1):
        material = opened[number] = opener(number)
        ours = [str(COMMAND), "get", KEY, "--version", str(number), "--reveal", "--encoding", "raw"]
        if not hmac.compare_digest(material, run(ours, project).stdout):
            raise DemoError(f"version {number} of {KEY} is not what `daena-key-rotate get --reveal` has")
        say("opened", f"version {number}: {len(material)} bytes, the same as `daena-key-rotate get … --reveal` has")
    if hmac.compare_digest(opened[1], opened[2]):
        raise DemoError(f"versions 1 and 2 of {KEY} are the same")
    say("and", "the two are not the same: it was rotated, and what was encrypted before can still be read")


# --- the evidence


def show_evidence(project: Project) -> None:
    """Verify manifests against store, and list what lies in the bucket."""
    print("$ daena-key-rotate verify")
    print(run([COMMAND, "verify"], project).stdout.decode().strip(), flush=True)
    found = [*project.objects().list_blobs()]
    say("bucket", f"holds {len(found)} objects now")
    table([(f"gs://{project.bucket}/{each.name}", f"{each.size} bytes") for each in found])


# --- all of it


def demo() -> None:
    """The steps, in order. Whatever was started is ended, however this ends."""
    with doubles() as project, nobody_else(project):
        title("A Google Cloud project on this machine")
        say("secrets", f"{project.told['GCP_SECRET_MANAGER_ENDPOINT']}: Secret Manager, as strict as Google's (gRPC)")
        say(
            "storage", f"{project.told['STORAGE_EMULATOR_HOST']}: Cloud Storage, as strict; nothing leaves this machine"
        )
        say("identity", f"http://{project.told['GCE_METADATA_HOST']}: who asks here gets the function's tokens")
        project.objects().blob("policy/daena-kms.toml").upload_from_string((ROOT / POLICY).read_bytes())
        say("bucket", f"gs://{project.bucket}; its policy/daena-kms.toml is {POLICY}")
        bundle = build(for_host(TARGETS["gcp"]), ROOT / BUNDLES / "gcp-host.zip", ROOT)
        where = os.path.relpath(bundle.path, ROOT)
        say("function", f"{where}, {bundle.size / 1e6:.1f} MB, served by functions-framework as in Cloud Run")
        title("Two keys that are older than daena-kms")
        done = run([sys.executable, "-B", ROOT / "examples" / "prepare.py"], project)
        print(done.stderr.decode().strip(), flush=True)
        with unpacked(bundle.path) as folder, ServedFunction(folder, project.settings) as function:
            run_function(function)
        title(f"An application reads {KEY} with google-cloud-secret-manager")
        read_back(lambda version: open_with_client(project, version), project)
        if program := gcloud():
            title("A person reads it with gcloud")
            read_back(lambda version: open_with_gcloud(program, project, version), project)
        title("The evidence")
        show_evidence(project)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo_gcp", description="Try daena-kms on Google Cloud, without Google Cloud."
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
    except (GoogleAPICallError, GoogleAuthError) as problem:
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
