"""Masks of what may change in a picture: given by people, or found from an edit.

A mask is (H, W) bool at the size of its picture, True where the picture is edited.

scipy is imported where it is used: most edits need no mask, and save 0.2 s of their start.
"""

import os

import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.conditioning.colours import decode_upright, split_alpha
from step1x_jax.conditioning.images import MOST_BYTES, identify_image
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError, require
from step1x_jax.files import user_path

# Of 255: a drawn layer has one of these at most, see `read_mask`.
BLACK, WHITE = 15, 240

# Width of the ramp around a mask, as a part of the side of a square with as many pixels: two tokens
# at the size at which the released models edit, 1024. At half of it, the corners of a mask that was
# enlarged four times (the quickstart's edits of 512 pixels) are still seen as a line.
FEATHER = 1 / 32
STRIP = 512  # rows whose distances are computed at once: bounds the memory of large pictures

# Of `changed_region`, in pixels at the size of the edit and in levels of 255, smoothed. Measured on
# 12 photographs and 36 local edits of these by the quickstart's model (red ball, caption and frame,
# 128x128 pixels, two CPU cores, jax 0.10.2).
SMOOTHING = 2.0  # sigma: an autoencoder errs at scales below its cells of 8 pixels
QUIET = 25  # percentile of the differences: most edits leave a quarter of a picture unchanged
ABOVE_QUIET = 6.0  # 99 % of what was not edited differs by 3.4 times the quiet quarter, 5.1 at most
LOWEST = 16.0  # the autoencoder alone: 99 % of a photograph below 9 to 20
HIGHEST = 32.0  # what was edited: 99 % above 23, 95 % above 50
CERTAIN = 1.5  # times the threshold: a region without such a pixel is noise
SPECK = 128  # pixels, two cells: the autoencoder alone makes regions of up to 64, at borders
DILATION = 8.0  # one cell: an edit blurs that far into what it borders on
MOST = 0.75  # of the picture: where more has changed, the edit means all of it


def read_mask(
    mask: Image.Image | np.ndarray | epath.PathLike | bytes, size: tuple[int, int], name: str
) -> np.ndarray:
    """A mask as people give it; white is edited, black stays, as for inpainting in diffusers.

    White is what is above half of the range: masks scaled down elsewhere have grey edges, and
    every pixel is one or the other here (`composite` makes the soft edge).

    A picture with transparent pixels is taken for the layer of a brush, as web editors give it:
    what is painted, in any colour, is edited, what is transparent stays. If it has black pixels
    and white ones besides, or is all opaque, this cannot be meant: the former is refused, the
    latter is black and white as any other.

    Args:
      mask: a picture of up to 8 bits a channel; the path of one, or the bytes of its file, in any
        format that pictures may have; or an array (H, W) or (H, W, 1) of bool, uint8, or float from
        0 to 1.
      size: (width, height) of the picture to be edited, turned upright.
      name: of the mask, in error messages; a path is its own name.

    Returns:
      (H, W) bool, True where the picture is edited; never empty.

    Raises:
      UserError: it is no such picture, file or array, has another size, or nothing in it.
    """
    if isinstance(mask, str | os.PathLike):
        name = user_path(os.fspath(mask))
        mask = read_input_file(name, "a mask", MOST_BYTES)
    if isinstance(mask, bytes):
        mask = identify_image(mask, name)
    if isinstance(mask, Image.Image):
        edited = _from_picture(decode_upright(mask, name), name)
    elif isinstance(mask, np.ndarray):
        edited = _from_array(mask, name)
    else:
        raise UserError(f"{name} is a {type(mask).__name__}; give a picture, an array or a path.")
    height, width = edited.shape
    if (width, height) != size:
        raise UserError(
            f"{name} is {width}x{height} pixels, its picture {size[0]}x{size[1]} (turned upright);"
            " give a mask of the picture's size."
        )
    if not edited.any():
        raise UserError(
            f"{name} has nothing in it, so that nothing would be edited; paint white what may"
            " change."
        )
    return edited


def _from_picture(image: Image.Image, name: str) -> np.ndarray:
    colours, alpha = split_alpha(image)
    grey = np.asarray(colours.convert("RGB").convert("L"))
    if alpha is None:
        return grey > 127
    painted = np.asarray(alpha) > 127
    if np.asarray(alpha).min() == 255:
        return grey > 127
    if (grey[painted] <= BLACK).any() and (grey[painted] >= WHITE).any():
        raise UserError(
            f"{name} has black, white and transparent pixels, which can be understood in two ways;"
            " save it without transparency, white where the picture may change."
        )
    return painted


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,)):
        raise UserError(f"{name} is an array of shape {array.shape}; give (height, width).")
    array = array.reshape(array.shape[:2])
    if array.dtype == bool:
        return array.copy()
    if array.dtype == np.uint8:
        if array.max(initial=0) == 1:
            raise UserError(
                f"{name} is an array of 0 and 1, which are both black in uint8; give bool."
            )
        return array > 127
    if array.dtype.kind != "f":
        raise UserError(
            f"{name} is an array of {array.dtype}; give bool, uint8, or float from 0 to 1."
        )
    if not ((array >= 0) & (array <= 1)).all():  # nor is NaN
        raise UserError(f"{name} has values outside of 0 to 1; scale them, or give bool.")
    return array > 0.5


