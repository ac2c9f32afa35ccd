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
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.data.forms import KNOWN_FORMS, LANGUAGE, find_form, missing_fields, picture_field
from step1x_jax.data.paths import stays_inside
from step1x_jax.errors import UserError
from step1x_jax.files import reason

# From a table's path and schema to its columns with pictures in cells, and the others to be read.
Columns = Callable[[epath.Path, Any], tuple[list[str], list[str]]]

ROW_GROUPS = 2  # in memory: threads that read consecutive rows are in two at a border
FOOTERS = 16  # in memory: where the row groups of a file lie

_LOCATOR = re.compile(r"(.+\.(?:parquet|arrow))#(\d{1,18})#(\w+)", re.DOTALL)


def parse_locator(path: str) -> tuple[str, int, str] | None:
    """File, row and column of a picture in a cell; None for any other path."""
    match = _LOCATOR.fullmatch(path)
    return (match[1], int(match[2]), match[3]) if match else None


def parquet_rows(path: epath.Path, columns_of: Columns | None = None) -> Iterator[tuple[str, Any]]:
    """Rows of a file by name, with locators in place of pictures in cells.

    Args:
      path: the file.
      columns_of: finds its columns; None: `picture_columns`, those of an edit in one of FORMS.

    Yields:
      Name, and the columns that matter here. A column of paths stays as it is.

    Raises:
      UserError: pyarrow is missing, the file cannot be read, or its columns have other names.
    """
    with reading(str(path)), path.open("rb") as stream:
        file = pyarrow().parquet.ParquetFile(stream)
        schema = file.schema_arrow
        cells, columns = (columns_of or picture_columns)(path, schema)
        encoded = [
            leaf for n in range(file.num_row_groups) for leaf in _encoded(file.metadata, n, columns)
        ]
        file = _open(stream, file.metadata, sorted(set(encoded)))
        yield from table_rows(path.name, file.iter_batches(columns=columns), cells)


def picture_columns(path: epath.Path, schema: Any) -> tuple[list[str], list[str]]:
    """Of a table, the columns with pictures in cells, and the other ones that matter here.

    Raises:
      UserError: its columns are those of no known form.
    """
    form = find_form(schema.names)
    if form is None or missing_fields(form, schema.names):
        raise UserError(
            f"{path} has the columns {', '.join(schema.names)}; rename them to those of a known"
            f" form: {KNOWN_FORMS}."
        )
    pictures = [picture_field(schema.names, field) for field in (form.source, form.target)]
    cells = [name for name in pictures if not holds_text(schema.field(name).type)]
    names = {*pictures, form.instruction, form.task, *form.id, LANGUAGE}
    return cells, [name for name in schema.names if name in names and name not in cells]


def table_rows(file: str, batches: Iterable[Any], cells: list[str]) -> Iterator[tuple[str, Any]]:
    """Rows by name, with locators in place of pictures in cells; an error for text in no UTF-8.

    Args:
      file: name of the table's file.
      batches: of all other columns.
      cells: the columns with pictures.
    """
    row = itertools.count()
    for batch in batches:
        columns = [_values(column) for column in batch.columns]
        names = batch.schema.names
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            number = next(row)
            locators = {name: f"{file}#{number}#{name}" for name in cells}
            broken = next((value for value in values if isinstance(value, UserError)), None)
            yield f"row {number}", broken or dict(zip(names, values, strict=True)) | locators


def _values(column: Any) -> list[Any]:
    """Python's values of a column; equal ones of an encoded column are one object."""
    if hasattr(column, "dictionary"):
        values = _values(column.dictionary)
        return [None if i is None else values[i] for i in column.indices.to_pylist()]
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(one) for one in column]


def _value(one: Any) -> Any:
    try:
        return one.as_py()
    except UnicodeDecodeError as e:
        return UserError(f"not valid Unicode ({e})")


def read_cell(
    path: str, row: int, column: str, *, inside: bool = False, item: int | None = None
) -> bytes:
    """The bytes of a picture in a cell. Any number of threads may call it.

    Args:
      path: the parquet file.
      row: in the file, from 0.
      column: whose cells are bytes, Hugging Face's {bytes, path}, or a list with one of these. If
        there is only a path, it is relative to the file's folder.
      inside: whether such a path must not lead out of that folder.
      item: which one of a list, from 0; None: the list has one.

    Returns:
      The picture's file.

    Raises:
      UserError: pyarrow is missing, the file cannot be read, or there is no picture; names file and
        row.
    """
    with reading(f"{path} row {row}"):
        _, starts = _footer(path)
        number = bisect.bisect_right(starts, row) - 1
        if row >= starts[-1]:
            raise UserError(
                f"{path} row {row} is not there, the file has {starts[-1]} rows now; start again."
            )
        with _groups_lock:
            group = _group(path, number)
        value = group.column(column)[row - starts[number]].as_py()
    return picture_of(value, path, row, column, inside=inside, item=item)


