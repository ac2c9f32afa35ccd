"""PP-OCRv5: where text is on a picture, and what it says.

Source: Cui et al., "PaddleOCR 3.0 Technical Report", arXiv 2507.05595. The classes are
transformers' PPOCRV5ServerDetForObjectDetection and PPOCRV5ServerRecForTextRecognition, such as
PaddlePaddle/PP-OCRv5_server_det_safetensors and ..._rec_safetensors. Their picture processors need
torchvision; what they do is done here, from the same settings. Each line is read by itself: read
together, lines would be stretched to the longest of them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator
from step1x_jax.curation.operators.models import DECIMALS, ModelStage
from step1x_jax.curation.operators.pictures import on_pictures
from step1x_jax.errors import UserError

PROBABLE = 0.3  # of a pixel, that it is of text; this and the next three as PaddleOCR has them
LEAST_SCORE = 0.6  # mean over a box
UNCLIP = 1.5  # how far boxes grow: the model marks the inner part of a line
LEAST_SIDE = 3  # of a box, in pixels of the model
STRIDE = 32  # sides that the detector sees are multiples of it
UPRIGHT = 1.5  # height over width from which on a line is taken to run downwards


@dataclasses.dataclass
class TextBoxes(ModelStage):
    """Lines of text on the photograph.

    text_boxes is {"quads": [[[x, y] * 4], ...], "scores": [...]}: corners from the top left on,
    clockwise, in pixels of the picture as it is shown.
    """

    reads: ClassVar = {"picture": bytes}
    writes: ClassVar = {"text_boxes": dict}
    batch: ClassVar = 8

    def open(self) -> Operator:
        """See `Stage`."""
        from step1x_jax.curation.embedded.opencv import cv2

        model = self.load_model("PPOCRV5ServerDetForObjectDetection")
        settings = self.load("transformers", "ImageProcessingMixin")

        def detect(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, Any]]:
            import torch

            made = []
            for (picture,) in pictures:  # of as many sizes
                pixels = torch.from_numpy(_seen_by_detector(picture, settings))[None]
                with torch.inference_mode():
                    found = model(pixel_values=pixels.to(model.device)).last_hidden_state[0, 0]
                made.append({"text_boxes": find_boxes(cv2, found.cpu().numpy(), picture.size)})
            return made

        return on_pictures(("picture",), detect)


def _seen_by_detector(picture: Image.Image, settings: Any) -> np.ndarray:
    """(3, h, w) float32, blue first, in about the size that the processor's settings say."""
    kind, limit = settings.limit_type, settings.limit_side_len
    longest, shortest = max(picture.size), min(picture.size)
    scale = {
        "max": min(limit / longest, 1.0),
        "min": max(limit / shortest, 1.0),
        "resize_long": limit / longest,
    }[kind]
    scale = min(scale, settings.max_side_limit / longest)
    width, height = (
        max(round(int(side * scale) / STRIDE) * STRIDE, STRIDE) for side in picture.size
    )
    small = picture.resize((width, height), Image.Resampling.BILINEAR)
    mean, deviation = np.float32(settings.image_mean), np.float32(settings.image_std)
    pixels = (np.asarray(small, np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1))


