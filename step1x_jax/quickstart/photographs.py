"""Colour photographs that ship inside Python packages, and square crops of them.

scikit-image, scikit-learn and matplotlib carry a few real photographs. They are read straight from
the package folders, so that nothing is downloaded and none of the packages is imported.

Two photographs are held out: no stage of training, the autoencoder's included, sees them.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Photograph:
    """Where a photograph lies, and how often training draws it.

    Attributes:
      name: Short unique name.
      package: Import name of the package that ships it.
      path: File inside the package's folder.
      weight: Relative frequency among random crops.
    """

    name: str
    package: str
    path: str
    weight: float


# The two motorcycle pictures are one scene (a stereo pair) and share a weight of 1. The sky survey,
# the eye and the tissue are photographs too, but little like what people edit.
TRAINING = (
    Photograph("astronaut", "skimage", "data/astronaut.png", 1.0),
    Photograph("coffee", "skimage", "data/coffee.png", 1.0),
    Photograph("rocket", "skimage", "data/rocket.jpg", 1.0),
    Photograph("motorcycle_left", "skimage", "data/motorcycle_left.png", 0.5),
    Photograph("motorcycle_right", "skimage", "data/motorcycle_right.png", 0.5),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg", 1.0),
    Photograph("grace_hopper", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 1.0),
    Photograph("hubble_deep_field", "skimage", "data/hubble_deep_field.jpg", 0.3),
    Photograph("retina", "skimage", "data/retina.jpg", 0.3),
    Photograph("ihc", "skimage", "data/ihc.png", 0.3),
)

HELD_OUT = (
    Photograph("chelsea", "skimage", "data/chelsea.png", 1.0),
    Photograph("china", "sklearn", "datasets/images/china.jpg", 1.0),
)

# Grey photographs, full of texture: only the autoencoder learns from them, tinted.
GREY = tuple(
    Photograph(name, "skimage", f"data/{name}.png", 0.4)
    for name in ("brick", "camera", "coins", "grass", "gravel")
)

# The held-out crops: side as a fraction of the photograph's shorter side, then how far along the
# free width and height the crop lies. Two whole heights, two closer looks.
FIXED_CROPS = ((1.0, 0.0, 0.0), (1.0, 0.7, 0.0), (0.7, 0.25, 0.3), (0.6, 0.6, 0.9))

# Random crops are between this fraction of the shorter side and all of it.
SMALLEST_CROP = 0.3


@functools.cache
def load(photograph: Photograph) -> Image.Image:
    """Reads one photograph as an RGB picture of its full size, once (do not change it).

    Raises:
      UserError: the package is not installed, or does not ship the file.
    """
    spec = importlib.util.find_spec(photograph.package)  # finds the folder, imports nothing
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = epath.Path(folder) / photograph.path
        if path.exists():
            with path.open("rb") as file, Image.open(file) as image:
                return image.convert("RGB")
    raise UserError(
        f"the quickstart's photograph {photograph.name} ships with the package "
        f'{photograph.package}, which is missing here: pip install "step1x_jax[quickstart]"'
    )


def random_crop(
    generator: np.random.Generator, size: int, sources: Sequence[Photograph] = TRAINING
) -> np.ndarray:
    """A square crop of a photograph, random in place and scale, half of them mirrored.

    Args:
      generator: Source of randomness; the crop is a pure function of its state.
      size: Side of the result in pixels.
      sources: The photographs to draw from, by their weights.

    Returns:
      (size, size, 3) uint8.

    Raises:
      UserError: as `load`.
    """
    weights = np.array([photograph.weight for photograph in sources])
    image = load(sources[generator.choice(len(sources), p=weights / weights.sum())])
    # Log-uniform: every factor of scale is equally likely. Never enlarged, if the picture allows.
    shorter = min(image.size)
    smallest = min(max(size, SMALLEST_CROP * shorter), shorter)
    side = round(float(np.exp(generator.uniform(np.log(smallest), np.log(shorter)))))
    left = int(generator.integers(0, image.width - side + 1))
    top = int(generator.integers(0, image.height - side + 1))
    crop = _crop(image, left, top, side, size)
    return np.ascontiguousarray(crop[:, ::-1]) if generator.random() < 0.5 else crop


def held_out_crops(size: int) -> dict[str, np.ndarray]:
    """The fixed crops of the held-out photographs that every evaluation uses.

    Args:
      size: Side of the results in pixels.

    Returns:
      Per photograph's name (4, size, size, 3) uint8, the crops of `FIXED_CROPS`.

    Raises:
      UserError: as `load`.
    """
    crops = {}
    for photograph in HELD_OUT:
        image = load(photograph)
        places = []
        for scale, x, y in FIXED_CROPS:
            side = round(scale * min(image.size))
            left, top = round(x * (image.width - side)), round(y * (image.height - side))
            places.append(_crop(image, left, top, side, size))
        crops[photograph.name] = np.stack(places)
    return crops


def _crop(image: Image.Image, left: int, top: int, side: int, size: int) -> np.ndarray:
    """The square at (left, top), resized: (size, size, 3) uint8."""
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))
