"""Compiles a run's step for TPUs that are not here, and says whether it fits and what it may take.

    python -m launch.compile_ahead --config=configs/finetune_1024.py --topology=v5p:4x4x4

Nothing is executed and no TPU is needed, only libtpu (extra [tpu]), minutes, and 6 GiB of memory.
The batch is --examples for each group of chips that it is split over, whatever data.batch_size
says. What the estimate is made of, and what it does not see: step1x_jax/planning/estimate.py.

--search compiles several policies (model.remat), copies of the parameters (mesh.data) and batches,
one after another, and ranks what fits; each takes minutes.
"""

import json
import sys
from typing import Any

from absl import flags

from launch import config_flag
from launch.command import run
from launch.config_flag import read_config
from step1x_jax.planning.chips import parse_topology
from step1x_jax.planning.compilation import prepare_environment
from step1x_jax.planning.plan import PROGRAMS, candidates, make_plan, parse_mesh, request

flags.adopt_module_key_flags(config_flag)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Chips, as v5p:4x4x4 or v6e:16x16.", required=True
)
_SLICES = flags.DEFINE_integer("slices", 1, "How many slices of that topology.", lower_bound=1)
_MESH = flags.DEFINE_string("mesh", None, "As data=1,fsdp=64; default: the config's.")
_PROGRAM = flags.DEFINE_enum("program", "train", PROGRAMS, "What to compile.")
_SIZE = flags.DEFINE_integer("size", 1024, "Side of the pictures in pixels.", lower_bound=16)
_EXAMPLES = flags.DEFINE_integer("examples", 1, "For each part of the batch.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "One JSON object (with --search a list) on stdout.")
_SEARCH = flags.DEFINE_bool("search", False, "Tries policies x mesh x batch; ranks what fits.")


def main() -> None:
    """Plans what the flags say."""
    prepare_environment()
    wanted = request(
        read_config(),
        parse_topology(_TOPOLOGY.value, _SLICES.value),
        program=_PROGRAM.value,
        size=_SIZE.value,
        mesh=parse_mesh(_MESH.value) if _MESH.value else None,
        examples=_EXAMPLES.value,
    )
    if not _SEARCH.value:
        plan = make_plan(wanted)
        print(json.dumps(plan) if _JSON.value else words(plan))
        return
    plans = []
    for number, candidate in enumerate(tried := list(candidates(wanted)), start=1):
        plan = make_plan(candidate)
        plans.append(plan)
        print(f"{number}/{len(tried)}  {line(plan)}", file=sys.stderr, flush=True)
    plans.sort(key=lambda plan: -(plan["images_per_second_per_chip"] or 0.0))
    print(json.dumps(plans) if _JSON.value else "\n".join(map(line, plans)))


def line(plan: dict[str, Any]) -> str:
    """A plan in one line."""
    mesh = ",".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1)
    about = f"{mesh or 'one chip'}  {plan['examples']} examples  {plan['remat']}"
    if not plan["fits"]:
        return f"{about}: does not fit, {plan['missing_gib']:.1f} GiB a chip are missing"
    return (
        f"{about}: {plan['images_per_second_per_chip']:.3f} images a second and chip,"
        f" MFU {plan['estimated_mfu']:.1%}, {plan['hbm_per_chip_gib']:.1f} of"
        f" {plan['hbm_available_gib']:.1f} GiB"
    )


def words(plan: dict[str, Any]) -> str:
    """A plan in full."""
    rows = [
        f"{plan['program']} at {plan['size']} px on {plan['slices']} x {plan['topology']}:"
        f" {plan['chips']} chips, mesh {plan['mesh']}",
        f"{plan['examples']} examples a step, remat {plan['remat']}",
        f"compiled in {plan['compile_seconds']:.0f} s",
    ]
    used, there = plan["hbm_per_chip_gib"], plan["hbm_available_gib"]
    if not plan["fits"]:
        rows.append(
            f"Does not fit: a chip would need {used:.2f} GiB and has {there:.2f};"
            f" {plan['missing_gib']:.2f} GiB are missing. Take more chips, fewer --examples, or a"
            " model.remat that stores less."
        )
        return "\n".join(rows)
    rows += [
        f"HBM per chip: arguments {plan['hbm_arguments_gib']:.2f}, temporaries"
        f" {plan['hbm_temporaries_gib']:.2f}, peak {used:.2f} of {there:.2f} GiB: fits",
        f"host memory per chip (remat offload): {plan['host_temporaries_gib']:.2f} GiB",
        f"model: {plan['model_tflop_per_example']:.4g} TFLOP an example;"
        f" compiled: {plan['compiled_tflop_per_chip']:.4g} TFLOP a chip and step,"
        f" {plan['hbm_traffic_gib_per_chip']:.3g} GiB through its memory",
        "",
        "| collective | count | GiB per chip | asynchronous | ms on the wire | ms exposed |",
        "|---|---|---|---|---|---|",
    ]
    for kind, c in plan["collectives"].items():
        rows.append(
            f"| {kind} | {c['count']:.0f} | {c['gib']:.2f} | {c['asynchronous']:.0%} |"
            f" {1000 * c['seconds']:.1f} | {1000 * c['exposed_seconds']:.1f} |"
        )
    rows += ["", "| estimated | ms |", "|---|---|"]
    for part, seconds in plan["estimated_parts_seconds"].items():
        rows.append(f"| {part.replace('_', ' ')} | {1000 * seconds:.3g} |")
    rows += [
        f"| step | {1000 * plan['estimated_step_seconds']:.4g} |",
        "",
        f"estimated MFU {plan['estimated_mfu']:.1%},"
        f" {plan['images_per_second_per_chip']:.3f} images a second and chip (a model of time, no"
        " measurement)",
    ]
    rows += ["", "| the largest | where | ms |", "|---|---|---|"]
    for part, source, seconds in plan["largest"]:
        rows.append(f"| {part.replace('_', ' ')} | {source[-80:]} | {1000 * seconds:.3g} |")
    if plan["kernels_without_cycles"]:
        names = ", ".join(plan["kernels_without_cycles"])
        rows.append(f"no cycles are known of {names}: counted at the chip's peak")
    return "\n".join(rows)


if __name__ == "__main__":
    run(main)
