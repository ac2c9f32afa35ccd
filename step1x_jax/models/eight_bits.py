"""Linear layers whose frozen kernels are stored in 8 bits."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from step1x_jax.models.linear import Linear
from step1x_jax.models.lora import module_at

STORED = {"int8": (jnp.int8, 127.0), "fp8": (jnp.float8_e4m3fn, 448.0)}  # dtype, largest value


class EightBitLinear(Linear):
    """A Linear whose kernel is multiplied as it is stored, and whose product is scaled.

    Attributes:
      kernel_scale: (outputs,) float32.
    """

    def __init__(self, linear: Linear, stored: str):
        """Takes the place of a Linear, which may be abstract.

        Args:
          linear: as it was.
          stored: a key of STORED.
        """
        self.spec, self.dtype = linear.spec, linear.dtype
        self.bias, self.adapter = linear.bias, nnx.data(linear.adapter)
        self.kernel, self.kernel_scale = quantize_kernel(linear.kernel, stored)

    def multiply(self, x: jax.Array) -> jax.Array:
        """The product alone; x in the layer's dtype."""
        return (super().multiply(x) * self.kernel_scale[...]).astype(self.dtype)


def quantize(model: nnx.Module, paths: Sequence[str], stored: str) -> None:
    """Stores kernels of a model, which may be abstract, in 8 bits.

    Args:
      model: a module of Linears.
      paths: of the layers.
      stored: a key of STORED.
    """
    for path in paths:
        above, _, name = path.rpartition(".")
        parent = module_at(model, above)
        setattr(parent, name, EightBitLinear(getattr(parent, name), stored))


def quantize_kernel(kernel: nnx.Variable, stored: str) -> tuple[nnx.Param, nnx.Param]:
    """A kernel in 8 bits, and one float32 scale per output channel (and layer).

    Args:
      kernel: (..., inputs, outputs), with its logical axes.
      stored: a key of STORED.
    """
    names = tuple(kernel.get_metadata()["out_sharding"])
    x, scale = _quantize(kernel[...], stored=stored)
    return (
        nnx.Param(x, out_sharding=names),
        nnx.Param(scale, out_sharding=(*names[:-2], names[-1])),
    )


@partial(jax.jit, static_argnames="stored")
def _quantize(kernel: jax.Array, *, stored: str) -> tuple[jax.Array, jax.Array]:
    dtype, largest = STORED[stored]
    x = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=-2, keepdims=True) / largest
    scale = jnp.where(scale == 0, 1.0, scale)
    x = x / scale
    x = jnp.round(x) if jnp.issubdtype(dtype, jnp.integer) else x
    return x.astype(dtype), jnp.squeeze(scale, -2)
