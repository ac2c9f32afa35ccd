"""Pixels as files."""

import io

import numpy as np
from PIL import Image


def encode_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) or (H, W) uint8 as a PNG file; equal ones for equal pixels."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png", compress_level=3)
    return stream.getvalue()


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) bool as a PNG file, white where it is true."""
    return encode_png(mask.astype(np.uint8) * 255)
