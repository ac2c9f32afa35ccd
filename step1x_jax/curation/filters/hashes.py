"""Perceptual hashes: pictures that look the same have nearly the same bits.

The signs of the low frequencies of a picture's cosine transform (pHash), of its lightness and, at
fewer frequencies, of two colour differences: edits often change colours alone.
"""

import numpy as np
from PIL import Image
from scipy import fft

SIDE = 32  # pixels to which a picture is shrunk
KEPT = (8, 4, 4)  # frequencies in each direction, of Y, Cb and Cr
BITS = sum(kept * kept for kept in KEPT)
FLAT = 1.0  # amplitude in grey levels of the strongest wave below which a plane has no form


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """(BITS,) bool of (H, W, 3) uint8."""
    small = Image.fromarray(pixels).convert("YCbCr").resize((SIDE, SIDE), Image.Resampling.BOX)
    planes = np.asarray(small, np.float32).transpose(2, 0, 1)
    parts = []
    for plane, kept in zip(planes, KEPT, strict=True):
        waves = fft.dctn(plane, norm="ortho")[:kept, :kept].reshape(-1)
        bits = waves > np.median(waves[1:])  # without the mean, which says nothing of the form
        bits[0] = plane.mean() > 127.5
        if np.abs(waves[1:]).max() * 2 / SIDE < FLAT:
            bits[1:] = False  # the signs would be those of rounding
        parts.append(bits)
    return np.concatenate(parts)


def distance(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) numbers of bits in which (b,) differs from each of (n, b)."""
    return (one[None] != others).sum(-1)
