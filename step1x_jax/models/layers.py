"""The few layers of which connector and DiT are made; some serve the language model, too.

Parameters carry logical axis names for parallel/rules.py; kernels are stored as their einsum wants
them. Legend: B batch, L tokens, D width, F mlp width, K head width.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal, ones, zeros

from step1x_jax.models.config import ModelConfig
from step1x_jax.models.lora import adapted
from step1x_jax.models.placement import split_activation, split_vectors, weight
from step1x_jax.models.remat import checkpointed

Axes = Sequence[str | None]
Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Precision(Protocol):
    """What of a model's config its parameters and projections look at."""

    dtype: str  # of the arithmetic
    param_dtype: str


def param(
    init: Initializer, shape: tuple[int, ...], axes: Axes, config: Precision, rngs: nnx.Rngs
) -> nnx.Param:
    """A parameter in config.param_dtype with its logical axes."""
    value = init(rngs.params(), shape).astype(config.param_dtype)
    return nnx.Param(value, out_sharding=tuple(axes))


class Projection(nnx.Module):
    """einsum(spec, x, kernel) + bias; the spec is the layer's documentation.

    The bias spans the axes that kernel and output share. Random kernels have variance 1 / fan-in.
    models/lora.py may add the halves of an adapter, and may store a frozen kernel in 8 bits, with
    scales of the bias's shape.
    """

    def __init__(
        self,
        spec: str,
        shape: tuple[int, ...],
        axes: Axes,
        *,
        config: Precision,
        rngs: nnx.Rngs,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = zeros,
    ):
        inputs, output = spec.split("->")
        x_letters, kernel_letters = inputs.split(",")
        size = dict(zip(kernel_letters, shape, strict=True))
        name = dict(zip(kernel_letters, axes, strict=True))
        fan_in = math.prod(n for letter, n in size.items() if letter in x_letters)
        kept = [letter for letter in output if letter in size]
        bias_shape, bias_axes = tuple(size[a] for a in kept), [name[a] for a in kept]

        self.spec, self.dtype = spec, jnp.dtype(config.dtype)
        self.bias_view = tuple(size.get(letter, 1) for letter in output)
        self.kernel = param(kernel_init or normal(fan_in**-0.5), shape, axes, config, rngs)
        self.bias = bias_init and param(bias_init, bias_shape, bias_axes, config, rngs)
        self.lora_down: nnx.LoRAParam | None = nnx.data(None)
        self.lora_up: nnx.LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0
        self.kernel_scale: nnx.Param | None = nnx.data(None)

    def __call__(
        self,
        x: jax.Array,
        *,
        down: nnx.LoRAParam | None = None,
        up: nnx.LoRAParam | None = None,
    ) -> jax.Array:
        """Operands as the spec says, computed in config.dtype.

        `down` or `up` is half of an adapter that this projection shares with another.
        """
        x = x.astype(self.dtype)
        y = jnp.einsum(self.spec, x, weight(self.kernel, self.dtype))
        if self.kernel_scale is not None:
            y = (y * self.kernel_scale.reshape(self.bias_view)).astype(self.dtype)
        if self.bias is not None:
            y = y + self.bias.astype(self.dtype).reshape(self.bias_view)
        down = self.lora_down if down is None else down
        up = self.lora_up if up is None else up
        if down is None or up is None:
            return y
        return y + adapted(self.spec, x, down[...], up[...], self.lora_scale)


class Modulation(Projection):
    """A projection of vectors; over a mesh these travel, and the kernel stays where it is."""

    def __call__(
        self,
        x: jax.Array,
        *,
        down: nnx.LoRAParam | None = None,
        up: nnx.LoRAParam | None = None,
    ) -> jax.Array:
        """(B, D) -> (chunks, B, D)."""
        return split_vectors(partial(super().__call__, down=down, up=up))(x)


def modulation(
    chunks: int, width: int, *, gates: Sequence[int], config: ModelConfig, rngs: nnx.Rngs
) -> Modulation:
    """`chunks` vectors (B, D) from SiLU(vec), unpacked along the leading axis.

    Zero at first, but for the gates (their places among the chunks), which start at
    config.gate_init.
    """

    def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        is_gate = jnp.isin(jnp.arange(chunks), jnp.array(gates, int))
        return jnp.broadcast_to(config.gate_init * is_gate[:, None], shape)

    return Modulation(
        "bd,dce->cbe",
        (width, chunks, width),
        ("vector", None, "modulation"),
        config=config,
        rngs=rngs,
        kernel_init=zeros,
        bias_init=bias_init,
    )


def layer_norm(x: jax.Array) -> jax.Array:
    """LayerNorm over the last axis in float32, eps 1e-6, without scale and bias."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """(1 + scale) * LN(x) + shift in x's dtype; x (B, L, D), shift and scale (B, D)."""
    return ((1 + scale[:, None]) * layer_norm(x) + shift[:, None]).astype(x.dtype)


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


def qkv_projection(
    d: int, heads: int, qk_bias: float, *, config: ModelConfig, rngs: nnx.Rngs
) -> Projection:
    """Fused queries, keys and values; q and k start with the bias `qk_bias`."""

    def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.zeros(shape).at[:2].set(qk_bias)

    return Projection(
        "bld,cdhk->cbhlk",
        (3, d, heads, d // heads),
        (None, "embed", "heads", "head_dim"),
        config=config,
        rngs=rngs,
        bias_init=bias_init,
    )


class Embedder(nnx.Module):
    """linear, SiLU, linear: the MLP in front of a conditioning vector."""

    def __init__(self, c_in: int, width: int, *, config: ModelConfig, rngs: nnx.Rngs):
        make = partial(Projection, "bd,de->be", config=config, rngs=rngs)
        self.in_layer = make((c_in, width), ("vector", "embed"))
        self.out_layer = make((width, width), ("embed", "vector"))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, c_in) -> (B, D)."""
        return self.out_layer(nnx.silu(self.in_layer(x)))


def abstract(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and abstract parameters of a module: milliseconds and no memory.

    Unlike nnx.eval_shape it works under a mesh, where that takes logical axes for mesh axes.

    Args:
      build: makes the module.

    Returns:
      Its graph definition, and its state as ShapeDtypeStructs with their logical axes.
    """
    graphs: list[nnx.GraphDef] = []

    def parameters() -> nnx.State:
        graph, params = nnx.split(build())
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


def of_all(blocks: nnx.Module, *args: Any) -> Any:
    """What each part of a stack gives for the same arguments, with a leading axis of blocks.

    For a part of the blocks whose input is known beforehand: one large matmul instead of many.
    """
    graph, params = nnx.split(blocks)
    return jax.vmap(lambda params: nnx.merge(graph, params)(*args))(params)


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
