"""Quotas as the clouds enforce them: of some calls so many in any so many seconds, the others are refused."""

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Limit(NamedTuple):
    """A quota of one account, vault, project or secret."""

    name: str
    calls: frozenset[str]
    """Those that share it; empty for all that no limit before it names."""
    most: int
    seconds: float


class Quotas:
    """Lets calls through, each under the first limit that names it. Who comes when nothing is left is refused."""

    def __init__(self, limits: Iterable[Limit], monotonic: Callable[[], float], *, apart: bool = False) -> None:
        """`apart`: calls of different names do not share a limit, each has it for itself."""
        self._limits = tuple(limits)
        self._monotonic = monotonic
        self._apart = apart
        self._spent: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()
        self.passed: Counter[str] = Counter()
        """How many calls were let through, by limit."""
        self.refused: Counter[str] = Counter()

    def over(self, call: str) -> Limit | None:
        """The quota that is used up for this call; None if it may pass, and is counted."""
        limit = next((each for each in self._limits if call in each.calls or not each.calls), None)
        if limit is None:
            return None
        with self._lock:
            now, spent = self._monotonic(), self._spent[limit.name, call if self._apart else ""]
            while spent and now - spent[0] >= limit.seconds:
                spent.popleft()
            if len(spent) >= limit.most:
                self.refused[limit.name] += 1
                return limit
            spent.append(now)
            self.passed[limit.name] += 1
            return None

    def frees(self, limit: Limit) -> float:
        """In how many seconds the next call under that limit may pass."""
        with self._lock:
            spent = self._spent[limit.name, ""]
            return max(0.0, spent[0] + limit.seconds - self._monotonic()) if len(spent) >= limit.most else 0.0
