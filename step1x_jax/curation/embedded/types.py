"""What makers of edits take and give: a photograph with what is known of it, an edit, a rejection.

H height, W width.
"""

import dataclasses

import numpy as np

from step1x_jax.curation.categories import Category

Words = dict[str, str]  # one phrase by language: "en" and "cn"


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A source, its target, and what an instruction needs to name.

    Attributes:
      category: of GEdit-Bench.
      source: (H, W, 3) uint8.
      target: (H, W, 3) uint8.
      mask: (H, W) bool, the region that was edited; outside of it both pictures are equal.
      facts: what was measured or chosen. "action" is what was done, the key of the templates
        ("add", "fog", ...); "photographs" names all that the pixels are from, separated by
        spaces: their licences go with the edit.
      slots: phrases for the template's places, by their name.
    """

    category: Category
    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    facts: dict[str, str | float]
    slots: dict[str, Words]


@dataclasses.dataclass(frozen=True)
class Rejection:
    """An edit that was not made, or did not pass a gate.

    Attributes:
      category: the one it would have had.
      reason: a short fixed phrase that can be counted ("no face was found").
      facts: what was measured.
    """

    category: Category
    reason: str
    facts: dict[str, str | float]
