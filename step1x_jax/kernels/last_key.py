"""The last valid key of each example, which may stand for several equal keys."""

import jax
import jax.numpy as jnp

from step1x_jax.kernels.norm_rope import pad


def last_key_counts(kv_lengths: jax.Array, total_keys: int) -> jax.Array:
    """Return how many keys the key at index kv_lengths - 1 stands for, (B,) int32 from 1.

    Args:
      kv_lengths: (B,) int32 in 1..total_keys.
      total_keys: number of keys that each example attends to, equal ones included.
    """
    return total_keys - kv_lengths + 1


def repeat_last_key(x: jax.Array, kv_lengths: jax.Array, total_keys: int) -> jax.Array:
    """Return (B, total_keys, ...) of x (B, S, ...): past the lengths, the last valid row.

    For kernels that cannot weight a key.
    """
    index = (kv_lengths - 1).reshape(-1, *[1] * (x.ndim - 1))
    last = jnp.take_along_axis(x, index, axis=1)
    x = pad(x, 1, max(x.shape[1], total_keys))[:, :total_keys]
    valid = jnp.arange(total_keys) < kv_lengths[:, None]
    return jnp.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, last)
