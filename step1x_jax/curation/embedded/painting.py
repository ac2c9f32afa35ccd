"""Photographs as drawings and paintings: pure filters of pixels, (H, W, 3) uint8 to the same.

Strokes and grain scale with the picture: a small one looks as a large one does from further away.
"""

import numpy as np

from step1x_jax.curation.embedded.colours import (
    from_lab,
    luminance,
    smoothstep,
    to_float,
    to_lab,
    to_uint8,
)
from step1x_jax.curation.embedded.opencv import cv2


def pixel_art(pixels: np.ndarray) -> np.ndarray:
    """Large square pixels of a palette of 16 colours, as old games had."""
    height, width = pixels.shape[:2]
    cells = 72 / max(height, width)  # 72 cells along the longer side: a face is still a face
    size = (max(round(width * cells), 1), max(round(height * cells), 1))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    lab = to_lab(small)
    palette, labels = _palette(lab, 16)
    lab = palette[labels].reshape(lab.shape)
    lab[..., 1:] *= 1.25  # games are more colourful
    return cv2.resize(from_lab(lab), (width, height), interpolation=cv2.INTER_NEAREST)


def watercolour(pixels: np.ndarray) -> np.ndarray:
    """Flat washes with darker rims on rough white paper."""
    side = max(pixels.shape[:2])
    flat = _to_even(pixels)
    for _ in range(3):
        flat = cv2.bilateralFilter(flat, 9, 28, 0.012 * side)
    wash = _kuwahara(to_float(flat), max(round(0.008 * side), 2))
    light = luminance(wash)
    edges = np.abs(cv2.Laplacian(cv2.GaussianBlur(light, (0, 0), 0.004 * side), cv2.CV_32F))
    rims = smoothstep(edges / 0.02)
    paper = _noise(pixels.shape[:2], 0.0022 * side) * 0.05
    paper += _noise(pixels.shape[:2], 0.02 * side) * 0.025  # pigment settles unevenly
    lab = to_lab(np.clip(0.16 + 0.84 * wash, 0, 1).astype(np.float32))
    lab[..., 0] = lab[..., 0] * (1 + paper) - 9 * rims
    lab[..., 1:] *= 1.15
    return from_lab(lab)


def oil_painting(pixels: np.ndarray) -> np.ndarray:
    """Short thick strokes along the forms, in relief."""
    side = max(pixels.shape[:2])
    colours = _kuwahara(to_float(pixels), max(round(0.011 * side), 3))
    light = luminance(colours)
    strokes = _along_forms(luminance(pixels), _noise(pixels.shape[:2], 0.0025 * side), 0.025 * side)
    relief = cv2.Sobel(strokes, cv2.CV_32F, 1, 1, ksize=3)
    relief = np.clip(relief / (3 * relief.std() + 1e-6), -1, 1)
    lab = to_lab(colours.astype(np.float32))
    lab[..., 0] += 5 * relief + 5 * strokes / (strokes.std() + 1e-6) * (0.4 + 0.6 * (1 - light))
    lab[..., 1:] *= 1.3
    return from_lab(lab)


def pencil_sketch(pixels: np.ndarray) -> np.ndarray:
    """Grey lines and hatching on white paper."""
    side = max(pixels.shape[:2])
    grey = luminance(cv2.bilateralFilter(_to_even(pixels), 7, 20, 3))
    soft = cv2.GaussianBlur(grey, (0, 0), 0.012 * side)
    lines = np.clip((grey + 0.05) / (soft + 0.05), 0, 1) ** 2.5  # colour dodge
    rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
    wobble = _noise(grey.shape, 0.01 * side) * 1.5
    period = max(0.0095 * side, 3.0)
    falling = 0.5 + 0.5 * np.sin(2 * np.pi * ((rows + columns) / 1.414 + wobble) / period)
    rising = 0.5 + 0.5 * np.sin(2 * np.pi * ((rows - columns) / 1.414 + wobble) / period)
    tone = cv2.GaussianBlur(grey, (0, 0), 0.003 * side)
    hatching = 1 - 0.42 * smoothstep((0.62 - tone) / 0.35) * falling
    hatching *= 1 - 0.45 * smoothstep((0.32 - tone) / 0.25) * rising
    paper = 0.97 + 0.02 * _noise(grey.shape, 0.6)
    return to_uint8(np.repeat((lines * hatching * paper)[..., None], 3, -1))


def line_drawing(pixels: np.ndarray) -> np.ndarray:
    """Dark lines at edges over light shading: a pencil's, but for what 128 pixels cannot show."""
    grey = luminance(pixels)
    soft = cv2.GaussianBlur(grey, (0, 0), 0.02 * max(pixels.shape[:2]))
    lines = np.clip((grey + 0.08) / (soft + 0.08), 0, 1)  # colour dodge: 1 where nothing is darker
    paper = lines**2 * (0.7 + 0.3 * np.sqrt(grey))
    return to_uint8(np.repeat(paper[..., None], 3, axis=-1))


