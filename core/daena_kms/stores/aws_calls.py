"""Calling AWS: clients made once, every error translated once, nothing that a request or a reply held in any text.

botocore is used without boto3's layer on top: it is the same client, and a function starts sooner.
"""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NoReturn

import botocore.session
from botocore import handlers
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  # botocore's name for it
    HTTPClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from ..errors import (
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

ATTEMPTS = 3
FAILURES = 300  # HTTP statuses from here on
# One call, with all its attempts and the pauses between them, stays inside the setting.
_SHARE_OF_CONNECTING, _SHARE_OF_READING = 0.06, 0.22
# These write requests and replies into the log at DEBUG, and a reply of KMS holds material.
_TALKATIVE = ("botocore.endpoint", "botocore.parsers")

_PERMISSIONS = (
    "check the IAM permissions of these credentials (infra/aws/template.yaml has all that are needed, for names under "
    "DAENA_KEY_PREFIX), for kms: also the key policy, and that AWS_REGION is the right region; "
    "`aws sts get-caller-identity` says whose credentials they are"
)
_CREDENTIALS = "check the credentials: `aws sts get-caller-identity` must work with the same environment"
_EXPIRED = f"these have expired: `aws sso login`, or assume the role again; then {_CREDENTIALS}"
_CLOCK = f"this machine's clock must be right; then {_CREDENTIALS}"
_SYMMETRIC = (
    "AWS_KMS_KEY_ID must name a symmetric key for encryption (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT), not an asymmetric "
    "or an HMAC key: `aws kms describe-key --key-id …` shows its KeySpec and KeyUsage"
)
_LATER = "nothing is lost: the next run tries again"
_NETWORK = "check AWS_REGION, the network and any proxy; nothing is lost, the next run tries again"
_SLOWER = "lower DAENA_CONCURRENCY, or ask AWS for a higher quota; the next run goes on"
_REGION = "AWS_REGION must be the region of the KMS key, the secrets and the bucket"


class RejectedError(RefusedError):
    """AWS calls the request itself wrong. `code` tells how."""

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


_Kind = Callable[[str, str], KmsError]
_TRANSLATIONS: dict[tuple[str, ...], tuple[_Kind, str]] = {
    ("AccessDeniedException", "AccessDenied", "AllAccessDisabled", "403", "Forbidden"): (DeniedError, _PERMISSIONS),
    ("ExpiredToken", "ExpiredTokenException"): (DeniedError, _EXPIRED),
    # A signature of more than five minutes ago is refused by the same codes as a wrong one.
    ("InvalidSignatureException", "RequestTimeTooSkewed", "SignatureDoesNotMatch"): (DeniedError, _CLOCK),
    (
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    ): (DeniedError, _CREDENTIALS),
    ("InvalidKeyUsageException", "UnsupportedOperationException"): (ConfigurationError, _SYMMETRIC),
    ("NotFoundException", "InvalidArnException", "InvalidKeyId"): (
        ConfigurationError,
        "AWS_KMS_KEY_ID names no key of this account and region: check it, and AWS_REGION",
    ),
    ("DisabledException",): (
        UnavailableError,
        "applications cannot read either: enable the KMS key again, NOW: `aws kms enable-key --key-id …`",
    ),
    ("KMSInvalidStateException", "KeyUnavailableException"): (
        UnavailableError,
        "the KMS key is not usable: if it waits for deletion, `aws kms cancel-key-deletion` and `enable-key`, NOW",
    ),
    ("InvalidCiphertextException", "IncorrectKeyException"): (
        IntegrityError,
        "what is stored was not wrapped for this key and number: see `verify`; a backup has it",
    ),
    ("EncryptionFailure", "DecryptionFailure"): (
        UnavailableError,
        "Secrets Manager cannot use the KMS key that the secret itself is encrypted with: check that key",
    ),
    (
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "BandwidthLimitExceeded",
        "SlowDown",
    ): (ThrottledError, _SLOWER),
    ("ResourceNotFoundException", "NoSuchKey", "404"): (NotFoundError, "check the name, AWS_REGION and the account"),
    ("ResourceExistsException", "PreconditionFailed", "412"): (ExistsError, ""),
    ("ConditionalRequestConflict", "OperationAborted"): (ConflictError, "look again"),
    ("NoSuchBucket",): (ConfigurationError, "check the bucket's name in DAENA_MANIFEST_URL and DAENA_POLICY"),
    ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"): (
        ConfigurationError,
        _REGION,
    ),
}
_BY_CODE = {code: made for codes, made in _TRANSLATIONS.items() for code in codes}
WOULD_SUCCEED = "DryRunOperationException"  # recorded-replies; AWS: "Testing your permissions"
_REQUEST_IS_WRONG = ("InvalidParameterException", "InvalidRequestException", "LimitExceededException", WOULD_SUCCEED)
_WAITS_FOR_DELETION = "for deletion"  # marked, says a put; scheduled, says the making of a secret


