"""Reads edits from parquet files, whose pictures may be cells of the table.

A picture in a cell is addressed by a locator FILE.parquet#ROW#COLUMN; rows are counted over the
whole file from 0. Listing a file does not read the columns of pictures; `read_cell` reads one
picture. A row group can only be read as a whole, and requested rows are usually adjacent, so the
latest row groups are cached. Files are open only while they are read.
"""

import bisect
import contextlib
import functools
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.data.dataset_schemas import (
    KNOWN_SCHEMAS,
    LANGUAGE,
    find_picture_field,
    find_schema,
    list_missing_fields,
)
from step1x_jax.data.paths import stays_inside
from step1x_jax.errors import UserError
from step1x_jax.files import reason

# From a table's path and schema to its columns with pictures in cells, and the others to read.
ColumnFinder = Callable[[epath.Path, Any], tuple[list[str], list[str]]]

CACHED_ROW_GROUPS = 2  # threads that read consecutive rows use two groups at a boundary
CACHED_FOOTERS = 16  # positions of the row groups of a file

_LOCATOR = re.compile(r"(.+\.(?:parquet|arrow))#(\d{1,18})#(\w+)", re.DOTALL)


def parse_locator(path: str) -> tuple[str, int, str] | None:
    """Return file, row and column of a picture in a cell; None for any other path."""
    match = _LOCATOR.fullmatch(path)
    return (match[1], int(match[2]), match[3]) if match else None


def read_parquet_rows(
    path: epath.Path, find_columns: ColumnFinder | None = None
) -> Iterator[tuple[str, Any]]:
    """Read the rows of a file; pictures in cells are replaced by their locators.

    Args:
      path: the file.
      find_columns: selects the columns; None: `find_picture_columns`.

    Yields:
      Name of the row ("row NUMBER"), and its selected columns as a dict. Paths stay as they are.

    Raises:
      UserError: pyarrow is missing, the file cannot be read, or its columns match no known data
        set.
    """
    with convert_errors(str(path)), path.open("rb") as stream:
        file = import_pyarrow().parquet.ParquetFile(stream)
        schema = file.schema_arrow
        cells, columns = (find_columns or find_picture_columns)(path, schema)
        encoded = [
            leaf
            for n in range(file.num_row_groups)
            for leaf in _list_dictionary_encoded(file.metadata, n, columns)
        ]
        file = _open(stream, file.metadata, sorted(set(encoded)))
        yield from iterate_rows(path.name, file.iter_batches(columns=columns), cells)


def find_picture_columns(path: epath.Path, schema: Any) -> tuple[list[str], list[str]]:
    """Find the columns of an edit in a table with one of DATASET_SCHEMAS.

    Returns:
      The columns with pictures in cells, and the other columns to read.

    Raises:
      UserError: the columns match no known data set.
    """
    form = find_schema(schema.names)
    if form is None or list_missing_fields(form, schema.names):
        raise UserError(
            f"{path} has the columns {', '.join(schema.names)}; rename them to those of a known"
            f" data set: {KNOWN_SCHEMAS}."
        )
    pictures = [find_picture_field(schema.names, field) for field in (form.source, form.target)]
    cells = [name for name in pictures if not holds_text(schema.field(name).type)]
    names = {*pictures, form.instruction, form.task, *form.id, LANGUAGE}
    return cells, [name for name in schema.names if name in names and name not in cells]


def iterate_rows(file: str, batches: Iterable[Any], cells: list[str]) -> Iterator[tuple[str, Any]]:
    """Iterate over the rows of a table; pictures in cells are replaced by their locators.

    Args:
      file: name of the table's file.
      batches: record batches of the columns without pictures.
      cells: names of the columns with pictures.

    Yields:
      Name of the row ("row NUMBER"), and its columns as a dict, or a UserError if a text is not
      UTF-8.
    """
    row = itertools.count()
    for batch in batches:
        columns = [_to_python_values(column) for column in batch.columns]
        names = batch.schema.names
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            number = next(row)
            locators = {name: f"{file}#{number}#{name}" for name in cells}
            broken = next((value for value in values if isinstance(value, UserError)), None)
            yield f"row {number}", broken or dict(zip(names, values, strict=True)) | locators


def _to_python_values(column: Any) -> list[Any]:
    """Convert a column to Python values; those of a dictionary-encoded one share objects."""
    if hasattr(column, "dictionary"):
        values = _to_python_values(column.dictionary)
        return [None if i is None else values[i] for i in column.indices.to_pylist()]
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_to_python_value(one) for one in column]


def _to_python_value(one: Any) -> Any:
    try:
        return one.as_py()
    except UnicodeDecodeError as e:
        return UserError(f"not valid Unicode ({e})")


def read_cell(
    path: str, row: int, column: str, *, inside: bool = False, item: int | None = None
) -> bytes:
    """Read a picture from a cell; thread-safe.

    Args:
      path: the parquet file.
      row: index of the row in the file, from 0.
      column: name of the column. Its cells are bytes, Hugging Face's {bytes, path}, or lists of
        these. A path without bytes is relative to the file's folder.
      inside: whether such a path must stay inside that folder.
      item: index in a list, from 0; None: the list must have exactly one picture.

    Returns:
      The bytes of the picture's file.

    Raises:
      UserError: pyarrow is missing, the file cannot be read, or the cell has no picture; the
        message names file and row.
    """
    with convert_errors(f"{path} row {row}"):
        _, starts = _read_footer(path)
        number = bisect.bisect_right(starts, row) - 1
        if row >= starts[-1]:
            raise UserError(
                f"{path} row {row} does not exist, the file has {starts[-1]} rows now; start again."
            )
        with _groups_lock:
            group = _group(path, number)
        value = group.column(column)[row - starts[number]].as_py()
    return extract_picture(value, path, row, column, inside=inside, item=item)


