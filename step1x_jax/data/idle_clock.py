"""Measures how long the devices are idle."""

import threading
import time


class IdleClock:
    """Adds up the time during which no batch was on the devices, from the clock's creation.

    Attributes:
      idle: idle seconds up to the start of the latest batch.
    """

    def __init__(self) -> None:
        self.idle = 0.0
        self._running = 0
        self._since = time.perf_counter()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Record that a batch was dispatched to the devices."""
        with self._lock:
            if self._running == 0:
                self.idle += time.perf_counter() - self._since
            self._running += 1

    def stop(self) -> None:
        """Record that a batch has finished; thread-safe."""
        with self._lock:
            self._running -= 1
            self._since = time.perf_counter()
