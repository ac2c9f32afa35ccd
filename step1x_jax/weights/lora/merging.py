"""LoRAs added to the published weights to which they belong, as these are read."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.weights.files.safetensors_io import Read
from step1x_jax.weights.finite import is_finite
from step1x_jax.weights.lora.file import Lora
from step1x_jax.weights.lora.names import WEIGHT
from step1x_jax.weights.readers import Tensors


def merged(read: Read, loras: Sequence[tuple[Lora, float]], dtype: np.dtype | None = None) -> Read:
    """A reader of official tensors: weight + the sum of scale * alpha / rank * up @ down.

    The sum is float32, over all the LoRAs, and is rounded once.

    Args:
      read: gives the base tensors by official name.
      loras: each with its strength.
      dtype: of the sums; None rounds each to its base tensor's. The others stay as they are.

    Raises:
      UserError: a strength, or a sum, is not finite.
    """
    for _, scale in loras:
        if not math.isfinite(scale):
            raise UserError(f"the strength of a LoRA is {scale}; give a finite number.")

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
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            for lora, scale in concerned:
                for piece in lora.pieces(module):
                    up, down = piece.up.astype(np.float32), piece.down.astype(np.float32)
                    # all of it first: a product of some rows may be rounded in another order
                    delta = np.float32(scale * piece.scale) * (up @ down)
                    if rows is None:
                        total[piece.start : piece.start + len(up)] += delta
                    else:
                        here = (rows >= piece.start) & (rows < piece.start + len(up))
                        total[here] += delta[rows[here] - piece.start]
            result = total.astype(base.dtype if dtype is None else dtype)
        if not is_finite(result):
            raise UserError(
                f"{name} with its LoRA is too large for {result.dtype}; give a smaller strength"
                " (--lora_scale)."
            )
        return result

    return read_merged


class Merged:
    """A reader of official tensors with LoRAs merged into them, each with a strength."""

    def __init__(
        self,
        source: Tensors,
        loras: Sequence[tuple[Lora, float]],
        dtypes: Mapping[str, np.dtype] | None = None,
    ):
        """Nothing is read yet.

        Args:
          source: the base.
          loras: each with its strength.
          dtypes: of all tensors, to which they are rounded after summing; None: as in the base.
        """
        self.shapes, self.metadata = source.shapes, source.metadata
        self.dtypes = source.dtypes if dtypes is None else dtypes
        exact = np.dtype(np.float32)
        self._read = merged(lambda name, rows=None: source.read(name), loras, exact)

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        with np.errstate(over="ignore"):  # what is too large is refused when it is written
            return self._read(name).astype(self.dtypes[name], copy=False)
