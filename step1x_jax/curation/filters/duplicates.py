"""Exact and near duplicates among the rows of a set: the first one stays.

An edit is more than its pictures at a glance: another word on the same wall is another edit, and so
is another colour. So edited regions are compared as large as whole pictures, and by their colours,
not by their forms alone.
"""

import hashlib
import itertools
import operator
from typing import NamedTuple

import numpy as np
from PIL import Image

from step1x_jax.curation.filters.pictures import SOURCE, TARGET, Row, read_mask, read_picture

SIDE = 8  # pixels to which pictures and regions are shrunk
# Mean difference of their bytes, in the most different of the four. Measured on 600 embedded edits:
# the same ask on the same view with another grain of gravel 0.2 to 1.9, other edits 2.4 and more;
# an edit that is compressed again or scaled 0.1 to 2, but for small regions, whose box moves by a
# share of a pixel when they are scaled: those pass as new.
MOST_DIFFERENCE = 2.0


class EditHash(NamedTuple):
    """What is compared of an edit."""

    exact: str  # digest of all pixels of both pictures
    thumbnails: np.ndarray  # (4, SIDE * SIDE * 3) int16, see `shrink_edit`


def hash_edit(row: Row) -> EditHash:
    """What is compared of a row's edit."""
    source, target = (read_picture(row, column) for column in (SOURCE, TARGET))
    exact = hashlib.sha256()
    for picture in (source, target):
        exact.update(repr(picture.shape).encode())
        exact.update(picture.tobytes())
    return EditHash(exact.hexdigest(), shrink_edit(source, target, read_mask(row)))


class DuplicateIndex:
    """Edits that were there before, found again without comparing with all of them.

    The mean of a thumbnail differs by no more than its bytes do on average. So edits lie in cells
    by the means of their four thumbnails, and those that may be the same in cells beside each
    other.
    """

    def __init__(self, most: float = MOST_DIFFERENCE):
        """Empty; `most` is the difference of two edits that are still the same."""
        self._most = most
        self._exact: set[str] = set()
        self._cells: dict[tuple[int, ...], list[np.ndarray]] = {}

    def add(self, edit: EditHash) -> str | None:
        """Why the edit is left out, or None: then it is remembered."""
        if edit.exact in self._exact:
            return "duplicate"
        means = edit.thumbnails.mean(-1)
        cell = tuple(int(mean // max(self._most, 1.0)) for mean in means)
        for steps in itertools.product((-1, 0, 1), repeat=len(cell)):
            near = self._cells.get(tuple(map(operator.add, cell, steps)))
            if near and (difference(edit.thumbnails, np.stack(near)) <= self._most).any():
                return "near_duplicate"
        self._exact.add(edit.exact)
        self._cells.setdefault(cell, []).append(edit.thumbnails)
        return None


def shrink_edit(source: np.ndarray, target: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """(4, SIDE * SIDE * 3) int16: both pictures, and both in the box around the edited region.

    Args:
      source: (H, W, 3) uint8.
      target: (H, W, 3) uint8.
      mask: (H, W) bool of the edited region; None: the whole picture.
    """
    inside: tuple[slice, slice] = (slice(None), slice(None))
    if mask is not None and mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        inside = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    parts = (source, target, source[inside], target[inside])
    return np.stack([_shrink(part) for part in parts])


def difference(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) float64: of an edit (4, k) and each of (n, 4, k), in the most different part."""
    return np.abs(others - one[None]).mean(-1).max(-1)


def _shrink(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.int16).reshape(-1)
