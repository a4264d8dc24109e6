"""Calling AWS: clients made once, every error translated once, nothing that a request or a reply held in any text.

botocore is used without boto3's layer on top: it is the same client, and a function starts sooner.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import botocore.session
from botocore import handlers
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
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
# One call, with all its attempts and the pauses between them, stays inside the setting.
_SHARE_OF_CONNECTING, _SHARE_OF_READING = 0.06, 0.22
# These write requests and replies into the log at DEBUG, and a reply of KMS holds material.
_TALKATIVE = ("botocore.endpoint", "botocore.parsers")

_PERMISSIONS = "check the IAM permissions of these credentials, the key policy, and that the region is the right one"
_CREDENTIALS = "check the credentials: `aws sts get-caller-identity` must work with the same environment"
_SYMMETRIC = "AWS_KMS_KEY_ID must name a symmetric key for encryption (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT)"
_LATER = "nothing is lost: the next run tries again"
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
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ): (DeniedError, _CREDENTIALS),
    ("InvalidKeyUsageException", "UnsupportedOperationException"): (ConfigurationError, _SYMMETRIC),
    ("NotFoundException", "InvalidArnException", "InvalidKeyId"): (
        ConfigurationError,
        "AWS_KMS_KEY_ID names no key of this account and region: check it, and AWS_REGION",
    ),
    ("DisabledException",): (UnavailableError, "enable the KMS key again: `aws kms enable-key --key-id …`"),
    ("KMSInvalidStateException", "KeyUnavailableException"): (
        UnavailableError,
        "the KMS key is not usable: if it waits for deletion, `aws kms cancel-key-deletion` and `enable-key`, NOW",
    ),
    ("InvalidCiphertextException", "IncorrectKeyException"): (
        IntegrityError,
        "what is stored was not wrapped for this key and number: see `verify`, restore it from a backup",
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
_REQUEST_IS_WRONG = ("InvalidParameterException", "InvalidRequestException", "LimitExceededException")
_WAITS_FOR_DELETION = "marked for deletion"


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
    kind = type(problem).__name__
    if isinstance(problem, HTTPClientError):
        return UnavailableError(f"{about}: AWS could not be reached ({kind})", _LATER)
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


class Client:
    """One AWS service. `call` returns the reply or raises the children of KmsError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def region(self) -> str:
        """The region that the client speaks to."""
        return str(self._client.meta.region_name)

    def call(self, operation: str, subject: str, **parameters: object) -> dict[str, Any]:
        """Call an operation in botocore's spelling (`put_secret_value`) on `subject`, which is for people."""
        try:
            reply: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except (ClientError, BotoCoreError) as problem:
            raise translate(problem, f"{operation.replace('_', '-')} of {subject}") from None
        return reply

    def pages(self, operation: str, subject: str, **parameters: object) -> list[dict[str, Any]]:
        """Every page of a listing."""
        try:
            return list(self._client.get_paginator(operation).paginate(**parameters))
        except (ClientError, BotoCoreError) as problem:
            raise translate(problem, f"{operation.replace('_', '-')} of {subject}") from None


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

    def client(self, service: str) -> Client:
        """The client of a service by botocore's name: `secretsmanager`, `kms`, `s3`, `sts`."""
        if service not in self._clients:
            try:
                made = self._session.create_client(service, region_name=self._region or None, config=self._config)
            except BotoCoreError as problem:
                raise translate(problem, f"use of {service}") from None
            except ValueError:  # botocore on a malformed endpoint or region; its text may hold credentials of a URL
                raise ConfigurationError(f"no client of {service} can be made", _REGION) from None
            if service == "s3":
                # botocore asks before it sends any body; ours are small, and each question is one more round trip.
                made.meta.events.unregister("before-call.s3", handlers.add_expect_header)
            self._clients[service] = Client(made)
        return self._clients[service]

    def actor(self) -> str:
        """The ARN of the credentials in use. Needs no permission (botocore: sts GetCallerIdentity)."""
        return str(self.client("sts").call("get_caller_identity", "these credentials")["Arn"])
