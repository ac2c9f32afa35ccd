"""Checks shared by all implementations of attention, against a float64 reference."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from step1x_jax.kernels import attention as kernels


class Shape(NamedTuple):
    """B batch, H heads, N key/value heads, L queries, S keys, K head width."""

    b: int
    h: int
    n: int
    q_len: int
    kv_len: int
    head_dim: int
    kv_lengths: tuple[int, ...] | None = None
    scale: float = 1.0  # factor on the queries
    total_keys: int | None = None


# The names say what makes a shape difficult.
SHAPES = {
    "one block": Shape(1, 2, 2, 128, 128, 128),
    "no multiple of any block": Shape(1, 1, 1, 1000, 905, 64),
    "smaller than a block": Shape(1, 2, 2, 7, 9, 16),
    "a single valid key": Shape(2, 1, 1, 40, 200, 16, (1, 200)),
    "lengths in different blocks": Shape(3, 1, 1, 260, 900, 16, (896, 897, 10)),
    "grouped heads": Shape(2, 4, 2, 33, 65, 64, (65, 30)),
    "large logits": Shape(1, 1, 1, 60, 300, 128, None, 40.0),
    # counts from 1 to 891, and a length that is a multiple of every block
    "last keys count": Shape(4, 1, 1, 260, 900, 16, (896, 900, 10, 128), total_keys=900),
    "more keys than rows": Shape(3, 4, 2, 33, 65, 64, (1, 64, 65), total_keys=300),
    "the last of all rows counts": Shape(1, 2, 2, 128, 128, 128, total_keys=500),
}
NORM_SHAPES = {
    "one norm": (Shape(2, 2, 2, 130, 130, 128, (130, 77)), 0, 1.0),
    "two norms": (Shape(1, 2, 2, 1000, 1000, 64), 700, 1.0),
    "narrow heads": (Shape(1, 1, 1, 50, 50, 16, (31,)), 20, 1.0),
    "queries so small that eps counts": (Shape(1, 1, 1, 40, 40, 16, None, 1e-3), 0, 1.0),
    # base-2 logits up to about 370: without a maximum, 2^370 overflows float32
    "unbounded logits": (Shape(1, 1, 1, 200, 200, 128, (150,)), 0, 8.0),
    "last keys count": (Shape(3, 2, 2, 300, 300, 16, (256, 300, 17), total_keys=310), 250, 1.0),
    "unbounded last keys": (Shape(1, 1, 1, 200, 200, 128, (150,), total_keys=640), 0, 8.0),
}


def operands(shape: Shape, dtype=np.float32, seed=0):
    """Returns [q, k, v, do], each (B, L, H, K) and drawn non-contiguous, and kv_lengths."""
    rng = np.random.default_rng(seed)

    def draw(heads, rows):
        x = rng.normal(size=(shape.b, heads, rows, shape.head_dim))
        return x.transpose(0, 2, 1, 3)

    q, do = draw(shape.h, shape.q_len) * shape.scale, draw(shape.h, shape.q_len)
    k, v = draw(shape.n, shape.kv_len), draw(shape.n, shape.kv_len)
    kv_lengths = None if shape.kv_lengths is None else jnp.array(shape.kv_lengths, jnp.int32)
    return [jnp.asarray(x, dtype) for x in (q, k, v, do)], kv_lengths


def attention(q, k, v, **options):
    """Calls the package's `attention` with arrays (B, L, H, K)."""
    flat = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    return kernels.attention(*flat, head_dim=q.shape[-1], **options).reshape(q.shape)


def qk_norm_rope_attention(q, k, v, q_scale, k_scale, rope, **options):
    """Calls the package's `qk_norm_rope_attention` with arrays (B, L, H, K)."""
    flat = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    out = kernels.qk_norm_rope_attention(*flat, q_scale, k_scale, rope, **options)
    return out.reshape(q.shape)


