"""Pictures as Qwen2.5-VL takes them: scaled, normalised, cut into patches.

The numbers are those of transformers' PIL processor to the bit; importing that takes seconds, as it
brings torch and much else.
"""

import math
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
LONGEST_RATIO = 200

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
KINDS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")  # and with Fast, Pil behind


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

    def __init__(
        self, folder: epath.PathLike, min_pixels: int, max_pixels: int, vision: VisionConfig
    ):
        """Reads the settings of a model's folder.

        Args:
          folder: holds preprocessor_config.json, or processor_config.json as newer versions of
            transformers save it.
          min_pixels: pictures are scaled to at least
          max_pixels: and at most so many pixels.
          vision: sizes of the model's patches, which those in the file have to be.

        Raises:
          UserError: the file is missing, not readable, or of another model.
        """
        sizes: dict[str, Any] = {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        }
        _check_settings(*read_settings(folder), TRAINED_WITH | sizes)
        self._side = vision.patch_size * vision.spatial_merge_size
        self._limits = min_pixels, max_pixels
        self._vision = vision

    def __call__(self, image: Image.Image) -> Picture:
        """The patches of one picture.

        As the release does it: the sides are rounded to multiples of 28 (qwen_vl_utils), then the
        processor scales once more, into its limits.

        Raises:
          UserError: the picture is over 200 times as long as it is wide.
        """
        resized = scaled(image.convert("RGB"), SIDE, FEWEST, MOST)
        return cut(scaled(resized, self._side, *self._limits), self._vision)


def cut(image: Image.Image, vision: VisionConfig) -> Picture:
    """An RGB picture in patches, whose sides are multiples of those of a token."""
    size, merge = vision.patch_size, vision.spatial_merge_size
    rows, columns = image.height // size, image.width // size
    # patches that become one token stand together, merge x merge of them
    x = _normalised(image).reshape(rows // merge, merge, size, columns // merge, merge, size, 3)
    x = x.transpose(0, 3, 1, 4, 6, 2, 5)  # within a patch: channels, its rows, its columns
    x = np.stack([x] * vision.temporal_patch_size, axis=5)  # a film that stands still
    return Picture(x.reshape(rows * columns, -1), np.array([1, rows, columns], np.int64))


def scaled(image: Image.Image, side: int, fewest: int, most: int) -> Image.Image:
    """A picture at the size that `fitting_size` gives for it.

    Raises:
      UserError: one of its sides is over 200 times the other.
    """
    try:
        height, width = fitting_size(image.height, image.width, side, fewest, most)
    except ValueError as e:
        raise UserError(
            f"a picture of {image.width}x{image.height} pixels cannot be read by Qwen2.5-VL"
            f" ({e}); crop it."
        ) from e
    return image.resize((width, height), Image.Resampling.BICUBIC)


def fitting_size(height: int, width: int, side: int, fewest: int, most: int) -> tuple[int, int]:
    """The published rule (smart_resize of qwen_vl_utils and transformers).

    Args:
      height: of the picture, in pixels.
      width: of the picture, in pixels.
      side: what both are made multiples of, the nearest that
      fewest: have at least
      most: and at most so many pixels in about the same shape.

    Returns:
      (height, width) in pixels.

    Raises:
      ValueError: one is over 200 times the other.
    """
    if max(height, width) > LONGEST_RATIO * min(height, width):
        raise ValueError(f"one side is over {LONGEST_RATIO} times the other")
    rounded = [round(x / side) * side for x in (height, width)]
    if math.prod(rounded) > most:
        shrink = math.sqrt(height * width / most)
        rounded = [max(side, math.floor(x / shrink / side) * side) for x in (height, width)]
    elif math.prod(rounded) < fewest:
        grow = math.sqrt(fewest / (height * width))
        rounded = [math.ceil(x * grow / side) * side for x in (height, width)]
    return rounded[0], rounded[1]


def _normalised(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float32, with the mean and the deviation that the model was trained with."""
    # in float64 first, and the rest in float32, as the published processor rounds
    scaled = (np.asarray(image, np.float64) * TRAINED_WITH["rescale_factor"]).astype(np.float32)
    mean, std = (np.array(TRAINED_WITH[f"image_{name}"], np.float32) for name in ("mean", "std"))
    return (scaled - mean) / std


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
    """Raises UserError, naming it, for a setting that is not the model's. Absent ones are."""
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
