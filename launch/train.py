"""Trains the editor, or goes on with a run: launch/guides/training.md.

python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart/train

Any field of the config can be set after it: --config.training.steps=100. Released weights to start
from are one: --config.training.start_from=step1x-edit-v1p1-official.safetensors.
"""

import dataclasses
import sys
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from absl import flags
from etils import epath

from launch import config_flag
from launch.command import run
from launch.config_flag import read_config
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.files import absolute, check_writable, is_remote
from step1x_jax.training.config import check_records
from step1x_jax.training.loop import print_once, train

flags.adopt_module_key_flags(config_flag)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, on a disk or gs://.", required=True
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes: TPU pods, Slurm and MPI say who they are."
)

SILENCE = 60  # seconds after which a process counts as lost, and the others end
STOPPED = 143  # what a shell reports for a process that ended on SIGTERM


def main() -> int:
    """Brings data and training together."""
    config = read_config()
    if is_remote(_WORKDIR.value):  # one sentence before any work, if there is no access
        check_writable(epath.Path(_WORKDIR.value) / "config.json")
    check_records(config)
    config.autoencoder = from_anywhere(config.autoencoder)
    config.encoder.path = from_anywhere(config.encoder.path)
    if config.lora.rank:  # adapters are no use without these
        config.training.start_from = from_anywhere(config.training.start_from)
    if _DISTRIBUTED.value:
        jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE)

    def read(data: DataConfig, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        return make_batches(
            data,
            text_length=config.model.text_length,
            seed=config.training.seed,
            start_step=first_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def held_out(dropped: bool) -> Iterator[dict[str, np.ndarray]]:
        data = dataclasses.replace(config.data, path=config.held_out.path, weights=())
        return read(dataclasses.replace(data, caption_dropout=float(dropped)), 0)

    batches = partial(read, config.data)
    state = train(config, _WORKDIR.value, batches, held_out if config.held_out.path else None)
    step, steps = int(state.step), config.training.steps
    if step < steps:
        print(
            f"Stopped as asked after step {step} of {steps}, with a checkpoint; the same command"
            " goes on from there.",
            file=sys.stderr,
        )
        return STOPPED
    print_once(f"Done: {steps} steps. Checkpoints and metrics are in {_WORKDIR.value}.")
    return 0


def from_anywhere(path: str) -> str:
    """A path for launch.edit, which may run in another folder."""
    return str(absolute(path)) if path else path


if __name__ == "__main__":
    run(main)
