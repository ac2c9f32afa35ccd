"""The flag --config of the commands that take a training config of configs/."""

from launch.shared.typed_config import define_config, read_typed
from step1x_jax.training.config import TrainConfig

define_config("training.steps=100")


def read_config() -> TrainConfig:
    """Return the config of the file named by --config, with the flags' overrides, validated.

    Raises:
      UserError: there is no such file, it holds no training config, or a value is impossible.
    """
    return read_typed(TrainConfig)
