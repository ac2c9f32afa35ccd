"""Colours in CIE Lab: conversion, difference, names."""

from typing import NamedTuple

import numpy as np

from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.types import Words


class Colour(NamedTuple):
    """A colour's name.

    Attributes:
      hue: degrees in Lab's a-b plane at which people agree on it.
      darkest: L below which it has another name (dark yellow is olive).
      lightest: L above which it has another name (light red is pink).
      words: the name.
    """

    hue: float
    darkest: float
    lightest: float
    words: Words


HUES = {
    "red": Colour(35, 15, 62, {"en": "red", "cn": "红色"}),
    "orange": Colour(60, 45, 90, {"en": "orange", "cn": "橙色"}),
    "yellow": Colour(92, 62, 100, {"en": "yellow", "cn": "黄色"}),
    "green": Colour(140, 10, 95, {"en": "green", "cn": "绿色"}),
    "turquoise": Colour(195, 35, 95, {"en": "turquoise", "cn": "青绿色"}),
    "blue": Colour(-78, 5, 85, {"en": "blue", "cn": "蓝色"}),
    "purple": Colour(-45, 5, 75, {"en": "purple", "cn": "紫色"}),
    "pink": Colour(0, 50, 95, {"en": "pink", "cn": "粉色"}),
}


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 sRGB, or float32 of it in [0, 1], to float32 Lab (L in [0, 100])."""
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    return cv2.cvtColor(np.ascontiguousarray(pixels, np.float32), cv2.COLOR_RGB2LAB)


def from_lab(lab: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 Lab to uint8 sRGB, clipped."""
    return to_uint8(cv2.cvtColor(np.ascontiguousarray(lab, np.float32), cv2.COLOR_LAB2RGB))


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Float in [0, 1], clipped and rounded, to uint8."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1]."""
    return pixels.astype(np.float32) / 255


def hue_and_chroma(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in degrees, (-180, 180], and chroma, both (H, W) float32."""
    a, b = lab[..., 1], lab[..., 2]
    return np.degrees(np.arctan2(b, a)), np.hypot(a, b)


def colour_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """CIE76 difference of two uint8 pictures, (H, W) float32; 2.3 is just noticeable."""
    return np.linalg.norm(to_lab(one) - to_lab(other), axis=-1)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: luma of ITU-R BT.601, of uint8 or float pixels."""
    values = to_float(pixels) if pixels.dtype == np.uint8 else pixels
    return values @ np.array([0.299, 0.587, 0.114], np.float32)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, a smooth cubic between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
