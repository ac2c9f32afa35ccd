"""Parameters and moments stored in bfloat16, with stochastic rounding.

Updates are always computed in float32. With rounding to the nearest bfloat16 (8 significant bits),
parameters would not change at the learning rates of fine-tuning, and second moments would not
decay: 0.999 v is closer to v than to the next smaller number. Stochastic rounding is unbiased. Its
random numbers are keyed by seed, step and array name.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from step1x_jax.training.step.randomness import fold_in_name


def to_float32(tree: Any) -> Any:
    """Cast the bfloat16 arrays of a tree to float32; others, such as counters, are unchanged."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def cast_float32(tree: Any, dtype: str) -> Any:
    """Cast the float32 arrays of a tree to `dtype`, rounding to nearest; others are unchanged."""
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree)


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    """Round float32 to one of the two neighbouring bfloat16 numbers, at random and unbiased.

    Infinities and NaN stay what they are.

    Args:
      x: any shape, float32.
      key: random key.

    Returns:
      bfloat16 of the same shape, whose mean over keys is x.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # A carry out of the 16 dropped bits rounds the magnitude up.
    bits = bits + jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def round_to_stored_dtypes(old: Any, new: Any, key: jax.Array) -> Any:
    """Round new values to the dtypes of the old ones, with stochastic rounding.

    Args:
      old: a tree of arrays.
      new: a tree of the same structure with float32 where `old` has bfloat16.
      key: random key; each array derives its own from its name.
    """

    def store(path: Any, before: jax.Array, now: jax.Array) -> jax.Array:
        if before.dtype == now.dtype:
            return now
        return stochastic_round(now, fold_in_name(key, jax.tree_util.keystr(path)))

    return jax.tree_util.tree_map_with_path(store, old, new)


def cast_kernels(params: nnx.State, dtype: str) -> nnx.State:
    """Cast the kernels among the parameters to `dtype`, so that their gradients have it, too.

    With the compute dtype the output does not change, since the model casts its kernels to it
    anyway. Parameters that the model uses in float32, such as the scales of norms, are unchanged.
    """

    def cast(path: Any, x: jax.Array) -> jax.Array:
        is_kernel = "kernel" in jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        return x.astype(dtype) if is_kernel else x

    return jax.tree_util.tree_map_with_path(cast, params)
