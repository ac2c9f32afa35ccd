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
from step1x_jax.curation.embedded.descriptions import Box
from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.photographs import Photograph, Region, find_file
from step1x_jax.curation.embedded.types import Edit, Rejection, Words
from step1x_jax.errors import UserError

CATEGORY = Category.PS_HUMAN
CASCADE = "data/lbpcascade_frontalface_opencv.xml"
SMALLEST_FACE = 60  # pixels: smaller ones have no skin to smooth
# Pixels of the picture's longer side at which faces are looked for, each in the picture and in its
# mirror picture: what is no face is seldom found more than once.
FACE_SIDES = (224, 256, 300)
LEAST_TIMES = 4  # of these six
SAME_FACE = 0.4  # intersection over union of two boxes
LEAST_SKIN = 0.35  # share of a face's box: a face that is found shows that much
# Lab of what is put on: lips by hue and chroma, hair by hue, chroma and a factor of lightness.
LIPSTICKS: dict[str, tuple[float, float, Words]] = {
    "red": (36.0, 62.0, {"en": "red", "cn": "红色"}),
    "pink": (18.0, 52.0, {"en": "pink", "cn": "粉色"}),
    "plum": (2.0, 34.0, {"en": "plum", "cn": "梅子色"}),
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
        if photograph.foreground is not None:
            skin = skin * photograph.foreground
        for region in photograph.regions:
            if region.part == "hair":
                skin = skin * (1 - region.weights)
        if (share := skin_share(skin, faces[0])) < LEAST_SKIN:
            yield gates.reject_plan(CATEGORY, photograph, "no_skin_in_face", share=share)
            continue
        regions = [
            r for r in photograph.regions if r.part == {"lipstick": "lips"}.get(action, action)
        ]
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


def find_faces(photograph: Photograph) -> list[Box]:
    """Boxes of faces that are found again at other sizes and in the mirror, largest first."""
    found: list[list[Box]] = []
    for side in FACE_SIDES:
        for mirror in (False, True):
            for box in _detect(photograph.pixels, side, mirror):
                same = [f for f in found if _overlap(f[0], box) >= SAME_FACE]
                if same:
                    same[0].append(box)
                else:
                    found.append([box])
        if not found:
            return []  # most photographs: what is seen at one size only is not enough
    boxes = []
    for group in found:
        if len(group) >= LEAST_TIMES:
            left, top, right, bottom = (round(float(v)) for v in np.median(group, axis=0))
            boxes.append((left, top, right, bottom))
    return sorted(boxes, key=lambda b: (b[0] - b[2]) * (b[3] - b[1]))


def _detect(pixels: np.ndarray, side: int, mirror: bool) -> list[Box]:
    """What the cascade takes for faces, in pixels of the whole picture."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    height, width = (round(n * scale) for n in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if mirror:
        small = np.ascontiguousarray(small[:, ::-1])
    smallest = max(round(SMALLEST_FACE * scale), 24)  # the cascade's own window
    if min(height, width) <= smallest:
        return []
    boxes = []
    for found in _cascade().detect_multi_scale(
        img=small,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(smallest, smallest),
        max_size=(min(height, width), min(height, width)),
    ):
        left = width - found["c"] - found["width"] if mirror else found["c"]
        top, right = found["r"], left + found["width"]
        bottom = top + found["height"]
        left, top, right, bottom = (round(v / scale) for v in (left, top, right, bottom))
        boxes.append((left, top, right, bottom))
    return boxes


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return common / (sum(areas) - common)


def skin_mask(pixels: np.ndarray, face: Box) -> np.ndarray:
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


def skin_share(skin: np.ndarray, face: Box) -> float:
    """Share of a face's box that is skin."""
    left, top, right, bottom = face
    return float(skin[max(top, 0) : bottom, max(left, 0) : right].mean())


def _retouch(
    pixels: np.ndarray,
    skin: np.ndarray,
    face: Box,
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
        smooth[..., 0] = 100 * (smooth[..., 0] / 100) ** 0.66
        smooth[..., 0] += 0.35 * (
            lab[..., 0] - to_lab(cv2.GaussianBlur(pixels, (0, 0), 1.2))[..., 0]
        )
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
        lab[..., 0] *= 0.88
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
            'portraits need scikit-image, which is missing here: pip install "step1x_jax[curation]"'
        ) from e
    return Cascade(str(find_file("skimage", CASCADE)))
