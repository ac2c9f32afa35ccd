"""Train the editor, or resume a run: launch/guides/training.md.

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

from launch.shared import config_flag
from launch.shared.command import run
from launch.shared.config_flag import read_config
from launch.shared.exit_codes import TERMINATED
from step1x_jax.data.manifest import MANIFEST, read_manifest, records_fingerprint
from step1x_jax.data.pipeline import DataConfig, data_folders, make_batches
from step1x_jax.errors import UserError
from step1x_jax.files import absolute, check_writable, is_remote, user_path
from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig, check_records, expand_paths
from step1x_jax.training.loop import print_once, train

flags.adopt_module_key_flags(config_flag)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, on a disk or gs://.", required=True
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes: TPU pods, Slurm and MPI say who they are."
)

SILENCE = 60  # seconds after which a process counts as lost, and the others end


def main() -> int:
    """Bring data and training together."""
    config, workdir = expand_paths(read_config()), user_path(_WORKDIR.value)
    if is_remote(workdir):  # one sentence before any work, if there is no access
        check_writable(epath.Path(workdir) / "config.json")
    check_records(config)
    manifests = [read_manifest(folder / MANIFEST) for folder in data_folders(config.data)]
    records = [records_fingerprint(manifest) for manifest in manifests]
    config = config_of_run(config)
    if _DISTRIBUTED.value:
        join_others()

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
    looked_at = held_out if config.held_out.path else None
    state = train(config, workdir, batches, looked_at, records)
    step, steps = int(state.step), config.training.steps
    if step < steps:
        print(
            f"Stopped as asked after step {step} of {steps}, with a checkpoint; the same command"
            " goes on from there.",
            file=sys.stderr,
        )
        return TERMINATED
    print_once(f"Done: {steps} steps. Checkpoints and metrics are in {workdir}.")
    return 0


def config_of_run(config: TrainConfig) -> TrainConfig:
    """Return what the run's folder stores: launch.edit, elsewhere, needs nothing else."""
    changes = {
        "encoder.text_length": config.model.text_length,
        "autoencoder": from_anywhere(config.autoencoder),
        "encoder.path": from_anywhere(config.encoder.path),
    }
    if config.lora.rank:  # adapters are no use without these
        changes["training.start_from"] = from_anywhere(config.training.start_from)
    return override(config, changes)


def join_others() -> None:
    """Join the other processes of the run.

    Raises:
      UserError: there are none, or they cannot be reached.
    """
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE)
    except (ValueError, RuntimeError) as e:
        raise UserError(
            f"--distributed: the processes of a run could not be joined ({str(e).splitlines()[0]});"
            " it needs a TPU pod, Slurm or MPI, which say who takes part: leave it out on a single"
            " machine."
        ) from e


def from_anywhere(path: str) -> str:
    """A path for launch.edit, which may run in another folder."""
    return str(absolute(path)) if path else path


if __name__ == "__main__":
    run(main)
