"""Edits pictures: launch/guides/edit.md.

python -m launch.edit --model=quickstart --image=photo.jpg --instruction="make it night" \
    --output=night.png
python -m launch.edit --model=runs/mine --ema --lora=style.safetensors --lora_scale=0.8 \
    --image=a.jpg --image=b.jpg --instruction="make it night" --num_images=4 --output=results/
python -m launch.edit --model=quickstart --edits=edits.json --output=results/
python -m launch.edit --like=night.png --output=again.png

--model is quickstart, a run's folder (of all parameters or of adapters), a .safetensors file or an
index (official or diffusers' names, 8 bits, too), or a folder: the release's, a pipeline of
diffusers or one of its models, or transformer/, autoencoder/ and encoder/. More about these, and
what is refused: launch/guides/weights.md.

v1.1 damps the guidance above a time of 0.93 (1 is noise), as the official script does; its branch
of diffusers does so at nearly every step. --truncate=0 gives pictures like that branch's.

Results in a folder that are there already stay. Ends with exit code 3 if some could not be made.
"""

import dataclasses
import hashlib
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

import jax
from absl import flags
from tqdm import tqdm

import step1x_jax
from launch import weights_flags
from launch.command import run
from launch.edit_plan import Job, Output, check_places, plan, still_to_make
from launch.edit_report import Line, Report
from launch.edit_rows import Row, is_folder, read_rows, rows_of_flags
from step1x_jax.conditioning.images import MOST_BYTES, decode_image, open_image
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.data.paths import printable
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.fingerprints import noted_models
from step1x_jax.editing.loading import default_dtype, find_weights
from step1x_jax.editing.output_files import check_format, save_picture
from step1x_jax.editing.progress import Step
from step1x_jax.editing.recipe import (
    FILES,
    File,
    Recipe,
    differences,
    noted_path,
    read_recipe,
    to_note,
)
from step1x_jax.editing.requests import MOST_IMAGES, OUTPUT_SIZES
from step1x_jax.editing.settings import sampling_of
from step1x_jax.editing.side_by_side import side_by_side
from step1x_jax.errors import UserError
from step1x_jax.files import is_file, user_path
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.lora import STORED
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.sampling.noise import SEED_BITS, read_noise

SOME_FAILED = 3
Value = TypeVar("Value")


def _bounds(field: str) -> dict[str, Any]:
    """The limits of a field of SamplingConfig, for the flag that sets it."""
    hints = get_type_hints(SamplingConfig, include_extras=True)
    (meta,) = hints[field].__metadata__
    return {"lower_bound": meta.ge, "upper_bound": meta.le}


