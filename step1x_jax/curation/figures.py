"""Pictures of a run's figures: its categories, and its size beside public sets'.

matplotlib is imported here alone, and only when a picture is drawn.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from step1x_jax.curation.public_sets import PUBLIC_SETS
from step1x_jax.errors import UserError
from step1x_jax.files import replacing

CATEGORIES, SETS = "categories.png", "public_sets.png"


def draw_all(counted: Mapping[str, Any], folder: epath.PathLike) -> None:
    """Draw both pictures into a folder.

    Args:
      counted: what `stats.count` gives.
      folder: made if need be.

    Raises:
      UserError: matplotlib is missing, or the folder cannot be written to.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise UserError("figures need matplotlib: pip install 'step1x_jax[curation]'") from e
    folder = epath.Path(folder)
    for name, draw in ((CATEGORIES, _draw_categories), (SETS, _draw_sets)):
        figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
        draw(figure.subplots(), counted)
        with replacing(folder / name) as temporary, temporary.open("wb") as file:
            figure.savefig(file, format="png")


def _draw_categories(axes: Any, counted: Mapping[str, Any]) -> None:
    names = list(counted["categories"])
    numbers = [counted["categories"][name]["accepted"] for name in names]
    axes.bar_label(axes.barh(names, numbers), padding=2)
    axes.invert_yaxis()
    axes.set_xlabel("accepted edits")


def _draw_sets(axes: Any, counted: Mapping[str, Any]) -> None:
    accepted = counted["retention"]["accepted"]
    names = ["this run", *(f"{one.name} (arXiv {one.paper})" for one in PUBLIC_SETS)]
    numbers = [accepted, *(one.edits for one in PUBLIC_SETS)]
    bars = axes.barh(names, [max(number, 1) for number in numbers])
    axes.bar_label(bars, labels=[f"{number:,}" for number in numbers], padding=2)
    axes.set_xscale("log")
    axes.set_xlim(1, 10 * max(numbers))
    axes.invert_yaxis()
    axes.set_xlabel("edits")
