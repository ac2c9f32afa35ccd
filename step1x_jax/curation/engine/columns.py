"""Columns of rows: their types, as Arrow has them, and digests of their values.

A type is one of Python's: str, bytes, int, float, bool, list[str], list[bytes], or dict (of JSON
values, stored as text with sorted keys).
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from step1x_jax.curation.engine.rows import Row
from step1x_jax.data.parquet import import_pyarrow

Columns = Mapping[str, Any]  # name -> type
TYPES = (str, bytes, int, float, bool, dict, list[str], list[bytes])


def arrow_type(kind: Any) -> Any:
    """The type in a parquet file."""
    arrow = import_pyarrow()
    if kind in (list[str], list[bytes]):
        return arrow.list_(arrow_type(kind.__args__[0]))
    return {
        str: arrow.string(),
        dict: arrow.string(),
        bytes: arrow.binary(),
        int: arrow.int64(),
        float: arrow.float64(),
        bool: arrow.bool_(),
    }[kind]


def check_values(values: Row, columns: Columns) -> None:
    """Raise TypeError or ValueError unless values are of the columns' types, or None.

    Args:
      values: what a stage gave for a row.
      columns: that it promised.
    """
    for name, value in values.items():
        if name not in columns:
            raise TypeError(f"the column {name} is not among those that the stage declares")
        kind = columns[name]
        if value is None:
            continue
        if kind in (list[str], list[bytes]):
            fine = isinstance(value, list) and all(type(x) is kind.__args__[0] for x in value)
        elif kind is str:
            fine = isinstance(value, str)  # a StrEnum is one
        else:
            fine = type(value) is kind
        if not fine:
            raise TypeError(f"{name} is {type(value).__name__}, not {kind}")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, not a finite number")


def encode(value: Any, kind: Any) -> Any:
    """A value as it is stored.

    Raises:
      ValueError: a number in a dict is not finite, or a text is not valid Unicode.
      TypeError: a dict holds what JSON does not have.
    """
    if value is None:
        return None
    if kind is dict:
        value = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if isinstance(value, str):
        value.encode()
        return str(value)
    if kind == list[str]:
        "".join(value).encode()
    return value


def decode(value: Any, kind: Any) -> Any:
    """A stored value as rows have it."""
    return json.loads(value) if kind is dict and value is not None else value


def stored_size(values: Iterable[Any]) -> int:
    """About the bytes that stored values take in a file."""
    total = 0
    for value in values:
        if isinstance(value, str | bytes):
            total += len(value) if isinstance(value, bytes) else len(value.encode())
        elif isinstance(value, list):
            total += stored_size(value)
        total += 8
    return total


class Digest:
    """A digest of values in their order; no two orders or lists of values have the same."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, value: Any) -> None:
        """Take in a stored value."""
        if isinstance(value, list):
            self._hash.update(f"[{len(value)}".encode())
            for one in value:
                self.add(one)
            return
        data = value if isinstance(value, bytes) else repr(value).encode()
        self._hash.update(f"{type(value).__name__} {len(data)} ".encode())
        self._hash.update(data)

    def hex(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()[:32]


def digest_of(*values: Any) -> str:
    """The digest of some stored values."""
    digest = Digest()
    for value in values:
        digest.add(value)
    return digest.hex()
