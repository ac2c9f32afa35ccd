"""Weather, light and development of a photograph: pure functions of pixels (and depth).

(H, W, 3) uint8 to the same.
"""

import numpy as np
from scipy import ndimage

from step1x_jax.curation.embedded.colours import (
    from_lab,
    hue_and_chroma,
    luminance,
    smoothstep,
    to_float,
    to_lab,
    to_uint8,
)
from step1x_jax.curation.embedded.opencv import cv2

AIR = np.array([0.80, 0.82, 0.84], np.float32)  # the colour of fog in daylight


def fog(pixels: np.ndarray, disparity: np.ndarray, visibility: float) -> np.ndarray:
    """Fog by Koschmieder's law: light fades with depth, and the air's takes its place.

    Args:
      pixels: the photograph.
      disparity: (H, W) float32, depth goes as its inverse; NaN where unknown: filled from beside.
      visibility: depth, in medians of the picture's, at which 1/e of the light is left.
    """
    unknown = ~np.isfinite(disparity)
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    depth = 1 / np.maximum(disparity[tuple(nearest)], 1e-3)
    left = np.exp(-depth / (np.median(depth) * visibility))[..., None].astype(np.float32)
    return to_uint8(to_float(pixels) * left + AIR * (1 - left))


def mist(pixels: np.ndarray) -> np.ndarray:
    """Fog where no depth is known: dense at the top, which is far as a rule, thinner below."""
    values = to_float(pixels)
    density = (0.74 - 0.36 * _heights(pixels))[..., None]
    faded = 0.5 * values + 0.5 * luminance(pixels)[..., None]
    return to_uint8((1 - density) * faded + density * 0.82)


def rain(pixels: np.ndarray, rng: np.random.Generator, density: float) -> np.ndarray:
    """Rain: bright streaks of one slant at two distances, under a dim grey sky.

    Args:
      pixels: the photograph.
      rng: of the drops.
      density: share of pixels in which a drop begins.
    """
    values = to_float(pixels)
    grey = luminance(pixels)[..., None]
    dim = (0.6 * values + 0.4 * grey) * np.array([0.72, 0.76, 0.80], np.float32)
    side = max(pixels.shape[:2])
    slant = rng.uniform(-18, 18)
    far = _streaks(pixels.shape[:2], rng, density, 0.035 * side, slant, 0.8)
    near = _streaks(pixels.shape[:2], rng, density / 5, 0.09 * side, slant, 1.5)
    drops = np.clip(0.5 * far + 0.75 * near, 0, 0.85)[..., None]
    return to_uint8(dim * (1 - drops) + drops * np.array([0.86, 0.88, 0.92], np.float32))


def snow(pixels: np.ndarray, rng: np.random.Generator, density: float) -> np.ndarray:
    """Falling snow: soft flakes at three distances, in a flat cool light."""
    values = to_float(pixels)
    grey = luminance(pixels)[..., None]
    cool = (0.55 * values + 0.45 * grey) * np.array([0.90, 0.95, 1.0], np.float32)
    cool = 0.12 + 0.82 * cool
    side = max(pixels.shape[:2])
    flakes = np.zeros(pixels.shape[:2], np.float32)
    for size, share in ((0.0016, 1.0), (0.003, 0.3), (0.006, 0.06)):
        points = (rng.random(pixels.shape[:2]) < density * share).astype(np.float32)
        sigma = max(size * side, 0.6)
        flake = cv2.GaussianBlur(points, (0, 0), sigma) * (2 * np.pi * sigma**2)
        flakes = np.maximum(flakes, smoothstep(flake / 0.9))
    flakes = 0.92 * flakes[..., None]
    return to_uint8(cool * (1 - flakes) + flakes)


def autumn(pixels: np.ndarray) -> np.ndarray:
    """Green and yellow-green leaves turn orange and red; the light grows warmer."""
    lab = to_lab(pixels)
    hue, chroma = hue_and_chroma(lab)
    leaves = smoothstep((hue - 82) / 14) * smoothstep((172 - hue) / 14)
    leaves = leaves * smoothstep((chroma - 3) / 5)
    patches = ndimage.gaussian_filter(lab[..., 1], 0.01 * max(hue.shape))
    spread = (patches - patches.mean()) / (patches.std() + 1e-6)
    angle = np.radians(58 + 10 * np.clip(spread, -1.5, 1.5))  # from red to golden, tree by tree
    strong = 1.35 * chroma + 12
    leaf = np.stack([1.05 * lab[..., 0], strong * np.cos(angle), strong * np.sin(angle)], -1)
    lab = lab * (1 - leaves[..., None]) + leaf * leaves[..., None]
    lab[..., 2] += 3
    return from_lab(lab)


