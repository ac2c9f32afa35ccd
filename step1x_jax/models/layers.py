"""Layers and block stacks of connector and DiT; the text encoder uses some of them.

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
from step1x_jax.models.linear import Linear, param, skip_init
from step1x_jax.models.placement import shard_activation
from step1x_jax.models.remat import apply_remat
from step1x_jax.models.xla_tpu import broadcast_vectors, materialize, with_matmul_gradient


def make_modulation(
    chunks: int, width: int, *, gates: Sequence[int], config: ModelConfig, rngs: nnx.Rngs
) -> Linear:
    """Create an adaLN modulation: a Linear from SiLU(vec) (B, D) to (B, chunks * D).

    Args:
      chunks: number of vectors (shifts, scales and gates).
      width: D.
      gates: indices of the gates among the chunks. They start at config.gate_init; all other chunks
        start at zero.
      config: gives gate_init and dtypes.
      rngs: random numbers.
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


def compute_modulation(linear: Linear, vec: jax.Array) -> jax.Array:
    """Apply a modulation to SiLU(vec) (B, D): return shifts, scale, gates (chunks, B, D)."""
    flat = broadcast_vectors(linear)(vec)
    return flat.reshape(len(vec), -1, vec.shape[1]).swapaxes(0, 1)


def layer_norm(x: jax.Array) -> jax.Array:
    """Apply LayerNorm over the last axis in float32, eps 1e-6, without scale and bias."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Return (1 + scale) * LN(x) + shift in x's dtype; x (B, L, D), shift and scale (B, D)."""
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
    """The scale (K,) of QK-norm, which `qk_norm_rope_attention` applies."""

    def __init__(self, width: int, *, config: ModelConfig, rngs: nnx.Rngs):
        self.scale = param(ones, (width,), ("head_dim",), config, rngs)


class Embedder(nnx.Module):
    """The MLP of a conditioning vector: linear, SiLU, linear."""

    def __init__(self, c_in: int, width: int, *, config: ModelConfig, rngs: nnx.Rngs):
        make = partial(Linear, "bd,de->be", config=config, rngs=rngs)
        self.in_layer = make((c_in, width), ("vector", "embed"))
        self.out_layer = make((width, width), ("embed", "vector"))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, c_in) -> (B, D)."""
        return self.out_layer(nnx.silu(self.in_layer(x)))


class _OneKey(nnx.RngStream):
    """Returns the same key for all parameters, which are zeros anyway."""

    def __call__(self) -> jax.Array:
        """Return the key without counting: under a trace nnx needs milliseconds per count."""
        return self.key[...]


def abstract(build: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, nnx.State]:
    """Return graph definition and abstract parameters of a module, in 0.1 s and without memory.

    Unlike nnx.eval_shape it works under a mesh, where nnx.eval_shape would treat logical axes as
    mesh axes.

    Args:
      build: creates the module.

    Returns:
      The graph definition, and the state as ShapeDtypeStructs with their logical axes.
    """
    graphs: list[nnx.GraphDef] = []

    def parameters() -> nnx.State:
        rngs: Any = nnx.Rngs(0)
        rngs.default = _OneKey(0, tag="default")
        with skip_init():
            graph, params = nnx.split(build(rngs))
        graphs.append(graph)
        return params

    params = jax.eval_shape(parameters)
    return graphs[0], params


def stack_blocks(depth: int, build: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs) -> nnx.Module:
    """Build `depth` modules as one, whose parameters have a leading "layers" axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def stacked(rngs: nnx.Rngs) -> nnx.Module:
        return build(rngs)

    return stacked(rngs)


def compute_all_modulations(linears: Linear, vec: jax.Array) -> jax.Array:
    """Apply a stack of modulations by one large matmul: return (blocks, chunks, B, D)."""
    graph, params = nnx.split(linears)
    return jax.vmap(lambda params: compute_modulation(nnx.merge(graph, params), vec))(params)


def scan_blocks(
    blocks: nnx.Module,
    x,
    *context,
    remat: str,
    per_block: Any = None,
    collect: bool = False,
) -> Any:
    """Run the blocks of a stack in order, x = block(x, *context). Compiles one block.

    Args:
      blocks: a module of `stack_blocks`.
      x: the input, a tree of arrays (B, L, ...).
      *context: further arguments of every block (arrays or None).
      remat: rematerialization policy of a block; see remat.py.
      per_block: a tree of arrays (depth, ...); each block gets its slice as the last argument.
      collect: returns the outputs of all blocks instead of the last one.

    Returns:
      A tree like x; with `collect`, its arrays have a leading axis of blocks.
    """
    graph, params = nnx.split(blocks)

    def layer(x, inputs):
        params, own = inputs
        x = jax.tree.map(shard_activation, x)
        x = nnx.merge(graph, params)(x, *context, *own)
        return x, x if collect else None

    own = () if per_block is None else (per_block,)
    last, outputs = jax.lax.scan(apply_remat(layer, remat), x, (params, own))
    return outputs if collect else last
