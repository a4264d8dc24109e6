"""Keeping to a service's quota: so many in so many seconds, the others wait for their turn."""

import math
import threading
from collections import deque
from collections.abc import Callable


class Pace:
    """Lets so many pass in so many seconds, in the order in which they ask. For all threads of one process."""

    def __init__(
        self, most: int, seconds: float, monotonic: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._seconds = seconds
        self.monotonic = monotonic
        """The clock that it goes by, in seconds."""
        self._sleep = sleep
        self._turns: deque[float] = deque(maxlen=most)
        """When the last ones pass, or will."""
        self._lock = threading.Lock()

    def wait(self, longest: float = math.inf) -> bool:
        """Return when it is the caller's turn; False at once if that is further away than so many seconds."""
        with self._lock:
            now = self.monotonic()
            crowded = len(self._turns) == self._turns.maxlen
            turn = max(now, self._turns[0] + self._seconds) if crowded else now
            if turn - now > longest:
                return False
            self._turns.append(turn)
        if turn > now:
            self._sleep(turn - now)
        return True
