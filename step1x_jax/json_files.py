"""JSON from outside to plain values and dataclasses: one strict, typed, bounded reader.

Every JSON file, header and row that the package reads passes `parse_json`, and what is known of its
fields passes `build`. msgspec does both; what it lets through is refused here: fields that a
dataclass does not have, numbers that are not finite or do not fit into 64 bits.
"""

import dataclasses
import difflib
import json
import math
import re
import typing
from typing import Any

import msgspec
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import file_size, is_file, reason, replacing

LARGEST = 64 << 20  # bytes of a JSON file
SHOWN = 80  # characters of a value in a message
BOM = b"\xef\xbb\xbf"


def parse_json(data: bytes | str, source: str) -> Any:
    """The value of a JSON text.

    Args:
      data: the text, or its UTF-8 bytes, which may begin with a byte order mark.
      source: where it is from, for messages.

    Raises:
      UserError: it is not JSON: not UTF-8, with NaN or infinity, half a surrogate pair, or a number
        of hundreds of digits; or it is nested too deeply.
    """
    try:
        data = data.encode() if isinstance(data, str) else data
        return msgspec.json.decode(data.removeprefix(BOM))
    except RecursionError as e:
        raise UserError(f"{source} is nested too deeply to be read; check where it is from.") from e
    except (msgspec.MsgspecError, UnicodeError) as e:
        raise UserError(f"{source} is not valid JSON ({e}); correct or replace it.") from e


def read_json(path: epath.PathLike, largest: int = LARGEST) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
      path: the file.
      largest: size in bytes up to which it is read.

    Raises:
      UserError: missing, too large, or not readable as one.
    """
    path = epath.Path(path)
    try:
        if path.exists() and not is_file(path):
            raise UserError(f"{path} is no file; put a JSON file in its place.")
        if (size := file_size(path)) > largest:
            raise UserError(f"{path} has {size} bytes, more than such a file can have; replace it.")
        data = path.read_bytes()
    except FileNotFoundError as e:
        raise UserError(f"{path} does not exist; is its folder the right one?") from e
    except OSError as e:
        raise UserError(f"{path} cannot be read ({reason(e)}); check its rights and disk.") from e
    values = parse_json(data, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold a JSON object; correct or replace it.")
    return values


def write_json(path: epath.PathLike, values: dict[str, Any]) -> None:
    """Write a JSON object, completely or not at all.

    Raises:
      UserError: the disk is full or the folder not writable.
      ValueError: a number is not finite.
    """
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


def as_json(value: Any) -> dict[str, Any]:
    """A dataclass as a JSON object, fields in their order; `build` is the way back."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def build(kind: Any, values: Any, source: str, field: str = "") -> Any:
    """A value of a type, usually a dataclass, from JSON values. Absent fields take their defaults.

    Args:
      kind: any type that msgspec knows; a dataclass's fields may be annotated with bounds, such as
        Annotated[int, msgspec.Meta(ge=1, le=1000)].
      values: as JSON has them.
      source: where they are from, for messages.
      field: names the part of it that `values` is.

    Raises:
      UserError: an unknown or a missing field, a value of another type or out of its bounds; names
        it.
    """
    _refuse_unknown(kind, values, source, field)
    _refuse_unbounded(values, source, field)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as e:
        match = re.fullmatch(r"(.*?)(?: - at `\$?(.*)`)?", str(e), re.DOTALL)
        assert match is not None  # all is optional
        path, expected = match[2] or "", match[1].split(", got ")[0].replace("`", "")
        if expected.startswith("Object missing"):
            raise UserError(f"{source}: {expected.removeprefix('Object ')}; add it.") from e
        name = (field + path).removeprefix(".") or "the whole"
        expected = expected.removeprefix("Expected ")
        raise UserError(
            f"{source}: {name} is {shown(_at(values, path))}; expected {expected}."
        ) from e


def check_fields(config: Any, source: str, field: str = "") -> None:
    """Check names, types and bounds of what was assigned to a dataclass and those in it.

    Raises:
      UserError: an attribute that is no field, or a value of another type or out of its bounds;
        names it.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
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


def shown(value: Any) -> str:
    """A value for a message: its repr, cut."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _refuse_unknown(kind: Any, values: Any, source: str, field: str) -> None:
    if not (dataclasses.is_dataclass(kind) and isinstance(values, dict)):
        return
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        full = f"{field}.{name}" if field else str(name)
        if name not in hints:
            raise UserError(f"{source}: unknown field {full[:SHOWN]}; remove it.")
        _refuse_unknown(hints[name], value, source, full)


def _refuse_unbounded(values: Any, source: str, field: str) -> None:
    """Raise UserError for a number that is not finite or has over 64 bits."""
    if isinstance(values, dict):
        for name, value in values.items():
            _refuse_unbounded(value, source, f"{field}.{name}" if field else str(name))
    elif isinstance(values, list | tuple):
        for i, value in enumerate(values):
            _refuse_unbounded(value, source, f"{field}[{i}]")
    elif isinstance(values, float) and not math.isfinite(values):
        raise UserError(f"{source}: {field} is {values}; give a finite number.")
    elif isinstance(values, int) and not -(1 << 63) <= values < 1 << 63:
        raise UserError(f"{source}: {field[:SHOWN]} is a number of over 64 bits; correct it.")


def _at(values: Any, path: str) -> Any:
    """What msgspec's path, such as ".shards[3].file", leads to; the whole if it has a wildcard."""
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path):
        try:
            values = values[name or int(index)]
        except (KeyError, IndexError, TypeError):
            break
    return values
