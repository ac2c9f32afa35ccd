"""Pictures of benchmarks must not be trained on: rows that show one are rejected."""

import dataclasses

import numpy as np

from step1x_jax.curation.filters.hashes import BITS, distance, perceptual_hash
from step1x_jax.curation.filters.pictures import SOURCE, TARGET, Row, read_picture

# Of 96 bits: a picture that is scaled, compressed again or a little brighter differs in up to 8;
# two photographs in 20 and more.
MOST_BITS = 12


@dataclasses.dataclass(frozen=True)
class BenchmarkFilter:
    """Rejects a row whose source or target is a benchmark's picture, or its mirror picture.

    Attributes:
      hashes: (n, BITS) bool of the benchmark's pictures, of `hash_pictures`.
      most_bits: in which a picture may differ from one of them and still be it.
    """

    hashes: np.ndarray
    most_bits: int = MOST_BITS

    def __call__(self, row: Row) -> str | None:
        """The reason, or None."""
        for column in (SOURCE, TARGET):
            picture = read_picture(row, column)
            for seen in (picture, np.ascontiguousarray(picture[:, ::-1])):
                if (distance(perceptual_hash(seen), self.hashes) <= self.most_bits).any():
                    return "benchmark_picture"
        return None


def hash_pictures(pictures: list[np.ndarray]) -> np.ndarray:
    """(n, BITS) bool of pictures (H, W, 3) uint8."""
    return (
        np.stack([perceptual_hash(p) for p in pictures]) if pictures else np.zeros((0, BITS), bool)
    )
