"""Building blocks of the Hopper kernels (Mosaic GPU): tiles, matmuls, TMA pipeline, norm and RoPE.

The kernels are warp-specialized. A thread block has WARPGROUPS compute warpgroups, each of which
works on a tile of TILE_ROWS rows (the M dimension of a wgmma), and one memory warpgroup. The memory
warpgroup issues the copies of the tensor memory accelerator (TMA) and needs few registers, so the
compute warpgroups get the rest. Tiles are streamed through a ring of `stages` slots in shared
memory; one barrier signals that a slot is full, another that all warpgroups have read it.

Legend: K head width, C rows of a streamed tile, N columns.
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

Ref = Any  # a Pallas reference
TILE_ROWS = 64
WARPGROUPS = 2
# Registers of a thread in a compute and in the memory warpgroup: 65536 in all warpgroups.
COMPUTE_REGISTERS, FETCH_REGISTERS = 240, 24
WGMMA = plgpu.Layout.WGMMA  # layout of a matmul's result in the registers of a warpgroup
# Vectors with one value per row, and per column, of such a result.
WGMMA_ROW, WGMMA_COL = WGMMA.reduce(1), WGMMA.reduce(0)


def tile_smem(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
    """Return shared memory for tiles (..., rows, K), swizzled as wgmma and TMA require."""
    half = shape[-1] // 2
    swizzle = plgpu.SwizzleTransform(2 * half)
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, half)), swizzle))


def load(ref: Ref, layout: Any, *, optimized: bool = True) -> jax.Array:
    """Load memory into registers in the given layout.

    Args:
      ref: shared memory, or device memory if not `optimized`.
      layout: a Mosaic GPU layout.
      optimized: raises an error if the layout cannot be read without bank conflicts.

    Returns:
      The array.
    """
    if platform() == "cpu":
        return ref[...]
    if jax.__version_info__ < (0, 11):
        return plgpu.load(ref, (), layout=layout, optimized=optimized)
    return plgpu.load(ref, layout=layout, optimized=optimized)  # type: ignore[call-arg]


def slice_head(ref: Ref, batch_head: tuple[Any, Any], rows: Any) -> Ref:
    """Select rows of one head (batch, head) of an array (B, L, H, K) or (B, H, L)."""
    batch, head = batch_head
    return ref.at[batch, rows, head] if len(ref.shape) == 4 else ref.at[batch, head, rows]


def slice_columns(ref: Ref, start: int, size: int) -> Ref:
    """Select `size` columns of a matrix, from `start` on."""
    return ref.at[:, pl.ds(start, size)]


def full(shape: tuple[int, ...], value: float, layout: Any) -> jax.Array:
    """Return a constant float32 array in registers."""
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def broadcast_per_row(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast one value per row: (rows,) -> (rows, columns)."""
    return jax.lax.broadcast_in_dim(vector, shape, [0])


