"""Numbers kept in fewer bits than they are computed with.

The update of a step is computed in float32 whatever parameters and moments are stored in. Rounded
to the nearest bfloat16 (8 bits), a parameter would not move at the learning rates of fine-tuning,
and a second moment would not decay: 0.999 v is nearer to v than to the next number. So they are
rounded up or down by chance, with the right mean.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from step1x_jax.training.step.randomness import named


def in_float32(tree: Any) -> Any:
    """A tree with its bfloat16 arrays in float32; others (counters) stay as they are."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def lowered(tree: Any, dtype: str) -> Any:
    """A tree with its float32 arrays in `dtype`, rounded to nearest; others stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree)


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    """float32 to one of the two bfloat16 next to it, the nearer one with more probability.

    The mean over keys is x. What is not finite stays so.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # a carry out of the 16 bits that go is a step up in magnitude
    bits = bits + jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def stored_as(old: Any, new: Any, key: jax.Array) -> Any:
    """The new numbers in the dtypes of the old ones.

    Args:
      old: a tree.
      new: one like it, its bfloat16 arrays in float32.
      key: for the rounding of those; each array's differs by its name.
    """

    def store(path: Any, before: jax.Array, now: jax.Array) -> jax.Array:
        if before.dtype == now.dtype:
            return now
        return stochastic_round(now, named(key, jax.tree_util.keystr(path)))

    return jax.tree_util.tree_map_with_path(store, old, new)


def kernels_in(params: nnx.State, dtype: str) -> nnx.State:
    """Parameters with their float32 kernels in `dtype`.

    In the compute dtype they give the same output, for the model casts kernels to it anyway, and a
    gradient in that dtype. What the model uses in float32, such as the scales of norms, stays.
    """

    def cast(path: Any, x: jax.Array) -> jax.Array:
        is_kernel = "kernel" in jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        return x.astype(dtype) if is_kernel else x

    return jax.tree_util.tree_map_with_path(cast, params)
