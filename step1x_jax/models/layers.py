"""The few layers of which connector and DiT are made; some serve the language model, too.

Legend: B batch, L tokens, D width, K head width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import ones, zeros

from step1x_jax.models.config import ModelConfig
from step1x_jax.models.linear import Linear, param, without_numbers
from step1x_jax.models.placement import split_activation
from step1x_jax.models.remat import checkpointed
from step1x_jax.models.xla_tpu import broadcast_vectors, materialize, with_matmul_gradient


def modulation(
    chunks: int, width: int, *, gates: Sequence[int], config: ModelConfig, rngs: nnx.Rngs
) -> Linear:
    """Linear from SiLU(vec) (B, D) to `chunks` vectors (B, chunks * D), see `chunks_of`.

    Zero at first, but for the gates (their places among the chunks), which start at
    config.gate_init.
    """

    def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        is_gate = jnp.isin(jnp.arange(chunks), jnp.array(gates, int))
        return jnp.repeat(config.gate_init * is_gate, width)

    return Linear(
        "bd,de->be",
        (width, chunks * width),
        ("vector", "modulation"),
        config=config,
        rngs=rngs,
        kernel_init=zeros,
        bias_init=bias_init,
    )


def chunks_of(linear: Linear, vec: jax.Array) -> jax.Array:
    """The vectors (chunks, B, D) that a `modulation` makes of SiLU(vec) (B, D)."""
    flat = broadcast_vectors(linear)(vec)
    return flat.reshape(len(vec), -1, vec.shape[1]).swapaxes(0, 1)


def layer_norm(x: jax.Array) -> jax.Array:
    """LayerNorm over the last axis in float32, eps 1e-6, without scale and bias."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """(1 + scale) * LN(x) + shift in x's dtype; x (B, L, D), shift and scale (B, D)."""
    shift = shift[:, None]
    y = (1 + scale[:, None]) * layer_norm(x) + jax.lax.stop_gradient(shift)
    return materialize(with_matmul_gradient(y.astype(x.dtype), shift))


class LayerNorm(nnx.Module):
    """LayerNorm with scale and bias, in float32."""

    def __init__(self, width: int, *, config: ModelConfig, rngs: nnx.Rngs):
        self.scale = param(ones, (width,), ("embed",), config, rngs)
        self.bias = param(zeros, (width,), ("embed",), config, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, L, D) -> (B, L, D) in x's dtype."""
        y = layer_norm(x) * self.scale.astype(jnp.float32) + self.bias.astype(jnp.float32)
        return y.astype(x.dtype)


class HeadNorm(nnx.Module):
    """The scale of QK-norm; `qk_norm_rope_attention` does the arithmetic."""

    def __init__(self, width: int, *, config: ModelConfig, rngs: nnx.Rngs):
        self.scale = param(ones, (width,), ("head_dim",), config, rngs)


class Embedder(nnx.Module):
    """linear, SiLU, linear: the MLP in front of a conditioning vector."""

    def __init__(self, c_in: int, width: int, *, config: ModelConfig, rngs: nnx.Rngs):
        make = partial(Linear, "bd,de->be", config=config, rngs=rngs)
        self.in_layer = make((c_in, width), ("vector", "embed"))
        self.out_layer = make((width, width), ("embed", "vector"))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, c_in) -> (B, D)."""
        return self.out_layer(nnx.silu(self.in_layer(x)))


class _OneKey(nnx.RngStream):
    """Gives the same key for all parameters: of those that get no numbers."""

    def __call__(self) -> jax.Array:
        """Counts nothing: under a trace nnx takes milliseconds for each count."""
        return self.key[...]


def abstract(build: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and abstract parameters of a module: a tenth of a second and no memory.

    Unlike nnx.eval_shape it works under a mesh, where that takes logical axes for mesh axes.

    Args:
      build: makes the module.

    Returns:
      Its graph definition, and its state as ShapeDtypeStructs with their logical axes.
    """
    graphs: list[nnx.GraphDef] = []

    def parameters() -> nnx.State:
        rngs: Any = nnx.Rngs(0)
        rngs.default = _OneKey(0, tag="default")
        with without_numbers():
            graph, params = nnx.split(build(rngs))
        graphs.append(graph)
        return params

    params = jax.eval_shape(parameters)
    return graphs[0], params


def stack(depth: int, build: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs) -> nnx.Module:
    """`depth` modules as one, whose parameters have a leading "layers" axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def stacked(rngs: nnx.Rngs) -> nnx.Module:
        return build(rngs)

    return stacked(rngs)


def all_chunks_of(linears: Linear, vec: jax.Array) -> jax.Array:
    """As `chunks_of`, for a stack of modulations: (blocks, chunks, B, D), by one large matmul."""
    graph, params = nnx.split(linears)
    return jax.vmap(lambda params: chunks_of(nnx.merge(graph, params), vec))(params)


def scan(
    blocks: nnx.Module,
    x,
    *context,
    remat: str,
    per_block: Any = None,
    collect: bool = False,
) -> Any:
    """Runs a stack in order: x = block(x, *context) for each; compiles one block.

    Args:
      blocks: of `stack`.
      x: a tree of arrays (B, L, ...) that flows through the blocks.
      *context: what every block sees (arrays or None).
      remat: what of a block the backward pass finds stored, see remat.py.
      per_block: a tree of arrays (depth, ...), of which each block gets its own part behind the
        context.
      collect: give what every block gives, stacked, instead of what the last one gives.

    Returns:
      A tree like x; with `collect`, its arrays have a leading axis of blocks.
    """
    graph, params = nnx.split(blocks)

    def layer(x, inputs):
        params, own = inputs
        x = jax.tree.map(split_activation, x)
        x = nnx.merge(graph, params)(x, *context, *own)
        return x, x if collect else None

    own = () if per_block is None else (per_block,)
    last, outputs = jax.lax.scan(checkpointed(layer, remat), x, (params, own))
    return outputs if collect else last
