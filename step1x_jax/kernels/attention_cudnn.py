"""NVIDIA's attention, through jax.nn: for GPUs that have no kernel of ours, and to compare with."""

from typing import Any

import jax
import jax.numpy as jnp


def attention_cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, *, kv_lengths: jax.Array | None, causal: bool
) -> jax.Array:
    """See `attention`; bfloat16 operands."""
    lengths: dict[str, Any] = {}
    if kv_lengths is not None:
        lengths["key_value_seq_lengths"] = kv_lengths
        lengths["query_seq_lengths"] = jnp.full_like(kv_lengths, q.shape[1])
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation="cudnn", **lengths
    )
