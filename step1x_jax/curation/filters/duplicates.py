"""Exact and near duplicates among the rows of a set: the first one stays."""

import dataclasses
import hashlib

import numpy as np

from step1x_jax.curation.filters.hashes import BITS, distance, perceptual_hash
from step1x_jax.curation.filters.pictures import SOURCE, TARGET, Row, read_picture

# Of the 384 bits of both pictures. A picture that is scaled or compressed again differs in up to
# 8 of its 192; other edits of one photograph differ in 15 and more of the 384.
MOST_BITS = 8


@dataclasses.dataclass
class DuplicateFilter:
    """Rejects a row whose pair was there before; rows must come in a fixed order.

    Attributes:
      most_bits: in which two pairs of pictures may differ and still be the same edit.
    """

    most_bits: int = MOST_BITS

    def __post_init__(self) -> None:
        self._exact: set[str] = set()
        self._hashes = np.zeros((0, 2 * BITS), bool)

    def __call__(self, row: Row) -> str | None:
        """The reason, or None; a row that passes is remembered."""
        pictures = [read_picture(row, column) for column in (SOURCE, TARGET)]
        exact = hashlib.sha256()
        for picture in pictures:
            exact.update(repr(picture.shape).encode())
            exact.update(picture.tobytes())
        if exact.hexdigest() in self._exact:
            return "duplicate"
        bits = np.concatenate([perceptual_hash(p) for p in pictures])
        if (distance(bits, self._hashes) <= self.most_bits).any():
            return "near_duplicate"
        self._exact.add(exact.hexdigest())
        self._hashes = np.concatenate([self._hashes, bits[None]])
        return None
