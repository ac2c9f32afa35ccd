"""Pictures as Qwen2.5-VL takes them: scaled, normalised, cut into patches.

The arithmetic is transformers' (its PIL processor, which needs no torch).
"""

import math
import os
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.json_files import read_json, shown
from step1x_jax.models.mllm.config import VisionConfig

FILE = "preprocessor_config.json"
NEWER_FILE = "processor_config.json"  # of transformers 5, which has the other file's in a section
SECTION = "image_processor"
SIDE = 28  # pixels along one side of a token
# What qwen_vl_utils allows before the processor's own limits.
FEWEST, MOST = 4 * SIDE**2, 16384 * SIDE**2

# What every Qwen2.5-VL was trained with: another value in a file is damage, or of another model.
TRAINED_WITH: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
    "do_center_crop": False,
    "do_pad": False,
    "resample": 3,  # Pillow's bicubic
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
KINDS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")  # and with Fast, Pil appended


class PicturePatches(NamedTuple):
    """One picture in patches, P = h w of them with C numbers each."""

    patches: np.ndarray  # (P, C) float32, in the processor's order
    grid: np.ndarray  # (3,) int64: one frame, rows h, columns w

    @property
    def tokens(self) -> int:
        """How many tokens it becomes: 2 x 2 patches make one."""
        return int(self.grid.prod()) // 4


class Processor:
    """Makes PicturePatches; may be shared by threads."""

    def __init__(
        self, folder: epath.PathLike, min_pixels: int, max_pixels: int, vision: VisionConfig
    ):
        """Read the settings of a model's folder.

        Args:
          folder: holds preprocessor_config.json, or processor_config.json as newer versions of
            transformers save it.
          min_pixels: pictures are scaled to at least
          max_pixels: and at most so many pixels.
          vision: sizes of the model's patches, which those in the file have to be.

        Raises:
          UserError: the file is missing, not readable, or of another model.
        """
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not missed here
        from transformers import Qwen2VLImageProcessorPil

        sizes: dict[str, Any] = {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        }
        _check_settings(*read_settings(folder), TRAINED_WITH | sizes)
        limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        self._processor: Any = Qwen2VLImageProcessorPil(**sizes, size=limits)

    def __call__(self, image: Image.Image) -> PicturePatches:
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
        return PicturePatches(result["pixel_values"], result["image_grid_thw"][0])


def settings_file(folder: epath.PathLike) -> epath.Path | None:
    """The file of a model's folder that says how pictures are read; None if there is none."""
    files = (epath.Path(folder) / name for name in (FILE, NEWER_FILE))
    return next((file for file in files if file.is_file()), None)


def read_settings(folder: epath.PathLike) -> tuple[dict[str, Any], epath.Path]:
    """The picture processor's settings in a model's folder, and the file that has them.

    Raises:
      UserError: it has none, or not such ones.
    """
    path = settings_file(folder)
    if path is None:
        raise UserError(f"{folder} has no {FILE}; give the folder of a Qwen2.5-VL model.")
    values: Any = read_json(path)
    if path.name == NEWER_FILE:
        values = values.get(SECTION)
        if not isinstance(values, dict):
            raise UserError(
                f"{path} says nothing of pictures ({SECTION}), and there is no {FILE}; download the"
                " folder again."
            )
    return values, path


def _check_settings(settings: dict[str, Any], path: epath.Path, needed: dict[str, Any]) -> None:
    """Raise UserError, naming it, for a setting that is not the model's. Absent ones are."""
    kind = settings.get("image_processor_type")
    if kind is not None and not str(kind).startswith(KINDS):
        raise UserError(f"{path} is of a {shown(kind)}; give the folder of a Qwen2.5-VL model.")
    for name, value in needed.items():
        given = settings.get(name)
        if given is not None and not _same(given, value):
            raise UserError(
                f"{path} has {name} {shown(given)}, and this model was trained with {value}: its"
                " pictures would not be what it knows; download the file again."
            )


def _same(given: Any, value: Any) -> bool:
    """Whether a setting says the same, up to the digits that a file may have of a number."""
    if isinstance(value, list):
        return (
            isinstance(given, list) and len(given) == len(value) and all(map(_same, given, value))
        )
    if isinstance(value, float):
        return type(given) in (int, float) and math.isclose(given, value, rel_tol=1e-6)
    return type(given) is type(value) and given == value
