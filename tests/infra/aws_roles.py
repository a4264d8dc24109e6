"""The template's own roles in the AWS double, which judges their every request by the policies that are deployed.

What the template says is resolved for the double's account and put there through its API: the roles with their inline
policies, the policy for applications, the bucket with its guard. In a `Scene` the function's role does what the
function does, and a person who may do everything looks after it.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

import botocore.session
from msgspec.structs import replace

from daena_kms import app, invocation, names
from daena_kms.errors import KmsError
from daena_kms.invocation import Invocation
from daena_kms.policy import RotationPolicy
from daena_kms.service import Service
from daena_kms.settings import Settings, read_settings
from daena_kms.stores import aws_layout
from tests.support.aws_world import REGION, account, emptied
from tests.support.moto_policy import Request, Verdict, judge
from tests.support.worlds import Clock, Effects, Mortal

from . import aws_template
from .aws_template import ACCOUNT, STACK, Document, Resources, as_list

FUNCTION, SCHEDULER, READER, PERSON = "FunctionRole", "SchedulerRole", "Reader", "Person"
VERSION = "2012-10-17"
EVERYTHING: Document = {"Version": VERSION, "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
BUCKET = f"{STACK}-manifests"
POLICY_OBJECT = "policy/daena-kms.toml"
PREFIX = "daena-"
KEY = "orders"
TICK = Invocation()
AFTER_THE_LEASE = timedelta(minutes=16)
DENIALS = frozenset({"AccessDenied", "AccessDeniedException"})

# What a botocore operation takes of IAM, where that has another name.
IAM_ACTIONS: Mapping[str, str] = {
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
}
FREE = "sts:GetCallerIdentity"  # takes no permission (botocore: GetCallerIdentity)


class Call(NamedTuple):
    """One call of an identity's."""

    operation: str
    """In botocore's words, the service before it: `secretsmanager:PutSecretValue`."""
    denied: bool


