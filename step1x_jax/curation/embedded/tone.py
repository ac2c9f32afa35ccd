"""The picture's tone changes: weather, season, light, development; and back to the photograph."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates, weather
from step1x_jax.curation.embedded.colours import hue_and_chroma, to_lab
from step1x_jax.curation.embedded.photographs import Photograph
from step1x_jax.curation.embedded.types import Edit, Rejection

CATEGORY = Category.TONE_TRANSFER
LEAST_GREEN = 0.1  # share of clearly green leaves in a picture whose season can change
LEAST_LIGHT, MOST_LIGHT = 0.25, 0.75  # mean lightness (of 1) that can be spoilt and put right
DENSITY = (0.0012, 0.0035)  # of drops and flakes, in pixels that begin one
VISIBILITY = (0.5, 1.1)  # of fog, in medians of the depth


class Tone(NamedTuple):
    """A change of tone.

    Attributes:
      apply: pixels and random numbers to pixels.
      needs: "", "outdoors", "green" (leaves outdoors) or "light" (neither dark nor bright).
      direction: "there", "back" (the photograph is the target) or "both".
    """

    apply: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    needs: str
    direction: str


def _plain(
    apply: Callable[[np.ndarray], np.ndarray],
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    return lambda pixels, rng: apply(pixels)


# Fog is beside these: it needs the depth. Actions in templates: NAME, and "un_NAME" for the way
# back. What a grey or a brown picture's colours were nobody can know: no way back.
TONES = {
    "rain": Tone(lambda p, rng: weather.rain(p, rng, rng.uniform(*DENSITY)), "outdoors", "both"),
    "snow": Tone(lambda p, rng: weather.snow(p, rng, rng.uniform(*DENSITY)), "outdoors", "both"),
    "autumn": Tone(_plain(weather.autumn), "green", "there"),
    "winter": Tone(_plain(weather.winter), "green", "there"),
    "golden_hour": Tone(_plain(weather.golden_hour), "light", "there"),
    "night": Tone(_plain(weather.night), "light", "there"),
    "cool": Tone(_plain(weather.cool), "", "both"),
    "sepia": Tone(_plain(weather.sepia), "", "there"),
    "black_and_white": Tone(_plain(weather.black_and_white), "", "there"),
    "cinema": Tone(_plain(weather.cinema), "", "there"),
    "underexposed": Tone(_plain(weather.underexposed), "light", "back"),
    "overexposed": Tone(_plain(weather.overexposed), "light", "back"),
    "flat": Tone(_plain(weather.flat), "light", "back"),
}
FOG = "fog"


def make_edits(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits of tone, in a drawn order; `others` are not used."""
    names = [name for name, tone in TONES.items() if _can(photograph, tone.needs)]
    if photograph.disparity is not None:
        names.append(FOG)
    order = [names[i] for i in rng.permutation(len(names))]
    for number in range(count):
        if not order:
            yield gates.reject_plan(CATEGORY, photograph, "no_tone_fits")
            continue
        name = order[number % len(order)]
        if name == FOG:
            assert photograph.disparity is not None
            visibility = rng.uniform(*VISIBILITY)
            result = weather.fog(photograph.pixels, photograph.disparity, visibility)
            direction = "both"
        else:
            result = TONES[name].apply(photograph.pixels, rng)
            direction = TONES[name].direction
        back = direction == "back" or (direction == "both" and bool(rng.random() < 0.5))
        source, target = photograph.pixels, result
        if back:
            source, target = target, source
        facts: dict[str, str | float] = {
            "action": f"un_{name}" if back else name,
            "photographs": photograph.original,
        }
        mask = np.ones(source.shape[:2], bool)
        yield gates.check(Edit(CATEGORY, source, target, mask, facts, {}))


def _can(photograph: Photograph, needs: str) -> bool:
    """Whether a photograph shows what a tone changes."""
    if needs == "outdoors":
        return photograph.outdoors
    if photograph.grey:  # it has no colours to grade
        return False
    lab = to_lab(photograph.pixels)
    if needs == "light":
        return bool(LEAST_LIGHT <= lab[..., 0].mean() / 100 <= MOST_LIGHT)
    if needs == "green":
        hue, chroma = hue_and_chroma(lab)
        leaves = (hue > 90) & (hue < 165) & (chroma > 12) & (lab[..., 0] > 12)
        return photograph.outdoors and float(leaves.mean()) >= LEAST_GREEN
    return True
