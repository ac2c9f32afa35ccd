"""Quantization of the blocks' kernels to 8 bits while the weights are loaded.

Each kernel is quantized as soon as it is loaded, so the unquantized model is never in memory.
"""

import jax
from flax import nnx

from step1x_jax.models import step1x_edit
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.eight_bits import quantize, quantize_kernel
from step1x_jax.models.layers import abstract
from step1x_jax.weights.filling import Path, Transform
from step1x_jax.weights.layouts.official import flatten_params, join_path
from step1x_jax.weights.lora.adapters import quantized_paths


def abstract_quantized_model(
    config: ModelConfig, stored: str | None
) -> tuple[nnx.GraphDef, nnx.State]:
    """Return structure and abstract parameters of a model whose blocks are stored in 8 bits.

    Args:
      config: of the model.
      stored: one of choices.EIGHT_BITS; None: not quantized.
    """
    if stored is None:
        return step1x_edit.abstract_model(config)

    def build(rngs: nnx.Rngs) -> nnx.Module:
        model = step1x_edit.Step1XEdit(config, rngs=rngs)
        quantize(model, quantized_paths(config), stored)
        return model

    return abstract(build)


def make_quantizer(config: ModelConfig, stored: str, shardings: nnx.State | None) -> Transform:
    """Make a transform for `load_parameters` that quantizes the kernels of the blocks.

    The transform takes ownership of a parameter's buffers: it frees the unquantized kernel before
    the next one is read.

    Args:
      config: of the model.
      stored: one of choices.EIGHT_BITS.
      shardings: of the quantized parameters (those of adapters are ignored); None: the device on
        which a kernel is.
    """
    paths = set(quantized_paths(config))
    by_path = None if shardings is None else flatten_params(shardings)

    def quantize_parameter(path: Path, parameter: nnx.Variable) -> dict[Path, nnx.Variable]:
        module = path[:-1]
        if path[-1] != "kernel" or join_path(module) not in paths:
            return {path: parameter}
        kernel = parameter.get_value()
        quantized: dict[Path, nnx.Variable] = {}
        names = ("kernel", "kernel_scale")
        for name, variable in zip(names, quantize_kernel(parameter, stored), strict=True):
            value = variable.get_value()
            if by_path is not None:
                value = jax.device_put(value, by_path[join_path((*module, name))].get_value())
            quantized[*module, name] = variable.replace(value)
        jax.block_until_ready(quantized)
        kernel.delete()
        return quantized

    return quantize_parameter
