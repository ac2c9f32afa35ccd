"""Writing files so that a name means a complete file."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath

from step1x_jax.errors import UserError


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
        raise UserError(
            f"{path} could not be written ({e.strerror or e}); free space or choose another"
            " place. What was there before is unchanged."
        ) from e
    finally:
        if temporary.exists():
            temporary.unlink()


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root; one on object storage (gs://...) is so already."""
    return epath.Path(path) if "://" in os.fspath(path) else epath.Path(path).resolve()
