"""Reads lists of edits from files and folders as triplets: source, target and instruction.

Two tables define what can be read: LIST_READERS has the files and layouts, DATASET_SCHEMAS
(dataset_schemas.py) the field names. See launch/guides/data.md.
"""

import dataclasses
import errno
import fnmatch
import functools
import os
import re
from collections.abc import Callable

from etils import epath

from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.data import arrow, parquet
from step1x_jax.data.arrow import ARROW_SIDECARS, STATE, read_saved_rows
from step1x_jax.data.dataset_schemas import extract_edit_fields
from step1x_jax.data.json_readers import (
    Rows,
    read_instructpix2pix_rows,
    read_json_lines,
    read_json_rows,
    read_magicbrush_rows,
)
from step1x_jax.data.manifest import MANIFEST, REJECTED, BadRow, read_manifest
from step1x_jax.data.paths import make_printable, stamp, walk
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, is_file, reason, user_path

# (pattern of file names, reader). In a folder only the files of the first pattern that matches any
# file are read: InstructPix2Pix's folders, for example, have a metadata.jsonl that is not a list.
LIST_READERS: tuple[tuple[str, Callable[[epath.Path], Rows]], ...] = (
    ("*.parquet", parquet.read_parquet_rows),
    ("edit_turns.json", read_magicbrush_rows),
    ("prompt.json", read_instructpix2pix_rows),
    ("metadata.jsonl", read_json_lines),
    ("*.jsonl", read_json_lines),
    (STATE, read_saved_rows),
    ("*.json", read_json_rows),
)
LIST_SUFFIXES = ".jsonl, .json or .parquet"

# Files that launch.precompute writes beside its shards; the first pattern is a chunk's manifest.
CHUNK_MANIFEST = re.compile(r"part-\d{2,}-\d{5,}-[0-9a-f]{12}\.json")
OWN_NAMES = re.compile(f"{re.escape(MANIFEST)}|{re.escape(REJECTED)}|{CHUNK_MANIFEST.pattern}")


