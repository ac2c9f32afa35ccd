"""Cutting a subject out of one photograph and laying it into another, with light and shadow.

H height, W width of the whole picture; h, w of a subject.
"""

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from step1x_jax.curation.embedded.colours import to_float, to_uint8
from step1x_jax.curation.embedded.descriptions import SubjectData
from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.photographs import Photograph

OPAQUE = 0.98  # above it a pixel's colour is the subject's own
LIGHT_MATCH = 0.35  # share of the difference in light that is taken over; all of it looks painted
LEAST_SHADOW = 0.02  # weaker shadows are none, so that the edited region ends somewhere


@dataclasses.dataclass(frozen=True, eq=False)
class Cutout:
    """A subject alone.

    Attributes:
      data: what it is.
      original: the photograph's name.
      colours: (h, w, 3) float32 in [0, 1], the subject's own up to and beyond its edge.
      alpha: (h, w) float32 in [0, 1].
      mean: (3,) float32, mean colour of its whole photograph.
    """

    data: SubjectData
    original: str
    colours: np.ndarray
    alpha: np.ndarray
    mean: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectLayer:
    """A subject in its place: colours (H, W, 3) float32, alpha and shadow (H, W) float32.

    Attributes:
      inside: share of the subject that is in the picture.
    """

    colours: np.ndarray
    alpha: np.ndarray
    shadow: np.ndarray
    inside: float

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: where it changes the picture."""
        return (self.alpha > 0) | (self.shadow > 0)


@functools.lru_cache(maxsize=64)
def cut_out(photograph: Photograph, name: str) -> Cutout:
    """The named subject of a photograph, without what may not be seen of it."""
    subject = next(s for s in photograph.subjects if s.data.name == name)
    alpha = subject.alpha[: subject.data.bottom]
    rows, columns = np.nonzero(alpha > 0)
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    alpha = alpha[box]
    colours = own_colours(to_float(photograph.pixels)[: subject.data.bottom][box], alpha)
    mean = to_float(photograph.pixels).mean((0, 1))
    return Cutout(subject.data, photograph.original, colours, alpha, mean)


def own_colours(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32: at soft edges the colour of the nearest opaque pixel, not the mixture."""
    nearest = ndimage.distance_transform_edt(
        alpha < OPAQUE, return_distances=False, return_indices=True
    )
    return colours[tuple(nearest)]


def lay(
    cutout: Cutout,
    host: Photograph,
    centre: tuple[float, float],
    width: float,
    angle: float = 0.0,
    mirror: bool = False,
) -> SubjectLayer:
    """A subject laid into a photograph.

    Args:
      cutout: what is laid.
      host: where.
      centre: x and y of its middle; of a bust, of the middle of its lowest row.
      width: in pixels, before it is turned.
      angle: by which it is turned, in degrees.
      mirror: whether left and right change places first.
    """
    colours, alpha = cutout.colours, cutout.alpha
    if mirror:
        colours, alpha = colours[:, ::-1], alpha[:, ::-1]
    height, length = alpha.shape
    scale = width / length
    size = (max(round(width), 1), max(round(height * scale), 1))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    colours = cv2.resize(np.ascontiguousarray(colours), size, interpolation=way)
    alpha = cv2.resize(np.ascontiguousarray(alpha), size, interpolation=way)
    x, y = centre
    if "front" in cutout.data.manners:
        y -= size[1] / 2
    turn = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), angle, 1.0)
    turn[:, 2] += np.array([x - size[0] / 2, y - size[1] / 2])
    shape = host.pixels.shape[1::-1]
    laid = cv2.warpAffine(alpha, turn, shape, flags=cv2.INTER_LINEAR)
    painted = cv2.warpAffine(
        colours, turn, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    gain = light_gain(cutout.mean, to_float(host.pixels).mean((0, 1)))
    inside = float(laid.sum() / max(alpha.sum(), 1e-6))
    shadow = np.zeros_like(laid)
    if "front" not in cutout.data.manners:
        shadow = cast_shadow(laid, host.light, width)
    return SubjectLayer(np.clip(painted * gain, 0, 1), laid, shadow, inside)


def light_gain(own: np.ndarray, host: np.ndarray) -> np.ndarray:
    """(3,) factors that take a subject a part of the way to its host's light.

    The means of whole photographs stand for the light (the grey world). Brightness changes by a
    third at most: the means also say what the photographs show.
    """
    ratio = (host + 0.05) / (own + 0.05)
    brightness = ratio.mean()
    return np.clip(brightness**LIGHT_MATCH, 0.75, 1.33) * (ratio / brightness) ** LIGHT_MATCH


def cast_shadow(alpha: np.ndarray, light: tuple[float, float], width: float) -> np.ndarray:
    """(H, W) float32: what share of light a flat surface loses around and under a subject.

    Args:
      alpha: (H, W) of the subject on it.
      light: direction in which shadows fall.
      width: of the subject in pixels; the shadow's length and softness go with it.
    """

    def blurred(shift: float, sigma: float) -> np.ndarray:
        move = np.array([[1, 0, light[0] * shift], [0, 1, light[1] * shift]], np.float32)
        moved = cv2.warpAffine(alpha, move, alpha.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        return cv2.GaussianBlur(moved, (0, 0), max(sigma, 0.6))

    soft = 0.45 * blurred(0.07 * width, 0.05 * width)
    contact = 0.4 * blurred(0.015 * width, 0.015 * width)
    shadow = 1 - (1 - soft) * (1 - contact)
    return np.clip((shadow - LEAST_SHADOW) / (1 - LEAST_SHADOW), 0, 1)


def compose(pixels: np.ndarray, layer: SubjectLayer) -> np.ndarray:
    """(H, W, 3) uint8: the layer over pixels that are in its shadow."""
    ground = to_float(pixels) * (1 - layer.shadow[..., None])
    alpha = layer.alpha[..., None]
    result = to_uint8(ground * (1 - alpha) + layer.colours * alpha)
    return np.where(layer.mask[..., None], result, pixels)
