"""The gradient of a batch, its parts one after another: activations for one part at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES

# From parameters and arrays of a batch to the mean loss over its examples.
Loss = Callable[[Any, dict[str, jax.Array]], jax.Array]


def value_and_gradient(
    loss: Loss,
    params: Any,
    batch: dict[str, jax.Array],
    *,
    parts: int,
    in_float32: bool,
    places: Any,
) -> tuple[jax.Array, Any]:
    """The mean loss of a batch and its gradient, split over devices as the parameters are.

    Args:
      loss: of some examples.
      params: by which it is differentiated.
      batch: arrays (B, ...) split over the batch axes of the mesh.
      parts: into how many the batch is cut. It divides B, and what each device has of B.
      in_float32: how the gradients of several parts are summed; else in the parameters' dtypes.
      places: a NamedSharding for each array of the gradient.

    Returns:
      The loss, float32, and the gradient: of one part in the parameters' dtypes, of several in
      that of the sum.
    """
    if parts == 1:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return value, jax.lax.with_sharding_constraint(gradient, places)

    def add(sums: tuple[jax.Array, Any], part: dict[str, jax.Array]) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, part)
        total = jax.tree.map(lambda a, g: a + g.astype(a.dtype), sums[1], gradient)
        return (sums[0] + value, jax.lax.with_sharding_constraint(total, places)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.float32 if in_float32 else x.dtype), params
    )
    start = jnp.zeros((), jnp.float32), jax.lax.with_sharding_constraint(zeros, places)
    (value, gradient), _ = jax.lax.scan(add, start, jax.tree.map(partial(_cut, parts), batch))
    return value / parts, jax.tree.map(lambda g: g / parts, gradient)


def _cut(parts: int, x: jax.Array) -> jax.Array:
    """(B, ...) -> (parts, B / parts, ...): part i has every parts-th example from the i-th on.

    So each device cuts up the examples that it has, and none is sent to another.
    """
    x = jnp.swapaxes(x.reshape(len(x) // parts, parts, *x.shape[1:]), 0, 1)
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(None, BATCH_AXES))
