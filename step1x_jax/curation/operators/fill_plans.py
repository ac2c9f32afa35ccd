"""What is to be painted where: objects that were found become edits for `FluxFill`."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageFilter

from step1x_jax.conditioning.images import decode_image
from step1x_jax.curation.categories import Category
from step1x_jax.curation.encoding import encode_png
from step1x_jax.curation.engine.rows import ID, Context, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each
from step1x_jax.errors import require

BACKGROUND = "empty background, nothing there"  # what is asked for where something was
MARGIN = 0.01  # of the shorter side, that masks grow by: their edges still show the object


@dataclasses.dataclass
class PlanFills(Stage):
    """Each object that is neither too small nor too large is removed, or replaced.

    Attributes:
      things: what may take an object's place, one of them drawn for each; none: nothing does.
      least_area: of the picture, that a mask has.
      most_area: likewise.
      least_score: of mask_scores.
    """

    things: tuple[str, ...] = ()
    least_area: float = 0.02
    most_area: float = 0.4
    least_score: float = 0.8

    reads: ClassVar = {"picture": bytes, "boxes": dict, "masks": list[bytes], "mask_scores": dict}
    writes: ClassVar = {
        "category": str,
        "source": bytes,
        "mask": bytes,
        "fill_prompt": str,
        "facts": dict,
    }
    many: ClassVar = True

    def validate(self) -> None:
        """See `Stage`."""
        fine = 0 <= self.least_area <= self.most_area <= 1
        areas = (self.least_area, self.most_area)
        require(fine, "least_area, most_area", areas, "give shares of a picture in this order")

    def open(self) -> Operator:
        """See `Stage`."""
        return each(self._plan)

    def _plan(self, row: Row, context: Context) -> Iterator[dict[str, Any]]:
        rng = context.rng(row)
        labels, scores = row["boxes"]["labels"], row["mask_scores"]["scores"]
        for label, score, data in zip(labels, scores, row["masks"], strict=True):
            mask = decode_image(data, f"a mask of {row[ID]}").convert("L")
            area = float(np.mean(np.asarray(mask) > 127))
            if score < self.least_score or not self.least_area <= area <= self.most_area:
                continue
            common = {"source": row["picture"], "mask": encode_png(np.asarray(grow(mask)))}
            facts = {"object": label, "area": round(area, 4), "score": score}
            yield {
                **common,
                "category": str(Category.SUBJECT_REMOVE),
                "fill_prompt": BACKGROUND,
                "facts": facts,
            }
            if others := [thing for thing in self.things if thing != label]:
                thing = str(rng.choice(others))
                yield {
                    **common,
                    "category": str(Category.SUBJECT_REPLACE),
                    "fill_prompt": thing,
                    "facts": facts | {"thing": thing},
                }


def grow(mask: Image.Image) -> Image.Image:
    """A mask with MARGIN more on each side."""
    return mask.filter(ImageFilter.MaxFilter(2 * max(round(MARGIN * min(mask.size)), 1) + 1))
