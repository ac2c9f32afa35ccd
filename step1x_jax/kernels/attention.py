"""The attention functions of the package, and the choice of their implementation."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from step1x_jax import choices
from step1x_jax.errors import UserError
from step1x_jax.kernels.attention_cudnn import attention_cudnn
from step1x_jax.kernels.attention_xla import attention_xla
from step1x_jax.kernels.flash import ATTENTION, Kernels, flash_attention, tokens_are_sharded
from step1x_jax.kernels.norm_rope import Norms, norm_rope, split_heads
from step1x_jax.kernels.platform import device_kind, platform
from step1x_jax.kernels.tuning import padded_length

HOPPER = ("H100", "H200", "H800", "H20")  # parts of the device names of compute capability 9.0
VARIABLE = "STEP1X_ATTENTION"  # environment variable that replaces "auto", for experiments


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    head_dim: int,
    kv_lengths: jax.Array | None = None,
    total_keys: int | None = None,
    causal: bool = False,
    segment_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Compute scaled dot-product attention with scale 1/sqrt(K) and a float32 softmax.

    Args:
      q: (B, L, H * K) float32 or bfloat16; head h is columns h * K to (h + 1) * K.
      k: (B, S, N * K), H a multiple of N (grouped-query attention).
      v: (B, S, N * K).
      head_dim: K.
      kv_lengths: (B,) int32 in 1..S; keys and values past an example's length are ignored. All
        queries are computed. None: all S keys are valid.
      total_keys: number of keys that every example attends to, at least its length: its last valid
        key stands for total_keys - kv_lengths[b] + 1 equal ones (their values included). The result
        is that of the repeated keys, and gradients of the last key are the sums over them. None:
        every key counts once.
      causal: query i attends to keys 0..i only (S = L).
      segment_ids: (B, L) int32; a query attends to the keys of its own segment only (S = L).
      key_mask: (B, S) bool; no query attends to a key where it is False. Slower than the other
        masks: only the implementation in plain JAX supports it.
      implementation: one of choices.ATTENTION, or "auto": the one named by the environment variable
        STEP1X_ATTENTION, or else the best one on this platform; plain JAX if that one does not
        support the arguments.

    Returns:
      (B, L, H * K) in q's dtype.

    Raises:
      UserError: the implementation is unknown, or does not support these arguments or the device.
      ValueError: the operands' shapes do not match.
    """
    _check_operands(q, k, v, head_dim)
    if total_keys is not None and causal:
        raise ValueError("total_keys: a causal mask would hide some of the equal keys")
    if total_keys is not None and kv_lengths is None:
        kv_lengths = jnp.full(k.shape[:1], k.shape[1], jnp.int32)
    masked = segment_ids is not None or key_mask is not None
    name = choose(head_dim, q.dtype, causal=causal, masked=masked, implementation=implementation)
    if name in ("pallas_tpu", "pallas_gpu"):
        kernels = _import_kernels(name)
        return flash_attention(kernels, head_dim, q, k, v, kv_lengths, total_keys)
    keys: dict[str, Any] = {"kv_lengths": kv_lengths, "total_keys": total_keys}
    qh, kh, vh = (split_heads(x, head_dim) for x in (q, k, v))
    if name == "cudnn":
        out = attention_cudnn(qh, kh, vh, **keys, causal=causal)
    else:
        masks: dict[str, Any] = {"segment_ids": segment_ids, "key_mask": key_mask}
        out = attention_xla(qh, kh, vh, **keys, causal=causal, **masks)
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
    total_keys: int | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Apply QK-norm and RoPE to q and k, then compute `attention`.

    QK-norm is RMSNorm over the head width (eps 1e-6) with a scale. Norm and RoPE are computed in
    float32. The TPU kernels apply both when they load q and k, so the normalised and rotated arrays
    are never stored in HBM. If tokens are sharded over devices, each device applies them once
    before the kernel. The GPU kernels apply them to their resident tiles; streamed arrays are
    normalised and rotated before the kernel, in each pass.

    Args:
      q: (B, L, H * K), the output of the projection.
      k: (B, L, H * K), the output of the projection.
      v: (B, L, H * K).
      q_scale: (M, K); M is 1, or 2 if the first `split` tokens have their own norm.
      k_scale: (M, K).
      rope: (2, L, K) float32 of `embeddings.rope_table`.
      split: number of leading tokens that use the first of two scales.
      kv_lengths: as in `attention`.
      total_keys: as in `attention`.
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
    if name in ("pallas_tpu", "pallas_gpu") and not tokens_are_sharded():
        kernels = _import_kernels(name)
        return flash_attention(kernels, head_dim, q, k, v, kv_lengths, total_keys, norms, split)
    q, k = (
        norm_rope(x, scale, norms.rope, split).astype(v.dtype)
        for x, scale in ((q, norms.q_scale), (k, norms.k_scale))
    )
    return attention(
        q, k, v,
        head_dim=head_dim, kv_lengths=kv_lengths, total_keys=total_keys,
        implementation=implementation,
    )  # fmt: skip


