"""The arrays of a checkpoint in parts: Orbax gives and takes whole ones only.

It stores them with tensorstore, as zarr arrays in one key-value store (OCDBT) for each item.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import tensorstore as ts
from etils import epath

from step1x_jax.files import is_remote

Index = tuple[slice, ...]  # a block of an array


def stored_array(item: epath.Path, name: str) -> ts.TensorStore:
    """An array of a checkpoint's item as tensorstore has it, to be read or written in parts.

    Raises:
      ValueError: it is not there, or not stored as this version of Orbax does.
    """
    if is_remote(item):
        bucket, _, folder = os.fspath(item).removeprefix("gs://").partition("/")
        base: Any = {"driver": "gcs", "bucket": bucket, "path": f"{folder}/"}
    else:
        base = {"driver": "file", "path": f"{os.fspath(item)}/"}
    store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return ts.open({"driver": "zarr3", "kvstore": store}, open=True).result()


def stored_blocks(array: ts.TensorStore) -> Iterator[Index]:
    """Places of the blocks of which it is stored."""
    sizes: Any = array.chunk_layout.read_chunk.shape
    cuts = [
        [slice(start, min(start + size, n)) for start in range(0, n, size)]
        for n, size in zip(array.shape, sizes, strict=True)
    ]
    yield from itertools.product(*cuts)
