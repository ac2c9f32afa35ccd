"""Pictures as Qwen2.5-VL takes them: scaled, normalised, cut into patches.

The arithmetic is transformers' (its PIL processor, which needs no torch).
"""

import os
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json

FILE = "preprocessor_config.json"
SIDE = 28  # pixels along one side of a token
# What qwen_vl_utils allows before the processor's own limits.
FEWEST, MOST = 4 * SIDE**2, 16384 * SIDE**2


class Picture(NamedTuple):
    """One picture in patches, P = h w of them with C numbers each."""

    patches: np.ndarray  # (P, C) float32, in the processor's order
    grid: np.ndarray  # (3,) int64: one frame, rows h, columns w

    @property
    def tokens(self) -> int:
        """How many tokens it becomes: 2 x 2 patches make one."""
        return int(self.grid.prod()) // 4


class Processor:
    """Makes Pictures; may be shared by threads."""

    def __init__(self, folder: epath.PathLike, min_pixels: int, max_pixels: int):
        """Reads the settings of a model's folder.

        Args:
          folder: holds preprocessor_config.json.
          min_pixels: pictures are scaled to at least
          max_pixels: and at most so many pixels.

        Raises:
          UserError: the file is missing or not readable.
        """
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not missed here
        from transformers import Qwen2VLImageProcessorPil

        path = epath.Path(folder) / FILE
        settings = read_json(path)
        limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        for name in ("min_pixels", "max_pixels"):
            settings.pop(name, None)
        try:
            self._processor: Any = Qwen2VLImageProcessorPil(**(settings | {"size": limits}))
        except (ValueError, TypeError) as e:
            raise UserError(f"{path} is not readable ({e}); fetch it again.") from e

    def __call__(self, image: Image.Image) -> Picture:
        """The patches of one picture.

        As the release does it: the sides are rounded to multiples of 28 (qwen_vl_utils), then the
        processor scales once more, into its limits.

        Raises:
          UserError: the picture is over 200 times as long as it is wide.
        """
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        try:
            height, width = smart_resize(
                image.height, image.width, factor=SIDE, min_pixels=FEWEST, max_pixels=MOST
            )
        except ValueError as e:
            raise UserError(
                f"a picture of {image.width}x{image.height} pixels cannot be read by Qwen2.5-VL"
                f" ({e}); crop it."
            ) from e
        resized = image.convert("RGB").resize((width, height))
        result = self._processor([resized], return_tensors="np")
        return Picture(result["pixel_values"], result["image_grid_thw"][0])
