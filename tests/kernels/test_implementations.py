"""Every implementation against the same float64 attention; Pallas kernels are interpreted here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.kernels import tuning
from step1x_jax.kernels.attention import choose
from step1x_jax.kernels.tuning import CHUNKS, Blocks, chunk_size
from tests.kernels.checks import (
    NORM_SHAPES,
    SHAPES,
    Shape,
    attention,
    check,
    check_fused,
    operands,
    qk_norm_rope_attention,
)

HERE = ["xla", "pallas_tpu"]  # what runs on CPUs
# float32: rounding of dot products of width 128 and of sums over 1000 keys; logits of several
# hundred are off by 3e-5, which shows in the weights.
FLOAT32 = {"large logits": 4e-5, "unbounded logits": 1e-4}
# bfloat16 has 8 bits: operands are exact, but q and k after norm and RoPE, weights, logits'
# gradients and results are rounded; 2^-8 each.
BFLOAT16 = 2e-2


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("implementation", HERE)
def test_values_and_gradients_in_float32(implementation, name):
    run = partial(attention, implementation=implementation)
    with jax.default_matmul_precision("highest"):
        check(run, SHAPES[name], jnp.float32, FLOAT32.get(name, 1e-5))


@pytest.mark.parametrize("name", ["one block", "lengths in different blocks"])
@pytest.mark.parametrize("implementation", HERE)
def test_values_and_gradients_in_bfloat16(implementation, name):
    run = partial(attention, implementation=implementation)
    check(run, SHAPES[name], jnp.bfloat16, BFLOAT16)


@pytest.mark.parametrize("name", NORM_SHAPES)
@pytest.mark.parametrize("implementation", HERE)
def test_the_fused_entry_in_float32(implementation, name):
    run = partial(qk_norm_rope_attention, implementation=implementation)
    with jax.default_matmul_precision("highest"):
        check_fused(run, *NORM_SHAPES[name], jnp.float32, FLOAT32.get(name, 1e-5))


@pytest.mark.parametrize("implementation", HERE)
def test_the_fused_entry_in_bfloat16(implementation):
    run = partial(qk_norm_rope_attention, implementation=implementation)
    check_fused(run, *NORM_SHAPES["one norm"], jnp.bfloat16, BFLOAT16)


@pytest.mark.parametrize("implementation", HERE)
def test_what_stands_behind_a_length_is_ignored(implementation):
    """Huge ones there change nothing."""
    (q, k, v, _), _ = operands(Shape(1, 1, 1, 20, 300, 16))
    run = partial(attention, kv_lengths=jnp.array([130]), implementation=implementation)
    clean = run(q, k, v)
    dirty = run(q, k.at[:, 130:].set(1e4), v.at[:, 130:].set(1e30))
    np.testing.assert_allclose(clean, dirty, atol=1e-6)


def test_no_chunk_wastes_more_than_it_must():
    for length in (1, 128, 129, 2688, 5248, 8832, 16384):
        chunk = chunk_size(length)
        padded = {c: -(-length // c) * c for c in CHUNKS}
        assert padded[chunk] <= 1.03 * min(padded.values())
    assert chunk_size(8832) == 896  # 1.4 % of padding, for chunks more than twice as long


@pytest.mark.parametrize("entry", ["plain", "fused"])
def test_blocks_of_different_sizes_change_nothing(entry, monkeypatch):
    """Padded queries and padded keys then end at different places."""
    sizes = Blocks(forward=(256, 384), backward=(384, 128))
    monkeypatch.setattr(tuning, "TPU_TABLE", {("cpu", 300): sizes})
    shape = Shape(1, 1, 1, 300, 300, 16, (290,))
    with jax.default_matmul_precision("highest"):
        if entry == "plain":
            run = partial(attention, implementation="pallas_tpu")
            check(run, shape, jnp.float32, 1e-5)
        else:
            run = partial(qk_norm_rope_attention, implementation="pallas_tpu")
            check_fused(run, shape, 100, 1.0, jnp.float32, 1e-5)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("pallas_tpu", {"causal": True}, "pallas_tpu attention has no causal mask"),
        ("pallas_tpu", {"segment_ids": jnp.zeros((1, 4), jnp.int32)}, "has no segment_ids"),
        ("pallas_gpu", {"causal": True}, "pallas_gpu attention has no causal mask"),
        ("pallas_gpu", {}, "pallas_gpu attention takes bfloat16, not float32"),
        ("cudnn", {}, "cudnn attention runs on NVIDIA GPUs; use 'xla'"),
    ],
)
def test_what_cannot_be_done_is_said_by_name(name, options, reason):
    x = jnp.zeros((1, 4, 1, 16))
    with pytest.raises(UserError, match=reason):
        attention(x, x, x, implementation=name, **options)


def test_too_many_tokens_for_a_chip_are_refused():
    x = jax.ShapeDtypeStruct((1, 16385, 1, 16), jnp.float32)
    with pytest.raises(UserError, match="up to 16384 tokens"):
        jax.eval_shape(partial(attention, implementation="pallas_tpu"), x, x, x)


def test_the_environment_names_one_where_it_can(monkeypatch):
    x = jnp.zeros((1, 4, 1, 16))
    assert choose(16, x.dtype) == "xla"
    monkeypatch.setenv("STEP1X_ATTENTION", "pallas_tpu")
    assert choose(16, x.dtype) == "pallas_tpu"
    assert choose(16, x.dtype, causal=True) == "xla"
    assert choose(16, x.dtype, implementation="xla") == "xla"
    monkeypatch.setenv("STEP1X_ATTENTION", "flash")
    with pytest.raises(UserError, match="'flash' is unknown"):
        choose(16, x.dtype)
