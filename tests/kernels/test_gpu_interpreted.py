"""The Hopper kernels in interpret mode on CPUs, with race detection.

Warpgroups are threads; a read of shared memory that another thread may be writing fails the test.
Needs jax 0.11 or newer, which the second test environment has.
"""

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
# As for bfloat16 in test_implementations.py. In addition the row sums of o * do use the rounded
# output, as in all flash attention, which is visible if few keys are valid.
TOLERANCE = 4e-2
SHAPES = {
    "whole tiles": Shape(1, 1, 1, 128, 128, 128),
    "ends inside tiles": Shape(1, 1, 1, 200, 300, 64, (290,)),
    "smaller than a tile": Shape(1, 2, 2, 7, 9, 64),
    "a single valid key": Shape(2, 1, 1, 40, 200, 128, (1, 200)),
    "grouped heads": Shape(1, 2, 1, 33, 65, 64, (30,)),
    "large logits": Shape(1, 1, 1, 60, 300, 128, None, 40.0),
    "last keys count": Shape(3, 1, 1, 40, 200, 64, (128, 200, 77), total_keys=200),
}
NORM_SHAPES = {
    "one norm": (Shape(2, 1, 1, 130, 130, 128, (130, 77)), 0),
    "two norms, split inside a tile": (Shape(1, 1, 1, 200, 200, 64, (190,)), 70),
    "last keys count": (Shape(2, 1, 1, 130, 130, 64, (128, 77), total_keys=640), 0),
}


@pytest.fixture(autouse=True)
def races():
    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
        yield


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients(name):
    check(partial(attention, implementation="pallas_gpu"), SHAPES[name], jnp.bfloat16, TOLERANCE)


@pytest.mark.parametrize("name", NORM_SHAPES)
def test_qk_norm_rope_attention(name):
    run = partial(qk_norm_rope_attention, implementation="pallas_gpu")
    shape, split = NORM_SHAPES[name]
    check_fused(run, shape, split, 1.0, jnp.bfloat16, TOLERANCE)


def test_softmax_with_running_maximum_for_unbounded_logits(monkeypatch):
    """The bound is lowered, so the same inputs use the other softmax."""
    monkeypatch.setattr(norm_rope, "LARGEST_BOUND", -1.0)
    run = partial(qk_norm_rope_attention, implementation="pallas_gpu")
    check_fused(run, Shape(1, 1, 1, 100, 100, 64, (90,)), 0, 1.0, jnp.bfloat16, TOLERANCE)


def test_logits_at_the_bound():
    """With the largest scales that are allowed, the sums reach 2^100."""
    (q, _, v, _), _ = operands(Shape(1, 1, 1, 64, 64, 64), jnp.bfloat16)
    _, _, rope = norm_operands(Shape(1, 1, 1, 64, 64, 64), 0, 1.0)
    scale = jnp.full((1, 64), np.sqrt(99 / (8 * norm_rope.LOG2E)))
    assert norm_rope.is_bounded(norm_rope.Norms(scale, scale, rope), 64)[0] == 1
    got = qk_norm_rope_attention(q, q, v, scale, scale, rope, implementation="pallas_gpu")
    want = qk_norm_rope_attention(q, q, v, scale, scale, rope, implementation="xla")
    np.testing.assert_allclose(got.astype(float), want.astype(float), atol=2e-2)


def test_results_do_not_depend_on_tile_sizes(monkeypatch):
    """More and fewer stages than steps; streamed tiles of 64 and 128 rows."""
    sizes = GpuBlocks(forward=Tiles(64, 2), dq=Tiles(128, 4), dkv=Tiles(128, 2))
    monkeypatch.setattr(tuning, "GPU_TABLE", {("cpu", 200): sizes})
    run = partial(attention, implementation="pallas_gpu")
    check(run, Shape(1, 1, 1, 200, 200, 64, (190,)), jnp.bfloat16, TOLERANCE)


def test_keys_past_the_length_are_ignored():
    (q, k, v, _), _ = operands(Shape(1, 1, 1, 20, 200, 64), jnp.bfloat16)
    run = partial(attention, kv_lengths=jnp.array([130]), implementation="pallas_gpu")
    clean = run(q, k, v)
    dirty = run(q, k.at[:, 130:].set(1e4), v.at[:, 130:].set(1e30))
    np.testing.assert_array_equal(clean.astype(float), dirty.astype(float))


def test_gradients_are_zero_without_valid_keys():
    """This happens on devices of a ring that hold only padding."""
    from step1x_jax.kernels.attention_gpu import KERNELS

    heads, _ = operands(Shape(1, 1, 1, 64, 64, 64), jnp.bfloat16)
    q, k, v, do = (x.reshape(1, 64, 64) for x in heads)
    lse = jnp.zeros((1, 1, 1, 64))
    gradients = KERNELS.backward(64, q, k, v, jnp.array([0]), None, None, 0, q, lse, do)[:3]
    for gradient in gradients:
        np.testing.assert_array_equal(gradient.astype(float), 0)
