"""SIGTERM and Ctrl-C end a run after the current step."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTICE = b"stopping after this step, with a checkpoint; a second signal stops immediately\n"


@contextlib.contextmanager
def watch_stop_signals() -> Iterator[Callable[[int], bool]]:
    """Yield a function from a step's number to whether the run should stop after it.

    A second signal ends the process immediately, with the exit code that a shell reports for the
    signal. A thread reacts to both signals, because Python runs signal handlers only when the main
    thread returns to the interpreter, for example after a compilation.

    With several processes jax.distributed watches for SIGTERM, and all stop after the same step.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return

    stop_asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal stop_asked
        stop_asked = True

    ends = os.pipe()
    os.set_blocking(ends[1], False)  # required by set_wakeup_fd
    thread = threading.Thread(target=_handle_signals, args=(ends[0],), daemon=True)
    thread.start()
    previous_fd = signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield lambda step: stop_asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        os.close(ends[1])  # ends the thread
        thread.join()
        os.close(ends[0])


def _handle_signals(pipe: int) -> None:
    """Read signal numbers until the pipe is closed: announce the first, exit at the second."""
    asked = False
    while number := os.read(pipe, 1):
        if number[0] not in SIGNALS:
            continue
        if asked:
            os._exit(128 + number[0])
        asked = True
        with contextlib.suppress(OSError):
            os.write(1, NOTICE)
