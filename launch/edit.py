"""Edit pictures: launch/guides/edit.md.

python -m launch.edit --model=quickstart --image=photo.jpg --instruction="make it night" \
    --output=night.png
python -m launch.edit --model=runs/mine --ema --lora=style.safetensors --lora_scale=0.8 \
    --image=a.jpg --image=b.jpg --instruction="make it night" --num_images=4 --output=results/
python -m launch.edit --model=quickstart --edits=edits.json --output=results/
python -m launch.edit --like=night.png --output=again.png
python -m launch.edit --check --model=weights

--model is quickstart, a run's folder (of all parameters or of adapters), a .safetensors file or an
index (official or diffusers' names, 8 bits, too), or a folder: the release's, a pipeline of
diffusers or one of its models, or transformer/, autoencoder/ and encoder/. More about these, and
what is refused: launch/guides/weights.md.

v1.1 damps the guidance above a time of 0.93 (1 is noise), as the official script does; its branch
of diffusers does so at nearly every step. --truncate=0 gives pictures like that branch's.

--check edits nothing: it compares weights, and how they are read, with what is published, and ends
with exit code 1 if something differs.

Results in a folder that are there already stay. Ends with exit code 3 if some could not be made.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence

import jax
from absl import flags

from launch.edits.check import print_findings, print_progress
from launch.edits.making import Extras, make_all
from launch.edits.plan import (
    EditJob,
    Output,
    check_places,
    noted_file,
    plan,
    recipe_of,
    still_to_make,
)
from launch.edits.report import EditReport
from launch.edits.rows import Row, is_folder, read_rows, rows_of_flags
from launch.shared import editor_flags, sampling_flags, weights_flags
from launch.shared.command import run
from step1x_jax import __version__
from step1x_jax.conditioning.images import open_image
from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.editing.checking import check_weights
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.fingerprints import noted_models
from step1x_jax.editing.loading import default_dtype, find_weights
from step1x_jax.editing.masks import read_mask
from step1x_jax.editing.output_files import check_format
from step1x_jax.editing.recipe import FILES, Recipe, differences, noted_path, read_recipe
from step1x_jax.editing.requests import MOST_IMAGES, OUTPUT_SIZES
from step1x_jax.errors import UserError
from step1x_jax.files import is_file, user_path
from step1x_jax.sampling.noise import SEED_BITS, read_noise

_MODEL = flags.DEFINE_string(
    "model", "", "quickstart, a run's folder, or a file or folder of weights."
)
_IMAGE = flags.DEFINE_multi_string(
    "image", [], "The picture to edit, or a folder of pictures; may be given several times."
)
_INSTRUCTION = flags.DEFINE_multi_string(
    "instruction", [], "What to do: once for all pictures, or once for each --image."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "edited.png",
    "A file (.png, .jpg or .webp); for several results a folder (results/), where they are called"
    " {stem}-{seed}.png, or a name with these words in braces.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace results that are there and were made otherwise."
)
_EDITS = flags.DEFINE_string(
    "edits",
    "",
    "A list instead of --image: .json of {picture: instruction} or of rows, or .jsonl of rows.",
)
_ROOT = flags.DEFINE_string(
    "root", None, "Folder where the paths in the list start (default: the folder of the list)."
)
_LIKE = flags.DEFINE_string(
    "like", "", "A picture that this command made: take all settings that are not given from it."
)
_NEGATIVE = flags.DEFINE_multi_string(
    "negative", [], "What is not wanted: once for all pictures, or once for each --image."
)
_MASK = flags.DEFINE_multi_string(
    "mask", [], "Picture of the same size, white where it may change: one for all, or one for each."
)
_KEEP = flags.DEFINE_bool(
    "keep_unchanged", False, "Take from the source what the edit has hardly changed."
)
_ALIGN = flags.DEFINE_bool(
    "align", False, "Correct shift and colours of the result where nothing was edited."
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the first result.", lower_bound=0, upper_bound=(1 << SEED_BITS) - 1
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    1,
    "Results of each picture, with --seed and the seeds after it.",
    lower_bound=1,
    upper_bound=MOST_IMAGES,
)
_OUTPUT_SIZE = flags.DEFINE_string(
    "output_size", "input", "Size of the result: input, edited (as it was edited), or 800x600."
)
_COMPARE = flags.DEFINE_bool(
    "compare", False, "Also write NAME-compare.png: source, instruction and result."
)
_PREVIEWS = flags.DEFINE_integer(
    "previews", 0, "Also write NAME-step04.png after every so many steps.", lower_bound=0
)
_NOISE = flags.DEFINE_string(
    "noise", None, "A .npy file with the noise (1, 16, h, w), instead of the seed."
)
_CHECK = flags.DEFINE_bool(
    "check", False, "Edit nothing; compare the weights with what is published."
)
flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(editor_flags)


def _needed_unless(name: str, *others: str) -> None:
    """One cannot do without a flag, unless another one is given."""
    flags.register_validator(
        name,
        lambda value: bool(value) or any(flags.FLAGS[other].value for other in others),
        message=f"Flag --{name} must have a value other than None.",  # as absl says it
    )


_needed_unless("model", "like")
_needed_unless("image", "edits", "like", "check")
_needed_unless("instruction", "edits", "like", "check")


def main() -> int:
    """Find out what is to be made, refuse what is wrong, then load, edit and save."""
    if _CHECK.value:
        return check()
    like = read_recipe(user_path(_LIKE.value)) if _LIKE.value else None
    if like is not None:
        take_from(like)
    rows = rows_wanted()
    output = Output(user_path(_OUTPUT.value))
    jobs = plan(rows, output, _SEED.value, _NUM_IMAGES.value)
    check_places(jobs, [file for row in rows for file in (row.image, row.mask) if file])
    noise = user_path(_NOISE.value) if _NOISE.value else None
    if noise and len(jobs) > 1:
        raise UserError(f"--noise is that of one result, and there are {len(jobs)}; leave it out.")
    if not output.many:
        check_new(jobs[0])
    loras = weights_flags.loras()
    common = common_recipe(loras, noise)
    todo = jobs
    if output.many:
        todo = still_to_make(jobs, lambda job: recipe_of(job, common), overwrite=_OVERWRITE.value)
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} are there", file=sys.stderr)
        if not todo:
            return 0
    if not any(is_file(job.row.image) for job in todo):
        raise UserError(f"{todo[0].row.image} does not exist, nor does another picture to edit.")
    if like is not None:
        there = next(job for job in todo if is_file(job.row.image))
        tell_of(like, recipe_of(there, common))
    editor = Editor.load(
        _MODEL.value,
        **editor_flags.loading(),
        say=lambda line: print(line, file=sys.stderr),
    )
    extras = Extras(_COMPARE.value, _PREVIEWS.value, noise)
    return make_all(
        editor, todo, common, extras, EditReport(output.folder) if output.many else None
    )


def check() -> int:
    """Compare weights with what is published, and print that.

    Raises:
      UserError: there is no model, or a flag has no place here.
    """
    for name in ("image", "edits", "like", "lora", "ema", "cache"):
        if flags.FLAGS[name].value:
            raise UserError(f"--check looks at weights as they are; leave --{name} out.")
    return print_findings(
        check_weights(
            _MODEL.value,
            **editor_flags.places(),
            **editor_flags.execution(),
            tell=print_progress,
        )
    )


def take_from(like: Recipe) -> None:
    """Give flags that were not given the values with which a picture was made."""
    values = {
        "model": like.model.path,
        "base": like.base,
        "ema": like.ema,
        "vae": like.autoencoder.path or None,
        "text_encoder": like.encoder.path or None,
        "dtype": like.dtype,
        "quantize": like.quantize,
        "instruction": [like.instruction],
        "negative": [like.negative],
        "seed": int(like.seed),
        "steps": like.steps,
        "guidance_scale": like.guidance,
        "truncate": like.truncate,
        "speed": like.speed,
        "size": like.size,
        "output_size": like.output_size,
        "keep_unchanged": like.keep_unchanged,
        "align": like.align,
        "noise": like.noise and like.noise.path,
    }
    if not _EDITS.value:  # which has its own
        values["image"] = [like.image.path]
        values["mask"] = [like.mask.path] if like.mask else []
    if not flags.FLAGS["lora"].present:
        values["lora"] = [lora.path for lora in like.loras]
        values["lora_scale"] = [lora.strength for lora in like.loras] or [1.0]
    for name, value in values.items():
        if not flags.FLAGS[name].present:
            flags.FLAGS[name].value = value


def tell_of(like: Recipe, now: Recipe) -> None:
    """Say what is made again, and which files are not those of then."""
    print(
        f"as {_LIKE.value}: {now.instruction!r:.200}, {now.steps} steps, guidance"
        f" {now.guidance:g}, size {now.size}, seed {now.seed}, model {now.model.path!r:.200}",
        file=sys.stderr,
    )
    others = [name for name in differences(like, now) if name in (*FILES, "plan")]
    if others:
        print(
            f"warning: {_LIKE.value} was made with other files ({', '.join(others)}): this will be"
            " another picture.",
            file=sys.stderr,
        )


def rows_wanted() -> list[Row]:
    """Return the edits to make; open pictures that the user has named one by one."""
    named = not _EDITS.value and not any(is_folder(user_path(path)) for path in _IMAGE.value)
    rows = (
        rows_of_list()
        if _EDITS.value
        else rows_of_flags(_IMAGE.value, _INSTRUCTION.value, _NEGATIVE.value, _MASK.value)
    )
    for row in rows:
        if not row.instruction or not row.instruction.strip():
            what = f" for {row.image}" if len(rows) > 1 else ""
            raise UserError(f"--instruction is empty{what}; say what to do to the picture.")
        check_instruction(row.instruction)
        check_instruction(row.negative or "")
        if named:
            image = open_image(row.image)
            check_format(Output(user_path(_OUTPUT.value)).pattern, image.size)
            if row.mask:
                read_mask(row.mask, image.size, "the mask")
    return rows


def rows_of_list() -> list[Row]:
    """The rows of --edits, with the flags' values where they have none."""
    if _IMAGE.value or _MASK.value:
        raise UserError("--edits has its own pictures and masks; leave --image and --mask out.")
    if len(_INSTRUCTION.value) > 1 or len(_NEGATIVE.value) > 1:
        raise UserError("with --edits, one --instruction and one --negative can be for all rows.")
    return [
        dataclasses.replace(
            row,
            instruction=row.instruction
            if row.instruction is not None
            else _first(_INSTRUCTION.value),
            negative=row.negative if row.negative is not None else _first(_NEGATIVE.value),
        )
        for row in read_rows(_EDITS.value, _ROOT.value)
    ]


