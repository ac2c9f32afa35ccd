"""Parameter-free parts: packing of latents into tokens, positions, RoPE, timestep embedding.

Legend: B batch, h w latent grid, C latent channels, L tokens, K head width, H heads.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from step1x_jax.kernels.norm_rope import split_heads

PATCH = 2  # latents per token along one side


def pack(latents: jax.Array) -> jax.Array:
    """Pack (B, h, w, C) into tokens (B, h/2 * w/2, 4C), each ordered (channel, row, column)."""
    b, h, w, c = latents.shape
    grid = latents.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return grid.transpose(0, 1, 3, 5, 2, 4).reshape(b, -1, c * PATCH**2)


def unpack(tokens: jax.Array, h: int, w: int) -> jax.Array:
    """Invert `pack`: (B, h/2 * w/2, 4C) -> (B, h, w, C)."""
    b = tokens.shape[0]
    grid = tokens.reshape(b, h // PATCH, w // PATCH, -1, PATCH, PATCH)
    return grid.transpose(0, 1, 4, 2, 5, 3).reshape(b, h, w, -1)


def position_ids(h: int, w: int, offset: int = 0) -> np.ndarray:
    """Return the positions of the tokens of an (h, w) latent, row by row.

    Args:
      h: latent rows.
      w: latent columns.
      offset: added to all three axes (1 for the references of v1.1).

    Returns:
      (h/2 * w/2, 3) int64: (image index, row, column).
    """
    rows, columns = np.divmod(np.arange(h * w // PATCH**2), w // PATCH)
    return np.stack([np.zeros_like(rows), rows, columns], axis=-1) + offset


def rope_table(ids: np.ndarray, axes_dim: tuple[int, ...], theta: float) -> np.ndarray:
    """Compute cosines and sines for `apply_rope`.

    Angles are computed in float64 on the host: in float32 or bfloat16 large positions would have
    inaccurate phases. The frequencies of an axis of width d are theta^(-2j/d); the axes are
    concatenated, as published.

    Args:
      ids: (L, 3) positions.
      axes_dim: widths of the axes, whose sum is K.
      theta: base of the frequencies.

    Returns:
      (2, L, K) float32: (cos, cos) and (-sin, sin) for the two halves of a head.
    """
    angles = np.concatenate(
        [
            ids[:, i, None].astype(np.float64) / theta ** (np.arange(0, d, 2) / d)
            for i, d in enumerate(axes_dim)
        ],
        axis=-1,
    )
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.tile(cos, 2), np.concatenate([-sin, sin], axis=-1)]).astype(np.float32)


def apply_rope(x: jax.Array, table: jax.Array | np.ndarray) -> jax.Array:
    """Rotate the pairs (i, i + K/2) of a head by the angle of their position.

    The published pairs are (2i, 2i+1); loading weights permutes the columns of q and k accordingly.

    Args:
      x: (B, L, H * K) float32.
      table: (2, L, K) of `rope_table`, or (2, B, L, K) with one table per example.

    Returns:
      (B, L, H * K) float32.
    """
    cos, sin = table[..., None, :]
    heads = split_heads(x, table.shape[-1])
    rotated = heads * cos + jnp.roll(heads, heads.shape[-1] // 2, axis=-1) * sin
    return rotated.reshape(x.shape)


def timestep_embedding(timesteps: jax.Array, dim: int = 256) -> jax.Array:
    """Compute the sinusoidal embedding of 1000 t.

    Args:
      timesteps: (B,) in [0, 1]. The factor 1000 is applied only here.
      dim: width of the embedding.

    Returns:
      (B, dim) float32, cosines first.
    """
    frequencies = np.exp(-math.log(10_000) * np.arange(dim // 2) / (dim // 2)).astype(np.float32)
    angles = 1000.0 * timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
