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
        and photograph.foreground is not None
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


def _extent(photograph: Photograph) -> tuple[slice, slice]:
    """Rows and columns in which anything of the background is seen."""
    assert photograph.foreground is not None
    rows, columns = np.nonzero(photograph.foreground < 1)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def _scale(photograph: Photograph, backdrop: BackdropData) -> float:
    """By which a whole backdrop is enlarged to fill the photograph's background."""
    left, top, right, bottom = backdrop.box
    rows, columns = _extent(photograph)
    width, height = columns.stop - columns.start, rows.stop - rows.start
    return max(width / max(right - left, 1), height / max(bottom - top, 1))


def _largest_scale(backdrop: BackdropData) -> float:
    return LARGEST_SKY_SCALE if backdrop.kind == "sky" else LARGEST_SCALE


def _draw_backdrop(
    photograph: Photograph, other: Photograph, backdrop: BackdropData, rng: np.random.Generator
) -> np.ndarray:
    """(H, W, 3) float32: a part of the backdrop where the photograph's background is, else 0."""
    rows, columns = _extent(photograph)
    width, height = columns.stop - columns.start, rows.stop - rows.start
    left, top, right, bottom = backdrop.box
    part = other.pixels[top:bottom, left:right]
    if backdrop.kind == "wall":  # the paving's long bricks lie upright in the photograph
        part = np.ascontiguousarray(part.swapaxes(0, 1))
    fills = max(width / part.shape[1], height / part.shape[0])
    scale = max(fills, min(_largest_scale(backdrop), fills * rng.uniform(1.0, 1.3)))
    size = (min(round(width / scale), part.shape[1]), min(round(height / scale), part.shape[0]))
    x = int(rng.integers(0, part.shape[1] - size[0] + 1))
    y = int(rng.integers(0, part.shape[0] - size[1] + 1))
    part = to_float(part[y : y + size[1], x : x + size[0]])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    behind = cv2.resize(part, (width, height), interpolation=way)
    blur = {"distance": rng.uniform(0, MOST_BLUR), "sky": MOST_BLUR}.get(backdrop.kind, 0)
    if (sigma := blur * max(photograph.pixels.shape)) > 0.5:
        behind = cv2.GaussianBlur(behind, (0, 0), sigma)
    result = np.zeros(photograph.pixels.shape, np.float32)
    result[rows, columns] = np.clip(behind, 0, 1)
    return result


def _put_behind(photograph: Photograph, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photograph's foreground before `behind`, and (H, W) bool where that changed it."""
    scene, foreground = photograph.scene, photograph.foreground
    assert scene is not None
    assert foreground is not None
    if scene.shadow:
        columns = np.flatnonzero((foreground > 0.5).any(0))
        width = float(columns[-1] - columns[0])
        behind = behind * (1 - cast_shadow(foreground, photograph.light, width)[..., None])
    colours = own_colours(to_float(photograph.pixels), foreground)
    alpha = foreground[..., None]
    mask = foreground < 1
    result = to_uint8(colours * alpha + behind * (1 - alpha))
    return np.where(mask[..., None], result, photograph.pixels), mask
