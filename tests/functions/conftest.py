"""Fixtures for the functions."""

from collections.abc import Iterator

import pytest

from .aws_scene import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    """The AWS double in which nothing was done yet, and functions on it. Their processes end with the test."""
    made = Scene()
    yield made
    made.close()
