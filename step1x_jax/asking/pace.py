"""When the next request may be sent: the user's rate, the server's wish, and growing waits."""

import math
import random
import threading
import time

from step1x_jax.asking.pool import Stopping
from step1x_jax.errors import UserError

_SPREAD = 0.5  # seconds over which those who were held together go on


def backoff(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after a failure: doubled each time, and between half and one and a half.

    Args:
      failures: before this one.
      first: of the first wait, on average.
      longest: up to which that grows.
    """
    return min(first * 2.0 ** min(failures, 60), longest) * random.uniform(0.5, 1.5)


class Pace:
    """Gives each request of a run its time; shared by all threads."""

    def __init__(self, requests_per_minute: float, longest_hold: float):
        """Nothing waits yet.

        Args:
          requests_per_minute: 0 for no limit.
          longest_hold: seconds that a server may ask for.
        """
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._longest = longest_hold
        self._lock = threading.Lock()
        self._next = -math.inf
        self._held_until = -math.inf

    def wait(self, stopping: Stopping) -> None:
        """Wait for the time of a request.

        Raises:
          Stopped: the run ends.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                held = self._held_until - now
                if held <= 0:
                    slot = max(now, self._next)
                    self._next = slot + self._gap
                    break
            stopping.sleep(held + random.uniform(0, min(_SPREAD, held)))
        stopping.sleep(slot - now)

    def hold(self, seconds: float, reason: str) -> None:
        """Let nobody ask for some time, because the server wants that.

        Raises:
          UserError: it wants more than is worth waiting for.
        """
        if seconds > self._longest:
            raise UserError(
                f"the server wants a wait of {seconds:.0f} s ({reason}); run this again"
                " then: the replies so far are kept."
            )
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)
