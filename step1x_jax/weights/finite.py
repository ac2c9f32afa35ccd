"""Whether numbers are finite, seen in their bits: one pass at the speed of memory."""

import jax.numpy as jnp
import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.weights.readers import Rows, Tensors

AT_ONCE = 1 << 15  # numbers, which stay in the cache
# Smallest bits, sign aside, that are no finite number; formats that are not here have only finite
# numbers. float8_e4m3fn has one NaN and no infinity.
_FIRST_NOT_FINITE = {
    np.dtype(jnp.float8_e4m3fn): 0x7F,
    np.dtype(jnp.float8_e5m2): 0x7C,
    np.dtype(np.float16): 0x7C00,
    np.dtype(jnp.bfloat16): 0x7F80,
    np.dtype(np.float32): 0x7F800000,
    np.dtype(np.float64): 0x7FF0000000000000,
}


def is_finite(array: np.ndarray) -> bool:
    """Whether there is no NaN and no infinity in an array of any dtype."""
    limit = _FIRST_NOT_FINITE.get(array.dtype)
    if limit is None:
        return True
    kind = np.dtype(f"u{array.dtype.itemsize}")
    bits = np.ascontiguousarray(array).reshape(-1).view(kind)
    sizes = kind.type((1 << (8 * kind.itemsize - 1)) - 1)  # all bits but the sign
    room = np.empty(min(len(bits), AT_ONCE), kind)
    for i in range(0, len(bits), AT_ONCE):
        part = bits[i : i + AT_ONCE]
        if np.bitwise_and(part, sizes, out=room[: len(part)]).max() >= limit:
            return False
    return True


def check_finite(array: np.ndarray, name: str, source: object) -> None:
    """Raises UserError for a tensor with a NaN or an infinity.

    Args:
      array: of any dtype.
      name: of the tensor.
      source: where it is from, for the message.
    """
    if not is_finite(array):
        raise UserError(
            f"{source}: {name} has numbers that are not finite (NaN or infinity), with which every"
            " picture would be black; use weights from before they broke, or download them again."
        )


class Finite:
    """A reader whose tensors are written to `path`: one that is not finite is a UserError.

    What was read is finite already; sums and rounded numbers may be too large.
    """

    def __init__(self, source: Tensors, path: object):
        self._source, self._path = source, path
        self.shapes, self.dtypes, self.metadata = source.shapes, source.dtypes, source.metadata

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows."""
        array = self._source.read(name, rows)
        if not is_finite(array):
            raise UserError(
                f"{name} has numbers that are not finite, or too large for {array.dtype}, so"
                f" {self._path} was not written; check the input, --lora_scale and --dtype."
            )
        return array
