"""QK-norm and RoPE in plain JAX, and helpers of the kernels that fuse them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

QK_NORM_EPS = 1e-6
LOG2E = math.log2(math.e)
# Largest bound on base-2 logits for a softmax without maximum: 2^100 and 2^-100 are normal floats.
LARGEST_BOUND = 100.0


class Norms(NamedTuple):
    """Parameters of QK-norm and RoPE, for kernels that apply both.

    Attributes:
      q_scale: (M, K) float32; M is 1, or 2 if the first tokens have their own norm.
      k_scale: (M, K) float32.
      rope: (2, L, K) float32, cosines and sines of `embeddings.rope_table`.
    """

    q_scale: jax.Array
    k_scale: jax.Array
    rope: jax.Array


def norm_rope(x: jax.Array, scales: jax.Array, rope: jax.Array, split: int) -> jax.Array:
    """Apply RMSNorm over the head width, then RoPE in half-rotation form.

    Args:
      x: (B, L, H * K).
      scales: (M, K) float32; see Norms.
      rope: (2, L, K) float32.
      split: number of leading tokens that use the first of two scales.

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
    """Reshape (B, L, H * K) to (B, L, H, K)."""
    return x.reshape(*x.shape[:2], -1, head_dim)


def is_bounded(norms: Norms | None, head_dim: int) -> jax.Array:
    """Return 1 if QK-norm keeps all base-2 logits within +-LARGEST_BOUND, else 0; (1,) int32.

    The bound is |logit| <= sqrt(K) max|q_scale| max|k_scale|. Without norms there is none.
    """
    if norms is None:
        return jnp.zeros((1,), jnp.int32)
    largest = jnp.max(jnp.abs(norms.q_scale)) * jnp.max(jnp.abs(norms.k_scale))
    return (largest * math.sqrt(head_dim) * LOG2E <= LARGEST_BOUND).astype(jnp.int32)[None]


def pad(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Pad the end of an axis with zeros to `size`."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)
