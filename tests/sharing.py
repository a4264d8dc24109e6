"""How many of its cases a test takes, so that `make test` stays short."""

from collections.abc import Callable, Iterable, Iterator

# Of the places where a run may die one in so many: the fixture `some`.
Some = Callable[[Iterable[int], int], Iterator[int]]


def one_in(backend: str, *, memory: int, slow: int) -> int:
    """Of how many places one is tried: fewer are left out in memory than where each is many writes to a server."""
    return memory if backend.startswith("memory") else slow
