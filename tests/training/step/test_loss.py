"""Compare with closed forms; tests.golden checks the loss of the whole model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.training.step.loss import interpolate, rectified_flow_loss

KEY = jax.random.key(0)


def test_ends_of_the_way_are_picture_and_noise():
    clean, noise = jnp.full((3, 2, 2, 1), 5.0), jnp.full((3, 2, 2, 1), -1.0)
    noisy = interpolate(clean, noise, jnp.array([0.0, 1.0, 0.25]))
    np.testing.assert_allclose(noisy[:, 0, 0, 0], [5.0, -1.0, 3.5])


def test_loss_is_the_mean_square_distance_to_noise_minus_picture():
    clean, noise = jax.random.normal(KEY, (2, 3, 4, 4, 2))
    assert rectified_flow_loss(noise - clean, clean, noise) == 0
    assert rectified_flow_loss(noise - clean + 3, clean, noise) == pytest.approx(9)
    half = rectified_flow_loss((noise - clean).astype(jnp.bfloat16), clean, noise)
    assert half.dtype == jnp.float32
