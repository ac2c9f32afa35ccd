"""Several candidates of one edit, each with a seed of its own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from step1x_jax.curation.encoding import encode_png
from step1x_jax.curation.engine.columns import Columns
from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.errors import require

MOST = 64  # candidates of a row
COLUMNS: Columns = {"target": bytes, "candidate": int, "seed": str, "method": str}


def check_count(count: int) -> None:
    """Raise UserError for a number of candidates that cannot be."""
    require(1 <= count <= MOST, "count", count, f"give 1 to {MOST} candidates of an edit")


def make_candidates(
    row: Row, context: Context, count: int, method: str, make: Callable[[int], Image.Image]
) -> Iterator[Mapping[str, Any]]:
    """COLUMNS of each candidate.

    Args:
      row: of which they are made.
      context: of the stage.
      count: how many.
      method: what makes them.
      make: from a seed, below 2^32, to a picture.
    """
    for number, seed in enumerate(context.rng(row).integers(0, 1 << 32, count).tolist()):
        picture = make(seed).convert("RGB")
        yield {
            "target": encode_png(np.asarray(picture)),
            "candidate": number,
            "seed": str(seed),
            "method": method,
        }
