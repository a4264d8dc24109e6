"""Every case of `docs/troubleshooting.md`, produced by our own command on the doubles: it prints what the page says.

The guide's six errors are produced once more through what the functions call.
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import botocore.session
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from botocore.retries.bucket import TokenBucket
from botocore.retries.standard import ExponentialBackoff
from google.auth.compute_engine import _metadata

from daena_kms.cli import cli
from daena_kms.errors import KmsError
from daena_kms.invocation import Invocation
from daena_kms.settings import SETTINGS
from daena_kms.stores import azure_calls, azure_ledger
from daena_kms.warm import Warm
from tests.cli.sandbox import Result, Sandbox
from tests.support import aws_world, azure_world, gcp_world
from tests.support.azure_scene import only_reads, refusal
from tests.support.gsm_errors import GoogleError
from tests.support.gsm_faults import refusing
from tests.support.vault_http import Answer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
KEY = "daena-encryption-key"
POLICY = f"[keys.{KEY}]\ncreate = true\n"
QUICK = {"DAENA_CALL_TIMEOUT_SECONDS": "1"}
GET, FORCE = ("get", KEY, "--reveal"), ("rotate", KEY, "--force", "--yes")
NOBODY = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}


class Row(NamedTuple):
    """One case, as the page has it."""

    printed: str
    hint: str
    why: str
    check: str


def rows(heading: str) -> dict[str, Row]:
    """The page's table under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[1].startswith("`"):
            found[cells[0]] = Row(cells[1].strip("`"), *cells[2:])
    return found


def check(heading: str, name: str, printed: str) -> None:
    """The command printed what the page says, its ellipses standing for anything."""
    row = rows(heading)[name]
    lines = re.sub(r"\s+", " ", printed)
    for text in (row.printed, row.hint):
        pattern = ".*".join(re.escape(part) for part in re.split(r"\s*…\s*", text))
        assert re.search(pattern, lines), f"{text!r}\nis not in\n{printed}"


def said(result: Result) -> str:
    """All that was printed by a command that failed."""
    assert result.status != 0, result
    return result.out + result.err


def told_by_a_function(action: Callable[[], Any]) -> str:
    """What a function's log and report have of the same."""
    try:
        answer = action()
    except KmsError as problem:
        return f"{problem.message} {problem.hint}"
    return " ".join(answer.failures)


def perform(keys: tuple[str, ...] = (KEY,)) -> Any:
    """What each of the three handlers calls."""
    return Warm().perform("test", Invocation(keys=keys, force=True, request_id=os.urandom(8).hex()))


class Place:
    """A sandbox, the environment that leads to a cloud, and a key that was made there."""

    def __init__(self, folder: Path, account: Any, environment: dict[str, str]) -> None:
        self.sandbox = Sandbox(folder, policy=POLICY)
        self.account = account
        self.environment = environment
        self.sandbox.done("rotate", **environment)

    def run(self, *words: str, **changed: str) -> str:
        return said(self.sandbox.run(*words, **(self.environment | changed)))

    @contextlib.contextmanager
    def inside(self, **changed: str) -> Iterator[None]:
        """This process, as if it were the function."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.sandbox.folder)
            for name, value in (self.environment | changed).items():
                patch.setenv(name, value)
            yield


Case = Callable[[Place, pytest.MonkeyPatch], str]


def runs(*words: str, **changed: str) -> Case:
    """A command in another environment."""
    return lambda place, _: place.run(*words, **changed)


# --- AWS


class Always(ThreadingHTTPServer):
    """An endpoint that has one answer."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Said)
        self.status, self.body = status, body
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class _Said(BaseHTTPRequestHandler):
    server: Always

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Silent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)


def answered(code: str, message: str, status: int) -> Case:
    """STS, which is asked first, answers so."""

    def run(place: Place, patch: pytest.MonkeyPatch) -> str:
        patch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)
        patch.setattr(TokenBucket, "acquire", lambda *_, **__: True)
        body = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        there = Always(status, body.encode())
        try:
            return place.run("status", AWS_ENDPOINT_URL=f"http://127.0.0.1:{there.server_port}")
        finally:
            there.shutdown()
            there.server_close()

    return run