class Identity:
    """Somebody who has assumed a role: clients, and what the library asked AWS for through them."""

    def __init__(self, arn: str) -> None:
        assumed = unjudged("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        self._credentials = [assumed[part] for part in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
        self._plain: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.clouds = app.Clouds(settings())
        session = self.clouds.aws._session
        session.set_credentials(*self._credentials)
        session.register("after-call", self._note)

    def client(self, service: str) -> Any:
        """A plain client. Its calls are not noted."""
        if service not in self._plain:
            session = botocore.session.Session()
            session.set_credentials(*self._credentials)
            self._plain[service] = session.create_client(service, region_name=REGION)
        return self._plain[service]

    def used(self, since: int = 0) -> set[str]:
        """The IAM actions of the calls that were made, or of those after the first so many."""
        return {IAM_ACTIONS.get(call.operation, call.operation) for call in self.calls[since:]} - {FREE}

    @property
    def denied(self) -> set[str]:
        """The operations that were denied."""
        return {call.operation for call in self.calls if call.denied}

    def _note(self, parsed: Mapping[str, Any], model: Any, **_: object) -> None:
        error = parsed.get("Error", {}).get("Code", "")
        self.calls.append(Call(f"{model.service_model.service_name}:{model.name}", error in DENIALS))


def unjudged(service: str) -> Any:
    """A client with no role at all, for while nobody is judged."""
    account()
    return botocore.session.Session().create_client(service, region_name=REGION)


# --- what is deployed


@cache
def kms_key() -> str:
    """The ARN of the stack's KMS key."""
    return str(unjudged("kms").create_key()["KeyMetadata"]["Arn"])


@cache
def deployed() -> Resources:
    """The stack's resources, as the double's account has them."""
    resources = aws_template.stack()
    text = json.dumps(resources)
    for theirs, ours in (
        (resources["Function"]["Properties"]["Environment"]["Variables"]["AWS_KMS_KEY_ID"], kms_key()),
        (f"arn:{aws_template.PARTITION}:", "arn:aws:"),
        (f":{aws_template.REGION}:", f":{REGION}:"),
    ):
        text = text.replace(theirs, ours)
    found: Resources = json.loads(text)
    return found


def properties(name: str) -> dict[str, Any]:
    """The properties of a resource that is deployed."""
    found: dict[str, Any] = deployed()[name]["Properties"]
    return found


@cache
def settings() -> Settings:
    """The function's settings: its environment variables in the template."""
    return read_settings({**properties("Function")["Environment"]["Variables"], "AWS_REGION": REGION})


def secret_name(key: str) -> str:
    """The name of a key's secret."""
    return names.secret_name(PREFIX, key)


def policy_of(role: str) -> Document:
    """The one policy of a role."""
    [policy] = properties(role)["Policies"]
    found: Document = policy["PolicyDocument"]
    return found


def granted(role: str) -> set[tuple[str, str]]:
    """What a role's policy allows: the name of the statement, and the action."""
    return {(s["Sid"], action) for s in policy_of(role)["Statement"] for action in as_list(s["Action"])}


def without(policy: Document, sid: str, action: str) -> Document:
    """The policy without that action in that statement."""
    less = deepcopy(policy)
    [statement] = [s for s in less["Statement"] if s["Sid"] == sid]
    statement["Action"] = [other for other in as_list(statement["Action"]) if other != action]
    less["Statement"] = [s for s in less["Statement"] if s["Action"]]
    return less


def may(policy: Document, action: str, resource: str) -> bool:
    """Whether a policy allows what the double has no strict service for. The request brings no condition keys."""
    return judge([policy], Request(action, resource, {}, frozenset(), ACCOUNT)) is Verdict.ALLOW


def set_policy(iam: Any, role: str, policy: Document) -> None:
    """Make this the policy of a role. It counts from the next request on."""
    iam.put_role_policy(RoleName=f"{STACK}-{role}", PolicyName="own", PolicyDocument=json.dumps(policy))


@cache
def identities() -> Mapping[str, Identity]:
    """Every role, made and assumed."""
    _make_bucket()
    iam = unjudged("iam")
    arns = {}
    for role in (FUNCTION, SCHEDULER, READER, PERSON):
        trust = (
            properties(role)["AssumeRolePolicyDocument"]
            if role in deployed()
            else {"Version": VERSION, "Statement": []}
        )
        made = iam.create_role(RoleName=f"{STACK}-{role}", AssumeRolePolicyDocument=json.dumps(trust))
        arns[role] = made["Role"]["Arn"]
    set_policy(iam, FUNCTION, policy_of(FUNCTION))
    set_policy(iam, SCHEDULER, policy_of(SCHEDULER))
    set_policy(iam, PERSON, EVERYTHING)
    reading = json.dumps(properties("ReaderPolicy")["PolicyDocument"])
    made = iam.create_policy(PolicyName=f"{STACK}-ReaderPolicy", PolicyDocument=reading)
    iam.attach_role_policy(RoleName=f"{STACK}-{READER}", PolicyArn=made["Policy"]["Arn"])
    return {role: Identity(arn) for role, arn in arns.items()}


def _make_bucket() -> None:
    s3 = unjudged("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    versioning = properties("ManifestBucket")["VersioningConfiguration"]
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=versioning)
    guard_bucket(s3)


def guard_bucket(s3: Any) -> None:
    """Put the template's policy on the bucket."""
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(properties("ManifestBucketPolicy")["PolicyDocument"]))


# --- what is done


def judge_nobody() -> None:
    """Let every request through again: other tests share the account."""
    account().server.enforce_iam(False)


class Findings(NamedTuple):
    """What verification found."""

    problems: list[str]
    warnings: list[str]
    """What is not finished."""


class _Noted:
    """A store or a ledger; notes what each of its methods asks AWS for."""

    def __init__(self, what: str, target: Any, identity: Identity, noted: set[tuple[str, str]]) -> None:
        self._what = what
        self._target = target
        self._identity = identity
        self._noted = noted

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def call(*given: Any, **named: Any) -> Any:
            before = len(self._identity.calls)
            try:
                reply = value(*given, **named)
                return iter(list(reply)) if isinstance(reply, Iterator) else reply
            finally:
                self._noted.update((f"{self._what}.{name}", action) for action in self._identity.used(before))

        return call


