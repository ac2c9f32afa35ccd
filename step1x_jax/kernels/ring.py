"""Ring attention: tokens are split over devices, and keys and values travel around.

Every device keeps its queries and attends in turn to the keys of each device, while the next ones
are already on their way; what it has seen is joined by the sums of the softmax. In the backward
pass the gradients of keys and values travel one turn behind them and are home after a round. After
Liu et al., "Ring Attention with Blockwise Transformers" (2023).

The turns are a loop, so that arrays travel beside the kernel of the same turn: written out, the
compiler sends keys on as soon as they come, all before the first kernel.

The functions here run inside a shard_map over the axis. Legend as in flash.py, L and S local.
"""

import jax
import jax.numpy as jnp

from step1x_jax.kernels.norm_rope import split_heads


def local_lengths(lengths: jax.Array, owner: jax.Array | int, size: int) -> jax.Array:
    """How many of a device's keys are valid: (B,) in 0..S, from lengths over all tokens."""
    return jnp.clip(lengths - owner * size, 0, size)


def _turn(axis: str, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Hands arrays (B, S, H * K) to the next device."""
    n = jax.lax.axis_size(axis)
    to = [(i, (i + 1) % n) for i in range(n)]
    return tuple(jax.lax.ppermute(x, axis, to) for x in arrays)


def ring_forward(
    kernels, axis: str, head_dim: int, q, k, v, lengths
) -> tuple[jax.Array, jax.Array]:
    """As a kernel's forward pass, over the keys of all devices.

    Args:
      kernels: of flash.Kernels.
      axis: of the mesh.
      head_dim: K.
      q: (B, L, H * K), this device's queries.
      k: (B, S, H * K), this device's keys.
      v: (B, S, H * K).
      lengths: (B,) valid keys over all devices, in order of the axis.

    Returns:
      Output (B, L, H * K), and log2 of the softmax's sums (B, H, 1, L) float32.
    """
    n, me = jax.lax.axis_size(axis), jax.lax.axis_index(axis)

    def turn(number, carry):
        total, lse, k, v = carry
        following = _turn(axis, (k, v))
        valid = local_lengths(lengths, (me - number) % n, k.shape[1])
        o, new = kernels.forward(head_dim, q, k, v, jnp.maximum(valid, 1), None, 0)
        new = jnp.where(valid[:, None, None, None] > 0, new, -jnp.inf)
        joined = jnp.logaddexp2(lse, new)
        o = split_heads(o.astype(jnp.float32), head_dim)
        total = total * _weight(lse, joined) + o * _weight(new, joined)
        return total, joined, *following

    apart = split_heads(q, head_dim).shape
    lse = jnp.full((apart[0], apart[2], 1, apart[1]), -jnp.inf)
    start = jnp.zeros(apart, jnp.float32), lse, k, v
    total, lse, *_ = jax.lax.fori_loop(0, n, turn, start)
    return total.astype(q.dtype).reshape(q.shape), lse


def _weight(lse: jax.Array, joined: jax.Array) -> jax.Array:
    """The part of the joined sum that came from `lse`: (B, L, H, 1)."""
    # the first device holds a valid key; until it was seen nothing may have been
    part = jnp.where(jnp.isneginf(lse), 0, jnp.exp2(lse - joined))
    return part.transpose(0, 3, 1, 2)


def ring_backward(
    kernels, axis: str, head_dim: int, q, k, v, lengths, o, lse, do
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As a kernel's backward pass: gradients of this device's q, k and v."""
    n, me = jax.lax.axis_size(axis), jax.lax.axis_index(axis)

    def turn(number, carry):
        dq, k, v, *sums = carry
        following = _turn(axis, (k, v))
        # of the keys that are here now, from the device that had them before
        dk, dv = _turn(axis, tuple(sums))
        valid = local_lengths(lengths, (me - number) % n, k.shape[1])
        gradients = kernels.backward(head_dim, q, k, v, valid, None, 0, o, lse, do)
        new_dq, new_dk, new_dv, _ = gradients
        return dq + new_dq, *following, dk + new_dk, dv + new_dv

    dq = jnp.zeros(q.shape, jnp.float32)
    sums = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    dq, _, _, *sums = jax.lax.fori_loop(0, n, turn, (dq, k, v, *sums))
    dk, dv = _turn(axis, tuple(sums))  # home
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)
