"""Memory and time of an edit, against sums by hand and the released models' parameter counts."""

import jax
import pytest
from jax.sharding import PartitionSpec

from configs.finetune_1024 import get_config
from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.planning.chips import parse_topology
from step1x_jax.planning.compilation import compile_sample
from step1x_jax.planning.edit import HOST_BANDWIDTH, combine_programs, edit_meshes
from step1x_jax.planning.edit_memory import peak_gib, weights_gib
from step1x_jax.planning.plan import make_request, search_requests
from step1x_jax.planning.report import format_plan, ranking_key, summary_line
from step1x_jax.training.monitoring.flops import forward_flops
from tests.training.tiny import tiny_config

GIB = 2**30
TRANSFORMER = 12_427_800_384  # parameters of transformer and connector
EMBEDDED = 152_064 * 3584
QWEN = 8_292_166_656 - EMBEDDED  # without the output head
AUTOENCODER = 83_819_683
MODULATIONS = (19 * 2 * 6 + 38 * 3) * 3072**2  # kernels: six vectors per stream, or three
WEIGHTS = {"transformer": 20.0, "language_model": 14.0, "autoencoder": 0.5}


def test_the_fullest_moment():
    working = {"read": 4.0, "sample": 2.0, "decode": 3.0}
    assert peak_gib(WEIGHTS, working, offload=False) == 34.5 + 4
    assert peak_gib(WEIGHTS, working, offload=True) == 20.5 + 2  # sampling
    assert peak_gib(WEIGHTS, {"read": 9.0, "sample": 2.0}, offload=True) == 14.5 + 9  # reading
    assert peak_gib(WEIGHTS, {"decode": 30.0}, offload=True) == 0.5 + 30  # neither is resident


def test_weights_of_the_release_over_eight_devices():
    """Modulations and the embedding table are sharded over fsdp only, see parallel/rules.py.

    So are the connector's small matrices, and biases are replicated: 3 % of the rest.
    """
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4), jax.devices()[:8])
    found = weights_gib(ModelConfig(), mesh, None)
    expected = 2 * (TRANSFORMER - MODULATIONS) / 8 + 2 * MODULATIONS / 2
    assert found["transformer"] == pytest.approx(expected / GIB, rel=0.03)
    expected = 2 * (QWEN - EMBEDDED) / 8 + 2 * EMBEDDED / 2
    assert found["language_model"] == pytest.approx(expected / GIB, rel=0.01)
    assert found["autoencoder"] == 4 * AUTOENCODER / GIB  # whole, on the first


def test_blocks_in_8_bits():
    """One byte instead of two per value of the blocks' kernels, and float32 scales per row."""
    alone = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    d = 3072
    kernels = (19 * 2 * 12 + 38 * (7 + 5)) * d * d + MODULATIONS  # qkv, output and MLP
    rows = 19 * 2 * (3 + 1 + 4 + 1 + 6) * d + 38 * (7 + 1 + 3) * d
    expected = 2 * TRANSFORMER - kernels + 4 * rows
    found = weights_gib(ModelConfig(), alone, "int8")["transformer"] * GIB
    assert found == pytest.approx(expected, rel=1e-3)
    assert weights_gib(ModelConfig(), alone, "fp8")["transformer"] * GIB == found


@pytest.mark.parametrize("chips", [1, 4, 8])
def test_meshes_split_what_divides(chips):
    """Heads of both models are divisible, and the batch has no more shards than guidance needs."""
    language = MLLMConfig().language
    for mesh in edit_meshes(chips):
        assert mesh.data * mesh.fsdp * mesh.sequence * mesh.tensor == chips
        assert mesh.data * mesh.fsdp <= 2
        if mesh == edit_meshes(chips)[0]:
            assert ModelConfig().num_heads % mesh.tensor == 0
            assert language.num_key_value_heads % mesh.tensor == 0


def program(seconds, working=1.0):
    return {
        "compile_seconds": 5.0,
        "arguments_gib": 1.0,
        "working_gib": working,
        "estimated_seconds": seconds,
    }


def test_an_edit_from_its_programs():
    config = tiny_config()  # all models but the language model are small
    config = override(config, {"sampling.num_steps": 4})
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
    parts = {"read": program(0.5), "sample": program(8.0), "decode": program(0.25, 3.0)}
    plan = combine_programs(config, parse_topology("v5e:2x2"), mesh, 512, None, parts)
    assert plan["estimated_edit_seconds"] == 2 * 0.5 + 8 + 0.25  # with the negative instruction
    assert plan["estimated_step_seconds"] == 2.0
    weights = plan["weights_gib"]
    moved = (2 * weights["language_model"] + weights["transformer"]) * GIB
    assert plan["estimated_offload_seconds"] == pytest.approx(moved / HOST_BANDWIDTH)
    # of four chips in 8 s: four steps with both branches of guidance
    work = 4 * 2 * forward_flops(config.model, (64, 64))
    assert plan["estimated_mfu"] * 8.0 * 4 * 197e12 == pytest.approx(work)
    assert plan["peak_gib"]["resident"] == pytest.approx(sum(weights.values()) + 3)
    assert plan["fits"] == {"resident": True, "offloaded": True}
    said = format_plan(plan)
    assert "| language model | 3.86 |" in said
    assert "all models on the chips: 7.2 of 15.8 GiB: fits, 8.6 are left; --offload: 5.2 of" in said
    assert "9.2 s an edit (4 steps of 2000 ms)" in said
    full = combine_programs(
        config, parse_topology("v5e:2x2"), mesh, 512, None, parts | {"sample": program(None, 20.0)}
    )
    assert full["estimated_edit_seconds"] is None
    assert full["fits"] == {"resident": False, "offloaded": False}
    assert summary_line(full).startswith("fsdp=2,tensor=2: its time is not estimated")
    assert sorted([full, plan], key=ranking_key) == [plan, full]


@pytest.mark.slow
def test_what_is_sampled_is_one_picture_on_all_devices():
    """The picture is replicated on the devices, and the weights are sharded."""
    config = tiny_config()
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
    compiled = compile_sample(config, 64, mesh)
    alone = compile_sample(config, 64, make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]))
    assert 0.2 < compiled.arguments_gib / alone.arguments_gib < 0.4
    assert compiled.program is not None
    (_, _, noise, _), _ = compiled.program.input_shardings
    assert noise.is_fully_replicated
    assert compiled.program.out_tree.num_leaves == 1
    split = {sharding.spec for sharding in jax.tree.leaves(compiled.program.input_shardings[0][0])}
    assert any("fsdp" in spec for spec in split)
    assert PartitionSpec() in split or any(not any(spec) for spec in split)


def test_requests_of_an_edit():
    config = get_config()
    topology = parse_topology("v5e:2x2")
    with pytest.raises(UserError, match="an edit is of one picture on one slice"):
        make_request(config, topology, program="sample", size=64, examples=2)
    with pytest.raises(UserError, match="--quantize=int8 is for an edit"):
        make_request(config, topology, program="train", size=64, quantize="int8")


def test_the_search_tries_the_meshes(monkeypatch):
    monkeypatch.setattr("step1x_jax.planning.plan.topology_devices", lambda *_: jax.devices()[:4])
    wanted = make_request(
        get_config(), parse_topology("v5e:2x2"), program="sample", size=64, quantize="fp8"
    )
    assert wanted.config.mesh == MeshConfig(data=1, fsdp=2, tensor=2)
    tried = list(search_requests(wanted))
    assert [one.config.mesh for one in tried] == edit_meshes(4)
    assert {one.quantize for one in tried} == {"fp8"}
