"""A run's config as JSON: WORKDIR/config.json, and a copy inside every checkpoint."""

import dataclasses
import json
import types
import typing
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import replacing
from step1x_jax.training.config import TrainConfig


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The config as a JSON object, sections and fields in their order."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(values: Any, source: str) -> TrainConfig:
    """Builds a config from what to_json gave. Fields that are not there take their defaults.

    Args:
      values: a JSON object.
      source: where it is from, for messages.

    Raises:
      UserError: an unknown field, or a value of another type.
    """
    return _build(TrainConfig, values, "", source)


def save_config(config: TrainConfig, path: epath.PathLike) -> None:
    """Writes the config as JSON, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(to_json(config), indent=2, ensure_ascii=False) + "\n")


def load_config(path: epath.PathLike) -> TrainConfig:
    """Reads a config written by save_config.

    Raises:
      UserError: no such file, no JSON, or see from_json.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; is its folder that of a training run?")
    try:
        values = json.loads(path.read_text())
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON ({e}); mend it or start another run.") from e
    return from_json(values, str(path))


def _build(kind: Any, value: Any, field: str, source: str) -> Any:
    """Makes a value of the annotated type `kind` from JSON's."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{source}: {field or 'the config'} must be a JSON object.")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise UserError(f"{source}: unknown field {_join(field, name)}; remove it.")
        return kind(**{n: _build(hints[n], v, _join(field, n), source) for n, v in value.items()})
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):  # "float | None"
        return None if value is None else _build(arguments[0], value, field, source)
    if typing.get_origin(kind) is tuple and isinstance(value, list):  # "tuple[int, ...]"
        return tuple(_build(arguments[0], v, field, source) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{source}: {field} is {value!r}, not of type {kind.__name__}.")
    return value


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
