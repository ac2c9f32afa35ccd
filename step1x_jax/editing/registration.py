"""Whether an edit has moved what it should have kept, or changed its colours, and the way back.

The model of a drift is edited(x + d) = gain * source(x) + offset, one shift d for all channels, a
gain and an offset for each. It is fitted by iterated least squares with Tukey's weights, which are
zero where a picture has been edited (Lucas and Kanade 1981; Baker and Matthews 2004, the inverse
compositional form), from no shift and from the peak of the phase correlation (Kuglin and Hines
1975), whichever fits better. scipy is imported where it is used, see masks.py.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from step1x_jax.editing.masks import cover

LONGEST = 512  # pixels of the longer side at which is measured: a hundredth of one is 0.02 at 1024
SHORTEST = 32  # of the shorter side: below, the window leaves too little
RANGE = 1 / 8  # of each side: shifts that are looked for
SMOOTHING = 2.0  # sigma in pixels: what an autoencoder changes is finer
ROUNDS = 12
CONVERGED = 0.002  # pixels from one round to the next
RIDGE = 1e-3  # far below what any texture adds to the normal equations

# Tukey's cutoff in levels: as many times the quietest quarter of the residuals as contain nearly
# all of what was not edited, within bounds (as in masks.py).
QUIET = 25
ABOVE_QUIET = 6.0
LOWEST, HIGHEST = 16.0, 48.0

# What is no drift of colours, or no measurement.
MOST_GAIN = 1.25  # or its inverse
MOST_OFFSET = 24.0  # levels at mid-grey
LEAST_SHARE = 0.25  # of the pixels that have to fit
MOST_ERROR = 0.25  # pixels, estimated
LEAST_RESIDUAL = 0.5  # levels: no picture of 8 bits is known better, however well it fits
CORRELATED = 4 * math.pi * SMOOTHING**2  # pixels that err together, after smoothing

# Below these nothing is corrected: moving by a fraction of a pixel blurs, which is worse.
SMALLEST_SHIFT = 0.1  # pixels
SMALLEST_CHANGE = 0.5  # levels, at black, grey or white

Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Registration:
    """Shift and colour drift of an edit against its source, where nothing was edited.

    Attributes:
      measured: whether the rest says anything; if not, it is no shift and no change.
      dx: pixels by which things are further right in the edit.
      dy: pixels by which things are further down in the edit.
      gain: per channel R, G, B: edited = gain * source + offset.
      offset: per channel, in levels of 255.
      share: of the pixels outside of the mask, how many fit this.
      error: estimated standard error of dx and dy in pixels, the larger one.
    """

    measured: bool = False
    dx: float = 0.0
    dy: float = 0.0
    gain: Triple = (1.0, 1.0, 1.0)
    offset: Triple = (0.0, 0.0, 0.0)
    share: float = 0.0
    error: float = math.inf

    @property
    def colour(self) -> Triple:
        """Levels of 255 by which mid-grey has changed, per channel."""
        r, g, b = (127.5 * (a - 1) + o for a, o in zip(self.gain, self.offset, strict=True))
        return r, g, b

    def __str__(self) -> str:
        if not self.measured:
            return "not measured"
        r, g, b = self.colour
        return (
            f"moved by ({self.dx:+.2f}, {self.dy:+.2f}) px, grey by ({r:+.1f}, {g:+.1f}, {b:+.1f})"
        )


def register(
    source: Image.Image, edited: Image.Image, mask: np.ndarray | None = None
) -> Registration:
    """Measure how far an edit has drifted from its source.

    Args:
      source: RGB picture of W x H pixels.
      edited: RGB picture of the same size.
      mask: (H, W) bool, True where the picture was edited, if that is known: it is left out. What
        is edited elsewhere is found by its not fitting, up to about half of the picture.

    Returns:
      What was found. Not measured are: pictures smaller than SHORTEST; without texture in both
      directions; an edit that leaves less than a quarter as it was, up to a drift of colours of
      MOST_GAIN and MOST_OFFSET; a shift of more than an eighth of a side.
    """
    from scipy import ndimage

    if source.size != edited.size or (mask is not None and mask.shape != source.size[::-1]):
        raise ValueError(f"{source}, {edited} and their mask differ in size")
    scale = min(1.0, LONGEST / max(source.size))
    width, height = (max(1, round(n * scale)) for n in source.size)
    if min(width, height) < SHORTEST:
        return Registration()
    outside = np.ones((height, width), bool)
    if mask is not None:
        near = ndimage.gaussian_filter(cover(mask, width, height).astype(np.float32), SMOOTHING)
        outside = near < 0.01  # of what smoothing carries across its edge
    if not outside.any():
        return Registration()
    before, after = (_smoothed(image, width, height) for image in (source, edited))
    starts = {(0.0, 0.0), _coarse_shift(before, after, outside)}
    fits = [_fit(before, after, outside, start) for start in starts]
    found = min(fits, key=lambda fit: fit[0])[1]
    if not _is_drift(found, width, height):
        return Registration()
    x, y = source.width / width, source.height / height
    return dataclasses.replace(
        found, dx=found.dx * x, dy=found.dy * y, error=found.error * max(x, y)
    )


def corrected(edited: Image.Image, registration: Registration) -> Image.Image:
    """The edit moved back, with its colours brought back; best at the size at which it was edited.

    Args:
      edited: RGB picture.
      registration: of it, at this size.

    Returns:
      A picture of the same size; `edited` itself if nothing was measured, or nothing that matters.
      What is moved in from outside repeats the edge.
    """
    r = registration
    if not r.measured:
        return edited
    pixels = np.asarray(edited.convert("RGB"), np.float32)
    gain, offset = np.array(r.gain, np.float32), np.array(r.offset, np.float32)
    levels = np.array([[0.0], [127.5], [255.0]])
    moved = max(abs(r.dx), abs(r.dy)) >= SMALLEST_SHIFT
    changed = np.abs(levels * gain + offset - levels).max() >= SMALLEST_CHANGE
    if moved:
        pixels = _moved(pixels, r.dx, r.dy)
    if changed:
        pixels = (pixels - offset) / gain
    if not (moved or changed):
        return edited
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def _smoothed(image: Image.Image, width: int, height: int) -> np.ndarray:
    """(height, width, 3) float32 levels."""
    from scipy import ndimage

    small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    return ndimage.gaussian_filter(
        np.asarray(small, np.float32), (SMOOTHING, SMOOTHING, 0), mode="nearest"
    )


def _moved(pixels: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """(H, W, 3): at x what is at x + d, by cubic splines; beyond the edge, the edge."""
    from scipy import ndimage

    return np.stack(
        [ndimage.shift(channel, (-dy, -dx), order=3, mode="nearest")
         for channel in np.moveaxis(pixels, -1, 0)], axis=-1,
    )  # fmt: skip


def _coarse_shift(
    before: np.ndarray, after: np.ndarray, outside: np.ndarray
) -> tuple[float, float]:
    """(dx, dy) in whole pixels, at the peak of the phase correlation within RANGE."""
    from scipy import fft

    height, width = outside.shape
    window = np.hanning(height)[:, None] * np.hanning(width) * outside
    spectra = []
    for picture in (before, after):
        grey = picture.mean(-1)
        spectra.append(fft.rfft2((grey - np.average(grey, weights=window + 1e-9)) * window))
    cross = spectra[1] * np.conj(spectra[0])
    size = np.abs(cross)
    # Where both have next to nothing, phases are noise: these frequencies count for less.
    peak = fft.irfft2(cross / (size + size.mean() + 1e-9), s=outside.shape)
    rows, columns = (np.fft.fftfreq(n, 1 / n).round() for n in (height, width))
    peak[np.abs(rows) > RANGE * height] = -np.inf
    peak[:, np.abs(columns) > RANGE * width] = -np.inf
    y, x = np.unravel_index(peak.argmax(), peak.shape)
    return float(columns[x]), float(rows[y])


def _fit(
    before: np.ndarray, after: np.ndarray, outside: np.ndarray, start: tuple[float, float]
) -> tuple[float, Registration]:
    """How badly the model fits (levels), and what was fitted from a start (dx, dy)."""
    height, width = outside.shape
    slope_y, slope_x = np.gradient(before, axis=(0, 1))
    shift: np.ndarray = np.array(start)
    gain: np.ndarray = np.ones(3)
    offset: np.ndarray = np.median((_moved(after, *start) - before)[outside], axis=0)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for _ in range(ROUNDS):
        dx, dy = shift
        moved = _moved(after, dx, dy)
        usable = outside & (rows + dy >= 0) & (rows + dy <= height - 1)
        usable &= (columns + dx >= 0) & (columns + dx <= width - 1)
        if not usable.any():
            return math.inf, Registration()
        residual = (moved - gain * before - offset)[usable]
        largest = np.abs(residual).max(-1)
        cutoff = np.clip(ABOVE_QUIET * np.percentile(largest, QUIET), LOWEST, HIGHEST)
        weights = np.clip(1 - (largest / cutoff) ** 2, 0, None) ** 2
        share = float((weights > 0).mean())
        # Unknowns: dx, dy (of all channels), gain and offset of each.
        normal, right = np.zeros((8, 8)), np.zeros(8)
        for c in range(3):
            design = np.stack(
                [-gain[c] * slope_x[..., c][usable], -gain[c] * slope_y[..., c][usable],
                 before[..., c][usable], np.ones(len(weights))], axis=-1,
            )  # fmt: skip
            own = np.ix_([0, 1, 2 + c, 5 + c], [0, 1, 2 + c, 5 + c])
            weighted = design * weights[:, None]
            normal[own] += weighted.T @ design
            right[own[1][0]] += weighted.T @ moved[..., c][usable]
        # Of a flat picture no gain and no shift can be known: a trace of a ridge keeps them.
        normal[np.diag_indices(8)] += RIDGE
        right[2:5] += RIDGE
        solution = np.linalg.solve(normal, right)
        step, gain, offset = solution[:2], solution[2:5], solution[5:]
        shift = shift + np.clip(step, -1, 1)
        if np.abs(step).max() < CONVERGED:
            break
    variance = (weights[:, None] * residual**2).sum() / max(3 * weights.sum(), 1e-9)
    spread = np.linalg.inv(normal)[:2, :2].diagonal().max()
    error = math.sqrt(CORRELATED * max(variance, LEAST_RESIDUAL**2) * spread)
    found = Registration(
        measured=True,
        dx=float(shift[0]),
        dy=float(shift[1]),
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        offset=(float(offset[0]), float(offset[1]), float(offset[2])),
        share=share,
        error=error,
    )
    return float(np.minimum(largest, HIGHEST).mean()), found


def _is_drift(found: Registration, width: int, height: int) -> bool:
    """Whether a fit can be what it is meant to be."""
    return (
        found.share >= LEAST_SHARE
        and found.error <= MOST_ERROR
        and all(1 / MOST_GAIN <= gain <= MOST_GAIN for gain in found.gain)
        and all(abs(change) <= MOST_OFFSET for change in found.colour)
        and abs(found.dx) <= RANGE * width
        and abs(found.dy) <= RANGE * height
    )