def _first(values: Sequence[str]) -> str | None:
    return values[0] if values else None


def check_new(job: EditJob) -> None:
    """Raise UserError if files of the one result are there, unless they may be replaced."""
    places = [job.output, job.compared] if _COMPARE.value else [job.output]
    for place in places:
        if is_file(place) and not _OVERWRITE.value:
            raise UserError(
                f"{place} is there already; give another --output, or --overwrite to replace it."
            )


def common_recipe(loras: Sequence[tuple[str, float]], noise: str | None) -> Recipe:
    """Return the part of the recipe that all results share.

    Args:
      loras: paths and strengths.
      noise: path of its file.

    Returns:
      Their recipe, with the model's defaults; no weights are read for it but those of LoRAs.

    Raises:
      UserError: the weights or the noise cannot be used, or a setting is impossible.
    """
    model = _MODEL.value
    autoencoder, encoder = editor_flags.VAE.value, editor_flags.TEXT_ENCODER.value
    found = find_weights(model, **editor_flags.opening())
    size = _OUTPUT_SIZE.value
    if size not in OUTPUT_SIZES and not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", size):
        raise UserError(f"--output_size={size}: give input, edited, or a size such as 800x600.")
    if noise:
        read_noise(noise)
    version, device = __version__, jax.devices()[0].device_kind
    return Recipe(
        output_size=size,
        keep_unchanged=_KEEP.value,
        align=_ALIGN.value,
        noise=noted_file(noise, "a .npy file") if noise else None,
        base=noted_path(editor_flags.BASE.value),
        ema=weights_flags.EMA.value,
        dtype=editor_flags.DTYPE.value or default_dtype(),
        quantize=editor_flags.QUANTIZE.value,
        made_with=f"step1x_jax {version}, jax {jax.__version__}, {device}",
        **sampling_flags.resolved(found.weights),
        **noted_models(found, model, autoencoder, encoder, loras),
    )


if __name__ == "__main__":
    run(main)
