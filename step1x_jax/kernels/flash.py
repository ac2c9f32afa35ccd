"""The custom gradient and the shard_map around the flash-attention kernels of all platforms.

The compiler never partitions a kernel: each device runs it on its own shard of batch and heads.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from step1x_jax.kernels.last_key import last_key_counts
from step1x_jax.kernels.mesh_axes import BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS
from step1x_jax.kernels.norm_rope import Norms, pad, split_heads
from step1x_jax.kernels.ring import ring_backward, ring_forward

# The name of attention output and log-sum-exp for jax.checkpoint. If a policy saves them, the
# backward pass does not run the forward kernel again.
ATTENTION = "attention"


class Kernels(NamedTuple):
    """A platform's kernels. B batch, H heads, L queries, S keys, K head width.

    Attributes:
      forward: (head_dim, q, k, v, kv_lengths, last_key_bias, norms, split) -> (o, lse). q is
        (B, L, H * K), k and v are (B, S, H * K), kv_lengths is (B,) int32, last_key_bias is None or
        (B,) float32, added to the base-2 logits of key kv_lengths - 1, norms is a Norms or None,
        and the first `split` tokens use the first of two norms. o is (B, L, H * K); lse
        (B, H, 1, L) float32 is log2 of the softmax's denominators.
      backward: (the same arguments, o, lse, do) -> (dq, dk, dv, scale gradients). The last is a
        tuple of the gradients of q_scale and k_scale, empty without norms.
    """

    forward: Callable[..., tuple[jax.Array, jax.Array]]
    backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]]


def flash_attention(
    kernels: Kernels,
    head_dim: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array | None,
    total_keys: int | None = None,
    norms: Norms | None = None,
    split: int = 0,
) -> jax.Array:
    """Compute `attention` by flash kernels, which never store the logits. Differentiable.

    Under a mesh, the batch is sharded over BATCH_AXES and heads over TENSOR_AXIS, each if its size
    is divisible. Tokens are sharded over SEQUENCE_AXIS (ring.py), padded if necessary.

    Args:
      kernels: the platform's kernels.
      head_dim: K.
      q: (B, L, H * K).
      k: (B, S, N * K), H a multiple of N.
      v: (B, S, N * K).
      kv_lengths: (B,) int32 or None, as in `attention`.
      total_keys: as in `attention`.
      norms: the parameters of QK-norm and RoPE, applied by the kernels; None: neither is applied.
      split: number of leading tokens that use the first of two norms.

    Returns:
      (B, L, H * K) in q's dtype.

    Raises:
      ValueError: norms are given although the mesh shards tokens.
    """
    b, h, s = q.shape[0], q.shape[2] // head_dim, k.shape[1]
    if kv_lengths is None:
        kv_lengths = jnp.full((b,), s, jnp.int32)
    last_key_bias = None
    if total_keys is not None:
        last_key_bias = jnp.log2(last_key_counts(kv_lengths, total_keys).astype(jnp.float32))
    if k.shape[2] != q.shape[2]:  # grouped-query attention
        k, v = (_repeat_heads(x, h, head_dim) for x in (k, v))
    run = functools.partial(_flash, kernels, head_dim, split)
    sizes = jax.sharding.get_abstract_mesh().shape
    if math.prod(sizes.values()) == 1:
        return run(q, k, v, kv_lengths, last_key_bias, norms)
    batch_shards = math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)
    batch = BATCH_AXES if b % batch_shards == 0 else None
    ring = sizes.get(SEQUENCE_AXIS, 1)
    heads = TENSOR_AXIS if TENSOR_AXIS in sizes and h % sizes[TENSOR_AXIS] == 0 else None
    spec = PartitionSpec(batch, SEQUENCE_AXIS if ring > 1 else None, heads)
    per_example, replicated = PartitionSpec(batch), PartitionSpec()
    if ring == 1:
        specs = (spec, spec, spec, per_example, per_example, replicated)
        sharded = jax.shard_map(run, in_specs=specs, out_specs=spec, check_vma=False)
        return sharded(q, k, v, kv_lengths, last_key_bias, norms)
    if norms is not None:
        raise ValueError("ring attention takes no norms: normalise and rotate q and k before it")
    padded = [pad(x, 1, x.shape[1] + -x.shape[1] % ring) for x in (q, k, v)]
    run = functools.partial(_ring, kernels, head_dim)
    sharded = jax.shard_map(
        run,
        in_specs=(spec, spec, spec, per_example, per_example),
        out_specs=spec,
        check_vma=False,
    )
    return sharded(*padded, kv_lengths, last_key_bias)[:, : q.shape[1]]


def _repeat_heads(x: jax.Array, heads: int, head_dim: int) -> jax.Array:
    """Repeat each key/value head: (B, S, N * K) -> (B, S, heads * K)."""
    x_heads = split_heads(x, head_dim)
    return jnp.repeat(x_heads, heads // x_heads.shape[2], axis=2).reshape(*x.shape[:2], -1)


def _name_residuals(o: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    return checkpoint_name(o, ATTENTION), checkpoint_name(lse, ATTENTION)


def tokens_are_sharded() -> bool:
    """Return whether the ambient mesh shards tokens."""
    return jax.sharding.get_abstract_mesh().shape.get(SEQUENCE_AXIS, 1) > 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _flash(kernels, head_dim, split, q, k, v, kv_lengths, last_key_bias, norms):
    o, _ = kernels.forward(head_dim, q, k, v, kv_lengths, last_key_bias, norms, split)
    return o


def _flash_forward(kernels, head_dim, split, q, k, v, kv_lengths, last_key_bias, norms):
    inputs = q, k, v, kv_lengths, last_key_bias, norms
    o, lse = _name_residuals(*kernels.forward(head_dim, *inputs, split))
    return o, (*inputs, o, lse)


def _flash_backward(kernels, head_dim, split, residuals, do):
    *inputs, o, lse = residuals
    dq, dk, dv, scales = kernels.backward(head_dim, *inputs, split, o, lse, do)
    norms = inputs[-1]
    if norms is None:
        return dq, dk, dv, None, None, None
    q_scale, k_scale = scales
    return dq, dk, dv, None, None, Norms(q_scale, k_scale, jnp.zeros_like(norms.rope))


_flash.defvjp(_flash_forward, _flash_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(kernels, head_dim, q, k, v, kv_lengths, last_key_bias):
    o, _ = ring_forward(kernels, SEQUENCE_AXIS, head_dim, q, k, v, kv_lengths, last_key_bias)
    return o


def _ring_forward(kernels, head_dim, *inputs):
    o, lse = _name_residuals(*ring_forward(kernels, SEQUENCE_AXIS, head_dim, *inputs))
    return o, (*inputs, o, lse)


def _ring_backward(kernels, head_dim, residuals, do):
    q, k, v, kv_lengths, last_key_bias, o, lse = residuals
    gradients = ring_backward(
        kernels, SEQUENCE_AXIS, head_dim, q, k, v, kv_lengths, last_key_bias, o, lse, do
    )
    return *gradients, None, None


_ring.defvjp(_ring_forward, _ring_backward)
