"""Trying what credentials may do on AWS, without changing anything.

AWS decides on permissions before a service looks at what is asked ("Policy evaluation logic", IAM user guide), so a
request that cannot succeed tells by its refusal whether it was allowed. All of it concerns the secret of the reserved
key, which `init` made, because a permission may be bound to names. What writes is asked for like this:

- `PutSecretValue`: the version that is there, once more: same token, same value. "The request is ignored" (botocore).
  With it goes the label of its number, which no other version ever has; `AWSCURRENT` may have moved on meanwhile.
- `UpdateSecretVersionStage`: take a label that no version has from a version that is not there.
- `CreateSecret` and `TagResource`: make the secret that is there; to bring tags with it takes both (botocore).
- KMS: `DryRun`, which answers `DryRunOperationException` where the call would succeed (AWS: "Testing your
  permissions").
"""

import contextlib
from collections.abc import Callable

from ..errors import ConfigurationError, DeniedError, ExistsError, NotFoundError
from ..names import RESERVED_KEY, secret_name
from . import aws_layout as layout
from .aws_calls import WOULD_SUCCEED, Aws, Client, RejectedError, Reply
from .aws_ledger import S3Ledger
from .aws_secrets import content
from .probe import INIT, Check, Trials, Watch, create_again, failed, not_tried, ok, read_first

_SECRETS, _KMS, _S3 = "secretsmanager", "kms", "s3"
_NOWHERE = "0" * 32  # the id of no version: AWS draws them, and ours end in a number
_LABEL = "daena-kms-doctor"
_VALUE_READ, _VALUE_PUT = "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"
_NO_KEY = "because there is no reserved key yet"
_SECRET_CREATED, _SECRET_TAGGED = "secretsmanager:CreateSecret", "secretsmanager:TagResource"
_KEY = "KMS key"
_SYMMETRIC = "use a symmetric key for encryption (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT), and set AWS_KMS_KEY_ID to it"
_STATES = {
    "Disabled": "`aws kms enable-key --key-id …` enables it again",
    "PendingDeletion": "`aws kms cancel-key-deletion --key-id …`, then `aws kms enable-key`, NOW: with the key all "
    "material is lost",
}


