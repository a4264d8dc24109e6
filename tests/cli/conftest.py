"""Sandboxes for the command: an empty one, and one with a past (made once, copied for each test)."""

import gc
from pathlib import Path

import pytest

from .sandbox import Sandbox, lived_in

# A sandbox collects garbage after each call, to close what a process would close as it ends. What is imported by now
# stays for good, and need not be looked at each time: that is three quarters of the time of these tests.
gc.freeze()


@pytest.fixture
def empty(tmp_path: Path) -> Sandbox:
    """A policy, and nothing else yet."""
    return Sandbox(tmp_path / "work")


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The one that is copied. No test changes it."""
    return lived_in(tmp_path_factory.mktemp("past") / "work")


@pytest.fixture
def box(past: Sandbox, tmp_path: Path) -> Sandbox:
    """A vault with a past, see `lived_in`."""
    return past.copy(tmp_path / "work")
