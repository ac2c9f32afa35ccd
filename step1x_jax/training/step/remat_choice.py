"""model.remat "auto": save as many intermediates of the forward pass as fit into memory."""

import dataclasses
import math

import jax.numpy as jnp
from jax.sharding import Mesh

from step1x_jax.kernels.mesh_axes import BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.embeddings import PATCH
from step1x_jax.models.remat import AUTO, SAVED, count_saved_widths
from step1x_jax.parallel.devices import GIB, bytes_per_device, get_memory_bytes

# Memory in bytes of a step beside state, gradients and saved intermediates, as read from compiled
# steps at 1024 px: the activations of one block, per token on a device, and gathered weights.
WORKSPACE_PER_TOKEN = 1.2 * GIB / 8832
FIXED_WORKSPACE = 1.2 * GIB


def saved_bytes(config: ModelConfig, policy: str, tokens: float) -> float:
    """Estimate the bytes that a policy saves for the backward pass on one device.

    Args:
      config: the model's config.
      policy: a policy of models/remat.py.
      tokens: tokens of all examples on the device.
    """
    per_width = config.depth * count_saved_widths(policy, double=True)
    per_width += config.depth_single_blocks * count_saved_widths(policy, double=False)
    return tokens * per_width * config.hidden_size * jnp.dtype(config.dtype).itemsize


def resolve_remat(config: ModelConfig, batch, abstract, frozen, mesh: Mesh) -> ModelConfig:
    """Replace remat "auto" by the policy that saves most and fits; otherwise return `config`.

    Args:
      config: the model's config.
      batch: the batch of train_step; only shapes are used.
      abstract: the state on the mesh, see `abstract_state`.
      frozen: the frozen part on the mesh, see `abstract_frozen`.
      mesh: the run's mesh.
    """
    if config.remat != AUTO:
        return config
    return dataclasses.replace(config, remat=_choose_policy(config, batch, abstract, frozen, mesh))


def _choose_policy(config: ModelConfig, batch, abstract, frozen, mesh: Mesh) -> str:
    available = get_memory_bytes(mesh.devices.flat[0])
    if available is None:
        return "full"
    pictures = sum(math.prod(batch[name].shape[:3]) / PATCH**2 for name in ("target", "source"))
    split = math.prod(mesh.shape[axis] for axis in (*BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS))
    tokens = (pictures + math.prod(batch["text"].shape[:2])) / split
    # The parameters count twice: at the end of the backward pass all gradients exist.
    taken = sum(bytes_per_device(x) for x in (abstract, abstract.params, frozen))
    free = available - taken - FIXED_WORKSPACE - WORKSPACE_PER_TOKEN * tokens
    fitting = [policy for policy in SAVED if saved_bytes(config, policy, tokens) <= free]
    return fitting[-1] if fitting else "full"
