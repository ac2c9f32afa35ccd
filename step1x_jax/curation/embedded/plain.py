"""Edits that are the same few lines of arithmetic for every picture, of any size and shape.

Nothing about them is drawn by chance, because an instruction cannot tell a model what a random
number was. They change a picture strongly, so that a model that only copies its input scores badly,
and keep what it shows, so that a model that ignores its input does too. What they look like scales
with the picture. All are (H, W, 3) uint8 to the same.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import painting, weather
from step1x_jax.curation.embedded.colours import luminance, smoothstep, to_float, to_uint8

CAPTION = "HELLO"


class PlainEdit(NamedTuple):
    """One of these edits; plain_texts.py has its instructions, under its category and name.

    Attributes:
      category: of GEdit-Bench.
      apply: the edit.
      local: it leaves the rest of the picture as it is.
    """

    category: Category
    apply: Callable[[np.ndarray], np.ndarray]
    local: bool


def negative(pixels: np.ndarray) -> np.ndarray:
    """Every colour becomes its complement."""
    return 255 - pixels


def vignette(pixels: np.ndarray) -> np.ndarray:
    """A bright centre, everything around it fades to black."""
    height, width = pixels.shape[:2]
    y = ((2 * np.arange(height) + 1) / height - 1)[:, None]
    x = ((2 * np.arange(width) + 1) / width - 1)[None, :]
    radius = np.sqrt(x**2 + y**2)
    light = smoothstep((1.1 - radius) / 0.5)
    return to_uint8(to_float(pixels) * light[..., None])


def frame(pixels: np.ndarray) -> np.ndarray:
    """The outermost eighth on every side is white."""
    height, width = pixels.shape[:2]
    border = round(min(height, width) / 8)
    result = np.full_like(pixels, 255)
    inside = (slice(border, height - border), slice(border, width - border))
    result[inside] = pixels[inside]
    return result


def caption(pixels: np.ndarray) -> np.ndarray:
    """A yellow strip along the bottom with one word in black."""
    height, width = pixels.shape[:2]
    strip = round(0.3 * height)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height - strip, width, height), fill=(255, 220, 0))
    font = ImageFont.load_default(min(0.8 * strip, 0.23 * width))
    draw.text((width / 2, height - strip / 2), CAPTION, (0, 0, 0), font=font, anchor="mm")
    return np.asarray(picture)


def red_ball(pixels: np.ndarray) -> np.ndarray:
    """A large shiny red ball in the middle."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    y = ((np.arange(height) + 0.5 - height / 2) / (0.3 * side))[:, None]
    x = ((np.arange(width) + 0.5 - width / 2) / (0.3 * side))[None, :]
    squared = x**2 + y**2
    # A sphere lit from the upper left: Lambert's cosine, and a small highlight.
    z = np.sqrt(np.clip(1 - squared, 0, 1))
    cosine = np.clip((-x - y + 1.2 * z) / np.sqrt(1 + 1 + 1.44), 0, 1)
    colour = (0.25 + 0.75 * cosine)[..., None] * np.array([0.95, 0.06, 0.08])
    colour = colour + (cosine**30)[..., None] * 0.7
    edge = np.clip((1 - np.sqrt(squared)) * 0.3 * side + 0.5, 0, 1)[..., None]  # one soft pixel
    return to_uint8(to_float(pixels) * (1 - edge) + colour * edge)


def hue_swap(pixels: np.ndarray) -> np.ndarray:
    """Red and blue change places, and colours become stronger."""
    swapped = to_float(pixels)[..., ::-1]
    grey = luminance(swapped)[..., None]
    return to_uint8(grey + 1.8 * (swapped - grey))


PLAIN: Mapping[str, PlainEdit] = {
    "negative": PlainEdit(Category.COLOR_ALTER, negative, False),
    "night": PlainEdit(Category.TONE_TRANSFER, weather.night, False),
    "sunset": PlainEdit(Category.TONE_TRANSFER, weather.sunset, False),
    "mist": PlainEdit(Category.TONE_TRANSFER, weather.mist, False),
    "vignette": PlainEdit(Category.BACKGROUND_CHANGE, vignette, False),
    "line_drawing": PlainEdit(Category.STYLE_CHANGE, painting.line_drawing, False),
    "frame": PlainEdit(Category.SUBJECT_ADD, frame, True),
    "caption": PlainEdit(Category.TEXT_CHANGE, caption, True),
    "red_ball": PlainEdit(Category.SUBJECT_ADD, red_ball, True),
    "hue_swap": PlainEdit(Category.COLOR_ALTER, hue_swap, False),
}