@contextlib.contextmanager
def judged(place: Place, *allowed: str) -> Iterator[dict[str, str]]:
    """The credentials of somebody who may do only that."""
    iam = botocore.session.Session().create_client("iam", region_name=aws_world.REGION)
    name = f"oncall-{os.urandom(4).hex()}"
    iam.create_user(UserName=name)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    statement = f'{{"Effect": "Allow", "Action": {list(allowed)}, "Resource": "*"}}'.replace("'", '"')
    document = f'{{"Version": "2012-10-17", "Statement": [{statement}]}}'
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
    place.account.server.enforce_iam(True)
    try:
        yield {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}
    finally:
        place.account.server.enforce_iam(False)


def denied(*allowed: str) -> Case:
    """Somebody who may do only that rotates."""

    def run(place: Place, _: pytest.MonkeyPatch) -> str:
        with judged(place, *allowed) as credentials:
            printed = place.run(*FORCE, **credentials)
            with place.inside(**credentials):
                told = told_by_a_function(perform)
        user = re.search(r"arn:aws:iam::\d+:user/oncall-\w+", printed)
        assert user, printed
        assert user[0] in told, "the function says whose credentials they are, too"
        return printed

    return run


def misread(place: Place, _: pytest.MonkeyPatch) -> str:
    """An unknown access key."""
    with judged(place, "s3:*"):
        return place.run("status")


def missigned(place: Place, _: pytest.MonkeyPatch) -> str:
    with judged(place, "*") as credentials:
        return place.run("status", AWS_ACCESS_KEY_ID=credentials["AWS_ACCESS_KEY_ID"])


def by_kms(operation: str, *undone: str) -> Case:
    """Something is done to the KMS key; then somebody reads."""

    def run(place: Place, _: pytest.MonkeyPatch) -> str:
        kms = place.account.aws.client("kms")
        kms.call(operation, "it", KeyId=place.account.key)
        try:
            return place.run(*GET)
        finally:
            for each in undone:
                kms.call(each, "it", KeyId=place.account.key)

    return run


def wrong_kind(place: Place, _: pytest.MonkeyPatch) -> str:
    kinds = {"RSA_2048": "ENCRYPT_DECRYPT", "ECC_NIST_P256": "SIGN_VERIFY", "HMAC_256": "GENERATE_VERIFY_MAC"}
    kms, printed = place.account.aws.client("kms"), ""
    for spec, usage in kinds.items():
        made = kms.call("create_key", "it", KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["Arn"]
        printed = place.run(*FORCE, AWS_KMS_KEY_ID=made)
        check("AWS", "the KMS key is of the wrong kind", printed)
        with place.inside(AWS_KMS_KEY_ID=made):
            check("AWS", "the KMS key is of the wrong kind", told_by_a_function(perform))
    return printed


def without_a_region(place: Place, patch: pytest.MonkeyPatch) -> str:
    """No client of KMS can be made, so nobody is asked. Where it has an address, botocore does without a region."""
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        patch.delenv(name, raising=False)
    place.environment["AWS_ENDPOINT_URL_S3"] = place.environment.pop("AWS_ENDPOINT_URL")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        del place.environment[name]
    return place.run("status", AWS_CONFIG_FILE="/nowhere")


def deleted_secret(words: tuple[str, ...], **how: object) -> Case:
    def run(place: Place, _: pytest.MonkeyPatch) -> str:
        name = aws_world.PREFIX + KEY
        place.account.aws.client("secretsmanager").call("delete_secret", name, SecretId=name, **how)
        return place.run(*words)

    return run


AWS: dict[str, Case] = {
    "a permission on a secret": denied("s3:*", "kms:*"),
    "a permission on the KMS key": denied("s3:*", "secretsmanager:*"),
    "a permission on the bucket": denied("secretsmanager:*", "kms:*", "s3:Get*", "s3:List*"),
    "the KMS key is of the wrong kind": wrong_kind,
    "there is no such KMS key": runs(*FORCE, AWS_KMS_KEY_ID="alias/none"),
    "the KMS key is in another region": runs("status", AWS_REGION="us-east-1"),
    "the KMS key is disabled": by_kms("disable_key", "enable_key"),
    "the KMS key waits for deletion": by_kms("schedule_key_deletion", "cancel_key_deletion", "enable_key"),
    "the credentials have expired": answered(
        "ExpiredToken", "The security token included in the request is expired", 403
    ),
    "the credentials are not AWS's": misread,
    "the signature is wrong": missigned,
    "no credentials": runs("status", **NOBODY),
    "no such profile": runs("status", AWS_PROFILE="production"),
    "no region": without_a_region,
    "throttled": answered("Throttling", "Rate exceeded", 400),
    "AWS cannot be reached": runs("status", AWS_ENDPOINT_URL="http://127.0.0.1:9"),
    "there is no such bucket": runs("status", DAENA_MANIFEST_URL="s3://no-such-bucket/manifests"),
    "another region's or account's store": runs("status", AWS_REGION="us-east-1", AWS_KMS_KEY_ID="alias/daena"),
    "the secret waits for deletion": deleted_secret(GET),
    "the secret is gone": deleted_secret(FORCE, ForceDeleteWithoutRecovery=True),
}


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Place]:
    account = aws_world.emptied()
    yield Place(tmp_path, account, account.environment() | QUICK | {"DAENA_CALL_TIMEOUT_SECONDS": "5"})
    aws_world.emptied()


