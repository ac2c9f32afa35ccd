"""How activations and weights lie on the devices of the ambient mesh, as far as models say it.

Left alone, the compiler gathers the batch on every device and leaves the weights split: at 1024 px
that is five times the memory. So the batch (and the tokens, over a sequence axis) are pinned
between blocks, and weights are pinned where they are used. Which axis of a weight lies where is not
known here: `placed_by` is told by parallel/rules.py. Without a mesh nothing is said.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES, SEQUENCE_AXIS

FREE = PartitionSpec.UNCONSTRAINED
Spec = Callable[[tuple[str | None, ...], tuple[int, ...]], PartitionSpec]


class Placement(NamedTuple):
    """From a weight's logical axes and its shape to how it lies where it is stored, and in use."""

    stored: Spec
    used: Spec


_placement: contextvars.ContextVar[Placement | None] = contextvars.ContextVar(
    "placement", default=None
)


@contextlib.contextmanager
def placed_by(placement: Placement) -> Iterator[None]:
    """While a model is traced: its weights lie like that on the ambient mesh."""
    token = _placement.set(placement)
    try:
        yield
    finally:
        _placement.reset(token)


def weight(variable: nnx.Variable, dtype: jnp.dtype) -> jax.Array:
    """A weight for a matmul in `dtype`, gathered from the devices that store its parts.

    Each device rounds its part before it travels, and gets its part of the gradient back: a scatter
    in `dtype`, too. Under `nnx.vmap` or a scan over stacked blocks the leading logical axis
    ("layers") is not there any more.
    """
    value = variable[...]
    return _placed(value, _names(variable, value.ndim), dtype)


def weights(variable: nnx.Variable, dtype: jnp.dtype) -> list[jax.Array]:
    """As `weight`, for the parts along the first axis, each of which travels by itself."""
    value = variable[...]
    names = _names(variable, value.ndim)
    parts = jnp.split(value, len(value))
    return [_placed(part.squeeze(0), names and names[1:], dtype) for part in parts]


def _names(variable: nnx.Variable, ndim: int) -> tuple[str | None, ...] | None:
    names = variable.get_metadata().get("out_sharding")
    return None if names is None else tuple(names)[-ndim:]


def _placed(value: jax.Array, names: tuple[str | None, ...] | None, dtype: jnp.dtype) -> jax.Array:
    placement = _placement.get()
    alone = math.prod(jax.sharding.get_abstract_mesh().shape.values()) == 1  # or without a mesh
    if placement is None or names is None or alone:
        return value.astype(dtype)
    shape = value.shape
    stored, used = (spec(names, shape) for spec in placement)
    if "head_dim" in names[1:]:
        # heads travel side by side, as matmuls want them: a device's part is rearranged faster
        at = names.index("head_dim")
        value = value.reshape(*shape[: at - 1], -1, *shape[at + 1 :])
        stored, used = (PartitionSpec(*x[:at], *x[at + 1 :]) for x in (stored, used))
    return _gathered(value, jnp.dtype(dtype), value.dtype, stored, used).reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gathered(value, dtype, stored_dtype, stored, used):
    # pinned on both sides of the rounding: or else float32 may travel
    part = jax.lax.with_sharding_constraint(value.astype(dtype), stored)
    return jax.lax.with_sharding_constraint(part, used)


def _gathered_forward(value, dtype, stored_dtype, stored, used):
    return _gathered(value, dtype, stored_dtype, stored, used), None


def _gathered_backward(dtype, stored_dtype, stored, used, residuals, gradient):
    return (jax.lax.with_sharding_constraint(gradient, stored).astype(stored_dtype),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _divides(size: int, axes: tuple[str, ...]) -> bool:
    """Whether the ambient mesh has several devices along these axes, and they divide `size`."""
    sizes = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(sizes.get(axis, 1) for axis in axes)
    return parts > 1 and size % parts == 0


def split_activation(x: jax.Array) -> jax.Array:
    """Keeps x (B, L, ...) split: the batch over BATCH_AXES, tokens over SEQUENCE_AXIS.

    Nothing is said of an axis that does not divide, nor of the others.
    """
    batch = BATCH_AXES if _divides(x.shape[0], BATCH_AXES) else FREE
    tokens = SEQUENCE_AXIS if x.ndim > 2 and _divides(x.shape[1], (SEQUENCE_AXIS,)) else FREE
    if (batch, tokens) == (FREE, FREE):
        return x
    rest = (FREE,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(batch, tokens, *rest)[: x.ndim]))


def split_vectors(
    function: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """Wraps vectors (B, D) -> (C, B, E) so that the vectors travel and the weights stay.

    A copy of the parameters sees the vectors of its whole part of the batch, and each device
    computes a part of E for all of them. These parts are gathered, then each takes its own
    examples: an all-to-all would send less, but compilers plan its route for minutes.
    """
    copies, shards = BATCH_AXES

    def wrapped(vectors: jax.Array) -> jax.Array:
        if not _divides(len(vectors), BATCH_AXES):
            return function(vectors)
        pin = jax.lax.with_sharding_constraint
        out = function(pin(vectors, PartitionSpec(copies, None)))
        if _divides(out.shape[2], (shards,)):
            out = pin(out, PartitionSpec(None, copies, shards))
        out = pin(out, PartitionSpec(None, copies, None))
        return pin(out, PartitionSpec(None, BATCH_AXES, None))

    return wrapped
