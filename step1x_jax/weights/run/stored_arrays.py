"""How the arrays of a checkpoint are stored, and the arrays in parts: Orbax takes whole ones only.

It stores them with tensorstore, as zarr arrays in one key-value store (OCDBT) for each item.
"""

import collections
import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts
from etils import epath
from orbax.checkpoint import v1 as ocp

from step1x_jax.files import is_remote

Index = tuple[slice, ...]  # a block of an array
Write = Callable[[ts.TensorStore, Index, np.ndarray], None]
BLOCK_BYTES = 1 << 28  # at most, of a block that is stored: what reads in parts needs a few of them


def storing() -> ocp.Context:
    """The context in which arrays are saved.

    Not compressed: that would save 8 % of float32 weights, a quarter of bfloat16 ones, and take
    several times as long.
    """
    context = ocp.Context()
    context.array.saving.use_compression = False
    context.array.saving.storage_options.chunk_byte_size = BLOCK_BYTES
    return context


def stored_array(item: epath.Path, name: str) -> ts.TensorStore:
    """An array of a checkpoint's item as tensorstore has it, to be read or written in parts.

    Raises:
      ValueError: it is not there, or not stored as this version of Orbax does.
    """
    return ts.open(_spec(item, name), open=True).result()


class Room(NamedTuple):
    """What an array needs."""

    shape: tuple[int, ...]
    block: tuple[int, ...]  # in which it is stored; what is larger than BLOCK_BYTES is cut further
    dtype: np.dtype


def make_room(item: epath.Path, rooms: Mapping[str, Room]) -> dict[str, ts.TensorStore]:
    """Arrays without numbers yet, in the places of those that Orbax has stored under their names.

    Args:
      item: the checkpoint's item.
      rooms: what is needed, by name.
    """
    context = ts.Context()  # one writer of the store for all
    coming = {}
    for name, (shape, block, dtype) in rooms.items():
        layout = ts.ChunkLayout(chunk_shape=_cut(block, dtype.itemsize))
        coming[name] = ts.open(
            # or a block of zeros would be left out, which Orbax takes for one that is missing
            _spec(item, name) | {"store_data_equal_to_fill_value": True},
            create=True,
            delete_existing=True,
            dtype=ts.dtype(dtype),
            shape=shape,
            chunk_layout=layout,
            context=context,
        )
    return {name: array.result() for name, array in coming.items()}


def _cut(block: Sequence[int], itemsize: int) -> list[int]:
    """A block halved along its longest axes until it has BLOCK_BYTES at most."""
    sizes = list(block)
    while math.prod(sizes) * itemsize > BLOCK_BYTES:
        axis = sizes.index(max(sizes))
        sizes[axis] = -(-sizes[axis] // 2)
    return sizes


def _spec(item: epath.Path, name: str) -> dict[str, Any]:
    """Where tensorstore finds an array."""
    if is_remote(item):
        bucket, _, folder = os.fspath(item).removeprefix("gs://").partition("/")
        base: Any = {"driver": "gcs", "bucket": bucket, "path": f"{folder}/"}
    else:
        base = {"driver": "file", "path": f"{os.fspath(item)}/"}
    store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return {"driver": "zarr3", "kvstore": store}


@contextlib.contextmanager
def writing() -> Iterator[Write]:
    """Gives a function that begins to write a block, which must not be changed any more.

    What is on its way to the disk is one block or BLOCK_BYTES. All is written when the context
    ends; on an error, too, nothing is on its way any more.

    Raises:
      ValueError: a block could not be written; the function, too, may say so of an earlier one.
    """
    under_way: collections.deque[tuple[ts.WriteFutures, int]] = collections.deque()

    def write(array: ts.TensorStore, index: Index, block: np.ndarray) -> None:
        while under_way and block.nbytes + sum(size for _, size in under_way) > BLOCK_BYTES:
            under_way.popleft()[0].result()
        future = array[index].write(block, can_reference_source_data_indefinitely=True)
        under_way.append((future, block.nbytes))

    try:
        yield write
        while under_way:
            under_way.popleft()[0].result()
    finally:
        for future, _ in under_way:
            future.exception()  # waits


def stored_blocks(array: ts.TensorStore) -> Iterator[Index]:
    """Places of the blocks of which it is stored."""
    sizes: Any = array.chunk_layout.read_chunk.shape
    cuts = [
        [slice(start, min(start + size, n)) for start in range(0, n, size)]
        for n, size in zip(array.shape, sizes, strict=True)
    ]
    yield from itertools.product(*cuts)


def read_blocks(array: ts.TensorStore) -> Iterator[tuple[Index, np.ndarray]]:
    """Gives each block in which an array is stored, with its place, while the next ones are read.

    These are one block or BLOCK_BYTES.

    Raises:
      ValueError: a block cannot be read; it is what `next` raises when that block's turn has come.
    """
    coming: collections.deque[tuple[Index, ts.Future[np.ndarray], int]] = collections.deque()
    for index in stored_blocks(array):
        part = array[index]
        coming.append((index, part.read(), part.size * part.dtype.numpy_dtype.itemsize))
        while len(coming) > 1 and sum(size for _, _, size in coming) > BLOCK_BYTES:
            yield _arrived(coming.popleft())
    while coming:
        yield _arrived(coming.popleft())


def _arrived(block: tuple[Index, ts.Future[np.ndarray], int]) -> tuple[Index, np.ndarray]:
    index, numbers, _ = block  # by a function, so that no name in `read_blocks` keeps them
    return index, numbers.result()
