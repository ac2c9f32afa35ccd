"""Plan the edit of one picture: compile its programs for TPUs, report memory and estimated time.

An edit runs three programs: "read", the language model on the picture with the instruction and with
the negative instruction; "sample", transformer and connector from noise to latents, on the same
mesh; "decode", the autoencoder on the first chip. Encoding the picture, which costs half as much as
decoding, and the work of the host are not included.
"""

from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.parallel.devices import GIB
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.planning import hlo
from step1x_jax.planning.chips import Topology
from step1x_jax.planning.compilation import (
    CompiledProgram,
    compile_decode,
    compile_language_model,
    compile_sample,
    group_extent,
)
from step1x_jax.planning.edit_memory import ALWAYS_RESIDENT, MODEL_OF_PROGRAM, peak_gib, weights_gib
from step1x_jax.planning.estimate import Estimate, estimate
from step1x_jax.planning.kernel_cycles import kernel_time
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.monitoring.flops import forward_flops

RUNS_PER_EDIT = {"read": 2, "sample": 1, "decode": 1}  # how often an edit runs each program
# Bytes per second from host memory to each chip while all chips load. An assumption: PCIe reaches
# 16e9 or 32e9, and loaders that copy reach less.
HOST_BANDWIDTH = 10e9


def edit_meshes(chips: int) -> list[MeshConfig]:
    """Return useful meshes for the edit of one picture, the default first.

    Guidance makes a batch of 2, so data x fsdp above 2 gains nothing. fsdp=2 runs the two halves of
    the batch on separate chips and stores half of the weights on each. Heads and MLPs are split
    over the remaining chips.
    """
    if chips == 1:
        return [MeshConfig(data=1, fsdp=1)]
    return [
        MeshConfig(data=1, fsdp=2, tensor=chips // 2),
        MeshConfig(data=1, fsdp=1, tensor=chips),
        MeshConfig(data=2, fsdp=1, tensor=chips // 2),
        MeshConfig(data=1, fsdp=2, sequence=chips // 2),
    ]


def plan_edit(
    config: TrainConfig,
    topology: Topology,
    mesh: Mesh,
    size: int,
    quantize: str | None = None,
    programs: Sequence[str] = tuple(MODEL_OF_PROGRAM),
) -> dict[str, Any]:
    """Compile the programs of an edit and plan it.

    Args:
      config: gives the model's sizes and the sampling settings.
      topology: the chips.
      mesh: mesh of all chips, for transformer and language model.
      size: side of the picture in pixels.
      quantize: 8-bit format of the transformer's blocks, see `load_model`; None: no quantization.
      programs: names in MODEL_OF_PROGRAM to include.

    Returns:
      A JSON object; times are None for a program that does not fit.
    """
    first = make_mesh(MeshConfig(data=1, fsdp=1), list(mesh.devices.flat[:1]))
    compiled = {}
    for name in programs:
        if name == "sample":
            compiled[name] = compile_sample(config, size, mesh, quantize), mesh
        elif name == "read":
            compiled[name] = compile_language_model(mesh), mesh
        else:
            compiled[name] = compile_decode(1, size, first), first
    described = {
        name: describe_program(program, topology, where)
        for name, (program, where) in compiled.items()
    }
    return combine_programs(config, topology, mesh, size, quantize, described)


def describe_program(compiled: CompiledProgram, topology: Topology, mesh: Mesh) -> dict[str, Any]:
    """Describe memory and estimated time of one program as a JSON object."""
    about: dict[str, Any] = {
        "compile_seconds": compiled.compile_seconds,
        "arguments_gib": compiled.arguments_gib,
    }
    if compiled.program is None:
        return (
            about
            | {"working_gib": compiled.needed_gib - compiled.arguments_gib}
            | _time_fields(None)
        )
    memory: Any = compiled.program.memory_analysis()
    working = memory.peak_memory_in_bytes - memory.argument_size_in_bytes
    found = estimate(
        hlo.parse_program(compiled.program.as_text() or ""),
        topology,
        lambda size: group_extent(mesh, len(topology.sizes), size),
        lambda x: kernel_time(x, topology.chip),
    )
    return about | {"working_gib": max(working, 0) / GIB} | _time_fields(found)


def _time_fields(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        names = (
            "estimated_seconds",
            "estimated_parts_seconds",
            "collectives_gib",
            "compiled_tflop",
        )
        return dict.fromkeys(names)
    return {
        "estimated_seconds": found.total,
        "estimated_parts_seconds": found.seconds,
        "collectives_gib": {kind: c.bytes / GIB for kind, c in sorted(found.collectives.items())},
        "compiled_tflop": (found.matmul_flops + found.kernel_flops) / 1e12,
    }


def combine_programs(
    config: TrainConfig,
    topology: Topology,
    mesh: Mesh,
    size: int,
    quantize: str | None,
    programs: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Combine the descriptions of an edit's programs to its plan.

    Args:
      config: see `plan_edit`.
      topology: see `plan_edit`.
      mesh: see `plan_edit`.
      size: see `plan_edit`.
      quantize: see `plan_edit`.
      programs: `describe_program` of each program, by name.
    """
    weights = weights_gib(config.model, mesh, quantize)
    working = {name: program["working_gib"] for name, program in programs.items()}
    available = topology.chip.hbm_bytes / GIB
    peaks = {
        where: peak_gib(weights, working, offload=where == "offloaded")
        for where in ("resident", "offloaded")
    }
    seconds = {name: program["estimated_seconds"] for name, program in programs.items()}
    total = None
    if None not in seconds.values():
        total = sum(RUNS_PER_EDIT[name] * taken for name, taken in seconds.items())
    moved = sum(
        RUNS_PER_EDIT[name] * weights[MODEL_OF_PROGRAM[name]]
        for name in programs
        if MODEL_OF_PROGRAM[name] != ALWAYS_RESIDENT
    )
    side, steps = size // PIXELS_PER_LATENT, config.sampling.num_steps
    sampling = seconds.get("sample")
    flops = 2 * steps * forward_flops(config.model, (side, side))
    return {
        "topology": topology.name,
        "chips": topology.chips,
        "mesh": dict(mesh.shape),
        "program": "sample",
        "size": size,
        "quantize": quantize,
        "steps": steps,
        "weights_gib": weights,
        "programs": programs,
        "peak_gib": peaks,
        "hbm_available_gib": available,
        "fits": {where: gib <= available for where, gib in peaks.items()},
        "compile_seconds": sum(program["compile_seconds"] for program in programs.values()),
        "estimated_step_seconds": sampling and sampling / steps,
        "estimated_edit_seconds": total,
        "estimated_offload_seconds": moved * GIB / HOST_BANDWIDTH,
        "estimated_mfu": sampling and flops / topology.chips / topology.chip.peak / sampling,
    }
