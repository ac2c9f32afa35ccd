"""Kernels of the blocks in 8 bits, made while the weights are read: what was is never in memory."""

import jax
from flax import nnx

from step1x_jax.models import step1x_edit
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.eight_bits import quantize, quantize_kernel
from step1x_jax.models.layers import abstract
from step1x_jax.weights.filling import Keep, Path
from step1x_jax.weights.layouts.official import dotted, flat
from step1x_jax.weights.lora.adapters import quantized_paths


def abstract_quantized(config: ModelConfig, stored: str | None) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and abstract parameters of a model whose blocks are stored in 8 bits.

    Args:
      config: of the model.
      stored: one of choices.EIGHT_BITS; None: they are stored as the others.
    """
    if stored is None:
        return step1x_edit.abstract_model(config)

    def build(rngs: nnx.Rngs) -> nnx.Module:
        model = step1x_edit.Step1XEdit(config, rngs=rngs)
        quantize(model, quantized_paths(config), stored)
        return model

    return abstract(build)


def quantizing(config: ModelConfig, stored: str, places: nnx.State | None) -> Keep:
    """Stores the kernels of the blocks in 8 bits, each as soon as it is there.

    A kernel as it was is given up before the next one is read.

    Args:
      config: of the model.
      stored: one of choices.EIGHT_BITS.
      places: the shardings of what is made (adapters among them are passed over); None: the device
        on which a kernel lies.

    Returns:
      A function for `load_parameters`; it takes over a parameter's buffers.
    """
    paths = set(quantized_paths(config))
    named = None if places is None else flat(places)

    def keep(path: Path, parameter: nnx.Variable) -> dict[Path, nnx.Variable]:
        module = path[:-1]
        if path[-1] != "kernel" or dotted(module) not in paths:
            return {path: parameter}
        kernel = parameter.get_value()
        halves = quantize_kernel(parameter, stored)
        kept: dict[Path, nnx.Variable] = {}
        for name, half in zip(("kernel", "kernel_scale"), halves, strict=True):
            value = half.get_value()
            if named is not None:
                value = jax.device_put(value, named[dotted((*module, name))].get_value())
            kept[*module, name] = half.replace(value)
        jax.block_until_ready(kept)
        kernel.delete()
        return kept

    return keep
