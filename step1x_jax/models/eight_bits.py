"""Linear layers whose frozen kernels are stored in 8 bits."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from step1x_jax.models.linear import Linear
from step1x_jax.models.lora import get_module

DTYPES = {
    "int8": (jnp.int8, 127.0),
    "fp8": (jnp.float8_e4m3fn, 448.0),
}  # dtype, largest finite value used


class EightBitLinear(Linear):
    """A Linear with an 8-bit kernel, whose product is multiplied by a scale per output channel.

    Attributes:
      kernel_scale: (outputs,) float32.
    """

    def __init__(self, linear: Linear, dtype_name: str):
        """Quantize a Linear, which may be abstract.

        Args:
          linear: the layer to replace.
          dtype_name: a key of DTYPES.
        """
        self.spec, self.dtype = linear.spec, linear.dtype
        self.bias, self.adapter = linear.bias, nnx.data(linear.adapter)
        self.kernel, self.kernel_scale = quantize_kernel(linear.kernel, dtype_name)

    def multiply(self, x: jax.Array) -> jax.Array:
        """Compute the scaled product without bias and adapter; x has the layer's dtype."""
        return (super().multiply(x) * self.kernel_scale[...]).astype(self.dtype)


def quantize(model: nnx.Module, paths: Sequence[str], dtype_name: str) -> None:
    """Replace Linears of a model, which may be abstract, by 8-bit ones.

    Args:
      model: a module that contains Linears.
      paths: attribute paths of the layers, such as transformer.single_blocks.attn.q.
      dtype_name: a key of DTYPES.
    """
    for path in paths:
        above, _, name = path.rpartition(".")
        parent = get_module(model, above)
        setattr(parent, name, EightBitLinear(getattr(parent, name), dtype_name))


def quantize_kernel(kernel: nnx.Variable, dtype_name: str) -> tuple[nnx.Param, nnx.Param]:
    """Quantize a kernel with one scale per output channel (and layer).

    Args:
      kernel: (..., inputs, outputs), with its logical axes.
      dtype_name: a key of DTYPES.

    Returns:
      The 8-bit kernel, and its scale (..., outputs) float32.
    """
    names = tuple(kernel.get_metadata()["out_sharding"])
    x, scale = _quantize(kernel[...], dtype_name=dtype_name)
    return (
        nnx.Param(x, out_sharding=names),
        nnx.Param(scale, out_sharding=(*names[:-2], names[-1])),
    )


@partial(jax.jit, static_argnames="dtype_name")
def _quantize(kernel: jax.Array, *, dtype_name: str) -> tuple[jax.Array, jax.Array]:
    dtype, largest = DTYPES[dtype_name]
    x = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=-2, keepdims=True) / largest
    scale = jnp.where(scale == 0, 1.0, scale)
    x = x / scale
    x = jnp.round(x) if jnp.issubdtype(dtype, jnp.integer) else x
    return x.astype(dtype), jnp.squeeze(scale, -2)
