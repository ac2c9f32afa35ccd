"""Portraits retouched: skin smoothed and relit so that one can see it, lips and hair recoloured.

Faces are found by scikit-image's cascade of local binary patterns. Nothing here guesses what a
person would look like with another face.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates
from step1x_jax.curation.embedded.colours import (
    from_lab,
    hue_and_chroma,
    luminance,
    smoothstep,
    to_float,
    to_lab,
    to_uint8,
)
from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.photographs import Photograph, Region, find_file
from step1x_jax.curation.embedded.types import Edit, Rejection, Words
from step1x_jax.errors import UserError

CATEGORY = Category.PS_HUMAN
CASCADE = "data/lbpcascade_frontalface_opencv.xml"
SMALLEST_FACE = 60  # pixels: smaller ones have no skin to smooth
FACE_SIDE = 256  # pixels of the picture's longer side at which faces are looked for
LEAST_SKIN = 0.35  # share of a face's box: a face that is found shows that much
# Lab of what is put on: lips by hue and chroma, hair by hue, chroma and a factor of lightness.
LIPSTICKS: dict[str, tuple[float, float, Words]] = {
    "red": (28.0, 58.0, {"en": "red", "cn": "红色"}),
    "pink": (0.0, 48.0, {"en": "pink", "cn": "粉色"}),
    "plum": (-15.0, 38.0, {"en": "plum", "cn": "梅子色"}),
}
HAIR: dict[str, tuple[float, float, float, Words]] = {
    "black": (80.0, 3.0, 0.42, {"en": "black", "cn": "黑色"}),
    "red": (48.0, 42.0, 0.85, {"en": "red", "cn": "红色"}),
    "blonde": (84.0, 36.0, 1.32, {"en": "blonde", "cn": "金色"}),
    "blue": (-80.0, 34.0, 0.85, {"en": "blue", "cn": "蓝色"}),
    "grey": (80.0, 3.0, 1.15, {"en": "grey", "cn": "灰白色"}),
}
ACTIONS = ("smooth", "light_left", "light_right", "tan", "lipstick", "hair")


def make_edits(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` retouched portraits; `others` are not used."""
    faces = find_faces(photograph)
    actions = [ACTIONS[i] for i in rng.permutation(len(ACTIONS))]
    for number in range(count):
        if len(faces) != 1:
            reason = "several_faces" if faces else "no_face_found"
            yield gates.reject_plan(CATEGORY, photograph, reason)
            continue
        action = actions[number % len(actions)]
        skin = skin_mask(photograph.pixels, faces[0])
        if (share := skin_share(skin, faces[0])) < LEAST_SKIN:
            yield gates.reject_plan(CATEGORY, photograph, "no_skin_in_face", share=share)
            continue
        regions = [r for r in photograph.regions if r.part == {"lipstick": "lips"}.get(action, action)]
        if action in ("lipstick", "hair"):
            if not regions:
                yield gates.reject_plan(CATEGORY, photograph, f"no_mask_for_{action}")
                continue
            result, colour = _dye(photograph.pixels, regions[0], action, rng)
            mask, slots = regions[0].weights > 0, {"colour": colour}
        else:
            result = _retouch(photograph.pixels, skin, faces[0], action, rng)
            mask, slots = skin > 0, {}
        facts: dict[str, str | float] = {"action": action, "photographs": photograph.original}
        yield gates.check(Edit(CATEGORY, photograph.pixels, result, mask, facts, slots))


def find_faces(photograph: Photograph) -> list[tuple[int, int, int, int]]:
    """Boxes of faces, left, top, right, bottom, largest first."""
    scale = min(1.0, FACE_SIDE / max(photograph.pixels.shape[:2]))
    height, width = (round(n * scale) for n in photograph.pixels.shape[:2])
    small = cv2.resize(photograph.pixels, (width, height), interpolation=cv2.INTER_AREA)
    smallest = max(round(SMALLEST_FACE * scale), 24)  # the cascade's own window
    largest = min(height, width)
    if largest <= smallest:
        return []
    found = _cascade().detect_multi_scale(
        img=small,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(smallest, smallest),
        max_size=(largest, largest),
    )
    boxes = [
        tuple(round(v / scale) for v in (b["c"], b["r"], b["c"] + b["width"], b["r"] + b["height"]))
        for b in found
    ]
    return sorted(boxes, key=lambda b: (b[0] - b[2]) * (b[3] - b[1]))


