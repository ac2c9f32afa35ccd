"""Writes the model of a training run (or another folder) as an official .safetensors file.

python -m launch.convert --input=runs/mine --output=out/weights.safetensors --dtype=bfloat16
"""

from absl import flags

from launch.command import run
from step1x_jax.convert.official import save_model
from step1x_jax.editing.loading import editor_json, load_parts
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable
from step1x_jax.training.checkpoint import restore_params

_INPUT = flags.DEFINE_string(
    "input", None, "A run directory, or a folder of weights as launch.edit takes.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "The .safetensors file to write.", required=True)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the tensors (default: as they are)."
)


def main() -> None:
    """Loads and writes."""
    if not _OUTPUT.value.endswith(".safetensors"):
        raise UserError(f"--output={_OUTPUT.value} should end in .safetensors.")
    check_writable(_OUTPUT.value)
    parts = load_parts(_INPUT.value, restore_params)
    fields = editor_json(parts)
    save_model(_OUTPUT.value, parts.model, dtype=_DTYPE.value, json_fields=fields)
    print(f"{_OUTPUT.value}, and config.json beside it")


if __name__ == "__main__":
    run(main)
