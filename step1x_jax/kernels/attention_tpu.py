"""Flash attention for TPUs (Pallas Mosaic): forward and backward, optionally with QK-norm and RoPE.

Arrays are (B, L, H * K), the layout that the surrounding matmuls write and read: a head is 128
columns of all rows, and no transpose is needed.

All keys and values of one head are kept in VMEM (2.2 MiB each at 8832 tokens in bfloat16). The
forward kernel computes one block of queries per grid step and loops over the blocks of keys. Values
that are computed once per head are kept in VMEM too: normalised and rotated keys and transposed
values; in the backward pass rotated queries, the row sums of o * do, and dq in float32. One pass
over the logits therefore gives all three gradients (five matmuls instead of seven) without partial
sums in HBM, and heads can be distributed over cores. Up to 16384 tokens fit; longer sequences must
be sharded over chips.

Logits are stored transposed, (keys, queries). Maxima and sums then reduce over sublanes, which is
elementwise, and the statistics of the queries are one row that broadcasts for free.

QK-norm bounds the logits: |logit| <= sqrt(K) max|q_scale| max|k_scale|. Where this bound is far
below the float32 range (trained scales are about 1), the kernel computes the softmax without a
running maximum and without rescaling. The result is the same, with a third less arithmetic.

Legend: B batch, H heads, L queries, S keys, K head width (head_dim), M norms, block_q and block_kv
rows of a block of queries and of keys, R rows of either.
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

Ref = Any  # a Pallas reference
Rope = tuple[jax.Array, jax.Array]  # cosines and sines, (R, K) each

MASK_VALUE = -1e30  # masked logits; finite, because inf - inf is NaN
LANES = 128
MAX_TOKENS = 16384  # one head of this many in bfloat16 fits the smallest VMEM, 64 MiB
VMEM_BYTES = 96 * 2**20  # the limit given to the compiler, whose default is 16 MiB


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int], precision: Any) -> jax.Array:
    """Contract one axis of a with one of b; return float32."""
    if platform() == "cpu":  # interpret mode: some bfloat16 matmuls are not implemented on CPUs
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jax.lax.dot_general(
        a,
        b,
        ((contract[:1], contract[1:]), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _select_scale(indices: jax.Array, scales: jax.Array, split: int) -> jax.Array:
    """Return the norm's scale for each row: (R, K), or (1, K) if there is one norm."""
    if scales.shape[0] == 1:
        return scales
    return jnp.where(indices < split, scales[0:1], scales[1:2])


def _swap_halves(x: jax.Array) -> jax.Array:
    """Swap the two halves of the last axis."""
    half = x.shape[-1] // 2
    if x.shape[-1] == LANES:
        return pltpu.roll(x, half, 1)
    return jnp.concatenate([x[:, half:], x[:, :half]], axis=1)


def _norm_rope(
    x: jax.Array, indices: jax.Array, scales: jax.Array, rope: Rope, split: int
) -> jax.Array:
    """Apply RMSNorm with scale, then RoPE: x (R, K) float32 -> (R, K) float32."""
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + QK_NORM_EPS)
    x = x * _select_scale(indices, scales, split)
    return x * rope[0] + _swap_halves(x) * rope[1]


def _norm_rope_backward(
    x: jax.Array, dy: jax.Array, indices: jax.Array, scales: jax.Array, rope: Rope, split: int
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of `_norm_rope` for x (R, K), and for the scale per row (R, K)."""
    inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + QK_NORM_EPS)
    normed = x * inverse
    dz = dy * rope[0] + _swap_halves(dy * rope[1])
    dn = dz * _select_scale(indices, scales, split)
    dx = inverse * (dn - normed * jnp.mean(dn * normed, axis=-1, keepdims=True))
    return dx, dz * normed


def _row_indices(start: Any, size: int) -> jax.Array:
    """Return the indices of a block's rows, (R, 1)."""
    return start + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)


def _logits_at_end(
    s: jax.Array, indices: jax.Array, kv_length: Any, last_key_bias: Any | None
) -> jax.Array:
    """Masks base-2 logits (R, Q) of keys past the length, and adds the last key's bias."""
    if last_key_bias is not None:
        s = s + jnp.where(indices == kv_length - 1, last_key_bias, 0)
    return jnp.where(indices < kv_length, s, MASK_VALUE)


