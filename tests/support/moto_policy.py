"""IAM policies, judged as IAM judges them: rules alone, no server.

Sources: IAM user guide, "Policy evaluation logic" and "IAM JSON policy elements: Condition operators". What is not
known here raises NotInDoubleError: a condition that is passed over would let through what AWS refuses.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from .moto_errors import NotInDoubleError

Document = Mapping[str, Any]
Context = Mapping[str, Sequence[str]]
"""The condition keys of a request, in lower case, with their values. What AWS does not send is not there."""

# Every key that may be asked for. One that AWS sends with other actions only is absent, and known all the same.
KNOWN_KEYS = frozenset(
    {
        "aws:principalaccount",
        "aws:principalarn",
        "aws:requestedregion",
        "aws:resourceaccount",
        "aws:securetransport",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:tagkeys",
        "kms:encryptioncontextkeys",
        "kms:viaservice",
        "s3:delimiter",
        "s3:if-match",
        "s3:if-none-match",
        "s3:max-keys",
        "s3:prefix",
        "secretsmanager:name",
        "secretsmanager:versionid",
        "secretsmanager:versionstage",
        "sts:externalid",
    }
)
KNOWN_FAMILIES = ("aws:requesttag/", "aws:resourcetag/", "secretsmanager:resourcetag/", "kms:encryptioncontext:")
MANY_VALUED = frozenset({"aws:tagkeys", "kms:encryptioncontextkeys"})


class Verdict(Enum):
    """What policies say to a request."""

    ALLOW = "allow"
    DENY = "deny"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Request:
    """Who wants to do what, with what."""

    action: str
    resource: str
    context: Context
    principals: frozenset[str]
    """The caller's ARNs: of the user, or of the role and the session."""
    account: str


def judge(documents: Iterable[Document], request: Request) -> Verdict:
    """What identity policies say: a denial outweighs everything."""
    return _sum(_judge_statement(s, request) for document in documents for s in _statements(document))


def judge_resource(document: Document, request: Request) -> Verdict:
    """What a resource's own policy says to this caller."""
    named = (s for s in _statements(document) if _names(s, request))
    return _sum(_judge_statement(s, request) for s in named)


def delegates(document: Document, request: Request) -> bool:
    """Whether a resource's own policy leaves the matter to the account's identity policies."""
    root = f"arn:aws:iam::{request.account}:root"
    trusted = (
        s for s in _statements(document) if s["Effect"] == "Allow" and {root, request.account} & set(_principals(s))
    )
    return _sum(_judge_statement(s, request) for s in trusted) is Verdict.ALLOW


def _sum(verdicts: Iterable[Verdict]) -> Verdict:
    every = set(verdicts)
    return next((v for v in (Verdict.DENY, Verdict.ALLOW) if v in every), Verdict.NOTHING)


def _statements(document: Document) -> list[Mapping[str, Any]]:
    return _many(document["Statement"])


def _judge_statement(statement: Mapping[str, Any], request: Request) -> Verdict:
    if not _concerns(statement, request) or not _holds(statement.get("Condition") or {}, request.context):
        return Verdict.NOTHING
    return Verdict.ALLOW if statement["Effect"] == "Allow" else Verdict.DENY


def _concerns(statement: Mapping[str, Any], request: Request) -> bool:
    """Whether action and resource match. A role's trust policy has no resource."""
    action = request.action.lower()
    if "NotAction" in statement:
        acts = not any(matches(str(a).lower(), action) for a in _many(statement["NotAction"]))
    else:
        acts = any(matches(str(a).lower(), action) for a in _many(statement["Action"]))
    if "NotResource" in statement:
        return acts and not any(matches(r, request.resource) for r in _many(statement["NotResource"]))
    return acts and any(matches(r, request.resource) for r in _many(statement.get("Resource", "*")))


def _names(statement: Mapping[str, Any], request: Request) -> bool:
    """Whether a statement is about this caller. The account's root in a denial is everybody in it."""
    found = set(_principals(statement))
    if "*" in found or found & request.principals:
        return True
    root = {request.account, f"arn:aws:iam::{request.account}:root"}
    return statement["Effect"] == "Deny" and bool(found & root)


def _principals(statement: Mapping[str, Any]) -> list[str]:
    if "NotPrincipal" in statement:
        raise NotInDoubleError("NotPrincipal in a policy")
    named = statement["Principal"]
    return [named] if named == "*" else [str(p) for p in _many(named.get("AWS", []))]


def _holds(condition: Mapping[str, Mapping[str, Any]], context: Context) -> bool:
    """All of a condition. Each part is looked at, so that an unknown one shows wherever it stands."""
    parts = [
        _compare(operator, key.lower(), [_text(v) for v in _many(wanted)], context)
        for operator, keys in condition.items()
        for key, wanted in keys.items()
    ]
    return all(parts)


def _compare(operator: str, key: str, wanted: list[str], context: Context) -> bool:
    if key not in KNOWN_KEYS and not key.startswith(KNOWN_FAMILIES):
        raise NotInDoubleError(f"the condition key {key}")
    over, _, name = operator.rpartition(":")
    bare = name.removesuffix("IfExists")
    values = context.get(key)
    if bare == "Null":
        return (values is None) == (wanted[0].lower() == "true")
    if bare not in OPERATORS or over not in ("", "ForAnyValue", "ForAllValues"):
        raise NotInDoubleError(f"the condition operator {operator}")
    if not over and key in MANY_VALUED:
        raise NotInDoubleError(f"{key} has many values: its condition needs ForAnyValue or ForAllValues")
    if values is None:
        return bare != name or over == "ForAllValues" or bare in NEGATED
    hits = [OPERATORS[bare](value, wanted) for value in values]
    return all(hits) if over == "ForAllValues" else any(hits)


def _equal(value: str, wanted: list[str]) -> bool:
    return value in wanted


def _like(value: str, wanted: list[str]) -> bool:
    return any(matches(pattern, value) for pattern in wanted)


OPERATORS: Mapping[str, Callable[[str, list[str]], bool]] = {
    "StringEquals": _equal,
    "StringNotEquals": lambda value, wanted: not _equal(value, wanted),
    "StringLike": _like,
    "StringNotLike": lambda value, wanted: not _like(value, wanted),
    "ArnEquals": _like,
    "ArnLike": _like,
    "ArnNotEquals": lambda value, wanted: not _like(value, wanted),
    "ArnNotLike": lambda value, wanted: not _like(value, wanted),
    "Bool": lambda value, wanted: value.lower() in (w.lower() for w in wanted),
}
NEGATED = frozenset(name for name in OPERATORS if "Not" in name)


def matches(pattern: str, value: str) -> bool:
    """Whether a value fits a pattern, in which `*` stands for any text and `?` for one character."""
    return _compiled(pattern).fullmatch(value) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    if "${" in pattern:
        raise NotInDoubleError(f"the policy variable in {pattern}")
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(c, re.escape(c)) for c in pattern), re.DOTALL)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