def extract_picture(
    value: Any, path: str, row: int, column: str, *, inside: bool = False, item: int | None = None
) -> bytes:
    """Return the bytes of the picture that a cell contains or refers to; see `read_cell`."""
    if isinstance(value, list) and item is not None:
        value = value[item : item + 1]
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
        if inside and not stays_inside(value):
            raise UserError(
                f"{path} row {row} names a picture outside its folder in {column},"
                f" {value:.300}; leave it out."
            )
        return read_image_bytes(epath.Path(path).parent / value)
    raise UserError(f"{path} row {row} has no picture in {column}; leave it out.")


def clear_cache() -> None:
    """Drop the cached row groups and footers: files may have been replaced."""
    with _groups_lock:
        _group.cache_clear()
    _read_footer.cache_clear()


class _Group:
    """A cached row group. Each column is read once, by the first thread that requests it."""

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


_groups_lock = threading.Lock()  # otherwise two threads could both create a missing group


@functools.lru_cache(maxsize=CACHED_ROW_GROUPS)
def _group(path: str, number: int) -> _Group:
    return _Group(path, number)


def _read_column(path: str, number: int, name: str) -> Any:
    metadata, _ = _read_footer(path)
    sizes = (
        chunk.total_uncompressed_size for chunk in _list_column_chunks(metadata, number, [name])
    )
    if (size := sum(sizes)) > _total_memory() // 2:
        raise UserError(
            f"{path} has {size / 1e9:.0f} GB of {name} in a row group, more than this machine can"
            " hold; write it again with smaller row groups."
        )
    # A picture shared by many rows is stored once in the file, and should be in memory once.
    encoded = _list_dictionary_encoded(metadata, number, [name])
    with epath.Path(path).open("rb") as stream:
        try:
            table = _open(stream, metadata, encoded).read_row_group(number, columns=[name])
        except NotImplementedError:  # pyarrow fails on some files with mixed page encodings
            table = _open(stream, metadata).read_row_group(number, columns=[name])
    if name not in table.column_names:
        raise UserError(f"{path} no longer has a column {name}; start again.")
    return table.column(name)


def _open(stream: Any, metadata: Any, encoded: Sequence[str] = ()) -> Any:
    """Open a file; the leaf columns `encoded` are read dictionary-encoded."""
    return import_pyarrow().parquet.ParquetFile(
        stream, metadata=metadata, read_dictionary=list(encoded)
    )


def _list_column_chunks(metadata: Any, number: int, names: list[str]) -> list[Any]:
    """Return the column chunks of a row group; a nested column has several."""
    group = metadata.row_group(number)
    chunks = map(group.column, range(group.num_columns))
    return [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in names]


def _list_dictionary_encoded(metadata: Any, number: int, names: list[str]) -> list[str]:
    """Return the dictionary-encoded leaves of columns. Lists cannot be read dictionary-encoded."""
    leaves = map(metadata.schema.column, range(len(metadata.schema)))
    single = {leaf.path for leaf in leaves if leaf.max_repetition_level == 0}
    return [
        chunk.path_in_schema
        for chunk in _list_column_chunks(metadata, number, names)
        if chunk.physical_type == "BYTE_ARRAY"
        and "RLE_DICTIONARY" in chunk.encodings
        and chunk.path_in_schema in single
    ]


def _total_memory() -> int:
    """Return the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@functools.lru_cache(maxsize=CACHED_FOOTERS)
def _read_footer(path: str) -> tuple[Any, list[int]]:
    """Return the metadata, and the first row of each row group followed by the number of rows."""
    with epath.Path(path).open("rb") as stream:
        metadata = import_pyarrow().parquet.read_metadata(stream)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return metadata, list(itertools.accumulate(sizes, initial=0))


def holds_text(column_type: Any) -> bool:
    """Whether the cells of a column are texts or lists of texts."""
    types = import_pyarrow().types
    if types.is_list(column_type) or types.is_large_list(column_type):
        column_type = column_type.value_type
    return types.is_string(column_type) or types.is_large_string(column_type)


@contextlib.contextmanager
def convert_errors(what: str) -> Iterator[None]:
    """Convert exceptions of pyarrow to a UserError that names `what`."""
    library = import_pyarrow()
    try:
        yield
    except MemoryError as e:
        raise UserError(
            f"{what} does not fit into memory; write the file again with smaller row groups."
        ) from e
    except OSError as e:
        if e.errno is not None:  # from the operating system; those of pyarrow have no errno
            raise UserError(
                f"{what} cannot be read ({reason(e)}); check permissions and disk."
            ) from e
        raise _damaged_error(what, e) from e
    # ValueError: text is not UTF-8; KeyError: parts listed in the header are missing
    except (library.ArrowException, ValueError, KeyError, OverflowError, TypeError) as e:
        raise _damaged_error(what, e) from e


def _damaged_error(what: str, e: Exception) -> UserError:
    return UserError(f"{what} is damaged ({' '.join(str(e).split())}); download the file again.")


def import_pyarrow() -> Any:
    """Import pyarrow with the submodules used here.

    Raises:
      UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as e:
        raise UserError(
            "reading parquet files needs pyarrow: pip install 'step1x_jax[parquet]'"
        ) from e
    return pyarrow
