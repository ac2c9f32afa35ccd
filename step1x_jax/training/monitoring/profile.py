"""Trace a few steps for TensorBoard's profiler (xprof) or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator

import jax
from etils import epath

from step1x_jax.files import Growing

FOLDER = "profile"
STEPS = 3  # traced steps: enough to see what repeats


@contextlib.contextmanager
def profiler(first: int, workdir: epath.PathLike) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of each step before it; trace STEPS steps.

    Args:
      first: first step to trace; 0: none.
      workdir: the run's folder; the trace is written to WORKDIR/profile/.
    """
    files = Growing(epath.Path(workdir) / FOLDER)
    tracing = False

    def before_step(step: int) -> None:
        nonlocal tracing
        if first and step == first:
            jax.profiler.start_trace(str(files.local))
            tracing = True
        elif tracing and step == first + STEPS:
            jax.profiler.stop_trace()
            files.put(now=True)
            tracing = False

    with contextlib.closing(files):
        try:
            yield before_step
        finally:
            if tracing:
                jax.profiler.stop_trace()
