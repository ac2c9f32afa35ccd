"""Reads edits from a folder written by `save_to_disk` of Hugging Face's datasets.

Such a folder holds arrow files, which its state.json lists. A picture in a cell is addressed as in
parquet files, by FILE.arrow#ROW#COLUMN (parquet.py).
"""

import functools
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from step1x_jax.data.json_readers import Rows, read_json_rows, read_json_value
from step1x_jax.data.parquet import (
    ColumnFinder,
    convert_errors,
    extract_picture,
    find_picture_columns,
    import_pyarrow,
    iterate_rows,
)
from step1x_jax.errors import UserError
from step1x_jax.files import is_remote

STATE = "state.json"
ARROW_SIDECARS = (STATE, "dataset_info.json", "dataset_dict.json")  # JSON files beside arrow files
CACHED_FILES = 4  # tables in memory, or memory-mapped


def read_saved_rows(path: epath.Path) -> Rows:
    """Read the rows of the arrow files that a state.json lists.

    A file of that name that does not list arrow files is read as a JSON list of edits.

    Args:
      path: the state.json.

    Returns:
      (name, row) pairs.

    Raises:
      UserError: pyarrow is missing, a file cannot be read, or its columns match no known data set.
    """
    names = list_saved_files(path)
    return read_json_rows(path) if names is None else read_arrow_rows(path.parent, names)


def list_saved_files(path: epath.Path) -> list[str] | None:
    """Return the names of the arrow files that a state.json lists, or None if it lists none.

    Raises:
      UserError: the file cannot be read, or it lists files outside its folder.
    """
    state = read_json_value(path)
    files = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(files, list):
        return None
    names: list[Any] = [one.get("filename") if isinstance(one, dict) else None for one in files]
    if not all(isinstance(name, str) and "/" not in name for name in names):
        raise UserError(f"{path} does not list files of its folder; save the data set again.")
    return names


def read_arrow_rows(
    folder: epath.Path, names: Sequence[str], find_columns: ColumnFinder | None = None
) -> Iterator[tuple[str, Any]]:
    """Read the rows of arrow files; pictures in cells are replaced by their locators.

    Args:
      folder: folder of the files.
      names: names of the files.
      find_columns: see `read_parquet_rows`.

    Yields:
      Name of the row ("FILE row NUMBER"), and its columns as a dict.

    Raises:
      UserError: pyarrow is missing, a file cannot be read, or its columns match no known data set.
    """
    for name in names:
        file = folder / name
        with convert_errors(str(file)):
            table = _read_table(str(file))
            cells, columns = (find_columns or find_picture_columns)(file, table.schema)
            for row, values in iterate_rows(name, table.select(columns).to_batches(), cells):
                yield f"{name} {row}", values


def read_cell(
    path: str, row: int, column: str, *, inside: bool = False, item: int | None = None
) -> bytes:
    """Return the bytes of a picture in a cell; see `read_cell` in parquet.py."""
    with convert_errors(f"{path} row {row}"):
        table = _read_table(path)
        if row >= table.num_rows or column not in table.column_names:
            raise UserError(f"{path} row {row} no longer exists; start again.")
        value = table.column(column)[row].as_py()
    return extract_picture(value, path, row, column, inside=inside, item=item)


def clear_cache() -> None:
    """Drop the cached tables: files may have been replaced."""
    _read_table.cache_clear()


@functools.lru_cache(maxsize=CACHED_FILES)
def _read_table(path: str) -> Any:
    """Read and validate a whole file; a local file is memory-mapped."""
    if is_remote(path):
        data: Any = epath.Path(path).read_bytes()
    else:
        with open(path, "rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    # Hugging Face writes arrow streams; other programs write arrow files, which start with ARROW1.
    open_data = (
        import_pyarrow().ipc.open_file
        if data[:6] == b"ARROW1"
        else import_pyarrow().ipc.open_stream
    )
    table = open_data(import_pyarrow().py_buffer(data)).read_all()
    table.validate(full=True)
    return table