def skin_mask(pixels: np.ndarray, face: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W) float32 in [0, 1]: skin in and around a face, by the colour of its middle."""
    left, top, right, bottom = face
    lab = to_lab(cv2.bilateralFilter(np.ascontiguousarray(pixels), 7, 30, 5))
    middle = (slice(top + (bottom - top) // 3, bottom), slice(left, right))
    colour = np.median(lab[middle].reshape(-1, 3), axis=0)
    away = np.hypot(*(lab[..., i] - colour[i] for i in (1, 2)))
    skin = smoothstep((20 - away) / 8) * smoothstep((lab[..., 0] - 0.45 * colour[0]) / 8)
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    across = (columns - (left + right) / 2) / (0.72 * (right - left))
    down = (rows - (top + 0.55 * (bottom - top))) / (0.95 * (bottom - top))
    near = smoothstep((1 - np.hypot(across, down)) / 0.2)
    skin = cv2.GaussianBlur((skin * near).astype(np.float32), (0, 0), 0.012 * (right - left))
    return np.where(skin > 0.04, skin, 0)


def skin_share(skin: np.ndarray, face: tuple[int, int, int, int]) -> float:
    """Share of a face's box that is skin."""
    left, top, right, bottom = face
    return float(skin[max(top, 0) : bottom, max(left, 0) : right].mean())


def _retouch(
    pixels: np.ndarray,
    skin: np.ndarray,
    face: tuple[int, int, int, int],
    action: str,
    rng: np.random.Generator,
) -> np.ndarray:
    """Skin smoothed, lit from a side, or tanned."""
    left, _, right, _ = face
    weight = skin[..., None]
    lab = to_lab(pixels)
    if action == "smooth":
        soft = np.ascontiguousarray(pixels)
        for _ in range(3):
            soft = cv2.bilateralFilter(soft, 0, 38, 0.03 * (right - left))
        smooth = to_lab(soft)
        # Blemishes and folds are what is darker than around; brightened, as retouchers do.
        smooth[..., 0] = 100 * (smooth[..., 0] / 100) ** 0.80
        smooth[..., 0] += 0.35 * (lab[..., 0] - to_lab(cv2.GaussianBlur(pixels, (0, 0), 1.2))[..., 0])
        result = from_lab(smooth)
    elif action == "tan":
        lab[..., 0] *= 0.78
        lab[..., 1] += 5
        lab[..., 2] += 9
        result = from_lab(lab)
    else:
        columns = np.arange(pixels.shape[1], dtype=np.float32)
        across = np.clip((columns - left) / (right - left), 0, 1)
        if action == "light_left":
            across = 1 - across
        light = (0.55 + rng.uniform(0.85, 1.0) * smoothstep(across))[None, :, None]
        warm = np.array([1.06, 1.0, 0.88], np.float32)
        result = to_uint8(to_float(pixels) * (light * warm))
    mixed = np.round(pixels * (1 - weight) + result * weight).astype(np.uint8)
    return np.where(weight > 0, mixed, pixels)


def _dye(
    pixels: np.ndarray, region: Region, action: str, rng: np.random.Generator
) -> tuple[np.ndarray, Words]:
    """Lips or hair in another colour, with their own light and shadow."""
    lab = to_lab(pixels)
    _, chroma = hue_and_chroma(lab)
    if action == "lipstick":
        hue, strength, words = list(LIPSTICKS.values())[int(rng.integers(len(LIPSTICKS)))]
        lab[..., 0] *= 0.80
        own = np.clip(chroma / max(float(chroma[region.weights > 0.5].mean()), 1), 0.6, 1.3)
    else:
        hue, strength, factor, words = list(HAIR.values())[int(rng.integers(len(HAIR)))]
        lab[..., 0] = np.clip(lab[..., 0] * factor, 0, 96)
        own = 0.5 + 0.5 * np.clip(luminance(pixels) / 0.45, 0, 1.6)
    lab[..., 1] = strength * own * np.cos(np.radians(hue))
    lab[..., 2] = strength * own * np.sin(np.radians(hue))
    weight = region.weights[..., None]
    mixed = np.round(pixels * (1 - weight) + from_lab(lab) * weight).astype(np.uint8)
    return np.where(weight > 0, mixed, pixels), words


@functools.cache
def _cascade() -> Any:
    try:
        from skimage.feature import Cascade
    except ImportError as e:
        raise UserError(
            "portraits need scikit-image, which is missing here:"
            ' pip install "step1x_jax[curation]"'
        ) from e
    return Cascade(str(find_file("skimage", CASCADE)))
