"""The Hopper kernels interpreted on CPUs, with race detection: warpgroups are threads, and whoever
reads shared memory that another may be writing fails. Second lane: jax 0.11 and newer can do it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from step1x_jax.kernels import norm_rope, tuning
from step1x_jax.kernels.tuning import GpuBlocks, Tiles
from tests.kernels.checks import (
    Shape,
    attention,
    check,
    check_fused,
    norm_operands,
    operands,
    qk_norm_rope_attention,
)

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="Mosaic GPU is interpreted by jax 0.11 and newer"
)
# As bfloat16 in test_implementations.py; besides, the sum of o * do is of the rounded output, as in
# all flash attention, which shows where few keys are valid.
TOLERANCE = 4e-2
SHAPES = {
    "whole tiles": Shape(1, 1, 1, 128, 128, 128),
    "ends inside of tiles": Shape(1, 1, 1, 200, 300, 64, (290,)),
    "smaller than a tile": Shape(1, 2, 2, 7, 9, 64),
    "a single valid key": Shape(2, 1, 1, 40, 200, 128, (1, 200)),
    "grouped heads": Shape(1, 2, 1, 33, 65, 64, (30,)),
    "large logits": Shape(1, 1, 1, 60, 300, 128, None, 40.0),
}
NORM_SHAPES = {
    "one norm": (Shape(2, 1, 1, 130, 130, 128, (130, 77)), 0),
    "two norms, split inside of a tile": (Shape(1, 1, 1, 200, 200, 64, (190,)), 70),
}


@pytest.fixture(autouse=True)
def races():
    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
        yield


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients(name):
    check(partial(attention, implementation="pallas_gpu"), SHAPES[name], jnp.bfloat16, TOLERANCE)


@pytest.mark.parametrize("name", NORM_SHAPES)
def test_the_fused_entry(name):
    run = partial(qk_norm_rope_attention, implementation="pallas_gpu")
    shape, split = NORM_SHAPES[name]
    check_fused(run, shape, split, 1.0, jnp.bfloat16, TOLERANCE)


def test_a_maximum_is_kept_where_logits_are_not_bounded(monkeypatch):
    """The same inputs through the other softmax."""
    monkeypatch.setattr(norm_rope, "LARGEST_BOUND", -1.0)
    run = partial(qk_norm_rope_attention, implementation="pallas_gpu")
    check_fused(run, Shape(1, 1, 1, 100, 100, 64, (90,)), 0, 1.0, jnp.bfloat16, TOLERANCE)


def test_bounded_logits_of_any_size_the_bound_allows():
    """Scales up to the bound: 2^100 in the sums."""
    (q, _, v, _), _ = operands(Shape(1, 1, 1, 64, 64, 64), jnp.bfloat16)
    _, _, rope = norm_operands(Shape(1, 1, 1, 64, 64, 64), 0, 1.0)
    scale = jnp.full((1, 64), np.sqrt(99 / (8 * norm_rope.LOG2E)))
    assert norm_rope.is_bounded(norm_rope.Norms(scale, scale, rope), 64)[0] == 1
    got = qk_norm_rope_attention(q, q, v, scale, scale, rope, implementation="pallas_gpu")
    want = qk_norm_rope_attention(q, q, v, scale, scale, rope, implementation="xla")
    np.testing.assert_allclose(got.astype(float), want.astype(float), atol=2e-2)


def test_other_tiles_change_nothing(monkeypatch):
    """More places than steps, and fewer; keys and queries that travel in twos and ones."""
    sizes = GpuBlocks(forward=Tiles(64, 2), dq=Tiles(128, 4), dkv=Tiles(128, 2))
    monkeypatch.setattr(tuning, "GPU_TABLE", {("cpu", 200): sizes})
    run = partial(attention, implementation="pallas_gpu")
    check(run, Shape(1, 1, 1, 200, 200, 64, (190,)), jnp.bfloat16, TOLERANCE)


def test_what_stands_behind_a_length_is_ignored():
    (q, k, v, _), _ = operands(Shape(1, 1, 1, 20, 200, 64), jnp.bfloat16)
    run = partial(attention, kv_lengths=jnp.array([130]), implementation="pallas_gpu")
    clean = run(q, k, v)
    dirty = run(q, k.at[:, 130:].set(1e4), v.at[:, 130:].set(1e30))
    np.testing.assert_array_equal(clean.astype(float), dirty.astype(float))


def test_heads_without_a_valid_key_get_gradients_of_zero():
    """As devices of a ring that hold only padding."""
    from step1x_jax.kernels.attention_gpu import KERNELS

    heads, _ = operands(Shape(1, 1, 1, 64, 64, 64), jnp.bfloat16)
    q, k, v, do = (x.reshape(1, 64, 64) for x in heads)
    lse = jnp.zeros((1, 1, 1, 64))
    gradients = KERNELS.backward(64, q, k, v, jnp.array([0]), None, 0, q, lse, do)[:3]
    for gradient in gradients:
        np.testing.assert_array_equal(gradient.astype(float), 0)
