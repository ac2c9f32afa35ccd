"""Tables on disk: what save_to_disk wrote, arrow and parquet files, lists of JSON lines.

Of each row texts and flags are read at once, pictures when they are asked for.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from etils import epath

from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.data import arrow, parquet
from step1x_jax.data.json_readers import read_json_lines
from step1x_jax.data.paths import stays_inside, walk
from step1x_jax.errors import UserError
from step1x_jax.evaluation.names import is_name
from step1x_jax.files import is_file
from step1x_jax.json_files import read_json, shown

SPLITS = "dataset_dict.json"  # beside the folders of splits; {"splits": [name]}
LIST = "metadata.jsonl"  # rows whose pictures are paths, from its folder on
DERIVED = "cache-"  # how files begin in which datasets keeps what was computed from others
ENDINGS = (".parquet", ".arrow", ".jsonl")


@dataclasses.dataclass(frozen=True)
class Columns:
    """The meaning of a table's columns.

    Attributes:
      fields: of a text or a flag: our name for it -> the column's.
      pictures: of a picture: likewise.
    """

    fields: Mapping[str, str]
    pictures: Mapping[str, str]


# From a table's path and the names of its columns to those that matter.
FindColumns = Callable[[epath.Path, Sequence[str]], Columns]


def find_tables(path: epath.Path) -> list[epath.Path]:
    """The files of a data set, all of one kind, sorted.

    Args:
      path: one file; or a folder that save_to_disk wrote, of a data set or of one with one split;
        or a folder with files in it or below it: of the first of ENDINGS that is there, lists only
        if they are called LIST.

    Raises:
      UserError: there is none, or there are several splits.
    """
    if not path.is_dir():
        if path.suffix in ENDINGS and is_file(path):
            return [path]
        what = "is no" if path.exists() else "does not exist; give a"
        raise UserError(
            f"{path} {what} folder or file of a data set ({', '.join(ENDINGS)}, or what"
            " save_to_disk wrote)."
        )
    if is_file(path / SPLITS):
        splits = read_json(path / SPLITS).get("splits")
        if not isinstance(splits, list) or len(splits) != 1 or not is_name(str(splits[0])):
            raise UserError(f"{path} has the splits {shown(splits)}; give the folder of one.")
        return find_tables(path / str(splits[0]))
    found: dict[str, list[epath.Path]] = {ending: [] for ending in ENDINGS}
    for folder, names, _ in walk(path):
        listed = arrow.list_saved_files(folder / arrow.STATE) if arrow.STATE in names else None
        if listed is not None:
            names = [name for name in names if not name.endswith(".arrow")] + listed
        for name in names:
            ending = epath.Path(name).suffix
            fits = name == LIST if ending == ".jsonl" else not name.startswith((DERIVED, "."))
            if ending in found and fits:
                found[ending].append(folder / name)
    files = next((files for files in found.values() if files), [])
    if not files:
        raise UserError(
            f"{path} has no data set in it; give a folder that save_to_disk wrote, or one with"
            f" .parquet or .arrow files, or with {LIST}."
        )
    return files


def read_rows(file: epath.Path, find_columns: FindColumns) -> Iterator[tuple[str, Any, Columns]]:
    """The rows of a table.

    Args:
      file: of `find_tables`.
      find_columns: is asked before the first row.

    Yields:
      The row's name; its values by column, of pictures what `picture_reader` takes, or instead the
      UserError that says what is wrong with it; and the columns.

    Raises:
      UserError: pyarrow is missing, the file cannot be read, or see `find_columns`.
    """
    if file.suffix == ".jsonl":
        columns = None
        for name, values in read_json_lines(file):
            if isinstance(values, dict):
                columns = columns or find_columns(file, list(values))
            elif not isinstance(values, UserError):
                values = UserError("not a JSON object")
            yield f"{file.name} {name}", values, columns or Columns({}, {})
        return
    found: list[Columns] = []

    def split_columns(path: epath.Path, schema: Any) -> tuple[list[str], list[str]]:
        """Return the columns with pictures in cells, and all others with texts and flags."""
        found.append(find_columns(path, schema.names))
        text = {name for name in schema.names if parquet.holds_text(schema.field(name).type)}
        cells = [name for name in found[0].pictures.values() if name not in text]
        needed = text.union(found[0].fields.values())
        return cells, [name for name in schema.names if name in needed]

    if file.suffix == ".arrow":
        rows = arrow.read_arrow_rows(file.parent, [file.name], split_columns)
        yield from ((name, values, found[0]) for name, values in rows)
    else:
        rows = parquet.read_parquet_rows(file, split_columns)
        yield from ((f"{file.name} {name}", values, found[0]) for name, values in rows)


def picture_reader(file: epath.Path, value: Any, item: int | None = None) -> Callable[[], bytes]:
    """A function that reads the picture that a row has, or to which it has a path.

    Args:
      file: the table.
      value: of the row's picture.
      item: of a column of lists, which one of them, from 0.

    Raises:
      UserError: there is none, or it is outside of the data set's folder; the reason alone.
    """
    if isinstance(value, str) and file.suffix != ".jsonl":
        cell = parquet.parse_locator(value)
        if cell is not None and cell[0] == file.name:
            reader = arrow.read_cell if file.suffix == ".arrow" else parquet.read_cell
            return partial(reader, str(file), cell[1], cell[2], inside=True, item=item)
    if item is not None:
        if not isinstance(value, list) or item >= len(value):
            raise UserError(f"{shown(value)} is no list with picture {item + 1}")
        value = value[item]
    if not isinstance(value, str):
        raise UserError(f"{shown(value)} is not the path of a picture")
    if not stays_inside(value):
        raise UserError(f"{shown(value)} is outside of the data set's folder")
    return partial(read_image_bytes, file.parent / value)


def forget() -> None:
    """Drop what is in memory of tables: files may have been replaced."""
    arrow.clear_cache()
    parquet.clear_cache()
