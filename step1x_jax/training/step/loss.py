"""Rectified flow: noisy latents at time t and the loss of the predicted velocity.

The loss has no weight per timestep; timesteps.py defines their distribution.
Legend: B batch, h w latent rows and columns, c latent channels.
"""

import jax
import jax.numpy as jnp


def interpolate(clean: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """Interpolate to the noisy latents x_t = (1 - t) x0 + t eps.

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
    """Compute the mean squared error of the velocity, whose target is eps - x0.

    Args:
      velocity: the model's output at x_t, (B, h, w, c) in any float dtype.
      clean: x0, (B, h, w, c) float32.
      noise: eps, (B, h, w, c) float32.

    Returns:
      A float32 scalar, the mean over all elements.
    """
    return jnp.mean(jnp.square(velocity.astype(jnp.float32) - (noise - clean)))
