"""Calling AWS: what its errors become, what becomes of a call that gets no reply, and that nothing leaks on the way."""

import logging
import re
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import botocore.exceptions
import pytest
from botocore.exceptions import BotoCoreError, ClientError, WaiterError
from botocore.retries.bucket import TokenBucket
from botocore.retries.standard import ExponentialBackoff

from daena_kms import errors
from daena_kms.errors import (
    ConfigurationError,
    ConflictError,
    DeniedError,
    ExistsError,
    IntegrityError,
    KmsError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from daena_kms.material import KeyMaterial
from daena_kms.model import KeySpec
from daena_kms.stores import aws_calls
from daena_kms.stores.aws_calls import ATTEMPTS, Aws, Client, RejectedError
from daena_kms.stores.base import NewVersion
from tests.cli.sandbox import CANARY, leaked
from tests.support import aws_world

REGION = "eu-west-1"
KEY = "daena-encryption-key"
SPEC = KeySpec.parse("AES-256")

# code: (what it becomes, words that the hint must have)
TRANSLATED: dict[str, tuple[type[KmsError], tuple[str, ...]]] = {
    # the guide: verify IAM permissions, check key policy, ensure region matches
    "AccessDeniedException": (DeniedError, ("IAM permissions", "key policy", "region")),
    "AccessDenied": (DeniedError, ("IAM permissions", "region")),
    "AllAccessDisabled": (DeniedError, ("IAM permissions",)),
    "403": (DeniedError, ("IAM permissions",)),
    "Forbidden": (DeniedError, ("IAM permissions",)),
    "ExpiredToken": (DeniedError, ("expired", "aws sso login", "credentials")),
    "ExpiredTokenException": (DeniedError, ("expired", "credentials")),
    "IncompleteSignature": (DeniedError, ("credentials",)),
    "InvalidAccessKeyId": (DeniedError, ("credentials",)),
    "InvalidClientTokenId": (DeniedError, ("credentials",)),
    "InvalidSignatureException": (DeniedError, ("clock", "credentials")),
    "InvalidToken": (DeniedError, ("credentials",)),
    "MissingAuthenticationToken": (DeniedError, ("credentials",)),
    "MissingAuthenticationTokenException": (DeniedError, ("credentials",)),
    "RequestTimeTooSkewed": (DeniedError, ("clock", "credentials")),
    "SignatureDoesNotMatch": (DeniedError, ("clock", "credentials")),
    "UnrecognizedClientException": (DeniedError, ("credentials", "aws sts get-caller-identity")),
    # the guide: use symmetric keys (not asymmetric), check that key spec matches usage
    "InvalidKeyUsageException": (
        ConfigurationError,
        ("AWS_KMS_KEY_ID", "symmetric", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "aws kms describe-key"),
    ),
    "UnsupportedOperationException": (ConfigurationError, ("symmetric",)),
    "NotFoundException": (ConfigurationError, ("AWS_KMS_KEY_ID", "AWS_REGION")),
    "InvalidArnException": (ConfigurationError, ("AWS_KMS_KEY_ID",)),
    "InvalidKeyId": (ConfigurationError, ("AWS_KMS_KEY_ID",)),
    "DisabledException": (UnavailableError, ("applications cannot read", "NOW", "aws kms enable-key")),
    "KMSInvalidStateException": (UnavailableError, ("aws kms cancel-key-deletion", "enable-key")),
    "KeyUnavailableException": (UnavailableError, ("KMS key",)),
    "InvalidCiphertextException": (IntegrityError, ("verify", "backup")),
    "IncorrectKeyException": (IntegrityError, ("verify", "backup")),
    "EncryptionFailure": (UnavailableError, ("KMS key",)),
    "DecryptionFailure": (UnavailableError, ("KMS key",)),
    "Throttling": (ThrottledError, ("DAENA_CONCURRENCY", "quota")),
    "ThrottlingException": (ThrottledError, ("DAENA_CONCURRENCY", "quota")),
    "ThrottledException": (ThrottledError, ("DAENA_CONCURRENCY",)),
    "TooManyRequestsException": (ThrottledError, ("DAENA_CONCURRENCY",)),
    "RequestLimitExceeded": (ThrottledError, ("DAENA_CONCURRENCY",)),
    "RequestThrottled": (ThrottledError, ("DAENA_CONCURRENCY",)),
    "RequestThrottledException": (ThrottledError, ("DAENA_CONCURRENCY",)),
    "BandwidthLimitExceeded": (ThrottledError, ("DAENA_CONCURRENCY",)),
    "SlowDown": (ThrottledError, ("DAENA_CONCURRENCY",)),
    "ResourceNotFoundException": (NotFoundError, ("AWS_REGION", "account")),
    "NoSuchKey": (NotFoundError, ()),
    "404": (NotFoundError, ()),
    "ResourceExistsException": (ExistsError, ()),
    "PreconditionFailed": (ExistsError, ()),
    "412": (ExistsError, ()),
    "ConditionalRequestConflict": (ConflictError, ()),
    "OperationAborted": (ConflictError, ()),
    "NoSuchBucket": (ConfigurationError, ("DAENA_MANIFEST_URL",)),
    "PermanentRedirect": (ConfigurationError, ("AWS_REGION",)),
    "AuthorizationHeaderMalformed": (ConfigurationError, ("AWS_REGION",)),
    "IllegalLocationConstraintException": (ConfigurationError, ("AWS_REGION",)),
    "301": (ConfigurationError, ("AWS_REGION",)),
    "InvalidParameterException": (RejectedError, ("secret",)),
    "InvalidRequestException": (RejectedError, ("secret",)),
    "LimitExceededException": (RejectedError, ("secret",)),
    "DryRunOperationException": (RejectedError, ()),  # a try that would have worked: `doctor` asks for it
    "InternalServiceError": (UnavailableError, ("next run",)),
    "KMSInternalException": (UnavailableError, ("next run",)),
    "ServiceUnavailable": (UnavailableError, ("next run",)),
    "SomethingThatIsNewException": (UnavailableError, ("next run",)),
}


def _refusal(code: str, message: str = "because", field: str = "Message") -> ClientError:
    return ClientError({"Error": {"Code": code, field: message}}, "GetSecretValue")


@pytest.mark.parametrize("code", TRANSLATED)
def test_an_error_of_aws_in_our_words(code: str) -> None:
    kind, words = TRANSLATED[code]
    problem = aws_calls.translate(_refusal(code), "get-secret-value of app-key")
    assert type(problem) is kind
    assert problem.message == f"get-secret-value of app-key: {code}: because"
    assert [word for word in words if word not in problem.hint] == []


def test_every_code_that_is_translated_is_in_the_table_above() -> None:
    known = {code for codes in aws_calls._TRANSLATIONS for code in codes} | set(aws_calls._REQUEST_IS_WRONG)
    assert known - set(TRANSLATED) == set()


def test_a_rejection_says_its_code_and_is_a_refusal() -> None:
    problem = aws_calls.translate(_refusal("LimitExceededException"), "put")
    assert isinstance(problem, RejectedError)
    assert isinstance(problem, RefusedError)
    assert problem.code == "LimitExceededException"


@pytest.mark.parametrize(
    "said",
    [
        "You can't perform this operation on the secret because it was marked for deletion.",
        "You can't create this secret because a secret with this name is already scheduled for deletion.",
    ],
)
def test_a_secret_that_waits_for_its_deletion_is_unavailable_and_can_be_restored(said: str) -> None:
    problem = aws_calls.translate(_refusal("InvalidRequestException", said), "put")
    assert type(problem) is UnavailableError
    assert "restore-secret" in problem.hint


@pytest.mark.parametrize("field", ["Message", "message"])
def test_what_the_service_says_is_kept(field: str) -> None:
    """Secrets Manager and KMS spell the field apart (recorded-replies)."""
    said = "User: arn:aws:iam::1:user/x is not authorized to perform: kms:Decrypt"
    assert said in aws_calls.translate(_refusal("AccessDeniedException", said, field), "decrypt").message


class Denying:
    """A client that AWS denies everything, in these words."""

    def __init__(self, service: str, code: str, said: str) -> None:
        class Meta:
            service_model = type("Model", (), {"service_name": service})
            method_to_api_mapping: ClassVar = {"list_objects_v2": "ListObjectsV2", "get_secret_value": "GetSecretValue"}

        self.meta = Meta
        self._code, self._said = code, said

    def get_secret_value(self, **_: object) -> None:
        raise _refusal(self._code, self._said)

    list_objects_v2 = get_secret_value


OURS = "arn:aws:sts::1:assumed-role/rotator/x"
# service, operation, what AWS says: what we add
COMPLETED: list[tuple[str, str, str, str]] = [
    ("s3", "list_objects_v2", "Access Denied", f" (the action is s3:ListBucket, asked by {OURS})"),
    ("secretsmanager", "get_secret_value", f"User: {OURS} may not secretsmanager:GetSecretValue", ""),
    (
        "secretsmanager",
        "get_secret_value",
        "Somebody may not secretsmanager:GetSecretValue",
        f" (asked by {OURS})",
    ),
]


@pytest.mark.parametrize(("service", "operation", "said", "added"), COMPLETED)
def test_a_denial_names_action_and_credentials_once(service: str, operation: str, said: str, added: str) -> None:
    with pytest.raises(DeniedError) as refused:
        Client(Denying(service, "AccessDenied", said), lambda: OURS).call(operation, "it")
    assert refused.value.message.endswith(f": AccessDenied: {said}{added}")
    assert "infra/aws/template.yaml" in refused.value.hint
    assert "DAENA_KEY_PREFIX" in refused.value.hint


def test_credentials_that_are_none_lack_no_action_and_unknown_ones_are_not_named() -> None:
    for code in ("ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch"):
        with pytest.raises(DeniedError, match=r": no$"):
            Client(Denying("s3", code, "no"), lambda: OURS).call("list_objects_v2", "it")
    with pytest.raises(DeniedError, match=r"\(the action is s3:ListBucket\)$"):
        Client(Denying("s3", "AccessDenied", "no")).call("list_objects_v2", "it")


@pytest.mark.parametrize("response", [{}, {"Error": {}}, {"Error": {"Code": "InvalidCiphertextException"}}])
def test_a_refusal_without_words_is_a_sentence_all_the_same(response: dict[str, Any]) -> None:
    """A damaged ciphertext is refused without a message (recorded-replies)."""
    problem = aws_calls.translate(ClientError(response, "Decrypt"), "decrypt of version 3")
    assert problem.message.startswith("decrypt of version 3: ")
    assert problem.message.endswith(": no reason given")


# botocore's own errors, made with parameters that hold a secret wherever they take any.
def _sdk_errors() -> list[BotoCoreError]:
    found = []
    for kind in vars(botocore.exceptions).values():
        if isinstance(kind, type) and issubclass(kind, BotoCoreError) and kind is not WaiterError:
            fields = re.findall(r"{(\w+)", str(getattr(kind, "fmt", "")))
            found.append(kind(**dict.fromkeys(fields, CANARY.decode())))
    return found


def test_no_error_of_the_sdk_gives_away_what_it_holds() -> None:
    made = _sdk_errors()
    assert len(made) > 80
    assert sum(CANARY.decode() in str(problem) for problem in made) > 60
    for problem in made:
        ours = aws_calls.translate(problem, "encrypt of the key")
        assert type(ours) in (ConfigurationError, UnavailableError)
        assert leaked(ours.message + ours.hint, CANARY) == []
        assert ours.hint


# --- over a socket

Reply = bytes | str | None
SILENCE, RESET = None, "reset"


class Peer:
    """Answers requests with what it was told, the last for ever. `tries` counts them."""

    def __init__(self, *replies: Reply) -> None:
        self.tries = 0
        self._replies = replies
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in (*self._open, self._listening):
            connection.close()

    def _serve(self) -> None:
        """One connection after another: a client that tries again does so on a new one, as each is closed."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            _read_request(connection)
            reply = self._replies[min(self.tries, len(self._replies) - 1)]
            self.tries += 1
            if reply == RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if isinstance(reply, bytes):
                connection.sendall(reply)
            if reply is not SILENCE:
                connection.close()


def _read_request(connection: socket.socket) -> None:
    with connection.makefile("rb") as stream:
        headers = []
        while (line := stream.readline()).strip():
            headers.append(line)
        lengths = [int(line.partition(b":")[2]) for line in headers if line.lower().startswith(b"content-length:")]
        stream.read(sum(lengths))


def _http(status: int, body: bytes, *, length: int = -1) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.1\r\n"
    return f"{head}Content-Length: {len(body) if length < 0 else length}\r\n\r\n".encode() + body


THROTTLED = _http(400, b'{"__type":"ThrottlingException","message":"Rate exceeded"}')
DECRYPTED = _http(200, b'{"KeyId":"arn","Plaintext":"aGVsbG8="}')


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which nothing of AWS is set, and no file of this machine is read."""
    aws_world.account()  # it sets what others need: before this takes it away
    for name in (*aws_world.CREDENTIALS, "AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


@pytest.fixture
def peer(environment: pytest.MonkeyPatch) -> Iterator[Callable[..., Peer]]:
    """Makes a peer that answers all of AWS's services."""
    made: list[Peer] = []

    def make(*replies: Reply) -> Peer:
        made.append(Peer(*replies))
        environment.setenv("AWS_ENDPOINT_URL", made[-1].url)
        environment.setenv("AWS_ACCESS_KEY_ID", "x")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "x")
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the SDK would wait for, instead of waiting: its pauses between attempts, and for leave to send."""
    asked: list[str] = []

    def no_pause(_backoff: object, _context: object) -> float:
        asked.append("pause")
        return 0.0

    def leave(_bucket: object, **_: object) -> bool:
        asked.append("leave")
        return True

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", no_pause)
    monkeypatch.setattr(TokenBucket, "acquire", leave)
    return asked


def _aws(*, region: str = REGION, profile: str = "", seconds: float = 0.6) -> Aws:
    return Aws(region=region, profile=profile, call_timeout=timedelta(seconds=seconds), concurrency=1)


def _decrypt(aws: Aws) -> dict[str, Any]:
    return aws.client("kms").call("decrypt", "version 3", CiphertextBlob=b"x")


@pytest.mark.parametrize(
    "reply", [SILENCE, RESET, b"", b"HTTP/1.1 2", _http(500, b""), _http(503, b"<html>")],
    ids=["silence", "reset", "closed", "half a line", "500", "503"],
)  # fmt: skip
def test_a_call_that_gets_no_reply_ends_in_time_as_unavailable(peer: Callable[..., Peer], reply: Reply) -> None:
    there = peer(reply)
    aws = _aws()
    client = aws.client("kms")
    started = time.monotonic()
    with pytest.raises(UnavailableError) as refused:
        client.call("decrypt", "version 3", CiphertextBlob=b"x")
    assert time.monotonic() - started < 0.6 + 2  # the setting, and what a busy machine may need
    assert there.tries == ATTEMPTS
    assert refused.value.message.startswith("decrypt of version 3: ")
    assert refused.value.hint.endswith("the next run tries again")


def test_a_refused_connection_is_unavailable(environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    environment.setenv("AWS_ACCESS_KEY_ID", "x")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(UnavailableError, match="AWS could not be reached \\(EndpointConnectionError") as refused:
        _decrypt(_aws())
    assert refused.value.hint.endswith("the next run tries again")


def test_a_refusal_is_not_tried_again(peer: Callable[..., Peer]) -> None:
    there = peer(_http(400, b'{"__type":"AccessDeniedException","Message":"no"}'))
    with pytest.raises(DeniedError, match="AccessDeniedException: no"):
        _decrypt(_aws())
    assert there.tries == 1


def test_a_listing_that_gets_no_reply_is_unavailable(peer: Callable[..., Peer]) -> None:
    there = peer(RESET)
    with pytest.raises(UnavailableError, match="list-secrets of the keys"):
        _aws().client("secretsmanager").pages("list_secrets", "the keys")
    assert there.tries == ATTEMPTS


FOREIGN_REPLIES = {
    "broken off": _http(200, b'{"Name":"app-key"}', length=100),
    "broken off inside": _http(200, b'{"Name"', length=7),
    "a proxy's page": _http(200, b"<html>please log in</html>"),
    "a list": _http(200, b"[1]"),
    "no text": _http(200, b"\xff\xfe"),
    "a list of another kind": _http(200, b'{"Tags":"x"}'),
    "a time that is none": _http(200, b'{"CreatedDate":"x"}'),
}


@pytest.mark.parametrize("name", FOREIGN_REPLIES)
def test_a_reply_that_is_not_whole_or_none_of_awss_says_nothing(peer: Callable[..., Peer], name: str) -> None:
    """botocore takes some of them for a reply without fields: a secret without versions."""
    peer(FOREIGN_REPLIES[name])
    with pytest.raises(UnavailableError) as refused:
        _aws().client("secretsmanager").call("describe_secret", "app-key", SecretId="app-key")
    assert refused.value.message.startswith("describe-secret of app-key: the reply could not be read (")
    assert "proxy" in refused.value.hint


@pytest.mark.parametrize("body", [b"\xff\xfe", b"you sent " + CANARY, b'"' + CANARY + b'"'])
def test_the_body_of_a_failure_that_is_none_of_awss_is_not_quoted(peer: Callable[..., Peer], body: bytes) -> None:
    peer(_http(400, body))
    with pytest.raises(UnavailableError, match="describe-secret of app-key: 400: no reason given") as refused:
        _aws().client("secretsmanager").call("describe_secret", "app-key", SecretId="app-key")
    assert leaked(_everything_told(refused.value), CANARY) == []


@pytest.mark.parametrize("body", [b"", b"<html>please log in</html>", b"<html/>", b'{"Contents": []}'])
@pytest.mark.parametrize("operation", ["list_objects_v2", "list_object_versions"])
def test_a_bucket_that_lists_nothing_says_so(peer: Callable[..., Peer], operation: str, body: bytes) -> None:
    """To botocore any reply without entries is a listing of nothing: a manifest that does not exist."""
    peer(_http(200, body))
    with pytest.raises(UnavailableError):
        _aws().client("s3").pages(operation, "the manifest", Bucket="some-bucket")


def test_a_listing_that_has_more_and_does_not_say_where_is_not_whole(peer: Callable[..., Peer]) -> None:
    peer(_http(200, b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"))
    with pytest.raises(UnavailableError, match="list-objects-v2 of the manifest: the listing breaks off"):
        _aws().client("s3").pages("list_objects_v2", "the manifest", Bucket="some-bucket")


def test_a_record_in_a_reply_is_as_strict_as_the_reply(peer: Callable[..., Peer]) -> None:
    peer(_http(200, b'{"SecretList":[{"Tags":[{"Value":"x"}]}]}'))
    (page,) = _aws().client("secretsmanager").pages("list_secrets", "the keys")
    (entry,) = page["SecretList"]
    for record, lacking in ((entry, "Name"), (entry["Tags"][0], "Key")):
        with pytest.raises(UnavailableError, match=f"list-secrets of the keys: the reply lacks {lacking}"):
            _ = record[lacking]


def test_a_listing_that_is_none_of_awss_says_nothing(peer: Callable[..., Peer]) -> None:
    peer(_http(200, b'{"SecretList":[', length=15))
    with pytest.raises(UnavailableError):
        _aws().client("secretsmanager").pages("list_secrets", "the keys")


def test_whoever_asks_for_what_a_reply_lacks_is_told_so(peer: Callable[..., Peer]) -> None:
    peer(_http(200, b"{}"))
    reply = _aws().client("secretsmanager").call("describe_secret", "app-key", SecretId="app-key")
    assert reply.get("Name") is None
    with pytest.raises(UnavailableError, match="describe-secret of app-key: the reply lacks Name"):
        _ = reply["Name"]


def test_a_bucket_that_sends_everybody_elsewhere_is_unavailable(peer: Callable[..., Peer]) -> None:
    """botocore asks again and again where it is, until Python stops it."""
    peer(_http(301, b""))
    with pytest.raises(KmsError) as refused:
        _aws().client("s3").call("get_object", "it", Bucket="some-bucket", Key="x")
    assert "AWS_REGION" in refused.value.hint


def test_a_listing_is_whole_or_an_error(peer: Callable[..., Peer]) -> None:
    first = _http(200, b'{"SecretList":[{"Name":"a"}],"NextToken":"more"}')
    peer(first, _http(400, b'{"__type":"AccessDeniedException"}'))
    with pytest.raises(DeniedError):
        _aws().client("secretsmanager").pages("list_secrets", "the keys")


@pytest.mark.parametrize("seconds", [1, 5, 30, 60])
def test_all_attempts_together_stay_inside_the_setting(environment: pytest.MonkeyPatch, seconds: int) -> None:
    config = _aws(seconds=seconds).client("kms")._client.meta.config
    attempts = config.retries["total_max_attempts"]
    longest_pauses = sum(0.05 * 2**i for i in range(attempts - 1))  # botocore's, for what is not throttled
    assert attempts == ATTEMPTS
    assert (config.connect_timeout + config.read_timeout) * attempts + longest_pauses <= seconds


# --- throttling


def test_retries_are_adaptive(environment: pytest.MonkeyPatch) -> None:
    for service in ("kms", "secretsmanager", "s3", "sts"):
        retries = _aws().client(service)._client.meta.config.retries
        assert retries == {"mode": "adaptive", "total_max_attempts": ATTEMPTS}


def test_throttling_and_then_success_is_success(peer: Callable[..., Peer], pauses: list[str]) -> None:
    there = peer(THROTTLED, THROTTLED, DECRYPTED)
    assert _decrypt(_aws())["Plaintext"] == b"hello"
    assert there.tries == 3
    assert pauses == ["pause", "leave", "pause", "leave"]  # asking for leave to send is what adaptive means


def test_throttling_without_end_is_throttled(peer: Callable[..., Peer], pauses: list[str]) -> None:
    there = peer(THROTTLED)
    with pytest.raises(ThrottledError, match="Rate exceeded") as refused:
        _decrypt(_aws())
    assert there.tries == ATTEMPTS
    assert "DAENA_CONCURRENCY" in refused.value.hint


# --- settings that cannot be used


def test_no_credentials(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no AWS credentials") as refused:
        _decrypt(_aws())
    assert "aws sts get-caller-identity" in refused.value.hint


def test_half_of_the_credentials(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "x")
    with pytest.raises(ConfigurationError, match="no AWS credentials") as refused:
        _decrypt(_aws())
    assert "aws sts get-caller-identity" in refused.value.hint


@pytest.mark.parametrize("given", ["setting", "environment"])
def test_a_profile_that_is_not_there(environment: pytest.MonkeyPatch, given: str) -> None:
    if given == "environment":
        environment.setenv("AWS_PROFILE", "production")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE") as refused:
        _aws(profile="production" if given == "setting" else "").client("kms")
    assert "aws configure list-profiles" in refused.value.hint


def test_a_profile_gives_credentials_and_region(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile production]\nregion = eu-north-1\n")
    (tmp_path / "credentials").write_text("[production]\naws_access_key_id = one\naws_secret_access_key = two\n")
    client = _aws(region="", profile="production").client("kms")
    assert client.region == "eu-north-1"
    assert client._client._get_credentials().access_key == "one"


def test_the_name_of_no_region(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="AWS_REGION"):
        _aws(region="eu west 1").client("kms")


def test_no_region(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no AWS region") as refused:
        _aws(region="").client("kms")
    assert "AWS_REGION" in refused.value.hint


@pytest.mark.parametrize("endpoint", ["not an address", "http://", f"https://user:{CANARY.decode()}@[::1"])
def test_a_malformed_endpoint(environment: pytest.MonkeyPatch, endpoint: str) -> None:
    environment.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ConfigurationError) as refused:
        _aws().client("kms")
    assert refused.value.hint
    assert leaked(_everything_told(refused.value), CANARY) == []


def _everything_told(problem: KmsError) -> str:
    return "".join(traceback.format_exception(problem)) + repr(problem) + problem.message + problem.hint


# --- nothing that a call holds is told


@pytest.mark.parametrize(
    ("service", "operation", "parameters"),
    [
        ("kms", "encrypt", {"KeyId": 7, "Plaintext": CANARY}),
        ("kms", "encrypt", {"KeyId": "key", "Plaintext": [CANARY.decode()]}),
        ("kms", "encrypt", {"KeyId": "key", "Plaintext": CANARY, CANARY.decode(): 1}),
        ("secretsmanager", "put_secret_value", {"SecretId": "s", "SecretString": CANARY}),
        ("secretsmanager", "put_secret_value", {"SecretId": "s", "SecretBinary": {"x": CANARY.decode()}}),
    ],
)
def test_parameters_that_the_sdk_refuses_are_not_repeated(
    environment: pytest.MonkeyPatch, service: str, operation: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(UnavailableError, match="ParamValidationError") as refused:
        _aws().client(service).call(operation, "a version", **parameters)
    assert leaked(_everything_told(refused.value), CANARY) == []


@pytest.mark.parametrize("reply", [SILENCE, RESET, _http(400, b'{"__type":"InvalidCiphertextException"}')])
def test_what_was_sent_is_not_in_the_error(peer: Callable[..., Peer], reply: Reply) -> None:
    peer(reply)
    with pytest.raises(KmsError) as refused:
        _aws(seconds=0.2).client("kms").call("encrypt", "the KMS key", KeyId="k", Plaintext=CANARY)
    assert leaked(_everything_told(refused.value), CANARY) == []


def _store_calls() -> list[bytes]:
    """Every call of the store that holds material, in requests and replies; returns the material."""
    account = aws_world.emptied()
    # Made anew: making clients is what turns the talkative loggers down.
    aws = Aws(region=REGION, profile="", call_timeout=timedelta(seconds=30), concurrency=1)
    store = account.store()
    store._kms, store._secrets._client = aws.client("kms"), aws.client("secretsmanager")
    made = []
    for number, given in ((1, None), (2, KeyMaterial(CANARY))):
        prepared = store.prepare(KEY, number, SPEC, given)
        version = NewVersion(number, f"55073bcf-a6fb-5547-8020-af7cfcd5130{number}", f"1:{number}", SPEC.name)
        staged = store.stage(KEY, version, prepared)
        made.append(store.read(KEY, staged).reveal())
    assert made[1] == CANARY
    return made


@pytest.fixture
def loud(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything logged at DEBUG, as `logging.basicConfig(level=logging.DEBUG)` has it."""
    talkative = [logging.getLogger(name) for name in aws_calls._TALKATIVE]
    levels = [logger.level for logger in talkative]
    caplog.set_level(logging.DEBUG)
    yield caplog
    for logger, level in zip(talkative, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize("asked_for", ["", "botocore"], ids=["root", "boto3.set_stream_logger"])
def test_the_log_holds_no_material_at_debug(loud: pytest.LogCaptureFixture, asked_for: str) -> None:
    loud.set_level(logging.DEBUG, asked_for or None)
    made = _store_calls()
    assert "botocore" in loud.text
    assert [leaked(loud.text, secret) for secret in made] == [[], []]


def test_the_log_would_hold_it_if_the_talkative_loggers_were_not_turned_down(
    loud: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test before is worth."""
    monkeypatch.setattr(aws_calls, "_TALKATIVE", ())
    for name in ("botocore.endpoint", "botocore.parsers"):
        loud.set_level(logging.DEBUG, name)
    made = _store_calls()
    assert all(leaked(loud.text, secret) for secret in made)


# --- small things


def test_clients_are_made_once_each(environment: pytest.MonkeyPatch) -> None:
    aws = _aws()
    assert aws.client("kms") is aws.client("kms")
    assert isinstance(aws.client("kms"), Client)
    assert aws.client("kms").region == REGION


def test_the_actor_is_who_aws_says_it_is() -> None:
    assert aws_world.account().aws.actor().startswith("arn:aws:")


def test_errors_are_told_apart_by_their_kind_alone() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, KmsError)}
    assert {kind.__name__ for kind, _ in TRANSLATED.values()} - {"RejectedError"} <= kinds


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Tags", [None]),
        ("Tags", [{"Key": 7, "Value": "text"}]),
        ("Tags", [{"Key": "text", "Value": ["text"]}]),
        ("VersionIdsToStages", {"a": ["AWSCURRENT", None]}),
        ("VersionIdsToStages", {"a": [3]}),
        ("Name", 3),
    ],
)
def test_a_reply_of_another_shape_than_the_model_says_is_none(field: str, value: object) -> None:
    """botocore hands on whatever stands where a text belongs."""
    shape = (
        botocore.session.Session().get_service_model("secretsmanager").operation_model("DescribeSecret").output_shape
    )
    sound = {"Name": "it", "Tags": [{"Key": "k", "Value": "v"}], "VersionIdsToStages": {"a": ["AWSCURRENT"]}}
    assert aws_calls.Reply("describe-secret of it", sound, shape) == sound
    with pytest.raises(UnavailableError, match=r"describe-secret of it: the reply has no (string|structure) where one"):
        aws_calls.Reply("describe-secret of it", {**sound, field: value}, shape)
