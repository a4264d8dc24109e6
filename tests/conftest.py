"""Fixtures that every test may use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Read once, when gRPC is first used. Its handlers would end a child that a test forks off with less than it had.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from tests.support.worlds import BACKENDS, SERVED, Backend, Clock, World, seeded


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="every pair of deaths on every store, not a share of them")


@pytest.fixture
def share(request: pytest.FixtureRequest) -> Callable[[str], int]:
    """Of how many pairs of deaths a test takes one: all in memory, a share where each is many calls to a server."""
    thorough = bool(request.config.getoption("--thorough"))
    return lambda backend: 1 if thorough or backend not in SERVED else 5


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
