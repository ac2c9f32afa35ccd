"""The step on one device and on eight; its gradient is checked by tests.golden."""

import jax
import numpy as np
import pytest

from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.step import (
    abstract_state,
    init_state,
    make_train_step,
    state_from_params,
    stream,
)
from tests.training.tiny import make_batch, tiny_config

STEPS = 3


def run(mesh):
    """States before and after each step (on the host), metrics of each step, the last state."""
    config = tiny_config()
    with jax.set_mesh(mesh):
        state = init_state(config, mesh)
        train_step = make_train_step(config, mesh)
        states, metrics = [jax.device_get(state)], []
        for step in range(STEPS):
            state, values = train_step(state, make_batch(step))
            states.append(jax.device_get(state))
            metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics, state


@pytest.fixture(scope="module")
def one_device():
    return run(make_mesh(MeshConfig(), jax.devices()[:1]))


@pytest.mark.parametrize("config", [MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=4)])
def test_a_mesh_changes_rounding_only(one_device, config):
    """Losses to 1e-5 relative: float32 sums of 8 parts in another order, three steps long."""
    states, metrics, state = run(make_mesh(config))
    for there, here in zip(one_device[1], metrics, strict=True):
        for name in there:
            np.testing.assert_allclose(here[name], there[name], rtol=1e-5, err_msg=name)
    # the same random start, whatever the mesh
    for there, here in zip(
        jax.tree.leaves(one_device[0][0]), jax.tree.leaves(states[0]), strict=True
    ):
        np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-7)

    # moments and moving average lie as their parameters do, and these are really split
    places = [x.sharding for x in jax.tree.leaves(state.params)]
    adam = state.opt_state[1][0]
    for tree in (adam.mu, adam.nu, state.ema):
        assert [x.sharding for x in jax.tree.leaves(tree)] == places
    kernel = state.params["transformer"]["single_blocks"]["mlp_in"]["kernel"].get_value()
    assert kernel.addressable_shards[0].data.size * config.fsdp == kernel.size


def test_metrics_and_moving_average(one_device):
    states, metrics, _ = one_device
    for step in range(STEPS):
        before, after = states[step], states[step + 1]
        assert after.step == step + 1
        norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(after.params)))
        assert metrics[step]["param_norm"] == pytest.approx(norm, rel=1e-6)
        for ema, old, new in zip(
            *map(jax.tree.leaves, (after.ema, before.ema, after.params)), strict=True
        ):
            np.testing.assert_allclose(ema, 0.5 * old + 0.5 * new, atol=1e-6)
    assert [m["learning_rate"] for m in metrics] == pytest.approx([0.005, 0.01, 0.01])


def test_the_loss_falls_on_one_batch():
    config = tiny_config()
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        state, train_step = init_state(config, mesh), make_train_step(config, mesh)
        losses = []
        for _ in range(30):
            state, values = train_step(state, make_batch(0))
            losses.append(float(values["loss"]))
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])


def test_given_parameters_start_at_step_zero(one_device):
    config = tiny_config()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    state = state_from_params(config, mesh, jax.device_put(one_device[0][2].params))
    for ours, given in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(one_device[0][2].params), strict=True
    ):
        np.testing.assert_array_equal(ours, given)
    assert int(state.step) == 0
    assert not any(x.any() for x in jax.tree.leaves(state.opt_state))


def test_abstract_state_is_the_state(one_device):
    abstract = abstract_state(tiny_config(), make_mesh(MeshConfig(), jax.devices()[:1]))
    state = one_device[2]
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for a, x in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (x.shape, x.dtype, x.sharding)


def test_streams_differ():
    keys = {str(jax.random.key_data(stream(*args))) for args in [(0, "a"), (0, "b"), (1, "a")]}
    assert len(keys) == 3
