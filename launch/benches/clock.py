"""The clock of all benchmarks."""

import time
from collections.abc import Callable

import jax
import numpy as np

REPEATS = 5


def median_seconds(function: Callable[[], object]) -> float:
    """Return the median time of REPEATS calls, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times))
