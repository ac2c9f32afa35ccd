"""FLOPs of the published computation, independent of kernels and rematerialization: for MFU.

It includes every padded text token, of which the model computes only one per example
(`Step1XEdit`). MFU counts the FLOPs that this saves as if they had been executed.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from step1x_jax.data.records import LATENT_CHANNELS
from step1x_jax.models import step1x_edit
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.embeddings import PATCH
from step1x_jax.training.config import TrainConfig

BACKWARD = 2  # times the forward pass: each matmul needs the gradients of both operands


def step_flops(
    config: TrainConfig, latent_size: tuple[int, int], examples: int | None = None
) -> float:
    """Count the FLOPs of a step's matmuls, forward and backward.

    Padding and rematerialization are not counted. A frozen base needs gradients with respect to
    the inputs of its matmuls only, not its weights. The FLOPs of the adapters are neglected.

    Args:
      config: the run's config.
      latent_size: rows and columns of the target's latents.
      examples: number of examples in the step; default data.batch_size.

    Returns:
      FLOPs of the step over all devices.
    """
    forward = forward_flops(config.model, latent_size)
    backward = BACKWARD * forward
    if config.lora.rank:
        backward = forward + attention_flops(config.model, latent_size)
    examples = config.data.batch_size if examples is None else examples
    return examples * (forward + backward)


def attention_flops(config: ModelConfig, latent_size: tuple[int, int]) -> float:
    """Count the forward FLOPs of attention in the transformer: products of two activations."""
    pictures = 2 * math.prod(latent_size) // PATCH**2
    length = pictures + config.text_length
    blocks = config.depth + config.depth_single_blocks
    return 4.0 * blocks * config.hidden_size * length**2


def forward_flops(config: ModelConfig, latent_size: tuple[int, int]) -> float:
    """Count the FLOPs of all matmuls, including attention, in the forward pass of one example.

    The model is traced with plain XLA attention and without rematerialization, so that nothing is
    padded or computed twice.

    Args:
      config: the model's config.
      latent_size: rows and columns of the latents of target and source.
    """
    plain = dataclasses.replace(config, remat="none", attention="xla")
    graph, params = step1x_edit.abstract_model(plain)
    latents = jax.ShapeDtypeStruct((1, *latent_size, LATENT_CHANNELS), jnp.float32)
    text = jax.ShapeDtypeStruct((1, config.text_length, config.connector_in_channels), jnp.float32)
    lengths, times = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.int32, jnp.float32))
    traced = jax.make_jaxpr(lambda params, *args: nnx.merge(graph, params)(*args))(
        params, latents, latents, text, lengths, times
    )
    return jaxpr_flops(traced.jaxpr)


def jaxpr_flops(jaxpr: core.Jaxpr) -> float:
    """Count the FLOPs of the matmuls of a jaxpr; a scan's body counts once per iteration."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
            total += 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)
            continue
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(jaxpr_flops(inner) for inner in _inner_jaxprs(equation.params))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner_jaxprs(params: dict[str, Any]) -> list[core.Jaxpr]:
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found