def winter(pixels: np.ndarray) -> np.ndarray:
    """Green leaves carry frost, colours fade, the light is blue."""
    lab = to_lab(pixels)
    hue, chroma = hue_and_chroma(lab)
    leaves = smoothstep((hue - 78) / 14) * smoothstep((178 - hue) / 14)
    leaves = leaves * smoothstep((chroma - 3) / 5)
    frost = 45 + 0.62 * lab[..., 0]
    lab[..., 0] = lab[..., 0] * (1 - leaves) + frost * leaves
    lab[..., 1:] *= (1 - 0.85 * leaves[..., None]) * 0.7
    lab[..., 2] -= 5
    return from_lab(lab)


def golden_hour(pixels: np.ndarray) -> np.ndarray:
    """Low warm sun: orange lights, violet shadows."""
    values = to_float(pixels)
    light = luminance(pixels)[..., None]
    warm = np.array([1.22, 0.92, 0.58], np.float32)
    shadow = np.array([0.90, 0.72, 0.86], np.float32)
    return to_uint8(values * (light * warm + (1 - light) * shadow) + 0.06 * light * warm)


def sunset(pixels: np.ndarray) -> np.ndarray:
    """Blue and green fade, orange glows from the top down to a violet ground."""
    y = _heights(pixels)[..., None]
    light = (1 - y) * np.array([1.15, 0.62, 0.16]) + y * np.array([0.92, 0.36, 0.34])
    glow = (1 - y) * np.array([0.20, 0.08, 0.0]) + y * np.array([0.04, 0.0, 0.06])
    return to_uint8(to_float(pixels) * light + glow)


def night(pixels: np.ndarray) -> np.ndarray:
    """Dark and blue, as eyes and films see moonlight."""
    values = to_float(pixels)
    moonlit = 0.45 * values + 0.55 * luminance(pixels)[..., None]
    return to_uint8(moonlit**1.25 * np.array([0.30, 0.40, 0.66], np.float32))


def cool(pixels: np.ndarray) -> np.ndarray:
    """A cold blue tone."""
    return to_uint8(to_float(pixels) * np.array([0.72, 0.92, 1.18], np.float32))


def sepia(pixels: np.ndarray) -> np.ndarray:
    """Brown and faded, as prints of a hundred years ago."""
    light = luminance(pixels)[..., None]
    faded = 0.10 + 0.82 * light
    return to_uint8(faded * np.array([1.08, 0.90, 0.66], np.float32))


def black_and_white(pixels: np.ndarray) -> np.ndarray:
    """Grey, with a little more contrast."""
    light = luminance(pixels)
    contrast = 0.5 * light + 0.5 * smoothstep(light)
    return to_uint8(np.repeat(contrast[..., None], 3, -1))


def cinema(pixels: np.ndarray) -> np.ndarray:
    """Teal shadows, orange lights, strong contrast."""
    values = to_float(pixels)
    light = luminance(pixels)[..., None]
    values = 0.4 * values + 0.6 * smoothstep(values)
    teal, orange = np.array([-0.08, 0.02, 0.07]), np.array([0.09, 0.02, -0.09])
    return to_uint8(values + (1 - light) * teal + light * orange)


def underexposed(pixels: np.ndarray) -> np.ndarray:
    """Two and a half stops too dark."""
    return to_uint8(_encoded(_linear(pixels) * 2**-2.5))


def overexposed(pixels: np.ndarray) -> np.ndarray:
    """A stop and a half too bright: the lightest parts are lost."""
    return to_uint8(_encoded(_linear(pixels) * 2**1.5))


def flat(pixels: np.ndarray) -> np.ndarray:
    """Faded: a third of the contrast and half of the colour."""
    lab = to_lab(pixels)
    lab[..., 0] = 52 + 0.36 * (lab[..., 0] - 50)
    lab[..., 1:] *= 0.5
    return from_lab(lab)


def _heights(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32: how far down the middle of each pixel is, 0 to 1."""
    height, width = pixels.shape[:2]
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    return np.broadcast_to(rows[:, None], (height, width))


def _linear(pixels: np.ndarray) -> np.ndarray:
    """sRGB bytes to linear light."""
    values = to_float(pixels)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    """Linear light to sRGB, clipped to [0, 1]."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _streaks(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    density: float,
    length: float,
    slant: float,
    width: float,
) -> np.ndarray:
    """(H, W) float32 in [0, 1]: lines that begin at random points."""
    points = (rng.random(shape) < density).astype(np.float32)
    size = max(round(length) | 1, 3)
    line = np.zeros((size, size), np.float32)
    line[:, size // 2] = 1
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), slant, 1.0)
    line = cv2.GaussianBlur(cv2.warpAffine(line, turn, (size, size)), (0, 0), width)
    return np.clip(cv2.filter2D(points, cv2.CV_32F, line / line.max()), 0, 1)
