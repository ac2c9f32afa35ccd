"""bfloat16 parameters, gradients and moments, which rounding to nearest would break."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.config import OptimizerConfig
from step1x_jax.training.loop import train
from step1x_jax.training.step import train_step as step_module
from step1x_jax.training.step.optimizer import make_optimizer
from step1x_jax.training.step.precision import (
    cast_kernels,
    round_to_stored_dtypes,
    stochastic_round,
    to_float32,
)
from step1x_jax.training.step.train_step import abstract_state, init_state, make_train_step
from tests.training.tiny import batches, make_batch, tiny_config

pytestmark = pytest.mark.usefixtures("toy_model")
NOTHING = nnx.State({})


def bf16_config(steps=4, **optimizer):
    changes = {f"optimizer.{name}": value for name, value in optimizer.items()}
    dtypes = {"model.dtype": "bfloat16", "model.param_dtype": "bfloat16"}
    return override(tiny_config(steps=steps), dtypes | changes)


def test_rounding_goes_to_a_neighbour_and_is_right_on_average():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=50), 10.0 ** rng.uniform(-30, 30, 50)]).astype(np.float32)
    repeated = jnp.broadcast_to(x[:, None], (100, 10_000))
    rounded = np.asarray(stochastic_round(repeated, jax.random.key(0)), np.float64)
    down = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    step = 2.0 ** (np.floor(np.log2(np.abs(x.astype(np.float64)))) - 7)
    away = np.abs(rounded) - np.abs(down[:, None])
    assert np.isin(np.round(away / step[:, None], 6), (0, 1)).all()
    # The mean of 10000 Bernoulli draws: five standard errors.
    error = (rounded.mean(1) - x) / step
    assert np.abs(error).max() < 5 * 0.5 / 100
    assert 0.2 < (away > 0).mean() < 0.8


def test_rounding_leaves_what_bfloat16_has_and_what_is_not_finite():
    exact = np.float32([0, -0.0, 1, -2.5, 2.0**-130, np.inf, -np.inf, np.nan])
    exact = np.append(exact, np.uint32(0x7F800001).view(np.float32))  # a NaN of low bits only
    out = np.asarray(stochastic_round(jnp.asarray(exact), jax.random.key(3)), np.float32)
    np.testing.assert_array_equal(out, exact)


def test_arrays_are_rounded_independently_of_each_other():
    value = jnp.full((1000,), 1 + 2.0**-9, jnp.float32)  # half-way would be 2^-8
    old = {"a": jnp.zeros(1000, jnp.bfloat16), "b": jnp.zeros(1000, jnp.bfloat16)}
    new = round_to_stored_dtypes(old, {"a": value, "b": value}, jax.random.key(0))
    again = round_to_stored_dtypes(old, {"a": value, "b": value}, jax.random.key(0))
    np.testing.assert_array_equal(new["a"], again["a"])
    assert 300 < np.sum(np.asarray(new["a"] != new["b"])) < 450  # 2 * 1/4 * 3/4 of 1000


def test_parameters_move_at_the_learning_rate_of_fine_tuning():
    """1e-5 is 1/400 of a bfloat16 step at 1: with rounding to nearest nothing would move."""
    params = {"w": jnp.ones((200, 50), jnp.bfloat16)}
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-5, clip_norm=0.0), steps=100)
    state = optimizer.init(to_float32(params))

    @jax.jit
    def step(params, state, key):
        gradient = to_float32(jax.tree.map(jnp.ones_like, params))
        updates, state = optimizer.update(gradient, state, to_float32(params))
        return round_to_stored_dtypes(
            params, optax.apply_updates(to_float32(params), updates), key
        ), state

    for i in range(100):
        params, state = step(params, state, jax.random.key(i))
    moved = 1 - np.asarray(params["w"], np.float64).mean()
    # 100 steps of 1e-5; the standard error of 10^4 parameters that rarely jump by 2^-8.
    assert moved == pytest.approx(1e-3, abs=5 * (1e-3 * 2**-8 / 1e4) ** 0.5)


@pytest.mark.slow
def test_bfloat16_moments_decay_and_follow_the_float32_ones():
    """Rounded to nearest, 0.999 v is v, and v would never decay."""
    config = bf16_config(moment_dtype="bfloat16", clip_norm=0.0)
    optimizer = make_optimizer(config.optimizer, 10)
    params = {"w": jnp.ones(20_000)}
    exact = optimizer.init(params)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, exact)

    @jax.jit
    def both(exact, low, scale, key):
        gradient = {"w": scale * jnp.ones(20_000)}
        _, exact = optimizer.update(gradient, exact, params)
        _, new = optimizer.update(gradient, to_float32(low), params)
        return exact, round_to_stored_dtypes(low, new, key)

    for i in range(1001):
        exact, low = both(exact, low, 1.0 if i == 0 else 0.0, jax.random.key(i))
    nu = np.asarray(low[1][0].nu["w"], np.float64).mean()
    assert low[1][0].nu["w"].dtype == jnp.bfloat16
    assert nu == pytest.approx(1e-3 * 0.999**1000, rel=0.01)  # e^-1 of what it was
    assert float(exact[1][0].nu["w"][0]) == pytest.approx(1e-3 * 0.999**1000, rel=1e-3)


def test_dtypes_of_a_whole_state():
    config = bf16_config(moment_dtype="bfloat16")
    state = abstract_state(config, make_mesh(config.mesh))
    dtypes = {
        name: {x.dtype.name for x in jax.tree.leaves(tree)}
        for name, tree in (
            ("params", state.params), ("mu", state.opt_state[1][0].mu),
            ("nu", state.opt_state[1][0].nu), ("ema", state.ema),
        )
    }  # fmt: skip
    assert dtypes == {
        "params": {"bfloat16"}, "mu": {"bfloat16"}, "nu": {"bfloat16"}, "ema": {"float32"}
    }  # fmt: skip
    places = [x.sharding for x in jax.tree.leaves(state.params)]
    for tree in (state.opt_state[1][0].mu, state.opt_state[1][0].nu, state.ema):
        assert [x.sharding for x in jax.tree.leaves(tree)] == places


def test_kernels_alone_are_cast():
    state = {
        "proj": {"kernel": jnp.ones(3), "bias": jnp.ones(3), "lora_down": jnp.ones(3)},
        "query_norm": {"scale": jnp.ones(3)},
        "kernel_scale": jnp.ones(3),
    }
    cast = {jax.tree_util.keystr(p) for p, x in jax.tree_util.tree_leaves_with_path(
        cast_kernels(state, "bfloat16")) if x.dtype == jnp.bfloat16}  # fmt: skip
    assert cast == {"['proj']['kernel']"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        bf16_config(steps=5, moment_dtype="bfloat16"),
        bf16_config(steps=5, name="adafactor"),
    ],
    ids=["bfloat16 moments", "adafactor"],
)
def test_resuming_is_bit_for_bit(config, tmp_path):
    whole = train(config, tmp_path / "whole", batches)
    shorter = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=3))
    train(shorter, tmp_path / "run", batches)
    again = train(config, tmp_path / "run", batches)
    assert jax.tree.structure(again) == jax.tree.structure(whole)
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(x, y)
        assert (x.dtype, x.sharding) == (y.dtype, y.sharding)


@pytest.mark.slow
def test_a_run_in_bfloat16_learns(tmp_path):
    """The loss of one batch falls as in float32."""

    def losses(config):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        abstract = abstract_state(config, mesh)
        state, step = init_state(config, abstract), make_train_step(config, mesh, abstract)
        found = []
        for _ in range(40):
            state, metrics = step(state, make_batch(0), NOTHING)
            found.append(float(metrics["loss"]))
        return np.mean(found[:5]) - np.mean(found[-5:])

    whole = losses(tiny_config())
    assert whole > 0.1
    for optimizer in ({"moment_dtype": "bfloat16"}, {"name": "adafactor"}):
        assert losses(bf16_config(**optimizer)) > 0.8 * whole


def gradient_seen(config, mesh, monkeypatch):
    """Return dtypes and shardings of the gradient in the compiled step."""
    seen = {}
    real = step_module.to_float32

    def witness(tree):
        if "gradient" not in seen:  # the first argument of the update
            seen["gradient"] = [x.dtype.name for x in jax.tree.leaves(tree)]
            seen["places"] = []
            for x in jax.tree.leaves(tree):
                jax.debug.inspect_array_sharding(x, callback=seen["places"].append)
        return real(tree)

    monkeypatch.setattr(step_module, "to_float32", witness)
    state = abstract_state(config, mesh)
    seen.clear()
    with jax.set_mesh(mesh):
        batch = {name: np.concatenate([x, x]) for name, x in make_batch(0).items()}
        make_train_step(config, mesh, state).lower(state, batch, NOTHING).compile()
    return seen, state


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=4)], ids=str)
def test_gradients_lie_as_their_parameters(mesh, accumulate, monkeypatch):
    config = override(tiny_config(), {"training.accumulate": accumulate, "data.batch_size": 16})
    seen, state = gradient_seen(config, make_mesh(mesh), monkeypatch)
    params = jax.tree.leaves(state.params)
    assert len(seen["places"]) == len(params) > 3
    for place, x in zip(seen["places"], params, strict=True):
        assert place.is_equivalent_to(x.sharding, x.ndim)
    assert any(not x.sharding.is_fully_replicated for x in params)
    assert set(seen["gradient"]) == {"float32"}