def cover(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """A mask at another size, which loses nothing.

    Args:
      mask: (H, W) bool.
      width: of the result.
      height: of the result.

    Returns:
      (height, width) bool: True where any of the area of a pixel is True in `mask`.
    """
    return _cover_rows(_cover_rows(mask, height).T, width).T


def _cover_rows(mask: np.ndarray, count: int) -> np.ndarray:
    """(H, W) -> (count, W): row i is the union of rows that meet [i, i + 1) * H / count."""
    rows = len(mask)
    i = np.arange(count)
    start, end = i * rows // count, -(-(i + 1) * rows // count)
    padded = np.pad(mask, ((0, 1), (0, 0)))  # reduceat takes no end past the last row
    return np.logical_or.reduceat(padded, np.stack([start, end], -1).ravel(), axis=0)[::2]


def latent_mask(mask: np.ndarray, width: int, height: int, cell: int) -> np.ndarray:
    """Return which latents are sampled, for a picture edited at width x height pixels.

    The unit is the cell of one latent, not the token of 2x2: a sampler keeps the rest of a picture
    by replacing latents, one by one, and the model is told of no mask that would be in tokens. So
    the edit comes closer to the mask, by up to 8 pixels.

    Args:
      mask: (H, W) bool, of any size: of the picture itself, say.
      width: at which the picture is edited, in pixels.
      height: at which the picture is edited, in pixels.
      cell: pixels along one side of a latent.

    Returns:
      (height / cell, width / cell) bool: True where any pixel of the mask falls in the cell.
    """
    if width % cell or height % cell:
        raise ValueError(f"{width}x{height} pixels are no whole cells of {cell}")
    return cover(mask, width // cell, height // cell)


def feather_width(width: int, height: int) -> int:
    """Pixels of the ramp around a mask in a picture of this size, see FEATHER."""
    return round(FEATHER * (width * height) ** 0.5)


def composite(
    source: Image.Image, edited: Image.Image, mask: np.ndarray, feather: int | None = None
) -> Image.Image:
    """The edit inside of the mask, the source outside, a soft edge in between.

    Args:
      source: RGB picture of W x H pixels.
      edited: RGB picture of the same size.
      mask: (H, W) bool, True where the picture is edited.
      feather: pixels outside of the mask over which the edit fades; `feather_width` of the size if
        None, 0 for a hard edge.

    Returns:
      A picture equal to `edited` inside of the mask, and bit for bit to `source` at `feather` or
      more pixels from it (between the centres of pixels).

    Raises:
      UserError: feather is negative.
    """
    if not source.size == edited.size == mask.shape[::-1] or source.mode != edited.mode:
        raise ValueError(f"{source}, {edited} and a mask of {mask.shape} do not belong together")
    width = feather_width(*source.size) if feather is None else feather
    return Image.composite(edited, source, Image.fromarray(fade(mask, width)))


def fade(mask: np.ndarray, feather: int) -> np.ndarray:
    """How much of the edit is seen at each pixel.

    Args:
      mask: (H, W) bool.
      feather: pixels, at least 0.

    Returns:
      (H, W) uint8: 255 inside of the mask, 0 at `feather` and more pixels from it, and in between
      a smooth function (3 x^2 - 2 x^3) of the distance alone, which falls with it.
    """
    from scipy import ndimage

    require(feather >= 0, "feather", feather, "give a number of pixels, 0 for a hard edge")
    weights = np.where(mask, np.uint8(255), np.uint8(0))
    if feather == 0:
        return weights
    for top in range(0, len(mask), STRIP):
        first = max(0, top - feather)  # no row further away can matter
        block = mask[first : top + STRIP + feather]
        if not block.any():
            continue
        distance = ndimage.distance_transform_edt(~block)[top - first :][:STRIP]
        x = np.clip(1 - distance / feather, 0, 1)
        weights[top : top + STRIP] = np.rint(255 * x * x * (3 - 2 * x))
    return weights


def changed_region(source: Image.Image, edited: Image.Image) -> np.ndarray:
    """The mask of an edit, from its difference to the source.

    Per pixel the largest difference of a channel, after Gaussian smoothing of SMOOTHING pixels. The
    threshold is ABOVE_QUIET times the QUIET-th percentile of these, from LOWEST to HIGHEST levels:
    it follows how well the autoencoder and the model copy this picture. Regions of less than SPECK
    pixels, or nowhere CERTAIN times above the threshold, are dropped; what is left grows by
    DILATION pixels.

    The reference is the source itself. Against the source encoded and decoded, which costs a
    decode, what was not edited differs hardly less: smoothed, 99.9 % by up to 38 levels instead of
    40 (not smoothed, 54 instead of 106).

    Of the edits named above it missed 0.6 % of the pixels that were meant to change (17 % of one: a
    white frame on a pale sky) and took 0.2 % of those further than 16 pixels away. What an edit
    changes by less than about 24 levels, such as night in a dark picture, is not found.

    Args:
      source: RGB picture at the size at which it was edited.
      edited: RGB picture of the same size, as decoded.

    Returns:
      (H, W) bool: nothing where nothing was edited, everything where more than MOST was.
    """
    from scipy import ndimage

    if source.size != edited.size:
        raise ValueError(f"{source} and {edited} differ in size")
    change = np.asarray(edited.convert("RGB"), np.float32) - np.asarray(source.convert("RGB"))
    smooth = ndimage.gaussian_filter(change, (SMOOTHING, SMOOTHING, 0), mode="nearest")
    change = np.abs(smooth).max(-1)
    threshold = np.clip(ABOVE_QUIET * np.percentile(change, QUIET), LOWEST, HIGHEST)
    labels, count = ndimage.label(change > threshold)
    regions = np.arange(1, count + 1)
    certain = ndimage.maximum(change, labels, regions) > CERTAIN * threshold
    large = np.bincount(labels.ravel())[1:] >= SPECK
    mask = np.concatenate([[False], certain & large])[labels]
    if mask.any():
        mask = ndimage.distance_transform_edt(~mask) <= DILATION
    if mask.mean() > MOST:
        mask[:] = True
    return mask
