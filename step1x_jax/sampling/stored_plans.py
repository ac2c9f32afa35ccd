"""speeds.json beside a model's weights: the plans that its speeds mean, by name."""

from collections.abc import Mapping

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import is_file
from step1x_jax.json_files import as_json, build, read_json, shown, write_json
from step1x_jax.sampling.plan import BUILT_IN, SamplingPlan

FILE = "speeds.json"
LARGEST = 1 << 20  # bytes


def read_plans(folder: epath.PathLike) -> dict[str, SamplingPlan]:
    """The plans that are stored in a folder; none if it has no such file.

    Raises:
      UserError: the file is unreadable, or a plan in it is impossible.
    """
    path = epath.Path(folder) / FILE
    if not is_file(path):
        return {}
    plans = {}
    for name, values in read_json(path, LARGEST).items():
        if name not in BUILT_IN:
            raise UserError(
                f"{path}: {shown(name)} is no speed; plans are stored for {' and '.join(BUILT_IN)}."
            )
        plans[name] = build(SamplingPlan, values, str(path), name)
        plans[name].validate(f"{path}: {name}")
    return plans


def write_plans(folder: epath.PathLike, plans: Mapping[str, SamplingPlan]) -> epath.Path:
    """Write plans by the names of speeds, and give the file's path.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    path = epath.Path(folder) / FILE
    write_json(path, {name: as_json(plan) for name, plan in plans.items()})
    return path
