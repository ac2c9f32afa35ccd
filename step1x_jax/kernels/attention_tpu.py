"""Flash attention for TPUs (Mosaic): forward and backward, with QK-norm and RoPE inside if wanted.

Arrays are (B, L, H K), as the matmuls around write and read them: a head is 128 columns of all
rows, and nothing is transposed on the way.

One head's keys and values lie in VMEM as a whole (2.2 MiB each at 8832 tokens in bfloat16), and a
kernel step is a block of queries against all of them, chunk by chunk. What is computed once for a
head stays there, too: normalised and rotated keys, transposed values; in the backward pass rotated
queries, each query's sum of output times its gradient, and the queries' gradient in float32. That
is why one pass over the logits gives all three
gradients (five matmuls, not seven), without partial sums in HBM, and heads can be shared out to
cores. 16384 tokens fit; longer sequences have to be split over chips.

Logits are held transposed, keys by queries: maxima and sums then run along sublanes, elementwise,
and a query's statistics are a row that broadcasts for free.

QK-norm bounds the logits: |logit| <= sqrt(K) max|q_scale| max|k_scale|. Where the bound is far from
float32's range (trained scales are about 1), no maximum is kept and nothing is rescaled: the
softmax is the same, and a third of its arithmetic is gone.

Legend: B batch, H heads, L queries, S keys, K head width, M norms, C rows of a chunk.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from step1x_jax.errors import UserError
from step1x_jax.kernels.flash import Kernels
from step1x_jax.kernels.norm_rope import LOG2E, QK_NORM_EPS, Norms, is_bounded, pad
from step1x_jax.kernels.platform import device_kind, platform
from step1x_jax.kernels.tuning import tpu_blocks

Ref = Any  # of Pallas
Rope = tuple[jax.Array, jax.Array]  # cosines and sines, (C, K) each

NOT_VALID = -1e30  # a logit that takes no part; finite, since inf - inf is no number
LANES = 128
LONGEST = 16384  # tokens whose head fits the smallest VMEM, 64 MiB, in bfloat16
VMEM_BYTES = 96 * 2**20  # the compiler's limit; its default is 16 MiB


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int], precision: Any) -> jax.Array:
    """Contracts one axis of each; float32."""
    if platform() == "cpu":  # interpreted; CPUs lack some matmuls of bfloat16
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jax.lax.dot_general(
        a,
        b,
        ((contract[:1], contract[1:]), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _scale_of(rows: jax.Array, scales: jax.Array, split: int) -> jax.Array:
    """The norm's scale of each row: (C, K) or (1, K)."""
    if scales.shape[0] == 1:
        return scales
    return jnp.where(rows < split, scales[0:1], scales[1:2])


def _half_turn(x: jax.Array) -> jax.Array:
    """Exchanges the halves of the last axis."""
    half = x.shape[-1] // 2
    if x.shape[-1] == LANES:
        return pltpu.roll(x, half, 1)
    return jnp.concatenate([x[:, half:], x[:, :half]], axis=1)


def _prologue(
    x: jax.Array, rows: jax.Array, scales: jax.Array, rope: Rope, split: int
) -> jax.Array:
    """RMSNorm with scale, then RoPE: x (C, K) float32 -> (C, K) float32."""
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + QK_NORM_EPS)
    x = x * _scale_of(rows, scales, split)
    return x * rope[0] + _half_turn(x) * rope[1]


def _prologue_backward(
    x: jax.Array, dy: jax.Array, rows: jax.Array, scales: jax.Array, rope: Rope, split: int
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `_prologue`: of x (C, K), and of the scale row by row (C, K)."""
    inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + QK_NORM_EPS)
    normed = x * inverse
    dz = dy * rope[0] + _half_turn(dy * rope[1])
    dn = dz * _scale_of(rows, scales, split)
    dx = inverse * (dn - normed * jnp.mean(dn * normed, axis=-1, keepdims=True))
    return dx, dz * normed


def _rows(start: Any, size: int) -> jax.Array:
    """Numbers of a chunk's rows, (C, 1)."""
    return start + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)


