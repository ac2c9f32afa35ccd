"""Writing files so that a name means a complete file."""

import contextlib
import errno
import os
from collections.abc import Iterator

from etils import epath

from step1x_jax.errors import UserError

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
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
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
    probe = path.parent / f".{path.name}.{os.getpid()}.tmp"
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
