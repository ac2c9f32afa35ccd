"""Flash attention for Hopper GPUs (Mosaic GPU): backward pass.

Two kernels, each sums in registers and in one order, so that a gradient is the same bit for bit
every time: one for queries, to which keys and values travel, and one for keys and values, to which
queries travel. They compute the logits twice (seven matmuls; five would need sums by atomic adds,
in any order).

With norms, a kernel normalises and rotates the tiles that stay, and takes the gradient back through
both at its end. What travels is normalised and rotated once before (see attention_gpu.py), again
rather than kept since the forward pass.

Legend: B batch, H heads, L queries, S keys, K head width, M norms, C rows that travel at once.
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
from step1x_jax.kernels.gpu import BY_COLUMN, BY_ROW, GROUPS, ROWS, WGMMA, Ref
from step1x_jax.kernels.norm_rope import LOG2E, Norms, norm_rope, pad, split_heads
from step1x_jax.kernels.platform import device_kind, platform
from step1x_jax.kernels.tuning import Tiles, gpu_blocks


def backward(
    head_dim: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    norms: Norms | None,
    split: int,
    o: jax.Array,
    lse: jax.Array,
    do: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """See flash.Kernels; bfloat16, K 64 or 128."""
    length, size = q.shape[1], k.shape[1]
    tuned = gpu_blocks(device_kind(), length, size)
    turned_q, turned_k = q, k
    if norms is not None:
        turned_q = norm_rope(q, norms.q_scale, norms.rope, split) * (LOG2E / math.sqrt(head_dim))
        turned_q = turned_q.astype(q.dtype)
        turned_k = norm_rope(k, norms.k_scale, norms.rope, split).astype(k.dtype)
    q, k, v, o, do, turned_q, turned_k = (
        split_heads(x, head_dim) for x in (q, k, v, o, do, turned_q, turned_k)
    )
    delta = jnp.sum(o.astype(jnp.float32) * do.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    lse = lse[:, :, 0]
    run = functools.partial(_run, lengths=lengths, split=split)
    # every size is a multiple of 64; a padded query has do 0 and is no part of any gradient
    stay, travel = GROUPS * ROWS, tuned.dq.size
    rows = [_pad(x, stay) for x in (q, do, lse, delta)]
    others = [_pad(x, travel) for x in (turned_k, v)]
    dq, *of_q = run(_dq_kernel, rows, others, tuned.dq, norms and norms.q_scale, norms, results=1)
    rows = [_pad(x, stay) for x in (k, v)]
    others = [_pad(x, tuned.dkv.size) for x in (turned_q, do, lse, delta)]
    dk, dv, *of_k = run(
        _dkv_kernel, rows, others, tuned.dkv, norms and norms.k_scale, norms, results=2
    )
    scales = tuple(x.sum((0, 1, 2)) for x in (*of_q, *of_k))
    dq, dk, dv = (x.reshape(*x.shape[:2], -1) for x in (dq, dk, dv))
    return dq[:, :length], dk[:, :size], dv[:, :size], scales


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    """Zeros behind the rows, up to a multiple."""
    axis = 1 if x.ndim == 4 else 2
    return pad(x, axis, -(-x.shape[axis] // multiple) * multiple)


def _run(
    kernel: Callable[..., None],
    rows: list[jax.Array],
    others: list[jax.Array],
    tuned: Tiles,
    scale: jax.Array | None,
    norms: Norms | None,
    *,
    lengths: jax.Array,
    split: int,
    results: int,
) -> list[jax.Array]:
    """Runs one of the two kernels over all blocks of the rows that stay.

    Args:
      kernel: its body.
      rows: arrays (B, rows, H, K) or (B, H, rows) whose tiles stay.
      others: arrays (B, rows, H, K) or (B, H, rows) whose tiles travel.
      tuned: of those.
      scale: (M, K) of the rows that stay.
      norms: or None.
      lengths: (B,).
      split: see flash.Kernels.
      results: how many arrays like the first of the rows are computed.

    Returns:
      These, and with norms the gradient of `scale`, in parts (B, H, tiles, M, K).
    """
    b, length, h, width = rows[0].shape
    inputs = [*rows, *others, lengths]
    out_type = [jax.ShapeDtypeStruct(rows[0].shape, rows[0].dtype)] * results
    if norms is not None and scale is not None:
        inputs += [scale, pad(norms.rope, 1, length)]
        parts = (b, h, length // ROWS, *scale.shape)
        out_type.append(jax.ShapeDtypeStruct(parts, jnp.float32))

    def room(places: int, size: int, x: jax.Array) -> Any:
        wide = x.ndim == 4
        return gpu.tiles(places, size, width) if wide else plgpu.SMEM((places, size), jnp.float32)

    arrived = functools.partial(plgpu.Barrier, num_arrivals=len(others) // 2)
    scratch: dict[str, Any] = {
        "rows": [room(GROUPS, ROWS, x) for x in rows],
        "others": [room(tuned.stages, tuned.size, x) for x in others],
        "rows_here": plgpu.Barrier(num_barriers=GROUPS, num_arrivals=len(rows)),
        "again": plgpu.Barrier(num_barriers=GROUPS),
        "first_here": arrived(num_barriers=tuned.stages),
        "second_here": arrived(num_barriers=tuned.stages),
        "first_free": plgpu.Barrier(num_barriers=tuned.stages, num_arrivals=GROUPS),
        "second_free": plgpu.Barrier(num_barriers=tuned.stages, num_arrivals=GROUPS),
    }
    if scale is not None:
        scratch["of_scale"] = plgpu.SMEM((GROUPS, *scale.shape), jnp.float32)
    if platform() == "cpu":
        scratch["stage"] = gpu.tiles(GROUPS, ROWS, tuned.size)
    return gpu.call(
        kernel,
        inputs,
        static={"fused": norms is not None, "split": split},
        out_type=out_type,
        grid=(h, length // (GROUPS * ROWS), b),
        grid_names=("head", "block", "batch"),
        scratch_types=scratch,
    )


class _Staying:
    """The tiles of a warpgroup that stay: fetched, and turned where there are norms."""

    def __init__(self, group: Any, refs: list[Ref], scratch: dict[str, Any]):
        self.tile = jax.lax.axis_index("block") * GROUPS + group
        self.start = self.tile * ROWS
        self.at = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
        self.rows = pl.ds(self.start, ROWS)
        self.refs = refs
        self.places = [place.at[group] for place in scratch["rows"]]
        for ref, place in zip(refs, self.places, strict=True):
            here = scratch["rows_here"].at[group]
            plgpu.copy_gmem_to_smem(gpu.head_rows(ref, self.at, self.rows), place, here)
        plgpu.barrier_wait(scratch["rows_here"].at[group])
        self.again = scratch["again"].at[group]

    def turn(self, scale: Ref, rope: Ref, split: int, factor: float) -> None:
        """Normalises and rotates the first tile, see gpu.turn_tile."""
        gpu.turn_tile(self.places[0], self.start, scale, rope, split, factor)

    def turn_back(
        self, gradient: jax.Array, scale: Ref, rope: Ref, split: int, total: Ref, parts: Ref
    ) -> None:
        """From the gradient of turned rows to that of the rows, in the first place, and of scale.

        Args:
          gradient: (ROWS, K) float32.
          scale: (M, K).
          rope: (2, L, K).
          split: see flash.Kernels.
          total: (M, K) in shared memory.
          parts: (B, H, tiles, M, K) in device memory, of which this tile's is written.
        """
        place = self.places[0]
        half = place.shape[-1] // 2
        again = gpu.head_rows(self.refs[0], self.at, self.rows)
        plgpu.copy_gmem_to_smem(again, place, self.again)
        plgpu.barrier_wait(self.again)
        halves, of_scale = gpu.norm_rope_tile_backward(
            place, gradient[:, :half], gradient[:, half:], self.start, scale, rope, split
        )
        first = gpu.numbers((ROWS, half), 0) + self.start < split
        for i in range(2):
            at = pl.ds(i * half, half)
            gpu.columns(place, i * half, half)[...] = halves[i].astype(place.dtype)
            if scale.shape[0] == 1:
                total[0, at] = of_scale[i].sum(axis=0)
            else:
                total[0, at] = jnp.where(first, of_scale[i], 0.0).sum(axis=0)
                total[1, at] = jnp.where(first, 0.0, of_scale[i]).sum(axis=0)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(total, parts.at[*self.at, self.tile])

    def write(self, *outputs: Ref) -> None:
        """Copies the places to the outputs."""
        plgpu.commit_smem()
        for place, output in zip(self.places, outputs, strict=False):
            plgpu.copy_smem_to_gmem(place, gpu.head_rows(output, self.at, self.rows))
        plgpu.wait_smem_to_gmem(0)


def _dq_kernel(*refs: Ref, fused: bool, split: int, **scratch: Any) -> None:
    """GROUPS tiles of queries, to which the keys and values of a head travel."""
    q_ref, do_ref, lse_ref, delta_ref, k_ref, v_ref, lengths, *rest = refs
    scale, rope, dq_ref, parts = rest if fused else (None, None, rest[0], None)
    at = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    keys, values = scratch["others"]
    stages, size, width = keys.shape
    softmax_scale = 1 / math.sqrt(width)
    length = lengths[at[0]]
    whole = jax.lax.div(length, jnp.int32(size))

    def compute(group: Any) -> None:
        mine = _Staying(group, [q_ref, do_ref, lse_ref, delta_ref], scratch)
        if fused:
            mine.turn(scale, rope, split, softmax_scale * LOG2E)
        q, do, lse, delta = mine.places
        lse, delta = gpu.load(lse, BY_ROW), gpu.load(delta, BY_ROW)
        stage = scratch["stage"].at[group] if "stage" in scratch else None

        def step(i: Any, dq: jax.Array, masked: bool) -> jax.Array:
            slot = jax.lax.rem(i, jnp.int32(stages))
            plgpu.barrier_wait(scratch["first_here"].at[slot])
            plgpu.barrier_wait(scratch["second_here"].at[slot])
            s, dp = gpu.products(
                (q, keys.at[slot].transpose((1, 0))), (do, values.at[slot].transpose((1, 0)))
            )
            plgpu.barrier_arrive(scratch["second_free"].at[slot])
            if not fused:
                s = s * (softmax_scale * LOG2E)
            p = jnp.exp2(s - gpu.by_rows(lse, s.shape))
            if masked:
                p = jnp.where(gpu.numbers(s.shape, 1) + i * size < length, p, 0.0)
            ds = (p * (dp - gpu.by_rows(delta, s.shape))).astype(q.dtype)
            dq = gpu.add_product(dq, ds, keys.at[slot], stage)
            plgpu.barrier_arrive(scratch["first_free"].at[slot])
            return dq

        dq = gpu.full((ROWS, width), 0.0, WGMMA)
        dq = jax.lax.fori_loop(0, whole, functools.partial(step, masked=False), dq)
        dq = jax.lax.cond(
            whole * size < length, lambda x: step(whole, x, masked=True), lambda x: x, dq
        )
        dq = dq * softmax_scale
        if fused:
            mine.turn_back(dq, scale, rope, split, scratch["of_scale"].at[group], parts)
        else:
            q[...] = dq.astype(q.dtype)
        mine.write(dq_ref)

    def fetcher() -> None:
        def tile_of(ref: Ref) -> Callable[[Any], Ref]:
            return lambda i: gpu.head_rows(ref, at, pl.ds(i * size, size))

        steps = jax.lax.div(length + (size - 1), jnp.int32(size))
        here, free = scratch["first_here"], scratch["first_free"]
        others = [([(tile_of(k_ref), keys)], here, free)]
        here, free = scratch["second_here"], scratch["second_free"]
        others += [([(tile_of(v_ref), values)], here, free)]
        gpu.fetch(steps, stages, others)

    gpu.roles(compute, fetcher)


def _dkv_kernel(*refs: Ref, fused: bool, split: int, **scratch: Any) -> None:
    """GROUPS tiles of keys and values, to which the queries of a head travel.

    Everything is transposed, keys by queries. A key that is not valid has a row of its own in all
    of it, which is set to zero at the end.
    """
    k_ref, v_ref, q_ref, do_ref, lse_ref, delta_ref, lengths, *rest = refs
    if fused:
        scale, rope, dk_ref, dv_ref, parts = rest
    else:
        dk_ref, dv_ref = rest
    at = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    queries, gradients, lses, deltas = scratch["others"]
    stages, size, width = queries.shape
    softmax_scale = 1 / math.sqrt(width)
    length = lengths[at[0]]
    first_row = jax.lax.axis_index("block") * (GROUPS * ROWS)
    # a block without a valid key has nothing to sum
    steps = jnp.where(first_row < length, q_ref.shape[1] // size, 0)

    def compute(group: Any) -> None:
        mine = _Staying(group, [k_ref, v_ref], scratch)
        if fused:
            mine.turn(scale, rope, split, 1.0)
        k, v = mine.places
        stage = scratch["stage"].at[group] if "stage" in scratch else None

        def step(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            dk, dv = carry
            slot = jax.lax.rem(i, jnp.int32(stages))
            q, do = queries.at[slot], gradients.at[slot]
            plgpu.barrier_wait(scratch["first_here"].at[slot])
            plgpu.barrier_wait(scratch["second_here"].at[slot])
            s, dp = gpu.products((k, q.transpose((1, 0))), (v, do.transpose((1, 0))))
            if not fused:
                s = s * (softmax_scale * LOG2E)
            # rows of numbers are loaded where they are needed: registers are short
            lse = gpu.by_columns(gpu.load(lses.at[slot], BY_COLUMN), s.shape)
            p = jnp.exp2(s - lse)
            dv = gpu.add_product(dv, p.astype(k.dtype), do, stage)
            delta = gpu.by_columns(gpu.load(deltas.at[slot], BY_COLUMN), s.shape)
            plgpu.barrier_arrive(scratch["second_free"].at[slot])
            ds = (p * (dp - delta)).astype(k.dtype)
            dk = gpu.add_product(dk, ds, q, stage)
            plgpu.barrier_arrive(scratch["first_free"].at[slot])
            return dk, dv

        zeros = gpu.full((ROWS, width), 0.0, WGMMA), gpu.full((ROWS, width), 0.0, WGMMA)
        dk, dv = jax.lax.fori_loop(0, steps, step, zeros)
        valid = gpu.numbers(dk.shape, 0) + mine.start < length
        # q carries the softmax scale and the base of the exponent where it was turned
        dk = jnp.where(valid, dk * (1 / LOG2E if fused else softmax_scale), 0.0)
        v[...] = jnp.where(valid, dv, 0.0).astype(v.dtype)
        if fused:
            mine.turn_back(dk, scale, rope, split, scratch["of_scale"].at[group], parts)
        else:
            k[...] = dk.astype(k.dtype)
        mine.write(dk_ref, dv_ref)

    def fetcher() -> None:
        def tile_of(ref: Ref) -> Callable[[Any], Ref]:
            return lambda i: gpu.head_rows(ref, at, pl.ds(i * size, size))

        here, free = scratch["first_here"], scratch["first_free"]
        others = [([(tile_of(q_ref), queries), (tile_of(lse_ref), lses)], here, free)]
        here, free = scratch["second_here"], scratch["second_free"]
        others += [([(tile_of(do_ref), gradients), (tile_of(delta_ref), deltas)], here, free)]
        gpu.fetch(steps, stages, others)

    gpu.roles(compute, fetcher)
