"""Exit when another process of a distributed run is lost."""

import contextlib
import os
import sys
from collections.abc import Iterator

import jax

# Exit code EX_TEMPFAIL of sysexits.h: try again. launch/restarting.sh restarts on it.
LOST = 75
# Errors that are local to this process: out of memory, and transfers that loop.py disallows.
LOCAL_ERRORS = ("RESOURCE_EXHAUSTED", "Disallowed ")


@contextlib.contextmanager
def exit_on_lost_peer() -> Iterator[None]:
    """Exit immediately with a message if a computation fails because a peer was lost.

    Nothing is closed first: pending saves, and JAX at exit, would wait for the lost process. The
    files of an incomplete save are removed when the run starts again. (If the computation hangs
    instead of failing, jax.distributed aborts the process when the peer's heartbeat is missing;
    see launch/train.py.)
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if jax.process_count() == 1 or any(words in str(e) for words in LOCAL_ERRORS):
            raise
        reason = str(e).splitlines()[0]
        print(
            f"error: another process, or the connection to it, was lost ({reason}); start all"
            " processes again: the run resumes from its last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST)
