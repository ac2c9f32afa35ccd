"""A thing's colour changes: hue rotated in Lab, light and shadow stay.

Half of the edits are reversed: their target is the photograph.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates
from step1x_jax.curation.embedded.colours import (
    HUES,
    from_lab,
    hue_and_chroma,
    to_lab,
)
from step1x_jax.curation.embedded.photographs import Photograph, Region
from step1x_jax.curation.embedded.types import Edit, Rejection, Words

CATEGORY = Category.COLOR_ALTER
LEAST_TURN = 40.0  # degrees of hue; less is a shade, not another colour
MOST_OFF = 20.0  # degrees by which the result's hue may miss its name: the screen's colours end
CHOSEN = 0.5  # weight from which a pixel counts as the region's
# Colours that have a name of their own now, and are no target.
OTHER_COLOURS: dict[str, Words] = {"brown": {"en": "brown", "cn": "棕色"}}


def make_edits(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits of a region's colour; `others` are not used."""
    regions = [r for r in photograph.regions if r.part == "thing"]
    lab = to_lab(photograph.pixels)
    for number in range(count):
        if not regions:
            yield gates.reject_plan(CATEGORY, photograph, "no_region_of_one_colour")
            continue
        region = regions[int(rng.integers(len(regions)))]
        hue, spread = region_hue(lab, region)
        if spread > gates.MOST_HUE_SPREAD:
            yield gates.reject_plan(
                CATEGORY, photograph, "colour_not_coherent", region_name=region.name, spread=spread
            )
            continue
        lightness = float(np.average(lab[..., 0], weights=region.weights))
        names = [
            name
            for name, colour in HUES.items()
            if name != region.colour
            and abs(turn(colour.hue, hue)) >= LEAST_TURN
            and colour.darkest <= lightness <= colour.lightest
        ]
        if not names:
            yield gates.reject_plan(CATEGORY, photograph, "no_other_colour_fits")
            continue
        name = names[int(rng.integers(len(names)))]
        result = rotate_hue(photograph.pixels, lab, region, turn(HUES[name].hue, hue))
        found, _ = region_hue(to_lab(result), region)
        old = HUES[region.colour].words if region.colour in HUES else OTHER_COLOURS[region.colour]
        slots = {"the": region.the, "old": old, "new": HUES[name].words}
        source, target = photograph.pixels, result
        if number % 2:
            source, target = target, source
            slots = {"the": region.the, "old": HUES[name].words, "new": old}
        facts: dict[str, str | float] = {
            "action": "recolour",
            "photographs": photograph.original,
            "subject": region.name,
            "hue_spread": round(spread, 1),
        }
        edit = Edit(CATEGORY, source, target, region.weights > 0, facts, slots)
        if abs(turn(found, HUES[name].hue)) > MOST_OFF:
            yield gates.reject(edit, "colour_out_of_range")
        else:
            yield gates.check(edit)


def rotate_hue(pixels: np.ndarray, lab: np.ndarray, region: Region, degrees: float) -> np.ndarray:
    """(H, W, 3) uint8: the region's hues turned by an angle; its soft edge is mixed."""
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = np.concatenate([lab[..., :1], lab[..., 1:] @ matrix.T.astype(np.float32)], -1)
    weights = region.weights[..., None]
    mixed = pixels * (1 - weights) + from_lab(turned) * weights
    return np.where(weights > 0, np.round(mixed).astype(np.uint8), pixels)


def region_hue(lab: np.ndarray, region: Region) -> tuple[float, float]:
    """Circular mean and standard deviation of a region's hue in degrees, weighted by chroma."""
    hue, chroma = hue_and_chroma(lab)
    weights = chroma * np.where(region.weights >= CHOSEN, region.weights, 0)
    total = weights.sum()
    if total <= 0:
        return 0.0, 180.0
    mean = (np.exp(1j * np.radians(hue)) * weights).sum() / total
    spread = np.sqrt(-2 * np.log(max(abs(mean), 1e-9)))
    return float(np.degrees(np.angle(mean))), float(np.degrees(spread))


def turn(to: float, start: float) -> float:
    """The shorter way round from one hue to another, in degrees."""
    return (to - start + 180) % 360 - 180
