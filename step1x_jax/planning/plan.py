"""Plan a program for a topology: compile it, report its memory and estimate its time."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.errors import UserError
from step1x_jax.models.remat import AUTO, SAVED
from step1x_jax.overrides import override
from step1x_jax.parallel.devices import GIB
from step1x_jax.parallel.mesh import MeshConfig, count_batch_shards, make_mesh
from step1x_jax.planning import hlo
from step1x_jax.planning.chips import Topology
from step1x_jax.planning.compilation import (
    CompiledProgram,
    compile_train,
    group_extent,
    topology_devices,
)
from step1x_jax.planning.edit import edit_meshes, plan_edit
from step1x_jax.planning.estimate import Estimate, estimate
from step1x_jax.planning.kernel_cycles import kernel_time
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch
from step1x_jax.training.monitoring.flops import step_flops
from step1x_jax.training.step.remat_choice import resolve_remat
from step1x_jax.training.step.train_step import abstract_state
from step1x_jax.training.trainable_split import abstract_frozen

PROGRAMS = ("train", "sample")


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """What to plan.

    Attributes:
      config: the run's config, with the plan's mesh, remat policy and batch size.
      topology: the chips to compile for.
      program: a name in PROGRAMS: "train", a training step, or "sample", the edit of one picture.
      size: side of the pictures in pixels.
      quantize: for "sample", the 8-bit format of the transformer's blocks, see `load_model`.
    """

    config: TrainConfig
    topology: Topology
    program: str
    size: int
    quantize: str | None = None


def make_request(
    config: TrainConfig,
    topology: Topology,
    *,
    program: str,
    size: int,
    mesh: MeshConfig | None = None,
    examples: int = 1,
    quantize: str | None = None,
) -> PlanRequest:
    """Make a request from flags.

    Args:
      config: the run's config.
      topology: the chips.
      program: a name in PROGRAMS.
      size: side of the pictures in pixels.
      mesh: default: the config's mesh, and for an edit the first of `edit_meshes`.
      examples: examples of a training step per batch shard.
      quantize: see PlanRequest.

    Raises:
      UserError: the mesh does not fit the topology, or the program does not support an option.
    """
    if program == "sample":
        if topology.slices > 1 or examples > 1:
            raise UserError(
                "an edit is of one picture on one slice; leave out --slices and --examples."
            )
        config = dataclasses.replace(config, mesh=mesh or edit_meshes(topology.chips)[0])
        _make_mesh(config, topology)
        return PlanRequest(config, topology, program, size, quantize)
    if quantize:
        raise UserError(
            f"--quantize={quantize} is for an edit (--program=sample); use --config.lora.quantize"
            " to quantize the base of adapters."
        )
    config = dataclasses.replace(config, mesh=mesh or config.mesh)
    parts = count_batch_shards(_make_mesh(config, topology))
    config = override(config, {"data.batch_size": examples * parts})
    return PlanRequest(config, topology, program, size)


def make_plan(wanted: PlanRequest) -> dict[str, Any]:
    """Compile the program, report its memory and estimate its time.

    Returns:
      A JSON object; values that are unknown because the program does not fit are None.

    Raises:
      UserError: the topology is unknown, or the config does not fit it.
    """
    config, topology = wanted.config, wanted.topology
    mesh = _make_mesh(config, topology)
    if wanted.program == "sample":
        return plan_edit(config, topology, mesh, wanted.size, wanted.quantize)
    compiled = compile_train(config, wanted.size, mesh)
    side = wanted.size // PIXELS_PER_LATENT
    flops = step_flops(config, (side, side)) / config.data.batch_size
    about = {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "mesh": dict(mesh.shape),
        "program": wanted.program,
        "size": wanted.size,
        "remat": _resolve_remat(config, wanted, mesh),
        "examples": config.data.batch_size,
        "model_tflop_per_example": flops / 1e12,
    }
    found = None
    if compiled.program is not None:
        found = estimate(
            hlo.parse_program(compiled.program.as_text() or ""),
            topology,
            lambda size: group_extent(mesh, len(topology.sizes), size),
            lambda x: kernel_time(x, topology.chip),
        )
    return about | _memory_fields(compiled, topology) | _time_fields(found, flops, config, topology)


def search_requests(wanted: PlanRequest) -> Iterator[PlanRequest]:
    """Yield the requests of a search.

    For a training step: copies of the parameters x batch size x the remat policies that may fit.
    For an edit: the useful meshes.
    """
    topology = wanted.topology
    if wanted.program == "sample":
        for mesh in edit_meshes(topology.chips):
            yield dataclasses.replace(wanted, config=dataclasses.replace(wanted.config, mesh=mesh))
        return
    for copies in (1, 2, 4, 8):
        if topology.chips % copies or copies % topology.slices:
            continue
        for examples in (1, 2, 4):
            mesh = MeshConfig(data=copies, fsdp=topology.chips // copies)
            tried = make_request(
                wanted.config, topology, program=wanted.program, size=wanted.size,
                mesh=mesh, examples=examples,
            )  # fmt: skip
            config = override(tried.config, {"model.remat": AUTO})
            best = _resolve_remat(config, tried, _make_mesh(config, topology))
            if best == "full" and examples > 1:
                continue  # a larger batch gains nothing if everything is rematerialized
            order = list(SAVED)
            for policy in order[max(order.index(best) - 1, 0) : order.index(best) + 1]:
                config = override(config, {"model.remat": policy})
                yield dataclasses.replace(tried, config=config)


def _make_mesh(config: TrainConfig, topology: Topology):
    return make_mesh(config.mesh, topology_devices(topology.name, topology.slices))


def _resolve_remat(config: TrainConfig, wanted: PlanRequest, mesh) -> str:
    batch = abstract_batch(config, wanted.size, mesh)
    state, frozen = abstract_state(config, mesh), abstract_frozen(config, mesh)
    return resolve_remat(config.model, batch, state, frozen, mesh).remat


def _memory_fields(compiled: CompiledProgram, topology: Topology) -> dict[str, Any]:
    available = topology.chip.hbm_bytes / GIB
    needed: dict[str, Any]
    if compiled.program is None:
        available = compiled.available_gib
        needed = {
            "hbm_per_chip_gib": compiled.needed_gib,
            "hbm_arguments_gib": None,
            "hbm_temporaries_gib": None,
            "host_temporaries_gib": None,
        }
    else:
        memory: Any = compiled.program.memory_analysis()
        needed = {
            "hbm_per_chip_gib": memory.peak_memory_in_bytes / GIB,
            "hbm_arguments_gib": memory.argument_size_in_bytes / GIB,
            "hbm_temporaries_gib": memory.temp_size_in_bytes / GIB,
            "host_temporaries_gib": memory.host_temp_size_in_bytes / GIB,
        }
    return {
        "fits": compiled.program is not None,
        "lower_seconds": compiled.lower_seconds,
        "compile_seconds": compiled.compile_seconds,
        **needed,
        "hbm_available_gib": available,
        "missing_gib": max(0.0, needed["hbm_per_chip_gib"] - available)
        if compiled.program is None
        else 0.0,
    }


def _time_fields(
    found: Estimate | None, flops: float, config: TrainConfig, topology: Topology
) -> dict[str, Any]:
    if found is None:
        names = (
            "estimated_step_seconds", "estimated_parts_seconds", "estimated_mfu",
            "images_per_second_per_chip", "collectives", "compiled_tflop_per_chip",
            "hbm_traffic_gib_per_chip", "kernels_without_cycles", "largest",
        )  # fmt: skip
        return dict.fromkeys(names)
    work = flops * config.data.batch_size / topology.chips
    return {
        "estimated_step_seconds": found.total,
        "estimated_parts_seconds": found.seconds,
        "estimated_mfu": work / topology.chip.peak / found.total,
        "images_per_second_per_chip": config.data.batch_size / topology.chips / found.total,
        "collectives": {
            kind: {
                "count": c.count,
                "gib": c.bytes / GIB,
                "asynchronous": c.async_bytes / c.bytes if c.bytes else 0.0,
                "seconds": c.seconds,
                "exposed_seconds": c.exposed_seconds,
            }
            for kind, c in sorted(found.collectives.items())
        },
        "compiled_tflop_per_chip": (found.matmul_flops + found.kernel_flops) / 1e12,
        "hbm_traffic_gib_per_chip": found.hbm_bytes / GIB,
        "kernels_without_cycles": list(found.unknown_kernels),
        "largest": [list(row) for row in found.largest],
    }
