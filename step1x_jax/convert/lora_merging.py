"""LoRAs added to the published weights to which they belong, as these are read."""

from collections.abc import Sequence

import numpy as np

from step1x_jax.convert.lora import Lora
from step1x_jax.convert.lora_names import WEIGHT
from step1x_jax.convert.safetensors_io import Read
from step1x_jax.convert.tensors import Tensors


def merged(read: Read, loras: Sequence[tuple[Lora, float]]) -> Read:
    """A reader of official tensors: weight + the sum of scale * alpha / rank * up @ down.

    The sum is float32, over all the LoRAs, and is rounded once, to the tensor's dtype.

    Args:
      read: gives the base tensors by official name.
      loras: each with its strength.
    """

    def read_merged(name: str, rows: np.ndarray | None = None) -> np.ndarray:
        base = read(name, rows)
        module = name.removesuffix(WEIGHT)
        concerned = [
            (lora, scale)
            for lora, scale in loras
            if name.endswith(WEIGHT) and module in lora.shapes
        ]
        if not concerned:
            return base
        total = base.astype(np.float32)
        for lora, scale in concerned:
            for piece in lora.pieces(module):
                up, down = piece.up.astype(np.float32), piece.down.astype(np.float32)
                # all of it first: a product of some rows may be rounded in another order
                delta = (scale * piece.scale) * (up @ down)
                if rows is None:
                    total[piece.start : piece.start + len(up)] += delta
                else:
                    here = (rows >= piece.start) & (rows < piece.start + len(up))
                    total[here] += delta[rows[here] - piece.start]
        return total.astype(base.dtype)

    return read_merged


class Merged:
    """A reader of official tensors with LoRAs merged into them, each with a strength."""

    def __init__(self, source: Tensors, loras: Sequence[tuple[Lora, float]]):
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata
        self._read = merged(lambda name, rows=None: source.read(name), loras)

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        return self._read(name)
