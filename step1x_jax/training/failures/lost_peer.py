"""What a process does when another one of its run is gone."""

import contextlib
import os
import sys
from collections.abc import Iterator

import jax

# As a shell reads it: try again (EX_TEMPFAIL of sysexits.h). launch/restarting.sh does.
LOST = 75
# Errors of a computation that the others have no part in: memory, and what loop.py forbids to move.
NOT_LOST = ("RESOURCE_EXHAUSTED", "Disallowed ")


@contextlib.contextmanager
def ending_without_peers() -> Iterator[None]:
    """Ends the process at once, with a sentence, if a computation fails for want of the others.

    Nothing is closed on the way: saves, and JAX itself at exit, would wait for the one that is
    gone. What a save had begun is removed when the run starts again. (Where no computation fails
    but all of them wait, jax.distributed aborts the process when it misses the other's heartbeat,
    and says so; see launch/train.py.)
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if jax.process_count() == 1 or any(words in str(e) for words in NOT_LOST):
            raise
        reason = str(e).splitlines()[0]
        print(
            f"error: another process, or the network to it, was lost ({reason}); start all of them"
            " again: the run goes on from its last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST)
