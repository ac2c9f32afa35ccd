"""How a checkpoint's arrays are stored, and access to their blocks.

Orbax reads and writes only whole arrays. It stores them by tensorstore, as zarr arrays in one
key-value store (OCDBT) per item.
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
BLOCK_BYTES = 1 << 28  # limit of a stored block; readers of blocks hold a few of them


def save_context() -> ocp.Context:
    """Return the Orbax context for saving arrays.

    Compression is off: it would save 8 % of float32 weights and a quarter of bfloat16 ones, and
    take several times as long.
    """
    context = ocp.Context()
    context.array.saving.use_compression = False
    context.array.saving.storage_options.chunk_byte_size = BLOCK_BYTES
    return context


def open_array(item: epath.Path, name: str) -> ts.TensorStore:
    """Open an array of a checkpoint's item in tensorstore, to read or write blocks of it.

    Raises:
      ValueError: it does not exist, or is not stored as this version of Orbax does.
    """
    return ts.open(_tensorstore_spec(item, name), open=True).result()


class ArraySpec(NamedTuple):
    """An array to create.

    Attributes:
      shape: of the array.
      block: shape of the blocks in which it is stored; those above BLOCK_BYTES are split.
      dtype: of the array.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    dtype: np.dtype


def create_arrays(item: epath.Path, specs: Mapping[str, ArraySpec]) -> dict[str, ts.TensorStore]:
    """Create arrays without numbers, replacing those that Orbax stored under the same names.

    Args:
      item: the checkpoint's item.
      specs: the arrays, by name.
    """
    context = ts.Context()  # shared: the store allows one writer
    pending = {}
    for name, (shape, block, dtype) in specs.items():
        layout = ts.ChunkLayout(chunk_shape=_split_block(block, dtype.itemsize))
        pending[name] = ts.open(
            # Otherwise blocks of zeros are not stored, and Orbax takes them for missing.
            _tensorstore_spec(item, name) | {"store_data_equal_to_fill_value": True},
            create=True,
            delete_existing=True,
            dtype=ts.dtype(dtype),
            shape=shape,
            chunk_layout=layout,
            context=context,
        )
    return {name: array.result() for name, array in pending.items()}


def _split_block(block: Sequence[int], itemsize: int) -> list[int]:
    """Halves a block along its longest axes until it has at most BLOCK_BYTES."""
    sizes = list(block)
    while math.prod(sizes) * itemsize > BLOCK_BYTES:
        axis = sizes.index(max(sizes))
        sizes[axis] = -(-sizes[axis] // 2)
    return sizes


def _tensorstore_spec(item: epath.Path, name: str) -> dict[str, Any]:
    """Return tensorstore's spec of an array."""
    if is_remote(item):
        bucket, _, folder = os.fspath(item).removeprefix("gs://").partition("/")
        base: Any = {"driver": "gcs", "bucket": bucket, "path": f"{folder}/"}
    else:
        base = {"driver": "file", "path": f"{os.fspath(item)}/"}
    store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return {"driver": "zarr3", "kvstore": store}


@contextlib.contextmanager
def block_writer() -> Iterator[Write]:
    """Yield a function that starts to write a block, which must not be changed any more.

    Pending writes are limited to one block or BLOCK_BYTES. When the context ends all are finished,
    also after an error.

    Raises:
      ValueError: a block could not be written; the function may raise it for an earlier block.
    """
    pending: collections.deque[tuple[ts.WriteFutures, int]] = collections.deque()

    def write(array: ts.TensorStore, index: Index, block: np.ndarray) -> None:
        while pending and block.nbytes + sum(size for _, size in pending) > BLOCK_BYTES:
            pending.popleft()[0].result()
        future = array[index].write(block, can_reference_source_data_indefinitely=True)
        pending.append((future, block.nbytes))

    try:
        yield write
        while pending:
            pending.popleft()[0].result()
    finally:
        for future, _ in pending:
            future.exception()  # waits for it


def block_indices(array: ts.TensorStore) -> Iterator[Index]:
    """Yield the index of each block in which an array is stored."""
    sizes: Any = array.chunk_layout.read_chunk.shape
    cuts = [
        [slice(start, min(start + size, n)) for start in range(0, n, size)]
        for n, size in zip(array.shape, sizes, strict=True)
    ]
    yield from itertools.product(*cuts)


def read_blocks(array: ts.TensorStore) -> Iterator[tuple[Index, np.ndarray]]:
    """Yield index and numbers of each block in which an array is stored, and read ahead.

    Pending reads are limited to one block or BLOCK_BYTES.

    Raises:
      ValueError: a block cannot be read; raised when it is that block's turn.
    """
    pending: collections.deque[tuple[Index, ts.Future[np.ndarray], int]] = collections.deque()
    for index in block_indices(array):
        part = array[index]
        pending.append((index, part.read(), part.size * part.dtype.numpy_dtype.itemsize))
        while len(pending) > 1 and sum(size for _, _, size in pending) > BLOCK_BYTES:
            yield _wait(pending.popleft())
    while pending:
        yield _wait(pending.popleft())


def _wait(block: tuple[Index, ts.Future[np.ndarray], int]) -> tuple[Index, np.ndarray]:
    index, numbers, _ = block  # in a function, so that no local of `read_blocks` holds the numbers
    return index, numbers.result()
