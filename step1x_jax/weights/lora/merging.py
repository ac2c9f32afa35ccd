"""Merges LoRAs into the official weights while these are read."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.weights.finite import is_finite
from step1x_jax.weights.lora.file import Lora
from step1x_jax.weights.lora.names import WEIGHT
from step1x_jax.weights.readers import RowIndices, Tensors


class Merged:
    """A reader of official tensors with LoRAs merged into them.

    weight + sum over LoRAs of strength * alpha / rank * up @ down is computed in float32 and
    rounded once.

    Args:
      source: reader of the base.
      loras: each with its strength.
      dtypes: of all tensors; None: those of the base.

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

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows.

        Raises:
          UserError: a sum is not finite.
        """
        weight, dtype = self._source.read(name, rows), self.dtypes[name]
        products = self._products(name)
        with np.errstate(over="ignore", invalid="ignore"):  # checked below, or on writing
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
                f"{name} with its LoRA overflows {dtype}; give a smaller strength (--lora_scale)."
            )
        return result

    def _products(self, name: str) -> list[tuple[int, np.ndarray]]:
        """Return what is added to a weight: first row and product of each delta.

        Products are computed for all rows, because those of some rows may be rounded differently.
        The last weight's are cached: devices request rows of one weight one after another.
        """
        if self._last[0] != name:
            products = []
            module = name.removesuffix(WEIGHT) if name.endswith(WEIGHT) else ""
            for lora, strength in self._loras:
                for delta in lora.deltas(module) if module in lora.shapes else ():
                    up, down = delta.up.astype(np.float32), delta.down.astype(np.float32)
                    with np.errstate(over="ignore", invalid="ignore"):  # checked by `read`
                        product = np.float32(strength * delta.scale) * (up @ down)
                    products.append((delta.start, product))
            self._last = name, products
        return self._last[1]
