"""Print what a config would train, without allocating it: parameters, shapes, the traced step.

python -m launch.describe --config=configs/finetune_1024.py

Devices that are not there: XLA_FLAGS=--xla_force_host_platform_device_count=8 in front of it.
"""

from typing import Any

import jax
from absl import flags

from launch.shared import config_flag
from launch.shared.command import run
from launch.shared.config_flag import read_config
from step1x_jax.parallel.mesh import make_mesh
from step1x_jax.training.describe import abstract_batch, count_parameters, trace_train_step
from step1x_jax.training.step.train_step import abstract_state
from step1x_jax.training.trainable_split import abstract_frozen
from step1x_jax.weights.run.fingerprints import name_arrays

flags.adopt_module_key_flags(config_flag)
_SIZE = flags.DEFINE_integer(
    "size", 1024, "Side of the pictures in pixels.", lower_bound=16, upper_bound=8192
)


def main() -> None:
    """Print parameters, batch, counts and times."""
    config = read_config()
    mesh = make_mesh(config.mesh)
    state = abstract_state(config, mesh)
    batch = abstract_batch(config, _SIZE.value, mesh)

    print("Trained (AdamW adds two arrays like each of these):")
    print_arrays(state.params)
    frozen = abstract_frozen(config, mesh)
    if jax.tree.leaves(frozen):
        print("Frozen:")
        print_arrays(frozen)
    print("Batch:")
    print_arrays(batch)
    for part, count in count_parameters(state.params).items():
        print(f"{part}: {count:,} parameters")
    if jax.tree.leaves(frozen):
        print(f"frozen: {count_parameters(frozen)['total']:,} parameters")
    _, seconds = trace_train_step(config, mesh, state, batch)
    print(f"Train step traced in {seconds['trace']:.1f} s, lowered in {seconds['lower']:.1f} s.")


def print_arrays(tree: Any) -> None:
    """One line per array: name, dtype, shape, and how it is split over the mesh."""
    for name, x in name_arrays(tree).items():
        print(f"  {name}  {x.dtype}{list(x.shape)}  {tuple(x.sharding.spec)}")


if __name__ == "__main__":
    run(main)
