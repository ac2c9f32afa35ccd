"""Named tensors that are read when asked for: one protocol, and what can be put around a reader.

What all readers have in common is `Tensors`: a .safetensors file, a folder of shards, a run's
parameters under their published names. Each can give some rows of a tensor alone, and every wrapper
passes them on: so whatever can be opened can be converted, and loaded onto a mesh whose processes
read their own parts.

A layout that another library uses is a list of `Move`s; `Rearranged` shows a reader's tensors
through it, and nothing is computed, so every move is exact.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]
Rows = np.ndarray | None  # numbers along the first axis, strictly increasing; None: all


class Tensors(Protocol):
    """A reader: what a header says, now; tensors when asked for."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of every tensor."""

    @property
    def dtypes(self) -> Mapping[str, np.dtype]:
        """The dtype of every tensor."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Strings about the whole."""

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or those of its rows: (len(rows), ...)."""


def nbytes(tensors: Tensors, name: str) -> int:
    """How large a tensor is."""
    return math.prod(tensors.shapes[name]) * tensors.dtypes[name].itemsize


class InMemory:
    """Arrays as a reader.

    Args:
      arrays: by name.
      metadata: strings about the whole.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None):
        self._arrays = arrays
        self.shapes = {name: x.shape for name, x in arrays.items()}
        self.dtypes = {name: x.dtype for name, x in arrays.items()}
        self.metadata = metadata or {}

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows."""
        return self._arrays[name] if rows is None else self._arrays[name][rows]


@dataclasses.dataclass(frozen=True)
class Move:
    """Rows (of the first axis) of one tensor that are rows of another tensor elsewhere."""

    here: str
    here_at: int
    there: str
    there_at: int
    rows: int

    def back(self) -> "Move":
        """The same rows, the other way."""
        return Move(self.there, self.there_at, self.here, self.here_at, self.rows)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One model in two layouts; every row of every tensor is in one move."""

    here: Mapping[str, Shape]
    there: Mapping[str, Shape]
    moves: Sequence[Move]

    def back(self) -> "Layout":
        """The same, the other way."""
        return Layout(self.there, self.here, [move.back() for move in self.moves])


class Rearranged:
    """The tensors of a reader, which has them as a layout's `here`, as its `there`.

    What is put together of parts in several dtypes is float32, which holds them all.
    """

    def __init__(self, source: Tensors, layout: Layout):
        self._source = source
        self._moves: dict[str, list[Move]] = {}
        for move in layout.moves:
            self._moves.setdefault(move.there, []).append(move)
        self.shapes = {name: layout.there[name] for name in self._moves}
        self.metadata = source.metadata
        self.dtypes: dict[str, np.dtype] = {}
        for name, moves in self._moves.items():
            moves.sort(key=lambda move: move.there_at)
            dtypes = {source.dtypes[move.here] for move in moves}
            self.dtypes[name] = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor of the new layout, or some of its rows."""
        pieces = []
        for move in self._moves[name]:
            wanted = np.arange(move.rows)
            if rows is not None:
                wanted = rows[(rows >= move.there_at) & (rows < move.there_at + move.rows)]
                wanted = wanted - move.there_at
            if len(wanted):
                pieces.append(self._moved(move, wanted).astype(self.dtypes[name], copy=False))
        joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return joined.reshape(len(joined), *self.shapes[name][1:])

    def _moved(self, move: Move, wanted: np.ndarray) -> np.ndarray:
        height = self._source.shapes[move.here][0]
        rows = None if len(wanted) == height else move.here_at + wanted
        return self._source.read(move.here, rows)


class Changed:
    """A reader with some tensors replaced, added (a function that gives them) or left out (None).

    Args:
      source: the reader.
      changes: name -> None, or shape, dtype and a function that gives the array.
      metadata: instead of the source's.
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

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows."""
        if (change := self._changes.get(name)) is None:
            return self._source.read(name, rows)
        array = change[2]()
        return array if rows is None else array[rows]


class Cast:
    """A reader whose tensors are rounded to another dtype."""

    def __init__(self, source: Tensors, dtype: np.dtype):
        self._source, self.shapes, self.metadata = source, source.shapes, source.metadata
        self.dtypes = {name: np.dtype(dtype) for name in source.dtypes}

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows, rounded to nearest."""
        with np.errstate(over="ignore"):  # what is too large is refused when it is written
            return self._source.read(name, rows).astype(self.dtypes[name], copy=False)


class CheckedFirst:
    """A reader that runs a check before the first tensor is read.

    Args:
      source: the reader.
      check: raises what is wrong.
    """

    def __init__(self, source: Tensors, check: Callable[[], None]):
        self._source, self._check = source, check
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata
        self._checked = False

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows."""
        if not self._checked:
            self._check()
            self._checked = True
        return self._source.read(name, rows)