def _forward_kernel(
    lengths: Ref, bounded: Ref, *refs: Ref, chunk: int, fused: bool, split: int, precision: Any
) -> None:
    """A block of queries against all keys of a head; grid (B, H, blocks of queries)."""
    if fused:
        q_ref, k_ref, v_ref, qs_ref, ks_ref, rope_ref, o_ref, lse_ref, kh_ref, vt_ref, *state = refs
    else:
        q_ref, k_ref, v_ref, o_ref, lse_ref, vt_ref, *state = refs
    m_ref, l_ref, acc_ref = state
    b, i = pl.program_id(0), pl.program_id(2)
    block, width = q_ref.shape
    dtype = q_ref.dtype
    to_base_2 = LOG2E / math.sqrt(width)
    chunks = k_ref.shape[0] // chunk

    @pl.when(i == 0)
    def _():
        def prepare(c: Any) -> None:
            at = pl.ds(pl.multiple_of(c * chunk, chunk), chunk)
            vt_ref[:, at] = v_ref[at, :].T
            if fused:
                x = k_ref[at, :].astype(jnp.float32)
                rope = rope_ref[0, at, :], rope_ref[1, at, :]
                x = _prologue(x, _rows(c * chunk, chunk), ks_ref[...], rope, split)
                kh_ref[at, :] = x.astype(dtype)

        _loop(chunks, prepare)

    q = q_ref[...]
    if fused:
        at = pl.ds(pl.multiple_of(i * block, block), block)
        rope = rope_ref[0, at, :], rope_ref[1, at, :]
        q = _prologue(q.astype(jnp.float32), _rows(i * block, block), qs_ref[...], rope, split)
        q = (q * to_base_2).astype(dtype)
    keys = kh_ref if fused else k_ref
    length = lengths[b]
    m_ref[...] = jnp.full_like(m_ref, NOT_VALID)
    l_ref[...] = jnp.zeros_like(l_ref)
    acc_ref[...] = jnp.zeros_like(acc_ref)

    def attend(c: Any, masked: bool, online: bool) -> None:
        at = pl.ds(pl.multiple_of(c * chunk, chunk), chunk)
        s = _dot(keys[at, :], q, (1, 1), precision)  # (C, block)
        if not fused:
            s = s * to_base_2
        if masked:
            s = jnp.where(_rows(c * chunk, chunk) < length, s, NOT_VALID)
        if not online:
            p = jnp.exp2(s)
            l_ref[...] += jnp.sum(p, axis=0, keepdims=True)
            acc_ref[...] += _dot(vt_ref[:, at], p.astype(dtype), (1, 0), precision)
            return
        m = jnp.maximum(m_ref[...], jnp.max(s, axis=0, keepdims=True))
        p = jnp.exp2(s - m)
        rescale = jnp.exp2(m_ref[...] - m)
        m_ref[...] = m
        l_ref[...] = l_ref[...] * rescale + jnp.sum(p, axis=0, keepdims=True)
        values = _dot(vt_ref[:, at], p.astype(dtype), (1, 0), precision)
        acc_ref[...] = acc_ref[...] * rescale + values

    whole = jax.lax.div(length, chunk)

    def attend_to_all(online: bool) -> None:
        _loop(whole, lambda c: attend(c, masked=False, online=online))

        @pl.when(whole * chunk < length)
        def _():
            attend(whole, masked=True, online=online)

    if fused:

        @pl.when(bounded[0] == 1)
        def _():
            m_ref[...] = jnp.zeros_like(m_ref)
            attend_to_all(online=False)

        @pl.when(bounded[0] == 0)
        def _():
            attend_to_all(online=True)

    else:
        attend_to_all(online=True)

    o_ref[...] = (acc_ref[...] / l_ref[...]).T.astype(o_ref.dtype)
    lse_ref[...] = m_ref[...] + jnp.log2(l_ref[...])


