"""Edits a picture.

python -m launch.edit --model=quickstart --image=photo.jpg --instruction="make it night" \
    --output=night.png
python -m launch.edit --model=runs/mine --ema --lora=style.safetensors --lora_scale=0.8 \
    --image=photo.jpg --instruction="make it night"

--model is quickstart, a run's folder (of all parameters or of adapters), a .safetensors file or an
index (official or diffusers' names, 8 bits, too), or a folder: the release's, a pipeline of
diffusers or one of its models, or transformer/, autoencoder/ and encoder/. More about these, and
what is refused: launch/guides/weights.md.
"""

import contextlib
import os
from typing import Any, get_type_hints

from absl import flags
from etils import epath
from tqdm import tqdm

from launch import weights_flags
from launch.command import run
from step1x_jax.conditioning.images import open_image
from step1x_jax.conditioning.input_files import check_protocol
from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable, is_remote, replacing, user_path
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.sampling.noise import SEED_BITS, read_noise


def _bounds(field: str) -> dict[str, Any]:
    """The limits of a field of SamplingConfig, for the flag that sets it."""
    hints = get_type_hints(SamplingConfig, include_extras=True)
    (meta,) = hints[field].__metadata__
    return {"lower_bound": meta.ge, "upper_bound": meta.le}


_MODEL = flags.DEFINE_string(
    "model", None, "quickstart, a run's folder, or a file or folder of weights.", required=True
)
_IMAGE = flags.DEFINE_string("image", None, "The picture to edit.", required=True)
_INSTRUCTION = flags.DEFINE_string("instruction", None, "What to do to it.", required=True)
_OUTPUT = flags.DEFINE_string("output", "edited.png", "Where it goes (.png, .jpg or .webp).")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the noise.", lower_bound=0, upper_bound=(1 << SEED_BITS) - 1
)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Euler steps (default: the model's).", **_bounds("num_steps")
)
_GUIDANCE = flags.DEFINE_float(
    "guidance", None, "Guidance scale (default: the model's).", **_bounds("guidance")
)
_SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Size level: about size^2 pixels are edited (default: the model's).",
    **_bounds("size"),
)
_NOISE = flags.DEFINE_string("noise", None, "A .npy file (1, 16, h, w) instead of the seed.")
_AUTOENCODER = flags.DEFINE_string("autoencoder", None, "Where it is, if not with the model.")
_QWEN = flags.DEFINE_string("qwen", None, "The Qwen2.5-VL folder, if not with the model.")
_BASE = flags.DEFINE_string("base", "", "Of a run of adapters: its base, if that has moved.")
_CACHE = flags.DEFINE_string("cache", None, "Keeps embeddings here, for the next edits.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Arithmetic (default: float32 on CPU, else bfloat16)."
)
flags.adopt_module_key_flags(weights_flags)

# How the endings are written: everything that a viewer could see of the edit is kept.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".webp": ("WEBP", {"quality": 95}),
}
LONGEST_SIDE = {"JPEG": 65_535, "WEBP": 16_383}  # pixels that a format can have


def main() -> None:
    """Loads, edits, saves."""
    source = user_path(_IMAGE.value)
    output = epath.Path(user_path(_OUTPUT.value))
    instruction = _INSTRUCTION.value
    if not instruction.strip():
        raise UserError("--instruction is empty; say what to do to the picture.")
    check_instruction(instruction)
    check_output(output, source)
    image = open_image(source)
    format_name, options = FORMATS[output.suffix.lower()]
    if max(image.size) > LONGEST_SIDE.get(format_name, max(image.size)):
        raise UserError(
            f"--output={output}: {format_name} holds no picture of {image.width}x{image.height}"
            " pixels; write a .png."
        )
    if _NOISE.value:
        read_noise(user_path(_NOISE.value))
    check_writable(output)
    replaces = output.exists()
    editor = Editor.load(
        _MODEL.value,
        base=_BASE.value or None,
        ema=weights_flags.EMA.value,
        loras=weights_flags.loras(),
        dtype=_DTYPE.value,
        vae=_AUTOENCODER.value,
        text_encoder=_QWEN.value,
        cache=_CACHE.value,
    )
    total = _STEPS.value or editor.sampling.num_steps
    with tqdm(total=total, desc="editing", unit="step") as bar:
        (edited,) = editor.edit(
            image,
            instruction,
            steps=_STEPS.value,
            guidance=_GUIDANCE.value,
            size=_SIZE.value,
            seed=_SEED.value,
            noise=user_path(_NOISE.value) if _NOISE.value else None,
            on_step=lambda step: bar.update(),
        )
    with replacing(output) as temporary, temporary.open("wb") as f:
        edited.save(f, format_name, **options)
    word = " (in place of the file that was there)" if replaces else ""
    name = str(output).encode(errors="backslashreplace").decode()  # it may not be UTF-8
    print(f"{name}{word}: {edited.width} x {edited.height}, {total} steps, seed {_SEED.value}")


def check_output(output: epath.Path, source: str) -> None:
    """Raises UserError for a place where the edit cannot or should not be written."""
    check_protocol(os.fspath(output), "the edited picture")
    if not is_remote(output) and output.is_dir():
        raise UserError(
            f"--output={output} is a folder; give the file's name, {output / 'edited.png'}."
        )
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"--output={output} should end in .png, .jpg or .webp.")
    same = os.fspath(output) == source
    if not (is_remote(output) or is_remote(source)):
        with contextlib.suppress(OSError, ValueError):  # one of them is not there
            same = os.path.samefile(output, source)
    if same:
        raise UserError(
            f"--output={output} is the picture to edit, which would be lost; give another name."
        )


if __name__ == "__main__":
    run(main)
