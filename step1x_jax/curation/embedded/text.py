"""Text on a flat surface: added, removed, replaced, recoloured; in the surface's perspective.

It is shrunk until it fits, and takes the surface's grain and shadow. A removal's target is the
photograph.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import gates, words
from step1x_jax.curation.embedded.colours import luminance, to_float, to_uint8
from step1x_jax.curation.embedded.descriptions import SignData
from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.photographs import Photograph, find_file
from step1x_jax.curation.embedded.types import Edit, Rejection, Words

CATEGORY = Category.TEXT_CHANGE
# In Latin letters and digits: fonts with Chinese characters are not on every machine.
TEXTS = (
    "OPEN", "CLOSED", "HELLO", "SALE", "CAFE", "EXIT", "STOP", "WELCOME", "TAXI", "MUSEUM",
    "MENU", "TEA", "NEWS", "PARK", "2026", "No. 7", "Room 12", "50% OFF", "Good Morning",
    "Thank You", "FREE", "LOVE", "MUSIC", "GARDEN", "STATION", "HOTEL", "Art Fair", "24 HOURS",
)  # fmt: skip
FONTS = (
    "mpl-data/fonts/ttf/DejaVuSans-Bold.ttf",
    "mpl-data/fonts/ttf/DejaVuSerif-Bold.ttf",
    "mpl-data/fonts/ttf/DejaVuSansMono-Bold.ttf",
)


class Ink(NamedTuple):
    """A colour of text: (3,) sRGB in [0, 1], and its name."""

    colour: tuple[float, float, float]
    words: Words


INKS = {
    "light": (
        Ink((0.96, 0.95, 0.92), {"en": "white", "cn": "白色"}),
        Ink((0.98, 0.83, 0.18), {"en": "yellow", "cn": "黄色"}),
        Ink((0.45, 0.86, 0.95), {"en": "light blue", "cn": "浅蓝色"}),
    ),
    "dark": (
        Ink((0.06, 0.06, 0.07), {"en": "black", "cn": "黑色"}),
        Ink((0.72, 0.08, 0.10), {"en": "red", "cn": "红色"}),
        Ink((0.08, 0.16, 0.55), {"en": "dark blue", "cn": "深蓝色"}),
    ),
}
FILLED = 0.92  # share of the sign that a text may take, in width and height
FINE = 4  # times finer than the picture, in which letters are drawn
COVERS = 0.93  # opacity of ink
ACTIONS = ("add", "remove", "replace", "recolour")


class Drawn(NamedTuple):
    """Text in its place.

    Attributes:
      alpha: (H, W) float32.
      shown: share of its ink that is in the picture and on the sign.
      height: of its capital letters in the picture, in pixels.
    """

    alpha: np.ndarray
    shown: float
    height: float


def make_edits(
    photograph: Photograph, others: Sequence[Photograph], rng: np.random.Generator, count: int
) -> Iterator[Edit | Rejection]:
    """`count` edits of text; `others` are not used."""
    for number in range(count):
        if not photograph.signs:
            yield gates.reject_plan(CATEGORY, photograph, "no_place_for_text")
            continue
        sign = photograph.signs[int(rng.integers(len(photograph.signs)))]
        action = ACTIONS[number % len(ACTIONS)]
        first, second = (TEXTS[i] for i in rng.permutation(len(TEXTS))[:2])
        font = FONTS[int(rng.integers(len(FONTS)))]
        inks = [INKS[sign.ink][i] for i in rng.permutation(len(INKS[sign.ink]))[:2]]
        texts = [first, second if action == "replace" else first]
        drawn = [draw_text(text, font, sign, photograph.pixels.shape[:2]) for text in texts]
        shown = min(d.shown for d in drawn)
        letters = min(d.height for d in drawn)
        facts: dict[str, str | float] = {
            "action": action,
            "photographs": photograph.original,
            "shown": round(shown, 4),
            "letters": round(letters, 1),
        }
        if (reason := text_fault(shown, letters)) is not None:
            yield gates.reject_plan(CATEGORY, photograph, reason, **facts)
            continue
        pictures = [
            paint(photograph.pixels, drawn[0].alpha, inks[0]),
            paint(photograph.pixels, drawn[1].alpha, inks[1 if action == "recolour" else 0]),
        ]
        mask = (drawn[0].alpha > 0) | (drawn[1].alpha > 0)
        where = words.place(sign.on, _position(sign, photograph))
        slots = {"text": words.quoted(first), "where": where, "colour": inks[0].words}
        if action == "replace":
            slots["new"] = words.quoted(second)
        elif action == "recolour":
            slots["new"] = inks[1].words
        elif action == "add":
            pictures[0] = photograph.pixels
        else:
            pictures[1] = photograph.pixels
        yield gates.check(Edit(CATEGORY, pictures[0], pictures[1], mask, facts, slots))


def draw_text(text: str, font: str, sign: SignData, shape: tuple[int, ...]) -> Drawn:
    """Text on a sign, as large as it fits.

    Args:
      text: one line.
      font: a file of FONTS.
      sign: where.
      shape: height and width of the picture.
    """
    corners = np.array(sign.corners, np.float32)
    across = np.linalg.norm(corners[1] - corners[0] + corners[2] - corners[3]) / 2
    width = max(round(float(across) * FINE), 8)
    height = max(round(width * sign.size[1] / sign.size[0]), 8)
    size = _largest_size(text, font, width, height)
    return draw_on_sign(text, font, size, (width, height), corners, shape)


def draw_on_sign(
    text: str,
    font: str,
    size: int,
    canvas: tuple[int, int],
    corners: np.ndarray,
    shape: tuple[int, ...],
) -> Drawn:
    """Text of a given size in the middle of a canvas that is laid into the picture.

    What does not fit onto the canvas, or lies outside of the picture, is missing, and counts:
    `shown` compares with the same text on a canvas and in a picture without edges.
    """
    typeface = _typeface(font, size)
    left, top, right, bottom = typeface.getbbox(text)
    needed = (math.ceil(right - left), math.ceil(bottom - top))
    spare = (max(needed[0], canvas[0]), max(needed[1], canvas[1]))  # around the canvas
    whole = Image.new("L", (canvas[0] + 2 * spare[0], canvas[1] + 2 * spare[1]))
    x = spare[0] + (canvas[0] - needed[0]) / 2 - left
    y = spare[1] + (canvas[1] - needed[1]) / 2 - top
    ImageDraw.Draw(whole).text((x, y), text, 255, font=typeface)
    free = np.asarray(whole, np.float32) / 255
    ink = free[spare[1] : spare[1] + canvas[1], spare[0] : spare[0] + canvas[0]]
    on_sign = float(ink.sum() / max(free.sum(), 1e-6))

    rectangle = np.array(
        [[0, 0], [canvas[0], 0], [canvas[0], canvas[1]], [0, canvas[1]]], np.float32
    )
    around = max(shape[:2])  # pixels of margin in which what leaves the picture is still seen
    fine = 2
    matrix = cv2.getPerspectiveTransform(rectangle, (corners + around).astype(np.float32) * fine)
    large = ((shape[1] + 2 * around) * fine, (shape[0] + 2 * around) * fine)
    warped = cv2.warpPerspective(ink, matrix, large, flags=cv2.INTER_AREA)
    warped = cv2.resize(warped, (large[0] // fine, large[1] // fine), interpolation=cv2.INTER_AREA)
    inside = warped[around : around + shape[0], around : around + shape[1]]
    in_picture = float(inside.sum() / max(warped.sum(), 1e-6))
    scale = np.linalg.norm(corners[3] - corners[0] + corners[2] - corners[1]) / 2 / canvas[1]
    capital = typeface.getbbox("H")
    letters = float((capital[3] - capital[1]) * scale)
    alpha = np.where(inside > 1 / 255, inside, 0).astype(np.float32)
    return Drawn(alpha, min(on_sign, in_picture) if on_sign > 0 else 0.0, letters)


def text_fault(shown: float, letters: float) -> str | None:
    """Why a text is not accepted; None: it is complete and can be read."""
    if shown < gates.LEAST_TEXT:
        return "text_cut_off"
    if letters < gates.LEAST_LETTERS:
        return "letters_too_small"
    return None


def paint(pixels: np.ndarray, alpha: np.ndarray, ink: Ink) -> np.ndarray:
    """(H, W, 3) uint8: ink on what is there, with its shadow and a part of its grain."""
    light = luminance(pixels)
    mean = float((light * alpha).sum() / max(alpha.sum(), 1e-6))
    around = cv2.GaussianBlur(light, (0, 0), 0.02 * max(light.shape))
    shadow = np.clip(around / max(mean, 0.05), 0.6, 1.25)
    grain = np.clip(1 + 0.5 * (light - around) / np.maximum(around, 0.1), 0.7, 1.3)
    colour = np.array(ink.colour, np.float32) * (shadow * grain)[..., None]
    cover = (COVERS * alpha)[..., None]
    result = to_uint8(to_float(pixels) * (1 - cover) + np.clip(colour, 0, 1) * cover)
    return np.where(alpha[..., None] > 0, result, pixels)


def _largest_size(text: str, font: str, width: int, height: int) -> int:
    """The largest font size at which a text fits."""
    low, high = 4, max(2 * height, 5)
    while low < high:
        size = (low + high + 1) // 2
        left, top, right, bottom = _typeface(font, size).getbbox(text)
        if right - left <= FILLED * width and bottom - top <= FILLED * height:
            low = size
        else:
            high = size - 1
    return low


@functools.lru_cache(maxsize=512)
def _typeface(font: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(find_file("matplotlib", font)), size)


def _position(sign: SignData, photograph: Photograph) -> Words:
    x, y = np.mean(sign.corners, axis=0)
    height, width = photograph.pixels.shape[:2]
    return words.position(float(x), float(y), width, height)