def _forward_kernel(
    kv_lengths: Ref,
    bounded: Ref,
    *refs: Ref,
    block_kv: int,
    counted: bool,
    fused: bool,
    split: int,
    precision: Any,
) -> None:
    """Attend from one block of queries to all keys of a head; grid (B, H, blocks of queries)."""
    last_key_biases, *rest = refs if counted else (None, *refs)
    if fused:
        (q_ref, k_ref, v_ref, q_scale_ref, k_scale_ref, rope_ref,
         o_ref, lse_ref, rotated_k_ref, vt_ref, *state) = rest  # fmt: skip
    else:
        q_ref, k_ref, v_ref, o_ref, lse_ref, vt_ref, *state = rest
    m_ref, l_ref, acc_ref = state
    b, i = pl.program_id(0), pl.program_id(2)
    block_q, head_dim = q_ref.shape
    dtype = q_ref.dtype
    to_base_2 = LOG2E / math.sqrt(head_dim)
    kv_blocks = k_ref.shape[0] // block_kv

    @pl.when(i == 0)
    def _():
        def prepare(j: Any) -> None:
            at = pl.ds(pl.multiple_of(j * block_kv, block_kv), block_kv)
            vt_ref[:, at] = v_ref[at, :].T
            if fused:
                x = k_ref[at, :].astype(jnp.float32)
                rope = rope_ref[0, at, :], rope_ref[1, at, :]
                indices = _row_indices(j * block_kv, block_kv)
                x = _norm_rope(x, indices, k_scale_ref[...], rope, split)
                rotated_k_ref[at, :] = x.astype(dtype)

        _loop(kv_blocks, prepare)

    q = q_ref[...]
    if fused:
        at = pl.ds(pl.multiple_of(i * block_q, block_q), block_q)
        rope = rope_ref[0, at, :], rope_ref[1, at, :]
        indices = _row_indices(i * block_q, block_q)
        q = _norm_rope(q.astype(jnp.float32), indices, q_scale_ref[...], rope, split)
        q = (q * to_base_2).astype(dtype)
    keys = rotated_k_ref if fused else k_ref
    kv_length = kv_lengths[b]
    last_key_bias = last_key_biases[b] if counted else None
    m_ref[...] = jnp.full_like(m_ref, MASK_VALUE)
    l_ref[...] = jnp.zeros_like(l_ref)
    acc_ref[...] = jnp.zeros_like(acc_ref)

    def attend(j: Any, at_end: bool, online: bool) -> None:
        at = pl.ds(pl.multiple_of(j * block_kv, block_kv), block_kv)
        s = _dot(keys[at, :], q, (1, 1), precision)  # (block_kv, block_q)
        if not fused:
            s = s * to_base_2
        if at_end:
            s = _logits_at_end(s, _row_indices(j * block_kv, block_kv), kv_length, last_key_bias)
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

    # the block of a last key with a bias is never a plain one, even if the length fills it
    plain_blocks = jax.lax.div(kv_length - 1 if counted else kv_length, block_kv)

    def attend_to_all(online: bool) -> None:
        _loop(plain_blocks, lambda j: attend(j, at_end=False, online=online))

        @pl.when(plain_blocks * block_kv < kv_length)
        def _():
            attend(plain_blocks, at_end=True, online=online)

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
    kv_lengths: Ref,
    *refs: Ref,
    block_q: int,
    counted: bool,
    fused: bool,
    split: int,
    precision: Any,
) -> None:
    """Compute dk and dv of one block of keys, and add the block's part to dq and to both scales.

    Grid (B, H, blocks of keys).
    """
    last_key_biases, *rest = refs if counted else (None, *refs)
    if fused:
        (q_ref, k_ref, v_ref, o_ref, do_ref, lse_ref, q_scale_ref, k_scale_ref, rope_ref,
         dq_ref, dk_ref, dv_ref, dq_scale_ref, dk_scale_ref,
         rotated_q_ref, acc_ref, delta_ref) = rest  # fmt: skip
    else:
        (q_ref, k_ref, v_ref, o_ref, do_ref, lse_ref,
         dq_ref, dk_ref, dv_ref, acc_ref, delta_ref) = rest  # fmt: skip
    b, j, last = pl.program_id(0), pl.program_id(2), pl.num_programs(2) - 1
    block_kv, head_dim = k_ref.shape
    dtype = q_ref.dtype
    scale = 1 / math.sqrt(head_dim)
    q_blocks = q_ref.shape[0] // block_q
    kv_length = kv_lengths[b]
    last_key_bias = last_key_biases[b] if counted else None

    def q_rows(i: Any) -> Any:
        return pl.ds(pl.multiple_of(i * block_q, block_q), block_q)

    @pl.when(j == 0)
    def _():
        def prepare(i: Any) -> None:
            at = q_rows(i)
            acc_ref[at, :] = jnp.zeros((block_q, head_dim), jnp.float32)
            product = o_ref[at, :].astype(jnp.float32) * do_ref[at, :].astype(jnp.float32)
            delta_ref[:, at] = jnp.sum(product.T, axis=0, keepdims=True)  # over sublanes
            if fused:
                x = q_ref[at, :].astype(jnp.float32)
                rope = rope_ref[0, at, :], rope_ref[1, at, :]
                x = _norm_rope(x, _row_indices(i * block_q, block_q), q_scale_ref[...], rope, split)
                rotated_q_ref[at, :] = (x * (scale * LOG2E)).astype(dtype)

        _loop(q_blocks, prepare)
        if fused:
            dq_scale_ref[...] = jnp.zeros_like(dq_scale_ref)
            dk_scale_ref[...] = jnp.zeros_like(dk_scale_ref)

    queries = rotated_q_ref if fused else q_ref
    v = v_ref[...]
    k = k_ref[...]
    if fused:
        kv_rows = pl.ds(pl.multiple_of(j * block_kv, block_kv), block_kv)
        k_rope = rope_ref[0, kv_rows, :], rope_ref[1, kv_rows, :]
        k_indices = _row_indices(j * block_kv, block_kv)
        k = _norm_rope(k.astype(jnp.float32), k_indices, k_scale_ref[...], k_rope, split)
        k = k.astype(dtype)

    def gradients(at_end: bool) -> None:
        def step(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            dk, dv = carry
            at = q_rows(i)
            q, do = queries[at, :], do_ref[at, :]
            s = _dot(k, q, (1, 1), precision)  # (block_kv, block_q)
            if not fused:
                s = s * (scale * LOG2E)
            if at_end:
                indices = _row_indices(j * block_kv, block_kv)
                s = _logits_at_end(s, indices, kv_length, last_key_bias)
            p = jnp.exp2(s - lse_ref[:, at])
            dv = dv + _dot(p.astype(dtype), do, (1, 0), precision)
            dp = _dot(v, do, (1, 1), precision)
            ds = (p * (dp - delta_ref[:, at])).astype(dtype)
            dk = dk + _dot(ds, q, (1, 0), precision)
            acc_ref[at, :] += _dot(ds, k, (0, 0), precision)
            return dk, dv

        zero = jnp.zeros((block_kv, head_dim), jnp.float32)
        dk, dv = jax.lax.fori_loop(0, q_blocks, step, (zero, zero))
        # rotated queries contain the softmax scale and the factor for base 2; given ones do not
        dk = dk * (1 / LOG2E if fused else scale)
        if fused:
            raw = k_ref[...].astype(jnp.float32)
            dk, dk_scale = _norm_rope_backward(raw, dk, k_indices, k_scale_ref[...], k_rope, split)
            _add_scale_gradients(dk_scale_ref, dk_scale, k_indices, split)
        dk_ref[...] = dk.astype(dk_ref.dtype)
        dv_ref[...] = dv.astype(dv_ref.dtype)

    # as in the forward kernel
    plain = (j + 1) * block_kv <= (kv_length - 1 if counted else kv_length)

    @pl.when(plain)
    def _():
        gradients(at_end=False)

    @pl.when((j * block_kv < kv_length) & jnp.logical_not(plain))
    def _():
        gradients(at_end=True)

    @pl.when(j * block_kv >= kv_length)
    def _():
        dk_ref[...] = jnp.zeros_like(dk_ref)
        dv_ref[...] = jnp.zeros_like(dv_ref)

    @pl.when(j == last)
    def _():
        def finish(i: Any) -> None:
            at = q_rows(i)
            dq = acc_ref[at, :] * scale
            if fused:
                raw = q_ref[at, :].astype(jnp.float32)
                rope = rope_ref[0, at, :], rope_ref[1, at, :]
                indices = _row_indices(i * block_q, block_q)
                dq, dq_scale = _norm_rope_backward(raw, dq, indices, q_scale_ref[...], rope, split)
                _add_scale_gradients(dq_scale_ref, dq_scale, indices, split)
            dq_ref[at, :] = dq.astype(dq_ref.dtype)

        _loop(q_blocks, finish)


def _loop(count: Any, body: Callable[[Any], None]) -> None:
    """Run `body` for 0 .. count - 1."""

    def step(i, carry):
        body(i)
        return carry

    jax.lax.fori_loop(0, count, step, 0)


def _add_scale_gradients(ref: Ref, gradient: jax.Array, indices: jax.Array, split: int) -> None:
    """Add the gradient (R, K), summed over the rows of each norm, to ref (M, K)."""
    if ref.shape[0] == 1:
        ref[...] += jnp.sum(gradient, axis=0, keepdims=True)
        return
    first = jnp.sum(jnp.where(indices < split, gradient, 0), axis=0, keepdims=True)
    ref[0:1, :] += first
    ref[1:2, :] += jnp.sum(gradient, axis=0, keepdims=True) - first


def _block_spec(rows: int, width: int) -> pl.BlockSpec:
    """Select one block of a head's rows, by the last grid axis; the array is (B, L, H * K)."""
    return pl.BlockSpec((None, rows, width), lambda b, h, i, *_: (b, i, h))


def _head_spec(rows: int, width: int, **options: Any) -> pl.BlockSpec:
    """Select all rows of a head; the array is (B, L, H * K)."""
    return pl.BlockSpec((None, rows, width), lambda b, h, i, *_: (b, 0, h), **options)


def _per_head_spec(rows: int, width: int) -> pl.BlockSpec:
    """Select the matrix of a head; the array is (B, H, rows, width)."""
    return pl.BlockSpec((None, None, rows, width), lambda b, h, i, *_: (b, h, 0, 0))


def _constant_spec(x: jax.Array) -> pl.BlockSpec:
    """Select the whole array, which is fetched once."""
    zeros = (0,) * x.ndim
    return pl.BlockSpec(x.shape, lambda b, h, i, *_: zeros, pipeline_mode=pl.Buffered(1))


def _run_kernel(kernel: Callable, grid: tuple, scalars: list, inputs: list, **specs: Any) -> list:
    """Run a kernel over the grid (B, H, blocks); on CPUs in interpret mode."""
    out_shape = specs.pop("out_shape")
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars), grid=grid, **specs
        ),
        out_shape=out_shape,
        # heads are independent; the blocks of a head share the scratch memory in VMEM
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=platform() == "cpu",
        name=kernel.func.__name__.strip("_"),  # type: ignore[attr-defined]
    )(*scalars, *inputs)


