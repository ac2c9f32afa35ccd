"""Aspect buckets: the few picture shapes in which a data set is stored, so that batches stack."""

import math

from PIL import Image, ImageOps

from step1x_jax.conditioning.images import image_size

# width / height, landscape; each also stands upright. Longer pictures lose their ends.
RATIOS = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1))


def bucket_sizes(size_level: int) -> list[tuple[int, int]]:
    """The shapes for a size level: those that the editor gives to pictures of these ratios.

    Args:
      size_level: side of the square with as many pixels.

    Returns:
      (width, height) in pixels, multiples of 16, without repetitions.

    Raises:
      UserError: the size level is too small.
    """
    ratios = [*RATIOS, *((h, w) for w, h in RATIOS)]
    return sorted({image_size(w, h, size_level) for w, h in ratios})


def nearest_bucket(width: int, height: int, buckets: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose shape is nearest to a picture's, by the ratio of their ratios."""
    return min(buckets, key=lambda b: abs(math.log(width / height * b[1] / b[0])))


def kept_part(size: tuple[int, int], bucket: tuple[int, int]) -> float:
    """The part of a picture of (width, height) that `fit` does not cut off."""
    ratio = size[0] * bucket[1] / (size[1] * bucket[0])
    return min(ratio, 1 / ratio)


def fit(image: Image.Image, bucket: tuple[int, int]) -> Image.Image:
    """Scales a picture until it covers the bucket, and cuts what sticks out evenly (LANCZOS)."""
    return ImageOps.fit(image, bucket, Image.Resampling.LANCZOS)