_MODEL = flags.DEFINE_string(
    "model", None, "quickstart, a run's folder, or a file or folder of weights."
)
_IMAGE = flags.DEFINE_multi_string(
    "image", None, "The picture to edit, or a folder of pictures; may be given several times."
)
_INSTRUCTION = flags.DEFINE_multi_string(
    "instruction", None, "What to do: once for all pictures, or once for each --image."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "edited.png",
    "A file (.png, .jpg or .webp); for several results a folder (results/), where they are called"
    " {stem}-{seed}.png, or a name with these words in braces.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replaces results that are there and were made otherwise."
)
_EDITS = flags.DEFINE_string(
    "edits",
    None,
    "A list instead of --image: .json of {picture: instruction} or of rows, or .jsonl of rows.",
)
_ROOT = flags.DEFINE_string(
    "root", None, "Folder where the paths in the list start (default: the folder of the list)."
)
_LIKE = flags.DEFINE_string(
    "like", None, "A picture of this command: all that is not given is as it was for that."
)
_NEGATIVE = flags.DEFINE_multi_string("negative", None, "What is not wanted, likewise.")
_MASK = flags.DEFINE_multi_string(
    "mask", None, "Picture of the same size, white where it may change, likewise."
)
_KEEP = flags.DEFINE_bool(
    "keep_unchanged", False, "Takes from the source what the edit has hardly changed."
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the first result.", lower_bound=0, upper_bound=(1 << SEED_BITS) - 1
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    1,
    "Results of each picture, of --seed and the seeds after it.",
    lower_bound=1,
    upper_bound=MOST_IMAGES,
)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Euler steps (default: the model's).", **_bounds("num_steps")
)
_GUIDANCE = flags.DEFINE_float(
    "guidance", None, "Guidance scale (default: the model's).", **_bounds("guidance")
)
_TRUNCATE = flags.DEFINE_float(
    "truncate", None, "Time above which it is damped (default: the model's).", lower_bound=0
)
_SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Size level: about size^2 pixels are edited (default: the model's).",
    **_bounds("size"),
)
_OUTPUT_SIZE = flags.DEFINE_string(
    "output_size", "input", "Of the result: input, edited (as it was edited), or 800x600."
)
_COMPARE = flags.DEFINE_bool(
    "compare", False, "Also NAME-compare.png: source, instruction and result."
)
_PREVIEWS = flags.DEFINE_integer(
    "previews", 0, "Also NAME-step04.png after every so many steps.", lower_bound=0
)
_NOISE = flags.DEFINE_string("noise", None, "A .npy file (1, 16, h, w) instead of the seed.")
_AUTOENCODER = flags.DEFINE_string("autoencoder", None, "Where it is, if not with the model.")
_QWEN = flags.DEFINE_string("qwen", None, "The Qwen2.5-VL folder, if not with the model.")
_BASE = flags.DEFINE_string("base", "", "Of a run of adapters: its base, if that has moved.")
_CACHE = flags.DEFINE_string("cache", None, "Keeps embeddings here, for the next edits.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Arithmetic (default: float32 on CPU, else bfloat16)."
)
_MESH = flags.DEFINE_string(
    "mesh", None, "Devices that make an edit together, as fsdp=2,tensor=2 (default: one)."
)
_OFFLOAD = flags.DEFINE_bool(
    "offload", False, "Models wait in the host's memory and are on the devices while they work."
)
_QUANTIZE = flags.DEFINE_enum("quantize", None, list(STORED), "Transformer in 8 bits.")
flags.adopt_module_key_flags(weights_flags)


def _needed_unless(name: str, *others: str) -> None:
    """One cannot do without a flag, unless another one is given."""
    flags.register_validator(
        name,
        lambda value: value is not None or any(flags.FLAGS[other].value for other in others),
        message=f"Flag --{name} must have a value other than None.",  # as absl says it
    )


_needed_unless("model", "like")
_needed_unless("image", "edits", "like")
_needed_unless("instruction", "edits", "like")


def main() -> int:
    """Finds out what is to be made, refuses what is wrong, then loads, edits and saves."""
    like = read_recipe(user_path(_LIKE.value)) if _LIKE.value else None
    rows = read_what_to_do(like)
    output = Output(user_path(_OUTPUT.value))
    jobs = plan(rows, output, int(chosen(_SEED, like and like.seed)), _NUM_IMAGES.value)
    files = [file for row in rows for file in (row.image, row.mask) if file]
    check_places(jobs, files)
    if not output.many and is_file(jobs[0].output) and not _OVERWRITE.value:
        raise UserError(f"{jobs[0].output} is there already; give another name, or --overwrite.")
    models = models_to_load(like)
    common = common_recipe(models, like)
    if common.noise is not None and len(jobs) > 1:
        raise UserError(f"--noise is that of one result, and there are {len(jobs)}; leave it out.")
    todo = jobs
    if output.many:
        todo = still_to_make(jobs, lambda job: recipe_of(job, common), overwrite=_OVERWRITE.value)
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} are there", file=sys.stderr)
    if not any(is_file(job.row.image) for job in todo):
        if not todo:
            return 0
        raise UserError(f"{todo[0].row.image} does not exist, nor does another picture to edit.")
    if like is not None:
        tell_of_like(like, recipe_of(todo[0], common))
    mesh = {"mesh": _MESH.value, "offload": _OFFLOAD.value, "cache": _CACHE.value}
    editor = Editor.load(**models, **mesh, say=lambda line: print(line, file=sys.stderr))
    return make_all(editor, todo, common, Report(output.folder) if output.many else None)


def chosen(flag: flags.FlagHolder[Value], noted: Value | None) -> Value:
    """The flag's value if it is given, else what --like says, else its default."""
    given = flags.FLAGS[flag.name].present
    return flag.value if given or noted is None else noted


