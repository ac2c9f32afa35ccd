"""Exact and near duplicates among the rows of a set: the first one stays."""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from step1x_jax.curation.filters.hashes import distance, perceptual_hash
from step1x_jax.curation.filters.pictures import SOURCE, TARGET, Row, read_picture

# Of the 384 bits of both pictures. A picture that is scaled or compressed again differs in up to
# 8 of its 192; other edits of one photograph differ in 15 and more of the 384.
MOST_BITS = 8


class PairHash(NamedTuple):
    """What is compared of a row's two pictures."""

    exact: str  # digest of all pixels
    bits: np.ndarray  # (2 BITS,) bool


def hash_pair(row: Row) -> PairHash:
    """The hashes of a row's source and target."""
    pictures = [read_picture(row, column) for column in (SOURCE, TARGET)]
    exact = hashlib.sha256()
    for picture in pictures:
        exact.update(repr(picture.shape).encode())
        exact.update(picture.tobytes())
    return PairHash(exact.hexdigest(), np.concatenate([perceptual_hash(p) for p in pictures]))


class DuplicateIndex:
    """Pairs that were there, found again by their hashes in about the time of one look-up.

    The bits are cut into one piece more than bits may differ: of two pairs that are near enough, at
    least one piece is equal. Only pairs with an equal piece are compared.
    """

    def __init__(self, most_bits: int = MOST_BITS):
        """Empty; `most_bits` may differ between two pairs that are the same edit."""
        self._most = most_bits
        self._exact: set[str] = set()
        self._pieces: list[dict[bytes, list[np.ndarray]]] = [{} for _ in range(most_bits + 1)]

    def add(self, pair: PairHash) -> str | None:
        """Why the pair is left out, or None: then it is remembered."""
        if pair.exact in self._exact:
            return "duplicate"
        keys = [np.packbits(piece).tobytes() for piece in np.array_split(pair.bits, self._most + 1)]
        for key, known in zip(keys, self._pieces, strict=True):
            if key in known and distance(pair.bits, np.stack(known[key])).min() <= self._most:
                return "near_duplicate"
        self._exact.add(pair.exact)
        for key, known in zip(keys, self._pieces, strict=True):
            known.setdefault(key, []).append(pair.bits)
        return None


@dataclasses.dataclass
class DuplicateFilter:
    """Rejects a row whose pair was there before; rows must come in a fixed order.

    Attributes:
      most_bits: in which two pairs of pictures may differ and still be the same edit.
    """

    most_bits: int = MOST_BITS

    def __post_init__(self) -> None:
        self._index = DuplicateIndex(self.most_bits)

    def __call__(self, row: Row) -> str | None:
        """The reason, or None; a row that passes is remembered."""
        return self._index.add(hash_pair(row))
