"""What people's file names need: links to folders, bytes that are no text, files that changed."""

import os
import pathlib
from collections.abc import Iterator

from etils import epath

from step1x_jax.files import identity, is_remote


def printable(text: str) -> str:
    """A file's name as valid Unicode: bytes that are none are written as \\xe9."""
    return os.fsencode(text).decode(errors="backslashreplace")


def stays_inside(path: str) -> bool:
    """Whether a path that a file gives stays in the folder where it starts, wherever that is."""
    pure = pathlib.PurePosixPath(path)
    outside = is_remote(path) or pure.is_absolute() or ".." in pure.parts
    return bool(path) and "\0" not in path and not outside


def stamp(path: epath.PathLike) -> str | None:
    """Changes when a file is replaced or written to, whatever its new size and time are.

    Returns:
      None if there is no such file.

    Raises:
      OSError: it cannot be looked at.
    """
    try:
        if is_remote(path):
            return identity(path)
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no possible path
        return None
    # A program may set the time of the last change to any; not that of its setting.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def walk(folder: epath.Path) -> Iterator[tuple[epath.Path, list[str], OSError | None]]:
    """All folders below one, itself included, but for those whose names begin with a dot.

    Links to folders are followed, after all that is there without them; a folder comes once,
    however many links lead to it, so that circles end.

    Yields:
      Folder, the names of its files, sorted, and the error if it cannot be listed.
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
