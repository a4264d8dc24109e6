"""Permissions of the AWS double: which action on which resource, with which condition keys, a request stands for.

moto checks Secrets Manager and KMS against the resource `*`, reads a statement with a condition as a denial, and
answers a denial of a JSON service in XML. Here each request becomes what AWS would check, and `moto_policy` judges it.
Which keys AWS sends with which action: the service authorization reference.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from moto.iam.access_control import AssumedRoleAccessKey, IAMRequest, S3IAMRequest
from moto.iam.models import Policy
from moto.kms.models import Key
from moto.s3.models import FakeKey, s3_backends
from moto.sts.models import sts_backends

from . import moto_keys, moto_vault
from .moto_errors import AwsError, NotInDoubleError
from .moto_policy import Context, Document, Request, Verdict, delegates, judge, judge_resource

JSON_SERVICES = frozenset({"events", "kms", "logs", "scheduler", "secretsmanager", "sqs"})
UNSCOPED = frozenset({"secretsmanager:ListSecrets", "kms:CreateKey", "kms:ListKeys", "kms:ListAliases"})


class Need(NamedTuple):
    """One permission that a request takes."""

    action: str
    resource: str
    context: Context
    guard: Document | None = None
    """The resource's own policy."""
    guard_first: bool = False
    """Whether identity policies count only where the resource's own policy leaves it to them, as with KMS keys."""


class StrictRequest(IAMRequest):
    """A signed request to any service but S3."""

    def check_action_permitted(self, resource: str) -> None:
        """Raises unless every permission that the request takes is there."""
        if self._action == "sts:GetCallerIdentity":  # AWS asks for no permission
            return
        for need in self._needs(resource):
            if not permitted(self, need):
                self._raise_access_denied(need.action, need.resource)

    def _needs(self, resource: str) -> Iterator[Need]:
        if self._service == "secretsmanager":
            return _secret_needs(self, json.loads(self._body))
        if self._service == "kms":
            return _key_needs(self, json.loads(self._body))
        if self._action == "sts:AssumeRole":
            trust = document(self.backend.get_role_by_arn(resource).assume_role_policy_document)
            return iter([Need(self._action, resource, {}, trust, guard_first=True)])
        return iter([Need(self._action, resource, {})])

    def _raise_access_denied(self, action: str = "", resource: str = "") -> None:
        """As the services word it, the resource left out where an action has none.

        Quoted in mongodb/awscdk-resources-mongodbatlas issue 207; that of a listing in Kralizek's issue 78 of 2022.
        """
        if self._service not in JSON_SERVICES:
            super()._raise_access_denied()
        missing = action or self._action
        on = f" on resource: {resource}" if resource not in ("", "*") else ""
        told = f"User: {self._access_key.arn} is not authorized to perform: {missing}{on}"
        raise AwsError("AccessDeniedException", f"{told} because no identity-based policy allows the {missing} action")

    def _raise_signature_does_not_match(self) -> None:
        if self._service not in JSON_SERVICES:
            super()._raise_signature_does_not_match()
        raise AwsError("InvalidSignatureException", "The request signature does not match the one we calculated.")

    def _raise_invalid_access_key(self, reason: str) -> None:
        if self._service not in JSON_SERVICES:
            super()._raise_invalid_access_key(reason)
        raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.")


class StrictS3Request(S3IAMRequest):
    """A signed request to S3."""

    def check_action_permitted(self, resource: str) -> None:
        """Raises unless every permission that the request takes is there."""
        for need in _object_needs(self, resource):
            if not permitted(self, need):
                self._raise_access_denied()


def permitted(signed: IAMRequest | S3IAMRequest, need: Need) -> bool:
    """Whether the caller's policies and the resource's own let this be done."""
    request = _request(signed, need)
    own = judge(_identity_policies(signed), request)
    if need.guard is None:
        return own is Verdict.ALLOW
    guard = judge_resource(need.guard, request)
    if Verdict.DENY in (own, guard):
        return False
    if guard is Verdict.ALLOW:
        return True
    return own is Verdict.ALLOW and (not need.guard_first or delegates(need.guard, request))


def _request(signed: IAMRequest | S3IAMRequest, need: Need) -> Request:
    principals = _principals(signed)
    everywhere = {
        "aws:principalaccount": [signed.account_id],
        "aws:principalarn": [min(principals)],  # of a role's two ARNs the role's: iam before sts
        "aws:requestedregion": [signed._region],
        "aws:resourceaccount": [signed.account_id],
        "aws:securetransport": ["true"],  # the double speaks plain HTTP in place of AWS's TLS
    }
    return Request(need.action, need.resource, everywhere | dict(need.context), principals, signed.account_id)


