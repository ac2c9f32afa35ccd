"""Workarounds for XLA's compilers, each of which changes nothing but how a program is compiled.

Each says what the compiler does without it, what it gains, and with which version that was seen;
tests/models/test_xla_tpu.py compiles a block with and without it, and fails once it gains nothing.

Legend: B batch, L tokens, D width, C vectors of an example, E outputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES
from step1x_jax.models.placement import divides


def materialize(x: jax.Array) -> jax.Array:
    """Identity; x, and its gradient, become arrays of their own in memory.

    Without it XLA:TPU fuses the norm that made x into every matmul that reads it: each computes the
    norm again, and takes smaller tiles for lack of room. A pass through a single block at 1024 px
    on v6e then takes 6 % longer (planned; libtpu 0.0.42.1).
    """
    return jax.lax.optimization_barrier(x)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y + bias; of y (B, L, D) with the gradient of `with_matmul_gradient`.

    Args:
      y: (..., D).
      bias: (D,).
    """
    if y.ndim != 3:
        return y + bias
    addend = bias[None, None]
    return with_matmul_gradient(y + jax.lax.stop_gradient(addend), addend)


@jax.custom_vjp
def with_matmul_gradient(y: jax.Array, addend: jax.Array) -> jax.Array:
    """y, which `addend` is a term of: in the backward pass that receives dy's sum over tokens.

    The sum is a float32 matmul with rows of ones. Without it XLA:TPU sums over thousands of tokens
    on the vector units, at a tenth of the memory's speed: 0.5 % of that pass.

    Args:
      y: (B, L, D).
      addend: (1 or B, 1, D), which was added to y without a gradient (`stop_gradient`).
    """
    return y


def _forward(y: jax.Array, addend: jax.Array) -> tuple[jax.Array, jax.Array]:
    return y, jnp.zeros((len(addend), 0), addend.dtype)


def _backward(like: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    # eight identical rows: XLA rewrites a matmul with one row into a reduction
    rows = jnp.einsum(
        "brl,bld->brd",
        jnp.ones((dy.shape[0], 8, dy.shape[1]), dy.dtype),
        dy,
        precision=jax.lax.Precision.HIGHEST if dy.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    total = rows[:, :1] if len(like) == len(dy) else rows[:, :1].sum(0, keepdims=True)
    return dy, total.astype(like.dtype)


with_matmul_gradient.defvjp(_forward, _backward)


def gather_first(x: jax.Array) -> jax.Array:
    """Has every device of a copy of the parameters hold all of x (B, E) before the next pin.

    Without it XLA:TPU makes one all-to-all of a gather and a split, which sends less, but whose
    route through a torus of 256 chips it plans for minutes.
    """
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES[0], None))


def broadcast_vectors(
    function: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """Wraps vectors (B, D) -> (B, E) so that the vectors travel and the weights stay.

    Each copy of the parameters sees the vectors of its whole part of the batch, and each device
    computes a part of E for all of them. These parts are gathered, then each device takes its own
    examples.
    """
    copies, shards = BATCH_AXES

    def wrapped(vectors: jax.Array) -> jax.Array:
        if not divides(len(vectors), BATCH_AXES):
            return function(vectors)
        pin = jax.lax.with_sharding_constraint
        out = function(pin(vectors, PartitionSpec(copies, None)))
        if divides(out.shape[1], (shards,)):
            out = pin(out, PartitionSpec(copies, shards))
        return pin(gather_first(out), PartitionSpec(BATCH_AXES, None))

    return wrapped
