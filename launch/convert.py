"""Writes the model of a training run (or another folder) as an official .safetensors file.

python -m launch.convert --input=runs/mine --output=out/weights.safetensors --dtype=bfloat16

A run of adapters (configs/lora.py) is merged into its base; with --adapters it becomes a LoRA file
in kohya's form.
"""

from functools import partial

from absl import flags

from launch.command import run
from step1x_jax.convert.adapters import save_adapters
from step1x_jax.convert.official import save_model
from step1x_jax.editing.loading import editor_json, load_parts
from step1x_jax.errors import UserError
from step1x_jax.files import check_writable
from step1x_jax.training.checkpoint import restore_adapters, restore_params

_INPUT = flags.DEFINE_string(
    "input", None, "A run directory, or a folder of weights as launch.edit takes.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "The .safetensors file to write.", required=True)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the tensors (default: as they are)."
)
_BASE = flags.DEFINE_string("base", "", "The base of a LoRA run, if it has moved.")
_ADAPTERS = flags.DEFINE_bool("adapters", False, "A LoRA run's adapters alone, in kohya's form.")


def main() -> None:
    """Loads and writes."""
    if not _OUTPUT.value.endswith(".safetensors"):
        raise UserError(f"--output={_OUTPUT.value} should end in .safetensors.")
    check_writable(_OUTPUT.value)
    if _ADAPTERS.value:
        adapters, config = restore_adapters(_INPUT.value)
        save_adapters(_OUTPUT.value, adapters, config.model, config.lora, _DTYPE.value)
        print(f"{_OUTPUT.value}: rank {config.lora.rank}, alpha {config.lora.alpha:g}")
        return
    parts = load_parts(_INPUT.value, partial(restore_params, base=_BASE.value))
    fields = editor_json(parts)
    save_model(_OUTPUT.value, parts.model, dtype=_DTYPE.value, json_fields=fields)
    print(f"{_OUTPUT.value}, and config.json beside it")


if __name__ == "__main__":
    run(main)
