"""The linear layer of all models, and the parameters it is made of.

Parameters carry logical axis names for parallel/rules.py.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal, zeros

from step1x_jax.models.placement import gather
from step1x_jax.models.xla_tpu import add_bias

Axes = Sequence[str | None]
Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Precision(Protocol):
    """What of a model's config its parameters and layers look at."""

    dtype: str  # of the arithmetic
    param_dtype: str


def param(
    init: Initializer, shape: tuple[int, ...], axes: Axes, config: Precision, rngs: nnx.Rngs
) -> nnx.Param:
    """A parameter in config.param_dtype with its logical axes."""
    value = unless_abstract(init)(rngs.params(), shape).astype(config.param_dtype)
    return nnx.Param(value, out_sharding=tuple(axes))


_ABSTRACT = ContextVar("_ABSTRACT", default=False)


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Parameters made inside are zeros: for callers that want their shapes alone.

    Tracing the random numbers of a model would take three quarters of the time of tracing it.
    """
    token = _ABSTRACT.set(True)
    try:
        yield
    finally:
        _ABSTRACT.reset(token)


def unless_abstract(init: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """An initializer that draws no numbers within `without_numbers`."""

    def initialize(key: jax.Array, shape: tuple[int, ...], *dtype: Any, **more: Any) -> jax.Array:
        return (zeros if _ABSTRACT.get() else init)(key, shape, *dtype, **more)

    return initialize


class Linear(nnx.Module):
    """einsum(spec, x, kernel) + bias, plus what an adapter adds.

    Attributes:
      spec: of the einsum; its letters name the axes.
      dtype: of the arithmetic.
      kernel: (inputs, outputs). Random ones have variance 1 / inputs.
      bias: (outputs,) or None.
      adapter: None, or a models/lora.py `Adapter`.
    """

    def __init__(
        self,
        spec: str,
        shape: tuple[int, int],
        axes: Axes,
        *,
        config: Precision,
        rngs: nnx.Rngs,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = zeros,
    ):
        self.spec, self.dtype = spec, jnp.dtype(config.dtype)
        self.kernel = param(kernel_init or normal(shape[0] ** -0.5), shape, axes, config, rngs)
        self.bias = bias_init and param(bias_init, shape[1:], axes[1:], config, rngs)
        self.adapter: Callable[[jax.Array], jax.Array] | None = nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) -> (..., outputs) in the layer's dtype, as the spec says."""
        x = x.astype(self.dtype)
        y = self.multiply(x)
        if self.bias is not None:
            y = add_bias(y, self.bias.astype(self.dtype))
        return y if self.adapter is None else y + self.adapter(x)

    def multiply(self, x: jax.Array) -> jax.Array:
        """The product alone; x in the layer's dtype."""
        return jnp.einsum(self.spec, x, gather(self.kernel, self.dtype))
