"""Pictures from files, the release's image-size rule, and pictures as arrays."""

import io
import math

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from step1x_jax.errors import UserError
from step1x_jax.models.embeddings import PATCH

PIXELS_PER_LATENT = 8  # along one side
SMALLEST_SIDE = PIXELS_PER_LATENT
LONGEST_RATIO = 200  # Qwen2.5-VL takes nothing longer
MULTIPLE = PATCH * PIXELS_PER_LATENT  # pixels along one side of a token


def open_image(path: epath.PathLike) -> Image.Image:
    """A picture as RGB, turned as its EXIF orientation says.

    Args:
      path: a file in any format that Pillow reads.

    Returns:
      The decoded picture.

    Raises:
      UserError: missing, unreadable, deeper than 8 bits or smaller than 8 pixels on a side; names
        the file.
    """
    return decode_image(read_image_bytes(path), str(path))


def read_image_bytes(path: epath.PathLike) -> bytes:
    """The bytes of a picture's file.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        return epath.Path(path).read_bytes()
    except (OSError, ValueError) as e:  # ValueError: not a possible path
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{path} cannot be read ({reason}); give the path of a picture.") from e


def decode_image(data: bytes, name: str) -> Image.Image:
    """As `open_image`, from bytes; `name` stands in error messages."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as e:  # Pillow's readers raise nearly anything on damaged files
        raise UserError(f"{name} is not a readable picture ({e}); replace it.") from e
    if image.mode.startswith(("I", "F")):  # Pillow would clip these to white
        raise UserError(f"{name} has more than 8 bits per channel; save it with 8 bits.")
    if min(image.size) < SMALLEST_SIDE:
        raise UserError(
            f"{name} is {image.width}x{image.height} pixels; each side needs at least"
            f" {SMALLEST_SIDE}."
        )
    return image.convert("RGB")


def image_size(width: int, height: int, size_level: int) -> tuple[int, int]:
    """The release's rule: about size_level^2 pixels in the picture's shape, multiples of 16.

    Args:
      width: of the picture, in pixels.
      height: of the picture, in pixels.
      size_level: side of the square with as many pixels, 512 to 1024 in the release.

    Returns:
      (width, height) in pixels.

    Raises:
      UserError: the picture is too long and thin for this size.
    """
    ratio = width / height
    if width > height:
        new_width = math.ceil(math.sqrt(size_level * size_level * ratio))
        new_height = math.ceil(new_width / ratio)
    else:
        new_height = math.ceil(math.sqrt(size_level * size_level / ratio))
        new_width = math.ceil(new_height * ratio)
    size = new_width // MULTIPLE * MULTIPLE, new_height // MULTIPLE * MULTIPLE
    if max(ratio, 1 / ratio) > LONGEST_RATIO or 0 in size:
        raise UserError(
            f"a picture of {width}x{height} pixels is too long and thin for size {size_level};"
            " crop it or take a larger size."
        )
    return size


def to_array(image: Image.Image) -> np.ndarray:
    """A picture as (H, W, 3) float32 in [-1, 1]."""
    return np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1


def from_array(array: np.ndarray) -> Image.Image:
    """(H, W, 3) in [-1, 1], clipped and rounded, as a picture."""
    pixels = np.clip(np.asarray(array, np.float32) * 127.5 + 127.5, 0, 255)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))
