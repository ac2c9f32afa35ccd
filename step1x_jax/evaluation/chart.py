"""The radar chart: a method's tasks around a circle, as in the paper.

matplotlib is imported here alone, and only when a chart is drawn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import replacing

INCHES, DOTS = (8.0, 7.0), 150  # of the chart; dots in an inch


def draw_radar(
    path: epath.PathLike,
    title: str,
    tasks: Sequence[str],
    methods: Mapping[str, Sequence[float | None]],
    highest: float,
) -> None:
    """Write a PNG.

    Args:
      path: of the file.
      title: above it.
      tasks: spokes, three at least, clockwise from the top.
      methods: name -> its mean of each task; None leaves a gap in its line.
      highest: end of the scale, which begins at 0.

    Raises:
      UserError: matplotlib is missing, there are fewer tasks, or the file cannot be written.
    """
    if len(tasks) < 3:
        raise UserError(f"a radar chart needs three tasks, and {title} has {len(tasks)}.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise UserError("charts need matplotlib: pip install 'step1x_jax[evaluation]'") from e
    figure = Figure(INCHES, DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="polar")
    axes.set_theta_zero_location("N")  # type: ignore[attr-defined]
    axes.set_theta_direction(-1)  # type: ignore[attr-defined]
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    closed = np.append(angles, angles[0])
    for name, means in methods.items():
        values = np.array([np.nan if mean is None else mean for mean in means])
        axes.plot(closed, np.append(values, values[0]), marker=".", label=name)
    axes.set_xticks(angles, tasks)
    axes.tick_params(axis="x", pad=34)
    axes.set_ylim(0, highest)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3)
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png")