def read_what_to_do(like: Recipe | None) -> list[Row]:
    """The rows, each with an instruction; what is wrong with those of flags is found here."""
    instructions = chosen(_INSTRUCTION, like and [like.instruction])
    negatives = chosen(_NEGATIVE, like and [like.negative]) or [""]
    masks = chosen(_MASK, like and like.mask and [like.mask.path]) or []
    if _EDITS.value:
        rows = rows_of_list(instructions or [], negatives)
    else:
        images = chosen(_IMAGE, like and [like.image.path])
        rows = rows_of_flags(images, instructions, negatives, masks)
    for row in rows:
        if not row.instruction or not row.instruction.strip():
            what = f"of {row.image} " if len(rows) > 1 else ""
            raise UserError(f"--instruction {what}is empty; say what to do to the picture.")
        check_instruction(row.instruction)
        check_instruction(row.negative or "")
    if not _EDITS.value and not any(map(is_folder, map(user_path, images))):
        for row in rows:  # one by one, as a user has named them
            check_format(user_path(_OUTPUT.value), open_image(row.image).size)
    return rows


def rows_of_list(instructions: Sequence[str], negatives: Sequence[str]) -> list[Row]:
    """The rows of --edits, with the flags' values where they have none."""
    if _IMAGE.value or _MASK.value:
        raise UserError("--edits has its own pictures and masks; leave --image and --mask out.")
    if len(instructions) > 1 or len(negatives) > 1:
        raise UserError("with --edits, one --instruction and one --negative can be for all rows.")
    default = instructions[0] if instructions else None
    return [
        dataclasses.replace(
            row,
            instruction=default if row.instruction is None else row.instruction,
            negative=negatives[0] if row.negative is None else row.negative,
        )
        for row in read_rows(_EDITS.value, _ROOT.value)
    ]


def models_to_load(like: Recipe | None) -> dict[str, Any]:
    """What decides the weights, as arguments of `Editor.load`."""
    loras = weights_flags.loras()
    if like is not None and not flags.FLAGS["lora"].present:
        loras = [(user_path(lora.path), lora.strength) for lora in like.loras]
    return {
        "path": chosen(_MODEL, like and like.model.path),
        "base": chosen(_BASE, like and like.base) or None,
        "ema": chosen(weights_flags.EMA, like and like.ema),
        "loras": loras,
        "vae": chosen(_AUTOENCODER, like and like.autoencoder.path) or None,
        "text_encoder": chosen(_QWEN, like and like.encoder.path) or None,
        "dtype": chosen(_DTYPE, like and like.dtype) or default_dtype(),
        "quantize": chosen(_QUANTIZE, like and like.quantize),
    }


def common_recipe(models: dict[str, Any], like: Recipe | None) -> Recipe:
    """What all results have in common; looks at the weights, and reads none but those of LoRAs."""
    names = ("base", "ema", "loras", "vae", "text_encoder")
    found = find_weights(models["path"], **{name: models[name] for name in names})
    assert isinstance(found.weights.config, ModelConfig)
    defaults = sampling_of(found.weights)
    truncate = defaults.truncate_for(found.weights.config.version)
    size = chosen(_OUTPUT_SIZE, like and like.output_size)
    if size not in OUTPUT_SIZES and not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", size):
        raise UserError(f"--output_size={size}: give input, edited, or a size such as 800x600.")
    noise = chosen(_NOISE, like and like.noise and like.noise.path)
    if noise:
        read_noise(user_path(noise))

    def or_default(flag: flags.FlagHolder[Value], noted: Value | None, default: Value) -> Value:
        value = chosen(flag, noted)
        return default if value is None else value

    return Recipe(
        steps=or_default(_STEPS, like and like.steps, defaults.num_steps),
        guidance=or_default(_GUIDANCE, like and like.guidance, defaults.guidance),
        size=or_default(_SIZE, like and like.size, defaults.size),
        truncate=or_default(_TRUNCATE, like and like.truncate, truncate),
        output_size=size,
        keep_unchanged=chosen(_KEEP, like and like.keep_unchanged),
        noise=noted_file(user_path(noise), "a .npy file") if noise else None,
        base=noted_path(models["base"] or ""),
        ema=models["ema"],
        dtype=models["dtype"],
        quantize=models["quantize"],
        made_with=(
            f"step1x_jax {step1x_jax.__version__}, jax {jax.__version__},"
            f" {jax.devices()[0].device_kind}"
        ),
        **noted_models(
            found, models["path"], models["vae"], models["text_encoder"], models["loras"]
        ),
    )


