"""How good the quickstart's edits are, next to what would be easy and what is possible.

PSNR alone proves little: a model that ignores the picture gains decibels too. So each edit is
compared with the untouched source (no edit), with the mean of all true edits of its kind and shape
(the edit without the photograph) and with the autoencoder's reconstruction of the true edit (the
most that a model in its latents can reach), and it is asked which of all true edits of its shape it
looks like.

Legend: N edits, H height, W width.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from step1x_jax.quickstart.held_out import HeldOutEdit

# Equal pictures would have an infinite PSNR, which is no number in JSON.
HIGHEST_PSNR = 100.0


@dataclasses.dataclass(frozen=True)
class Score:
    """One edit's figures. PSNRs are in dB and against the true edit.

    Attributes:
      crop: Which was edited.
      kind: Name of the kind of edit.
      instruction: What was asked.
      psnr_source: Of the untouched source.
      psnr_edited: Of the model's output.
      psnr_photo_blind: Of the mean of the kind's true edits of this shape, this one included.
      psnr_autoencoder: Of the autoencoder's reconstruction of the true edit.
      right_photo: Of all true edits of this shape, the nearest to the output is of the same crop.
      right_kind: The nearest is of the same kind.
    """

    crop: str
    kind: str
    instruction: str
    psnr_source: float
    psnr_edited: float
    psnr_photo_blind: float
    psnr_autoencoder: float
    right_photo: bool
    right_kind: bool


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio over height, width and colours.

    Args:
      a: (..., H, W, 3), values from 0 to 255.
      b: Of the same shape.

    Returns:
      (...) float64 in dB, at most `HIGHEST_PSNR`.
    """
    error = np.mean((np.asarray(a, np.float64) - b) ** 2, axis=(-3, -2, -1))
    lowest = 255**2 / 10 ** (HIGHEST_PSNR / 10)
    return 10 * np.log10(255**2 / np.maximum(error, lowest))


def photo_blind(targets: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """What is known about an edit without its photograph: the mean of the kind's true edits.

    Args:
      targets: True edits of one shape (N, H, W, 3) uint8.
      kinds: Of each.

    Returns:
      (N, H, W, 3) float64, equal for edits of one kind.
    """
    names = np.array(kinds)
    means = {kind: targets[names == kind].mean(axis=0, dtype=np.float64) for kind in set(kinds)}
    return np.stack([means[kind] for kind in kinds])


def nearest(pictures: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which true edit each picture resembles most, by squared error.

    Args:
      pictures: (N, H, W, 3) uint8.
      targets: (M, H, W, 3) uint8.

    Returns:
      (N,) indices into `targets`.
    """
    a = pictures.reshape(len(pictures), -1).astype(np.float64)
    b = targets.reshape(len(targets), -1).astype(np.float64)
    # |a - b|^2 without |a|^2, which is the same for all b. Exact: whole numbers below 2^53.
    return np.argmin((b**2).sum(axis=1) - 2 * a @ b.T, axis=1)


def score(
    edits: Sequence[HeldOutEdit],
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    edited: Sequence[np.ndarray],
    reconstructed: Sequence[np.ndarray],
) -> list[Score]:
    """Compares the model's outputs with the true edits.

    Args:
      edits: What was asked, N.
      sources: N pictures (H, W, 3) uint8; shapes may differ from edit to edit.
      targets: The true edits, of the same shapes.
      edited: The model's outputs, likewise.
      reconstructed: The true edits through the autoencoder, likewise.

    Returns:
      N scores.
    """
    scores: dict[int, Score] = {}
    for shape in dict.fromkeys(picture.shape for picture in targets):
        chosen = [i for i, picture in enumerate(targets) if picture.shape == shape]
        of_shape = [
            np.stack([pictures[i] for i in chosen])
            for pictures in (sources, targets, edited, reconstructed)
        ]
        scores |= zip(chosen, _score_shape([edits[i] for i in chosen], *of_shape), strict=True)
    return [scores[i] for i in range(len(edits))]


def _score_shape(
    edits: Sequence[HeldOutEdit],
    sources: np.ndarray,
    targets: np.ndarray,
    edited: np.ndarray,
    reconstructed: np.ndarray,
) -> list[Score]:
    """`score` of pictures (N, H, W, 3) of one shape."""
    blind = photo_blind(targets, [edit.kind for edit in edits])
    figures = zip(
        psnr(sources, targets),
        psnr(edited, targets),
        psnr(blind, targets),
        psnr(reconstructed, targets),
        nearest(edited, targets),
        strict=True,
    )
    return [
        Score(
            crop=edit.crop,
            kind=edit.kind,
            instruction=edit.instruction,
            psnr_source=float(of_source),
            psnr_edited=float(of_edited),
            psnr_photo_blind=float(of_blind),
            psnr_autoencoder=float(of_autoencoder),
            right_photo=edits[match].crop == edit.crop,
            right_kind=edits[match].kind == edit.kind,
        )
        for edit, (of_source, of_edited, of_blind, of_autoencoder, match) in zip(
            edits, figures, strict=True
        )
    ]


def mean_gain(scores: Sequence[Score]) -> float:
    """Mean over the edits of output's PSNR minus untouched source's, in dB."""
    return float(np.mean([s.psnr_edited - s.psnr_source for s in scores]))


def to_json(scores: Sequence[Score], seconds: float) -> dict:
    """The content of report.json.

    Args:
      scores: Of all edits.
      seconds: What the whole quickstart took, without installing packages.

    Returns:
      {"edits": [...], "mean_gain_db", "seconds"}.
    """
    return {
        "edits": [dataclasses.asdict(s) for s in scores],
        "mean_gain_db": mean_gain(scores),
        "seconds": seconds,
    }


def table(scores: Sequence[Score]) -> str:
    """The scores as text: a line per kind, then the means.

    `gain`, `photo-blind` and `ceiling` are in dB above the untouched source.
    """
    head = f"{'kind':<14}{'source':>8}{'edited':>8}{'gain':>7}{'photo-blind':>13}{'ceiling':>9}"
    head += f"{'right photo':>13}{'right kind':>12}"
    kinds = list(dict.fromkeys(s.kind for s in scores))
    groups = [(kind, [s for s in scores if s.kind == kind]) for kind in kinds]
    lines = [_line(name, group) for name, group in [*groups, ("all", scores)]]
    return "\n".join([head, *lines[:-1], "-" * len(head), lines[-1]])


def _line(name: str, scores: Sequence[Score]) -> str:
    """One line of the table."""
    source = np.mean([s.psnr_source for s in scores])
    edited = np.mean([s.psnr_edited for s in scores])
    blind = np.mean([s.psnr_photo_blind for s in scores])
    ceiling = np.mean([s.psnr_autoencoder for s in scores])
    photo = f"{sum(s.right_photo for s in scores)}/{len(scores)}"
    kind = f"{sum(s.right_kind for s in scores)}/{len(scores)}"
    return (
        f"{name:<14}{source:>8.1f}{edited:>8.1f}{edited - source:>+7.1f}{blind - source:>+13.1f}"
        f"{ceiling - source:>+9.1f}{photo:>13}{kind:>12}"
    )
