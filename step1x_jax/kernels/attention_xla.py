"""Attention in plain JAX: the reference implementation for all kernels."""

import functools

import jax
import jax.numpy as jnp

from step1x_jax.kernels.last_key import last_key_counts


def attention_xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    kv_lengths: jax.Array | None,
    total_keys: int | None = None,
    causal: bool,
    segment_ids: jax.Array | None,
    key_mask: jax.Array | None = None,
) -> jax.Array:
    """Compute softmax(q k^T / sqrt(K)) v with float32 logits and softmax.

    B batch, H query heads, N key/value heads, G = H / N, Q queries, S keys, K head width.

    Args:
      q: (B, Q, H, K).
      k: (B, S, N, K).
      v: (B, S, N, K).
      kv_lengths: as in `attention`.
      total_keys: as in `attention`.
      causal: as in `attention`.
      segment_ids: as in `attention`.
      key_mask: as in `attention`.

    Returns:
      (B, Q, H, K) in q's dtype.
    """
    (b, q_len, h, head_dim), dtype = q.shape, q.dtype
    kv_len, n = k.shape[1], k.shape[2]
    scale = head_dim**-0.5
    scale_q = q.dtype == jnp.float32  # cheaper; bfloat16 queries would be rounded by it
    if scale_q:
        q = q * scale
    # heads before tokens: on CPUs twice as fast as matmuls whose batch axis is in the middle
    q = q.reshape(b, q_len, n, h // n, head_dim).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3)[:, :, None] for x in (k, v))
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    if not scale_q:
        logits = logits * scale

    masks = []  # each (B, Q, S)
    if kv_lengths is not None and total_keys is not None:
        bias = jnp.log(last_key_counts(kv_lengths, total_keys).astype(jnp.float32))
        is_last = jnp.arange(kv_len) == kv_lengths[:, None] - 1
        logits = logits + jnp.where(is_last, bias[:, None], 0)[:, None, None, None]
    if kv_lengths is not None:
        masks.append((jnp.arange(kv_len) < kv_lengths[:, None])[:, None, :])
    if causal:
        masks.append((jnp.arange(q_len)[:, None] >= jnp.arange(kv_len))[None])
    if segment_ids is not None:
        masks.append(segment_ids[:, :, None] == segment_ids[:, None, :])
    if key_mask is not None:
        masks.append(key_mask[:, None, :])
    if masks:
        mask = functools.reduce(jnp.logical_and, masks)
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)

    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.matmul(weights, v, preferred_element_type=jnp.float32)
    return out.transpose(0, 3, 1, 2, 4).reshape(b, q_len, h, head_dim).astype(dtype)
