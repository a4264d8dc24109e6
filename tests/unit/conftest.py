"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest

from tests.support import aws_world
from tests.support.aws_scene import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    aws_world.emptied()
    yield Scene()
    aws_world.emptied()
