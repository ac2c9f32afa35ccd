"""Memory of a training step or an edit on GPUs that are not attached.

The real programs are compiled with our attention kernels, because building cuDNN's needs a GPU.
Time is not estimated.
"""

from typing import Any

import jax
from jax.sharding import Mesh

from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from step1x_jax.parallel.described_gpus import GPUS, USABLE_FRACTION
from step1x_jax.parallel.devices import GIB
from step1x_jax.parallel.mesh import MeshConfig, count_batch_shards, make_mesh
from step1x_jax.planning.compilation import (
    CompiledProgram,
    compile_decode,
    compile_language_model,
    compile_sample,
    compile_train,
)
from step1x_jax.planning.edit_memory import peak_gib, weights_gib
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch
from step1x_jax.training.step.remat_choice import resolve_remat
from step1x_jax.training.step.train_step import abstract_state
from step1x_jax.training.trainable_split import abstract_frozen

# Nominal GB to the MiB that the driver reports, of the smallest such card: L4 and A10, L40S, H100.
CARD_MIB = {24: 23028, 48: 46068, 80: 81041}


def plan_gpu_memory(
    config: TrainConfig, devices: list[jax.Device], kind: str, size: int, examples: int
) -> dict[str, Any]:
    """Compile the train step and report its memory.

    Args:
      config: the run's config.
      devices: from `gpu_devices`.
      kind: name in GPUS.
      size: side of the pictures in pixels.
      examples: examples per batch shard.

    Returns:
      A JSON object.
    """
    mesh: Mesh = make_mesh(config.mesh, devices)
    batch_size = examples * count_batch_shards(mesh)
    config = override(config, {"model.attention": "pallas_gpu", "data.batch_size": batch_size})
    available = USABLE_FRACTION * GPUS[kind].memory_bytes / GIB
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
        "remat": resolve_remat(config.model, batch, state, frozen, mesh).remat,
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
    """Compile the programs of an edit and report the memory of weights and temporaries.

    With cuDNN's attention or on another GPU the temporaries differ by a few tenths of a GiB.

    Args:
      config: gives the model's sizes and the sampling settings.
      devices: one device from `gpu_devices`.
      kind: name in GPUS.
      size: side of the picture in pixels.
      quantize: 8-bit format of the transformer's blocks, see `load_model`; None: no quantization.

    Returns:
      A JSON object.

    Raises:
      UserError: there is more than one device.
    """
    if len(devices) > 1:
        raise UserError("an edit is planned for one GPU; give --gpus=1 with --program=edit.")
    config = override(config, {"model.attention": "pallas_gpu"})
    mesh = make_mesh(MeshConfig(), devices)
    programs = {
        "read": compile_language_model(mesh),
        "sample": compile_sample(config, size, mesh, quantize),
        "decode": compile_decode(1, size, mesh),
    }
    weights = weights_gib(config.model, mesh, quantize)
    working = {name: _temporaries_gib(compiled) for name, compiled in programs.items()}
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
    """Return the GB of the smallest card in CARD_MIB with enough memory; None if none has."""
    return next((gb for gb, mib in CARD_MIB.items() if gib * 1024 <= USABLE_FRACTION * mib), None)


def _temporaries_gib(compiled: CompiledProgram) -> float:
    if compiled.program is None:
        return compiled.needed_gib - compiled.arguments_gib
    memory: Any = compiled.program.memory_analysis()
    return memory.temp_size_in_bytes / GIB


def format_gpu_edit_plan(plan: dict[str, Any]) -> str:
    """Format the result of `plan_edit_memory`."""
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
        fits = f"fits a card of {card} GB" if card else f"does not fit one of {max(CARD_MIB)} GB"
        rows.append(f"{title}: {plan['peak_gib'][where]:.1f} GiB, {fits}")
    return "\n".join(rows)


def format_gpu_plan(plan: dict[str, Any]) -> str:
    """Format the result of `plan_gpu_memory` as one line."""
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
