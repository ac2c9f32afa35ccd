"""Memory of a run's step on GPUs that are not here.

What is compiled is the real step with our attention kernels (cuDNN's are built with the library's
help, which needs a GPU); no time is estimated.
"""

import copy
import math
from typing import Any

import jax
from jax.sharding import Mesh

from step1x_jax.kernels.mesh_axes import BATCH_AXES
from step1x_jax.parallel.described_gpus import GPUS, USABLE
from step1x_jax.parallel.devices import GIB
from step1x_jax.parallel.mesh import make_mesh
from step1x_jax.planning.compilation import compile_train
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
