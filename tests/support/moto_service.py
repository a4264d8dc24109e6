"""What the strict JSON services share: they know what they can do, and say so of everything else."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from moto.core.responses import BaseResponse

from .moto_errors import NotInDoubleError

Parameters = Mapping[str, frozenset[str]]
JSON_TYPE = "application/x-amz-json-1.1"


def parameters(table: Mapping[str, str]) -> Parameters:
    """What is known of each action: the names of its parameters."""
    return {action: frozenset(names.split()) for action, names in table.items()}


class StrictService(BaseResponse):
    """One request. Any action or parameter that is not in `KNOWN` is an error: ignored, it would be a guess."""

    KNOWN: ClassVar[Parameters] = {}
    asked: dict[str, Any]

    def call_action(self) -> Any:
        """Carries out the action, if the double has it."""
        self.asked = json.loads(self.body or "{}")
        action = self._get_action()
        if action not in self.KNOWN:
            raise NotInDoubleError(f"{self.service_name} {action}")
        if unknown := sorted(set(self.asked) - self.KNOWN[action]):
            raise NotInDoubleError(f"{self.service_name} {action} with {', '.join(unknown)}")
        self.response_headers["Content-Type"] = JSON_TYPE
        return super().call_action()
