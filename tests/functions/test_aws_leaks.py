"""Nothing that leaves the function holds material: no log at any level, no answer, no error, no trace.

The materials are taken out of the store afterwards, and looked for in every form that text could give them.
"""

import base64
import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from daena_kms.keyring import split_generation
from daena_kms.material import KeyMaterial
from tests.cli import sandbox
from tests.support.aws_world import PREFIX
from tests.support.lambda_runtime import Kind, Result, link

from .aws_scene import BILLING, KEY, POLICY, Scene

CANARY = b"canary that sings when it leaks!"
FOREIGN = "a value that somebody else has put there"
# As an operator does who looks for a fault: ApplicationLogLevel, and the library's own.
DEBUG = {"AWS_LAMBDA_LOG_LEVEL": "DEBUG", "POWERTOOLS_LOG_LEVEL": "DEBUG"}
# Without what keeps botocore from writing whole requests and replies.
CARELESS = """
from daena_kms.stores import aws_calls
aws_calls._TALKATIVE = ()
from handler import lambda_handler
"""


def forms(secret: bytes) -> set[str]:
    """What `secret` may look like in a log or an answer: bytes, hexadecimal, base64, as Python or JSON writes text."""
    plain = sandbox.forms(secret)
    plain |= {form.translate(str.maketrans("+/", "-_")) for form in plain}
    return plain.union(*({json.dumps(f)[1:-1], json.dumps(f, ensure_ascii=False)[1:-1]} for f in plain))


def leaked(text: str, secret: bytes) -> list[str]:
    return [form for form in forms(secret) if form in text]


def halves(generation: bytes) -> tuple[bytes, bytes]:
    """What signs the manifests, and what the fingerprints are made with."""
    seed, fingerprint_key = split_generation(KeyMaterial(generation))
    return bytes(seed), bytes(fingerprint_key)


def secrets_of(scene: Scene) -> list[bytes]:
    generation, *materials = scene.materials()
    return [generation, *halves(generation), *materials]


def test_every_form_would_be_found() -> None:
    for _ in range(20):
        secret = os.urandom(32)
        for text in (
            secret.decode("latin-1"),
            secret.hex(),
            secret.hex().upper(),
            base64.b64encode(b"any" + secret + b"thing").decode(),
            base64.urlsafe_b64encode(b"a" + secret).decode(),
            base64.urlsafe_b64encode(secret).decode().rstrip("="),
            repr({"Plaintext": secret}),
            json.dumps({"message": repr(secret)}),
            json.dumps({"value": secret.decode("latin-1")}),
            json.dumps(list(secret)),
        ):
            assert leaked(f"before {text} after", secret), text
            assert not leaked(text, os.urandom(32))


def life(scene: Scene, settings: Mapping[str, str], layers: Sequence[Path] = ()) -> Iterator[Result]:
    """All that a function goes through: keys made, rotated, looked at, and failing in several ways."""
    kms, secrets = scene.account.aws.client("kms"), scene.account.aws.client("secretsmanager")
    arn = str(kms.call("create_key", "a key of its own")["KeyMetadata"]["Arn"])
    function = scene.function({**settings, "AWS_KMS_KEY_ID": arn}, layers=layers)
    yield function.invoke({"action": "rotate"})
    scene.opened().import_key("old-key", KeyMaterial(CANARY), created=None)
    scene.write_policy(f"{POLICY}[keys.old-key]\n")
    forced = {"action": "rotate", "keys": [KEY, "old-key"], "force": True, "reason": "laptop lost"}
    for event in (forced, *({"action": action} for action in ("status", "plan", "verify")), {"action": "rotates"}):
        yield function.invoke(event)
    kms.call("disable_key", arn, KeyId=arn)
    yield function.invoke(forced)  # each key fails
    yield function.invoke(forced)  # it cannot sign in
    kms.call("enable_key", arn, KeyId=arn)
    secrets.call("put_secret_value", BILLING, SecretId=PREFIX + BILLING, SecretString=FOREIGN)
    for action in ("rotate", "verify", "status"):
        yield function.invoke({"action": action})


def check(scene: Scene, text: str) -> None:
    """No material of the account occurs in `text`."""
    secrets = secrets_of(scene)
    assert CANARY in secrets
    assert len(secrets) == 3 + 2 + 1 + 2  # the generation, and versions of the two that were forced and of the third
    for secret in (*secrets, FOREIGN.encode()):
        assert leaked(text, secret) == []


def test_nothing_that_leaves_the_function_holds_material_even_where_everything_is_logged(scene: Scene) -> None:
    results = list(life(scene, DEBUG))
    assert "".join(result.kind[0] for result in results) == "rrrrreeeeer"
    loud = {line["logger"] for result in results for line in result.lines if line.get("level") == "DEBUG"}
    assert {"botocore.auth", "botocore.hooks", "urllib3.connectionpool"} <= loud
    check(scene, "".join(result.everything for result in results))


def test_traces_hold_no_material(scene: Scene, tmp_path: Path) -> None:
    """Where a layer brings the X-Ray SDK, which has a look at every call of botocore."""
    layer = link(tmp_path, "aws-xray-sdk", "wrapt")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.setblocking(False)
        address = f"127.0.0.1:{daemon.getsockname()[1]}"
        segments: list[str] = []
        for result in life(scene, {"AWS_XRAY_DAEMON_ADDRESS": address}, [layer]):
            assert result.stderr == ""
            segments += received(daemon)
    names = {json.loads(segment.partition("\n")[2])["name"] for segment in segments}
    assert names == {"## lambda_handler", "kms", "s3", "secretsmanager", "sts"}
    check(scene, "".join(segments))


def received(daemon: socket.socket) -> Iterator[str]:
    """What was sent to it until now: on loopback that lies there as soon as it is sent."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield daemon.recv(65_536).decode()


def test_without_the_guard_botocore_would_write_it_down(scene: Scene, tmp_path: Path) -> None:
    """So the test above can see, and what it sees is the guard's work."""
    (tmp_path / "careless.py").write_text(CARELESS)
    function = scene.function(DEBUG, "careless.lambda_handler", [tmp_path])
    result = function.invoke({"action": "rotate"})
    assert result.kind is Kind.RESPONSE
    assert all(leaked(result.everything, secret) for secret in scene.materials())


def test_the_values_of_a_refused_event_are_not_repeated(scene: Scene) -> None:
    function = scene.function(DEBUG)
    for event in (
        {"action": "rotate", "material": "CANARY"},
        {"action": "rotate", "keys": "CANARY"},
        {"keys": [KEY, {"material": "CANARY"}]},
        {"source": "aws.scheduler", "material": "CANARY"},
        "CANARY",
    ):
        result = function.invoke(event)
        assert result.kind is Kind.ERROR
        assert "CANARY" not in result.everything
