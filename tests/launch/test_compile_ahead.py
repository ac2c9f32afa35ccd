"""The planner's command, on a small model, and once on the release (needs the extra [tpu])."""

import json
import os
import resource
import subprocess
import sys

import pytest

from step1x_jax.errors import UserError
from step1x_jax.parallel.mesh import MeshConfig, parse_mesh
from step1x_jax.planning.chips import parse_topology
from step1x_jax.planning.compilation import _out_of_memory
from step1x_jax.planning.report import format_plan, summary_line

KEYS = {
    "fits", "compile_seconds", "hbm_per_chip_gib", "estimated_step_seconds", "estimated_mfu",
    "images_per_second_per_chip", "collectives",
}  # fmt: skip
CATEGORIES = {"matmuls", "attention_kernels", "exposed_collectives", "rest"}


def command(*flags):
    """The command in a process whose environment is as bad as that of the tests."""
    return subprocess.run(
        [sys.executable, "-m", "launch.compile_ahead", *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "", "PYTHONPATH": os.getcwd()},
    )


def plan(*flags):
    done = command(*flags, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_small_model():
    topology = "v5e:2x2"
    pytest.importorskip("libtpu", reason="needs the extra [tpu]")
    small = "--config=tests/planning/tiny_plan.py", f"--topology={topology}", "--size=256"
    found = plan(*small)
    assert set(found) >= KEYS
    assert found["fits"] is True
    assert found["mesh"] == {"data": 1, "fsdp": 4, "sequence": 1, "tensor": 1}
    assert found["examples"] == 4
    assert found["remat"] == "attention_qkv_mlp"  # so small that all fits
    assert 0 < found["hbm_arguments_gib"] < found["hbm_per_chip_gib"] < 1
    parts = found["estimated_parts_seconds"]
    assert set(parts) == CATEGORIES
    assert found["estimated_step_seconds"] == pytest.approx(sum(parts.values()))
    peak = parse_topology(topology).chip.peak
    work = found["model_tflop_per_example"] * 1e12
    assert found["estimated_mfu"] == pytest.approx(work / peak / found["estimated_step_seconds"])
    assert 0 < found["estimated_mfu"] < 1
    # what was compiled is at least what the model is made of
    assert found["compiled_tflop_per_chip"] > found["model_tflop_per_example"]
    assert found["collectives"]["all-gather"]["count"] > 4


@pytest.mark.slow
def test_two_slices():
    pytest.importorskip("libtpu", reason="needs the extra [tpu]")
    small = "--config=tests/planning/tiny_plan.py", "--topology=v5p:2x2x1", "--size=256"
    trained = plan(*small, "--slices=2", "--mesh=data=2,fsdp=4")
    assert trained["chips"] == 8
    refused = command(*small, "--slices=2")
    assert refused.returncode == 1
    assert "mesh.data=1 is not a multiple of the 2 slices" in refused.stderr


SAMPLER = """
import json, sys
from step1x_jax.planning.compilation import prepare_environment
prepare_environment()
from step1x_jax.parallel.mesh import make_mesh
from step1x_jax.planning.chips import parse_topology
from step1x_jax.planning.compilation import topology_devices
from step1x_jax.planning.edit import edit_meshes, plan_edit
from tests.planning.tiny_plan import get_config
plans = []
for name, quantize in (("v6e:2x2", None), ("v6e:1x1", "int8")):
    topology = parse_topology(name)
    mesh = make_mesh(edit_meshes(topology.chips)[0], topology_devices(name))
    plans.append(plan_edit(get_config(), topology, mesh, 256, quantize, ["sample"]))
print(json.dumps(plans))
"""


@pytest.mark.slow
def test_the_sampler_of_an_edit():
    """On four chips and on one; the other two models, which are of the release, are left out."""
    pytest.importorskip("libtpu", reason="needs the extra [tpu]")
    done = subprocess.run(
        [sys.executable, "-c", SAMPLER],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    four, one = json.loads(done.stdout)
    assert (four["chips"], four["mesh"]["fsdp"], four["mesh"]["tensor"]) == (4, 2, 2)
    assert one["chips"] == 1
    sampled = one["programs"]["sample"]
    # both branches of guidance at every step are a batch of 2
    assert sampled["compiled_tflop"] > one["estimated_mfu"] * sampled["estimated_seconds"] * 918
    assert sampled["collectives_gib"] == {}
    assert four["programs"]["sample"]["collectives_gib"]["all-gather"] > 0
    assert 0 < sampled["working_gib"] < 1
    assert 0 < four["estimated_mfu"] < 1
    assert four["weights_gib"]["language_model"] < one["weights_gib"]["language_model"] / 3


@pytest.mark.slow
def test_the_release_at_1024_px_fits_64_chips():
    """The one full-size case; also how much memory the command itself takes."""
    pytest.importorskip("libtpu", reason="needs the extra [tpu]")
    found = plan("--config=configs/finetune_1024.py", "--topology=v5p:4x4x4")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 10 * 2**20  # KiB
    assert found["fits"] is True
    assert found["model_tflop_per_example"] == pytest.approx(507.6, rel=1e-3)
    # float32 weights and two moments of 12.4 billion parameters over 64 chips are 2.2 GiB
    assert 2.1 < found["hbm_arguments_gib"] < 2.4
    assert found["hbm_per_chip_gib"] < 60
    assert found["estimated_mfu"] > 0.55
    # no part below its operations at the peak of 459 TFLOP/s
    assert found["estimated_step_seconds"] > found["compiled_tflop_per_chip"] / 459
    assert found["collectives"]["all-gather"]["asynchronous"] > 0.5
    assert found["kernels_without_cycles"] == []


def test_what_does_not_fit_is_said_with_what_is_missing():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
        " hbm. Used 23.94G of 15.75G hbm. Exceeded hbm capacity by 8.19G."
    )
    assert _out_of_memory(message, 9.0) == (23.94, 15.75)
    assert _out_of_memory("Used 512.0M of 15.75G hbm", 9.0) == (0.5, 15.75)
    early = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
        " temporaries (25.36G) exceeds available HBM (15.75G)."
    )
    assert _out_of_memory(early, 9.0) == (34.36, 15.75)
    assert _out_of_memory("INTERNAL: something else", 9.0) is None
    plan = {
        "program": "train", "size": 1024, "slices": 1, "topology": "v5e:4x4", "chips": 16,
        "mesh": {"data": 1, "fsdp": 16}, "examples": 16, "remat": "full", "fits": False,
        "compile_seconds": 100.0, "hbm_per_chip_gib": 23.94, "hbm_available_gib": 15.75,
        "missing_gib": 8.19,
    }  # fmt: skip
    said = format_plan(plan)
    assert "Does not fit: a chip would need 23.94 GiB and has 15.75; 8.19 GiB are missing" in said
    assert (
        summary_line(plan) == "fsdp=16  16 examples  full: does not fit, 8.2 GiB a chip are missing"
    )