def find_boxes(cv2: Any, found: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """Boxes around what is probably text, from top to bottom.

    Args:
      cv2: OpenCV.
      found: (h, w) float32, the probability of each pixel.
      size: of the picture: width, height.

    Returns:
      As of `TextBoxes`.
    """
    scale = np.array(size, np.float64) / found.shape[::-1]
    bright = (found > PROBABLE).astype(np.uint8)
    boxes = []
    for contour in cv2.findContours(bright, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]:
        centre, sides, angle = cv2.minAreaRect(contour)
        if min(sides) < LEAST_SIDE:
            continue
        inside = np.zeros(found.shape, np.uint8)
        corners = cv2.boxPoints((centre, sides, angle))
        cv2.fillPoly(inside, [corners.astype(np.int32)], 1)
        score = float(cv2.mean(found, inside)[0])
        if score < LEAST_SCORE:
            continue
        grown = UNCLIP * sides[0] * sides[1] / (2 * sum(sides))  # area by circumference
        sides = tuple(side + 2 * grown for side in sides)
        quad = np.clip(cv2.boxPoints((centre, sides, angle)) * scale, 0, size)
        boxes.append((_clockwise(quad), round(score, DECIMALS)))
    boxes.sort(key=lambda box: (box[0][0][1], box[0][0][0]))
    return {"quads": [quad for quad, _ in boxes], "scores": [score for _, score in boxes]}


def _clockwise(quad: np.ndarray) -> list[list[int]]:
    """Four corners (4, 2) as whole pixels, from the one nearest to the top left on."""
    middle = quad.mean(axis=0)
    ordered = sorted(quad, key=lambda corner: math.atan2(*(corner - middle)[::-1]))
    first = min(range(4), key=lambda i: float(ordered[i].sum()))
    return [[round(float(x)) for x in corner] for corner in ordered[first:] + ordered[:first]]


@dataclasses.dataclass
class TextLines(ModelStage):
    """What the lines of `text_boxes` say: texts is {"texts": [...], "scores": [...]}.

    A score is the mean probability of a line's characters; 0 for a line without any.
    """

    reads: ClassVar = {"picture": bytes, "text_boxes": dict}
    writes: ClassVar = {"texts": dict}
    batch: ClassVar = 8

    def open(self) -> Operator:
        """See `Stage`."""
        from step1x_jax.curation.embedded.opencv import cv2

        model = self.load_model("PPOCRV5ServerRecForTextRecognition")
        settings = self.load("transformers", "ImageProcessingMixin")
        letters, count = settings.character_list, model.config.head_out_channels
        if len(letters) != count:
            raise UserError(
                f"{self.model} tells {count} characters apart and lists {len(letters)}; download it"
                " again."
            )

        def read(picture: Image.Image, quad: list[list[int]]) -> tuple[str, float]:
            import torch

            line = cut_line(cv2, np.asarray(picture), quad)
            pixels = torch.from_numpy(_seen_by_reader(line, settings))[None].to(model.device)
            with torch.inference_mode():
                return decode_line(model(pixel_values=pixels).last_hidden_state[0], letters)

        def read_all(
            rows: Sequence[Row], pictures: Sequence[Sequence[Image.Image]], context: Context
        ) -> list[dict[str, Any]]:
            made = []
            for row, (picture,) in zip(rows, pictures, strict=True):
                lines = [read(picture, quad) for quad in row["text_boxes"]["quads"]]
                texts, scores = [text for text, _ in lines], [score for _, score in lines]
                made.append({"texts": {"texts": texts, "scores": scores}})
            return made

        return on_pictures(("picture",), read_all)


def cut_line(cv2: Any, pixels: np.ndarray, quad: list[list[int]]) -> np.ndarray:
    """(h, w, 3) uint8: what is in a quad, made straight; lines that run downwards are turned.

    Args:
      cv2: OpenCV.
      pixels: (H, W, 3) uint8.
      quad: corners from the top left on, clockwise.
    """
    corners = np.array(quad, np.float32)
    width, height = (
        max(round(float(max(np.linalg.norm(a - b), np.linalg.norm(c - d)))), 1)
        for a, b, c, d in (corners[[0, 1, 3, 2]], corners[[0, 3, 1, 2]])
    )
    straight = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, straight)
    line = cv2.warpPerspective(
        pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.rot90(line) if height / width >= UPRIGHT else line


def _seen_by_reader(line: np.ndarray, settings: Any) -> np.ndarray:
    """(3, h, w) float32: of the height of the settings; short lines have grey to their right."""
    height, least = settings.size["height"], settings.size["width"]
    width = math.ceil(height * line.shape[1] / line.shape[0])
    width = max(min(width, settings.max_image_width), 1)
    small = Image.fromarray(np.ascontiguousarray(line)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    mean, deviation = np.float32(settings.image_mean), np.float32(settings.image_std)
    pixels = (np.asarray(small, np.float32) / 255 - mean) / deviation
    pixels = np.pad(pixels, ((0, 0), (0, max(least - width, 0)), (0, 0)))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decode_line(found: Any, letters: Sequence[str]) -> tuple[str, float]:
    """Text and score of a line: the likeliest at each place, repeats joined, blanks dropped.

    Args:
      found: (places, characters) probabilities, a torch tensor.
      letters: of each character; the first is the blank.
    """
    likely, chosen = found.max(dim=-1)
    ids = chosen.tolist()
    kept = [i for i, id in enumerate(ids) if id != 0 and (i == 0 or id != ids[i - 1])]
    if not kept:
        return "", 0.0
    return "".join(letters[ids[i]] for i in kept), round(float(likely[kept].mean()), DECIMALS)
