"""Our parameters (or their gradients, which have the same layout) under the official names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from step1x_jax.weights.copying import to_contiguous
from step1x_jax.weights.layouts.official import ParamSlice, Table, TensorEntry
from step1x_jax.weights.readers import RowIndices


class OfficialTensors:
    """A reader of official tensors that are assembled from our parameters.

    Args:
      table: of the model.
      leaves: our parameters by path (see `flatten_params`): arrays, or objects with a dtype that
        return the whole array for [...] and one layer of a stacked array for [layer].
      metadata: strings that describe the tensors as a whole.
    """

    def __init__(
        self, table: Table, leaves: Mapping[str, Any], metadata: Mapping[str, str] | None = None
    ):
        self._table, self._leaves, self.metadata = table, leaves, metadata or {}
        self.shapes = {name: entry.shape for name, entry in table.items()}
        self.dtypes = {
            name: np.dtype(leaves[entry.slices[0].path].dtype) for name, entry in table.items()
        }

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows."""
        entry = self._table[name]
        if rows is not None and entry.axis == 0:
            return self._read_rows(entry, rows)
        arrays = [self._read_slice(part, shape) for part, _, shape in entry.iter_slices()]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=entry.axis)
        return whole if rows is None else whole[rows]

    def _read_rows(self, entry: TensorEntry, rows: np.ndarray) -> np.ndarray:
        """Read rows of slices that follow each other along axis 0, skipping unused slices."""
        arrays = []
        for part, where, shape in entry.iter_slices():
            here = rows[(rows >= where[0].start) & (rows < where[0].stop)] - where[0].start
            if len(here):
                arrays.append(self._read_slice(part, shape)[here])
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def _read_slice(self, part: ParamSlice, shape: tuple[int, ...]) -> np.ndarray:
        ours = np.asarray(self._leaves[part.path][... if part.layer is None else part.layer])
        return to_contiguous(part.to_official(ours, shape))