@pytest.mark.parametrize("name", AWS)
def test_on_aws(aws: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check("AWS", name, AWS[name](aws, monkeypatch))


# --- Azure


def vault_says(answer: Answer, words: tuple[str, ...] = ("status",), secret: str = "") -> Case:
    """The vault has one answer, to whoever reads secrets of that name or asks anything at all."""

    def run(place: Place, _: pytest.MonkeyPatch) -> str:
        place.account.vault.server.between = only_reads(secret, answer) if secret else lambda *_: answer
        printed = place.run(*words)
        with place.inside():
            assert str((answer.document or {})["error"]["message"]) in told_by_a_function(perform) or secret
        return printed

    return run


def no_role(place: Place, _: pytest.MonkeyPatch) -> str:
    place.account.vault.server.allowed[azure_world.FUNCTION] = {"getSecret", "readMetadata", "update"}
    printed = place.run(*FORCE)
    assert f"oid={azure_world.FUNCTION}" in printed
    assert f"/secrets/{azure_world.PREFIX}{KEY}--staged'" in printed
    return printed


def no_role_on_the_container(place: Place, patch: pytest.MonkeyPatch) -> str:
    """Azurite lets in whoever has a token: the service's answer is given where the SDK has read it."""
    made = azure_ledger.open_container

    def denying(*given: Any) -> Any:
        container: Any = made(*given)
        container.upload_blob = refused
        return container

    def refused(*_: object, **__: object) -> None:
        problem = HttpResponseError(message="no")
        problem.status_code = 403
        problem.reason = "This request is not authorized to perform this operation using this permission."
        problem.error_code = "AuthorizationPermissionMismatch"  # type: ignore[attr-defined]
        raise problem

    patch.setattr(azure_ledger, "open_container", denying)
    return place.run(*FORCE)


class Refused:
    """Credentials of an application whose secret has expired."""

    def __init__(self, *_: object) -> None:
        pass

    def get_token_info(self, *_: str, options: Any = None) -> Any:
        raise ClientAuthenticationError(message="AADSTS7000222: The provided client secret keys are expired.")


def no_token(place: Place, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(azure_calls, "ClientSecretCredential", Refused)
    application = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "old"}
    return place.run("status", **application)


def deleted_in_the_vault(name: str, words: tuple[str, ...]) -> Case:
    def run(place: Place, _: pytest.MonkeyPatch) -> str:
        place.account.vault.server.secrets.delete(azure_world.PREFIX + name)
        printed = place.run(*words)
        with place.inside():
            told_by_a_function(perform)
        return printed

    return run


def disabled_in_the_vault(place: Place, _: pytest.MonkeyPatch) -> str:
    secrets, name = place.account.vault.server.secrets, azure_world.PREFIX + KEY
    secrets.patch(name, secrets.live[name].versions[-1].version, {"attributes": {"enabled": False}})
    return place.run(*GET)


_ISSUER = "AKV10032: Invalid issuer. Expected one of https://sts.windows.net/a/, found https://sts.windows.net/b/."
UNAUTHORIZED = Answer(401, {"error": {"code": "Unauthorized", "message": _ISSUER}})
AZURE: dict[str, Case] = {
    "a role in the vault": no_role,
    "a role on the container": no_role_on_the_container,
    "the vault does not take the token": vault_says(UNAUTHORIZED),
    "Entra ID gives no token": no_token,
    "the secret is not there": deleted_in_the_vault(KEY, GET),
    "the name is taken by a deleted secret": deleted_in_the_vault(f"{KEY}--staged", FORCE),
    "the active version was disabled": disabled_in_the_vault,
    "the network is not let in": vault_says(refusal(403, "Forbidden", "ForbiddenByFirewall")),
    "throttled": vault_says(refusal(429, "Throttled")),
    "the vault cannot be reached": runs("status", AZURE_KEY_VAULT_URL="https://127.0.0.1:9"),
    "no credentials": runs("status", AZURE_CLIENT_ID="not-of-this-app"),
    "half of an application": runs("status", AZURE_TENANT_ID="tenant", AZURE_CLIENT_ID="client"),
}


def no_container(place: Place, _: pytest.MonkeyPatch) -> str:
    return place.run("status", DAENA_MANIFEST_URL=f"{place.account.blobs.url}/no-such-container/keys")


AZURE["there is no such container"] = no_container


@pytest.fixture
def azure(tmp_path: Path) -> Iterator[Place]:
    account = azure_world.emptied()
    yield Place(tmp_path, account, account.environment() | QUICK)
    azure_world.emptied()


@pytest.mark.parametrize("name", AZURE)
def test_on_azure(azure: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check("Azure", name, AZURE[name](azure, monkeypatch))


# --- Google Cloud


def not_granted(place: Place, _: pytest.MonkeyPatch) -> str:
    place.account.secrets.service.allowed[gcp_world.FUNCTION] = {"nothing"}
    printed = place.run("status")
    with place.inside():
        check("Google Cloud", "a role in Secret Manager", told_by_a_function(perform))
    assert f"asked by gcp:{gcp_world.FUNCTION}" in printed
    return printed


def not_on_the_bucket(place: Place, _: pytest.MonkeyPatch) -> str:
    place.account.storage.server.allowed[gcp_world.FUNCTION] = {"storage.objects.get", "storage.objects.list"}
    printed = place.run(*FORCE)
    assert printed.count(gcp_world.FUNCTION) == 1, "Google says whose credentials they are: not twice"
    assert "{" not in printed, "of the body in JSON its message is shown, not all of it"
    return printed


def secret_manager_says(code: str, message: str, reason: str = "") -> Case:
    def run(place: Place, _: pytest.MonkeyPatch) -> str:
        def refused(*_: Any) -> Any:
            raise GoogleError(code, message, reason)

        place.account.secrets.service.between = refused
        return place.run("status")

    return run


def api_off(place: Place, _: pytest.MonkeyPatch) -> str:
    place.account.secrets.service.enabled = False
    return place.run("status")


def in_secret_manager(verb: str, *more: str) -> Case:
    """Something is done to the key's secret; then somebody reads."""

    def run(place: Place, _: pytest.MonkeyPatch) -> str:
        getattr(place.account.secrets.store, verb)(gcp_world.PREFIX + KEY, *more)
        return place.run(*GET)

    return run


def no_google_credentials(place: Place, patch: pytest.MonkeyPatch) -> str:
    for name in ("ping", "is_on_gce"):
        patch.setattr(_metadata, name, lambda *_, **__: False)
    return place.run("status", GOOGLE_APPLICATION_CREDENTIALS="", CLOUDSDK_CONFIG="/nowhere")


def busy(place: Place, _: pytest.MonkeyPatch) -> str:
    place.account.secrets.service.between = refusing("RESOURCE_EXHAUSTED", "Quota exceeded")
    return place.run("status")


GCP: dict[str, Case] = {
    "a role in Secret Manager": not_granted,
    "a role on the bucket": not_on_the_bucket,
    "not this project": runs("status", GCP_PROJECT_ID="another-project"),
    "the number, not the id": runs("status", GCP_PROJECT_ID="482913337105"),
    "the API is off": api_off,
    "no billing": secret_manager_says(
        "PERMISSION_DENIED", "This API method requires billing to be enabled.", "BILLING_DISABLED"
    ),
    "tokens for other APIs": secret_manager_says(
        "PERMISSION_DENIED", "Request had insufficient authentication scopes.", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
    ),
    "the secret is not there": in_secret_manager("delete", ""),
    "the version is disabled or destroyed": in_secret_manager("disable", "1", ""),
    "the token is not taken": secret_manager_says("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "no credentials": no_google_credentials,
    "no such key file": runs("status", GOOGLE_APPLICATION_CREDENTIALS="/nowhere/key.json"),
    "throttled": busy,
    "Secret Manager cannot be reached": runs("status", GCP_SECRET_MANAGER_ENDPOINT="127.0.0.1:9"),
    "there is no such bucket": runs("status", DAENA_MANIFEST_URL="gs://no-such-bucket/keys"),
}


@pytest.fixture(scope="module")
def strict() -> Iterator[gcp_world.Project]:
    """A project whose Cloud Storage looks at permissions, and words its refusals as Google does."""
    before = dict(os.environ)
    made = gcp_world.Project(strict_storage=True)
    yield made
    os.environ.clear()
    os.environ |= before


@pytest.fixture
def gcp(strict: gcp_world.Project, tmp_path: Path) -> Iterator[Place]:
    strict.empty()
    file = {"GOOGLE_APPLICATION_CREDENTIALS": str(strict.secrets.key_file(gcp_world.FUNCTION))}
    yield Place(tmp_path, strict, strict.environment() | file | QUICK)
    strict.empty()
    strict.storage.server.allowed.clear()  # type: ignore[union-attr]  # the strict one


@pytest.mark.parametrize("name", GCP)
def test_on_google_cloud(gcp: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check("Google Cloud", name, GCP[name](gcp, monkeypatch))


# --- everywhere


def without_the_sdk(place: Place, patch: pytest.MonkeyPatch) -> str:
    for name in [name for name in sys.modules if name.startswith("daena_kms.stores.azure")]:
        patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, "azure.core.credentials", None)
    patch.delattr("daena_kms.stores.azure_calls", raising=False)
    vault = "https://daena-kv.vault.azure.net"
    return place.run("status", DAENA_CLOUD_KMS_PROVIDER="azure", AZURE_KEY_VAULT_URL=vault)


EVERYWHERE: dict[str, Case] = {
    "no key of that name": runs("get", "nothing"),
    "the manifests lie elsewhere": lambda place, _: place.run(
        "status", DAENA_MANIFEST_URL=f"file://{place.sandbox.folder}/elsewhere"
    ),
    "the SDK is not installed": without_the_sdk,
    "a setting is misspelt": runs("status", DAENA_MANIFEST_UR="s3://bucket/folder"),
    "the policy is not there": runs("rotate", DAENA_POLICY="nowhere.toml"),
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_on_any_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check("Everywhere", name, EVERYWHERE[name](Place(tmp_path, None, {}), monkeypatch))


# --- the page


@pytest.mark.parametrize(
    ("heading", "cases"), [("AWS", AWS), ("Azure", AZURE), ("Google Cloud", GCP), ("Everywhere", EVERYWHERE)]
)
def test_every_case_on_the_page_is_produced_and_no_other(heading: str, cases: dict[str, Case]) -> None:
    assert set(rows(heading)) == set(cases)
    assert all(row.check.startswith("`") and row.why for row in rows(heading).values())


def test_the_guides_errors_are_all_there_with_its_advice() -> None:
    """What it says to look at, and where the page or the hint has that."""
    advice = {
        ("AWS", "AccessDeniedException"): ("IAM permissions", "key policy", "AWS_REGION"),
        ("AWS", "InvalidKeyUsageException"): ("symmetric", "asymmetric", "KeySpec"),
        ("Azure", "Unauthorized"): ("AZURE_CLIENT_SECRET", "role", "AZURE_KEY_VAULT_URL"),
        ("Azure", "SecretNotFound"): ("the name", "may not read", "deleted"),
        ("Google Cloud", "PermissionDenied"): ("service account", "binding", "GCP_PROJECT_ID"),
        ("Google Cloud", "NotFound"): ("the name", "GCP_PROJECT_ID", "is there"),
    }
    for (heading, error), words in advice.items():
        told = "\n".join(" ".join(row) for row in rows(heading).values() if error in f"{row.printed} {row.why}")
        assert told, error
        assert [word for word in words if word not in told] == [], error


def test_what_the_page_names_is_there() -> None:
    settings = {setting.name for setting in SETTINGS}
    named = set(re.findall(r"\b(?:DAENA|AWS|AZURE|GCP|GOOGLE)_[A-Z_]*[A-Z]\b", PAGE))
    assert named - settings == {"DAENA_MANIFEST_UR"}
    commands = set(re.findall(r"daena-key-rotate (?:-v )?([a-z]+)", PAGE))
    assert commands - set(cli.commands) == set()
    for path in re.findall(r"\b(?:infra|examples|docs)/[\w./-]*\w", PAGE):
        assert (ROOT / path).exists(), path


def test_every_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = link.partition("#")
        page = (ROOT / "docs" / path).read_text()
        headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, link
