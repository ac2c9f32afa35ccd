"""Find the steps that a model can skip, on edits of your own: launch/guides/edit.md.

python -m launch.calibrate --model=weights --edits=edits.jsonl

Records the velocities of each edit, searches the best steps for the speeds balanced and fast by
dynamic programming, edits with what it found and with the plans that are built in, and stores those
nearest to the exact results beside the model, where launch.edit --speed finds them.

--edits is a list as launch.edit has it; a dozen edits of the kind that you will make are enough.
Takes as long as about six exact edits each. Prints the table of what was tried.
"""

import sys
from collections.abc import Mapping, Sequence

from absl import flags
from etils import epath
from tqdm import tqdm

from launch.edits.rows import Row
from launch.shared import editor_flags, sampling_flags
from launch.shared.command import run
from launch.speeds.edits import EditSettings, SpeedError, compare, given, read_edits, table
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import NAME, find_weights
from step1x_jax.editing.settings import folder_of_plans
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable, is_file, user_path
from step1x_jax.sampling.calibration import Trajectory, candidates
from step1x_jax.sampling.plan import BUILT_IN, SamplingPlan
from step1x_jax.sampling.stored_plans import FILE, write_plans

_MODEL = flags.DEFINE_string(
    "model", None, "A run's folder, or a file or folder of weights.", required=True
)
_EDITS = flags.DEFINE_string(
    "edits", None, "The edits: .json or .jsonl as of launch.edit.", required=True
)
_ROOT = flags.DEFINE_string(
    "root", None, "Folder where the paths in the list start (default: the folder of the list)."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, f"Folder for {FILE} (default: beside the model, where it is found)."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, f"Replace a {FILE} that is there.")
flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(editor_flags)


def main() -> None:
    """Check, records, searches, try, write."""
    if sampling_flags.SPEED.value is not None:
        raise UserError("--speed is what is looked for; leave it out.")
    rows = read_edits(_EDITS.value, _ROOT.value)
    found = find_weights(_MODEL.value, **editor_flags.opening())
    folder = _folder(folder_of_plans(found.weights))
    sampling = sampling_flags.resolved(found.weights)
    settings = EditSettings(*(sampling[name] for name in ("steps", "guidance", "truncate", "size")))
    editor = Editor.load(
        _MODEL.value,
        **editor_flags.loading(),
        say=lambda line: print(line, file=sys.stderr),
    )
    recorded = record_all(editor, rows, settings)
    tried = {
        name: plans_to_try(recorded, plan.scaled(settings.steps)) for name, plan in BUILT_IN.items()
    }
    plans = {
        f"{name} {number}": plan
        for name, several in tried.items()
        for number, plan in enumerate(several)
    }
    with tqdm(total=(len(plans) + 1) * len(rows), desc="trying", unit="edit") as bar:
        errors = compare(editor, rows, settings, plans, bar.update)
    chosen = {
        name: best([f"{name} {number}" for number in range(len(several))], errors)
        for name, several in tried.items()
    }
    path = write_plans(folder, {name: plans[number] for name, number in chosen.items()})
    print(table({_label(name, plans, chosen): error for name, error in errors.items()}))
    print("0 is built in; * is stored, which is nearest to exact on average and for the worst.")
    print(path)


def _folder(beside: epath.Path) -> epath.Path:
    """Where the plans go; UserError if they cannot."""
    if not _OUTPUT.value and _MODEL.value == NAME:
        raise UserError(f"{NAME} is a part of the package; give a folder of yours as --output.")
    folder = epath.Path(user_path(_OUTPUT.value)) if _OUTPUT.value else beside
    if is_file(folder / FILE) and not _OVERWRITE.value:
        raise UserError(f"{folder / FILE} is there already; --overwrite replaces it.")
    check_writable(folder / FILE)
    return folder


def record_all(editor: Editor, rows: Sequence[Row], settings: EditSettings) -> list[Trajectory]:
    """The exact trajectories of all edits."""
    return [
        editor.record(row.image, row.instruction or "", **given(row, settings))
        for row in tqdm(rows, desc="recording", unit="edit")
    ]


def plans_to_try(recorded: Sequence[Trajectory], built_in: SamplingPlan) -> list[SamplingPlan]:
    """The one that is built in, and what is found with as many steps as it samples with."""
    fitted = (built_in.fitted(x.times, float(x.guidance.truncate)) for x in recorded)
    count = max(len(plan.computed) for plan in fitted)
    return list(dict.fromkeys([built_in, *candidates(recorded, count)]))


def best(names: Sequence[str], errors: Mapping[str, SpeedError]) -> str:
    """The name whose PSNR is highest, on average and of the worst edit together."""
    return max(names, key=lambda name: errors[name].psnr_mean + errors[name].psnr_worst)


def _label(name: str, plans: Mapping[str, SamplingPlan], chosen: Mapping[str, str]) -> str:
    if name not in plans:
        return name
    plan = plans[name]
    star = " *" if name in chosen.values() else ""
    return f"{name}, {len(plan.computed)} steps, {('held', 'linear')[plan.order]}{star}"


if __name__ == "__main__":
    run(main)
