"""How long the devices had nothing to do."""

import threading
import time


class IdleClock:
    """Adds up the time in which no batch was on the devices, from when the clock was made.

    Attributes:
      idle: seconds, up to the start of the latest batch.
    """

    def __init__(self) -> None:
        self.idle = 0.0
        self._running = 0
        self._since = time.perf_counter()
        self._lock = threading.Lock()

    def start(self) -> None:
        """A batch is given to the devices."""
        with self._lock:
            if self._running == 0:
                self.idle += time.perf_counter() - self._since
            self._running += 1

    def stop(self) -> None:
        """A batch is done; any thread may say so."""
        with self._lock:
            self._running -= 1
            self._since = time.perf_counter()
