"""Pictures that are too small, too long, or not of one size."""

import dataclasses

from step1x_jax.curation.filters.pictures import SOURCE, TARGET, Row, read_picture

# Pixels of the shorter side: below it a face has no eyes. The embedded photographs' smallest view
# has 200.
LEAST_SIDE = 192
MOST_RATIO = 3.0  # longer side over shorter: what training's buckets have


@dataclasses.dataclass(frozen=True)
class SizeFilter:
    """Rejects a row by the sizes of its pictures.

    Attributes:
      least_side: pixels of the shorter side.
      most_ratio: of the longer side to the shorter one.
    """

    least_side: int = LEAST_SIDE
    most_ratio: float = MOST_RATIO

    def __call__(self, row: Row) -> str | None:
        """The reason, or None."""
        source, target = (read_picture(row, c).shape[:2] for c in (SOURCE, TARGET))
        if source != target:
            return "sizes_differ"
        if min(source) < self.least_side:
            return "too_small"
        return "too_long" if max(source) > self.most_ratio * min(source) else None
