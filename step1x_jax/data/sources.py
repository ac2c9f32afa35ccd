"""Triplets from files and folders: which source picture becomes which target by which instruction.

What may be read is in two tables: files and layouts here, in READERS; field names in forms.py. See
launch/guides/data.md.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable

from etils import epath

from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.data import parquet
from step1x_jax.data.forms import edit_fields
from step1x_jax.data.json_lists import (
    Rows,
    instructpix2pix_rows,
    json_lines,
    json_rows,
    magicbrush_rows,
)
from step1x_jax.data.manifest import BadRow
from step1x_jax.errors import UserError

# By file name, from a file to its rows by name. In a folder the first pattern decides that any file
# in it has: InstructPix2Pix's folders, say, have a metadata.jsonl about something else.
READERS: tuple[tuple[str, Callable[[epath.Path], Rows]], ...] = (
    ("*.parquet", parquet.parquet_rows),
    ("edit_turns.json", magicbrush_rows),
    ("prompt.json", instructpix2pix_rows),
    ("metadata.jsonl", json_lines),
    ("*.jsonl", json_lines),
    ("*.json", json_rows),
)
ENDINGS = ".jsonl, .json or .parquet"


@dataclasses.dataclass(frozen=True, slots=True)  # there may be millions
class Triplet:
    """One edit to learn.

    Attributes:
      row: names the row for people.
      folder: where relative paths start.
      source: path of the picture before, as written in the file; for one that is in a parquet
        file, its locator (see parquet.py).
      target: path of the picture after, likewise.
      instruction: may be empty.
      language: of the instruction; "" if not known.
      task: kind of edit; "" if not known.
      id: of the edit.
    """

    row: str
    folder: str
    source: str
    target: str
    instruction: str
    language: str
    task: str
    id: str

    @property
    def source_path(self) -> str:
        """Where the picture before lies, for `read_picture`."""
        return str(epath.Path(self.folder) / self.source)

    @property
    def target_path(self) -> str:
        """Where the picture after lies, for `read_picture`."""
        return str(epath.Path(self.folder) / self.target)


def read_triplets(path: epath.PathLike) -> tuple[list[Triplet], list[BadRow]]:
    """Reads a list of edits.

    Args:
      path: a .jsonl file with one object per line; a .json file with a list of objects or with the
        published fine-tuning layout {target path: {ref_image_path, caption}}; a .parquet file; or
        a folder, of which all files are read that have the first pattern of READERS found in it or
        below it. Paths in a file are relative to its folder.

    Returns:
      The edits in the files' order, files sorted by path, and the rows that are none.

    Raises:
      UserError: a file cannot be read or has another form, or there are no rows.
    """
    path = epath.Path(path)
    parquet.forget()  # this and the next: of files that were replaced since
    _parquet_length.cache_clear()
    triplets, bad_rows = [], []
    for file, reader in _find_files(path):
        folder = str(file.parent)
        label = file.relative_to(path).as_posix() if file != path else file.name
        for name, row in reader(file):
            name = f"{label} {name}"
            try:
                triplets.append(Triplet(row=name, folder=folder, **edit_fields(row, name)))
            except UserError as e:
                bad_rows.append(BadRow(name, str(e)))
    if not triplets and not bad_rows:
        raise UserError(f"{path} has no rows; give a list of edits.")
    return triplets, bad_rows


def _find_files(path: epath.Path) -> list[tuple[epath.Path, Callable[[epath.Path], Rows]]]:
    """The file, or a folder's files of the first pattern that is there, each with its reader."""
    if not path.is_dir():
        reader = _reader(path.name)
        if reader is None or not path.is_file():
            reason = "is no" if path.exists() else "does not exist; give a folder or a"
            raise UserError(f"{path} {reason} file of edits that ends in {ENDINGS}.")
        return [(path, reader[1])]
    found: dict[str, list[epath.Path]] = {pattern: [] for pattern, _ in READERS}
    for folder, folders, names in path.walk():
        folders[:] = [name for name in folders if not name.startswith(".")]  # caches
        for name in names:
            if not name.startswith(".") and (reader := _reader(name)) is not None:
                found[reader[0]].append(folder / name)
    for pattern, read in READERS:
        if found[pattern]:
            return [(file, read) for file in sorted(found[pattern])]
    patterns = ", ".join(pattern for pattern, _ in READERS)
    raise UserError(f"{path} has no list of edits in it; give a folder with one of {patterns}.")


def _reader(name: str) -> tuple[str, Callable[[epath.Path], Rows]] | None:
    """The first entry of READERS for files of this name."""
    return next((entry for entry in READERS if fnmatch.fnmatchcase(name, entry[0])), None)


def read_picture(path: str) -> bytes:
    """The bytes of a picture's file. Any number of threads may call it.

    Args:
      path: a triplet's source_path or target_path.

    Raises:
      UserError: the picture cannot be read; names its file, and the row of a parquet file.
    """
    cell = parquet.parse_locator(path)
    return read_image_bytes(path) if cell is None else parquet.read_cell(*cell)


def picture_length(path: str) -> int:
    """Size in bytes of the file that a picture lies in: of the whole parquet file for a locator.

    Args:
      path: as for `read_picture`.

    Returns:
      The size, -1 if the file is not there. That of a parquet file is kept until the next
      `read_triplets`: it has many pictures.
    """
    cell = parquet.parse_locator(path)
    return _length(path) if cell is None else _parquet_length(cell[0])


def _length(path: str) -> int:
    try:
        return epath.Path(path).stat().length
    except (OSError, ValueError):
        return -1


_parquet_length = functools.cache(_length)
