"""Each implementation against a float64 reference; Pallas kernels run in interpret mode."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.kernels import tuning
from step1x_jax.kernels.attention import choose
from step1x_jax.kernels.attention_cudnn import attention_cudnn
from step1x_jax.kernels.tuning import BLOCK_SIZES, Blocks, choose_block_size
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

HERE = ["xla", "pallas_tpu"]  # implementations that run on CPUs
# float32: rounding of dot products of width 128 and of sums over 1000 keys. Logits of several
# hundred have errors of 3e-5, which appear in the softmax weights.
FLOAT32 = {"large logits": 4e-5, "unbounded logits": 1e-4, "unbounded last keys": 1e-4}
# bfloat16 has 8 significant bits: operands are exact, but q and k after norm and RoPE, softmax
# weights, gradients of logits and results are rounded, by 2^-8 each.
BFLOAT16 = 2e-2


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("implementation", HERE)
def test_values_and_gradients_in_float32(implementation, name):
    run = partial(attention, implementation=implementation)
    with jax.default_matmul_precision("highest"):
        check(run, SHAPES[name], jnp.float32, FLOAT32.get(name, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one block", "lengths in different blocks", "last keys count"])
@pytest.mark.parametrize("implementation", HERE)
def test_values_and_gradients_in_bfloat16(implementation, name):
    run = partial(attention, implementation=implementation)
    check(run, SHAPES[name], jnp.bfloat16, BFLOAT16)


@pytest.mark.parametrize("name", NORM_SHAPES)
@pytest.mark.parametrize("implementation", HERE)
def test_qk_norm_rope_attention_in_float32(implementation, name):
    run = partial(qk_norm_rope_attention, implementation=implementation)
    with jax.default_matmul_precision("highest"):
        check_fused(run, *NORM_SHAPES[name], jnp.float32, FLOAT32.get(name, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one norm", "last keys count"])
@pytest.mark.parametrize("implementation", HERE)
def test_qk_norm_rope_attention_in_bfloat16(implementation, name):
    run = partial(qk_norm_rope_attention, implementation=implementation)
    check_fused(run, *NORM_SHAPES[name], jnp.bfloat16, BFLOAT16)


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.total_keys])
def test_cudnn_gets_repeated_keys(name, monkeypatch):
    """cuDNN itself runs on GPUs only: plain JAX stands in for it."""
    plain = jax.nn.dot_product_attention

    def stand_in(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return plain(*arrays, implementation="xla", **options)

    def run(q, k, v, *, kv_lengths, total_keys):
        if kv_lengths is None:
            kv_lengths = jnp.full(len(k), k.shape[1])
        keys = {"kv_lengths": kv_lengths, "total_keys": total_keys}
        return attention_cudnn(q, k, v, **keys, causal=False)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    with jax.default_matmul_precision("highest"):
        check(run, SHAPES[name], jnp.float32, 1e-5)


def test_equal_keys_and_a_causal_mask_are_refused():
    x = jnp.zeros((1, 4, 1, 16))
    with pytest.raises(ValueError, match="a causal mask would hide"):
        attention(x, x, x, causal=True, total_keys=5)


@pytest.mark.parametrize("implementation", HERE)
def test_keys_past_the_length_are_ignored(implementation):
    """Huge keys and values there change nothing."""
    (q, k, v, _), _ = operands(Shape(1, 1, 1, 20, 300, 16))
    run = partial(attention, kv_lengths=jnp.array([130]), implementation=implementation)
    clean = run(q, k, v)
    dirty = run(q, k.at[:, 130:].set(1e4), v.at[:, 130:].set(1e30))
    np.testing.assert_allclose(clean, dirty, atol=1e-6)


def test_block_sizes_waste_at_most_three_percent():
    for length in (1, 128, 129, 2688, 5248, 8832, 16384):
        chosen = choose_block_size(length)
        padded = {size: -(-length // size) * size for size in BLOCK_SIZES}
        assert padded[chosen] <= 1.03 * min(padded.values())
    assert choose_block_size(8832) == 896  # 1.4 % of padding, for blocks more than twice as long


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["plain", "fused"])
def test_results_do_not_depend_on_block_sizes(entry, monkeypatch):
    """With these sizes queries and keys have different padded lengths."""
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
        ("pallas_tpu", {"causal": True}, "pallas_tpu attention supports no causal mask"),
        (
            "pallas_tpu",
            {"segment_ids": jnp.zeros((1, 4), jnp.int32)},
            "supports neither segment_ids",
        ),
        ("pallas_gpu", {"causal": True}, "pallas_gpu attention supports no causal mask"),
        ("pallas_gpu", {}, "pallas_gpu attention needs bfloat16, not float32"),
        ("cudnn", {}, "cudnn attention runs on NVIDIA GPUs; use 'xla'"),
    ],
)
def test_unsupported_arguments_are_refused_with_a_reason(name, options, reason):
    x = jnp.zeros((1, 4, 1, 16))
    with pytest.raises(UserError, match=reason):
        attention(x, x, x, implementation=name, **options)


def test_more_tokens_than_fit_vmem_are_refused():
    x = jax.ShapeDtypeStruct((1, 16385, 1, 16), jnp.float32)
    with pytest.raises(UserError, match="up to 16384 tokens"):
        jax.eval_shape(partial(attention, implementation="pallas_tpu"), x, x, x)


@pytest.mark.slow
def test_environment_variable_selects_a_supported_implementation(monkeypatch):
    x = jnp.zeros((1, 4, 1, 16))
    assert choose(16, x.dtype) == "xla"
    monkeypatch.setenv("STEP1X_ATTENTION", "pallas_tpu")
    assert choose(16, x.dtype) == "pallas_tpu"
    assert choose(16, x.dtype, causal=True) == "xla"
    assert choose(16, x.dtype, implementation="xla") == "xla"
    monkeypatch.setenv("STEP1X_ATTENTION", "flash")
    with pytest.raises(UserError, match="'flash' is unknown"):
        choose(16, x.dtype)
