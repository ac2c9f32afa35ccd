"""Projections: the linear layers of all models, and how their gradients and heads are laid out.

Parameters carry logical axis names for parallel/rules.py; kernels are stored as their einsum wants
them. Legend: B batch, L tokens, D width, H heads, K head width.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal, zeros

from step1x_jax.models.config import ModelConfig
from step1x_jax.models.lora import adapted, factors
from step1x_jax.models.placement import weight, weights

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
    value = unless_abstract(init)(rngs.params(), shape).astype(config.param_dtype)
    return nnx.Param(value, out_sharding=tuple(axes))


_ABSTRACT = ContextVar("_ABSTRACT", default=False)


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Parameters made inside are zeros: of those whose shapes alone are wanted.

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
        kernel = weight(self.kernel, self.dtype)
        y = self._project(self.spec, x, kernel, *self._per_channel(), *self._halves(down, up))
        return _heads_apart(y, self.spec, kernel)

    def _per_channel(self) -> tuple[jax.Array | None, jax.Array | None]:
        """Scale and bias, as they broadcast against the output."""
        scale, bias = self.kernel_scale, self.bias
        return (
            None if scale is None else scale.reshape(self.bias_view),
            None if bias is None else bias.astype(self.dtype).reshape(self.bias_view),
        )

    def _halves(
        self, down: nnx.LoRAParam | None, up: nnx.LoRAParam | None
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Of the adapter: those that are handed in, or its own."""
        down = self.lora_down if down is None else down
        up = self.lora_up if up is None else up
        return None if down is None else down[...], None if up is None else up[...]

    def _project(
        self,
        spec: str,
        x: jax.Array,
        kernel: jax.Array,
        scale: jax.Array | None,
        bias: jax.Array | None,
        down: jax.Array | None,
        up: jax.Array | None,
    ) -> jax.Array:
        inputs, output = spec.split("->")
        x_letters, kernel_letters = inputs.split(",")
        x = _heads_joined(x, x_letters).astype(self.dtype)
        kernel_joined = _heads_joined(kernel, kernel_letters)
        joined = spec.replace("hk", "h")
        y = jnp.einsum(joined, x, kernel_joined)
        if scale is not None:
            y = (y * _heads_joined(scale, output)).astype(self.dtype)
        if bias is not None:
            y = _plus(y, _heads_joined(bias, output))
        if down is not None and up is not None:
            down_letters, up_letters = factors(spec)[2].split("->")[0].split(",")
            down, up = _heads_joined(down, down_letters), _heads_joined(up, up_letters)
            y = y + adapted(joined, x, down, up, self.lora_scale)
        return y


def _heads_joined(x: jax.Array, letters: str) -> jax.Array:
    """Heads side by side, as one axis: else TPUs rearrange what matmuls and kernels hand over."""
    at = letters.find("hk")
    if at < 0 or x.ndim < len(letters):  # it has none, or they are joined
        return x
    return x.reshape(*x.shape[:at], -1, *x.shape[at + 2 :])


def _heads_apart(y: jax.Array, spec: str, kernel: jax.Array) -> jax.Array:
    """The inverse, where the result of a projection has heads at its end."""
    if not spec.endswith("hk"):
        return y
    at = spec.split("->")[0].split(",")[1].index("hk")
    return y.reshape(*y.shape[:-1], *kernel.shape[at : at + 2])


def _plus(y: jax.Array, addend: jax.Array) -> jax.Array:
    """y + addend; for y (B, L, D) and addend (1 or B, 1, D) with the gradient of `credited`."""
    if y.ndim == addend.ndim == 3 and addend.shape[1:] == (1, y.shape[2]):
        return credited(y + jax.lax.stop_gradient(addend), addend)
    return y + addend


@jax.custom_vjp
def credited(y: jax.Array, addend: jax.Array) -> jax.Array:
    """y, of which `addend` is a part that got no gradient yet: gives it the sum over tokens.

    By a matmul, in float32: a plain sum over thousands of tokens runs on a TPU's vector units, at a
    tenth of the memory's speed.

    Args:
      y: (B, L, D).
      addend: (1 or B, 1, D), which was added to y.
    """
    return y


def _credited_forward(y: jax.Array, addend: jax.Array) -> tuple[jax.Array, jax.Array]:
    return y, jnp.zeros((len(addend), 0), addend.dtype)


def _credited_backward(like: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    # eight equal rows: of one the compiler would make a sum again
    rows = jnp.einsum(
        "brl,bld->brd",
        jnp.ones((dy.shape[0], 8, dy.shape[1]), dy.dtype),
        dy,
        precision=jax.lax.Precision.HIGHEST if dy.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    total = rows[:, :1] if len(like) == len(dy) else rows[:, :1].sum(0, keepdims=True)
    return dy, total.astype(like.dtype)


credited.defvjp(_credited_forward, _credited_backward)


class QKV(Projection):
    """Queries, keys and values: a matmul each, so that each lies in memory by itself."""

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        *,
        down: nnx.LoRAParam | None = None,
        up: nnx.LoRAParam | None = None,
    ) -> tuple[jax.Array, ...]:
        """(B, L, D) -> three times (B, L, H K), heads side by side."""
        kernels = weights(self.kernel, self.dtype)
        scales, biases = (
            [None] * 3 if array is None else list(array) for array in self._per_channel()
        )
        first, second = self._halves(down, up)
        ups = [None] * 3 if second is None else [second[:, i] for i in range(3)]
        parts = zip(kernels, scales, biases, ups, strict=True)
        spec = self.spec.replace("c", "")
        return tuple(self._project(spec, x, k, s, b, first, u) for k, s, b, u in parts)


def qkv_projection(
    d: int, heads: int, qk_bias: float, *, config: ModelConfig, rngs: nnx.Rngs
) -> QKV:
    """Fused queries, keys and values; q and k start with the bias `qk_bias`."""

    def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.zeros(shape).at[:2].set(qk_bias)

    return QKV(
        "bld,cdhk->cblhk",
        (3, d, heads, d // heads),
        (None, "embed", "heads", "head_dim"),
        config=config,
        rngs=rngs,
        bias_init=bias_init,
    )
