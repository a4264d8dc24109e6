"""How many of its cases a test takes, so that `make test` stays short."""

import itertools
import zlib
from collections.abc import Iterable, Iterator


class Some:
    """Of the places where a run may die one in so many: other ones for each test, and each time that it asks."""

    def __init__(self, test: str, *, thorough: bool) -> None:
        self._thorough = thorough
        self._turns = itertools.count(zlib.crc32(test.encode()))

    def __call__(self, places: Iterable[int], of: int) -> Iterator[int]:
        """Those that are taken."""
        return itertools.islice(places, next(self._turns) % self.step(of), None, self.step(of))

    def step(self, of: int) -> int:
        """Of how many one is taken: each of them where the tests are to be thorough."""
        return 1 if self._thorough else of


def one_in(backend: str, *, memory: int, slow: int) -> int:
    """Of how many places one is tried: fewer are left out in memory than where each is many writes to a server."""
    return memory if backend.startswith("memory") else slow
