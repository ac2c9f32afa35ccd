"""The flag --config of the commands that take a file of configs/."""

import dataclasses
import typing
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from step1x_jax.errors import UserError
from step1x_jax.training.config import TrainConfig


def _hide_bounds(config_class: Any) -> None:
    """Makes dataclasses' fields name plain types; annotations keep the bounds (bounds.py).

    ml_collections chooses a parser for a field's flag by its type, and does not know Annotated.
    """
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        field.type = hints[field.name]
        if dataclasses.is_dataclass(field.type):
            _hide_bounds(field.type)


_hide_bounds(TrainConfig)
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/; --config.training.steps=100 sets any of its fields."
)
flags.mark_flag_as_required("config")


def read_config() -> TrainConfig:
    """The config of the file named by --config, with the flags' overrides, validated.

    Raises:
      UserError: there is no such file, it holds no training config, or a value is impossible.
    """
    config = _CONFIG.value
    if type(config).__name__ == "_ErrorConfig":  # ml_collections: a file that it could not open
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        there = "cannot be read" if epath.Path(name).exists() else "does not exist"
        raise UserError(f"--config: {name} {there}; give a file of configs/.")
    if not isinstance(config, TrainConfig):
        raise UserError("get_config() in the file of --config must return a TrainConfig.")
    config.validate()
    return config
