"""A process's environment for each of the four stores, so that the Python interface finds the doubles."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from . import aws_world, azure_world, gcp_world

# Whatever could lead a client elsewhere, or set it otherwise than a test says.
_ELSEWHERE = ("DAENA_", "AWS_", "AZURE_", "GCP_", "GOOGLE_", "IDENTITY_")


def _gcp() -> dict[str, str]:
    project = gcp_world.emptied()
    # A key file: in this process google-auth has read where its metadata server is, which is nowhere.
    return project.environment() | project.secrets.environment(gcp_world.FUNCTION)


ENVIRONMENTS: dict[str, Callable[[], dict[str, str]]] = {
    "local": dict,
    "aws": lambda: aws_world.emptied().environment(),
    "azure": lambda: azure_world.emptied().environment(),
    "gcp": _gcp,
}
CLOUDS = [name for name in ENVIRONMENTS if name != "local"]


def enter(provider: str, folder: Path, patch: pytest.MonkeyPatch, **settings: str) -> dict[str, str]:
    """Make this process one that is set up for that store, in a folder of its own; what was set."""
    environment = ENVIRONMENTS[provider]() | {"DAENA_HOME": str(folder / ".kms")} | settings
    for name in [name for name in os.environ if name.startswith(_ELSEWHERE)]:
        patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)
    patch.chdir(folder)
    return environment
