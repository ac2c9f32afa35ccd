"""Florence-2: what is on a picture and where, and descriptions of pictures.

Source: Xiao et al., "Florence-2", arXiv 2311.06242. The class is transformers'
Florence2ForConditionalGeneration, such as florence-community/Florence-2-large-ft; Microsoft's own
repositories hold another form, with code of theirs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.models import ModelStage
from step1x_jax.curation.operators.pictures import on_pictures
from step1x_jax.curation.stages.filters import PAIR

DETECT, DESCRIBE = "<OD>", "<DETAILED_CAPTION>"  # the tasks' names in its processor
BEAMS = 3  # as in its authors' examples
MOST_TOKENS = 1024  # of an answer: as many as its decoder has places for


class Florence2:
    """The model with its processor."""

    def __init__(self, stage: ModelStage):
        """Load it.

        Args:
          stage: that names the model.

        Raises:
          UserError: see `ModelStage.load_model`.
        """
        self._model = stage.load_model("Florence2ForConditionalGeneration")
        self._processor = stage.load("transformers", "Florence2Processor")
        places = self._model.config.text_config.max_position_embeddings
        self._most = min(MOST_TOKENS, places - 1)

    def answer(self, task: str, pictures: Sequence[Image.Image]) -> list[Any]:
        """What it says of each picture, as its processor reads it.

        Args:
          task: one of its processor's that need no other input.
          pictures: RGB.
        """
        import torch

        inputs = self._processor(
            text=[task] * len(pictures), images=list(pictures), return_tensors="pt"
        ).to(self._model.device)
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs, max_new_tokens=self._most, num_beams=BEAMS, do_sample=False
            )
        texts = self._processor.batch_decode(tokens, skip_special_tokens=False)
        return [
            self._processor.post_process_generation(text, task=task, image_size=one.size)[task]
            for text, one in zip(texts, pictures, strict=True)
        ]


@dataclasses.dataclass
class Detect(ModelStage):
    """Objects of the photograph: boxes with labels, and the labels as tags, each once.

    boxes is {"boxes": [[left, top, right, bottom], ...], "labels": [...]}, in pixels of the
    picture as it is shown.
    """

    reads: ClassVar = {"picture": bytes}
    writes: ClassVar = {"boxes": dict, "tags": list[str]}
    batch: ClassVar = 8

    def open(self) -> Operator:
        """See `Stage`."""
        model = Florence2(self)

        def detect(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, Any]]:
            return [_objects(one) for one in model.answer(DETECT, [one for (one,) in pictures])]

        return on_pictures(("picture",), detect)


def _objects(answer: Any) -> dict[str, Any]:
    """The columns; boxes without area or label are none."""
    found = [
        ([int(x) for x in box], label.strip())
        for box, label in zip(answer["bboxes"], answer["labels"], strict=True)
        if box[0] < box[2] and box[1] < box[3] and label.strip()
    ]
    labels = [label for _, label in found]
    return {
        "boxes": {"boxes": [box for box, _ in found], "labels": labels},
        "tags": list(dict.fromkeys(labels)),
    }


@dataclasses.dataclass
class Describe(ModelStage):
    """A sentence or two on source and target, such as `ClipScores` compares."""

    reads: ClassVar = PAIR
    writes: ClassVar = {"source_caption": str, "target_caption": str}
    batch: ClassVar = 8

    def open(self) -> Operator:
        """See `Stage`."""
        model = Florence2(self)

        def describe(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, str]]:
            before, after = (model.answer(DESCRIBE, one) for one in zip(*pictures, strict=True))
            return [
                {"source_caption": _line(source), "target_caption": _line(target)}
                for source, target in zip(before, after, strict=True)
            ]

        return on_pictures(tuple(PAIR), describe)


def _line(text: str) -> str:
    return " ".join(text.replace("<pad>", " ").split())