def broadcast_per_column(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast one value per column: (columns,) -> (rows, columns)."""
    return jax.lax.broadcast_in_dim(vector, shape, [1])


def iota(shape: tuple[int, ...], axis: int) -> jax.Array:
    """Return row indices (axis 0) or column indices (axis 1) of `shape`, int32."""
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA)


def logits_at_end(s: jax.Array, start: Any, kv_length: Any, last_key_bias: Any | None) -> jax.Array:
    """Masks base-2 logits of keys past the length, and adds the last key's bias.

    Args:
      s: (queries, keys) float32.
      start: index of the first key.
      kv_length: number of valid keys.
      last_key_bias: float32, or None.
    """
    indices = iota(s.shape, 1) + start
    if last_key_bias is not None:
        s = jnp.where(indices == kv_length - 1, s + last_key_bias, s)
    return jnp.where(indices < kv_length, s, -jnp.inf)


def add_matmul(acc: jax.Array, a: jax.Array, b: Ref, a_smem: Ref | None) -> jax.Array:
    """Return acc + a @ b, with a in registers.

    Args:
      acc: (TILE_ROWS, N) float32.
      a: (TILE_ROWS, C) bfloat16.
      b: (C, N) in shared memory.
      a_smem: a buffer for a in shared memory. The interpreter supports neither a left operand in
        registers nor accumulators that outlive a scope. None on GPUs.
    """
    if a_smem is None:
        return pl.run_state(lambda ref: plgpu.wgmma(ref, a, b))(plgpu.ACC.init(acc))
    a_smem[...] = a
    plgpu.commit_smem()

    def product(ref: Ref) -> jax.Array:
        plgpu.wgmma(ref, a_smem, b)
        return ref[...]

    return acc + pl.run_scoped(product, plgpu.ACC((TILE_ROWS, acc.shape[1]), jnp.float32))


def multiply_pairs(*pairs: tuple[Ref, Ref]) -> tuple[jax.Array, ...]:
    """Return a @ b in float32 for several pairs in shared memory, (TILE_ROWS, K) and (K, N).

    All matmuls are issued together. Each result is available as soon as its own matmul has
    finished, while later ones may still run.
    """

    def compute(*refs: Ref) -> tuple[jax.Array, ...]:
        for ref, (a, b) in zip(refs, pairs, strict=True):
            plgpu.wgmma(ref, a, b)
        last = len(refs) - 1
        return tuple(plgpu.wgmma_accumulator_load(x, wait_n=last - i) for i, x in enumerate(refs))

    shapes = [(a.shape[0], b.shape[1]) for a, b in pairs]
    return pl.run_scoped(compute, *(plgpu.ACC(shape, jnp.float32) for shape in shapes))


# Tiles of several arrays that share a pair of barriers. For each array: a function from the step to
# its tile in device memory, and its slots in shared memory. Then the barriers "full" and "free".
TileGroup = tuple[list[tuple[Callable[[Any], Ref], Ref]], Ref, Ref]


def fetch_tiles(steps: Any, stages: int, arrays: list[TileGroup]) -> None:
    """Copy the tiles of all steps to shared memory: the work of the memory warpgroup.

    Args:
      steps: number of tiles per array.
      stages: number of slots in shared memory.
      arrays: groups of arrays that share barriers.
    """

    def step(i, carry):
        slot = jax.lax.rem(i, jnp.int32(stages))
        for sources, filled, free in arrays:

            @pl.when(i >= stages)
            def _(free=free):
                plgpu.barrier_wait(free.at[slot])

            for tile_of, slots in sources:
                plgpu.copy_gmem_to_smem(tile_of(i), slots.at[slot], filled.at[slot])
        return carry

    jax.lax.fori_loop(0, steps, step, 0)


def specialize_warpgroups(compute: Callable[[Any], None], fetcher: Callable[[], None]) -> None:
    """Run `compute(group)` in the compute warpgroups and `fetcher()` in the memory warpgroup."""
    group = jax.lax.axis_index("group")

    @pl.when(group < WARPGROUPS)
    def _():
        plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
        compute(group)

    @pl.when(group == WARPGROUPS)
    def _():
        plgpu.set_max_registers(FETCH_REGISTERS, action="decrease")
        fetcher()


def norm_rope_tile(
    tile: Ref, start: Any, scales: Ref, rope: Ref, split: int
) -> tuple[jax.Array, jax.Array]:
    """Apply RMSNorm with scale, then RoPE, to a tile.

    Args:
      tile: (TILE_ROWS, K) raw rows in shared memory.
      start: index of the first row.
      scales: (M, K) float32 in device memory.
      rope: (2, L, K) float32 in device memory.
      split: rows before this index use the first of two scales.

    Returns:
      Both halves, (TILE_ROWS, K / 2) float32 each: RoPE rotates the pairs (i, i + K / 2).
    """
    a, b, _ = _normalize(tile)
    half = a.shape[-1]
    a = a * _load_scale(scales, 0, half, start, split)
    b = b * _load_scale(scales, half, half, start, split)
    cos, sin = _load_rope(rope, start, half)
    return a * cos - b * sin, b * cos + a * sin


def norm_rope_tile_in_place(
    tile: Ref, start: Any, scales: Ref, rope: Ref, split: int, factor: float
) -> None:
    """Replace a tile's rows by the normalised and rotated rows times `factor`."""
    half = tile.shape[-1] // 2
    first, second = norm_rope_tile(tile, start, scales, rope, split)
    slice_columns(tile, 0, half)[...] = (first * factor).astype(tile.dtype)
    slice_columns(tile, half, half)[...] = (second * factor).astype(tile.dtype)
    plgpu.commit_smem()


def norm_rope_tile_backward(
    tile: Ref, da: jax.Array, db: jax.Array, start: Any, scales: Ref, rope: Ref, split: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return the gradients of `norm_rope_tile`, each in two halves (TILE_ROWS, K / 2) float32.

    The first pair is for the raw rows, the second for the scale, per row. Arguments as in
    `norm_rope_tile`; da and db are the gradients of its two results.
    """
    a, b, inverse = _normalize(tile)
    half = a.shape[-1]
    cos, sin = _load_rope(rope, start, half)
    da, db = da * cos + db * sin, db * cos - da * sin
    scale_gradient = da * a, db * b
    da = da * _load_scale(scales, 0, half, start, split)
    db = db * _load_scale(scales, half, half, start, split)
    mean = ((da * a).sum(1) + (db * b).sum(1)) * (0.5 / half)
    inverse = broadcast_per_row(inverse, a.shape)
    mean = broadcast_per_row(mean, a.shape)
    return (inverse * (da - a * mean), inverse * (db - b * mean)), scale_gradient


def _normalize(tile: Ref) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return both halves of the rows divided by their RMS, and the inverse RMS (TILE_ROWS,)."""
    half = tile.shape[-1] // 2
    a = load(slice_columns(tile, 0, half), WGMMA).astype(jnp.float32)
    b = load(slice_columns(tile, half, half), WGMMA).astype(jnp.float32)
    mean = ((a * a).sum(1) + (b * b).sum(1)) * (0.5 / half)
    inverse = jax.lax.rsqrt(mean + QK_NORM_EPS)
    return a * broadcast_per_row(inverse, a.shape), b * broadcast_per_row(inverse, a.shape), inverse


def _load_scale(scales: Ref, column: int, half: int, start: Any, split: int) -> jax.Array:
    """Load each row's scale, for the half that starts at `column`: (TILE_ROWS, K / 2)."""
    shape = (TILE_ROWS, half)

    def row(m: int) -> jax.Array:
        scale = load(scales.at[m, pl.ds(column, half)], WGMMA_COL, optimized=False)
        return broadcast_per_column(scale, shape)

    if scales.shape[0] == 1:
        return row(0)
    return jnp.where(iota(shape, 0) + start < split, row(0), row(1))


def _load_rope(rope: Ref, start: Any, half: int) -> tuple[jax.Array, jax.Array]:
    """Load cosines and sines of the rows, (TILE_ROWS, K / 2) each."""
    rows = pl.ds(start, TILE_ROWS)
    # the table repeats cosines and sines for both halves; the first half of the sines is negated
    cos, sin = rope.at[0, rows, pl.ds(0, half)], rope.at[1, rows, pl.ds(half, half)]
    return load(cos, WGMMA, optimized=False), load(sin, WGMMA, optimized=False)


def run_kernel(
    kernel: Callable[..., None], inputs: list[Any], *, static: Any, **options: Any
) -> Any:
    """Run a kernel; on CPUs in interpret mode.

    Args:
      kernel: its body; takes references to inputs and outputs, and by name scratch references and
        static arguments.
      inputs: arrays.
      static: the static arguments.
      **options: options of plgpu.kernel.

    Returns:
      The outputs.
    """
    body = functools.update_wrapper(functools.partial(kernel, **static), kernel)  # keeps its name
    interpret: Any = False
    if platform() == "cpu":
        interpret = plgpu.InterpretGPUParams()  # type: ignore[attr-defined]
    return plgpu.kernel(
        body,
        num_threads=WARPGROUPS + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            approx_math=True,  # exp2 as one instruction, with an error of 2^-22
            lowering_semantics=plgpu.LoweringSemantics.Lane,  # layouts are given explicitly
        ),
        interpret=interpret,
        **options,
    )(*inputs)
