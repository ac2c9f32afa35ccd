"""Attention in plain JAX: the reference for every kernel, and its documentation."""

import jax
import jax.numpy as jnp


def attention_xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    kv_lengths: jax.Array | None,
    causal: bool,
    segment_ids: jax.Array | None,
    key_mask: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v with float32 logits and softmax; see `attention`.

    B batch, H query heads, N key/value heads, G = H / N, Q queries, S keys, K head width.
    """
    b, length, h, width = q.shape
    size, n = k.shape[1], k.shape[2]
    grouped = q.reshape(b, length, n, h // n, width)
    logits = jnp.einsum("bqngk,bsnk->bngqs", grouped, k, preferred_element_type=jnp.float32)
    logits = logits * width**-0.5

    mask = jnp.ones((1, 1, 1), bool)  # (B, Q, S)
    if kv_lengths is not None:
        mask = mask & (jnp.arange(size) < kv_lengths[:, None])[:, None, :]
    if causal:
        mask = mask & (jnp.arange(length)[:, None] >= jnp.arange(size))[None]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
    if key_mask is not None:
        mask = mask & key_mask[:, None, :]
    logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)

    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("bngqs,bsnk->bqngk", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(b, length, h, width).astype(q.dtype)
