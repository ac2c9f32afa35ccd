"""Attention against a loop in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.errors import UserError
from tests.kernels.checks import attention

B, H, N, L, S, K = 2, 4, 2, 7, 9, 8


def reference(q, k, v, allowed):
    """Computes attention row by row; allowed (B, L, S) bool says which keys a query attends to."""
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(q.shape[:3]):
        keys = np.flatnonzero(allowed[b, i])
        scores = k[b, keys, h // group] @ q[b, i, h] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, i, h] = weights / weights.sum() @ v[b, keys, h // group]
    return out


def operands(queries, keys, heads=H, kv_heads=N, scale=1.0):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(B, queries, heads, K)) * scale
    k, v = rng.normal(size=(2, B, keys, kv_heads, K))
    return q, k, v


def run(q, k, v, **kwargs):
    return attention(jnp.float32(q), jnp.float32(k), jnp.float32(v), **kwargs)


# float32 rounding of dot products of width 8 and sums over at most 9 keys
TOLERANCE = 2e-6


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads(kv_heads):
    q, k, v = operands(L, S, kv_heads=kv_heads)
    want = reference(q, k, v, np.ones((B, L, S), bool))
    np.testing.assert_allclose(run(q, k, v), want, atol=TOLERANCE)


@pytest.mark.parametrize("lengths", [[1, 9], [4, 7]])
def test_kv_lengths_mask_keys_only(lengths):
    q, k, v = operands(L, S)
    allowed = np.broadcast_to(np.arange(S) < np.array(lengths)[:, None, None], (B, L, S))
    got = run(q, k, v, kv_lengths=jnp.array(lengths))
    np.testing.assert_allclose(got, reference(q, k, v, allowed), atol=TOLERANCE)


def test_causal():
    q, k, v = operands(L, L)
    allowed = np.broadcast_to(np.tri(L, dtype=bool), (B, L, L))
    got = run(q, k, v, causal=True)
    np.testing.assert_allclose(got, reference(q, k, v, allowed), atol=TOLERANCE)


def test_segments():
    q, k, v = operands(L, L)
    segments = np.array([[0, 0, 1, 1, 1, 2, 0], [3, 3, 3, 3, 3, 3, 3]])
    allowed = segments[:, :, None] == segments[:, None, :]
    got = run(q, k, v, segment_ids=jnp.array(segments))
    np.testing.assert_allclose(got, reference(q, k, v, allowed), atol=TOLERANCE)


def test_large_logits_do_not_overflow():
    q, k, v = operands(L, S, scale=1e4)
    got = run(q, k, v)
    want = reference(q, k, v, np.ones((B, L, S), bool))
    # one key dominates each row; float32 logits of 1e4 have steps of 1e-3
    np.testing.assert_allclose(got, want, atol=5e-3)


def test_softmax_is_float32_for_bfloat16():
    q, k, v = (jnp.bfloat16(x) for x in operands(L, S))
    got = attention(q, k, v)
    assert got.dtype == jnp.bfloat16
    want = reference(*(np.float64(x) for x in (q, k, v)), np.ones((B, L, S), bool))
    # weights and result are rounded to 8 bits, by 2^-8 each; values are up to about 3
    np.testing.assert_allclose(np.float64(got), want, atol=2e-2)


def test_gradient_against_finite_differences():
    q, k, v = operands(3, 4)
    lengths = jnp.array([2, 4])
    weights = np.random.default_rng(1).normal(size=q.shape)

    def loss(q):
        return jnp.sum(run(q, k, v, kv_lengths=lengths) * jnp.float32(weights))

    got = jax.grad(loss)(jnp.float32(q))
    direction = np.random.default_rng(2).normal(size=q.shape)
    allowed = np.broadcast_to(np.arange(4) < np.array([2, 4])[:, None, None], (B, 3, 4))
    ahead, behind = (reference(q + e * direction, k, v, allowed) for e in (1e-4, -1e-4))
    want = np.sum((ahead - behind) * weights) / 2e-4  # float64, error about 1e-7
    np.testing.assert_allclose(np.sum(np.float64(got) * direction), want, rtol=1e-4)


def test_unknown_implementation_is_refused():
    q, k, v = operands(L, S)
    with pytest.raises(UserError, match="'flash' is unknown; use one of xla"):
        run(q, k, v, implementation="flash")


def test_shapes_are_checked():
    q, k, v = operands(L, S)
    with pytest.raises(ValueError, match="expected"):
        run(q, k, v[:, :-1])
    with pytest.raises(ValueError, match="not a multiple"):
        run(q[:, :, :3], k, v)


def test_logits_are_float32_for_bfloat16():
    """bfloat16 logits of about 40 have steps of 0.25: weights would have errors of a tenth."""
    q, k, v = (jnp.bfloat16(x) for x in operands(L, S, scale=10.0))
    want = reference(*(np.float64(x) for x in (q, k, v)), np.ones((B, L, S), bool))
    np.testing.assert_allclose(np.float64(attention(q, k, v)), want, atol=2e-2)


def test_key_mask_hides_keys_but_not_queries():
    q, k, v = operands(S, S)
    visible = np.random.default_rng(1).random((B, S)) < 0.6
    visible[:, 0] = True
    allowed = np.tril(np.ones((S, S), bool)) & visible[:, None, :]
    want = reference(q, k, v, allowed)
    got = run(q, k, v, causal=True, key_mask=jnp.asarray(visible))
    np.testing.assert_allclose(got, want, atol=TOLERANCE)
    with pytest.raises(UserError, match="nor key_mask"):
        run(q, k, v, key_mask=jnp.asarray(visible), implementation="pallas_tpu")