@dataclasses.dataclass(frozen=True, slots=True)  # there may be millions
class Triplet:
    """One edit of a list.

    Attributes:
      row: name of the row, for messages.
      folder: folder that relative paths are relative to.
      source: path of the source picture as written in the file, or the locator of a picture in a
        cell (parquet.py).
      target: path or locator of the target picture.
      instruction: the instruction; may be empty.
      language: language of the instruction; "" if unknown.
      task: kind of edit; "" if unknown.
      id: identifier of the edit.
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
        """Path of the source picture, for `read_picture`."""
        return str(epath.Path(self.folder) / self.source)

    @property
    def target_path(self) -> str:
        """Path of the target picture, for `read_picture`."""
        return str(epath.Path(self.folder) / self.target)


def read_triplets(
    path: epath.PathLike, root: epath.PathLike | None = None
) -> tuple[list[Triplet], list[BadRow]]:
    """Read a list of edits.

    Args:
      path: a .jsonl file with one object per line; a .json file with a list of objects or the
        published fine-tuning layout {target path: {ref_image_path, caption}}; a .parquet file; or a
        folder. In a folder and below it, including links to folders, all files of the first pattern
        of LIST_READERS that occurs are read, except the files written by launch.precompute.
      root: folder that paths in the files are relative to; None: the folder of each file.

    Returns:
      The edits, files sorted by path; and the rows that are not edits.

    Raises:
      UserError: a file cannot be read or has another layout, or there are no rows.
    """
    path = epath.Path(user_path(os.fspath(path)))
    arrow.clear_cache()  # files may have been replaced since the last call
    parquet.clear_cache()
    _stamp_file_once.cache_clear()
    files, bad_rows = _find_files(path)
    triplets = []
    for file, reader in files:
        folder = str(file.parent if root is None else epath.Path(root))
        label = make_printable(file.relative_to(path).as_posix() if file != path else file.name)
        for name, row in reader(file):
            name = f"{label} {name}"
            try:
                triplets.append(Triplet(row=name, folder=folder, **extract_edit_fields(row, name)))
            except UserError as e:
                bad_rows.append(BadRow(name, str(e)))
    if root is not None:
        embedded = next((one for one in triplets if parquet.parse_locator(one.source)), None)
        if embedded is not None:
            raise UserError(f"{embedded.row} has its pictures in the file; leave out --root.")
    if not triplets and not bad_rows:
        raise UserError(f"{path} has no rows; give a list of edits.")
    return triplets, bad_rows


def _find_files(
    path: epath.Path,
) -> tuple[list[tuple[epath.Path, Callable[[epath.Path], Rows]]], list[BadRow]]:
    """Find the files to read: the given file, or a folder's files of the first pattern that occurs.

    Returns:
      The files, each with its reader; and the folders that cannot be listed.
    """
    if not path.is_dir():
        reader = _find_reader(path.name)
        if reader is None or not is_file(path):
            what = "is not a" if path.exists() else "does not exist; give a folder or a"
            raise UserError(f"{path} {what} file of edits that ends in {LIST_SUFFIXES}.")
        if OWN_NAMES.fullmatch(path.name) and _is_made(path.parent, [MANIFEST, path.name]):
            raise UserError(
                f"{path} was written by launch.precompute; give the list that it was made from."
            )
        return [(path, reader[1])], []
    found: dict[str, list[epath.Path]] = {pattern: [] for pattern, _ in LIST_READERS}
    bad_rows, left_out = [], ""
    for folder, names, error in walk(path):
        if error is not None:
            name = make_printable(folder.relative_to(path).as_posix())
            bad_rows.append(BadRow(name, f"this folder cannot be read ({reason(error)})"))
        names = [name for name in names if not name.startswith(".")]
        if _is_made(folder, names):
            names = [name for name in names if not OWN_NAMES.fullmatch(name)]
            left_out = "; the files that launch.precompute wrote there are not lists"
        if any(name.endswith(".arrow") for name in names):
            names = [name for name in names if name not in ARROW_SIDECARS or name == STATE]
        for name in names:
            if (reader := _find_reader(name)) is not None and is_file(folder / name):
                found[reader[0]].append(folder / name)
    for pattern, read in LIST_READERS:
        if found[pattern]:
            return [(file, read) for file in sorted(found[pattern])], bad_rows
    patterns = ", ".join(pattern for pattern, _ in LIST_READERS)
    raise UserError(
        f"{path} contains no list of edits{left_out}; give a folder with one of {patterns}."
    )


def _is_made(folder: epath.Path, names: list[str]) -> bool:
    """Whether launch.precompute wrote to a folder that contains files of these names."""
    if any(CHUNK_MANIFEST.fullmatch(name) for name in names):
        return True
    try:
        return MANIFEST in names and bool(read_manifest(folder / MANIFEST))
    except UserError:
        return False


def _find_reader(name: str) -> tuple[str, Callable[[epath.Path], Rows]] | None:
    """Return the first entry of LIST_READERS that matches a file name."""
    return next((entry for entry in LIST_READERS if fnmatch.fnmatchcase(name, entry[0])), None)


def read_picture(path: str) -> bytes:
    """Read the bytes of a picture's file; thread-safe.

    Args:
      path: a triplet's source_path or target_path.

    Raises:
      UnreadableError: the system cannot read the file at the moment.
      UserError: there is no picture; the message names the file, and the row of a table.
    """
    cell = parquet.parse_locator(path)
    try:
        if cell is None:
            return read_image_bytes(path)
        reader = arrow if cell[0].endswith(".arrow") else parquet
        return reader.read_cell(*cell)
    except UserError as e:
        cause = e.__cause__  # pyarrow also raises OSErrors for damaged files, but without an errno
        if isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT):
            raise UnreadableError(str(e)) from e
        raise


class UnreadableError(UserError):
    """A picture that cannot be read at the moment, for example without permission."""


def stamp_picture(path: str) -> tuple[int, str]:
    """Return the size and stamp of the file that contains a picture.

    Args:
      path: see `read_picture`.

    Returns:
      Size in bytes, and a text that changes when the file is replaced; -1 and "" if it does not
      exist. Results for tables are cached until the next `read_triplets`: they have many pictures.
    """
    cell = parquet.parse_locator(path)
    return _stamp_file(path) if cell is None else _stamp_file_once(cell[0])


def _stamp_file(path: str) -> tuple[int, str]:
    try:
        text = stamp(path)
        return (-1, "") if text is None else (file_size(path), text)
    except (OSError, ValueError):
        return -1, ""


_stamp_file_once = functools.cache(_stamp_file)
