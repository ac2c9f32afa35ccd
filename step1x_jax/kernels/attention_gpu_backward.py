"""Flash attention for Hopper GPUs (Mosaic GPU): backward pass.

There are two kernels. In the dq kernel, tiles of queries are resident and keys and values are
streamed; in the dk/dv kernel, tiles of keys and values are resident and queries are streamed. Each
kernel sums in registers and in a fixed order, so gradients are bitwise reproducible. Both kernels
compute the logits (seven matmuls in all); one kernel with five matmuls would need atomic adds,
whose order varies.

With norms, a kernel normalises and rotates its resident tiles, and at its end propagates the
gradient back through RoPE and norm. Streamed arrays are normalised and rotated once, before the
kernel (see attention_gpu.py); they are recomputed instead of saved in the forward pass.

Legend: B batch, H heads, L queries, S keys, K head width (head_dim), M norms, block_q and block_kv
rows of a streamed tile of queries and of keys.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from step1x_jax.kernels import gpu
from step1x_jax.kernels.gpu import TILE_ROWS, WARPGROUPS, WGMMA, WGMMA_COL, WGMMA_ROW, Ref
from step1x_jax.kernels.norm_rope import LOG2E, Norms, norm_rope, pad, split_heads
from step1x_jax.kernels.platform import device_kind, platform
from step1x_jax.kernels.tuning import Tiles, gpu_blocks


def backward(
    head_dim: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array,
    last_key_bias: jax.Array | None,
    norms: Norms | None,
    split: int,
    o: jax.Array,
    lse: jax.Array,
    do: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """Run the backward pass; see flash.Kernels. Takes bfloat16 and K = 64 or 128."""
    q_len, kv_len = q.shape[1], k.shape[1]
    blocks = gpu_blocks(device_kind(), q_len, kv_len)
    rotated_q, rotated_k = q, k
    if norms is not None:
        rotated_q = norm_rope(q, norms.q_scale, norms.rope, split) * (LOG2E / math.sqrt(head_dim))
        rotated_q = rotated_q.astype(q.dtype)
        rotated_k = norm_rope(k, norms.k_scale, norms.rope, split).astype(k.dtype)
    q, k, v, o, do, rotated_q, rotated_k = (
        split_heads(x, head_dim) for x in (q, k, v, o, do, rotated_q, rotated_k)
    )
    delta = jnp.sum(o.astype(jnp.float32) * do.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    lse = lse[:, :, 0]
    run = functools.partial(_run, kv_lengths=kv_lengths, last_key_bias=last_key_bias, split=split)
    # all lengths are multiples of 64; do is zero in the padding, so padded queries contribute to no
    # gradient
    block = WARPGROUPS * TILE_ROWS
    resident = [_pad(x, block) for x in (q, do, lse, delta)]
    streamed = [_pad(x, blocks.dq.rows) for x in (rotated_k, v)]
    dq, *dq_scale = run(
        _dq_kernel, resident, streamed, blocks.dq, norms and norms.q_scale, norms, results=1
    )
    resident = [_pad(x, block) for x in (k, v)]
    streamed = [_pad(x, blocks.dkv.rows) for x in (rotated_q, do, lse, delta)]
    dk, dv, *dk_scale = run(
        _dkv_kernel, resident, streamed, blocks.dkv, norms and norms.k_scale, norms, results=2
    )
    scales = tuple(x.sum((0, 1, 2)) for x in (*dq_scale, *dk_scale))
    dq, dk, dv = (x.reshape(*x.shape[:2], -1) for x in (dq, dk, dv))
    return dq[:, :q_len], dk[:, :kv_len], dv[:, :kv_len], scales


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    """Pad the rows of (B, L, H, K) or (B, H, L) with zeros to a multiple."""
    axis = 1 if x.ndim == 4 else 2
    return pad(x, axis, -(-x.shape[axis] // multiple) * multiple)


def _run(
    kernel: Callable[..., None],
    resident: list[jax.Array],
    streamed: list[jax.Array],
    tiles: Tiles,
    scale: jax.Array | None,
    norms: Norms | None,
    *,
    kv_lengths: jax.Array,
    last_key_bias: jax.Array | None,
    split: int,
    results: int,
) -> list[jax.Array]:
    """Run one of the two kernels over all blocks of the resident arrays.

    Args:
      kernel: the kernel's body.
      resident: arrays (B, L, H, K) or (B, H, L) of which a block keeps its tiles in shared memory.
      streamed: arrays (B, S, H, K) or (B, H, S) whose tiles pass through shared memory.
      tiles: rows and pipeline stages of the streamed tiles.
      scale: (M, K) of the resident rows' norm, or None.
      norms: the parameters of QK-norm and RoPE, or None.
      kv_lengths: (B,) int32.
      last_key_bias: see flash.Kernels.
      split: see flash.Kernels.
      results: number of outputs, each with the shape and dtype of resident[0].

    Returns:
      The outputs, and with norms the gradient of `scale` per tile, (B, H, tiles, M, K) float32.
    """
    b, length, h, head_dim = resident[0].shape
    inputs = [*resident, *streamed, kv_lengths]
    if last_key_bias is not None:
        inputs.append(last_key_bias)
    out_type = [jax.ShapeDtypeStruct(resident[0].shape, resident[0].dtype)] * results
    if norms is not None and scale is not None:
        inputs += [scale, pad(norms.rope, 1, length)]
        scale_gradients = (b, h, length // TILE_ROWS, *scale.shape)
        out_type.append(jax.ShapeDtypeStruct(scale_gradients, jnp.float32))

    def allocate(count: int, rows: int, x: jax.Array) -> Any:
        if x.ndim == 4:
            return gpu.tile_smem(count, rows, head_dim)
        return plgpu.SMEM((count, rows), jnp.float32)

    ready_barrier = functools.partial(plgpu.Barrier, num_arrivals=len(streamed) // 2)
    scratch: dict[str, Any] = {
        # in this order in shared memory: in the other one the dk/dv kernel spills registers
        "tiles": (
            [allocate(tiles.stages, tiles.rows, x) for x in streamed],
            [allocate(WARPGROUPS, TILE_ROWS, x) for x in resident],
        ),
        "resident_ready": plgpu.Barrier(num_barriers=WARPGROUPS, num_arrivals=len(resident)),
        "reloaded": plgpu.Barrier(num_barriers=WARPGROUPS),
        "first_ready": ready_barrier(num_barriers=tiles.stages),
        "second_ready": ready_barrier(num_barriers=tiles.stages),
        "first_free": plgpu.Barrier(num_barriers=tiles.stages, num_arrivals=WARPGROUPS),
        "second_free": plgpu.Barrier(num_barriers=tiles.stages, num_arrivals=WARPGROUPS),
    }
    if scale is not None:
        scratch["scale_gradient"] = plgpu.SMEM((WARPGROUPS, *scale.shape), jnp.float32)
    if platform() == "cpu":
        scratch["a_smem"] = gpu.tile_smem(WARPGROUPS, TILE_ROWS, tiles.rows)
    return gpu.run_kernel(
        kernel,
        inputs,
        static={
            "counted": last_key_bias is not None,
            "fused": norms is not None,
            "split": split,
        },
        out_type=out_type,
        grid=(h, length // (WARPGROUPS * TILE_ROWS), b),
        grid_names=("head", "block", "batch"),
        scratch_types=scratch,
    )


class _ResidentTiles:
    """The resident tiles of a warpgroup: fetches them, applies norm and RoPE, writes results."""

    def __init__(self, group: Any, refs: list[Ref], scratch: dict[str, Any]):
        self.tile = jax.lax.axis_index("block") * WARPGROUPS + group
        self.start = self.tile * TILE_ROWS
        self.batch_head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
        self.rows = pl.ds(self.start, TILE_ROWS)
        self.refs = refs
        _, resident = scratch["tiles"]
        self.smem = [tile.at[group] for tile in resident]
        for ref, tile in zip(refs, self.smem, strict=True):
            ready = scratch["resident_ready"].at[group]
            plgpu.copy_gmem_to_smem(gpu.slice_head(ref, self.batch_head, self.rows), tile, ready)
        plgpu.barrier_wait(scratch["resident_ready"].at[group])
        self.reloaded = scratch["reloaded"].at[group]

    def norm_rope(self, scale: Ref, rope: Ref, split: int, factor: float) -> None:
        """Normalise and rotate the first tile; see gpu.norm_rope_tile_in_place."""
        gpu.norm_rope_tile_in_place(self.smem[0], self.start, scale, rope, split, factor)

    def norm_rope_backward(
        self,
        gradient: jax.Array,
        scale: Ref,
        rope: Ref,
        split: int,
        total: Ref,
        scale_gradients: Ref,
    ) -> None:
        """Write the raw rows' gradient into the first tile, and the gradient of the scale.

        Args:
          gradient: (TILE_ROWS, K) float32, of the normalised and rotated rows.
          scale: (M, K).
          rope: (2, L, K).
          split: see flash.Kernels.
          total: (M, K) in shared memory, a buffer for the sum over the tile's rows.
          scale_gradients: (B, H, tiles, M, K) in device memory; this tile's entry is written.
        """
        tile = self.smem[0]
        half = tile.shape[-1] // 2
        raw = gpu.slice_head(self.refs[0], self.batch_head, self.rows)
        plgpu.copy_gmem_to_smem(raw, tile, self.reloaded)
        plgpu.barrier_wait(self.reloaded)
        halves, scale_gradient = gpu.norm_rope_tile_backward(
            tile, gradient[:, :half], gradient[:, half:], self.start, scale, rope, split
        )
        first = gpu.iota((TILE_ROWS, half), 0) + self.start < split
        for i in range(2):
            columns = pl.ds(i * half, half)
            gpu.slice_columns(tile, i * half, half)[...] = halves[i].astype(tile.dtype)
            if scale.shape[0] == 1:
                total[0, columns] = scale_gradient[i].sum(axis=0)
            else:
                total[0, columns] = jnp.where(first, scale_gradient[i], 0.0).sum(axis=0)
                total[1, columns] = jnp.where(first, 0.0, scale_gradient[i]).sum(axis=0)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(total, scale_gradients.at[*self.batch_head, self.tile])

    def write(self, *outputs: Ref) -> None:
        """Copy the first tiles to the outputs."""
        plgpu.commit_smem()
        for tile, output in zip(self.smem, outputs, strict=False):
            plgpu.copy_smem_to_gmem(tile, gpu.slice_head(output, self.batch_head, self.rows))
        plgpu.wait_smem_to_gmem(0)


def _dq_kernel(*refs: Ref, counted: bool, fused: bool, split: int, **scratch: Any) -> None:
    """Compute dq of WARPGROUPS tiles of queries; keys and values are streamed."""
    q_ref, do_ref, lse_ref, delta_ref, k_ref, v_ref, kv_lengths, *rest = refs
    last_key_biases, *rest = rest if counted else (None, *rest)
    scale, rope, dq_ref, scale_gradients = rest if fused else (None, None, rest[0], None)
    batch_head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    (keys, values), _ = scratch["tiles"]
    stages, block_kv, head_dim = keys.shape
    softmax_scale = 1 / math.sqrt(head_dim)
    kv_length = kv_lengths[batch_head[0]]
    last_key_bias = last_key_biases[batch_head[0]] if counted else None
    # as in the forward kernel
    plain_length = kv_length - 1 if counted else kv_length
    plain_blocks = jax.lax.div(plain_length, jnp.int32(block_kv))

    def compute(group: Any) -> None:
        mine = _ResidentTiles(group, [q_ref, do_ref, lse_ref, delta_ref], scratch)
        if fused:
            mine.norm_rope(scale, rope, split, softmax_scale * LOG2E)
        q, do, lse, delta = mine.smem
        lse, delta = gpu.load(lse, WGMMA_ROW), gpu.load(delta, WGMMA_ROW)
        a_smem = scratch["a_smem"].at[group] if "a_smem" in scratch else None

        def step(i: Any, dq: jax.Array, at_end: bool) -> jax.Array:
            slot = jax.lax.rem(i, jnp.int32(stages))
            plgpu.barrier_wait(scratch["first_ready"].at[slot])
            plgpu.barrier_wait(scratch["second_ready"].at[slot])
            s, dp = gpu.multiply_pairs(
                (q, keys.at[slot].transpose((1, 0))), (do, values.at[slot].transpose((1, 0)))
            )
            plgpu.barrier_arrive(scratch["second_free"].at[slot])
            if not fused:
                s = s * (softmax_scale * LOG2E)
            if at_end:
                s = gpu.logits_at_end(s, i * block_kv, kv_length, last_key_bias)
            p = jnp.exp2(s - gpu.broadcast_per_row(lse, s.shape))
            ds = (p * (dp - gpu.broadcast_per_row(delta, s.shape))).astype(q.dtype)
            dq = gpu.add_matmul(dq, ds, keys.at[slot], a_smem)
            plgpu.barrier_arrive(scratch["first_free"].at[slot])
            return dq

        dq = gpu.full((TILE_ROWS, head_dim), 0.0, WGMMA)
        dq = jax.lax.fori_loop(0, plain_blocks, functools.partial(step, at_end=False), dq)
        dq = jax.lax.cond(
            plain_blocks * block_kv < kv_length,
            lambda x: step(plain_blocks, x, at_end=True),
            lambda x: x,
            dq,
        )
        dq = dq * softmax_scale
        if fused:
            total = scratch["scale_gradient"].at[group]
            mine.norm_rope_backward(dq, scale, rope, split, total, scale_gradients)
        else:
            q[...] = dq.astype(q.dtype)
        mine.write(dq_ref)

    def fetcher() -> None:
        def tile_of(ref: Ref) -> Callable[[Any], Ref]:
            return lambda i: gpu.slice_head(ref, batch_head, pl.ds(i * block_kv, block_kv))

        steps = jax.lax.div(kv_length + (block_kv - 1), jnp.int32(block_kv))
        ready, free = scratch["first_ready"], scratch["first_free"]
        streamed = [([(tile_of(k_ref), keys)], ready, free)]
        ready, free = scratch["second_ready"], scratch["second_free"]
        streamed += [([(tile_of(v_ref), values)], ready, free)]
        gpu.fetch_tiles(steps, stages, streamed)

    gpu.specialize_warpgroups(compute, fetcher)


def _dkv_kernel(*refs: Ref, counted: bool, fused: bool, split: int, **scratch: Any) -> None:
    """Compute dk and dv of WARPGROUPS tiles of keys and values; queries are streamed.

    Logits and their gradients are transposed, (keys, queries): each key has a row of its own, so
    the rows of masked keys are set to zero once, at the end. The bias of the last key multiplies
    its softmax weights, on which both gradients depend linearly: its row is multiplied there, too.
    """
    k_ref, v_ref, q_ref, do_ref, lse_ref, delta_ref, kv_lengths, *rest = refs
    last_key_biases, *rest = rest if counted else (None, *rest)
    if fused:
        scale, rope, dk_ref, dv_ref, scale_gradients = rest
    else:
        dk_ref, dv_ref = rest
    batch_head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    (queries, gradients, lses, deltas), _ = scratch["tiles"]
    stages, block_q, head_dim = queries.shape
    softmax_scale = 1 / math.sqrt(head_dim)
    kv_length = kv_lengths[batch_head[0]]
    first_row = jax.lax.axis_index("block") * (WARPGROUPS * TILE_ROWS)
    # a block without valid keys has no sums to compute
    steps = jnp.where(first_row < kv_length, q_ref.shape[1] // block_q, 0)

    def compute(group: Any) -> None:
        mine = _ResidentTiles(group, [k_ref, v_ref], scratch)
        if fused:
            mine.norm_rope(scale, rope, split, 1.0)
        k, v = mine.smem
        a_smem = scratch["a_smem"].at[group] if "a_smem" in scratch else None

        def step(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            dk, dv = carry
            slot = jax.lax.rem(i, jnp.int32(stages))
            q, do = queries.at[slot], gradients.at[slot]
            plgpu.barrier_wait(scratch["first_ready"].at[slot])
            plgpu.barrier_wait(scratch["second_ready"].at[slot])
            s, dp = gpu.multiply_pairs((k, q.transpose((1, 0))), (v, do.transpose((1, 0))))
            if not fused:
                s = s * (softmax_scale * LOG2E)
            # lse and delta are loaded just before use, to save registers
            lse = gpu.broadcast_per_column(gpu.load(lses.at[slot], WGMMA_COL), s.shape)
            p = jnp.exp2(s - lse)
            dv = gpu.add_matmul(dv, p.astype(k.dtype), do, a_smem)
            delta = gpu.broadcast_per_column(gpu.load(deltas.at[slot], WGMMA_COL), s.shape)
            plgpu.barrier_arrive(scratch["second_free"].at[slot])
            ds = (p * (dp - delta)).astype(k.dtype)
            dk = gpu.add_matmul(dk, ds, q, a_smem)
            plgpu.barrier_arrive(scratch["first_free"].at[slot])
            return dk, dv

        shape = TILE_ROWS, head_dim
        zeros = gpu.full(shape, 0.0, WGMMA), gpu.full(shape, 0.0, WGMMA)
        dk, dv = jax.lax.fori_loop(0, steps, step, zeros)
        indices = gpu.iota(dk.shape, 0) + mine.start
        if last_key_biases is not None:
            last_key_bias = last_key_biases[batch_head[0]]
            weight = jnp.exp2(jnp.where(indices == kv_length - 1, last_key_bias, 0.0))
            dk, dv = dk * weight, dv * weight
        valid = indices < kv_length
        # rotated queries contain the softmax scale and the factor for base 2; raw queries do not
        dk = jnp.where(valid, dk * (1 / LOG2E if fused else softmax_scale), 0.0)
        v[...] = jnp.where(valid, dv, 0.0).astype(v.dtype)
        if fused:
            total = scratch["scale_gradient"].at[group]
            mine.norm_rope_backward(dk, scale, rope, split, total, scale_gradients)
        else:
            k[...] = dk.astype(k.dtype)
        mine.write(dk_ref, dv_ref)

    def fetcher() -> None:
        def tile_of(ref: Ref) -> Callable[[Any], Ref]:
            return lambda i: gpu.slice_head(ref, batch_head, pl.ds(i * block_q, block_q))

        ready, free = scratch["first_ready"], scratch["first_free"]
        streamed = [([(tile_of(q_ref), queries), (tile_of(lse_ref), lses)], ready, free)]
        ready, free = scratch["second_ready"], scratch["second_free"]
        streamed += [([(tile_of(do_ref), gradients), (tile_of(delta_ref), deltas)], ready, free)]
        gpu.fetch_tiles(steps, stages, streamed)

    gpu.specialize_warpgroups(compute, fetcher)
