"""The flag --config for one class of config: how it is defined, and how it is read."""

import dataclasses
import traceback
import typing
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from step1x_jax.errors import UserError
from step1x_jax.overrides import override


def define_config(example: str) -> None:
    """Define --config, which must be given.

    Args:
      example: of a field that is set, such as "training.steps=100".
    """
    config_flags.DEFINE_config_file(
        "config", None, f"A file of configs/; --config.{example} sets any of its fields."
    )
    flag: Any = flags.FLAGS["config"]
    flag.parser = _DraftParser(flag.parser)
    flags.mark_flag_as_required("config")


class _DraftParser(flags.ArgumentParser):
    """Keep the config of a file, and let ml_collections set the fields of a draft.

    ml_collections assigns to fields, which a frozen config refuses, and chooses a field's parser by
    its type, of which it does not know Annotated.
    """

    def __init__(self, file_parser: Any):
        self._file_parser = file_parser
        self.config: Any = None

    def parse(self, path: str) -> Any:
        """Run the file.

        Raises:
          UserError: the Python of the file raises anything but OSError, which ml_collections keeps
            until the config is used.
        """
        try:
            self.config = self._file_parser.parse(path)
        except Exception as e:
            # ml_collections raises another with a traceback in its text for these two.
            raised = e.__context__ if isinstance(e, TypeError | ValueError) else e
            raise UserError(_say_where(raised or e, path)) from e
        return _draft(self.config)


def _say_where(error: BaseException, path: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == path]  # rather than of the dataclass that refused
    where: Any = (own or frames)[-1][:2]
    if isinstance(error, SyntaxError):
        where = error.filename, error.lineno
    advice = ""
    if isinstance(error, dataclasses.FrozenInstanceError):
        advice = "; give the value where the section is made, or use override (overrides.py)"
    return f"--config: {where[0]}, line {where[1]}: {type(error).__name__}: {error}{advice}"


def _draft(value: Any) -> Any:
    """Copy a config into dataclasses of the same names whose fields can be set."""
    if isinstance(value, dict):
        return {name: _draft(one) for name, one in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    hints = typing.get_type_hints(type(value))
    values = {field.name: _draft(getattr(value, field.name)) for field in dataclasses.fields(value)}
    types = {n: type(v) if dataclasses.is_dataclass(v) else hints[n] for n, v in values.items()}
    return dataclasses.make_dataclass(type(value).__name__, types.items())(**values)


def read_typed(config_class: Any) -> Any:
    """Return the config of the file named by --config, with the flags' overrides, validated.

    Args:
      config_class: what get_config() in the file returns; has `validate()`.

    Raises:
      UserError: there is no such file, it holds no such config, or a value is impossible.
    """
    flag: Any = flags.FLAGS["config"]
    if type(flag.value).__name__ == "_ErrorConfig":  # a file that ml_collections could not open
        name = config_flags.get_config_filename(flag)
        there = "cannot be read" if epath.Path(name).exists() else "does not exist"
        raise UserError(f"--config: {name} {there}; give a file of configs/.")
    config = flag.parser.config
    if not isinstance(config, config_class):
        raise UserError(
            f"get_config() in the file of --config must return a {config_class.__name__}."
        )
    config = override(config, config_flags.get_override_values(flag))
    config.validate()
    return config
