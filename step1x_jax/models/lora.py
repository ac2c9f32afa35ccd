"""Low-rank adapters on projections whose own weights stay as they are, or are stored in 8 bits.

An adapter adds alpha / rank * x @ down @ up; neither here nor in the gradient is down @ up ever
built. It belongs to a *published* linear layer, of which ours may be several: the halves that these
have in common are held by the first of them (see SingleBlock). Which layers those are says
weights/lora/adapters.py, which knows the published names.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

RANK = "r"  # the letter of the rank in einsum strings
STORED = {"int8": (jnp.int8, 127.0), "fp8": (jnp.float8_e4m3fn, 448.0)}  # dtype, largest value


@dataclasses.dataclass(frozen=True)
class Place:
    """A published linear layer that has an adapter."""

    projections: tuple[str, ...]  # ours that make it up: transformer.single_blocks.attn.qkv
    shared: str | None  # the half that they share: "down" (same input) or "up" (same output)

    def halves(self, model: nnx.Module) -> Iterator[tuple[Any, Any, Any]]:
        """Each projection with the two modules that hold its down and its up."""
        modules = [module_at(model, path) for path in self.projections]
        for module in modules:
            down = modules[0] if self.shared == "down" else module
            up = modules[0] if self.shared == "up" else module
            yield module, down, up


def module_at(model: nnx.Module, path: str) -> Any:
    """transformer.single_blocks.attn.qkv, say, of a model."""
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name)
    return module


@cache
def factors(spec: str) -> tuple[str, str, str]:
    """The einsum of a projection in two steps, and the one that builds down @ up.

    "bld,dhk->blhk" becomes "bld,dr->blr", "blr,rhk->blhk" and "dr,rhk->dhk".
    """
    inputs, output = spec.split("->")
    x, kernel = inputs.split(",")
    inner = "".join(letter for letter in kernel if letter in x)
    outer = "".join(letter for letter in kernel if letter not in x)
    low = "".join(letter for letter in x if letter not in kernel) + RANK
    down, up = inner + RANK, RANK + outer
    return f"{x},{down}->{low}", f"{low},{up}->{output}", f"{down},{up}->{kernel}"


def adapted(spec: str, x: jax.Array, down: jax.Array, up: jax.Array, scale: float) -> jax.Array:
    """What an adapter adds to a projection of x, in x's dtype; x and result as the spec says."""
    to_rank, from_rank, _ = factors(spec)
    low = jnp.einsum(to_rank, x, down.astype(x.dtype)) * scale
    return jnp.einsum(from_rank, low, up.astype(x.dtype))


def _axes(projection: Any) -> dict[str, tuple[int, str | None]]:
    """Size and logical name of each letter of the kernel; "" is the axis of stacked layers."""
    letters = projection.spec.split("->")[0].split(",")[1]
    kernel = projection.kernel
    names = kernel.get_metadata()["out_sharding"]
    stacked = [""] * (kernel.ndim - len(letters))
    return dict(zip([*stacked, *letters], zip(kernel.shape, names, strict=True), strict=True))


def attach(
    model: nnx.Module, places: Sequence[Place], *, rank: int, alpha: float, rngs: nnx.Rngs
) -> None:
    """Adds adapters, float32, to a model or to its abstract one.

    Downs are uniform in +-1 / sqrt(inputs), as is common; ups are zero, so that the model gives at
    first what it gave before.

    Args:
      model: a module of Projections.
      places: the published layers to adapt.
      rank: of each adapter.
      alpha: alpha / rank is the scale of what is added.
      rngs: for the downs.
    """
    for place in places:
        first = None
        fan_ins = []
        for module, _, _ in place.halves(model):
            to_rank = factors(module.spec)[0].split(",")[1].split("->")[0]
            fan_ins.append(math.prod(_axes(module)[x][0] for x in to_rank if x != RANK))
        fan_in = sum(fan_ins) if place.shared == "up" else fan_ins[0]

        for module, down_of, up_of in place.halves(model):
            first = first or module
            module.lora_scale = alpha / rank
            axes = _axes(module) | {RANK: (rank, "rank")}
            down, up = factors(module.spec)[2].split("->")[0].split(",")
            if down_of is module:
                shape, names = _half(axes, down)
                bound = fan_in**-0.5
                value = jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
                module.lora_down = nnx.LoRAParam(value, out_sharding=names)
            if up_of is module:
                shape, names = _half(axes, up)
                value = jnp.zeros(shape, jnp.float32)
                module.lora_up = nnx.LoRAParam(value, out_sharding=names)


def _half(
    axes: dict[str, tuple[int, str | None]], letters: str
) -> tuple[tuple[int, ...], tuple[str | None, ...]]:
    """Shape and logical names. The rank has a name only where no other axis is split."""
    chosen = [axes[letter] for letter in (*([""] if "" in axes else []), *letters)]
    names = [name for _, name in chosen]
    if "embed" in names or "modulation" in names:
        names[names.index("rank")] = None
    return tuple(size for size, _ in chosen), tuple(names)


def quantize(model: nnx.Module, paths: Sequence[str], stored: str) -> None:
    """Stores kernels of a model, which may be abstract, in 8 bits, see `quantized`.

    Args:
      model: a module of Projections.
      paths: of the projections.
      stored: a key of STORED.
    """
    for path in paths:
        module = module_at(model, path)
        module.kernel, module.kernel_scale = quantized(module, module.kernel[...], stored)


def quantized(projection: Any, kernel: jax.Array, stored: str) -> tuple[nnx.Param, nnx.Param]:
    """A kernel in 8 bits, and one float32 scale per output channel (and layer).

    It is multiplied as it is and the product scaled, see Projection.

    Args:
      projection: the Projection, which may be abstract.
      kernel: its numbers.
      stored: a key of STORED.
    """
    axes = _axes(projection)
    output = projection.spec.split("->")[1]
    inner = tuple(i for i, letter in enumerate(axes) if letter and letter not in output)
    names = tuple(name for letter, (_, name) in axes.items() if not letter or letter in output)
    metadata = projection.kernel.get_metadata()["out_sharding"]
    x, scale = _quantized(kernel, inner=inner, stored=stored)
    return nnx.Param(x, out_sharding=metadata), nnx.Param(scale, out_sharding=names)


@partial(jax.jit, static_argnames=("inner", "stored"))
def _quantized(
    kernel: jax.Array, *, inner: tuple[int, ...], stored: str
) -> tuple[jax.Array, jax.Array]:
    dtype, largest = STORED[stored]
    x = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=inner, keepdims=True) / largest
    scale = jnp.where(scale == 0, 1.0, scale)
    x = x / scale
    x = jnp.round(x) if jnp.issubdtype(dtype, jnp.integer) else x
    return x.astype(dtype), jnp.squeeze(scale, inner)
