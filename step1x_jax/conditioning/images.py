"""Pictures from files, the release's image-size rule, and pictures as arrays."""

import io
import math
import os
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from PIL import Image, UnidentifiedImageError

from step1x_jax.conditioning.colours import MOST_PIXELS, to_srgb
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.conditioning.picture_formats import describe, usable_formats
from step1x_jax.errors import UserError
from step1x_jax.files import user_path
from step1x_jax.models.embeddings import PATCH

PIXELS_PER_LATENT = 8  # along one side
LONGEST_RATIO = 200  # Qwen2.5-VL takes nothing longer
MOST_BYTES = 1 << 30  # of a picture's file
MULTIPLE = PATCH * PIXELS_PER_LATENT  # pixels along one side of a token


def open_image(path: epath.PathLike) -> Image.Image:
    """A picture from a file, as `to_srgb` gives it: upright, RGB, on white.

    Args:
      path: a file in one of FORMATS, on a disk or an object store. Of an animation the first frame
        is taken, with a warning.

    Returns:
      The decoded picture.

    Raises:
      UserError: missing, no file, or see `decode_image`; names the file.
    """
    return decode_image(read_image_bytes(path), str(path))


def read_image_bytes(path: epath.PathLike) -> bytes:
    """The bytes of a picture's file.

    Raises:
      UserError: it is no file, or cannot be read.
    """
    return read_input_file(path, "a picture", MOST_BYTES)


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode a picture from bytes, as `open_image` does; `name` is for error messages.

    Raises:
      UserError: not a picture of a format in FORMATS, or see `to_srgb`.
    """
    return to_srgb(identify_image(data, name), name)


def identify_image(data: bytes, name: str) -> Image.Image:
    """The picture in a file's bytes, of any mode, before its pixels are decoded.

    Raises:
      UserError: not a picture of a format in FORMATS, or of too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=usable_formats())
    except Image.DecompressionBombError as e:
        raise UserError(
            f"{name} has more than {MOST_PIXELS // 10**6} million pixels; scale it down before:"
            " edits are made at about one million."
        ) from e
    except UnidentifiedImageError as e:
        what, advice = describe(data)
        raise UserError(f"{name} is not a readable picture: it is {what}; {advice}.") from e
    except Exception as e:  # Pillow's readers raise nearly anything on damaged files
        raise UserError(
            f"{name} is not a readable picture ({e}); copy or download it again."
        ) from e
    if image.format != "MPO" and _frames(image) > 1:  # MPO: a phone's picture and its preview
        logging.warning("%s has several frames or pages; the first one is taken.", name)
    return image


def read_picture(picture: Any, name: str) -> Image.Image:
    """A picture in any form in which a program has it, as `to_srgb` gives it.

    Args:
      picture: a PIL image, a path (see `open_image`), the bytes of a file, or pixels: uint8 of
        (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
      name: for error messages, except about paths.

    Raises:
      UserError: it is none of these, or see `to_srgb`.
    """
    if isinstance(picture, Image.Image):
        return to_srgb(picture, name)
    if isinstance(picture, str | os.PathLike):
        return open_image(user_path(os.fspath(picture)))
    if isinstance(picture, bytes):
        return decode_image(picture, name)
    if not isinstance(picture, np.ndarray):
        raise UserError(
            f"{name} is a {type(picture).__name__}; give a PIL image, a path, bytes or an array."
        )
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    fine = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
    if picture.dtype != np.uint8 or not fine:
        raise UserError(
            f"{name} is an array of {picture.dtype} {list(picture.shape)}; give uint8 of"
            " [H, W, 3], or a PIL image."
        )
    return to_srgb(Image.fromarray(picture), name)


def _frames(image: Image.Image) -> int:
    try:
        return 2 if getattr(image, "is_animated", False) else 1
    except Exception:  # damaged after the first frame, which may be whole
        return 1


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
