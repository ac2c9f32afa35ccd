"""What makers of edits take and give: a photograph with what is known of it, an edit, a rejection.

H height, W width.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from step1x_jax.curation.categories import Category

Words = Mapping[str, str]  # one phrase by language: "en" and "cn"


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A source, its target, and what an instruction needs to name.

    Attributes:
      category: of GEdit-Bench.
      action: what is done, the key of the instruction's templates ("add", "fog", ...).
      source: (H, W, 3) uint8.
      target: (H, W, 3) uint8.
      mask: (H, W) bool, the region that was edited; outside of it both pictures are equal.
      facts: what was measured or chosen; "photographs" names all that the pixels are from,
        separated by spaces.
      slots: phrases for the template's places, by name and language.
    """

    category: Category
    action: str
    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    facts: dict[str, str | float]
    slots: dict[str, dict[str, str]]


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
