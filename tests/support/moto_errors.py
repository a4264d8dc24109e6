"""How the AWS double says no."""

import json
from typing import Any

from werkzeug.exceptions import HTTPException


class NotInDoubleError(Exception):
    """Asked for something the double cannot answer as AWS would. The client sees HTTP 501, which SDKs do not retry."""


class AwsError(HTTPException):
    """A refusal of Secrets Manager or KMS: HTTP 400, `__type` without prefix (recorded-replies)."""

    code = 400

    def __init__(self, error: str, message: str = "", *, field: str = "Message") -> None:
        super().__init__()
        self.error = error
        # A damaged blob is refused without a word (recorded-replies); Secrets Manager and KMS name the field apart.
        self.description = json.dumps({"__type": error} | ({field: message} if message else {}))

    def get_headers(self, *_args: Any, **_kwargs: Any) -> list[tuple[str, str]]:
        """The headers; `X-Amzn-ErrorType` is what other SDKs read."""
        return [("Content-Type", "application/x-amz-json-1.1"), ("X-Amzn-ErrorType", self.error)]

    def get_body(self, *_args: Any, **_kwargs: Any) -> str:
        """The body."""
        return self.description or ""
