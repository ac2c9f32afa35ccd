"""Describe a run without allocating it: parameter counts, and the train step on abstract values."""

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
from step1x_jax.training.step.train_step import Batch, TrainState, make_train_step
from step1x_jax.training.trainable_split import abstract_frozen


def count_parameters(params: nnx.State) -> dict[str, int]:
    """Count the parameters of connector and transformer, and their total, from shapes alone."""
    counts = {
        str(name): sum(math.prod(x.shape) for x in jax.tree.leaves(params[name])) for name in params
    }
    return counts | {"total": sum(counts.values())}


def abstract_batch(config: TrainConfig, size: int, mesh: Mesh) -> Batch:
    """Describe a batch of square pictures as ShapeDtypeStructs with shardings.

    Args:
      config: gives the batch size B, the text length T and the width C of the text embeddings.
      size: side of the pictures in pixels; latents have h = w = size / 8.
      mesh: a mesh with the axes of parallel/mesh.py.

    Returns:
      target and source (B, h, w, 16) bfloat16, text (B, T, C) bfloat16, text_lengths (B,) int32.
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
    """Trace the train step and lower it to StableHLO without allocating arrays.

    Args:
      config: the run's config.
      mesh: devices to lower for.
      state: see `abstract_state`.
      batch: see `abstract_batch`.

    Returns:
      The lowered step, ready for .compile(), and the seconds spent on "trace" and "lower".
    """
    train_step = make_train_step(config, mesh, state)
    with jax.set_mesh(mesh):
        start = time.monotonic()
        traced = train_step.trace(state, batch, abstract_frozen(config, mesh))
        middle = time.monotonic()
        lowered = traced.lower()
        end = time.monotonic()
    return lowered, {"trace": middle - start, "lower": end - middle}
