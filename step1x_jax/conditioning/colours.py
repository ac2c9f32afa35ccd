"""Any picture that Pillow holds as a viewer shows it: upright, sRGB, 8 bits, on white."""

import functools
import io
from typing import Any

import numpy as np
from absl import logging
from PIL import Image, ImageCms, ImageFile, ImageOps

from step1x_jax.conditioning.picture_formats import RUN_PROGRAMS, is_raw
from step1x_jax.errors import UserError

MOST_PIXELS = 160_000_000  # a picture of so many takes half a GiB, and as much again in between
SMALLEST_SIDE = 8
GREY = ("1", "L", "LA", "La")
# Pillow's modes with 8 bits a channel or fewer.
MODES = (*GREY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
WORKING = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}  # by a profile's space: mode to convert from
UNSEEN = 2  # levels: a profile that moves no colour further is sRGB, written by other hands


def to_srgb(image: Image.Image, name: str) -> Image.Image:
    """The one way from a picture of any kind to the pixels that are edited or learned from.

    The command, the notebook (pictures given to Editor) and precompute all come through here. In
    order: turned as its EXIF orientation says; colours to sRGB if it has a profile; transparency
    composited on white.

    Args:
      image: as Pillow opened or made it; not changed.
      name: of the picture, in error messages.

    Returns:
      An RGB picture without metadata; the pixels of an 8-bit RGB picture without any of these are
      the same.

    Raises:
      UserError: it cannot be decoded, is of a format that is not read, deeper than 8 bits, or
        smaller or larger than a picture that can be edited.
    """
    image = decode_upright(image, name)
    colours, alpha = split_alpha(image)
    image = _in_srgb(colours, image.info.get("icc_profile"), name)
    if alpha is not None:
        image.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    image.info = {}  # of the file that it was, and no longer is
    return image


def decode_upright(image: Image.Image, name: str) -> Image.Image:
    """A decoded copy, turned as its EXIF orientation says, its mode and values as they are.

    Raises:
      UserError: see `to_srgb`.
    """
    if isinstance(image, ImageFile.ImageFile) and image.format in RUN_PROGRAMS:
        raise UserError(
            f"{name} is an {image.format} file, which is not read; convert it to PNG or JPEG."
        )
    check_size(*image.size, name)  # before the pixels are allocated
    if is_raw(image):
        raise UserError(
            f"{name} is a camera's raw file, with a small preview; convert it to PNG or JPEG."
        )
    if image.mode not in MODES:  # Pillow would clip these to white
        raise UserError(f"{name} has more than 8 bits per channel; save it with 8 bits.")
    try:
        image.load()
        return _upright(image, name)
    except MemoryError as e:
        raise UserError(
            f"{name} is {image.width}x{image.height} pixels, for which the memory does not suffice;"
            " scale it down before."
        ) from e
    except Exception as e:  # Pillow's readers raise nearly anything on damaged files
        raise UserError(
            f"{name} is not a readable picture ({e}), but cut off or damaged; copy or download it"
            " again."
        ) from e


def check_size(width: int, height: int, name: str) -> None:
    """Raise UserError for a picture that is too small or too large to be edited."""
    if min(width, height) < SMALLEST_SIDE:
        raise UserError(
            f"{name} is {width}x{height} pixels; each side needs at least {SMALLEST_SIDE}."
        )
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name} is {width}x{height} pixels, more than {MOST_PIXELS // 10**6} million; scale it"
            " down before: edits are made at about one million pixels."
        )


def _upright(image: Image.Image, name: str) -> Image.Image:
    """A turned copy; the picture itself if its EXIF data cannot be read, as viewers show it."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as e:  # of many kinds, on damaged EXIF data
        logging.warning("%s: its EXIF data cannot be read (%s); it is not turned.", name, e)
        return image.copy()


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours alone, and how opaque each pixel is (8 bits) if any may be transparent."""
    if not image.has_transparency_data:
        return image, None
    if image.mode == "La":  # grey times alpha, of which Pillow converts to LA alone
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    colours = Image.merge("RGB", rgba.split()[:3])
    if image.mode in GREY:
        colours = colours.getchannel("R")
    return colours, rgba.getchannel("A")


def _in_srgb(image: Image.Image, profile: object, name: str) -> Image.Image:
    """Convert a copy to RGB, through the colour profile if there is one that fits."""
    if isinstance(profile, bytes) and profile and image.mode != "LAB":
        try:
            mode, transform = _transform(profile)
            if (mode == "CMYK") != (image.mode == "CMYK") or (
                mode == "L" and image.mode not in GREY
            ):
                raise ValueError(f"a profile of {mode}, the picture is {image.mode}")
            if transform is not None:
                seen = ImageCms.applyTransform(image.convert(mode), transform)
                assert seen is not None  # not in place
                return seen
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as e:
            logging.warning(
                "%s: its colour profile cannot be used (%s); its colours are taken as sRGB.",
                name, e,
            )  # fmt: skip
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, Any]:
    """The mode to apply a profile in, and its way to sRGB; None where that changes nothing seen.

    Raises:
      ImageCms.PyCMSError, OSError: the profile is damaged.
      ValueError: it is for no pictures that are read.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space
    if space not in WORKING:
        raise ValueError(f"a profile of {space.strip()}")
    mode = WORKING[space]
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return mode, transform
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = (steps,) if mode == "L" else (steps, steps, steps)
    colours = np.stack(np.broadcast_arrays(*np.meshgrid(*grid)) * (3 // len(grid)), -1)
    probe = Image.fromarray(colours.reshape(1, -1, 3)).convert(mode)
    seen = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    change = np.abs(seen - colours.reshape(1, -1, 3)).max()
    return mode, transform if change > UNSEEN else None
