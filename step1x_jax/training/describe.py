"""A run seen without memory: how many parameters, and its train step traced on abstract values."""

import math
import time

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.data.records import LATENT_CHANNELS
from step1x_jax.parallel.rules import batch_sharding
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.parts import abstract_frozen
from step1x_jax.training.step.train_step import Batch, TrainState, make_train_step


def parameter_counts(params: nnx.State) -> dict[str, int]:
    """How many numbers connector and transformer hold, and their total; shapes are enough."""
    counts = {
        str(part): sum(math.prod(x.shape) for x in jax.tree.leaves(params[part])) for part in params
    }
    return counts | {"total": sum(counts.values())}


def abstract_batch(config: TrainConfig, size: int, mesh: Mesh) -> Batch:
    """A batch of square pictures as ShapeDtypeStructs with their shardings.

    Args:
      config: for batch size and text.
      size: side of the pictures in pixels.
      mesh: with the axes of parallel/mesh.py.
    """
    b, t, side = config.data.batch_size, config.model.text_length, size // PIXELS_PER_LATENT
    latents = (b, side, side, LATENT_CHANNELS)
    sharding = batch_sharding(mesh)
    return {
        "target": jax.ShapeDtypeStruct(latents, jnp.bfloat16, sharding=sharding),
        "source": jax.ShapeDtypeStruct(latents, jnp.bfloat16, sharding=sharding),
        "text": jax.ShapeDtypeStruct(
            (b, t, config.model.connector_in_channels), jnp.bfloat16, sharding=sharding
        ),
        "text_lengths": jax.ShapeDtypeStruct((b,), jnp.int32, sharding=sharding),
    }


def trace_train_step(
    config: TrainConfig, mesh: Mesh, state: TrainState, batch: Batch
) -> tuple[jax.stages.Lowered, dict[str, float]]:
    """Traces the train step and lowers it to StableHLO; nothing is allocated.

    Args:
      config: of the run.
      mesh: devices to lower for.
      state: see `abstract_state`.
      batch: see `abstract_batch`.

    Returns:
      The lowered step (ready for .compile()) and the seconds that tracing and lowering took.
    """
    train_step = make_train_step(config, mesh, state)
    with jax.set_mesh(mesh):
        start = time.monotonic()
        traced = train_step.trace(state, batch, abstract_frozen(config, mesh))
        middle = time.monotonic()
        lowered = traced.lower()
        end = time.monotonic()
    return lowered, {"trace": middle - start, "lower": end - middle}
