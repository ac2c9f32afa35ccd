"""Pieces of the Hopper kernels (Mosaic GPU): tiles, matmuls, the fetching warpgroup, norm and RoPE.

A block of a grid is GROUPS warpgroups that compute, each on a tile of ROWS rows, the height of a
wgmma, and one that fetches: it keeps the tensor memory accelerator (TMA) busy and needs no
registers, which the others get. Tiles travel through a ring of `stages` places in shared memory;
a barrier says when a place is full, another when all have read it.

Legend: K head width, C rows of a tile that travels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from step1x_jax.kernels.norm_rope import QK_NORM_EPS
from step1x_jax.kernels.platform import platform

Ref = Any  # of Pallas
ROWS = 64
GROUPS = 2
# Registers of a thread that computes, and of one that fetches: 65536 in all.
COMPUTING, FETCHING = 240, 24
WGMMA = plgpu.Layout.WGMMA  # how a matmul's result lies in the threads of a warpgroup
BY_ROW, BY_COLUMN = WGMMA.reduce(1), WGMMA.reduce(0)  # vectors that broadcast along the other axis


def tiles(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
    """Shared memory for tiles (..., rows, K), swizzled as wgmma and TMA want it."""
    half = shape[-1] // 2
    swizzle = plgpu.SwizzleTransform(2 * half)
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, half)), swizzle))


def load(ref: Ref, layout: Any, *, optimized: bool = True) -> jax.Array:
    """Reads memory into registers, laid out as the threads need it.

    Args:
      ref: shared memory, or device memory if not `optimized`.
      layout: of Mosaic GPU.
      optimized: an error if the layout cannot be read without bank conflicts.

    Returns:
      The array.
    """
    if platform() == "cpu":
        return ref[...]
    if jax.__version_info__ < (0, 11):
        return plgpu.load(ref, (), layout=layout, optimized=optimized)
    return plgpu.load(ref, layout=layout, optimized=optimized)  # type: ignore[call-arg]


def head_rows(ref: Ref, at: tuple[Any, Any], rows: Any) -> Ref:
    """Rows of the head `at` (batch, head): of an array (B, L, H, K), or (B, H, L)."""
    batch, head = at
    return ref.at[batch, rows, head] if len(ref.shape) == 4 else ref.at[batch, head, rows]


def columns(ref: Ref, start: int, size: int) -> Ref:
    """Some columns of a matrix."""
    return ref.at[:, pl.ds(start, size)]


def full(shape: tuple[int, ...], value: float, layout: Any) -> jax.Array:
    """An array in registers."""
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def by_rows(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """(rows,) -> (rows, columns)."""
    return jax.lax.broadcast_in_dim(vector, shape, [0])


def by_columns(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """(columns,) -> (rows, columns)."""
    return jax.lax.broadcast_in_dim(vector, shape, [1])


def numbers(shape: tuple[int, ...], axis: int) -> jax.Array:
    """Row or column numbers, int32."""
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA)


def add_product(acc: jax.Array, a: jax.Array, b: Ref, stage: Ref | None) -> jax.Array:
    """acc + a @ b, a from registers.

    Args:
      acc: (ROWS, N) float32.
      a: (ROWS, C) bfloat16.
      b: (C, N) in shared memory.
      stage: room for a in shared memory: the interpreter knows no left side in registers and
        nothing of accumulators that outlive a scope. None on GPUs.
    """
    if stage is None:
        return pl.run_state(lambda ref: plgpu.wgmma(ref, a, b))(plgpu.ACC.init(acc))
    stage[...] = a
    plgpu.commit_smem()

    def product(ref: Ref) -> jax.Array:
        plgpu.wgmma(ref, stage, b)
        return ref[...]

    return acc + pl.run_scoped(product, plgpu.ACC((ROWS, acc.shape[1]), jnp.float32))


def products(*pairs: tuple[Ref, Ref]) -> tuple[jax.Array, ...]:
    """a @ b in float32 for several pairs in shared memory, (ROWS, K) and (K, N), under way at once.

    The first is given as soon as it is there, while the others may still be under way.
    """

    def compute(*refs: Ref) -> tuple[jax.Array, ...]:
        for ref, (a, b) in zip(refs, pairs, strict=True):
            plgpu.wgmma(ref, a, b)
        last = len(refs) - 1
        return tuple(plgpu.wgmma_accumulator_load(x, wait_n=last - i) for i, x in enumerate(refs))

    shapes = [(a.shape[0], b.shape[1]) for a, b in pairs]
    return pl.run_scoped(compute, *(plgpu.ACC(shape, jnp.float32) for shape in shapes))


# Tiles of several arrays that are ready and free together: for each, what gives the tile of a step
# in device memory, and its places in shared memory; the barriers that say what is full, what free.
Together = tuple[list[tuple[Callable[[Any], Ref], Ref]], Ref, Ref]


def fetch(steps: Any, stages: int, arrays: list[Together]) -> None:
    """What the fetching warpgroup does: fills `stages` places, `steps` times in all."""

    def step(i, carry):
        slot = jax.lax.rem(i, jnp.int32(stages))
        for sources, filled, free in arrays:

            @pl.when(i >= stages)
            def _(free=free):
                plgpu.barrier_wait(free.at[slot])

            for tile_of, places in sources:
                plgpu.copy_gmem_to_smem(tile_of(i), places.at[slot], filled.at[slot])
        return carry

    jax.lax.fori_loop(0, steps, step, 0)


def roles(compute: Callable[[Any], None], fetcher: Callable[[], None]) -> None:
    """Gives the warpgroups of a block their work and their registers."""
    group = jax.lax.axis_index("group")

    @pl.when(group < GROUPS)
    def _():
        plgpu.set_max_registers(COMPUTING, action="increase")
        compute(group)

    @pl.when(group == GROUPS)
    def _():
        plgpu.set_max_registers(FETCHING, action="decrease")
        fetcher()


def norm_rope_tile(
    tile: Ref, start: Any, scales: Ref, rope: Ref, split: int
) -> tuple[jax.Array, jax.Array]:
    """RMSNorm with scale, then RoPE, of ROWS raw rows (ROWS, K) in shared memory.

    Args:
      tile: the rows.
      start: number of the first.
      scales: (M, K) float32 in device memory.
      rope: (2, L, K) float32 in device memory.
      split: rows before it take the first of two scales.

    Returns:
      Both halves, (ROWS, K / 2) float32 each: RoPE turns pairs (i, i + K / 2).
    """
    a, b, _ = _normed(tile)
    half = a.shape[-1]
    a = a * _scale(scales, 0, half, start, split)
    b = b * _scale(scales, half, half, start, split)
    cos, sin = _turn(rope, start, half)
    return a * cos - b * sin, b * cos + a * sin


def turn_tile(tile: Ref, start: Any, scales: Ref, rope: Ref, split: int, factor: float) -> None:
    """Puts a tile's rows, normalised, rotated and times a factor, in their own place."""
    half = tile.shape[-1] // 2
    first, second = norm_rope_tile(tile, start, scales, rope, split)
    columns(tile, 0, half)[...] = (first * factor).astype(tile.dtype)
    columns(tile, half, half)[...] = (second * factor).astype(tile.dtype)
    plgpu.commit_smem()


