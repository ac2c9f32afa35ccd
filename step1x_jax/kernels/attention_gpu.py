"""Flash attention for Hopper GPUs (Mosaic GPU): forward pass; see attention_gpu_backward.py.

Two warpgroups alternate on the tensor cores (ping-pong scheduling): one runs a matmul while the
other computes its softmax. The third warpgroup fetches keys and values. Queries are normalised and
rotated when they are loaded.

Keys are normalised and rotated once, before the kernel. Inside the kernel, each of the 69 blocks of
queries at 1024 px would repeat this for all keys, and would fetch 64 KiB of float32 cosines and
sines with every 64 KiB of keys and values. Keys and values alone need about 5 TB/s at the speed of
the matmuls, which is the bandwidth of the L2 cache.

Where QK-norm bounds the logits (see norm_rope.py), the softmax needs no running maximum and no
rescaling.

Legend: B batch, H heads, L queries, S keys, K head width (head_dim), block_q and block_kv rows of a
block of queries and of keys.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from step1x_jax.kernels import gpu
from step1x_jax.kernels.attention_gpu_backward import backward
from step1x_jax.kernels.flash import Kernels
from step1x_jax.kernels.gpu import TILE_ROWS, WARPGROUPS, WGMMA, WGMMA_ROW, Ref
from step1x_jax.kernels.norm_rope import LOG2E, Norms, is_bounded, norm_rope, pad, split_heads
from step1x_jax.kernels.platform import device_kind, platform
from step1x_jax.kernels.tuning import gpu_blocks


def forward(
    head_dim: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array,
    last_key_bias: jax.Array | None,
    norms: Norms | None,
    split: int,
) -> tuple[jax.Array, jax.Array]:
    """Run the forward pass; see flash.Kernels. Takes bfloat16 and K = 64 or 128."""
    if norms is not None:
        k = norm_rope(k, norms.k_scale, norms.rope, split).astype(k.dtype)
    q, k, v = (split_heads(x, head_dim) for x in (q, k, v))
    b, q_len, h, _ = q.shape
    tiles = gpu_blocks(device_kind(), q_len, k.shape[1]).forward
    block_q = WARPGROUPS * TILE_ROWS
    padded_q_len = -(-q_len // block_q) * block_q
    padded_kv_len = -(-k.shape[1] // tiles.rows) * tiles.rows
    padded_k, padded_v = (pad(x, 1, padded_kv_len) for x in (k, v))
    inputs = [pad(q, 1, padded_q_len), padded_k, padded_v, kv_lengths]
    if last_key_bias is not None:
        inputs.append(last_key_bias)
    if norms is not None:
        inputs += [is_bounded(norms, head_dim), norms.q_scale, pad(norms.rope, 1, padded_q_len)]
    barrier = functools.partial(plgpu.Barrier, num_barriers=tiles.stages)
    scratch: dict[str, Any] = {
        "queries": gpu.tile_smem(WARPGROUPS, TILE_ROWS, head_dim),
        "keys": gpu.tile_smem(tiles.stages, tiles.rows, head_dim),
        "values": gpu.tile_smem(tiles.stages, tiles.rows, head_dim),
        "lse": plgpu.SMEM((WARPGROUPS, TILE_ROWS), jnp.float32),
        "queries_ready": plgpu.Barrier(num_barriers=WARPGROUPS),
        "keys_ready": barrier(),
        "values_ready": barrier(),
        "keys_free": barrier(num_arrivals=WARPGROUPS),
        "values_free": barrier(num_arrivals=WARPGROUPS),
        "turn": plgpu.Barrier(num_arrivals=WARPGROUPS),
    }
    if platform() == "cpu":
        scratch["a_smem"] = gpu.tile_smem(WARPGROUPS, TILE_ROWS, tiles.rows)
    o, lse = gpu.run_kernel(
        _forward_kernel,
        inputs,
        static={
            "counted": last_key_bias is not None,
            "fused": norms is not None,
            "split": split,
        },
        out_type=[
            jax.ShapeDtypeStruct((b, padded_q_len, h, head_dim), q.dtype),
            jax.ShapeDtypeStruct((b, h, padded_q_len), jnp.float32),
        ],
        grid=(h, padded_q_len // block_q, b),
        grid_names=("head", "block", "batch"),
        scratch_types=scratch,
    )
    return o[:, :q_len].reshape(b, q_len, -1), lse[:, :, None, :q_len]


def _forward_kernel(*refs: Ref, counted: bool, fused: bool, split: int, **scratch: Ref) -> None:
    """Attend from WARPGROUPS tiles of queries to all keys of a head."""
    q_ref, k_ref, v_ref, kv_lengths, *rest = refs
    last_key_biases, *rest = rest if counted else (None, *rest)
    if fused:
        bounded, q_scale, rope, o_ref, lse_ref = rest
    else:
        o_ref, lse_ref = rest
    batch_head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    keys, values, turn = scratch["keys"], scratch["values"], scratch["turn"]
    stages, block_kv, head_dim = keys.shape
    to_base_2 = LOG2E / math.sqrt(head_dim)
    kv_length = kv_lengths[batch_head[0]]
    last_key_bias = last_key_biases[batch_head[0]] if counted else None

    def compute(group: Any) -> None:
        start = (jax.lax.axis_index("block") * WARPGROUPS + group) * TILE_ROWS
        q, lse = scratch["queries"].at[group], scratch["lse"].at[group]
        rows = pl.ds(start, TILE_ROWS)
        ready = scratch["queries_ready"].at[group]
        plgpu.copy_gmem_to_smem(gpu.slice_head(q_ref, batch_head, rows), q, ready)
        plgpu.barrier_wait(ready)
        if fused:
            gpu.norm_rope_tile_in_place(q, start, q_scale, rope, split, to_base_2)

        def take_turns() -> None:
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def attend(step: Any, carry: Any, at_end: bool, online: bool) -> Any:
            acc, m, denominator = carry
            slot = jax.lax.rem(step, jnp.int32(stages))
            plgpu.barrier_wait(scratch["keys_ready"].at[slot])

            def multiply(ref: Ref) -> jax.Array:
                plgpu.wgmma(ref, q, keys.at[slot].transpose((1, 0)))
                take_turns()  # the other warpgroup now uses the tensor cores, for its values
                return ref[...]

            s = pl.run_scoped(multiply, plgpu.ACC((TILE_ROWS, block_kv), jnp.float32))
            plgpu.barrier_arrive(scratch["keys_free"].at[slot])
            if not fused:
                s = s * to_base_2
            if at_end:
                s = gpu.logits_at_end(s, step * block_kv, kv_length, last_key_bias)
            if online:
                before, m = m, jnp.maximum(m, s.max(axis=1))
                rescale = jnp.exp2(before - m)
                acc = acc * gpu.broadcast_per_row(rescale, acc.shape)
                denominator = denominator * rescale
                s = s - gpu.broadcast_per_row(m, s.shape)
            p = jnp.exp2(s)
            weights = p.astype(q.dtype)
            denominator = denominator + p.sum(axis=1)
            # keep the whole softmax before the barrier: the other warpgroup uses the tensor cores
            acc, m, denominator, weights = jax.lax.optimization_barrier(
                (acc, m, denominator, weights)
            )
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(scratch["values_ready"].at[slot])
            plgpu.barrier_wait(turn)
            a_smem = scratch["a_smem"].at[group] if "a_smem" in scratch else None
            acc = gpu.add_matmul(acc, weights, values.at[slot], a_smem)
            plgpu.barrier_arrive(scratch["values_free"].at[slot])
            return acc, m, denominator

        # the block of a last key with a bias is never a plain one, even if the length fills it
        plain_length = kv_length - 1 if counted else kv_length
        plain_blocks = jax.lax.div(plain_length, jnp.int32(block_kv))

        def attend_to_all(online: bool) -> None:
            lowest = -jnp.inf if online else 0.0
            zero = (
                gpu.full((TILE_ROWS, head_dim), 0.0, WGMMA),
                gpu.full((TILE_ROWS,), lowest, WGMMA_ROW),
            )
            carry = (*zero, gpu.full((TILE_ROWS,), 0.0, WGMMA_ROW))
            pl.when(group == 1)(take_turns)  # starts half a step later
            carry = jax.lax.fori_loop(
                0, plain_blocks, functools.partial(attend, at_end=False, online=online), carry
            )
            acc, m, denominator = jax.lax.cond(
                plain_blocks * block_kv < kv_length,
                lambda carry: attend(plain_blocks, carry, at_end=True, online=online),
                lambda carry: carry,
                carry,
            )
            pl.when(group == 0)(take_turns)
            q[...] = (acc / gpu.broadcast_per_row(denominator, acc.shape)).astype(q.dtype)
            lse[...] = m + jnp.log(denominator) * LOG2E

        if fused:
            is_bounded_here = bounded[0] == 1
            pl.when(is_bounded_here)(lambda: attend_to_all(online=False))
            pl.when(jnp.logical_not(is_bounded_here))(lambda: attend_to_all(online=True))
        else:
            attend_to_all(online=True)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q, gpu.slice_head(o_ref, batch_head, rows))
        plgpu.copy_smem_to_gmem(lse, gpu.slice_head(lse_ref, batch_head, rows))
        plgpu.wait_smem_to_gmem(0)

    def fetcher() -> None:
        def tile_of(ref: Ref):
            return lambda step: gpu.slice_head(ref, batch_head, pl.ds(step * block_kv, block_kv))

        steps = jax.lax.div(kv_length + (block_kv - 1), jnp.int32(block_kv))
        arrays = [
            ([(tile_of(k_ref), keys)], scratch["keys_ready"], scratch["keys_free"]),
            ([(tile_of(v_ref), values)], scratch["values_ready"], scratch["values_free"]),
        ]
        gpu.fetch_tiles(steps, stages, arrays)

    gpu.specialize_warpgroups(compute, fetcher)


KERNELS = Kernels(forward, backward)
