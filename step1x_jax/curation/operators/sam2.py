"""SAM 2: the mask of what is in a box.

Source: Ravi et al., "SAM 2: Segment Anything in Images and Videos", arXiv 2408.00714. The class is
transformers' Sam2Model, such as facebook/sam2.1-hiera-large. Its picture processor needs
torchvision; what it does is done here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from step1x_jax.curation.encoding import encode_mask
from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.models import DECIMALS, ModelStage
from step1x_jax.curation.operators.pictures import on_pictures

# ImageNet's, which all its checkpoints were trained with.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass
class Masks(ModelStage):
    """A mask for each box of `boxes`, as `Detect` writes them, in their order.

    masks are PNG files of the picture's size, white where the object is. mask_scores is
    {"scores": [...]}: the overlap (IoU) with the true mask that the model expects of each.
    """

    reads: ClassVar = {"picture": bytes, "boxes": dict}
    writes: ClassVar = {"masks": list[bytes], "mask_scores": dict}
    batch: ClassVar = 8

    def open(self) -> Operator:
        """See `Stage`."""
        model = self.load_model("Sam2Model")
        side = model.config.prompt_encoder_config.image_size

        def segment(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, Any]]:
            import torch

            pixels = np.stack([_prepare(one, side) for (one,) in pictures])
            with torch.inference_mode():
                levels = model.get_image_embeddings(torch.from_numpy(pixels).to(model.device))
                return [
                    _masks(model, [level[i : i + 1] for level in levels], row, one.size, side)
                    for i, (row, (one,)) in enumerate(zip(rows, pictures, strict=True))
                ]

        return on_pictures(("picture",), segment)


def _prepare(picture: Image.Image, side: int) -> np.ndarray:
    """(3, side, side) float32; the picture's shape is not kept."""
    small = picture.resize((side, side), Image.Resampling.BILINEAR)
    pixels = (np.asarray(small, np.float32) / 255 - MEAN) / DEVIATION
    return pixels.transpose(2, 0, 1)


def _masks(model: Any, levels: Any, row: Row, size: tuple[int, int], side: int) -> dict[str, Any]:
    """The columns of a row.

    Args:
      model: SAM 2.
      levels: embeddings of the picture, each (1, C, h, w).
      row: with the boxes.
      size: of the picture: width, height.
      side: of what the model saw.
    """
    import torch

    boxes = np.array(row["boxes"]["boxes"], np.float32).reshape(-1, 4)
    if not len(boxes):
        return {"masks": [], "mask_scores": {"scores": []}}
    boxes *= side / np.array([*size, *size], np.float32)
    out = model(
        image_embeddings=levels,
        input_boxes=torch.from_numpy(boxes)[None].to(model.device),
        multimask_output=False,
    )
    # (1, boxes, 1, h, w): one mask of each box
    large = torch.nn.functional.interpolate(out.pred_masks[0], size[::-1], mode="bilinear")
    masks = (large[:, 0] > 0).cpu().numpy()
    scores = [round(float(score), DECIMALS) for score in out.iou_scores[0, :, 0]]
    return {"masks": [encode_mask(mask) for mask in masks], "mask_scores": {"scores": scores}}
