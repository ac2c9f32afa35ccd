"""JSON files to dataclasses and back, with every name and type checked."""

import dataclasses
import difflib
import json
import types
import typing
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import replacing


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      UserError: missing, or not readable as one.
    """
    try:
        values = json.loads(epath.Path(path).read_text())
    except FileNotFoundError as e:
        raise UserError(f"{path} does not exist; is its folder the right one?") from e
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is not readable JSON ({e}); mend or replace it.") from e
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold a JSON object; mend or replace it.")
    return values


def write_json(path: epath.PathLike, values: dict[str, Any]) -> None:
    """Writes a JSON object, completely or not at all.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def build(kind: Any, values: Any, source: str, field: str = "") -> Any:
    """A dataclass, nested ones included, from JSON values. Absent fields take their defaults.

    Args:
      kind: the dataclass; its fields may be dataclasses, str, int, float, bool, tuples of one of
        these, or "... | None".
      values: a JSON object.
      source: where it is from, for messages.
      field: names the part of it that `values` is.

    Raises:
      UserError: an unknown field, or a value of another type; names it.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(values, dict):
            raise UserError(f"{source}: {field or 'the whole'} must be a JSON object.")
        hints = typing.get_type_hints(kind)
        prefix = f"{field}." if field else ""
        for name in values:
            if name not in hints:
                raise UserError(f"{source}: unknown field {prefix}{name}; remove it.")
        return kind(**{n: build(hints[n], v, source, prefix + n) for n, v in values.items()})
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):  # "float | None"
        return None if values is None else build(arguments[0], values, source, field)
    if typing.get_origin(kind) is tuple and isinstance(values, list | tuple):  # "tuple[int, ...]"
        return tuple(build(arguments[0], value, source, field) for value in values)
    if kind is float and type(values) is int:
        return float(values)
    if type(values) is not kind:
        name = getattr(kind, "__name__", str(kind))
        raise UserError(f"{source}: {field} is {values!r}, not of type {name}.")
    return values


def check_fields(config: Any, source: str, field: str = "") -> None:
    """Checks names and types of what was assigned to a dataclass and those in it.

    Raises:
      UserError: an attribute that is no field, or a value of another type; names it.
    """
    hints = typing.get_type_hints(type(config))
    for name, value in vars(config).items():
        full = f"{field}.{name}" if field else name
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            advice = f"did you mean {close[0]}?" if close else "remove it."
            raise UserError(f"{source} sets {full}, which does not exist; {advice}")
        if dataclasses.is_dataclass(value) and isinstance(value, hints[name]):
            check_fields(value, source, full)
        else:
            build(hints[name], value, source, full)
