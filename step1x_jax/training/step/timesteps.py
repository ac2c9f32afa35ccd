"""Distributions of the timesteps at which the model is trained; 0 is the picture, 1 is noise.

To add a distribution, add a function to DISTRIBUTIONS.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from msgspec import Meta

from step1x_jax.bounds import Positive
from step1x_jax.errors import require
from step1x_jax.sampling.schedule import time_shift


@dataclasses.dataclass(frozen=True)
class TimestepConfig:
    """Distribution and shift of the timesteps.

    The paper does not specify it. The default is logit-normal(0, 1) with the shift of the
    resolution. The published LoRA script uses logit-normal(0, 1) with shift 3.1582.
    """

    distribution: str = "logit_normal"  # a name in DISTRIBUTIONS
    mean: Annotated[float, Meta(ge=-1000, le=1000)] = 0.0  # of the logit
    std: Positive = 1.0  # of the logit
    shift: Positive | None = None  # s in t s / (1 + (s - 1) t); None: by resolution; 1: no shift

    def validate(self) -> None:
        """Raise UserError, naming the field, for impossible values."""
        names = ", ".join(DISTRIBUTIONS)
        require(
            self.distribution in DISTRIBUTIONS,
            "timesteps.distribution", self.distribution, f"use one of {names}",
        )  # fmt: skip
        require(self.std > 0, "timesteps.std", self.std, "use a positive number")
        require(
            self.shift is None or self.shift > 0,
            "timesteps.shift", self.shift, "use a positive number, or none for the resolution's",
        )  # fmt: skip


def logit_normal(config: TimestepConfig, key: jax.Array, batch_size: int) -> jax.Array:
    """Draw sigmoid(mean + std N(0, 1)): (B,) float32."""
    normal = jax.random.normal(key, (batch_size,), jnp.float32)
    return jax.nn.sigmoid(config.mean + config.std * normal)


def uniform(config: TimestepConfig, key: jax.Array, batch_size: int) -> jax.Array:
    """Draw from [0, 1) uniformly: (B,) float32."""
    return jax.random.uniform(key, (batch_size,), jnp.float32)


DISTRIBUTIONS: dict[str, Callable[[TimestepConfig, jax.Array, int], jax.Array]] = {
    "logit_normal": logit_normal,
    "uniform": uniform,
}


def sample_timesteps(
    config: TimestepConfig, key: jax.Array, batch_size: int, num_tokens: int
) -> jax.Array:
    """Draw one timestep per example.

    Args:
      config: distribution and shift.
      key: random key.
      batch_size: B.
      num_tokens: number of noise tokens of one example, for the shift by resolution.

    Returns:
      (B,) float32 in [0, 1]; 0 is the picture, 1 is noise.
    """
    t = DISTRIBUTIONS[config.distribution](config, key, batch_size)
    # The sampler applies the same shift.
    return time_shift(t, num_tokens, config.shift)
