"""Memory of a run's step, and of an edit, on GPUs that are not attached.

What is compiled are the real programs with our attention kernels (cuDNN's are built with the
library's help, which needs a GPU); no time is estimated.
"""

import copy
from typing import Any

import jax
from jax.sharding import Mesh

from step1x_jax.errors import UserError
from step1x_jax.parallel.described_gpus import GPUS, USABLE
from step1x_jax.parallel.devices import GIB
from step1x_jax.parallel.mesh import MeshConfig, batch_parts, make_mesh
from step1x_jax.planning.compilation import (
    Compiled,
    compile_decode,
    compile_read,
    compile_sample,
    compile_train,
)
from step1x_jax.planning.edit_memory import peak_gib, weights_gib
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch
from step1x_jax.training.parts import abstract_frozen
from step1x_jax.training.step.remat_choice import with_remat
from step1x_jax.training.step.train_step import abstract_state

# MiB of the smallest cards that are sold as so many GB: L4 and A10, L40S, H100 (its driver's count)
CARDS = {24: 23028, 48: 46068, 80: 81041}


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
    config.data.batch_size = examples * batch_parts(mesh)
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
    config: TrainConfig,
    devices: list[jax.Device],
    kind: str,
    size: int,
    quantize: str | None = None,
) -> dict[str, Any]:
    """What an edit takes: models, and what their programs need beside them.

    What is compiled is what the named GPU would run; where attention is cuDNN's instead, or the
    GPU another one, the temporaries differ by tenths of a GiB.

    Args:
      config: of the run; its model's sizes count.
      devices: one, of `gpu_devices`.
      kind: of GPUS.
      size: side of the picture in pixels.
      quantize: stores the transformer's blocks in 8 bits, see `load_model`.

    Returns:
      A JSON object.

    Raises:
      UserError: it is more than one device.
    """
    if len(devices) > 1:
        raise UserError("an edit is planned for one GPU; give --gpus=1 with --program=edit.")
    config = copy.deepcopy(config)
    config.model.attention = "pallas_gpu"
    mesh = make_mesh(MeshConfig(), devices)
    programs = {
        "read": compile_read(mesh),
        "sample": compile_sample(config, size, mesh, quantize),
        "decode": compile_decode(1, size, mesh),
    }
    weights = weights_gib(config.model, mesh, quantize)
    working = {name: _temporaries(compiled) for name, compiled in programs.items()}
    peaks = {
        "resident": peak_gib(weights, working, offload=False),
        "offloaded": peak_gib(weights, working, offload=True),
    }
    return {
        "gpu": GPUS[kind].name,
        "size": size,
        "quantize": quantize,
        "weights_gib": weights,
        "temporaries_gib": working,
        "peak_gib": peaks,
        "smallest_card_gb": {where: smallest_card(gib) for where, gib in peaks.items()},
        "compile_seconds": sum(compiled.compile_seconds for compiled in programs.values()),
    }


def smallest_card(gib: float) -> int | None:
    """GB of the smallest of CARDS that JAX can use so much of; None: none of them."""
    return next((gb for gb, mib in CARDS.items() if gib * 1024 <= USABLE * mib), None)


def _temporaries(compiled: Compiled) -> float:
    if compiled.program is None:
        return compiled.needed_gib - compiled.arguments_gib
    memory: Any = compiled.program.memory_analysis()
    return memory.temp_size_in_bytes / GIB


def edit_in_words(plan: dict[str, Any]) -> str:
    """Such a plan of an edit as sentences."""
    weights = ", ".join(
        f"{name.replace('_', ' ')} {gib:.1f}" for name, gib in plan["weights_gib"].items()
    )
    beside = ", ".join(f"{name} {gib:.1f}" for name, gib in plan["temporaries_gib"].items())
    stored = f", blocks in {plan['quantize']}" if plan["quantize"] else ""
    rows = [
        f"an edit at {plan['size']} px, compiled for {plan['gpu']}{stored}"
        f" ({plan['compile_seconds']:.0f} s)",
        f"weights, GiB: {weights}; beside them: {beside}",
    ]
    for where, title in (("resident", "all models on the GPU"), ("offloaded", "with --offload")):
        card = plan["smallest_card_gb"][where]
        fits = f"fits a card of {card} GB" if card else f"does not fit one of {max(CARDS)} GB"
        rows.append(f"{title}: {plan['peak_gib'][where]:.1f} GiB, {fits}")
    return "\n".join(rows)


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
