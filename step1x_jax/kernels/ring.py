"""Ring attention: tokens are sharded over devices, and keys and values move around a ring.

Every device keeps its queries and attends to the keys of each device in turn, while the next keys
are being transferred. Partial results are merged by their log-sum-exp. In the backward pass the
gradients of keys and values follow them by one step and are back on their own device after a full
round. After Liu et al., "Ring Attention with Blockwise Transformers" (2023).

The steps are a loop, so that transfers overlap with the kernel of the same step. If the loop were
unrolled, the compiler would start all transfers before the first kernel.

The functions here run inside a shard_map over the axis. Legend as in flash.py; L and S are local.
"""

import jax
import jax.numpy as jnp

from step1x_jax.kernels.norm_rope import split_heads


def local_lengths(kv_lengths: jax.Array, owner: jax.Array | int, size: int) -> jax.Array:
    """Return the number of valid keys on device `owner`, (B,) in 0..size.

    Args:
      kv_lengths: (B,) int32, valid keys over all devices.
      owner: index of the device along the ring.
      size: keys per device, S.
    """
    return jnp.clip(kv_lengths - owner * size, 0, size)


def local_bias(
    last_key_bias: jax.Array | None, kv_lengths: jax.Array, owner: jax.Array | int, size: int
) -> jax.Array | None:
    """Return the bias of device `owner`'s last valid key, zero unless it is the last of all.

    Args:
      last_key_bias: (B,) float32 of the last key of all, or None.
      kv_lengths: see `local_lengths`.
      owner: see `local_lengths`.
      size: see `local_lengths`.
    """
    if last_key_bias is None:
        return None
    return jnp.where((kv_lengths - 1) // size == owner, last_key_bias, 0)


def _send_to_next(axis: str, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Send arrays (B, S, H * K) to the next device of the ring."""
    n = jax.lax.axis_size(axis)
    to = [(i, (i + 1) % n) for i in range(n)]
    return tuple(jax.lax.ppermute(x, axis, to) for x in arrays)


def ring_forward(
    kernels, axis: str, head_dim: int, q, k, v, kv_lengths, last_key_bias
) -> tuple[jax.Array, jax.Array]:
    """Run the forward pass over the keys of all devices.

    Args:
      kernels: a flash.Kernels.
      axis: name of the mesh axis.
      head_dim: K.
      q: (B, L, H * K), this device's queries.
      k: (B, S, H * K), this device's keys.
      v: (B, S, H * K).
      kv_lengths: (B,) valid keys over all devices, in the order of the axis.
      last_key_bias: (B,) or None, see flash.Kernels; the last of all devices' keys.

    Returns:
      Output (B, L, H * K), and log2 of the softmax's denominators (B, H, 1, L) float32.
    """
    n, index = jax.lax.axis_size(axis), jax.lax.axis_index(axis)

    def step(i, carry):
        acc, lse, k, v = carry
        next_kv = _send_to_next(axis, (k, v))
        owner = (index - i) % n
        valid = local_lengths(kv_lengths, owner, k.shape[1])
        bias = local_bias(last_key_bias, kv_lengths, owner, k.shape[1])
        o, block_lse = kernels.forward(head_dim, q, k, v, jnp.maximum(valid, 1), bias, None, 0)
        block_lse = jnp.where(valid[:, None, None, None] > 0, block_lse, -jnp.inf)
        merged = jnp.logaddexp2(lse, block_lse)
        o = split_heads(o.astype(jnp.float32), head_dim)
        acc = acc * _merge_weight(lse, merged) + o * _merge_weight(block_lse, merged)
        return acc, merged, *next_kv

    shape = split_heads(q, head_dim).shape
    lse = jnp.full((shape[0], shape[2], 1, shape[1]), -jnp.inf)
    start = jnp.zeros(shape, jnp.float32), lse, k, v
    acc, lse, *_ = jax.lax.fori_loop(0, n, step, start)
    return acc.astype(q.dtype).reshape(q.shape), lse


def _merge_weight(lse: jax.Array, merged: jax.Array) -> jax.Array:
    """Return the weight of the result with `lse` in the merged result: (B, L, H, 1)."""
    # -inf until a valid key has been seen; the first device always holds one
    part = jnp.where(jnp.isneginf(lse), 0, jnp.exp2(lse - merged))
    return part.transpose(0, 3, 1, 2)


def ring_backward(
    kernels, axis: str, head_dim: int, q, k, v, kv_lengths, last_key_bias, o, lse, do
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Run the backward pass; return the gradients of this device's q, k and v.

    Arguments as in `ring_forward`, then its results and the output's gradient do.
    """
    n, index = jax.lax.axis_size(axis), jax.lax.axis_index(axis)

    def step(i, carry):
        dq, k, v, *sums = carry
        next_kv = _send_to_next(axis, (k, v))
        # the gradients of the current keys so far, from the device that had these keys before
        dk, dv = _send_to_next(axis, tuple(sums))
        owner = (index - i) % n
        valid = local_lengths(kv_lengths, owner, k.shape[1])
        bias = local_bias(last_key_bias, kv_lengths, owner, k.shape[1])
        gradients = kernels.backward(head_dim, q, k, v, valid, bias, None, 0, o, lse, do)
        new_dq, new_dk, new_dv, _ = gradients
        return dq + new_dq, *next_kv, dk + new_dk, dv + new_dv

    dq = jnp.zeros(q.shape, jnp.float32)
    sums = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    dq, _, _, *sums = jax.lax.fori_loop(0, n, step, (dq, k, v, *sums))
    dk, dv = _send_to_next(axis, tuple(sums))  # back to their own device
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)
