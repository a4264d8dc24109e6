"""What CloudFormation will see of `infra/aws/template.yaml`: SAM's shorthand expanded, offline, and, for given
parameters, every reference and condition resolved.

    stack(ObjectLockDays="400")["ManifestBucket"]["Properties"]

Only what the template uses of CloudFormation's functions is known here; anything else raises, so that nothing is
asserted about a text that was not understood.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "infra" / "aws" / "template.yaml"

# What the pseudo parameters are here. Another partition than `aws` shows an ARN that was written by hand.
PARTITION, REGION, ACCOUNT, STACK = "aws-cn", "cn-north-1", "123456789012", "keys"
PSEUDO = {
    "AWS::Partition": PARTITION,
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::StackName": STACK,
}

Template = dict[str, Any]
Resources = dict[str, dict[str, Any]]
Document = dict[str, Any]
Statement = dict[str, Any]


class _NoManagedPolicies:
    """SAM looks AWS's managed policies up in an account; the template names none."""

    def load(self) -> dict[str, str]:
        return {}


def transformed(source: str | None = None, *, artifact: str = "s3://artifacts/aws.zip") -> Template:
    """The template (or `source`, its text changed) as plain CloudFormation. Raises what SAM raises if it is wrong."""
    from samtranslator.translator.transform import transform  # noqa: PLC0415  # slow, and not needed to collect tests
    from samtranslator.yaml_helper import yaml_parse  # noqa: PLC0415

    document = yaml_parse(SOURCE.read_text() if source is None else source)
    document["Resources"]["Function"]["Properties"]["CodeUri"] = artifact
    with mock.patch.dict(os.environ, AWS_DEFAULT_REGION=REGION):
        done: Template = json.loads(json.dumps(transform(document, {}, _NoManagedPolicies())))
    return done


@cache
def _shipped() -> Template:
    return transformed()


def shipped() -> Template:
    """The transformed template; a copy, to plant faults into."""
    return deepcopy(_shipped())


def stack(template: Template | None = None, **parameters: str) -> Resources:
    """The resources that a stack with these parameters has, everything resolved."""
    return Resolver(template or shipped(), parameters).resources()


def parameters(template: Template) -> dict[str, Any]:
    """The template's parameters with their defaults and rules."""
    found: dict[str, Any] = template["Parameters"]
    return found


_NOTHING = object()  # AWS::NoValue
_VARIABLE = re.compile(r"\$\{([^!}][^}]*)\}")

# What `Ref` and `Fn::GetAtt` answer, by type. {id} is the logical id, {name} the resource's own name if it has one.
_HERE = f"{REGION}:{ACCOUNT}"
_ANSWERS: Mapping[tuple[str, str], str] = {
    ("AWS::KMS::Key", "Ref"): "{id}",
    ("AWS::KMS::Key", "Arn"): f"arn:{PARTITION}:kms:{_HERE}:key/00000000-0000-4000-8000-000000000000",
    ("AWS::S3::Bucket", "Ref"): f"{STACK}-manifests",
    ("AWS::S3::Bucket", "Arn"): f"arn:{PARTITION}:s3:::{STACK}-manifests",
    ("AWS::Logs::LogGroup", "Ref"): "{name}",
    ("AWS::Logs::LogGroup", "Arn"): f"arn:{PARTITION}:logs:{_HERE}:log-group:{{name}}:*",
    ("AWS::Lambda::Function", "Ref"): "{name}",
    ("AWS::Lambda::Function", "Arn"): f"arn:{PARTITION}:lambda:{_HERE}:function:{{name}}",
    ("AWS::IAM::Role", "Arn"): f"arn:{PARTITION}:iam::{ACCOUNT}:role/{STACK}-{{id}}",
    ("AWS::IAM::ManagedPolicy", "Ref"): f"arn:{PARTITION}:iam::{ACCOUNT}:policy/{STACK}-{{id}}",
    ("AWS::Scheduler::ScheduleGroup", "Ref"): "{name}",
    ("AWS::Scheduler::ScheduleGroup", "Arn"): f"arn:{PARTITION}:scheduler:{_HERE}:schedule-group/{{name}}",
    ("AWS::SQS::Queue", "Ref"): f"https://sqs.{REGION}.amazonaws.com.cn/{ACCOUNT}/{{name}}",
    ("AWS::SQS::Queue", "Arn"): f"arn:{PARTITION}:sqs:{_HERE}:{{name}}",
    ("AWS::SQS::Queue", "QueueName"): "{name}",
    ("AWS::SNS::Topic", "Ref"): f"arn:{PARTITION}:sns:{_HERE}:{{name}}",
}
_NAMED_BY = ("FunctionName", "LogGroupName", "Name", "QueueName", "TopicName")


