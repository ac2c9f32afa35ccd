"""Layers that the vision tower and the language model share.

Legend: B batch, L tokens, D width, F mlp width, H heads, K head width, A axes of positions.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import ones, zeros

from step1x_jax.models.linear import Linear, param
from step1x_jax.models.mllm.config import MLLMConfig


class RMSNorm(nnx.Module):
    """RMSNorm with a scale, in float32."""

    def __init__(self, width: int, eps: float, *, config: MLLMConfig, rngs: nnx.Rngs):
        self.eps = eps
        self.scale = param(ones, (width,), ("embed",), config, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, L, D) -> (B, L, D) in x's dtype."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale.astype(jnp.float32)).astype(x.dtype)


class MLP(nnx.Module):
    """SwiGLU: down(SiLU(gate(x)) * up(x))."""

    def __init__(self, d: int, f: int, *, bias: bool, config: MLLMConfig, rngs: nnx.Rngs):
        make = partial(Linear, config=config, rngs=rngs, bias_init=zeros if bias else None)
        self.gate_proj = make("bld,df->blf", (d, f), ("embed", "mlp"))
        self.up_proj = make("bld,df->blf", (d, f), ("embed", "mlp"))
        self.down_proj = make("blf,fd->bld", (f, d), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, L, D) -> (B, L, D)."""
        return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


def rotary_table(positions: jax.Array, axes: np.ndarray, frequencies: np.ndarray) -> jax.Array:
    """Compute cosines and sines for `embeddings.apply_rope`, for positions on several axes.

    Angles are float32 products of frequencies and exact integers.

    Args:
      positions: (B, A, L) int32.
      axes: (K/2,) index of the position axis that rotates each pair of the head.
      frequencies: (K/2,) float32, frequency of each pair.

    Returns:
      (2, B, L, K) float32, cosines and sines.
    """
    angles = positions[:, axes].astype(jnp.float32) * frequencies[:, None]  # (B, K/2, L)
    cos, sin = (f(angles).swapaxes(1, 2) for f in (jnp.cos, jnp.sin))
    return jnp.stack([jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)])


def rope_frequencies(width: int, theta: float) -> np.ndarray:
    """Return theta^(-2j / width) for the pairs j of an axis: (width / 2,) float32."""
    return (theta ** (-np.arange(0, width, 2) / width)).astype(np.float32)
