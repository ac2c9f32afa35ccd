"""What the threads of a failed save say when nobody listens any more."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_late_errors() -> Iterator[None]:
    """Keeps one kind of traceback off the screen: "Event loop is closed".

    On a full disk Orbax gives up at the first array that cannot be written, and closes the event
    loop of that save. Tensorstore's threads then have nowhere to report the errors of the other
    arrays, and print dozens of tracebacks around the one sentence that tells (checkpoints.py).
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
