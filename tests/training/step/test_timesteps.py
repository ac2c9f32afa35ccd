"""Compare with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from step1x_jax.training.step.timesteps import TimestepConfig, sample_timesteps

KEY = jax.random.key(0)
DRAWS = 20_000


@pytest.mark.parametrize(
    ("config", "median"),
    [
        # the shift keeps the order, so it moves the median of 1/2 to s / (1 + s)
        (TimestepConfig(shift=1.0), 0.5),
        (TimestepConfig(shift=3.0), 0.75),
        (TimestepConfig(mean=1.0, std=0.5, shift=1.0), 1 / (1 + np.exp(-1))),
        (TimestepConfig("uniform", shift=1.0), 0.5),
        (TimestepConfig("uniform", shift=3.1582), 3.1582 / 4.1582),
        (TimestepConfig(), np.exp(1.15) / (1 + np.exp(1.15))),  # mu of 4096 tokens
    ],
)
def test_medians(config, median):
    t = sample_timesteps(config, KEY, DRAWS, 4096)
    assert t.dtype == jnp.float32
    assert 0 <= t.min() <= t.max() <= 1
    # four standard errors of the median: density at least 0.5 there, so 4 * 0.5 / sqrt(n) / 0.5
    assert np.median(t) == pytest.approx(median, abs=4 / np.sqrt(DRAWS))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_distributions(shift):
    """Undoing the shift gives back the named distribution (Kolmogorov-Smirnov)."""

    def undone(config):
        t = np.asarray(sample_timesteps(config, KEY, DRAWS, 64), np.float64)
        return t / (shift - (shift - 1) * t)

    uniform = undone(TimestepConfig("uniform", shift=shift))
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    normal = undone(TimestepConfig(mean=-0.5, std=2.0, shift=shift))
    logits = np.log(normal / (1 - normal))
    assert stats.kstest(logits, stats.norm(-0.5, 2.0).cdf).pvalue > 0.01
