"""The flag --config for one class of config: how it is defined, and how it is read."""

import dataclasses
import typing
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from step1x_jax.errors import UserError


def define_config(config_class: Any, example: str) -> Any:
    """Defines --config, which must be given; gives its holder.

    Args:
      config_class: the dataclass that get_config() in the file returns.
      example: of a field that is set, such as "training.steps=100".
    """
    _hide_bounds(config_class)
    holder = config_flags.DEFINE_config_file(
        "config", None, f"A file of configs/; --config.{example} sets any of its fields."
    )
    flags.mark_flag_as_required("config")
    return holder


def _hide_bounds(config_class: Any) -> None:
    """Makes dataclasses' fields name plain types; annotations keep the bounds (bounds.py).

    ml_collections chooses a parser for a field's flag by its type, and does not know Annotated.
    """
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        field.type = hints[field.name]
        if dataclasses.is_dataclass(field.type):
            _hide_bounds(field.type)


def read_typed(holder: Any, config_class: Any) -> Any:
    """The config of the file named by --config, with the flags' overrides, validated.

    Args:
      holder: of `define_config`.
      config_class: of it; has `validate()`.

    Raises:
      UserError: there is no such file, it holds no such config, or a value is impossible.
    """
    config = holder.value
    if type(config).__name__ == "_ErrorConfig":  # ml_collections: a file that it could not open
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        there = "cannot be read" if epath.Path(name).exists() else "does not exist"
        raise UserError(f"--config: {name} {there}; give a file of configs/.")
    if not isinstance(config, config_class):
        raise UserError(
            f"get_config() in the file of --config must return a {config_class.__name__}."
        )
    config.validate()
    return config
