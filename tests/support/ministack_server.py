"""MiniStack and what it lacks: run by MiniStack's own Python in place of its command, by `ministack` beside this.

Each of `DEVIATIONS` is one thing in which MiniStack 1.5.33 is not as AWS and what is tested here depends on it; it is
mended. Known besides, and left: one Python runs every runtime; the scheduler fires without its role, and puts nothing
in the place of `<aws.scheduler.…>`; the root's keys pass every policy, and every trust in a service; a put leaves a
label on the version that had it; a damaged blob is decrypted; `!Contains` in YAML is not understood.
"""

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from ministack import app  # type: ignore[import-not-found]
from ministack.core import iam_actions  # type: ignore[import-not-found]
from ministack.services import secretsmanager  # type: ignore[import-not-found]

Json = dict[str, Any]


def kms_and_secrets_conditions() -> None:
    """It shows IAM no kms:EncryptionContext:<key>, no secretsmanager:VersionStage, no secretsmanager:VersionId."""
    plain = iam_actions.request_tag_context

    @functools.wraps(plain)
    def context(service: str, iam_action: str, body: bytes, params: Any) -> Json:
        found: Json = dict(plain(service, iam_action, body, params))
        if service == "kms":
            bound = json.loads(body or b"{}").get("EncryptionContext") or {}
            found |= {f"kms:EncryptionContext:{name}": value for name, value in bound.items()}
        if iam_action == "secretsmanager:GetSecretValue":
            asked = json.loads(body or b"{}")
            named = {name: asked.get(name) for name in ("VersionStage", "VersionId")}
            found |= {f"secretsmanager:{name}": value for name, value in named.items() if value}
        return found

    _replace(iam_actions, "request_tag_context", context)


def s3_conditions() -> None:
    """It shows IAM no s3:if-none-match: the bucket would refuse every manifest."""
    plain = iam_actions.s3_service_context

    @functools.wraps(plain)
    def context(iam_action: str, query: Any, path: str = "", headers: Json | None = None) -> Json:
        found: Json = dict(plain(iam_action, query, path, headers))
        wanted = (headers or {}).get("if-none-match")
        return found | ({"s3:if-none-match": wanted} if wanted else {})

    _replace(iam_actions, "s3_service_context", context)


def first_versions() -> None:
    """Its CreateSecret makes up the first version's id; in AWS the request's token becomes that id."""
    plain = secretsmanager._create_secret

    def create(asked: Json) -> Any:
        status, headers, body = plain(asked)
        token, told = asked.get("ClientRequestToken"), json.loads(body)
        if status != 200 or not token:
            return status, headers, body
        versions = secretsmanager._secrets[told["Name"]]["Versions"]
        versions[token] = versions.pop(told["VersionId"])
        return status, headers, json.dumps(told | {"VersionId": token}).encode()

    _replace(secretsmanager, "_create_secret", create)


def own_port_alone() -> None:
    """With TLS it opens port 443 as well, wherever it may."""
    _replace(app, "_port_is_bindable", lambda *_: False)


DEVIATIONS: tuple[Callable[[], None], ...] = (
    kms_and_secrets_conditions,
    s3_conditions,
    first_versions,
    own_port_alone,
)


def _replace(module: Any, name: str, new: object) -> None:
    if not hasattr(module, name):
        raise RuntimeError(f"MiniStack has no {name} any more: bring {__file__} up to date")
    setattr(module, name, new)


def _end_with_parent() -> None:
    """Kill this process and its functions' when standard input ends, which whoever started it holds open."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    for mend in DEVIATIONS:
        mend()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app.main()
