"""Cost against error, one picture of launch.bench sample.

matplotlib is imported here alone, and only when the picture is drawn.
"""

from collections.abc import Mapping

from etils import epath

from launch.speeds.edits import SpeedError
from step1x_jax.errors import UserError
from step1x_jax.files import replacing
from step1x_jax.sampling.plan import EXACT

INCHES, DOTS = (7.5, 4.5), 120  # of the picture; dots in an inch


def draw(path: epath.PathLike, errors: Mapping[str, SpeedError], title: str) -> None:
    """Write a PNG: a point for each mode at its mean, a line down to the worst edit.

    Args:
      path: of the file.
      errors: by the names of modes; "exact" is left out, for it has no error.
      title: above it.

    Raises:
      UserError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise UserError("pictures need matplotlib: pip install 'step1x_jax[evaluation]'") from e
    figure = Figure(INCHES, DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, error in errors.items():
        if name == EXACT:
            continue
        share, mean, worst = error.share_of_flops, error.psnr_mean, error.psnr_worst
        (line,) = axes.plot([share, share], [worst, mean], linewidth=1)
        axes.plot(share, mean, marker="o", color=line.get_color(), label=name)
        axes.plot(share, worst, marker="_", color=line.get_color())
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the exact sampler's FLOPs")
    axes.set_ylabel("PSNR to the exact result in dB: mean, worst")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png")