def _served(connection: app.Connection, policy: RotationPolicy) -> Service:
    return app.serve(connection, settings(), policy, trigger="test", budget_seconds=None)


class Scene:
    """An account in which only the policy file was uploaded. From now on, until `judge_nobody`, everybody is judged."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        everybody = identities()
        self.function, self.person = everybody[FUNCTION], everybody[PERSON]
        self.scheduler, self.reader = everybody[SCHEDULER], everybody[READER]
        self.noted: set[tuple[str, str]] = set()
        """Method (`store.read`, `ledger.read` …) and IAM action of each call that the function made in one."""
        self._warm: app.Connection | None = None
        self._command: app.Connection | None = None
        emptied().server.enforce_iam(True)
        for identity in everybody.values():
            identity.calls.clear()
        self.grant(policy_of(FUNCTION))
        self.write_policy(KEY)

    def grant(self, policy: Document) -> None:
        """Make this all that the function may do."""
        set_policy(self.person.client("iam"), FUNCTION, policy)

    def write_policy(self, *keys: str, rules: str = "") -> None:
        """Upload a policy file that names these keys."""
        text = "".join(["[defaults]\ncreate = true\n", rules, *(f"\n[keys.{key}]\n" for key in keys)])
        self.person.client("s3").put_object(Bucket=BUCKET, Key=POLICY_OBJECT, Body=text.encode())

    # the function

    def invoke(self, asked: Invocation = TICK) -> list[str]:
        """What the function does with an event. Returns what it tells of that went wrong: a line each."""
        try:
            answer = invocation.perform(self.at_work(), asked)
        except KmsError as problem:
            self._warm = None
            return [f"{problem.message} ({problem.hint})"]
        if answer.failures:
            self._warm = None
        return list(answer.failures)

    def at_work(self) -> Service:
        """The function's service. What it opened is kept while it is warm: until something failed."""
        policy = app.load_policy(settings(), self.function.clouds)
        if self._warm is None:
            opened = app.connect(settings(), trigger="test", writes=False, makes=True, clouds=self.function.clouds)
            store = _Noted("store", opened.store, self.function, self.noted)
            ledger = _Noted("ledger", opened.ledger, self.function, self.noted)
            self._warm = replace(opened, store=store, ledger=ledger)
        return _served(self._warm, policy)

    # the person

    def service(self, effects: Effects | None = None) -> Service:
        """What the person's command does. With `effects` it may die."""
        if self._command is None:
            self._command = app.connect(settings(), trigger="test", writes=False, clouds=self.person.clouds)
        opened = self._command
        if effects is not None:
            opened = replace(opened, store=Mortal(opened.store, effects), ledger=Mortal(opened.ledger, effects))
        return _served(opened, app.load_policy(settings(), self.person.clouds))

    def active(self) -> dict[str, int]:
        """The number of every key's active version."""
        return {key.key: key.active for key in self.service().status()}

    def audit(self) -> Findings:
        """What the person's `verify` finds."""
        found = self.service().verify()
        return Findings([p for audit in found for p in audit.problems], [w for audit in found for w in audit.warnings])


def value(identity: Identity, key: str, **named: str) -> str:
    """What lies in a key's secret, asked for as applications do."""
    return str(identity.client("secretsmanager").get_secret_value(SecretId=secret_name(key), **named)["SecretString"])


def opened(identity: Identity, envelope: str) -> bytes:
    """The material in an envelope, opened as applications do."""
    fields = json.loads(envelope)
    context = aws_layout.context(fields["key"], fields["number"])
    wrapped = base64.b64decode(fields["wrapped"])
    return bytes(identity.client("kms").decrypt(CiphertextBlob=wrapped, EncryptionContext=context)["Plaintext"])
