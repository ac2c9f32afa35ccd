"""Crops of the photographs that packages ship, in the sizes that a model sees.

H height, W width.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from step1x_jax.conditioning.images import image_size
from step1x_jax.curation.embedded.descriptions import read_descriptions
from step1x_jax.curation.embedded.photographs import SHAPES, largest_box, read_pixels

# Textures and the sky: little like what people edit, and drawn less often.
RARE = {"hubble": 0.3, "camera": 0.3, "coins": 0.3, "brick": 0.2, "gravel": 0.2, "grass": 0.2}
SMALLEST = 0.3  # of the largest crop of its shape: how much closer a look may be
WHOLE = 0.6  # likewise, of crops that show nearly all


@functools.cache
def photograph(name: str) -> np.ndarray:
    """A photograph by name, once: (H, W, 3) uint8, read-only.

    Raises:
      UserError: its package is missing, or does not ship the file.
    """
    return read_pixels(read_descriptions()[name])


def draw_name(names: Sequence[str], rng: np.random.Generator) -> str:
    """One of the photographs, those of RARE less often."""
    weights = np.array([RARE.get(name, 1.0) for name in names])
    return names[rng.choice(len(names), p=weights / weights.sum())]


def random_crop(
    pixels: np.ndarray,
    shape: str,
    size: int,
    rng: np.random.Generator,
    smallest: float = SMALLEST,
) -> np.ndarray:
    """A crop of one shape, random in place and scale, half of them mirrored.

    Args:
      pixels: (H, W, 3) uint8.
      shape: of SHAPES.
      size: level of the result: it has the size that the editor gives to pictures of this shape.
      rng: decides.
      smallest: of the largest crop's sides, the shortest that is cut.

    Returns:
      (h, w, 3) uint8, h and w multiples of 16.
    """
    height, width = pixels.shape[:2]
    across, down = SHAPES[shape]
    box = largest_box(width, height, across / down)
    final = image_size(across, down, size)
    # Log-uniform: every factor of scale is equally likely. Never enlarged, if the picture allows.
    lowest = min(max(final[0] / box[0], final[1] / box[1], smallest), 1)
    scale = float(np.exp(rng.uniform(np.log(lowest), 0)))
    w, h = max(round(scale * box[0]), 1), max(round(scale * box[1]), 1)
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    crop = Image.fromarray(pixels[top : top + h, left : left + w])
    result = np.asarray(crop.resize(final, Image.Resampling.LANCZOS))
    return np.ascontiguousarray(result[:, ::-1]) if rng.random() < 0.5 else result