def norm_rope_tile_backward(
    tile: Ref, da: jax.Array, db: jax.Array, start: Any, scales: Ref, rope: Ref, split: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Gradients of `norm_rope_tile`: of both halves of the raw rows, of the scale row by row."""
    a, b, inverse = _normed(tile)
    half = a.shape[-1]
    cos, sin = _turn(rope, start, half)
    da, db = da * cos + db * sin, db * cos - da * sin
    of_scale = da * a, db * b
    da = da * _scale(scales, 0, half, start, split)
    db = db * _scale(scales, half, half, start, split)
    mean = ((da * a).sum(1) + (db * b).sum(1)) * (0.5 / half)
    inverse = by_rows(inverse, a.shape)
    mean = by_rows(mean, a.shape)
    return (inverse * (da - a * mean), inverse * (db - b * mean)), of_scale


def _normed(tile: Ref) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both halves of a tile's rows divided by their root mean square, and its inverse."""
    half = tile.shape[-1] // 2
    a = load(columns(tile, 0, half), WGMMA).astype(jnp.float32)
    b = load(columns(tile, half, half), WGMMA).astype(jnp.float32)
    mean = ((a * a).sum(1) + (b * b).sum(1)) * (0.5 / half)
    inverse = jax.lax.rsqrt(mean + QK_NORM_EPS)
    return a * by_rows(inverse, a.shape), b * by_rows(inverse, a.shape), inverse


def _scale(scales: Ref, column: int, half: int, start: Any, split: int) -> jax.Array:
    """The norm's scale of each row, in the half that starts at `column`: (ROWS, K / 2)."""
    shape = (ROWS, half)

    def row(m: int) -> jax.Array:
        scale = load(scales.at[m, pl.ds(column, half)], BY_COLUMN, optimized=False)
        return by_columns(scale, shape)

    if scales.shape[0] == 1:
        return row(0)
    return jnp.where(numbers(shape, 0) + start < split, row(0), row(1))


def _turn(rope: Ref, start: Any, half: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rows, (ROWS, K / 2) each."""
    rows = pl.ds(start, ROWS)
    # the table holds both halves of each, the sines' first half negative
    cos, sin = rope.at[0, rows, pl.ds(0, half)], rope.at[1, rows, pl.ds(half, half)]
    return load(cos, WGMMA, optimized=False), load(sin, WGMMA, optimized=False)


def call(kernel: Callable[..., None], inputs: list[Any], *, static: Any, **options: Any) -> Any:
    """Runs a kernel; on CPUs interpreted.

    Args:
      kernel: its body, of refs (inputs, outputs) and of scratch and static arguments by name.
      inputs: arrays.
      static: the latter.
      **options: of plgpu.kernel.

    Returns:
      The outputs.
    """
    body = functools.update_wrapper(functools.partial(kernel, **static), kernel)  # for its name
    interpret: Any = False
    if platform() == "cpu":
        interpret = plgpu.InterpretGPUParams()  # type: ignore[attr-defined]
    return plgpu.kernel(
        body,
        num_threads=GROUPS + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            approx_math=True,  # exp2 as one instruction, 2^-22 off
            lowering_semantics=plgpu.LoweringSemantics.Lane,  # we name the layouts
        ),
        interpret=interpret,
        **options,
    )(*inputs)
