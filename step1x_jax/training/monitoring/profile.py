"""A trace of some steps, for TensorBoard's profiler (xprof) or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator

import jax
from etils import epath

from step1x_jax.files import Growing

FOLDER = "profile"
STEPS = 3  # enough to see what repeats


@contextlib.contextmanager
def profiler(first: int, workdir: epath.PathLike) -> Iterator[Callable[[int], None]]:
    """Gives a function to call before each step; STEPS steps from `first` on are traced.

    Args:
      first: number of the step; 0: none.
      workdir: the run's folder; WORKDIR/profile/ gets the trace.
    """
    files = Growing(epath.Path(workdir) / FOLDER)
    tracing = False

    def before(step: int) -> None:
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
            yield before
        finally:
            if tracing:
                jax.profiler.stop_trace()
