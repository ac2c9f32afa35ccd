"""Draw the quickstart's report: source, instruction, edited, true edit; and the loss curve.

matplotlib is imported only here, and only when the report is drawn.
"""

import textwrap
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from step1x_jax.errors import UserError
from step1x_jax.quickstart.held_out import HeldOutEdit

COLUMNS = ("source", "instruction", "edited", "true edit")
SMOOTHED_OVER = 0.1  # fraction of the curve's points in the moving average


def choose_examples(edits: Sequence[HeldOutEdit], *, chinese: bool) -> list[int]:
    """Choose one edit of each kind, rotating through the crops.

    Args:
      edits: all edits.
      chinese: show two of every four kinds with a Chinese instruction if there is one.

    Returns:
      Indices into `edits`, one per kind in order of first appearance.
    """
    chosen = []
    kinds = list(dict.fromkeys(edit.kind for edit in edits))
    for number, kind in enumerate(kinds):
        own = [i for i, edit in enumerate(edits) if edit.kind == kind]
        start = (7 * number) % len(own)  # of 2 x 6 crops: photographs and shapes alternate
        rotated = own[start:] + own[:start]
        language = "cn" if chinese and number // 2 % 2 else "en"  # crops alternate between both
        matching = [i for i in rotated if edits[i].language == language]
        chosen.append((matching or rotated)[0])
    return chosen


def draw_report(
    file: IO[bytes],
    edits: Sequence[HeldOutEdit],
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    edited: Sequence[np.ndarray],
    curve: Sequence[dict[str, float]],
    title: str,
) -> str | None:
    """Draw the report as a PNG.

    Args:
      file: receives the PNG.
      edits: all N edits.
      sources: N pictures (H, W, 3) uint8.
      targets: the true edits, likewise.
      edited: the model's outputs, likewise.
      curve: the run's metrics, dictionaries with step and loss; empty: no curve.
      title: one line at the top.

    Returns:
      A note on what could not be shown, or None.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.font_manager import FontProperties
    except ImportError as e:
        raise UserError('the report needs matplotlib: pip install "step1x_jax[quickstart]"') from e
    characters = {c for edit in edits if edit.language == "cn" for c in edit.instruction}
    font = find_font(characters)
    chosen = choose_examples(edits, chinese=font is not None)

    half = (len(chosen) + 1) // 2
    width = 11.2 + (3.8 if curve else 0)
    figure = Figure(figsize=(width, 1.35 * half + 0.75), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11)
    widths = [1, 1, 0.68] if curve else [1, 1]
    subfigures = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for subfigure, group in zip(subfigures, (chosen[:half], chosen[half:]), strict=False):
        axes = subfigure.subplots(half, len(COLUMNS), squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, name in zip(axes[0], COLUMNS, strict=True):
            axis.set_title(name, fontsize=9)
        for line, i in zip(axes, group, strict=False):
            for axis, picture in zip(line[[0, 2, 3]], (sources, edited, targets), strict=True):
                axis.imshow(picture[i])
            in_chinese = edits[i].language == "cn"
            if in_chinese and font is None:
                text, properties = edits[i].kind.replace("_", " "), FontProperties()
            else:
                text = textwrap.fill(edits[i].instruction, 8 if in_chinese else 15)
                properties = FontProperties(fname=font if in_chinese else None)
            line[1].set_box_aspect(1)  # as high as the pictures beside it
            line[1].text(
                0.5, 0.5, text, ha="center", va="center", fontsize=9, fontproperties=properties
            )
    if curve:
        _draw_curve(subfigures[2].subplots(), curve)
    figure.savefig(file, format="png")
    if font is None and characters:
        return "no font with Chinese characters was found: the picture shows English instructions"
    return None


def find_font(characters: set[str]) -> str | None:
    """Find the file of an installed font with all these characters; None if there is none."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    codes = {ord(c) for c in characters if not c.isspace()}
    for path in sorted({entry.fname for entry in font_manager.fontManager.ttflist}):
        if "LastResort" in path:  # draws every character as a box
            continue
        try:
            if codes <= FT2Font(path).get_charmap().keys():
                return path
        except (OSError, RuntimeError):  # damaged, or removed after matplotlib listed it
            continue
    return None


def trailing_mean(losses: np.ndarray, points: int) -> np.ndarray:
    """Average the last `points` values (fewer at the start): (N,) -> (N,) float64."""
    sums = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - points, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _draw_curve(axis: Any, curve: Sequence[dict[str, float]]) -> None:
    """Draw the loss as logged and smoothed."""
    steps = [row["step"] for row in curve]
    losses = np.array([row["loss"] for row in curve])
    points = max(1, round(SMOOTHED_OVER * len(losses)))
    axis.plot(steps, losses, color="0.8", label="as logged")
    axis.plot(steps, trailing_mean(losses, points), color="C0", label="smoothed")
    axis.set(xlabel="step", title="training loss")
    # The first losses are several times larger than the rest and would flatten the curve.
    axis.set_ylim(0.95 * losses.min(), 1.05 * np.quantile(losses, 0.97))
    axis.legend()
    axis.grid(alpha=0.3)
