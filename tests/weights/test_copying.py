"""Transposing copies against numpy's own."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from step1x_jax.weights import copying
from step1x_jax.weights.copying import copy_blocked, to_contiguous


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize(
    "shape", [(7,), (3, 40), (40, 33), (2, 35, 17), (3, 2, 33, 20), (1, 40, 1)]
)
def test_every_order_of_axes(shape, dtype):
    x = (np.arange(math.prod(shape)) % 251).reshape(shape).astype(jnp.dtype(dtype))
    for order in itertools.permutations(range(len(shape))):
        view = x.transpose(order)
        copy = to_contiguous(view)
        assert copy.flags.c_contiguous
        np.testing.assert_array_equal(copy, np.ascontiguousarray(view))


def test_scalars_cut_and_mirrored_views():
    x = np.arange(40 * 50 * 20, dtype=np.float32).reshape(40, 50, 20)
    for view in (x[0, 0, 0:1].reshape(()), x[3:, 5:40, ::-1], x[::2].T, x[:, ::-3, 1:].T, x[:0].T):
        np.testing.assert_array_equal(to_contiguous(view), np.ascontiguousarray(view))


def test_into_a_part_of_an_array_and_another_dtype():
    target = np.zeros((60, 3, 50), np.float32)
    source = np.arange(30 * 2 * 40, dtype=np.int16).reshape(2, 30, 40)
    copy_blocked(target[10:50, 1:, 4:34], source.transpose(2, 0, 1))
    want = np.zeros_like(target)
    want[10:50, 1:, 4:34] = source.transpose(2, 0, 1)
    np.testing.assert_array_equal(target, want)


def test_rows_and_small_matrices_are_not_copied_one_by_one(monkeypatch):
    """Each matrix costs Python time: a thousand for split columns, a million for convolutions."""
    steps, original = [], itertools.product

    def product(*axes):
        steps.append(math.prod(map(len, axes)))
        return original(*axes)

    monkeypatch.setattr(copying.itertools, "product", product)
    to_contiguous(np.zeros((1000, 64))[:, :32])
    to_contiguous(np.zeros((64, 64, 3, 3)).transpose(2, 3, 1, 0))
    assert steps == [1]
    to_contiguous(np.zeros((3, 4, 32, 64)).transpose(0, 3, 1, 2))
    assert steps == [1, 12]
