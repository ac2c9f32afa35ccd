"""Compare with AdamW written in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from step1x_jax.training.config import OptimizerConfig
from step1x_jax.training.step.optimizer import make_optimizer, make_schedule


def test_constant_after_warm_up():
    rate = make_schedule(OptimizerConfig(learning_rate=2.0, warmup_steps=4), steps=100)
    np.testing.assert_allclose([rate(s) for s in range(6)], [0.5, 1, 1.5, 2, 2, 2])


def test_no_warm_up_starts_at_the_peak():
    assert make_schedule(OptimizerConfig(learning_rate=2.0), steps=10)(0) == 2.0


def test_linear_is_flat_then_falls_to_zero():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="linear", warmup_steps=2, flat_fraction=0.4
    )
    rate = make_schedule(config, steps=10)
    expected = [0.5, 1, 1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0]
    np.testing.assert_allclose([rate(s) for s in range(12)], expected, rtol=1e-6)


@pytest.mark.parametrize("flat_fraction", [0.0, 1.0])
def test_linear_at_the_ends_of_flat_fraction(flat_fraction):
    config = OptimizerConfig(learning_rate=1.0, schedule="linear", flat_fraction=flat_fraction)
    rates = [float(make_schedule(config, steps=4)(s)) for s in range(4)]
    assert rates == ([1, 1, 1, 1] if flat_fraction else [1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_adamw(clip_norm):
    config = OptimizerConfig(
        learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.01, clip_norm=clip_norm
    )
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}
    ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    optimizer = make_optimizer(config, steps=5)
    state = optimizer.init(ours)
    m, v = (jax.tree.map(np.zeros_like, params) for _ in range(2))

    for count in range(1, 6):
        gradient = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)

        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        scale = clip_norm / norm if clip_norm and norm > clip_norm else 1.0
        for name, p in params.items():
            g = gradient[name] * scale
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.9 * v[name] + 0.1 * g**2
            m_hat, v_hat = m[name] / (1 - 0.8**count), v[name] / (1 - 0.9**count)
            params[name] = p - 0.1 * (m_hat / (np.sqrt(v_hat) + 1e-6) + 0.01 * p)
    for name in params:  # float32 against float64, five steps
        np.testing.assert_allclose(ours[name], params[name], atol=1e-5)
