"""Flash attention for Hopper GPUs (Mosaic GPU): forward pass; see attention_gpu_backward.py.

Two warpgroups take turns at the tensor cores, one multiplies while the other is at its softmax;
the third fetches keys and values. Queries are normalised and rotated as they are loaded.

Keys are normalised and rotated once, before. Inside, each of the 69 blocks of queries at 1024 px
would do it again for all keys, and fetch 64 KiB of float32 cosines and sines with every 64 KiB of
keys and values: at the speed of the matmuls these alone need about 5 TB/s, what the L2 cache gives.

Where QK-norm bounds the logits (see norm_rope.py), no maximum is kept and nothing is rescaled.

Legend: B batch, H heads, L queries, S keys, K head width, C keys at once.
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
from step1x_jax.kernels.gpu import BY_ROW, GROUPS, ROWS, WGMMA, Ref
from step1x_jax.kernels.norm_rope import LOG2E, Norms, is_bounded, norm_rope, pad, split_heads
from step1x_jax.kernels.platform import device_kind, platform
from step1x_jax.kernels.tuning import gpu_blocks


def forward(
    head_dim: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    norms: Norms | None,
    split: int,
) -> tuple[jax.Array, jax.Array]:
    """See flash.Kernels; bfloat16, K 64 or 128."""
    if norms is not None:
        k = norm_rope(k, norms.k_scale, norms.rope, split).astype(k.dtype)
    q, k, v = (split_heads(x, head_dim) for x in (q, k, v))
    b, length, h, width = q.shape
    tuned = gpu_blocks(device_kind(), length, k.shape[1]).forward
    block = GROUPS * ROWS
    queries = -(-length // block) * block
    keys = -(-k.shape[1] // tuned.size) * tuned.size
    inputs = [pad(q, 1, queries), pad(k, 1, keys), pad(v, 1, keys), lengths]
    if norms is not None:
        inputs += [is_bounded(norms, width), norms.q_scale, pad(norms.rope, 1, queries)]
    barrier = functools.partial(plgpu.Barrier, num_barriers=tuned.stages)
    scratch: dict[str, Any] = {
        "queries": gpu.tiles(GROUPS, ROWS, width),
        "keys": gpu.tiles(tuned.stages, tuned.size, width),
        "values": gpu.tiles(tuned.stages, tuned.size, width),
        "sums": plgpu.SMEM((GROUPS, ROWS), jnp.float32),
        "queries_here": plgpu.Barrier(num_barriers=GROUPS),
        "keys_here": barrier(),
        "values_here": barrier(),
        "keys_free": barrier(num_arrivals=GROUPS),
        "values_free": barrier(num_arrivals=GROUPS),
        "turn": plgpu.Barrier(num_arrivals=GROUPS),
    }
    if platform() == "cpu":
        scratch["stage"] = gpu.tiles(GROUPS, ROWS, tuned.size)
    o, lse = gpu.call(
        _forward_kernel,
        inputs,
        static={"fused": norms is not None, "split": split},
        out_type=[
            jax.ShapeDtypeStruct((b, queries, h, width), q.dtype),
            jax.ShapeDtypeStruct((b, h, queries), jnp.float32),
        ],
        grid=(h, queries // block, b),
        grid_names=("head", "block", "batch"),
        scratch_types=scratch,
    )
    return o[:, :length].reshape(b, length, -1), lse[:, :, None, :length]


def _forward_kernel(*refs: Ref, fused: bool, split: int, **scratch: Ref) -> None:
    """GROUPS tiles of queries against all keys of a head."""
    if fused:
        q_ref, k_ref, v_ref, lengths, bounded, q_scale, rope, o_ref, lse_ref = refs
    else:
        q_ref, k_ref, v_ref, lengths, o_ref, lse_ref = refs
    at = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    keys, values, turn = scratch["keys"], scratch["values"], scratch["turn"]
    stages, size, width = keys.shape
    to_base_2 = LOG2E / math.sqrt(width)
    length = lengths[at[0]]

    def compute(group: Any) -> None:
        start = (jax.lax.axis_index("block") * GROUPS + group) * ROWS
        q, sums = scratch["queries"].at[group], scratch["sums"].at[group]
        rows = pl.ds(start, ROWS)
        here = scratch["queries_here"].at[group]
        plgpu.copy_gmem_to_smem(gpu.head_rows(q_ref, at, rows), q, here)
        plgpu.barrier_wait(here)
        if fused:
            gpu.turn_tile(q, start, q_scale, rope, split, to_base_2)

        def take_turns() -> None:
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def attend(step: Any, carry: Any, masked: bool, online: bool) -> Any:
            acc, m, total = carry
            slot = jax.lax.rem(step, jnp.int32(stages))
            plgpu.barrier_wait(scratch["keys_here"].at[slot])

            def multiply(ref: Ref) -> jax.Array:
                plgpu.wgmma(ref, q, keys.at[slot].transpose((1, 0)))
                take_turns()  # the tensor cores are the other warpgroup's, for its values
                return ref[...]

            s = pl.run_scoped(multiply, plgpu.ACC((ROWS, size), jnp.float32))
            plgpu.barrier_arrive(scratch["keys_free"].at[slot])
            if not fused:
                s = s * to_base_2
            if masked:
                s = jnp.where(gpu.numbers(s.shape, 1) + step * size < length, s, -jnp.inf)
            if online:
                before, m = m, jnp.maximum(m, s.max(axis=1))
                rescale = jnp.exp2(before - m)
                acc, total = acc * gpu.by_rows(rescale, acc.shape), total * rescale
                s = s - gpu.by_rows(m, s.shape)
            p = jnp.exp2(s)
            weights = p.astype(q.dtype)
            total = total + p.sum(axis=1)
            # all of the softmax before the barrier: the other warpgroup multiplies meanwhile
            acc, m, total, weights = jax.lax.optimization_barrier((acc, m, total, weights))
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(scratch["values_here"].at[slot])
            plgpu.barrier_wait(turn)
            stage = scratch["stage"].at[group] if "stage" in scratch else None
            acc = gpu.add_product(acc, weights, values.at[slot], stage)
            plgpu.barrier_arrive(scratch["values_free"].at[slot])
            return acc, m, total

        whole = jax.lax.div(length, jnp.int32(size))

        def attend_to_all(online: bool) -> None:
            lowest = -jnp.inf if online else 0.0
            zero = gpu.full((ROWS, width), 0.0, WGMMA), gpu.full((ROWS,), lowest, BY_ROW)
            carry = (*zero, gpu.full((ROWS,), 0.0, BY_ROW))
            pl.when(group == 1)(take_turns)  # half a step behind
            carry = jax.lax.fori_loop(
                0, whole, functools.partial(attend, masked=False, online=online), carry
            )
            acc, m, total = jax.lax.cond(
                whole * size < length,
                lambda carry: attend(whole, carry, masked=True, online=online),
                lambda carry: carry,
                carry,
            )
            pl.when(group == 0)(take_turns)
            q[...] = (acc / gpu.by_rows(total, acc.shape)).astype(q.dtype)
            sums[...] = m + jnp.log(total) * LOG2E

        if fused:
            is_bounded_here = bounded[0] == 1
            pl.when(is_bounded_here)(lambda: attend_to_all(online=False))
            pl.when(jnp.logical_not(is_bounded_here))(lambda: attend_to_all(online=True))
        else:
            attend_to_all(online=True)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q, gpu.head_rows(o_ref, at, rows))
        plgpu.copy_smem_to_gmem(sums, gpu.head_rows(lse_ref, at, rows))
        plgpu.wait_smem_to_gmem(0)

    def fetcher() -> None:
        def tile_of(ref: Ref):
            return lambda step: gpu.head_rows(ref, at, pl.ds(step * size, size))

        steps = jax.lax.div(length + (size - 1), jnp.int32(size))
        arrays = [
            ([(tile_of(k_ref), keys)], scratch["keys_here"], scratch["keys_free"]),
            ([(tile_of(v_ref), values)], scratch["values_here"], scratch["values_free"]),
        ]
        gpu.fetch(steps, stages, arrays)

    gpu.roles(compute, fetcher)


KERNELS = Kernels(forward, backward)
