"""Packing, positions, RoPE and timestep embedding against their definitions."""

import math

import jax.numpy as jnp
import numpy as np

from step1x_jax.models.embeddings import (
    apply_rope,
    pack,
    position_ids,
    rope_table,
    timestep_embedding,
    unpack,
)


def test_token_order_is_channel_row_column():
    latents = np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype(np.float32)
    tokens = np.asarray(pack(jnp.asarray(latents)))
    assert tokens.shape == (1, 6, 12)
    for row, column, c, ph, pw in np.ndindex(2, 3, 3, 2, 2):
        got = tokens[0, row * 3 + column, c * 4 + ph * 2 + pw]
        assert got == latents[0, 2 * row + ph, 2 * column + pw, c]


def test_unpack_inverts_pack():
    latents = np.random.default_rng(0).normal(size=(2, 6, 4, 16)).astype(np.float32)
    np.testing.assert_array_equal(unpack(pack(jnp.asarray(latents)), 6, 4), latents)


def test_positions_are_row_by_row():
    assert position_ids(4, 6).tolist() == [[0, r, c] for r in range(2) for c in range(3)]
    assert position_ids(2, 4, offset=1).tolist() == [[1, 1, 1], [1, 1, 2]]


def test_rope_equals_the_published_interleaved_pairs():
    """Half rotation of permuted columns equals the complex product on interleaved pairs."""
    axes, theta = (4, 6, 6), 10_000
    ids = np.random.default_rng(0).integers(0, 90, size=(5, 3))
    x = np.random.default_rng(1).normal(size=(2, 5, 3, 16))

    frequencies = [theta ** (-2 * j / d) for d in axes for j in range(d // 2)]
    position = np.repeat(ids, [d // 2 for d in axes], axis=1)  # one per pair
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * position * frequencies)[:, None]

    halves = np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
    got = apply_rope(jnp.float32(halves), rope_table(ids, axes, theta))
    want = np.concatenate([turned.real, turned.imag], axis=-1)
    # float32 rounding of values up to about 5
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_timestep_embedding_scales_by_1000_and_puts_cosines_first():
    t = np.array([0.0, 0.3, 1.0])
    got = np.asarray(timestep_embedding(jnp.float32(t)))
    assert got.shape == (3, 256)
    for i in (0, 1, 17, 127):
        angle = 1000 * t * math.exp(-math.log(10_000) * i / 128)
        # angles up to 1000 in float32 have steps of 6e-5
        np.testing.assert_allclose(got[:, i], np.cos(angle), atol=1e-4)
        np.testing.assert_allclose(got[:, 128 + i], np.sin(angle), atol=1e-4)
