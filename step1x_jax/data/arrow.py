"""Edits in a folder that datasets' `save_to_disk` wrote: arrow files, listed in its state.json.

A picture in a cell is named as in parquet files, by FILE.arrow#ROW#COLUMN (parquet.py).
"""

import functools
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from step1x_jax.data.json_lists import Rows, json_rows, read_list
from step1x_jax.data.parquet import (
    Columns,
    picture_columns,
    picture_of,
    pyarrow,
    reading,
    table_rows,
)
from step1x_jax.errors import UserError
from step1x_jax.files import is_remote

STATE = "state.json"
ABOUT_ARROW = (STATE, "dataset_info.json", "dataset_dict.json")  # beside arrow files; no lists
FILES = 4  # in memory, or mapped into it


def saved_rows(path: epath.Path) -> Rows:
    """Rows of the arrow files that a state.json lists; of another file of that name, its rows.

    Raises:
      UserError: pyarrow is missing, a file cannot be read, or its columns have other names.
    """
    names = saved_files(path)
    return json_rows(path) if names is None else arrow_rows(path.parent, names)


def saved_files(path: epath.Path) -> list[str] | None:
    """Names of the arrow files beside a state.json that it lists; None: it is no such list.

    Raises:
      UserError: it cannot be read, or lists files elsewhere.
    """
    state = read_list(path)
    files = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(files, list):
        return None
    names: list[Any] = [one.get("filename") if isinstance(one, dict) else None for one in files]
    if not all(isinstance(name, str) and "/" not in name for name in names):
        raise UserError(f"{path} does not list files of its folder; save the data set again.")
    return names


def arrow_rows(
    folder: epath.Path, names: Sequence[str], columns_of: Columns | None = None
) -> Iterator[tuple[str, Any]]:
    """Rows of arrow files by name, with locators in place of pictures in cells.

    Args:
      folder: where the files are.
      names: of the files.
      columns_of: as of `parquet_rows`.

    Raises:
      UserError: pyarrow is missing, a file cannot be read, or its columns have other names.
    """
    for name in names:
        file = folder / name
        with reading(str(file)):
            table = _table(str(file))
            cells, columns = (columns_of or picture_columns)(file, table.schema)
            for row, values in table_rows(name, table.select(columns).to_batches(), cells):
                yield f"{name} {row}", values


def read_cell(
    path: str, row: int, column: str, *, inside: bool = False, item: int | None = None
) -> bytes:
    """The bytes of a picture in a cell, as parquet.py's."""
    with reading(f"{path} row {row}"):
        table = _table(path)
        if row >= table.num_rows or column not in table.column_names:
            raise UserError(f"{path} row {row} is not there any more; start again.")
        value = table.column(column)[row].as_py()
    return picture_of(value, path, row, column, inside=inside, item=item)


def forget() -> None:
    """Drops what is in memory: files may have been replaced."""
    _table.cache_clear()


@functools.lru_cache(maxsize=FILES)
def _table(path: str) -> Any:
    """All of a file, checked; of a local one only what is looked at gets into memory."""
    if is_remote(path):
        data: Any = epath.Path(path).read_bytes()
    else:
        with open(path, "rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    # Hugging Face's files are streams; other programs write the file format, which begins so.
    open_data = pyarrow().ipc.open_file if data[:6] == b"ARROW1" else pyarrow().ipc.open_stream
    table = open_data(pyarrow().py_buffer(data)).read_all()
    table.validate(full=True)
    return table
