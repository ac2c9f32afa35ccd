"""cuDNN attention through jax.nn, the default on NVIDIA GPUs."""

from typing import Any

import jax
import jax.numpy as jnp

from step1x_jax.kernels.last_key import repeat_last_key


def attention_cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    kv_lengths: jax.Array | None,
    total_keys: int | None = None,
    causal: bool,
) -> jax.Array:
    """Compute `attention` of q (B, L, H, K), k and v (B, S, N, K), all bfloat16, by cuDNN."""
    lengths: dict[str, Any] = {}
    if kv_lengths is not None and total_keys is not None:
        # cuDNN takes a bias of shape (B, 1, L, S) only, and computes its gradient, too: reading it
        # for every head would cost more than the repeated keys do
        k, v = (repeat_last_key(x, kv_lengths, total_keys) for x in (k, v))
    elif kv_lengths is not None:
        lengths["key_value_seq_lengths"] = kv_lengths
        lengths["query_seq_lengths"] = jnp.full_like(kv_lengths, q.shape[1])
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation="cudnn", **lengths
    )