def working_length(
    length: int, head_dim: int, dtype: jax.typing.DTypeLike, implementation: str = "auto"
) -> int:
    """Return the number of tokens to which `qk_norm_rope_attention` pads `length` tokens.

    Some kernels take only multiples of a block size, and pad q, k and v in every call. A caller can
    avoid this by padding its tokens once and passing `kv_lengths`.

    Args:
      length: number of tokens.
      head_dim: K.
      dtype: dtype of q, k and v.
      implementation: as in `attention`.
    """
    name = choose(head_dim, dtype, implementation=implementation)
    if name != "pallas_tpu" or tokens_are_sharded():
        return length
    return padded_length(device_kind(), length)


def choose(
    head_dim: int,
    dtype: jax.typing.DTypeLike,
    *,
    causal: bool = False,
    masked: bool = False,
    implementation: str = "auto",
) -> str:
    """Return the name of the implementation that `attention` uses for these arguments.

    Args:
      head_dim: K.
      dtype: dtype of q, k and v.
      causal: whether there is a causal mask.
      masked: whether there are segment_ids or a key_mask.
      implementation: as in `attention`.

    Raises:
      UserError: the implementation is unknown, or was requested by name and does not support these
        arguments or the device.
    """
    preferred = implementation
    if preferred == "auto":
        preferred = os.environ.get(VARIABLE, "auto")
    if preferred == "auto":
        # pallas_gpu has been compiled for Hopper GPUs, but never run on one: use it only by name
        preferred = {"tpu": "pallas_tpu", "gpu": "cudnn"}.get(platform(), "xla")
    elif preferred not in choices.ATTENTION:
        names = ", ".join(choices.ATTENTION)
        raise UserError(f"attention implementation {preferred!r} is unknown; use one of {names}.")
    reason = _explain_unsupported(preferred, head_dim, jnp.dtype(dtype), causal, masked)
    if reason is None:
        return preferred
    if implementation != "auto":
        raise UserError(f"{implementation} attention {reason}; use 'xla' or 'auto'.")
    return "xla"


def _import_kernels(name: str) -> Kernels:
    # imported lazily: Pallas takes half as long to import as JAX itself
    if name == "pallas_tpu":
        from step1x_jax.kernels import attention_tpu

        return attention_tpu.KERNELS
    from step1x_jax.kernels import attention_gpu

    return attention_gpu.KERNELS


def _explain_unsupported(
    name: str, head_dim: int, dtype: jnp.dtype, causal: bool, masked: bool
) -> str | None:
    """Return why an implementation cannot be used here, or None if it can."""
    where = platform()
    if name == "xla":
        return None
    if masked:
        return "supports neither segment_ids nor key_mask"
    if causal and name in ("pallas_tpu", "pallas_gpu"):
        return "supports no causal mask"
    if name == "pallas_tpu":
        if where == "gpu":
            return "runs on TPUs, and on CPUs in interpret mode"
        if where == "tpu":
            from step1x_jax.kernels.attention_tpu import LANES

            if head_dim % LANES:
                return f"needs a head width that is a multiple of {LANES}, not {head_dim}"
    if name == "pallas_gpu":
        if where == "tpu":
            return "runs on NVIDIA GPUs, and on CPUs in interpret mode"
        if where == "gpu" and not any(x in device_kind() for x in HOPPER):
            return f"runs on Hopper GPUs ({', '.join(HOPPER)}), not on {device_kind()}"
        if dtype != jnp.bfloat16:
            return f"needs bfloat16, not {dtype}"
        if head_dim not in (64, 128):
            return f"needs a head width of 64 or 128, not {head_dim}"
        if where == "cpu" and jax.__version_info__ < (0, 11):
            return f"needs jax 0.11 or newer to run on CPUs, not {jax.__version__}"
    if name == "cudnn":
        if where != "gpu":
            return "runs on NVIDIA GPUs"
        if dtype == jnp.float32:
            return "needs bfloat16, not float32"
        if head_dim > 128 or head_dim % 8:
            return f"needs a head width of at most 128 and a multiple of 8, not {head_dim}"
    return None


def _check_operands(q: jax.Array, k: jax.Array, v: jax.Array, head_dim: int) -> None:
    mismatch = q.ndim != 3 or k.shape != v.shape or q.shape[0] != k.shape[0]
    if mismatch or q.shape[2] % head_dim or k.shape[2] % head_dim:
        raise ValueError(
            f"q {q.shape}, k {k.shape}, v {v.shape}: expected (B, L, H * {head_dim}) and twice"
            f" (B, S, N * {head_dim})."
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{q.shape[2] // head_dim} query heads are not a multiple of"
            f" {k.shape[2] // head_dim} key heads."
        )