def norm_operands(shape: Shape, split: int, size: float, seed=1):
    """Returns two scales (M, K) of about `size`, and cosines and sines (2, L, K)."""
    rng = np.random.default_rng(seed)
    m = 2 if split else 1
    scales = size * (1 + 0.3 * rng.normal(size=(2, m, shape.head_dim)))
    angles = rng.uniform(0, 6, size=(shape.q_len, shape.head_dim // 2))
    cos, sin = np.cos(angles), np.sin(angles)
    rope = np.stack([np.concatenate([cos, cos], 1), np.concatenate([-sin, sin], 1)])
    return [jnp.asarray(x, jnp.float32) for x in (*scales, rope)]


def plain_attention(q, k, v, lengths, total_keys=None):
    """Computes softmax(q k^T / sqrt(K)) v without any optimization."""
    if total_keys is not None:  # every example gets its last key as often as it counts
        lengths = np.full(len(k), k.shape[1]) if lengths is None else np.asarray(lengths)
        rows = np.minimum(np.arange(total_keys), lengths[:, None] - 1)
        k, v = (jnp.stack([x[i] for x, i in zip(both, rows, strict=True)]) for both in (k, v))
        lengths = None
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    logits = jnp.einsum("bqhk,bshk->bhqs", q, k) / np.sqrt(q.shape[-1])
    if lengths is not None:
        valid = jnp.arange(k.shape[1]) < lengths[:, None, None, None]
        logits = jnp.where(valid, logits, -jnp.inf)
    return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(logits, axis=-1), v)


def plain_norm_rope(x, scales, rope, split):
    """Applies RMSNorm with each token's scale, and rotates the pairs (i, i + K/2)."""
    per_token = jnp.repeat(scales, jnp.array([split, x.shape[1] - split])[-len(scales) :], axis=0,
                           total_repeat_length=x.shape[1])  # fmt: skip
    x = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * per_token[:, None]
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    cos, sin = rope[0, :, None, :half], rope[1, :, None, half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def in_float64(function, inputs, do):
    """Returns the value and the gradients of `function` at these inputs, in float64."""
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in inputs]
        value, vjp = jax.vjp(function, *wide)
        return [np.asarray(x) for x in (value, *vjp(jnp.asarray(np.asarray(do, np.float64))))]


def assert_close(got, want, names, tolerance):
    """Compares arrays with a tolerance relative to the largest entry of each."""
    for a, b, name in zip(got, want, names, strict=True):
        assert a.shape == b.shape, name
        error = np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), 1e-12)
        assert error <= tolerance, f"{name}: {error:.1e}"


def check(attention, shape: Shape, dtype, tolerance):
    """Compares the output and the gradients of q, k and v with the float64 reference."""
    (q, k, v, do), lengths = operands(shape, dtype)
    keys = {"kv_lengths": lengths, "total_keys": shape.total_keys}
    value, vjp = jax.vjp(lambda *x: attention(*x, **keys), q, k, v)
    assert value.dtype == q.dtype
    want = in_float64(lambda *x: plain_attention(*x, lengths, shape.total_keys), (q, k, v), do)
    assert_close([value, *vjp(do)], want, ["o", "dq", "dk", "dv"], tolerance)


def check_fused(fused, shape: Shape, split: int, size: float, dtype, tolerance):
    """Compares the output and the gradients of q, k, v and both scales with the reference."""
    (q, k, v, do), lengths = operands(shape, dtype)
    q_scale, k_scale, rope = norm_operands(shape, split, size)
    keys = {"kv_lengths": lengths, "total_keys": shape.total_keys}
    value, vjp = jax.vjp(
        lambda q, k, v, a, b: fused(q, k, v, a, b, rope, split=split, **keys),
        q, k, v, q_scale, k_scale,
    )  # fmt: skip

    def reference(q, k, v, a, b):
        table = np.asarray(rope, np.float64)
        q, k = plain_norm_rope(q, a, table, split), plain_norm_rope(k, b, table, split)
        return plain_attention(q, k, v, lengths, shape.total_keys)

    want = in_float64(reference, (q, k, v, q_scale, k_scale), do)
    names = ["o", "dq", "dk", "dv", "dq_scale", "dk_scale"]
    assert_close([value, *vjp(do)], want, names, tolerance)
