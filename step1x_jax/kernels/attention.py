"""The one attention function of the package, and the choice of what computes it."""

import jax

from step1x_jax.errors import UserError
from step1x_jax.kernels.attention_xla import attention_xla

IMPLEMENTATIONS = {"xla": attention_xla}


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    kv_lengths: jax.Array | None = None,
    causal: bool = False,
    segment_ids: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Scaled dot-product attention, scale 1/sqrt(K), float32 softmax.

    Args:
      q: (B, H, L, K) float32 or bfloat16.
      k: (B, N, S, K), H a multiple of N (grouped key/value heads).
      v: (B, N, S, K).
      kv_lengths: (B,) int32 in 1..S; keys and values behind an example's length are ignored. Every
        query row is computed. None: all S.
      causal: query i sees keys 0..i only (S = L).
      segment_ids: (B, L) int32; a query sees the keys of its own segment only (S = L).
      implementation: a name in IMPLEMENTATIONS, or None for the best that runs here.

    Returns:
      (B, H, L, K) in q's dtype.

    Raises:
      UserError: for an unknown implementation.
      ValueError: for operands that do not fit together.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q {q.shape}, k {k.shape}, v {v.shape}: want (B, H, L, K), (B, N, S, K).")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads are no multiple of {k.shape[1]} key heads.")
    name = implementation or "xla"
    if name not in IMPLEMENTATIONS:
        raise UserError(
            f"attention implementation {name!r} is unknown; use one of"
            f" {', '.join(IMPLEMENTATIONS)}."
        )
    return IMPLEMENTATIONS[name](
        q, k, v, kv_lengths=kv_lengths, causal=causal, segment_ids=segment_ids
    )
