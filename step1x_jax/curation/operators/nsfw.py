"""How likely a picture is one that is not for everybody: nudity, as a classifier sees it.

The class is transformers' ViTForImageClassification, such as Falconsai/nsfw_image_detection, whose
labels are normal and nsfw.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.models import DECIMALS, ModelStage
from step1x_jax.curation.operators.pictures import on_pictures
from step1x_jax.errors import UserError


@dataclasses.dataclass
class Nsfw(ModelStage):
    """The probability of a label, 0 to 1, of the photograph; `Limits` leaves out rows for it.

    Attributes:
      label: of the model, for pictures that are unsafe.
    """

    label: str = "nsfw"

    reads: ClassVar = {"picture": bytes}
    writes: ClassVar = {"nsfw": float}
    batch: ClassVar = 16

    def open(self) -> Operator:
        """See `Stage`."""
        model = self.load_model("ViTForImageClassification")
        processor = self.load("transformers", "ViTImageProcessorPil")
        labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        if labels.count(self.label) != 1:
            raise UserError(
                f"{self.model} has the labels {', '.join(labels)}, and not {self.label!r}; give the"
                " stage's label: its name of unsafe pictures."
            )
        place = labels.index(self.label)

        def classify(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, Any]]:
            import torch

            inputs = processor(images=[one for (one,) in pictures], return_tensors="pt")
            with torch.inference_mode():
                logits = model(**inputs.to(model.device)).logits  # (N, labels)
            shares = logits.float().softmax(-1)[:, place].tolist()
            return [{"nsfw": round(share, DECIMALS)} for share in shares]

        return on_pictures(tuple(self.reads), classify)


@dataclasses.dataclass
class TargetNsfw(Nsfw):
    """The same of the target, in place of the photograph's."""

    reads: ClassVar = {"target": bytes}
