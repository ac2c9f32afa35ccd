"""What a step draws, passes to the model and computes from its output."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.models import step1x_edit
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.step.train_step import abstract_state, init_state, make_train_step
from tests.training.tiny import make_batch, tiny_config


class Witness(nnx.Module):
    """A model that records its inputs; its velocity is a single parameter."""

    seen: ClassVar[list] = []

    def __init__(self, config, *, rngs):
        self.velocity = nnx.Param(jnp.full((1,), 0.25), out_sharding=(None,))

    def __call__(self, latents, reference, text, text_lengths, timesteps):
        jax.debug.callback(lambda *x: self.seen.append(x), latents, reference, timesteps)
        return self.velocity + jnp.zeros_like(latents)


def test_the_step_draws_anew_and_follows_its_closed_form(monkeypatch):
    """Timesteps with a tiny spread reveal shift and draws; the noise follows from x_t."""
    monkeypatch.setattr(step1x_edit, "Step1XEdit", Witness)
    config = override(
        tiny_config(),
        {"timesteps.std": 1e-4, "optimizer.ema_decay": 0.9, "optimizer.clip_norm": 1e-3},
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = abstract_state(config, mesh)
    train_step, state = make_train_step(config, mesh, abstract), init_state(config, abstract)
    batch = make_batch(0)
    clean = np.float64(batch["target"])
    mu = 0.5 + 0.65 * (2 * 3 - 256) / (4096 - 256)  # 2 x 3 tokens
    value, average, rates = 0.25, 0.25, [0.005, 0.01]
    noises, draws = [], []
    for number, rate in enumerate(rates):
        Witness.seen.clear()
        state, metrics = train_step(state, batch, nnx.State({}))
        jax.effects_barrier()
        ((noisy, reference, t),) = (map(np.float64, x) for x in Witness.seen)
        np.testing.assert_array_equal(reference, batch["source"])
        draws.append((np.log(t / (1 - t)) - mu) / 1e-4)
        assert np.abs(draws[-1]).max() < 5  # without the shift: thousands; with another: 30
        t = t[:, None, None, None]
        noises.append((noisy - (1 - t) * clean) / t)
        # 3072 draws: five standard errors
        assert abs(noises[-1].mean()) < 5 / 3072**0.5
        assert abs(noises[-1].std() - 1) < 5 / (2 * 3072) ** 0.5

        error = value - (noises[-1] - clean)
        assert metrics["loss"] == pytest.approx(np.mean(error**2), rel=1e-4)
        assert metrics["grad_norm"] == pytest.approx(abs(2 * error.mean()), rel=1e-2)
        if number == 0:  # Adam's first step has the size of the rate
            value -= rate * np.sign(error.mean())
            average = 0.9 * average + 0.1 * value
            (ema,) = jax.tree.leaves(state.ema)
            assert (state.step, ema[0]) == (1, pytest.approx(average, rel=1e-6))
    assert np.abs(noises[0] - noises[1]).max() > 1
    assert np.abs(draws[0] - draws[1]).max() > 0.1
    # With a shared key the first numbers of both would be equal.
    assert np.abs(draws[0] - noises[0].ravel()[: len(draws[0])]).max() > 0.1
