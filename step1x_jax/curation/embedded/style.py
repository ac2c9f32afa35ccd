"""The picture's style changes: drawn or painted, and back to the photograph."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates, painting
from step1x_jax.curation.embedded.photographs import Photograph
from step1x_jax.curation.embedded.types import Edit, Rejection, Words

CATEGORY = Category.STYLE_CHANGE


class Style(NamedTuple):
    """A style.

    Attributes:
      apply: (H, W, 3) uint8 to the same.
      words: what the picture becomes.
      coloured: whether it shows the photograph's colours; only then is there a way back.
    """

    apply: Callable[[np.ndarray], np.ndarray]
    words: Words
    coloured: bool


STYLES = {
    "pixel_art": Style(painting.pixel_art, {"en": "pixel art", "cn": "像素画"}, True),
    "watercolour": Style(
        painting.watercolour, {"en": "a watercolor painting", "cn": "水彩画"}, True
    ),
    "oil": Style(painting.oil_painting, {"en": "an oil painting", "cn": "油画"}, True),
    "sketch": Style(painting.pencil_sketch, {"en": "a pencil sketch", "cn": "铅笔素描"}, False),
    "ink_wash": Style(
        painting.ink_wash, {"en": "a Chinese ink wash painting", "cn": "水墨画"}, False
    ),
    "comic": Style(painting.comic, {"en": "a printed comic", "cn": "印刷漫画"}, True),
}


def make_edits(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits of style, each style in its turn; `others` are not used."""
    names = [list(STYLES)[i] for i in rng.permutation(len(STYLES))]
    for number in range(count):
        name = names[number % len(names)]
        style = STYLES[name]
        if photograph.grey and style.coloured:
            yield gates.reject_plan(CATEGORY, photograph, "photograph_without_colour", style=name)
            continue
        source, target = photograph.pixels, style.apply(photograph.pixels)
        back = style.coloured and bool(rng.random() < 0.5)
        if back:
            source, target = target, source
        facts: dict[str, str | float] = {
            "action": "to_photograph" if back else "to_style",
            "photographs": photograph.original,
            "style": name,
        }
        mask = np.ones(source.shape[:2], bool)
        yield gates.check(Edit(CATEGORY, source, target, mask, facts, {"style": style.words}))
