"""Checks that numbers are finite, from their bits: one pass at the speed of memory."""

import jax.numpy as jnp
import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.weights.readers import RowIndices, Tensors

CHUNK = 1 << 15  # numbers that fit in the cache
# The smallest bit pattern, without the sign, that is not a finite number. Dtypes that are missing
# here have only finite numbers. float8_e4m3fn has one NaN and no infinity.
_FIRST_NOT_FINITE = {
    np.dtype(jnp.float8_e4m3fn): 0x7F,
    np.dtype(jnp.float8_e5m2): 0x7C,
    np.dtype(np.float16): 0x7C00,
    np.dtype(jnp.bfloat16): 0x7F80,
    np.dtype(np.float32): 0x7F800000,
    np.dtype(np.float64): 0x7FF0000000000000,
}


def is_finite(array: np.ndarray) -> bool:
    """Return whether an array of any dtype has neither NaN nor infinity."""
    limit = _FIRST_NOT_FINITE.get(array.dtype)
    if limit is None:
        return True
    unsigned = np.dtype(f"u{array.dtype.itemsize}")
    bits = np.ascontiguousarray(array).reshape(-1).view(unsigned)
    magnitude = unsigned.type((1 << (8 * unsigned.itemsize - 1)) - 1)  # all bits but the sign
    buffer = np.empty(min(len(bits), CHUNK), unsigned)
    for i in range(0, len(bits), CHUNK):
        part = bits[i : i + CHUNK]
        if np.bitwise_and(part, magnitude, out=buffer[: len(part)]).max() >= limit:
            return False
    return True


def check_finite(array: np.ndarray, name: str, source: object) -> None:
    """Raise UserError if a tensor has a NaN or an infinity.

    Args:
      array: of any dtype.
      name: of the tensor.
      source: where it comes from, for the message.
    """
    if not is_finite(array):
        raise UserError(
            f"{source}: {name} has numbers that are not finite (NaN or infinity), with which every"
            " picture would be black; use weights from before they broke, or download them again."
        )


class RequireFinite:
    """A reader for writing to `path`, which raises UserError for a tensor that is not finite.

    Tensors are checked when they are read from a file, but sums and rounded numbers may overflow.

    Args:
      source: the reader.
      path: of the file or folder that is written, for the message.
    """

    def __init__(self, source: Tensors, path: object):
        self._source, self._path = source, path
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows."""
        array = self._source.read(name, rows)
        if not is_finite(array):
            raise UserError(
                f"{name} has numbers that are not finite, or too large for {array.dtype}, so"
                f" {self._path} was not written; check the input, --lora_scale and --dtype."
            )
        return array
