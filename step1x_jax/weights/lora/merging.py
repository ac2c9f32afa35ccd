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
        self._last: tuple[str, list[tuple[int, np.ndarray]]] = "", []

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows.

        Raises:
          UserError: a sum is not finite.
        """
        weight, dtype = self._source.read(name, rows), self.dtypes[name]
        products = self._products(name)
        with np.errstate(over="ignore", invalid="ignore"):  # told below, or when it is written
            if not products:
                return weight.astype(dtype, copy=False)
            total = weight.astype(np.float32)
            for start, product in products:
                if rows is None:
                    total[start : start + len(product)] += product
                else:
                    here = (rows >= start) & (rows < start + len(product))
                    total[here] += product[rows[here] - start]
            result = total.astype(dtype, copy=False)
        if not is_finite(result):
            raise UserError(
                f"{name} with its LoRA is too large for {dtype}; give a smaller strength"
                " (--lora_scale)."
            )
        return result

    def _products(self, name: str) -> list[tuple[int, np.ndarray]]:
        """What is added to a weight: the first row, and the product of all rows.

        Those of some rows may be rounded in another order. The last ones are kept: devices ask for
        rows of one weight one after another.
        """
        if self._last[0] != name:
            products = []
            module = name.removesuffix(WEIGHT) if name.endswith(WEIGHT) else ""
            for lora, strength in self._loras:
                for piece in lora.pieces(module) if module in lora.shapes else ():
                    up, down = piece.up.astype(np.float32), piece.down.astype(np.float32)
                    with np.errstate(over="ignore", invalid="ignore"):  # told by `read`
                        product = np.float32(strength * piece.scale) * (up @ down)
                    products.append((piece.start, product))
            self._last = name, products
        return self._last[1]
