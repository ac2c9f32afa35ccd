"""Gradient accumulation: microbatches run one after another, so activations need less memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES

# From parameters and the arrays of a batch to the mean loss over its examples.
Loss = Callable[[Any, dict[str, jax.Array]], jax.Array]


def accumulate_value_and_grad(
    loss: Loss,
    params: Any,
    batch: dict[str, jax.Array],
    *,
    microbatches: int,
    sum_in_float32: bool,
    shardings: Any,
) -> tuple[jax.Array, Any]:
    """Compute the mean loss of a batch and its gradient, sharded like the parameters.

    Args:
      loss: the mean loss of a batch.
      params: differentiated parameters.
      batch: arrays (B, ...), sharded over the batch axes of the mesh.
      microbatches: number of microbatches. It must divide B and each device's share of B.
      sum_in_float32: accumulate in float32; otherwise in the parameters' dtypes.
      shardings: a NamedSharding for each array of the gradient.

    Returns:
      The loss, a float32 scalar, and the gradient: in the parameters' dtypes if there is only one
      microbatch, otherwise in the dtype of the accumulation.
    """
    if microbatches == 1:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return value, jax.lax.with_sharding_constraint(gradient, shardings)

    def add(sums: tuple[jax.Array, Any], microbatch: dict[str, jax.Array]) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, microbatch)
        total = jax.tree.map(lambda a, g: a + g.astype(a.dtype), sums[1], gradient)
        return (sums[0] + value, jax.lax.with_sharding_constraint(total, shardings)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.float32 if sum_in_float32 else x.dtype), params
    )
    start = jnp.zeros((), jnp.float32), jax.lax.with_sharding_constraint(zeros, shardings)
    split = jax.tree.map(partial(_split_microbatches, microbatches), batch)
    (value, gradient), _ = jax.lax.scan(add, start, split)
    return value / microbatches, jax.tree.map(lambda g: g / microbatches, gradient)


def _split_microbatches(microbatches: int, x: jax.Array) -> jax.Array:
    """Reshape (B, ...) to (M, B / M, ...); microbatch i has the examples i, i + M, i + 2 M, ...

    Each device thus splits its own examples, and none is sent to another device.
    """
    x = jnp.swapaxes(x.reshape(len(x) // microbatches, microbatches, *x.shape[1:]), 0, 1)
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(None, BATCH_AXES))
