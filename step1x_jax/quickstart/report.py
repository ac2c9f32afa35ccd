"""Score the quickstart's edits against baselines and an upper bound.

PSNR alone says little, because a model that ignores the picture also gains some decibels. Each edit
is therefore compared with two baselines, the unedited source and the mean of all true edits of the
same kind and shape ("photo-blind"), and with an upper bound, the autoencoder's reconstruction of
the true edit. In addition the nearest of all true edits of its shape is determined.

Legend: N edits, H height, W width.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from step1x_jax.quickstart.held_out import HeldOutEdit

# Equal pictures have an infinite PSNR, which JSON cannot represent.
HIGHEST_PSNR = 100.0


@dataclasses.dataclass(frozen=True)
class EditScore:
    """Scores of one edit. PSNRs are in dB against the true edit.

    Attributes:
      crop: the edited crop.
      kind: name of the kind of edit.
      instruction: the instruction.
      psnr_source: PSNR of the unedited source.
      psnr_edited: PSNR of the model's output.
      psnr_photo_blind: PSNR of the mean of the true edits of this kind and shape (this one
        included).
      psnr_autoencoder: PSNR of the autoencoder's reconstruction of the true edit.
      right_photo: whether the true edit nearest to the output has the same crop.
      right_kind: whether the true edit nearest to the output has the same kind.
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
    """Compute the peak signal-to-noise ratio over height, width and colours.

    Args:
      a: (..., H, W, 3), values from 0 to 255.
      b: the same shape and range.

    Returns:
      (...) float64 in dB, at most `HIGHEST_PSNR`.
    """
    error = np.mean((np.asarray(a, np.float64) - b) ** 2, axis=(-3, -2, -1))
    lowest = 255**2 / 10 ** (HIGHEST_PSNR / 10)
    return 10 * np.log10(255**2 / np.maximum(error, lowest))


def photo_blind(targets: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Average the true edits of each kind: the baseline that knows the kind but not the photograph.

    Args:
      targets: true edits of one shape, (N, H, W, 3) uint8.
      kinds: kind of each, N.

    Returns:
      (N, H, W, 3) float64, equal for edits of one kind.
    """
    names = np.array(kinds)
    means = {kind: targets[names == kind].mean(axis=0, dtype=np.float64) for kind in set(kinds)}
    return np.stack([means[kind] for kind in kinds])


def find_nearest(pictures: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Find the true edit that is nearest to each picture by squared error.

    Args:
      pictures: (N, H, W, 3) uint8.
      targets: (M, H, W, 3) uint8.

    Returns:
      (N,) indices into `targets`.
    """
    a = pictures.reshape(len(pictures), -1).astype(np.float64)
    b = targets.reshape(len(targets), -1).astype(np.float64)
    # |a - b|^2 without |a|^2, which is the same for all b. Exact: all integers are below 2^53.
    return np.argmin((b**2).sum(axis=1) - 2 * a @ b.T, axis=1)


def score_edits(
    edits: Sequence[HeldOutEdit],
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    edited: Sequence[np.ndarray],
    reconstructed: Sequence[np.ndarray],
) -> list[EditScore]:
    """Score the model's outputs against the true edits.

    Args:
      edits: the N edits.
      sources: N pictures (H, W, 3) uint8; shapes may differ between edits.
      targets: the true edits, with the same shapes.
      edited: the model's outputs, with the same shapes.
      reconstructed: the autoencoder's reconstructions of `targets`, with the same shapes.

    Returns:
      N scores.
    """
    scores: dict[int, EditScore] = {}
    for shape in dict.fromkeys(picture.shape for picture in targets):
        chosen = [i for i, picture in enumerate(targets) if picture.shape == shape]
        of_shape = [
            np.stack([pictures[i] for i in chosen])
            for pictures in (sources, targets, edited, reconstructed)
        ]
        scores |= zip(chosen, _score_same_shape([edits[i] for i in chosen], *of_shape), strict=True)
    return [scores[i] for i in range(len(edits))]


def _score_same_shape(
    edits: Sequence[HeldOutEdit],
    sources: np.ndarray,
    targets: np.ndarray,
    edited: np.ndarray,
    reconstructed: np.ndarray,
) -> list[EditScore]:
    """Score edits whose pictures (N, H, W, 3) have the same shape."""
    blind = photo_blind(targets, [edit.kind for edit in edits])
    figures = zip(
        psnr(sources, targets),
        psnr(edited, targets),
        psnr(blind, targets),
        psnr(reconstructed, targets),
        find_nearest(edited, targets),
        strict=True,
    )
    return [
        EditScore(
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


def mean_gain(scores: Sequence[EditScore]) -> float:
    """Compute the mean gain in dB: PSNR of the output minus PSNR of the unedited source."""
    return float(np.mean([s.psnr_edited - s.psnr_source for s in scores]))


def to_json(scores: Sequence[EditScore], seconds: float) -> dict:
    """Build the content of report.json.

    Args:
      scores: scores of all edits.
      seconds: duration of the quickstart without installing packages.

    Returns:
      {"edits": [...], "mean_gain_db", "seconds"}.
    """
    return {
        "edits": [dataclasses.asdict(s) for s in scores],
        "mean_gain_db": mean_gain(scores),
        "seconds": seconds,
    }


def format_table(scores: Sequence[EditScore]) -> str:
    """Format the scores as text: a line per kind, then the mean over all edits.

    `gain`, `photo-blind` and `ceiling` are in dB above the unedited source.
    """
    head = f"{'kind':<14}{'source':>8}{'edited':>8}{'gain':>7}{'photo-blind':>13}{'ceiling':>9}"
    head += f"{'right photo':>13}{'right kind':>12}"
    kinds = list(dict.fromkeys(s.kind for s in scores))
    groups = [(kind, [s for s in scores if s.kind == kind]) for kind in kinds]
    lines = [_format_line(name, group) for name, group in [*groups, ("all", scores)]]
    return "\n".join([head, *lines[:-1], "-" * len(head), lines[-1]])


def _format_line(name: str, scores: Sequence[EditScore]) -> str:
    """Format one line of the table."""
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
