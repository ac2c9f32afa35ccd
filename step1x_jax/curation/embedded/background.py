"""The background changes: a subject whose mask is stable, before a part of another photograph.

Half of the edits are reversed: their source is the composition, their target the photograph.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates
from step1x_jax.curation.embedded.colours import to_float, to_uint8
from step1x_jax.curation.embedded.compositing import cast_shadow, own_colours
from step1x_jax.curation.embedded.descriptions import BackdropData
from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.photographs import Photograph
from step1x_jax.curation.embedded.types import Edit, Rejection

CATEGORY = Category.BACKGROUND_CHANGE
# By which a backdrop may be enlarged: what is behind a subject may be a little soft, and a sky
# has nothing that could be.
LARGEST_SCALE = 1.6
LARGEST_SKY_SCALE = 3.0
MOST_BLUR = 0.005  # of a distant backdrop, as a share of the longer side: lenses do that


def make_edits(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits of the background."""
    scene = photograph.scene
    backdrops = [
        (other, backdrop)
        for other in others
        for backdrop in other.backdrops
        if scene is not None
        and other.original != photograph.original
        and backdrop.kind in scene.takes
        and _scale(photograph, backdrop) <= _largest_scale(backdrop)
    ]
    for number in range(count):
        if scene is None:
            yield gates.reject_plan(CATEGORY, photograph, "nothing_stands_out")
            continue
        stability = gates.scene_stability(photograph)
        if stability < gates.LEAST_STABILITY:
            yield gates.reject_plan(CATEGORY, photograph, "mask_unstable", stability=stability)
            continue
        if not backdrops:
            yield gates.reject_plan(CATEGORY, photograph, "no_backdrop_fits")
            continue
        other, backdrop = backdrops[int(rng.integers(len(backdrops)))]
        behind = _draw_backdrop(photograph, other, backdrop, rng)
        result, mask = _put_behind(photograph, behind)
        facts: dict[str, str | float] = {
            "action": "change",
            "photographs": f"{photograph.original} {other.original}",
            "stability": round(stability, 3),
        }
        slots = {"the": scene.the, "new": backdrop.words, "old": scene.background}
        source, target = photograph.pixels, result
        if number % 2:
            source, target = target, source
            slots = {"the": scene.the, "new": scene.background, "old": backdrop.words}
        yield gates.check(Edit(CATEGORY, source, target, mask, facts, slots))


def _scale(photograph: Photograph, backdrop: BackdropData) -> float:
    """By which a whole backdrop is enlarged to fill the photograph."""
    left, top, right, bottom = backdrop.box
    height, width = photograph.pixels.shape[:2]
    return max(width / max(right - left, 1), height / max(bottom - top, 1))


def _largest_scale(backdrop: BackdropData) -> float:
    return LARGEST_SKY_SCALE if backdrop.kind == "sky" else LARGEST_SCALE


def _draw_backdrop(
    photograph: Photograph, other: Photograph, backdrop: BackdropData, rng: np.random.Generator
) -> np.ndarray:
    """(H, W, 3) float32: a part of the backdrop, of the photograph's shape."""
    height, width = photograph.pixels.shape[:2]
    left, top, right, bottom = backdrop.box
    part = other.pixels[top:bottom, left:right]
    if backdrop.kind == "wall":  # the paving's long bricks lie upright in the photograph
        part = np.ascontiguousarray(part.swapaxes(0, 1))
    fills = max(width / part.shape[1], height / part.shape[0])
    scale = max(fills, min(_largest_scale(backdrop), fills * rng.uniform(1.0, 1.3)))
    size = (round(width / scale), round(height / scale))
    x = int(rng.integers(0, max(part.shape[1] - size[0], 0) + 1))
    y = int(rng.integers(0, max(part.shape[0] - size[1], 0) + 1))
    part = to_float(part[y : y + size[1], x : x + size[0]])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    behind = cv2.resize(part, (width, height), interpolation=way)
    if backdrop.kind == "distance":
        sigma = rng.uniform(0, MOST_BLUR) * max(height, width)
        if sigma > 0.5:
            behind = cv2.GaussianBlur(behind, (0, 0), sigma)
    return np.clip(behind, 0, 1)


def _put_behind(photograph: Photograph, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photograph's foreground before `behind`, and (H, W) bool where that changed it."""
    scene, foreground = photograph.scene, photograph.foreground
    assert scene is not None
    assert foreground is not None
    if scene.shadow:
        rows, columns = np.nonzero(foreground > 0.5)
        width = float(columns.max() - columns.min())
        behind = behind * (1 - cast_shadow(foreground, photograph.light, width)[..., None])
    colours = own_colours(to_float(photograph.pixels), foreground)
    alpha = foreground[..., None]
    mask = foreground < 1
    result = to_uint8(colours * alpha + behind * (1 - alpha))
    return np.where(mask[..., None], result, photograph.pixels), mask
