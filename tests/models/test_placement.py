"""Weights on a mesh: what is transferred, in which dtype, and the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.models.config import tiny
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.parallel.rules import batch_sharding, shardings
from step1x_jax.planning import hlo
from step1x_jax.planning.estimate import COLLECTIVES
from step1x_jax.training.step.train_step import abstract_state, make_train_step
from tests.kernels.test_tpu_compilation import tpu_mesh
from tests.models.test_step1x_edit import inputs
from tests.training.tiny import tiny_config


def gradients(mesh):
    """Returns the gradients of a bfloat16 model on a mesh, or on one device (None); 8 examples."""
    config = override(tiny(), {"dtype": "bfloat16"})
    graph, params = nnx.split(Step1XEdit(config, rngs=nnx.Rngs(0)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(tree, leaves)
    data = [jnp.concatenate([x + 0.1 * i for i in range(8 // len(x))]) for x in inputs(config)]
    data[3] = jnp.full((8,), 5, jnp.int32)

    def loss(params, *data):
        return jnp.mean(nnx.merge(graph, params)(*data) ** 2)

    if mesh is None:
        return jax.jit(jax.grad(loss))(params, *data)

    params = jax.device_put(params, shardings(params, mesh))
    data = [jax.device_put(x, batch_sharding(mesh)) for x in data]
    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss), out_shardings=shardings(params, mesh))(params, *data)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(MeshConfig(fsdp=8), marks=pytest.mark.slow),
        MeshConfig(data=2, fsdp=2, tensor=2),
    ],
)
def test_gradients_through_gathered_weights(config):
    """bfloat16 has 8 bits: each device rounds its partial sum before the reduction.

    Eight roundings of 2^-9 amount to about 2^-9 sqrt(8) = 0.6 % of a gradient's size, plus similar
    differences of activations; the tolerance of 3 % of each array's norm covers both. The
    connector's key biases do not affect the softmax: their gradients are rounding errors of 1e-6.
    """
    single, sharded = (
        jax.tree.leaves(gradients(None)),
        jax.tree.leaves(gradients(make_mesh(config))),
    )
    for ours, theirs in zip(sharded, single, strict=True):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert np.linalg.norm(ours - theirs) <= 0.03 * np.linalg.norm(theirs) + 1e-5


def test_without_a_mesh_there_are_no_sharding_constraints():
    """Nor on a mesh of one device; on other meshes they follow from the ambient mesh."""
    config = tiny()
    graph, params = nnx.split(Step1XEdit(config, rngs=nnx.Rngs(0)))

    def traced():
        return str(jax.make_jaxpr(lambda p: nnx.merge(graph, p)(*inputs(config)))(params))

    plain = traced()
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        assert "sharding_constraint" not in traced()
    assert "sharding_constraint" not in plain
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=8))):
        assert traced().count("sharding_constraint") > 20


@pytest.mark.slow
def test_on_tpus_weights_are_gathered_in_bfloat16_and_modulations_are_not(monkeypatch):
    """Compiled for four v5e chips (CPUs transfer bfloat16 as float32)."""
    mesh = tpu_mesh("v5e:2x2", monkeypatch)
    config = override(
        tiny_config(),
        {
            "model.dtype": "bfloat16",
            "model.hidden_size": 512,
            "model.num_heads": 4,
            "model.axes_dim": (16, 56, 56),
            "optimizer.ema_decay": 0.0,
        },
    )
    state = abstract_state(config, mesh)
    batch = {
        name: jax.ShapeDtypeStruct((4, *shape), kind, sharding=batch_sharding(mesh))
        for name, shape, kind in (
            ("target", (16, 16, 16), jnp.float32),
            ("source", (16, 16, 16), jnp.float32),
            ("text", (8, 24), jnp.float32),
            ("text_lengths", (), jnp.int32),
        )
    }
    with jax.set_mesh(mesh):
        text = make_train_step(config, mesh, state).lower(state, batch, nnx.State({}))
        text = text.compile().as_text()
    found = [
        (x.operation, array)
        for computation in hlo.parse_program(text).computations.values()
        for x in computation.instructions.values()
        if x.operation in COLLECTIVES
        for array in x.result
    ]
    weights = [(kind, a) for kind, a in found if a.bytes >= 2 * 512 * 512]
    assert len(weights) > 8
    assert {array.dtype for _, array in weights} == {"bf16"}
    # no modulation, (512, 6 * 512) or (512, 3 * 512), is gathered or summed
    assert not [a for _, a in found if 512 in a.sizes and {512 * 6, 512 * 3} & set(a.sizes)]
