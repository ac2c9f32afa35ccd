"""What every embedded edit must pass. Each limit stands here once, with its reason."""

import functools

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded.colours import colour_difference, luminance
from step1x_jax.curation.embedded.opencv import cv2
from step1x_jax.curation.embedded.photographs import Photograph
from step1x_jax.curation.embedded.types import Edit, Rejection

# The issue's number. Our subjects' masks measure 0.92 to 0.99; with a sixth cut off 0.81 to 0.90, a
# third 0 to 0.88, shifted by 7 % 0.66 to 0.81.
LEAST_STABILITY = 0.9
# Boxes that two detectors, or two people, draw around one thing differ by a few per cent.
JITTER = 0.03
JITTERS = 4
# Around the box, as a share of its sides, in which the thing may still be: at 0.05 a mask that was
# cut off straight passes, for its box hides the rest.
SPARE = 0.15
STABILITY_SIDE = 160  # pixels at which the segmentation is done again: half a second a mask

# CIE76 over the region: 2.3 is just noticeable side by side; thrice that is seen at a glance.
LEAST_CHANGE = 6.9
# Share of the picture: below it, nothing is left at the 128 pixels of the smallest models.
LEAST_REGION = 0.002
# Of a text's ink: all but what rounding takes.
LEAST_TEXT = 0.995
LEAST_LETTERS = 12  # pixels of height, below which letters are not read for sure
# Flow, as shares of the longer side: below 2 % nobody calls it a move.
LEAST_MOVE = 0.02
# The foreground's flow over the background's: 60 for a moved subject, 1.0 for a pan, 1.3 for a
# stereo pair.
LEAST_FLOW_RATIO = 3.0
FLOW_SIDE = 320  # pixels at which the flow is computed
# Pixels: a plane's disparities lie within what stereo matching resolves.
MOST_PLANE_ERROR = 0.5
# Degrees: hues of one colour name lie within half the distance to the next name.
MOST_HUE_SPREAD = 20.0


def check(edit: Edit) -> Edit | Rejection:
    """The edit, or why it is none: gates that hold for every category."""
    mask = edit.mask
    assert edit.source.shape == edit.target.shape
    assert mask.shape == edit.source.shape[:2]
    share = float(mask.mean())
    if share < LEAST_REGION:
        return reject(edit, "region_too_small", region=share)
    if not np.array_equal(edit.source[~mask], edit.target[~mask]):
        return reject(edit, "changed_outside_region")
    change = float(colour_difference(edit.source, edit.target)[mask].mean())
    if change < LEAST_CHANGE:
        return reject(edit, "hardly_visible", change=change)
    edit.facts.update(region=round(share, 4), change=round(change, 2))
    return edit


def reject(edit: Edit, reason: str, **facts: float) -> Rejection:
    """A rejection of an edit, with what is known of it."""
    return Rejection(edit.category, reason, {**edit.facts, **facts})


def reject_plan(
    category: Category, photograph: Photograph, reason: str, **facts: str | float
) -> Rejection:
    """A rejection before there is an edit."""
    return Rejection(category, reason, {"photographs": photograph.original, **facts})


@functools.lru_cache(maxsize=256)
def subject_stability(photograph: Photograph, name: str) -> float:
    """`mask_stability` of a subject, as far down as it may be seen."""
    subject = next(s for s in photograph.subjects if s.data.name == name)
    alpha, pixels = subject.alpha[: subject.data.bottom], photograph.pixels[: subject.data.bottom]
    if subject.data.box is None:
        return mask_stability(pixels, alpha)
    rows, columns = np.nonzero(alpha > 0)  # of several, this one and what is around it
    around = 10
    box = (
        slice(max(rows.min() - around, 0), rows.max() + around),
        slice(max(columns.min() - around, 0), columns.max() + around),
    )
    return mask_stability(pixels[box], alpha[box])


@functools.lru_cache(maxsize=256)
def scene_stability(photograph: Photograph) -> float:
    """`mask_stability` of what stays in a photograph when its background changes."""
    assert photograph.foreground is not None
    return mask_stability(photograph.pixels, photograph.foreground, photograph.disparity)


