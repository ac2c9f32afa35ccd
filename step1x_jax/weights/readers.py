"""Named tensors that are read when asked for, and the same tensors cut and joined in another way.

What all readers have in common is `Tensors`: a .safetensors file, a folder of shards, a run's
parameters under their published names. A layout that another library uses is a list of `Move`s;
`Rearranged` shows a reader's tensors through it, and nothing is computed, so every move is exact.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]
CACHE_BYTES = 1 << 29  # the tensors of a block are neighbours in both layouts


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

    def read(self, name: str) -> np.ndarray:
        """One tensor."""


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
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()

    def read(self, name: str) -> np.ndarray:
        """One tensor of the new layout."""
        pieces = [
            self._whole(move.here)[move.here_at : move.here_at + move.rows].astype(
                self.dtypes[name], copy=False
            )
            for move in self._moves[name]
        ]
        joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return joined.reshape(self.shapes[name])

    def _whole(self, name: str) -> np.ndarray:
        """A tensor of the source; q, k and v of one are asked for one after another."""
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        array = self._source.read(name)
        self._cache[name] = array
        while len(self._cache) > 1 and sum(x.nbytes for x in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return array


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

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        change = self._changes.get(name)
        return self._source.read(name) if change is None else change[2]()


class Cast:
    """A reader whose floating-point tensors are rounded to another dtype."""

    def __init__(self, source: Tensors, dtype: np.dtype):
        self._source, self.shapes, self.metadata = source, source.shapes, source.metadata
        self.dtypes = {name: np.dtype(dtype) for name in source.dtypes}

    def read(self, name: str) -> np.ndarray:
        """One tensor, rounded to nearest."""
        with np.errstate(over="ignore"):  # what is too large is refused when it is written
            return self._source.read(name).astype(self.dtypes[name], copy=False)
