"""Memory of a run's step, and of an edit, on GPUs that are not attached.

What is compiled are the real programs with our attention kernels (cuDNN's are built with the
library's help, which needs a GPU); no time is estimated.
"""

import copy
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh

from step1x_jax.errors import UserError
from step1x_jax.kernels.mesh_axes import BATCH_AXES
from step1x_jax.models.autoencoder import abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.parallel.described_gpus import GPUS, USABLE
from step1x_jax.parallel.devices import GIB
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.planning.compilation import (
    Compiled,
    compile_decode,
    compile_sample,
    compile_train,
)
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch
from step1x_jax.training.parts import abstract_frozen
from step1x_jax.training.remat_choice import with_remat
from step1x_jax.training.step import abstract_state


def plan_gpu_memory(
    config: TrainConfig, devices: list[jax.Device], kind: str, size: int, examples: int
) -> dict[str, Any]:
    """Compiles the train step and reads its memory.

    Args:
      config: of the run.
      devices: of `gpu_devices`.
      kind: of GPUS.
      size: side of the pictures in pixels.
      examples: for each group of GPUs that the batch is split over.

    Returns:
      A JSON object.
    """
    config = copy.deepcopy(config)
    config.model.attention = "pallas_gpu"
    mesh: Mesh = make_mesh(config.mesh, devices)
    config.data.batch_size = examples * math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    available = USABLE * GPUS[kind].memory_bytes / GIB
    compiled = compile_train(config, size, mesh)
    if compiled.program is None:
        needed, arguments, temporaries = compiled.needed_gib, None, None
    else:
        memory: Any = compiled.program.memory_analysis()
        arguments = memory.argument_size_in_bytes / GIB
        temporaries = memory.temp_size_in_bytes / GIB
        needed = memory.peak_memory_in_bytes / GIB
    state, frozen = abstract_state(config, mesh), abstract_frozen(config, mesh)
    batch = abstract_batch(config, size, mesh)
    return {
        "gpu": GPUS[kind].name,
        "gpus": len(devices),
        "mesh": dict(mesh.shape),
        "size": size,
        "examples": config.data.batch_size,
        "remat": with_remat(config.model, batch, state, frozen, mesh).remat,
        "fits": needed <= available,
        "peak_gib": needed,
        "arguments_gib": arguments,
        "temporaries_gib": temporaries,
        "available_gib": available,
        "compile_seconds": compiled.compile_seconds,
    }


def plan_edit_memory(
    config: TrainConfig, devices: list[jax.Device], kind: str, size: int
) -> dict[str, Any]:
    """What an edit takes: all three models, and the larger of the sampler's and decoder's needs.

    The weights are those of the release: transformer and language model (whose last layer is not
    loaded) in bfloat16, autoencoder in float32. The language model's own temporaries are left out:
    at the release's number of tokens they are smaller than the sampler's.

    Args:
      config: of the run; its model's sizes count.
      devices: one, of `gpu_devices`.
      kind: of GPUS.
      size: side of the picture in pixels.

    Returns:
      A JSON object.

    Raises:
      UserError: it is more than one device.
    """
    if len(devices) > 1:
        raise UserError("launch.edit runs on one GPU; give --gpus=1 with --program=edit.")
    config = copy.deepcopy(config)
    config.model.attention, config.data.batch_size = "pallas_gpu", 1
    mesh = make_mesh(MeshConfig(), devices)
    programs = {
        "transformer": compile_sample(config, size, mesh),
        "autoencoder": compile_decode(1, size, mesh),
    }
    model = dataclasses.replace(config.model, param_dtype="bfloat16")
    models = {
        "transformer": abstract_model(model),
        "language_model": abstract_mllm(MLLMConfig(param_dtype="bfloat16")),
        "autoencoder": abstract_autoencoder(AutoencoderConfig()),
    }
    weights = {
        name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params)) / GIB
        for name, (_, params) in models.items()
    }
    temporaries = {name: _temporaries(compiled) for name, compiled in programs.items()}
    needed = sum(weights.values()) + max(temporaries.values())
    available = USABLE * GPUS[kind].memory_bytes / GIB
    return {
        "gpu": GPUS[kind].name,
        "size": size,
        "weights_gib": weights,
        "temporaries_gib": temporaries,
        "peak_gib": needed,
        "available_gib": available,
        "fits": needed <= available,
        "compile_seconds": sum(compiled.compile_seconds for compiled in programs.values()),
    }


def _temporaries(compiled: Compiled) -> float:
    if compiled.program is None:
        return compiled.needed_gib
    memory: Any = compiled.program.memory_analysis()
    return memory.temp_size_in_bytes / GIB


def edit_in_words(plan: dict[str, Any]) -> str:
    """Such a plan of an edit as a sentence."""
    weights = ", ".join(
        f"{name.replace('_', ' ')} {gib:.1f}" for name, gib in plan["weights_gib"].items()
    )
    return (
        f"1 x {plan['gpu']}, an edit at {plan['size']} px: {plan['peak_gib']:.1f} GiB of"
        f" {plan['available_gib']:.1f}, of which weights {sum(plan['weights_gib'].values()):.1f}"
        f" ({weights}) (compiled in {plan['compile_seconds']:.0f} s)"
    )


def in_words(plan: dict[str, Any]) -> str:
    """Such a plan as a sentence."""
    verdict = (
        "fits"
        if plan["fits"]
        else f"does not fit, {plan['peak_gib'] - plan['available_gib']:.1f} GiB are missing"
    )
    return (
        f"{plan['gpus']} x {plan['gpu']}, {plan['examples']} examples at {plan['size']} px,"
        f" remat {plan['remat']}: {plan['peak_gib']:.1f} GiB a GPU of"
        f" {plan['available_gib']:.1f}: {verdict} (compiled in {plan['compile_seconds']:.0f} s)"
    )
