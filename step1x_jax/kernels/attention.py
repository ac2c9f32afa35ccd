"""The attention functions of the package, and the choice of what computes them."""

import os

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from step1x_jax import choices
from step1x_jax.errors import UserError
from step1x_jax.kernels.attention_cudnn import attention_cudnn
from step1x_jax.kernels.attention_xla import attention_xla
from step1x_jax.kernels.flash import ATTENTION, Kernels, flash_attention, tokens_are_split
from step1x_jax.kernels.norm_rope import Norms, norm_rope, split_heads
from step1x_jax.kernels.platform import device_kind, platform
from step1x_jax.kernels.tuning import padded_length

HOPPER = ("H100", "H200", "H800", "H20")  # in the names of devices of compute capability 9.0
VARIABLE = "STEP1X_ATTENTION"  # for experiments: names the implementation where "auto" is asked


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    head_dim: int,
    kv_lengths: jax.Array | None = None,
    causal: bool = False,
    segment_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention, scale 1/sqrt(K), float32 softmax.

    Args:
      q: (B, L, H * K) float32 or bfloat16, as a matmul writes it: head h is columns h K to (h+1) K.
      k: (B, S, N * K), H a multiple of N (grouped key/value heads).
      v: (B, S, N * K).
      head_dim: K.
      kv_lengths: (B,) int32 in 1..S; keys and values behind an example's length are ignored. Every
        query row is computed. None: all S.
      causal: query i sees keys 0..i only (S = L).
      segment_ids: (B, L) int32; a query sees the keys of its own segment only (S = L).
      key_mask: (B, S) bool; no query sees a key where it is False. Slower than the others: in plain
        JAX only.
      implementation: one of choices.ATTENTION, or "auto", which takes what the environment's
        STEP1X_ATTENTION names, or else the best that runs here, where these support the arguments.

    Returns:
      (B, L, H * K) in q's dtype.

    Raises:
      UserError: for an implementation that is unknown, or cannot do what is asked here.
      ValueError: for operands that do not fit together.
    """
    _check_operands(q, k, v, head_dim)
    masked = segment_ids is not None or key_mask is not None
    name = choose(head_dim, q.dtype, causal=causal, segments=masked, implementation=implementation)
    if name in ("pallas_tpu", "pallas_gpu"):
        return flash_attention(_kernels(name), head_dim, q, k, v, kv_lengths)
    qh, kh, vh = (split_heads(x, head_dim) for x in (q, k, v))
    if name == "cudnn":
        out = attention_cudnn(qh, kh, vh, kv_lengths=kv_lengths, causal=causal)
    else:
        masks = {"segment_ids": segment_ids, "key_mask": key_mask}
        out = attention_xla(qh, kh, vh, kv_lengths=kv_lengths, causal=causal, **masks)
    return checkpoint_name(out.reshape(q.shape), ATTENTION)


def qk_norm_rope_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_scale: jax.Array,
    k_scale: jax.Array,
    rope: jax.Array,
    *,
    split: int = 0,
    kv_lengths: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """`attention` of queries and keys that are normalised and rotated on the way.

    RMSNorm over the width of a head (eps 1e-6) with a scale, then RoPE, both in float32. The TPU
    kernels do it as they load q and k, which so never lie in memory normalised and rotated (but
    where tokens are split over devices: then each does it for its own, once). The GPU kernels do it
    for the tiles that stay; what travels past them is turned once before, in each pass.

    Args:
      q: (B, L, H * K) as projected.
      k: (B, L, H * K) as projected.
      v: (B, L, H * K).
      q_scale: (M, K); M is 1, or 2 if the first `split` tokens have a norm of their own.
      k_scale: (M, K).
      rope: (2, L, K) float32 of `embeddings.rope_table`.
      split: how many tokens take the first of two scales.
      kv_lengths: as in `attention`.
      implementation: as in `attention`.

    Returns:
      (B, L, H * K) in v's dtype.

    Raises:
      UserError: as `attention`.
      ValueError: as `attention`.
    """
    head_dim = rope.shape[-1]
    _check_operands(q, k, v, head_dim)
    norms = Norms(*(jnp.asarray(x, jnp.float32) for x in (q_scale, k_scale, rope)))
    name = choose(head_dim, q.dtype, implementation=implementation)
    if name in ("pallas_tpu", "pallas_gpu") and not tokens_are_split():
        return flash_attention(_kernels(name), head_dim, q, k, v, kv_lengths, norms, split)
    q, k = (
        norm_rope(x, scale, norms.rope, split).astype(v.dtype)
        for x, scale in ((q, norms.q_scale), (k, norms.k_scale))
    )
    return attention(
        q, k, v, head_dim=head_dim, kv_lengths=kv_lengths, implementation=implementation
    )


def working_length(
    length: int, head_dim: int, dtype: jax.typing.DTypeLike, implementation: str = "auto"
) -> int:
    """How many tokens `qk_norm_rope_attention` works on where it is given `length`.

    Some kernels take multiples of a block only, and pad q, k and v each time. A caller that pads
    its tokens once, and says so by `kv_lengths`, saves that.

    Args:
      length: tokens.
      head_dim: K.
      dtype: of q, k and v.
      implementation: as in `attention`.
    """
    name = choose(head_dim, dtype, implementation=implementation)
    if name != "pallas_tpu" or tokens_are_split():
        return length
    return padded_length(device_kind(), length)


def choose(
    head_dim: int,
    dtype: jax.typing.DTypeLike,
    *,
    causal: bool = False,
    segments: bool = False,
    implementation: str = "auto",
) -> str:
    """The implementation for these arguments; see `attention`.

    Raises:
      UserError: for one that is unknown, or was asked for by name and cannot do it.
    """
    preferred = implementation
    if preferred == "auto":
        preferred = os.environ.get(VARIABLE, "auto")
    if preferred == "auto":
        # pallas_gpu has been compiled for Hopper GPUs, but not run on one: by name only until then
        preferred = {"tpu": "pallas_tpu", "gpu": "cudnn"}.get(platform(), "xla")
    elif preferred not in choices.ATTENTION:
        names = ", ".join(choices.ATTENTION)
        raise UserError(f"attention implementation {preferred!r} is unknown; use one of {names}.")
    reason = _reason_against(preferred, head_dim, jnp.dtype(dtype), causal, segments)
    if reason is None:
        return preferred
    if implementation != "auto":
        raise UserError(f"{implementation} attention {reason}; use 'xla', or leave the choice.")
    return "xla"


def _kernels(name: str) -> Kernels:
    # imported where they are needed: they bring Pallas, which takes as long as half of JAX
    if name == "pallas_tpu":
        from step1x_jax.kernels import attention_tpu

        return attention_tpu.KERNELS
    from step1x_jax.kernels import attention_gpu

    return attention_gpu.KERNELS


def _reason_against(
    name: str, head_dim: int, dtype: jnp.dtype, causal: bool, segments: bool
) -> str | None:
    """Why an implementation cannot do it here, or None."""
    where = platform()
    if name == "xla":
        return None
    if segments:
        return "has no segment_ids and no key_mask"
    if causal and name in ("pallas_tpu", "pallas_gpu"):
        return "has no causal mask"
    if name == "pallas_tpu":
        if where == "gpu":
            return "runs on TPUs, and interpreted on CPUs"
        if where == "tpu":
            from step1x_jax.kernels.attention_tpu import LANES

            if head_dim % LANES:
                return f"takes heads whose width is a multiple of {LANES}, not {head_dim}"
    if name == "pallas_gpu":
        if where == "tpu":
            return "runs on NVIDIA GPUs, and interpreted on CPUs"
        if where == "gpu" and not any(x in device_kind() for x in HOPPER):
            return f"runs on Hopper GPUs ({', '.join(HOPPER)}), not on {device_kind()}"
        if dtype != jnp.bfloat16:
            return f"takes bfloat16, not {dtype}"
        if head_dim not in (64, 128):
            return f"takes heads of 64 or 128, not {head_dim}"
        if where == "cpu" and jax.__version_info__ < (0, 11):
            return f"is interpreted on CPUs by jax 0.11 and newer, not {jax.__version__}"
    if name == "cudnn":
        if where != "gpu":
            return "runs on NVIDIA GPUs"
        if dtype == jnp.float32:
            return "takes bfloat16, not float32"
        if head_dim > 128 or head_dim % 8:
            return f"takes heads of up to 128, in steps of 8, not {head_dim}"
    return None


def _check_operands(q: jax.Array, k: jax.Array, v: jax.Array, head_dim: int) -> None:
    wrong = q.ndim != 3 or k.shape != v.shape or q.shape[0] != k.shape[0]
    if wrong or q.shape[2] % head_dim or k.shape[2] % head_dim:
        raise ValueError(
            f"q {q.shape}, k {k.shape}, v {v.shape}: want (B, L, H * {head_dim}),"
            f" (B, S, N * {head_dim})."
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{q.shape[2] // head_dim} query heads are no multiple of"
            f" {k.shape[2] // head_dim} key heads."
        )
