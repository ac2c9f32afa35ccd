"""Says what a run's step takes of GPUs that are not here, by compiling it for them.

    python -m launch.gpu_memory --config=configs/lora.py --gpu=h100 --size=1024

Nothing is executed. Needs JAX's CUDA plugin, no GPU; a minute or two. The batch is --examples for
each group of GPUs that it is split over, whatever data.batch_size says.
"""

import json

import jax
from absl import flags

from launch import config_flag
from launch.command import run
from launch.config_flag import read_config
from step1x_jax.parallel.described_gpus import GPUS, gpu_devices
from step1x_jax.planning.gpu_memory import in_words, plan_gpu_memory

flags.adopt_module_key_flags(config_flag)
_GPU = flags.DEFINE_enum("gpu", "h100", list(GPUS), "Which GPU.")
_GPUS = flags.DEFINE_integer("gpus", 1, "How many of them, in one machine.", lower_bound=1)
_SIZE = flags.DEFINE_integer(
    "size", 1024, "Side of the pictures in pixels.", lower_bound=16, upper_bound=8192
)
_EXAMPLES = flags.DEFINE_integer("examples", 1, "For each part of the batch.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "One JSON object on stdout.")


def main() -> None:
    """Plans what the flags say."""
    jax.config.update("jax_platforms", "cpu")  # the GPUs are described, not looked for
    config = read_config()
    devices = gpu_devices(_GPU.value, _GPUS.value)
    plan = plan_gpu_memory(config, devices, _GPU.value, _SIZE.value, _EXAMPLES.value)
    print(json.dumps(plan) if _JSON.value else in_words(plan))


if __name__ == "__main__":
    run(main)
