"""The pictures of a row: decoded from its columns of encoded bytes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from step1x_jax.conditioning.images import decode_image

Row = Mapping[str, Any]
SOURCE, TARGET, MASK = "source", "target", "mask"  # columns of encoded pictures
ENGLISH, CHINESE = "instruction_en", "instruction_cn"


def read_picture(row: Row, column: str) -> np.ndarray:
    """(H, W, 3) uint8.

    Raises:
      UserError: it is not a picture.
    """
    return np.asarray(decode_image(row[column], f"{column} of {row.get('id', 'a row')}"))


def read_mask(row: Row) -> np.ndarray | None:
    """(H, W) bool of the edited region, or None: the row has none.

    Raises:
      UserError: it is not a picture.
    """
    return read_picture(row, MASK)[..., 0] > 127 if row.get(MASK) else None
