"""Pairs that do not show the edit: nothing changed, or something changed outside of the region."""

import dataclasses

import numpy as np

from step1x_jax.curation.filters.pictures import SOURCE, TARGET, Row, read_mask, read_picture

# Mean absolute difference of bytes over the region (or the picture, without a mask). Compression
# alone makes 1 to 2; an edit that one can see, 5 and more.
LEAST_DIFFERENCE = 3.0
# Largest difference of a byte outside of the region: pictures are stored without loss.
MOST_LEAK = 0


@dataclasses.dataclass(frozen=True)
class UnchangedFilter:
    """Rejects a pair whose pictures are the same, or nearly.

    Attributes:
      least: mean absolute difference of bytes over the region.
    """

    least: float = LEAST_DIFFERENCE

    def __call__(self, row: Row) -> str | None:
        """The reason, or None."""
        difference = _difference(row)
        if difference is None:
            return "sizes_differ"
        mask = read_mask(row)
        if mask is not None:
            if mask.shape != difference.shape[:2] or not mask.any():
                return "mask_does_not_fit"
            difference = difference[mask]
        return "unchanged" if difference.mean() < self.least else None


@dataclasses.dataclass(frozen=True)
class LeakFilter:
    """Rejects a pair that differs outside of its mask; a row without one passes.

    Attributes:
      most: largest difference of a byte there. Zero for edits that are composed; generators that
        shift or repaint pixels need their result composed back inside the mask first.
    """

    most: int = MOST_LEAK

    def __call__(self, row: Row) -> str | None:
        """The reason, or None."""
        mask = read_mask(row)
        if mask is None:
            return None
        difference = _difference(row)
        if difference is None:
            return "sizes_differ"
        if mask.shape != difference.shape[:2]:
            return "mask_does_not_fit"
        outside = difference[~mask]
        return "changed_outside_mask" if outside.size and outside.max() > self.most else None


def _difference(row: Row) -> np.ndarray | None:
    """(H, W, 3) int16 of absolute differences; None: the sizes differ."""
    source, target = (read_picture(row, c).astype(np.int16) for c in (SOURCE, TARGET))
    return np.abs(target - source) if source.shape == target.shape else None
