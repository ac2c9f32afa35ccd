"""Adafactor's factored second moments: a matrix keeps only the means of its rows and columns.

Source: Shazeer and Stern, "Adafactor", 2018; without a first moment and without scaling updates by
the parameters' RMS, so that learning rates are comparable with AdamW's.

Layers stacked along the axis "layers" are treated one by one, including the clipping. Moments carry
logical axes, so that they are sharded like their parameters.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec

SMALLEST_FACTORED = 128  # arrays without two axes of at least this size are not factored
DECAY = 0.8  # the decay at step t is 1 - t^-DECAY
EPS = 1e-30
LARGEST_RMS = 1.0  # of one layer's update, before the learning rate

AxisNames = tuple[str | None, ...]


class FactoredState(NamedTuple):
    """State of the optimizer; the names are stored in checkpoints.

    Attributes:
      steps: completed steps, an int32 scalar.
      moments: second moments by parameter name: {"rows", "columns"} if factored, else {"whole"}.
    """

    steps: jax.Array
    moments: dict[str, dict[str, nnx.Variable]]


class _Leaf(NamedTuple):
    name: str
    value: jax.Array
    axes: AxisNames  # logical


def _leaves(tree: Any) -> list[_Leaf]:
    specs = jax.tree.leaves(
        nnx.get_partition_spec(tree), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    result = []
    for (path, x), spec in zip(jax.tree_util.tree_leaves_with_path(tree), specs, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        result.append(_Leaf(name, x, tuple(spec) or (None,) * x.ndim))
    return result


def _factored_axes(leaf: _Leaf) -> tuple[int, int] | None:
    """Return the two largest axes but "layers", the larger last; None if the array is too small."""
    axes = [i for i, name in enumerate(leaf.axes) if name != "layers"]
    axes.sort(key=lambda i: leaf.value.shape[i])
    if len(axes) < 2 or leaf.value.shape[axes[-2]] < SMALLEST_FACTORED:
        return None
    return axes[-2], axes[-1]


def scale_by_factored_rms() -> optax.GradientTransformation:
    """Divide gradients by the root of their factored second moments and clip each layer's RMS.

    Moments are float32 and sharded like their parameters, without the axis over which they are
    averaged.
    """

    def init(params: Any) -> FactoredState:
        def zeros(leaf: _Leaf, without: int | None = None) -> nnx.Variable:
            axes = [i for i in range(leaf.value.ndim) if i != without]
            value = jnp.zeros([leaf.value.shape[i] for i in axes], jnp.float32)
            return nnx.Variable(value, out_sharding=tuple(leaf.axes[i] for i in axes))

        moments = {}
        for leaf in _leaves(params):
            if pair := _factored_axes(leaf):
                small, large = pair
                moments[leaf.name] = {
                    "rows": zeros(leaf, without=large),
                    "columns": zeros(leaf, without=small),
                }
            else:
                moments[leaf.name] = {"whole": zeros(leaf)}
        return FactoredState(jnp.zeros((), jnp.int32), moments)

    def update(
        gradient: Any, state: FactoredState, params: Any = None
    ) -> tuple[Any, FactoredState]:
        decay = 1 - (state.steps + 1).astype(jnp.float32) ** -DECAY

        def average(old: nnx.Variable, new: jax.Array) -> nnx.Variable:
            return old.replace(decay * old.get_value() + (1 - decay) * new)

        updates, moments = [], {}
        for leaf in _leaves(gradient):
            old, squares = state.moments[leaf.name], jnp.square(leaf.value) + EPS
            if pair := _factored_axes(leaf):
                small, large = pair
                rows = average(old["rows"], squares.mean(large))
                columns = average(old["columns"], squares.mean(small))
                moments[leaf.name] = {"rows": rows, "columns": columns}
                r = jnp.expand_dims(rows.get_value(), large)
                c = jnp.expand_dims(columns.get_value(), small)
                scaled = leaf.value * jax.lax.rsqrt(r / r.mean(small, keepdims=True))
                scaled = scaled * jax.lax.rsqrt(c)
            else:
                whole = average(old["whole"], squares)
                moments[leaf.name] = {"whole": whole}
                scaled = leaf.value * jax.lax.rsqrt(whole.get_value())
            updates.append(_clip_layer_rms(scaled, leaf.axes))
        updates = jax.tree.unflatten(jax.tree.structure(gradient), updates)
        return updates, FactoredState(state.steps + 1, moments)

    return optax.GradientTransformation(init, update)


def _clip_layer_rms(x: jax.Array, names: AxisNames) -> jax.Array:
    """Scale each layer of x down to an RMS of at most LARGEST_RMS."""
    axes = tuple(i for i, name in enumerate(names) if name != "layers")
    size = math.prod(x.shape[i] for i in axes)
    rms = jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True) / size)
    return x / jnp.maximum(1.0, rms / LARGEST_RMS)