def _optional(x: jax.Array | None) -> list[jax.Array]:
    return [] if x is None else [x]


def _kernel_options(
    q: jax.Array, last_key_bias: jax.Array | None, norms: Norms | None, split: int
) -> dict[str, Any]:
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    counted = last_key_bias is not None
    return {"counted": counted, "fused": norms is not None, "split": split, "precision": precision}


def _check_lengths(q_len: int, kv_len: int) -> None:
    if max(q_len, kv_len) > MAX_TOKENS:
        raise UserError(
            f"pallas_tpu attention takes up to {MAX_TOKENS} tokens, not {max(q_len, kv_len)}; use a"
            " smaller picture."
        )


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
    """Run the forward pass; see flash.Kernels.

    Raises:
      UserError: more than MAX_TOKENS queries or keys.
    """
    (b, q_len, columns), kv_len = q.shape, k.shape[1]
    h = columns // head_dim
    _check_lengths(q_len, kv_len)
    block_q, block_kv = tpu_blocks(device_kind(), q_len, kv_len).forward
    padded_q_len = -(-q_len // block_q) * block_q
    padded_kv_len = -(-kv_len // block_kv) * block_kv
    inputs = [pad(q, 1, padded_q_len), pad(k, 1, padded_kv_len), pad(v, 1, padded_kv_len)]
    in_specs = [
        _block_spec(block_q, head_dim),
        _head_spec(padded_kv_len, head_dim),
        _head_spec(padded_kv_len, head_dim),
    ]
    scratch = [
        pltpu.VMEM((head_dim, padded_kv_len), q.dtype),  # transposed values
        pltpu.VMEM((1, block_q), jnp.float32),  # running maxima
        pltpu.VMEM((1, block_q), jnp.float32),  # running sums
        pltpu.VMEM((head_dim, block_q), jnp.float32),  # transposed output
    ]
    if norms is not None:
        rope = pad(norms.rope, 1, max(padded_q_len, padded_kv_len))
        constants = [norms.q_scale, norms.k_scale, rope]
        inputs += constants
        in_specs += map(_constant_spec, constants)
        # normalised and rotated keys
        scratch.insert(0, pltpu.VMEM((padded_kv_len, head_dim), q.dtype))
    o, lse = _run_kernel(
        functools.partial(
            _forward_kernel, block_kv=block_kv, **_kernel_options(q, last_key_bias, norms, split)
        ),
        (b, h, padded_q_len // block_q),
        [kv_lengths, is_bounded(norms, head_dim), *_optional(last_key_bias)],
        inputs,
        in_specs=in_specs,
        out_specs=[
            _block_spec(block_q, head_dim),
            pl.BlockSpec((None, None, 1, block_q), lambda b, h, i, *_: (b, h, 0, i)),
        ],
        scratch_shapes=scratch,
        out_shape=[
            jax.ShapeDtypeStruct(inputs[0].shape, q.dtype),
            jax.ShapeDtypeStruct((b, h, 1, padded_q_len), jnp.float32),
        ],
    )
    return o[:, :q_len], lse[..., :q_len]


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
    """Run the backward pass; see flash.Kernels."""
    (b, q_len, columns), kv_len = q.shape, k.shape[1]
    h = columns // head_dim
    block_q, block_kv = tpu_blocks(device_kind(), q_len, kv_len).backward
    padded_q_len = -(-q_len // block_q) * block_q
    padded_kv_len = -(-kv_len // block_kv) * block_kv
    # do is zero in the padding, so padded queries contribute to no gradient
    padded_q, padded_o, padded_do = (pad(x, 1, padded_q_len) for x in (q, o, do))
    padded_k, padded_v = (pad(x, 1, padded_kv_len) for x in (k, v))
    inputs = [padded_q, padded_k, padded_v, padded_o, padded_do, pad(lse, 3, padded_q_len)]
    in_specs = [
        _head_spec(padded_q_len, head_dim),
        _block_spec(block_kv, head_dim),
        _block_spec(block_kv, head_dim),
        # single-buffered to save VMEM: at 8832 tokens fetching these two takes 2 us of 250
        _head_spec(padded_q_len, head_dim, pipeline_mode=pl.Buffered(1)),
        _head_spec(padded_q_len, head_dim, pipeline_mode=pl.Buffered(1)),
        _per_head_spec(1, padded_q_len),
    ]
    out_shape = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs[:3]]
    out_specs = in_specs[:3]
    scratch = [
        pltpu.VMEM((padded_q_len, head_dim), jnp.float32),  # dq
        pltpu.VMEM((1, padded_q_len), jnp.float32),  # row sums of o * do
    ]
    if norms is not None:
        rope = pad(norms.rope, 1, max(padded_q_len, padded_kv_len))
        constants = [norms.q_scale, norms.k_scale, rope]
        inputs += constants
        in_specs += map(_constant_spec, constants)
        m = norms.q_scale.shape[0]
        out_shape += [jax.ShapeDtypeStruct((b, h, m, head_dim), jnp.float32)] * 2
        out_specs += [_per_head_spec(m, head_dim)] * 2
        # normalised and rotated queries
        scratch.insert(0, pltpu.VMEM((padded_q_len, head_dim), q.dtype))
    dq, dk, dv, *scales = _run_kernel(
        functools.partial(
            _backward_kernel, block_q=block_q, **_kernel_options(q, last_key_bias, norms, split)
        ),
        (b, h, padded_kv_len // block_kv),
        [kv_lengths, *_optional(last_key_bias)],
        inputs,
        in_specs=in_specs,
        out_specs=out_specs,
        scratch_shapes=scratch,
        out_shape=out_shape,
    )
    summed = tuple(scale.sum((0, 1)) for scale in scales)
    return dq[:, :q_len], dk[:, :kv_len], dv[:, :kv_len], summed


KERNELS = Kernels(forward, backward)
