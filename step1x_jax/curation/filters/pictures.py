"""The pictures of a row: decoded from its columns of encoded bytes."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from step1x_jax.conditioning.images import decode_image

Row = Mapping[str, Any]
SOURCE, TARGET, MASK = "source", "target", "mask"  # columns of encoded pictures
ENGLISH, CHINESE = "instruction_en", "instruction_cn"


def read_picture(row: Row, column: str) -> np.ndarray:
    """(H, W, 3) uint8, read-only.

    Raises:
      UserError: it is not a picture.
    """
    return _decode(row[column], f"{column} of {row.get('id', 'a row')}")


def read_mask(row: Row) -> np.ndarray | None:
    """(H, W) bool of the edited region, or None: the row has none.

    Raises:
      UserError: it is not a picture.
    """
    return read_picture(row, MASK)[..., 0] > 127 if row.get(MASK) else None


@functools.lru_cache(maxsize=6)
def _decode(data: bytes, name: str) -> np.ndarray:
    """A row's three pictures, and the last one's, are decoded once for all filters."""
    pixels = np.asarray(decode_image(data, name))
    pixels.setflags(write=False)
    return pixels
