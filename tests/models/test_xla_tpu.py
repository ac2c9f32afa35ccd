"""Each workaround of models/xla_tpu.py is still useful: compiled with and without it.

If one of these tests fails, XLA no longer needs the workaround: remove it.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from step1x_jax.models import layers, linear, xla_tpu
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.layers import (
    abstract,
    compute_all_modulations,
    compute_modulation,
    make_modulation,
    scan_blocks,
    stack_blocks,
)
from step1x_jax.models.transformer import SingleBlock
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.planning import hlo
from step1x_jax.planning.chips import parse_topology
from step1x_jax.planning.compilation import topology_devices
from step1x_jax.planning.estimate import estimate
from step1x_jax.planning.kernel_cycles import kernel_time
from step1x_jax.training.trainable_split import with_shardings
from tests.kernels.test_tpu_compilation import tpu_mesh

pytestmark = pytest.mark.slow  # they compile for TPUs
WIDTH, HEADS, TOKENS = 3072, 24, 8832  # the release at 1024 px: narrower blocks show no gain


def seconds():
    """Returns the planner's time of two single blocks, forward and backward, on a v6e chip."""
    topology = parse_topology("v6e:1x1")
    mesh = make_mesh(MeshConfig(), topology_devices(topology.name))
    config = ModelConfig(hidden_size=WIDTH, num_heads=HEADS, param_dtype="bfloat16")
    graph, params = abstract(
        lambda rngs: stack_blocks(2, lambda rngs: SingleBlock(config, rngs=rngs), rngs)
    )

    def loss(params, x, vec):
        blocks = nnx.merge(graph, params)
        rope = jnp.ones((2, TOKENS, config.head_dim))
        mods = compute_all_modulations(blocks.modulation, vec)
        x = scan_blocks(blocks, x, rope, None, None, remat="none", per_block=mods)
        return jnp.sum(x.astype(jnp.float32) ** 2)

    def array(*shape):
        place = NamedSharding(mesh, jax.P())
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(loss, argnums=(0, 1)))
        lowered = program.lower(
            with_shardings(params, mesh), array(1, TOKENS, WIDTH), array(1, WIDTH)
        )
        text = lowered.compile().as_text()
    found = estimate(
        hlo.parse_program(text),
        topology,
        lambda size: (1,),
        lambda x: kernel_time(x, topology.chip),
    )
    return found.total


usual_seconds = functools.cache(seconds)


def sum_gradient(y, addend):
    """Replaces `with_matmul_gradient` by the plain gradient of a sum."""
    return y + (addend - jax.lax.stop_gradient(addend)).astype(y.dtype)


def plain_bias(y, bias):
    return y + bias


@pytest.mark.parametrize(
    "without",
    [
        {(layers, "materialize"): lambda x: x},
        {(layers, "with_matmul_gradient"): sum_gradient, (linear, "add_bias"): plain_bias},
    ],
    ids=["materialize", "with_matmul_gradient"],
)
def test_a_step_takes_longer_without_the_workaround(monkeypatch, without):
    tpu_mesh("v6e:2x2", monkeypatch)  # prepares this process for compiling for TPUs
    usual = usual_seconds()
    for (module, name), replacement in without.items():
        monkeypatch.setattr(module, name, replacement)
    longer = seconds()
    print(f"{usual * 1e3:.3f} ms, without {longer * 1e3:.3f} ms")
    assert longer > 1.002 * usual


def test_without_gather_first_there_is_an_all_to_all(monkeypatch):
    mesh = tpu_mesh("v6e:2x2", monkeypatch)
    config = ModelConfig(hidden_size=WIDTH, num_heads=HEADS)
    graph, params = abstract(
        lambda rngs: make_modulation(3, WIDTH, gates=(), config=config, rngs=rngs)
    )
    split = NamedSharding(mesh, jax.P(("data", "fsdp")))
    vectors = jax.ShapeDtypeStruct((8, WIDTH), jnp.bfloat16, sharding=split)

    def has_all_to_all():
        with jax.set_mesh(mesh):
            program = jax.jit(lambda params, vec: compute_modulation(nnx.merge(graph, params), vec))
            text = program.lower(with_shardings(params, mesh), vectors).compile().as_text()
        return "all-to-all" in text

    assert not has_all_to_all()
    monkeypatch.setattr(xla_tpu, "gather_first", lambda x: x)
    assert has_all_to_all()
