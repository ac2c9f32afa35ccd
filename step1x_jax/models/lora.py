"""Low-rank adapters (LoRA) on linear layers whose own weights are frozen.

An adapter adds alpha / rank * x @ down @ up. The product down @ up is never formed, neither here
nor in the gradient. An adapter belongs to a *published* linear layer, which may correspond to
several of our layers: layers with the same input share one down, layers with the same output share
one up. weights/lora/adapters.py maps the published names to our layers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from step1x_jax.models.linear import Linear


@dataclasses.dataclass(frozen=True)
class LoraTarget:
    """A published linear layer to which an adapter is attached."""

    linears: tuple[str, ...]  # our layers, such as transformer.single_blocks.attn.q
    shared: str | None  # the matrix they share: "down" (same input) or "up" (same output)


class Adapter(nnx.Module):
    """Computes scale * x @ down @ up.

    Attributes:
      down: (inputs, rank) float32; several adapters may share one variable.
      up: (rank, outputs) float32; likewise.
      scale: alpha / rank.
    """

    def __init__(self, down: nnx.LoRAParam, up: nnx.LoRAParam, scale: float):
        self.down, self.up, self.scale = down, up, scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the adapter: (..., inputs) -> (..., outputs) in x's dtype."""
        low = x @ self.down.astype(x.dtype) * self.scale
        return low @ self.up.astype(x.dtype)


def get_module(model: nnx.Module, path: str) -> Any:
    """Return the module at an attribute path such as transformer.single_blocks.attn.q."""
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name)
    return module


def attach(
    model: nnx.Module, targets: Sequence[LoraTarget], *, rank: int, alpha: float, rngs: nnx.Rngs
) -> None:
    """Attach float32 adapters to a model, which may be abstract.

    down is uniform in +-1 / sqrt(inputs), as in other LoRA implementations. up is zero, so the
    model's output is unchanged at first.

    Args:
      model: a module that contains Linears.
      targets: the published layers to adapt.
      rank: rank of each adapter.
      alpha: the adapters' output is scaled by alpha / rank.
      rngs: random numbers for down.
    """
    for target in targets:
        linears = [get_module(model, path) for path in target.linears]
        inputs = [linear.kernel.shape[-2] for linear in linears]
        bound = (sum(inputs) if target.shared == "up" else inputs[0]) ** -0.5
        down = up = None
        for linear in linears:
            if down is None or target.shared != "down":
                down = _init_down(linear, rank, bound, rngs)
            if up is None or target.shared != "up":
                up = _init_up(linear, rank)
            linear.adapter = Adapter(down, up, alpha / rank)


def _init_down(linear: Linear, rank: int, bound: float, rngs: nnx.Rngs) -> nnx.LoRAParam:
    *layers, inputs, _ = linear.kernel.shape
    shape = (*layers, inputs, rank)
    value = jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
    return _parameter(value, [*_names(linear)[:-1], "rank"])


def _init_up(linear: Linear, rank: int) -> nnx.LoRAParam:
    *layers, _, outputs = linear.kernel.shape
    names = _names(linear)
    value = jnp.zeros((*layers, rank, outputs), jnp.float32)
    return _parameter(value, [*names[:-2], "rank", names[-1]])


def _names(linear: Linear) -> tuple[str | None, ...]:
    """Return the logical names of the kernel's axes."""
    return tuple(linear.kernel.get_metadata()["out_sharding"])


def _parameter(value: jax.Array, names: list[str | None]) -> nnx.LoRAParam:
    """Create an adapter's parameter; its rank axis is sharded only if no other axis is."""
    if "embed" in names or "modulation" in names:
        names[names.index("rank")] = None
    return nnx.LoRAParam(value, out_sharding=tuple(names))
