"""Edits in parquet files, whose pictures are cells of the table.

A picture in a cell is named by a locator FILE.parquet#ROW#COLUMN, rows counted over the whole file
from 0. Listing a file leaves the pictures' columns alone; `read_cell` reads one. A row group can
only be read as a whole, and the rows that are asked for usually lie next to each other: the latest
groups stay in memory. Files are open only while something is read from them.
"""

import bisect
import contextlib
import functools
import itertools
import re
import threading
from collections.abc import Iterator
from typing import Any

from etils import epath

from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.data.forms import KNOWN_FORMS, LANGUAGE, find_form, missing_fields, picture_field
from step1x_jax.errors import UserError

ROW_GROUPS = 2  # in memory: threads that read consecutive rows are in two at a border
FOOTERS = 16  # in memory: where the row groups of a file lie

_LOCATOR = re.compile(r"(.+\.parquet)#(\d+)#(\w+)", re.DOTALL)


def parse_locator(path: str) -> tuple[str, int, str] | None:
    """File, row and column of a picture in a cell; None for any other path."""
    match = _LOCATOR.fullmatch(path)
    return (match[1], int(match[2]), match[3]) if match else None


def parquet_rows(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a file by name, with locators in place of pictures in cells.

    Args:
      path: the file; its columns have the names of one of FORMS.

    Yields:
      Name, and the columns that matter here. A column of paths stays as it is.

    Raises:
      UserError: pyarrow is missing, the file cannot be read, or its columns have other names.
    """
    with _reading(str(path)), path.open("rb") as stream:
        file = _pyarrow().parquet.ParquetFile(stream)
        schema = file.schema_arrow
        form = find_form(schema.names)
        if form is None or missing_fields(form, schema.names):
            raise UserError(
                f"{path} has the columns {', '.join(schema.names)}; rename them to those of a known"
                f" form: {KNOWN_FORMS}."
            )
        pictures = [picture_field(schema.names, field) for field in (form.source, form.target)]
        cells = [name for name in pictures if not _holds_text(schema.field(name).type)]
        names = {*pictures, form.instruction, form.task, *form.id, LANGUAGE}
        columns = [name for name in schema.names if name in names and name not in cells]
        row = itertools.count()
        for batch in file.iter_batches(columns=columns):
            for values in batch.to_pylist():
                number = next(row)
                locators = {name: f"{path.name}#{number}#{name}" for name in cells}
                yield f"row {number}", values | locators


def read_cell(path: str, row: int, column: str) -> bytes:
    """The bytes of a picture in a cell. Any number of threads may call it.

    Args:
      path: the parquet file.
      row: in the file, from 0.
      column: whose cells are bytes, Hugging Face's {bytes, path}, or a list with one of these. If
        there is only a path, it is relative to the file's folder.

    Returns:
      The picture's file.

    Raises:
      UserError: pyarrow is missing, the file cannot be read, or there is no picture; names file and
        row.
    """
    with _reading(f"{path} row {row}"):
        _, starts = _footer(path)
        number = bisect.bisect_right(starts, row) - 1
        if row >= starts[-1]:
            raise UserError(
                f"{path} row {row} is not there, the file has {starts[-1]} rows now; start again."
            )
        with _groups_lock:
            group = _group(path, number)
        value = group.column(column)[row - starts[number]].as_py()
    if isinstance(value, list):
        if len(value) != 1:
            raise UserError(
                f"{path} row {row} has {len(value)} pictures in {column}, not one; leave it out."
            )
        value = value[0]
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return read_image_bytes(epath.Path(path).parent / value)
    raise UserError(f"{path} row {row} has no picture in {column}; leave it out.")


def forget() -> None:
    """Drops what is in memory: files may have been replaced."""
    with _groups_lock:
        _group.cache_clear()
    _footer.cache_clear()


class _Group:
    """The columns of a row group; each is read once, by the first thread that asks for it."""

    def __init__(self, path: str, number: int):
        self._path = path
        self._number = number
        self._lock = threading.Lock()
        self._columns: dict[str, Any] = {}

    def column(self, name: str) -> Any:
        with self._lock:
            if name not in self._columns:
                self._columns[name] = _read_column(self._path, self._number, name)
            return self._columns[name]


_groups_lock = threading.Lock()  # or two threads would each make the group that is not there yet


@functools.lru_cache(maxsize=ROW_GROUPS)
def _group(path: str, number: int) -> _Group:
    return _Group(path, number)


def _read_column(path: str, number: int, name: str) -> Any:
    metadata, _ = _footer(path)
    with epath.Path(path).open("rb") as stream:
        file = _pyarrow().parquet.ParquetFile(stream, metadata=metadata)
        table = file.read_row_group(number, columns=[name])
    if name not in table.column_names:
        raise UserError(f"{path} has no column {name} any more; start again.")
    return table.column(name)


@functools.lru_cache(maxsize=FOOTERS)
def _footer(path: str) -> tuple[Any, list[int]]:
    """Metadata, and the first row of each row group, then the number of rows."""
    with epath.Path(path).open("rb") as stream:
        metadata = _pyarrow().parquet.read_metadata(stream)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return metadata, list(itertools.accumulate(sizes, initial=0))


def _holds_text(column_type: Any) -> bool:
    types = _pyarrow().types
    if types.is_list(column_type) or types.is_large_list(column_type):
        column_type = column_type.value_type
    return types.is_string(column_type) or types.is_large_string(column_type)


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turns what pyarrow raises into a UserError that names `what`."""
    pyarrow = _pyarrow()
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as e:  # ValueError: text not in UTF-8
        reason = getattr(e, "strerror", None) or " ".join(str(e).split())
        raise UserError(f"{what} cannot be read ({reason}); download the file again.") from e


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as e:
        raise UserError(
            "reading parquet files needs pyarrow: pip install 'step1x_jax[parquet]'"
        ) from e
    return pyarrow
