"""Fixtures that every test may use."""

import functools
import gc
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest

# Read once, when gRPC is first used. Its handlers would end a child that a test forks off with less than it had.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# Read when google-auth is imported. A test that forgets to say where its metadata server is asks nobody in the world.
os.environ |= {"GCE_METADATA_HOST": "127.0.0.1:9", "GCE_METADATA_IP": "127.0.0.1:9"}

from tests.support.worlds import BACKENDS, SERVED, Backend, Clock, World, seeded

from .sharing import Some

# What sessions of botocore read of its models they read once together: a tenth of a second for each that a test makes.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

# Of these one store takes a turn, even among the contracts.
_LONG = (
    "test_two_deaths_in_a_row_at_every_pair_of_side_effects",
    "test_a_zombie_wakes_up_after_another_run_took_over_and_died",
    "test_a_zombie_that_wakes_up_after_its_lease_changes_nothing",
    "test_a_run_that_dies_anywhere_is_brought_to_its_end",
    "test_a_key_moves_with_everything_that_it_is",
    "test_a_key_comes_back_with_what_became_of_it",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="every test and every pair of deaths on every store, not a share of them",
    )


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: a test waits a fifth of its time, for servers and for time to pass."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the stores behind a socket, each test takes one: that is deselected which is another's turn.

    All of them run the contracts, but for the longest, and for deaths in less usual operations than a rotation.
    """
    if config.getoption("--thorough"):
        return
    left = [item for item in items if not _has_its_turn(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if _has_its_turn(item)]


def pytest_collection_finish() -> None:
    """What is imported by now stays. To look through it for garbage, as sandboxes do after each call, takes longest."""
    gc.collect()
    gc.freeze()


def _has_its_turn(item: pytest.Item) -> bool:
    if item.get_closest_marker("thorough"):
        return False
    asked = dict(item.callspec.params) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    store = asked.pop("backend", asked.pop("backend_name", ""))
    if store not in SERVED:
        return True
    function, contract = item.name.partition("[")[0], item.path.parent.name == "contract"
    if contract and function not in _LONG and asked.get("name", "rotate") == "rotate":
        return True
    name = f"{function} {sorted(asked)} {[str(value) for value in asked.values()]}"
    return sorted(SERVED)[zlib.crc32(name.encode()) % len(SERVED)] == store


@pytest.fixture
def dropped_connections() -> Iterator[None]:
    """Cloud Storage's client leaves a connection to the garbage collector if its reply broke off, or if it asks again.

    It comes before the test is over: later it would be another test in which an unclosed socket is found.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture
def some(request: pytest.FixtureRequest) -> Some:
    """A share of the places where a run may die; all of them with --thorough, which is how `make faults` has them."""
    return Some(request.node.nodeid, thorough=bool(request.config.getoption("--thorough")))


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
