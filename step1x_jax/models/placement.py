"""Sharding constraints on activations and weights, derived from the ambient mesh.

Without constraints the compiler gathers the batch on every device and leaves the weights sharded:
at 1024 px that takes five times the memory. Therefore the batch (and the tokens, with a sequence
axis) is constrained between blocks, and weights are constrained where they are used, by the table
in parallel/rules.py. Without a mesh there are no constraints.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES, SEQUENCE_AXIS
from step1x_jax.parallel.rules import partition_spec

FREE = PartitionSpec.UNCONSTRAINED


def gather(weight: nnx.Variable, dtype: jnp.dtype) -> jax.Array:
    """Gather a weight from the devices that store its shards, for a matmul in `dtype`.

    Each device casts its shard to `dtype` before the transfer. The gradient is reduce-scattered in
    `dtype` as well. Under `nnx.vmap` or a scan over stacked blocks the value has no "layers" axis;
    its logical name is dropped.

    Args:
      weight: a variable with its logical axes.
      dtype: dtype of the matmul.

    Returns:
      The weight in `dtype`, sharded as rules.py says for weights in use.
    """
    value, names = weight[...], weight.get_metadata().get("out_sharding")
    mesh = jax.sharding.get_abstract_mesh()
    if names is None or math.prod(mesh.shape.values()) == 1:  # one device, or no mesh
        return value.astype(dtype)
    stored, used = (
        partition_spec(tuple(names)[-value.ndim :], value.shape, mesh, column)
        for column in ("stored", "used")
    )
    return _gather(value, jnp.dtype(dtype), value.dtype, stored, used)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(value, dtype, stored_dtype, stored, used):
    # constrained before and after the transfer: otherwise float32 may be transferred
    shard = jax.lax.with_sharding_constraint(value.astype(dtype), stored)
    return jax.lax.with_sharding_constraint(shard, used)


def _gather_forward(value, dtype, stored_dtype, stored, used):
    return _gather(value, dtype, stored_dtype, stored, used), None


def _gather_backward(dtype, stored_dtype, stored, used, residuals, gradient):
    return (jax.lax.with_sharding_constraint(gradient, stored).astype(stored_dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def can_shard(size: int, axes: tuple[str, ...]) -> bool:
    """Return whether the ambient mesh has several devices along these axes that divide `size`."""
    sizes = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(sizes.get(axis, 1) for axis in axes)
    return parts > 1 and size % parts == 0


def shard_activation(x: jax.Array) -> jax.Array:
    """Constrain x (B, L, ...): the batch over BATCH_AXES, tokens over SEQUENCE_AXIS.

    Axes whose size is not divisible, and all other axes, stay unconstrained.
    """
    batch = BATCH_AXES if can_shard(x.shape[0], BATCH_AXES) else FREE
    tokens = SEQUENCE_AXIS if x.ndim > 2 and can_shard(x.shape[1], (SEQUENCE_AXIS,)) else FREE
    if (batch, tokens) == (FREE, FREE):
        return x
    rest = (FREE,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(batch, tokens, *rest)[: x.ndim]))