def _principals(signed: IAMRequest | S3IAMRequest) -> frozenset[str]:
    key = signed._access_key
    if isinstance(key, AssumedRoleAccessKey):
        return frozenset({key.arn, signed.backend.get_role(key._owner_role_name).arn})
    return frozenset({key.arn})


def _identity_policies(signed: IAMRequest | S3IAMRequest) -> list[Document]:
    key = signed._access_key
    if isinstance(key, AssumedRoleAccessKey):
        _refuse_narrowed(signed, key)
    return [document(policy) for policy in key.collect_policies()]


def _refuse_narrowed(signed: IAMRequest | S3IAMRequest, key: AssumedRoleAccessKey) -> None:
    if signed.backend.get_role(key._owner_role_name).permissions_boundary:
        raise NotInDoubleError("permissions boundaries")
    sessions = sts_backends[signed.account_id][key.partition].assumed_roles
    if any(s.policy for s in sessions if s.access_key_id == key._access_key_id):
        raise NotInDoubleError("session policies")


def document(policy: Any) -> Document:
    """A policy in any of the shapes in which moto keeps one. What CloudFormation put in is no JSON text there."""
    if isinstance(policy, Policy):
        return document(next(version.document for version in policy.versions if version.is_default))
    if isinstance(policy, Mapping):
        return document(policy["policy_document"]) if "policy_document" in policy else policy
    text = policy.decode() if isinstance(policy, bytes) else str(policy)
    parsed = ast.literal_eval(text) if text.startswith("{'") else json.loads(text)
    if not isinstance(parsed, Mapping):
        raise NotInDoubleError("a policy that is no object")
    return parsed


# --- Secrets Manager


def _secret_needs(signed: IAMRequest, asked: Mapping[str, Any]) -> Iterator[Need]:
    action = signed._action
    if action in UNSCOPED:
        yield Need(action, "*", {})
        return
    named = str(asked.get("SecretId") or asked.get("Name") or "")
    arn = f"arn:aws:secretsmanager:{signed._region}:{signed.account_id}:secret:"
    secret = None if action.endswith(":CreateSecret") else moto_vault.find(signed.account_id, signed._region, named)
    # AWS makes up a suffix for a secret that is not there.
    resource = secret.arn if secret else named if named.startswith("arn:") else f"{arn}{named}-??????"
    held = {tag["Key"]: tag["Value"] for tag in (secret.tags if secret else None) or []}
    context = _secret_context(action, asked, held)
    yield Need(action, resource, context)
    if action.endswith(":CreateSecret") and asked.get("Tags"):
        yield Need("secretsmanager:TagResource", resource, context)


def _secret_context(action: str, asked: Mapping[str, Any], held: Mapping[str, str]) -> Context:
    context: dict[str, list[str]] = {}
    for key, value in held.items():
        context |= {f"aws:resourcetag/{key.lower()}": [value], f"secretsmanager:resourcetag/{key.lower()}": [value]}
    for tag in asked.get("Tags") or []:
        context[f"aws:requesttag/{tag['Key'].lower()}"] = [tag.get("Value", "")]
        context.setdefault("aws:tagkeys", []).append(tag["Key"])
    sent = {
        "secretsmanager:CreateSecret": {"secretsmanager:name": "Name"},
        "secretsmanager:GetSecretValue": {
            "secretsmanager:versionid": "VersionId",
            "secretsmanager:versionstage": "VersionStage",  # only if the request names one (boto3 issue 2957)
        },
        "secretsmanager:UpdateSecretVersionStage": {"secretsmanager:versionstage": "VersionStage"},
    }
    return context | {key: [str(asked[name])] for key, name in sent.get(action, {}).items() if name in asked}


# --- KMS


def _key_needs(signed: IAMRequest, asked: Mapping[str, Any]) -> Iterator[Need]:
    action = signed._action
    if action in UNSCOPED:
        yield Need(action, "*", {})
        return
    if action == "kms:ReEncrypt":
        source = _key_of_blob(signed, asked)
        yield _key_need(signed, "kms:ReEncryptFrom", source, asked.get("SourceEncryptionContext"))
        target = _named_key(signed, asked.get("DestinationKeyId"))
        yield _key_need(signed, "kms:ReEncryptTo", target, asked.get("DestinationEncryptionContext"))
        return
    if "AliasName" in asked:
        yield Need(action, f"arn:aws:kms:{signed._region}:{signed.account_id}:{asked['AliasName']}", {})
    key = _key_of_blob(signed, asked) if action == "kms:Decrypt" else _named_key(signed, _key_id(signed, asked))
    yield _key_need(signed, action, key, asked.get("EncryptionContext"))


