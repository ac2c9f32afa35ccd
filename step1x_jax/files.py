"""Writing files so that a name means a complete file; telling files apart."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator

from etils import epath

from step1x_jax.errors import UserError

MIB = 1 << 20

# Errors of the place itself, which free space does not mend.
NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a temporary path beside `path`; renames it into place if the block succeeds.

    Parent folders are made. On any error the temporary file is removed and what stood under the
    name before stays.

    Args:
      path: the file to write.

    Yields:
      The temporary path to write to.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    path = epath.Path(path)
    # Random: processes of several machines may write to one folder, with equal process numbers.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as e:
        raise _not_written(path, e) from e
    finally:
        if temporary.exists():
            temporary.unlink()


def check_writable(path: epath.PathLike) -> None:
    """Raises UserError unless a file of that name could be written, before long work is done."""
    path = epath.Path(path)
    probe = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise _not_written(path, e) from e


def _not_written(path: epath.Path, e: OSError) -> UserError:
    advice = "choose another place" if e.errno in NO_PLACE else "free space or choose another place"
    return UserError(
        f"{path} could not be written ({e.strerror or e}); {advice}. What was there before is"
        " unchanged."
    )


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root; one on object storage (gs://...) is so already."""
    return epath.Path(path) if "://" in os.fspath(path) else epath.Path(path).resolve()


def fingerprint(path: epath.PathLike) -> str:
    """A short hash of a file, or of a folder's files, that is quick on large ones.

    It covers names, sizes, and the first and last MiB of each file; the name of `path` itself does
    not count, so that a copy has the fingerprint of its original.

    Raises:
      UserError: there is nothing there.
    """
    path = epath.Path(path)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
    if not files:
        raise UserError(f"{path} does not exist; give a model's file or folder.")
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().length
        digest.update(f"{file.name if path.is_dir() else ''} {size} ".encode())
        with file.open("rb") as f:
            digest.update(f.read(MIB))
            f.seek(max(size - MIB, 0))
            digest.update(f.read(MIB))
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def making_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a temporary folder beside `path`; it takes that name if the block succeeds.

    Parent folders are made. On any error the temporary folder is removed with all in it.

    Args:
      path: the folder to make, which must not exist.

    Yields:
      The temporary folder.

    Raises:
      UserError: the disk is full, or the place cannot be written to.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as e:
        raise _not_written(path, e) from e
    finally:
        if temporary.exists():
            temporary.rmtree()