def _backward_kernel(
    lengths: Ref, *refs: Ref, chunk: int, fused: bool, split: int, precision: Any
) -> None:
    """A block of keys against all queries of a head; grid (B, H, blocks of keys)."""
    if fused:
        (q_ref, k_ref, v_ref, o_ref, do_ref, lse_ref, qs_ref, ks_ref, rope_ref,
         dq_ref, dk_ref, dv_ref, dqs_ref, dks_ref, qh_ref, acc_ref, delta_ref) = refs  # fmt: skip
    else:
        (q_ref, k_ref, v_ref, o_ref, do_ref, lse_ref,
         dq_ref, dk_ref, dv_ref, acc_ref, delta_ref) = refs  # fmt: skip
    b, j, last = pl.program_id(0), pl.program_id(2), pl.num_programs(2) - 1
    block, width = k_ref.shape
    dtype = q_ref.dtype
    scale = 1 / math.sqrt(width)
    chunks = q_ref.shape[0] // chunk
    length = lengths[b]

    def rows_of(c: Any) -> Any:
        return pl.ds(pl.multiple_of(c * chunk, chunk), chunk)

    @pl.when(j == 0)
    def _():
        def prepare(c: Any) -> None:
            at = rows_of(c)
            acc_ref[at, :] = jnp.zeros((chunk, width), jnp.float32)
            product = o_ref[at, :].astype(jnp.float32) * do_ref[at, :].astype(jnp.float32)
            delta_ref[:, at] = jnp.sum(product.T, axis=0, keepdims=True)  # along sublanes
            if fused:
                x = q_ref[at, :].astype(jnp.float32)
                rope = rope_ref[0, at, :], rope_ref[1, at, :]
                x = _prologue(x, _rows(c * chunk, chunk), qs_ref[...], rope, split)
                qh_ref[at, :] = (x * (scale * LOG2E)).astype(dtype)

        _loop(chunks, prepare)
        if fused:
            dqs_ref[...] = jnp.zeros_like(dqs_ref)
            dks_ref[...] = jnp.zeros_like(dks_ref)

    queries = qh_ref if fused else q_ref
    v = v_ref[...]
    k = k_ref[...]
    if fused:
        here = pl.ds(pl.multiple_of(j * block, block), block)
        k_rope = rope_ref[0, here, :], rope_ref[1, here, :]
        k_rows = _rows(j * block, block)
        k = _prologue(k.astype(jnp.float32), k_rows, ks_ref[...], k_rope, split).astype(dtype)

    def gradients(masked: bool) -> None:
        def step(c: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            dk, dv = carry
            at = rows_of(c)
            q, do = queries[at, :], do_ref[at, :]
            s = _dot(k, q, (1, 1), precision)  # (block, C)
            if not fused:
                s = s * (scale * LOG2E)
            p = jnp.exp2(s - lse_ref[:, at])
            if masked:
                p = jnp.where(_rows(j * block, block) < length, p, 0)
            dv = dv + _dot(p.astype(dtype), do, (1, 0), precision)
            dp = _dot(v, do, (1, 1), precision)
            ds = (p * (dp - delta_ref[:, at])).astype(dtype)
            dk = dk + _dot(ds, q, (1, 0), precision)
            acc_ref[at, :] += _dot(ds, k, (0, 0), precision)
            return dk, dv

        zero = jnp.zeros((block, width), jnp.float32)
        dk, dv = jax.lax.fori_loop(0, chunks, step, (zero, zero))
        # q carries the softmax scale and the base of the exponent where it was made here
        dk = dk * (1 / LOG2E if fused else scale)
        if fused:
            raw = k_ref[...].astype(jnp.float32)
            dk, dks = _prologue_backward(raw, dk, k_rows, ks_ref[...], k_rope, split)
            _add_scales(dks_ref, dks, k_rows, split)
        dk_ref[...] = dk.astype(dk_ref.dtype)
        dv_ref[...] = dv.astype(dv_ref.dtype)

    @pl.when((j + 1) * block <= length)
    def _():
        gradients(masked=False)

    @pl.when((j * block < length) & ((j + 1) * block > length))
    def _():
        gradients(masked=True)

    @pl.when(j * block >= length)
    def _():
        dk_ref[...] = jnp.zeros_like(dk_ref)
        dv_ref[...] = jnp.zeros_like(dv_ref)

    @pl.when(j == last)
    def _():
        def finish(c: Any) -> None:
            at = rows_of(c)
            dq = acc_ref[at, :] * scale
            if fused:
                raw = q_ref[at, :].astype(jnp.float32)
                rope = rope_ref[0, at, :], rope_ref[1, at, :]
                rows = _rows(c * chunk, chunk)
                dq, dqs = _prologue_backward(raw, dq, rows, qs_ref[...], rope, split)
                _add_scales(dqs_ref, dqs, rows, split)
            dq_ref[at, :] = dq.astype(dq_ref.dtype)

        _loop(chunks, finish)


def _loop(count: Any, body: Callable[[Any], None]) -> None:
    """Runs `body` for 0 .. count - 1."""

    def step(c, carry):
        body(c)
        return carry

    jax.lax.fori_loop(0, count, step, 0)


def _add_scales(ref: Ref, gradient: jax.Array, rows: jax.Array, split: int) -> None:
    """Adds the sum over the rows of each norm."""
    if ref.shape[0] == 1:
        ref[...] += jnp.sum(gradient, axis=0, keepdims=True)
        return
    first = jnp.sum(jnp.where(rows < split, gradient, 0), axis=0, keepdims=True)
    ref[0:1, :] += first
    ref[1:2, :] += jnp.sum(gradient, axis=0, keepdims=True) - first


def _block(rows: int, width: int) -> pl.BlockSpec:
    """Of a head's rows, the block of the grid's last axis; the array is (B, L, H K)."""
    return pl.BlockSpec((None, rows, width), lambda b, h, i, *_: (b, i, h))


def _head(rows: int, width: int, **options: Any) -> pl.BlockSpec:
    """All rows of a head; the array is (B, L, H K)."""
    return pl.BlockSpec((None, rows, width), lambda b, h, i, *_: (b, 0, h), **options)


def _of_head(rows: int, width: int) -> pl.BlockSpec:
    """What a head has for itself; the array is (B, H, rows, width)."""
    return pl.BlockSpec((None, None, rows, width), lambda b, h, i, *_: (b, h, 0, 0))


def _constant(x: jax.Array) -> pl.BlockSpec:
    """All of an array, fetched once."""
    zeros = (0,) * x.ndim
    return pl.BlockSpec(x.shape, lambda b, h, i, *_: zeros, pipeline_mode=pl.Buffered(1))


def _call(kernel: Callable, grid: tuple, scalars: list, inputs: list, **specs: Any) -> list:
    """Runs a kernel over (B, H, blocks); on CPUs interpreted."""
    out_shape = specs.pop("out_shape")
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars), grid=grid, **specs
        ),
        out_shape=out_shape,
        # heads are independent; blocks of a head share what lies in VMEM
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=platform() == "cpu",
        name=kernel.func.__name__.strip("_"),  # type: ignore[attr-defined]
    )(*scalars, *inputs)


