"""Rectified flow: where on the way from picture to noise we train, and what is predicted there.

B batch, h w latent rows and columns, c latent channels
"""

import math

import jax
import jax.numpy as jnp

from step1x_jax.sampling.schedule import resolution_mu, time_shift
from step1x_jax.training.config import TimestepConfig


def sample_timesteps(
    config: TimestepConfig, key: jax.Array, batch_size: int, num_tokens: int
) -> jax.Array:
    """Draws one time per example.

    Args:
      config: distribution and shift.
      key: random key.
      batch_size: B.
      num_tokens: noise tokens of one example, for the resolution's shift.

    Returns:
      (B,) float32 in [0, 1]; 0 is the picture, 1 is noise.
    """
    if config.distribution == "uniform":
        t = jax.random.uniform(key, (batch_size,), jnp.float32)
    else:
        normal = jax.random.normal(key, (batch_size,), jnp.float32)
        t = jax.nn.sigmoid(config.mean + config.std * normal)
    # None: as the sampler shifts at this resolution, so that training and sampling agree
    shift = math.exp(resolution_mu(num_tokens)) if config.shift is None else config.shift
    return time_shift(t, shift)


def interpolate(clean: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """The noisy latents x_t = (1 - t) x0 + t eps.

    Args:
      clean: x0, (B, h, w, c) float32.
      noise: eps, (B, h, w, c) float32.
      t: (B,) float32.

    Returns:
      (B, h, w, c) float32.
    """
    t = t[:, None, None, None]
    return (1 - t) * clean + t * noise


def rectified_flow_loss(velocity: jax.Array, clean: jax.Array, noise: jax.Array) -> jax.Array:
    """Mean squared error of the velocity, whose target is eps - x0.

    Args:
      velocity: the model's output at x_t, (B, h, w, c).
      clean: x0, (B, h, w, c) float32.
      noise: eps, (B, h, w, c) float32.

    Returns:
      A float32 scalar, the mean over all elements.
    """
    return jnp.mean(jnp.square(velocity.astype(jnp.float32) - (noise - clean)))