def mask_stability(
    pixels: np.ndarray, alpha: np.ndarray, disparity: np.ndarray | None = None
) -> float:
    """How well the picture itself supports a mask: the smallest IoU under jitter of its box.

    The mask is shifted and stretched with its box, and GrabCut finds it again from there, knowing
    only that it is in the box or near it. Where the mask's edge is an edge of the picture, it comes
    back.

    Args:
      pixels: (H, W, 3) uint8.
      alpha: (H, W) float32, the mask where above one half.
      disparity: (H, W) float32 or None; where it is known it is one of the three channels, for
        depth tells apart what colours do not.
    """
    height, width = alpha.shape
    scale = min(1.0, STABILITY_SIDE / max(height, width))
    size = (max(round(width * scale), 2), max(round(height * scale), 2))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(np.ascontiguousarray(alpha), size, interpolation=cv2.INTER_AREA) > 0.5
    if mask.all() or not mask.any():
        return 0.0
    if disparity is not None:
        small = _with_depth(small, disparity)
    rows, columns = np.nonzero(mask)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)
    sides = np.tile(box[2:] - box[:2], 2)
    rng = np.random.default_rng(0)  # the same jitters for every mask
    shares = []
    for _ in range(JITTERS):
        jittered = box + rng.uniform(-JITTER, JITTER, 4) * sides
        found = _segment(small, mask, box, jittered)
        shares.append((found & mask).sum() / max((found | mask).sum(), 1))
    return float(min(shares))


def foreground_flow(
    source: np.ndarray, target: np.ndarray, subject: np.ndarray, elsewhere: np.ndarray
) -> tuple[float, float]:
    """The paper's two numbers for a motion: mean norm of a subject's flow, norm of the rest's mean.

    Args:
      source: (H, W, 3) uint8.
      target: (H, W, 3) uint8.
      subject: (H, W) bool, where it is in the source.
      elsewhere: (H, W) bool, where it is neither before nor after.

    Returns:
      Both in pixels of the pictures.
    """
    scale = min(1.0, FLOW_SIDE / max(source.shape[:2]))
    size = (round(source.shape[1] * scale), round(source.shape[0] * scale))

    def grey(pixels: np.ndarray) -> np.ndarray:
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return np.round(luminance(small) * 255).astype(np.uint8)

    def small_mask(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0

    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = engine.calc(grey(source), grey(target), None) / scale
    inside, outside = flow[small_mask(subject)], flow[small_mask(elsewhere)]
    if not len(inside) or not len(outside):
        return 0.0, 0.0
    foreground = np.linalg.norm(inside, axis=-1).mean()
    return float(foreground), float(np.linalg.norm(outside.mean(0)))


def moves(foreground: float, background: float, longer_side: int) -> bool:
    """The flow rule: the subject moves visibly, and the camera does not."""
    return foreground >= LEAST_MOVE * longer_side and foreground >= LEAST_FLOW_RATIO * background


def plane_error(disparity: np.ndarray, alpha: np.ndarray) -> float:
    """Median distance in pixels of a surface's disparities from one plane; inf without any."""
    known = np.isfinite(disparity) & (alpha > 0.99)
    if known.sum() < 100:
        return float("inf")
    rows, columns = np.nonzero(known)
    values = disparity[known].astype(np.float64)
    terms = np.stack([columns, rows, np.ones_like(rows)], -1).astype(np.float64)
    kept = np.ones(len(values), bool)
    for _ in range(5):  # without what lies on the surface
        solution = np.linalg.lstsq(terms[kept], values[kept], rcond=None)[0]
        errors = np.abs(values - terms @ solution)
        kept = errors <= max(3 * float(np.median(errors)), 1e-6)
    return float(np.median(errors))


def _segment(
    pixels: np.ndarray, mask: np.ndarray, box: np.ndarray, jittered: np.ndarray
) -> np.ndarray:
    """(h, w) bool: GrabCut from a mask that was moved from one box to another."""
    factors = (jittered[2:] - jittered[:2]) / (box[2:] - box[:2])
    shift = jittered[:2] - factors * box[:2]
    matrix = np.array([[factors[0], 0, shift[0]], [0, factors[1], shift[1]]])
    start = cv2.warpAffine(
        mask.astype(np.uint8),
        matrix,
        mask.shape[::-1],
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REPLICATE,
    )
    labels = np.where(start > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    left, top, right, bottom = jittered
    spare = SPARE * (jittered[2:] - jittered[:2])
    outside = (columns < left - spare[0]) | (columns >= right + spare[0])
    outside |= (rows < top - spare[1]) | (rows >= bottom + spare[1])
    labels[outside] = cv2.GC_BGD
    present = set(np.unique(labels))
    if cv2.GC_PR_FGD not in present or len(present) < 2:
        return start > 0
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(pixels, labels, None, *models, 1, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _with_depth(pixels: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: grey, the difference of red and blue, and disparity over its range."""
    known = np.isfinite(disparity)
    filled = np.where(known, disparity, np.nanmedian(disparity)).astype(np.float32)
    low, high = np.percentile(filled[known], [1, 99])
    near = np.clip((filled - low) / max(high - low, 1e-6), 0, 1)
    near = cv2.resize(near, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    grey = luminance(pixels)
    warm = (pixels[..., 0].astype(np.float32) - pixels[..., 2]) / 510 + 0.5
    return np.round(np.stack([grey, warm, near], -1) * 255).astype(np.uint8)