def ink_wash(pixels: np.ndarray) -> np.ndarray:
    """Black ink in a few washes, with brush lines, on yellowish rice paper."""
    side = max(pixels.shape[:2])
    grey = luminance(_kuwahara(to_float(pixels), max(round(0.009 * side), 2)))
    low, high = np.percentile(grey, [2, 92])
    grey = np.clip((grey - low) / max(high - low, 0.05), 0, 1)
    levels = np.zeros_like(grey)
    for step in (0.18, 0.38, 0.6, 0.8):  # four washes; each ends softly
        levels += 0.25 * smoothstep((grey - step + 0.05) / 0.1)
    wash = cv2.GaussianBlur(0.12 + 0.88 * levels, (0, 0), 0.0025 * side)
    wash *= 1 + 0.10 * _noise(grey.shape, 0.012 * side) * (1 - wash)
    soft = cv2.GaussianBlur(luminance(pixels), (0, 0), 0.003 * side)
    edges = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    lines = 1 - 0.75 * smoothstep((edges - 0.09) / 0.25)
    paper = np.array([0.96, 0.93, 0.86], np.float32) * (
        1 + 0.015 * _noise(grey.shape, 0.8)[..., None]
    )
    return to_uint8((wash * lines)[..., None] * paper)


def comic(pixels: np.ndarray) -> np.ndarray:
    """Flat strong colours, black outlines, dots in the shadows, as comics were printed."""
    side = max(pixels.shape[:2])
    flat = _to_even(pixels)
    for _ in range(2):
        flat = cv2.bilateralFilter(flat, 9, 35, 0.01 * side)
    lab = to_lab(flat)
    palette, labels = _palette(lab, 14)
    lab = palette[labels].reshape(lab.shape)
    lab[..., 0] = np.clip(50 + 1.2 * (lab[..., 0] - 45), 0, 100)
    lab[..., 1:] *= 1.6
    tone = cv2.GaussianBlur(luminance(pixels), (0, 0), 0.004 * side)
    rows, columns = np.mgrid[: tone.shape[0], : tone.shape[1]].astype(np.float32)
    period = max(0.0125 * side, 4.0)
    screen = np.cos(2 * np.pi * (rows + columns) / 1.414 / period)
    screen = screen * np.cos(2 * np.pi * (rows - columns) / 1.414 / period)
    dots = smoothstep((screen - 0.1) / 0.35) * smoothstep((0.42 - tone) / 0.15)
    near = cv2.GaussianBlur(luminance(flat), (0, 0), 0.0017 * side)
    far = cv2.GaussianBlur(luminance(flat), (0, 0), 0.0055 * side)
    outline = smoothstep((far - near - 0.018) / 0.02)
    lab[..., 0] *= (1 - 0.35 * dots) * (1 - 0.92 * outline)
    lab[..., 1:] *= (1 - outline)[..., None]
    return from_lab(lab)


def _palette(lab: np.ndarray, colours: int) -> tuple[np.ndarray, np.ndarray]:
    """(colours, 3) float32 by k-means, and which of them each pixel of (H, W, 3) is, flat."""
    values = np.ascontiguousarray(lab.reshape(-1, 3), np.float32)
    sample = values[:: max(len(values) // 20000, 1)]
    order = np.argsort(sample[:, 0], kind="stable")
    # A start without chance: the picture's colours in order of lightness.
    centres = sample[order[np.linspace(0, len(order) - 1, colours).round().astype(int)]]
    for _ in range(12):
        labels = _nearest(sample, centres)
        sums = np.stack([np.bincount(labels, sample[:, i], colours) for i in range(3)], -1)
        counts = np.bincount(labels, minlength=colours)[:, None]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
    return centres, _nearest(values, centres)


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) index of the nearest centre to each of (n, 3)."""
    squares = (centres**2).sum(-1) - 2 * values @ centres.T
    return squares.argmin(-1)


def _kuwahara(values: np.ndarray, radius: int) -> np.ndarray:
    """(H, W, 3) float32: each pixel becomes the mean of its calmest quadrant: patches of paint."""
    light = luminance(values)
    size = (radius + 1, radius + 1)
    best, least = np.zeros_like(values), np.full(light.shape, np.inf, np.float32)
    for anchor in ((0, 0), (radius, 0), (0, radius), (radius, radius)):
        means = cv2.blur(values, size, anchor=anchor)
        variance = (
            cv2.blur(light**2, size, anchor=anchor) - cv2.blur(light, size, anchor=anchor) ** 2
        )
        calmer = variance < least
        best[calmer] = means[calmer]
        least = np.minimum(least, variance)
    return best


def _along_forms(light: np.ndarray, noise: np.ndarray, length: float) -> np.ndarray:
    """(H, W) float32: noise smeared along the picture's edges, as a brush follows forms."""
    soft = cv2.GaussianBlur(light, (0, 0), 2.0)
    gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    sigma = 4.0
    xx, yy, xy = (cv2.GaussianBlur(v, (0, 0), sigma) for v in (gx * gx, gy * gy, gx * gy))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    step_x, step_y = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]].astype(np.float32)
    total = noise.copy()
    steps = max(round(length / 2), 2)
    for sign in (1, -1):
        x, y = columns.copy(), rows.copy()
        for _ in range(steps):
            dx = cv2.remap(step_x, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
            dy = cv2.remap(step_y, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
            x, y = x + sign * dx, y + sign * dy
            total += cv2.remap(noise, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return total / (2 * steps + 1)


def _noise(shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """(H, W) float32, the same for every picture of a shape, of standard deviation 1."""
    noise = np.random.default_rng(7).standard_normal(shape[:2], np.float32)
    if sigma > 0.3:
        noise = cv2.GaussianBlur(noise, (0, 0), sigma)
    return noise / max(float(noise.std()), 1e-6)


def _to_even(pixels: np.ndarray) -> np.ndarray:
    """Pixels without noise that filters would take for edges."""
    return cv2.medianBlur(np.ascontiguousarray(pixels), 3)
