"""Print how much memory a training step or an edit needs on GPUs that are not attached.

    python -m launch.gpu_memory --config=configs/lora.py --gpu=h100 --size=1024
    python -m launch.gpu_memory --config=configs/finetune_1024.py --program=edit --quantize=int8

Compiles for them and executes nothing. Needs JAX's CUDA plugin, no GPU; a minute or two. The batch
of a training step is --examples for each group of GPUs that it is split over, whatever
data.batch_size says; an edit is of one picture, and is compared with cards of 24, 48 and 80 GB.
"""

import json

import jax
from absl import flags

from launch.shared import config_flag
from launch.shared.command import run
from launch.shared.config_flag import read_config
from step1x_jax import choices
from step1x_jax.parallel.described_gpus import GPUS, gpu_devices
from step1x_jax.planning.gpu_memory import (
    format_gpu_edit_plan,
    format_gpu_plan,
    plan_edit_memory,
    plan_gpu_memory,
)

flags.adopt_module_key_flags(config_flag)
_GPU = flags.DEFINE_enum("gpu", "h100", list(GPUS), "Which GPU.")
_GPUS = flags.DEFINE_integer("gpus", 1, "How many of them, in one machine.", lower_bound=1)
_PROGRAM = flags.DEFINE_enum("program", "train", ["train", "edit"], "What to compile.")
_SIZE = flags.DEFINE_integer(
    "size", 1024, "Side of the pictures in pixels.", lower_bound=16, upper_bound=8192
)
_EXAMPLES = flags.DEFINE_integer("examples", 1, "For each part of the batch.", lower_bound=1)
_QUANTIZE = flags.DEFINE_enum(
    "quantize",
    None,
    list(choices.EIGHT_BITS),
    "Of an edit: stores the transformer's blocks in 8 bits.",
)
_JSON = flags.DEFINE_bool("json", False, "One JSON object on stdout.")


def main() -> None:
    """Plan what the flags say."""
    jax.config.update("jax_platforms", "cpu")  # the GPUs are described, not looked for
    jax.config.update("jax_enable_compilation_cache", False)  # such programs cannot be read back
    config = read_config()
    devices = gpu_devices(_GPU.value, _GPUS.value)
    if _PROGRAM.value == "edit":
        plan = plan_edit_memory(config, devices, _GPU.value, _SIZE.value, _QUANTIZE.value)
        words = format_gpu_edit_plan
    else:
        plan = plan_gpu_memory(config, devices, _GPU.value, _SIZE.value, _EXAMPLES.value)
        words = format_gpu_plan
    print(json.dumps(plan) if _JSON.value else words(plan))


if __name__ == "__main__":
    run(main)