def translate(problem: ClientError | BotoCoreError, about: str) -> KmsError:
    """An SDK's error in our words; `about` is what was tried, on what.

    The service's own message is kept: it names principal, action and resource, never a value. botocore's texts are
    not: some hold the parameters of the call.
    """
    if isinstance(problem, ClientError):
        details = problem.response.get("Error", {})
        code = str(details.get("Code", "?"))
        said = str(details.get("Message") or details.get("message") or "no reason given")
        return _refusal(code, f"{about}: {code}: {said}")
    if isinstance(problem, (NoCredentialsError, PartialCredentialsError)):
        return ConfigurationError(f"{about}: there are no AWS credentials", _CREDENTIALS)
    if isinstance(problem, ProfileNotFound):
        return ConfigurationError("AWS_PROFILE names no profile of this machine", "see `aws configure list-profiles`")
    if isinstance(problem, NoRegionError):
        return ConfigurationError("no AWS region is set", "set AWS_REGION")
    if isinstance(problem, InvalidRegionError):
        return ConfigurationError("AWS_REGION is the name of no region", _REGION)
    kind = type(problem).__name__
    if isinstance(problem, (HTTPClientError, ConnectionError)):
        return UnavailableError(f"{about}: AWS could not be reached ({kind})", _NETWORK)
    return UnavailableError(f"{about}: the AWS SDK gave up ({kind})", _LATER)


def _refusal(code: str, message: str) -> KmsError:
    if code in _BY_CODE:
        kind, hint = _BY_CODE[code]
        return kind(message, hint)
    if code in _REQUEST_IS_WRONG:
        if _WAITS_FOR_DELETION in message:
            return UnavailableError(message, "`aws secretsmanager restore-secret` takes the deletion back")
        return RejectedError(message, "see the key's secret in the AWS console", code)
    return UnavailableError(message, _LATER)


class Reply(dict[str, Any]):
    """What AWS answered to one call. Whoever asks for a field that is not there gets UnavailableError.

    So does who is told something else than botocore's model of the operation (`shape`) says: botocore hands on whatever
    stands in a JSON reply, a number in the place of a text and nothing in the place of an item.
    """

    def __init__(self, about: str, fields: Mapping[str, Any], shape: Any = None) -> None:
        super().__init__((name, _strict(about, value, _of_field(shape, name))) for name, value in fields.items())
        self._about = about

    def __missing__(self, field: str) -> NoReturn:
        raise UnavailableError(f"{self._about}: the reply lacks {field}", _NETWORK)


_KINDS = {"string": str, "structure": dict, "map": dict, "list": list}


def _of_field(shape: Any, name: str) -> Any:
    """What a field of a record has to be; None where nobody says."""
    if shape is None or shape.type_name not in ("structure", "map"):
        return None
    return shape.value if shape.type_name == "map" else shape.members.get(name)


def _strict(about: str, value: Any, shape: Any = None) -> Any:
    """The same, with every record in it as strict as the reply."""
    kind = shape.type_name if shape is not None else ""
    if not isinstance(value, _KINDS.get(kind, object)):
        raise UnavailableError(f"{about}: the reply has no {kind} where one belongs", _NETWORK)
    if isinstance(value, dict):
        return Reply(about, value, shape)
    if isinstance(value, list):
        item = shape.member if kind == "list" else None
        return [_strict(about, each, item) for each in value]
    return value


class BrokenReplyError(Exception):
    """A reply that is not whole, or none of AWS's."""


# What is listed lies in the body's root element; a body without it would read as a listing of nothing.
_LISTINGS = {"ListObjectsV2": b"<ListBucketResult", "ListObjectVersions": b"<ListVersionsResult"}


def _check_body(response_dict: dict[str, Any], operation_model: Any, **_: object) -> None:
    """botocore reads a JSON reply that breaks off as one without fields: a version without labels, say."""
    body = response_dict["body"]
    if not isinstance(body, bytes):
        return  # a stream: who reads it sees where it ends
    promised = response_dict["headers"].get("content-length", "")
    if promised.isdecimal() and len(body) < int(promised):
        raise BrokenReplyError
    failed = response_dict["status_code"] >= FAILURES
    if operation_model.service_model.protocol == "json" and operation_model.output_shape is not None:
        if not _is_object(body):
            if not failed:
                raise BrokenReplyError
            response_dict["body"] = b"{}"  # botocore would quote it, word for word, as AWS's message
    elif not failed and _LISTINGS.get(operation_model.name, b"") not in body:
        raise BrokenReplyError


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


# IAM's name for a permission, where it is not the operation's (AWS: service authorization reference).
_IAM_ACTIONS = {"s3:ListObjectVersions": "s3:ListBucketVersions", "s3:ListObjectsV2": "s3:ListBucket"}


