"""Where activations and weights are on the devices of the ambient mesh, as far as models say it.

Left alone, the compiler gathers the batch on every device and leaves the weights split: at 1024 px
that is five times the memory. So the batch (and the tokens, over a sequence axis) are pinned
between blocks, and weights are pinned where they are used, by the table in parallel/rules.py.
Without a mesh nothing is said.
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
    """A weight for a matmul in `dtype`, gathered from the devices that store its parts.

    Each device rounds its part before it travels, and gets its part of the gradient back: a scatter
    in `dtype`, too. Under `nnx.vmap` or a scan over stacked blocks the leading logical axis
    ("layers") is not there any more.
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
    # pinned on both sides of the rounding: or else float32 may travel
    part = jax.lax.with_sharding_constraint(value.astype(dtype), stored)
    return jax.lax.with_sharding_constraint(part, used)


def _gather_forward(value, dtype, stored_dtype, stored, used):
    return _gather(value, dtype, stored_dtype, stored, used), None


def _gather_backward(dtype, stored_dtype, stored, used, residuals, gradient):
    return (jax.lax.with_sharding_constraint(gradient, stored).astype(stored_dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def divides(size: int, axes: tuple[str, ...]) -> bool:
    """Whether the ambient mesh has several devices along these axes, and they divide `size`."""
    sizes = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(sizes.get(axis, 1) for axis in axes)
    return parts > 1 and size % parts == 0


def split_activation(x: jax.Array) -> jax.Array:
    """Keeps x (B, L, ...) split: the batch over BATCH_AXES, tokens over SEQUENCE_AXIS.

    Nothing is said of an axis that does not divide, nor of the others.
    """
    batch = BATCH_AXES if divides(x.shape[0], BATCH_AXES) else FREE
    tokens = SEQUENCE_AXIS if x.ndim > 2 and divides(x.shape[1], (SEQUENCE_AXIS,)) else FREE
    if (batch, tokens) == (FREE, FREE):
        return x
    rest = (FREE,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(batch, tokens, *rest)[: x.ndim]))
