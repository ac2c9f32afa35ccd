"""Perceptual hashes: pictures that look the same have nearly the same bits.

The signs of the low frequencies of a picture's cosine transform (pHash), of its lightness and of
two colour differences: edits often change colours alone.
"""

import numpy as np
from PIL import Image
from scipy import fft

SIDE = 32  # pixels to which a picture is shrunk
KEPT = 8  # frequencies in each direction
BITS = 3 * KEPT * KEPT


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """(BITS,) bool of (H, W, 3) uint8."""
    small = Image.fromarray(pixels).convert("YCbCr").resize((SIDE, SIDE), Image.Resampling.BOX)
    planes = np.asarray(small, np.float32).transpose(2, 0, 1)
    low = fft.dctn(planes, axes=(1, 2))[:, :KEPT, :KEPT].reshape(3, -1)
    # The first coefficient is the mean: it says nothing of the form, and counts against a middle.
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = planes.mean((1, 2)) > 127.5
    # A plane without contrast has no form: its signs would be those of rounding.
    flat = np.abs(low[:, 1:]).max(1) < 2 * SIDE * SIDE / 64
    bits[flat, 1:] = False
    return bits.reshape(-1)


def distance(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) numbers of bits in which (BITS,) differs from each of (n, BITS)."""
    return (one[None] != others).sum(-1)
