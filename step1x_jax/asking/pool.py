"""Work on several threads whose end nobody has to wait for.

The executors of Python's library wait at exit until each thread is done; here a thread may hang in
a request for minutes when the run is to end at once.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
GRACE = 5.0  # seconds that work gets to finish when the run ends early


class Stopped(Exception):
    """The run ends: what waited is not to go on."""


class Stopping:
    """Whether the run ends, for those who wait."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End all waiting, now and later."""
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
          Stopped: the run ends.
        """
        if self._event.wait(max(seconds, 0)):
            raise Stopped


class WorkerPool(Generic[Job, Result]):
    """Threads that work on jobs; a context, which ends them."""

    def __init__(self, work: Callable[[Job, Stopping], Result], threads: int):
        """Start the threads.

        Args:
          work: done on a thread; what it raises, `next` raises.
          threads: how many.
        """
        self._stopping = Stopping()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Result | None, BaseException | None]]
        self._done = queue.SimpleQueue()
        self._pending = 0
        self._work = work
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._done.put((self._work(job, self._stopping), None))
            except Stopped:
                return
            except BaseException as e:
                self._stopping.set()  # nobody begins anything until `next` has raised this
                self._done.put((None, e))

    @property
    def busy(self) -> bool:
        """Whether a result is still to come."""
        return self._pending > 0

    @property
    def full(self) -> bool:
        """Whether every thread has a job, and the next one as well."""
        return self._pending >= 2 * len(self._threads)

    def submit(self, job: Job) -> None:
        """Add a job."""
        self._pending += 1
        self._jobs.put(job)

    def next(self) -> Result:
        """Wait for a result; raise what its work raised."""
        result, error = self._done.get()
        self._pending -= 1
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None is what T may be

    def __enter__(self) -> "WorkerPool[Job, Result]":
        return self

    def __exit__(self, *error: object) -> None:
        """Begin no further job; what is being done has GRACE seconds."""
        self._stopping.set()
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
