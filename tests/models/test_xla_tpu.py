"""Each workaround of models/xla_tpu.py still gains something: compiled with and without it.

Where one of these fails, XLA does by itself what was done for it: take the workaround away.
"""

import functools

import jax
import pytest

from configs.finetune_512 import get_config
from step1x_jax.models import layers, linear, xla_tpu
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.planning.chips import parse_topology
from step1x_jax.planning.compilation import compile_train
from step1x_jax.planning.plan import make_plan, request
from tests.kernels.test_tpu_compilation import tpu_mesh

pytestmark = pytest.mark.slow  # each compiles two steps of three blocks at their real width
TOPOLOGY = "v6e:2x2"


def small():
    """A training step of one double and two single blocks, at 512 px on four chips."""
    config = get_config()
    config.model.depth, config.model.depth_single_blocks, config.model.connector_depth = 1, 2, 1
    config.model.remat = "attention_qkv_mlp"
    topology = parse_topology(TOPOLOGY)
    mesh = MeshConfig(data=1, fsdp=4)
    return request(config, topology, program="train", size=512, mesh=mesh, examples=1)


@functools.cache
def seconds_with_all():
    return make_plan(small())["estimated_step_seconds"]


def sum_gradient(y, addend):
    """As `with_matmul_gradient`, by the plain gradient of a sum."""
    return y + (addend - jax.lax.stop_gradient(addend)).astype(y.dtype)


@pytest.mark.parametrize(
    ("name", "without", "gain"),
    [
        ("materialize", {(layers, "materialize"): lambda x: x}, 0.01),
        (
            "with_matmul_gradient",
            {
                (layers, "with_matmul_gradient"): sum_gradient,
                (linear, "add_bias"): lambda y, bias: y + bias,
            },
            0.01,
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_step_without_it_takes_longer(monkeypatch, name, without, gain):
    tpu_mesh(TOPOLOGY, monkeypatch)
    usual = seconds_with_all()
    for (module, attribute), replacement in without.items():
        monkeypatch.setattr(module, attribute, replacement)
    seconds = make_plan(small())["estimated_step_seconds"]
    print(f"{name}: {usual * 1e3:.2f} ms, without it {seconds * 1e3:.2f} ms")
    assert seconds > (1 + gain) * usual


def test_without_the_step_between_vectors_take_an_all_to_all(monkeypatch):
    mesh = tpu_mesh(TOPOLOGY, monkeypatch)

    def has_all_to_all():
        compiled = compile_train(small().config, 256, mesh)
        return "all-to-all" in compiled.program.as_text()

    assert not has_all_to_all()
    monkeypatch.setattr(xla_tpu, "gather_first", lambda x: x)
    assert has_all_to_all()