class AwsProbe:
    """Tries the permissions of Secrets Manager and KMS."""

    def __init__(self, aws: Aws, watch: Watch, *, kms_key: str, prefix: str, ledger: str) -> None:
        self._aws = aws
        self._watch = watch
        self._kms_key = kms_key
        self._ledger = ledger
        self._name = secret_name(prefix, RESERVED_KEY)

    def credentials(self) -> str:
        heard(self._aws, "sts", self._watch)
        return self._aws.actor()

    def checks(self) -> list[Check]:
        client = heard(self._aws, _SECRETS, self._watch)
        manager, kms = Trials(_SECRETS), Trials(_KMS)
        value = self._looked(manager, client)
        self._written(manager, client, value)
        why = f"because of {_VALUE_READ}" if manager.lacks(_VALUE_READ) else _NO_KEY
        self._wrapped(kms, heard(self._aws, _KMS, self._watch), value, why)
        return [*manager.found, *kms.found]

    # --- Secrets Manager

    def _looked(self, trials: Trials, client: Client) -> Reply | None:
        """What reads. The value of the secret, if there is one: wrapped by KMS, and shown to nobody."""

        def asked(operation: str, **parameters: object) -> Callable[[], Reply | None]:
            return lambda: _if_there(lambda: client.call(operation, self._name, SecretId=self._name, **parameters))

        trials.ask("secretsmanager:ListSecrets", lambda: client.call("list_secrets", "the keys", MaxResults=1))
        trials.ask("secretsmanager:DescribeSecret", asked("describe_secret"))
        trials.ask("secretsmanager:ListSecretVersionIds", asked("list_secret_version_ids", MaxResults=1))
        return trials.ask(_VALUE_READ, asked("get_secret_value"))

    def _written(self, trials: Trials, client: Client, value: Reply | None) -> None:
        name = self._name
        taken = {"SecretId": name, "VersionStage": _LABEL, "RemoveFromVersionId": _NOWHERE}
        trials.ask(
            "secretsmanager:UpdateSecretVersionStage",
            lambda: client.call("update_secret_version_stage", name, **taken),
            refusals=(RejectedError, NotFoundError),
        )
        if value is None:
            for permission in (_VALUE_PUT, _SECRET_CREATED, _SECRET_TAGGED):
                trials.skip(permission, _NO_KEY, INIT, needs=_VALUE_READ)
            return
        labels = [label for label in value["VersionStages"] if layout.read_number("", [label])]
        same = {"ClientRequestToken": value["VersionId"], "VersionStages": labels, **content(value)}
        if labels:
            trials.ask(_VALUE_PUT, lambda: client.call("put_secret_value", name, SecretId=name, **same))
        else:
            trials.skip(
                _VALUE_PUT, "because the reserved key's version has lost the label of its number", "see `verify`"
            )
        trials.judge(_SECRET_CREATED, lambda: self._made_again(client))

    def _made_again(self, client: Client) -> list[Check]:
        """Both permissions. What is sent is what `init` begins with, so that nothing else could come of it."""
        both = (_SECRET_CREATED, _SECRET_TAGGED)
        try:
            with contextlib.suppress(ExistsError):
                client.call(
                    "create_secret",
                    self._name,
                    Name=self._name,
                    ClientRequestToken=layout.NO_VERSION,
                    SecretString=layout.NO_VERSION_VALUE,
                    Tags=[{"Key": layout.LEDGER_TAG, "Value": self._ledger}],
                )
        except DeniedError as problem:
            missing = _SECRET_TAGGED if f"perform: {_SECRET_TAGGED}" in problem.message else _SECRET_CREATED
            return [
                failed(each, problem) if each == missing else not_tried(each, f"because of {missing}") for each in both
            ]
        return [ok(each, "allowed") for each in both]

    # --- KMS

    def _wrapped(self, trials: Trials, kms: Client, value: Reply | None, why_not: str) -> None:
        trials.judge(_KEY, lambda: self._state(kms))
        bound = layout.context(self._name, 1)
        asked = {"KeyId": self._kms_key, "EncryptionContext": bound}
        self._dry(trials, kms, "generate_data_key", NumberOfBytes=32, **asked)
        self._dry(trials, kms, "encrypt", Plaintext=bytes(32), **asked)
        envelope = layout.unseal(str(value.get("SecretString", ""))) if value is not None else None
        if envelope is None:
            trials.skip("kms:Decrypt", why_not, INIT if why_not == _NO_KEY else "")
            return
        bound = layout.context(envelope.key, envelope.number)
        sealed = {"CiphertextBlob": envelope.wrapped, "KeyId": envelope.kms_key, "EncryptionContext": bound}
        self._dry(trials, kms, "decrypt", **sealed)

    def _dry(self, trials: Trials, kms: Client, operation: str, **parameters: object) -> None:
        def attempt() -> None:
            try:
                kms.call(operation, f"the KMS key {self._kms_key}", DryRun=True, **parameters)
            except RejectedError as problem:
                if problem.code != WOULD_SUCCEED:
                    raise

        action = "".join(word.capitalize() for word in operation.split("_"))
        trials.ask(f"kms:{action}", attempt)

    def _state(self, kms: Client) -> list[Check]:
        try:
            told = kms.call("describe_key", f"the KMS key {self._kms_key}", KeyId=self._kms_key)["KeyMetadata"]
        except DeniedError:
            return [not_tried(_KEY, "because kms:DescribeKey is not allowed; a rotation does not need it")]
        usage, spec, state = told["KeyUsage"], told.get("KeySpec", "SYMMETRIC_DEFAULT"), told["KeyState"]
        if (usage, spec) != ("ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT"):
            raise ConfigurationError(f"{self._kms_key} is a key for {usage}, its spec {spec}", _SYMMETRIC)
        if state != "Enabled":
            raise ConfigurationError(
                f"{self._kms_key} is in the state {state}", _STATES.get(state, "wait, or repair it")
            )
        return [ok(_KEY, f"{told['Arn']}, symmetric, enabled")]


def s3_checks(aws: Aws, url: str, watch: Watch) -> list[Check]:
    """Tries the permissions of a ledger in S3, and whether it is create-only."""
    ledger = S3Ledger(heard(aws, _S3, watch), url)
    trials = Trials(_S3)
    reading = "s3:GetObject"
    stored = read_first(trials, reading, ledger)
    trials.ask("s3:ListBucket", lambda: ledger.sequences(RESERVED_KEY))
    trials.ask("s3:ListBucketVersions", lambda: ledger.rewritten(RESERVED_KEY))
    create_again(trials, "s3:PutObject", reading, stored, lambda data: ledger.append(RESERVED_KEY, 1, data))
    return trials.found


def heard(aws: Aws, service: str, watch: Watch) -> Client:
    """A service's client, whose replies tell the time."""
    client = aws.client(service)
    client.listen(watch.heard)
    return client


def _if_there(ask: Callable[[], Reply]) -> Reply | None:
    """A reply; None for what is not there, which only those are told who may ask."""
    try:
        return ask()
    except NotFoundError:
        return None
