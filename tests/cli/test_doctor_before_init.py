"""`doctor` on stores that nobody has initialised yet: what can be tried is tried, and nothing is made."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import aws_world, azure_world, gcp_world

from .doctoring import POLICY, check_text, examined, of_a_key_file
from .sandbox import Sandbox

WORLDS: dict[str, Any] = {"aws": aws_world, "azure": azure_world, "gcp": gcp_world}
WRITING = {
    "aws": {
        "secretsmanager:PutSecretValue", "secretsmanager:CreateSecret", "secretsmanager:TagResource", "kms:Decrypt",
        "s3:PutObject",
    },
    "azure": {"secrets/setSecret/action", "blobs/add/action"},
    "gcp": {
        "secretmanager.secrets.create", "secretmanager.secrets.update", "secretmanager.versions.add",
        "secretmanager.versions.disable", "secretmanager.versions.enable", "secretmanager.versions.destroy",
    },
}  # fmt: skip
# The third-party server of Cloud Storage does not have this question.
UNANSWERED = {"storage.objects.create"}


@pytest.mark.parametrize("cloud", WORLDS)
def test_before_init(cloud: str, tmp_path: Path) -> None:
    world = WORLDS[cloud].emptied()
    box = Sandbox(tmp_path / "work", policy=POLICY)
    environment = of_a_key_file(world) if cloud == "gcp" else world.environment()
    found = examined(box, environment)
    check_text(box, environment, found)
    assert found.status == 0
    untold = found.named("not-tried") - UNANSWERED
    assert untold == WRITING[cloud] | {"create-only", "evidence keys", "pinned key"}
    assert "run `daena-key-rotate init`" in found.line("create-only")
    assert found.checks["clock"]["standing"] in ("ok", "not-tried")
    assert not world.store().observe("reserved--manifest-keys").exists
    assert world.ledger().names() == []
    WORLDS[cloud].emptied()
