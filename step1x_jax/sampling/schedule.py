"""When the sampler evaluates the model: times from 1 (noise) to 0 (picture), shifted."""

import math
from typing import TypeVar

import jax
import numpy as np

Times = TypeVar("Times", np.ndarray, jax.Array)


def resolution_mu(num_tokens: int) -> float:
    """The published shift: linear in the noise tokens, 0.5 at 256, 1.15 at 4096, not clamped."""
    return 0.5 + (1.15 - 0.5) * (num_tokens - 256) / (4096 - 256)


def time_shift(t: Times, num_tokens: int, shift: float | None = None) -> Times:
    """s t / (1 + (s - 1) t): moves times towards noise for s > 1.

    With s = e^mu this is the published e^mu / (e^mu + 1/t - 1), without its division at 0.

    Args:
      t: times in [0, 1], any shape.
      num_tokens: noise tokens of a picture, for the resolution's s = e^mu.
      shift: s, positive; None is the resolution's.
    """
    s = math.exp(resolution_mu(num_tokens)) if shift is None else shift
    return s * t / (1 + (s - 1) * t)


def timesteps(num_steps: int, num_tokens: int, shift: float | None = None) -> np.ndarray:
    """The times of a run.

    Args:
      num_steps: Euler steps.
      num_tokens: see `time_shift`.
      shift: see `time_shift`.

    Returns:
      (num_steps + 1,) float32 from 1 to 0.
    """
    return time_shift(np.linspace(1, 0, num_steps + 1), num_tokens, shift).astype(np.float32)
