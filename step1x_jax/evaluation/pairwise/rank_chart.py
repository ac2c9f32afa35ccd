"""A ranking as a picture: Elo with its interval, a panel for each dimension and one jointly.

matplotlib is imported here alone of pairwise/, and only when a picture is drawn.
"""

from collections.abc import Sequence
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.ranking import JOINTLY, RankingTable
from step1x_jax.files import replacing


def draw_ranking(path: epath.PathLike, tables: Sequence[RankingTable]) -> None:
    """Write a PNG.

    Args:
      path: of the file.
      tables: of `rank`; methods are in the order of the last one, the joint table.

    Raises:
      UserError: matplotlib is missing, or the file cannot be written.
    """
    figure = _new_figure(len(tables), len(tables[-1].scores))
    order = [score.method for score in tables[-1].scores]
    axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axis, table in zip(axes, tables, strict=True):
        places = [-order.index(score.method) for score in table.scores]
        elos = [score.elo for score in table.scores]
        # A percentile interval need not enclose the score; a bar has two ends beside it.
        below = [max(0.0, score.elo - score.low) for score in table.scores]
        above = [max(0.0, score.high - score.elo) for score in table.scores]
        color = "black" if table.dimension == JOINTLY else "tab:blue"
        axis.errorbar(elos, places, xerr=(below, above), fmt="o", color=color, capsize=3)
        axis.axvline(1000, color="grey", linewidth=0.8, linestyle=":")
        axis.set_title("jointly" if table.dimension == JOINTLY else table.dimension, fontsize=9)
        axis.set_xlabel("Elo, 95 %")
        axis.grid(axis="y", linewidth=0.3)
    axes[0].set_yticks([-i for i in range(len(order))], labels=[_plain(name) for name in order])
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png")


def _plain(name: str) -> str:
    """A name as it is: a pair of dollar signs would begin a formula."""
    return name.replace("$", r"\$")


def _new_figure(panels: int, rows: int) -> Any:
    """Make a figure without a window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise UserError("charts need matplotlib: pip install 'step1x_jax[evaluation]'") from e
    return Figure(figsize=(3 + 2.5 * panels, 1.5 + 0.3 * rows), dpi=120, layout="constrained")