def _options(q: jax.Array, norms: Norms | None, split: int) -> dict[str, Any]:
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    return {"fused": norms is not None, "split": split, "precision": precision}


def _check(length: int, size: int) -> None:
    if max(length, size) > LONGEST:
        raise UserError(
            f"pallas_tpu attention takes up to {LONGEST} tokens, here are {max(length, size)}; take"
            " a smaller picture."
        )


def forward(
    head_dim: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    norms: Norms | None,
    split: int,
) -> tuple[jax.Array, jax.Array]:
    """See flash.Kernels."""
    (b, length, columns), size, width = q.shape, k.shape[1], head_dim
    h = columns // width
    _check(length, size)
    block, chunk = tpu_blocks(device_kind(), length, size).forward
    queries, keys = -(-length // block) * block, -(-size // chunk) * chunk  # with padding
    inputs = [pad(q, 1, queries), pad(k, 1, keys), pad(v, 1, keys)]
    in_specs = [_block(block, width), _head(keys, width), _head(keys, width)]
    scratch = [
        pltpu.VMEM((width, keys), q.dtype),  # values, transposed
        pltpu.VMEM((1, block), jnp.float32),  # maxima
        pltpu.VMEM((1, block), jnp.float32),  # sums
        pltpu.VMEM((width, block), jnp.float32),  # output, transposed
    ]
    if norms is not None:
        constants = [norms.q_scale, norms.k_scale, pad(norms.rope, 1, max(queries, keys))]
        inputs += constants
        in_specs += map(_constant, constants)
        scratch.insert(0, pltpu.VMEM((keys, width), q.dtype))  # keys, normalised and rotated
    o, lse = _call(
        functools.partial(_forward_kernel, chunk=chunk, **_options(q, norms, split)),
        (b, h, queries // block),
        [lengths, is_bounded(norms, width)],
        inputs,
        in_specs=in_specs,
        out_specs=[
            _block(block, width),
            pl.BlockSpec((None, None, 1, block), lambda b, h, i, *_: (b, h, 0, i)),
        ],
        scratch_shapes=scratch,
        out_shape=[
            jax.ShapeDtypeStruct(inputs[0].shape, q.dtype),
            jax.ShapeDtypeStruct((b, h, 1, queries), jnp.float32),
        ],
    )
    return o[:, :length], lse[..., :length]


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
    """See flash.Kernels."""
    (b, length, columns), size, width = q.shape, k.shape[1], head_dim
    h = columns // width
    chunk, block = tpu_blocks(device_kind(), length, size).backward
    queries, keys = -(-length // chunk) * chunk, -(-size // block) * block  # with padding
    rows = [pad(x, 1, queries) for x in (q, o, do)]  # do is 0 behind: no part of any gradient
    others = [pad(x, 1, keys) for x in (k, v)]
    inputs = [rows[0], *others, *rows[1:], pad(lse, 3, queries)]
    in_specs = [
        _head(queries, width),
        _block(block, width),
        _block(block, width),
        # no room for the next head's: at 8832 tokens these two are fetched in 2 us of 250
        _head(queries, width, pipeline_mode=pl.Buffered(1)),
        _head(queries, width, pipeline_mode=pl.Buffered(1)),
        _of_head(1, queries),
    ]
    out_shape = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs[:3]]
    out_specs = in_specs[:3]
    scratch = [
        pltpu.VMEM((queries, width), jnp.float32),  # gradient of the queries
        pltpu.VMEM((1, queries), jnp.float32),  # sums of output times its gradient
    ]
    if norms is not None:
        constants = [norms.q_scale, norms.k_scale, pad(norms.rope, 1, max(queries, keys))]
        inputs += constants
        in_specs += map(_constant, constants)
        m = norms.q_scale.shape[0]
        out_shape += [jax.ShapeDtypeStruct((b, h, m, width), jnp.float32)] * 2
        out_specs += [_of_head(m, width)] * 2
        scratch.insert(0, pltpu.VMEM((queries, width), q.dtype))  # queries, normalised and rotated
    dq, dk, dv, *scales = _call(
        functools.partial(_backward_kernel, chunk=chunk, **_options(q, norms, split)),
        (b, h, keys // block),
        [lengths],
        inputs,
        in_specs=in_specs,
        out_specs=out_specs,
        scratch_shapes=scratch,
        out_shape=out_shape,
    )
    summed = tuple(scale.sum((0, 1)) for scale in scales)
    return dq[:, :length], dk[:, :size], dv[:, :size], summed


KERNELS = Kernels(forward, backward)
