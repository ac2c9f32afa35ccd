"""Workarounds for the XLA compilers, which change only how a program is compiled.

Each docstring says what the compiler does without the workaround, what it gains, and with which
version this was observed. tests/models/test_xla_tpu.py compiles a block with and without each
workaround, and fails when it no longer gains anything.

Legend: B batch, L tokens, D width, C vectors of an example, E outputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES
from step1x_jax.models.placement import can_shard


def materialize(x: jax.Array) -> jax.Array:
    """Identity; materializes x and its gradient in memory.

    Without it XLA:TPU fuses the norm that produced x into every matmul that reads x. Each matmul
    then recomputes the norm and uses smaller tiles. A pass through a single block at 1024 px on v6e
    takes 6 % longer (planned; libtpu 0.0.42.1).
    """
    return jax.lax.optimization_barrier(x)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Return y + bias; for y (B, L, D) with the gradient of `with_matmul_gradient`.

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
    """Identity on y; in the backward pass `addend` receives the sum of dy over tokens.

    The sum is computed as a float32 matmul with ones. Without it XLA:TPU sums over thousands of
    tokens on the vector units, at a tenth of the memory bandwidth: 0.5 % of that pass.

    Args:
      y: (B, L, D).
      addend: (1 or B, 1, D), already a term of y, added there under `stop_gradient`.
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
    """Gather x (B, E) over the fsdp axis before the next sharding constraint.

    Without it XLA:TPU merges the gather and the following split into one all-to-all. That sends
    less data, but planning its route through a torus of 256 chips takes the compiler minutes.
    """
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES[0], None))


def broadcast_vectors(
    function: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """Wrap a function (B, D) -> (B, E) so that vectors are transferred instead of weights.

    The vectors are gathered over the fsdp axis, and each device computes its shard of E for all of
    them. The results are gathered, and each device keeps its own examples.
    """
    data, fsdp = BATCH_AXES

    def wrapped(vectors: jax.Array) -> jax.Array:
        if not can_shard(len(vectors), BATCH_AXES):
            return function(vectors)
        constrain = jax.lax.with_sharding_constraint
        out = function(constrain(vectors, PartitionSpec(data, None)))
        if can_shard(out.shape[1], (fsdp,)):
            out = constrain(out, PartitionSpec(data, fsdp))
        return constrain(gather_first(out), PartitionSpec(BATCH_AXES, None))

    return wrapped