class Resolver:
    """Carries out a template's functions, for one set of parameters."""

    def __init__(self, template: Template, given: Mapping[str, str]) -> None:
        known = parameters(template)
        if unknown := set(given) - set(known):
            raise KeyError(f"no such parameters: {sorted(unknown)}")
        self._template = template
        self._values = {name: str(given.get(name, known[name].get("Default", ""))) for name in known}
        self._values |= PSEUDO

    def resources(self) -> Resources:
        """Every resource whose condition holds."""
        return {
            name: self.value(resource)
            for name, resource in self._template["Resources"].items()
            if "Condition" not in resource or self.holds(resource["Condition"])
        }

    def outputs(self) -> dict[str, Any]:
        return {name: self.value(output["Value"]) for name, output in self._template["Outputs"].items()}

    def refusals(self) -> list[str]:
        """What the template's rules say against these parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self._template["Rules"].values()
            if self.value(rule["RuleCondition"])
            for assertion in rule["Assertions"]
            if not self.value(assertion["Assert"])
        ]

    def holds(self, condition: str) -> bool:
        return bool(self.value(self._template["Conditions"][condition]))

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [value for value in map(self.value, node) if value is not _NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            [(function, argument)] = node.items()
            if function == "Ref" or function.startswith("Fn::"):
                return self._call(function, argument)
        found = {key: self.value(inner) for key, inner in node.items()}
        return {key: value for key, value in found.items() if value is not _NOTHING}

    def _call(self, function: str, argument: Any) -> Any:
        match function:
            case "Ref":
                return self._ref(argument)
            case "Fn::GetAtt":
                resource, attribute = argument
                return self._answer(resource, attribute)
            case "Fn::Sub":
                return _VARIABLE.sub(lambda found: str(self._named(found[1])), argument)
            case "Fn::If":
                condition, then, otherwise = argument
                return self.value(then if self.holds(condition) else otherwise)
            case "Fn::Equals":
                first, second = map(self.value, argument)
                return str(first) == str(second)
            case "Fn::Not":
                return not self.value(argument[0])
            case "Fn::Contains":
                values, value = map(self.value, argument)
                return value in values
        raise NotImplementedError(f"{function} is not known to this test")

    def _named(self, name: str) -> Any:
        resource, dot, attribute = name.partition(".")
        return self._answer(resource, attribute) if dot else self._ref(name)

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NOTHING
        return self._values[name] if name in self._values else self._answer(name, "Ref")

    def _answer(self, logical: str, attribute: str) -> str:
        resource = self._template["Resources"][logical]
        properties = resource.get("Properties", {})
        name = next((self.value(properties[key]) for key in _NAMED_BY if key in properties), logical)
        return _ANSWERS[resource["Type"], attribute].format(id=logical, name=name)


# --- policies


def policies(resources: Resources) -> dict[str, Document]:
    """Every policy document of a stack by where it stands: `FunctionRole.rotate-keys`, `FunctionRole.trust` …"""
    return {f"{name}.{place}": document for name, r in resources.items() for place, document in _documents(r)}


def _documents(resource: Mapping[str, Any]) -> Iterator[tuple[str, Document]]:
    properties = resource.get("Properties", {})
    if "AssumeRolePolicyDocument" in properties:
        yield "trust", properties["AssumeRolePolicyDocument"]
    for policy in properties.get("Policies", []):
        yield policy["PolicyName"], policy["PolicyDocument"]
    for key in ("PolicyDocument", "KeyPolicy"):
        if key in properties:
            yield "policy", properties[key]


def as_list(value: Any) -> list[Any]:
    """IAM's one-or-many, as many."""
    return value if isinstance(value, list) else [value]


def granted(document: Document) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What a policy allows: (action, resource) -> condition."""
    return {
        (action, resource): statement.get("Condition", {})
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }


def statements(document: Document, *, effect: str, action: str) -> list[Statement]:
    """The statements of that effect that name that very action."""
    return [s for s in document["Statement"] if s["Effect"] == effect and action in as_list(s["Action"])]


def matches(patterns: Iterable[str] | str, text: str) -> bool:
    """IAM's StringLike: `*` and `?`, case-sensitive, nothing else special."""
    return any(
        re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL)
        for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    )


def of_type(resources: Resources, kind: str) -> Resources:
    return {name: resource for name, resource in resources.items() if resource["Type"] == kind}
