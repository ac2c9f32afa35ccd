"""Classifier-free guidance, with v1.1's damping; sampler.py applies it at every step."""

import dataclasses

import jax
import jax.numpy as jnp

from step1x_jax.models.embeddings import pack, unpack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
    """Its settings: the scale, and the time above which it is damped.

    Numbers that a compiled program is given, so that another scale compiles nothing.
    """

    scale: float | jax.Array
    truncate: float | jax.Array


def guide(
    conditional: jax.Array, unconditional: jax.Array, guidance: Guidance, t: jax.Array | float
) -> jax.Array:
    """u + scale * (c - u); while t > truncate the difference is divided by f(its norm).

    f(n) = n^0.4 where n > 1, else 1; n is the L2 norm over the 64 channels of a packed token
    (published behaviour of v1.1, with truncate 0.93; v1.0 has 1.0, so never).

    Args:
      conditional: (B, h, w, 16) velocity with the instruction.
      unconditional: (B, h, w, 16) velocity with the empty instruction.
      guidance: scale and truncate.
      t: the step's current time, a scalar.

    Returns:
      (B, h, w, 16).
    """
    difference = pack(conditional - unconditional)
    norm = jnp.linalg.norm(difference, axis=-1, keepdims=True)
    damped = difference / jnp.where(norm > 1, jnp.maximum(norm, 1) ** 0.4, 1)
    difference = jnp.where(t > guidance.truncate, damped, difference)
    return unconditional + guidance.scale * unpack(difference, *conditional.shape[1:3])
