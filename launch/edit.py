"""Edits a picture.

python -m launch.edit --model=quickstart --image=photo.jpg --instruction="make it night" \
    --output=night.png
"""

from functools import partial

import jax
from absl import flags
from etils import epath
from tqdm import tqdm

from launch.command import run
from step1x_jax.conditioning.images import open_image
from step1x_jax.editing.loading import load_editor
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable, replacing
from step1x_jax.training.checkpoint import restore_params

_MODEL = flags.DEFINE_string(
    "model", None, "quickstart, a run directory, or a folder of weights.", required=True
)
_IMAGE = flags.DEFINE_string("image", None, "The picture to edit.", required=True)
_INSTRUCTION = flags.DEFINE_string("instruction", None, "What to do to it.", required=True)
_OUTPUT = flags.DEFINE_string("output", "edited.png", "Where it goes (.png, .jpg or .webp).")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
_STEPS = flags.DEFINE_integer("steps", None, "Euler steps (default: the model's).", lower_bound=1)
_GUIDANCE = flags.DEFINE_float("guidance", None, "Guidance scale (default: the model's).")
_SIZE = flags.DEFINE_integer(
    "size", None, "Size level: about size^2 pixels are edited (default: the model's)."
)
_NOISE = flags.DEFINE_string("noise", None, "A .npy file (1, 16, h, w) instead of the seed.")
_AUTOENCODER = flags.DEFINE_string("autoencoder", None, "Where it lies, if not with the model.")
_QWEN = flags.DEFINE_string("qwen", None, "The Qwen2.5-VL folder, if not with the model.")
_BASE = flags.DEFINE_string("base", "", "The base of a LoRA run, if it has moved.")
_CACHE = flags.DEFINE_string("cache", None, "Keeps embeddings here, for the next edits.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Arithmetic (default: float32 on CPU, else bfloat16)."
)


def main() -> None:
    """Loads, edits, saves."""
    output = epath.Path(_OUTPUT.value)
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--output={output} should end in .png, .jpg or .webp.")
    image = open_image(_IMAGE.value)
    if _NOISE.value and not epath.Path(_NOISE.value).is_file():
        raise UserError(f"--noise={_NOISE.value} does not exist; give a .npy file.")
    check_writable(output)
    editor = load_editor(
        _MODEL.value,
        restore_run=partial(restore_params, base=_BASE.value),
        dtype=_DTYPE.value,
        autoencoder=_AUTOENCODER.value,
        qwen=_QWEN.value,
        cache=_CACHE.value,
        num_steps=_STEPS.value,
        guidance=_GUIDANCE.value,
        size=_SIZE.value,
    )
    total = editor.sampling.num_steps
    with tqdm(total=total, desc="editing", unit="step") as bar:
        (edited,) = editor.edit(
            [image],
            [_INSTRUCTION.value],
            seed=_SEED.value,
            noise_file=_NOISE.value,
            show=lambda step, latents: (jax.block_until_ready(latents), bar.update()),
        )
    with replacing(output) as temporary, temporary.open("wb") as f:
        edited.save(f, {".png": "PNG", ".webp": "WEBP"}.get(output.suffix.lower(), "JPEG"))
    print(f"{output}: {edited.width} x {edited.height}, {total} steps, seed {_SEED.value}")


if __name__ == "__main__":
    run(main)
