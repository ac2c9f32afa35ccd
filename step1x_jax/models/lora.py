"""Low-rank adapters on linear layers whose own weights stay as they are.

An adapter adds alpha / rank * x @ down @ up; neither here nor in the gradient is down @ up ever
built. It belongs to a *published* linear layer, of which ours may be several: those that share its
input share one down, those that share its output one up. Which layers those are says
weights/lora/adapters.py, which knows the published names.
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
    """A published linear layer that has an adapter."""

    linears: tuple[str, ...]  # ours that make it up: transformer.single_blocks.attn.q, say
    shared: str | None  # the half that they share: "down" (same input) or "up" (same output)


class Adapter(nnx.Module):
    """scale * x @ down @ up.

    Attributes:
      down: (inputs, rank) float32; several adapters may hold the same one.
      up: (rank, outputs) float32, or the same.
      scale: alpha / rank.
    """

    def __init__(self, down: nnx.LoRAParam, up: nnx.LoRAParam, scale: float):
        self.down, self.up, self.scale = down, up, scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) -> (..., outputs) in x's dtype."""
        low = x @ self.down.astype(x.dtype) * self.scale
        return low @ self.up.astype(x.dtype)


def module_at(model: nnx.Module, path: str) -> Any:
    """The module at transformer.single_blocks.attn.q, say."""
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name)
    return module


def attach(
    model: nnx.Module, places: Sequence[LoraTarget], *, rank: int, alpha: float, rngs: nnx.Rngs
) -> None:
    """Adds adapters, float32, to a model or to its abstract one.

    Downs are uniform in +-1 / sqrt(inputs), as is common; ups are zero, so that the model gives at
    first what it gave before.

    Args:
      model: a module of Linears.
      places: the published layers to adapt.
      rank: of each adapter.
      alpha: alpha / rank is the scale of what is added.
      rngs: for the downs.
    """
    for place in places:
        linears = [module_at(model, path) for path in place.linears]
        inputs = [linear.kernel.shape[-2] for linear in linears]
        bound = (sum(inputs) if place.shared == "up" else inputs[0]) ** -0.5
        down = up = None
        for linear in linears:
            if down is None or place.shared != "down":
                down = _down(linear, rank, bound, rngs)
            if up is None or place.shared != "up":
                up = _up(linear, rank)
            linear.adapter = Adapter(down, up, alpha / rank)


def _down(linear: Linear, rank: int, bound: float, rngs: nnx.Rngs) -> nnx.LoRAParam:
    *layers, inputs, _ = linear.kernel.shape
    shape = (*layers, inputs, rank)
    value = jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
    return _parameter(value, [*_names(linear)[:-1], "rank"])


def _up(linear: Linear, rank: int) -> nnx.LoRAParam:
    *layers, _, outputs = linear.kernel.shape
    names = _names(linear)
    value = jnp.zeros((*layers, rank, outputs), jnp.float32)
    return _parameter(value, [*names[:-2], "rank", names[-1]])


def _names(linear: Linear) -> tuple[str | None, ...]:
    """Logical names of the kernel's axes."""
    return tuple(linear.kernel.get_metadata()["out_sharding"])


def _parameter(value: jax.Array, names: list[str | None]) -> nnx.LoRAParam:
    """The rank has a name only where no other axis is split."""
    if "embed" in names or "modulation" in names:
        names[names.index("rank")] = None
    return nnx.LoRAParam(value, out_sharding=tuple(names))
