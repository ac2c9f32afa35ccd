"""Limits of scores: a filter of its own, so that another limit asks no model again."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from step1x_jax.curation.engine.rows import Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each


@dataclasses.dataclass
class Limits(Stage):
    """Leaves out rows whose scores are too low; a score that a row does not have is not asked for.

    Attributes:
      image: of clip_image; UltraEdit (arXiv 2407.05282) takes 0.75.
      direction: of clip_direction; UltraEdit takes 0.22.
      aesthetics: ImgEdit (arXiv 2505.20275) takes 4.75.
    """

    image: float = 0.75
    direction: float = 0.22
    aesthetics: float = 4.75

    reads: ClassVar = {"clip_image": float, "clip_direction": float, "aesthetics": float}
    optional: ClassVar = tuple(reads)

    def open(self) -> Operator:
        """See `Stage`."""
        limits = dict(zip(self.reads, (self.image, self.direction, self.aesthetics), strict=True))

        def look(row: Row) -> Mapping[str, Any] | Rejected:
            for name, least in limits.items():
                if row[name] is not None and row[name] < least:
                    return Rejected(f"low_{name}", f"{row[name]} < {least}")
            return {}

        return each(look)
