"""Copies between the published order of numbers and ours, at the speed of memory."""

import itertools
from typing import Any

import numpy as np

STRIPE = 16  # numbers; of 16 to 128 the fastest, on the kernels' shapes up to four times as none


def put(target: np.ndarray, view: np.ndarray) -> None:
    """target[...] = view, where the view is one of transposed memory.

    numpy copies row by row; a row of the target lies in as many lines of the processor's cache as
    it has numbers, and these are gone before the next row wants their neighbours. So stripes, of
    one matrix after another: of the axes along which the target's and the view's are neighbours.
    """
    near = _nearest(view)
    if view.flags.c_contiguous or near == view.ndim - 1:
        target[...] = view
        return
    indices: list[Any] = [[slice(None)]] * view.ndim
    if view.shape[near] >= STRIPE:  # not of convolutions, which would be too many small matrices
        indices = [range(size) for size in view.shape]
        indices[near] = indices[-1] = [slice(None)]
    for index in itertools.product(*indices):
        matrix, source = target[index], view[index]
        for start in range(0, matrix.shape[-1], STRIPE):
            matrix[..., start : start + STRIPE] = source[..., start : start + STRIPE]


def _nearest(view: np.ndarray) -> int:
    """The axis along which neighbours lie next to each other in memory."""
    long = [axis for axis in range(view.ndim) if view.shape[axis] > 1]
    return min(long, key=lambda axis: abs(view.strides[axis]), default=view.ndim - 1)


def in_order(view: np.ndarray) -> np.ndarray:
    """The view as an array whose memory has its order."""
    if view.flags.c_contiguous:
        return view
    array = np.empty(view.shape, view.dtype)
    put(array, view)
    return array
