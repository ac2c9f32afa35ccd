"""NVIDIA's attention, through jax.nn: for GPUs that have no kernel of ours, and to compare with."""

from typing import Any

import jax
import jax.numpy as jnp


def attention_cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, *, kv_lengths: jax.Array | None, causal: bool
) -> jax.Array:
    """See `attention`; bfloat16 operands."""
    rows = [x.swapaxes(1, 2) for x in (q, k, v)]  # (B, L, H, K), as cuDNN lays them out
    lengths: dict[str, Any] = {}
    if kv_lengths is not None:
        lengths["key_value_seq_lengths"] = kv_lengths
        lengths["query_seq_lengths"] = jnp.full_like(kv_lengths, q.shape[2])
    out = jax.nn.dot_product_attention(*rows, is_causal=causal, implementation="cudnn", **lengths)
    return out.swapaxes(1, 2)
