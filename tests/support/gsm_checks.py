"""What Secret Manager takes as a name, a label, an annotation, an alias, a filter: pure functions that refuse.

Sources: the comments in googleapis `secretmanager/v1/{resources,service}.proto` and Google's page "Filter lists of
secrets and secret versions". The bounds of `version_destroy_ttl` (1 and 1,000 days) come from third parties only
(Terraform modules, other doubles). The words of these refusals are ours, but for "Field [payload] is required." (seen
in terraform-provider-google #8766) and "Secret Payload cannot be empty" (quoted in several runbooks).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import google_crc32c

from .gsm_errors import GoogleError, invalid, lacking

LONGEST_PAYLOAD, LONGEST_ANNOTATIONS = 65_536, 16_384
MOST_LABELS, MOST_ALIASES = 64, 50
DAY = 86_400
SECRET_ID = re.compile(r"[a-zA-Z0-9_-]{1,255}")
_ALIAS = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,62}")
_ANNOTATION = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?")
_UNKNOWN_FIELDS = ("topics", "rotation", "customer_managed_encryption", "tags", "secret_type", "ttl", "expire_time")
_UPDATABLE = {"labels", "annotations", "version_aliases", "version_destroy_ttl"}
_FIXED = {"name", "replication", "create_time", "tags", "secret_type", "policy_member"}
_STATES = {"ENABLED": 1, "DISABLED": 2, "DESTROYED": 3}
Keeps = Callable[[Any], bool]


def check_secret(secret: Any) -> None:
    """A Secret as it may be stored: what somebody sent for creation, or what an update would make."""
    for field in _UNKNOWN_FIELDS:
        if _is_set(secret, field):
            raise lacking(f"Secret.{field}")
    _check_labels(secret.labels)
    _check_annotations(secret.annotations)
    _check_aliases(secret.version_aliases)
    if secret.HasField("version_destroy_ttl") and not DAY <= secret.version_destroy_ttl.seconds <= 1000 * DAY:
        raise invalid("Secret.version_destroy_ttl must be between 1 and 1000 days.")


def check_replication(secret: Any) -> None:
    """Needed at creation, and never changed."""
    kind = secret.replication.WhichOneof("replication")
    if kind is None:
        raise invalid("Field [secret.replication] is required.")
    chosen = getattr(secret.replication, kind)
    replicas = list(chosen.replicas) if kind == "user_managed" else []
    if kind == "user_managed" and not replicas:
        raise invalid("Field [secret.replication.user_managed.replicas] is required.")
    if any(each.HasField("customer_managed_encryption") for each in replicas or [chosen]):
        raise lacking("customer_managed_encryption")


def check_payload(request: Any) -> None:
    """Present, not too long, and as its checksum says, if it has one."""
    if not request.HasField("payload"):
        raise invalid("Field [payload] is required.")
    payload = request.payload
    if len(payload.data) > LONGEST_PAYLOAD:
        raise invalid(f"The secret payload is {len(payload.data)} bytes: at most {LONGEST_PAYLOAD} are allowed.")
    if payload.HasField("data_crc32c") and payload.data_crc32c != google_crc32c.value(payload.data):
        raise invalid("The data_crc32c does not match the payload.")
    if not payload.data:
        raise invalid("Secret Payload cannot be empty.")


def check_mask(paths: Iterable[str]) -> list[str]:
    """The fields of a Secret to change."""
    wanted = list(paths)
    if not wanted:
        raise invalid("Field [update_mask] is required.")
    for path in wanted:
        if path in _FIXED:
            raise invalid(f"Secret.{path} cannot be updated.")
        if path not in _UPDATABLE:
            raise lacking(f"update_mask {path}")
    return wanted


def secret_filter(text: str) -> Keeps:
    """`labels.k=v`, `name:part`, joined by AND or by OR; keeps Secrets."""
    return _compiled(text, _secret_term)


def version_filter(text: str) -> Keeps:
    """`state:ENABLED` and the like, joined by AND or by OR; keeps SecretVersions."""
    return _compiled(text, _version_term)


def _is_set(secret: Any, field: str) -> bool:
    kind = secret.DESCRIPTOR.fields_by_name[field]
    return bool(secret.HasField(field) if kind.has_presence else getattr(secret, field))


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MOST_LABELS:
        raise invalid(f"A secret has at most {MOST_LABELS} labels.")
    for key, value in labels.items():
        if not key or not _label_text(key) or _category(key[0]) not in {"Ll", "Lo"}:
            raise invalid(f"Label key [{key}] is not valid.")
        if not _label_text(value):
            raise invalid(f"Label value [{value}] is not valid.")


def _label_text(text: str) -> bool:
    good = all(each in "_-" or _category(each) in {"Ll", "Lo"} or _category(each)[0] == "N" for each in text)
    return good and len(text) <= 63 and len(text.encode()) <= 128


def _category(character: str) -> str:
    return unicodedata.category(character)


def _check_annotations(annotations: Mapping[str, str]) -> None:
    for key in annotations:
        if not _ANNOTATION.fullmatch(key):
            raise invalid(f"Annotation key [{key}] is not valid.")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size >= LONGEST_ANNOTATIONS:
        raise invalid(f"Annotations have {size} bytes: fewer than {LONGEST_ANNOTATIONS} are allowed.")


def _check_aliases(aliases: Mapping[str, int]) -> None:
    if len(aliases) > MOST_ALIASES:
        raise invalid(f"A secret has at most {MOST_ALIASES} version aliases.")
    for alias in aliases:
        if not _ALIAS.fullmatch(alias) or alias in {"latest", "NEW"}:
            raise invalid(f"Version alias [{alias}] is not valid.")


def _compiled(text: str, term: Callable[[str], Keeps]) -> Keeps:
    if not text:
        return lambda _: True
    for word, joined in ((" OR ", any), (" AND ", all)):
        if word in text:
            return _joined([term(each.strip()) for each in text.split(word)], joined)
    return term(text.strip())


def _joined(terms: list[Keeps], joined: Callable[[Iterable[bool]], bool]) -> Keeps:
    return lambda item: joined(each(item) for each in terms)


def _secret_term(text: str) -> Keeps:
    if found := re.fullmatch(r'labels\.([^\s=:"]+)=("?)([^\s"*]+)\2', text):
        key, value = found[1], found[3]
        return lambda secret: secret.labels.get(key) == value
    if found := re.fullmatch(r"name:([a-zA-Z0-9_-]+)", text):
        part = found[1]
        return lambda secret: part in secret.name.rpartition("/")[2]
    raise _unknown_filter(text)


def _version_term(text: str) -> Keeps:
    if found := re.fullmatch(r"state[:=](ENABLED|DISABLED|DESTROYED)", text):
        state = _STATES[found[1]]
        return lambda version: version.state == state
    raise _unknown_filter(text)


def _unknown_filter(text: str) -> GoogleError:
    return lacking(f"the filter {text}")
