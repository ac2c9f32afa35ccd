"""Readers of named tensors: one protocol, and the wrappers around a reader.

All readers implement `Tensors`: a .safetensors file, a folder of shards, or the parameters of a run
under the official names. A reader can read a subset of a tensor's rows, and every wrapper passes
the rows on. Therefore everything that can be opened can also be converted, and loaded onto a mesh
where each process reads only the rows that its devices hold.

`Relayout` shows a reader's tensors in another layout, described by `RowRange`s. It copies numbers
and computes none, so the conversion is exact.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]
RowIndices = np.ndarray | None  # integers along the first axis, strictly increasing; None: all


class Tensors(Protocol):
    """A reader: shapes, dtypes and metadata are known at once, numbers are read on request."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of every tensor, by name."""

    @property
    def dtypes(self) -> Mapping[str, np.dtype]:
        """The dtype of every tensor, by name."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Strings that describe the tensors as a whole."""

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or only the given rows of it: (len(rows), ...)."""


def nbytes(tensors: Tensors, name: str) -> int:
    """Return the size of a tensor in bytes."""
    return math.prod(tensors.shapes[name]) * tensors.dtypes[name].itemsize


class InMemory:
    """A reader of arrays that are in memory.

    Args:
      arrays: by name.
      metadata: strings that describe the arrays as a whole.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None):
        self._arrays = arrays
        self.shapes = {name: x.shape for name, x in arrays.items()}
        self.dtypes = {name: x.dtype for name, x in arrays.items()}
        self.metadata = metadata or {}

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows."""
        return self._arrays[name] if rows is None else self._arrays[name][rows]


@dataclasses.dataclass(frozen=True)
class RowRange:
    """Consecutive rows (of the first axis) of a source tensor, and where the target has them.

    Attributes:
      source: name of the source tensor.
      source_start: first row in it.
      target: name of the target tensor.
      target_start: first row in it.
      size: number of rows.
    """

    source: str
    source_start: int
    target: str
    target_start: int
    size: int

    def inverse(self) -> "RowRange":
        """Return the same rows with source and target exchanged."""
        return RowRange(self.target, self.target_start, self.source, self.source_start, self.size)


@dataclasses.dataclass(frozen=True)
class LayoutMap:
    """One model in two layouts.

    Attributes:
      source: shapes of the tensors in the source layout.
      target: shapes of the tensors in the target layout.
      ranges: every row of every tensor is in exactly one of them.
    """

    source: Mapping[str, Shape]
    target: Mapping[str, Shape]
    ranges: Sequence[RowRange]

    def inverse(self) -> "LayoutMap":
        """Return the map from target to source."""
        return LayoutMap(self.target, self.source, [rows.inverse() for rows in self.ranges])


class Relayout:
    """A reader of the target layout's tensors, taken from a reader of the source layout's.

    A tensor that is concatenated from tensors of different dtypes is float32, which holds all of
    them exactly.

    Args:
      source: has the tensors of `layout.source`.
      layout: the map between the two layouts.
    """

    def __init__(self, source: Tensors, layout: LayoutMap):
        self._source = source
        self._ranges: dict[str, list[RowRange]] = {}
        for part in layout.ranges:
            self._ranges.setdefault(part.target, []).append(part)
        self.shapes = {name: layout.target[name] for name in self._ranges}
        self.metadata = source.metadata
        self.dtypes: dict[str, np.dtype] = {}
        for name, ranges in self._ranges.items():
            ranges.sort(key=lambda part: part.target_start)
            dtypes = {source.dtypes[part.source] for part in ranges}
            self.dtypes[name] = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor of the target layout, or some of its rows."""
        arrays = []
        for part in self._ranges[name]:
            wanted = np.arange(part.size)
            if rows is not None:
                wanted = rows[(rows >= part.target_start) & (rows < part.target_start + part.size)]
                wanted = wanted - part.target_start
            if len(wanted):
                arrays.append(self._read_range(part, wanted).astype(self.dtypes[name], copy=False))
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return joined.reshape(len(joined), *self.shapes[name][1:])

    def _read_range(self, part: RowRange, wanted: np.ndarray) -> np.ndarray:
        height = self._source.shapes[part.source][0]
        rows = None if len(wanted) == height else part.source_start + wanted
        return self._source.read(part.source, rows)


class Override:
    """A reader with some tensors replaced, added (given by a function) or removed (None).

    Args:
      source: the reader.
      changes: name -> None, or (shape, dtype, function that returns the array).
      metadata: replaces the source's; None keeps it.
    """

    def __init__(
        self,
        source: Tensors,
        changes: Mapping[str, tuple[Shape, np.dtype, Callable[[], np.ndarray]] | None],
        metadata: Mapping[str, str] | None = None,
    ):
        self._source, self._changes = source, changes
        self.shapes = {n: x for n, x in source.shapes.items() if n not in changes}
        self.dtypes = {n: x for n, x in source.dtypes.items() if n not in changes}
        for name, change in changes.items():
            if change is not None:
                self.shapes[name], self.dtypes[name] = change[0], change[1]
        self.metadata = source.metadata if metadata is None else metadata

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows."""
        if (change := self._changes.get(name)) is None:
            return self._source.read(name, rows)
        array = change[2]()
        return array if rows is None else array[rows]


class Cast:
    """A reader whose tensors are rounded to another dtype, to nearest even.

    Args:
      source: the reader.
      dtype: of all tensors.
    """

    def __init__(self, source: Tensors, dtype: np.dtype):
        self._source, self.shapes, self.metadata = source, source.shapes, source.metadata
        self.dtypes = {name: np.dtype(dtype) for name in source.dtypes}

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows, rounded."""
        with np.errstate(over="ignore"):  # writing refuses numbers that overflow
            return self._source.read(name, rows).astype(self.dtypes[name], copy=False)


class CheckOnFirstRead:
    """A reader that runs a check before the first tensor is read.

    Args:
      source: the reader.
      check: raises an error if the tensors must not be used.
    """

    def __init__(self, source: Tensors, check: Callable[[], None]):
        self._source, self._check = source, check
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata
        self._checked = False

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows."""
        if not self._checked:
            self._check()
            self._checked = True
        return self._source.read(name, rows)
