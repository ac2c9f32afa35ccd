"""Limits of scores: a filter of its own, so that another limit asks no model again."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from step1x_jax.curation.engine.rows import Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each


@dataclasses.dataclass
class Limits(Stage):
    """Leaves out rows whose scores are too low, or too high; one that a row lacks does not count.

    Attributes:
      image: least of clip_image; UltraEdit (arXiv 2407.05282) takes 0.75.
      direction: least of clip_direction; UltraEdit takes 0.22.
      aesthetics: least; ImgEdit (arXiv 2505.20275) takes 4.75.
      success: least of verdict_success; Pico-Banana (arXiv 2510.19808) keeps about 0.7 of 1.
      quality: least of verdict_quality.
      nsfw: most; at 0.5 a classifier of two labels turns.
    """

    image: float = 0.75
    direction: float = 0.22
    aesthetics: float = 4.75
    success: float = 7.0
    quality: float = 7.0
    nsfw: float = 0.5

    reads: ClassVar = {
        "clip_image": float,
        "clip_direction": float,
        "aesthetics": float,
        "verdict_success": float,
        "verdict_quality": float,
        "nsfw": float,
    }
    optional: ClassVar = tuple(reads)

    def open(self) -> Operator:
        """See `Stage`."""
        limits = {
            "clip_image": self.image,
            "clip_direction": self.direction,
            "aesthetics": self.aesthetics,
            "verdict_success": self.success,
            "verdict_quality": self.quality,
        }

        def look(row: Row) -> Mapping[str, Any] | Rejected:
            for name, least in limits.items():
                if row[name] is not None and row[name] < least:
                    return Rejected(f"low_{name}", f"{row[name]} < {least}")
            if row["nsfw"] is not None and row["nsfw"] > self.nsfw:
                return Rejected("high_nsfw", f"{row['nsfw']} > {self.nsfw}")
            return {}

        return each(look)
