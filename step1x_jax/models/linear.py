"""The linear layer of all models, and the creation of parameters.

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
    """The fields of a model's config that parameters and layers use."""

    @property
    def dtype(self) -> str:
        """Dtype of the computation."""

    @property
    def param_dtype(self) -> str:
        """Dtype of the parameters."""


def param(
    init: Initializer, shape: tuple[int, ...], axes: Axes, config: Precision, rngs: nnx.Rngs
) -> nnx.Param:
    """Create a parameter in config.param_dtype with its logical axes."""
    value = skippable(init)(rngs.params(), shape).astype(config.param_dtype)
    return nnx.Param(value, out_sharding=tuple(axes))


_SKIP_INIT = ContextVar("_SKIP_INIT", default=False)


@contextlib.contextmanager
def skip_init() -> Iterator[None]:
    """Create all parameters as zeros inside this context, for callers that need only shapes.

    Tracing a model's random number generation would take three quarters of its tracing time.
    """
    token = _SKIP_INIT.set(True)
    try:
        yield
    finally:
        _SKIP_INIT.reset(token)


def skippable(init: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Wrap an initializer so that it returns zeros inside `skip_init`."""

    def initialize(key: jax.Array, shape: tuple[int, ...], *dtype: Any, **more: Any) -> jax.Array:
        return (zeros if _SKIP_INIT.get() else init)(key, shape, *dtype, **more)

    return initialize


class Linear(nnx.Module):
    """einsum(spec, x, kernel) + bias, plus the output of an adapter if there is one.

    Attributes:
      spec: the einsum's string; its letters name the axes.
      dtype: dtype of the computation.
      kernel: (inputs, outputs). The default initialization has variance 1 / inputs.
      bias: (outputs,) or None.
      adapter: None, or an `Adapter` of models/lora.py.
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
        """Apply the layer: (..., inputs) -> (..., outputs) in the layer's dtype."""
        x = x.astype(self.dtype)
        y = self.multiply(x)
        if self.bias is not None:
            y = add_bias(y, self.bias.astype(self.dtype))
        return y if self.adapter is None else y + self.adapter(x)

    def multiply(self, x: jax.Array) -> jax.Array:
        """Compute the einsum without bias and adapter; x has the layer's dtype."""
        return jnp.einsum(self.spec, x, gather(self.kernel, self.dtype))
