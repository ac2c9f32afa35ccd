"""ZoeDepth: how far away each pixel is, in metres.

Source: Bhat et al., "ZoeDepth", arXiv 2302.12288. The class is transformers'
ZoeDepthForDepthEstimation, such as Intel/zoedepth-nyu-kitti. What its processor does with the
model's output needs torchvision, and is done here.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from step1x_jax.curation.encoding import encode_png
from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.models import ModelStage
from step1x_jax.curation.operators.pictures import on_pictures

MILLIMETRES = 1000  # of a metre: the unit of what is stored


@dataclasses.dataclass
class Depth(ModelStage):
    """The photograph's depth, as a PNG file of 16 bits: millimetres, 65535 and more as 65535."""

    reads: ClassVar = {"picture": bytes}
    writes: ClassVar = {"depth": bytes}
    batch: ClassVar = 8

    def open(self) -> Operator:
        """See `Stage`."""
        model = self.load_model("ZoeDepthForDepthEstimation")
        processor = self.load("transformers", "ZoeDepthImageProcessorPil")

        def estimate(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, bytes]]:
            import torch

            images = [one for (one,) in pictures]
            inputs = [processor(images=one, return_tensors="pt").pixel_values for one in images]
            made: list[dict[str, bytes]] = [{}] * len(images)
            for shape in {one.shape for one in inputs}:  # what has one shape is seen together
                places = [i for i, one in enumerate(inputs) if one.shape == shape]
                with torch.inference_mode():
                    batch = torch.cat([inputs[i] for i in places]).to(model.device)
                    depths = model(pixel_values=batch).predicted_depth
                    for i, depth in zip(places, depths, strict=True):
                        metres = _restore(depth, images[i].size, processor.do_pad)
                        made[i] = {"depth": encode_png(as_millimetres(metres))}
            return made

        return on_pictures(("picture",), estimate)


def _restore(depth: Any, size: tuple[int, int], padded: bool) -> np.ndarray:
    """(H, W) of the picture, without what the processor put around it: 3 sqrt(side / 2) pixels.

    Args:
      depth: (h, w) of the model.
      size: of the picture: width, height.
      padded: whether something was put around it.
    """
    import torch

    across, down = (int(math.sqrt(side / 2) * 3) if padded else 0 for side in size)
    width, height = size
    large = torch.nn.functional.interpolate(
        depth[None, None], (height + 2 * down, width + 2 * across), mode="bicubic"
    )[0, 0]
    return large[down : down + height, across : across + width].cpu().numpy()


def as_millimetres(metres: np.ndarray) -> np.ndarray:
    """(H, W) uint16 of metres."""
    return np.clip(np.rint(metres * MILLIMETRES), 0, np.iinfo(np.uint16).max).astype(np.uint16)