def test_meshes_by_flag():
    assert parse_mesh("data=1,fsdp=64") == MeshConfig(data=1, fsdp=64)
    assert parse_mesh("data=4") == MeshConfig(data=4, fsdp=-1)
    assert parse_mesh("data=-1,tensor=2") == MeshConfig(data=-1, fsdp=1, tensor=2)
    with pytest.raises(UserError, match="'fdsp=4' is not an axis and its size"):
        parse_mesh("data=1,fdsp=4")


def test_topologies_by_name():
    cube = parse_topology("v5p:4x4x4", slices=2)
    assert (cube.chips, cube.sizes, cube.chip.name) == (128, (4, 4, 4), "v5p")
    for name in ("v5p-8", "v9:2x2", "v5p:2x2", "v5e:2x2x1"):
        with pytest.raises(UserError, match="--topology="):
            parse_topology(name)


def test_links_of_a_group():
    """All six of a closed cube; half of them on lines; one where a group is a line."""
    cube, board = parse_topology("v5p:4x4x4"), parse_topology("v5p:2x2x1")
    assert cube.bandwidth((4, 4, 4)) == pytest.approx(540e9)
    assert cube.bandwidth((4, 1, 1)) == pytest.approx(180e9)
    assert board.bandwidth((2, 2, 1)) == pytest.approx(180e9)
    assert parse_topology("v5e:16x16").bandwidth((16, 16)) == pytest.approx(180e9)
    assert parse_topology("v5e:8x8").bandwidth((8, 8)) == pytest.approx(90e9)
