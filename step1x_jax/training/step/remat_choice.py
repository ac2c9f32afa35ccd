"""model.remat "auto": stores as much of the forward pass as the devices can hold."""

import dataclasses
import math

import jax.numpy as jnp
from jax.sharding import Mesh

from step1x_jax.kernels.mesh_axes import BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.embeddings import PATCH
from step1x_jax.models.remat import AUTO, SAVED, stored_widths
from step1x_jax.parallel.devices import GIB, bytes_per_device, memory_of

# What a step needs beside its state, the gradients and what blocks store, seen in compiled steps at
# 1024 px: a block's own activations, for each token on a device, and gathered weights.
WORKING = 1.2 * GIB / 8832
WORKING_ONCE = 1.2 * GIB


def stored_bytes(config: ModelConfig, policy: str, tokens: float) -> float:
    """What the blocks leave for the backward pass on a device with so many tokens."""
    per_width = config.depth * stored_widths(policy, double=True)
    per_width += config.depth_single_blocks * stored_widths(policy, double=False)
    return tokens * per_width * config.hidden_size * jnp.dtype(config.dtype).itemsize


def with_remat(config: ModelConfig, batch, abstract, frozen, mesh: Mesh) -> ModelConfig:
    """`config`, or with remat "auto" a copy that names the policy which fits and stores most.

    Args:
      config: of the model.
      batch: of train_step; shapes are enough.
      abstract: the state on the mesh, see `abstract_state`.
      frozen: what else of the model lies there, see `abstract_frozen`.
      mesh: of the run.
    """
    if config.remat != AUTO:
        return config
    return dataclasses.replace(config, remat=_choice(config, batch, abstract, frozen, mesh))


def _choice(config: ModelConfig, batch, abstract, frozen, mesh: Mesh) -> str:
    available = memory_of(mesh.devices.flat[0])
    if available is None:
        return "full"
    pictures = sum(math.prod(batch[name].shape[:3]) / PATCH**2 for name in ("target", "source"))
    split = math.prod(mesh.shape[axis] for axis in (*BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS))
    tokens = (pictures + math.prod(batch["text"].shape[:2])) / split
    # parameters twice: their gradients, at the end
    taken = sum(bytes_per_device(x) for x in (abstract, abstract.params, frozen))
    free = available - taken - WORKING_ONCE - WORKING * tokens
    fitting = [policy for policy in SAVED if stored_bytes(config, policy, tokens) <= free]
    return fitting[-1] if fitting else "full"
