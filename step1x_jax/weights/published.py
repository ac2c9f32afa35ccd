"""Our parameters as tensors under the official names; gradients, too: layouts only move numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from step1x_jax.weights.copying import in_order
from step1x_jax.weights.layouts.official import Entry, ParamSlice, Table
from step1x_jax.weights.readers import Rows


class Published:
    """A reader of official tensors that are made of our parameters.

    Args:
      table: of the model.
      leaves: parameters by path (see `flat`), or what gives itself, or one of its layers, by [].
      metadata: strings about the whole.
    """

    def __init__(
        self, table: Table, leaves: Mapping[str, Any], metadata: Mapping[str, str] | None = None
    ):
        self._table, self._leaves, self.metadata = table, leaves, metadata or {}
        self.shapes = {name: entry.shape for name, entry in table.items()}
        self.dtypes = {
            name: np.dtype(leaves[entry.parts[0].path].dtype) for name, entry in table.items()
        }

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows."""
        entry = self._table[name]
        if rows is not None and entry.axis == 0:
            return self._rows(entry, rows)
        pieces = [self._piece(part, shape) for part, _, shape in entry.pieces()]
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=entry.axis)
        return whole if rows is None else whole[rows]

    def _rows(self, entry: Entry, rows: np.ndarray) -> np.ndarray:
        """Of parts on top of each other, those are read that have some of the rows."""
        pieces = []
        for part, where, shape in entry.pieces():
            here = rows[(rows >= where[0].start) & (rows < where[0].stop)] - where[0].start
            if len(here):
                pieces.append(self._piece(part, shape)[here])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _piece(self, part: ParamSlice, shape: tuple[int, ...]) -> np.ndarray:
        ours = np.asarray(self._leaves[part.path][... if part.layer is None else part.layer])
        return in_order(part.to_official(ours, shape))