def _key_id(signed: IAMRequest, asked: Mapping[str, Any]) -> Any:
    return asked.get("KeyId") or asked.get("TargetKeyId") or asked.get("AliasName")


def _key_need(signed: IAMRequest, action: str, key: Key | str, bound: Mapping[str, str] | None) -> Need:
    context: dict[str, list[str]] = {f"kms:encryptioncontext:{k.lower()}": [v] for k, v in (bound or {}).items()}
    if bound:
        context["kms:encryptioncontextkeys"] = list(bound)
    if isinstance(key, str):
        return Need(action, key, context)
    return Need(action, key.arn, context, document(key.policy), guard_first=True)


def _key_of_blob(signed: IAMRequest, asked: Mapping[str, Any]) -> Key | str:
    """The key that a blob was wrapped with. It is what permission is checked on, whatever key is named."""
    try:
        key_id = moto_keys.wrapped_by(moto_keys.decoded(asked.get("CiphertextBlob")))
    except AwsError:
        return _named_key(signed, asked.get("KeyId") or asked.get("SourceKeyId"))
    return _named_key(signed, key_id)


def _named_key(signed: IAMRequest, key_id: Any) -> Key | str:
    """The key, or the ARN that one of that name would have."""
    named = str(key_id)
    found = moto_keys.find(signed.account_id, signed._region, named)
    if found is None and not named.startswith("arn:"):
        return f"arn:aws:kms:{signed._region}:{signed.account_id}:key/{named}"
    return found or named


# --- S3

# What moto finds the right action for. Of other requests it thinks as of a plain GetObject, ListBucket or CreateBucket.
KNOWN_QUERY = frozenset(
    [
        "continuation-token",
        "delimiter",
        "encoding-type",
        "fetch-owner",
        "key-marker",
        "list-type",
        "location",
        "marker",
        "max-keys",
        "partNumber",
        "policy",
        "prefix",
        "start-after",
        "uploadId",
        "uploads",
        "version-id-marker",
        "versionId",
        "versioning",
        "versions",
        "x-id",
    ]
)
S3_KEYS_IN_QUERY = ("delimiter", "max-keys", "prefix")
S3_KEYS_IN_HEADERS = ("if-match", "if-none-match")
RENAMED = {"s3:HeadBucket": "s3:ListBucket"}


def _object_needs(signed: S3IAMRequest, resource: str) -> Iterator[Need]:
    query = {name: v[0] for name, v in parse_qs(urlsplit(signed._path).query, keep_blank_values=True).items()}
    headers = {name.lower(): value for name, value in signed._headers.items()}
    _check_known(query, headers)
    bucket_name, _, key = resource.partition(":::")[2].partition("/")
    bucket = s3_backends[signed.account_id]["aws"].buckets.get(bucket_name)
    guard = document(bucket.policy) if bucket is not None and bucket.policy else None
    context = {f"s3:{name}": [query[name]] for name in S3_KEYS_IN_QUERY if name in query}
    context |= {f"s3:{name}": [headers[name]] for name in S3_KEYS_IN_HEADERS if name in headers}
    action = RENAMED.get(signed._action, signed._action)
    yield Need(action, resource, context, guard)
    if any(name.startswith("x-amz-object-lock") for name in headers):
        yield Need("s3:PutObjectRetention", resource, {}, guard)
    if bucket is not None and action == "s3:GetObject" and not isinstance(bucket.keys.get(key), FakeKey):
        yield _need_to_know_of_absence(signed, bucket_name, key, guard)


def _check_known(query: Mapping[str, str], headers: Mapping[str, str]) -> None:
    odd = sorted((set(query) - KNOWN_QUERY) | ({"x-amz-copy-source", "x-amz-tagging"} & set(headers)))
    if odd:
        raise NotInDoubleError(f"permissions of S3 requests with {', '.join(odd)}")


def _need_to_know_of_absence(signed: S3IAMRequest, bucket: str, key: str, guard: Document | None) -> Need:
    """S3 says 404 only to those who may list; to others 403.

    Whether a condition on s3:prefix is shown the object's name then, or nothing, AWS does not tell: where that makes
    a difference there is no answer.
    """
    listing = Need("s3:ListBucket", f"arn:aws:s3:::{bucket}", {}, guard)
    if permitted(signed, listing) != permitted(signed, listing._replace(context={"s3:prefix": [key]})):
        raise NotInDoubleError("an S3 object that is not there, and s3:ListBucket under a condition on s3:prefix")
    return listing
