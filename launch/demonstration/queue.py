"""The edits of all who have the demo's page open: made one at a time, in the order they came."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from step1x_jax.editing.progress import Step
from step1x_jax.errors import UserError

MOST_WAITING = 20  # each holds one of the server's 40 threads

# Makes the pictures; what it is given has to be called after every step.
Work = Callable[[Callable[[Step], None]], list[Image.Image]]


class Cancelled(Exception):
    """An edit was ended because nobody wants it any longer."""


class QueuedEdit:
    """One edit that waits or is made."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._cancelled = threading.Event()
        self._news: queue.SimpleQueue[int | Step | list[Image.Image] | Exception] = (
            queue.SimpleQueue()
        )

    def cancel(self) -> None:
        """End it: at once if it waits, else at its next step; without effect once it is made."""
        self._cancelled.set()
        self._news.put(Cancelled())

    def news(self) -> Iterator[int | Step | list[Image.Image]]:
        """Wait for news of it: how many edits come first, then its steps, at last its pictures.

        Raises:
          Cancelled: by `cancel`.
          Exception: whatever ended the edit.
        """
        while True:
            news = self._news.get()
            if isinstance(news, Exception):
                raise news
            yield news
            if isinstance(news, list):
                return

    def tell_place(self, ahead: int) -> None:
        """Say how many edits are made before this one."""
        self._news.put(ahead)

    def make(self) -> None:
        """Make the edit; how it ended is told as news."""
        try:
            self._raise_if_cancelled()
            self._news.put(self._work(self._on_step))
        except Exception as e:  # it belongs to whoever wants the edit, not to the queue
            self._news.put(e)

    def _on_step(self, step: Step) -> None:
        self._raise_if_cancelled()
        self._news.put(step)

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


class EditQueue:
    """One thread that makes one edit after another; `close` ends it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "edits")
        self._lock = threading.Lock()
        self._jobs: list[QueuedEdit] = []  # the one that is made, then those that wait

    def submit(self, work: Work) -> QueuedEdit:
        """Put an edit at the end.

        Raises:
          UserError: too many wait.
        """
        job = QueuedEdit(work)
        with self._lock:
            if len(self._jobs) > MOST_WAITING:
                raise UserError(f"{MOST_WAITING} edits are waiting already; try again later.")
            self._jobs.append(job)
            job.tell_place(len(self._jobs) - 1)
        self._thread.submit(self._make, job)
        return job

    def cancel(self, job: QueuedEdit) -> None:
        """End an edit, wherever it is; those after it move up."""
        job.cancel()
        with self._lock:
            if job in self._jobs[1:]:
                self._leave(job)

    def close(self) -> None:
        """End all edits, and wait until the one that is made has noticed."""
        with self._lock:
            for job in self._jobs:
                job.cancel()
        self._thread.shutdown()

    def _make(self, job: QueuedEdit) -> None:
        job.make()
        with self._lock:
            if job in self._jobs:
                self._leave(job)

    def _leave(self, job: QueuedEdit) -> None:
        place = self._jobs.index(job)
        del self._jobs[place]
        for ahead, other in enumerate(self._jobs):
            if ahead >= place:
                other.tell_place(ahead)
