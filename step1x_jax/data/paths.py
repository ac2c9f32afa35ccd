"""Paths given by users: symbolic links, names that are not UTF-8, files that change."""

import os
import pathlib
from collections.abc import Iterator

from etils import epath

from step1x_jax.files import identity, is_remote


def make_printable(text: str) -> str:
    """Make a file name valid Unicode: bytes that are not UTF-8 are written as \\xe9."""
    return os.fsencode(text).decode(errors="backslashreplace")


def stays_inside(path: str) -> bool:
    """Whether a relative path given by a file stays inside the folder it is relative to."""
    pure = pathlib.PurePosixPath(path)
    outside = is_remote(path) or pure.is_absolute() or ".." in pure.parts
    return bool(path) and "\0" not in path and not outside


def stamp(path: epath.PathLike) -> str | None:
    """Return a text that changes when a file is replaced or modified, even if its size does not.

    Returns:
      The stamp, or None if there is no such file.

    Raises:
      OSError: the file's status cannot be read.
    """
    try:
        if is_remote(path):
            return identity(path)
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: invalid path
        return None
    # Programs can set mtime to any value; that updates ctime, which they cannot set.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def walk(folder: epath.Path) -> Iterator[tuple[epath.Path, list[str], OSError | None]]:
    """Walk a folder and all folders below it, except those whose names begin with a dot.

    Links to folders are followed after all real folders; each folder is visited once, however many
    links lead to it, so that cycles terminate.

    Yields:
      The folder, the sorted names of its files, and the error if it cannot be listed.
    """
    if is_remote(folder):
        for place, folders, names in folder.walk():
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield place, sorted(names), None
        return
    seen: set[str] = set()
    linked = [os.fspath(folder)]
    while linked:
        waiting, linked = sorted(linked), []
        for start in waiting:
            errors: list[OSError] = []
            for place, folders, names in os.walk(start, onerror=errors.append):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                links = [name for name in folders if os.path.islink(os.path.join(place, name))]
                linked += [os.path.join(place, name) for name in links]
                real = os.path.realpath(place)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                yield epath.Path(place), sorted(names), None
            for error in errors:
                yield epath.Path(error.filename), [], error
