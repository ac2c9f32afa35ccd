"""How sure Elo scores are: they are fitted again to keys drawn with replacement.

A key's verdicts stay together, of all dimensions: they are about the same pictures.
"""

import numpy as np

from step1x_jax.evaluation.pairwise.davidson import Weighting, fit_davidson
from step1x_jax.evaluation.pairwise.outcomes import Outcomes

RESAMPLES = 1000
AT_ONCE = 1 << 23  # counts in memory, 64 MiB; the fit has several arrays of that size
LEVELS = (2.5, 97.5)  # percentiles that enclose 95 %


def draw_keys(keys: int, resamples: int, seed: int) -> np.ndarray:
    """How often each key is drawn, (resamples, keys) float64; `keys` draws of each resample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(keys, np.full(keys, 1 / keys), size=resamples).astype(np.float64)


def resample_elo(
    outcomes: Outcomes, drawn: np.ndarray, *, weighting: Weighting = "balanced"
) -> np.ndarray:
    """Elo scores of resampled keys.

    Args:
      outcomes: of K keys and M methods.
      drawn: (R, K) how often each key counts.
      weighting: as `fit_davidson` has it; weights are those of the resampled counts.

    Returns:
      (R, M) float64. A method that a resample has no verdict of is at the mean, 1000.
    """
    rows = max(1, AT_ONCE // int(np.prod(outcomes.shape)))
    return np.concatenate(
        [
            fit_davidson(
                outcomes.counts(drawn[begin : begin + rows]),
                outcomes.first,
                outcomes.second,
                len(outcomes.methods),
                weighting=weighting,
            ).elo
            for begin in range(0, len(drawn), rows)
        ]
    )


def enclose(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile interval of (R, M) samples: lower and upper ends, (M,) each."""
    low, high = np.percentile(samples, LEVELS, axis=0)
    return low, high
