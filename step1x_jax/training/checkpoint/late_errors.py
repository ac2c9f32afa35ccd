"""Tracebacks that the threads of a failed save print after the error was reported."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def suppress_late_errors() -> Iterator[None]:
    """Suppress unraisable errors with the message "Event loop is closed".

    On a full disk Orbax stops at the first array that cannot be written and closes the event loop
    of that save. TensorStore's threads can then no longer report the errors of the other arrays.
    They print dozens of tracebacks around the one error message of checkpoints.py.
    """
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
