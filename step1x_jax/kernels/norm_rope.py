"""QK-norm and RoPE in plain JAX, and what the kernels that do it themselves share."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

QK_NORM_EPS = 1e-6
LOG2E = math.log2(math.e)
LARGEST_BOUND = 100.0  # of logits in base 2 without a maximum: 2^100 and 2^-100 are normal numbers


class Norms(NamedTuple):
    """QK-norm and RoPE, applied inside the kernels: the fused entry.

    Attributes:
      q_scale: (M, K) float32; M is 1, or 2 where the first tokens have a norm of their own.
      k_scale: (M, K) float32.
      rope: (2, L, K) float32, cosines and sines, see `embeddings.rope_table`.
    """

    q_scale: jax.Array
    k_scale: jax.Array
    rope: jax.Array


def norm_rope(x: jax.Array, scales: jax.Array, rope: jax.Array, split: int) -> jax.Array:
    """RMSNorm over the width of a head, and RoPE in half-rotation form.

    Args:
      x: (B, L, H * K).
      scales: (M, K) float32, see Norms.
      rope: (2, L, K) float32.
      split: how many tokens take the first of two scales.

    Returns:
      (B, L, H * K) float32.
    """
    shape = x.shape
    x = split_heads(x, rope.shape[-1]).astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + QK_NORM_EPS)
    if len(scales) == 1:
        x = x * scales[0]
    else:
        x = jnp.concatenate([x[:, :split] * scales[0], x[:, split:] * scales[1]], axis=1)
    cos, sin = rope[:, :, None]
    return (x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin).reshape(shape)


def split_heads(x: jax.Array, head_dim: int) -> jax.Array:
    """(B, L, H * K) -> (B, L, H, K)."""
    return x.reshape(*x.shape[:2], -1, head_dim)


def is_bounded(norms: Norms | None, width: int) -> jax.Array:
    """(1,) int32: whether no logit, in base 2, can leave -LARGEST_BOUND .. LARGEST_BOUND.

    QK-norm bounds them: |logit| <= sqrt(K) max|q_scale| max|k_scale|.
    """
    if norms is None:
        return jnp.zeros((1,), jnp.int32)
    largest = jnp.max(jnp.abs(norms.q_scale)) * jnp.max(jnp.abs(norms.k_scale))
    return (largest * math.sqrt(width) * LOG2E <= LARGEST_BOUND).astype(jnp.int32)[None]


def pad(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Zeros behind the end of an axis, up to `size`."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)
