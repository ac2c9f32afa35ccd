"""LoRAs added to the published weights to which they belong, as these are read."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.weights.finite import is_finite
from step1x_jax.weights.lora.file import Lora
from step1x_jax.weights.lora.names import WEIGHT
from step1x_jax.weights.readers import Rows, Tensors


class Merged:
    """A reader of official tensors with LoRAs in them.

    To a weight is added scale * alpha / rank * up @ down of each LoRA: a sum in float32, which is
    rounded once.

    Args:
      source: the base.
      loras: each with its strength.
      dtypes: of all tensors; None: as in the base.

    Raises:
      UserError: a strength is not finite.
    """

    def __init__(
        self,
        source: Tensors,
        loras: Sequence[tuple[Lora, float]],
        dtypes: Mapping[str, np.dtype] | None = None,
    ):
        for _, scale in loras:
            if not math.isfinite(scale):
                raise UserError(f"the strength of a LoRA is {scale}; give a finite number.")
        self._source, self._loras = source, loras
        self.shapes, self.metadata = source.shapes, source.metadata
        self.dtypes = source.dtypes if dtypes is None else dtypes

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows.

        Raises:
          UserError: a sum is not finite.
        """
        weight, dtype = self._source.read(name, rows), self.dtypes[name]
        module = name.removesuffix(WEIGHT)
        adapted = [
            (lora, scale)
            for lora, scale in self._loras
            if name.endswith(WEIGHT) and module in lora.shapes
        ]
        with np.errstate(over="ignore", invalid="ignore"):  # told below, or when it is written
            if not adapted:
                return weight.astype(dtype, copy=False)
            total = weight.astype(np.float32)
            for lora, scale in adapted:
                _add(total, lora, module, scale, rows)
            result = total.astype(dtype, copy=False)
        if not is_finite(result):
            raise UserError(
                f"{name} with its LoRA is too large for {dtype}; give a smaller strength"
                " (--lora_scale)."
            )
        return result


def _add(total: np.ndarray, lora: Lora, module: str, scale: float, rows: Rows) -> None:
    """Adds what a LoRA adds to a weight, or to those rows of it."""
    for piece in lora.pieces(module):
        up, down = piece.up.astype(np.float32), piece.down.astype(np.float32)
        # all of it first: a product of some rows may be rounded in another order
        delta = np.float32(scale * piece.scale) * (up @ down)
        if rows is None:
            total[piece.start : piece.start + len(up)] += delta
        else:
            here = (rows >= piece.start) & (rows < piece.start + len(up))
            total[here] += delta[rows[here] - piece.start]
