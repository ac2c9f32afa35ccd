"""Compare with optax's factored RMS on single matrices, and layer by layer on stacks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from step1x_jax.models.config import PRESETS
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.config import OptimizerConfig, TrainConfig
from step1x_jax.training.step.adafactor import scale_by_factored_rms
from step1x_jax.training.step.optimizer import make_optimizer
from step1x_jax.training.step.train_step import abstract_state


def gradients(shape, steps=4):
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=shape))  # rows and columns that differ
    return [jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for _ in range(steps)]


@pytest.mark.parametrize("shape", [(128, 160), (200, 128), (3, 130, 2, 128), (64, 300), (7,)])
def test_as_in_optax(shape):
    """In optax the clipping of an update's RMS is a separate transformation."""
    theirs = optax.chain(optax.scale_by_factored_rms(decay_rate=0.8), optax.clip_by_block_rms(1.0))
    ours = scale_by_factored_rms()
    params = {"w": jnp.ones(shape)}
    our_state, their_state = ours.init(params), theirs.init(params)
    for gradient in gradients(shape):
        update, our_state = ours.update({"w": gradient}, our_state)
        wanted, their_state = theirs.update({"w": gradient}, their_state, params)
        np.testing.assert_allclose(update["w"], wanted["w"], rtol=2e-5, atol=1e-6)
    kept = sum(x.size for x in jax.tree.leaves(our_state.moments))
    factored = sorted(shape)[-2:][0] >= 128
    assert (kept < np.prod(shape) / 10) == factored


def test_layers_do_not_mix():
    """A stack gives the same updates as its layers one by one, including their clipping."""
    stack = gradients((2, 128, 130))
    stack = [g * jnp.array([1.0, 100.0])[:, None, None] for g in stack]
    optimizer = scale_by_factored_rms()
    variable = nnx.Param(jnp.ones((2, 128, 130)), out_sharding=("layers", "embed", "mlp"))
    state = optimizer.init(nnx.State({"w": variable}))
    single = [optimizer.init({"w": jnp.ones((128, 130))}) for _ in range(2)]
    for gradient in stack:
        update, state = optimizer.update(nnx.State({"w": variable.replace(gradient)}), state)
        for i in range(2):
            wanted, single[i] = optimizer.update({"w": gradient[i]}, single[i])
            np.testing.assert_allclose(update["w"].get_value()[i], wanted["w"], rtol=1e-5)


def test_the_first_step_has_the_size_of_the_learning_rate():
    """Updates are not scaled by the parameters' RMS, as in AdamW."""
    config = OptimizerConfig(name="adafactor", learning_rate=1e-3, clip_norm=0.0)
    optimizer = make_optimizer(config, steps=10)
    params = {"w": 50 * jnp.ones((128, 128)), "b": jnp.ones(5)}
    rng = np.random.default_rng(0)
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.choice([-1.0, 1.0], x.shape)), params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    for name in params:
        np.testing.assert_allclose(updates[name], -1e-3 * gradient[name], rtol=1e-5)


def test_moments_of_the_full_model_are_small_and_split_as_the_kernels_are():
    config = override(
        TrainConfig(model=PRESETS["step1x_edit_v1_1"]()), {"optimizer.name": "adafactor"}
    )
    mesh = make_mesh(MeshConfig(fsdp=8))
    state = abstract_state(config, mesh)
    sizes = [sum(x.size for x in jax.tree.leaves(t)) for t in (state.params, state.opt_state)]
    assert sizes[1] < sizes[0] / 200
    moments = state.opt_state[1].moments["transformer.single_blocks.mlp_in.kernel"]
    rows, columns = (moments[name].get_value() for name in ("rows", "columns"))
    assert (rows.shape, rows.sharding.spec) == ((38, 3072), jax.P(None, "fsdp"))
    assert (columns.shape, columns.sharding.spec) == ((38, 12288), jax.P(None, None))
