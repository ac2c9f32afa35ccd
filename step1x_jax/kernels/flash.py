"""What flash-attention kernels of all platforms share: the gradient, and the mesh around them.

No kernel is ever split by the compiler: each device runs it on its own part of the batch and heads.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from step1x_jax.kernels.mesh_axes import BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS
from step1x_jax.kernels.norm_rope import Norms, pad, split_heads
from step1x_jax.kernels.ring import ring_backward, ring_forward

# Output and sums of the softmax have this name for jax.checkpoint: a policy that stores them saves
# the backward pass from running the forward kernel again.
ATTENTION = "attention"


class Kernels(NamedTuple):
    """A platform's kernels. B batch, H heads, L queries, S keys, K head width.

    Attributes:
      forward: from K, q (B, L, H * K), k and v (B, S, H * K), lengths (B,) int32, norms or None,
        split (how many tokens take the first of two norms) to the output (B, L, H * K) and log2 of
        the softmax's sums (B, H, 1, L) float32.
      backward: from the same, output, sums and the output's gradient to the gradients of q, k and
        v, and a tuple of those of q_scale and k_scale, empty without norms.
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
    norms: Norms | None = None,
    split: int = 0,
) -> jax.Array:
    """Attention by kernels that never store logits, differentiable; see `attention`.

    Under a mesh, the batch is split over BATCH_AXES and heads over TENSOR_AXIS where they divide,
    and tokens over SEQUENCE_AXIS (ring.py; padded where they do not divide). A ring takes no norms.
    """
    b, h, s = q.shape[0], q.shape[2] // head_dim, k.shape[1]
    if kv_lengths is None:
        kv_lengths = jnp.full((b,), s, jnp.int32)
    if k.shape[2] != q.shape[2]:  # grouped heads
        k, v = (_repeat_heads(x, h, head_dim) for x in (k, v))
    run = functools.partial(_flash, kernels, head_dim, split)
    sizes = jax.sharding.get_abstract_mesh().shape
    if math.prod(sizes.values()) == 1:
        return run(q, k, v, kv_lengths, norms)
    parts = math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)
    batch = BATCH_AXES if b % parts == 0 else None
    ring = sizes.get(SEQUENCE_AXIS, 1)
    heads = TENSOR_AXIS if TENSOR_AXIS in sizes and h % sizes[TENSOR_AXIS] == 0 else None
    spec = PartitionSpec(batch, SEQUENCE_AXIS if ring > 1 else None, heads)
    each, all_of_it = PartitionSpec(batch), PartitionSpec()
    if ring == 1:
        specs = (spec, spec, spec, each, all_of_it)
        split_up = jax.shard_map(run, in_specs=specs, out_specs=spec, check_vma=False)
        return split_up(q, k, v, kv_lengths, norms)
    if norms is not None:
        raise ValueError("ring attention takes q and k that are normalised and rotated already")
    padded = [pad(x, 1, x.shape[1] + -x.shape[1] % ring) for x in (q, k, v)]
    run = functools.partial(_ring, kernels, head_dim)
    split_up = jax.shard_map(
        run, in_specs=(spec, spec, spec, each), out_specs=spec, check_vma=False
    )
    return split_up(*padded, kv_lengths)[:, : q.shape[1]]


def _repeat_heads(x: jax.Array, heads: int, head_dim: int) -> jax.Array:
    """(B, S, N * K) -> (B, S, heads * K), each head as often as needed."""
    apart = split_heads(x, head_dim)
    return jnp.repeat(apart, heads // apart.shape[2], axis=2).reshape(*x.shape[:2], -1)


def _named(o: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    return checkpoint_name(o, ATTENTION), checkpoint_name(lse, ATTENTION)


def tokens_are_split() -> bool:
    """Whether the ambient mesh splits tokens."""
    return jax.sharding.get_abstract_mesh().shape.get(SEQUENCE_AXIS, 1) > 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _flash(kernels, head_dim, split, q, k, v, lengths, norms):
    o, _ = kernels.forward(head_dim, q, k, v, lengths, norms, split)
    return o


def _flash_forward(kernels, head_dim, split, q, k, v, lengths, norms):
    o, lse = _named(*kernels.forward(head_dim, q, k, v, lengths, norms, split))
    return o, (q, k, v, lengths, norms, o, lse)


def _flash_backward(kernels, head_dim, split, residuals, do):
    q, k, v, lengths, norms, o, lse = residuals
    dq, dk, dv, scales = kernels.backward(head_dim, q, k, v, lengths, norms, split, o, lse, do)
    if norms is None:
        return dq, dk, dv, None, None
    q_scale, k_scale = scales
    return dq, dk, dv, None, Norms(q_scale, k_scale, jnp.zeros_like(norms.rope))


_flash.defvjp(_flash_forward, _flash_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(kernels, head_dim, q, k, v, lengths):
    o, _ = ring_forward(kernels, SEQUENCE_AXIS, head_dim, q, k, v, lengths)
    return o


def _ring_forward(kernels, head_dim, q, k, v, lengths):
    o, lse = _named(*ring_forward(kernels, SEQUENCE_AXIS, head_dim, q, k, v, lengths))
    return o, (q, k, v, lengths, o, lse)


def _ring_backward(kernels, head_dim, residuals, do):
    q, k, v, lengths, o, lse = residuals
    gradients = ring_backward(kernels, SEQUENCE_AXIS, head_dim, q, k, v, lengths, o, lse, do)
    return *gradients, None


_ring.defvjp(_ring_forward, _ring_backward)
