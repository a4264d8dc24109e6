"""Many keys at once: on a bounded number of threads, and one bad key never stops the others."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .errors import KmsError
from .model import Outcome, Status

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Done = TypeVar("Done")


def each(items: Iterable[Item], work: Callable[[Item], Done], concurrency: int) -> list[Done]:
    """`work` for every item, in the items' order. Interrupted, it begins no further one, and ends what is begun."""
    with ThreadPoolExecutor(max_workers=max(1, concurrency)) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def failed(key: str, problem: Exception) -> Outcome:
    """The outcome of a key whose work ended in an error. Of an unknown one only the kind is told: it may say all."""
    if isinstance(problem, KmsError):
        log.warning("key failed", extra={"key": key, "problem": problem.message})
        return Outcome(key, Status.FAILED, problem.message, hint=problem.hint)
    kind = type(problem).__name__
    log.error("key failed", extra={"key": key, "problem": kind})
    return Outcome(key, Status.FAILED, f"unexpected {kind}", hint="this is a bug of ours: please report it")
