"""A flat surface gets another material: a photographed texture in the surface's perspective.

Only surfaces that are flat for sure: by the disparity where it is known, else by hand. Half of the
edits are reversed: their target is the photograph.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates
from step1x_jax.curation.embedded.colours import luminance, to_float, to_uint8
from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.photographs import Photograph, Plane
from step1x_jax.curation.embedded.types import Edit, Rejection, Words

CATEGORY = Category.MATERIAL_ALTER
FINE = 2  # times finer than the picture, in which the texture is drawn, and then averaged
LEAST_SEEN = 0.04  # share of the picture that the surface takes
MOST_ENLARGED = 1.6  # of a texture in the nearest part of the surface: beyond it one sees it blur
# Shares of the light's colour and brightness that a texture takes over.
TINT, BRIGHTNESS = 0.3, 0.35
SHADE_WIDTH = (
    0.03  # of the picture's longer side: shadows are wider, the old material's grain is not
)
# Factors of light that the old surface's shadows and highlights give the new one.
DARKEST, LIGHTEST = 0.35, 1.5


class Texture(NamedTuple):
    """A material.

    Attributes:
      width: of the photograph, in cm.
      turned: whether the photograph's rows are to stand upright (long bricks lie in courses).
      words: what a surface is then made of.
    """

    width: float
    turned: bool
    words: Words


# Widths: 13 bricks of 7 cm; stones of half a centimetre to one; clover leaves of 1 to 2 cm.
TEXTURES = {
    "brick": Texture(90, True, {"en": "brick", "cn": "砖块"}),
    "gravel": Texture(28, False, {"en": "small grey stones", "cn": "灰色小石子"}),
    "grass": Texture(28, False, {"en": "grass", "cn": "青草"}),
}


def make_edits(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits of a surface's material."""
    by_name: dict[str, Photograph] = {}
    for other in others:
        if other.pixels.size > getattr(by_name.get(other.original), "pixels", np.empty(0)).size:
            by_name[other.original] = other
    for number in range(count):
        if not photograph.planes:
            yield gates.reject_plan(CATEGORY, photograph, "no_flat_surface")
            continue
        plane = photograph.planes[int(rng.integers(len(photograph.planes)))]
        error = _plane_error(photograph, plane)
        if error > gates.MOST_PLANE_ERROR:
            yield gates.reject_plan(CATEGORY, photograph, "surface_not_flat", error=error)
            continue
        if plane.alpha.mean() < LEAST_SEEN:
            yield gates.reject_plan(CATEGORY, photograph, "surface_hardly_seen")
            continue
        names = [n for n in plane.textures if n in by_name]
        if not names:
            yield gates.reject_plan(CATEGORY, photograph, "no_texture")
            continue
        name = names[int(rng.integers(len(names)))]
        texture, shown = TEXTURES[name], by_name[name]
        if (enlarged := _enlargement(plane, shown, texture)) > MOST_ENLARGED:
            yield gates.reject_plan(CATEGORY, photograph, "texture_too_coarse", enlarged=enlarged)
            continue
        result = cover(photograph, plane, shown, texture, rng)
        source, target, old, new = photograph.pixels, result, plane.material, texture.words
        if number % 2:
            source, target, old, new = target, source, new, old
        facts: dict[str, str | float] = {
            "action": "cover",
            "photographs": f"{photograph.original} {name}",
            "plane_error": round(error, 3),
        }
        slots = {"the": plane.the, "old": old, "new": new}
        yield gates.check(Edit(CATEGORY, source, target, plane.alpha > 0, facts, slots))


def cover(
    photograph: Photograph,
    plane: Plane,
    shown: Photograph,
    texture: Texture,
    rng: np.random.Generator,
) -> np.ndarray:
    """(H, W, 3) uint8: the surface made of a texture, in its perspective, light and shadow."""
    pixels = to_float(shown.pixels)
    if texture.turned:
        pixels = pixels.swapaxes(0, 1)
    # A tile and its mirror pictures have no seams.
    tile = np.concatenate([pixels, pixels[:, ::-1]], 1)
    tile = np.concatenate([tile, tile[::-1]], 0)
    scale = texture.width * rng.uniform(0.9, 1.15) / pixels.shape[1]  # cm of a texture's pixel
    offset = rng.uniform(0, 1, 2) * np.array(tile.shape[1::-1])
    size = np.array(plane.size) / scale
    corners = np.array([[0, 0], [size[0], 0], size, [0, size[1]]], np.float32)
    to_picture = cv2.getPerspectiveTransform(corners, (plane.corners * FINE).astype(np.float32))
    height, width = photograph.pixels.shape[:2]
    columns, rows = np.meshgrid(np.arange(FINE * width), np.arange(FINE * height))
    places = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(to_picture).T
    places = places[..., :2] / places[..., 2:] + offset
    places = (places % np.array(tile.shape[1::-1])).astype(np.float32)
    drawn = cv2.remap(
        np.ascontiguousarray(tile),
        places[..., 0],
        places[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    drawn = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
    alpha = plane.alpha[..., None]
    shade = _shade(photograph.pixels, plane.alpha)
    host = to_float(photograph.pixels)
    gain = _light_gain(host, plane.alpha, pixels)
    result = to_uint8(host * (1 - alpha) + np.clip(drawn * gain * shade[..., None], 0, 1) * alpha)
    return np.where(alpha > 0, result, photograph.pixels)


def _enlargement(plane: Plane, shown: Photograph, texture: Texture) -> float:
    """The most pixels of the picture that a texture's pixel takes, along the surface's near edge.

    Both edges are measured over the whole rectangle: where a picture shows a part of it, this is
    what holds there.
    """
    edges = [np.linalg.norm(plane.corners[1] - plane.corners[0])]
    edges.append(np.linalg.norm(plane.corners[2] - plane.corners[3]))
    per_cm = float(max(edges)) / plane.size[0]
    return per_cm * texture.width / shown.pixels.shape[1]


def _light_gain(host: np.ndarray, alpha: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """(3,) factors for a texture: the whole picture's tint, the surface's brightness, in part."""
    mean = host.mean((0, 1)) + 0.05
    there = float((luminance(host) * alpha).sum() / alpha.sum())
    brightness = (there + 0.05) / (float(luminance(texture).mean()) + 0.05)
    return (mean / mean.mean()) ** TINT * np.clip(brightness**BRIGHTNESS, 0.7, 1.4)


def _shade(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W) float32: light on the surface over its mean, without the old material's grain."""
    light = luminance(pixels)
    sigma = SHADE_WIDTH * max(light.shape)
    weights = cv2.GaussianBlur(alpha, (0, 0), sigma) + 1e-3
    blurred = cv2.GaussianBlur(light * alpha, (0, 0), sigma) / weights
    mean = float((light * alpha).sum() / alpha.sum())
    return np.clip(blurred / max(mean, 1e-3), DARKEST, LIGHTEST)


def _plane_error(photograph: Photograph, plane: Plane) -> float:
    """Pixels by which its disparities miss a plane; 0 where a person says that it is one."""
    if photograph.disparity is None:
        return 0.0
    return gates.plane_error(photograph.disparity, plane.alpha)
