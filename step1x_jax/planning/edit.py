"""A plan of the edit of one picture: its programs compiled for TPUs, their memory and their time.

An edit reads the picture with the instruction and with the negative one (the language model), goes
from noise to latents (the sampler: transformer and connector, over the same mesh) and decodes (the
autoencoder, on the first chip). Encoding the picture, which is half of decoding, and the host's
part are left out.
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
    Compiled,
    compile_decode,
    compile_read,
    compile_sample,
    group_extent,
)
from step1x_jax.planning.edit_memory import AT_WORK, peak_gib, weights_gib
from step1x_jax.planning.estimate import Estimate, estimate
from step1x_jax.planning.kernel_cycles import kernel_time
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.monitoring.flops import forward_flops

RUNS = {"read": 2, "sample": 1, "decode": 1}  # how often an edit runs each program
# Bytes a second from the host's memory to each chip, while all are served. An assumption: PCIe
# gives up to 16e9 or 32e9, and loaders that copy get less.
HOST_BANDWIDTH = 10e9


def edit_meshes(chips: int) -> list[MeshConfig]:
    """Meshes for the edit of one picture, first the one to take.

    Guidance makes a batch of 2, so nothing is gained where data x fsdp is more. fsdp=2 takes its
    halves apart and stores half of the weights; heads and MLPs are split over the other chips.
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
    programs: Sequence[str] = tuple(AT_WORK),
) -> dict[str, Any]:
    """Compiles the programs of an edit.

    Args:
      config: its model's sizes and its sampling settings count.
      topology: the chips.
      mesh: of all of them, for transformer and language model.
      size: side of the picture in pixels.
      quantize: stores the transformer's blocks in 8 bits, see `load_model`.
      programs: those of AT_WORK that are looked at.

    Returns:
      A JSON object; times are None where the sampler does not fit.
    """
    first = make_mesh(MeshConfig(data=1, fsdp=1), list(mesh.devices.flat[:1]))
    found = {}
    for name in programs:
        if name == "sample":
            found[name] = compile_sample(config, size, mesh, quantize), mesh
        elif name == "read":
            found[name] = compile_read(mesh), mesh
        else:
            found[name] = compile_decode(1, size, first), first
    parts = {
        name: about_program(compiled, topology, where) for name, (compiled, where) in found.items()
    }
    return put_together(config, topology, mesh, size, quantize, parts)


def about_program(compiled: Compiled, topology: Topology, mesh: Mesh) -> dict[str, Any]:
    """Memory and time of one program, as a JSON object."""
    about: dict[str, Any] = {
        "compile_seconds": compiled.compile_seconds,
        "arguments_gib": compiled.arguments_gib,
    }
    if compiled.program is None:
        return about | {"working_gib": compiled.needed_gib - compiled.arguments_gib} | _time(None)
    memory: Any = compiled.program.memory_analysis()
    working = memory.peak_memory_in_bytes - memory.argument_size_in_bytes
    found = estimate(
        hlo.read(compiled.program.as_text() or ""),
        topology,
        lambda size: group_extent(mesh, len(topology.sizes), size),
        lambda x: kernel_time(x, topology.chip),
    )
    return about | {"working_gib": max(working, 0) / GIB} | _time(found)


def _time(found: Estimate | None) -> dict[str, Any]:
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


def put_together(
    config: TrainConfig,
    topology: Topology,
    mesh: Mesh,
    size: int,
    quantize: str | None,
    parts: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """The plan of an edit from those of its programs; arguments as of `plan_edit`."""
    weights = weights_gib(config.model, mesh, quantize)
    working = {name: part["working_gib"] for name, part in parts.items()}
    available = topology.chip.hbm_bytes / GIB
    peaks = {
        where: peak_gib(weights, working, offload=where == "offloaded")
        for where in ("resident", "offloaded")
    }
    seconds = {name: part["estimated_seconds"] for name, part in parts.items()}
    total = None
    if None not in seconds.values():
        total = sum(RUNS[name] * taken for name, taken in seconds.items())
    moved = sum(
        RUNS[name] * weights[AT_WORK[name]] for name in parts if AT_WORK[name] != "autoencoder"
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
        "programs": parts,
        "peak_gib": peaks,
        "hbm_available_gib": available,
        "fits": {where: gib <= available for where, gib in peaks.items()},
        "compile_seconds": sum(part["compile_seconds"] for part in parts.values()),
        "estimated_step_seconds": sampling and sampling / steps,
        "estimated_edit_seconds": total,
        "estimated_offload_seconds": moved * GIB / HOST_BANDWIDTH,
        "estimated_mfu": sampling and flops / topology.chips / topology.chip.peak / sampling,
    }
