"""How far edits at each speed are from the exact ones, what that costs, and what it takes.

Modes are the speeds of the model, the unconditional branch held at every second computed step but
not in the last three, and both together.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from tqdm import tqdm

from launch.benches.sample_picture import draw
from launch.shared import editor_flags, sampling_flags
from launch.speeds.edits import EditSettings, compare, read_edits
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import find_weights
from step1x_jax.errors import UserError
from step1x_jax.sampling.plan import BUILT_IN, SamplingPlan, every_step, plan_of

_ERROR = flags.DEFINE_bool("error", False, "Compare the results of each speed with the exact ones.")
_MODEL = flags.DEFINE_string("model", "", "quickstart, a run's folder, or weights.")
_EDITS = flags.DEFINE_string(
    "edits", "", "Edits as of launch.edit, with target for true ones; or the quickstart's export."
)
_ROOT = flags.DEFINE_string("root", None, "Folder where the paths in the list start.")
_PICTURE = flags.DEFINE_string("picture", None, "Also draw cost against error into this PNG.")
flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(editor_flags)

LAST = 3  # computed steps at which the unconditional branch is never held


def rows() -> Iterator[dict[str, Any]]:
    """One row for each mode.

    Raises:
      UserError: a flag is missing or has no place here, or see `compare`.
    """
    for name, value in (("error", _ERROR.value), ("model", _MODEL.value), ("edits", _EDITS.value)):
        if not value:
            raise UserError(f"--{name} is missing: give --error, --model and --edits.")
    if sampling_flags.SPEED.value is not None:
        raise UserError("--speed: all speeds are compared; leave it out.")
    edits = read_edits(_EDITS.value, _ROOT.value)
    found = find_weights(_MODEL.value, **editor_flags.opening())
    sampling = sampling_flags.resolved(found.weights)
    settings = EditSettings(*(sampling[name] for name in ("steps", "guidance", "truncate", "size")))
    editor = Editor.load(
        _MODEL.value,
        **editor_flags.loading(),
        say=lambda line: print(line, file=sys.stderr),
    )
    plans = modes(editor, settings.steps)
    with tqdm(total=(len(plans) + 1) * len(edits), desc="editing", unit="edit") as bar:
        errors = compare(editor, edits, settings, plans, bar.update)
    if _PICTURE.value:
        draw(_PICTURE.value, errors, f"{len(edits)} edits, guidance {settings.guidance:g}")
    for name, error in errors.items():
        yield {"mode": name, **dataclasses.asdict(error)}


def modes(editor: Editor, num_steps: int) -> dict[str, SamplingPlan]:
    """Plans by name."""
    plans = {"unconditional held": held(every_step(num_steps))}
    for name in BUILT_IN:
        plan = plan_of(name, editor.plans, num_steps)
        assert plan is not None  # which only "exact" is
        plans |= {name: plan, f"{name}, unconditional held": held(plan)}
    return plans


def held(plan: SamplingPlan) -> SamplingPlan:
    """The plan with the unconditional branch at every second of its steps, and in the last ones."""
    last = len(plan.computed) - LAST
    both = tuple(step for i, step in enumerate(plan.computed) if i % 2 == 0 or i >= last)
    return dataclasses.replace(plan, unconditional=both)


def as_json(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows as the file of --json has them: figures by the names of modes."""
    figures = ({k: v for k, v in row.items() if k != "mode"} for row in measured)
    return {"modes": dict(zip((row["mode"] for row in measured), figures, strict=True))}
