"""Keeping to a service's quota: so many in so many seconds, the others wait."""

import threading
from collections import deque
from collections.abc import Callable


class Pace:
    """Lets so many pass in so many seconds, and has the others wait. For all threads of one process."""

    def __init__(
        self, most: int, seconds: float, monotonic: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._most = most
        self._seconds = seconds
        self.monotonic = monotonic
        """The clock that it goes by, in seconds."""
        self._sleep = sleep
        self._passed: deque[float] = deque()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when one more may pass."""
        while (pause := self._next()) > 0:
            self._sleep(pause)

    def _next(self) -> float:
        with self._lock:
            now = self.monotonic()
            while self._passed and now - self._passed[0] >= self._seconds:
                self._passed.popleft()
            if len(self._passed) < self._most:
                self._passed.append(now)
                return 0.0
            return self._seconds - (now - self._passed[0])