class Client:
    """One AWS service. `call` returns the reply or raises the children of KmsError."""

    def __init__(self, client: Any, whose: Callable[[], str] = lambda: "") -> None:
        """`whose` tells the ARN of the credentials in use, or nothing where that is not known yet."""
        self._client = client
        self._whose = whose

    @property
    def region(self) -> str:
        """The region that the client speaks to."""
        return str(self._client.meta.region_name)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Tell the `Date` of every reply from now on, of refusals too."""

        def tell(parsed_response: dict[str, Any] | None = None, **_: object) -> None:
            headers = (parsed_response or {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
            hear(str(headers.get("date", "")))

        self._client.meta.events.register("response-received", tell)

    def call(self, operation: str, subject: str, **parameters: object) -> Reply:
        """Call an operation in botocore's spelling (`put_secret_value`) on `subject`, which is for people."""
        about = f"{operation.replace('_', '-')} of {subject}"
        told = self._asked(operation, lambda: getattr(self._client, operation)(**parameters), about)
        return Reply(about, told, self._shape(operation))

    def pages(self, operation: str, subject: str, **parameters: object) -> list[Reply]:
        """Every page of a listing."""
        about = f"{operation.replace('_', '-')} of {subject}"
        ask = self._client.get_paginator
        pages = self._asked(operation, lambda: list(ask(operation).paginate(**parameters)), about)
        if pages and pages[-1].get("IsTruncated"):
            raise UnavailableError(f"{about}: the listing breaks off", _NETWORK)
        shape = self._shape(operation)
        return [Reply(about, page, shape) for page in pages]

    def _shape(self, operation: str) -> Any:
        """botocore's model of what comes back."""
        meta = self._client.meta
        return meta.service_model.operation_model(meta.method_to_api_mapping[operation]).output_shape

    def _asked(self, operation: str, ask: Callable[[], Any], about: str) -> Any:
        try:
            return _asked(ask, about)
        except DeniedError as problem:
            if problem.hint != _PERMISSIONS:
                raise
            raise DeniedError(self._completed(problem.message, operation), problem.hint) from None

    def _completed(self, message: str, operation: str) -> str:
        """A denial with the action and with whose credentials, where AWS did not say: S3 may say "Access Denied"."""
        named = self._client.meta.method_to_api_mapping[operation]
        action = f"{self._client.meta.service_model.service_name}:{named}"
        action, whose = _IAM_ACTIONS.get(action, action), self._whose()
        added = [f"the action is {action}"] if action not in message else []
        added += [f"asked by {whose}"] if whose and whose not in message else []
        return f"{message} ({', '.join(added)})" if added else message


def _asked(ask: Callable[[], Any], about: str) -> Any:
    try:
        return ask()
    except (ClientError, BotoCoreError) as problem:
        raise translate(problem, about) from None
    except Exception as problem:  # noqa: BLE001  # botocore on a reply that is none of AWS's; its text may quote it
        raise UnavailableError(f"{about}: the reply could not be read ({type(problem).__name__})", _NETWORK) from None


class Aws:
    """Makes the clients of one region, each once."""

    def __init__(self, *, region: str, profile: str, call_timeout: timedelta, concurrency: int) -> None:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.INFO)
        seconds = call_timeout.total_seconds()
        self._config = Config(
            connect_timeout=seconds * _SHARE_OF_CONNECTING,
            read_timeout=seconds * _SHARE_OF_READING,
            max_pool_connections=max(10, concurrency),
            # Repeats are safe: every write is either the same again, or conditional and its outcome is looked up.
            retries={"mode": "adaptive", "total_max_attempts": ATTEMPTS},
            response_checksum_validation="when_required",  # what is read from S3 is signed by us
            user_agent_extra="daena-kms",
        )
        self._region = region
        self._session: Any = botocore.session.Session(profile=profile or None)
        self._clients: dict[str, Client] = {}
        self._arn = ""

    def client(self, service: str) -> Client:
        """The client of a service by botocore's name: `secretsmanager`, `kms`, `s3`, `sts`."""
        if service not in self._clients:
            try:
                made = self._session.create_client(service, region_name=self._region or None, config=self._config)
            except BotoCoreError as problem:
                raise translate(problem, f"use of {service}") from None
            except ValueError:  # botocore on a malformed endpoint or region; its text may hold credentials of a URL
                raise ConfigurationError(f"no client of {service} can be made", _REGION) from None
            made.meta.events.register("before-parse", _check_body)
            if service == "s3":
                # botocore asks before it sends any body; ours are small, and each question is one more round trip.
                made.meta.events.unregister("before-call.s3", handlers.add_expect_header)
            self._clients[service] = Client(made, lambda: self._arn)
        return self._clients[service]

    def actor(self) -> str:
        """The ARN of the credentials in use. Needs no permission (botocore: sts GetCallerIdentity)."""
        self._arn = str(self.client("sts").call("get_caller_identity", "these credentials")["Arn"])
        return self._arn
