"""Attention in plain JAX: the reference implementation for all kernels."""

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
    """Computes softmax(q k^T / sqrt(K)) v with float32 logits and softmax.

    B batch, H query heads, N key/value heads, G = H / N, Q queries, S keys, K head width.

    Args:
      q: (B, Q, H, K).
      k: (B, S, N, K).
      v: (B, S, N, K).
      kv_lengths: as in `attention`.
      causal: as in `attention`.
      segment_ids: as in `attention`.
      key_mask: as in `attention`.

    Returns:
      (B, Q, H, K) in q's dtype.
    """
    b, q_len, h, head_dim = q.shape
    kv_len, n = k.shape[1], k.shape[2]
    grouped = q.reshape(b, q_len, n, h // n, head_dim)
    logits = jnp.einsum("bqngk,bsnk->bngqs", grouped, k, preferred_element_type=jnp.float32)
    logits = logits * head_dim**-0.5

    mask = jnp.ones((1, 1, 1), bool)  # (B, Q, S)
    if kv_lengths is not None:
        mask = mask & (jnp.arange(kv_len) < kv_lengths[:, None])[:, None, :]
    if causal:
        mask = mask & (jnp.arange(q_len)[:, None] >= jnp.arange(kv_len))[None]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
    if key_mask is not None:
        mask = mask & key_mask[:, None, :]
    logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)

    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("bngqs,bsnk->bqngk", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(b, q_len, h, head_dim).astype(q.dtype)
