"""Which function makes the edits of a category."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import (
    background,
    color,
    human,
    material,
    style,
    subject,
    text,
    tone,
)
from step1x_jax.curation.embedded.photographs import Photograph
from step1x_jax.curation.embedded.types import Edit, Rejection

# Of (photograph, others, rng, count); a pure function of them. `others` are photographs from which
# subjects, backdrops and textures may come, as a rule all of `load_originals().values()`.
MakeEdits = Callable[
    [Photograph, Sequence[Photograph], np.random.Generator, int], Iterator[Edit | Rejection]
]

METHODS: Mapping[Category, MakeEdits] = {
    Category.BACKGROUND_CHANGE: background.make_edits,
    Category.COLOR_ALTER: color.make_edits,
    Category.MATERIAL_ALTER: material.make_edits,
    Category.MOTION_CHANGE: subject.make_motions,
    Category.PS_HUMAN: human.make_edits,
    Category.STYLE_CHANGE: style.make_edits,
    Category.SUBJECT_ADD: subject.make_additions,
    Category.SUBJECT_REMOVE: subject.make_removals,
    Category.SUBJECT_REPLACE: subject.make_replacements,
    Category.TEXT_CHANGE: text.make_edits,
    Category.TONE_TRANSFER: tone.make_edits,
}
