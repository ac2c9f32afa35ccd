"""Aspect-ratio buckets: the few picture shapes of a data set, so that pictures can be batched."""

import math

from PIL import Image, ImageOps

from step1x_jax.conditioning.images import image_size

# width : height of the landscape shapes; each has a portrait twin. Longer pictures are cropped.
RATIOS = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1))


def list_bucket_sizes(size_level: int) -> list[tuple[int, int]]:
    """Return the bucket shapes of a size level: the editor's sizes for pictures of these ratios.

    Args:
      size_level: side, in pixels, of the square with the same number of pixels.

    Returns:
      Distinct (width, height) in pixels, multiples of 16, sorted.

    Raises:
      UserError: the size level is too small.
    """
    ratios = [*RATIOS, *((h, w) for w, h in RATIOS)]
    return sorted({image_size(w, h, size_level) for w, h in ratios})


def find_nearest_bucket(width: int, height: int, buckets: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the bucket (width, height) whose aspect ratio is nearest to a picture's.

    Distance is the absolute difference of the logarithms of the aspect ratios.
    """
    return min(buckets, key=lambda b: abs(math.log(width / height * b[1] / b[0])))


def compute_kept_fraction(size: tuple[int, int], bucket: tuple[int, int]) -> float:
    """Return the fraction of a picture (width, height) that `scale_and_crop` keeps, 0 to 1."""
    ratio = size[0] * bucket[1] / (size[1] * bucket[0])
    return min(ratio, 1 / ratio)


def scale_and_crop(image: Image.Image, bucket: tuple[int, int]) -> Image.Image:
    """Scale a picture (LANCZOS) until it covers the bucket (width, height), then center-crop it."""
    return ImageOps.fit(image, bucket, Image.Resampling.LANCZOS)
