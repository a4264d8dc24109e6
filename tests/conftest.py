"""Fixtures that every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worlds import BACKENDS, Backend, Clock, World, seeded


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Backend]:
    """Every store there is, with its ledger."""
    made = BACKENDS[request.param](tmp_path, clock, seeded())
    yield made
    getattr(made.store, "close", lambda: None)()


@pytest.fixture
def world(backend: Backend, clock: Clock) -> World:
    return World(backend, clock)
