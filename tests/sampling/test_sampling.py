"""Guidance and drivers. Schedule and trajectories are in tests/test_golden.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.sampling.config import SamplingConfig, sampling_from_json, sampling_to_json
from step1x_jax.sampling.guidance import Guidance, guide
from step1x_jax.sampling.noise import noise_from_seed
from step1x_jax.sampling.sampler import sample, sample_with_progress, scan_steps
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.sampling.step import Conditions, _jitted


class Flow(nnx.Module):
    """A velocity with a closed form: -text[0, 0] everywhere, plus the reference."""

    def __init__(self):
        self.one = nnx.Param(jnp.ones(()))

    def __call__(self, latents, reference, text, lengths, t):
        assert t.shape == (len(latents),)
        base = -text[:, 0, 0][:, None, None, None] * self.one * jnp.ones_like(latents)
        return base + (0 if reference is None else reference)


def conditions(positive, negative, reference=None):
    text = jnp.full((1, 2, 3), positive)
    return Conditions(
        reference, text, jnp.array([2]), jnp.full((1, 2, 3), negative), jnp.array([2])
    )


NOISE = jnp.zeros((1, 4, 4, 16))


def test_euler_integrates_the_guided_velocity():
    """The velocity is constant in time: x(0) = x(1) + guided value, whatever the steps."""
    c, u, scale = 2.0, 0.5, 3.0
    out = sample(Flow(), conditions(c, u), NOISE, timesteps(5, 4), Guidance(scale, truncate=1.0))
    np.testing.assert_allclose(out, u + scale * (c - u), rtol=1e-6)


def test_both_drivers_agree_and_the_loop_shows_every_step():
    seen = []
    arguments = (
        Flow(),
        conditions(1.0, -1.0, jax.random.normal(jax.random.key(0), (1, 4, 4, 16))),
        noise_from_seed(3, (1, 4, 4, 16)),
        timesteps(6, 4),
        Guidance(4.0, 0.93),
    )
    looped = sample_with_progress(*arguments, show=lambda step, x: seen.append((step, x)))
    scanned = sample(*arguments)
    np.testing.assert_allclose(looped, scanned, rtol=1e-5, atol=1e-6)  # float32 rounding
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(seen[-1][1], looped)


def test_other_settings_compile_nothing():
    """Of the same shapes: the scale of guidance is a number that the program is given."""
    model, given = Flow(), conditions(1.0, -1.0)
    compiled = []
    for scale, truncate in ((2.0, 0.5), (3.0, 0.5), (3.0, 0.9)):
        sample(model, given, NOISE, timesteps(3, 4), Guidance(scale, truncate))
        compiled.append(_jitted(scan_steps, ())._cache_size())
    assert compiled[0] == compiled[1] == compiled[2]


def test_damping_divides_by_the_norm_of_a_token_to_the_power_0_4():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(1, 4, 4, 16))
    difference = rng.normal(size=(1, 4, 4, 16)) * 0.01
    difference[:, :2, :2] *= 1000  # one token with a norm over 1, the others below
    for t, damped in ((0.94, True), (0.93, False), (0.5, False)):
        want = u.copy()
        for row, column in np.ndindex(2, 2):
            token = np.s_[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            norm = np.linalg.norm(difference[token])
            factor = norm**0.4 if damped and norm > 1 else 1
            want[token] += 6 * difference[token] / factor
        got = guide(jnp.float32(u + difference), jnp.float32(u), Guidance(6.0, 0.93), t)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)  # float32 of values to 200


def test_equal_conditions_need_no_guidance():
    """The norm is 0 there."""
    x = jnp.ones((1, 2, 2, 16))
    np.testing.assert_array_equal(guide(x, x, Guidance(6.0, 0.93), 1.0), x)


def test_schedule_shift_overrides_the_resolution():
    linear = timesteps(4, 10_000, shift=1.0)
    np.testing.assert_allclose(linear, [1, 0.75, 0.5, 0.25, 0], rtol=1e-6)
    t = timesteps(4, 16, shift=3.0)[2]
    np.testing.assert_allclose(t, 3 * 0.5 / (1 + 2 * 0.5), rtol=1e-6)


def test_defaults_are_the_published_ones():
    config = SamplingConfig()
    assert (config.num_steps, config.guidance) == (28, 6.0)
    assert (config.truncate_for("v1.0"), config.truncate_for("v1.1")) == (1.0, 0.93)


def test_defaults_travel_in_config_json():
    config = SamplingConfig(size=128, num_steps=10, guidance=1.5, shift=1.5, speed="fast")
    assert sampling_from_json(sampling_to_json(config)) == config
    assert "sample_speed" not in sampling_to_json(SamplingConfig())  # as before there was a choice
    with pytest.raises(UserError, match="speed is 'quick'"):
        sampling_from_json({"sample_speed": "quick"})
    with pytest.raises(UserError, match="num_steps is 0"):
        sampling_from_json({"sample_steps": 0})