def noted_file(path: str, what: str) -> File:
    """A file that is read for an edit."""
    data = read_input_file(path, what, MOST_BYTES)
    return File(noted_path(path), hashlib.sha256(data).hexdigest())


def recipe_of(job: Job, common: Recipe) -> Recipe:
    """How a result is made; UserError if its picture or mask cannot be read."""
    row = job.row
    assert row.instruction is not None
    return dataclasses.replace(
        common,
        image=noted_file(row.image, "a picture"),
        instruction=row.instruction,
        negative=row.negative or "",
        seed=str(job.seed),
        steps=common.steps if row.steps is None else row.steps,
        guidance=common.guidance if row.guidance is None else row.guidance,
        mask=noted_file(row.mask, "a mask") if row.mask else None,
    )


def tell_of_like(like: Recipe, now: Recipe) -> None:
    """Says what is taken from --like, and which files are not those of then."""
    print(
        f"as {_LIKE.value}: {now.instruction!r:.200}, {now.steps} steps, guidance"
        f" {now.guidance:g}, size {now.size}, seed {now.seed}, model {now.model.path!r:.200}",
        file=sys.stderr,
    )
    others = [name for name in differences(like, now) if name in FILES]
    if others:
        print(
            f"warning: {_LIKE.value} was made with other files ({', '.join(others)}): the result"
            " is another picture.",
            file=sys.stderr,
        )


def make_all(editor: Editor, jobs: Sequence[Job], common: Recipe, report: Report | None) -> int:
    """Makes the results one after another, so that none depends on the others; the exit code.

    With a report, what goes wrong with one is written there; without, it is raised.
    """
    counts = [job.row.steps or common.steps for job in jobs]
    failed = done = 0
    with tqdm(total=sum(counts), desc="editing", unit="step") as bar:
        for number, (job, steps) in enumerate(zip(jobs, counts, strict=True), 1):
            if len(jobs) > 1:
                bar.set_description(f"editing {number} of {len(jobs)}")
            try:
                line = make(editor, job, common, bar, measure=report is not None)
            except UserError as e:
                if report is None:
                    raise
                failed += 1
                line = Line(str(job.output), job.row.image, job.seed, error=str(e))
                bar.write(f"{job.output} was not made: {e}", file=sys.stderr)
            done += steps
            bar.update(done - bar.n)
            if report is not None:
                report.add(dataclasses.replace(line, output=_name_in(report, job), image=printable(line.image)))
    if report is None or not failed:
        return 0
    print(f"{failed} of {len(jobs)} could not be made, see {report.path}", file=sys.stderr)
    return SOME_FAILED


def make(editor: Editor, job: Job, common: Recipe, bar: tqdm, *, measure: bool) -> Line:
    """Makes and saves one result, its name last: if it is there, so is all that belongs to it."""
    start = time.monotonic()
    row, recipe = job.row, recipe_of(job, common)
    source = open_image(row.image)

    def on_step(step: Step) -> None:
        bar.update()
        for preview in step.previews or ():
            save_picture(job.beside(f"-step{step.number:02}"), preview)

    kept: dict[str, Any] = {"mask": row.mask} if row.mask else {}
    if recipe.keep_unchanged:
        kept["keep_unchanged"] = True
    (edited,) = editor.edit(
        source,
        recipe.instruction,
        negative=recipe.negative,
        steps=recipe.steps,
        guidance=recipe.guidance,
        seed=job.seed,
        size=recipe.size,
        truncate=recipe.truncate,
        noise=user_path(recipe.noise.path) if recipe.noise else None,
        on_step=on_step,
        previews=_PREVIEWS.value,
        output_size=_pair(recipe.output_size),
        **kept,
    )
    if _COMPARE.value:
        save_picture(job.compared, side_by_side(source, recipe.instruction, edited))
    save_picture(job.output, edited, to_note(recipe))
