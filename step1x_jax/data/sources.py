"""Triplets from files and folders: which source picture becomes which target by which instruction.

What may be read is in two tables: files and layouts here, in READERS; field names in forms.py. See
launch/guides/data.md.
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
from step1x_jax.data.arrow import ABOUT_ARROW, STATE, saved_rows
from step1x_jax.data.forms import edit_fields
from step1x_jax.data.json_lists import (
    Rows,
    instructpix2pix_rows,
    json_lines,
    json_rows,
    magicbrush_rows,
)
from step1x_jax.data.manifest import MANIFEST, REJECTED, BadRow, read_manifest
from step1x_jax.data.paths import printable, stamp, walk
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, is_file, reason, user_path

# By file name, from a file to its rows by name. In a folder the first pattern decides that any file
# in it has: InstructPix2Pix's folders, say, have a metadata.jsonl about something else.
READERS: tuple[tuple[str, Callable[[epath.Path], Rows]], ...] = (
    ("*.parquet", parquet.parquet_rows),
    ("edit_turns.json", magicbrush_rows),
    ("prompt.json", instructpix2pix_rows),
    ("metadata.jsonl", json_lines),
    ("*.jsonl", json_lines),
    (STATE, saved_rows),
    ("*.json", json_rows),
)
ENDINGS = ".jsonl, .json or .parquet"

# What launch.precompute writes beside its shards; the first are manifests of chunks.
CHUNK_MANIFEST = re.compile(r"part-\d{2,}-\d{5,}-[0-9a-f]{12}\.json")
OWN_NAMES = re.compile(f"{re.escape(MANIFEST)}|{re.escape(REJECTED)}|{CHUNK_MANIFEST.pattern}")


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


def read_triplets(
    path: epath.PathLike, root: epath.PathLike | None = None
) -> tuple[list[Triplet], list[BadRow]]:
    """Reads a list of edits.

    Args:
      path: a .jsonl file with one object per line; a .json file with a list of objects or with the
        published fine-tuning layout {target path: {ref_image_path, caption}}; a .parquet file; or
        a folder, of which all files are read that have the first pattern of READERS found in it or
        below it, links to folders included. What launch.precompute wrote there is no list.
      root: folder that paths in the files are relative to; None: the folder of each file.

    Returns:
      The edits in the files' order, files sorted by path, and the rows that are none.

    Raises:
      UserError: a file cannot be read or has another form, or there are no rows.
    """
    path = epath.Path(user_path(os.fspath(path)))
    arrow.forget()  # this and the next: of files that were replaced since
    parquet.forget()
    _file_stamp.cache_clear()
    files, bad_rows = _find_files(path)
    triplets = []
    for file, reader in files:
        folder = str(file.parent if root is None else epath.Path(root))
        label = printable(file.relative_to(path).as_posix() if file != path else file.name)
        for name, row in reader(file):
            name = f"{label} {name}"
            try:
                triplets.append(Triplet(row=name, folder=folder, **edit_fields(row, name)))
            except UserError as e:
                bad_rows.append(BadRow(name, str(e)))
    if root is not None:
        inside = next((one for one in triplets if parquet.parse_locator(one.source)), None)
        if inside is not None:
            raise UserError(f"{inside.row} has its pictures in the file itself; leave out --root.")
    if not triplets and not bad_rows:
        raise UserError(f"{path} has no rows; give a list of edits.")
    return triplets, bad_rows


def _find_files(
    path: epath.Path,
) -> tuple[list[tuple[epath.Path, Callable[[epath.Path], Rows]]], list[BadRow]]:
    """The file, or a folder's files of the first pattern that is there, each with its reader.

    Returns:
      These, and folders that cannot be listed.
    """
    if not path.is_dir():
        reader = _reader(path.name)
        if reader is None or not is_file(path):
            what = "is no" if path.exists() else "does not exist; give a folder or a"
            raise UserError(f"{path} {what} file of edits that ends in {ENDINGS}.")
        if OWN_NAMES.fullmatch(path.name) and _is_made(path.parent, [MANIFEST, path.name]):
            raise UserError(
                f"{path} was written by launch.precompute; give the list that it was made from."
            )
        return [(path, reader[1])], []
    found: dict[str, list[epath.Path]] = {pattern: [] for pattern, _ in READERS}
    bad_rows, left_out = [], ""
    for folder, names, error in walk(path):
        if error is not None:
            name = printable(folder.relative_to(path).as_posix())
            bad_rows.append(BadRow(name, f"this folder cannot be read ({reason(error)})"))
        names = [name for name in names if not name.startswith(".")]
        if _is_made(folder, names):
            names = [name for name in names if not OWN_NAMES.fullmatch(name)]
            left_out = "; what launch.precompute wrote there is none"
        if any(name.endswith(".arrow") for name in names):
            names = [name for name in names if name not in ABOUT_ARROW or name == STATE]
        for name in names:
            if (reader := _reader(name)) is not None and is_file(folder / name):
                found[reader[0]].append(folder / name)
    for pattern, read in READERS:
        if found[pattern]:
            return [(file, read) for file in sorted(found[pattern])], bad_rows
    patterns = ", ".join(pattern for pattern, _ in READERS)
    raise UserError(
        f"{path} has no list of edits in it{left_out}; give a folder with one of {patterns}."
    )


def _is_made(folder: epath.Path, names: list[str]) -> bool:
    """Whether launch.precompute wrote into a folder with files of these names."""
    if any(CHUNK_MANIFEST.fullmatch(name) for name in names):
        return True
    try:
        return MANIFEST in names and bool(read_manifest(folder / MANIFEST))
    except UserError:
        return False


def _reader(name: str) -> tuple[str, Callable[[epath.Path], Rows]] | None:
    """The first entry of READERS for files of this name."""
    return next((entry for entry in READERS if fnmatch.fnmatchcase(name, entry[0])), None)


def read_picture(path: str) -> bytes:
    """The bytes of a picture's file. Any number of threads may call it.

    Args:
      path: a triplet's source_path or target_path.

    Raises:
      UnreadableError: the system could not read the file, now.
      UserError: there is no picture; names its file, and the row of a table.
    """
    cell = parquet.parse_locator(path)
    try:
        if cell is None:
            return read_image_bytes(path)
        reader = arrow if cell[0].endswith(".arrow") else parquet
        return reader.read_cell(*cell)
    except UserError as e:
        cause = e.__cause__  # pyarrow raises OSErrors for damaged files, too, but without a number
        if isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT):
            raise UnreadableError(str(e)) from e
        raise


class UnreadableError(UserError):
    """A picture that could not be read, for want of rights, say: later it may be."""


def picture_stamp(path: str) -> tuple[int, str]:
    """Size in bytes of the file that a picture is in, and what changes when that is replaced.

    Args:
      path: as for `read_picture`.

    Returns:
      Both; -1 and "" if the file is not there. Those of a table's file are kept until the next
      `read_triplets`: it has many pictures.
    """
    cell = parquet.parse_locator(path)
    return _stamp(path) if cell is None else _file_stamp(cell[0])


def _stamp(path: str) -> tuple[int, str]:
    try:
        text = stamp(path)
        return (-1, "") if text is None else (file_size(path), text)
    except (OSError, ValueError):
        return -1, ""


_file_stamp = functools.cache(_stamp)