def picture_of(
    value: Any, path: str, row: int, column: str, *, inside: bool = False, item: int | None = None
) -> bytes:
    """The bytes of the picture that a cell holds or names, as `read_cell` says."""
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
                f"{path} row {row} names a picture outside of its folder in {column},"
                f" {value:.300}; leave it out."
            )
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
    sizes = (chunk.total_uncompressed_size for chunk in _chunks(metadata, number, [name]))
    if (size := sum(sizes)) > _memory() // 2:
        raise UserError(
            f"{path} has {size / 1e9:.0f} GB of {name} in a row group, more than this machine can"
            " hold; write it anew with smaller row groups."
        )
    # A picture that many rows share is in the file once, and so it is in memory.
    encoded = _encoded(metadata, number, [name])
    with epath.Path(path).open("rb") as stream:
        try:
            table = _open(stream, metadata, encoded).read_row_group(number, columns=[name])
        except NotImplementedError:  # pyarrow cannot for some files with pages of both kinds
            table = _open(stream, metadata).read_row_group(number, columns=[name])
    if name not in table.column_names:
        raise UserError(f"{path} has no column {name} any more; start again.")
    return table.column(name)


def _open(stream: Any, metadata: Any, encoded: Sequence[str] = ()) -> Any:
    """A file, of which the parts `encoded` are read with each of their values once."""
    return pyarrow().parquet.ParquetFile(stream, metadata=metadata, read_dictionary=list(encoded))


def _chunks(metadata: Any, number: int, names: list[str]) -> list[Any]:
    """What a row group has of columns, which may consist of several."""
    group = metadata.row_group(number)
    chunks = map(group.column, range(group.num_columns))
    return [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in names]


def _encoded(metadata: Any, number: int, names: list[str]) -> list[str]:
    """The parts of columns that hold each of their values once. Lists cannot be read so."""
    leaves = map(metadata.schema.column, range(len(metadata.schema)))
    single = {leaf.path for leaf in leaves if leaf.max_repetition_level == 0}
    return [
        chunk.path_in_schema
        for chunk in _chunks(metadata, number, names)
        if chunk.physical_type == "BYTE_ARRAY"
        and "RLE_DICTIONARY" in chunk.encodings
        and chunk.path_in_schema in single
    ]


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@functools.lru_cache(maxsize=FOOTERS)
def _footer(path: str) -> tuple[Any, list[int]]:
    """Metadata, and the first row of each row group, then the number of rows."""
    with epath.Path(path).open("rb") as stream:
        metadata = pyarrow().parquet.read_metadata(stream)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return metadata, list(itertools.accumulate(sizes, initial=0))


def holds_text(column_type: Any) -> bool:
    """Whether the cells of a column are texts, or lists of texts."""
    types = pyarrow().types
    if types.is_list(column_type) or types.is_large_list(column_type):
        column_type = column_type.value_type
    return types.is_string(column_type) or types.is_large_string(column_type)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns what pyarrow raises into a UserError that names `what`."""
    library = pyarrow()
    try:
        yield
    except MemoryError as e:
        raise UserError(
            f"{what} does not fit into memory; write the file anew with smaller row groups."
        ) from e
    except OSError as e:
        if e.errno is not None:  # the system's; pyarrow's own have none
            raise UserError(f"{what} cannot be read ({reason(e)}); check rights and disk.") from e
        raise _damaged(what, e) from e
    # ValueError: text that is not UTF-8; KeyError: parts that its header promises
    except (library.ArrowException, ValueError, KeyError, OverflowError, TypeError) as e:
        raise _damaged(what, e) from e


def _damaged(what: str, e: Exception) -> UserError:
    return UserError(f"{what} is damaged ({' '.join(str(e).split())}); download the file again.")


def pyarrow() -> Any:
    """The library, with all its parts.

    Raises:
      UserError: it is not there.
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
