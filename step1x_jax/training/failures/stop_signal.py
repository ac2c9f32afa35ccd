"""SIGTERM and Ctrl-C: a run ends after the step that it is at."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

NUMBERS = (signal.SIGTERM, signal.SIGINT)
SAID = b"stopping after this step, with a checkpoint; once more ends the run at once\n"


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
    """Gives a function that says, after a step, whether the run has been asked to stop.

    A second signal ends the process at once, with the exit code that a shell reports for it. Both
    are answered by a thread: Python's own handlers wait until the main thread returns from a
    compilation, say.

    With several processes, jax.distributed watches for SIGTERM on any of them and all stop after
    the same step.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return

    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True

    ends = os.pipe()
    os.set_blocking(ends[1], False)  # or signals could not be noted there
    thread = threading.Thread(target=_answer, args=(ends[0],), daemon=True)
    thread.start()
    noted = signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
    before = {number: signal.signal(number, ask) for number in NUMBERS}
    try:
        yield lambda step: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(noted)
        os.close(ends[1])  # ends the thread
        thread.join()
        os.close(ends[0])


def _answer(pipe: int) -> None:
    """Reads the numbers of signals until the pipe is closed."""
    asked = False
    while number := os.read(pipe, 1):
        if number[0] not in NUMBERS:
            continue
        if asked:
            os._exit(128 + number[0])
        asked = True
        with contextlib.suppress(OSError):
            os.write(1, SAID)
